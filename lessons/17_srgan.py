# %% [markdown]
# # Lesson 17: SRGAN
#
# **The question.** Two networks learn against each other. How can you see whether that goes well?
#
# You should know: SRResNet (lesson 12), what a loss wants (lesson 15) and the two players
# (lesson 16).
#
# Paper: Ledig et al. 2017, section 2.2.
#
# Lives in: `npsrgan/trainer.py` (the training step), `npsrgan/train/report.py` (the health line) and
# `npsrgan/train/` (the command).
#
# A falling loss means little here, because each player's loss falls when the other's rises. A pixel
# error that rises may mean a sharper picture. So a training run prints one line of numbers every
# hundred steps, the *health line*. In this lesson a small SRGAN trains in four ways, one of them
# healthy, and the line is explained number by number.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import dataclasses
import tempfile
import time

import numpy as np
from _lesson import FOLDER, exercise, picture_row, plt, predict, save
from tqdm import tqdm

from npsrgan import losses, ops, storage
from npsrgan.data import Batches, DeadLeaves, Photograph, downscale, upscale
from npsrgan.device import CPU
from npsrgan.fast import keep_memory
from npsrgan.images import to_float
from npsrgan.inference import fold, apply_in_tiles
from npsrgan.metrics import psnr
from npsrgan.tape import Tape
from npsrgan.train import checkpoint
from npsrgan.train.report import health_line
from npsrgan.train.settings import PRESETS
from npsrgan.trainer import Trainer

# %% [markdown]
# ## The step
#
# SRGAN starts from an SRResNet that was trained on pixels alone. Here both are small, so that the
# lesson takes seconds: 2 residual blocks of 24 channels, and a VGG19 with random weights, cut after
# its first layer. The training images are *dead leaves*, drawn by the package; the photograph is used
# only for measuring. (Lesson 18 shows where batches come from.)

# %%
FIRST, SECOND = 600, 60  # steps of SRResNet on pixels alone, then of SRGAN, which starts from it
settings = dataclasses.replace(
    PRESETS["demo"],
    steps=FIRST,
    gan_steps=SECOND,
    batch_size=4,
    patch_size=12,
    channels=24,
    blocks=2,
    discriminator_channels=8,
    vgg_layer="conv1_1",
    learning_rate=3e-3,
    schedule="cosine",
    gan_learning_rate=1e-3,
    gan_schedule="cosine",
    adversarial_weight=5e-3,
)
batches = Batches(DeadLeaves(60, 2 * settings.image_size), settings.batch_size, settings.patch_size)
photo = Photograph().load(0)[60:316, 130:386]
small = downscale(photo, 4)
keep_memory()  # as the training command does


def new_trainer(**changes):
    return Trainer(dataclasses.replace(settings, **changes), CPU, say=lambda remark: None)


# %% [markdown]
# This is one step, in symbols. $G$ minimises a weighted sum of three losses, and $D$ its own loss:
#
# $$L_G = w_1 |G(lr) - hr|^2 + w_2 |\phi(G(lr)) - \phi(hr)|^2 + w_3 s(-D(G(lr)))$$
#
# $$L_D = \frac{1}{2} s(-D(hr)) + \frac{1}{2} s(D(G(lr)))$$
#
# Here $D$ stands for the logit and $s$ for the softplus (lesson 16). Both losses are recorded
# on one tape, and the tape is asked twice: for the gradients of $L_G$ with respect to $G$'s
# parameters, and for those of $L_D$ with respect to $D$'s. Neither question names VGG19's parameters,
# so their gradients are never computed.
#
# | array | shape, for 4 patches of 12 x 12 |
# |---|---|
# | `lr` | (4, 12, 12, 3) |
# | `sr`, `hr` | (4, 48, 48, 3) |
# | `real`, `fake` | (4, 1) |
# | `hr_features` | (4, 48, 48, 64) |


# %%
def step_by_hand(trainer, lr, hr):
    generator, discriminator = trainer.networks["srgan"], trainer.networks["discriminator"]
    hr_features = trainer.vgg(hr).array
    with Tape() as tape:
        sr = generator(lr)
        real, fake = discriminator.both(hr, sr)  # discriminator(hr) and discriminator(sr)
        loss_g = (
            ops.scale(losses.mean_squared_error(sr, hr), settings.pixel_weight)
            + ops.scale(losses.generator_adversarial(fake), settings.adversarial_weight)
            + ops.scale(
                losses.mean_squared_error(trainer.vgg(sr), hr_features), settings.perceptual_weight
            )
        )
        loss_d = losses.discriminator_adversarial(real, fake)
    gradients_g = tape.gradient(loss_g, generator.parameters(), keep=True)
    gradients_d = tape.gradient(loss_d, discriminator.parameters())
    trainer.adam["srgan"].step(gradients_g)
    generator.constrain()  # no checkerboards: lesson 10
    trainer.adam["discriminator"].step(gradients_d)


by_hand, package, untouched = new_trainer(), new_trainer(), new_trainer()
lr, hr = map(to_float, batches.batch(0))
step_by_hand(by_hand, lr, hr)
package.srgan_step(lr, hr)
for name in ("srgan", "discriminator"):
    assert np.allclose(by_hand.networks[name].flat, package.networks[name].flat, atol=1e-6)
    assert not np.allclose(by_hand.networks[name].flat, untouched.networks[name].flat, atol=1e-6)
print("the step by hand and the package's step leave the same two networks")

# %% [markdown]
# ## Four trainings
#
# The same SRResNet starts four games:
#
# | name | what is different |
# |---|---|
# | healthy | nothing |
# | pixels only | the weights of features and discriminator are 0: SRResNet's training just continues |
# | D shouts | the adversarial weight is 100 times as large |
# | G is frozen | like "D shouts", but after half the steps $G$ stops learning, and $D$ plays on alone |
#
# Every tenth step is *diagnosed*: it also measures how strongly each loss pulls at the generated picture.


# %%
def play(trainer, until):
    """Train on, up to a number of steps.  Returns the log rows of the diagnosed steps."""
    rows, waited, began = [], 0.0, time.perf_counter()
    feed = trainer.feed(batches.ahead_from(trainer.steps, until))
    for step, lr, hr in tqdm(feed, "training", until - trainer.steps, leave=False):
        row = trainer.step(lr, hr, diagnose=step % 10 == 9)
        if step % 10 == 9:
            waited += feed.waited()
            seconds = time.perf_counter() - began
            images = settings.batch_size * 10 * (len(rows) + 1)
            speed = {"images_per_s": images / seconds, "data_wait": waited / seconds}
            rows.append({"step": step + 1} | speed | row)
    for name in trainer.networks.keys() - {"discriminator"}:
        rows[-1][f"{name}_psnr"] = psnr(enlarged(trainer, name), photo)
    return rows


def enlarged(trainer, name):
    return apply_in_tiles(fold(trainer.trained(name)), small, CPU)


def from_checkpoint(path, **changes):
    """A trainer that goes on from a checkpoint with other settings."""
    _, *state = checkpoint.load(path)
    trainer = new_trainer(**changes)
    checkpoint.restore(trainer, *state)
    return trainer


healthy = new_trainer()
play(healthy, FIRST)
with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/checkpoint.h5"
    checkpoint.save(path, healthy)
    pixels_only = from_checkpoint(path, perceptual_weight=0.0, adversarial_weight=0.0)
    loud = from_checkpoint(path, adversarial_weight=100 * settings.adversarial_weight)
games = {
    "healthy": play(healthy, FIRST + SECOND),
    "pixels only": play(pixels_only, FIRST + SECOND),
    "D shouts": play(loud, FIRST + SECOND // 2),
}
loud.adam["srgan"].learning_rate = 0.0
loud.adam["discriminator"].learning_rate = settings.gan_learning_rate  # constant, to the end
games["G is frozen"] = play(loud, FIRST + SECOND)
for name, rows in games.items():
    print(f"\n{name}:\n  {health_line(rows[-1], FIRST + SECOND)}")

# %% [markdown]
# ## The health line, explained
#
# `pixel`, `perceptual`: how far the generated picture is from the original, in pixels and in features.
# Healthy: they fall slowly, or stay near SRResNet's. Sick: they climb, and keep climbing.
#
# `adversarial`: the mean of $-\log D(SR)$, what $G$ pays for being recognised. Healthy: from 0.7 to 2,
# where $\log 2 = 0.69$ is a draw. Sick: far above 3, because $D$ has won.
#
# `discriminator`: what $D$ pays. Healthy: somewhat below 0.69. Sick: near 0 for a long time, because
# $G$ no longer offers any resistance.
#
# `D(HR)`, `D(SR)`: $D$'s mean belief for photographs and for generated pictures. Healthy: HR above SR,
# both away from 0 and 1. Sick: 1.00 and 0.00. (In games as short as these, a healthy $D$ has hardly
# begun to tell the two apart.)
#
# `gradients at SR`: how strongly each loss pulls at the generated picture. Healthy: none is a hundred
# times another. Sick: one dominates all others.
#
# `cosine`: of the angle between the adversarial pull and that of the other losses. Healthy: near 0,
# they are independent. Sick: near -1, they undo each other's work.
#
# `PSNR`: of the validation images. Healthy: SRGAN's falls a little and stays there. Sick: it falls by
# several decibels.
#
# Check two of these against the games. First, compare the pull of the loud $D$ with that of the
# pixels:

# %%
pull = {
    name: rows[0]["gradient_adversarial"] / rows[0]["gradient_pixel"] for name, rows in games.items()
}
predict(
    "D's weight is 100 times as large. How many times as large is its pull, relative to that of the "
    "pixels, after ten steps?",
    guess=None,
    value=pull["D shouts"] / pull["healthy"],
    because="100 to begin with; within ten steps the pixel error has grown, and its pull with it",
)
assert pull["D shouts"] > 15 * pull["healthy"]

# %% [markdown]
# Second, the beliefs. A frozen $G$ is a fixed target, so $D$ should tell the two apart better and
# better. Look at the difference $D(HR) - D(SR)$, averaged over the last three diagnoses.

# %%
gap = {
    name: float(np.mean([row["d_hr"] - row["d_sr"] for row in rows[-3:]]))
    for name, rows in games.items()
}
predict(
    "D(HR) - D(SR) is between 0 and 1. What is it at the end of the game with the frozen G?",
    guess=None,
    value=gap["G is frozen"],
    because="G no longer plays against D",
)
print("D(HR) - D(SR) at the end:", {name: round(value, 2) for name, value in gap.items()})
assert gap["G is frozen"] > gap["healthy"]

colours = {"healthy": "C2", "pixels only": "C7", "D shouts": "C3", "G is frozen": "C0"}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for name, rows in games.items():
    steps = [row["step"] for row in rows]
    style = {"color": colours[name], "label": name}
    axes[0].plot(steps, [row["d_hr"] for row in rows], ".-", **style)
    axes[0].plot(steps, [row["d_sr"] for row in rows], ".--", color=colours[name])
    if name != "pixels only":
        axes[1].plot(
            steps, [row["gradient_adversarial"] / row["gradient_pixel"] for row in rows], ".-", **style
        )
    axes[2].plot(steps, [row["pixel"] for row in rows], ".-", **style)
axes[0].set(title="D's belief: HR solid, SR dashed", xlabel="step", ylim=(0, 1))
axes[1].set(title="adversarial pull / pixel pull, at SR", xlabel="step", yscale="log")
axes[2].set(title="pixel loss of SRGAN", xlabel="step", yscale="log")
for axis in axes:
    axis.legend(fontsize=8)
save(figure, "17_health")

# %% [markdown]
# ## What it costs, and what it gives
#
# Comparing SRGAN's PSNR with that of the SRResNet from which it started is not fair, because SRGAN has
# trained for longer. The fair baseline is "pixels only", the same network after the same number of
# steps.

# %%
scores = {
    "SRResNet, where SRGAN starts": games["healthy"][-1]["srresnet_psnr"],
    "pixels only, as many steps": games["pixels only"][-1]["srgan_psnr"],
    "SRGAN, healthy": games["healthy"][-1]["srgan_psnr"],
    "SRGAN, D shouts": psnr(enlarged(loud, "srgan"), photo),
}
scores = {"bicubic": psnr(upscale(small, 4), photo)} | scores
for name, score in scores.items():
    print(f"{name:30} {score:.2f} dB")
difference = scores["SRGAN, healthy"] - scores["pixels only, as many steps"]
print(f"SRGAN is {abs(difference):.2f} dB {'above' if difference > 0 else 'below'} its fair baseline.")

results = {
    "bicubic": upscale(small, 4),
    "SRResNet": enlarged(healthy, "srresnet"),
    "pixels only": enlarged(pixels_only, "srgan"),
    "SRGAN, healthy": enlarged(healthy, "srgan"),
    "SRGAN, D shouts": enlarged(loud, "srgan"),
    "HR": photo,
}
pictures = {name: image[20:150, 50:180] for name, image in results.items()}
save(picture_row(pictures, height=2.2), "17_small_srgan")

# %% [markdown]
# This network is too small, and its training too short, to draw convincing texture; what it shows is
# the mechanics. The networks in `weights/` were trained for hours. If the files are there, this is
# what they make of the same small picture:

# %%
files = {"SRResNet": "srresnet.h5", "SRGAN": "srgan.h5"}
files = {label: FOLDER.parent / "weights" / name for label, name in files.items()}
if all(file.exists() for file in files.values()):
    shown = {"bicubic": upscale(small, 4)}
    for label, file in files.items():
        shown[label] = apply_in_tiles(fold(storage.load_network(file)), small, CPU)
    for label, image in shown.items():
        print(f"{label:10} {psnr(image, photo):.2f} dB")
    difference = psnr(shown["SRGAN"], photo) - psnr(shown["SRResNet"], photo)
    print(
        f"The shipped SRGAN is {abs(difference):.2f} dB {'above' if difference > 0 else 'below'} "
        "the shipped SRResNet."
    )
    shown["HR"] = photo
    save(
        picture_row({label: image[40:200, 40:200] for label, image in shown.items()}, height=3.2),
        "17_srgan",
    )
else:
    print("the files in weights/ are missing, so this part is skipped")

# %% [markdown]
# Look closely at flat areas of SRGAN's picture, such as the forehead. Is its texture skin, or does it
# repeat every few pixels? Lesson 25 measures that. Lesson 24 explains the price in decibels,
# by calculation.
#
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "D answers 0.50 to every picture. Which adversarial loss does the health line show?",
    answer=None,
    check=lambda a: abs(a - np.log(2)) < 0.005,
    hint="-log D",
)
exercise(
    2,
    "A sick line: D(HR) 1.00, D(SR) 0.00, adversarial 12. How large (without the sign) is the gradient "
    "of the adversarial loss with respect to the logit of a generated picture?",
    answer=None,
    check=lambda a: abs(a - 1) < 0.01,
    hint="lesson 16: it is 1 - D; the loser still learns",
)
exercise(
    3,
    "Gradients at SR: pixel 0.002, adversarial 0.5. By which factor must the adversarial weight change for "
    "both to pull equally?",
    answer=None,
    check=lambda a: abs(a - 0.004) < 1e-4,
    hint="0.002 / 0.5",
)

# %% [markdown]
# Write an alarm for training runs. `sick(row)` takes a row of the log, a dictionary with keys such as
# `d_hr`, `d_sr`, `adversarial`, `gradient_adversarial` and `gradient_pixel`, and returns True if the
# run should be stopped.


# %%
def rings_rightly(sick):
    """It must be quiet at the end of the healthy game, and ring for three rows that are sick."""
    fine = games["healthy"][-1]
    rows = {
        "the last row of the healthy game": (fine, False),
        "D(HR) 1.00 and D(SR) 0.00": (fine | {"d_hr": 1.0, "d_sr": 0.0, "adversarial": 9.0}, True),
        "an adversarial pull 500 times the pixels'": (
            fine | {"gradient_adversarial": 500 * fine["gradient_pixel"]},
            True,
        ),
        "a pixel loss that is not a number": (fine | {"pixel": float("nan")}, True),
    }
    for name, (row, expected) in rows.items():
        if bool(sick(row)) != expected:
            return f"for {name} it should say {expected}"
    return True


exercise(4, "Write sick(row).", answer=None, check=rings_rightly, hint="NaN is not equal to itself")
