"""Images: files to arrays and back, and uint8 to [-1, 1] and back.

In memory an image is uint8 (H, W, 3), RGB, 0 to 255; a network sees float32 in [-1, 1].
"""
import math
import os
import textwrap
from contextlib import contextmanager
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
    with opened(path) as image:
        image.load()
        return np.array(to_rgb(upright(image)))


@contextmanager
def any_size():
    """Inside `with any_size():` Pillow opens images however large, for those who look at the size before they load."""
    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def opened(path):
    """The PIL image in a file, not yet loaded.  What goes wrong inside the `with` block is the file's fault: an ImageError."""
    try:
        with Image.open(path) as image:
            yield image
    except (MemoryError, UserError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image of a known kind, or is badly damaged") from None
    except OSError as error:
        raise ImageError(describe(error) if error.filename else f"{path} cannot be read: {error}") from error
    except Exception as error:      # damaged files make Pillow raise SyntaxError, ValueError, struct.error, EOFError and more
        raise ImageError(f"{path} cannot be read: {error or type(error).__name__}") from error


def upright(image):
    """A PIL image, turned as its EXIF orientation tag says.  Damaged EXIF data is no reason to refuse good pixels."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def to_rgb(image):
    """A PIL image of any mode as RGB, as `read` says.  Raises ValueError for samples of 32 bits."""
    if image.mode[0] in "IF":       # 16 bits, which convert() would clip at 255
        image = Image.fromarray(to_eight_bits(sixteen_bits(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def sixteen_bits(image):
    """The levels of a PIL image of mode I;16, or of I where none is larger: uint16 (H, W).

    Raises ValueError for samples of 32 bits: nobody knows which of their levels is white.
    """
    levels = np.asarray(image)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its samples have 32 bits and no stated range; convert it to 8 or 16 bits")
    return levels.astype(np.uint16)


def to_eight_bits(levels):
    """uint16 to the nearest of the 256 levels: uint8, white stays white."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_float(image):
    """uint8 0..255, or uint16 0..65535, to float32 in [-1, 1]; any shape."""
    return image.astype(np.float32) / (np.iinfo(image.dtype).max / 2) - 1


def to_uint8(array):
    """[-1, 1] to uint8 0..255, as `to_levels` does it."""
    return to_levels(array, np.uint8)


def to_levels(array, dtype):
    """[-1, 1] to all levels of uint8 or uint16: clip, then round.  A bare cast would wrap (256 becomes 0: white spots turn
    black) and truncate.

    The inverse of `to_float`, exact for all levels.  NumPy arrays of any float type and shape.
    """
    return np.rint((np.clip(array, -1, 1) + 1) * (np.iinfo(dtype).max / 2)).astype(dtype)


def write(path, image, **options):
    """Write an image in the format that the suffix of `path` names, and create the folder where needed.

    image: uint8 (H, W, 3), or a PIL image.   options: for PIL, such as an `icc_profile`.
    The file appears whole or not at all.  Raises UserError for a suffix that names no format.
    """
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise UserError(f"{path}: the suffix names no image format; end the name in .png or .jpg")
    with replacing(path) as temporary:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(temporary, quality=95, **options)        # 95 is for JPEG and WebP; PNG is lossless and ignores it


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

    columns = columns or len(panels)
    rows = panels if isinstance(panels[0], list) else [panels[i:i + columns] for i in range(0, len(panels), columns)]

    # The layout is in whole pixels, counted from the top, so that an image's pixels fall on pixels of the figure.
    widest = max(image.shape[1] for row in rows for _, image, _ in row)
    width = min(1024, widest * math.ceil(280 / widest))
    gap, line = 12, max(18, width // 22)        # lettering grows with the panels
    letters = round(2.2 * width / line)         # that fit into a panel's width
    rows = [[(textwrap.wrap(name or "", letters), image, textwrap.wrap(caption or "", letters)) for name, image, caption in row]
            for row in rows]
    above = [line * max(len(name) for name, _, _ in row) + 4 for row in rows]
    heights = [min(1024, round(width * max(image.shape[0] / image.shape[1] for _, image, _ in row))) for row in rows]
    below = [line * max(len(caption) for _, _, caption in row) + gap for row in rows]
    top = gap + (2 * line if title else 0)
    page_width, page_height = gap + max(map(len, rows)) * (width + gap), top + sum(above + heights + below)

    page = Figure(figsize=(page_width / 100, page_height / 100), dpi=100)

    def text(x, y, lines, **style):
        page.text(x / page_width, 1 - y / page_height, "\n".join(lines), ha="center", linespacing=1.3, parse_math=False, **style)

    if title:
        text(page_width / 2, gap, [title], va="top", fontsize=0.66 * line, weight="bold")
    for row, height, space_above, space_below in zip(rows, heights, above, below):
        top += space_above
        for column, (name, image, caption) in enumerate(row):
            left = gap + column * (width + gap)
            factor = min(width / image.shape[1], height / image.shape[0])
            h, w = (round(factor * n) for n in image.shape[:2])
            axes = page.add_axes(((left + (width - w) // 2) / page_width, 1 - (top + h) / page_height, w / page_width, h / page_height))
            axes.set_axis_off()
            axes.imshow(image, aspect="auto", interpolation="nearest" if factor >= 1 else "antialiased")
            text(left + width / 2, top - 4, name, va="bottom", fontsize=0.55 * line)
            text(left + width / 2, top + h + 4, caption, va="top", fontsize=0.5 * line)
        top += height + space_below
    with replacing(path) as temporary:
        page.savefig(temporary)


def busiest(image, side):
    """Corner (top, left) of the square in which neighbouring pixels differ most, looked for on a coarse grid."""
    changes = np.abs(np.diff(image.astype(np.float64).mean(2), axis=1, append=0))
    changes[:, -1] = 0
    step = max(1, side // 8)
    corners = [(top, left) for top in range(0, image.shape[0] - side + 1, step) for left in range(0, image.shape[1] - side + 1, step)]
    return max(corners, key=lambda corner: changes[corner[0]:corner[0] + side, corner[1]:corner[1] + side].sum())
