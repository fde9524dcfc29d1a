"""Lesson 03: the tape.  How do gradients find their way back through a program, and why is the order of execution all they need?

You should know: the chain rule for one function of one variable; lesson 02 for the check.
Paper: Baydin et al. 2018, "Automatic Differentiation in Machine Learning: a Survey", section 3.2.  Lives in: npsrgan/tape.py.
"""
# %% The question: b = a + a, then c = b + b.  By hand c = 4a, so dc/da = 4.  How can a program know?
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, plt, save

from npsrgan.data import Photograph
from npsrgan.gradcheck import check
from npsrgan.metrics import luma
from npsrgan.tape import Tape, Tensor as PackageTensor, op


class Tensor:                                       # an array with an identity, so that it can be a key
    def __init__(self, array):
        self.array = np.asarray(array, float)


records = []                                        # the tape: one (output, inputs, rules) for each operation that ran


def operation(function):
    """function(arrays) returns its value and, for each input, a rule from dL/d(output) to dL/d(input)."""
    def run(*inputs):
        value, rules = function(*(tensor.array for tensor in inputs))
        output = Tensor(value)
        records.append((output, inputs, rules))
        return output
    return run


plus = lambda a, b: (a + b, (lambda dy: dy, lambda dy: dy))
add = operation(plus)
a = Tensor(3)
b = add(a, a)
c = add(b, b)


# %% The formula.  The chain rule is a sum over all paths from c back to a, of the products along each path.  Literally:
def by_paths(tensor, dy):
    """[the product along each path], from this tensor, which dy has reached, back to a, which no operation made."""
    for output, inputs, rules in records:
        if output is tensor:
            return [product for x, rule in zip(inputs, rules) for product in by_paths(x, rule(dy))]
    return [dy]


assert by_paths(c, 1) == [1, 1, 1, 1]               # right: four paths, and each adds 1
# But every doubling doubles the paths.  Prediction: ten doublings, 2^10 paths.  Fifty, and it does not end this year.
records.clear()
t = a
for _ in range(10):
    t = add(t, t)
print("ten doublings:", len(by_paths(t, 1)), "paths,", len(records), "records")
assert len(by_paths(t, 1)) == 2**10 and len(records) == 10


# %% The simplest code that does it well: add the contributions up *before* going on, so that each record is visited once.
#
#       dL/dt = sum over all uses of t of rule(dL/d(output of that use))
#
# All uses of t must be visited before the record that made t.  Who sees to that?  Nobody has to: a tensor is used after it is made,
# so its uses stand later on the tape.  Walk backward, and they come first.
def gradient(loss, wrt):
    gradients = {loss: np.ones_like(loss.array)}
    for output, inputs, rules in reversed(records):
        if output in gradients:
            dy = gradients.pop(output)                      # complete: all uses lie behind us
            for tensor, rule in zip(inputs, rules):
                gradients[tensor] = gradients.get(tensor, 0) + rule(dy)
    return gradients[wrt]


assert gradient(t, a) == 2**10                      # ten records, ten visits

# %% In another order it goes wrong.  b = a + a, c = b * b, d = b + c.  Go from d to b at once, and b hands on 1, before c has added its 2b.
records.clear()
multiply = operation(lambda a, b: (a * b, (lambda dy: dy * b, lambda dy: dy * a)))
b = add(a, a)
d = add(b, multiply(b, b))
assert gradient(d, a) == 2 + 8 * 3                  # d = 2a + 4a^2
records[:2] = reversed(records[:2])                 # as if b had been made after its use in c
assert gradient(d, a) == 2                          # the way through c is lost, and no error is raised

# %% That is a whole framework.  A task for it: a picture whose 4x4 block means are these, and which is smooth.  No network, no training:
#
#       L(p) = 16 |shrink(p) - lr|^2 + 0.05 |down(p)|^2 + 0.05 |across(p)|^2            p is used three times: three gradients meet
block_means = lambda p: p.reshape(p.shape[0] // 4, 4, p.shape[1] // 4, 4).mean((1, 3))
shrink = lambda p: (block_means(p), (lambda dy: np.kron(dy, np.ones((4, 4))) / 16,))
step = lambda axis: lambda p: (np.roll(p, -1, axis) - p, (lambda dy: np.roll(dy, 1, axis) - dy,))       # step(0) is down, step(1) across
square = lambda factor: lambda x: (factor * (x * x).sum(), (lambda dy: dy * factor * 2 * x,))
minus = lambda target: lambda x: (x - target, (lambda dy: dy,))

# Are the rules right?  The package's `op` takes the very same functions, and its gradcheck checks them (lesson 02).
for function in (shrink, step(0), step(1), square(16), minus(1.0)):
    assert check(op(function), np.random.default_rng(3).standard_normal((8, 12)))[0].passed

hr = luma(Photograph().load(0))[150:350, 140:400] / 255
lr = block_means(hr)
blocks, psnr = np.kron(lr, np.ones((4, 4))), lambda x: -10 * np.log10(np.mean((x - hr) ** 2))


def loss(p, operation):
    fidelity = operation(square(16))(operation(minus(lr))(operation(shrink)(p)))
    return operation(plus)(fidelity, operation(plus)(*[operation(square(0.05))(operation(step(axis))(p)) for axis in (0, 1)]))


p = Tensor(blocks)
for _ in range(150):
    records.clear()
    p.array = p.array - 0.5 * gradient(loss(p, operation), p)

# %% The package's tape, on the same functions: the same numbers.  It adds what a framework needs: tapes that end, frozen parts skipped,
# memory dropped on the way, errors in words.  And a gradient is the answer to a question: nothing is stored on a tensor, so two losses
# can be asked for one after the other, and neither leaks into the other.  (In SRGAN that leak is the costliest bug: see the bug museum.)
records.clear()
mine = gradient(loss(p, operation), p)
q = PackageTensor(p.array)
with Tape() as tape:
    total, other = loss(q, op), op(square(1))(q)
assert np.allclose(tape.gradient(total, q, keep=True), mine, atol=1e-12)
assert np.allclose(tape.gradient(other, q), 2 * q.array)            # and not mine + 2q, as where gradients pile up in `q.grad`

# %% Pictures: the tape of L, and the picture it found
place = {p: 0} | {output: position for position, (output, _, _) in enumerate(records, start=1)}
arrows = [(place[tensor], place[output]) for output, inputs, _ in records for tensor in inputs]
assert all(made < used for made, used in arrows)    # the whole secret
figure, axis = plt.subplots(figsize=(9, 2.3), layout="constrained")
for made, used in arrows:
    axis.annotate("", (used, 0), (made, 0), arrowprops={"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.4", "lw": 2.5, "shrinkB": 9,
                                                        "color": "C0" if made else "C3"})
axis.plot(range(10), np.zeros(10), "o", ms=20, color="C1")
axis.set(xlim=(-0.5, 9.5), ylim=(-0.2, 0.7), yticks=[], frame_on=False,
         title="the tape of L: arrows point right, so gradients walk left; red: three of them meet in p")
axis.set_xticks(range(10), ["p", "shrink", "minus lr", "square", "down", "square", "across", "square", "plus", "plus: L"])
save(figure, "03_tape")
save(picture_row({f"4x4 block means: {psnr(blocks):.1f} dB": blocks, f"150 steps down L: {psnr(p.array):.1f} dB": p.array,
                  "the photograph": hr}, height=2.9, vmin=0, vmax=1), "03_descent")
assert psnr(p.array) > psnr(blocks) + 0.5           # smoother than the blocks, and closer; to know what hair looks like takes a network

# %% Exercises: put your answer in the place of None.
exercise(1, "b = a + a, c = b + b, d = c * c: what is dd/da at a = 3?", answer=None, check=lambda a: a == 96, hint="d = 16 a^2")
exercise(2, "A residual block is x + f(x).  With f counted as one way, how many paths lead back through 16 in a row?", answer=None,
         check=lambda a: a == 2**16, hint="each block offers two ways")
exercise(3, "y = x - mean(x), for an array x.  Write its rule: a function of dy.", answer=None, hint="every x is part of the mean of all",
         check=lambda f: check(op(lambda x: (x - x.mean(), (f,))), np.array([1.0, 2.0, 4.0]))[0].passed)
