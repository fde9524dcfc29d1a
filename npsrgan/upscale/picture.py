"""A picture as a file holds it: grey or colour, 8 or 16 bits, transparent or not, with its colour profile and metadata.

`images` reads everything as plain RGB, for training.  This module keeps everything else, for enlarging a user's picture.
"""
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from npsrgan import images
from npsrgan.system.errors import UserError

ANY, JPEG, WEBP = (("L", "LA", "RGB", "RGBA", "I;16"), 2**31 - 1), (("L", "RGB"), 65_500), (("RGB", "RGBA"), 16_383)
FORMATS = {".png": ANY, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".tif": ANY, ".tiff": ANY}     # (PIL modes, longest side)
EXTRAS = {      # metadata: (its name in words, the formats that can hold it)
    "dpi": ("resolution in dpi", (".png", ".jpg", ".jpeg", ".tif", ".tiff")), "xmp": ("XMP data", tuple(FORMATS)),
    "comment": ("comment", (".png", ".jpg", ".jpeg")), "text": ("text", (".png",))}
PNG_XMP = "XML:com.adobe.xmp"
EXIF_IFD, GPS_IFD, INTEROP_IFD, PIXEL_SIZES, ORIENTATION, XMP = 0x8769, 0x8825, 0xA005, (0xA002, 0xA003), 0x0112, 700     # tags
DESCRIPTIVE = {270, 271, 272, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD}     # TIFF tags that do not describe the pixels


class Picture(NamedTuple):
    """What `read` returns.

    pixels:  uint8 or uint16 (H, W, C), upright.  C is 1 for grey, also for a colour file whose channels are all equal, else 3.
    mode:    PIL's name for the file's pixel format without alpha: "L", "RGB" or "I;16" (16-bit grey).
    alpha:   uint8 (H, W), or None.
    profile: the ICC profile of the pixels, or None.
    exif:    EXIF data without orientation and size, or None.
    remarks: sentences on what could not be kept when reading the file.
    extras:  {"dpi": (x, y), "xmp": bytes, "comment": bytes, "text": {key: text}}; only those that the file has.
    """

    pixels: np.ndarray
    mode: str
    alpha: np.ndarray | None
    profile: bytes | None
    exif: bytes | None
    remarks: list
    extras: dict = {}


def read(path):
    """The Picture in a file.  Raises images.ImageError for a file that is missing, damaged or not an image."""
    remarks = []
    with images.opened(path) as image:
        if getattr(image, "is_animated", False):
            remarks.append("only its first frame or page was enlarged")
        if image.mode[0] != "I" and re.search(";16[BLN]", str(image.tile)):
            remarks.append("its 16-bit colours were reduced to 8 bits, because Pillow reads no more")
        image.load()
        return from_image(image, remarks)


def from_image(image, remarks=()):
    """The Picture in a PIL image.  Raises images.ImageError for values without a known range."""
    remarks = list(remarks)
    exif, texts = _exif(image, remarks), dict(getattr(image, "text", {}))
    image = images.upright(image)
    extras = {name: image.info[name] for name in ("dpi", "xmp", "comment") if image.info.get(name)}
    texts = {key: text for key, text in texts.items() if key != PNG_XMP and not key.startswith("Raw profile")}
    if texts:
        extras["text"] = texts
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        image, profile = images.to_srgb(image, profile) or image.convert("RGB"), None
        remarks.append("its CMYK colours were converted to sRGB")
    elif image.mode[0] == "I" and "transparency" in image.info:
        remarks.append("its transparency was lost, because Pillow has none in 16-bit images")
    pixels, mode, alpha = _pixels(image)
    return Picture(pixels, mode, alpha, profile, exif, remarks, extras)


def _pixels(image):
    """(pixels, mode, alpha) of a Picture."""
    if image.mode[0] in "IF":
        return images.sixteen_bits(image)[..., None], "I;16", None
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    transparent = image.has_transparency_data
    pixels = np.asarray(image.convert(mode + "A" if transparent else mode))
    pixels, alpha = (pixels[..., :-1], pixels[..., -1]) if transparent else (np.atleast_3d(pixels), None)
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    return pixels, mode, alpha


def _exif(image, remarks):
    """EXIF data of an image without orientation and size, because the result is upright and larger.

    Pillow omits the thumbnail.
    """
    try:
        found, kept = image.getexif(), Image.Exif()
        for tag, value in found.items():
            if tag != ORIENTATION and (image.format != "TIFF" or tag in DESCRIPTIVE):
                inside = found.get_ifd(tag) if tag in (EXIF_IFD, GPS_IFD) else {}
                inside = {key: dict(found.get_ifd(key)) if key == INTEROP_IFD else item for key, item in inside.items()}
                kept[tag] = {key: item for key, item in inside.items() if key not in PIXEL_SIZES} or value
        return kept.tobytes() if len(kept) else None
    except Exception:       # EXIF data can be damaged in every imaginable way
        remarks.append("its EXIF data was damaged and was left out")
        return None


def without_fringes(pixels, alpha):
    """The pixels (H, W, C), with the colours of nearby visible pixels filled in where alpha (H, W) is 0.

    Otherwise the hidden colours, often black, would bleed into the visible edges when the picture is enlarged.
    """
    weights = alpha[..., None].astype(np.float32)
    return np.rint(_spread(pixels * weights, weights)).astype(pixels.dtype)


def _spread(sums, weights):
    """sums / weights; where weights are 0, the mean of the smallest cell (2 x 2, 4 x 4, ... pixels) with any weight."""
    mean = sums / np.maximum(weights, 1)        # a weight is 0 or at least 1
    if weights.all() or max(weights.shape) == 1:
        return mean
    h, w = weights.shape[:2]
    cells = (np.add.reduceat(np.add.reduceat(x, range(0, h, 2), 0), range(0, w, 2), 1) for x in (sums, weights))
    return np.where(weights > 0, mean, _spread(*cells).repeat(2, 0)[:h].repeat(2, 1)[:, :w])


def require_format(path, width, height):
    """Raise UserError if the suffix of `path` is not one of FORMATS, or if the image is too large for that format."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: this suffix cannot be written: end the name in one of {', '.join(FORMATS)}")
    limit = FORMATS[suffix][1]
    if max(width, height) > limit:
        raise UserError(f"{path}: the result has {width}x{height} pixels, but a side of a {suffix} file has at most {limit}: "
                        + ("cut the image into parts" if limit == ANY[1] else "write a .png"))


def write(path, image, profile=None, exif=None, extras=None):
    """Write a PIL image of mode L, LA, RGB, RGBA or I;16, atomically, in the format given by the suffix of `path`.

    The profile is kept if it fits the image's mode.  extras: of a Picture.  Returns remarks on anything the format cannot hold.
    """
    suffix = Path(path).suffix.lower()
    modes, _ = FORMATS[suffix]
    remarks = []
    if image.mode == "I;16" and image.mode not in modes:
        image = Image.fromarray(images.to_eight_bits(np.asarray(image)))
        remarks.append(f"its 16 bits were reduced to 8, because {suffix} files hold no more")
    if image.mode in ("LA", "RGBA") and "RGBA" not in modes:
        alpha, colour = image.getchannel("A"), image.convert(image.mode[:-1])
        image = Image.new(colour.mode, colour.size, "white")
        image.paste(colour, mask=alpha)
        remarks.append(f"its transparent areas were filled with white, because {suffix} files have no transparency")
    if image.mode not in modes:         # grey, in a format that has only colour
        image = image.convert(image.mode.replace("L", "RGB"))
    options, extras = {}, extras or {}
    if profile and images.PROFILE_SPACES.get(profile[16:20]) == image.mode.replace("A", "").replace("I;16", "L"):
        options["icc_profile"] = profile
    elif profile:
        remarks.append("its colour profile is for another kind of pixels and was left out")
    left_out = [words for name, (words, suffixes) in EXTRAS.items() if name in extras and suffix not in suffixes]
    about = {name: value for name, value in extras.items() if suffix in EXTRAS[name][1]} | ({"exif": exif} if exif else {})
    while True:
        try:
            images.write(path, image, **options, **_options(suffix, about))
            return remarks + [f"its {words} could not be kept in a {suffix} file" for words in left_out]
        except (OSError, MemoryError):
            raise
        except Exception:       # metadata may be damaged, or too large for the format
            if not about:
                raise
            name, _ = about.popitem()       # EXIF data first
            left_out.append("EXIF data" if name == "exif" else EXTRAS[name][0])


def _options(suffix, about):
    """Pillow's save options for a picture's metadata."""
    options = dict(about)
    if suffix == ".png":
        info, texts = PngInfo(), dict(options.pop("text", {}))
        texts |= {key: options.pop(name) for key, name in (("Comment", "comment"), (PNG_XMP, "xmp")) if name in options}
        for key, text in texts.items():
            text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
            (info.add_text if text.isascii() and key != PNG_XMP else info.add_itxt)(key, text)
        options["pnginfo"] = info
    elif suffix.startswith(".tif") and "xmp" in options:
        options["exif"] = tags = Image.Exif()
        tags.load(about.get("exif", b""))
        tags[XMP] = options.pop("xmp")
    return options
