# %% [markdown]
# # Lesson 26: Two number plates
#
# **The question.** What must super-resolution never be used for?
#
# You should know: what super-resolution is (lesson 00). It helps to know the pseudo-inverse of a
# matrix.
#
# Paper: Menon et al. 2020 (PULSE), "Self-supervised photo upsampling via latent space exploration of
# generative models", which shows how many different faces have one and the same small picture.
#
# Lives in: `npsrgan/data/degrade.py` (`downscale`).

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, plt, predict, save
from PIL import Image, ImageDraw, ImageFont

from npsrgan.data import downscale

# %% [markdown]
# ## What the small picture fixes
#
# Super-resolution invents. What it invents is likely, but nothing makes it true. To see how much
# freedom it has, take a number plate of 24 x 64 pixels, and reduce it by 4. That fixes 6 x 16 numbers
# of 24 x 64, one in sixteen. Everything else is free.


# %%
def plate(text):
    """A number plate in grey, float64 (24, 64)."""
    page = Image.new("L", (64, 24), 175)
    ImageDraw.Draw(page).text((6, 5), text, fill=58, font=ImageFont.load_default(11))
    return np.array(page, np.float64)


def rgb(x):
    return np.repeat(np.rint(x).astype(np.uint8)[..., None], 3, axis=2)


a, other = plate("38B 601"), plate("86R 407")
small_a = downscale(rgb(a), 4)
predict(
    "What share of the plate's numbers does its small picture fix, at most?",
    guess=None,
    value=small_a[..., 0].size / a.size,
    because="6 x 16 of 24 x 64",
)

# %% [markdown]
# ## Two plates, one small picture
#
# Reducing is linear: along each axis, the small picture is $K x$ with a matrix $K$ of shape (n/4, n).
# Its pseudo-inverse splits $x$ into two parts:
#
# $$x = \underbrace{K^+ K x}_{\text{seen}} + \underbrace{(1 - K^+ K) x}_{\text{not seen}}$$
#
# The second part is invisible to the reduction, because $K (1 - K^+ K) = K - K K^+ K = 0$. So take
# plate $A$, and add to it the part of another plate that is not seen:
#
# $$B = A + (1 - \text{seen})(other - A)$$
#
# To find $K$, reduce the unit vectors, one for each pixel along an axis.


# %%
def reduction(n):
    """K, float64 (n // 4, n): each column is what becomes of one pixel."""
    pixels = Image.fromarray(np.eye(n, dtype=np.float32))
    return np.array(pixels.resize((n, n // 4), Image.Resampling.BICUBIC), np.float64)


def seen(x):
    down, across = (reduction(n) for n in x.shape)
    return np.linalg.pinv(down) @ down @ x @ (np.linalg.pinv(across) @ across).T


K = reduction(24)
assert np.abs(K - K @ np.linalg.pinv(K) @ K).max() < 1e-5
b = np.rint(a + (other - a) - seen(other - a))

# %% [markdown]
# Pixels have whole levels, and rounding changes the small picture a little. Where one of its pixels is
# one level off, change the sixteen large pixels that belong to it by one level, and check again.

# %%
for _ in range(20):
    off = small_a[..., 0].astype(float) - downscale(rgb(b), 4)[..., 0]
    b += np.kron(off, np.ones((4, 4)))
small_b = downscale(rgb(b), 4)
predict(
    "The two plates differ by up to how many of 255 levels?",
    guess=None,
    value=float(np.abs(a - b).max()),
)
predict(
    "In how many of their numbers do the small pictures differ?",
    guess=None,
    value=int(np.sum(small_a != small_b)),
    because="not by a single level anywhere",
)
assert np.array_equal(small_a, small_b)
assert np.abs(a - b).max() > 60

figure, axes = plt.subplots(2, 2, figsize=(9, 4), layout="constrained")
panels = {
    "A": a[4:20, 4:48],
    "B": b[4:20, 4:48],
    "the small picture of A": small_a[1:5, 1:12, 0],
    "the small picture of B: the same numbers": small_b[1:5, 1:12, 0],
}
for axis, (title, page) in zip(axes.flat, panels.items()):
    axis.imshow(page, cmap="gray", vmin=58, vmax=185)
    axis.set_title(title)
    axis.axis("off")
save(figure, "26_two_plates")

# %% [markdown]
# Anybody can read both plates, but no program can tell from the small picture which of them was there.
# A program that "enhances" the small picture returns one of them, crisp and perhaps wrong. The better
# the network, the more convincing the wrong answer looks.
#
# With faces it is the same. The network adds features of the faces it was trained on, and the result is
# *a* face that fits, of somebody who may never have been there.
#
# So use super-resolution for pictures that people look at. Never use it to read a sign, to measure, to
# diagnose, or to identify anybody.
#
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "With scale factor 8, what share of a picture's numbers is free?",
    answer=None,
    check=lambda x: abs(x - 63 / 64) < 0.001,
    hint="one in 64 is fixed",
)

# %% [markdown]
# Here the reduction is the mean of each 2 x 2 pixels. Write `invisible(shape)`: it returns an array of
# that shape which is zero nowhere, but whose reduction is zero everywhere.


# %%
def is_invisible(invisible):
    x = np.asarray(invisible((6, 8)), float)
    if x.shape != (6, 8) or not np.all(x):
        return "it has another shape, or zeros"
    return bool(np.abs(x.reshape(3, 2, 4, 2).mean((1, 3))).max() < 1e-12) or "its reduction is not zero"


exercise(
    2,
    "Write invisible(shape).",
    answer=None,
    check=is_invisible,
    hint="lesson 00 lays one over a photograph",
)
