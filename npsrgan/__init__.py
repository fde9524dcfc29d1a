"""SRGAN (Ledig et al. 2017, arXiv 1609.04802) on NumPy and CuPy, with every gradient written by hand.

    import npsrgan

    large = npsrgan.super_resolve("photo.jpg")      # a PIL image, four times as wide and high
    large.save("photo_x4.png")
    generator = npsrgan.load("srresnet")            # a network: large = npsrgan.super_resolve(image, generator)
    with npsrgan.reference_only():                  # the same with the reference operations in ops/, where you can set breakpoints
        large = npsrgan.super_resolve("photo.jpg")
"""
import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # `python -m npsrgan.COMMAND` is loading: Ctrl-C ends it without a traceback until errors.command takes over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import npsrgan.fast  # noqa: E402, F401  (registers the fast operations)
from npsrgan.ops.operation import reference_only  # noqa: E402

__all__ = ["load", "reference_only", "super_resolve"]


def load(name_or_path):
    """Load a trained generator in evaluation mode, by its name in weights/, such as "srgan", or by the path of a weights file.

    Raises errors.UserError for a name or file that does not exist, and for a file that is damaged or of another kind.
    """
    from npsrgan.storage import load_generator
    return load_generator(name_or_path)


def super_resolve(image, weights="auto", device="auto", tile=None):
    """Enlarge an image by the scale factor of the weights: 4 for those in weights/.

    image:   a path or a PIL image, of any kind that `python -m npsrgan.upscale` accepts; or a uint8 array, (H, W) or (H, W, 1)
             for grey, (H, W, 3) for RGB.
    weights: an argument of `load` or its result; "auto" chooses "srgan-photo" for a JPEG file and "srgan" for anything else.
    device:  "auto" (a GPU if there is one), "cpu" or "gpu".
    tile:    side in pixels of the tiles, which are processed one after the other; None chooses it from the free memory.

    Returns a PIL image for a path or a PIL image; for an array, an array with as many dimensions.  Grey stays grey.
    Raises TypeError or ValueError for an image of another type, dtype or shape.  Raises errors.UserError as `load` does, for a
    file that is not an image, and for device="gpu" without a GPU.
    """
    from npsrgan.upscale.enlarge import enlarge_any, suitable
    if isinstance(weights, str) and weights == "auto":
        weights = suitable(image)
    return enlarge_any(image, load(weights) if isinstance(weights, str) or hasattr(weights, "__fspath__") else weights, device, tile)
