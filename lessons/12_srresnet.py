# %% [markdown]
# # Lesson 12: SRResNet, the generator
#
# **The question.** What is the generator made of, what does it cost, how large is its receptive
# field, and can it learn?
#
# You should know: convolution (lesson 05), batch norm (08), PReLU (09), pixel shuffle (10), Adam
# (11). Here they come together.
#
# Paper: Ledig et al. 2017, section 2.1 and figure 4; He et al. 2016, "Deep Residual Learning",
# section 3.1.
#
# Lives in: `npsrgan/models/srresnet.py`, made of the layers in `npsrgan/layers.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save
from tqdm import tqdm

from npsrgan import images, losses, metrics, ops
from npsrgan.adam import Adam, schedule
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.gradcheck import check_directions, normal
from npsrgan.models import SRResNet
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## 1. The whole network
#
# | part | what it does | shape |
# |---|---|---|
# | head | 9 x 9 convolution, PReLU: describe every pixel | (N, h, w, 3) to (N, h, w, 64) |
# | body | 16 residual blocks, a convolution, batch norm: the work | (N, h, w, 64) |
# | long skip connection | add the output of the head | (N, h, w, 64) |
# | upsampling | twice: 3 x 3 convolution to 256 channels, pixel shuffle, PReLU | (N, 4h, 4w, 64) |
# | tail | 9 x 9 convolution: back to colours | (N, 4h, 4w, 3) |
#
# A **residual block** learns only what to *add* to its input: $y = x + f(x)$, where $f$ is
# convolution, batch norm, PReLU, convolution, batch norm. A block that has nothing to add returns
# $f(x) = 0$. And on the way back,
#
# $$dx = dy + \text{what comes through } f$$
#
# so the gradient has a direct path through all sixteen blocks, the **skip connections**. That is
# what makes so many blocks trainable.


# %%
def srresnet(x, p, blocks):
    """x (N, h, w, 3) -> (N, 4 h, 4 w, 3), in training mode.  p: {name: parameter}."""

    def conv(x, name):
        return ops.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(x, name):
        return ops.batch_norm(x, p[f"{name}.gamma"], p[f"{name}.beta"])

    def prelu(x, name):
        return ops.prelu(x, p[f"{name}.slope"])

    first = x = prelu(conv(x, "head.0"), "head.1")
    for k in range(blocks):
        inner = prelu(norm(conv(x, f"body.{k}.0"), f"body.{k}.1"), f"body.{k}.2")
        x = x + norm(conv(inner, f"body.{k}.3"), f"body.{k}.4")
    x = first + norm(conv(x, f"body.{blocks}"), f"body.{blocks + 1}")
    for k in (0, 1):
        x = prelu(ops.pixel_shuffle(conv(x, f"upsampling.{k}.0")), f"upsampling.{k}.2")
    return conv(x, "tail")


# %% [markdown]
# The package's network is the same, made of layers. Here are both with the same parameters, and the
# gradient check along random directions (lesson 02, part 6).

# %%
small = SRResNet(4, 2).to(lambda array: array.astype(np.float64))
named = {p.name: p for p in small.parameters()}
lr = np.clip(normal(2, 5, 6, 3), -1, 1)
assert np.allclose(srresnet(lr, named, 2).array, small(lr).array, rtol=1e-9, atol=1e-12)
cotangent = normal(2, 20, 24, 3)
for result in check_directions(
    lambda: ops.mean(srresnet(lr, named, 2) * cotangent), small.parameters(), "SRResNet by hand", 2
):
    print(result)
    assert result.passed

# %% [markdown]
# ## 2. What it costs
#
# Let $c$ be the number of channels and $b$ that of the blocks. A $k \times k$ convolution from $i$
# to $o$ channels has $k^2\,i\,o$ weights and $o$ biases, and it makes $k^2\,i\,o$ multiplications
# for each pixel of its output. The work is counted for each pixel of the *small* image. For each of
# these, the convolution before the second shuffle computes 4 pixels, and the tail 16.

# %%
c, b = 64, 16
weights = 81 * 3 * c + (2 * b + 1) * 9 * c * c + 2 * 9 * c * 4 * c + 81 * c * 3
head = c + c  # bias, PReLU
# Each block: two biases, two batch norms, a PReLU; then a bias, a batch norm.
body = b * (2 * c + 4 * c + c) + (c + 2 * c)
upsampling = 2 * (4 * c + c)
tail = 3
by_formula = weights + head + body + upsampling + tail
generator = SRResNet(c, b)
predict(
    "How many parameters does SRResNet have, in millions?",
    guess=None,
    value=generator.flat.size / 1e6,
    because=f"{by_formula:,} by the formula, {generator.flat.size:,} in the package's flat buffer.",
)
assert by_formula == generator.flat.size

# %%
multiplications = 81 * 3 * c + (2 * b + 1) * 9 * c * c + (1 + 4) * 9 * c * 4 * c + 16 * 81 * c * 3
counted = []
conv2d = ops.conv2d


def counting(x, w, b=None, stride=1, padding=None):
    """conv2d, which also notes how many multiplications the formula takes."""
    y = conv2d(x, w, b, stride, padding)
    counted.append(np.prod(y.shape[:3]) * w.array.size)
    return y


ops.conv2d = counting
with reference_only():  # else the first convolution and its PReLU are one operation
    generator.eval()(np.zeros((1, 8, 8, 3), np.float32))
ops.conv2d = conv2d
predict(
    "How many billion multiplications does a picture of 512 x 512 from 128 x 128 take?",
    guess=None,
    value=multiplications * 128**2 / 1e9,
    because=f"{multiplications:,} for each small pixel by the formula, {sum(counted) // 64:,} "
    "counted at the convolutions.",
)
assert sum(counted) == 64 * multiplications

# %% [markdown]
# ## 3. How far it sees
#
# Which input pixels can change one output pixel? They are called its **receptive field**. To find
# it, walk back through the network with an interval of rows. A $k \times k$ convolution widens the
# interval by $(k-1)/2$ on each side; a shuffle halves both of its ends.


# %%
def reach(row, blocks=16):
    """First and last row of the small image that the output's row can see."""
    low, high = (row - 4) // 2, (row + 4) // 2  # the tail, 9 x 9; the second shuffle
    low, high = (low - 1) // 2, (high + 1) // 2  # its convolution, 3 x 3; the first shuffle
    widening = 1 + (2 * blocks + 1) + 4  # its convolution; the body; the head, 9 x 9
    return low - widening, high + widening


predict(
    "Output row 200 lies over row 50 of the small image. Which rows of the small image does it see? "
    "(first, last)",
    guess=None,
    value=reach(200),
    within=0.02,
    because="40 rows above its own and 39 below.",
)

# %% [markdown]
# Now the measurement. The gradient of one output pixel with respect to the input is exactly 0 where
# the network cannot see. How far it sees does not depend on the number of channels, so 8 will do.
# (The fast twins are switched off: Winograd's algorithm would leave rounding errors where exact
# zeros belong.)

# %%
eye = SRResNet(8, 16)
scene = Tensor(np.random.default_rng(9).uniform(-1, 1, (2, 100, 100, 3)).astype(np.float32))
seen = {}
for mode in ("evaluation", "training"):
    eye.train(mode == "training")
    with reference_only(), Tape() as tape:
        pixel = ops.sum(eye(scene)[0, 200, 200])
    seen[mode] = np.abs(tape.gradient(pixel, scene)).max(-1)  # (2, 100, 100)
rows = np.flatnonzero(seen["evaluation"][0].any(axis=1))
print(f"the gradient is not 0 in rows {rows[0]} to {rows[-1]}")
assert (rows[0], rows[-1]) == reach(200) == (10, 89)
assert not seen["evaluation"][1].any()  # the other picture of the batch has no influence

share = np.mean(seen["training"][1] > 0)
predict(
    "In training mode, what share of the *other* picture of the batch does this pixel see?",
    guess=None,
    value=share,
    because="Batch norm's mean and variance depend on every pixel of every picture (lesson 08).",
)
assert np.mean(seen["training"] > 0) > 0.99

# %%
views = {
    "evaluation: 80 x 80 pixels": ("evaluation", 0),
    "training: everything": ("training", 0),
    "training: the other picture": ("training", 1),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
for axis, (title, (mode, number)) in zip(axes, views.items()):
    gradient = seen[mode][number]
    strength = np.log10(gradient / seen[mode].max() + 1e-12)
    drawn = axis.imshow(np.where(gradient > 0, strength, np.nan), vmin=-9, vmax=0, cmap="magma")
    axis.set(title=title, xlabel="column of the small image", ylabel="row")
figure.colorbar(drawn, ax=axes, label="log10 |d one output pixel / d input|")
save(figure, "12_how_far_it_sees")

# %% [markdown]
# ## 4. Can it learn? One photograph, by heart
#
# The first test of any new network: give it *one* example and let it overfit. If it cannot even do
# that, something is broken. This one has 38 thousand weights and 28 thousand numbers to remember.

# %%
photo = Photograph().load(0)
SIZE, STEPS = 96, 400
hr = photo[125 : 125 + SIZE, 190 : 190 + SIZE]
elsewhere = photo[330 : 330 + SIZE, 60 : 60 + SIZE]
x = images.to_float(downscale(hr, 4))[None]
target = images.to_float(hr)[None]
student = SRResNet(16, 2)
# The rate falls along a cosine, to a hundredth.
adam = Adam(student, schedule("cosine", 2e-3, STEPS))
print(f"{student.flat.size:,} weights, {hr.size:,} numbers")
for _ in tqdm(range(STEPS), "learning by heart"):
    with Tape() as tape:
        loss = losses.mean_squared_error(student(x), target)
    adam.step(tape.gradient(loss, student.parameters()))
student.eval()

gain, panels = [], {}
for number, crop in enumerate((hr, elsewhere), start=1):
    small_image = downscale(crop, 4)
    enlarged = upscale(small_image, 4)
    sr = images.to_uint8(student(images.to_float(small_image)[None]).array[0])
    ours, bicubic = metrics.psnr(sr, crop), metrics.psnr(enlarged, crop)
    gain.append(ours - bicubic)
    panels |= {
        f"low resolution ({number})": small_image,
        f"bicubic, {bicubic:.1f} dB": enlarged,
        f"by heart, {ours:.1f} dB": sr,
        "the photograph" if crop is hr else "never seen": crop,
    }
predict(
    "By how many dB does it beat bicubic on the crop that it has learned?",
    guess=None,
    value=gain[0],
    unit="dB",
    within=0.3,
    because=f"On a crop that it has never seen: {gain[1]:+.1f} dB. Learning by heart is not "
    "learning to see.",
)
assert gain[0] > 3
assert gain[1] < gain[0] - 2
save(picture_row(panels, columns=4), "12_by_heart")

# %% [markdown]
# Good at what it has learned, poor elsewhere: the network works, and the data are too few. Lesson
# 18 is about data.
#
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "With 5 blocks in place of 16, how many rows of the small image above its own (row 50) does"
    " output row 200 see?",
    answer=None,
    check=lambda n: n == 18,
    hint="every block has two 3 x 3 convolutions",
)
exercise(
    2,
    "Suppose that all 16 blocks came after the upsampling, and worked on 16 times as many pixels. How "
    "many times as many multiplications "
    "would the whole network make, roughly?",
    answer=None,
    check=lambda n: abs(n - 9) < 1,
    hint="the body's 33 convolutions make 1.22 of the 2.22 million multiplications per small pixel",
)

# %% [markdown]
# A colleague has built the block below. It runs, its gradients are right, and it even trains; but a
# deep stack of them does not. Find out what is wrong with it and write `block(x, inner)` as it
# should be: `inner` is any function from a tensor to a tensor of the same shape.


# %%
def broken_block(x, inner):
    y = inner(x)
    return y + inner(y)


def check_block(block):
    x = Tensor(normal(2, 3))
    if not np.allclose(block(x, lambda t: ops.scale(t, 0.0)).array, x.array):
        return "where inner returns 0, the block should return its input"
    return np.allclose(block(x, lambda t: ops.scale(t, 2.0)).array, 3 * x.array)


exercise(3, "Write block(x, inner).", answer=None, check=check_block)
