"""Convolution as matrix products (im2col): lay out the window of each output pixel as a row and multiply by the kernel.

    columns[p, :] = the kh * kw * C values in the window of output pixel p;      y[p, :] = columns[p, :] @ w.reshape(kh * kw * C, O)

Chellapilla, Puri and Simard 2006, "High Performance Convolutional Neural Networks for Document Processing".  The columns
of a whole batch would be kh * kw times as large as the batch, so the work is split into pieces that fit in the cache.
"""
import numpy as np
from numpy.lib.stride_tricks import as_strided

from npsrgan.fast.blocks import channel_sums, lean
from npsrgan.fast.threads import get_threads, parallel, scratch, shares

CACHE = 1 << 21         # bytes of columns in a piece: measured; smaller pieces would fit in a core's own cache, but see blocks.BLOCK
FEWEST_PIXELS = 256     # minimum rows of a matrix product: fewer do not repay the cost of reading the kernel


def correlate(x, w, out, top, left, stride=1, bias=None, slope=None, residual=None):
    """out[n, h, k, :] = residual + PReLU of (bias + sum over i, j of  x[n, stride*h + i - top, stride*k + j - left, :] @ w[i, j]).

    x (N, H, W, C), zero outside; w (kh, kw, C, O); out (N, H', W', O) of any size and strides, overwritten.
    For the other arguments, see `winograd.correlate`.
    """
    kernel = np.ascontiguousarray(w).reshape(-1, w.shape[3])

    def work(piece):
        target = out[piece]
        columns = _columns(x, piece, target.shape[2], w.shape[:2], top, left, stride)
        shape, whole = (len(columns), w.shape[3]), target.flags.c_contiguous
        product = np.matmul(columns, kernel, out=target.reshape(shape) if whole else scratch("product", shape, out.dtype))
        if bias is not None:
            product += bias
        if slope is not None:
            lean(product.reshape(-1, target.shape[2] * slope.size), slope)
        if not whole:
            target[...] = product.reshape(target.shape)
        if residual is not None:
            target += residual[piece]

    parallel(work, _pieces(out.shape, kernel.shape[0] * x.itemsize))
    return out


def correlate_adjoint(dy, w, out, top, left, stride=1):
    """The gradient of `correlate` with respect to x: each output pixel passes its gradient back to its window.

    Pixels of x that are `stride` apart use the same kernel entries.  So x splits into stride * stride phases, and the
    gradient of each phase is an ordinary correlation of dy with its share of the kernel, rotated by 180 degrees.
    """
    turned = np.empty((*w.shape[:2], w.shape[3], w.shape[2]), w.dtype)

    def turn(share):        # of channels, few at a time: NumPy transposes a large matrix slowly
        turned[..., slice(*share)] = w[::-1, ::-1, slice(*share)].swapaxes(2, 3)

    parallel(turn, shares(w.shape[2], w.size >> 16))
    for r, first_row, up in _phases(w.shape[0], top, stride):
        for q, first_column, across in _phases(w.shape[1], left, stride):
            phase = out[:, r::stride, q::stride]
            share = turned[first_row::stride, first_column::stride]
            if share.size and phase.size:
                correlate(dy, share, phase, up, across)
            else:
                phase[...] = 0
    return out


def _phases(k, before, stride):
    """For each phase r of one axis: r, the first entry of its share of the rotated kernel, and the padding before it.

    Kernel entry i of output pixel h covers pixel stride*a + r of x when  stride*h + i - before = stride*a + r.
    So i = first, first + stride, ... with first = (r + before) mod stride, and h = a + (r + before - i) / stride.
    """
    for r in range(stride):
        first = (r + before) % stride
        count = len(range(first, k, stride))
        # After rotation the last entry comes first.  It belongs to the smallest h, a - (count - 1 - (r + before) // stride).
        yield r, k - 1 - (first + stride * (count - 1)), count - 1 - (r + before) // stride


def correlate_kernel_gradient(x, dy, size, top, left, stride=1):
    """The gradients of `correlate` with respect to w, (kh, kw, C, O), the transposed columns times dy, and to its bias, (O,).

    Each thread sums a fixed range of pieces, and the threads' sums are added in a fixed order, so the result is bitwise
    reproducible.
    """
    channels, o = x.shape[3], dy.shape[3]
    pieces = _pieces(dy.shape, size[0] * size[1] * channels * x.itemsize)

    def work(stretch):
        total = None
        for piece in pieces[slice(*stretch)]:
            columns = _columns(x, piece, dy.shape[2], size, top, left, stride)
            factors = columns.T, dy[piece].reshape(len(columns), o)
            if total is None:
                total = np.matmul(*factors)
            else:
                total += np.matmul(*factors, out=scratch("product", total.shape, x.dtype))
        return total

    total, *others = parallel(work, shares(len(pieces)))
    for other in others:
        total += other
    return total.reshape(*size, channels, o), channel_sums(dy)


def _columns(x, piece, width, size, top, left, stride):
    """The windows of a piece (images, output rows) of the output, as a matrix (pixels, kh * kw * C)."""
    images, rows = piece
    (kh, kw), channels = size, x.shape[3]
    n, h = images.stop - images.start, rows.stop - rows.start
    # The rows of x that the piece reads, zero-padded.
    begin, height = stride * rows.start - top, stride * (h - 1) + kh
    padded = scratch("padded", (n, height, stride * (width - 1) + kw, channels), x.dtype)
    a, b = _overlap(begin, height, x.shape[1])
    c, d = _overlap(-left, padded.shape[2], x.shape[2])
    padded[:, :a], padded[:, b:], padded[:, a:b, :c], padded[:, a:b, d:] = 0, 0, 0, 0
    padded[:, a:b, c:d] = x[images, begin + a:begin + b, c - left:d - left]

    s = padded.strides
    windows = as_strided(padded, (n, h, width, kh, kw * channels), (s[0], stride * s[1], stride * s[2], s[1], s[3]))
    columns = scratch("columns", (n * h * width, kh * kw * channels), x.dtype)
    columns.reshape(windows.shape)[...] = windows
    return columns


def _overlap(begin, length, limit):
    """The part [a, b) of range(length) for which range(begin + a, begin + b) lies inside range(limit)."""
    a = min(max(0, -begin), length)
    return a, max(a, min(length, limit - begin))


def _pieces(shape, bytes_per_pixel):
    """Split an output (N, H', W', O) into pieces of about CACHE bytes of columns: rows of one image, or several whole images."""
    n, h, width = shape[:3]
    pixels = max(FEWEST_PIXELS, CACHE // bytes_per_pixel)
    if pixels >= 2 * h * width and n > 1:
        parts = max(-(-n * h * width // pixels), min(n, get_threads()))
        return [(slice(a, b), slice(0, h)) for a, b in shares(n, parts)]
    parts = max(-(-h * width // pixels), -(-get_threads() // n))
    return [(slice(i, i + 1), slice(a, b)) for i in range(n) for a, b in shares(h, parts)]
