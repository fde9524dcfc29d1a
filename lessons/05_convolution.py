"""Lesson 05: convolution.  One formula, five ways to compute it: the same numbers, and why such different speeds?

You should know: matrix products; lesson 02 for the gradient check.
Papers: Lavin and Gray 2016, section 4.1; Williams, Waterman and Patterson 2009.  Lives in: npsrgan/ops/convolution.py, npsrgan/fast/.
"""
# %% The formula.  Slide a window of 3 x 3 pixels over the image; each output is a weighted sum of all channels of what is in the window:
#
#       y[n, h, k, o] = sum over i, j, c of  xp[n, h + i, k + j, c] * w[i, j, c, o]         xp is x with a border of zeros
# n counts the images, h and k are row and column, c is one of the channels that come in (at first: red, green, blue), o one that goes out.
import sys; sys.path[:0] = ["lessons", "."]
import time
import numpy as np
from _lesson import exercise, picture_row, plt, save
from numpy.lib.stride_tricks import sliding_window_view

from npsrgan import ops
from npsrgan.data import Photograph
from npsrgan.fast.threads import get_threads, parallel
from npsrgan.gradcheck import check
from npsrgan.metrics import luma
from npsrgan.ops.operation import op

pad = lambda x: np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def six_loops(x, w):
    (n, height, width, channels), outputs = x.shape, w.shape[3]
    xp, y = pad(x), np.zeros((n, height, width, outputs), x.dtype)
    for h, k, i, j, c, o in np.ndindex(height, width, 3, 3, channels, outputs):             # six loops, one inside the other
        y[:, h, k, o] += xp[:, h + i, k + j, c] * w[i, j, c, o]
    return y


# %% What it means for a picture: the weights say what one looks for
photo = luma(Photograph().load(0))[None, 100:400, 100:400, None] / 255
mean, middle, slope = np.full((3, 3), 1 / 9), np.eye(9)[4].reshape(3, 3), np.array([[-1, 0, 1]] * 3)
kernels = {"blur:\nthe mean": mean, "upright edges:\nright minus left": slope, "level edges:\nbelow minus above": slope.T,
           "detail:\nmiddle minus mean": middle - mean}
found = {name: ops.conv2d(photo, kernel[..., None, None]).array[0, 1:-1, 1:-1, 0] for name, kernel in kernels.items()}
# Prediction: three of the kernels sum to 0, answer 0 where nothing changes, and on the average answer nothing.
assert all((abs(picture.mean()) < 0.02) == (abs(kernels[name].sum()) < 1e-9) for name, picture in found.items())
found = {name: np.clip(picture, *np.percentile(picture, (1, 99))) for name, picture in found.items()}        # for the eye
save(picture_row({"a photograph": photo[0, ..., 0]} | found, height=2.0), "05_filters")


# %% The same loops in another order.  For one (i, j) the sum over c is a matrix product, all pixels at once: nine of them, added.
def shifted_products(x, w):
    xp, (_, h, k, _) = pad(x), x.shape
    return sum(xp[:, i:i + h, j:j + k] @ w[i, j] for i, j in np.ndindex(3, 3))


# Or lay each window out as a row, and make one large product: im2col, for nine times the memory.
def im2col(x, w):
    windows = sliding_window_view(pad(x), (3, 3), (1, 2))                                   # (N, H, W, C, 3, 3), nothing copied yet
    columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[3])               # now it is
    return (columns @ w.reshape(columns.shape[1], -1)).reshape(*x.shape[:3], -1)


# %% Fewer multiplications.  Two outputs of a filter of weights g, d0 g0 + d1 g1 + d2 g2 and d1 g0 + d2 g1 + d3 g2, need six.  Or four:
#
#       m0 = (d0 - d2) g0       m1 = (d1 + d2) (g0 + g1 + g2) / 2       m2 = (d2 - d1) (g0 - g1 + g2) / 2       m3 = (d1 - d3) g2
#
# for the outputs are m0 + m1 + m2 and m1 - m2 - m3 (Winograd 1980).  Done along the rows, then along the columns, 4 x 4 pixels give
# 2 x 2 outputs for 16 multiplications in place of 36.  The additions are few: for each input or output channel, not for each pair.
from_image = lambda d: (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])
from_kernel = lambda g: (g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2])
to_outputs = lambda m: (m[0] + m[1] + m[2], m[1] - m[2] - m[3])
assert to_outputs([a * b for a, b in zip(from_image([1, 2, 4, 8]), from_kernel([3, 5, 7]))]) == (3 + 10 + 28, 6 + 20 + 56)


def winograd(x, w):
    (n, h, k, _), xp = x.shape, pad(x)
    rows = from_image([xp[:, i:i + h:2] for i in range(4)])                                 # tiles are 2 apart, and overlap by 2
    v = np.stack([point for row in rows for point in from_image([row[:, :, j:j + k:2] for j in range(4)])])
    u = np.stack([point for row in from_kernel(w) for point in from_kernel(row)])
    m = (v.reshape(16, -1, v.shape[-1]) @ u).reshape(4, 4, *v.shape[1:-1], -1)              # 16 products, each of a quarter of the pixels
    y = np.array([to_outputs(row) for row in to_outputs(m)])                                # (2, 2, N, H/2, W/2, O)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(n, h, k, -1)


package = lambda x, w: ops.conv2d(x, w).array               # 4 x 4 outputs at a time, in pieces that fit the cache, on all cores
rng = np.random.default_rng(4)
small_x, small_w = rng.standard_normal((1, 12, 12, 4), np.float32), rng.standard_normal((3, 3, 4, 4), np.float32)
six = six_loops(small_x, small_w)
assert all(np.allclose(way(small_x, small_w), six, atol=1e-4) for way in (shifted_products, im2col, winograd, package))

# %% The gradient.  Output pixel (h, k) took xp[h + i, k + j] @ w[i, j]; so it gives back, to that same place and that same weight:
#
#       d_xp[h + i, k + j] += dy[h, k] @ w[i, j]^T                  d_w[i, j] = sum over n, h, k of xp[h + i, k + j]^T dy[h, k]
#
# Read from the pixel that receives: it is again a convolution, of dy with the kernel turned by 180 degrees, in and out exchanged.
def d_x(dy, w): return shifted_products(dy, w[::-1, ::-1].swapaxes(2, 3))


def d_w(dy, x):
    (_, h, k, _), xp = x.shape, pad(x)
    return np.array([[np.tensordot(xp[:, i:i + h, j:j + k], dy, ((0, 1, 2),) * 2) for j in range(3)] for i in range(3)])


by_hand = op(lambda x, w: (shifted_products(x, w), (lambda dy: d_x(dy, w), lambda dy: d_w(dy, x))))
assert all(result.passed for result in check(by_hand, rng.standard_normal((2, 4, 5, 2)), rng.standard_normal((3, 3, 2, 3))))
rules, dy = ops.conv2d.reference(small_x, small_w)[1], rng.standard_normal(small_x.shape, np.float32)
assert np.allclose(rules[0](dy), d_x(dy, small_w), atol=1e-4) and np.allclose(rules[1](dy), d_w(dy, small_x), atol=1e-3)


# %% How fast?  One layer of SRResNet; and what this machine can do at most: all cores multiply matrices (peak), or copy images (bandwidth).
# The roofline: a program with I operations for each byte it moves is no faster than min(peak, I * bandwidth).  Close other programs.
def seconds(function, *arguments):
    times, end = [], time.perf_counter() + 0.7
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - began)
    return min(times)


x, w = rng.standard_normal((4, 96, 96, 64), np.float32), rng.standard_normal((3, 3, 64, 64), np.float32)
assert np.allclose(package(x, w), shifted_products(x, w), atol=0.01)
square, copy, cores = rng.standard_normal((1024, 1024), np.float32), x.copy(), get_threads()
peak = cores * 2 * 1024**3 / seconds(parallel, lambda _: square @ square, range(cores))
bandwidth = 2 * x.nbytes / seconds(parallel, lambda k: np.copyto(copy[k], x[k]), range(4))
work = 2 * x.size * 9 * 64                                  # a multiplication and an addition for each weight and pixel
# Bytes, in passes over an image.  For each offset `shifted_products` reads x, writes a product, and reads both it and the sum to write the
# sum: 5 * 9.  im2col makes 1 + 9 + 9 + 1 passes, winograd by hand some 35; the least is 2, to read x and to write y.
loops = seconds(six_loops, small_x, small_w) * x.size * 64 / (small_x.size * 4)             # it would take hours: we reckon
ways = {"six loops": (loops, work, 4 * x.nbytes * 9 * 64), "shifted products": (seconds(shifted_products, x, w), work, 45 * x.nbytes),
        "im2col": (seconds(im2col, x, w), work, 20 * x.nbytes), "winograd by hand": (seconds(winograd, x, w), work, 35 * x.nbytes),
        "the package's": (seconds(package, x, w), work, 2 * x.nbytes), "ReLU": (seconds(ops.relu, x), x.size, 2 * x.nbytes)}
figure, axis = plt.subplots(figsize=(9, 4.4), layout="constrained")
axis.loglog((line := np.logspace(-2, 3)), np.minimum(peak, line * bandwidth) / 1e9, "k")
for name, (duration, operations, moved) in ways.items():
    point = operations / moved, operations / duration / 1e9
    print(f"{name:17} {duration * 1e3:13,.1f} ms  {point[1]:9.4f} GFLOP/s")
    axis.plot(*point, "o", ms=9)
    axis.annotate(f"   {name}   ", point, va="center", ha="right" if 5 < point[0] < 10 else "left")         # clear of its neighbour
axis.set(xlim=(0.05, 2000), xlabel="operations for each byte moved", ylabel="GFLOP/s", title="a 3x3 convolution, 64 to 64 channels\n"
         f"the roof: copying {bandwidth / 1e9:.0f} GB/s, multiplying matrices {peak / 1e9:.0f} GFLOP/s")
save(figure, "05_roofline")
# Python's loops are far below the roof.  Matrix products get close.  The package's rate counts the multiplications of the formula, of
# which it makes a quarter: so it may stand above the roof.  By hand the same trick need not pay: what it saves in multiplications it
# spends on memory moved.  ReLU hangs below the slope: no better arithmetic would make it faster, only fewer bytes.

# %% Exercises: put your answer in the place of None.
exercise(1, "SRResNet's first layer, 9x9 from 3 to 64 channels, on a 44 x 44 patch: how many multiplications?", answer=None,
         check=lambda a: a == 44 * 44 * 81 * 3 * 64, hint="for each output number, 9 * 9 * 3")
exercise(2, "The package takes 6 x 6 pixels for 4 x 4 outputs.  How many times fewer multiplications than the formula?", answer=None,
         check=lambda a: a == 4, hint="36 in place of 16 * 9")
exercise(3, "Write d_x of a 1x1 convolution: a function of (dy, w).", answer=None, hint="one product, with w[0, 0] transposed",
         check=lambda f: np.allclose(f(dy, small_w[:1, :1]), ops.conv2d.reference(small_x, small_w[:1, :1])[1][0](dy), atol=1e-4))
