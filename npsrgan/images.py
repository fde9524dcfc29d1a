"""Images: files to arrays and back, and uint8 to [-1, 1] and back.

In memory an image is uint8 (H, W, 3), RGB, 0 to 255; a network sees float32 in [-1, 1].
"""
import math
import os
import textwrap
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from npsrgan.errors import UserError, describe


class ImageError(UserError):
    """A file that cannot be read as an image.  The message is one sentence that names the file."""


def read(path):
    """The image in a file, as it is meant to be seen: uint8 (H, W, 3).

    Grey and palette images become RGB, transparent ones are laid on white, 16-bit grey is scaled to 8 bits, and the
    camera's orientation tag is obeyed.  Of an animation, the first frame.
    Raises ImageError for a file that is missing, damaged, truncated, unreasonably large or no image at all.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(_to_rgb(_upright(image)))
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image of a known kind, or is badly damaged") from None
    except OSError as error:
        raise ImageError(describe(error) if error.filename else f"{path} cannot be read: {error}") from error
    except Exception as error:      # damaged files make Pillow raise SyntaxError, ValueError, struct.error, EOFError and more
        raise ImageError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _upright(image):
    """Turned as the EXIF orientation tag says.  Damaged EXIF data is no reason to refuse good pixels."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image):
    if image.mode == "F" or image.mode == "I" and image.getextrema()[1] > 65535:
        raise ValueError("its samples have 32 bits and no stated range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):      # 16 bits, which convert() would clip at 255
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def to_float(image):
    """uint8 0..255 to float32 in [-1, 1]; any shape."""
    return image.astype(np.float32) / 127.5 - 1


def to_uint8(array):
    """[-1, 1] to uint8 0..255: clip, then round.  A bare cast would wrap (256 becomes 0: white spots turn black) and truncate.

    The inverse of `to_float`, exact for all 256 levels.  NumPy arrays of any float type and shape.
    """
    return np.rint((np.clip(array, -1, 1) + 1) * 127.5).astype(np.uint8)


def write(path, image):
    """Write a uint8 (H, W, 3) image in the format that the suffix of `path` names, and create the folder where needed.

    The file appears whole or not at all.  Raises UserError for a suffix that names no format.
    """
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise UserError(f"{path}: the suffix names no image format; end the name in .png or .jpg")
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, quality=95)      # for JPEG and WebP; PNG is lossless and ignores it


@contextmanager
def replacing(path):
    """A temporary path in the same folder, moved onto `path` in one step at the end: nobody ever sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def figure(path, panels, title=None, columns=None):
    """Write a picture of images side by side, all drawn at the same size: small ones are enlarged with hard pixels.

    panels:  a list of (title, image, caption), image uint8 (H, W, 3), title and caption text or None; or a list of such
             lists, one for each row.
    columns: breaks a plain list into rows of so many.
    """
    from matplotlib.figure import Figure  # here, because it is slow to import

    rows = panels if isinstance(panels[0], list) else _rows(panels, columns or len(panels))
    shapes = [image.shape for row in rows for _, image, _ in row]
    enlarge = max(1, math.ceil(280 / max(width for _, width, _ in shapes)))
    width = min(1024, enlarge * max(width for _, width, _ in shapes))
    height = round(width * max(h / w for h, w, _ in shapes))

    # Everything is laid out in pixels, so that a panel's pixels fall on whole pixels of the figure.
    gap, line, letters = 12, 18, max(8, width // 8)
    wrapped = [[(textwrap.wrap(name or "", letters), image, textwrap.wrap(caption or "", letters))
                for name, image, caption in row] for row in rows]
    above = [line * max(len(name) for name, _, _ in row) + 4 for row in wrapped]
    below = [line * max(len(caption) for _, _, caption in row) + gap for row in wrapped]
    total_width = gap + max(map(len, rows)) * (width + gap)
    head = gap + (2 * line if title else 0)
    total_height = head + sum(above) + sum(below) + len(rows) * height

    drawing = Figure(figsize=(total_width / 100, total_height / 100), dpi=100)
    text = partial(drawing.text, ha="center", linespacing=1.3, parse_math=False)
    if title:
        text(0.5, 1 - gap / total_height, title, va="top", fontsize=12, weight="bold")
    top = head
    for row, space_above, space_below in zip(wrapped, above, below):
        top += space_above
        for column, (name, image, caption) in enumerate(row):
            left = gap + column * (width + gap)
            w, h = _fit(image.shape, width, height)
            axes = drawing.add_axes(((left + (width - w) // 2) / total_width, 1 - (top + h) / total_height,
                                     w / total_width, h / total_height))
            axes.set_axis_off()
            axes.imshow(image, interpolation="nearest", aspect="auto")
            centre = (left + width / 2) / total_width
            text(centre, 1 - (top - 4) / total_height, "\n".join(name), va="bottom", fontsize=10)
            text(centre, 1 - (top + height + 4) / total_height, "\n".join(caption), va="top", fontsize=9)
        top += height + space_below
    with replacing(path) as temporary:
        drawing.savefig(temporary)


def _rows(panels, columns):
    return [panels[i:i + columns] for i in range(0, len(panels), columns)]


def _fit(shape, width, height):
    """The largest size (width, height) in pixels with an image's proportions that fits into width x height."""
    factor = min(width / shape[1], height / shape[0])
    return round(shape[1] * factor), round(shape[0] * factor)
