"""Bicubic resizing, bit for bit like MATLAB's imresize, with which the low-resolution images of the published benchmarks were made.

The axes are resized one after the other, rows first, with rounding to integer levels in between.  An output pixel is a weighted
mean of the pixels around it, with weights sampled from Keys's cubic kernel (Keys 1981, eq. 15, a = -1/2).  For downscaling, the
kernel is stretched so that every input pixel contributes (antialiasing).  Beyond the border, the outermost pixel is repeated.
"""
from fractions import Fraction
from math import ceil

import numpy as np

from npsrgan.data.degrade import crop_to_multiple


def downscale(image, scale):
    """imresize(image, 1 / scale), after `crop_to_multiple`: uint8 (H, W, 3) -> uint8 (H // scale, W // scale, 3)."""
    return resize(crop_to_multiple(image, scale), Fraction(1, scale))


def upscale(image, scale):
    """imresize(image, scale): uint8 (H, W, 3) -> uint8 (scale * H, scale * W, 3)."""
    return resize(image, Fraction(scale))


def resize(image, factor):
    """imresize(image, factor): uint8 (H, W, 3) -> uint8 (ceil(factor * H), ceil(factor * W), 3).

    factor: a Fraction above 0, such as Fraction(3, 4).  If the size is rounded up, the last pixel lies partly outside the image.
    """
    columns = _resize_rows(image, factor).swapaxes(0, 1)
    return np.ascontiguousarray(_resize_rows(columns, factor).swapaxes(0, 1))


def _resize_rows(image, factor):
    """Resize along the first axis."""
    total = np.zeros((ceil(len(image) * factor), *image.shape[1:]))
    for rows, weights in _taps(len(image), len(total), factor):
        total += weights[:, None, None] * image[rows]
    return np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)     # rounds halves up; np.rint rounds them to even


def _taps(size, count, factor):
    """The input pixels of `count` output pixels: (indices, weights) of the first input pixel of each, then of the second, and so on.

    Output pixel i has its centre at (i + 1/2) / factor - 1/2: the top and left edges of the image stay in place.
    """
    centre = (np.arange(count) + 0.5) * factor.denominator / factor.numerator - 0.5
    stretch = float(max(1 / factor, 1))
    first = np.floor(centre - 2 * stretch).astype(int) + 1
    indices = first + np.arange(int(np.ceil(4 * stretch)))[:, None]
    weights = _cubic((indices - centre) / stretch)
    return zip(np.clip(indices, 0, size - 1), weights / weights.sum(0))


def _cubic(x):
    x = np.abs(x)
    return np.where(x <= 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
