"""Degradation of images and patches from high to low resolution: bicubic, as in papers, or realistic, as in photographs."""
import io

import numpy as np
from PIL import Image, ImageFilter

# When downscaling by `scale`, the bicubic kernel (4 pixels wide, stretched by the scale) reaches less than this many
# low-resolution pixels beyond its own pixel.
MARGIN = 2
JPEG_BLOCK = 16     # pixels: side of the squares in which JPEG compresses colours


def crop_to_multiple(image, scale):
    """The image without the bottom rows and right columns that do not fill a low-resolution pixel (a view)."""
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


def photo(image, scale, rng):
    """The low-resolution image with realistic degradation: blur, downscaling, noise and JPEG.  Each strength is drawn from `rng`.

    Gaussian blur with standard deviation 0 to scale / 2 pixels; area, bilinear or bicubic downscaling; Gaussian noise with standard
    deviation 0 to 6 levels, grey or coloured; JPEG of quality 50 to 95.  One pass: Zhang et al. 2021 (BSRGAN) and Wang et al. 2021
    (Real-ESRGAN) chain two.

    image uint8 (H, W, 3) -> uint8 (H // scale, W // scale, 3).  rng: a numpy.random.Generator.
    """
    height, width = (n // scale for n in image.shape[:2])
    blurred = Image.fromarray(crop_to_multiple(image, scale)).filter(ImageFilter.GaussianBlur(rng.uniform(0, scale / 2)))
    reduced = blurred.resize((width, height), rng.choice([Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]))
    noise = rng.normal(0, rng.uniform(0, 6), (height, width, rng.choice([1, 3])))
    noisy = np.clip(np.rint(reduced + noise), 0, 255).astype(np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(noisy).save(file, "JPEG", quality=int(rng.integers(50, 96)))
        return np.array(Image.open(file))


def seeded_by(name):
    """A random generator seeded by the name of an image."""
    return np.random.default_rng(list(name.encode("utf-8", "surrogateescape")))


def patch_pair(image, top, left, patch_size, scale, rng=None):
    """A low-resolution patch and its high-resolution original: (lr, hr), uint8 (p, p, 3) and (scale p, scale p, 3).

    top, left, patch_size: in low-resolution pixels.  rng: None for `downscale`, a generator for `photo`.  Only the patch and a margin
    are processed.  With `downscale`, `lr` is bit for bit a crop of the whole downscaled image, so the border of a patch is free of
    artifacts.  With `photo`, the margin is wider, and JPEG blocks are aligned as in the whole image.
    """
    height, width = (n // scale for n in image.shape[:2])
    margin, grid = (MARGIN, 1) if rng is None else (MARGIN + 2, JPEG_BLOCK)
    y, x = (max(corner - margin, 0) // grid * grid for corner in (top, left))
    bottom, right = min(top + patch_size + margin, height), min(left + patch_size + margin, width)
    region = image[scale * y:scale * bottom, scale * x:scale * right]
    lr = downscale(region, scale) if rng is None else photo(region, scale, rng)
    lr = lr[top - y:, left - x:][:patch_size, :patch_size]
    hr = image[scale * top:, scale * left:][:scale * patch_size, :scale * patch_size]
    return lr, hr
