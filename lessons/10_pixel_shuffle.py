# %% [markdown]
# # Lesson 10: Pixel shuffle, and where the mesh comes from
#
# **The question.** How does a network make four pixels out of one, why do its pictures so often
# show a mesh, and how is the mesh prevented?
#
# You should know: convolution (lesson 05), gradient rules (lesson 03), training loops (lesson 04).
#
# Papers: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient
# Sub-Pixel Convolutional Neural Network", section 3.2; Odena et al. 2016, "Deconvolution and
# Checkerboard Artifacts"; Sugawara, Shiota and Kiya 2019, "Checkerboard artifacts free
# convolutional neural networks".
#
# Lives in: `npsrgan/ops/shapes.py`, and `constrain` in `npsrgan/models/srresnet.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, predict, save
from tqdm import tqdm

from npsrgan import images, losses, metrics, ops, storage
from npsrgan.adam import Adam
from npsrgan.data import DeadLeaves, Photograph, downscale
from npsrgan.gradcheck import check, normal
from npsrgan.models import SRResNet
from npsrgan.ops.operation import op
from npsrgan.tape import Tape

# %% [markdown]
# ## 1. Four channels become four pixels
#
# A network does nearly all of its work at low resolution, where there are few pixels. It enlarges
# only at the end. **Pixel shuffle** takes an image with $4C$ channels and lays the four groups of $C$
# channels out as 2 x 2 pixels:
#
# $$y_{n,\,2h+i,\,2k+j,\,c} = x_{n,\,h,\,k,\,(2i+j)C + c} \qquad i, j \in \{0, 1\}$$
#
# so (N, H, W, 4C) becomes (N, 2H, 2W, C). The four places $(i, j)$ are called **phases**. Nothing
# is computed; values move. So in the gradient rule, $dy$ moves back the same way.

# %%
PHASES = [(0, 0), (0, 1), (1, 0), (1, 1)]


@op
def shuffle(x):
    """(N, H, W, 4 C) -> (N, 2 H, 2 W, C)."""
    images, height, width, channels = x.shape
    c = channels // 4
    y = np.zeros_like(x, shape=(images, 2 * height, 2 * width, c))
    for number, (i, j) in enumerate(PHASES):
        y[:, i::2, j::2] = x[..., number * c : (number + 1) * c]

    def d_x(dy):
        return np.concatenate([dy[:, i::2, j::2] for i, j in PHASES], axis=-1)

    return y, (d_x,)


x = normal(2, 3, 4, 12)
result = check(shuffle, x)[0]
print(result)
assert result.passed
assert np.array_equal(shuffle(x).array, ops.pixel_shuffle(x).array)  # the package's version

# %% [markdown]
# ## 2. The older way: stamps
#
# The alternative is the **transposed convolution**: each small pixel presses a stamp, the kernel
# times its value, onto a large canvas. The stamps are two pixels apart, and where they overlap they
# add. (It is the gradient rule $d_x$ of a convolution with stride 2, used forward. It is often
# called "deconvolution", but it does not undo a convolution.)


# %%
def transposed(x, w):
    """x (N, H, W, C), w (size, size, O, C) -> (N, 2 H, 2 W, O)."""
    images, height, width, _ = x.shape
    size = len(w)
    canvas = np.zeros((images, 2 * height + size, 2 * width + size, w.shape[2]))
    for i in range(size):
        for j in range(size):
            canvas[:, i : i + 2 * height : 2, j : j + 2 * width : 2] += x @ w[i, j].T
    return canvas[:, 1 : 2 * height + 1, 1 : 2 * width + 1]


x = normal(1, 3, 4, 5)
w = normal(3, 3, 2, 5)
d_x_of_a_convolution = ops.conv2d.reference(normal(1, 6, 8, 2), w, None, 2)[1][0]
assert np.allclose(transposed(x, w), d_x_of_a_convolution(x))

# %% [markdown]
# Count the stamps on each pixel. Take a flat wall, $x = 1$, and the most uniform kernel there is:
# 3 x 3 ones.

# %%
wall = np.ones((1, 32, 32, 1))
counted = transposed(wall, np.ones((3, 3, 1, 1)))[0, 4:-4, 4:-4, 0]
predict(
    "Stamps 3 pixels wide and 2 pixels apart: how many lie on each of four neighbouring pixels?"
    " (four numbers, sorted)",
    guess=None,
    value=sorted(counted[:2, :2].ravel()),
    because="Along a row, one stamp and two stamps alternate. In two dimensions: 1 * 1, 1 * 2, "
    "2 * 1, 2 * 2.",
)
assert sorted(counted[:2, :2].ravel()) == [1, 2, 2, 4]
# Width 4, a multiple of 2: even.
assert (transposed(wall, np.ones((4, 4, 1, 1)))[0, 4:-4, 4:-4] == 4).all()

# %% [markdown]
# Even a uniform kernel draws a checkerboard. A 3 x 3 convolution followed by a pixel shuffle
# does not favour any pixel in this way: each is a sum of 9 products. So is pixel shuffle free of
# patterns?
#
# ## 3. The condition: equal gain of all phases
#
# The convolution before the shuffle has $4C$ output channels: for each phase $p$ a set of
# weights of its own. Let the small image be flat, so that every input channel $k$ has one constant
# value $v_k$. Away from the border, phase $p$ of an output channel then answers
#
# $$y_p = \sum_k \left( \sum_{i,j} w_{ijkp} \right) v_k + b_p = \sum_k g_{kp}\, v_k + b_p$$
#
# The sum over the nine taps, $g_{kp}$, is the phase's **gain** for input $k$. A flat image stays
# flat, whatever the values $v_k$ are, if and only if
#
# $$g_{kp} \text{ is the same for all } p \text{, and so is } b_p$$
#
# Random initial weights do not meet that condition, and nothing in training forces them to.

# %%
rng = np.random.default_rng(7)
random_weights = rng.standard_normal((3, 3, 1, 4))
equal_weights = random_weights[..., :1].repeat(4, 3)  # one kernel for all four phases
face = metrics.luma(downscale(Photograph().load(0)[20:340, 120:440], 4))[None, :, :, None] / 255
ways = {
    "stamps, kernel of ones": lambda x: transposed(x, np.ones((3, 3, 1, 1))),
    "stamps, random kernel": lambda x: transposed(x, random_weights[..., :1]),
    "shuffle, random weights": lambda x: shuffle(ops.conv2d(x, random_weights)).array,
    "shuffle, equal phases": lambda x: shuffle(ops.conv2d(x, equal_weights)).array,
}
pictures, spectra, uneven = {}, {}, {}
for name, way in ways.items():
    flat = way(wall)[0, 4:-4, 4:-4, 0]
    uneven[name] = flat.std() / np.abs(flat).mean()
    picture = way(face)[0, 2:-2, 2:-2, 0]
    pictures[name] = (picture - picture.min()) / np.ptp(picture)
    # No hard borders.
    faded = (picture - picture.mean()) * np.outer(
        np.hanning(len(picture)), np.hanning(len(picture))
    )
    spectra[f"its spectrum: {name}"] = np.fft.fftshift(np.log10(np.abs(np.fft.fft2(faded)) + 0.1))
predict(
    "A flat wall goes through 'shuffle, random weights'. Is it flat afterwards? (yes or no)",
    guess=None,
    value="no" if uneven["shuffle, random weights"] > 1e-9 else "yes",
    because="Four random sums of nine weights differ.",
)
for name, ratio in uneven.items():
    print(f"{name:26} a flat wall becomes uneven by {ratio:.3f} of itself")
assert uneven["shuffle, equal phases"] < 1e-12
assert min(uneven["shuffle, random weights"], uneven["stamps, random kernel"]) > 0.1
save(picture_row(pictures | spectra, columns=4, height=3), "10_checkerboards")

# %% [markdown]
# Above: one face of 80 x 80 pixels, enlarged by untrained weights. Below: the spectra, with low
# frequencies in the middle. Copies of the low frequencies appear at the edges and corners of the
# spectrum: they are the pattern.
#
# ## 4. The symptom: a network that is asked for grain
#
# Does training remove the pattern? It depends on what the loss asks for. A squared error punishes
# it. But photographs have *grain*, fine irregular detail even on smooth walls, and the losses that
# make SRGAN sharp (lesson 15) want the output to have as much detail as the original. Grain cannot be
# predicted. And the network computes the same function at every pixel of the small image, so where
# that is flat, its answer is the same around every small pixel:
#
# **on a flat area, the only "detail" such a network can draw is a pattern that repeats with the
# grid.**
#
# So it draws that. Let us watch. A small network doubles the size of random leaves, as an ordinary
# task, and of flat walls with white noise as grain. Its loss is the squared error, plus a term that
# asks for grain: the walls' high frequencies should have as much energy as those of the originals.

# %%
# For each colour: the pixel minus the mean of its four neighbours.
laplacian = np.zeros((3, 3, 3, 3), np.float32)
for colour in range(3):
    laplacian[:, :, colour, colour] = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 4
# Random leaves on top of each other, drawn by formula: edges and surfaces as in photographs.
leaves = DeadLeaves(32, 96)


def energy(x):
    """Mean square of the high frequencies, without the image's border."""
    return ops.mean(ops.square(ops.conv2d(x[:, 16:-16, 16:-16], laplacian)))


def batch(step):
    """Three crops of leaves, then three walls: lr (6, 24, 24, 3), hr (6, 48, 48, 3)."""
    rng = np.random.default_rng([10, step])
    crops = []
    for _ in range(3):
        i, j = rng.integers(0, 49, 2)
        crops.append(leaves.load(int(rng.integers(32)))[i : i + 48, j : j + 48])
    hr = np.stack([images.to_float(crop) for crop in crops])
    lr = np.stack([images.to_float(downscale(crop, 2)) for crop in crops])
    colour = rng.uniform(-0.8, 0.8, (3, 1, 1, 3)).astype(np.float32)
    grain = 0.06 * rng.standard_normal(hr.shape, np.float32)
    walls = np.broadcast_to(colour, lr.shape)
    return np.concatenate([lr, walls]), np.concatenate([hr, colour + grain])


def train(equal_phases, steps=120):
    generator = SRResNet(16, 1, scale=2, equal_phases=equal_phases)
    adam = Adam(generator, 2e-3)  # lesson 11; here, a better gradient descent
    for step in tqdm(range(steps), "asking for grain", leave=False):
        lr, hr = batch(step)
        with Tape() as tape:
            sr = generator(lr)
            missing = energy(sr[3:]) - energy(hr[3:])
            loss = losses.mean_squared_error(sr, hr) + ops.scale(ops.square(missing), 60)
        adam.step(tape.gradient(loss, generator.parameters()))
        generator.constrain()  # part 5; does nothing unless equal_phases
    return generator.eval()


def on_a_flat_wall(generator):
    """What the network makes of a constant image, away from the border, minus its mean: (16, 16, 3)."""
    flat = generator(np.full((1, 24, 24, 3), 0.3, np.float32)).array[0, 16:-16, 16:-16]
    return flat - flat.mean((0, 1))


free = train(equal_phases=False)
levels = 127.5 * on_a_flat_wall(free).std()
pattern = on_a_flat_wall(free)
period = np.abs(pattern[2:] - pattern[:-2]).max() / np.abs(pattern[1:] - pattern[:-1]).max()
predict(
    "A flat wall goes through the trained network. After how many pixels does the pattern on it"
    " repeat?",
    guess=None,
    value=2 if period < 0.2 else 1,
    within=0,
    because=f"It was enlarged by 2. The pattern's strength is {levels:.1f} levels, root mean square.",
)
assert levels > 0.5

# %% [markdown]
# ## 5. The cure: a projection
#
# Enforce the condition of part 3. After every step of the optimiser, project the weights back onto
# the condition, and change them as little as possible: from the gain of each phase,
# subtract its deviation from the mean over all phases. The deviation is spread evenly over the nine
# taps:
#
# $$w_{ijkp} \leftarrow w_{ijkp} - \frac{1}{9} \left( g_{kp} - \mathrm{mean}_p\; g_{kp} \right) \qquad
# b_p \leftarrow \mathrm{mean}_p\; b_p$$
#
# Afterwards the gain of every phase is $g_{kp} - (g_{kp} - \mathrm{mean}_p\, g_{kp})$, the mean.
#
# That cures walls, but not window frames. A straight vertical edge is constant along the rows' axis
# only. On it, a network that is asked for grain answers with **beads**, which repeat with the grid
# along the edge. So demand the same of each axis by itself. A phase has a row $p$ and a column $q$.
# Where the input is constant along the rows' axis, only the sums over the rows of taps matter, one
# for each column of taps:
#
# $$\sum_i w_{ijkpq} \text{ is the same for all } p \qquad\qquad
# \sum_j w_{ijkpq} \text{ is the same for all } q$$
#
# Both conditions together contain that of part 3. Do they forbid too much? Nearest, bilinear and
# bicubic enlargement meet them, since none of these draws beads.
# The shapes: $w$ is (3, 3, K, 4C), and its last axis is (2 rows, 2 columns, C).


# %%
def project(weight, bias):
    """Give all phases on an axis the same sums of taps along that axis, and one bias, in place."""
    for array, taps in (weight, 3), (bias, 1):
        view = array.reshape(taps, taps, -1, 2, 2, array.shape[-1] // 4)
        for tap_axis, phase_axis in (0, 3), (1, 4):
            gain = view.mean(tap_axis, keepdims=True)  # the sum, spread over the taps
            view -= gain - gain.mean(phase_axis, keepdims=True)


weight = normal(3, 3, 5, 4 * 2)
bias = normal(4 * 2)
flat_only = weight.copy()  # on this copy, only the condition of part 3
view = flat_only.reshape(9, 5, 4, 2)
view -= view.mean(0) - view.mean((0, 2))[:, None]
project(weight, bias)
once = weight.copy()
project(weight, bias)
assert np.allclose(weight, once)  # a projection: the second time, nothing changes

wall = np.broadcast_to(normal(5), (1, 8, 8, 5))  # whatever the five constants are
edge = np.broadcast_to(normal(8, 5), (1, 8, 8, 5))  # each column has its own
for small in (wall, edge):
    large = shuffle(ops.conv2d(small, weight, bias)).array[0, 2:-2, 2:-2]
    assert np.allclose(large, large[0])  # all rows are alike
beads = shuffle(ops.conv2d(edge, flat_only, bias)).array[0, 2:-2, 2:-2]
predict(
    "An edge from top to bottom goes through weights that only meet the condition of part 3."
    " Are all rows of the result alike? (yes or no)",
    guess=None,
    value="yes" if np.allclose(beads, beads[0]) else "no",
    because="Rows of the two phases differ: these are the beads.",
)
assert not np.allclose(beads, beads[0])

# %% [markdown]
# In the package this is `SRResNet.constrain`, and training uses it unless `--no-equal-phases` is
# given. It changes neither the architecture nor the files nor the speed. Compare it with ours on the
# trained network's layer, and then train a second network under the constraint.

# %%
copy = SRResNet(16, 1, scale=2, equal_phases=True)
layer = copy.upsampling.steps[0].steps[0]
layer.weight.array[...] = free.upsampling.steps[0].steps[0].weight.array
layer.bias.array[...] = free.upsampling.steps[0].steps[0].bias.array
by_hand = layer.weight.array.astype(float), layer.bias.array.astype(float)
project(*by_hand)
copy.constrain()
assert np.allclose(layer.weight.array, by_hand[0], atol=1e-6)
assert np.allclose(layer.bias.array, by_hand[1], atol=1e-6)

held = train(equal_phases=True)
predict(
    "Trained under the constraint: how strong is the pattern on the flat wall, relative to the "
    "free network's?",
    guess=None,
    value=round(float(on_a_flat_wall(held).std() / on_a_flat_wall(free).std()), 2),
    within=1,
    because="What is left is not a pattern, but the influence of the zeros that pad the border.",
)
assert on_a_flat_wall(held).std() < 0.3 * on_a_flat_wall(free).std()

photo = Photograph().load(0)[100:340, 120:440]
lr = images.to_float(downscale(photo, 2))[None]
smooth = metrics.smooth_pixels(photo)
panels = {}
for name, generator in {"free": free, "equal phases": held}.items():
    sr = images.to_uint8(generator(lr).array[0])
    amplitude = metrics.mesh(sr, smooth, scale=2)
    print(f"{name:13} mesh on the photograph's smooth areas: {amplitude:.2f} levels")
    panels[f"{name}: mesh {amplitude:.2f} levels"] = sr[60:140, 100:220]
    panels[f"{name}: a flat wall, amplified"] = np.clip(0.5 + 4 * on_a_flat_wall(generator), 0, 1)
save(picture_row(panels, columns=4, height=3.2), "10_mesh")

# %% [markdown]
# Both networks were given the same task. The free one answers with a mesh over the whole face; the
# other cannot, and spends its effort on edges. (Neither is a good network: both were trained for
# seconds, on random leaves.)
#
# ## 6. The weights that come with this project
#
# How different are the gains of the phases in these weights, relative to their mean size?

# %%
for name in ("srresnet", "srgan"):
    if not (storage.WEIGHTS / f"{name}.h5").exists():
        print(f"weights/{name}.h5 is not there")
        continue
    generator = storage.load_generator(name)
    for number, stage in enumerate(generator.upsampling.steps):
        weight = stage.steps[0].weight.array
        gain = weight.reshape(9, weight.shape[2], 4, -1).sum(0)
        print(
            f"{name}, shuffle {number}: gains differ by "
            f"{gain.std(1).mean() / np.abs(gain).mean():.1%}"
        )

# %% [markdown]
# 0 % means that the weights were trained under the constraint.
#
# ## 7. They also come back through the discriminator
#
# The discriminator halves its image by convolutions with a stride of 2. Their $d_x$, which the
# generator learns from, is made of stamps two pixels apart (part 2). For random gradients at the
# output, the *variance* at the input is proportional to the number of stamps.

# %%
rule = ops.conv2d.reference(normal(2, 64, 64, 3), rng.standard_normal((3, 3, 3, 512)), None, 2)[1][
    0
]
power = (rule(rng.standard_normal((2, 32, 32, 512))) ** 2).mean((0, 3))[2:-2, 2:-2]
ratios = np.array(sorted(power[i::2, j::2].mean() for i, j in PHASES))
predict(
    "How large are the variances of the four phases, relative to the smallest? (four numbers, sorted)",
    guess=None,
    value=ratios / ratios[0],
    within=0.3,
    because="1, 2, 2 and 4 stamps. Through all of the discriminator's layers the pattern "
    "becomes fainter.",
)
assert np.abs(ratios / ratios[0] / [1, 2, 2, 4] - 1).max() < 0.3

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "A transposed convolution, stride 2, with a kernel of 5 x 5 ones: how many stamps lie on "
    "four neighbouring pixels? (a list)",
    answer=None,
    check=lambda a: sorted(a) == [4, 6, 6, 9],
    hint="along a row, 2 and 3 alternate",
)
exercise(
    2,
    "The convolution before the generator's first shuffle is 3 x 3. It has 64 input channels, and"
    " after the shuffle there are 64 again. How "
    "many weights does it have, without its biases?",
    answer=None,
    check=lambda n: n == 9 * 64 * 256,
    hint="before the shuffle there are 4 * 64 channels",
)

# %% [markdown]
# The projection below was written by somebody who mixed up the axes: it makes the *output channels*
# of each phase alike, not the phases. Write a test that tells it from `project`:
# `test(projection)`, where the projection takes `(weight, bias)`, with the shapes (3, 3, K, 4C) and
# (4C,), and changes them in place.


# %%
def broken_project(weight, bias):
    channels = weight.shape[3] // 4
    w = weight.reshape(9, weight.shape[2], 4, channels)
    gain = w.sum(0)
    w -= (gain - gain.mean(2, keepdims=True)) / 9
    bias.reshape(4, channels)[...] = bias.reshape(4, channels).mean(1, keepdims=True)


def check_projection_test(test):
    if not test(project):
        return "the test rejects the correct projection"
    return "the test accepts the broken projection" if test(broken_project) else True


exercise(
    3,
    "Write test(projection).",
    answer=None,
    check=check_projection_test,
    hint="apply the layer to something flat",
)
