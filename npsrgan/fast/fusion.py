"""Fusion: consecutive operations computed in one pass over memory, and the layers that use them.

Each fused operation only chains the operations in its body.  Where no twin computes it in one pass, these run and are recorded
one by one.
"""
from npsrgan import ops
from npsrgan.layers import BatchNorm, Conv2d, LeakyReLU, PixelShuffle, PReLU, Residual, Sequential
from npsrgan.models.vgg19 import VGG19
from npsrgan.ops.operation import composite, twin


@composite
def conv2d_relu(x, w, b=None, stride=1, padding=None):
    """Convolution and ReLU."""
    return ops.relu(ops.conv2d(x, w, b, stride, padding))


@composite
def conv2d_leaky_relu(x, w, b, slope, stride=1, padding=None):
    """Convolution and LeakyReLU; slope: a number."""
    return ops.leaky_relu(ops.conv2d(x, w, b, stride, padding), slope)


@composite
def conv2d_prelu(x, w, b, slope, stride=1, r=1):
    """Convolution and PReLU; slope (C,) or (1,).  r: the factor of a pixel shuffle that follows, or 1."""
    y = ops.prelu(ops.conv2d(x, w, b, stride), slope)
    return y if r == 1 else ops.pixel_shuffle(y, r)


@composite
def conv2d_add(x, w, b, residual):
    """Convolution and the addition that ends a residual block, into which batch norm was folded; residual: shaped like the result."""
    return ops.add(ops.conv2d(x, w, b), residual)


@composite
def batch_norm_prelu(x, gamma, beta, slope, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Batch normalisation and PReLU; slope (C,)."""
    return ops.prelu(ops.batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps), slope)


@composite
def batch_norm_leaky_relu(x, gamma, beta, slope, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Batch normalisation and LeakyReLU; slope: a number."""
    return ops.leaky_relu(ops.batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps), slope)


@composite
def batch_norm_add(x, gamma, beta, residual, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Batch normalisation and the addition that ends a residual block; residual: shaped like x."""
    return ops.add(ops.batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps), residual)


@composite
def pixel_shuffle_prelu(x, slope, r=2):
    """Pixel shuffle and PReLU; x (N, H, W, r*r*C), slope (C,)."""
    return ops.prelu(ops.pixel_shuffle(x, r), slope)


def _normalised(operation, norm, x, *more):
    return operation(x, norm.gamma, norm.beta, *more, norm.running_mean, norm.running_var, norm.training, norm.momentum, norm.eps)


# Consecutive layers that have a fused operation.  (Exactly these types: a subclass may behave differently.)
FUSED = {
    (Conv2d, LeakyReLU): lambda conv, leaky, x: conv2d_leaky_relu(x, conv.weight, conv.bias, leaky.slope, conv.stride),
    (Conv2d, PReLU, PixelShuffle): lambda conv, prelu, shuffle, x: conv2d_prelu(
        x, conv.weight, conv.bias, prelu.slope, conv.stride, shuffle.r),
    (Conv2d, PReLU): lambda conv, prelu, x: conv2d_prelu(x, conv.weight, conv.bias, prelu.slope, conv.stride),
    (BatchNorm, PReLU): lambda norm, prelu, x: _normalised(batch_norm_prelu, norm, x, prelu.slope),
    (BatchNorm, LeakyReLU): lambda norm, leaky, x: _normalised(batch_norm_leaky_relu, norm, x, leaky.slope),
    (PixelShuffle, PReLU): lambda shuffle, prelu, x: pixel_shuffle_prelu(x, prelu.slope, shuffle.r),
}


def _in_order(steps, x):
    """Pass x through layers one after another, or through several at once if they have a fused operation."""
    steps = list(steps)
    while steps:
        count = next((n for n in (3, 2) if tuple(map(type, steps[:n])) in FUSED), 1)
        now, steps = steps[:count], steps[count:]
        x = FUSED[tuple(map(type, now))](*now, x) if count > 1 else now[0](x)
    return x


@twin(Sequential.forward)
def sequential(network, x):
    """Consecutive layers in one pass where they have a fused operation."""
    return _in_order(network.steps, x)


@twin(Residual.forward)
def residual(network, x):
    """The addition together with the batch norm or the convolution before it."""
    *steps, last = network.steps
    if type(last) is BatchNorm:
        return _normalised(batch_norm_add, last, _in_order(steps, x), x)
    return conv2d_add(_in_order(steps, x), last.weight, last.bias, x) if type(last) is Conv2d and last.stride == 1 else NotImplemented


@twin(VGG19.stage)
def vgg19_stage(network, name, x):
    """ReLU in one pass with the convolution, unless pooling comes between."""
    convolution = getattr(network, name)
    return NotImplemented if name in network.pooled else conv2d_relu(x, convolution.weight, convolution.bias)


@twin(VGG19.activate)
def vgg19_activate(network, name, x):
    """ReLU after pooling: the result is the same, and ReLU has only a quarter as many values to process."""
    return ops.relu(ops.max_pool2d(x)) if name in network.pooled else NotImplemented
