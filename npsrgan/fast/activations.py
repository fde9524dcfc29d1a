"""Twins of the activation functions: branch-free arithmetic in cache-sized blocks.

`np.where` branches at every entry; with random signs that takes ten times as long as a multiplication.  The code below
multiplies by the mask x > 0 instead.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast.blocks import by_long_rows, by_rows, large, per_channel, supported
from npsrgan.fast.threads import scratch
from npsrgan.ops.operation import twin


@twin(ops.relu)
def relu(x):
    """max(x, 0)."""
    if not large(x):
        return NotImplemented
    y = np.empty_like(x, order="C")

    def d_x(dy):
        dx = np.empty_like(y)
        by_rows(lambda y, dy, dx: np.multiply(dy, y > 0, out=dx), y, dy, dx)
        return dx

    by_rows(lambda x, y: np.clip(x, 0, np.inf, out=y), x, y)        # faster than np.maximum(x, 0)
    return y, (d_x,)


@twin(ops.leaky_relu)
def leaky_relu(x, slope=0.2):
    """x where positive, slope * x elsewhere: the larger of the two if slope <= 1, else the smaller."""
    if not large(x):
        return NotImplemented
    slope = float(slope)
    pick, y = np.maximum if slope <= 1 else np.minimum, np.empty_like(x, order="C")

    def d_x(dy):
        def work(x, dy, dx):
            np.multiply(x > 0, dx.dtype.type(1 - slope), out=dx)
            dx += slope
            dx *= dy
        dx = np.empty_like(y)
        by_rows(work, x, dy, dx)
        return dx

    by_rows(lambda x, y: pick(x, np.multiply(x, slope, out=y), out=y), x, y)
    return y, (d_x,)


@twin(ops.prelu)
def prelu(x, slope):
    """The larger of x and slope * x if all slopes are at most 1, as they usually are; else max(x, 0) + slope * min(x, 0)."""
    if not large(x) or not supported(x, slope) or slope.shape not in ((1,), x.shape[-1:]):
        return NotImplemented
    y, c = np.empty_like(x, order="C"), x.shape[-1]
    slopes, largest = np.broadcast_to(slope, c), slope.max()

    def forward(x, y, slope):
        if largest <= 1:
            np.maximum(x, np.multiply(x, slope, out=y), out=y)
        else:
            np.multiply(np.clip(x, -np.inf, 0), slope, out=y)
            y += np.clip(x, 0, np.inf)

    def d_x(dy):
        def work(x, dy, dx, rest, slope):
            np.multiply(x > 0, rest, out=dx)
            dx += slope
            dx *= dy
        dx = np.empty_like(y)
        by_long_rows(work, x, dy, dx, vectors=[1 - slopes, slopes])
        return dx

    def d_slope(dy):
        def work(x, dy):
            negative = np.clip(x, -np.inf, 0, out=scratch("block", x.shape, x.dtype))
            return per_channel(np.einsum("ij,ij->j", negative, dy), c)
        sums = np.sum(by_long_rows(work, x, dy), axis=0, dtype=np.float64).astype(x.dtype)
        return sums if slope.size > 1 else sums.sum(keepdims=True)

    by_long_rows(forward, x, y, vectors=[slopes])
    return y, (d_x, d_slope)
