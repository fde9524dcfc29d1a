"""Launches the convolution's matrix products: shapes of tiles, sizes of grids, and the kernels' arguments.

The products themselves are in convolution.cu and kernel_gradient.cu.  Arrays are packed (see compile.packed) and float32.
"""
import numpy as np

from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.precision import tensor_cores
from npsrgan.fast.cuda.sums import sum_parts


def correlate(x, w, out, top, left, stride=1, bias=None, slope=1.0):
    """out[n, h, k, :] = leaky(bias + sum over i, j of  x[n, stride*h + i - top, stride*k + j - left, :] @ w[i, j]).

    x (N, H, W, C), zero outside; w (kh, kw, C, O); out (N, H', W', O), overwritten.
    leaky(v) = v where v > 0, else slope * v: the slope 1 leaves things as they are.
    """
    return _convolve(x, w, out, w.shape, top, left, stride, compile.NULL if bias is None else bias, slope, turned=0)


def correlate_adjoint(dy, w, out, top, left, stride=1):
    """The gradient of `correlate` with respect to x, written to out (N, H, W, C)."""
    kh, kw, c, o = w.shape
    return _convolve(dy, w, out, (kh, kw, o, c), top, left, stride, compile.NULL, 1.0, turned=1)


def correlate_kernel_gradient(x, dy, size, top, left, stride=1):
    """The gradient of `correlate` with respect to w, (*size, C, O).  x (N, H, W, C), dy (N, H', W', O)."""
    channels, outputs = x.shape[3], dy.shape[3]
    m, n = 128, 128 if outputs > 64 else 64
    defines = _defines(m, n)
    rows, chunks = size[0] * size[1] * channels, -(-dy.size // outputs // defines["BK"])
    tiles = -(-rows // m) * -(-outputs // n)
    # As many blocks as the GPU runs at a time, two on a multiprocessor; but to each enough chunks to be worth its sums.
    stretch = -(-chunks // max(1, min(2 * compile.multiprocessors() // tiles, chunks // 4)))
    parts = compile.empty((-(-chunks // stretch), *size, channels, outputs), x)
    shared = 4 * defines["STAGES"] * defines["BK"] * (m + 8 + n + 8)
    launch = compile.kernel("kernel_gradient", "kernel_gradient", shared, **defines, GATHER=int(channels % 4 > 0))
    numbers = (*x.shape, *dy.shape[1:], *size, top, left, stride, stretch)
    launch((tiles, len(parts)), (_threads(defines),), (x, dy, parts, *map(np.int32, numbers)))
    return parts[0] if len(parts) == 1 else sum_parts(parts, compile.empty(parts.shape[1:], x))


def _convolve(x, w, out, shape, top, left, stride, bias, slope, turned):
    kh, kw, channels, outputs = shape
    phases = stride if turned else 1        # along each axis
    pixels = out.shape[0] * -(-out.shape[1] // phases) * -(-out.shape[2] // phases)        # of the largest phase
    m, n = _tile(pixels, outputs, phases * phases)
    defines = _defines(m, n)
    bk = defines["BK"]
    shared = 4 * defines["STAGES"] * (m * (bk + 4) + (n * (bk + 4) if turned else bk * (n + 8)))
    launch = compile.kernel("convolution", "convolution", shared, **defines, TURNED=turned, GATHER=int(channels % bk > 0))
    blocks = -(-pixels // m) * -(-outputs // n)
    numbers = (*x.shape, *out.shape[1:], kh, kw, top, left, stride)
    launch((blocks, phases * phases), (_threads(defines),), (x, w, bias, np.float32(slope), out, *map(np.int32, numbers)))
    return out


def _tile(pixels, outputs, phases):
    """Rows and columns of a block's tile: the larger, the less is read, as long as every multiprocessor gets a block.

    A tile reads m + n numbers for m * n multiplications.  If the second-level cache gives 5.5 TB/s (an estimate
    for an H200), 128 x 128 comes to at most 176 Tflop/s and 128 x 64 to 117, before what the first-level cache saves.
    """
    if outputs <= 32:
        return 128, 32
    for m, n in [(128, 128)] * (outputs > 64) + [(128, 64)]:
        if phases * -(-pixels // m) * -(-outputs // n) >= compile.multiprocessors():
            return m, n
    return 64, 64


def _defines(m, n):
    """The macros of product.cuh for a tile: how deep its chunks are, and how many of them are on their way."""
    if not tensor_cores():
        return {"TF32": 0, "BM": m, "BN": n, "BK": 16, "STAGES": 2, "BLOCKS": max(2, 384 // (m * n // 64))}
    stages = 3 if compile.shared_memory() >= 112 << 10 else 2
    down = 4 if n == 32 else 2
    return {"TF32": 1, "BM": m, "BN": n, "BK": 32, "STAGES": stages, "BLOCKS": 2, "WARPS_M": down, "WARPS_N": 4 // down}


def _threads(defines):
    """Of a block: THREADS in product.cuh."""
    return 32 * defines["WARPS_M"] * defines["WARPS_N"] if defines["TF32"] else defines["BM"] * defines["BN"] // 64
