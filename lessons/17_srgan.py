"""Lesson 17: SRGAN, trained on dead leaves.  Two networks learn against each other: how does one see whether that goes well?

You should know: SRResNet (lesson 12), the perceptual loss (15), the two players (16).  Paper: Ledig et al. 2017, section 2.2.
Lives in: npsrgan/trainer.py (the step), npsrgan/report.py (the health line), npsrgan/train.py (the command).
"""
# %% The question.  A loss that falls means little here: each player's loss falls when the other one's rises.  A pixel error that
# rises may mean a sharper picture.  So a training run prints one line of numbers, and one must be able to read it.
import sys; sys.path[:0] = ["lessons", "."]
import dataclasses
import tempfile
import time
import numpy as np
from _lesson import exercise, picture_row, plt, save
from tqdm import tqdm

from npsrgan import losses, ops
from npsrgan.train import checkpoint, report
from npsrgan.data import Batches, DeadLeaves, Photograph, downscale, upscale
from npsrgan.device import CPU
from npsrgan.fast import keep_memory
from npsrgan.inference import fold, super_resolve
from npsrgan.metrics import psnr
from npsrgan.train.settings import PRESETS
from npsrgan.tape import Tape
from npsrgan.trainer import Trainer

FIRST, SECOND = 600, 100        # steps of SRResNet on pixels alone, then of SRGAN, which starts from it
settings = dataclasses.replace(PRESETS["demo"], steps=FIRST, gan_steps=SECOND, batch_size=4, patch_size=12, channels=24, blocks=2,
                               discriminator_channels=16, vgg_layer="conv1_1", learning_rate=3e-3, gan_learning_rate=1e-3,
                               gan_schedule="constant", adversarial_weight=2e-3)
batches = Batches(DeadLeaves(60, 2 * settings.image_size), settings.batch_size, settings.patch_size)
photo = Photograph().load(0)[60:316, 130:386]       # to look at and to measure on: training never sees a photograph
small = downscale(photo, 4)
keep_memory()       # as the command does


def new_trainer(settings=settings):
    return Trainer(settings, CPU, say=lambda remark: None)


# %% The formulas, on one tape:       G wants   w1 |sr - hr|^2  +  w2 |VGG(sr) - VGG(hr)|^2  +  w3 softplus(-D(sr))
#                                     D wants   (softplus(-D(hr)) + softplus(D(sr))) / 2
# Two questions are asked of it: G's loss for G's parameters, D's loss for D's.  Nobody is asked about VGG's: it stays as it is.


def step_by_hand(generator, discriminator, vgg, adam_g, adam_d, lr, hr):
    hr_features = vgg(hr).array
    with Tape() as tape:
        sr = generator(lr)
        real, fake = discriminator(hr), discriminator(sr)
        loss_g = (ops.scale(losses.mean_squared_error(sr, hr), settings.pixel_weight)
                  + ops.scale(losses.generator_adversarial(fake), settings.adversarial_weight)
                  + ops.scale(losses.mean_squared_error(vgg(sr), hr_features), settings.perceptual_weight))
        loss_d = losses.discriminator_adversarial(real, fake)
    gradients_g = tape.gradient(loss_g, generator.parameters(), keep=True)
    gradients_d = tape.gradient(loss_d, discriminator.parameters())
    adam_g.step(gradients_g)
    adam_d.step(gradients_d)


one, two = new_trainer(), new_trainer()
step_by_hand(one.networks["srgan"], one.networks["discriminator"], one.vgg, one.adam["srgan"], one.adam["discriminator"],
             *batches.batch(0))
two.srgan_step(*batches.batch(0))       # the package's
for name in ("srgan", "discriminator"):
    assert np.allclose(one.networks[name].flat, two.networks[name].flat, atol=1e-6)
    assert not np.allclose(one.networks[name].flat, new_trainer().networks[name].flat, atol=1e-6)       # and both did move
print("the step by hand and the package's step leave the same networks")

# %% Training.  Every tenth step is audited: it also measures what each loss asks of the picture.


def play(trainer, until):
    """Train on; returns the audited rows."""
    rows, waited, clock = [], 0, time.perf_counter()
    ready = clock
    for step, lr, hr in tqdm(batches.ahead_from(trainer.steps, until), "training", until - trainer.steps, leave=False):
        waited += time.perf_counter() - ready
        row = trainer.step(lr, hr, audit=step % 10 == 9)
        ready = time.perf_counter()
        if step % 10 == 9:
            speed = settings.batch_size * (10 * len(rows) + 10) / (ready - clock)
            rows.append({"step": step + 1, "images_per_s": speed, "data_wait": waited / (ready - clock)} | row)
    for name in trainer.networks.keys() - {"discriminator"}:
        rows[-1][f"{name}_psnr"] = psnr(enlarged(trainer, name), photo)
    return rows


def enlarged(trainer, name):
    return super_resolve(fold(trainer.networks[name]), small, CPU)


healthy = new_trainer()
play(healthy, FIRST)
with tempfile.TemporaryDirectory() as folder:       # the same SRResNet starts two games
    checkpoint.save(f"{folder}/checkpoint.h5", healthy)
    of_checkpoint, *state = checkpoint.load(f"{folder}/checkpoint.h5")
loud = new_trainer(dataclasses.replace(settings, adversarial_weight=0.4))       # 200 times as much
checkpoint.restore(loud, *state)
games = {"healthy": play(healthy, FIRST + SECOND), "D shouts": play(loud, FIRST + SECOND // 2)}
loud.adam["srgan"].learning_rate = 0.0      # a third one: from now on G learns nothing, for whatever reason, and D plays alone
games["then G is frozen"] = play(loud, FIRST + SECOND * 3 // 2)
for name, rows in games.items():
    print(f"\n{name}:\n  {report.health_line(rows[-1], rows[-1]['step'])}")
# %% The health line, read aloud:
#
#   pixel, perceptual      what SR (G's picture) misses of HR.  Slowly falling, or a little above SRResNet's.  Sick: they climb and climb.
#   adversarial            mean -log D(SR), what G pays for being found out.  log 2 = 0.69: a draw.  Sick: far above 3, D has won.
#   discriminator          what D pays.  0.69: it guesses.  Sick: near 0 for long, nobody is left to play against.
#   D(HR), D(SR)           its mean beliefs.  Healthy: HR above SR, both off the walls.  Sick: 1.00 and 0.00.
#   gradients at SR        how hard each loss pulls at the made picture.  Healthy: one leads, none is a hundred times another.
#   cosine                 between the adversarial pull and the others': near 0, each has its own say; -1, they undo each other.
#   PSNR                   SRGAN's lies a little below SRResNet's (that is the price of texture).  Sick: it falls by decibels.
#
# Predictions.  Shouting 200 times louder: the adversarial pull, measured against the pixels', grows more than 30 times.
# Frozen G: D wins; its two beliefs move apart, further than in the healthy game.
pull = {name: rows[0]["gradient_adversarial"] / rows[0]["gradient_pixel"] for name, rows in games.items()}
gap = {name: np.mean([row["d_hr"] - row["d_sr"] for row in rows[-3:]]) for name, rows in games.items()}
print("\nadversarial pull against the pixels', after ten steps:", {name: round(value, 1) for name, value in pull.items()})
print("D(HR) - D(SR) at the end:", {name: round(float(value), 2) for name, value in gap.items()})
assert pull["D shouts"] > 30 * pull["healthy"]
assert gap["then G is frozen"] > gap["healthy"]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for (name, rows), colour in zip(games.items(), ("C2", "C3", "C0")):
    steps = [row["step"] for row in rows]
    axes[0].plot(steps, [row["d_hr"] for row in rows], ".-", color=colour, label=name)
    axes[0].plot(steps, [row["d_sr"] for row in rows], ".--", color=colour)
    axes[1].plot(steps, [row["gradient_adversarial"] / row["gradient_pixel"] for row in rows], ".-", color=colour, label=name)
    axes[2].plot(steps, [row["pixel"] for row in rows], ".-", color=colour, label=name)
axes[0].set(title="D's belief: HR solid, SR dashed", xlabel="step", ylim=(0, 1))
axes[1].set(title="adversarial pull / pixel pull, at SR", xlabel="step", yscale="log")
axes[2].set(title="pixel loss of SRGAN", xlabel="step", yscale="log")
for axis in axes:
    axis.legend(fontsize=8)
save(figure, "17_health")
results = {"bicubic": upscale(small, 4), "SRResNet": enlarged(healthy, "srresnet"), "SRGAN, healthy": enlarged(healthy, "srgan"),
           "SRGAN, D shouts": enlarged(loud, "srgan"), "HR": photo}
pictures = {f"{name}\n{psnr(image, photo):.2f} dB".removesuffix("\ninf dB"): image[20:150, 50:180]
            for name, image in results.items()}
save(picture_row(pictures, height=2.4), "17_srgan")

# %% Your turn
exercise(1, "D answers 0.50 to every picture.  Which adversarial loss does the health line show?", None,
         lambda a: abs(a - np.log(2)) < 0.005, hint="-log D")
exercise(2, "A sick line: D(HR) 1.00, D(SR) 0.00, adversarial 12.  How large, without its sign, is the gradient of the "
         "adversarial loss at a logit?", None, lambda a: abs(a - 1) < 0.01, hint="lesson 16: 1 - D; the loser still hears")
exercise(3, "Gradients at SR: pixel 0.002, adversarial 0.5.  By which factor must the adversarial weight change for both to pull "
         "equally?", None, lambda a: abs(a - 0.004) < 1e-4)
