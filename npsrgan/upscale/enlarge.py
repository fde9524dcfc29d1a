"""Enlarge one picture of any kind with a generator."""
import os

import numpy as np
from PIL import Image

from npsrgan import images
from npsrgan.device import select
from npsrgan.inference import SMALLEST, choose_tile, fold, free_memory, super_resolve_tiles
from npsrgan.upscale import picture

GREY = np.array([0.299, 0.587, 0.114], np.float32)      # luminance of RGB, ITU-R BT.601, as Pillow computes it
SCALE = 4       # of the weights that `suitable` names


def suitable(image):
    """The name of the weights for an image: "srgan-photo", trained on JPEG artefacts, for a JPEG, else "srgan".

    image: a path, a PIL image or an array.  Raises images.ImageError for a file that is not an image.
    """
    if isinstance(image, (str, os.PathLike)):
        with images.any_size(), images.opened(image) as file:
            return suitable(file)
    return "srgan-photo" if getattr(image, "format", None) in ("JPEG", "MPO") else "srgan"      # MPO: JPEGs from some cameras


def enlarge(original, generator, device, tile, progress=lambda pixels: None):
    """Enlarge a picture.Picture with a folded generator: a PIL image, which takes 4 bytes a pixel and is filled tile by tile.

    progress: called with the number of input pixels done since the last call.
    """
    height, width, channels = original.pixels.shape
    scale, pixels = generator.settings["scale"], original.pixels
    if original.alpha is not None:
        pixels = picture.without_fringes(pixels, original.alpha)
    result = Image.new(original.mode, (scale * width, scale * height))
    for top, left, sr in super_resolve_tiles(generator, pixels, device, tile):
        if channels == 1:       # a network's three output channels for a grey image are never exactly equal
            sr = sr @ GREY
        result.paste(Image.fromarray(images.to_levels(sr, pixels.dtype)), (left, top))
        progress(sr.shape[0] * sr.shape[1] // scale**2)
    if original.alpha is not None:
        # Bicubic, because a network would invent texture in alpha: opaque areas must stay opaque, and empty ones empty.
        result.putalpha(Image.fromarray(original.alpha).resize(result.size, Image.Resampling.BICUBIC))
    return result


def enlarge_any(image, generator, device="auto", tile=None):
    """`npsrgan.super_resolve` for a loaded generator."""
    if tile is not None and tile < SMALLEST:
        raise ValueError(f"tile must be at least {SMALLEST}, not {tile}")
    if isinstance(image, (str, os.PathLike)):
        original = picture.read(image)
    elif isinstance(image, Image.Image):
        original = picture.from_image(image)
    else:
        original = _from_array(image)
    device, _ = select(device)
    folded = fold(generator).to(device.array)
    result = enlarge(original, folded, device, tile or choose_tile(folded, free_memory(device)))
    if isinstance(image, np.ndarray):
        return np.asarray(result).reshape(*result.size[::-1], *image.shape[2:])
    if original.profile:
        result.info["icc_profile"] = original.profile       # `result.save` writes it
    return result


def _from_array(array):
    if not isinstance(array, np.ndarray):
        raise TypeError(f"an image is a path, a PIL image or a NumPy array, not {type(array).__name__}")
    if array.dtype != np.uint8:
        raise ValueError(f"an image array holds uint8 levels from 0 to 255, not {array.dtype}")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
        raise ValueError(f"an image array has the shape (H, W), (H, W, 1) or (H, W, 3), not {array.shape}")
    pixels = array.reshape(*array.shape[:2], -1)
    return picture.Picture(pixels, "RGB" if pixels.shape[2] == 3 else "L", None, None, None, [])


