"""3x3 convolution, stride 1, with a quarter of the multiplications: Winograd's F(4x4, 3x3).

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", sections 4.1 to 4.3.  As polynomials, four
outputs of a three-tap filter need products at only six points: evaluate both at the points, multiply, interpolate.  In
two dimensions, for each 6x6 tile d of the image (tiles are 4 pixels apart, so neighbours overlap by 2):

    Y = A^T [ (G g G^T) * (B^T d B) ] A             one 4x4 output tile; `*` is elementwise, summed over input channels

The sum over channels makes each of the 36 entries a matrix product, (tiles, C) @ (C, O): 36 multiplications for 16
outputs, where the definition takes 144.  The weight gradient is the same formula by the chain rule:

    dg = G^T [ sum over tiles of  (B^T d B) * (A dY A^T) ] G

The data gradient is again a 3x3 convolution, of dy with the kernel rotated by 180 degrees.  Rotating image, kernel and result
together changes nothing, so a transformed kernel that is kept serves here too, with the rows of A^T and the columns of B^T in
reverse order.
The points are 0, 1, -1, sqrt 2, -sqrt 2 and infinity; Lavin and Gray's 2 instead of sqrt 2 gives a larger rounding error.
"""
import math
import weakref
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npsrgan.fast.blocks import lean
from npsrgan.fast.threads import SMALL_PRODUCT, get_threads, parallel, per_thread, scratch, shares

_r = np.sqrt(2)
BT = np.array([[2, 0, -3, 0, 1, 0], [0, -2, -2, 1, 1, 0], [0, 2, -2, -1, 1, 0],
               [0, -_r, -1, _r, 1, 0], [0, _r, -1, -_r, 1, 0], [0, 2, 0, -3, 0, 1]])
G = np.array([[1 / 2, 0, 0], [-1 / 2, -1 / 2, -1 / 2], [-1 / 2, 1 / 2, -1 / 2],
              [1 / 4, _r / 4, 1 / 2], [1 / 4, -_r / 4, 1 / 2], [0, 0, 1]])
AT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, _r, -_r, 0], [0, 1, 1, 2, 2, 0], [0, 1, -1, 2 * _r, -2 * _r, 1]])
GG = np.kron(G, G)      # both sides of the kernel's transform as one matrix, (36, 9)

OUTPUTS = 64            # channels computed at a time from a piece's transform
TILES = 192             # tiles in a piece when products are not small: enough rows for efficiency
CACHE = 5 << 19         # bytes of a piece's transforms with one thread: measured; a core's L2 cache and some of the L3
WAKING = 10**7          # multiplications one thread does in about the time it takes to hand pieces to the others
LARGE_KERNEL = 8 << 20  # bytes: a larger transformed kernel is better read once than once per piece

_frozen_kernels = {}    # {id of a frozen array: its transformed kernel}


def correlate(x, w, out, top, left, bias=None, slope=None, residual=None):
    """out[n, h, k, :] = residual + PReLU of (bias + sum over i, j of  x[n, h + i - top, k + j - left, :] @ w[i, j]).

    x (N, H, W, C), zero outside; w (3, 3, C, O); out (N, H', W', O), overwritten; top and left at most 4.  bias and slope (O,) and
    residual, shaped like out, are optional; slopes are at most 1.  out may also be (N, H', W', r, r, O / r^2), with any strides.
    """
    return _correlate(x, _kernel(w), out, top, left, bias, slope, residual)


def correlate_adjoint(dy, w, out, top, left):
    """The gradient of `correlate` with respect to x: dy correlated with the kernel rotated by 180 degrees."""
    if is_frozen(w) and 4 * w.nbytes > LARGE_KERNEL:        # products with a transposed matrix are slower, but for small kernels only
        return _correlate(dy, _kernel(w).transpose(0, 2, 1), out, 2 - top, 2 - left, turn=-1)
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    return _correlate(dy, _transform_kernel(turned), out, 2 - top, 2 - left)


def _correlate(x, kernel, out, top, left, bias=None, slope=None, residual=None, turn=1):
    """Like `correlate`, but takes the transformed kernel, (36, C, O).  turn: -1 rotates the kernel by 180 degrees."""
    c, o = kernel.shape[1:]
    staged = out.ndim == 4 and kernel.nbytes > LARGE_KERNEL
    grid, pieces = _pieces(out.shape, _tiles_in_a_piece(c, min(o, OUTPUTS)), _threads(out.shape, c * o))
    shuffled = out.ndim > 4
    ranges = shares(o, out.shape[3] * out.shape[4] if shuffled else 1 if staged else -(-o // OUTPUTS))
    targets = [out[:, :, :, i, j] for i, j in np.ndindex(out.shape[3:5])] if shuffled else [out[..., a:b] for a, b in ranges]
    parts = [(target, slice(a, b)) for target, (a, b) in zip(targets, ranges)]      # computed one after another

    def read(piece, v):
        _transform_tiles(x, piece, grid, top, left, BT[:, ::turn], v)

    def write(piece, m, target, channels):
        if bias is not None:
            m[7] += bias[channels]  # entry (1, 1) is the point 1; all its powers are 1, so all 16 outputs get the bias
        _write_tiles(m, piece, grid, AT[::turn], target, None if slope is None else slope[channels])
        if residual is not None:
            target[piece.images, _pixels(piece.rows)] += residual[piece.images, _pixels(piece.rows), :, channels]

    if staged:                              # each stage over all tiles
        v, m = (_buffer(role, pieces[-1].tiles.stop, channels, x.dtype) for role, channels in (("v", c), ("m", o)))
        parallel(lambda piece: read(piece, v[:, piece.tiles]), pieces)
        parallel(lambda entry: np.matmul(v[entry], kernel[entry], out=m[entry]), range(36))
        parallel(lambda piece: write(piece, m[:, piece.tiles], *parts[0]), pieces)
    else:                                   # piece by piece, in the cache
        def work(piece):
            v = _buffer("v", piece.count, c, x.dtype)
            read(piece, v)
            for target, channels in parts:
                m = _buffer("m", piece.count, target.shape[3], x.dtype)
                write(piece, np.matmul(v, kernel[:, :, channels], out=m), target, channels)
        parallel(work, pieces)
    return out


def correlate_kernel_gradient(x, dy, size, top, left):
    """The gradients of `correlate` with respect to w, (*size, C, O), where size is (3, 3), and to its bias, (O,).

    x (N, H, W, C), dy (N, H', W', O).  At the point (1, 1), where all powers are 1, a tile of dy has its sum: entry 7 of A dY A^T.
    """
    c, o = x.shape[3], dy.shape[3]
    grid, pieces = _pieces(dy.shape, _tiles_in_a_piece(c, o), _threads(dy.shape, c * o))

    def read(piece, v, q):
        _transform_tiles(x, piece, grid, top, left, BT, v)
        _transform_tiles(dy, piece, grid, 0, 0, AT.T, q)

    if 36 * c * o * x.itemsize > LARGE_KERNEL:
        v, q = (_buffer(role, pieces[-1].tiles.stop, channels, x.dtype) for role, channels in (("v", c), ("m", o)))
        product = scratch("kernel", (36, c, o), x.dtype)
        parallel(lambda piece: read(piece, v[:, piece.tiles], q[:, piece.tiles]), pieces)
        parallel(lambda entry: np.matmul(v[entry].T, q[entry], out=product[entry]), range(36))
        bias = q[7].sum(0)
    else:
        def work(stretch):      # each thread sums a fixed range of pieces: bitwise reproducible
            total, product, bias = np.zeros((36, c, o), x.dtype), scratch("product", (36, c, o), x.dtype), np.zeros(o)
            for piece in pieces[slice(*stretch)]:
                v, q = (_buffer(role, piece.count, channels, x.dtype) for role, channels in (("v", c), ("m", o)))
                read(piece, v, q)
                total += np.matmul(v.transpose(0, 2, 1), q, out=product)
                bias += q[7].sum(0)
            return total, bias
        (product, bias), *others = parallel(work, shares(len(pieces)))
        for other, part in others:
            product += other
            bias += part
    dw, points = np.empty((9, c * o), x.dtype), product.reshape(36, -1)
    parallel(lambda share: _multiply(GG.T, points[:, slice(*share)], dw[:, slice(*share)]), shares(c * o, c * o >> 14))
    return dw.reshape(*size, c, o), bias.astype(x.dtype)


def _kernel(w):
    """The transformed kernel: that of a frozen array is kept as long as the array lives, any other until the next call."""
    if not is_frozen(w):
        return _transform_kernel(w)
    if id(w) not in _frozen_kernels:
        _frozen_kernels[id(w)] = _transform_kernel(w).copy()
        weakref.finalize(w, _frozen_kernels.pop, id(w))
    return _frozen_kernels[id(w)]


def is_frozen(array):
    """Whether nothing can write into an array: it is read-only, and so is the array of which it is a view."""
    return array is None or isinstance(array, np.ndarray) and not array.flags.writeable and is_frozen(array.base)


def _transform_kernel(w):
    """G g G^T for each pair of channels: (3, 3, C, O) -> (36, C, O), in memory that the next call overwrites."""
    c, o = w.shape[2:]
    kernel = scratch("kernel", (36, c, o), w.dtype)

    def work(share):        # of the input channels
        taps = scratch("taps", (9, share[1] - share[0], o), w.dtype)
        taps.reshape(3, 3, -1, o)[...] = w[:, :, slice(*share)]
        _multiply(GG, taps.reshape(9, -1), kernel[:, slice(*share)].reshape(36, -1))

    parallel(work, shares(c, c * o >> 14))      # small kernels do not repay waking the helpers
    return kernel


def _tiles_in_a_piece(c, o):
    """So few tiles that their products are small and their transforms fit in the cache, unless that would be too few.

    Several threads get twice as many: the fewer calls of NumPy they make, the more rarely they wait for each other.
    """
    few = min(SMALL_PRODUCT // (c * o), min(get_threads(), 2) * CACHE // (36 * 4 * (c + o)))
    return few if few >= 48 else TILES


class _Piece(NamedTuple):
    """Some rows of tiles of some images, and the range of its tiles in the order (image, row, column) of all tiles."""

    images: slice
    rows: slice
    tiles: slice

    count = property(lambda self: self.tiles.stop - self.tiles.start)
    images_count = property(lambda self: self.images.stop - self.images.start)
    rows_count = property(lambda self: self.rows.stop - self.rows.start)


def _pixels(rows):
    """The rows of pixels in rows of tiles."""
    return slice(4 * rows.start, 4 * rows.stop)


def _threads(shape, kernel_size):
    """The number of threads: one if the work takes less time than waking the others."""
    return get_threads() if 36 / 16 * shape[0] * shape[1] * shape[2] * kernel_size > WAKING else 1


def _pieces(shape, tiles, threads):
    """The grid (rows, columns) of 4x4 tiles that covers each image of a shape (N, H, W, O), and pieces of about `tiles` tiles.
    The number of pieces is a multiple of the number of threads, if possible, so that no thread waits for another's last piece."""
    n, rows, columns = shape[0], -(-shape[1] // 4), -(-shape[2] // 4)
    pieces = []
    if 2 * rows * columns <= tiles and n >= threads:       # several whole images
        for a, b in shares(n, _multiple(threads, n * rows * columns / tiles)):
            pieces.append(_Piece(slice(a, b), slice(0, rows), slice(a * rows * columns, b * rows * columns)))
    else:
        parts = _multiple(threads // math.gcd(threads, n), rows * columns / tiles)
        for i in range(n):
            for a, b in shares(rows, parts):
                pieces.append(_Piece(slice(i, i + 1), slice(a, b), slice((i * rows + a) * columns, (i * rows + b) * columns)))
    return (rows, columns), pieces


def _multiple(unit, size):
    """`size` rounded, then up to a multiple of `unit`; at least `unit`."""
    return unit * max(1, -(-round(size) // unit))


def _transform_tiles(x, piece, grid, top, left, matrix, out):
    """out (36, tiles, C) = matrix d matrix^T for each tile d of k x k pixels, where matrix is (6, k).

    The tile in row t and column s begins at pixel (4*t - top, 4*s - left).
    """
    rows, k, c = piece.rows_count, matrix.shape[1], x.shape[3]
    matrix = _in(matrix, x.dtype)
    comb, lines, half = _transform_buffers(piece.images_count, rows, grid[1], k, c, x.dtype)
    height, begin = comb.shape[1], 4 * piece.rows.start - top
    a, b = min(max(0, -begin), height), max(0, min(height, x.shape[1] - begin))
    if b - a < height:
        comb[...] = 0
    else:           # the columns that not every phase fills
        comb[:, :, :, :1] = comb[:, :, :, max(0, x.shape[2] + left) // 4:] = 0
    source, left = x[piece.images, begin + a:begin + b, max(0, -left):4 * comb.shape[3] - left], max(0, left)
    whole = source.shape[2] // 4        # groups of four pixels: two calls place all of them, where one per phase would take longer
    fours = source[:, :, :4 * whole].reshape(*source.shape[:2], whole, 4, c).swapaxes(2, 3)
    comb[:, a:b, left:, :whole] = fours[:, :, :4 - left]
    if left > 0:
        comb[:, a:b, :left, 1:whole + 1] = fours[:, :, 4 - left:]
    for column in range(4 * whole, source.shape[2]):
        comb[:, a:b, (column + left) % 4, (column + left) // 4] = source[:, :, column]
    # First transform the columns of each tile: (6, k) @ (k rows, the pixels of a row of tiles), for each column of the tile.
    for these, results in lines:
        np.matmul(matrix, these, out=results)
    # Then transform the rows.
    _multiply(matrix, half, out.reshape(6, 6, -1))


@per_thread
def _transform_buffers(n, rows, columns, k, c, dtype):
    """Memory for `_transform_tiles`: the image, operands and results of the first transform, and the operand of the second."""
    # Pixels 4 apart in an image row have the same position in their tiles: the comb places them next to each other.
    comb = scratch("comb", (n, 4 * (rows - 1) + k, 4, columns + (k > 4), c), dtype)
    half, s = scratch("half", (6, k, n, rows, columns * c), dtype), comb.strides
    lines = []
    for place, many in ((0, 4), (4, k - 4)):
        these = as_strided(comb[:, :, :, place // 4:], (many, n, rows, k, columns * c), (s[2], s[0], 4 * s[1], s[1], s[4]))
        lines += [(these, half[:, place:place + many].transpose(1, 2, 3, 0, 4))] * (many > 0)
    return comb, lines, half.reshape(6, k, -1)


def _write_tiles(m, piece, grid, matrix, out, slope):
    """Interpolate: matrix m matrix^T for each tile of m (36, tiles, O), where matrix is (4, 6), written to its 4x4 pixels
    of `out` and cropped at the edge.  slope: None or PReLU's."""
    half, half_turned, y, tiles, pixels = _output_buffers(piece.images_count, piece.rows_count, grid[1], out.shape[3], out.dtype)
    matrix = _in(matrix, out.dtype)
    _multiply(matrix, m.reshape(6, 6, -1), half)
    _multiply(matrix, half_turned, y)
    if slope is not None:
        lean(y, slope)
    target = out[piece.images, _pixels(piece.rows)]
    if target.shape == pixels.shape:
        target.reshape(tiles.shape)[...] = tiles
    else:
        pixels.reshape(tiles.shape)[...] = tiles
        target[...] = pixels[:, :target.shape[1], :target.shape[2]]


@per_thread
def _output_buffers(n, rows, columns, o, dtype):
    """Memory for `_write_tiles`: two views each of the first and second transforms' results, and whole tiles as an image."""
    half = scratch("half", (6, 4, n * rows * columns * o), dtype)
    y = scratch("comb", (4, 4, n, rows, columns, o), dtype)
    pixels = scratch("half", (n, 4 * rows, 4 * columns, o), dtype)          # when `half` is no longer needed
    return half, half.transpose(1, 0, 2), y.reshape(4, 4, -1).transpose(1, 0, 2), y.transpose(2, 3, 0, 4, 1, 5), pixels


def _multiply(matrix, columns, out):
    """out = matrix @ columns, computed for a range of columns at a time."""
    matrix, step = _in(matrix, columns.dtype), SMALL_PRODUCT // matrix.size
    for a in range(0, columns.shape[-1], step):
        np.matmul(matrix, columns[..., a:a + step], out=out[..., a:a + step])


@per_thread
def _buffer(role, tiles, channels, dtype):
    return scratch(role, (36, tiles, channels), dtype)


def _in(matrix, dtype):
    return matrix if matrix.dtype == dtype else matrix.astype(dtype)
