"""A picture as files hold it: grey or colour, 8 or 16 bits, transparent or not, with a colour profile and EXIF data.

`images` reads everything as plain RGB, which is what training wants.  This is for those who want their picture back.
"""
import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from npsrgan import images
from npsrgan.errors import UserError

ANY, JPEG, WEBP = (("L", "LA", "RGB", "RGBA", "I;16"), 2**31 - 1), (("L", "RGB"), 65_500), (("RGB", "RGBA"), 16_383)
FORMATS = {".png": ANY, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".tif": ANY, ".tiff": ANY}     # PIL modes, longest side
PROFILE_SPACES = {b"GRAY": "L", b"RGB ": "RGB"}     # in the header of a colour profile: the mode of the images that it is for
EXIF_IFD, PIXEL_SIZES = 0x8769, (0xA002, 0xA003)       # EXIF tags


class Picture(NamedTuple):
    """What `read` returns.

    pixels:  uint8 or uint16 (H, W, C), upright.  C is 1 for grey, also of a colour file whose channels all agree, else 3.
    mode:    PIL's name for the file's kind of pixels without alpha: "L", "RGB" or "I;16" (grey of 16 bits).
    alpha:   uint8 (H, W), or None.
    profile: the ICC profile that says which colours the numbers mean, or None.
    exif:    EXIF data, without orientation and size, or None.
    remarks: what could not be read as the file holds it, in words.
    """

    pixels: np.ndarray
    mode: str
    alpha: np.ndarray | None
    profile: bytes | None
    exif: bytes | None
    remarks: list


def read(path):
    """The Picture in a file.  Raises images.ImageError for a file that is missing, damaged or no image."""
    remarks = []
    with images.opened(path) as image:
        if getattr(image, "is_animated", False):
            remarks.append("only the first of its frames or pages was taken")
        if image.mode[0] != "I" and re.search(";16[BLN]", str(image.tile)):
            remarks.append("its colours of 16 bits were read as 8 bits, which is all that Pillow can do")
        image.load()
        return from_image(image, remarks)


def from_image(image, remarks=()):
    """The Picture that a PIL image holds.  Raises images.ImageError for values without a known range."""
    remarks = list(remarks)
    image = images.upright(image)
    exif = _exif(image, remarks)
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        image, profile = _from_cmyk(image, profile), None
    pixels, mode, alpha = _pixels(image)
    return Picture(pixels, mode, alpha, profile, exif, remarks)


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


def _from_cmyk(image, profile):
    """Inks as sRGB: by their own profile if they have one that works, else by Pillow's simple formula."""
    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError):
        return image.convert("RGB")


def _exif(image, remarks):
    """EXIF data of an upright image, from which the orientation has gone, for a result of another size.

    Pillow leaves the thumbnail out.
    """
    if "exif" not in image.info:
        return None
    try:
        exif = image.getexif()
        if EXIF_IFD in exif:
            for tag in PIXEL_SIZES:
                exif.get_ifd(EXIF_IFD).pop(tag, None)
        return exif.tobytes() if len(exif) else None
    except Exception:       # EXIF data are written by cameras and damaged by programs in every imaginable way
        remarks.append("its EXIF data are damaged and were left out")
        return None


def without_fringes(pixels, alpha):
    """The pixels, (H, W, C), with colours where alpha, (H, W), is 0: those of the visible pixels around.

    What a file holds where nothing is visible, often black, would bleed into the visible edge when it is enlarged.
    """
    weights = alpha[..., None].astype(np.float32)
    return np.rint(_spread(pixels * weights, weights)).astype(pixels.dtype)


def _spread(sums, weights):
    """sums / weights; where weights are 0, of the cell of 2 x 2 pixels, or of 4 x 4, ..., that is the first to have any."""
    mean = sums / np.maximum(weights, 1)        # alpha is 0, or at least 1
    if weights.all() or max(weights.shape) == 1:
        return mean
    h, w = weights.shape[:2]
    cells = (np.add.reduceat(np.add.reduceat(x, range(0, h, 2), 0), range(0, w, 2), 1) for x in (sums, weights))
    return np.where(weights > 0, mean, _spread(*cells).repeat(2, 0)[:h].repeat(2, 1)[:, :w])


def require_format(path, width, height):
    """Raise UserError where the suffix of `path` names no format that we write, or one that cannot hold so large an image."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: end the name in {', '.join(FORMATS)}, to say in which format to write")
    limit = FORMATS[suffix][1]
    if max(width, height) > limit:
        raise UserError(f"{path}: the result has {width}x{height} pixels, and {suffix} files end at {limit}: write a .png")


def write(path, image, profile=None, exif=None):
    """Write a PIL image of mode L, LA, RGB, RGBA or I;16 in the format that the suffix of `path` names, whole or not at all.

    The profile is kept where it is one for such images.  Returns remarks on what the format cannot hold.
    """
    suffix = Path(path).suffix.lower()
    modes, _ = FORMATS[suffix]
    remarks = []
    if image.mode == "I;16" and image.mode not in modes:
        image = Image.fromarray(images.to_eight_bits(images.sixteen_bits(image)))
        remarks.append(f"its 16 bits became 8, for {suffix} files hold no more")
    if image.mode in ("LA", "RGBA") and "RGBA" not in modes:
        alpha, colour = image.getchannel("A"), image.convert(image.mode[:-1])
        image = Image.new(colour.mode, colour.size, "white")
        image.paste(colour, mask=alpha)
        remarks.append(f"what is transparent was laid on white, for {suffix} files cannot be transparent")
    if image.mode not in modes:         # grey, where the format has only colour
        image = image.convert(image.mode.replace("L", "RGB"))
    options = {"exif": exif} if exif else {}
    if profile and PROFILE_SPACES.get(profile[16:20]) == image.mode.replace("A", "").replace("I;16", "L"):
        options["icc_profile"] = profile
    elif profile:
        remarks.append("its colour profile is for another kind of pixels and was left out")
    images.write(path, image, **options)
    return remarks
