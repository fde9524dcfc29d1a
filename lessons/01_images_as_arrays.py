# %% [markdown]
# # Lesson 01: Images as arrays
#
# **The question.** How does a picture become numbers that a network can use, and what causes the
# bright spots in the output of so many networks?
#
# You should know: NumPy arrays, their shapes and dtypes.
#
# Paper: Ledig et al. 2017, section 3.2 (the ranges of low and high resolution).
#
# Lives in: `npsrgan/images.py`, `npsrgan/metrics.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save

from npsrgan import images, metrics
from npsrgan.data import Photograph

# %% [markdown]
# ## 1. A photograph is an array of bytes
#
# A photograph is an array of height x width x 3 whole numbers from 0 to 255: the amounts of red,
# green and blue, called **levels**. Each is one byte, `uint8`. Rows come first, so a pixel is
# `photo[y, x]`. (Pillow's `size` is the other way round: width, height.)

# %%
photo = Photograph().load(0)
sky = photo[100, 450]
print("shape", photo.shape, " dtype", photo.dtype, " a pixel of the sky", sky)
predict(
    "How many bytes does this array occupy?",
    guess=None,
    value=photo.nbytes,
    because="600 rows, 512 columns, 3 colours, one byte each.",
)
assert photo.nbytes == 600 * 512 * 3
# Blue comes last; a library that puts blue first, such as OpenCV, would show an orange sky.
assert sky[2] > sky[0]

# %% [markdown]
# ## 2. The numbers that a network sees
#
# Networks work best with numbers around zero. So levels are mapped to $[-1, 1]$, and back:
#
# $$x = \frac{\mathrm{level}}{127.5} - 1, \qquad \mathrm{level} = 127.5\,(x + 1)$$
#
# Level 0 becomes -1, level 127.5 would become 0, and level 255 becomes 1.

# %%
x = photo.astype(np.float32) / 127.5 - 1
assert x.min() >= -1 and x.max() <= 1
assert np.array_equal(x, images.to_float(photo))  # the package's version: the same bits

# %% [markdown]
# ## 3. The bug behind the bright spots
#
# The output of a network is not confined to $[-1, 1]$. Next to an edge it overshoots. So does
# sharpening, which needs no network: subtract a blurred copy, and the difference is the detail; add
# some of the detail again.

# %%
blurred = np.zeros_like(x)
for i in (-2, -1, 0, 1, 2):
    for j in (-2, -1, 0, 1, 2):
        blurred += np.roll(x, (i, j), (0, 1)) / 25
output = x + 1.5 * (x - blurred)
levels = (output + 1) * 127.5
outside = np.mean((levels < 0) | (levels > 255))
print(
    f"levels from {levels.min():.0f} to {levels.max():.0f}; {outside:.1%} of them are outside 0..255"
)

# %% [markdown]
# Much public code goes back to bytes with `np.uint8(levels)`. A byte counts modulo 256. What
# becomes of a pixel that is a little too bright?

# %%
wraps = np.array([300]).astype(np.uint8)[0]
predict(
    "A level of 300 is cast to uint8. Which level is it then?",
    guess=None,
    value=int(wraps),
    because="300 - 256 = 44: brighter than white has become nearly black.",
)
assert np.array([256, 300, -1]).astype(np.uint8).tolist() == [0, 44, 255]

# %% [markdown]
# The cure is to **clip first, then round**. The package's `to_uint8` does exactly that. (The cast
# of a float outside 0..255 is undefined in C. Most machines convert to a whole number first, and
# whole numbers wrap on every machine. The cell below takes these two steps one after the other, so
# that it gives the same result everywhere.)

# %%
wrapped = np.trunc(levels).astype(np.int64).astype(np.uint8)
right = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
assert np.array_equal(right, images.to_uint8(output))

crop = np.s_[20:170, 140:400]
save(
    picture_row(
        {
            "the photograph": photo[crop],
            "sharpened: clipped, then rounded": right[crop],
            "the same numbers, wrapped": wrapped[crop],
        },
        height=3.4,
    ),
    "01_bright_spots",
)

# %% [markdown]
# The brightest values turn black and the darkest turn white, in each colour separately, which is
# why the spots are coloured. It looks like a badly trained network and has been mistaken for one.
# The author of a public tutorial answered it with longer training. No training helps; `np.clip`
# does.
#
# ## 4. Rounding is not truncating
#
# A cast to integers cuts the fraction off. Going from a level to $x$ and back should leave no
# fraction. But 1/127.5 has no finite binary expansion, so $x$ is rounded, and the way back may end
# slightly below the whole number.

# %%
level = np.arange(256, dtype=np.uint8)
back = ((images.to_float(level) + 1) * np.float32(127.5)).astype(np.uint8)  # the cast cuts off
shift = back.astype(int) - level
changed = np.count_nonzero(shift)
predict(
    "Of 256 levels, how many come back changed?",
    guess=None,
    value=changed,
    within=0.2,
    because="Each of them falls by one.",
)
assert set(shift) == {0, -1}
assert np.array_equal(np.flatnonzero(shift), np.arange(1, 64))
assert np.array_equal(images.to_uint8(images.to_float(level)), level)  # rounded: all come back

# %% [markdown]
# Why are the changed levels just the darkest, 1 to 63? Between -1 and -1/2, a float32 has 24 binary
# places after the point. The expansion is
# $1/127.5 = 2^{-7} + 2^{-15} + 2^{-23} + 2^{-31} + \ldots$, so from $\mathrm{level}/127.5$ about
# $\mathrm{level} \cdot 2^{-31}$ is cut away. That rounds down as long as it is less than half of
# the last place, $2^{-25}$: for levels below $2^{6} = 64$.
#
# The output of a network lies anywhere between two levels. If its fractions are evenly spread,
# rounding makes an error that is even between $-1/2$ and $1/2$, with a root mean square of
# $1/\sqrt{12} = 0.289$ levels. Truncating makes one between $-1$ and 0: root mean square
# $1/\sqrt{3} = 0.577$.

# %%
inside = levels[(levels > 0) & (levels < 255)].astype(np.float64)
errors = {"rounding": np.rint(inside) - inside, "truncating": np.floor(inside) - inside}
predict(
    "By how many levels does truncating make the whole picture darker, on average?",
    guess=None,
    value=-errors["truncating"].mean(),
    because="The fractions are spread evenly between 0 and 1.",
)
for name, error in errors.items():
    print(
        f"{name:10} error: root mean square {np.sqrt(np.mean(error**2)):.3f}, mean "
        f"{error.mean():+.3f}"
    )
assert abs(errors["truncating"].mean() + 0.5) < 0.02
assert abs(errors["rounding"].std() - 12**-0.5) < 0.01

figure, axes = plt.subplots(1, 2, figsize=(10, 2.8), layout="constrained")
axes[0].bar(level, shift, width=1)
axes[0].set(
    title="a round trip that truncates: 63 levels fall by one",
    xlabel="level",
    ylabel="change",
    yticks=[-1, 0],
)
for name, error in errors.items():
    axes[1].hist(error, np.linspace(-1, 0.5, 31), label=name, alpha=0.6)
axes[1].set(
    title="the error on a network's output", xlabel="error in levels", yticks=[], xlim=(-1.1, 1.1)
)
axes[1].legend(loc="upper right")
save(figure, "01_rounding")

# %% [markdown]
# ## 5. Bytes wrap in arithmetic, too
#
# The square of a byte is again a byte, modulo 256. So a mean squared error that is computed from
# two uint8 images can never exceed 255, and the PSNR can never fall below $10 \log_{10}(255^2/255)$
# = 24.07 dB. No warning is given.

# %%
black = np.zeros_like(photo)
in_bytes = 10 * np.log10(255**2 / np.mean((photo - black) ** 2))
in_floats = 10 * np.log10(255**2 / np.mean((photo.astype(np.float64) - black) ** 2))
predict(
    "What is the PSNR of the photograph against a black picture, computed in floats?",
    guess=None,
    value=in_floats,
    unit="dB",
    because=f"Computed in bytes it is {in_bytes:.1f} dB: as good as a slightly blurred copy.",
)
assert in_bytes >= 10 * np.log10(255) > in_floats + 10
# The package converts first.
assert np.isclose(metrics.psnr(photo, black, border=0, channel="rgb"), in_floats)

# %% [markdown]
# ## 6. Axes: transpose is not reshape
#
# Here images always have the shape $(H, W, C)$: height, width, **channels**, which at first are the
# three colours. A **batch** of $N$ images is $(N, H, W, C)$. Some libraries want channels first.
# Then `transpose` moves the axes. `reshape` does not: it reads the same row of bytes and cuts it at
# other places.

# %%
moved = photo.transpose(2, 0, 1)
cut = photo.reshape(3, 600, 512)
assert np.array_equal(moved[0], photo[..., 0])  # the red channel
assert np.array_equal(cut[0].ravel(), photo[:200].ravel())  # the upper third, all colours
save(
    picture_row(
        {
            "photo": photo,
            "photo.transpose(2, 0, 1)[0]": moved[0],
            "photo.reshape(3, 600, 512)[0]": cut[0],
        },
        height=3.2,
    ),
    "01_axes",
)

# %% [markdown]
# `cut[0]` holds the upper third of the photograph with its colours side by side, and each of its
# rows is only a third of a row of the photograph. A network that is trained on such arrays learns
# something, slowly, and no error is ever raised.
#
# ## 7. Why training never sees levels
#
# How does a network learn? One number, the **loss** $L$, says how wrong its answer is. The network
# has many adjustable numbers $w$, its **weights**. The derivative $dL/dw$ says how fast $L$ rises
# when $w$ rises a little. All these derivatives together are the **gradient**. Training moves each
# weight a little against its derivative, so that $L$ falls, and repeats that thousands of times.
#
# So what is the derivative of `to_uint8`?

# %%
eps = 1e-4
slope = (images.to_uint8(x + eps).astype(float) - images.to_uint8(x - eps)) / (2 * eps)
predict(
    "Each pixel is moved by 0.0001. How many levels of this photograph change?",
    guess=None,
    value=np.count_nonzero(slope),
    because="Between the jumps the function is flat: its derivative is 0.",
)
assert not slope.any()

# %% [markdown]
# A loss that is computed from levels has a gradient of zero, and nothing is learned. So training
# compares floats, without clipping and without rounding. Levels are for eyes, for files and for the
# final score.
#
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "A batch of 16 high-resolution patches, 176 x 176 pixels, RGB, float32: how many bytes?",
    answer=None,
    check=lambda a: a == 16 * 176 * 176 * 3 * 4,
    hint="a float32 has four bytes",
)
exercise(
    2,
    "With NumPy, what is np.uint8(200) + np.uint8(100)?",
    answer=None,
    check=lambda a: int(a) == 44,
    hint="modulo 256",
)

# %% [markdown]
# Some networks work in $[0, 1]$ instead of $[-1, 1]$. Write their way back to bytes.


# %%
def check_to_bytes(function):
    result = function(np.array([-0.2, 0, 0.5001, 0.9999, 1.3]))
    return result.dtype == np.uint8 and result.tolist() == [0, 0, 128, 255, 255]


exercise(
    3,
    "Write a function from floats in [0, 1], or somewhat outside, to uint8.",
    answer=None,
    check=check_to_bytes,
    hint="clip to [0, 1], multiply by 255, round, cast",
)

# %% [markdown]
# And now a test. Write a function `test(function)` that returns True for a correct `to_uint8` (from
# $[-1, 1]$) and False for one that wraps *and* for one that truncates.


# %%
def wraps_around(x):
    return np.rint((x + 1) * 127.5).astype(np.int64).astype(np.uint8)


def truncates(x):
    return np.clip((x + 1) * 127.5, 0, 255).astype(np.uint8)


def check_test(test):
    if not test(images.to_uint8):
        return "it rejects the correct function"
    if test(wraps_around):
        return "it accepts the function that wraps"
    return "it accepts the function that truncates" if test(truncates) else True


exercise(
    4,
    "Write test(function): True for a correct to_uint8, False for the two broken ones.",
    answer=None,
    check=check_test,
)
