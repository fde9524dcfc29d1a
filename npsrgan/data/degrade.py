"""From high resolution to low: bicubic downscaling, of whole images and of patches."""
import numpy as np
from PIL import Image

# Downscaled by `scale`, a pixel of the bicubic kernel (4 pixels wide, stretched by the scale) reaches less than this many
# low-resolution pixels beyond its own.
MARGIN = 2


def crop_to_multiple(image, scale):
    """The image without the rows below and columns on the right that do not fill a low-resolution pixel (a view)."""
    height, width = (n // scale * scale for n in image.shape[:2])
    return image[:height, :width]


def downscale(image, scale):
    """The low-resolution image: antialiased bicubic (PIL), after `crop_to_multiple`.

    image uint8 (H, W, 3) -> uint8 (H // scale, W // scale, 3).
    """
    height, width = (n // scale for n in image.shape[:2])
    return _resize(crop_to_multiple(image, scale), height, width)


def upscale(image, scale):
    """Bicubic enlargement (PIL), the baseline to beat: uint8 (H, W, 3) -> uint8 (scale * H, scale * W, 3)."""
    height, width = (n * scale for n in image.shape[:2])
    return _resize(image, height, width)


def _resize(image, height, width):
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def patch_pair(image, top, left, patch_size, scale):
    """A low-resolution patch and the high-resolution patch it came from: (lr, hr), uint8 (p, p, 3) and (scale p, scale p, 3).

    top, left, patch_size: in low-resolution pixels.  `lr` is, bit for bit, a crop of the whole image downscaled, so that a
    patch's border looks like any other pixel; only the patch and a margin as wide as the kernel are downscaled for it.
    """
    height, width = (n // scale for n in image.shape[:2])
    y, x = max(top - MARGIN, 0), max(left - MARGIN, 0)
    bottom, right = min(top + patch_size + MARGIN, height), min(left + patch_size + MARGIN, width)
    lr = downscale(image[scale * y:scale * bottom, scale * x:scale * right], scale)
    lr = lr[top - y:, left - x:][:patch_size, :patch_size]
    hr = image[scale * top:, scale * left:][:scale * patch_size, :scale * patch_size]
    return lr, hr
