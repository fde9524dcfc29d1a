# %% [markdown]
# # Lesson 16: The two players
#
# **The question.** What does each of SRGAN's two networks want, and how is that written down so
# that the one that is losing can still learn?
#
# You should know: the tape (lesson 03), Adam (lesson 11) and the discriminator (lesson 14).
#
# Papers: Goodfellow et al. 2014, "Generative adversarial nets", section 3; Ledig et al. 2017,
# section 2.1 and equations 2 and 6.
#
# Lives in: `npsrgan/losses.py`, `npsrgan/models/discriminator.py` and `npsrgan/ops/activations.py`.
#
# A generator $G$ makes pictures. A discriminator $D$ looks at a picture and answers with one number,
# the *logit* $z$: positive for "a photograph", negative for "generated". Its belief is
# $D = \sigma(z) = 1 / (1 + e^{-z})$, a number between 0 and 1. $D$ learns to tell the two apart, and
# $G$ learns to fool it. Nobody ever shows $G$ a correct answer. All that $G$ learns from this game
# reaches it through the gradient of $z$.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, plt, predict, save
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.gradcheck import check
from npsrgan.layers import LeakyReLU, Linear, Sequential, initialise
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## What each player pays
#
# $D$ pays $-\log D$ for a photograph, which is 0 when it is sure and right, and grows without limit
# when it is sure and wrong. For a generated picture it pays $-\log(1 - D)$.
#
# For $G$ there is a choice. Both of these fall as $D$'s belief in $G$'s picture rises:
#
# | name | $G$ pays | slope with respect to $z$ |
# |---|---|---|
# | saturating | $\log(1 - D)$ | $-D$ |
# | non-saturating | $-\log D$ | $-(1 - D)$ |
#
# The first is the exact opposite of what $D$ pays, which makes a zero-sum game. The slopes follow
# from the derivative of the sigmoid, $d\sigma/dz = D (1 - D)$:
#
# $$\frac{d}{dz} \log(1 - D) = -\frac{D (1 - D)}{1 - D} = -D \qquad
# \frac{d}{dz} (-\log D) = -\frac{D (1 - D)}{D} = -(1 - D)$$
#
# Both losses are computed from the logit with one function, the softplus
# $s(z) = \log(1 + e^z)$, because
#
# $$-\log D = \log(1 + e^{-z}) = s(-z) \qquad -\log(1 - D) = \log(1 + e^z) = s(z)$$
#
# (Lesson 14 shows how to compute it so that no logit overflows.)


# %%
def saturating(z):
    """log(1 - D)"""
    return ops.scale(ops.softplus(z), -1)


def non_saturating(z):
    """-log D"""
    return ops.softplus(-z)


def slope(loss, z, dtype=np.float64):
    """The gradient of a loss with respect to the logits z, by the tape."""
    z = Tensor(np.asarray(z, dtype))
    with Tape() as tape:
        value = ops.sum(loss(z))
    return tape.gradient(value, z)


for loss in (saturating, non_saturating):
    (result,) = check(loss, np.linspace(-4, 4, 9))
    print(result)
    assert result.passed

# %% [markdown]
# Early in training, $D$ is sure that $G$'s pictures are generated. Say $z = -10$.

# %%
sure = 1 / (1 + np.exp(10))
predict(
    "How steep (without the sign) is the saturating loss at z = -10?",
    guess=None,
    value=-float(slope(saturating, -10)),
    because="it is D itself, which is about e^-10",
)
predict(
    "How steep is the non-saturating loss there?",
    guess=None,
    value=-float(slope(non_saturating, -10)),
    because="it is 1 - D",
)
assert np.isclose(slope(saturating, -10), -sure)
assert np.isclose(slope(non_saturating, -10), -(1 - sure))

# %% [markdown]
# The saturating loss tells a losing generator almost nothing: the worse its picture, the flatter the
# slope. Hence the name. SRGAN uses the other one. The package's losses are these, averaged over a
# batch, and $D$'s loss is the mean of its two halves:

# %%
z = np.linspace(-3, 3, 5)
photographs, made = ops.softplus(-z).array, ops.softplus(z).array
assert np.isclose(losses.generator_adversarial(z).array, non_saturating(z).array.mean())
assert np.isclose(losses.discriminator_adversarial(z, z).array, (photographs.mean() + made.mean()) / 2)
print("losses.generator_adversarial and losses.discriminator_adversarial are these formulas")

# %% [markdown]
# ## The formula as it is often written
#
# Much code computes the sigmoid first and writes $-\log(D + 10^{-8})$, with the small number to keep
# the logarithm finite. On paper nothing changes. On a computer two things do.
#
# First, when $D$ is far below $10^{-8}$, which it reaches at $z = -18.4$, the sum no longer
# depends on $D$, and the gradient vanishes in any precision. Second, on $D$'s side, $1 - D$ is
# computed by a subtraction. Numbers of float32 just below 1 are $6 \cdot 10^{-8}$ apart, so from
# $z = 14$ on, $1 - D$ is only a dozen such steps or fewer, and from about 16.6 on it is exactly 0.


# %%
def literal(z):
    """-log(D + 1e-8), for G."""
    return -ops.log(ops.sigmoid(z) + 1e-8)


def literal_made(z):
    """-log(1 - D + 1e-8), what D pays for a generated picture."""
    return -ops.log(1.0 - ops.sigmoid(z) + 1e-8)


late = np.linspace(14, 18, 200)
wrong = slope(literal_made, late, np.float32)
predict(
    "For z from 14 to 18 the slope should be 1. What is the largest that this form gives, in float32?",
    guess=None,
    value=float(wrong.max()),
    because="where 1 - D is rounded to 0, the slope is the true D (1 - D), still 6e-8, divided by 1e-8",
)
print(f"In float32, its slopes for z from 14 to 18 lie between {wrong.min():.2f} and {wrong.max():.2f}.")
assert wrong.max() > 2 and wrong.min() < 0.7
assert np.allclose(slope(ops.softplus, late, np.float32), 1, atol=1e-5)
assert abs(slope(literal, -30)) < 1e-4 and slope(non_saturating, -30, np.float32) == -1

f32, f64 = np.float32, np.float64
panels = {
    "What G hears": [
        (saturating, f64, "log(1 - D), saturating"),
        (non_saturating, f64, "-log D, non-saturating"),
    ],
    "G's -log D, written in two ways": [
        (non_saturating, f32, "softplus(-z), float32"),
        (literal, f32, "log(sigmoid + 1e-8), float32"),
        (literal, f64, "the same, float64"),
    ],
    "D's -log(1 - D), written in two ways": [
        (ops.softplus, f32, "softplus(z), float32"),
        (literal_made, f32, "log(1 - sigmoid + 1e-8), float32"),
        (literal_made, f64, "the same, float64"),
    ],
}
styles = {"lw": 4, "alpha": 0.5}, {}, {"ls": "--"}
logits = np.linspace(-25, 25, 1001)
figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
for axis, (title, curves) in zip(axes, panels.items()):
    for (loss, dtype, label), style in zip(curves, styles):
        axis.plot(logits, slope(loss, logits, dtype), label=label, **style)
    axis.set(
        title=title,
        xlabel="logit z: from sure of 'generated' to sure of 'photograph'",
        ylabel="gradient with respect to z",
    )
    axis.legend(fontsize=8)
save(figure, "16_gradients")

# %% [markdown]
# ## A game that can be watched
#
# Here "photographs" are points in a plane, gathered in eight spots on a ring. $G$ turns four random
# numbers into a point. Both players are three linear layers. $G$ begins with all its points near the
# middle, and $D$ takes 150 steps alone, so that it is sure of itself when the game begins.
#
# | network | layers | shapes, for a batch of 128 |
# |---|---|---|
# | $G$ | linear, LeakyReLU, linear, LeakyReLU, linear | (128, 4), (128, 64), (128, 64), (128, 2) |
# | $D$ | the same | (128, 2), (128, 64), (128, 64), (128, 1) |

# %%
angles = np.arange(8) * np.pi / 4
spots = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
STEPS, BATCH, FRAMES = 1000, 128, (0, 50, 200, 500, 1000)
threadpool_limits(1)  # a second thread costs more than it gains on matrices this small


def real(seed, step):
    """A batch of photographs: a random spot for each, and a little noise around it."""
    rng = np.random.default_rng([11, seed, step])
    return (spots[rng.integers(8, size=BATCH)] + 0.1 * rng.standard_normal((BATCH, 2))).astype(
        np.float32
    )


def noise(seed, step, n=BATCH):
    """What G starts from: four random numbers for each point."""
    return np.random.default_rng([12, seed, step]).standard_normal((n, 4)).astype(np.float32)


def player(inputs, outputs, seed):
    layers = Linear(inputs, 64), LeakyReLU(), Linear(64, 64), LeakyReLU(), Linear(64, outputs)
    return initialise(Sequential(*layers), seed)


def new_game(seed):
    """(G, D, their optimisers), after D's 150 steps alone."""
    generator, discriminator = player(4, 2, 2 * seed), player(2, 1, 2 * seed + 1)
    generator.steps[-1].weight.array *= 0.2
    adam_g = Adam(generator, 4e-3, beta1=0.5)  # a short memory, because the goal moves
    adam_d = Adam(discriminator, 4e-3, beta1=0.5)
    for step in range(150):
        with Tape() as tape:
            fake = generator(noise(seed, step))
            loss = losses.discriminator_adversarial(discriminator(real(seed, step)), discriminator(fake))
        adam_d.step(tape.gradient(loss, discriminator.parameters()))
    return generator, discriminator, adam_g, adam_d


def norm(gradients):
    return float(np.sqrt(sum((g * g).sum() for g in gradients)))


generator, discriminator, *_ = new_game(seed=0)
with Tape() as tape:
    logits = discriminator(generator(noise(0, 0)))
    asks = {loss.__name__: ops.mean(loss(logits)) for loss in (saturating, non_saturating)}
hears = {
    name: norm(tape.gradient(loss, generator.parameters(), keep=True)) for name, loss in asks.items()
}
print(f"D is sure: its mean logit for G's points is {logits.array.mean():.1f}.")
predict(
    "How many times longer is G's gradient with the non-saturating loss than with the saturating one?",
    guess=None,
    value=hears["non_saturating"] / hears["saturating"],
    because="for one point it is (1 - D) / D = e^-z; here the points' gradients are averaged first",
)
assert logits.array.mean() < -4
assert hears["non_saturating"] > 20 * hears["saturating"]

# %% [markdown]
# Now both play. One forward pass serves both questions: the tape is asked for $G$'s gradients of
# $G$'s loss, and for $D$'s gradients of $D$'s loss.
#
# A spot counts as *found* if at least 2 % of $G$'s points lie within 0.3 of it.


# %%
def spots_found(points):
    """How many of the eight spots hold at least 2 % of the points (n, 2)."""
    distance = np.linalg.norm(points[:, None] - spots, axis=2)  # (n, 8)
    nearest = distance.argmin(1)[distance.min(1) < 0.3]
    return int((np.bincount(nearest, minlength=8) >= 0.02 * len(points)).sum())


grid = (
    np.stack(np.meshgrid(np.linspace(-3, 3, 80), np.linspace(-3, 3, 80)), -1)
    .reshape(-1, 2)
    .astype(np.float32)
)


def play(seed, slower_d=1):
    """{step: (G's points, D's belief on the grid)} of one game.  slower_d: divides D's learning rate."""
    generator, discriminator, adam_g, adam_d = new_game(seed)
    adam_d.learning_rate /= slower_d
    seen = {}
    for step in tqdm(range(STEPS + 1), f"game {seed}", leave=False):
        if step in FRAMES:
            belief = ops.sigmoid(discriminator(grid)).array.reshape(80, 80)
            seen[step] = generator(noise(seed, 10**6, 600)).array, belief
        with Tape() as tape:
            fake = generator(noise(seed, step))
            z_real, z_fake = discriminator(real(seed, step)), discriminator(fake)
            loss_g = losses.generator_adversarial(z_fake)
            loss_d = losses.discriminator_adversarial(z_real, z_fake)
        gradients_g = tape.gradient(loss_g, generator.parameters(), keep=True)
        adam_d.step(tape.gradient(loss_d, discriminator.parameters()))
        adam_g.step(gradients_g)
    return seen


def draw(axis, points, belief, title):
    axis.imshow(belief, extent=(-3, 3, -3, 3), origin="lower", cmap="RdBu", vmin=0, vmax=1, alpha=0.6)
    axis.plot(*points.T, "k.", ms=2)
    axis.plot(*spots.T, "o", mfc="none", mec="green", ms=13)
    axis.set(title=title, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")


SEEDS = 0, 1, 2
games = {seed: play(seed) for seed in SEEDS}
figure, axes = plt.subplots(1, len(FRAMES), figsize=(12.5, 3), sharey=True, layout="constrained")
for axis, (step, (points, belief)) in zip(axes, games[0].items()):
    draw(axis, points, belief, f"step {step}: {spots_found(points)} of 8 found")
figure.suptitle(
    "Black: G's points. Green: photographs. D's belief: blue 'photograph', red 'generated'", fontsize=10
)
save(figure, "16_ring")

misses = {}
for step, (points, _) in games[0].items():
    misses[step] = float(np.linalg.norm(points[:, None] - spots, axis=2).min(1).mean())
print(
    "mean distance of G's points to the nearest spot:",
    {step: round(miss, 2) for step, miss in misses.items()},
)
assert misses[STEPS] < misses[0] / 2.5

# %% [markdown]
# Nobody showed $G$ the spots. It followed $D$'s slope, from red to blue, and found them. A squared
# error would have preferred the mean of all photographs, which is the middle of the ring, where no
# photograph lies.
#
# ## Mode collapse
#
# Does $G$ find all eight spots? The same game, with three different seeds:

# %%
found = {seed: spots_found(games[seed][STEPS][0]) for seed in SEEDS}
predict(
    f"Over {len(SEEDS)} games, how many of the eight spots does G find on average?",
    guess=None,
    value=float(np.mean(list(found.values()))),
    because="a spot with few points does not count",
)
print("spots found after 1000 steps, by seed:", found)

# %% [markdown]
# Often one or two spots are left out, or hold only a few points. The counts differ from seed to seed
# and, because rounding differs, from machine to machine.
#
# Why can $G$ afford that? Its loss is an average over its own points, and each point pays only for
# being recognised itself. A point on *any* spot pays little, and no term of the loss asks
# whether all spots are visited. Only $D$ can object. On a spot where generated points outnumber the
# photographs, $D$ learns a belief below one half, and from then on the points there are pushed away.
# So everything depends on $D$ keeping pace. Give it a tenth of its learning rate:

# %%
slow = {seed: play(seed, slower_d=10) for seed in SEEDS}
found_slow = {seed: spots_found(slow[seed][STEPS][0]) for seed in SEEDS}
predict(
    "How many does it find with a discriminator that learns at a tenth of the rate?",
    guess=None,
    value=float(np.mean(list(found_slow.values()))),
    because="D's belief stays vague, and G's points gather where it is highest",
)
print("spots found with a slow D, by seed:", found_slow)
assert np.mean(list(found.values())) >= np.mean(list(found_slow.values())) + 2

figure, axes = plt.subplots(
    2, len(SEEDS), figsize=(10, 7), sharex=True, sharey=True, layout="constrained"
)
for k, seed in enumerate(SEEDS):
    draw(axes[0, k], *games[seed][STEPS], f"seed {seed}: {found[seed]} of 8 found")
    draw(axes[1, k], *slow[seed][STEPS], f"slow D, seed {seed}: {found_slow[seed]} of 8 found")
save(figure, "16_mode_collapse")

# %% [markdown]
# A generator that makes only some of the kinds of picture it should make has suffered *mode
# collapse*: the photographs' distribution has eight modes, and $G$'s has fewer. In the lower row, $D$
# only knows in which direction $G$'s points lie. $G$ moves all its points together to where $D$ does
# not object yet, and by the time $D$ has noticed, $G$ has moved on.
#
# SRGAN suffers less from this, because its generator does not choose freely among all photographs:
# the pixel and feature losses tie it to the small picture that it is given. What remains is a local
# collapse, such as one texture for every lawn.
#
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).


# %%
logits_to_try = np.array([-1000.0, -30.0, -3.0, 0.0, 3.0, 30.0])
exercise(
    1,
    "At which logit do the two generator losses have slopes of equal size?",
    answer=None,
    check=lambda a: abs(a) < 1e-6,
    hint="where D = 1 - D",
)
exercise(
    2,
    "What does D pay (losses.discriminator_adversarial) if it cannot tell at all: z = 0 for everything?",
    answer=None,
    check=lambda a: abs(a - np.log(2)) < 1e-3,
    hint="softplus(0), twice, halved",
)
exercise(
    3,
    "Write, as a function of an array z, the gradient of -log D. It must hold at z = -1000 too.",
    answer=None,
    check=lambda f: np.allclose(f(logits_to_try), slope(non_saturating, logits_to_try)),
    hint="-(1 - D) = -1 / (1 + e^z)",
)

# %% [markdown]
# Write a test that detects mode collapse: `collapsed(points)` takes an array of 800 points,
# (800, 2), and returns True if one of the eight `spots` holds less than a quarter of its fair share.


# %%
def notices(collapsed):
    rng = np.random.default_rng(0)

    def points(counts):
        return np.repeat(spots, counts, axis=0) + 0.05 * rng.standard_normal((sum(counts), 2))

    cases = {
        "100 points on each spot": ([100] * 8, False),
        "all points on one spot": ([0, 0, 0, 800, 0, 0, 0, 0], True),
        "no point on one spot": ([0, 114, 114, 114, 114, 114, 115, 115], True),
        "50 points on one spot, more on the others": ([50, 107, 107, 107, 107, 107, 107, 108], False),
    }
    for name, (counts, expected) in cases.items():
        if bool(collapsed(points(counts))) != expected:
            return f"with {name} it should say {expected}"
    return True


exercise(
    4,
    "Write collapsed(points).",
    answer=None,
    check=notices,
    hint="count the nearest spot of every point",
)
