"""The twin of conv2d: chooses how to convolve by the shapes."""
import numpy as np

from npsrgan import ops
from npsrgan.fast import im2col, winograd
from npsrgan.fast.blocks import column_sums, suits
from npsrgan.tape import twin


@twin(ops.conv2d)
def conv2d(x, w, b=None, stride=1, padding=None):
    """As the reference, on NumPy arrays of float32 or float64."""
    kh, kw, channels, o = w.shape
    ph, pw = (kh // 2, kw // 2) if padding is None else (padding, padding)
    h, k = (x.shape[1] + 2 * ph - kh) // stride + 1, (x.shape[2] + 2 * pw - kw) // stride + 1
    if not suits(x, w, w if b is None else b) or x.shape[3] != channels or h < 1 or k < 1:
        return NotImplemented       # the reference explains what does not fit
    y = np.empty((x.shape[0], h, k, o), x.dtype)

    def d_b(dy): return column_sums(lambda dy: dy, dy)

    if (kh, kw, stride) == (3, 3, 1) and ph <= 2 and min(channels, o) >= 16:
        def d_x(dy): return winograd.correlate_adjoint(dy, w, np.empty_like(x), ph, pw)
        def d_w(dy): return winograd.correlate_kernel_gradient(x, dy, ph, pw)
        return winograd.correlate(x, w, y, ph, pw, b), (d_x, d_w, d_b)

    def d_x(dy): return im2col.correlate_adjoint(dy, w, np.empty_like(x), ph, pw, stride)
    def d_w(dy): return im2col.correlate_kernel_gradient(x, dy, (kh, kw), ph, pw, stride)
    return im2col.correlate(x, w, y, ph, pw, stride, b), (d_x, d_w, d_b)
