"""Lesson 24: reading the results.  Why is the sharper picture the less accurate one, and what must nobody use either of them for?

You should know: PSNR (lesson 00), what a loss wants (15), SRGAN (17).  Papers: Blau and Michaeli 2018, "The Perception-Distortion
Tradeoff"; Wang et al. 2018 (ESRGAN), section 3.4.  Lives in: npsrgan/inference.py (blend), metrics.py, evaluate.py.
"""
# %% The question.  In every table of super-resolution, the network with the better PSNR makes the duller pictures.  Is that a
# fault of the networks, or of PSNR?  Neither: it can be calculated.
import sys; sys.path[:0] = ["lessons", "."]
import json
import numpy as np
from _lesson import FOLDER, exercise, picture_row, plt, save
from PIL import Image, ImageDraw, ImageFont

from npsrgan import storage
from npsrgan.data import Photograph, downscale
from npsrgan.device import CPU
from npsrgan.images import to_float
from npsrgan.inference import blend, fold, super_resolve
from npsrgan.metrics import psnr
from npsrgan.models.vgg19 import random_vgg19

# %% A world in which the best answers are known: stone.  Every wave has a known strength (1/f) and a random phase.  The small
# picture tells the long waves.  Of the short ones, it says nothing: any phase is as likely as any other.
SIDE = 256
f = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
f[0, 0] = np.inf
known = f < 0.5 / 4                                                 # what a grid of every fourth pixel can show


def stone(seed):
    """The spectrum of one stone."""
    rng = np.random.default_rng([18, seed])
    return np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / f


def picture(spectrum):
    grey = 128 + 55 * np.fft.irfft2(spectrum, (SIDE, SIDE)) / np.fft.irfft2(stone(0), (SIDE, SIDE)).std()
    return np.repeat(np.rint(np.clip(grey, 0, 255)).astype(np.uint8)[..., None], 3, axis=2)


truth, other = stone(0), stone(1)
likely = np.where(known, truth, 0)                                  # the mean of all stones with this small picture
sample = np.where(known, truth, other)                              # one of them: as much a stone as the truth is
hr = picture(truth)
# By hand.  The unknown part has variance s.  The mean is wrong by s: nothing can be less wrong, so a pixel loss learns this.
# A sample has its own unknown part, independent of the truth's: (a - b)^2 = a^2 + b^2, it is wrong by 2 s.
# Prediction: the picture that looks right loses 10 log10(2) = 3.01 dB.  And a share t of it: 10 log10(1 + t^2).
shares = np.linspace(0, 1, 6)
blends = {t: picture((1 - t) * likely + t * sample) for t in shares}
scores = np.array([psnr(blends[t], hr) for t in shares])
print("PSNR from mean to sample:", scores.round(2), " predicted:", (scores[0] - 10 * np.log10(1 + shares**2)).round(2))
assert np.allclose(scores, scores[0] - 10 * np.log10(1 + shares**2), atol=0.1)

# %% How "looks right" can be measured.  LPIPS, the usual measure of how different two pictures look to people, needs weights that are
# not in this repository.  A stand-in for textures: how strongly do the features of a random VGG19 answer, on average, compared with the
# original?  (It knows no meaning and nothing about places.)  Prediction: it goes the other way than PSNR, all along.
vgg = random_vgg19("conv2_2")


def strangeness(image, hr):
    """How far the strengths of an image's features are from the original's: 0 for a picture of the same texture."""
    a, b = (vgg(to_float(x[None, 64:192, 64:192])).array.std((0, 1, 2)) for x in (image, hr))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


odd = np.array([strangeness(blends[t], hr) for t in shares])
print("strangeness, from mean to sample:", odd.round(3))
assert np.all(np.diff(scores) < 0) and np.all(np.diff(odd) < 0)
close = np.s_[64:160, 64:160]
titles = {0: "the mean", 2: "40 % of the way", 5: "a sample"}
rows = {f"{title}\n{scores[k]:.1f} dB": blends[shares[k]][close] for k, title in titles.items()}
save(picture_row(rows | {"the truth": hr[close]}, height=2.5, vmin=0, vmax=255), "24_mean_and_sample")

# %% The same with networks: SRResNet answers the mean, SRGAN tries to answer a sample.  Between their weights lies a path:
# inference.blend(srresnet, srgan, t) is (1 - t) * the one + t * the other, parameter by parameter.  One trains twice and then
# chooses by eye.  (It works because SRGAN started from SRResNet.  Two networks of different birth have no path between them.)
weights = FOLDER.parent / "weights"
files = [weights / "srresnet.h5", weights / "srgan.h5"]
curves = {"stone, calculated": (scores, odd)}
if all(file.exists() for file in files):
    networks = [storage.load_network(file) for file in files]
    photo = Photograph().load(0)[60:316, 130:386]
    made = [super_resolve(fold(blend(*networks, t)), downscale(photo, 4), CPU) for t in shares]
    curves["photograph, SRResNet to SRGAN"] = [psnr(x, photo) for x in made], [strangeness(x, photo) for x in made]
    rows = {f"{t:.0%} SRGAN\n{psnr(x, photo):.2f} dB": x[50:170, 60:180] for t, x in zip(shares, made)}
    save(picture_row(rows, height=2), "24_blend")
else:
    print(f"{' and '.join(file.name for file in files if not file.exists())} not in weights/ yet: the networks' part is skipped")
recorded = weights / "perception_distortion.json"
folders = json.loads(recorded.read_text(encoding="utf-8")) if recorded.exists() else {}
print("recorded curves, PSNR against LPIPS:", ", ".join(folders) or "none (python -m npsrgan.evaluate --curve makes them)")

figure, axes = plt.subplots(1, 1 + bool(folders), figsize=(5 + 5 * bool(folders), 3.5), squeeze=False, layout="constrained")
for name, (x, y) in curves.items():
    axes[0, 0].plot(x, y, "o-", lw=3, ms=9, label=name)
axes[0, 0].set(title="The trade: right is accurate, down is natural", xlabel="PSNR (Y), dB", ylabel="strangeness of the texture")
axes[0, 0].legend()
for name, found in folders.items():
    axes[0, 1].plot(*([point[key] for point in found["curve"]] for key in ("psnr_y", "lpips")), ".-", label=name)
    axes[0, 1].set(title="Recorded: SRResNet (right) to SRGAN", xlabel="PSNR (Y), dB", ylabel="LPIPS")
    axes[0, 1].legend()
save(figure, "24_trade")

# %% What it must never be used for.  Super-resolution invents.  What it invents is likely, and has no other claim to be true.
# Take a number plate, A.  Its small picture fixes 1 number of 16; the fifteen others are free.  So take the free part of another
# plate: B = A + (the part of B - A that shrinking does not see).  K shrinks one axis; pinv(K) K is the part that it sees.


def plate(text):
    page = Image.new("L", (64, 24), 175)
    ImageDraw.Draw(page).text((6, 5), text, fill=58, font=ImageFont.load_default(11))
    return np.array(page, np.float64)


def seen(x):
    down, across = (np.array(Image.fromarray(np.eye(n, dtype=np.float32)).resize((n, n // 4), Image.Resampling.BICUBIC), float)
                    for n in x.shape)
    return np.linalg.pinv(down) @ down @ x @ (np.linalg.pinv(across) @ across).T


def rgb(x): return np.repeat(np.rint(x).astype(np.uint8)[..., None], 3, axis=2)


a, b = plate("38B 601"), plate("86R 407")
b = np.rint(a + (b - a) - seen(b - a))
for _ in range(20):                                                 # rounding to whole levels: nudge what is one level off
    b += np.kron(downscale(rgb(a), 4)[..., 0].astype(float) - downscale(rgb(b), 4)[..., 0], np.ones((4, 4)))
small_a, small_b = downscale(rgb(a), 4), downscale(rgb(b), 4)
# Prediction: two plates that anybody can read, and not one level of difference between their small pictures.
print(f"the plates differ by up to {np.abs(a - b).max():.0f} levels, their small pictures in {np.sum(small_a != small_b)} places")
assert np.array_equal(small_a, small_b) and np.abs(a - b).max() > 60
figure, axes = plt.subplots(2, 2, figsize=(9, 4), layout="constrained")
titles = "A", "B", "the small picture of A", "the small picture of B: the same numbers"
for axis, title, page in zip(axes.flat, titles, (a[4:20, 4:48], b[4:20, 4:48], small_a[1:5, 1:12], small_b[1:5, 1:12])):
    axis.imshow(page[..., 0] if page.ndim > 2 else page, cmap="gray", vmin=58, vmax=185)
    axis.set_title(title)
    axis.axis("off")
save(figure, "24_two_plates")
# Whoever "enhances" the small picture gets one of them, crisp, and perhaps the wrong one.  With faces it is the same: the network
# adds features of the faces it was trained on.  So: to look at, yes.  To read, measure, diagnose or identify anybody: never.

# %% Your turn
exercise(1, "A pixel loss reaches 28 dB in a world like the stone's.  What PSNR has a perfect sample?", None,
         lambda x: abs(x - 24.99) < 0.05)
exercise(2, "How large a share t of the sample costs exactly 1 dB?", None, lambda x: abs(10 * np.log10(1 + x**2) - 1) < 0.02,
         hint="10 log10(1 + t^2) = 1")
exercise(3, "At scale 8, which share of a picture's numbers is invented?", None, lambda x: abs(x - 63 / 64) < 0.001)
