# %% [markdown]
# # Lesson 03: The tape
#
# **The question.** How does a gradient find its way back through a program, and why does it need
# nothing but the order in which the program ran?
#
# You should know: the chain rule for functions of one variable, $(f(g(x)))' = f'(g(x))\,g'(x)$;
# what a gradient rule and its check are (lesson 02).
#
# Paper: Baydin et al. 2018, "Automatic Differentiation in Machine Learning: a Survey", section 3.2.
#
# Lives in: `npsrgan/tape.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save

from npsrgan.data import Photograph
from npsrgan.gradcheck import check
from npsrgan.metrics import luma
from npsrgan.ops.operation import op
from npsrgan.tape import Tape
from npsrgan.tape import Tensor as PackageTensor

# %% [markdown]
# ## 1. Write down what was computed
#
# Take $b = a + a$ and then $c = b + b$. By hand, $c = 4a$, so $dc/da = 4$. How can a program know?
#
# First, it writes down what it does. A `Tensor` is an array with an identity: two tensors with
# equal values are still two tensors, so each can be the key of a dictionary. An **operation** is a
# function from arrays to an array and, for each input, a gradient rule: a function from
# $dy = dL/d(\mathrm{output})$ to $dL/d(\mathrm{input})$. Whenever an operation runs, it appends one
# **record** to a list: its output, its inputs and its rules. That list is the **tape**.


# %%
class Tensor:
    def __init__(self, array):
        self.array = np.asarray(array, float)


records = []


def operation(function):
    """Make a recorded operation of a function from arrays to (value, rules)."""

    def run(*inputs):
        value, rules = function(*(tensor.array for tensor in inputs))
        output = Tensor(value)
        records.append((output, inputs, rules))
        return output

    return run


# %% [markdown]
# Addition: when $a$ rises by a little, $a + b$ rises by as much. So $dL/da = dL/d(a + b)$, and the
# same for $b$: both rules hand $dy$ on unchanged.


# %%
def plus(a, b):
    return a + b, (lambda dy: dy, lambda dy: dy)


add = operation(plus)
a = Tensor(3)
b = add(a, a)
c = add(b, b)
print(f"a = {a.array}, b = {b.array}, c = {c.array}; the tape holds {len(records)} records")

# %% [markdown]
# ## 2. The chain rule, literally
#
# The chain rule for many variables is a sum over all **paths** that lead from $c$ back to $a$.
# Along each path, the derivatives are multiplied. Here is that sentence as code: starting at a
# tensor, with the product so far in `dy`, it returns the product of each path that ends in $a$.


# %%
def by_paths(tensor, dy):
    for output, inputs, rules in records:
        if output is tensor:
            products = []
            for x, rule in zip(inputs, rules):
                products += by_paths(x, rule(dy))
            return products
    return [dy]  # no operation made this tensor: it is a


print("products along the paths from c to a:", by_paths(c, 1))
assert by_paths(c, 1) == [1, 1, 1, 1]

# %% [markdown]
# Four paths, each contributes 1, and the sum is 4. Correct, but now double ten times instead of
# twice.

# %%
records.clear()
t = a
for _ in range(10):
    t = add(t, t)
paths = len(by_paths(t, 1))
predict(
    "Ten doublings leave ten records. How many paths lead back to a?",
    guess=None,
    value=paths,
    within=0.01,
    because="Every doubling doubles the number of paths: 2^10. Fifty doublings would take "
    "longer than a year.",
)
assert paths == 2**10

# %% [markdown]
# ## 3. One walk, from the end
#
# The remedy is to **add before going on**. All paths that meet in a tensor share the rest of their
# way, so their products are added there, once, and only the sum goes on:
#
# $$\frac{dL}{dt} = \sum_{\text{uses of } t} \mathrm{rule}(dy),
# \qquad dy = \frac{dL}{d(\text{output of that use})}$$
#
# That works if every use of $t$ is visited before the record that made $t$. Nothing needs to be
# sorted for that. A tensor is used only after it has been made, so its uses come *later* on the
# tape. Walk from the end to the beginning, and the uses come first.


# %%
def gradients_of(loss):
    """{tensor: dL/d(tensor)} for every tensor from which the loss was computed."""
    gradients = {loss: np.ones_like(loss.array)}  # dL/dL = 1
    for output, inputs, rules in reversed(records):
        if output in gradients:
            dy = gradients[output]  # complete, because all uses have been visited
            for tensor, rule in zip(inputs, rules):
                gradients[tensor] = gradients.get(tensor, 0) + rule(dy)
    return gradients


assert gradients_of(t)[a] == 2**10  # ten records, ten visits

# %% [markdown]
# ## 4. Watch it work
#
# A richer example: $b = a + a$, $c = b \cdot b$, $d = b + c$. Multiplication needs a rule. When $a$
# rises by a little, $ab$ rises by $b$ times as much, so $dL/da = dy \cdot b$ and
# $dL/db = dy \cdot a$.


# %%
def times(a, b):
    return a * b, (lambda dy: dy * b, lambda dy: dy * a)


records.clear()
a = Tensor(3)
b = add(a, a)
c = operation(times)(b, b)
d = add(b, c)
gradients = gradients_of(d)
predict(
    "d = 2a + 4a^2. What is dd/da at a = 3?",
    guess=None,
    value=float(gradients[a]),
    because="2 + 8a = 26.",
)
assert gradients[a] == 2 + 8 * 3

# %% [markdown]
# The picture shows every tensor with its value, which was computed from left to right, and its
# gradient, which was computed from right to left. Each arrow is labelled with what it carries back.
# In $b$, three contributions meet: one from the addition and two from the square.

# %%
text_of = {a: "a", b: "b = a + a", c: "c = b * b", d: "d = b + c"}
place = {a: (0, 0), b: (2.6, 0), c: (5.2, -0.8), d: (7.8, 0)}
figure, axis = plt.subplots(figsize=(10.5, 3.4), layout="constrained")
for output, inputs, rules in records:
    for number, (tensor, rule) in enumerate(zip(inputs, rules)):
        x0, y0 = place[tensor]
        x1, y1 = place[output]
        bend = 0
        if inputs.count(tensor) == 2:
            bend = (0.3, -0.3)[number]
        arrow = {
            "arrowstyle": "-|>",
            "connectionstyle": f"arc3,rad={-bend}",
            "lw": 1.5,
            "color": "0.4",
        }
        axis.annotate("", (x1 - 0.5, y1), (x0 + 0.5, y0), arrowprops=arrow)
        carried = float(rule(gradients[output]))
        axis.text(
            (x0 + x1) / 2,
            (y0 + y1) / 2 + 0.75 * bend,
            f"{carried:g}",
            color="C3",
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
for tensor, (x, y) in place.items():
    box = {"boxstyle": "round,pad=0.8", "facecolor": "#eef3fb", "edgecolor": "0.3"}
    axis.text(
        x,
        y,
        f"{text_of[tensor]}\nvalue {float(tensor.array):g}\n",
        ha="center",
        va="center",
        bbox=box,
        fontsize=11,
    )
    axis.text(
        x,
        y,
        f"\n\ngradient {float(gradients[tensor]):g}",
        ha="center",
        va="center",
        color="C3",
        fontsize=11,
    )
axis.set(
    xlim=(-0.8, 8.6),
    ylim=(-1.25, 0.5),
    xticks=[],
    yticks=[],
    frame_on=False,
    title="values are computed from left to right, gradients (red) from right to left",
)
save(figure, "03_tape")

# %% [markdown]
# ## 5. In another order it goes wrong
#
# Exchange the first two records, as if $b$ had been made after its use in $c$. Now the walk reaches
# the record of $b$ before $c$ has contributed.

# %%
records[:2] = reversed(records[:2])
too_early = float(gradients_of(d)[a])
predict(
    "In that order, which value comes out for dd/da?",
    guess=None,
    value=too_early,
    because="b passes on the 1 that came directly from d. The part that comes through c arrives"
    " too late,"
    " and no error is raised.",
)
assert too_early == 2

# %% [markdown]
# ## 6. A task for it
#
# This is already enough for a small piece of super-resolution. Find a picture $p$ whose 4 x 4 block
# means are the given small picture, and which is smooth: neighbouring pixels differ little. With
# `shrink` for the block means, and `down` and `across` for the differences between neighbours,
#
# $$L(p) = 16 \sum (\mathrm{shrink}(p) - lr)^2
# + 0.05 \sum \mathrm{down}(p)^2 + 0.05 \sum \mathrm{across}(p)^2$$
#
# $p$ is used three times, so three gradients meet in it. The rules, each in a sentence:
#
# * `shrink`, (H, W) to (H/4, W/4): every pixel of a block contributes 1/16 to its mean. So each
#   receives 1/16 of the mean's gradient.
# * `step`, (H, W) to (H, W): pixel $i + 1$ minus pixel $i$, with the last row's neighbour being the
#   first row. Pixel $i$ appears with a minus in its own difference and with a plus in its
#   predecessor's.
# * `square`: the derivative of $k x^2$ is $2 k x$.
# * `minus` a constant: $dy$ is handed on.


# %%
def block_means(p):
    return p.reshape(p.shape[0] // 4, 4, p.shape[1] // 4, 4).mean((1, 3))


def shrink(p):
    return block_means(p), (lambda dy: np.kron(dy, np.ones((4, 4))) / 16,)


def step(axis):
    return lambda p: (np.roll(p, -1, axis) - p, (lambda dy: np.roll(dy, 1, axis) - dy,))


def square(factor):
    return lambda x: (factor * (x * x).sum(), (lambda dy: dy * factor * 2 * x,))


def minus(constant):
    return lambda x: (x - constant, (lambda dy: dy,))


# %% [markdown]
# Are these rules right? The package's `op` takes the very same functions, so its gradient check
# (lesson 02) can check ours.

# %%
rng = np.random.default_rng(3)
for function in (shrink, step(0), step(1), square(16), minus(1.0)):
    result = check(op(function), rng.standard_normal((8, 12)))[0]
    assert result.passed, result
print("all five rules agree with finite differences")

# %% [markdown]
# Now the descent: compute the gradient of $L$, move $p$ a little against it, and repeat.

# %%
hr = luma(Photograph().load(0))[150:350, 140:400] / 255
lr = block_means(hr)
blocks = np.kron(lr, np.ones((4, 4)))


def loss_of(p, operation):
    fidelity = operation(square(16))(operation(minus(lr))(operation(shrink)(p)))
    down = operation(square(0.05))(operation(step(0))(p))
    across = operation(square(0.05))(operation(step(1))(p))
    return operation(plus)(fidelity, operation(plus)(down, across))


p = Tensor(blocks)
for _ in range(150):
    records.clear()
    loss = loss_of(p, operation)
    p.array = p.array - 0.5 * gradients_of(loss)[p]


def psnr(x):
    return -10 * np.log10(np.mean((x - hr) ** 2))


gain = psnr(p.array) - psnr(blocks)
predict(
    "By how many dB is the result better than the blocks that it began with?",
    guess=None,
    value=gain,
    unit="dB",
    within=0.3,
    because="Smoothness is a weak kind of knowledge about pictures. To know what hair looks "
    "like takes a network.",
)
save(
    picture_row(
        {
            f"4 x 4 block means: {psnr(blocks):.1f} dB": blocks,
            f"150 steps down L: {psnr(p.array):.1f} dB": p.array,
            "the photograph": hr,
        },
        height=3.2,
        vmin=0,
        vmax=1,
    ),
    "03_descent",
)
assert gain > 0.5

# %% [markdown]
# ## 7. The package's tape
#
# `npsrgan/tape.py` is the same walk. It adds what a framework needs: a tape begins and ends (`with
# Tape() as tape:`), parts that nobody asks about are skipped, memory is freed on the way, and error
# messages say what to do.
#
# One decision is worth explaining. In many frameworks, gradients pile up in an attribute of each
# tensor, `x.grad`. Here a gradient is the answer to a question: `tape.gradient(loss, x)`. Nothing
# is stored, so two losses can be asked about one after the other, and neither leaks into the other.
# In SRGAN, with its two networks and two losses, that leak is the most expensive bug of all; lesson
# 19 measures it.

# %%
records.clear()
mine = gradients_of(loss_of(p, operation))[p]
q = PackageTensor(p.array)
with Tape() as tape:
    total = loss_of(q, op)
    other = op(square(1))(q)
assert np.allclose(tape.gradient(total, q, keep=True), mine, atol=1e-12)
assert np.allclose(tape.gradient(other, q), 2 * q.array)  # and not mine + 2q
print("the package's tape computes the same gradients")

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "b = a + a, c = b + b, d = c * c. What is dd/da at a = 3?",
    answer=None,
    check=lambda a: a == 96,
    hint="d = 16 a^2",
)
exercise(
    2,
    "A residual block computes x + f(x). Counting f as one way, how many paths lead back "
    "through 16 such blocks in a row?",
    answer=None,
    check=lambda a: a == 2**16,
    hint="each block offers two ways",
)

# %%
exercise(
    3,
    "y = x - mean(x), for an array x. Write its gradient rule, a function of dy.",
    answer=None,
    check=lambda rule: (
        check(op(lambda x: (x - x.mean(), (rule,))), np.array([1.0, 2.0, 4.0]))[0].passed
    ),
    hint="every entry of x is also part of the mean",
)

# %% [markdown]
# The walk below has a bug that hides as long as every tensor is used once. Write a test that
# catches it: a function `test(gradients_of)` that records a small program, asks for a gradient, and
# returns True if it is right. It may use `records`, `add`, `Tensor` and everything else from above.


# %%
def broken_gradients_of(loss):
    gradients = {loss: np.ones_like(loss.array)}
    for output, inputs, rules in reversed(records):
        if output in gradients:
            for tensor, rule in zip(inputs, rules):
                gradients[tensor] = rule(gradients[output])
    return gradients


def check_tape_test(test):
    if not test(gradients_of):
        return "the test rejects the correct walk"
    return "the test accepts the broken walk" if test(broken_gradients_of) else True


exercise(
    4,
    "Write test(gradients_of): True for the correct walk, False for the broken one.",
    answer=None,
    check=check_tape_test,
)
