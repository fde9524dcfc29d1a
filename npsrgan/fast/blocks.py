"""Elementwise operations and sums over rows, on all threads, in blocks that stay in the cache across several NumPy calls.

A NumPy call reads and writes whole arrays, so three calls in a row move a large array over the memory bus three times.
If the array is split into blocks, the second and third calls find their operands in the cache.
"""
import weakref
from contextlib import contextmanager
from functools import cache

import numpy as np

from npsrgan.fast.threads import parallel, scratch

BLOCK = 1 << 18         # entries: several float32 operands fit in the last cache.  Smaller blocks would fit in a core's own cache, but
                        # threads that make more and shorter calls of NumPy wait for each other (for Python's lock) longer than that saves
ROW = 1 << 13           # entries that one call of NumPy's inner loop processes: enough to hide its cost, few enough for the L1 cache
STEEP = 2.0**64         # z * STEEP has the digits of z and, unless z is 0, is beyond -1 and 1: limited to [0, 1] it is "z > 0" as a
                        # number.  Comparing, and then converting the booleans, takes twice as long
SMALL = 1 << 14         # arrays with fewer entries do not repay the threading overhead


@contextmanager
def any_size():
    """Inside `with any_size():` the twins accept arrays of any size, so that tests can use small arrays."""
    global SMALL
    usual, SMALL = SMALL, 0
    try:
        yield
    finally:
        SMALL = usual


def supported(*arrays):
    """Whether all arguments are NumPy arrays of one dtype, float32 or float64: the twins' supported inputs."""
    return all(type(a) is np.ndarray and a.dtype == arrays[0].dtype and a.dtype in (np.float32, np.float64) for a in arrays)


def large(x):
    """Whether x is a float32 or float64 NumPy array large enough to repay the threading overhead."""
    return supported(x) and x.size >= SMALL


def by_rows(work, *arrays):
    """Call work(rows of each array) on each block of rows and return the results in block order.  Arrays (..., C) become (rows, C).

    An array that `work` writes to must be contiguous; reshaping any other would make a copy.
    """
    tables = [a.reshape(-1, a.shape[-1]) for a in arrays]
    rows, columns = tables[0].shape
    step = max(1, BLOCK // columns)
    return parallel(lambda start: work(*(table[start:start + step] for table in tables)), range(0, rows, step))


def by_long_rows(work, *arrays, vectors=()):
    """Like `by_rows`, but several pixels make a row: (..., C) becomes (rows, k * C) with about ROW entries in a row.

    Broadcasting a vector (C,) over pixels makes NumPy call its inner loop once per pixel, and for 64 channels the calls take longer
    than the arithmetic.  So the `vectors` are repeated k times, and follow the rows as arguments of `work`.
    """
    channels = arrays[0].shape[-1]
    k = _pixels_in_a_row(arrays[0].size // channels, channels)
    vectors = [np.tile(vector, k) for vector in vectors]
    return by_rows(lambda *rows: work(*rows, *vectors), *(a.reshape(-1, k * channels) for a in arrays))


@cache
def _pixels_in_a_row(pixels, channels):
    """The divisor of the number of pixels that makes a row's length nearest to ROW."""
    return min((k for k in range(1, 2 * ROW // channels + 1) if pixels % k == 0), key=lambda k: abs(k * channels - ROW), default=1)


def per_channel(sums, channels):
    """Add up the k pixels of a long row of sums: (k * C,) -> (C,)."""
    return sums.reshape(-1, channels).sum(0)


def channel_sums(x):
    """The sum over all axes but the last, (..., C) -> (C,).  The blocks' sums are added in double precision; NumPy's own float32 sum
    over leading axes accumulates in one long chain."""
    parts = by_long_rows(lambda rows: per_channel(rows.sum(0), x.shape[-1]), x)
    return np.sum(parts, axis=0, dtype=np.float64).astype(x.dtype)


def lean(rows, slope):
    """PReLU in place of rows of pixels, (..., k * C), that are in the cache.  The slopes, (C,), are at most 1."""
    slopes = np.tile(slope, rows.shape[-1] // slope.size)
    np.maximum(rows, np.multiply(rows, slopes, out=scratch("half", rows.shape, rows.dtype)), out=rows)


def shared(compute):
    """Let several gradient rules share work: cache compute(dy) for the latest dy as long as that array exists.

    dy is held by a weak reference.  Its id would not be enough, because a new array may reuse the address of a freed one.
    """
    last = nothing = (lambda: None), None

    def forget(reference):
        nonlocal last
        if last[0] is reference:
            last = nothing

    def ask(dy):
        nonlocal last
        if last[0]() is not dy:
            last = weakref.ref(dy, forget), compute(dy)
        return last[1]
    return ask
