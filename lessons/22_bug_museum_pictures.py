# %% [markdown]
# # Lesson 22: The bug museum, last room: pictures and numbers
#
# **The question.** Which bugs hide outside the network, where nobody looks?
#
# You should know: images as arrays (lesson 01) and PSNR (lesson 00). Lesson 19
# explains how the museum works.
#
# Paper: Ledig et al. 2017, sections 2.2.1 and 3.1.
#
# Lives in: nowhere in the package, we hope. The cures are in `npsrgan/images.py`,
# `npsrgan/metrics.py` and `npsrgan/data/degrade.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, predict, save
from _museum import catches, exhibit

from npsrgan import images
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.metrics import psnr
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.storage import KERAS_MEANS

photo = Photograph().load(0)[100:356, 130:386]  # uint8 (256, 256, 3)
bicubic = upscale(downscale(photo, 4), 4)

# %% [markdown]
# ## 1. Bright spots
#
# *Symptom.* "Black dots in white places, and coloured spots in the shadows. It will go away with more
# training." It does not.
#
# *The bug.* `np.uint8` of a number outside 0 to 255 wraps: 256 becomes 0, and -1 becomes 255. Even a
# network that is right within 2 levels leaves this range where the picture is white or black.
#
# *The cure*, in `images.to_uint8`: clip, then round. (What a bare cast of a negative float does depends
# on the processor. Here the bug goes through int, so that it is the same everywhere.)


# %%
def to_uint8(x, bug):
    """[-1, 1] to uint8."""
    if bug:
        return np.rint((x + 1) * 127.5).astype(int).astype(np.uint8)
    return images.to_uint8(x)


predict(
    "A pixel has the value 1.01, just brighter than white. Which level does it get with the bug?",
    guess=None,
    value=int(to_uint8(np.array([1.01]), True)[0]),
    because="(1.01 + 1) * 127.5 is 256.3",
)


@exhibit
def test_a_little_too_bright_is_still_bright(bug):
    level = int(to_uint8(np.array([1.01]), bug)[0])
    assert level == 255, f"a pixel 1 % brighter than white becomes {level}"


hr = images.to_float(photo)
sharpened = hr + 0.5 * (hr - images.to_float(bicubic))  # overshoots at edges, as networks do
picture = {"HR": photo, "with the bug": to_uint8(sharpened, True), "clipped": to_uint8(sharpened, False)}
save(
    picture_row({name: image[30:158, 60:188] for name, image in picture.items()}, height=3.4),
    "22_bright_spots",
)

# %% [markdown]
# ## 2. Truncated in place of rounded
#
# *Symptom.* "My output is a shade darker than the input, even where nothing was changed."
#
# *The bug.* `astype(np.uint8)` drops the fraction, and in float32 a level may come back as slightly less
# than a whole number. Lesson 01 shows for which levels that happens. *The cure* is `np.rint`.


# %%
def round_trip(levels, bug):
    x = images.to_float(levels)
    return ((x + 1) * np.float32(127.5)).astype(np.uint8) if bug else images.to_uint8(x)


levels = np.arange(256, dtype=np.uint8)
predict(
    "All 256 levels go to [-1, 1] and back, without rounding. How many come back one level darker?",
    guess=None,
    value=int((round_trip(levels, True) != levels).sum()),
    because="those that float32 stores slightly too small",
)


@exhibit
def test_a_round_trip_changes_nothing(bug):
    lost = int((round_trip(levels, bug) != levels).sum())
    assert lost == 0, f"{lost} of 256 levels come back darker"


# %% [markdown]
# ## 3. PSNR of RGB against PSNR of Y
#
# *Symptom.* "My network is 1 dB better than the paper's", or worse. "Bicubic gets another number than in
# every table."
#
# *The bug.* One number is measured on luma (Y), as papers do, and the other on RGB. Or one leaves out a
# border of 4 pixels, and the other does not.
#
# *How large is the difference?* Y spans 219 levels, from 16 to 235, and RGB spans 255. For a grey
# picture, every error on Y is $219/255$ of that on RGB, which makes
# $20 \log_{10}(255/219) = 1.32$ dB. In colour, Y also averages the errors of three channels, and the
# difference grows.


# %%
def gain_over_bicubic(picture, bug):
    return psnr(picture, photo, channel="y") - psnr(bicubic, photo, channel="rgb" if bug else "y")


grey, grey_bicubic = (np.repeat(image[..., 1:2], 3, axis=2) for image in (photo, bicubic))
narrower = psnr(grey_bicubic, grey) - psnr(grey_bicubic, grey, channel="rgb")
assert abs(narrower - 20 * np.log10(255 / 219)) < 0.01
in_colour = psnr(bicubic, photo) - psnr(bicubic, photo, channel="rgb")
print(f"a grey picture: {narrower:.2f} dB.  the same in colour: {in_colour:.2f} dB")


@exhibit
def test_bicubic_is_not_better_than_bicubic(bug):
    gain = gain_over_bicubic(bicubic, bug)
    assert abs(gain) < 1e-9, f"bicubic beats bicubic by {gain:.2f} dB"


# %% [markdown]
# *The cure.* One function for both numbers.
#
# ## 4. The wrong small picture
#
# *Symptom.* "25 dB on my validation set, but jagged, wobbly edges on real photographs." "The small and the
# large picture are shifted by half a pixel."
#
# *The bug.* The small picture is made by keeping every fourth pixel, or by a bilinear resize without
# antialiasing, which looks at 2 x 2 of every 4 x 4 pixels. Detail finer than the new grid should
# vanish. Here it comes back as coarse stripes that were never there: *aliasing*. The network then
# learns to undo a degradation that does not occur in practice.
#
# *How much comes back?* Take a wave of 3 pixels, sampled every 4. The mean of two neighbouring pixels
# keeps $\cos(\pi / 3) = 1/2$ of its amplitude, and on the grid of 4 it appears as a wave of 12 pixels,
# because $1/3 - 1/4 = 1/12$.
#
# *The cure*, in `downscale`: bicubic, with antialiasing.


# %%
def smaller(image, bug):
    if not bug:
        return downscale(image, 4)
    middle = [
        image[i::4, j::4].astype(float) for i in (1, 2) for j in (1, 2)
    ]  # bilinear, at the centre of every 4 x 4
    return np.rint(sum(middle) / 4).astype(np.uint8)


stripes = 127.5 + 100 * np.sin(2 * np.pi * np.arange(96) / 3)
stripes = np.repeat(np.rint(np.tile(stripes, (96, 1)))[..., None], 3, axis=2).astype(np.uint8)


def contrast_left(small):
    return small[4:-4, 4:-4].std() / stripes.std()


predict(
    "Which share of the wave's contrast is left with the bug?",
    guess=None,
    value=float(contrast_left(smaller(stripes, True))),
    because="cos(pi / 3), from the mean of two neighbours",
)


@exhibit
def test_detail_too_fine_vanishes(bug):
    contrast = contrast_left(smaller(stripes, bug))
    assert contrast < 0.1, (
        f"a wave of 3 pixels keeps {contrast:.0%} of its contrast on a grid of 4, as one of 12"
    )


y, x = np.mgrid[-1:1:256j, -1:1:256j]
rings = np.repeat((127.5 + 100 * np.cos(60 * np.pi * (x * x + y * y)))[..., None], 3, axis=2).astype(
    np.uint8
)
pictures = {
    "HR: rings, finer and finer": rings,
    "LR: bilinear, no antialiasing (bug)": smaller(rings, True),
    "LR: bicubic, antialiased": smaller(rings, False),
}
save(picture_row(pictures, height=3.4, vmin=0, vmax=255), "22_downscaling")

# %% [markdown]
# ## 5. VGG19 fed with [-1, 1]
#
# *Symptom.* "The perceptual loss is tiny, whatever I compare." "The pictures are the same with and without
# VGG."
#
# *The bug.* The published weights expect 0 to 255 minus a mean for each channel. Given [-1, 1], the
# picture has 127 times too little contrast, and the output of a layer is mostly its biases.
#
# *The cure.* The normalisation is stored with the weights (`input_gain` and `input_shift` of `VGG19`).

# %%
vgg = random_vgg19(
    "conv2_1"
)  # stands for published weights: with biases, and for inputs of 0 to 255 minus a mean
for name in ("conv1_1", "conv1_2", "conv2_1"):
    bias = getattr(vgg, name).bias.array
    bias[...] = 10 * np.random.default_rng([15, len(bias)]).standard_normal(bias.shape)
vgg.input_gain, vgg.input_shift = np.full(3, 127.5, np.float32), 127.5 - KERAS_MEANS


@exhibit
def test_features_tell_two_pictures_apart(bug):
    picture, other = (images.to_float(x)[None, :64, :64] for x in (photo, photo[::-1]))
    if bug:  # what reaches the first convolution is then the picture as it is
        picture, other = ((x - vgg.input_shift) / vgg.input_gain for x in (picture, other))
    a, b = vgg(picture).array, vgg(other).array
    difference = np.abs(a - b).mean() / np.abs(a).mean()
    assert difference > 0.3, f"the features of two different pictures differ by {difference:.1%}"


# %% [markdown]
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "np.array([300]).astype(np.uint8) wraps. To which level?",
    answer=None,
    check=lambda a: a == 44,
    hint="300 - 256",
)
exercise(
    2,
    "A table says 28.5 dB on Y for a grey picture. What is its PSNR on RGB?",
    answer=None,
    check=lambda a: abs(a - 27.18) < 0.02,
    hint="every error is 219 / 255 as large on Y",
)
exercise(
    3,
    "Waves are p pixels long, and every 4th pixel is kept. What is the smallest p that the small picture "
    "can show?",
    answer=None,
    check=lambda a: a == 8,
    hint="two samples for each wave",
)

# %% [markdown]
# Write a test that catches exhibit 4. It takes a function `shrink(image)`, from uint8 (H, W, 3) to
# (H / 4, W / 4, 3), and must raise an AssertionError or return False if that function aliases.
# (Any image will do whose small version you know.)


# %%
def shrinks(bug):
    return lambda image: smaller(image, bug)


exercise(
    4,
    "Write my_test(shrink).",
    answer=None,
    check=catches(shrinks),
    hint="fine stripes must become nearly one grey",
)
