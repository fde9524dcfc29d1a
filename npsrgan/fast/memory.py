"""Keeps memory that every training step frees and allocates again."""
import ctypes
import sys

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1       # of glibc's <malloc.h>


def keep_memory():
    """Let this process keep freed memory for its next arrays.  Meant for commands that repeat the same work for hours.

    By default the C library returns a large array to the system as soon as it is freed.  The next array then gets new pages,
    which the system must first fill with zeros.  A training step frees and allocates thousands of arrays.  Only glibc (Linux) has
    this setting; elsewhere nothing happens.  Returns whether it was set.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
