# %% [markdown]
# # Lesson 13: When a gradient is wrong
#
# **The question.** A network trains, nothing looks broken, and yet its gradient check fails. Which
# operation is wrong, in which input, and at which entries?
#
# You should know: gradient checks (lesson 02), the tape (03), the layers of the generator (05, 08,
# 09, 10).
#
# Source: the method is bisection, as for any program. The checks are those of lesson 02.
#
# Lives in: `npsrgan/gradcheck.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save

from npsrgan import images, losses, ops
from npsrgan.data import DeadLeaves, downscale
from npsrgan.gradcheck import check, check_directions, normal
from npsrgan.layers import Parameter
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## 1. The patient
#
# The patient is a small network that doubles the size of its input. It is a list of steps: each has
# a name, the parameters that it uses, and a function. Written like this, the network can be entered
# and left at any step, which we are going to need.
#
# One of its operations is wrong. You may see which one if you look closely at the next cell. In a
# program of thousands of lines you would not, so let us pretend that we have not seen it.


# %%
@op
def suspicious_norm(x, gamma, beta):
    """Batch normalisation (lesson 08).  x (N, H, W, C); gamma, beta (C,)."""
    axes = (0, 1, 2)
    std = np.sqrt(x.var(axes) + 1e-5)
    x_hat = (x - x.mean(axes)) / std

    def d_x(dy):
        return gamma / std * (dy - dy.mean(axes))

    def d_gamma(dy):
        return (dy * x_hat).sum(axes)

    def d_beta(dy):
        return dy.sum(axes)

    return gamma * x_hat + beta, (d_x, d_gamma, d_beta)


def build(norm):
    """[(name, parameters, function of a tensor), ...].  norm: the operation for the batch norm."""

    def parameter(*shape, seed, size):
        return Parameter(size * np.random.default_rng([13, seed]).standard_normal(shape))

    w1 = parameter(3, 3, 3, 8, seed=1, size=0.27)
    slope1 = Parameter(np.full(8, 0.25))
    w2 = parameter(3, 3, 8, 8, seed=2, size=0.17)
    gamma, beta = Parameter(np.ones(8)), Parameter(np.zeros(8))
    slope2 = Parameter(np.full(8, 0.25))
    w3 = parameter(3, 3, 8, 32, seed=3, size=0.17)
    w4 = parameter(3, 3, 8, 3, seed=4, size=0.1)
    return [
        ("convolution 1", {"weight": w1}, lambda x: ops.conv2d(x, w1)),
        ("PReLU 1", {"slope": slope1}, lambda x: ops.prelu(x, slope1)),
        ("convolution 2", {"weight": w2}, lambda x: ops.conv2d(x, w2)),
        ("batch norm", {"gamma": gamma, "beta": beta}, lambda x: norm(x, gamma, beta)),
        ("PReLU 2", {"slope": slope2}, lambda x: ops.prelu(x, slope2)),
        ("convolution 3", {"weight": w3}, lambda x: ops.conv2d(x, w3)),
        ("pixel shuffle", {}, lambda x: ops.pixel_shuffle(x)),
        ("convolution 4", {"weight": w4}, lambda x: ops.conv2d(x, w4)),
    ]


def parameters_of(steps):
    return [p for _, parameters, _ in steps for p in parameters.values()]


def run(steps, x):
    for _, _, function in steps:
        x = function(x)
    return x


# %% [markdown]
# ## 2. The symptom
#
# Train the patient, and a healthy twin with the package's batch norm, on random leaves with
# gradient descent and momentum (lesson 11).

# %%
leaves = DeadLeaves(16, 96)


def batch(step):
    """lr (4, 16, 16, 3), hr (4, 32, 32, 3)."""
    rng = np.random.default_rng([13, step])
    crops = []
    for _ in range(4):
        i, j = rng.integers(0, 65, 2)
        crops.append(leaves.load(int(rng.integers(16)))[i : i + 32, j : j + 32])
    lr = np.stack([images.to_float(downscale(crop, 2)) for crop in crops])
    return lr.astype(np.float64), np.stack([images.to_float(crop) for crop in crops]).astype(
        np.float64
    )


def train(steps, count=150):
    parameters = parameters_of(steps)
    momentum = [np.zeros_like(p.array) for p in parameters]
    curve = []
    for number in range(count):
        lr, hr = batch(number)
        with Tape() as tape:
            loss = losses.mean_squared_error(run(steps, lr), hr)
        for p, m, g in zip(parameters, momentum, tape.gradient(loss, parameters)):
            m[...] = 0.9 * m + 0.1 * g
            p.array -= 0.1 * m
        curve.append(float(loss))
    return np.array(curve)


sick_curve = train(build(suspicious_norm))
healthy_curve = train(build(ops.batch_norm))
ratio = sick_curve[-50:].mean() / healthy_curve[-50:].mean()
predict(
    "At the end, what is the patient's loss divided by the healthy twin's?",
    guess=None,
    value=ratio,
    within=0.2,
    because="A wrong gradient rarely crashes. What is left of it still points downhill, more or"
    " less, "
    "and the later layers make up for the rest. Nobody would find this bug by looking at the curves.",
)
assert 0.5 < ratio < 3

# %% [markdown]
# ## 3. Is it the gradient?
#
# The first question, and the cheapest to answer: check the whole network along random directions.
# In float64, on a small input, with random weights.

# %%
patient = build(suspicious_norm)
lr = normal(2, 6, 6, 3)
cotangent = normal(2, 12, 12, 3, seed=1)


def loss_from(x, steps):
    """The loss, computed from the input of the first of these steps."""
    return ops.mean(run(steps, x) * cotangent)


for result in check_directions(
    lambda: loss_from(lr, patient), parameters_of(patient), "the patient", 2
):
    print(result)
assert not result.passed

# %% [markdown]
# It is. Now, where?
#
# ## 4. Which parameters?
#
# Check every parameter array by itself, from the input to the output. How should the result look?
# The gradient is computed from the output back to the input. Between the broken rule and the output,
# everything has been computed before the walk reaches the rule: it is right. Between the input and
# the broken rule, everything has passed through that rule: it is wrong.
#
# **A broken rule spoils what lies upstream of it, and nothing downstream.**

# %%
errors = {}
for name, parameters, _ in patient:
    for kind, p in parameters.items():
        results = check_directions(lambda: loss_from(lr, patient), [p], name, 1)
        errors[f"{name}: {kind}"] = max(result.error for result in results)
for name, error in errors.items():
    print(f"{name:24} {error:.0e}   {'wrong' if error > 1e-7 else 'right'}")
wrong = [name for name, error in errors.items() if error > 1e-7]
predict(
    "How many of the eight parameter arrays have a wrong gradient?",
    guess=None,
    value=len(wrong),
    within=0,
    because=f"The last of them is '{wrong[-1]}'.",
)
assert wrong == list(errors)[: len(wrong)]

# %% [markdown]
# So the culprit is `convolution 2` or the batch norm. Which of them is it? The gradient of
# convolution 2's weight is wrong, because convolution 2's rule for its weight is broken, *or* because
# the $dy$ that this rule was given was wrong already.
#
# ## 5. Which operation?
#
# To decide that, ask for the gradients of the *intermediate* results. The tape answers for any
# tensor. And since the network is a list, finite differences can start at any step.

# %%
intermediate = {"the input": Tensor(lr)}
x = intermediate["the input"]
with Tape() as tape:
    for name, _, function in patient:
        x = function(x)
        intermediate[f"output of {name}"] = x
    loss = ops.mean(x * cotangent)
gradients = dict(zip(intermediate, tape.gradient(loss, list(intermediate.values()))))

step_errors = {}
for position, (name, tensor) in enumerate(intermediate.items()):
    rest = patient[position:]
    direction = np.random.default_rng(position).standard_normal(tensor.shape)
    direction /= np.linalg.norm(direction)
    above = float(loss_from(tensor.array + 1e-6 * direction, rest))
    below = float(loss_from(tensor.array - 1e-6 * direction, rest))
    numeric = (above - below) / 2e-6
    step_errors[name] = abs(numeric - (gradients[name] * direction).sum()) / np.linalg.norm(
        gradients[name]
    )
    print(f"gradient at the {name.removeprefix('the '):24} error {step_errors[name]:.0e}")

# %% [markdown]
# Read it from the bottom. The gradient is right at the output of the batch norm, and wrong at the
# output of convolution 2, which is the batch norm's input. Between these two, one rule has been
# called: the batch norm's rule for $x$. Convolution 2 is innocent: it was given a wrong $dy$.

# %%
names = list(step_errors)
last_wrong = max(position for position, name in enumerate(names) if step_errors[name] > 1e-7)
culprit = patient[last_wrong][0]
print("the culprit:", culprit)
assert culprit == "batch norm"

figure, axes = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained", width_ratios=(2, 3))
axes[0].semilogy(healthy_curve, label="healthy")
axes[0].semilogy(sick_curve, label="patient")
axes[0].set(title="the symptom", xlabel="step", ylabel="mean squared error")
axes[0].legend()
values = np.maximum(list(step_errors.values()), 1e-13)
axes[1].bar(
    range(len(names)),
    np.log10(values) + 13,
    bottom=-13,
    color=["C3" if error > 1e-7 else "C2" for error in values],
)
axes[1].axhline(-7, color="black", linestyle=":")
axes[1].set_xticks(
    range(len(names)), [name.replace("output of ", "") for name in names], rotation=35, ha="right"
)
axes[1].set(title="error of the gradient at each intermediate result (log10)", ylim=(-13, 1))
save(figure, "13_bisection")

# %% [markdown]
# ## 6. Which input, and which entries?
#
# Now take the operation out of the network and check every entry of every input. The package's
# `check` names the input, the worst entry and both numbers.

# %%
tiny = normal(2, 3, 3, 2)
gamma, beta = normal(2), normal(2, seed=1)
results = check(suspicious_norm, tiny, gamma, beta)
for result in results:
    print(result)
assert [result.passed for result in results] == [False, True, True]

# %% [markdown]
# Input 0, which is $x$, is wrong; $\gamma$ and $\beta$ are right. The entries that are wrong form a
# pattern, and the pattern is the best clue. So compute what is missing: the finite differences minus
# the rule.


# %%
def rule_and_differences(operation, *inputs, position=0, seed=5):
    """The gradient of sum(cotangent * operation(inputs)) for one input: by its rule, by differences."""
    value, rules = operation.reference(*inputs)
    cotangent = np.random.default_rng(seed).standard_normal(value.shape)
    numeric = np.zeros(inputs[position].shape)
    for index in np.ndindex(numeric.shape):
        values = []
        for h in (1e-6, -1e-6):
            moved = [array.copy() for array in inputs]
            moved[position][index] += h
            values.append((operation.reference(*moved)[0] * cotangent).sum())
        numeric[index] = (values[0] - values[1]) / 2e-6
    return rules[position](cotangent), numeric


patch = normal(1, 8, 8, 2)
by_rule, by_differences = rule_and_differences(suspicious_norm, patch, gamma, beta)
missing = by_differences - by_rule
x_hat = (patch - patch.mean((0, 1, 2))) / patch.std((0, 1, 2))
likeness = np.corrcoef(missing[..., 0].ravel(), x_hat[..., 0].ravel())[0, 1]
predict(
    "What is the correlation of what is missing, in the first channel, with x_hat? (without its"
    " sign)",
    guess=None,
    value=abs(likeness),
    because="The missing term is a multiple of x_hat: the path through the variance was "
    "forgotten (lesson 08, part 4).",
)
assert abs(likeness) > 0.999

# %% [markdown]
# ## 7. Patterns, and what they mean
#
# Three more broken rules, and their error at each entry. With some experience you recognise the bug
# from the pattern.


# %%
@op
def forgets_the_border(x, w):
    """A convolution whose rule drops the gradient at the border."""
    value, (d_x, d_w, _) = ops.conv2d.reference(x, w)

    def inner(dy):
        dx = d_x(dy)
        dx[:, [0, -1]] = 0
        dx[:, :, [0, -1]] = 0
        return dx

    return value, (inner, d_w)


@op
def forgets_the_slope(x, slope):
    """PReLU with ReLU's rule."""
    value, (_, d_slope) = ops.prelu.reference(x, slope)
    return value, (lambda dy: dy * (x > 0), d_slope)


@op
def forgets_the_sum(x):
    """x minus its mean over the image, with a rule that treats the mean as a constant."""
    return x - x.mean((1, 2), keepdims=True), (lambda dy: dy,)


exhibits = {
    "wrong at the border:\npadding": (forgets_the_border, patch, normal(3, 3, 2, 2)),
    "wrong where x < 0:\na mask or a slope": (forgets_the_slope, patch, np.array([0.25, 0.25])),
    "wrong by one constant:\na forgotten mean": (forgets_the_sum, patch),
}
maps = {"wrong like x_hat:\na forgotten variance": missing[0, ..., 0]}
for title, (operation, *inputs) in exhibits.items():
    by_rule, by_differences = rule_and_differences(operation, *inputs)
    maps[title] = (by_differences - by_rule)[0, ..., 0]
maps = {"the input x": patch[0, ..., 0]} | maps
maps = {title: array / np.abs(array).max() for title, array in maps.items()}
save(picture_row(maps, height=2.4, vmin=-1.3, vmax=1.3), "13_patterns")

# %% [markdown]
# | the error is | look for |
# |---|---|
# | a constant factor everywhere | a forgotten scale, a mean in place of a sum |
# | only at the border | padding, stride, an index that is off by one |
# | only where the input is negative | a mask or a slope of an activation |
# | the same at every entry | a mean whose own gradient was forgotten |
# | in the shape of the input | a variance or a norm whose gradient was forgotten |
# | everywhere, and as large as the gradient | a transposed matrix, a kernel that was not turned |
#
# ## 8. False alarms
#
# A failed check is not always a wrong rule. Four causes are common:
#
# * *A kink.* A step across the kink of a ReLU (lesson 09). Keep the inputs away from it; along
#   directions, draw another one.
# * *float32.* There are not enough digits. Check in float64.
# * *A gradient that is zero by theory*, such as that of a bias before a batch norm. A relative
#   error divides noise by noise. Check that it is near zero instead.
# * *A function with a memory or with randomness.* If the same input gives two different values,
#   differences measure that.

# %%
bias = Tensor(np.zeros(8))
x = normal(2, 6, 6, 8)
weights = normal(2, 6, 6, 8, seed=2)


def through_the_norm():
    return ops.mean(ops.batch_norm(Tensor(x) + bias, np.ones(8), np.zeros(8)) * weights)


with Tape() as tape:
    loss = through_the_norm()
size = float(np.abs(tape.gradient(loss, bias)).max())
alarm = max(result.error for result in check_directions(through_the_norm, [bias], "a dead bias", 1))
print(f"a bias before a batch norm: gradient {size:.0e}, 'relative error' {alarm:.0e}: no bug")
assert size < 1e-12
assert alarm > 1e-7

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).
#
# The network below has another broken operation. Find it with the methods of this lesson.


# %%
@op
def mystery_prelu(x, slope):
    value, (d_x, d_slope) = ops.prelu.reference(x, slope)
    return value, (d_x, lambda dy: 2 * d_slope(dy))


mystery = build(ops.batch_norm)
slope = mystery[4][1]["slope"]
mystery[4] = ("PReLU 2", {"slope": slope}, lambda x: mystery_prelu(x, slope))

exercise(
    1,
    "Of the mystery network's eight parameter arrays, how many have a wrong gradient?",
    answer=None,
    check=lambda a: a == 1,
    hint="no other gradient passes through the rule for a parameter",
)
exercise(
    2,
    "In a chain of 100 operations, one rule for the main input is broken. How many intermediate"
    " gradients must be checked, at most, "
    "if you halve the range each time?",
    answer=None,
    check=lambda a: a == 7,
    hint="2^7 = 128",
)

# %%
exercise(
    3,
    "Repair the patient: write d_x as a function of (dy, x, gamma).",
    answer=None,
    check=lambda rule: np.allclose(
        rule(cotangent, normal(2, 12, 12, 3), np.ones(3)),
        ops.batch_norm.reference(normal(2, 12, 12, 3), np.ones(3), np.zeros(3))[1][0](cotangent),
    ),
    hint="lesson 08, part 4",
)

# %% [markdown]
# Automate part 5. Write `find(steps)`, which returns the name of the step whose rule for its input
# is broken, or None. It is tried on three networks. You may use everything from above: `run`,
# `loss_from`, `lr`, `cotangent`.


# %%
def check_find(find):
    broken_shuffle = build(ops.batch_norm)
    scaled = op(
        lambda x: (
            ops.pixel_shuffle.reference(x)[0],
            (lambda dy: 1.01 * ops.pixel_shuffle.reference(x)[1][0](dy),),
        )
    )
    broken_shuffle[6] = ("pixel shuffle", {}, scaled)
    for steps, culprit in (
        (build(suspicious_norm), "batch norm"),
        (build(ops.batch_norm), None),
        (broken_shuffle, "pixel shuffle"),
    ):
        if find(steps) != culprit:
            return f"for the network whose culprit is {culprit} it says {find(steps)}"
    return True


exercise(4, "Write find(steps).", answer=None, check=check_find)
