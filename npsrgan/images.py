"""Images: files to arrays and back, and uint8 to [-1, 1] and back.

In memory an image is uint8 (H, W, 3), RGB, 0 to 255; a network sees float32 in [-1, 1].
"""
import io
import math
import os
import re
import stat
import textwrap
import warnings
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from npsrgan.system import files
from npsrgan.system.errors import UserError, describe
from npsrgan.system.terminal import printable

MEGAPIXELS = 67     # largest image that `read` accepts: 200 MB decoded, and several threads read at once
PROFILE_SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}        # colour space in an ICC profile's header: PIL mode
_FOREIGN = {        # first bytes of files that Pillow cannot read: what they are, and after a colon what to do
    rb"$": "empty: copy or download it again", rb"version https://git-lfs": "a Git LFS pointer: run `git lfs pull` in its repository",
    rb"\s*<(!doctype html|html)": "a web page: download the image itself",
    rb"....ftyp(hei|hev|mif1|msf1|avi)": "a HEIC or AVIF photograph", rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL image",
    rb"II\*\0....CR|II(RO|U\0)|FUJIFILMCCD|\0MRM": "a camera's raw file", rb"v/1\x01|#\?R": "a high-dynamic-range image",
    rb"gimp xcf": "a GIMP image", rb"\s*(<\?xml.*?>)?\s*(<!.*?>\s*)*<svg": "an SVG drawing", rb"%PDF": "a PDF document",
    rb"%!PS|\xc5\xd0\xd3\xc6|\xd7\xcd\xc6\x9a": "a drawing", rb"....ftyp|RIFF....AVI|\x1aE\xdf\xa3|\0\0\x01\xba": "a video"}

PngImagePlugin.MAX_TEXT_CHUNK = 2**26       # bytes; by default, Pillow refuses the whole image for more than 2**20 bytes of text
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)      # `read` has its own limit
warnings.filterwarnings("ignore", module=r"PIL\.")      # about damaged tags: our own messages say what matters


class ImageError(UserError):
    """A file that cannot be read as an image.  The message is one sentence that names the file."""


def read(path, file=None):
    """The image in a file as a viewer shows it: uint8 (H, W, 3), sRGB.

    file: None, or the open file, whose `path` then serves for messages only.

    Grey and palette images become RGB, transparent images are composited on white, and 16-bit grey is scaled to 8 bits.  EXIF
    orientation and the colour profile are applied.  Only the first frame of an animation is read.
    Raises ImageError for a file that is missing, damaged, truncated, larger than 67 megapixels or not an image.
    """
    with opened(path, file) as image:
        if image.width * image.height > 1e6 * MEGAPIXELS:
            raise ImageError(f"{path} has {image.width * image.height / 1e6:.0f} megapixels, more than the limit of {MEGAPIXELS}: "
                             "cut it into parts")
        image.load()
        return np.array(to_rgb(upright(image)))


@contextmanager
def any_size():
    """Context manager: Pillow opens images of any size, for callers that check the size before they load."""
    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def opened(path, file=None):
    """Context manager: the PIL image in a file, not yet loaded.  Any error inside the `with` block becomes an ImageError.

    Its `info["range"]` is (black level, white level) for samples of more than 8 bits, or None if unknown.
    """
    try:
        mode = stat.S_IFREG if file else os.stat(path).st_mode
        if not stat.S_ISREG(mode):      # opening a pipe would block
            raise ImageError(f"{path} is {files.kind(mode)}, not an image file")
        with Image.open(file or path, formats=formats()) as image:
            image.info["range"] = _range(image)
            yield image
    except (MemoryError, UserError):
        raise
    except UnidentifiedImageError:
        what = foreign(path, file)
        raise ImageError(f"{path} is not an image of a known kind, or is badly damaged: convert it to PNG or JPEG" if not what
                         else f"{path} is {what}" if ":" in what
                         else f"{path} is {what}, which Pillow cannot read: convert it to PNG or JPEG") from None
    except OSError as error:
        raise ImageError(describe(error) if error.filename else f"{path} cannot be read: {error}") from error
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has too many pixels to be read: cut it into parts") from None
    except Exception as error:      # damaged files make Pillow raise SyntaxError, ValueError, struct.error, EOFError and more
        raise ImageError(f"{path} cannot be read: {error or type(error).__name__}") from error


@cache
def formats():
    """The formats that Pillow decodes itself.  It only identifies the others, or runs another program to draw them."""
    Image.init()
    return [name for name in Image.ID if name not in ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")]


@cache
def suffixes():
    """The suffixes of image files, in lower case and with the dot."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in formats()}


def is_image(path, file=None):
    """Whether a regular file is an image, judged by its suffix or else by its first bytes.  file: as in `read`."""
    if os.path.splitext(path)[1].lower() in suffixes():     # a Path for each of 200,000 files would take seconds
        return True
    try:
        with Image.open(file or path, formats=[name for name in formats() if Image.OPEN[name][1]]):     # formats with a signature
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:
        return False


def foreign(path, file=None):
    """What a file that Pillow cannot read is, in words, from its first bytes; None if unknown.  file: as in `read`."""
    try:
        with nullcontext(file) if file else open(path, "rb") as file:
            file.seek(0)
            head = file.read(1024)
    except OSError:
        return None
    return next((what for start, what in _FOREIGN.items() if re.match(start, head, re.DOTALL | re.IGNORECASE)), None)


def _range(image):
    """(black level, white level) of an image with samples of more than 8 bits; None if the file does not say."""
    tags = getattr(image, "tag_v2", {})
    white = 4095 if tags.get(258) == (12,) else 65535
    if image.mode.startswith("I;16"):
        return (white, 0) if tags.get(262) == 0 else (0, white)
    return (0, 65535) if image.mode == "I" and image.format in ("PNG", "PPM") else None


def upright(image):
    """A PIL image with its EXIF orientation applied.  Damaged EXIF data is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def to_rgb(image):
    """Convert a PIL image of any mode to RGB, as `read` describes.  Raises ValueError for 32-bit samples."""
    profile = image.info.get("icc_profile")
    if image.mode[0] in "IF":       # 16 bits, which convert() would clip at 255
        levels, transparent = sixteen_bits(image), image.info.get("transparency")
        levels[np.asarray(image) == transparent] = 65535
        image = Image.fromarray(to_eight_bits(levels))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return to_srgb(image, profile) or image.convert("RGB")


def to_srgb(image, profile):
    """Convert a PIL image from its ICC profile to sRGB; None without a usable profile, or if it is sRGB already."""
    try:
        given, mode = ImageCms.ImageCmsProfile(io.BytesIO(profile)), PROFILE_SPACES[profile[16:20]]
        if (mode == "CMYK") != (image.mode == "CMYK") or "sRGB" in ImageCms.getProfileDescription(given):
            return None
        return ImageCms.profileToProfile(image.convert(mode), given, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, KeyError):
        return None


def sixteen_bits(image):
    """The levels of a 16-bit PIL image, scaled to black 0 and white 65535: uint16 (H, W).

    Raises ValueError for 32-bit samples, whose white level is unknown.
    """
    levels = image.info.get("range", _range(image))
    if not levels:
        raise ValueError("its samples have 32 bits, and their range is unknown: convert it to 8 or 16 bits")
    black, white = levels
    levels = np.asarray(image).astype(np.uint16)
    if (black, white) == (0, 65535):
        return levels
    return np.rint((levels - float(black)) * (65535 / (white - black))).astype(np.uint16)


def to_eight_bits(levels):
    """uint16 rounded to the nearest of 256 levels: uint8, 65535 becomes 255."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_float(image):
    """uint8 0..255, or uint16 0..65535, to float32 in [-1, 1]; any shape."""
    return image.astype(np.float32) / (np.iinfo(image.dtype).max / 2) - 1


def to_uint8(array):
    """[-1, 1] to uint8 0..255, by `to_levels`."""
    return to_levels(array, np.uint8)


def to_levels(array, dtype):
    """[-1, 1] to all levels of uint8 or uint16: clip, then round.  A bare cast would wrap (256 becomes 0: white spots turn
    black) and truncate.

    The inverse of `to_float`, exact for all levels.  Takes NumPy arrays of any float type and shape.
    """
    return np.rint((np.clip(array, -1, 1) + 1) * (np.iinfo(dtype).max / 2)).astype(dtype)


def write(path, image, **options):
    """Write an image in the format given by the suffix of `path`.  The folder is created if needed.

    image: uint8 (H, W, 3), or a PIL image.   options: for PIL, such as `icc_profile`.
    The write is atomic.  Raises UserError for a suffix of no known format.
    """
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise UserError(f"{path}: this suffix is not that of an image format: end the name in .png or .jpg")
    with files.replacing(path) as temporary:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(temporary, quality=95, **options)        # 95 is for JPEG and WebP; PNG is lossless and ignores it


def drawable(text):
    """Text with each character that Matplotlib's font lacks replaced by a question mark."""
    from matplotlib import font_manager  # here, because it is slow to import

    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else "?" for c in printable(text))


def figure(path, panels, title=None):
    """Write a figure of images side by side, all drawn at the same size: small ones are enlarged by nearest neighbour.

    panels: a list of (title, image, caption), image uint8 (H, W, 3), title and caption text or None; or a list of such
            lists, one for each row.
    """
    from matplotlib.figure import Figure  # here, because it is slow to import

    rows = panels if isinstance(panels[0], list) else [panels]

    # The layout is in whole pixels, counted from the top, so that an image's pixels fall on pixels of the figure.
    widest = max(image.shape[1] for row in rows for _, image, _ in row)
    width = min(1024, widest * math.ceil(280 / widest))
    gap, line = 12, max(18, width // 22)        # text scales with the panels
    letters = round(2.2 * width / line)         # characters that fit into a panel's width
    rows = [[(textwrap.wrap(drawable(name or ""), letters), image, textwrap.wrap(drawable(caption or ""), letters))
             for name, image, caption in row] for row in rows]
    above = [line * max(len(name) for name, _, _ in row) + 4 for row in rows]
    heights = [min(1024, round(width * max(image.shape[0] / image.shape[1] for _, image, _ in row))) for row in rows]
    below = [line * max(len(caption) for _, _, caption in row) + gap for row in rows]
    top = gap + (2 * line if title else 0)
    page_width, page_height = gap + max(map(len, rows)) * (width + gap), top + sum(above + heights + below)

    page = Figure(figsize=(page_width / 100, page_height / 100), dpi=100)

    def text(x, y, lines, **style):
        page.text(x / page_width, 1 - y / page_height, "\n".join(lines), ha="center", linespacing=1.3, parse_math=False, **style)

    if title:
        text(page_width / 2, gap, [drawable(title)], va="top", fontsize=0.66 * line, weight="bold")
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
    with files.replacing(path) as temporary:
        page.savefig(temporary)


def busiest(image, side):
    """Corner (top, left) of the square whose neighbouring pixels differ most, searched on a coarse grid."""
    changes = np.abs(np.diff(image.astype(np.float64).mean(2), axis=1, append=0))
    changes[:, -1] = 0
    step = max(1, side // 8)
    corners = [(top, left) for top in range(0, image.shape[0] - side + 1, step) for left in range(0, image.shape[1] - side + 1, step)]
    return max(corners, key=lambda corner: changes[corner[0]:corner[0] + side, corner[1]:corner[1] + side].sum())
