"""The twins of conv2d, alone and fused with an activation.  They choose the convolution method by the shapes.

On tensor cores, layers with three channels and those that halve large images are memory-bound.  Layers with three input
channels are a product over K = 27 or 243, in chunks of 32 gathered entry by entry (5 to 16 % zero padding).  For three outputs
see kn2row.py.

A fused activation is applied before y is written, and only y is kept.  Memory traffic after the products, and memory kept for
the backward pass, in arrays of y's size:

                                             forward    backward    kept
    convolution, then ReLU or LeakyReLU         3           3         2
    fused                                       1           3         1
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast import fusion
from npsrgan.fast.blocks import shared
from npsrgan.fast.cuda import activations, compile, implicit_gemm, kn2row
from npsrgan.fast.cuda.compile import packed
from npsrgan.fast.cuda.rows import LIMIT
from npsrgan.fast.cuda.sums import column_sums
from npsrgan.ops.operation import twin


@twin(ops.conv2d)
def conv2d(x, w, b=None, stride=1, padding=None):
    """See the reference.  Supports float32 CuPy arrays; rounds to TF32 if `precision` selects it."""
    return _convolve(x, w, b, stride, padding)


@twin(fusion.conv2d_relu)
def conv2d_relu(x, w, b=None, stride=1, padding=None):
    """Rules for x, w and b."""
    return _activated(_convolve(x, w, b, stride, padding, slope=0.0), "relu")


@twin(fusion.conv2d_leaky_relu)
def conv2d_leaky_relu(x, w, b, slope, stride=1, padding=None):
    """Rules for x, w and b.  With a negative slope, y would not show where x was positive."""
    if slope < 0:
        return NotImplemented
    return _activated(_convolve(x, w, b, stride, padding, slope), "leaky_relu", np.float32(slope))


def _activated(convolved, activation, *numbers):
    """The convolution's result, with the activation's gradient applied before its rules.  y shows where its input was positive."""
    if convolved is NotImplemented:
        return NotImplemented
    y, rules = convolved
    before = shared(lambda dy: activations.gradient(activation, y, dy, *numbers))
    return y, tuple(lambda dy, rule=rule: rule(before(dy)) for rule in rules)


def _convolve(x, w, b, stride, padding, slope=1.0):
    """(y, (d_x, d_w, d_b)): y = leaky(conv2d) as in `implicit_gemm.correlate`, and the rules of conv2d without the activation."""
    kh, kw, channels, o = w.shape
    ph, pw = (kh // 2, kw // 2) if padding is None else (padding, padding)
    shape = x.shape[0], (x.shape[1] + 2 * ph - kh) // stride + 1, (x.shape[2] + 2 * pw - kw) // stride + 1, o
    if not compile.supported(x, w, w if b is None else b) or x.shape[3] != channels or min(*shape, *x.shape) < 1:
        return NotImplemented       # the reference reports the error
    if b is not None and (b.shape != (o,) or not b.flags.c_contiguous):
        return NotImplemented
    # Windows may begin in the padding outside the image; planes have up to 32 values per pixel.
    pixels = shape[0] * max(shape[1], x.shape[1]) * (max(shape[2], x.shape[2]) + kw)
    if max(w.size, pixels * max(channels, o, 32)) > LIMIT or stride > 255:      # limit of the grid's second axis (65535)
        return NotImplemented
    x, w = packed(x), packed(w)

    def d_x(dy):
        dy, dx, turned = packed(dy), compile.empty(x.shape, x), w[::-1, ::-1].transpose(0, 1, 3, 2)
        if kn2row.applies(turned, stride):
            return kn2row.correlate(dy, packed(turned), dx, kh - 1 - ph, kw - 1 - pw)
        return implicit_gemm.correlate_adjoint(dy, w, dx, ph, pw, stride)

    def d_w(dy):
        if not kn2row.applies(w, stride):
            return implicit_gemm.correlate_kernel_gradient(x, packed(dy), (kh, kw), ph, pw, stride)
        # For few outputs, swap x and dy so that x's channels fill the tiles; relative to x's pixels, dy shifts the other way.
        # For the generator's last layer, 9x9, that is 16 Gflop instead of 333 with idle columns.
        turned = implicit_gemm.correlate_kernel_gradient(packed(dy), x, (kh, kw), kh - 1 - ph, kw - 1 - pw)
        return packed(turned[::-1, ::-1].transpose(0, 1, 3, 2))

    def d_b(dy): return column_sums(packed(dy).reshape(-1, o))

    if kn2row.applies(w, stride):
        y = kn2row.correlate(x, w, compile.empty(shape, x), ph, pw, b, slope)
    else:
        y = implicit_gemm.correlate(x, w, compile.empty(shape, x), ph, pw, stride, b, slope)
    return y, (d_x, d_w, d_b)
