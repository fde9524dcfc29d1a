"""Memory that is freed and asked for again in every step of a training run."""
import ctypes
import sys

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1       # of glibc's <malloc.h>


def keep_memory():
    """Let this process keep the memory it frees, for its own next arrays.  For commands that repeat the same work for hours.

    By default the C library returns a large array to the system as soon as it is freed; the next one is made of new pages,
    each of which the system must first fill with zeros.  A training step frees and makes thousands of them.  The process
    still never holds more than its peak.  Only glibc (Linux) has this setting; elsewhere nothing happens.  Returns whether it did.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
