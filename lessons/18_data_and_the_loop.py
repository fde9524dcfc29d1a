# %% [markdown]
# # Lesson 18: Data and the loop
#
# **The question.** How do photographs become batches, what does the training command do with them,
# and what do you need to train on photographs of your own?
#
# You should know: images as arrays (lesson 01), Adam (11), the SRGAN step and its health line (17).
#
# Papers: Keys 1981, "Cubic convolution interpolation for digital image processing"; Ledig et al.
# 2017, section 3.2.
#
# Lives in: `npsrgan/data/bicubic.py`, `npsrgan/data/degrade.py`, `npsrgan/data/batches.py`,
# `npsrgan/train/__main__.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import time

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save

from npsrgan.data import Batches, DeadLeaves, Photograph, bicubic, downscale, patch_pair
from npsrgan.device import CPU
from npsrgan.train.report import health_line
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer

# %% [markdown]
# ## 1. Bicubic reduction by hand
#
# Training needs pairs: a large picture, and the small one that belongs to it. The large ones are
# photographs. The small ones are made from them by **bicubic reduction**.
#
# Each pixel of the result is a weighted mean of the pixels around its place. The weights are samples
# of a curve of the distance $t$, Keys's cubic kernel:
#
# $$k(t) = \frac{3}{2}|t|^3 - \frac{5}{2}|t|^2 + 1 \quad (|t| \le 1), \qquad
# k(t) = -\frac{1}{2}|t|^3 + \frac{5}{2}|t|^2 - 4|t| + 2 \quad (1 < |t| < 2)$$
#
# and 0 beyond. It is 1 at 0, and 0 at every other whole number, so at the original pixels nothing
# changes. To shrink by the factor $s$, the curve is stretched: $k(t / s)$. A small pixel is then
# computed from $4s$ pixels along each axis, 16 for $s = 4$.
#
# Rows and columns are treated alike, one after the other. For one axis, the weights form a matrix
# $A$ of shape (small, large), whose rows add up to 1:
#
# $$\text{small} = A \cdot \text{large} \cdot B^T \qquad (h, w) = (h, H)\,(H, W)\,(W, w)$$


# %%
def cubic(t):
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def weights(large, scale, stretch):
    """(large // scale, large): how much each large pixel counts in each small one."""
    small = large // scale
    matrix = np.zeros((small, large))
    for row in range(small):
        centre = (row + 0.5) * scale - 0.5  # the small pixel's centre, among the large pixels
        for column in range(int(centre) - 2 * stretch, int(centre) + 2 * stretch + 2):
            inside = min(max(column, 0), large - 1)  # beyond the border the last pixel is repeated
            matrix[row, inside] += cubic((column - centre) / stretch)
    return matrix / matrix.sum(1, keepdims=True)


def shrink(image, scale, stretch):
    """uint8 (H, W, 3) -> uint8 (H / scale, W / scale, 3)."""
    rows = weights(image.shape[0], scale, stretch)
    columns = weights(image.shape[1], scale, stretch)
    between = to_levels(np.einsum("hH,HWc->hWc", rows, image))
    return to_levels(np.einsum("wW,hWc->hwc", columns, between))


def to_levels(values):
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


photo = Photograph().load(0)
by_hand = shrink(photo, 4, stretch=4)
package = bicubic.downscale(photo, 4)
apart = np.abs(by_hand.astype(int) - package)
print(f"{photo.shape} to {by_hand.shape}: by hand and by the package at most {apart.max()} levels apart")
assert apart.max() <= 1 and np.mean(apart > 0) < 1e-3

# %% [markdown]
# (MATLAB's `imresize` does the same to the bit, so the published benchmarks are made this way.
# `downscale` of `npsrgan/data/degrade.py` asks PIL instead, which is faster and differs at borders.)
#
# ## 2. Why the kernel is stretched
#
# A picture of $w$ small pixels can show at most $w / 2$ waves: one bright pixel, one dark. In large
# pixels, such a wave is $2s = 8$ long. What about a finer one, 5 pixels long? Taken at every fourth
# pixel, it advances by 4/5 of a period each time. That cannot be told from going *back* by 1/5: the
# result is a wave of 5 small pixels, 20 large ones, which was never there. This is **aliasing**.
#
# The stretched kernel takes the mean over a width in which such a wave goes up and down several
# times, and hardly anything of it is left. That is **antialiasing**. Without the stretch only 4
# pixels count along each axis, whatever the scale.

# %%
wave = np.rint(127.5 + 100 * np.cos(2 * np.pi * np.arange(320) / 5))
stripes = np.broadcast_to(wave[None, :, None], (64, 320, 3)).astype(np.uint8)


def amplitude(image):
    """Half of the distance from the darkest to the brightest level, away from the border."""
    return np.ptp(image[4:-4, 4:-4].astype(float)) / 2


with_stretch = amplitude(shrink(stripes, 4, stretch=4))
without = amplitude(shrink(stripes, 4, stretch=1))
predict(
    "A wave of 5 pixels and amplitude 100 is reduced without the stretch. What is the amplitude of the wave "
    "that appears?",
    guess=None,
    value=without,
    because="Most of the amplitude is kept: the fine wave comes back as a coarse one.",
)
print(f"with the stretch: {with_stretch:.1f}")
assert with_stretch < 0.1 * without

rows, columns = np.indices((256, 256))
rings = to_levels(127.5 + 110 * np.cos(np.pi * (rows**2 + columns**2) / 512))[..., None]
rings = np.repeat(rings, 3, axis=2)  # finer and finer from the corner outwards
save(
    picture_row(
        {
            "rings that become finer": rings,
            "every 4th pixel": rings[::4, ::4],
            "bicubic, not stretched": shrink(rings, 4, stretch=1),
            "bicubic, antialiased": shrink(rings, 4, stretch=4),
        },
        height=3,
    ),
    "18_antialiasing",
)

# %% [markdown]
# The false rings in the two pictures in the middle look as real as the true ones. A network that was
# trained on such pairs learns to turn false patterns back into fine ones, and does so in every
# photograph. Room four of the bug museum (lesson 22) measures the effect.
#
# ## 3. Patches
#
# A step does not need whole photographs. It takes **patches**: 24 x 24 small pixels and the 96 x 96
# large ones they were made from, each pair from another photograph. The order is important: shrink,
# then cut. If you cut first, the pixels at the patch's border are made without their neighbours.
# `patch_pair` cuts a little more than the patch, shrinks that, and drops the rest, so that a small
# patch is a piece of the whole small picture, to the last bit.

# %%
low, high = patch_pair(photo, top=20, left=30, patch_size=24, scale=4)
piece = downscale(photo, 4)[20:44, 30:54]
np.testing.assert_array_equal(low, piece)
alone = downscale(high, 4)
different = np.any(alone != piece, axis=2)
print(f"cut first, then shrunk: {np.mean(different):.0%} of the small pixels are different,")
print(f"inside, three pixels from the border, {np.mean(different[3:-3, 3:-3]):.0%}")
assert np.any(different) and not np.any(different[3:-3, 3:-3])

height, width = (n // 4 for n in photo.shape[:2])
places = (height - 23) * (width - 23)
predict(
    "How many different 24 x 24 patches does this photograph of 600 x 512 pixels have?",
    guess=None,
    value=places,
    because="127 places from top to bottom times 105 from left to right",
)
assert places == 127 * 105

# %% [markdown]
# ## 4. Augmentation
#
# A tree in the mirror is still a tree. **Augmentation** makes more patches by flipping them and
# rotating them by quarter turns: 8 versions of each. That is allowed because reduction is the same in
# every direction: shrinking a turned picture gives the turned small picture. For mirroring and half
# turns this holds to the last bit. A quarter turn exchanges rows and columns, and between the two
# passes the levels are rounded and clipped, which shows at the strongest edges.

# %%
def version(picture, flip, turns):
    return np.rot90(picture[:, ::-1] if flip else picture, turns)


for flip in (False, True):
    for turns in range(4):
        turned = np.ascontiguousarray(version(photo, flip, turns))
        apart = np.abs(bicubic.downscale(turned, 4).astype(int) - version(package, flip, turns))
        print(f"flip {flip}, {turns} quarter turns: at most {apart.max()} levels apart")
        assert apart.max() <= 4 * (turns % 2) and np.mean(apart > 1) < 0.002

# %% [markdown]
# Which photographs, which place, which version? All of it is drawn from a random generator that is
# seeded with the number of the step, `[_SAMPLE, self.seed, step, position]`. So batch 7 is always the
# same batch: for a thread that works ahead, and for a run that was killed at step 6 and resumes.

# %%
source = DeadLeaves(count=8, size=192, seed=18)
one = Batches(source, batch_size=4, patch_size=16, seed=3)
other = Batches(source, batch_size=4, patch_size=16, seed=3, workers=1)
for _ in range(5):
    one.batch(np.random.default_rng().integers(1000))  # whatever else was asked for before
again = next(iter(other.ahead_from(7)))
for mine, theirs in zip(one.batch(7), again[1:]):
    np.testing.assert_array_equal(mine, theirs)
lr, hr = one.batch(7)
print(f"batch 7, twice the same: {lr.shape} and {hr.shape}, {lr.dtype}")
gallery = {}
for number in range(4):
    gallery[f"low {number}"] = lr[number]
    gallery[f"high {number}"] = hr[number]
save(picture_row(gallery, columns=8, height=1.5), "18_batch")

# %% [markdown]
# ## 5. The loop, line by line
#
# The function `train` in `npsrgan/train/__main__.py` reads from top to bottom. Open it beside this
# page. These are the lines that matter:
#
# * `for _, lr, hr in feed:` The batches, one after the other. Threads prepare the next ones
#   meanwhile, and on a GPU the next is copied while this one is computed. `Batches` makes bytes, a
#   quarter of the size of float32, and the feed converts them to $[-1, 1]$ on the device.
# * `logged = step % s.log_every == 0 or step in (total, s.steps)` Most steps are taken in silence.
#   Some are logged: every so many, and the last of each stage.
# * `losses = trainer.step(lr, hr, diagnose=logged)` The step of lesson 17. Only a logged step is diagnosed,
#   because that asks the tape for more gradients.
# * `losses = require_finite(losses, step)` A loss that is no longer a finite number ends the training.
#   The last checkpoint was saved before that and is kept.
# * `validate(trainer, pairs, out, step)` The PSNR on pictures that were never trained on, and a sample
#   picture to look at.
# * `log.add(row)` and `say(report.health_line(row, total, s.generator))` The row of numbers is written
#   to `log.csv`, and printed as one line of text.
# * `checkpoint.save(out / "checkpoint.h5", trainer)` Parameters, running statistics, Adam's moments and
#   the number of steps. Nothing random needs to be saved: the next batch follows from the step.
#
# The rest handles Ctrl-C, full disks and too little memory.
#
# The same loop without all of that is short. (It does not validate, so its lines have no PSNR.)

# %%
settings = Settings(
    steps=60,
    gan_steps=20,
    batch_size=4,
    patch_size=16,
    channels=8,
    blocks=1,
    discriminator_channels=4,
    learning_rate=4e-3,
    gan_learning_rate=5e-4,
    perceptual_weight=0.0,
    average=0.0,
)
trainer = Trainer(settings.validate(), CPU)
batches = Batches(source, settings.batch_size, settings.patch_size, settings.scale, settings.seed)
pixel = []
began = time.perf_counter()
for step, lr, hr in trainer.feed(batches.ahead_from(0, settings.total_steps)):
    losses = trainer.step(lr, hr, diagnose=step % 20 == 19)
    pixel.append(losses.get("srresnet_pixel", losses.get("pixel")))
    if step % 20 == 19:
        speed = (step + 1) * settings.batch_size / (time.perf_counter() - began)
        row = losses | {"step": step + 1, "images_per_s": speed, "data_wait": 0.0}
        print(health_line(row, settings.total_steps))
predict(
    "Sixty small steps: by which factor does the pixel loss fall?",
    guess=None,
    value=np.mean(pixel[:3]) / np.mean(pixel[50:60]),
    within=0.5,
    because="The first steps learn little more than the mean brightness, and even that helps much.",
)
assert np.mean(pixel[50:60]) < 0.7 * np.mean(pixel[:3])
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.semilogy(pixel, ".-")
axis.axvline(59.5, color="C7", linestyle="--")
axis.text(60, max(pixel), " SRGAN begins", va="top", fontsize=9)
axis.set(xlabel="step", ylabel="pixel loss", title="Sixty steps on pixels, twenty of the game")
save(figure, "18_loop")

# %% [markdown]
# ## 6. Your own photographs
#
# **How many?** Patches are plenty: one photograph has thousands, eight times as many with
# augmentation. Variety is scarce. The networks in `weights/` were trained on 726 photographs, those
# for faces on 3,000, and `weights/README.md` shows the results. A few hundred sharp photographs of
# what you want to enlarge are a sensible start. JPEG artefacts and blur in the originals are learned
# like everything else, so take the best photographs you have, and shrink doubtful ones to half their
# size first.
#
# **How large?** At least as large as a patch: 96 pixels for presets `paper` and `photo`, 176 for `seed`.
# Smaller files are skipped, and the command says so.
#
# **Held out.** `--val FOLDER` names photographs that are used for measuring and never for training.
# Without it, a twentieth of `--data` is held out. Never put frames of the same film into both.
#
# **Which preset?** `demo` to see that everything works. `photo` for photographs as you find them,
# together with `--degradation photo`: it also blurs, adds noise and compresses, because your small
# pictures are not made by bicubic reduction. `paper` to compare with the paper. `seed` for faces of
# CelebA's size.
#
#     python -m npsrgan.train --preset photo --data my_photos --vgg vgg19.h5 --degradation photo
#
# **How long?** The number of steps times the time of one step, which follows from the images per
# second in the health line. `weights/README.md` has the times of the shipped weights.

# %%
full = Trainer(Settings(steps=10, batch_size=1, patch_size=24).validate(), CPU)
lr = np.zeros((1, 24, 24, 3), np.float32)
hr = np.zeros((1, 96, 96, 3), np.float32)
times = []
for _ in range(4):
    began = time.perf_counter()
    full.step(lr, hr)
    times.append(time.perf_counter() - began)
print(f"SRResNet at full size, one patch a step: {min(times):.2f} s a step on this machine, now")
print(f"60,000 steps of 8 patches: about {60_000 * 8 * min(times) / 3600:.0f} hours")

# %% [markdown]
# **What the health line should look like.** Lesson 17 explains each number. This table says what to
# look for, and when.
#
# | stage | look at | healthy | if not |
# |---|---|---|---|
# | first hundred steps | pixel loss | falls fast | a smaller rate |
# | some hundred steps later | PSNR | SRResNet's passes bicubic's | train on |
# | SRResNet, to its end | PSNR | rises, more and more slowly | if it falls: more photographs |
# | SRGAN, first steps | adversarial, discriminator | near 0.7: D cannot tell them apart yet | |
# | SRGAN, later | D(HR), D(SR) | D(HR) above D(SR), neither near 0 or 1 | a smaller rate |
# | SRGAN, to its end | PSNR | a little below SRResNet's | a smaller adversarial weight |
# | always | waiting for data | near 0 % | a larger `--cache` |
#
# The demo, `python -m npsrgan.train`, goes through these stages in minutes. On its photograph bicubic
# has 25.94 dB. SRResNet had 24.29 dB at step 100, 25.61 at 200, 26.48 at 450 and 27.19 at step 1000. At
# step 300 it had 25.43, less than the 26.14 of step 250: one bad line among good ones is no cause for
# concern while the learning rate is high.
#
# ## 7. Exercises

# %%
exercise(
    1,
    "726 photographs, 4 patches a step, each from another photograph. After how many steps has every "
    "photograph been used once? (The rest of an incomplete step waits for the next round.)",
    answer=None,
    check=lambda steps: steps == 181,
    hint="whole steps only",
)


def keeps_pairs_together(augment):
    """Whether `augment` treats both of a pair alike, for all eight versions."""
    versions = set()
    for flip in (False, True):
        for turns in range(4):
            low, high = augment(package, photo, flip, turns)
            apart = np.abs(bicubic.downscale(np.ascontiguousarray(high), 4).astype(int) - low)
            if np.mean(apart > 1) > 0.01:
                return f"with flip={flip} and turns={turns}, the small picture is not that of the large one"
            versions.add(low.tobytes())
    return len(versions) == 8 or "the eight versions are not all different"


exercise(
    2,
    "Write the augmentation of a pair: a function (low, high, flip, turns) -> (low, high), which mirrors "
    "both if flip is true and turns both by as many quarters.",
    answer=None,
    check=keeps_pairs_together,
    hint="np.rot90, and [:, ::-1]",
)
exercise(
    3,
    "In the kernel that is not stretched, what is the weight of a pixel that is half a pixel away?",
    answer=None,
    check=lambda weight: abs(weight - 0.5625) < 1e-6,
    hint="k(1/2)",
)
