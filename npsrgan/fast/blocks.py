"""Elementwise operations and sums over rows, on all threads, in blocks that stay in the cache across several NumPy calls.

A NumPy call reads and writes whole arrays, so three calls in a row move a large array over the memory bus three times.
If the array is split into blocks, the second and third calls find their operands in the cache.
"""
import weakref
from contextlib import contextmanager

import numpy as np

from npsrgan.fast.threads import parallel

BLOCK = 1 << 16         # entries: three or four float32 operands of this size fit in a core's L2 cache
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


def suits(*arrays):
    """Whether all arguments are NumPy arrays of one dtype, float32 or float64: the twins' supported inputs."""
    return all(type(a) is np.ndarray and a.dtype == arrays[0].dtype and a.dtype in (np.float32, np.float64) for a in arrays)


def large(x):
    """Whether x is a float32 or float64 NumPy array large enough to repay the threading overhead."""
    return suits(x) and x.size >= SMALL


def by_rows(work, *arrays):
    """Call work(rows of each array) on each block of rows and return the results in block order.  Arrays (..., C) become (rows, C).

    An array that `work` writes to must be contiguous; reshaping any other would make a copy.
    """
    tables = [a.reshape(-1, a.shape[-1]) for a in arrays]
    rows, columns = tables[0].shape
    step = max(1, BLOCK // columns)
    return parallel(lambda start: work(*(table[start:start + step] for table in tables)), range(0, rows, step))


def column_sums(work, *arrays):
    """Sum work(rows of each array), (rows, C), over all rows: (C,).

    Each block is summed by a product with a vector of ones, which is fast and accumulates in many short chains.  The block
    sums are added in double precision.  NumPy's own float32 sum over leading axes accumulates in one long chain.
    """
    def total(*rows):
        terms = work(*rows)
        return np.ones(len(terms), terms.dtype) @ terms
    return np.sum(by_rows(total, *arrays), axis=0, dtype=np.float64).astype(arrays[0].dtype)


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
