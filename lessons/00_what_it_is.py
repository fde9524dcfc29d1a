"""Lesson 00: super-resolution.  What is asked for, why is it impossible, and how does one say which answer is better?

You should know: Python and NumPy; that a neural network is a function with many adjustable numbers.
Paper: Ledig et al. 2017 (SRGAN), sections 1 and 3.1.  Lives in: npsrgan/data/degrade.py, npsrgan/inference.py, npsrgan/metrics.py.
"""
# %% The question: a photograph was shrunk to a quarter of its width and height.  What did it look like?
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, save

from npsrgan import storage
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.device import CPU
from npsrgan.inference import fold, super_resolve
from npsrgan.metrics import luma, psnr, ssim

hr = Photograph().load(0)               # high resolution: what we shall compare with; in real use nobody has it
lr = downscale(hr, 4)                   # low resolution: each pixel a weighted mean of some 16 x 16
print("high", hr.shape, "low", lr.shape)
# Prediction: 16 pixels are to be made of each one.  Fifteen sixteenths of the answer have to come from somewhere else.
assert hr.size == 16 * lr.size

# %% Why it is impossible.  Lay a checkerboard over the photograph, one pixel brighter, the next one darker; or stripes; and shrink again.
# Prediction: the mean over a neighbourhood does not see them.  Pictures that anybody can tell apart have the same quarter.
plain = (hr * 0.7 + 38).astype(np.uint8)                                # room above and below, so that nothing is clipped
rows, columns = np.indices(hr.shape[:2])[..., None]
overlay = lambda pattern: (plain + 30 * (pattern % 2 * 2 - 1)).astype(np.uint8)
board, turned_board, stripes = overlay(rows + columns), overlay(rows + columns + 1), overlay(rows)
for name, picture in {"checkerboard": board, "turned checkerboard": turned_board, "stripes": stripes}.items():
    pairs = (picture, plain), (downscale(picture, 4), downscale(plain, 4))
    before, after = (np.abs(a.astype(int) - b)[2:-2, 2:-2].max() for a, b in pairs)
    print(f"{name}: every level differs by {before}; after shrinking by {after} at most")
    assert before == 30 and after <= 2

close = np.s_[176:216, 196:244]
save(picture_row({"the photograph, a little pale": plain[close], "a checkerboard on it": board[close], "stripes on it": stripes[close],
                  "the quarter of all three": downscale(board, 4)[44:54, 49:61]}, height=2.3), "00_same_quarter")
# No formula can decide between them.  A network that has seen many pictures can say which one is likely: that is all it can do.

# %% A score.  The field's is the peak signal-to-noise ratio, of the luma Y (how bright a pixel looks), without a border of 4 pixels:
#
#       PSNR = 10 log10(255^2 / MSE)  in decibels,      MSE = mean((Y - Y')^2)


def score(a, b):
    error = luma(a)[4:-4, 4:-4] - luma(b)[4:-4, 4:-4]
    return 10 * np.log10(255**2 / np.mean(error**2))


bicubic = upscale(lr, 4)                # no network: a smooth curve through the pixels, in every picture program
assert np.isclose(score(hr, bicubic), psnr(hr, bicubic))                # the package's version
# Halving all errors quarters the MSE.  Prediction: it gains 10 log10(4) = 6.02 dB.
halved = ((hr.astype(int) + bicubic) / 2).round().astype(np.uint8)
print(f"bicubic {score(hr, bicubic):.2f} dB, with half its errors {score(hr, halved):.2f} dB")
assert abs(score(hr, halved) - score(hr, bicubic) - 6.02) < 0.1

# %% What PSNR misses.  Change the photograph in other ways, each by as much as gives bicubic's score, and look.
target = psnr(hr, bicubic)


def at_target(change):
    """The photograph plus so much of a change that it scores like bicubic."""
    low, high = 0.0, 256.0
    for _ in range(16):
        middle = (low + high) / 2
        picture = np.clip(hr + middle * change, 0, 255).round().astype(np.uint8)
        low, high = (middle, high) if psnr(hr, picture) > target else (low, middle)
    return picture


patch = np.zeros(hr.shape)
patch[195:285, 230:330] = -1
alike = {"bicubic": bicubic, "brighter": at_target(np.ones(hr.shape)), "a patch": at_target(patch),
         "noise": at_target(np.random.default_rng(0).standard_normal(hr.shape)), "moved by one pixel": np.roll(hr, 1, 1)}
assert all(abs(psnr(hr, alike[name]) - target) < 0.4 for name in ("brighter", "a patch", "noise"))       # whole levels allow no closer
# Prediction: moved by one pixel, the photograph is as good as ever to the eye; PSNR puts it below the blurred enlargement.
assert psnr(hr, alike["moved by one pixel"]) < target
view = np.s_[130:350, 140:370]
titled = {f"{name}\n{psnr(hr, picture):.1f} dB, SSIM {ssim(hr, picture):.2f}": picture[view] for name, picture in alike.items()}
save(picture_row(titled, height=2.0), "00_same_psnr")
# SSIM (structural similarity, 1 at best) compares means, contrasts and patterns in small windows.
# It forgives "brighter", and even "a patch", but not "moved".

# %% What PSNR rewards.  Suppose the truth is `board` or `turned_board`, each as likely.  Guess one of them, or the mean of both?
# Prediction: a guess is right, or wrong by 60: the MSE's mean is 60^2 / 2.  The mean of both is always wrong by 30, MSE 30^2: 3 dB better.
mse = lambda a, b: np.mean((a.astype(float) - b) ** 2)
gamble, blur = (mse(board, board) + mse(board, turned_board)) / 2, (mse(plain, board) + mse(plain, turned_board)) / 2
print(f"mean squared error of a gamble {gamble:.0f}, of the mean {blur:.0f}: {10 * np.log10(gamble / blur):.2f} dB")
assert np.isclose(10 * np.log10(gamble / blur), 10 * np.log10(2))
# So a network trained on squared error paints the mean of all that could be: blur, which looks like none of them.  SRResNet is that
# network.  SRGAN adds a second one, which tells photographs from paintings, so that the first must gamble: sharp, and lower in PSNR.

# %% The trained networks, side by side
pictures = {"low resolution": lr.repeat(4, 0).repeat(4, 1), "bicubic": bicubic}
for name in ("srresnet", "srgan"):
    if (storage.WEIGHTS / f"{name}.h5").exists():
        pictures[name] = super_resolve(fold(storage.load_generator(name)), lr, CPU)
    else:
        print(f"weights/{name}.h5 is not there, so its picture is left out")
pictures["photograph"] = hr
for name, picture in pictures.items():
    print(f"{name:15} {psnr(hr, picture):6.2f} dB   SSIM {ssim(hr, picture):.4f}")
assert psnr(hr, pictures["low resolution"]) < psnr(hr, bicubic)
titles = [f"{name}\n{psnr(hr, picture):.1f} dB" if picture is not hr else name for name, picture in pictures.items()]
save(picture_row({title: p[150:330, 160:350] for title, p in zip(titles, pictures.values())}, height=2.1), "00_side_by_side")
# Lessons 01 to 17 build these networks, from the first multiplication on.  The last lesson comes back to the two of them.

# %% Exercises: put your answer in the place of None.
exercise(1, "Two methods differ by 1 dB.  By what factor do their mean squared errors differ?", answer=None,
         check=lambda a: abs(a - 10**0.1) < 0.01 or abs(a - 10**-0.1) < 0.01, hint="10 log10(factor) = 1")
exercise(2, "A grey picture is wrong by 5 of 255 levels everywhere.  What is its PSNR on RGB, in dB?", answer=None,
         check=lambda a: abs(a - 20 * np.log10(51)) < 0.05, hint="the MSE is 25")
exercise(3, "Y goes from 16 to 235 only, and the peak stays 255.  By how many dB is the same grey error better on Y than on RGB?",
         answer=None, check=lambda a: abs(a - 20 * np.log10(255 / 219)) < 0.02, hint="on Y an error of 5 is one of 5 * 219 / 255")
