"""The twins of the activation functions, one pass each.  In arrays of x's size read or written: 2 forward, 3 backward.

Alone they run behind convolutions that no batch norm follows; see normalisation.py and movement.py for the others.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast.blocks import shared
from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.compile import packed
from npsrgan.fast.cuda.rows import LIMIT, Rows, entries
from npsrgan.fast.cuda.sums import sum_parts
from npsrgan.tape import twin


def _suits(x, *others):
    return compile.suits(x, *others) and 0 < x.size < LIMIT


@twin(ops.relu)
def relu(x):
    """As the reference.  It is y that tells where x was positive, so that x can go."""
    if not _suits(x):
        return NotImplemented
    x, launch = packed(x), entries("activations", x.size)
    y = compile.empty(x.shape, x)
    launch("relu", x, y)

    def d_x(dy):
        dx = compile.empty(y.shape, y)
        launch("relu_gradient", y, packed(dy), dx)
        return dx
    return y, (d_x,)


@twin(ops.leaky_relu)
def leaky_relu(x, slope=0.2):
    """As the reference.  With a positive slope, too, it is y that is kept."""
    if not _suits(x):
        return NotImplemented
    x, launch, slope = packed(x), entries("activations", x.size), np.float32(slope)
    y = compile.empty(x.shape, x)
    launch("leaky_relu", x, slope, y)
    kept = y if slope > 0 else x

    def d_x(dy):
        dx = compile.empty(kept.shape, kept)
        launch("leaky_relu_gradient", kept, packed(dy), slope, dx)
        return dx
    return y, (d_x,)


@twin(ops.softplus)
def softplus(x):
    """As the reference."""
    if not _suits(x):
        return NotImplemented
    x, launch = packed(x), entries("activations", x.size)
    y = compile.empty(x.shape, x)
    launch("softplus", x, y)

    def d_x(dy):
        dx = compile.empty(x.shape, x)
        launch("softplus_gradient", x, packed(dy), dx)
        return dx
    return y, (d_x,)


@twin(ops.prelu)
def prelu(x, slope):
    """As the reference.  d_slope takes what d_x, if asked first, has summed up on its way."""
    if not _suits(x, slope) or slope.shape not in ((1,), x.shape[-1:]) or not slope.flags.c_contiguous:
        return NotImplemented
    x, launch = packed(x), Rows("activations", x.size // slope.size, slope.size)
    y = compile.empty(x.shape, x)
    launch("prelu", x, slope, y)
    found = shared(lambda dy: {})       # about the latest dy

    def gradient(dy):
        dx, parts = compile.empty(x.shape, x), compile.empty((launch.parts, slope.size), x)
        launch("prelu_gradient", x, packed(dy), slope, dx, parts)
        found(dy)["d_slope"] = parts
        return dx

    def d_slope(dy):
        if not found(dy):
            gradient(dy)
        return sum_parts(found(dy)["d_slope"], compile.empty(slope.shape, x))

    return y, (gradient, d_slope)
