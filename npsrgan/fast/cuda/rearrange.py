"""The twins of max_pool2d, addition, and pixel_shuffle, alone and fused with PReLU.

Memory traffic in arrays of the larger array's size, for 2x2 blocks and windows:

                                 forward                     backward
    pixel_shuffle                2                           2
    with PReLU                   2 (unfused: 4)              3 (unfused: 5 with d_slope)
    max_pool2d                   1.25                        2.5 (rereads x and y to find the maxima; 1.3 with stored indices)
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast import fusion
from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.compile import NULL, packed
from npsrgan.fast.cuda.rows import Rows, entries, supported
from npsrgan.fast.cuda.sums import input_and_slope_rules
from npsrgan.ops.operation import twin


@twin(ops.add)
def add(a, b):
    """a + b for arrays of the same shape."""
    if not supported(a, b) or a.shape != b.shape:
        return NotImplemented
    y = compile.empty(a.shape, a)
    entries("rearrange", a.size)("add", packed(a), packed(b), y)

    def d(dy): return dy
    return y, (d, d)


@twin(ops.pixel_shuffle)
def pixel_shuffle(x, r=2):
    """See the reference."""
    done = _shuffle(x, None, r)
    return done if done is NotImplemented else (done[0], done[1][:1])


@twin(fusion.pixel_shuffle_prelu)
def pixel_shuffle_prelu(x, slope, r=2):
    """Rules for x and slope."""
    return _shuffle(x, slope, r)


def _shuffle(x, slope, r):
    """(y, (d_x, d_slope)); without PReLU if slope is None."""
    if not supported(x, *([] if slope is None else [slope])) or x.ndim != 4:
        return NotImplemented
    n, h, w, channels = x.shape
    c = channels // (r * r)
    if c * r * r != channels or slope is not None and (slope.shape != (c,) or not slope.flags.c_contiguous):
        return NotImplemented
    x, slopes, launch = packed(x), NULL if slope is None else packed(slope), Rows("rearrange", x.size // c, c)
    kept = NULL if slope is None else x
    y = compile.empty((n, r * h, r * w, c), x)
    launch("pixel_shuffle", x, slopes, y, np.int32(r), np.int32(w))

    def walk(dy):
        dx, parts = compile.empty((n, h, w, channels), y), compile.empty((launch.parts, c), y)
        launch("pixel_shuffle_gradient", kept, packed(dy), slopes, dx, parts, np.int32(r), np.int32(w))
        return dx, parts
    return y, input_and_slope_rules(walk, (c,), y)


@twin(ops.max_pool2d)
def max_pool2d(x, size=2, stride=2):
    """Supports non-overlapping windows.  The backward pass finds each maximum again: the first entry equal to y."""
    if not supported(x) or x.ndim != 4 or stride != size or min(x.shape[1:3]) < size:
        return NotImplemented
    x = packed(x)
    n, height, width, c = x.shape
    y = compile.empty((n, height // size, width // size, c), x)

    def launch(function, down, across, *arrays):
        Rows("rearrange", n * down * across, c)(function, *arrays, *map(np.int32, (size, height, width, down, across)))

    def d_x(dy):
        dx = compile.empty(x.shape, x)
        launch("max_pool2d_gradient", -(-height // size), -(-width // size), x, y, packed(dy), dx)
        return dx

    launch("max_pool2d", height // size, width // size, x, y)
    return y, (d_x,)
