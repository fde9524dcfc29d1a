"""Twins of max_pool2d, pixel_shuffle and add."""
import numpy as np

from npsrgan import ops
from npsrgan.fast.blocks import by_rows, large, supported
from npsrgan.fast.threads import parallel, shares
from npsrgan.ops.operation import twin


@twin(ops.add)
def add(a, b):
    """a + b for arrays of the same shape."""
    if not large(a) or not supported(a, b) or a.shape != b.shape:
        return NotImplemented
    y = np.empty(a.shape, a.dtype)

    def d(dy): return dy
    by_rows(lambda a, b, y: np.add(a, b, out=y), a, b, y)
    return y, (d, d)


@twin(ops.max_pool2d)
def max_pool2d(x, size=2, stride=2):
    """Supports non-overlapping windows.  The backward pass finds each maximum again: the first entry equal to y."""
    if not large(x) or stride != size or min(x.shape[1:3]) < size:
        return NotImplemented
    n, h, k, c = x.shape[0], x.shape[1] // size, x.shape[2] // size, x.shape[3]
    y = np.empty((n, h, k, c), x.dtype)

    def windows(a, rows):       # the (i, j)-th pixel of every window in these rows of windows
        part = a[:, rows.start * size:rows.stop * size, :k * size]
        return [part[:, i::size, j::size] for i in range(size) for j in range(size)]

    def forward(rows):
        first, *others = windows(x, rows)
        best = y[:, rows]
        best[...] = first
        for other in others:
            np.maximum(best, other, out=best)

    def d_x(dy):
        dx = np.empty(x.shape, x.dtype)
        dx[:, h * size:], dx[:, :, k * size:] = 0, 0

        def backward(rows):
            left = dy[:, rows].copy()       # the gradient not yet assigned to a pixel of the window
            for pixel, gradient in zip(windows(x, rows), windows(dx, rows)):
                np.multiply(left, pixel == y[:, rows], out=gradient)
                left -= gradient
        parallel(backward, jobs)
        return dx

    jobs = [slice(a, b) for a, b in shares(h, max(1, x.size >> 18))]
    parallel(forward, jobs)
    return y, (d_x,)


@twin(ops.pixel_shuffle)
def pixel_shuffle(x, r=2):
    """A single copy; the threads share the rows of pixels."""
    n, h, w, channels = x.shape
    c = channels // (r * r)
    if not large(x) or c * r * r != channels:
        return NotImplemented
    y = np.empty((n, h * r, w * r, c), x.dtype)

    def by_pixels(work, packed, spread):
        """Call work on blocks of rows of both arrays, viewed with indices (row, i, column, j * c + channel)."""
        by_rows(lambda packed, spread: work(packed.reshape(-1, w, r, r * c).transpose(0, 2, 1, 3),
                                            spread.reshape(-1, r, w, r * c)),
                packed.reshape(n * h, -1), spread.reshape(n * h, -1))

    def d_x(dy):
        dx = np.empty(x.shape, x.dtype)
        by_pixels(lambda dx, dy: np.copyto(dx, dy), dx, dy)
        return dx

    by_pixels(lambda x, y: np.copyto(y, x), x, y)
    return y, (d_x,)
