"""The twins of the activation functions, one pass each.  Memory traffic in arrays of x's size: 2 forward, 3 backward.

They run unfused after max pooling and linear layers; PReLU also after the generator's first convolution.  For the fused ones
see convolution.py, normalisation.py and rearrange.py.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.compile import packed
from npsrgan.fast.cuda.rows import Rows, entries, supported
from npsrgan.fast.cuda.sums import input_and_slope_rules
from npsrgan.ops.operation import twin


def _pointwise(name, keep_output, x, *numbers):
    """The twin's result for the elementwise kernel `name`.  `name`_gradient computes dx from dy and x or y, so only that array is kept."""
    if not supported(x):
        return NotImplemented
    x = packed(x)
    y = compile.empty(x.shape, x)
    entries("activations", x.size)(name, x, *numbers, y)
    kept = y if keep_output else x
    return y, (lambda dy: gradient(name, kept, dy, *numbers),)


def gradient(name, kept, dy, *numbers):
    """dL/dx of an activation, from dL/dy and the kept array (x or y, packed)."""
    dx = compile.empty(kept.shape, kept)
    entries("activations", kept.size)(f"{name}_gradient", kept, packed(dy), *numbers, dx)
    return dx


@twin(ops.relu)
def relu(x):
    """See the reference.  y shows where x was positive, so x need not be kept."""
    return _pointwise("relu", True, x)


@twin(ops.leaky_relu)
def leaky_relu(x, slope=0.2):
    """See the reference.  With a positive slope, y is kept instead of x."""
    slope = np.float32(slope)
    return _pointwise("leaky_relu", slope > 0, x, slope)


@twin(ops.softplus)
def softplus(x):
    """See the reference."""
    return _pointwise("softplus", False, x)


@twin(ops.prelu)
def prelu(x, slope):
    """See the reference."""
    if not supported(x, slope) or slope.shape not in ((1,), x.shape[-1:]) or not slope.flags.c_contiguous:
        return NotImplemented
    x, slope, launch = packed(x), packed(slope), Rows("activations", x.size // slope.size, slope.size)
    y = compile.empty(x.shape, x)
    launch("prelu", x, slope, y)

    def walk(dy):
        dx, parts = compile.empty(x.shape, x), compile.empty((launch.parts, slope.size), x)
        launch("prelu_gradient", x, packed(dy), slope, dx, parts)
        return dx, parts
    return y, input_and_slope_rules(walk, slope.shape, x)
