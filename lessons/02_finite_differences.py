# %% [markdown]
# # Lesson 02: Finite differences
#
# **The question.** How do you know that a gradient is right, and which checks let a wrong one pass?
#
# You should know: what a derivative is; mean and standard deviation; what a loss and a gradient are
# (lesson 01, part 7).
#
# Book: Press et al. 2007, "Numerical Recipes", section 5.7.
#
# Lives in: `npsrgan/gradcheck.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save

from npsrgan import losses
from npsrgan.data import Photograph, downscale
from npsrgan.gradcheck import check, check_directions
from npsrgan.metrics import luma
from npsrgan.models import SRResNet
from npsrgan.ops.operation import op

# %% [markdown]
# ## 1. A derivative from values alone
#
# Evaluate $f$ at two points that are close together, and divide. There are two ways to do it:
#
# $$\text{one-sided:}\quad \frac{f(x + h) - f(x)}{h} \qquad\qquad
# \text{central:}\quad \frac{f(x + h) - f(x - h)}{2h}$$
#
# How wrong are they? Taylor's theorem says
# $f(x \pm h) = f \pm h f' + h^2 f''/2 \pm h^3 f'''/6 + \ldots$ In the one-sided formula the term
# with $f''$ remains; in the central one it cancels. So the **truncation errors** are
#
# $$\text{one-sided:}\quad \frac{h}{2} f'' \qquad\qquad \text{central:}\quad \frac{h^2}{6} f'''$$
#
# They shrink with $h$. But each value of $f$ is also rounded, by a relative error $u$ of about
# $10^{-16}$ in float64 and $6 \cdot 10^{-8}$ in float32. Divided by $h$, that becomes a **rounding
# error** of about $u f / h$, which *grows* as $h$ shrinks. The best $h$ balances the two: about
# $u^{1/2}$ for one-sided and $u^{1/3}$ for central differences.
#
# We try it on a function that SRGAN's losses use, softplus, whose derivative is known:
#
# $$f(x) = \log(1 + e^x), \qquad f'(x) = \frac{1}{1 + e^{-x}}$$


# %%
def softplus(x):
    return np.log(1 + np.exp(x))


truth = 1 / (1 + np.exp(-1.0))  # f'(1)
steps = 10.0 ** np.arange(-12, 0.1, 0.25)
errors = {}
for dtype in (np.float64, np.float32):
    x = dtype(1)
    h = steps.astype(dtype)
    errors["one-sided", dtype] = np.abs((softplus(x + h) - softplus(x)) / h - truth)
    errors["central", dtype] = np.abs((softplus(x + h) - softplus(x - h)) / (2 * h) - truth)

best = steps[errors["central", np.float64].argmin()]
predict(
    "For central differences in float64, at which power of ten is the best step h? (the exponent)",
    guess=None,
    value=np.log10(best),
    within=0.2,
    because="The cube root of 1e-16 is about 5e-6.",
)

# %%
for (name, dtype), error in errors.items():
    print(
        f"{name:9} {dtype.__name__}: smallest error {error.min():.0e}, at h = "
        f"{steps[error.argmin()]:.0e}"
    )
assert errors["central", np.float64].min() < 1e-9
assert errors["central", np.float32].min() < 1e-3

figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
for (name, dtype), error in errors.items():
    axis.loglog(
        steps,
        error + 1e-17,
        "--" if name == "one-sided" else "-",
        color="C0" if dtype is np.float64 else "C1",
        label=f"{name}, {dtype.__name__}",
    )
axis.set(
    title="the error of a finite difference: rounding on the left, truncation on the right",
    xlabel="step h",
    ylabel="error",
)
axis.legend()
save(figure, "02_step")

# %% [markdown]
# Central differences in float64 give ten correct digits. In float32 they give five at best. So
# gradients are checked in float64, with central differences and $h = 10^{-6}$, whatever type the
# training uses.
#
# ## 2. From numbers to arrays
#
# A network is a chain of **operations**: functions from arrays to an array. Let $y = f(x)$ be one
# of them, and let the loss $L$, one number, be computed from $y$ by whatever comes after.
#
# An operation comes with a **gradient rule**, written by hand. The rule is given $dy = dL/dy$, an
# array with the shape of $y$, which says how much $L$ depends on each entry of the output. It
# returns $dx = dL/dx$, an array with the shape of $x$. The array $dy$ is called the **cotangent**.
#
# To check a rule, invent a loss whose $dy$ is known. The simplest is
#
# $$L = \sum \mathrm{cotangent} \cdot f(x), \qquad \text{so that} \quad dy = \mathrm{cotangent}$$
#
# and then move each entry of $x$ up and down by $h$.
#
# Our example is a small version of batch normalisation: every column of $x$ gets the mean 0 and the
# standard deviation 1. Its rule is on the next lines; lesson 08 derives it.


# %%
def normalise(x):
    return (x - x.mean(0)) / x.std(0)


def right(dy, x):
    x_hat = normalise(x)
    return (dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0)) / x.std(0)


def difference(cotangent, x, h=1e-6):
    """dL/dx of L = sum(cotangent * normalise(x)), by central differences, an entry at a time."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        above = x.copy()
        below = x.copy()
        above[index] += h
        below[index] -= h
        gradient[index] = (cotangent * normalise(above) - cotangent * normalise(below)).sum() / (
            2 * h
        )
    return gradient


rng = np.random.default_rng(2)
x = rng.standard_normal((12, 3))
random = rng.standard_normal(x.shape)
numeric = difference(random, x)
error = np.abs(right(random, x) - numeric).max() / np.abs(numeric).max()
print(
    f"largest difference between rule and measurement, relative to the largest entry: {error:.0e}"
)
assert error < 1e-7

# %% [markdown]
# ## 3. A trap: the sum of the outputs
#
# It is tempting to use a cotangent of ones. Then the loss is simply the sum of the outputs.

# %%
ones = np.ones(x.shape)
predict(
    "How large is the largest entry of dL/dx, where L = sum(normalise(x))?",
    guess=None,
    value=np.abs(difference(ones, x)).max(),
    because="Each column of the output has mean 0, whatever x is. So L is 0 everywhere, and its"
    " gradient is 0, up to rounding. "
    "A rule that always returns zeros passes this check.",
)

# %% [markdown]
# ## 4. Seven rules, one of them right, and four checks
#
# Below are the correct rule and six wrong ones. The wrong ones are of the kinds that people write:
# a sign, a constant, a forgotten term, one wrong entry.


# %%
def one_entry_off(dy, x):
    dx = right(dy, x)
    dx.flat[7] *= 1.01
    return dx


def mean_forgotten(dy, x):
    return (dy - normalise(x) * (dy * normalise(x)).mean(0)) / x.std(0)


def x_hat_forgotten(dy, x):
    return (dy - dy.mean(0)) / x.std(0)


rules = {
    "right": right,
    "all zeros": lambda dy, x: 0 * x,
    "wrong sign": lambda dy, x: -right(dy, x),
    "0.1 % too large": lambda dy, x: 1.001 * right(dy, x),
    "one entry 1 % off": one_entry_off,
    "mean forgotten": mean_forgotten,
    "x_hat forgotten": x_hat_forgotten,
}

# %% [markdown]
# The four checks. The first three are common in public code. The fourth is the package's; its `op`
# makes an operation of a function that returns a value and a rule, and lesson 03 shows how.


# %%
def all_ones(rule):
    """The loss is the sum of the outputs."""
    return np.allclose(rule(ones, x), difference(ones, x), atol=1e-6)


def one_plus(rule):
    """A "relative" error with 1 + in the denominator, on gradients as small as a network's."""
    analytic = rule(1e-6 * random, x)
    numeric = difference(1e-6 * random, x)
    return (np.abs(analytic - numeric) / (1 + np.abs(numeric))).max() < 1e-5


def single_precision(rule):
    """float32 has few digits left, so the tolerance was loosened until the correct rule passed."""
    numeric = difference(random.astype(np.float32), x.astype(np.float32), 1e-2)
    return np.allclose(rule(random, x), numeric, rtol=0.02, atol=0.02)


def ours(rule):
    """float64, a random cotangent, the error relative to the largest entry: npsrgan.gradcheck."""
    return check(op(lambda x: (normalise(x), (lambda dy: rule(dy, x),))), x)[0].passed


checks = {
    "all-ones cotangent": all_ones,
    "denominator 1 + |n|": one_plus,
    "float32, loosened": single_precision,
    "ours": ours,
}
passed = np.array([[way(rule) for rule in rules.values()] for way in checks.values()])
predict(
    "How many of the six wrong rules pass the all-ones check?",
    guess=None,
    value=passed[0, 1:].sum(),
    because="Where the right answer is 0, a rule may return zeros with any factor: only the "
    "rule that forgets the mean is caught. "
    "The next picture shows all four checks; the one with 1 + in the denominator passes every rule.",
)
assert passed[:, 0].all()  # all four pass the correct rule
assert not passed[3, 1:].any()  # only ours passes no other
assert passed[1].all()

# %%
good = passed == (np.arange(len(rules)) == 0)
figure, axis = plt.subplots(figsize=(10, 2.9), layout="constrained")
axis.imshow(good, cmap="RdYlGn", vmin=-0.4, vmax=1.4, aspect="auto")
for (row, column), verdict in np.ndenumerate(passed):
    axis.text(
        column,
        row,
        "passes" if verdict else "caught",
        ha="center",
        va="center",
        weight="normal" if good[row, column] else "bold",
    )
axis.set_xticks(range(len(rules)), rules)
axis.set_yticks(range(len(checks)), checks)
axis.set_title("which check catches which rule (red: a wrong rule passes)")
save(figure, "02_checks")

# %% [markdown]
# ## 5. What a wrong rule does to a picture
#
# Give three of the rules a task: start from noise and change the picture, step by step, so that it
# looks like the photograph. The loss is
# $L = \frac{1}{2} \sum (\mathrm{normalise}(p) - t)^2$ with the normalised photograph $t$, so
# $dy = \mathrm{normalise}(p) - t$.

# %%
photo = luma(downscale(Photograph().load(0), 4))
target = normalise(photo.reshape(-1, 1))
noise = np.random.default_rng(3).standard_normal(target.shape)
found = {}
for name in ("right", "all zeros", "wrong sign"):
    picture = noise.copy()
    for _ in range(60):
        picture -= 0.5 * rules[name](normalise(picture) - target, picture)
    found[name] = normalise(picture)
similarity = {name: (picture * target).mean() for name, picture in found.items()}
predict(
    "With the wrong sign, what is the correlation of the result with the photograph?",
    guess=None,
    value=similarity["wrong sign"],
    because="Every step moves away from the photograph, towards its negative.",
)
assert similarity["right"] > 0.99
assert abs(similarity["all zeros"]) < 0.1
assert similarity["wrong sign"] < -0.9

pictures = {"start": noise} | {f"rule: {name}": picture for name, picture in found.items()}
save(
    picture_row(
        {name: picture.reshape(photo.shape) for name, picture in pictures.items()}, height=2.8
    ),
    "02_three_rules",
)

# %% [markdown]
# ## 6. A whole network at once
#
# A network has too many weights to move each one alone. So all of them are moved together, along a
# random direction $d$ of length 1, and two numbers are compared:
#
# $$\frac{L(w + h d) - L(w - h d)}{2h} \qquad \text{and} \qquad \sum \mathrm{gradient} \cdot d$$
#
# One direction already involves every weight. The package tries several: the direction of the
# gradient itself, and random ones. `SRResNet` is the network that lesson 12 builds; here it is only
# a function with many weights, its `parameters()`, which `to` converts to float64.

# %%
network = SRResNet(channels=4, blocks=1).to(lambda array: array.astype(np.float64))
lr = rng.uniform(-1, 1, (2, 4, 4, 3))
hr = rng.uniform(-1, 1, (2, 16, 16, 3))
for result in check_directions(
    lambda: losses.mean_squared_error(network(lr), hr), network.parameters(), "a small SRResNet"
):
    print(result)
    assert result.passed

# %% [markdown]
# `python -m npsrgan.gradcheck` does this for every operation, network and loss of the package.
#
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "A network has 1.5 million weights, and one value of its loss takes 0.5 s. How many days "
    "would central differences of "
    "every weight take?",
    answer=None,
    check=lambda a: abs(a - 2 * 1.5e6 * 0.5 / 86400) < 0.5,
    hint="two values for each weight; a day has 86,400 s",
)
exercise(
    2,
    "relu(x) is 0 for x < 0 and x for x > 0. What does a central difference with h = 1e-6 give "
    "at x = 0?",
    answer=None,
    check=lambda a: a == 0.5,
    hint="(relu(h) - relu(-h)) / 2h. No rule gives that value, so checks keep away from kinks.",
)

# %% [markdown]
# The next two ask for code. First, be the adversary: write a rule that is wrong in a way of your
# own, and that the all-ones check nevertheless passes.


# %%
def check_adversary(rule):
    if ours(rule):
        return "that rule is right"
    return all_ones(rule) or "the all-ones check notices it"


exercise(
    3,
    "Write a wrong rule for normalise that the all-ones check passes: a function of (dy, x).",
    answer=None,
    check=check_adversary,
    hint="what is dy - dy.mean(0) when all entries of dy are 1?",
)

# %% [markdown]
# Second, repair a gradient. The operation is $y = x / \sum_j x_j$, applied to each row of $x$, with
# the shape $(n, k)$. The rule below treats the sum as a constant.


# %%
def shares(x):
    return x / x.sum(1, keepdims=True)


def broken_shares_rule(dy, x):
    return dy / x.sum(1, keepdims=True)


def check_shares_rule(rule):
    result = check(op(lambda x: (shares(x), (lambda dy: rule(dy, x),))), np.abs(x) + 1)[0]
    return result.passed or str(result)


exercise(
    4, "Repair broken_shares_rule: a function of (dy, x).", answer=None, check=check_shares_rule
)
