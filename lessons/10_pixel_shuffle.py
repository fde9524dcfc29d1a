"""Lesson 10: pixel shuffle.  How does a network make four pixels out of one, and where do checkerboards come from?

You should know: convolution (lesson 05), what a gradient rule is (lesson 03).  Papers: Shi et al. 2016, "Real-Time Single
Image and Video Super-Resolution ...", section 3.2; Odena et al. 2016, "Deconvolution and Checkerboard Artifacts"; Aitken et
al. 2017, "Checkerboard artifact free sub-pixel convolution".  Lives in: npsrgan/ops/shapes.py.
"""
# %% Pixel shuffle: four channels become four pixels
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, save

from npsrgan import losses, metrics, ops
from npsrgan.adam import Adam
from npsrgan.data import Batches, DeadLeaves, Photograph, downscale
from npsrgan.gradcheck import check, normal
from npsrgan.models import SRResNet
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

#     y[n, 2h + i, 2k + j, c] = x[n, h, k, (2i + j) C + c]          i, j = 0 or 1
# Nothing is computed: values move.  So the gradient moves back the way the value came.  The four places (i, j) are called phases.
PHASES = [(i, j) for i in (0, 1) for j in (0, 1)]


@op
def shuffle(x):
    """(N, H, W, 4 C) -> (N, 2 H, 2 W, C)."""
    n, h, w, c = *x.shape[:3], x.shape[3] // 4
    y = np.zeros_like(x, shape=(n, 2 * h, 2 * w, c))
    for k, (i, j) in enumerate(PHASES):
        y[:, i::2, j::2] = x[..., k * c:(k + 1) * c]

    def d_x(dy): return np.concatenate([dy[:, i::2, j::2] for i, j in PHASES], axis=-1)
    return y, (d_x,)


x = normal(2, 3, 4, 12)
print(*check(shuffle, x))
assert np.array_equal(shuffle(x).array, ops.pixel_shuffle(x).array)

# %% The older way: transposed convolution
# A convolution of stride 2 (its window moves by 2 pixels) makes an image half as large.  Its rule d_x goes the other way: from a small
# array to a large one.  Used forward, that rule is the "transposed convolution" (also "deconvolution", which it is not): every small
# pixel presses a stamp, the kernel, onto a canvas, and the stamps are 2 pixels apart.  Where stamps overlap, they add.


@op
def transposed(x, w, padding=1):
    """x (N, h, k, C), w (size, size, O, C) -> (N, 2 h, 2 k, O): d_x of a convolution of stride 2 that takes O channels to C."""
    (n, h, k, _), strided = x.shape, ops.conv2d.reference
    canvas = np.zeros_like(x, shape=(n, 2 * h + 2 * padding + 1, 2 * k + 2 * padding + 1, w.shape[2]))
    for i, j in np.ndindex(*w.shape[:2]):
        canvas[:, i:i + 2 * h:2, j:j + 2 * k:2] += x @ w[i, j].T
    image = canvas[:, padding:padding + 2 * h, padding:padding + 2 * k]

    def d_x(dy): return strided(dy, w, None, 2, padding)[0]             # the way back is the strided convolution itself
    def d_w(dy): return strided(dy, w, None, 2, padding)[1][1](x)
    return image, (d_x, d_w)


x, w, large = normal(1, 3, 4, 5), normal(3, 3, 2, 5), normal(1, 6, 8, 2, seed=1)
print(*check(transposed, x, w), sep="\n")
assert all(result.passed for result in check(shuffle, normal(2, 3, 4, 12)) + check(transposed, x, w))
small, (rule, *_) = ops.conv2d.reference(large, w, None, 2)
np.testing.assert_allclose(transposed(x, w).array, rule(x), rtol=1e-12, atol=1e-12)         # conv2d's own d_x
# What "transposed" means: <conv(large), x> = <large, transposed(x)>, for any large and x.  (<a, b> is the sum of a * b.)
np.testing.assert_allclose((small * x).sum(), (large * transposed(x, w).array).sum(), rtol=1e-12)

# %% Count the stamps
# A flat wall, x = 1, and the most even kernel there is, all ones.  Stamps 2 apart and 3 wide: along a row, pixels under one
# stamp alternate with pixels under two.  In two dimensions that predicts 1, 2, 2, 4.  Then for the spectrum (1, 2 along a
# row = 1.5 -+ 0.5) a peak of 1/3 of the mean at the highest frequency along rows and along columns, 1/9 along both.
wall = np.ones((1, 32, 32, 1))
counted = transposed(wall, np.ones((3, 3, 1, 1))).array[0, 4:-4, 4:-4, 0]
even = transposed(wall, np.ones((4, 4, 1, 1))).array[0, 4:-4, 4:-4, 0]
print(f"stamps on four neighbours: kernel 3: {counted[:2, :2].tolist()}, kernel 4: {even[:2, :2].tolist()}")
assert sorted(counted[:2, :2].ravel()) == [1, 2, 2, 4] and (even == 4).all()
spectrum = np.abs(np.fft.fft2(counted)) / counted.sum()
peaks = spectrum[[0, 28, 28], [28, 0, 28]]          # 28 cycles in 56 pixels: the highest frequency
print("peaks:", peaks.round(4), " predicted 1/3, 1/3, 1/9")
np.testing.assert_allclose(peaks, [1 / 3, 1 / 3, 1 / 9])

# Convolution 3x3 to 4 C channels, then pixel shuffle: every pixel is a sum of 9 products, no pixel is favoured.  In fact it
# IS a transposed convolution, one whose kernel, 6, is a multiple of the stride: the weights only stand elsewhere.
w = normal(3, 3, 5, 4 * 2)
stamp = np.zeros((6, 6, 2, 5))
for a, b, i, j in np.ndindex(3, 3, 2, 2):
    stamp[4 - 2 * a + i, 4 - 2 * b + j] = w[a, b, :, 4 * i + 2 * j:4 * i + 2 * j + 2].T
np.testing.assert_allclose(shuffle(ops.conv2d(x, w)).array, transposed(x, stamp, 2).array, rtol=1e-12, atol=1e-12)

# %% Random first weights.  So is pixel shuffle free of checkerboards?  Not at first!  Its four phases are four convolutions with random
# weights of their own, and four random numbers differ.  But nothing hinders it from becoming even; 1, 2, 2, 4 stamps must be learned
# away.  Aitken et al. start all four phases with equal weights (ICNR): then, we predict, a flat wall stays exactly flat.
rng, ones = np.random.default_rng(7), np.ones((3, 3, 1, 1))
w3, w4 = rng.standard_normal((3, 3, 1, 1)), rng.standard_normal((3, 3, 1, 4))
ways = {"transposed, kernel of ones": lambda x: transposed(x, ones), "transposed, random": lambda x: transposed(x, w3),
        "shuffle, random": lambda x: shuffle(ops.conv2d(x, w4)),
        "shuffle, equal phases": lambda x: shuffle(ops.conv2d(x, w4[..., :1].repeat(4, 3)))}
face = metrics.luma(downscale(Photograph().load(0)[20:340, 120:440], 4))[None, :, :, None] / 255
pictures, spectra, uneven = {}, {}, {}
for name, way in ways.items():
    flat, picture = way(wall).array[0, 4:-4, 4:-4, 0], way(face).array[0, 2:-2, 2:-2, 0]
    pictures[name] = (picture - picture.min()) / np.ptp(picture)
    faded = (picture - picture.mean()) * np.hanning(len(picture)) * np.hanning(len(picture))[:, None]      # no hard borders
    spectra[f"spectrum of {name}"] = np.fft.fftshift(np.log10(np.abs(np.fft.fft2(faded)) + 0.1))
    uneven[name] = flat.std() / np.abs(flat).mean()
    print(f"{name:28} a flat wall comes out uneven by {uneven[name]:.3f} of itself")
assert uneven["shuffle, equal phases"] < 1e-12 and min(uneven["shuffle, random"], uneven["transposed, random"]) > 0.1

# %% What it means for a picture
# Above: one face, 80 x 80, enlarged by untrained weights.  Below: the spectra, low frequencies in the middle.  What belongs
# in the middle only is repeated at the edges and corners: the checkerboard's peaks.
save(picture_row(pictures | spectra, columns=4, height=3), "10_checkerboards")

# %% They come back through the discriminator
# D halves its image with 3x3 convolutions of stride 2, and D's gradient is what G learns from.  It runs through d_x: stamps
# again!  For random gradients at the output we predict variances as 1 : 2 : 2 : 4.  (Through all of D the pattern is fainter.)
x = Tensor(rng.standard_normal((16, 64, 64, 3)))
with Tape() as tape:
    loss = ops.sum(ops.conv2d(x, rng.standard_normal((3, 3, 3, 64)), stride=2) * rng.standard_normal((16, 32, 32, 64)))
power = (tape.gradient(loss, x) ** 2).mean((0, 3))[2:-2, 2:-2]
ratio = sorted(power[i::2, j::2].mean() for i, j in PHASES)
print("variance of the gradient, by phase:", (np.array(ratio) / ratio[0]).round(2), " predicted 1 2 2 4")
assert np.abs(np.array(ratio) / ratio[0] / [1, 2, 2, 4] - 1).max() < 0.3

# %% Does training make a random pixel shuffle even?
# A flat wall through a small SRResNet (lesson 12): two shuffles, so its pattern repeats every 4 pixels.  Before and after 60 steps on
# "dead leaves": random leaves, striped or rough, on top of each other, drawn by the package, with edges and textures like photographs.
generator, batches = SRResNet(16, 2), Batches(DeadLeaves(32, 96), 8, 16)
adam, walls, bump = Adam(generator, 1e-3), {}, {}
for step in range(61):
    if step in (0, 60):
        flat = generator.eval()(np.full((1, 24, 24, 3), 0.3, np.float32)).array[0, 40:-40, 40:-40]
        generator.train()
        bump[step] = (flat - flat.mean((0, 1))).std()
        walls[f"a flat wall after {step} steps: +-{bump[step]:.3f}"] = np.clip(0.5 + 4 * (flat - flat.mean((0, 1))), 0, 1)
    lr, hr = batches.batch(step)
    with Tape() as tape:
        loss = losses.mean_squared_error(generator(lr), hr)
    adam.step(tape.gradient(loss, generator.parameters()))
assert bump[60] < bump[0] / 2
save(picture_row(walls | {"D's gradient, power (one strided layer)": power[:16, :16]}, height=3.6), "10_walls")

# %% Exercises
exercise(1, "Transposed convolution, stride 2, kernel 5 of ones: the stamps on four neighbours, sorted?  (a list)", answer=None,
         check=lambda a: sorted(a) == [4, 6, 6, 9], hint="along a row it is 2 or 3 stamps")
exercise(2, "Stride 2: kernel 7 or kernel 8, which gives no checkerboard with a kernel of ones?", answer=None,
         check=lambda k: k == 8, hint="every pixel needs equally many stamps")
exercise(3, "The convolution before the generator's first shuffle: 3x3, from 64 channels to 64 after the shuffle.  How many weights has "
         "it, biases not counted?", answer=None, check=lambda n: n == 9 * 64 * 256, hint="before the shuffle there are 4 * 64 channels")
