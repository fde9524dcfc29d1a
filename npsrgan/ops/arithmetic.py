"""Elementwise arithmetic with broadcasting, and the reductions."""
import numpy as np

from npsrgan.ops.operation import op


def unbroadcast(dy, x):
    """Sum `dy` over the axes along which `x` was broadcast, since the gradients of all uses of a value add up."""
    shape = getattr(x, "shape", ())
    leading = dy.ndim - len(shape)
    axes = tuple(axis for axis in range(dy.ndim) if axis < leading or shape[axis - leading] != dy.shape[axis])
    return dy.sum(axis=axes).reshape(shape) if axes else dy


@op
def add(a, b):
    """a + b, broadcast."""
    def d_a(dy): return unbroadcast(dy, a)
    def d_b(dy): return unbroadcast(dy, b)
    return a + b, (d_a, d_b)


@op
def subtract(a, b):
    """a - b, broadcast."""
    def d_a(dy): return unbroadcast(dy, a)
    def d_b(dy): return unbroadcast(-dy, b)
    return a - b, (d_a, d_b)


@op
def multiply(a, b):
    """a * b, broadcast."""
    def d_a(dy): return unbroadcast(dy * b, a)
    def d_b(dy): return unbroadcast(dy * a, b)
    return a * b, (d_a, d_b)


@op
def scale(x, factor):
    """factor * x for a number that needs no gradient, such as the weight of a loss."""
    factor = float(factor)      # a Python number leaves float32 arrays float32; a NumPy float64 would not

    def d_x(dy): return factor * dy
    return factor * x, (d_x,)


@op
def square(x):
    """x^2, elementwise."""
    def d_x(dy): return 2 * x * dy
    return x * x, (d_x,)


@op
def absolute(x):
    """|x|, elementwise.  At 0, where the derivative does not exist, the rule returns 0."""
    def d_x(dy): return dy * np.sign(x)
    return np.abs(x), (d_x,)


@op
def log(x):
    """Natural logarithm, elementwise, for x > 0."""
    def d_x(dy): return dy / x
    return np.log(x), (d_x,)


@op
def sum(x, axis=None, keepdims=False):
    """Sum over an axis, a tuple of axes, or everything."""
    def d_x(dy): return _spread(dy, x, axis, keepdims)
    return x.sum(axis=axis, keepdims=keepdims), (d_x,)


@op
def mean(x, axis=None, keepdims=False):
    """Arithmetic mean over an axis, a tuple of axes, or everything."""
    value = x.mean(axis=axis, keepdims=keepdims)

    def d_x(dy): return _spread(dy, x, axis, keepdims) / (x.size / value.size)
    return value, (d_x,)


def _spread(dy, x, axis, keepdims):
    """Give every entry of `x` the gradient of the sum that it is part of."""
    if axis is not None and not keepdims:
        dy = np.expand_dims(dy, axis)
    return np.zeros_like(x) + dy
