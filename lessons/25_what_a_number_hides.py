# %% [markdown]
# # Lesson 25: What a number hides
#
# **The question.** When a table says that SRGAN's pictures are better, what may it have overlooked?
#
# You should know: reading the results (lesson 24) and checkerboards (lesson 10).
#
# Papers: Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric"
# (LPIPS); Sugawara, Shiota and Kiya 2019, "Checkerboard artifacts free convolutional neural networks".
#
# Lives in: `npsrgan/metrics.py` (`mesh`) and `npsrgan/evaluate/`, whose README has the measurements on
# whole benchmarks.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import FOLDER, exercise, picture_row, predict, save

from npsrgan import ops, storage
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.device import CPU
from npsrgan.images import to_float
from npsrgan.inference import fold, apply_in_tiles
from npsrgan.metrics import mesh, psnr, smooth_pixels
from npsrgan.models.vgg19 import random_vgg19

photo = Photograph().load(0)  # (600, 512, 3)
small = downscale(photo, 4)
pictures = {}
for name in ("srresnet", "srgan"):
    file = FOLDER.parent / "weights" / f"{name}.h5"
    if file.exists():
        pictures[name] = apply_in_tiles(fold(storage.load_network(file)), small, CPU)
smooth_answer = pictures.get(
    "srresnet", upscale(small, 4)
)  # without the weights, bicubic takes its place
vgg = random_vgg19("conv2_2")


def strangeness(image):
    """Lesson 24's stand-in for LPIPS: 0 for a picture with the texture of the photograph."""
    a, b = (vgg(to_float(x[None, 124:252, 194:322])).array.std((0, 1, 2)) for x in (image, photo))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# %% [markdown]
# ## A baseline that knows nothing
#
# A measure of how natural a picture looks must tell texture from noise; otherwise noise will win. So
# before you believe that a network draws texture, let it compete with a random number generator: white
# noise, equal in all channels, on top of SRResNet's picture.
#
# What does the noise cost in PSNR? Noise with a standard deviation of $\sigma$ levels, the same in all
# three channels, moves luma by $\frac{219}{255} \sigma$, because Y spans 219 levels where RGB spans
# 255. It is independent of everything, so its square is simply added to the squared error (lesson
# 24, with $c = 0$).

# %%
SIGMAS = 1, 2, 3, 4
generator = np.random.default_rng(19)
noise = generator.standard_normal((*smooth_answer.shape[:2], 1))


def noisy(sigma):
    return np.clip(np.rint(smooth_answer + sigma * noise), 0, 255).astype(np.uint8)


base = psnr(smooth_answer, photo)
squared_error = 255**2 / 10 ** (base / 10)
calculated = 10 * np.log10(255**2 / (squared_error + (219 / 255 * 2) ** 2))
predict(
    f"Without noise the picture has {base:.2f} dB. How many dB does it have with noise of 2 levels?",
    guess=None,
    value=psnr(noisy(2), photo),
    because=f"calculated: {calculated:.2f} dB",
    within=0.002,
)
assert abs(psnr(noisy(2), photo) - calculated) < 0.05

rows = {"no noise": smooth_answer} | {f"noise {sigma}": noisy(sigma) for sigma in SIGMAS}
if "srgan" in pictures:
    rows["SRGAN"] = pictures["srgan"]
table = {name: (psnr(image, photo), strangeness(image)) for name, image in rows.items()}
print("                PSNR   strangeness")
for name, (decibels, odd) in table.items():
    print(f"{name:12} {decibels:7.2f} {odd:13.3f}")
assert table["noise 2"][1] < table["no noise"][1]
best = min((name for name in table if name.startswith("noise")), key=lambda name: table[name][1])
print(f"The best noise is {best}.")
if "SRGAN" in table:
    verdict = "better" if table["SRGAN"][1] < table[best][1] else "no better"
    print(f"By this measure, the shipped SRGAN is {verdict} than this noise on this photograph.")

# %% [markdown]
# Noise improved the measure, and nobody would call it texture. LPIPS is not fooled as easily as this
# stand-in, but it is fooled: the README of `npsrgan/evaluate/` has a table in which noise of 3 levels
# brings most of the gain that SRGAN brings. That is why the table of every evaluation has a row
# "srresnet + noise". A network that does not beat this row has not been shown to draw texture.

# %%
close = np.s_[100:200, 190:290]
shown = {
    "SRResNet" if "srresnet" in pictures else "bicubic": smooth_answer[close],
    best: rows[best][close],
}
if "srgan" in pictures:
    shown["SRGAN"] = pictures["srgan"][close]
save(picture_row(shown | {"the photograph": photo[close]}, height=3), "25_noise")

# %% [markdown]
# ## A pattern that fits between the samples
#
# The first layer of LPIPS's network moves in steps of four pixels. A network that enlarges by 4 can
# draw a pattern with a period of four pixels: a *mesh*. The layer then meets every repetition at the
# same place, and answers with the same number everywhere.
#
# Here is such a layer, with random filters of 11 x 11 pixels, and waves of several periods. How much do
# its answers vary over the image? If they do not, the wave looks to it like a flat area.

# %%
filters = np.random.default_rng(20).standard_normal((11, 11, 1, 16))
filters -= filters.mean((0, 1))  # blind to brightness, as most of AlexNet's first filters are


def variation(period):
    """The standard deviation over space of the layer's answers to a wave, relative to their size."""
    wave = np.sin(2 * np.pi * np.arange(128) / period + 0.3)
    answers = ops.conv2d(np.tile(wave, (128, 1))[None, ..., None], filters, stride=4, padding=0).array
    return float(answers.std((1, 2)).mean() / np.abs(answers).mean())


predict(
    "How much do the answers to a wave of period 4 vary, relative to their size?",
    guess=None,
    value=variation(4.0),
    because="steps of 4 meet it at the same phase each time",
)
for period in (3.0, 4.0, 5.0, 6.0):
    print(f"period {period:.0f}: variation {variation(period):.3f}")
assert variation(4.0) < 1e-6
assert min(variation(3.0), variation(5.0), variation(6.0)) > 0.5

# %% [markdown]
# So a pattern of period 4 is not invisible to LPIPS, but it looks to LPIPS like a change that is the
# same everywhere, which costs little. Earlier weights of this project drew such a mesh. LPIPS
# preferred them to SRResNet all the same, and the table alone did not show it.
#
# ## A number for the mesh
#
# What repeats every four pixels can be measured directly. In smooth areas, subtract the local mean from
# luma. Sort the remaining pixels by their phase, (row mod 4, column mod 4): sixteen groups. Noise and
# texture cancel in each group's mean. What repeats with the grid stays. `mesh` is the standard
# deviation of the sixteen means.


# %%
def phase_means(detail, scale=4):
    """The mean of each phase: (scale, scale)."""
    return np.array([[detail[i::scale, j::scale].mean() for j in range(scale)] for i in range(scale)])


tile = np.array([[3.0, -1, 0, -1], [-1, 0, -1, 1], [0, -1, 2, -1], [-1, 1, -1, 1]])
tile -= tile.mean()
detail = np.tile(tile, (64, 64)) + 5 * np.random.default_rng(21).standard_normal((256, 256))
predict(
    "A tile of 4 x 4 numbers is repeated, and noise about four times as strong is added. How strong is the "
    "pattern in the sixteen means, relative to the tile?",
    guess=None,
    value=phase_means(detail).std() / tile.std(),
    because="each mean is over 4096 pixels, so only 1/64 of the noise is left",
)
assert abs(phase_means(detail).std() / tile.std() - 1) < 0.1

smooth = smooth_pixels(photo)
spot = np.s_[138:170, 224:272]  # of the forehead


def stretched(image):
    """The spot, with its contrast tripled, so that a screen shows small differences."""
    x = image[spot].astype(float)
    return np.clip(x.mean((0, 1)) + 3 * (x - x.mean((0, 1))), 0, 255).astype(np.uint8)


print(f"{smooth.mean():.0%} of the photograph is smooth")
drawn = np.clip(np.rint(smooth_answer + np.tile(tile, (150, 128))[..., None]), 0, 255).astype(np.uint8)
meshes = {
    "the photograph": photo,
    "no noise": smooth_answer,
    "noise 3": noisy(3),
    "a mesh drawn on it": drawn,
}
meshes |= {"SRGAN": pictures["srgan"]} if "srgan" in pictures else {}
print("                        PSNR   strangeness    mesh")
for name, image in meshes.items():
    decibels = "" if image is photo else f"{psnr(image, photo):.2f}"
    print(f"{name:20} {decibels:>7} {strangeness(image):13.3f} {mesh(image, smooth):7.3f}")
assert mesh(drawn, smooth) > 5 * mesh(smooth_answer, smooth)
assert strangeness(drawn) < strangeness(smooth_answer)
save(
    picture_row(
        {
            "no mesh": stretched(smooth_answer),
            "a mesh drawn on it": stretched(drawn),
            "the photograph": stretched(photo),
        },
        height=3.2,
    ),
    "25_mesh",
)

# %% [markdown]
# The drawn mesh costs little PSNR and *improves* the strangeness, because any detail does. Only the
# number that was made for it reveals it (and the eye: the picture shows the spot with its contrast
# tripled). The cure is in the network: `constrain` prevents the mesh by making all phases of a pixel
# shuffle answer a flat area alike (lesson 10).
#
# Does this number hide something, too? Yes. It finds what repeats in the same phase *everywhere*. Draw
# the same tile again, but with its sign chosen at random for each square of 32 x 32 pixels, like a
# network whose pattern depends on the brightness:

# %%
signs = np.kron(np.random.default_rng(22).choice([-1, 1], (19, 16)), np.ones((32, 32)))[:600]
in_parts = np.rint(smooth_answer + (signs * np.tile(tile, (150, 128)))[..., None])
in_parts = np.clip(in_parts, 0, 255).astype(np.uint8)
predict(
    "What share of the measured mesh is left with random signs?",
    guess=None,
    value=mesh(in_parts, smooth) / mesh(drawn, smooth),
    because="squares with opposite signs cancel in the means",
)
assert mesh(in_parts, smooth) < 0.4 * mesh(drawn, smooth)

# %% [markdown]
# The eye sees both patterns alike. (`evaluate` therefore has a column for LPIPS at three quarters of the
# size, where a period of 4 becomes one of 3, and the README says what that one misses.)
#
# The conclusion of all three experiments is the same: a number measures only what it was defined to
# measure. Find the simplest thing that would improve it, try that, and look at the picture.
#
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "SRResNet has a squared error of 50 on Y. How many levels of noise (on RGB) lower its PSNR by 3.01 dB?",
    answer=None,
    check=lambda s: abs(s - 50**0.5 * 255 / 219) < 0.05,
    hint="(219 / 255 sigma)^2 = 50",
)
exercise(
    2,
    "A network enlarges by 2. For how many phases must its mesh be measured?",
    answer=None,
    check=lambda n: n == 4,
    hint="row mod 2 and column mod 2",
)

# %% [markdown]
# Write a measure that noise does not improve: `my_measure(image, photo)`, from two uint8 (H, W, 3)
# arrays to a number, smaller for the better picture. It must prefer the original to everything, and
# must not prefer the noisy picture to the one without noise. (It does not have to be a good measure of
# anything else. That would be the difficult part.)


# %%
def noise_does_not_please(measure):
    original, plain, noise_on_top = (measure(image, photo) for image in (photo, smooth_answer, noisy(3)))
    if not original < plain:
        return "it does not prefer the original"
    return bool(plain < noise_on_top) or "it prefers the noisy picture"


exercise(
    3,
    "Write my_measure(image, photo).",
    answer=None,
    check=noise_does_not_please,
    hint="you have known one since lesson 00",
)
