"""Activation functions, elementwise on arrays of any shape."""
import numpy as np

from npsrgan.ops.arithmetic import unbroadcast
from npsrgan.ops.operation import op


@op
def relu(x):
    """max(x, 0).  At 0, where the derivative does not exist, the rule returns 0."""
    def d_x(dy): return np.where(x > 0, dy, 0)
    return np.maximum(x, 0), (d_x,)


@op
def leaky_relu(x, slope=0.2):
    """x where positive, slope * x elsewhere, with a constant slope.  Maas, Hannun and Ng 2013, section 2."""
    def d_x(dy): return np.where(x > 0, dy, slope * dy)
    return np.where(x > 0, x, slope * x), (d_x,)


@op
def prelu(x, slope):
    """Parametric ReLU: x where positive, slope * x elsewhere, with a learned slope.

    x (..., C); slope (C,), one per channel, or (1,), shared by all.  He et al. 2015, "Delving Deep into Rectifiers", eq. 1.
    """
    def d_x(dy):     return np.where(x > 0, dy, slope * dy)
    def d_slope(dy): return unbroadcast(np.where(x > 0, 0, x * dy), slope)
    return np.where(x > 0, x, slope * x), (d_x, d_slope)


@op
def sigmoid(x):
    """1 / (1 + exp(-x)).  Split so that exp never overflows and a probability near 0 keeps all its digits."""
    small = np.exp(-np.abs(x))                                     # in (0, 1]

    def d_x(dy): return dy * small / (1 + small) ** 2              # = dy * y * (1 - y)
    return np.where(x > 0, 1, small) / (1 + small), (d_x,)


@op
def softplus(x):
    """log(1 + exp(x)).  Split so that exp never overflows: the loss and its gradient stay accurate at any logit."""
    small = np.exp(-np.abs(x))                                     # in (0, 1]

    def d_x(dy): return dy * np.where(x > 0, 1, small) / (1 + small)       # = dy * sigmoid(x)
    return np.maximum(x, 0) + np.log1p(small), (d_x,)
