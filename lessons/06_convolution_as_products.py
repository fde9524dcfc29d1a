# %% [markdown]
# # Lesson 06: Convolution as matrix products
#
# **The question.** Six loops in Python would take hours for one layer of SRResNet. How do the same
# numbers come out in milliseconds, and how fast can they come out at all?
#
# You should know: convolution and its gradient (lesson 05); matrix products.
#
# Papers: Chellapilla, Puri and Simard 2006, "High Performance Convolutional Neural Networks for
# Document Processing" (im2col); Williams, Waterman and Patterson 2009, "Roofline".
#
# Lives in: `npsrgan/ops/convolution.py`, `npsrgan/fast/im2col.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import time
from pathlib import Path

import numpy as np
from _lesson import exercise, plt, predict, save
from numpy.lib.stride_tricks import sliding_window_view

from npsrgan import ops
from npsrgan.fast.threads import get_threads, parallel
from npsrgan.gradcheck import check
from npsrgan.ops.operation import op

# %% [markdown]
# ## 1. The same loops, in another order
#
# This is the formula of lesson 05, with $\bar{x}$ for the padded image:
#
# $$y_{nhko} = \sum_{i,j} \sum_{c} \bar{x}_{n,\,h+i,\,k+j,\,c}\; w_{ijco}$$
#
# The order of the sums is free. Fix one place $(i, j)$ of the window. What remains is a sum over
# $c$, for every pixel and every $o$: a matrix product of all pixels, (N H W, C), with the matrix
# $w_{ij}$, (C, O). The pixels are those of the padded image, shifted by $(i, j)$. So
#
# **a convolution is nine matrix products, of nine shifted images, added up.**


# %%
def pad(x):
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def six_loops(x, w):
    images, height, width, channels = x.shape
    xp = pad(x)
    y = np.zeros((images, height, width, w.shape[3]), x.dtype)
    for h, k, i, j, c, o in np.ndindex(height, width, 3, 3, channels, w.shape[3]):
        y[:, h, k, o] += xp[:, h + i, k + j, c] * w[i, j, c, o]
    return y


def shifted_products(x, w):
    images, height, width, channels = x.shape
    xp = pad(x)
    y = 0
    for i in range(3):
        for j in range(3):
            y = y + xp[:, i : i + height, j : j + width] @ w[i, j]
    return y


# %% [markdown]
# ## 2. One large product: im2col
#
# Or lay each window out as a row of $9C$ numbers. All rows together are a matrix, the **columns**
# (the name, "image to columns", comes from libraries that store them the other way round). One
# product with the kernel, as a (9C, O) matrix, gives everything.


# %%
def columns_of(x):
    """(N, H, W, C) -> (N H W, 9 C): the window of each pixel as a row, in the order i, j, c."""
    # (N, H, W, C, 3, 3): a view, nothing is copied.
    windows = sliding_window_view(pad(x), (3, 3), (1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[3])  # reshape copies


def im2col(x, w):
    y = columns_of(x) @ w.reshape(-1, w.shape[3])
    return y.reshape(*x.shape[:3], -1)


rng = np.random.default_rng(4)
small_x = rng.standard_normal((1, 12, 12, 4))
small_w = rng.standard_normal((3, 3, 4, 4))
expected = six_loops(small_x, small_w)
assert np.allclose(shifted_products(small_x, small_w), expected)
assert np.allclose(im2col(small_x, small_w), expected)
predict(
    "How many times as much memory as the image do its columns take?",
    guess=None,
    value=columns_of(small_x).nbytes / small_x.nbytes,
    because="Each pixel is copied into the nine windows that contain it.",
)

# %% [markdown]
# ## 3. The gradients are products, too
#
# For the shifted products, each step $y += \bar{x}_{ij}\, w_{ij}$ is a matrix product, and its
# rules are those of lesson 04:
#
# $$d\bar{x}_{ij} += dy\; w_{ij}^T \qquad\qquad dw_{ij} = \bar{x}_{ij}^T\; dy$$
#
# where $\bar{x}_{ij}$ is the shifted window of the padded image, seen as a matrix (N H W, C).


# %%
def d_x(dy, w):
    images, height, width, _ = dy.shape
    dxp = np.zeros((images, height + 2, width + 2, w.shape[2]), dy.dtype)
    for i in range(3):
        for j in range(3):
            dxp[:, i : i + height, j : j + width] += dy @ w[i, j].T
    return dxp[:, 1:-1, 1:-1]


def d_w(dy, x):
    images, height, width, channels = x.shape
    xp = pad(x)
    dw = np.empty((3, 3, channels, dy.shape[3]), x.dtype)
    for i in range(3):
        for j in range(3):
            shifted = xp[:, i : i + height, j : j + width].reshape(-1, channels)  # (N H W, C)
            dw[i, j] = shifted.T @ dy.reshape(-1, dy.shape[3])
    return dw


by_products = op(
    lambda x, w: (shifted_products(x, w), (lambda dy: d_x(dy, w), lambda dy: d_w(dy, x)))
)
for result in check(
    by_products, rng.standard_normal((2, 4, 5, 2)), rng.standard_normal((3, 3, 2, 3))
):
    print(result)
    assert result.passed
dy = rng.standard_normal(expected.shape)
package_d_x, package_d_w, *_ = ops.conv2d.reference(small_x, small_w)[1]
assert np.allclose(d_x(dy, small_w), package_d_x(dy))
assert np.allclose(d_w(dy, small_x), package_d_w(dy))

# %% [markdown]
# That is `npsrgan/ops/convolution.py`, apart from strides. With im2col, each pixel occurs nine times
# in the columns, so on the way back its nine gradients are added up: exercise 4.
#
# ## 4. How fast can it be?
#
# A processor does two things: it computes, and it moves numbers between memory and itself. Both
# have a limit, and both can be measured:
#
# * the **peak**: floating-point operations per second in a large matrix product, on all cores;
# * the **bandwidth**: bytes per second when a large array is copied. *Large* matters. An array that
#   fits into the last cache is never fetched from memory, and copying it measures the cache
#   instead.
#
# A program that performs $I$ operations for each byte that it moves, its **intensity**, can do no
# more operations per second than
#
# $$\min(\mathrm{peak},\; I \cdot \mathrm{bandwidth})$$
#
# Drawn over $I$, with logarithmic axes, this is a slope that ends in a flat line: the **roofline**.


# %%
def last_level_cache():
    """Bytes in the largest cache of this machine, as Linux reports it; elsewhere 32 MB."""
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        sizes.append(int(path.read_text().strip().removesuffix("K")) << 10)
    return max(sizes)


def seconds(function, *arguments, least=0.5):
    """The shortest of several runs: other programs can only make it longer."""
    times = []
    end = time.perf_counter() + least
    while len(times) < 2 or time.perf_counter() < end:
        began = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - began)
    return min(times)


def memory():
    """Bytes a second in copying a large array, by all cores, and seconds of ReLU for a number of it."""
    size = min(max(256 << 20, 4 * last_level_cache()), 1 << 29)
    large = np.ones(size // 4, np.float32)
    copy = np.zeros_like(large)
    cuts = np.linspace(0, large.size, cores + 1).astype(int)

    def copy_piece(k):
        np.copyto(copy[cuts[k] : cuts[k + 1]], large[cuts[k] : cuts[k + 1]])

    bandwidth = 2 * large.nbytes / seconds(parallel, copy_piece, range(cores))
    return bandwidth, seconds(ops.relu, large) / large.size


cores = get_threads()
bandwidth, relu_seconds = memory()
in_cache = np.ones(1 << 16, np.float32)
copied = seconds(np.copyto, np.zeros_like(in_cache), in_cache, least=0.1)
square = rng.standard_normal((1024, 1024), np.float32)
peak = cores * 2 * 1024**3 / seconds(parallel, lambda _: square @ square, range(cores))
print(f"{cores} cores: matrix products {peak / 1e9:.0f} GFLOP/s, memory {bandwidth / 1e9:.0f} GB/s")
print(
    f"copying 256 kB, which stay in the cache: {2 * in_cache.nbytes / copied / 1e9:.0f} GB/s on "
    "one core"
)

# %% [markdown]
# How many operations per byte do our programs perform? A layer of SRResNet has a window of 3 x 3
# and goes from 64 to 64 channels: $2 \cdot 9 \cdot 64$ operations, a multiplication and an addition
# for each weight, for each number of the output.
#
# For many of its operations the package has a second, faster function that gives the same result,
# called its **twin**; it is what normally runs. We include the twin of `conv2d`. The bytes are
# counted in *passes* over an image. At least two are needed: read $x$ once, write $y$ once. The
# shifted products make, for each of nine shifts, five: read $x$, write the product, read it, read
# the sum, write the sum. im2col makes twenty: read $x$ (1), write the columns (9), read them (9),
# write $y$ (1). ReLU makes two, with one operation for each number.

# %%
x = rng.standard_normal((12, 96, 96, 64), np.float32)  # 28 MB
w = rng.standard_normal((3, 3, 64, 64), np.float32)
relu_intensity = x.size / (2 * x.nbytes)
predict(
    "How many operations does ReLU make for each byte?",
    guess=None,
    value=relu_intensity,
    because="One comparison for 4 bytes read and 4 bytes written. Faster arithmetic would not "
    "help.",
)


def package(x, w):
    """conv2d's fast twin: Winograd's algorithm (lesson 07), in pieces that fit the cache."""
    return ops.conv2d(x, w).array


assert np.allclose(package(x[:1], w), shifted_products(x[:1], w), atol=0.01)

# The loops would take hours on this layer. We time them on a small one, and multiply.
# Multiplications per second.
loops_rate = expected.size * 9 * 4 / seconds(six_loops, small_x, small_w, least=0.1)
work = 2 * x.size * 9 * 64
ways = {
    "six loops": (work / 2 / loops_rate, work, 4 * x.nbytes * 9 * 64),
    "shifted products": (seconds(shifted_products, x, w), work, 45 * x.nbytes),
    "im2col": (seconds(im2col, x, w), work, 20 * x.nbytes),
    "the package's": (seconds(package, x, w), work, 2 * x.nbytes),
    "ReLU": (relu_seconds * x.size, x.size, 2 * x.nbytes),
}
for name, (duration, operations, moved) in ways.items():
    print(
        f"{name:17} {duration * 1e3:14,.1f} ms   {operations / duration / 1e9:9.4f} GFLOP/s   "
        f"intensity {operations / moved:.3g}"
    )

# %%
figure, axis = plt.subplots(figsize=(9, 4.4), layout="constrained")
line = np.logspace(-2, 3.3, 200)
axis.loglog(line, np.minimum(peak, line * bandwidth) / 1e9, "k")
axis.text(0.4, 0.9 * bandwidth / 1e9, f"memory: {bandwidth / 1e9:.0f} GB/s", ha="right")
axis.text(2000, 0.5 * peak / 1e9, f"matrix products: {peak / 1e9:.0f} GFLOP/s", ha="right")
for name, (duration, operations, moved) in ways.items():
    point = operations / moved, operations / duration / 1e9
    left = name == "shifted products"
    offset = (-8 if left else 8, 6 if name in ("six loops", "the package's") else -14)
    axis.plot(*point, "o", ms=9)
    axis.annotate(name, point, offset, textcoords="offset points", ha="right" if left else "left")
axis.set(
    xlim=(0.05, 3000),
    ylim=(1e-4, 10 * peak / 1e9),
    xlabel="operations for each byte moved",
    ylabel="GFLOP/s",
    title="the roofline, and a 3x3 convolution from 64 to 64 channels under it",
)
save(figure, "06_roofline")

# %% [markdown]
# How to read it:
#
# * *Python's loops* are far below any roof: nearly all their time goes into the interpreter.
# * *Matrix products* come within a small factor of the roof. What is missing is mostly memory
#   traffic, which grows with the number of passes.
# * *The package's* rate counts the multiplications of the formula. It makes only a quarter of them,
#   so it may stand above the roof: the next lesson shows how.
# * *ReLU* lies under the slope. Only moving fewer bytes could make it faster. That is why the
#   package computes such small operations together with their neighbours where it can.
#
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "How many bytes do the columns of im2col take for a batch of 16 images, 96 x 96 pixels, 64 "
    "channels, float32?",
    answer=None,
    check=lambda a: a == 16 * 96 * 96 * 64 * 9 * 4,
    hint="nine times the image",
)
exercise(
    2,
    "A machine has 1000 GFLOP/s and 50 GB/s. From which intensity on is it limited by "
    "arithmetic?",
    answer=None,
    check=lambda a: a == 20,
    hint="where the slope meets the flat line",
)

# %%
exercise(
    3,
    "Write d_x of a convolution with a 1 x 1 window, w (1, 1, C, O): a function of (dy, w).",
    answer=None,
    check=lambda rule: np.allclose(
        rule(dy, small_w[:1, :1]), ops.conv2d.reference(small_x, small_w[:1, :1])[1][0](dy)
    ),
    hint="one product, with w[0, 0] transposed",
)

# %% [markdown]
# The rule for `columns_of` goes from the gradient of the columns, (N H W, 9 C), back to that of the
# image. The one below has a bug. Find it with a gradient check, and repair it.


# %%
def broken_columns_rule(d_columns, x):
    images, height, width, channels = x.shape
    d_windows = d_columns.reshape(images, height, width, 3, 3, channels)
    dxp = np.zeros_like(pad(x))
    for i in range(3):
        for j in range(3):
            dxp[:, i : i + height, j : j + width] = d_windows[:, :, :, i, j]
    return dxp[:, 1:-1, 1:-1]


def check_columns_rule(rule):
    result = check(
        op(lambda x: (columns_of(x), (lambda dy: rule(dy, x),))), rng.standard_normal((1, 3, 4, 2))
    )[0]
    return result.passed or str(result)


exercise(
    4,
    "Repair broken_columns_rule: a function of (d_columns, x).",
    answer=None,
    check=check_columns_rule,
)
