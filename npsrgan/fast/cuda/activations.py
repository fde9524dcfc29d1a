"""The twins of the activation functions, one pass each.  In arrays of x's size read or written: 2 forward, 3 backward.

Alone they run behind max pooling and linear layers, PReLU also behind the generator's first convolution; see convolution.py,
normalisation.py and movement.py for the others.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.compile import packed
from npsrgan.fast.cuda.rows import Rows, entries, suits
from npsrgan.fast.cuda.sums import input_and_slope_rules
from npsrgan.ops.operation import twin


def _pointwise(name, keep_output, x, *numbers):
    """What a twin returns for the kernel `name`, y[i] of x[i].  `name`_gradient finds dx in dy and in one of x and y: only that is kept."""
    if not suits(x):
        return NotImplemented
    x = packed(x)
    y = compile.empty(x.shape, x)
    entries("activations", x.size)(name, x, *numbers, y)
    kept = y if keep_output else x
    return y, (lambda dy: gradient(name, kept, dy, *numbers),)


def gradient(name, kept, dy, *numbers):
    """dL/dx of an activation, from dL/dy and from what is kept of it, x or y, packed."""
    dx = compile.empty(kept.shape, kept)
    entries("activations", kept.size)(f"{name}_gradient", kept, packed(dy), *numbers, dx)
    return dx


@twin(ops.relu)
def relu(x):
    """As the reference.  It is y that tells where x was positive, so that x can go."""
    return _pointwise("relu", True, x)


@twin(ops.leaky_relu)
def leaky_relu(x, slope=0.2):
    """As the reference.  With a positive slope, too, it is y that is kept."""
    slope = np.float32(slope)
    return _pointwise("leaky_relu", slope > 0, x, slope)


@twin(ops.softplus)
def softplus(x):
    """As the reference."""
    return _pointwise("softplus", False, x)


@twin(ops.prelu)
def prelu(x, slope):
    """As the reference."""
    if not suits(x, slope) or slope.shape not in ((1,), x.shape[-1:]) or not slope.flags.c_contiguous:
        return NotImplemented
    x, slope, launch = packed(x), packed(slope), Rows("activations", x.size // slope.size, slope.size)
    y = compile.empty(x.shape, x)
    launch("prelu", x, slope, y)

    def walk(dy):
        dx, parts = compile.empty(x.shape, x), compile.empty((launch.parts, slope.size), x)
        launch("prelu_gradient", x, packed(dy), slope, dx, parts)
        return dx, parts
    return y, input_and_slope_rules(walk, slope.shape, x)
