"""Fused operations: pairs that often occur together, which the GPU twins compute in one pass over memory.

Each function only chains the operations in its body.  Without a twin, as on a CPU, these run and are recorded one by one.
"""
from npsrgan.ops.activations import leaky_relu, prelu, relu
from npsrgan.ops.arithmetic import add
from npsrgan.ops.convolution import conv2d
from npsrgan.ops.normalisation import batch_norm
from npsrgan.ops.operation import composite
from npsrgan.ops.shapes import pixel_shuffle


@composite
def conv2d_relu(x, w, b=None, stride=1, padding=None):
    """Convolution and ReLU."""
    return relu(conv2d(x, w, b, stride, padding))


@composite
def conv2d_leaky_relu(x, w, b, slope, stride=1, padding=None):
    """Convolution and LeakyReLU; slope: a number."""
    return leaky_relu(conv2d(x, w, b, stride, padding), slope)


@composite
def batch_norm_prelu(x, gamma, beta, slope, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Batch normalisation and PReLU; slope (C,)."""
    return prelu(batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps), slope)


@composite
def batch_norm_leaky_relu(x, gamma, beta, slope, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Batch normalisation and LeakyReLU; slope: a number."""
    return leaky_relu(batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps), slope)


@composite
def batch_norm_add(x, gamma, beta, residual, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Batch normalisation and the addition that ends a residual block; residual: shaped like x."""
    return add(batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps), residual)


@composite
def pixel_shuffle_prelu(x, slope, r=2):
    """Pixel shuffle and PReLU; x (N, H, W, r*r*C), slope (C,)."""
    return prelu(pixel_shuffle(x, r), slope)
