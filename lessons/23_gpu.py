"""Lesson 23: the GPU.  How can the same code run on one, what does a kernel do, and what is a graph?

You should know: Adam (lesson 11), the roofline (06).  Papers: Kingma and Ba 2015, algorithm 1; Williams et al. 2009 (roofline).
Lives in: npsrgan/device.py, npsrgan/fast/cuda/ (adam.cu is read here), npsrgan/graph.py.
"""
# %% The question.  A graphics card computes with ten thousand threads at once.  Nothing in npsrgan/ops/ knows of that.
# This lesson runs everywhere: where there is no card, Python plays its part.  It counts; it measures no card, and quotes none.
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, plt, save

from npsrgan import ops
from npsrgan.adam import Adam
from npsrgan.device import select, to_numpy
from npsrgan.fast.cuda import compile
from npsrgan.layers import Linear
from npsrgan.models import Discriminator, SRResNet
from npsrgan.tape import Tape

device, remark = select("auto")
print(remark or device.description)

# %% The same code.  NumPy asks every argument: "do you want to do this yourself?"  CuPy's arrays do (__array_ufunc__ for sums and
# products, __array_function__ for the rest).  So `np.where` of a CuPy array runs on the card.  Here is an array that answers,
# notes what it was asked, and lets NumPy do the work.  Prediction for PReLU: one comparison, one product, one `where`.


class Witness(np.lib.mixins.NDArrayOperatorsMixin):
    heard = []

    def __init__(self, array): self.array = array
    shape, dtype, ndim = (property(lambda self, name=name: getattr(self.array, name)) for name in ("shape", "dtype", "ndim"))

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        self.heard.append(ufunc.__name__)
        return Witness(getattr(ufunc, method)(*(getattr(x, "array", x) for x in inputs), **options))

    def __array_function__(self, function, types, inputs, options):
        self.heard.append(function.__name__)
        return Witness(function(*(getattr(x, "array", x) for x in inputs), **options))


x, slope = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3), np.full(3, 0.25, np.float32)
seen = ops.prelu(Witness(x), Witness(slope)).array
print("PReLU asked the array for:", ", ".join(Witness.heard))
assert sorted(Witness.heard) == ["greater", "multiply", "where"]
assert np.array_equal(seen.array, ops.prelu(x, slope).array)
on_device = ops.prelu(device.array(x), device.array(slope)).array           # on a card where there is one, else here
assert np.allclose(to_numpy(on_device), seen.array)

# %% What limits a card: bytes or operations?  Count both, for one layer in a training batch of 16 images of 44 x 44 pixels.
# A card needs many operations per byte it moves.  Take a data sheet's 20e12 operations and 1.5e12 bytes a second: below 13
# operations per byte it waits for its memory.  (A data sheet, not a measurement.  Put your card's two numbers here.)
OPERATIONS, BYTES = 20e12, 1.5e12
n = 16 * 44 * 44                                                            # pixels of the batch
work = {        # name: (operations, floats moved if each is read and written once)
    "convolution 3x3, 64 to 64": (2 * 9 * 64 * 64 * n, 2 * 64 * n + 9 * 64 * 64),
    "convolution 9x9, 3 to 64": (2 * 81 * 3 * 64 * n, (3 + 64) * n + 81 * 3 * 64),
    "D's first linear layer": (2 * 16 * 61952 * 1024, 16 * 61952 + 61952 * 1024 + 16 * 1024),
    "batch norm, forward": (8 * 64 * n, 3 * 64 * n),                        # one reading for the statistics, one to normalise
    "PReLU": (2 * 64 * n, 2 * 64 * n),
    "Adam": (13, 7),                                                        # for each parameter: p, g, m, v in; p, m, v out
}
intensity = {name: operations / (4 * floats) for name, (operations, floats) in work.items()}
for name, ratio in intensity.items():
    print(f"{name:27} {ratio:7.1f} operations per byte: waits for {'memory' if ratio < OPERATIONS / BYTES else 'arithmetic'}")
assert intensity["convolution 3x3, 64 to 64"] > 13 > intensity["D's first linear layer"] > intensity["PReLU"]
# Four of the six only wait for memory.  For them, the way to be fast is to move fewer bytes.

# %% So: Adam.  A kernel is a function that runs on the card; to start it is a launch.  On a card each of NumPy's operations is one kernel,
# and one pass over memory.  Counting arrays read and written, operation by operation:
#   m += (1 - b1) * (g - m)                          3 + 2 + 3                =  8
#   v += (1 - b2) * (g * g - v)                      2 + 3 + 2 + 3            = 10
#   p -= rate / c1 * m / (sqrt(v / c2) + eps)        2 + 2 + 2 + 2 + 3 + 3    = 14       32 floats, 13 kernels, for each parameter
# The kernel that is written by hand moves 7, the least possible.  Prediction: 4.6 times fewer bytes, 13 times fewer launches.
print("\n" + "\n".join(f"{number:3}  {line}" for number, line in enumerate(compile.source("adam").splitlines(), start=1)) + "\n")
# Read line by line:
#   __global__     runs on the card, started from outside, by very many threads at once.  Each runs this same text.
#   blockIdx, blockDim, threadIdx      which block of threads am I in, how large is a block, who am I in it: my number is i.
#   i += gridDim.x * blockDim.x        then the entry as many further on as there are threads: so any size will do.
#                  Neighbours in a block touch neighbours in memory, so that one access of the memory serves 32 threads.
#   mean, square   stay in registers, the thread's own few places for numbers: m, v and p are each read once and written once.
# The card promises no order.  So no thread may need what another one writes: here each entry belongs to exactly one.


size, grid, block = 1000, 3, 32
layer = Linear(999, 1).pack()                                               # 1000 parameters with its bias
rng = np.random.default_rng(17)
gradient = rng.standard_normal(size).astype(np.float32)
p, m, v, owner = layer.flat.copy(), np.zeros(size, np.float32), np.zeros(size, np.float32), np.full(size, -1)


def adam_kernel(block_index, thread_index, rate=1e-3, steps=1, rest1=0.1, rest2=0.001, eps=1e-8):
    correction1, correction2 = 1 - (1 - rest1) ** steps, 1 - (1 - rest2) ** steps
    for i in range(block_index * block + thread_index, size, grid * block):
        assert owner[i] == -1                                               # nobody was here
        owner[i] = block_index * block + thread_index
        m[i] += rest1 * (gradient[i] - m[i])
        v[i] += rest2 * (gradient[i] ** 2 - v[i])
        p[i] -= rate / correction1 * m[i] / (np.sqrt(v[i] / correction2) + eps)


for k in rng.permutation(grid * block):                                     # play the card: every thread once, in any order
    adam_kernel(block_index=k // block, thread_index=k % block)
Adam(layer, 1e-3).step([gradient[:999].reshape(999, 1), gradient[999:]])    # the package's, in NumPy
assert np.all(owner >= 0) and np.allclose(p, layer.flat, rtol=1e-4)
print("the kernel, played by Python in random order, and Adam in NumPy agree")

# %% One graph.  Every operation is a launch: Python decides, asks the driver, the card computes.  Small ones are done before
# Python has asked for the next.  How many are there?  Count records on the tape of one SRGAN step without VGG19 (full depth,
# narrow, so that it is quick).  Prediction: G has 16 blocks of 6 operations and 12 others; D has 27, and runs twice.
g, d = SRResNet(4, 16), Discriminator(2, 16)
with Tape() as tape:
    made = d(g(np.zeros((1, 4, 4, 3), np.float32)))
    d(np.zeros((1, 16, 16, 3), np.float32))
print(f"one step: {len(tape)} operations forward, about twice as many gradient rules, each of several kernels")
assert len(tape) == 16 * 6 + 12 + 2 * 27
# A CUDA graph (npsrgan/graph.py) writes the launches down once, with the addresses of their arrays, and then starts all of them
# with one call.  It is a tape for kernels.  And because it holds addresses, new inputs must be copied to where the old ones were:
buffer, result, new = np.zeros(3), np.zeros(3), np.array([1.0, 2.0, 3.0])
graph = [lambda: np.multiply(buffer, 2, out=result), lambda: np.add(result, 1, out=result)]
for sees_the_new in (False, True):
    if sees_the_new:
        buffer[...] = new                   # copied in; before, `new` lies somewhere else and the graph cannot see it
    for kernel in graph:
        kernel()
    assert result.tolist() == ([3, 5, 7] if sees_the_new else [1, 1, 1])

# %% The picture
figure, axes = plt.subplots(1, 2, figsize=(12.5, 4), layout="constrained", width_ratios=(3, 2))
ratios = np.logspace(-1.5, 3, 50)
axes[0].loglog(ratios, np.minimum(OPERATIONS, BYTES * ratios), "k")
for (name, ratio), marker in zip(intensity.items(), "os^vDP"):
    axes[0].plot(ratio, min(OPERATIONS, BYTES * ratio), marker, ms=9, label=name)
axes[0].set(title="What a data sheet allows: left of the bend, bytes decide", xlabel="operations per byte (counted)",
            ylabel="operations per second, at most")
axes[0].legend(fontsize=8)
axes[1].imshow(owner[:192].reshape(12, 16) // block, cmap="Set2", interpolation="nearest")
for (row, column), thread in np.ndenumerate(owner[:192].reshape(12, 16)):
    axes[1].text(column, row, thread % block, ha="center", va="center", fontsize=8)
axes[1].set_title("192 parameters. Colour: block; number: thread")
axes[1].axis("off")
save(figure, "23_gpu")

# %% Your turn
exercise(1, "How many entries does thread 5 of block 2 update, of 1000, with 3 blocks of 32 threads?", None, lambda a: a == 10,
         hint="69, 165, 261, ...")
exercise(2, "A network has 1.5 million parameters.  How many megabytes (10^6) does the Adam kernel move in a step?", None,
         lambda a: abs(a - 42) < 0.5, hint="seven floats of four bytes")
