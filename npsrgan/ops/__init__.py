"""All operations, each with its value and its gradient rules side by side, written for readability.

Images are (N, H, W, C), convolution kernels (kh, kw, C_in, C_out), linear weights (in, out).  Operations take tensors,
arrays or numbers and return tensors.  Values and gradients have the dtype of the inputs, float32 or float64.
"""
from npsrgan.ops.activations import *
from npsrgan.ops.arithmetic import *
from npsrgan.ops.convolution import *
from npsrgan.ops.linear import *
from npsrgan.ops.normalisation import *
from npsrgan.ops.pooling import *
from npsrgan.ops.shapes import *
from npsrgan.tape import Tensor

__all__ = [name for name, value in globals().items() if hasattr(value, "reference")]        # all that `@op` has made

Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = multiply
Tensor.__sub__ = subtract
Tensor.__rsub__ = lambda self, other: subtract(other, self)
Tensor.__neg__ = lambda self: scale(self, -1.0)
Tensor.__getitem__ = slice
