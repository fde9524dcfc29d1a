"""Launches the convolution's matrix products: grid sizes, shared memory sizes and kernel arguments.

The products themselves are in convolution.cu and kernel_gradient.cu.  Arrays are packed (see compile.packed) and float32.
tiles.py chooses the tiles.
"""
import numpy as np

from npsrgan.fast.cuda import compile, tiles
from npsrgan.fast.cuda.sums import sum_parts


def correlate(x, w, out, top, left, stride=1, bias=None, slope=1.0):
    """out[n, h, k, :] = leaky(bias + sum over i, j of  x[n, stride*h + i - top, stride*k + j - left, :] @ w[i, j]).

    x (N, H, W, C), zero outside; w (kh, kw, C, O); out (N, H', W', O), overwritten.
    leaky(v) = v where v > 0, else slope * v; slope 1 is the identity.
    """
    return _convolve(x, w, out, w.shape, top, left, stride, compile.NULL if bias is None else bias, slope, turned=0)


def correlate_adjoint(dy, w, out, top, left, stride=1):
    """The gradient of `correlate` with respect to x, written to out (N, H, W, C)."""
    kh, kw, c, o = w.shape
    return _convolve(dy, w, out, (kh, kw, o, c), top, left, stride, compile.NULL, 1.0, turned=1)


def correlate_kernel_gradient(x, dy, size, top, left, stride=1):
    """The gradient of `correlate` with respect to w, (*size, C, O).  x (N, H, W, C), dy (N, H', W', O)."""
    channels, outputs, pixels, depth = x.shape[3], dy.shape[3], dy.size // dy.shape[3], tiles.depth()
    rows, chunks = size[0] * size[1] * channels, -(-pixels // depth)
    # As many blocks as run at once, two per multiprocessor, but with enough chunks each to repay their partial sums.  Counted
    # for one fixed tile, so the sums do not depend on the tile chosen.
    blocks = -(-rows // 128) * -(-outputs // (128 if outputs > 64 else 64))
    stretch = -(-chunks // max(1, min(2 * compile.multiprocessors() // blocks, chunks // 4)))
    parts = compile.empty((-(-chunks // stretch), *size, channels, outputs), x)

    def grid(tile): return -(-rows // tile.m) * -(-outputs // tile.n), len(parts)
    def memory(tile): return 4 * depth * (tile.m + 8 + tile.n + 8), 32 * depth

    args = x, dy, parts, *map(np.int32, (*x.shape, *dy.shape[1:], *size, top, left, stride, stretch))
    _launch("kernel_gradient", max(64, outputs), grid, memory, args, GATHER=int(channels % 4 > 0))
    return parts[0] if len(parts) == 1 else sum_parts(parts, compile.empty(parts.shape[1:], x))


def _convolve(x, w, out, shape, top, left, stride, bias, slope, turned):
    kh, kw, channels, outputs = shape
    phases = stride if turned else 1        # along each axis
    pixels = out.shape[0] * -(-out.shape[1] // phases) * -(-out.shape[2] // phases)        # of the largest phase
    depth = tiles.depth()

    def grid(tile): return -(-pixels // tile.m) * -(-outputs // tile.n), phases * phases

    def memory(tile):
        return 4 * (tile.m * (depth + 4) + (tile.n * (depth + 4) if turned else depth * (tile.n + 8))), 16 * tile.m

    args = x, w, bias, np.float32(slope), out, *map(np.int32, (*x.shape, *out.shape[1:], kh, kw, top, left, stride))
    _launch("convolution", outputs, grid, memory, args, TURNED=turned, GATHER=int(channels % depth > 0))
    return out


def _launch(name, columns, grid, memory, args, **macros):
    """Launch a kernel.  columns, grid, memory: see tiles.choose.  macros: in addition to the tile's."""
    tile = tiles.choose(columns, grid, memory, plain=not macros["GATHER"])
    launch = compile.kernel(name, name, tile.stages * memory(tile)[0], **tile.macros(), **macros)
    launch(grid(tile), (tile.threads,), args)
