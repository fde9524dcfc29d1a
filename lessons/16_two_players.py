"""Lesson 16: the two players.  What does each of them want, and how is it written down so that the loser can still learn?

You should know: the tape (lesson 03), layers and Adam (lesson 11).  Papers: Goodfellow et al. 2014, section 3; Ledig et al. 2017,
section 2.1 and eqs. 2 and 6.  Lives in: npsrgan/losses.py, models/discriminator.py, ops/activations.py.
"""
# %% The question.  A generator G makes pictures.  A discriminator D looks at one and answers with a single number, the logit z:
# large for "a photograph", negative for "made".  D(x) = sigmoid(z) is its belief, between 0 and 1.  D learns to tell, G learns
# to fool.  There is no "correct picture" in G's lesson at all: everything G hears from D comes through the gradient of z.
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, plt, save
from threadpoolctl import threadpool_limits

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.gradcheck import check
from npsrgan.layers import LeakyReLU, Linear, Sequential, initialise
from npsrgan.tape import Tape, Tensor

# %% The formulas.  D pays -log D for a photograph and -log(1 - D) for a made one.  For G there are two choices:
#
#       saturating       log(1 - D)   the exact opposite of what D pays: a zero-sum game
#       non-saturating     -log D     another slope, the same goal: D's belief shall rise
#
# By hand, with d sigmoid / dz = D (1 - D):    d/dz log(1 - D) = -D          d/dz -log D = -(1 - D)
# Prediction: where D is sure of its "made", at z = -10, D = e^-10 = 0.000045.  The saturating slope is as small as that; the
# other is 1.  The worse G's picture, the less the first form tells it.  That is the form's name: it saturates.


def slope(loss, z, dtype=np.float64):
    """The gradient of a loss with respect to a logit, by the tape."""
    z = Tensor(np.asarray(z, dtype))
    with Tape() as tape:
        value = ops.sum(loss(z))
    return tape.gradient(value, z)


def saturating(z):     return ops.scale(ops.softplus(z), -1)                # log(1 - D) = -log(1 + e^z)
def non_saturating(z): return ops.softplus(-z)                              # -log D = log(1 + e^-z)
def literal(z):        return -ops.log(ops.sigmoid(z) + 1e-8)               # -log(D + eps), as often written
def literal_made(z):   return -ops.log(1.0 - ops.sigmoid(z) + 1e-8)         # what D pays for a made picture, as often written


D = 1 / (1 + np.exp(10))
assert np.isclose(slope(saturating, -10), -D) and np.isclose(slope(non_saturating, -10), -(1 - D))
print(f"slopes at z = -10: saturating {slope(saturating, -10):.6f}, non-saturating {slope(non_saturating, -10):.6f}")
for loss in (saturating, non_saturating):
    result, = check(loss, np.linspace(-4, 4, 9))
    assert result.passed, result
z = np.linspace(-3, 3, 5)                                                   # and the package's own are these
assert np.isclose(losses.generator_adversarial(z).array, non_saturating(z).array.mean())
assert np.isclose(losses.discriminator_adversarial(z, z).array, (ops.softplus(-z).array + ops.softplus(z).array).mean() / 2)

# %% The pen matters too.  log(sigmoid(z) + 1e-8) and -softplus(-z) are one formula on paper, within 1e-8.  Predictions:
# (a) -log(D + eps): once D < 1e-8, that is z < -18.4, eps is larger than D and the gradient fades away, in any precision.
# (b) -log(1 - D + eps): in float32, numbers just below 1 are 6e-8 apart.  Beyond z = 14, 1 - D is a dozen such steps or fewer; from
#     16.6 on it is 0.  The gradient should be 1: it jitters, down to a half; jumps to e^-16.6 / 1e-8 = 6; and then fades away.
assert abs(slope(literal, -30)) < 1e-4 and slope(non_saturating, -30, np.float32) == -1
wrong = slope(literal_made, np.linspace(14, 18, 200), np.float32)
print(f"d/dz -log(1 - D + eps), float32, z from 14 to 18: between {wrong.min():.2f} and {wrong.max():.2f}; it should be 1")
assert wrong.max() > 2 and np.allclose(slope(ops.softplus, np.linspace(14, 18, 200), np.float32), 1, atol=1e-5)

f32, f64, z = np.float32, np.float64, np.linspace(-25, 25, 1001)
panels = {
    "What G hears": [(saturating, f64, "log(1 - D), saturating"), (non_saturating, f64, "-log D, non-saturating")],
    "G's -log D, written two ways": [(non_saturating, f32, "softplus(-z), float32"),
                                     (literal, f32, "log(sigmoid + 1e-8), float32"), (literal, f64, "the same, float64")],
    "D's -log(1 - D), written two ways": [
        (ops.softplus, f32, "softplus(z), float32"), (literal_made, f32, "log(1 - sigmoid + 1e-8), float32"),
        (literal_made, f64, "the same, float64")]}
figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
for axis, (title, curves) in zip(axes, panels.items()):
    for (loss, dtype, label), style in zip(curves, ({"lw": 4, "alpha": 0.5}, {}, {"ls": "--"})):
        axis.plot(z, slope(loss, z, dtype), label=label, **style)
    axis.set(title=title, xlabel="logit z:  D is sure of 'made' ... of 'photograph'", ylabel="gradient with respect to z")
    axis.legend(fontsize=8)
save(figure, "16_gradients")

# %% A game one can see.  "Photographs" are points on a ring of eight spots.  G turns four random numbers into a point.  Both are
# three Linear layers.  G starts with all its points in the middle.
threadpool_limits(1)        # matrices as small as these are not worth a second thread
spots = 2 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)
STEPS, BATCH, FRAMES = 1000, 128, (0, 50, 200, 500, 1000)


def real(step):
    rng = np.random.default_rng([11, 1, step])
    return (spots[rng.integers(8, size=BATCH)] + 0.1 * rng.standard_normal((BATCH, 2))).astype(np.float32)


def noise(step, n=BATCH):
    return np.random.default_rng([11, 2, step]).standard_normal((n, 4)).astype(np.float32)


def player(inputs, outputs, seed):
    return initialise(Sequential(Linear(inputs, 64), LeakyReLU(), Linear(64, 64), LeakyReLU(), Linear(64, outputs)), seed)


generator, discriminator = player(4, 2, 0), player(2, 1, 1)
generator.steps[-1].weight.array *= 0.2
adam_g, adam_d = Adam(generator, 4e-3, beta1=0.5), Adam(discriminator, 4e-3, beta1=0.5)     # a short memory: the goal moves
for step in range(150):                                                     # D may practise alone: it becomes sure of itself
    with Tape() as tape:
        loss = losses.discriminator_adversarial(discriminator(real(step)), discriminator(generator(noise(step))))
    adam_d.step(tape.gradient(loss, discriminator.parameters()))

with Tape() as tape:
    logits = discriminator(generator(noise(0)))
    hears = {loss.__name__: ops.mean(loss(logits)) for loss in (saturating, non_saturating)}
sizes = {name: np.sqrt(sum((g * g).sum() for g in tape.gradient(loss, generator.parameters(), keep=True)))
         for name, loss in hears.items()}
print(f"D is sure: logits {logits.array.mean():.1f}.  G's gradient:", {k: float(f"{v:.2g}") for k, v in sizes.items()})
assert logits.array.mean() < -4 and sizes["non_saturating"] > 20 * sizes["saturating"]

# %% Now both, turn by turn, from one tape.  G's question names G's parameters, D's question its own.
figure, axes = plt.subplots(1, len(FRAMES), figsize=(12.5, 3), sharey=True, layout="constrained")
grid = np.stack(np.meshgrid(np.linspace(-3, 3, 80), np.linspace(-3, 3, 80)), -1).reshape(-1, 2).astype(np.float32)
misses = {}
for step in range(STEPS + 1):
    if step in FRAMES:
        points, axis = generator(noise(10**6, 600)).array, axes[FRAMES.index(step)]
        distance = np.linalg.norm(points[:, None] - spots, axis=2)
        misses[step] = distance.min(1).mean()
        found = (np.bincount(distance.argmin(1)[distance.min(1) < 0.3], minlength=8) >= 12).sum()      # 2 % of the points each
        belief = ops.sigmoid(discriminator(grid)).array.reshape(80, 80)
        axis.imshow(belief, extent=(-3, 3, -3, 3), origin="lower", cmap="RdBu", vmin=0, vmax=1, alpha=0.6)
        axis.plot(*points.T, "k.", ms=2)
        axis.plot(*spots.T, "o", mfc="none", mec="green", ms=13)
        axis.set(title=f"step {step}: {found} of 8 spots found", xlim=(-3, 3), ylim=(-3, 3))
    with Tape() as tape:
        fake = generator(noise(step))
        z_real, z_fake = discriminator(real(step)), discriminator(fake)
        loss_g, loss_d = losses.generator_adversarial(z_fake), losses.discriminator_adversarial(z_real, z_fake)
    gradients_g = tape.gradient(loss_g, generator.parameters(), keep=True)
    adam_d.step(tape.gradient(loss_d, discriminator.parameters()))
    adam_g.step(gradients_g)
figure.suptitle("Black: made by G.  Green: photographs.  D's belief: blue 'photograph', red 'made'", fontsize=10)
save(figure, "16_ring")
print("mean distance of a made point to the nearest spot:", {step: round(float(miss), 2) for step, miss in misses.items()})
assert misses[STEPS] < misses[0] / 2.5
# What it means for a picture: nobody showed G the spots.  D's slope, the way from red to blue, led it there.  An average of all
# photographs (the middle of the ring) is what a pixel loss would have liked best, and it is no photograph.

# %% Your turn
exercise(1, "At which logit do the two generator losses have gradients of equal size?", None, lambda a: abs(a) < 1e-6)
exercise(2, "What does D pay (losses.discriminator_adversarial) when it cannot tell at all, z = 0 for everything?", None,
         lambda a: abs(a - np.log(2)) < 1e-3, hint="softplus(0), twice, halved")
exercise(3, "Write the gradient of -log D for a logit z, as a function of z, in NumPy", None,
         lambda f: np.allclose(f(z[::50]), slope(non_saturating, z[::50])), hint="-(1 - D), with D = sigmoid(z)")
