"""Twins of the activation functions: branch-free arithmetic in cache-sized blocks.

`np.where` branches at every entry; with random signs that takes ten times as long as a multiplication.  ReLU's gradient multiplies
by the mask y > 0 instead, and the others by a steep line, limited to lie between the slope and 1.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast.blocks import STEEP, by_long_rows, by_rows, large, per_channel, shared, supported
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
            np.multiply(x, steep, out=dx)
            dx += slope         # at 0, the left derivative
            np.clip(dx, min(slope, 1), max(slope, 1), out=dx)
            dx *= dy
        steep, dx = STEEP if slope <= 1 else -STEEP, np.empty_like(y)
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

    @shared
    def gradients(dy):      # in one pass, because large arrays take longer to read than to compute with
        def work(x, dy, dx, steep, slope, low, high):
            np.multiply(x, steep, out=dx)
            dx += slope         # at 0, the left derivative
            np.maximum(dx, low, out=dx)
            np.minimum(dx, high, out=dx)
            dx *= dy
            negative = np.clip(x, -np.inf, 0, out=scratch("block", x.shape, x.dtype))
            return per_channel(np.einsum("ij,ij->j", negative, dy), c)
        dx, steep = np.empty_like(y), np.copysign(STEEP, 1 - slopes).astype(x.dtype)
        parts = by_long_rows(work, x, dy, dx, vectors=[steep, slopes, np.minimum(slopes, 1), np.maximum(slopes, 1)])
        d_slope = np.sum(parts, axis=0, dtype=np.float64).astype(x.dtype)
        return dx, d_slope if slope.size > 1 else d_slope.sum(keepdims=True)

    def d_x(dy):     return gradients(dy)[0]
    def d_slope(dy): return gradients(dy)[1]

    by_long_rows(forward, x, y, vectors=[slopes])
    return y, (d_x, d_slope)
