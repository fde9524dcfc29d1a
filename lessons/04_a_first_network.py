# %% [markdown]
# # Lesson 04: A first network
#
# **The question.** What is a network made of, where do its weights live, and what does a training
# loop look like?
#
# You should know: matrix products; gradient rules and their check (lesson 02); the tape (lesson
# 03).
#
# Source: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating
# errors".
#
# Lives in: `npsrgan/ops/linear.py`, `npsrgan/layers.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, plt, predict, save

from npsrgan import layers, ops
from npsrgan.data import Photograph
from npsrgan.gradcheck import check
from npsrgan.metrics import luma
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## 1. One layer: a matrix product
#
# A **linear layer** turns each example, a row of `inputs` numbers, into a row of `outputs` numbers.
# Every output is a weighted sum of all inputs, plus a constant, the **bias**. For a batch of $N$
# examples,
#
# $$y = x\,W + b \qquad \text{shapes:} \quad (N, out) = (N, in)\,(in, out) + (out)$$
#
# ## 2. Its gradient, by hand
#
# Write one entry out: $y_{no} = \sum_i x_{ni} W_{io} + b_o$. The rules follow from asking, for each
# input, in which outputs it appears.
#
# * $x_{ni}$ appears in all outputs of example $n$, each time with the factor $W_{io}$. So
#   $dL/dx_{ni} = \sum_o dy_{no} W_{io}$, which is an entry of $dy\,W^T$.
# * $W_{io}$ appears in output $o$ of every example, each time with the factor $x_{ni}$. So
#   $dL/dW_{io} = \sum_n x_{ni}\,dy_{no}$, which is an entry of $x^T dy$.
# * $b_o$ appears in output $o$ of every example, with the factor 1. So $dL/db_o = \sum_n dy_{no}$.
#
# | gradient | formula | shapes |
# |---|---|---|
# | $dx$ | $dy\,W^T$ | $(N, in) = (N, out)\,(out, in)$ |
# | $dW$ | $x^T dy$ | $(in, out) = (in, N)\,(N, out)$ |
# | $db$ | $\sum_n dy_n$ | $(out)$ |
#
# The shapes leave no other choice. That is a good way to remember the formulas, but not a proof. The
# check is.


# %%
@op
def linear(x, w, b):
    """x (N, in), w (in, out), b (out,) -> (N, out)."""

    def d_x(dy):
        return dy @ w.T

    def d_w(dy):
        return x.T @ dy

    def d_b(dy):
        return dy.sum(0)

    return x @ w + b, (d_x, d_w, d_b)


rng = np.random.default_rng(4)
for result in check(
    linear, rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), rng.standard_normal(4)
):
    print(result)
    assert result.passed

# %% [markdown]
# ## 3. Why there must be something between two layers
#
# Two linear layers in a row are $(x W_1) W_2 = x (W_1 W_2)$: one linear layer. To gain anything,
# something that is not linear has to stand between them. The simplest is the **ReLU**,
# $\max(x, 0)$: it passes positive numbers and replaces negative ones by 0. Its rule passes $dy$
# where $x$ was positive. (Lesson 09 has more to say about such kinks.)


# %%
@op
def relu(x):
    return np.maximum(x, 0), (lambda dy: dy * (x > 0),)


away_from_the_kink = np.array([[-1.0, 0.5, 2.0], [0.3, -0.2, 1.5]])
assert check(relu, away_from_the_kink)[0].passed

# %% [markdown]
# ## 4. Parameters and layers
#
# The numbers that training changes are called **parameters**: here all weights and biases. A
# `Parameter` is a tensor, so that the tape can follow it. A `Layer` is an object that owns
# parameters and has a `forward`; a network is a layer that owns other layers. To find all
# parameters, walk through the attributes, in the order in which `__init__` defined them. That order
# never changes, so it can be relied on when weights are saved and loaded.
#
# The parameters start as random numbers. After its ReLU, each output of the first layer is
# $\max(w x + b, 0)$: a line with a kink at $x = -b/w$. With all biases at 0 every kink would lie at
# $x = 0$, so the first layer's biases are random as well. The last layer starts small, so that the
# first answers are close to 0 and the first steps are not too wild.


# %%
class Parameter(Tensor):
    """A tensor that training changes."""


class Layer:
    def parameters(self):
        """Every parameter of this layer and the layers inside it, in definition order."""
        found = []
        for value in vars(self).values():
            if isinstance(value, Parameter):
                found.append(value)
            elif isinstance(value, Layer):
                found += value.parameters()
        return found


class Linear(Layer):
    def __init__(self, inputs, outputs, rng):
        # Random weights of a size that keeps the signal's size: lesson 09 explains sqrt(2 / inputs).
        self.weight = Parameter(np.sqrt(2 / inputs) * rng.standard_normal((inputs, outputs)))
        self.bias = Parameter(rng.uniform(-1.5, 1.5, outputs) if inputs == 1 else np.zeros(outputs))

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class Network(Layer):
    """1 -> 64 -> 64 -> 1 numbers, with ReLUs between."""

    def __init__(self, rng):
        self.first = Linear(1, 64, rng)
        self.second = Linear(64, 64, rng)
        self.third = Linear(64, 1, rng)
        self.third.weight.array *= 0.1

    def forward(self, x):
        x = relu(self.first.forward(x))
        x = relu(self.second.forward(x))
        return self.third.forward(x)


network = Network(np.random.default_rng(0))
count = sum(p.array.size for p in network.parameters())
predict(
    "How many parameters does this network have?",
    guess=None,
    value=count,
    within=0,
    because="(64 + 64) + (64 * 64 + 64) + (64 + 1).",
)
assert count == (64 + 64) + (64 * 64 + 64) + (64 + 1)

# %% [markdown]
# ## 5. One flat buffer
#
# Six arrays of different shapes are a nuisance: every update would have to loop over them, and so
# would saving, loading and comparing. So all parameters are laid out in **one flat buffer**, and
# each parameter becomes a *view* into it: an array that shares the buffer's memory. Writing into
# the buffer changes the parameters.


# %%
def pack(network):
    """Lay all parameters out in one new buffer, make each a view into it, and return the buffer."""
    parameters = network.parameters()
    flat = np.concatenate([p.array.ravel() for p in parameters])
    start = 0
    for p in parameters:
        stop = start + p.array.size
        p.array = flat[start:stop].reshape(p.array.shape)
        start = stop
    return flat


flat = pack(network)
flat[0] = 7
assert network.first.weight.array[0, 0] == 7
assert all(np.shares_memory(p.array, flat) for p in network.parameters())
print("flat[0] = 7 has changed network.first.weight[0, 0] to", network.first.weight.array[0, 0])

# %% [markdown]
# One rule follows: parameters are written in place, `p.array[...] = new`, and never replaced,
# `p.array = new`. A replaced array is no longer a view, and whatever is written into the buffer
# from then on does not reach it. Exercise 4 is about that.
#
# ## 6. Something to learn: one row of a photograph
#
# The data: the brightness along one row of the photograph, as a curve over the position from -1.5
# to 1.5. The network is shown every fourth pixel only. Afterwards it is asked for all of them. That
# is super-resolution in one dimension.

# %%
row = luma(Photograph().load(0))[225, 160:300] / 128 - 1  # 140 pixels across the face
row = np.convolve(row, np.ones(9) / 9, mode="valid")  # a little smoother
position = np.linspace(-1.5, 1.5, len(row))[:, None]  # (132, 1)
x = position[::4]  # (33, 1): what the network is shown
y = row[::4, None]
print("examples:", x.shape, "->", y.shape)

# %% [markdown]
# ## 7. The training loop
#
# Every training loop of this project has the same four lines:
#
# 1. *forward*, on a tape: compute the answer and the loss, here the mean squared error;
# 2. *backward*: ask the tape for the gradient of every parameter;
# 3. *update*: move every parameter a little against its gradient, by `rate` times the gradient.
#    This is **gradient descent**;
# 4. repeat.


# %%
def train(network, steps, rate):
    """Gradient descent.  Returns the losses, and the curve that the network draws at some steps."""
    flat = pack(network)
    parameters = network.parameters()
    curve, drawn = [], {}
    for step in range(steps + 1):
        if step in (0, 100, steps):
            drawn[step] = network.forward(Tensor(position)).array[:, 0]
        with Tape() as tape:
            error = network.forward(Tensor(x)) - y
            loss = ops.mean(ops.square(error))
        gradients = tape.gradient(loss, parameters)
        flat -= rate * np.concatenate([g.ravel() for g in gradients])
        curve.append(float(loss))
    return np.array(curve), drawn


network = Network(np.random.default_rng(2))
curve, drawn = train(network, steps=6000, rate=0.02)
for step in (0, 100, 1000, 6000):
    print(f"step {step:4}: loss {curve[step]:.4f}")
assert curve[-1] < 0.15 * y.var()

# %% [markdown]
# Does it need random weights? Let us start with all parameters at zero instead.

# %%
zeros = Network(np.random.default_rng(0))
for p in zeros.parameters():
    p.array[...] = 0
curve_of_zeros, drawn_of_zeros = train(zeros, steps=300, rate=0.02)
moved = [np.abs(p.array).max() > 0 for p in zeros.parameters()]
predict(
    "After 300 steps from zero, how many of the six parameter arrays have moved?",
    guess=None,
    value=sum(moved),
    within=0,
    because="Only the last bias. Every other gradient has a factor that is 0: weights that are "
    "0, or inputs that are 0.",
)
assert sum(moved) == 1
# The network answers with the mean, everywhere.
assert np.allclose(drawn_of_zeros[300], y.mean(), atol=1e-6)

# %% [markdown]
# So the network that started from zero learned the best constant and nothing else: the mean, which
# squared error prefers to any other constant (lesson 00). The bumps in the other network's loss come
# from steps that were too long. Lesson 11 is about the length of steps.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained", width_ratios=(3, 2))
axes[0].plot(position, row, color="0.7", lw=4, label="the row of the photograph")
axes[0].plot(x, y, "k.", ms=5, label="what the network was shown")
for step, line in drawn.items():
    axes[0].plot(position, line, lw=1.6, label=f"the network after {step} steps")
axes[0].plot(position, drawn_of_zeros[300], "k:", label="started from zero")
axes[0].set(xlabel="position", ylabel="brightness", ylim=(-0.6, 1.3), title="fitting one curve")
axes[0].legend(fontsize=8)
axes[1].semilogy(curve)
axes[1].semilogy(curve_of_zeros, "k:")
axes[1].set(xlabel="step", ylabel="mean squared error", title="the loss")
save(figure, "04_curve")

# %% [markdown]
# ## 8. The package's version
#
# `npsrgan/layers.py` has the same `Parameter`, `Layer` and `Linear`; `network.flat` packs on first
# use. With the same weights its layers give the same numbers and gradients.

# %%
theirs = layers.Linear(64, 64).to(lambda array: array.astype(np.float64))
theirs.load_state_dict({"weight": network.second.weight.array, "bias": network.second.bias.array})
assert theirs.flat.size == 64 * 64 + 64
hidden = rng.standard_normal((10, 64))
cotangent = rng.standard_normal((10, 64))
answers = []
for layer, forward in ((network.second, network.second.forward), (theirs, theirs)):
    with Tape() as tape:
        loss = ops.sum(forward(Tensor(hidden)) * cotangent)
    answers.append(tape.gradient(loss, layer.parameters()))
for mine, package in zip(*answers):
    assert np.allclose(mine, package)
print("the package's Linear agrees, value and gradients")

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "x has shape (32, 10) and W has shape (10, 7). What is the shape of dL/dW?",
    answer=None,
    check=lambda a: tuple(a) == (10, 7),
    hint="a gradient always has the shape of what it belongs to",
)
exercise(
    2,
    "How many multiplications does x @ W make there?",
    answer=None,
    check=lambda a: a == 32 * 10 * 7,
    hint="each of the 32 * 7 outputs is a sum of 10 products",
)

# %% [markdown]
# The rules of the operation below, $y = x\,x^T$ for $x$ of shape $(n, k)$, forget that $x$ appears
# twice. Repair the rule.


# %%
def broken_gram_rule(dy, x):
    return dy @ x


def check_gram_rule(rule):
    result = check(op(lambda x: (x @ x.T, (lambda dy: rule(dy, x),))), rng.standard_normal((3, 4)))[
        0
    ]
    return result.passed or str(result)


exercise(3, "Write d_x of y = x @ x.T: a function of (dy, x).", answer=None, check=check_gram_rule)

# %% [markdown]
# The function below sets the biases of a packed network to zero, and breaks it: afterwards an
# update of the buffer no longer reaches the biases. Write `zero_biases(network)` so that it does
# not.


# %%
def broken_zero_biases(network):
    for layer in (network.first, network.second, network.third):
        layer.bias.array = np.zeros_like(layer.bias.array)


def check_zero_biases(function):
    patient = Network(np.random.default_rng(1))
    flat = pack(patient)
    flat += 1
    function(patient)
    if any(layer.bias.array.any() for layer in (patient.first, patient.second, patient.third)):
        return "the biases are not zero"
    return (
        all(np.shares_memory(p.array, flat) for p in patient.parameters())
        or "a bias is no longer a view into the buffer"
    )


exercise(4, "Write zero_biases(network).", answer=None, check=check_zero_biases)
