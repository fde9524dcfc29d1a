"""Bicubic resizing as MATLAB's imresize does it, bit for bit: how the low-resolution images of every published benchmark were made.

Each axis is resized by itself, rows first, and rounded to whole levels in between.  An output pixel is a weighted mean of the
pixels around it, and the weights are samples of Keys's cubic kernel (Keys 1981, eq. 15, a = -1/2).  To shrink an image the kernel
is stretched, so that every pixel counts (antialiasing).  Beyond the border the outermost pixel is repeated.
"""
import numpy as np

from npsrgan.data.degrade import crop_to_multiple


def downscale(image, scale):
    """imresize(image, 1 / scale), after `crop_to_multiple`: uint8 (H, W, 3) -> uint8 (H // scale, W // scale, 3)."""
    image = crop_to_multiple(image, scale)
    return _resize(image, image.shape[0] // scale, image.shape[1] // scale)


def upscale(image, scale):
    """imresize(image, scale): uint8 (H, W, 3) -> uint8 (scale * H, scale * W, 3)."""
    return _resize(image, scale * image.shape[0], scale * image.shape[1])


def _resize(image, height, width):
    columns = _resize_rows(image, height).swapaxes(0, 1)
    return np.ascontiguousarray(_resize_rows(columns, width).swapaxes(0, 1))


def _resize_rows(image, count):
    """Along the first axis, from any number of rows to `count`."""
    total = np.zeros((count, *image.shape[1:]))
    for rows, weights in _taps(len(image), count):
        total += weights[:, None, None] * image[rows]
    return np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)     # halves go up; np.rint would send them to even levels


def _taps(size, count):
    """The pixels that `count` output pixels are made of: (indices, weights) of each one's first pixel, second, and so on.

    Output pixel i has its centre at (i + 1/2) size / count - 1/2: the edges of the image stay where they are.
    """
    stretch = max(size / count, 1)
    centre = (np.arange(count) + 0.5) * size / count - 0.5
    first = np.floor(centre - 2 * stretch).astype(int) + 1
    indices = first + np.arange(int(np.ceil(4 * stretch)))[:, None]
    weights = _cubic((indices - centre) / stretch)
    return zip(np.clip(indices, 0, size - 1), weights / weights.sum(0))


def _cubic(x):
    x = np.abs(x)
    return np.where(x <= 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
