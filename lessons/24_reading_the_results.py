# %% [markdown]
# # Lesson 24: Reading the results
#
# **The question.** Why is the sharper picture the less accurate one?
#
# You should know: PSNR (lesson 00), what a loss wants (lesson 15) and SRGAN (lesson
# 17).
#
# Papers: Blau and Michaeli 2018, "The perception-distortion tradeoff"; Wang et al. 2018 (ESRGAN),
# section 3.4.
#
# Lives in: `npsrgan/inference/` (`blend`), `npsrgan/metrics.py` and `npsrgan/evaluate/`.
#
# In every table of super-resolution, the network with the better PSNR makes the duller pictures. Is
# that a fault of the networks, or of PSNR? It is neither, and a calculation shows why.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import json

import numpy as np
from _lesson import FOLDER, exercise, picture_row, plt, predict, save

from npsrgan import storage
from npsrgan.data import Photograph, downscale
from npsrgan.device import CPU
from npsrgan.images import to_float
from npsrgan.inference import blend, fold, apply_in_tiles
from npsrgan.metrics import luma, psnr
from npsrgan.models.vgg19 import random_vgg19

# %% [markdown]
# ## A world in which the best answers are known
#
# Take pictures of stone: a sum of waves, each with a known strength (proportional to 1/frequency) and
# a random phase. The small picture determines the long waves exactly. It says nothing about the short
# ones, so any phase is as likely as any other.
#
# Three pictures matter: the *truth*, the *mean* of all stones that have this small picture, in which
# the short waves cancel, and a *sample*, one of these stones, which is as good as the truth.

# %%
SIDE = 256
frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
frequency[0, 0] = np.inf
known = frequency < 0.5 / 4  # what a grid of every fourth pixel can show


def stone(seed):
    """The spectrum of one stone."""
    rng = np.random.default_rng([18, seed])
    return np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / frequency


def picture(spectrum):
    grey = np.fft.irfft2(spectrum, (SIDE, SIDE)) / np.fft.irfft2(stone(0), (SIDE, SIDE)).std()
    return np.repeat(np.rint(np.clip(128 + 55 * grey, 0, 255)).astype(np.uint8)[..., None], 3, axis=2)


truth = stone(0)
mean = np.where(known, truth, 0)
sample = np.where(known, truth, stone(1))
hr = picture(truth)

# %% [markdown]
# Call the unknown part of the truth $a$, and its variance $s$. The mean has 0 in place of $a$, so
# its squared error is $E[a^2] = s$. No picture can do better, so a network trained on a pixel loss
# learns this one.
#
# The sample has its own part $b$ in place of $a$, with the same variance and independent of $a$:
#
# $$E[(a - b)^2] = E[a^2] + E[b^2] - 2 E[ab] = s + s - 0 = 2s$$
#
# The picture that looks right has twice the squared error. More generally, a picture with a share $t$
# of the sample's part, $tb$, has $s + t^2 s$. So from the mean to the share $t$ the PSNR falls by
#
# $$10 \log_{10}(1 + t^2)$$

# %%
shares = np.linspace(0, 1, 6)
blends = [picture((1 - t) * mean + t * sample) for t in shares]
scores = np.array([psnr(image, hr) for image in blends])
calculated = scores[0] - 10 * np.log10(1 + shares**2)
predict(
    "How many dB does the whole sample lose against the mean?",
    guess=None,
    value=scores[0] - scores[-1],
    because="10 log10(2) = 3.01; the rest is clipping and rounding to whole levels",
)
print("share t:   ", *(f"{t:6.1f}" for t in shares))
print("PSNR:      ", *(f"{score:6.2f}" for score in scores))
print("calculated:", *(f"{score:6.2f}" for score in calculated))
assert np.allclose(scores, calculated, atol=0.1)

# %% [markdown]
# ## Measuring what looks right
#
# LPIPS, the usual measure of how different two pictures look to people, needs weights that are not in
# this repository. Here is a stand-in for textures: it compares how strongly the features of a random
# VGG19 vary in the picture and in the original. It measures only how much of each kind of detail there
# is, not where it is or what it means. It should be near 0 for the whole sample, and largest for the
# mean.

# %%
vgg = random_vgg19("conv2_2")


def strangeness(image, hr):
    """How far the strengths of an image's features are from the original's: 0 for the same texture."""
    a, b = (vgg(to_float(x[None, 64:192, 64:192])).array.std((0, 1, 2)) for x in (image, hr))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


odd = np.array([strangeness(image, hr) for image in blends])
print("strangeness:", *(f"{value:.3f}" for value in odd))
assert np.all(np.diff(scores) < 0)
assert np.all(np.diff(odd) < 0)
close = np.s_[64:160, 64:160]
rows = {
    f"the mean\n{scores[0]:.1f} dB": blends[0][close],
    f"40 % of the way\n{scores[2]:.1f} dB": blends[2][close],
    f"a sample\n{scores[5]:.1f} dB": blends[5][close],
    "the truth": hr[close],
}
save(picture_row(rows, height=2.5, vmin=0, vmax=255), "24_mean_and_sample")

# %% [markdown]
# All along the way, what is gained in looks is lost in decibels. No network can escape this: the mean
# is the most accurate picture, and it does not look like stone.
#
# ## The same with networks
#
# SRResNet answers with (nearly) the mean. SRGAN should answer with a sample. Does it lose 3 dB?

# %%
files = [FOLDER.parent / "weights" / name for name in ("srresnet.h5", "srgan.h5")]
trained = all(file.exists() for file in files)
photo = Photograph().load(0)[60:316, 130:386]
small = downscale(photo, 4)
if trained:
    networks = [storage.load_network(file) for file in files]
    safe, bold = (apply_in_tiles(fold(network), small, CPU) for network in networks)
    loss = psnr(safe, photo) - psnr(bold, photo)
    predict(
        "How many dB of PSNR does the shipped SRGAN lose against SRResNet on the photograph?",
        guess=None,
        value=loss,
    )
else:
    print("the files in weights/ are missing, so the networks' part is skipped")

# %% [markdown]
# It is not 3.01, and the calculation says why. Write $e = safe - hr$ for SRResNet's
# error and $d = bold - safe$ for what SRGAN adds. Then SRGAN's error is $e + d$, and
#
# $$\frac{E[(e + d)^2]}{E[e^2]} = 1 + r + 2c\sqrt{r}, \qquad
# r = \frac{E[d^2]}{E[e^2]}, \qquad c = \frac{E[ed]}{\sqrt{E[e^2] E[d^2]}}$$
#
# In the world of stone $r = t^2$, and $c = 0$ because the sample knows nothing of the truth. A real
# network differs in both. It may add less than a whole sample: $r < 1$, its texture is weak. And
# what it adds may be correlated with SRResNet's error: with $c < 0$ it points towards the truth more
# often than by chance, and costs less; with $c > 0$ it points away, and costs more.

# %%
if trained:
    inside = np.s_[4:-4, 4:-4]
    e = (luma(safe) - luma(photo))[inside]
    d = (luma(bold) - luma(safe))[inside]
    r = np.mean(d**2) / np.mean(e**2)
    c = np.mean(e * d) / np.sqrt(np.mean(e**2) * np.mean(d**2))
    print(f"r = {r:.3f}: SRGAN adds detail of the strength of {np.sqrt(r):.0%} of a whole sample")
    if abs(c) < 0.01:
        points = "neither towards the truth nor away from it, like a sample's"
    else:
        points = "towards the truth" if c < 0 else "away from the truth"
    print(f"c = {c:+.3f}: what it adds points {points}")
    print(
        f"alone, r would cost {10 * np.log10(1 + r):.2f} dB; with c it costs "
        f"{10 * np.log10(1 + r + 2 * c * np.sqrt(r)):.2f} dB; measured: {loss:.2f} dB"
    )
    assert abs(10 * np.log10(1 + r + 2 * c * np.sqrt(r)) - loss) < 0.01

# %% [markdown]
# So a small loss in PSNR does not make a better SRGAN. It often says that the network stayed close to
# SRResNet. The paper's SRGAN lost 2.65 dB on Set5 (32.05 against 29.40), near the price of a whole
# sample.
#
# ## A path between two networks
#
# You do not have to choose once and for all. `blend(srresnet, srgan, amount)` makes a network whose
# parameters are a mixture, `(1 - amount) * array + amount * second[name]`, and the mixture can be
# chosen by eye, after training. It works because SRGAN started from SRResNet. Two networks that were
# trained separately have no such path between them. (Here weights are mixed, not pictures as with the
# stone, so the path may bend: a mixture may be smoother than both of its ends.)

# %%
curves = {"stone, calculated": (scores, odd)}
if trained:
    made = [apply_in_tiles(fold(blend(*networks, t)), small, CPU) for t in shares]
    curves["photograph, SRResNet to SRGAN"] = (
        [psnr(x, photo) for x in made],
        [strangeness(x, photo) for x in made],
    )
    rows = {f"{t:.0%} SRGAN\n{psnr(x, photo):.2f} dB": x[50:170, 60:180] for t, x in zip(shares, made)}
    save(picture_row(rows, height=2), "24_blend")

recorded = FOLDER.parent / "weights" / "perception_distortion.json"
folders = json.loads(recorded.read_text(encoding="utf-8")) if recorded.exists() else {}
print(
    "curves recorded by python -m npsrgan.evaluate --curve, PSNR against LPIPS:",
    ", ".join(folders) or "none",
)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for name, (x, y) in curves.items():
    axes[0].plot(np.array(x) - x[0], np.array(y) / y[0], "o-", label=name)
axes[0].set(
    title="Left: less accurate. Down: more natural.",
    xlabel="PSNR (Y) in dB, against the start",
    ylabel="strangeness, relative to the start",
)
axes[0].legend()
for name, found in folders.items():
    points = found["curve"]
    axes[1].plot([p["psnr_y"] for p in points], [p["lpips"] for p in points], ".-", label=name)
axes[1].set(title="Recorded: SRResNet (right) to SRGAN", xlabel="PSNR (Y), dB", ylabel="LPIPS")
if folders:
    axes[1].legend()
save(figure, "24_trade")

# %% [markdown]
# The next lesson asks how far such curves can be believed.
#
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "A pixel loss reaches 28 dB in a world like the stone's. What is the PSNR of a perfect sample?",
    answer=None,
    check=lambda x: abs(x - 24.99) < 0.05,
    hint="3.01 dB less",
)
exercise(
    2,
    "How large a share t of the sample costs exactly 1 dB?",
    answer=None,
    check=lambda x: abs(10 * np.log10(1 + x**2) - 1) < 0.02,
    hint="10 log10(1 + t^2) = 1",
)

# %% [markdown]
# Write `price(e, d)`, for arrays of any shape: a picture had the error `e`, and `d` was added to it. How
# many decibels did it lose? The result is negative if it gained.


# %%
def right_price(price):
    e = np.random.default_rng(0).standard_normal((8, 8))
    for name, d, expected in (
        ("d = 0", 0 * e, 0),
        ("d = -e / 2", -e / 2, -6.0206),
        ("d = e", e, 6.0206),
        ("d a shuffled e", e[::-1], 10 * np.log10(np.mean((e + e[::-1]) ** 2) / np.mean(e**2))),
    ):
        if abs(price(e, d) - expected) > 0.001:
            return f"for {name} it should be {expected:.3f}"
    return True


exercise(
    3, "Write price(e, d).", answer=None, check=right_price, hint="the ratio of two mean squares, in dB"
)
