"""The twin of linear: processes the weights a few rows at a time, on all threads.

When x has few rows (a batch of images, not of pixels), reading or writing the weights takes longer than the arithmetic.  OpenBLAS
computes small products without copying their operands first, which is two to three times as fast here.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast.blocks import channel_sums, large, supported
from npsrgan.fast.threads import SMALL_PRODUCT, parallel
from npsrgan.ops.operation import twin


@twin(ops.linear)
def linear(x, w, b=None):
    """x @ w + b."""
    if not large(w) or not supported(x, w, w if b is None else b) or x.ndim != 2 or x.shape[1] != w.shape[0]:
        return NotImplemented
    step = max(1, SMALL_PRODUCT // (x.shape[0] * w.shape[1]))
    parts = [slice(start, start + step) for start in range(0, len(w), step)]       # of the rows of w

    def d_x(dy):
        dx = np.empty_like(x)
        parallel(lambda part: np.matmul(dy, w[part].T, out=dx[:, part]), parts)
        return dx

    def d_w(dy):
        dw = np.empty_like(w)
        parallel(lambda part: np.matmul(x[:, part].T, dy, out=dw[part]), parts)
        return dw

    def d_b(dy): return channel_sums(dy)

    y = np.sum(parallel(lambda part: x[:, part] @ w[part], parts), axis=0, dtype=np.float64).astype(x.dtype)
    if b is not None:
        y += b
    return y, (d_x, d_w, d_b)
