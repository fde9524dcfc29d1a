"""Convolution with few outputs, such as the generator's last layer (9x9, 64 -> 3) or the gradient with respect to an RGB image.

A matrix product with three columns would read each pixel once per tap, 81 times, and use only three of a tile's 32 columns.
So, as in kn2row (Vasudevan et al. 2017), the taps of a kernel row become separate outputs, kw * O of them, in one product over the
kernel's rows.  Then each plane is shifted to its tap's position and added:

    y[n, h, k, :] = bias + sum over j of  z[n, h, k + j, j, :]
    z[n, h, q, j, :] = sum over i of  x[n, h + i - top, q - left, :] @ w[i, j]

Calculated, not measured, for 9x9, 64 -> 3, 16 images of 176x176 and 128x32 tiles: the direct product takes 164 Gflop including
idle columns, and copies 12.8 GB into shared memory.  Planes take 19 Gflop and 1.5 GB, plus 0.11 GB to write and read z.
"""
import numpy as np

from npsrgan.fast.cuda import compile, implicit_gemm

THREADS = 256


def applies(w, stride):
    """Whether this method supports the kernel (kh, kw, C, O): its rows must fit in the narrowest tile."""
    return stride == 1 and w.shape[1] > 1 and w.shape[1] * w.shape[3] <= 32 and w.shape[2] >= 16


def correlate(x, w, out, top, left, bias=None, slope=1.0):
    """Like `implicit_gemm.correlate`, for stride 1."""
    (kh, kw, c, o), (n, height, width, _) = w.shape, out.shape
    rows = compile.packed(w.transpose(0, 2, 1, 3)).reshape(kh, 1, c, kw * o)
    z = implicit_gemm.correlate(x, rows, compile.empty((n, height, width + kw - 1, kw * o), x), top, left)
    bias = compile.NULL if bias is None else bias
    launch = compile.kernel("kn2row", "add_planes")
    launch((-(-out.size // THREADS),), (THREADS,), (z, bias, np.float32(slope), out, *map(np.int32, (n * height, width, kw, o))))
    return out
