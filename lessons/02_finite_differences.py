"""Lesson 02: gradients by finite differences.  How do we know that a gradient is right, and which checks let anything pass?

You should know: what a derivative is; mean and standard deviation.
Book: Press et al. 2007, "Numerical Recipes", section 5.7 (differences).  Lives in: npsrgan/gradcheck.py.
"""
# %% The question: a derivative, from values only
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, plt, save

from npsrgan import losses
from npsrgan.data import Photograph, downscale
from npsrgan.gradcheck import check, check_directions
from npsrgan.metrics import luma
from npsrgan.models import SRResNet
from npsrgan.tape import op

# The formula, one-sided and central; what Taylor leaves out; and what rounding adds (u is 6e-8 in float32, 1e-16 in float64):
#
#       (f(x + h) - f(x)) / h             error   h f''/2      + u f / h            best h ~ u^(1/2)
#       (f(x + h) - f(x - h)) / 2h        error   h^2 f'''/6   + u f / h            best h ~ u^(1/3)
#
# Prediction: central differences in float64 are best near h = 1e-5 and get ten digits right.  In float32: near 4e-3, and four or five.

def softplus(x):
    return np.log(1 + np.exp(x))


h = 10.0 ** np.arange(-12, 0.1, 0.25)
figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
for dtype in (np.float64, np.float32):
    x, step = dtype(1), h.astype(dtype)
    truth = 1 / (1 + np.exp(-1.0))
    one_sided = np.abs((softplus(x + step) - softplus(x)) / step - truth)
    central = np.abs((softplus(x + step) - softplus(x - step)) / (2 * step) - truth)
    print(f"{dtype.__name__}: best h {h[central.argmin()]:.0e}, best error {central.min():.0e}; one-sided {one_sided.min():.0e}")
    for error, style, name in ((one_sided, "--", "one-sided"), (central, "-", "central")):
        axis.loglog(h, error + 1e-17, style, label=f"{name}, {dtype.__name__}", color="C0" if dtype is np.float64 else "C1")
    assert central.min() < (1e-9 if dtype is np.float64 else 1e-3)
axis.set(title="the error of a finite difference: too long a step bends, too short a step rounds", xlabel="step h", ylabel="error")
axis.legend()
save(figure, "02_step")

# %% Arrays.  L, the loss, is one number, computed from y = f(x) by whatever comes after (lesson 01).  An operation f comes with a rule: a
# function from dy = dL/dy, the cotangent, to dL/dx.  To check it, make an L with a known dy: L = sum(cotangent * f(x)).  Differences want
# two values of L for each entry of x.  Our patient is batch norm at its simplest: every column gets mean 0 and standard deviation 1.
# (Lesson 08 derives the rule.)
def normalise(x):
    return (x - x.mean(0)) / x.std(0)


def right(dy, x):
    x_hat = normalise(x)
    return (dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0)) / x.std(0)


def difference(cotangent, x, h=1e-6):
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += h
        below[index] -= h
        gradient[index] = (cotangent * normalise(above) - cotangent * normalise(below)).sum() / (2 * h)
    return gradient


rng = np.random.default_rng(2)
x = rng.standard_normal((12, 3))
random, ones = rng.standard_normal(x.shape), np.ones(x.shape)
error = np.abs(right(random, x) - difference(random, x)).max() / np.abs(difference(random, x)).max()
print(f"the rule against differences, relative to the largest entry: {error:.0e}")
assert error < 1e-7

# %% Seven rules, of which one is right, and four ways to check
rules = {"right": right,
         "all zeros": lambda dy, x: 0 * x,
         "wrong sign": lambda dy, x: -right(dy, x),
         "0.1 % too large": lambda dy, x: 1.001 * right(dy, x),
         "one entry 1 % off": lambda dy, x: right(dy, x) * np.where(np.arange(x.size).reshape(x.shape) == 7, 1.01, 1),
         "mean forgotten": lambda dy, x: (dy - normalise(x) * (dy * normalise(x)).mean(0)) / x.std(0),
         "x_hat forgotten": lambda dy, x: (dy - dy.mean(0)) / x.std(0)}


def all_ones(rule):             # "the loss is the sum of the outputs": the sum of normalise(x) is always 0, so its gradient is 0
    return np.allclose(rule(ones, x), difference(ones, x), atol=1e-6)


def one_plus(rule):             # a small loss, as networks have: entries of the gradient near 1e-6, and |a - n| / (1 + |n|) below 1e-5
    analytic, numeric = rule(1e-6 * random, x), difference(1e-6 * random, x)
    return (np.abs(analytic - numeric) / (1 + np.abs(numeric))).max() < 1e-5


def single_precision(rule):     # float32 has four digits, so the tolerance was loosened until the test went green
    return np.allclose(rule(random, x), difference(random.astype(np.float32), x.astype(np.float32), 1e-2), rtol=0.02, atol=0.02)


def ours(rule):                 # float64, random cotangent, error relative to the largest entry: npsrgan.gradcheck, imported
    return check(op(lambda x: (normalise(x), (lambda dy: rule(dy, x),))), x)[0].passed


checks = {"all-ones cotangent": all_ones, "denominator 1 + |n|": one_plus, "float32, loosened": single_precision, "ours": ours}
passed = np.array([[way(rule) for rule in rules.values()] for way in checks.values()])
# Prediction: all pass the right rule, and only ours passes nothing else.  All ones: where the right answer is 0, five wrong rules say 0.
assert passed[:, 0].all() and not passed[3, 1:].any()
assert passed[0].tolist() == [True] * 5 + [False, True] and passed[1].all() and passed[2, 3]

figure, axis = plt.subplots(figsize=(10, 2.9), layout="constrained")
good = passed == (np.arange(len(rules)) == 0)
axis.imshow(good, cmap="RdYlGn", vmin=-0.4, vmax=1.4, aspect="auto")
for (row, column), verdict in np.ndenumerate(passed):
    axis.text(column, row, "passes" if verdict else "caught", ha="center", va="center", weight="normal" if good[row, column] else "bold")
axis.set_xticks(range(len(rules)), rules)
axis.set_yticks(range(len(checks)), checks)
axis.set_title("which check catches which rule (red: a wrong rule passes)")
save(figure, "02_checks")

# %% What it means for a picture.  Three rules that the all-ones check passes, each trusted with a task: start from noise, and go downhill
# on |normalise(picture) - normalise(photograph)|^2 / 2.  Prediction: the photograph; the noise; and with the wrong sign, the negative.
photo = luma(downscale(Photograph().load(0), 4))
target = normalise(photo.reshape(-1, 1))
noise = np.random.default_rng(3).standard_normal(target.shape)
found = {}
for name in ("right", "all zeros", "wrong sign"):
    picture = noise.copy()
    for _ in range(60):
        picture -= 0.5 * rules[name](normalise(picture) - target, picture)
    found[name] = normalise(picture)
    print(f"{name:20} correlation with the photograph: {(found[name] * target).mean():+.2f}")
similarity = [(picture * target).mean() for picture in found.values()]
assert similarity[0] > 0.99 and abs(similarity[1]) < 0.1 and similarity[2] < -0.9
pictures = {"start": noise} | {f"rule: {name}": picture for name, picture in found.items()}
save(picture_row({name: picture.reshape(photo.shape) for name, picture in pictures.items()}, height=2.3), "02_three_rules")

# %% A network has too many numbers to move each one.  Move all of them along random directions d of length 1, and compare
# (L(w + h d) - L(w - h d)) / 2h with sum(gradient * d).  One direction already sees every entry; a few make sure.
network = SRResNet(channels=4, blocks=1).to(lambda array: array.astype(np.float64))
lr, hr = rng.uniform(-1, 1, (2, 4, 4, 3)), rng.uniform(-1, 1, (2, 16, 16, 3))
for result in check_directions(lambda: losses.mean_squared_error(network(lr), hr), network.parameters(), "a small SRResNet"):
    print(result)
    assert result.passed
# `python -m npsrgan.gradcheck` does this for every operation, network and loss.

# %% Exercises: put your answer in the place of None.
exercise(1, "A network of 1.5 million numbers, 0.5 s for one value of the loss: how many days do central differences of every entry take?",
         answer=None, check=lambda a: abs(a - 2 * 1.5e6 * 0.5 / 86400) < 0.5, hint="two values for each number; a day has 86,400 s")
exercise(2, "relu is 0 below 0 and x above.  What does a central difference with h = 1e-6 say at x = 0, whose rule says 0 or 1?",
         answer=None, check=lambda a: a == 0.5, hint="(relu(h) - relu(-h)) / 2h; and so gradient checks keep away from kinks")
exercise(3, "Write a rule for normalise, wrong in a way of your own, that the all-ones check passes: a function of (dy, x).", answer=None,
         check=lambda f: "that rule is right" if ours(f) else all_ones(f), hint="what is dy - dy.mean(0) when all of dy is 1?")
