# %% [markdown]
# # Lesson 11: Adam
#
# **The question.** A gradient says which way is down. How far should each weight go?
#
# You should know: gradient descent and the flat buffer (lesson 04).
#
# Paper: Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1 and section
# 3.
#
# Lives in: `npsrgan/adam.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, plt, predict, save

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.data import Batches, DeadLeaves
from npsrgan.gradcheck import check, normal
from npsrgan.images import to_float
from npsrgan.layers import Linear
from npsrgan.models import SRResNet
from npsrgan.tape import Tape

# %% [markdown]
# ## 1. A ravine
#
# Take a loss of two weights, $L(x, y) = \frac{1}{2} (x^2 + 100\,y^2)$: a valley that is nearly flat
# along $x$ and steep across, along $y$. Its gradient is $(x, 100\,y)$.

# %%
CURVATURE = np.array([1.0, 100.0])
START = np.array([-4.0, 1.0])
result = check(lambda p: ops.sum(ops.square(p) * CURVATURE * 0.5), START, name="ravine")[0]
print(result)
assert result.passed


def walk(rule, steps=80):
    """The points visited.  rule: (gradient, number of the step, 1 at first) -> the move."""
    points = [START]
    for t in range(1, steps + 1):
        gradient = CURVATURE * points[-1]
        points.append(points[-1] - rule(gradient, t))
    return np.array(points)


# %% [markdown]
# **Gradient descent** moves by `rate` times the gradient. (With gradients from a few examples at a
# time it is called stochastic gradient descent, SGD.) In the ravine, a step multiplies $x$ by
# $1 - \mathrm{rate}$ and $y$ by $1 - 100\,\mathrm{rate}$. So $y$ converges only for rates below
# 2/100. Just below that, at 0.019, $y$ changes its sign in every step and shrinks by 0.9. And $x$,
# which had nothing to do with that, moves by 1.9 % a step.

# %%
sgd = walk(lambda g, t: 0.019 * g)
predict(
    "After 80 steps at rate 0.019, which share of the way along x is still left?",
    guess=None,
    value=sgd[-1, 0] / START[0],
    because="0.981^80. The steep direction dictates the rate, and the flat one has to wait.",
)
assert np.allclose(sgd[-1] / START, [0.981**80, 0.9**80])
exploded = walk(lambda g, t: 0.021 * g)[-1, 1]
print(f"at rate 0.021, y is {exploded:.0f} after 80 steps")
assert abs(exploded) > 1000

# %% [markdown]
# ## 2. Momentum, and Adam
#
# **Momentum** averages the gradient over time. A part that changes its sign in every step cancels; a
# steady part adds up.
#
# **Adam** averages the gradient and also its square, and divides one by the root of the other. So
# each weight moves at about the same pace, `rate` per step, however large or small its gradients
# are.
#
# | step | formula | |
# |---|---|---|
# | 1 | $m \leftarrow \beta_1\,m + (1 - \beta_1)\,g$ | average of the gradient, $\beta_1 = 0.9$ |
# | 2 | $v \leftarrow \beta_2\,v + (1 - \beta_2)\,g^2$ | average of its square, $\beta_2 = 0.999$ |
# | 3 | $\hat{m} = m / (1 - \beta_1^t)$ | correction of the start |
# | 4 | $\hat{v} = v / (1 - \beta_2^t)$ | |
# | 5 | $\mathrm{move} = \mathrm{rate} \cdot \hat{m} / (\sqrt{\hat{v}} + \epsilon)$ | $\epsilon = 10^{-8}$ |
#
# Why the corrections? Both averages begin at 0. For a constant gradient $g$, after $t$ steps,
#
# $$m = (1 - \beta_1)(1 + \beta_1 + \ldots + \beta_1^{t-1})\,g = (1 - \beta_1^t)\,g.$$
#
# That is too small by the factor $1 - \beta_1^t$, and dividing by it makes the average right from
# the first step on. The same holds for $v$.


# %%
class HandAdam:
    """A rule for `walk`.  corrected=False leaves out steps 3 and 4, divide=False the division.

    Without both it is plain momentum.
    """

    def __init__(self, rate, corrected=True, divide=True):
        self.rate = rate
        self.corrected = corrected
        self.divide = divide
        self.m = 0
        self.v = 0

    def __call__(self, g, t):
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m, self.v
        if self.corrected:
            m = m / (1 - 0.9**t)
            v = v / (1 - 0.999**t)
        if self.divide:
            m = m / (np.sqrt(v) + 1e-8)
        return self.rate * m


first = HandAdam(0.1)(np.array([-3.0, 0.002]), 1)
predict(
    "At rate 0.1, what is Adam's first move for a gradient of 0.002?",
    guess=None,
    value=first[1],
    because="At the first step m^ = g and v^ = g^2, so the move is rate times the sign of the "
    "gradient. For -3 it is -0.1.",
)
assert np.allclose(first, [-0.1, 0.1], rtol=1e-4)

# %% [markdown]
# A loss that is 1000 times as large has gradients that are 1000 times as large. Their root mean
# square, by which Adam divides, grows by the same factor. So Adam walks the same path. For gradient
# descent, the same change turns a good rate into an explosion.

# %%
louder = HandAdam(0.1)
same = walk(HandAdam(0.1))
assert np.allclose(same, walk(lambda g, t: louder(1000 * g, t)), rtol=1e-3, atol=1e-3)

# %% [markdown]
# And without the corrections? Both averages are too small at first, but not equally: $m$ by
# $1 - 0.9^t$, the root of $v$ by $\sqrt{1 - 0.999^t}$. For a steady gradient, step $t$ is too long
# by the factor $(1 - 0.9^t) / \sqrt{1 - 0.999^t}$.

# %%
n = np.arange(1, 1001)
steady = HandAdam(1, corrected=False)
too_long = np.array([steady(np.ones(1), t)[0] for t in n])
predict(
    "Without the corrections, how many times too long is the longest step?",
    guess=None,
    value=too_long.max(),
    because=f"At step {too_long.argmax() + 1}. The first is {too_long[0]:.2f} times too long: "
    "0.1 / sqrt(0.001).",
)
assert np.allclose(too_long, (1 - 0.9**n) / np.sqrt(1 - 0.999**n), rtol=1e-6)

# %% [markdown]
# ## 3. The package's Adam
#
# It treats all weights of a network at once, since they are views into one flat buffer (lesson 04).
# Twenty steps with random gradients, compared:

# %%
network = Linear(3, 4).to(lambda array: array.astype(np.float64))
package = Adam(network, 0.01)
by_hand = HandAdam(0.01)
mine = network.flat.copy()
for t in range(1, 21):
    gradients = [normal(3, 4, seed=t), normal(4, seed=t)]
    package.step(gradients)
    mine -= by_hand(np.concatenate([g.ravel() for g in gradients]), t)
assert np.allclose(network.flat, mine, rtol=1e-12, atol=1e-12)
print("twenty steps of the package's Adam: the same weights")

# %% [markdown]
# ## 4. A real network
#
# A small SRResNet (lesson 12) learns to enlarge random leaves. Its weight arrays have gradients of
# very different size. And some have a gradient of zero: the biases before a batch norm (lesson
# 08). What the computer finds there is rounding noise of about $10^{-11}$. Without
# $\epsilon = 10^{-8}$, Adam would amplify that noise to full steps. Gradients far smaller than
# $\epsilon$ hardly move anything.

# %%
batches = Batches(DeadLeaves(32, 96), 8, 12)
STEPS = 50
data = [[to_float(levels) for levels in batches.batch(step)] for step in range(STEPS)]


def train(rule, factor=1.0):
    """Train on `factor` times the mean squared error, for 50 steps or until the loss explodes.

    Returns the losses, and {name of a weight array: (size of its first gradient, of its first move)}.
    """
    generator = SRResNet(16, 2)
    parameters = generator.parameters()
    curve, sizes = [], {}
    for t, (lr, hr) in enumerate(data, start=1):
        with Tape() as tape:
            loss = ops.scale(losses.mean_squared_error(generator(lr), hr), factor)
        curve.append(float(loss) / factor)
        if not curve[-1] < 10:
            break
        gradients = tape.gradient(loss, parameters)
        before = [p.array.copy() for p in parameters]
        generator.flat[...] -= rule(np.concatenate([g.ravel() for g in gradients]), t)
        if t == 1:
            for p, g, old in zip(parameters, gradients, before):
                sizes[p.name] = np.sqrt((g**2).mean()), np.sqrt(((p.array - old) ** 2).mean())
    return np.array(curve), sizes


rules = {
    "SGD, rate 0.01": (lambda g, t: 0.01 * g, 1),
    "SGD, rate 0.3": (lambda g, t: 0.3 * g, 1),
    "the same, loss x 100": (lambda g, t: 0.3 * g, 100),
    "momentum, rate 0.3": (HandAdam(0.3, corrected=False, divide=False), 1),
    "Adam, rate 0.001": (HandAdam(0.001), 1),
    "the same Adam, loss x 100": (HandAdam(0.001), 100),
}
curves = {}
for name, (rule, factor) in rules.items():
    curves[name], sizes = train(rule, factor)
    if name == "Adam, rate 0.001":
        adam_sizes = sizes
    ending = (
        f"loss at the end {curves[name][-10:].mean():.3f}"
        if len(curves[name]) == STEPS
        else f"explodes in step {len(curves[name])}"
    )
    print(f"{name:26} {ending}")
assert curves["Adam, rate 0.001"][-10:].mean() < 0.7 * curves["SGD, rate 0.01"][-10:].mean()
assert len(curves["the same, loss x 100"]) < STEPS

# %%
# In the body a batch norm follows every convolution, so these biases are the dead ones.
dead = np.array(["body" in name and name.endswith(".bias") for name in adam_sizes])
gradient, move = np.array(list(adam_sizes.values())).T
predict(
    "How large is the largest first gradient of an array that is not a dead bias, relative to the smallest?",
    guess=None,
    value=gradient[~dead].max() / gradient[~dead].min(),
    within=0.5,
    because=f"Their first moves, however, lie between {move[~dead].min():.5f} and "
    f"{move[~dead].max():.5f}.",
)
print(
    f"biases before a batch norm: largest gradient {gradient[dead].max():.0e}, largest move "
    f"{move[dead].max():.0e}"
)
assert move[~dead].min() > 0.0009
assert move.max() < 0.00101
assert move[dead].max() < 1e-4

# %% [markdown]
# So gradient descent needs a new rate for every network and for every loss. SRGAN's loss is a
# weighted sum of three terms of very different size. Adam needs one number, and 0.001 or 0.0001
# nearly always works.

# %%
figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
x, y = np.meshgrid(np.linspace(-4.5, 3, 200), np.linspace(-1.1, 1.1, 200))
axes[0, 0].contour(x, y, x * x + 100 * y * y, np.geomspace(0.1, 120, 9), colors="0.8")
paths = {
    "SGD, rate 0.019": sgd,
    "momentum, rate 0.1": walk(HandAdam(0.1, corrected=False, divide=False)),
    "Adam, rate 0.1": walk(HandAdam(0.1)),
}
for name, path in paths.items():
    axes[0, 0].plot(*path.T, ".-", linewidth=0.8, markersize=4, label=name)
axes[0, 0].set(title="80 steps in a ravine", xlabel="x", ylabel="y")
axes[0, 1].semilogx(n, too_long)
axes[0, 1].set(
    title="Adam without its corrections", xlabel="step", ylabel="how many times too long", ylim=0
)
axes[1, 0].semilogy(gradient, "o", label="first gradient")
axes[1, 0].semilogy(move, "o", label="Adam's first move")
axes[1, 0].set(
    title="each dot: a weight array of SRResNet, input to output",
    xlabel="array (low: biases before a batch norm)",
    ylabel="root mean square",
)
for name, curve in curves.items():
    axes[1, 1].semilogy(curve, ":" if "same" in name else "-", linewidth=2, label=name)
axes[1, 1].set(title="a small SRResNet", xlabel="step", ylabel="mean squared error", ylim=(0.04, 3))
for axis in axes.flat[[0, 2, 3]]:
    axis.legend(fontsize=8)
save(figure, "11_adam")

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "In the ravine, with which rate of gradient descent do x and y shrink by the same factor in"
    " each step?",
    answer=None,
    check=lambda rate: abs(rate - 2 / 101) < 1e-4,
    hint="1 - rate = -(1 - 100 rate)",
)
exercise(
    2,
    "A gradient is 1 in the first step and 0 ever after. What is Adam's second move, at rate 1?",
    answer=None,
    check=lambda move: abs(move - (0.09 / 0.19) / np.sqrt(0.000999 / 0.001999)) < 0.005,
    hint="work out m, v, and both corrections by hand",
)

# %% [markdown]
# Somebody wrote Adam with the correction $1 - \beta_1 t$ in place of $1 - \beta_1^t$, and it even
# trains for a while. Write a test: `test(adam)`, where `adam(gradients)` takes a list of gradients
# (numbers) and returns the list of moves at rate 1.


# %%
def right_adam(gradients):
    rule = HandAdam(1)
    return [float(rule(np.array(g), t)) for t, g in enumerate(gradients, start=1)]


def broken_adam(gradients):
    m = v = 0
    moves = []
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        moves.append((m / abs(1 - 0.9 * t)) / (np.sqrt(v / abs(1 - 0.999 * t)) + 1e-8))
    return moves


def check_adam_test(test):
    if not test(right_adam):
        return "the test rejects the correct Adam"
    return "the test accepts the broken Adam" if test(broken_adam) else True


print(
    "moves for a steady gradient:",
    np.round(right_adam([1] * 4), 3),
    "right,",
    np.round(broken_adam([1] * 4), 3),
    "broken",
)
exercise(
    3,
    "Write test(adam).",
    answer=None,
    check=check_adam_test,
    hint="what are the moves for a steady gradient?",
)
