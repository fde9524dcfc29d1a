"""Convolution with few outputs, such as the generator's last, 9x9 with 64 -> 3, by kn2row (Vasudevan et al. 2017).

Split the kernel into blocks.  Each block is a small convolution; all blocks together form one convolution with many outputs,
which suits matrix products.  Then each block's plane is shifted to the block's position and added:

    y[n, h, k, :] = sum over blocks (a, b) of  z[n, h + s*a, k + s*b, (a, b), :],     z = x correlated with all blocks at once

Kernels of 6x6, 9x9 and so on are split into 3x3 blocks (s = 3), for which Winograd's method saves three quarters of the
multiplications; other kernels are split into single taps (s = 1).  The cost is z, which for 9x9 is 9 times as large as y.
"""
import numpy as np

from npsrgan.fast import im2col, winograd
from npsrgan.fast.blocks import BLOCK, lean
from npsrgan.fast.threads import get_threads, parallel, scratch, shares


def correlate(x, w, out, top, left, bias=None, slope=None, residual=None):
    """Like `im2col.correlate`, for stride 1."""
    inner, (down, across), blocks = _cut(w)
    (n, height, width, o), s, planes = out.shape, blocks.shape[0], blocks.shape[3]
    blocks = np.pad(blocks, [(0, 0)] * 3 + [(0, -planes % 16)])         # BLAS computes 16 outputs in the time of 11
    z = np.empty((n, height + w.shape[0] - s, width + w.shape[1] - s, blocks.shape[3]), x.dtype)
    inner.correlate(x, blocks, z, top, left)
    z = z[..., :planes].reshape(*z.shape[:3], down, across * o)

    def work(job):          # first add along the columns, where several entries are adjacent, and then along the rows
        image, (begin, end) = job
        columns, target = scratch("half", (end - begin, *z.shape[2::2]), z.dtype), out[image, begin:end]
        columns[...], target[...] = 0, 0 if bias is None else bias
        for a in range(down):
            columns += z[image, begin + s * a:end + s * a, :, a]
        for b in range(across):
            target += columns[:, s * b:s * b + width, b * o:(b + 1) * o]
        if slope is not None:
            lean(target.reshape(len(target), -1), slope)
        if residual is not None:
            target += residual[image, begin:end]
    parts = max(-(-get_threads() // n), height * width * across * o // BLOCK)
    parallel(work, [(image, rows) for image in range(n) for rows in shares(height, parts)])
    return out


def correlate_adjoint(dy, w, out, top, left):
    """The gradient of `correlate` with respect to x."""
    inner, grid, blocks = _cut(w)
    return inner.correlate_adjoint(_spread(dy, grid, blocks.shape[0]), blocks, out, top, left)


def correlate_flipped(dy, w, out, top, left):
    """The gradient of any correlation with respect to an x with few channels: a correlation of dy with few outputs."""
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    return correlate(dy, turned, out, w.shape[0] - 1 - top, w.shape[1] - 1 - left)


def correlate_kernel_gradient(x, dy, size, top, left):
    """The gradients of `correlate` with respect to w, (kh, kw, C, O), and to its bias, (O,): every plane of z gets all of dy."""
    s = _block_size(size)
    grid = size[0] // s, size[1] // s
    blocks, sums = (winograd if s == 3 else im2col).correlate_kernel_gradient(x, _spread(dy, grid, s), (s, s), top, left)
    blocks = blocks.reshape(s, s, x.shape[3], *grid, dy.shape[3])
    return np.ascontiguousarray(blocks.transpose(3, 0, 4, 1, 2, 5)).reshape(*size, *blocks.shape[2::3]), sums[:dy.shape[3]]


def _block_size(size):
    return 3 if size[0] % 3 == size[1] % 3 == 0 and max(size) > 3 else 1


def _cut(w):
    """The module that convolves with the blocks, the grid of blocks (a, b), and the blocks (s, s, C, a*b*O)."""
    (kh, kw, c, o), s = w.shape, _block_size(w.shape[:2])
    blocks = w.reshape(kh // s, s, kw // s, s, c, o).transpose(1, 3, 4, 0, 2, 5)
    return winograd if s == 3 else im2col, (kh // s, kw // s), np.ascontiguousarray(blocks).reshape(s, s, c, -1)


def _spread(dy, grid, s):
    """The gradient of z: every plane gets dy at its own offset.  (N, H, W, O) -> (N, H + s*(a - 1), W + s*(b - 1), a*b*O)."""
    n, height, width, o = dy.shape
    dz = np.zeros((n, height + s * (grid[0] - 1), width + s * (grid[1] - 1), *grid, o), dy.dtype)

    def work(job):          # all planes of some rows: threads that filled planes beside each other would write to the same cache lines
        image, (begin, end) = job
        for a, b in np.ndindex(grid):
            dz[image, s * a + begin:s * a + end, s * b:s * b + width, a, b] = dy[image, begin:end]
    parallel(work, [(image, rows) for image in range(n) for rows in shares(height, -(-get_threads() // n))])
    return dz.reshape(*dz.shape[:3], -1)
