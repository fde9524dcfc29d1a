"""Convolution with few outputs, such as the generator's last, 9x9 with 64 -> 3, or back to three colours.

A matrix product with three columns would read each pixel once for each of 81 taps, and use three columns of a tile of 32.
So the taps of one row of the kernel become outputs of their own, kw * O of them, in one product over the kernel's rows; then
each plane is moved to its tap's place and added:

    y[n, h, k, :] = bias + sum over j of  z[n, h, k + j, j, :]
    z[n, h, q, j, :] = sum over i of  x[n, h + i - top, q - left, :] @ w[i, j]

Counted for 9x9, 64 -> 3, 16 images of 176 x 176, in tiles of 128 x 32 (not measured): straight 164 Gflop with the idle columns,
and 12.8 GB copied into shared memory; by planes 19 Gflop and 1.5 GB, and 0.11 GB for writing and reading z.
"""
import numpy as np

from npsrgan.fast.cuda import compile, implicit

THREADS = 256


def suits(w, stride):
    """Whether a kernel (kh, kw, C, O) is one of these: then its row fits into the narrowest tile."""
    return stride == 1 and w.shape[1] > 1 and w.shape[1] * w.shape[3] <= 32 and w.shape[2] >= 16


def correlate(x, w, out, top, left, bias=None, slope=1.0):
    """As `implicit.correlate`, for stride 1."""
    (kh, kw, c, o), (n, height, width, _) = w.shape, out.shape
    rows = compile.packed(w.transpose(0, 2, 1, 3)).reshape(kh, 1, c, kw * o)
    z = implicit.correlate(x, rows, compile.empty((n, height, width + kw - 1, kw * o), x), top, left)
    bias = compile.NULL if bias is None else bias
    launch = compile.kernel("planes", "add_planes")
    launch((-(-out.size // THREADS),), (THREADS,), (z, bias, np.float32(slope), out, *map(np.int32, (n * height, width, kw, o))))
    return out
