"""Elementwise work and sums over rows, in blocks that stay in the cache through several NumPy calls, on all threads.

One NumPy call reads and writes whole arrays; three calls in a row move a large array through the memory bus three times.
Cut into blocks, the second and third call find their operands in the cache.
"""
import weakref
from contextlib import contextmanager

import numpy as np

from npsrgan.fast.threads import parallel

BLOCK = 1 << 16         # entries: three or four float32 operands of this size fit into a core's second-level cache
SMALL = 1 << 14         # arrays with fewer entries are not worth the threads


@contextmanager
def any_size():
    """Inside `with any_size():` the twins take arrays however small, so that small arrays can check them."""
    global SMALL
    usual, SMALL = SMALL, 0
    try:
        yield
    finally:
        SMALL = usual


def suits(*arrays):
    """NumPy arrays of one floating type, float32 or float64: what the twins are for."""
    return all(type(a) is np.ndarray and a.dtype == arrays[0].dtype and a.dtype in (np.float32, np.float64) for a in arrays)


def large(x):
    """A NumPy array of float32 or float64 that is worth the threads."""
    return suits(x) and x.size >= SMALL


def by_rows(work, *arrays):
    """[work(rows of each array) ...] over blocks of rows; an array (..., C) counts as (rows, C).  Results in order of blocks.

    To be written into, an array must be contiguous: another is reshaped into a copy.
    """
    tables = [a.reshape(-1, a.shape[-1]) for a in arrays]
    rows, columns = tables[0].shape
    step = max(1, BLOCK // columns)
    return parallel(lambda start: work(*(table[start:start + step] for table in tables)), range(0, rows, step))


def column_sums(work, *arrays):
    """The rows of work(rows of each array), (rows, C), summed over all rows: (C,).

    Each block is summed as a product with a vector of ones, which is fast and adds in many short chains; the sums of the
    blocks are added in double precision.  NumPy's own float32 sum over leading axes adds in one long chain.
    """
    def total(*rows):
        terms = work(*rows)
        return np.ones(len(terms), terms.dtype) @ terms
    return np.sum(by_rows(total, *arrays), axis=0, dtype=np.float64).astype(arrays[0].dtype)


def shared(compute):
    """Let several gradient rules share work: compute(dy), remembered for the dy it was last asked about, while that lives.

    dy is held weakly.  Its identity alone would not do: the next array may be made where the last one was.
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
