"""Sums over many rows, in a fixed order."""
import numpy as np

from npsrgan.fast.blocks import shared
from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.rows import THREADS, Rows


def sum_parts(parts, out):
    """out = parts[0] + parts[1] + ...; parts (count, ...), out (...)."""
    down = 1 if len(parts) <= 16 else 32        # one thread per entry is enough for few parts, but not for hundreds
    across = THREADS // down
    launch = compile.kernel("sums", "sum_parts")
    launch((-(-out.size // across),), (across, down), (parts, out, np.int32(out.size), np.int32(len(parts))))
    return out


def input_and_slope_rules(walk, shape, like):
    """The rules (d_x, d_slope) of an operation whose backward kernel computes both in one pass.

    walk(dy) -> (dx, parts (count, *shape)); `sum_parts` sums the parts to d_slope.  d_slope reuses the parts if d_x was called
    first with the same dy.   like: an array on the sum's device and of its dtype.
    """
    found = shared(lambda dy: {})       # for the latest dy

    def d_x(dy):
        dx, found(dy)["parts"] = walk(dy)
        return dx

    def d_slope(dy):
        if not found(dy):
            d_x(dy)
        return sum_parts(found(dy)["parts"], compile.empty(shape, like))

    return d_x, d_slope


def column_sums(x):
    """The sum of x (rows, columns), packed, over its rows: (columns,)."""
    launch = Rows("sums", *x.shape)
    parts = compile.empty((launch.parts, x.shape[1]), x)
    launch("column_sums", x, parts)
    return sum_parts(parts, compile.empty((x.shape[1],), x))
