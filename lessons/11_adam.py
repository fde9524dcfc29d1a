"""Lesson 11: Adam.  A gradient says which way is down.  How far should each weight go?

You should know: what a gradient is (lesson 02); NumPy.  Paper: Kingma and Ba 2015, "Adam", algorithm 1 and section 3 (bias
correction).  Lives in: npsrgan/adam.py, on one flat buffer that holds all weights of a network (npsrgan/layers.py).
"""
# %% A ravine
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, plt, save

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.data import Batches, DeadLeaves
from npsrgan.gradcheck import check, normal
from npsrgan.layers import Linear
from npsrgan.models import SRResNet
from npsrgan.tape import Tape

# f(x, y) = (x^2 + 100 y^2) / 2: a valley that is flat along x and steep across.  Its gradient, by hand: (x, 100 y).
CURVATURE, START = np.array([1.0, 100.0]), np.array([-4.0, 1.0])
print(slope := check(lambda p: ops.sum(ops.square(p) * CURVATURE * 0.5), START, name="ravine")[0])
assert slope.passed


def walk(rule):
    """The points visited in 80 steps.  rule: a function from (gradient, step number from 1 on) to the move to make."""
    points = [START]
    for t in range(1, 81):
        points.append(points[-1] - rule(CURVATURE * points[-1], t))
    return np.array(points)


# Stochastic gradient descent (SGD) moves by rate * gradient.  So on the ravine every step multiplies x by (1 - rate) and y by
# (1 - 100 rate).  We predict: above a rate of 2/100 y explodes.  Just below, at 0.019, y flips its sign every step and
# shrinks by 0.9; x, which had nothing to do with it, crawls: after 80 steps 0.981^80 = 0.22 of the way is still to go.
sgd = walk(lambda g, t: 0.019 * g)
np.testing.assert_allclose(sgd[-1] / START, [0.981**80, 0.9**80])
exploded = walk(lambda g, t: 0.021 * g)[-1, 1]
print(f"SGD, rate 0.019: after 80 steps x = {sgd[-1, 0]:.3f}; at rate 0.021 y = {exploded:.0f}")
assert abs(exploded) > 1000

# %% Momentum, and Adam, by hand
# Momentum averages the gradient over time: what flips cancels, what is steady adds up.  Adam also keeps an average of its
# square, and divides by the root: each weight goes at its own pace, about `rate` a step, however large its gradient.
#
#     m <- beta1 m + (1 - beta1) g          m^ = m / (1 - beta1^t)        beta1 = 0.9
#     v <- beta2 v + (1 - beta2) g^2        v^ = v / (1 - beta2^t)        beta2 = 0.999
#     move = rate * m^ / (sqrt(v^) + eps)                                 eps = 1e-8


class HandAdam:
    def __init__(self, rate, corrected=True, divide=True):      # both False: plain momentum
        self.rate, self.corrected, self.divide, self.m, self.v = rate, corrected, divide, 0, 0

    def __call__(self, g, t):
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        correct1, correct2 = (1 - 0.9**t, 1 - 0.999**t) if self.corrected else (1, 1)
        return self.rate * (self.m / correct1) / (np.sqrt(self.v / correct2) + 1e-8 if self.divide else 1)


# Three predictions.  1. The first move is exactly the rate, in both directions: g / sqrt(g^2) = +-1.
first = HandAdam(0.1)(np.array([-3.0, 0.002]), 1)
print("first move at rate 0.1, gradients -3 and 0.002:", first)
np.testing.assert_allclose(first, [-0.1, 0.1], rtol=1e-4)
# 2. A loss 1000 times as large gives the same path.
louder = HandAdam(0.1)
np.testing.assert_allclose(walk(HandAdam(0.1)), walk(lambda g, t: louder(1000 * g, t)), rtol=1e-3, atol=1e-3)
# 3. Without the correction both averages start from 0 and are too small, but not equally: the first move is
#    0.1 / sqrt(0.001) = 3.16 times too long.  For a steady gradient, move t is (1 - 0.9^t) / sqrt(1 - 0.999^t) times too long.
steady, n = HandAdam(1, corrected=False), np.arange(1, 1001)
too_long = np.array([steady(np.ones(1), t)[0] for t in n])
print(f"uncorrected: the first move {too_long[0]:.2f} times too long, the worst (t = {too_long.argmax() + 1}) {too_long.max():.2f} times")
np.testing.assert_allclose(too_long, (1 - 0.9**n) / np.sqrt(1 - 0.999**n), rtol=1e-6)

# %% The package's own
# It does the same to all weights of a network at once: they are views into one flat buffer.  Twenty steps, compared.
network = Linear(3, 4).to(lambda array: array.astype(np.float64))
mine, package, hand = network.flat.copy(), Adam(network, 0.01), HandAdam(0.01)
for t in range(1, 21):
    gradients = [normal(3, 4, seed=t), normal(4, seed=t)]
    package.step(gradients)
    mine -= hand(np.concatenate([g.ravel() for g in gradients]), t)
np.testing.assert_allclose(network.flat, mine, rtol=1e-12, atol=1e-12)

# %% A small SRResNet
# How different are the gradients of its weights?  And what do we predict of Adam's first moves?  All of them 0.001, except
# for the biases in front of a batch norm.  Their gradient is 0 (lesson 08), here rounding errors of about 1e-11.  Were it
# not for eps = 1e-8, Adam would blow that noise up to full steps: eps is the size below which a gradient counts as nothing.
batches, STEPS = Batches(DeadLeaves(32, 96), 8, 12), 50
data = [batches.batch(step) for step in range(STEPS)]


def train(rule, factor=1.0):
    """Losses of 50 steps on `factor` times the mean squared error; and rms of each parameter's first gradient and first move."""
    generator, curve, sizes = SRResNet(16, 2), [], None
    for t, (lr, hr) in enumerate(data, start=1):
        with Tape() as tape:
            loss = ops.scale(losses.mean_squared_error(generator(lr), hr), factor)
        curve.append(float(loss) / factor)
        if not curve[-1] < 10:
            break
        g = np.concatenate([array.ravel() for array in tape.gradient(loss, generator.parameters())])
        move = rule(g, t)
        ends = np.cumsum([p.array.size for p in generator.parameters()])[:-1]
        sizes = sizes or [[np.sqrt((part**2).mean()) for part in np.split(array, ends)] for array in (g, move)]
        generator.flat[...] -= move
    return np.array(curve), [p.name for p in generator.parameters()], *np.array(sizes)


runs = {"SGD, rate 0.01": train(lambda g, t: 0.01 * g), "SGD, rate 0.3": train(lambda g, t: 0.3 * g),
        "the same, loss x 100": train(lambda g, t: 0.3 * g, 100), "momentum, rate 0.3": train(HandAdam(0.3, False, False)),
        "Adam, rate 0.001": train(HandAdam(1e-3)), "the same Adam, loss x 100": train(HandAdam(1e-3), 100)}
for name, (curve, *_) in runs.items():
    print(f"{name:26}", f"loss at the end {curve[-10:].mean():.3f}" if len(curve) == STEPS else f"explodes after {len(curve)} steps")
curve, names, first_gradient, first_move = runs["Adam, rate 0.001"]
assert curve[-10:].mean() < 0.7 * runs["SGD, rate 0.01"][0][-10:].mean() and len(runs["the same, loss x 100"][0]) < STEPS
dead = np.array([".bias" in name and "body" in name for name in names])       # in the body a batch norm follows every convolution
print(f"first gradients from {first_gradient[~dead].min():.0e} to {first_gradient[~dead].max():.0e}, first moves from "
      f"{first_move[~dead].min():.5f} to {first_move[~dead].max():.5f}; biases before batch norm: {first_move[dead].max():.0e}")
assert first_move[~dead].min() > 0.0009 and first_move.max() < 0.00101 and first_move[dead].max() < 1e-4

# %% What it means for a picture
# SGD wants its rate found anew for every network and every loss; SRGAN's loss is a weighted sum of three of very different
# size.  Adam needs one number, and 0.001 or 0.0001 nearly always does.
figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
x, y = np.meshgrid(np.linspace(-4.5, 3, 200), np.linspace(-1.1, 1.1, 200))
axes[0, 0].contour(x, y, x * x + 100 * y * y, np.geomspace(0.1, 120, 9), colors="0.8")
for name, path in {"SGD, rate 0.019": sgd, "momentum, rate 0.1": walk(HandAdam(0.1, False, False)),
                   "Adam, rate 0.1": walk(HandAdam(0.1))}.items():
    axes[0, 0].plot(*path.T, ".-", linewidth=0.8, markersize=4, label=name)
axes[0, 0].set(title="80 steps in a ravine", xlabel="x", ylabel="y")
axes[0, 1].semilogx(n, too_long)
axes[0, 1].set(title="Adam without its bias correction", xlabel="step", ylabel="moves are so many times too long", ylim=0)
axes[1, 0].semilogy(first_gradient, "o", label="first gradient")
axes[1, 0].semilogy(first_move, "o", label="Adam's first move")
axes[1, 0].set(title="one dot: one weight array of SRResNet, input to output", xlabel="array (low: biases before batch norm)", ylabel="rms")
for name, (curve, *_) in runs.items():
    axes[1, 1].semilogy(curve, ":" if "same" in name else "-", linewidth=2, label=name)
axes[1, 1].set(title="a small SRResNet", xlabel="step", ylabel="mean squared error", ylim=(0.04, 3))
for axis in axes.flat[[0, 2, 3]]:
    axis.legend(fontsize=8)
save(figure, "11_adam")

# %% Exercises
exercise(1, "On the ravine, which rate of SGD makes x and y shrink by the same factor a step?", answer=None,
         check=lambda rate: abs(rate - 2 / 101) < 1e-4, hint="1 - rate = -(1 - 100 rate)")
exercise(2, "A gradient is 1 at the first step and 0 ever after.  Adam's second move, at rate 1?", answer=None,
         check=lambda move: abs(move - (0.09 / 0.19) / np.sqrt(0.000999 / 0.001999)) < 0.005, hint="work out m, v, m^ and v^ by hand")
