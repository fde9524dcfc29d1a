"""The twin of linear: each thread multiplies by its own stretch of the weights.

With few rows in x (a batch of images, not of pixels) the products only read or write the weights once: what counts is that
all threads do so, and BLAS alone does not share out so thin a product.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast.blocks import column_sums, large, suits
from npsrgan.fast.threads import parallel, shares
from npsrgan.tape import twin


@twin(ops.linear)
def linear(x, w, b=None):
    """x @ w + b."""
    if not large(w) or not suits(x, w, w if b is None else b) or x.ndim != 2 or x.shape[1] != w.shape[0]:
        return NotImplemented
    inputs = len(w)

    def d_x(dy):
        dx = np.empty_like(x)
        parallel(lambda part: np.matmul(dy, w[slice(*part)].T, out=dx[:, slice(*part)]), shares(inputs))
        return dx

    def d_w(dy):
        dw = np.empty_like(w)
        parallel(lambda part: np.matmul(x[:, slice(*part)].T, dy, out=dw[slice(*part)]), shares(inputs))
        return dw

    def d_b(dy): return column_sums(lambda dy: dy, dy)

    y = sum(parallel(lambda part: x[:, slice(*part)] @ w[slice(*part)], shares(inputs)))
    if b is not None:
        y += b
    return y, (d_x, d_w, d_b)
