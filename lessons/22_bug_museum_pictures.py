"""Lesson 22: the bug museum, last room: pictures and numbers.  Which errors sit outside the network, where nobody looks?

You should know: images as arrays (lesson 01), PSNR (00).  Paper: Ledig et al. 2017, sections 2.2.1 and 3.1.
Lives in: nowhere in npsrgan/, it is to be hoped; the cures live in images.py, metrics.py and data/degrade.py.
"""
# %% The rules of the house: a function with a switch `bug`, and a test that fails with it and passes without (see lesson 19).
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, save
from _museum import exhibit

from npsrgan import images
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.metrics import psnr
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.storage import KERAS_MEANS

photo = Photograph().load(0)[100:356, 130:386]      # uint8 (256, 256, 3)
bicubic = upscale(downscale(photo, 4), 4)

# %% 1. Bright spots
# Symptom: "black dots in white places and coloured spots in the shadows; it will go away with more training."  It does not.
# The bug: np.uint8(x) of a number outside 0..255 wraps: 256 becomes 0, -1 becomes 255.  A network that is right within 2 levels
# oversteps where the picture is white, or black.  The cure (images.to_uint8): clip, then round.
# (A bare cast of a negative float is worse than wrong: what it does depends on the processor.  Here it goes through int.)


def to_uint8(x, bug):
    """[-1, 1] to uint8."""
    return np.rint((x + 1) * 127.5).astype(int).astype(np.uint8) if bug else images.to_uint8(x)


@exhibit
def test_a_little_too_bright_is_still_bright(bug):
    level = int(to_uint8(np.array([1.01]), bug)[0])         # 256.3
    assert level == 255, f"a pixel 1 % brighter than white becomes {level}"


hr = images.to_float(photo)
sharpened = hr + 0.5 * (hr - images.to_float(bicubic))      # oversteps at edges, as networks do
picture = {"HR": photo, "with the bug": to_uint8(sharpened, True), "clipped": to_uint8(sharpened, False)}
save(picture_row({name: image[30:158, 60:188] for name, image in picture.items()}, height=3.4), "22_bright_spots")

# %% 2. Cut instead of rounded
# Symptom: "my output is a shade darker than the input, even where nothing was changed."
# The bug: astype(np.uint8) drops what is behind the point, and float32 has 126.99999 for 127.  Prediction: on a round trip of all
# 256 levels, those whose float32 falls short end one level lower: about a quarter (63).  The cure is np.rint.


def round_trip(levels, bug):
    x = (images.to_float(levels) + 1) * np.float32(127.5)
    return x.astype(np.uint8) if bug else images.to_uint8(images.to_float(levels))


@exhibit
def test_a_round_trip_changes_nothing(bug):
    levels = np.arange(256, dtype=np.uint8)
    lost = int((round_trip(levels, bug) != levels).sum())
    assert lost == 0, f"{lost} of 256 levels come back darker"


# %% 3. PSNR of RGB against PSNR of Y
# Symptom: "my network is 1 dB better than the paper's", or worse; "bicubic gets another number than in every table".
# The bug: one number on luma (Y), as papers report it, the other on RGB.  Y is narrower than RGB (16 to 235), and averages the
# channels' errors: its PSNR is higher by more than 1 dB.  Or one with a border of 4 pixels left out, one without.
# Predict the first part:  20 log10(255 / 219) = 1.32 dB, for a grey picture exactly that.  The cure: one function for both.


def gain_over_bicubic(picture, bug):
    return psnr(picture, photo, channel="y") - psnr(bicubic, photo, channel="rgb" if bug else "y")


grey, grey_bicubic = (np.repeat(image[..., 1:2], 3, axis=2) for image in (photo, bicubic))
narrower = psnr(grey_bicubic, grey) - psnr(grey_bicubic, grey, channel="rgb")
print(f"a grey picture: Y minus RGB is {narrower:.2f} dB")
assert abs(narrower - 20 * np.log10(255 / 219)) < 0.01


@exhibit
def test_bicubic_is_not_better_than_bicubic(bug):
    gain = gain_over_bicubic(bicubic, bug)
    assert abs(gain) < 1e-9, f"bicubic beats bicubic by {gain:.2f} dB"


# %% 4. The wrong small picture
# Symptom: "25 dB on my validation set, jagged and wobbly edges on real photographs"; "LR and SR are shifted by half a pixel".
# The bug: training's LR is made by image[::4, ::4], or by a bilinear resize without antialiasing, which looks at 2 x 2 of every
# 4 x 4 pixels.  Detail finer than the new grid does not vanish, as it must: it comes back as coarse stripes that are not there
# (aliasing).  The network learns to undo a lens that nobody has.  The cure (data.downscale): bicubic, antialiased.
# Prediction: a wave of 3 pixels cannot be shown on a grid of 4.  A good LR is flat grey.  The mean of two neighbours keeps
# cos(60 degrees) of it, one half, and the grid makes of it a wave of 12.


def smaller(image, bug):
    if not bug:
        return downscale(image, 4)
    middle = [image[i::4, j::4].astype(float) for i in (1, 2) for j in (1, 2)]      # bilinear, at the centre of every 4 x 4
    return np.rint(sum(middle) / 4).astype(np.uint8)


@exhibit
def test_detail_too_fine_vanishes(bug):
    stripes = 127.5 + 100 * np.sin(2 * np.pi * np.arange(96) / 3)
    image = np.repeat(np.rint(np.tile(stripes, (96, 1)))[..., None], 3, axis=2).astype(np.uint8)
    contrast = smaller(image, bug)[4:-4, 4:-4].std() / image.std()
    assert contrast < 0.1, f"a wave of 3 pixels keeps {contrast:.0%} of its contrast on a grid of 4, as one of 12"


y, x = np.mgrid[-1:1:256j, -1:1:256j]
rings = np.repeat((127.5 + 100 * np.cos(60 * np.pi * (x * x + y * y)))[..., None], 3, axis=2).astype(np.uint8)
pictures = {"HR: rings, ever finer": rings, "LR: bilinear, not antialiased (bug)": smaller(rings, True),
            "LR: bicubic, antialiased": smaller(rings, False)}
save(picture_row(pictures, height=3.4, vmin=0, vmax=255), "22_downscaling")

# %% 5. VGG19 fed with [-1, 1]
# Symptom: "the perceptual loss is tiny, whatever I compare"; "with and without VGG the same picture".
# The bug: the published weights expect 0..255 minus a mean per channel.  Given [-1, 1], the picture is 127 times too faint, and
# what a layer answers is its biases.  The cure: the weights carry their normalisation (VGG19.input_gain, input_shift).

vgg = random_vgg19("conv2_1")           # stands for published weights: with biases, and used to 0..255 minus a mean
for name in vgg._names:
    bias = getattr(vgg, name).bias.array
    bias[...] = 10 * np.random.default_rng([15, len(bias)]).standard_normal(bias.shape)
vgg.input_gain, vgg.input_shift = np.full(3, 127.5, np.float32), 127.5 - KERAS_MEANS


@exhibit
def test_features_tell_two_pictures_apart(bug):
    picture, other = (images.to_float(x)[None, :64, :64] for x in (photo, photo[::-1]))
    if bug:     # one asks the convolutions directly
        picture, other = ((x - vgg.input_shift) / vgg.input_gain for x in (picture, other))
    a, b = vgg(picture).array, vgg(other).array
    difference = np.abs(a - b).mean() / np.abs(a).mean()
    assert difference > 0.3, f"the features of two different pictures differ by {difference:.1%}"


# %% Your turn
exercise(1, "np.array([300]).astype(np.uint8) wraps.  To which level?", None, lambda a: a == 44, hint="300 - 256")
exercise(2, "A table says 28.5 dB on Y for a grey picture.  What is its PSNR on RGB?", None, lambda a: abs(a - 27.18) < 0.02,
         hint="every error is 219 / 255 as large on Y")
exercise(3, "Waves have a length of p pixels; every 4th pixel is kept.  From which p on can the small picture show them?", None,
         lambda a: a == 8, hint="two samples for each wave")
