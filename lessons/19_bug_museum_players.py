# %% [markdown]
# # Lesson 19: The bug museum, first room: the two players
#
# **The question.** Which bugs let a GAN run, print plausible losses, and learn nothing?
#
# You should know: the SRGAN step (lesson 17).
#
# Papers: Ledig et al. 2017, section 2; Goodfellow et al. 2014.
#
# Lives in: nowhere in the package, we hope. The cures are in `npsrgan/trainer.py`,
# `npsrgan/losses.py` and `npsrgan/tape.py`.
#
# **How to visit.** All exhibits were found in public SRGAN code. Each is a function with a switch
# `bug`, and a test that fails with the bug and passes without. The decorator `exhibit` runs the test
# both ways and prints its message. Take the tests home: they would have found the bugs in an
# afternoon. Each exhibit begins with the symptom, as users describe it.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, plt, predict, save
from _museum import catches, exhibit
from threadpoolctl import threadpool_limits

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.gradcheck import normal
from npsrgan.layers import LeakyReLU, Linear, Sequential, initialise
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.tape import Tape, Tensor

threadpool_limits(1)  # all matrices here are small
lr, hr = (np.clip(normal(4, side, side, 3), -1, 1).astype(np.float32) for side in (4, 16))
generator, discriminator, vgg = SRResNet(8, 1), Discriminator(4, 16), random_vgg19("conv1_2")
discriminator.classifier.steps[-1].weight.array *= 1e-3  # an undecided beginner: D = 0.5 for everything


def join(gradients):
    """One vector of all gradients."""
    return np.concatenate([g.ravel() for g in gradients]).astype(np.float64)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# %% [markdown]
# ## 1. D's loss flows into G
#
# *Symptom.* "D's loss drops to zero at once, and G's pictures get no sharper. Removing the adversarial
# loss changes nothing."
#
# *The bug.* In a framework whose gradients accumulate in the parameters, the step was written as
#
# ```python
# loss_g.backward()
# loss_d.backward()
# optimizer_g.step()
# optimizer_d.step()
# ```
#
# $D$'s loss depends on $G$'s parameters too, through $D(sr)$. So the second line adds its gradient to
# theirs, and $G$ descends on `loss_g + loss_d`: it helps $D$ to recognise its own pictures.
#
# *How bad is it?* Compare the two slopes with respect to the logit of a generated picture. With the
# adversarial weight $w$:
#
# | | loss | slope |
# |---|---|---|
# | wanted | $-w \log D$ | $-w (1 - D)$ |
# | leak | $-\frac{1}{2} \log(1 - D)$ | $+\frac{1}{2} D$ |
#
# They have opposite signs, so the leak points exactly the other way. Its size, relative to what was
# wanted, is
#
# $$\frac{D / 2}{w (1 - D)}$$
#
# The factor depends on $w$ and on $D$, so there is no single number for this bug. The code in which it
# was found uses $w = 10^{-2}$.


# %%
def adversarial_gradient(bug, weight=1e-2):
    """What reaches G's parameters from the game, what should, and what leaks: three vectors."""
    with Tape() as tape:
        fake, real = discriminator(generator(lr)), discriminator(hr)
        wanted = ops.scale(losses.generator_adversarial(fake), weight)
        loss_d = losses.discriminator_adversarial(real, fake)
        loss = wanted + loss_d if bug else wanted
    return [
        join(tape.gradient(value, generator.parameters(), keep=True)) for value in (loss, wanted, loss_d)
    ]


_, wanted, leak = adversarial_gradient(bug=True)
factor = np.linalg.norm(leak) / np.linalg.norm(wanted)
predict(
    "At D = 0.5, with the weight 1e-2: how many times as long as the wanted gradient is the leak?",
    guess=None,
    value=float(factor),
    because="0.25 against 0.005",
)
print(f"the cosine of the angle between them is {cosine(leak, wanted):.4f}")
assert abs(factor - 50) < 0.5
assert cosine(leak, wanted) < -0.999


@exhibit
def test_d_loss_does_not_reach_g(bug):
    reaches, wanted, _ = adversarial_gradient(bug)
    assert cosine(reaches, wanted) > 0.999, (
        f"G moves against its own loss: cosine {cosine(reaches, wanted):.3f}"
    )


# %% [markdown]
# *The cure.* Ask for what you want. A question to the tape names its parameters, as in
# `tape.gradient(loss_g, g.parameters(), keep=True)`, and nothing accumulates anywhere. In frameworks
# that accumulate: detach `sr` for $D$'s loss, and clear the gradients between the two.
#
# Here is the game of lesson 16 with the leak and without, 700 steps each. With the leak, $G$'s points
# stay where $D$ recognises them.

# %%
angles = np.arange(8) * np.pi / 4
spots = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def player(inputs, outputs):
    layers = Linear(inputs, 64), LeakyReLU(), Linear(64, 64), LeakyReLU(), Linear(64, outputs)
    return initialise(Sequential(*layers), seed=outputs)


def play(bug, steps=700):
    """The points that G makes in the end, and what D pays."""
    g, d = player(4, 2), player(2, 1)
    adam_g, adam_d = Adam(g, 4e-3, beta1=0.5), Adam(d, 4e-3, beta1=0.5)
    for step in range(steps):
        rng = np.random.default_rng([13, step])
        real = (spots[rng.integers(8, size=128)] + 0.1 * rng.standard_normal((128, 2))).astype(
            np.float32
        )
        with Tape() as tape:
            made = g(rng.standard_normal((128, 4), np.float32))
            z_real, z_fake = d(real), d(made)
            loss_d = losses.discriminator_adversarial(z_real, z_fake)
            loss_g = ops.scale(losses.generator_adversarial(z_fake), 1e-2)
            if bug:
                loss_g = loss_g + loss_d
        gradients_g = tape.gradient(loss_g, g.parameters(), keep=True)
        adam_d.step(tape.gradient(loss_d, d.parameters()))
        adam_g.step(gradients_g)
    return made.array, float(loss_d)


figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
for axis, bug in zip(axes, (True, False)):
    made, loss_d = play(bug)
    axis.plot(*made.T, "k.", ms=6, label="made by G")
    axis.plot(*spots.T, "o", mfc="none", mec="green", mew=2, ms=14, label="photographs")
    axis.set(
        title=f"{'with' if bug else 'without'} the leak: D pays {loss_d:.2g}",
        aspect="equal",
        xlim=(-5, 5),
        ylim=(-5, 5),
    )
    axis.legend(loc="upper right", fontsize=8)
save(figure, "19_leak")

# %% [markdown]
# ## 2. The sigmoid, then the logarithm
#
# *Symptom.* "G learns for an epoch, then stops for good." Or, where the small number is missing:
# "loss is nan".
#
# *The bug.* The loss is written as on paper, $-\log(D + 10^{-8})$ with $D = \sigma(z)$. At $z = -30$,
# $D$ is $10^{-13}$, far below $10^{-8}$, and the sum no longer depends on it. Lesson 16 draws
# the gradient for all $z$.
#
# *The cure.* The softplus of $-z$, which is the same formula without the detour.


# %%
def literal_adversarial(fake_logits, eps=1e-8):
    """The mean of -log(D(sr) + eps), as it is often written."""
    return ops.mean(-ops.log(ops.sigmoid(fake_logits) + eps))


@exhibit
def test_a_beaten_generator_still_hears(bug):
    z = Tensor(np.full((1, 1), -30, np.float32))
    with Tape() as tape:
        loss = (literal_adversarial if bug else losses.generator_adversarial)(z)
    slope = float(tape.gradient(loss, z)[0, 0])
    assert abs(slope + 1) < 1e-3, f"the gradient at z = -30 is {slope:.1e}, and should be -1"


# %% [markdown]
# ## 3. One batch norm for both
#
# *Symptom.* "D is right about everything after 50 steps, and on single images its accuracy falls to
# chance."
#
# *The bug.* To save a pass, photographs and generated pictures are joined into one batch:
# `discriminator(np.concatenate([sr, hr]))`. Batch norm then measures the mean of a mixture. The
# logit of an image depends on its neighbours, and $D$ can tell the halves apart by their distance
# from the common mean alone.
#
# *The cure.* Two passes. The tape records both, and both questions use them.


# %%
@exhibit
def test_verdict_on_photographs_does_not_depend_on_made_ones(bug):
    def verdict(sr):
        if bug:
            return discriminator(np.concatenate([sr, hr])).array[len(sr) :]
        return discriminator(hr).array

    grey, black = verdict(np.zeros_like(hr)), verdict(np.full_like(hr, -1))
    change = np.abs(grey - black).max() / grey.std()
    assert change < 1e-6, (
        f"black in place of grey SR moves the verdicts on HR by {change:.1f} of their own spread"
    )


# %% [markdown]
# ## 4. A loss that is not connected to anything
#
# *Symptom.* "The content loss is printed and never falls. Whether its weight is 0 or 1000, the
# pictures are the same."
#
# *The bug.* The number was taken out of the graph and wrapped again, as in
# `Tensor(np.array(float(content), np.float32))`. It prints as before, but no operation made it, so no
# gradient flows through it.
#
# *The cure.* Keep the tensor. Asked about such a loss alone, `tape.gradient` raises an error: the loss
# does not depend on the parameters. Added to another loss, as here, it goes unnoticed.


# %%
@exhibit
def test_content_weight_matters(bug):
    def gradient(weight):
        with Tape() as tape:
            sr = generator(lr)
            content = losses.mean_squared_error(vgg(sr), vgg(hr).array)
            if bug:
                content = Tensor(np.array(float(content), np.float32))
            loss = ops.scale(content, weight) + losses.generator_adversarial(discriminator(sr))
        return join(tape.gradient(loss, generator.parameters()))

    assert np.any(gradient(1.0) != gradient(0.0)), (
        "G's gradient is the same with content weights 0 and 1"
    )


# %% [markdown]
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "With the paper's adversarial weight, 1e-3, how many times as long as the wanted gradient is the leak at "
    "D = 0.5?",
    answer=None,
    check=lambda a: abs(a - 500) < 1,
    hint="0.25 against 1e-3 * 0.5",
)
exercise(
    2,
    "How many times with the weight 1e-2, where D is nearly fooled, D(sr) = 0.9?",
    answer=None,
    check=lambda a: abs(a - 450) < 1,
    hint="D / 2 against 1e-2 (1 - D)",
)

# %% [markdown]
# Write another test that catches the first bug. It takes a function `reaches(weight)`, which
# returns the gradient that reaches $G$'s parameters from the game, as one vector, for a given
# adversarial weight. With the leak, it must raise an AssertionError or return False. (There is a
# weight for which you know the right answer without any calculation.)


# %%
def what_reaches_g(bug):
    return lambda weight: adversarial_gradient(bug, weight)[0]


exercise(
    3,
    "Write my_test(reaches).",
    answer=None,
    check=catches(what_reaches_g),
    hint="with the weight 0 nothing may arrive",
)
