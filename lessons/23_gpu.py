# %% [markdown]
# # Lesson 23: The GPU
#
# **The question.** How can the same code run on a graphics card, what does a kernel do, and what makes
# one kernel faster than another?
#
# You should know: Adam (lesson 11) and the roofline (lesson 06).
#
# Papers: Kingma and Ba 2015, algorithm 1; Williams et al. 2009, "Roofline".
#
# Lives in: `npsrgan/device.py` and `npsrgan/fast/cuda/`.
#
# A graphics card computes with tens of thousands of threads at once. Nothing in `npsrgan/ops/` knows
# of that. This lesson runs everywhere: without a card, its kernels run as C++ on the CPU, and without
# a C++ compiler, only as Python. So the lesson *counts* operations, bytes, accesses and launches. It
# does not measure times.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import ctypes
import re
import shutil
import subprocess
import tempfile

import numpy as np
from _lesson import exercise, plt, predict, save

from npsrgan import ops
from npsrgan.adam import Adam
from npsrgan.device import select, to_numpy
from npsrgan.layers import Linear
from npsrgan.models import Discriminator, SRResNet
from npsrgan.tape import Tape

device, remark = select("auto")
print(remark or device.description)

# %% [markdown]
# ## The same code
#
# NumPy asks every argument of its functions whether it wants to do the work itself. CuPy's arrays,
# which live in the card's memory, answer yes: through `__array_ufunc__` for elementwise functions, and
# through `__array_function__` for the others. So `np.where` of a CuPy array runs on the card.
#
# Here is an array that notes which functions are called, and lets NumPy do the work.


# %%
class Witness(np.lib.mixins.NDArrayOperatorsMixin):
    heard = []

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        self.heard.append(ufunc.__name__)
        return Witness(getattr(ufunc, method)(*(getattr(x, "array", x) for x in inputs), **options))

    def __array_function__(self, function, types, inputs, options):
        self.heard.append(function.__name__)
        return Witness(function(*(getattr(x, "array", x) for x in inputs), **options))


x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)
slope = np.full(3, 0.25, np.float32)
seen = ops.prelu(Witness(x), Witness(slope)).array
predict(
    "PReLU is x where x > 0, and slope * x elsewhere. How many functions does it ask the array for?",
    guess=None,
    value=len(Witness.heard),
    because=", ".join(Witness.heard),
)
assert sorted(Witness.heard) == ["greater", "multiply", "where"]
assert np.array_equal(seen.array, ops.prelu(x, slope).array)
on_device = ops.prelu(
    device.array(x), device.array(slope)
).array  # on a card where there is one, else here
assert np.allclose(to_numpy(on_device), seen.array)

# %% [markdown]
# ## Bytes or operations?
#
# What limits a card, bytes or operations? Count both for single layers, in a training batch of 16
# images of 44 x 44 pixels. Take a card whose data sheet promises $20 \cdot 10^{12}$ operations and
# $1.5 \cdot 10^{12}$ bytes a second. Below $20 / 1.5 = 13$ operations for each byte, it waits for its
# memory. (These two numbers are an example. Replace them by those of your card.)

# %%
OPERATIONS, BYTES = 20e12, 1.5e12
n = 16 * 44 * 44  # pixels of the batch
work = {  # name: (operations, floats if each is moved once)
    "convolution 3x3, 64 to 64": (2 * 9 * 64 * 64 * n, 2 * 64 * n + 9 * 64 * 64),
    "convolution 9x9, 3 to 64": (2 * 81 * 3 * 64 * n, (3 + 64) * n + 81 * 3 * 64),
    "D's first linear layer": (2 * 16 * 61952 * 1024, 16 * 61952 + 61952 * 1024 + 16 * 1024),
    "batch norm, forward": (8 * 64 * n, 3 * 64 * n),  # read for the statistics, read again, write
    "PReLU": (2 * 64 * n, 2 * 64 * n),
    "Adam": (13, 7),  # per parameter: p, g, m, v in; p, m, v out
}
intensity = {name: operations / (4 * floats) for name, (operations, floats) in work.items()}
waiting = [name for name, ratio in intensity.items() if ratio < OPERATIONS / BYTES]
predict(
    "How many of these six wait for memory?", guess=None, value=len(waiting), because=", ".join(waiting)
)
for name, ratio in intensity.items():
    print(
        f"{name:27} {ratio:7.1f} operations per byte: waits for "
        + ("memory" if name in waiting else "arithmetic")
    )
assert (
    intensity["convolution 3x3, 64 to 64"]
    > 13
    > intensity["D's first linear layer"]
    > intensity["PReLU"]
)

# %% [markdown]
# Those become faster only by moving fewer bytes. The rest of the lesson does that for Adam, in three
# steps. The starting point is NumPy's (and CuPy's) way: each operation is one *kernel*, a function
# that the card runs, and each makes one pass over memory. Count the arrays that are read and written,
# operation by operation:
#
# | line | operations | floats moved for each parameter |
# |---|---|---|
# | `m += (1 - b1) * (g - m)` | 3 | 3 + 2 + 3 = 8 |
# | `v += (1 - b2) * (g * g - v)` | 4 | 2 + 3 + 2 + 3 = 10 |
# | `p -= rate / c1 * m / (np.sqrt(v / c2) + eps)` | 6 | 2 + 2 + 2 + 2 + 3 + 3 = 14 |
#
# So 13 kernels move 32 floats for each parameter, where 7 must be moved: `p`, `g`, `m`, `v` in, and
# `p`, `m`, `v` out.

# %%
b1, b2, eps, rate, size = 0.9, 0.999, 1e-8, 1e-3, 1000
rng = np.random.default_rng(17)
layer = Linear(999, 1).pack()  # 1000 parameters, with its bias
start = rng.standard_normal(size).astype(np.float32)
g = rng.standard_normal(size).astype(np.float32)
layer.flat[...] = start


def adam_in_numpy():
    """One step from m = v = 0: the new p."""
    p, m, v = start.copy(), np.zeros(size, np.float32), np.zeros(size, np.float32)
    c1, c2 = 1 - b1, 1 - b2  # the corrections after one step
    m += (1 - b1) * (g - m)
    v += (1 - b2) * (g * g - v)
    p -= rate / c1 * m / (np.sqrt(v / c2) + eps)
    return p


wanted = adam_in_numpy()
Adam(layer, rate).step([g[:999].reshape(999, 1), g[999:]])
assert np.allclose(layer.flat, wanted, rtol=1e-5)
print("13 operations of NumPy, and the package's Adam, agree")

# %% [markdown]
# ## Rung 1: three kernels, divided as among CPU cores
#
# A CUDA kernel describes what *one* thread does. The card starts very many threads of it, in
# blocks of, say, 256. `blockIdx` and `threadIdx` tell a thread its position, `blockDim` how large a
# block is, and `gridDim` how many blocks there are.
#
# The obvious way to divide the work is to give each thread a piece of neighbouring entries, as among
# the cores of a CPU. Here is one kernel for each of the three lines, written by hand:

# %%
NAIVE = r"""
extern "C" __global__ void mean(float* m, const float* g, int size, int piece) {
    int first = (blockIdx.x * blockDim.x + threadIdx.x) * piece;
    for (int i = first; i < first + piece && i < size; i++)
        m[i] += 0.1f * (g[i] - m[i]);
}

extern "C" __global__ void square(float* v, const float* g, int size, int piece) {
    int first = (blockIdx.x * blockDim.x + threadIdx.x) * piece;
    for (int i = first; i < first + piece && i < size; i++)
        v[i] += 0.001f * (g[i] * g[i] - v[i]);
}

extern "C" __global__ void move(float* p, const float* m, const float* v, float pace, float c2,
                                int size, int piece) {
    int first = (blockIdx.x * blockDim.x + threadIdx.x) * piece;
    for (int i = first; i < first + piece && i < size; i++)
        p[i] -= pace * m[i] / (sqrtf(v[i] / c2) + 1e-8f);
}
"""
moved = {"NumPy": 32, "three kernels": (2 + 1) + (2 + 1) + (3 + 1)}
predict(
    "How many floats do these three kernels move for each parameter?",
    guess=None,
    value=moved["three kernels"],
    because="m, g in and m out; v, g in and v out; p, m, v in and p out",
)

# %% [markdown]
# To run them without a card, a C++ compiler and two loops are enough, because no thread of these
# kernels waits for another. The loops call the same code for every thread of every block. (In the
# package's kernels, threads do wait for each other; its tests use a larger emulator,
# `tests/gpu/emulate.py`.)

# %%
GXX = shutil.which("g++")


def launch(source, name, grid, block, *arguments):
    """Run a kernel on the card or with g++ and change its arrays in place.  False where there is neither."""
    if device.cuda:
        import cupy

        on_card = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
        cupy.RawKernel(source, name)((grid,), (block,), tuple(on_card))
        for mine, theirs in zip(arguments, on_card):
            if isinstance(mine, np.ndarray):
                mine[...] = cupy.asnumpy(theirs)
        return True
    if GXX is None:
        return False
    parameters = re.search(rf"void {name}\((.*?)\)", source, re.DOTALL)[1]
    names = re.findall(r"(\w+)(?:,|$)", parameters)
    text = f"""
        #include <cmath>
        #define __global__
        struct Dim {{ int x; }};
        static Dim gridDim, blockDim, blockIdx, threadIdx;
        {source}
        extern "C" void play(int grid, int block, {parameters}) {{
            gridDim.x = grid, blockDim.x = block;
            for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)
                for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++)
                    {name}({", ".join(names)});
        }}"""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/kernel.so"
        command = [GXX, "-O1", "-w", "-shared", "-fPIC", "-x", "c++", "-", "-o", library]
        subprocess.run(command, input=text, text=True, check=True)
        as_c = {
            np.ndarray: lambda a: ctypes.c_void_p(a.ctypes.data),
            np.float32: ctypes.c_float,
            np.int32: ctypes.c_int,
        }
        ctypes.CDLL(library).play(
            grid,
            block,
            *(as_c[type(a)](a if isinstance(a, np.ndarray) else a.item()) for a in arguments),
        )
    return True


pace, c2 = np.float32(rate / (1 - b1)), np.float32(1 - b2)
GRID, BLOCK = 2, 64


def run_three(source, *last):
    """One step of Adam by the three kernels of `source`: the new p, or None where they cannot run."""
    p, m, v = start.copy(), np.zeros(size, np.float32), np.zeros(size, np.float32)
    ran = launch(source, "mean", GRID, BLOCK, m, g, np.int32(size), *last)
    ran = ran and launch(source, "square", GRID, BLOCK, v, g, np.int32(size), *last)
    ran = ran and launch(source, "move", GRID, BLOCK, p, m, v, pace, c2, np.int32(size), *last)
    return p if ran else None


piece = -(-size // (GRID * BLOCK))  # 8 entries for each of 128 threads
p = run_three(NAIVE, np.int32(piece))
if p is None:
    print("there is neither a card nor g++, so the kernels are shown and not run")
else:
    assert np.allclose(p, wanted, rtol=1e-4)
    print("rung 1 agrees with NumPy")

# %% [markdown]
# ## Rung 2: neighbours read neighbours
#
# Threads run in *warps* of 32 that execute one instruction together. When a warp reads `g[i]`, its 32
# threads name 32 addresses, and the memory answers in *sectors* of 32 bytes, which hold 8 floats. What
# counts is how many sectors the 32 addresses touch.
#
# In rung 1, thread $t$ begins at entry $8t$. So the first read of a warp touches 32 sectors, 1024
# bytes, of which it uses 128. The other floats of a sector are needed soon, in the next seven turns of
# the loop. A cache may keep them until then, but it may not, because thousands of other threads need
# it as well.
#
# The cure is to deal the entries out like playing cards: thread $t$ takes entry $t$, then $t$ plus the
# number of all threads, and so on. Only the loop changes.

# %%
COALESCED = re.sub(
    r"    int first = .*\n    for .*",
    "    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x)",
    NAIVE.replace(", int piece", ""),
)
print(COALESCED)
p = run_three(COALESCED)
assert p is None or np.allclose(p, wanted, rtol=1e-4)


def sectors(entries):
    """How many sectors of 8 floats the entries lie in."""
    return len({i // 8 for i in entries})


def first_read(entry_of_thread):
    """The entries that the 32 threads of the first warp read at the same time."""
    return [entry_of_thread(thread) for thread in range(32)]


touched = {
    "in pieces": sectors(first_read(lambda thread: thread * piece)),
    "dealt out": sectors(first_read(lambda thread: thread)),
}
predict(
    "Dealt out: how many sectors does one read of a warp touch now?",
    guess=None,
    value=touched["dealt out"],
    because="32 neighbouring floats are 128 bytes, and a sector has 32",
)
assert touched == {"in pieces": 32, "dealt out": 4}

# %% [markdown]
# That is what *coalesced* means: the 32 accesses of a warp fall into as few sectors as possible. A
# loop of this form also works for any number of entries, threads and blocks.
#
# ## Rung 3: one kernel
#
# The three kernels read `g` twice, and `m` and `v` again right after they were written. If all three
# lines are in one kernel, a thread can keep such numbers in *registers*, its own fast memory for a few
# numbers. This is called *fusion*.

# %%
FUSED = r"""
extern "C" __global__ void adam(float* p, const float* g, float* m, float* v, float pace, float c2,
                                int size) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
        float gradient = g[i];
        float mean = m[i] + 0.1f * (gradient - m[i]);
        float square = v[i] + 0.001f * (gradient * gradient - v[i]);
        m[i] = mean;
        v[i] = square;
        p[i] -= pace * mean / (sqrtf(square / c2) + 1e-8f);
    }
}
"""
p, m, v = start.copy(), np.zeros(size, np.float32), np.zeros(size, np.float32)
ran = launch(FUSED, "adam", GRID, BLOCK, p, g, m, v, pace, c2, np.int32(size))
assert not ran or np.allclose(p, wanted, rtol=1e-4)
moved["one kernel"] = 4 + 3
predict(
    "How many times fewer bytes than NumPy's way does the fused kernel move?",
    guess=None,
    value=moved["NumPy"] / moved["one kernel"],
    because="32 floats against 7, and one launch in place of 13",
)

# %% [markdown]
# The card promises no order: any thread may run before any other. So no thread may need what another
# one writes. Here each entry belongs to exactly one thread. Emulate the card in Python: run every
# thread once, in random order, and let each note which entries it owns:

# %%
owner = np.full(size, -1)
p, m, v = start.copy(), np.zeros(size, np.float32), np.zeros(size, np.float32)


def adam_thread(block_index, thread_index):
    """What FUSED says, for one thread."""
    for i in range(block_index * BLOCK + thread_index, size, GRID * BLOCK):
        assert owner[i] == -1, "two threads write the same entry"
        owner[i] = block_index * BLOCK + thread_index
        m[i] += (1 - b1) * (g[i] - m[i])
        v[i] += (1 - b2) * (g[i] ** 2 - v[i])
        p[i] -= pace * m[i] / (np.sqrt(v[i] / c2) + eps)


for k in rng.permutation(GRID * BLOCK):
    adam_thread(k // BLOCK, k % BLOCK)
assert np.all(owner >= 0)
assert np.allclose(p, wanted, rtol=1e-4)
print("every entry has one owner, and the order does not matter")

# %% [markdown]
# ## The package's kernel
#
# `npsrgan/fast/cuda/adam.cu` is the third rung with three more ideas. Each thread reads all that it
# needs before it writes anything, so that several answers of the memory are on their way at once:
#
# ```
# // npsrgan/fast/cuda/adam.cu
# parameter[j] = p[i], mean[j] = m[i], square[j] = v[i];
# ```
#
# The gradients do not have to be gathered into a flat buffer first. The kernel is given a table with
# the address of each parameter's gradient, and finds its entry there:
#
# ```
# // npsrgan/fast/cuda/adam.cu
# gradient[j] = gradients.of[k][i - gradients.start[k]];
# ```
#
# And the learning rate and the step count are read from the card's memory, so that the launch itself
# is the same in every step. The next section says why that matters.
#
# ## One graph
#
# Every launch costs time in Python and in the driver. Small kernels are done before Python has launched
# the next one. How many are there? Count the operations on the tape of one SRGAN step without VGG19.
# The networks here have their full depth, but are narrow to save time.

# %%
generator, discriminator = SRResNet(4, 16), Discriminator(2, 16)
with Tape() as tape:
    made = discriminator(generator(np.zeros((1, 4, 4, 3), np.float32)))
    discriminator(np.zeros((1, 16, 16, 3), np.float32))
predict(
    "How many operations are on the tape?",
    guess=None,
    value=len(tape),
    because="G: 16 blocks of 6 and 12 more; D: 27, twice. Going back takes about twice as many rules",
)
assert len(tape) == 16 * 6 + 12 + 2 * 27

# %% [markdown]
# A *CUDA graph* (`npsrgan/fast/cuda/graph.py`) records the launches once, with the addresses of their
# arrays, and from then on starts all of them with one call. It is a tape for kernels. Because it stores
# addresses, new inputs must be copied into the same arrays. In Python:

# %%
buffer, result = np.zeros(3), np.zeros(3)
graph = [lambda: np.multiply(buffer, 2, out=result), lambda: np.add(result, 1, out=result)]


def replay():
    for kernel in graph:
        kernel()
    return result.tolist()


new = np.array([1.0, 2.0, 3.0])
assert replay() == [1, 1, 1]  # `new` is stored elsewhere, so the graph does not see it
buffer[...] = new
assert replay() == [3, 5, 7]
print("the graph sees new inputs only if they are copied into its own array")

# %%
figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained", width_ratios=(3, 2, 2))
ratios = np.logspace(-1.5, 3, 50)
axes[0].loglog(ratios, np.minimum(OPERATIONS, BYTES * ratios), "k")
for (name, ratio), marker in zip(intensity.items(), "os^vDP"):
    axes[0].plot(ratio, min(OPERATIONS, BYTES * ratio), marker, ms=9, label=name)
axes[0].set(
    title="What a data sheet allows: left of the bend, bytes decide",
    xlabel="operations per byte (counted)",
    ylabel="operations per second, at most",
)
axes[0].legend(fontsize=8)
rungs = {
    "Rung 1: in pieces": (lambda i: i // piece, first_read(lambda thread: thread * piece)),
    "Rungs 2 and 3: dealt out": (lambda i: i % (GRID * BLOCK), first_read(lambda thread: thread)),
}
for axis, (title, (thread_of, read_first)) in zip(axes[1:], rungs.items()):
    green = np.isin(np.arange(256), read_first).reshape(32, 8)
    axis.imshow(green, cmap="Greens", vmax=2, aspect="auto")
    for entry in range(256):
        axis.text(entry % 8, entry // 8, thread_of(entry), ha="center", va="center", fontsize=6)
    axis.set(
        title=title, xlabel="a row: a sector of 8 floats; green: the first read", xticks=[], yticks=[]
    )
save(figure, "23_gpu")

# %% [markdown]
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "With 3 blocks of 32 threads, how many of 1000 entries does thread 5 of block 2 update in FUSED?",
    answer=None,
    check=lambda a: a == 10,
    hint="69, 165, 261, ...",
)
exercise(
    2,
    "A network has 1.5 million parameters. How many megabytes (10^6) does the fused kernel move in a step?",
    answer=None,
    check=lambda a: abs(a - 42) < 0.5,
    hint="seven floats of four bytes",
)

# %% [markdown]
# An image of shape (H, W, 3) lies in memory pixel by pixel, red, green, blue. Thread $t$ of a warp takes
# pixel $t$, and all threads read red first: entry $3t$. Write `better(thread)`, which gives each of the
# 32 threads an entry of its own, so that one read of the warp touches as few sectors as possible.

# %%
print("red first:", sectors(first_read(lambda thread: 3 * thread)), "sectors")


def good_order(better):
    entries = first_read(better)
    if len(set(entries)) < 32:
        return "two threads read the same entry"
    return True if sectors(entries) == 4 else f"it touches {sectors(entries)} sectors"


exercise(
    3,
    "Write better(thread).",
    answer=None,
    check=good_order,
    hint="a thread for each number, not for each pixel",
)
