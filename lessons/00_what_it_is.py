# %% [markdown]
# # Lesson 00: Super-resolution
#
# **The question.** A photograph was shrunk to a quarter of its width and height. What did it look
# like before, why can nobody know, and how do we say which of two answers is better?
#
# You should know: Python and NumPy, and that a neural network is a function with many adjustable
# numbers. Everything else is explained when it is needed.
#
# Paper: Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative
# Adversarial Network" (SRGAN), sections 1 and 3.1.
#
# Lives in: `npsrgan/data/degrade.py`, `npsrgan/inference/`, `npsrgan/metrics.py`.
#
# **How to read a lesson.** Text and code alternate. Run the code cell by cell, or the whole file
# with `python lessons/00_what_it_is.py`. Where a cell says `predict(..., guess=None, ...)`, put
# your own guess in place of `None` before you run it: a number that surprises you is worth ten that
# you only read. Pictures are saved in `lessons/output/`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, predict, save

from npsrgan import storage
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.device import CPU
from npsrgan.inference import fold, apply_in_tiles
from npsrgan.metrics import luma, psnr, ssim

# %% [markdown]
# ## 1. The task
#
# `hr` is a high-resolution photograph. `lr`, the low-resolution image, is made from it by bicubic
# reduction: each small pixel is a weighted mean of the 16 x 16 large pixels around it.
# Super-resolution has to go back from `lr` to `hr`. In real use nobody has `hr`; here we keep it for
# comparison.

# %%
hr = Photograph().load(0)
lr = downscale(hr, 4)
print("high resolution", hr.shape, " low resolution", lr.shape)
predict(
    "How many numbers must be found for each number that is given?",
    guess=None,
    value=hr.size // lr.size,
    because="Each small pixel becomes 4 x 4 large ones.",
)
assert hr.size == 16 * lr.size

# %% [markdown]
# ## 2. Why the task has no unique answer
#
# Lay a checkerboard over the photograph, so that every other pixel is 30 levels brighter and the
# rest are 30 levels darker. The difference is plain to see. Now shrink both pictures. A small pixel
# is a mean over a neighbourhood, in which the bright and the dark squares cancel.

# %%
plain = (hr * 0.7 + 38).astype(np.uint8)  # a little pale: 30 levels more or less fit into 0..255
rows, columns = np.indices(hr.shape[:2])[..., None]


def overlay(pattern):
    """The pale photograph, 30 levels brighter where the pattern is odd, 30 darker where it is even."""
    sign = 2 * (pattern % 2) - 1
    return (plain + 30 * sign).astype(np.uint8)


board = overlay(rows + columns)
turned_board = overlay(rows + columns + 1)
stripes = overlay(rows)


def largest_difference(a, b):
    """The largest difference between two pictures, in levels, without the outermost pixels."""
    return int(np.abs(a.astype(int) - b)[2:-2, 2:-2].max())


after = {}
for name, picture in {
    "checkerboard": board,
    "turned checkerboard": turned_board,
    "stripes": stripes,
}.items():
    assert largest_difference(picture, plain) == 30
    after[name] = largest_difference(downscale(picture, 4), downscale(plain, 4))
    print(f"{name}: 30 levels apart before shrinking, at most {after[name]} after")
assert max(after.values()) <= 2

# %% [markdown]
# Four pictures that look quite different have the same small picture, up to rounding. No formula
# can decide between them. A network that has seen many photographs can say which of them is
# *likely*. That is all it can do, and this limit returns in every lesson about results.

# %%
close = np.s_[176:216, 196:244]
save(
    picture_row(
        {
            "the photograph, a little pale": plain[close],
            "with a checkerboard": board[close],
            "with stripes": stripes[close],
            "the small picture of all three": downscale(board, 4)[44:54, 49:61],
        },
        height=2.6,
    ),
    "00_same_quarter",
)

# %% [markdown]
# ## 3. A score
#
# The usual score is the **peak signal-to-noise ratio** (PSNR), in decibels (dB). It compares the
# luma $Y$, which is how bright a pixel looks, and leaves out a border of 4 pixels. With
# $\mathrm{MSE}$ the **mean squared error**,
#
# $$\mathrm{MSE} = \mathrm{mean}\,(Y - Y')^2, \qquad
# \mathrm{PSNR} = 10 \log_{10} \frac{255^2}{\mathrm{MSE}}$$
#
# so a smaller error gives a larger PSNR.


# %%
def score(a, b):
    """PSNR of two pictures, uint8 (H, W, 3), on luma and without a border of 4 pixels."""
    error = luma(a)[4:-4, 4:-4] - luma(b)[4:-4, 4:-4]
    return 10 * np.log10(255**2 / np.mean(error**2))


bicubic = upscale(lr, 4)  # no network: a smooth curve through the pixels, as in picture programs
assert np.isclose(score(hr, bicubic), psnr(hr, bicubic))  # the package's version agrees
print(f"bicubic enlargement: {score(hr, bicubic):.2f} dB")

# Bring every pixel of the enlargement half the way to the truth.
halved = ((hr.astype(int) + bicubic) / 2).round().astype(np.uint8)
gain = score(hr, halved) - score(hr, bicubic)
predict(
    "All errors are halved. By how many dB does the PSNR rise?",
    guess=None,
    value=gain,
    unit="dB",
    because="Half the error is a quarter of the MSE, and 10 log10(4) = 6.02.",
)
assert abs(gain - 10 * np.log10(4)) < 0.1

# %% [markdown]
# ## 4. What PSNR misses
#
# Now change the photograph in three other ways, each by just the amount that gives it the score of
# the bicubic enlargement. A search by bisection finds the amount.

# %%
target = psnr(hr, bicubic)


def at_target(change):
    """The photograph plus as much of a change as makes it score like bicubic."""
    low, high = 0.0, 256.0
    for _ in range(16):
        middle = (low + high) / 2
        picture = np.clip(hr + middle * change, 0, 255).round().astype(np.uint8)
        if psnr(hr, picture) > target:
            low = middle
        else:
            high = middle
    return picture


patch = np.zeros(hr.shape)
patch[195:285, 230:330] = -1
alike = {
    "bicubic": bicubic,
    "brighter": at_target(np.ones(hr.shape)),
    "a dark patch": at_target(patch),
    "noise": at_target(np.random.default_rng(0).standard_normal(hr.shape)),
}
for name in ("brighter", "a dark patch", "noise"):
    assert abs(psnr(hr, alike[name]) - target) < 0.4  # whole levels allow no closer

# %% [markdown]
# One more picture: the photograph itself, moved to the right by one pixel.

# %%
alike["moved by one pixel"] = np.roll(hr, 1, 1)
moved_score = psnr(hr, alike["moved by one pixel"])
predict(
    f"Bicubic scores {target:.1f} dB. Does the moved photograph score higher or lower?",
    guess=None,
    value="lower" if moved_score < target else "higher",
    because=f"It scores {moved_score:.1f} dB. To the eye it is perfect, but PSNR compares pixel by pixel "
    "and ranks it below a blur.",
)
assert moved_score < target

view = np.s_[130:350, 140:370]
save(
    picture_row(
        {
            f"{name}\n{psnr(hr, picture):.1f} dB, SSIM {ssim(hr, picture):.2f}": picture[view]
            for name, picture in alike.items()
        },
        height=2.3,
    ),
    "00_same_psnr",
)

# %% [markdown]
# The second number, SSIM (structural similarity, at most 1), compares means, contrasts and patterns
# in small windows. It forgives the brighter picture, and even the dark patch, but not the moved
# one. Every score has a blind spot; the last lessons return to that.
#
# ## 5. What PSNR rewards
#
# Suppose that the truth is `board` or `turned_board`, and both are equally likely. You may answer
# with one of the two: a gamble. Or you may answer with their mean, which is the plain picture
# without any checkerboard. Which answer has the smaller mean squared error, on average?


# %%
def mse(a, b):
    return np.mean((a.astype(float) - b) ** 2)


gamble = (mse(board, board) + mse(board, turned_board)) / 2
safe = (mse(plain, board) + mse(plain, turned_board)) / 2
advantage = 10 * np.log10(gamble / safe)
print(f"average MSE of the gamble {gamble:.0f}, of the mean {safe:.0f}")
predict(
    "By how many dB is the mean of both the better answer?",
    guess=None,
    value=advantage,
    unit="dB",
    because="The gamble is right, or wrong by 60: on average 60^2 / 2 = 1800. The mean is always "
    "wrong by 30: 900. Half the MSE is 3 dB.",
)
assert np.isclose(advantage, 10 * np.log10(2))

# %% [markdown]
# A network that is trained to make the MSE small therefore paints the mean of everything that is
# possible. The mean of many sharp pictures is a blurred one, which looks like none of them. That
# network is **SRResNet**.
#
# **SRGAN** adds a second network, which learns to tell photographs from the first network's
# pictures. To deceive it, the first network has to gamble: its pictures become sharper, and their
# PSNR becomes lower.
#
# ## 6. Both networks at work
#
# The weights that come with this project are loaded below, and `fold` prepares them for speed.
# Besides PSNR and SSIM we measure how much *fine detail* a picture has: the standard deviation of
# what a blur removes, relative to the photograph. This number says only how much detail there is,
# not whether the detail is right: the square pixels of the small picture count as detail, too.


# %%
def detail(picture):
    """Standard deviation of the luma, minus its mean over 3 x 3 pixels."""
    y = luma(picture)
    blurred = sum(np.roll(y, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    return (y - blurred)[4:-4, 4:-4].std()


pictures = {"low resolution": lr.repeat(4, 0).repeat(4, 1), "bicubic": bicubic}
for name in ("srresnet", "srgan"):
    if (storage.WEIGHTS / f"{name}.h5").exists():
        pictures[name] = apply_in_tiles(fold(storage.load_generator(name)), lr, CPU)
    else:
        print(f"weights/{name}.h5 is not there, so its picture is left out")
pictures["photograph"] = hr

if "srgan" in pictures and "srresnet" in pictures:
    predict(
        "Which network's picture has more fine detail, srresnet or srgan?",
        guess=None,
        value="srgan" if detail(pictures["srgan"]) > detail(pictures["srresnet"]) else "srresnet",
        because="SRResNet leaves out what it cannot be sure of. SRGAN invents it.",
    )

print("                    PSNR     SSIM   detail, relative to the photograph")
for name, picture in pictures.items():
    share = detail(picture) / detail(hr)
    print(f"{name:15} {psnr(hr, picture):6.2f} dB   {ssim(hr, picture):.4f}   {share:.0%}")
assert psnr(hr, pictures["low resolution"]) < psnr(hr, bicubic)

# %%
places = {
    "flag and temple": np.s_[128:208, 128:208],
    "eye": np.s_[150:230, 176:256],
    "name plate": np.s_[450:530, 100:180],
}
panels = {}
for place, crop in places.items():
    for name, picture in pictures.items():
        if place == "flag and temple" and picture is not hr:
            panels[f"{name}\n{psnr(hr, picture):.1f} dB"] = picture[crop]
        else:
            panels[f"{name},\n{place}"] = picture[crop]
save(picture_row(panels, columns=len(pictures), height=2.6), "00_side_by_side")

# %% [markdown]
# Look at the cord of the flag, at the hair and at the wrinkles, and compare with the photograph.
# SRGAN draws texture where SRResNet paints a smooth surface. Some of it is right, some is not: it
# was invented. The name on the plate is beyond both of them. In the small picture it is two pixels
# high.
#
# Lessons 01 to 17 build both networks, starting with the first multiplication. Lesson 24 returns to
# the question of which picture is better, and for which purpose.
#
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "Two methods differ by 1 dB. By what factor do their mean squared errors differ?",
    answer=None,
    check=lambda a: abs(a - 10**0.1) < 0.01 or abs(a - 10**-0.1) < 0.01,
    hint="10 log10(factor) = 1",
)
exercise(
    2,
    "A grey picture is wrong by 5 of 255 levels everywhere. What is its PSNR on RGB, in dB?",
    answer=None,
    check=lambda a: abs(a - 20 * np.log10(51)) < 0.05,
    hint="the MSE is 25",
)
exercise(
    3,
    "For a grey picture, Y = 16 + level * 219 / 255, and the peak stays 255. By how many dB "
    "is the same error better on Y than on RGB?",
    answer=None,
    check=lambda a: abs(a - 20 * np.log10(255 / 219)) < 0.02,
    hint="on Y an error of 5 is one of 5 * 219 / 255",
)

# %% [markdown]
# The function below is wrong: it reports about 27 dB for the photograph against a black picture,
# where about 7 dB would be right. Both pictures are uint8 arrays. Find out why, and write a
# function that is right.


# %%
def broken_rgb_psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a - b) ** 2))


def check_rgb_psnr(function):
    black = np.zeros_like(hr)
    pairs = (hr, black), (black, hr), (hr, bicubic)
    return all(np.isclose(function(a, b), psnr(a, b, border=0, channel="rgb")) for a, b in pairs)


print(f"broken: {broken_rgb_psnr(hr, np.zeros_like(hr)):.1f} dB")
exercise(
    4,
    "Repair broken_rgb_psnr: a function of two uint8 pictures.",
    answer=None,
    check=check_rgb_psnr,
    hint="np.uint8(200) ** 2 does not fit into 8 bits",
)
