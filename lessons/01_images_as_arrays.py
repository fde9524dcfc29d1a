"""Lesson 01: images as arrays.  How does a picture become numbers a network can use, and where do the bright spots come from?

You should know: NumPy arrays, their shapes and dtypes.
Paper: Ledig et al. 2017, section 3.2 (the ranges of low and high resolution).  Lives in: npsrgan/images.py, npsrgan/metrics.py.
"""
# %% A photograph is height x width x 3 whole numbers from 0 to 255: red, green and blue
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, plt, save

from npsrgan import images, metrics
from npsrgan.data import Photograph

photo = Photograph().load(0)
print("shape", photo.shape, "dtype", photo.dtype, "a pixel of the sky", photo[100, 450])
# Prediction: one byte per number, so 600 * 512 * 3 bytes.  Rows come first: photo[y, x], while Pillow says size = (width, height).
assert photo.nbytes == 600 * 512 * 3 == 921_600
sky = photo[100, 450]
assert sky[2] > sky[0]                  # blue is last; a library that reads blue first (OpenCV) would make the sky orange

# %% A network wants numbers around zero.  The formula, and its inverse:
#
#       x = level / 127.5 - 1           0 -> -1,  127.5 -> 0,  255 -> 1             level = (x + 1) * 127.5
#
x = photo.astype(np.float32) / 127.5 - 1
assert x.min() >= -1 and x.max() <= 1
assert np.array_equal(x, images.to_float(photo))                # the package's version: the same bits

# %% The bug.  A network's output is not confined to [-1, 1]: next to an edge it overshoots.  So does sharpening, which needs no network.
blurred = sum(np.roll(x, (i, j), (0, 1)) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)) / 25
output = x + 1.5 * (x - blurred)
levels = (output + 1) * 127.5
print(f"levels from {levels.min():.0f} to {levels.max():.0f}; {np.mean((levels < 0) | (levels > 255)):.1%} of them are outside 0..255")
# Public code goes back with np.uint8(levels).  A byte counts modulo 256.  Prediction: 256 becomes 0 and -1 becomes 255.
# (For floats out of range C leaves the result open.  Most machines wrap, by way of whole numbers, which wrap on all of them.)
assert np.array([256, 300, -1]).astype(np.uint8).tolist() == [0, 44, 255]
wrapped = np.trunc(levels).astype(np.int64).astype(np.uint8)
right = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)       # clip first, then round
assert np.array_equal(right, images.to_uint8(output))

crop = np.s_[20:170, 140:400]
save(picture_row({"the photograph": photo[crop], "sharpened: clipped, then rounded": right[crop],
                  "the same numbers, wrapped": wrapped[crop]}, height=3.0), "01_bright_spots")
# Brightest turns black, blackest turns white, channel by channel: hence the colours.  It looks like a badly trained network, and has been
# taken for one: the author of a public tutorial first trained longer.  No training helps.  np.clip does.

# %% Truncating.  A cast to integers does not round, it cuts off.  For a round trip level -> x -> level that should not matter ...
level = np.arange(256, dtype=np.uint8)
back = ((images.to_float(level) + 1) * np.float32(127.5)).astype(np.uint8)          # the cast cuts off
# Prediction: where float32 lands a hair below the whole number, the level falls by one.  That is so for 63 of the 256 levels.
shift = back.astype(int) - level
print(f"{np.count_nonzero(shift)} of 256 levels come back changed, by {shift.min()}")
assert np.array_equal(np.flatnonzero(shift), np.arange(1, 64)) and set(shift) == {0, -1}
# Why the darkest?  Between -1 and -1/2 float32 keeps 24 binary places.  1/127.5 is 2^-7 + 2^-15 + 2^-23 + 2^-31 + ...: of level/127.5
# about level * 2^-31 is rounded away.  That rounds down as long as it is less than half of the last place, 2^-25: for levels below 64.
assert np.array_equal(images.to_uint8(images.to_float(level)), level)               # rounded: all come back
# A network's outputs lie anywhere between the levels.  Prediction: rounding errs by 1/sqrt(12) = 0.289 levels (root mean square, errors
# even between -1/2 and 1/2); cutting off by 1/sqrt(3) = 0.577, and on average makes the picture half a level darker.
inside = levels[(levels > 0) & (levels < 255)].astype(np.float64)
for name, function in (("rounding", np.rint), ("cutting off", np.floor)):
    error = function(inside) - inside
    print(f"{name:12} rms error {np.sqrt(np.mean(error**2)):.3f}, mean error {error.mean():+.3f}")
assert abs(error.mean() + 0.5) < 0.02 and abs(np.sqrt(np.mean(error**2)) - 3**-0.5) < 0.02

figure, axes = plt.subplots(1, 2, figsize=(10, 2.8), layout="constrained")
axes[0].bar(level, shift, width=1)
axes[0].set(title="a round trip that cuts off: 63 levels fall by one", xlabel="level", ylabel="change", yticks=[-1, 0])
for name, function in (("rounding", np.rint), ("cutting off", np.floor)):
    axes[1].hist(function(inside) - inside, np.linspace(-1, 0.5, 31), label=name, alpha=0.6)
axes[1].set(title="what is lost of a network's output", xlabel="error in levels", yticks=[], xlim=(-1.1, 1.1))
axes[1].legend(loc="upper right")
save(figure, "01_rounding")

# %% Bytes also wrap in arithmetic.  A mean squared error of two uint8 images is computed modulo 256, and nobody is told.
# PSNR = 10 log10(255^2 / MSE).  Prediction: no square exceeds 255, so such a "PSNR" never falls below 10 log10(255) = 24.07 dB.
black = np.zeros_like(photo)
in_bytes = 10 * np.log10(255**2 / np.mean((photo - black) ** 2))
in_truth = 10 * np.log10(255**2 / np.mean((photo.astype(np.float64) - black) ** 2))
print(f"the photograph against a black picture: {in_truth:.1f} dB; computed in bytes: {in_bytes:.1f} dB, as good as a blurred copy")
assert in_bytes >= 10 * np.log10(255) > in_truth + 10
assert np.isclose(metrics.psnr(photo, black, border=0, channel="rgb"), in_truth)    # the package converts first

# %% Axes.  PyTorch wants channels first.  `transpose` moves the axes; `reshape` only cuts the same row of bytes at other places.
moved, cut = photo.transpose(2, 0, 1), photo.reshape(3, 600, 512)
# Prediction: moved[0] is the red channel.  cut[0] is the upper third of the photograph, its colours laid out side by side: each of its
# rows is a third of a row of the photograph, so that three thirds of the picture lie on top of each other.
assert np.array_equal(moved[0], photo[..., 0]) and np.array_equal(cut[0].ravel(), photo[:200].ravel())
save(picture_row({"photo": photo, "photo.transpose(2, 0, 1)[0]": moved[0], "photo.reshape(3, 600, 512)[0]": cut[0]}, height=2.8), "01_axes")
# A network trained on `cut` learns something, slowly, and no error is ever raised.  Here images stay (N, H, W, C) throughout.

# %% The gradient of to_uint8.  Move a pixel by a little: its level stays.  Prediction: the slope is 0, except where it jumps.
eps = 1e-4
slope = (images.to_uint8(x + eps).astype(float) - images.to_uint8(x - eps)) / (2 * eps)
assert not slope.any()
# How a network learns: one number, the loss L, says how wrong its answer is.  For each of its adjustable numbers w, the weights, the
# derivative dL/dw says which way L rises; all these together are the gradient.  Each w is moved a little the other way, and so on, over
# thousands of steps.  A loss computed on levels has the gradient 0, and a network would learn nothing.  So training compares floats,
# without clipping; levels are for eyes, files, and the final score.

# %% Exercises: put your answer in the place of None.
exercise(1, "A batch of 16 high-resolution patches, 176 x 176 pixels, RGB, float32: how many bytes?", answer=None,
         check=lambda a: a == 16 * 176 * 176 * 3 * 4, hint="four bytes for each number")
exercise(2, "Write the way back for a network that works in [0, 1]: a function from floats to uint8.", answer=None,
         check=lambda f: f(np.array([-0.2, 0, 0.5001, 0.9999, 1.3])).dtype == np.uint8
         and f(np.array([-0.2, 0, 0.5001, 0.9999, 1.3])).tolist() == [0, 0, 128, 255, 255], hint="clip to [0, 1], times 255, round, cast")
exercise(3, "With NumPy, what is np.uint8(200) + np.uint8(100)?", answer=None, check=lambda a: int(a) == 44, hint="modulo 256")
