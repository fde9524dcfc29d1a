"""All operations, each with its value and its gradient rules side by side, written for readability.

Images are (N, H, W, C), convolution kernels (kh, kw, C_in, C_out), linear weights (in, out).  Operations take tensors,
arrays or numbers and return tensors.  Values and gradients have the dtype of the inputs, float32 or float64.
"""
from npsrgan.ops.activations import leaky_relu, prelu, relu, sigmoid, softplus
from npsrgan.ops.arithmetic import absolute, add, log, mean, multiply, scale, square, subtract, sum
from npsrgan.ops.convolution import conv2d
from npsrgan.ops.linear import linear
from npsrgan.ops.normalisation import batch_norm
from npsrgan.ops.pooling import max_pool2d
from npsrgan.ops.shapes import concatenate, flatten, pixel_shuffle, reshape, slice
from npsrgan.tape import Tensor

__all__ = ["absolute", "add", "batch_norm", "concatenate", "conv2d", "flatten", "leaky_relu", "linear", "log", "max_pool2d", "mean",
           "multiply", "pixel_shuffle", "prelu", "relu", "reshape", "scale", "sigmoid", "slice", "softplus", "square",
           "subtract", "sum"]

Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = multiply
Tensor.__sub__ = subtract
Tensor.__rsub__ = lambda self, other: subtract(other, self)
Tensor.__neg__ = lambda self: scale(self, -1.0)
Tensor.__getitem__ = slice
