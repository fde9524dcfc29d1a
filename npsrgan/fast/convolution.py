"""The twins of conv2d, alone and with what follows it.  The method of convolution is chosen by the shapes."""
from functools import partial

import numpy as np

from npsrgan import ops
from npsrgan.fast import fusion, im2col, kn2row, winograd
from npsrgan.fast.blocks import shared, supported
from npsrgan.ops.operation import twin
from npsrgan.tape import active_tape

FEW = 16        # channels: below this, Winograd's transforms cost more than the multiplications they save


@twin(ops.conv2d)
def conv2d(x, w, b=None, stride=1, padding=None, r=1, **more):
    """See the reference.  Supports NumPy arrays of float32 or float64.

    r: the factor of a pixel shuffle of the result.  more: a slope or a residual, for `winograd.correlate`.  The gradient rules include
    neither.
    """
    kh, kw, channels, o = w.shape
    ph, pw = (kh // 2, kw // 2) if padding is None else (padding, padding)
    h, k = (x.shape[1] + 2 * ph - kh) // stride + 1, (x.shape[2] + 2 * pw - kw) // stride + 1
    if not supported(x, w, w if b is None else b) or x.shape[3] != channels or h < 1 or k < 1:
        return NotImplemented       # the reference reports the error

    forward, adjoint, kernel_gradient = choose(kh, kw, channels, o, stride, max(ph, pw))

    def d_x(dy): return adjoint(dy, w, np.empty(x.shape, x.dtype), ph, pw)
    def d_w(dy): return both(dy)[0]
    def d_b(dy): return both(dy)[1]
    both = shared(lambda dy: kernel_gradient(x, dy, (kh, kw), ph, pw))
    y = np.empty((x.shape[0], h * r, k * r, o // r**2), x.dtype)
    out = y if r == 1 else y.reshape(-1, h, r, k, r, o // r**2).transpose(0, 1, 3, 2, 4, 5)
    forward(x, w, out, ph, pw, bias=b, **more)
    return y, (d_x, d_w, d_b)


@twin(fusion.conv2d_prelu)
def conv2d_prelu(x, w, b, slope, stride=1, r=1):
    """See fusion.  For inference only: the gradients need the convolution's own output."""
    o = w.shape[3]
    if active_tape.get() is not None or not supported(w, slope) or slope.shape not in ((1,), (o,)) or slope.max() > 1:
        return NotImplemented
    if r > 1 and (o % r**2 or o < FEW):
        return NotImplemented
    return conv2d(x, w, b, stride, r=r, slope=np.broadcast_to(slope, o))


@twin(fusion.conv2d_add)
def conv2d_add(x, w, b, residual):
    """See fusion.  For inference only; training has batch norm before the addition."""
    if active_tape.get() is not None or not supported(w, residual) or residual.shape != (*x.shape[:3], w.shape[3]):
        return NotImplemented
    return conv2d(x, w, b, residual=residual)


def choose(kh, kw, channels, o, stride, padding):
    """The fastest measured methods for the correlation, its gradient with respect to x, and its gradients with respect to w and bias."""
    forward, adjoint, kernel_gradient = im2col.correlate, im2col.correlate_adjoint, im2col.correlate_kernel_gradient
    if stride > 1 or padding > 4 or max(kh, kw) < 3:
        return tuple(partial(method, stride=stride) for method in (forward, adjoint, kernel_gradient))
    if o < FEW <= channels:
        return kn2row.correlate, kn2row.correlate_adjoint, kn2row.correlate_kernel_gradient
    if channels < FEW <= o:
        return forward, kn2row.correlate_flipped, kernel_gradient
    if (kh, kw) == (3, 3) and min(channels, o) >= FEW:
        return winograd.correlate, winograd.correlate_adjoint, winograd.correlate_kernel_gradient
    return forward, adjoint, kernel_gradient
