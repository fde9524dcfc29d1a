"""Enlarge images with a trained network.  The weights that come with npsrgan
enlarge four times in width and height.

Examples:
  python -m npsrgan.upscale photo.jpg                     writes photo_x4.png
  python -m npsrgan.upscale photo.jpg -o large.webp       writes large.webp
  python -m npsrgan.upscale holiday/                      writes holiday_x4/
  python -m npsrgan.upscale *.jpg --weights srresnet --compare

Results are PNG files beside the images.  The results for a folder are written to
a new folder beside it.  An earlier result is replaced; an input never is.  Where
two names would collide, they get the suffix: photo_jpg_x4.png, photo_png_x4.png.

Grey images stay grey, and 16-bit grey stays 16-bit.  Transparency, colour
profile, EXIF and XMP data, resolution, text and comments are kept.  EXIF
orientation is applied.  Anything that is lost is reported.  An image that cannot
be enlarged is reported and skipped, and the exit status is then 2.
"""
# Top to bottom: the command, the paths of the results, one image, and the comparison picture.  --help prints the text above.
import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from npsrgan import images
from npsrgan.data import ImageFolder
from npsrgan.device import CPU, select
from npsrgan.fast import keep_memory, set_threads
from npsrgan.inference import SMALLEST, blend, choose_tile, fold, free_memory
from npsrgan.storage import load_generator
from npsrgan.system import files
from npsrgan.system.errors import UserError, command, of_one_item, path, whole_number
from npsrgan.system.terminal import printable, progress, say
from npsrgan.upscale import picture
from npsrgan.upscale.enlarge import SCALE, enlarge, suitable

BICUBIC = Image.Resampling.BICUBIC
LABELS = {"srresnet": "SRResNet", "srgan": "SRGAN", "srgan-photo": "SRGAN"}     # names of the networks in a comparison
WHOLE, DETAIL = 1000, 48    # of a comparison: longest side of a whole image in its pixels, and side of the detail in input pixels


@command
def main(arguments=None):
    """The command.  Returns the exit status: 0, or 2 if at least one image could not be enlarged."""
    options = parse(arguments)
    set_threads(options.threads)
    keep_memory()
    auto = options.weights == "auto" and options.blend is None
    weights = "srgan" if options.weights == "auto" else options.weights
    loaded = {} if auto else {weights: load(weights, options.blend)}
    jobs = plan(options.images, options.out, SCALE if auto else loaded[weights].settings["scale"])
    device, remark = select(options.device)
    generators = {name: fold(generator).to(device.array) for name, generator in loaded.items()}
    say(remark or device.description)

    failures, inputs = 0, {identity(source) for source, _ in jobs}
    for source, target in jobs:
        try:
            if identity(target) in inputs - {None}:
                raise UserError(f"{source}: the result would overwrite the input {target}; choose another file with -o")
            if auto:
                weights = suitable(source)
            if weights not in generators:
                generators[weights] = fold(load_generator(weights)).to(device.array)
            enlarge_file(source, target, weights, generators[weights], device, options)
        except Exception as error:      # one image failed: go on with the others
            failures += 1
            say(f"error: {of_one_item(error, source)}", file=sys.stderr)
    if failures and len(jobs) > 1:
        say(f"{failures} of {len(jobs)} images could not be enlarged", file=sys.stderr)
    return 2 if failures else 0


def parse(arguments):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m npsrgan.upscale", usage="%(prog)s [options] IMAGE [IMAGE ...]", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=lambda text: Path(path(text)), metavar="IMAGE",
                        help="an image file, or a folder of images, searched recursively")
    result, hardware = parser.add_argument_group("the result"), parser.add_argument_group("speed and memory")
    result.add_argument("-o", "--out", type=path, metavar="OUT",
                        help="for one image: the file to write, .png, .jpg, .webp or .tif; for several, or with OUT/: a folder for the "
                             "results")
    result.add_argument("--weights", type=path, default="auto", metavar="W",
                        help="srgan: sharp, with invented texture; srgan-photo: the same for photographs with noise or JPEG artefacts; "
                             "srresnet: smooth, closest to the original pixel by pixel; srgan-faces, srresnet-faces: for small faces; or "
                             "the path of a weights file; auto: srgan-photo for JPEG files, srgan for all others (default: auto)")
    result.add_argument("--blend", type=float, metavar="A",
                        help="mix SRResNet and SRGAN, or the two for faces if --weights is for faces: from 0, SRResNet, to 1, SRGAN "
                             "(default: no mixture)")
    result.add_argument("--compare", action="store_true",
                        help="also write NAME_x4_compare.png: the input, bicubic and the result side by side")
    hardware.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto",
                          help="where to compute; auto: on the GPU if there is one that works (default: auto)")
    hardware.add_argument("--tile", type=whole_number(SMALLEST), metavar="N",
                          help=f"process the image in tiles of N x N input pixels, N at least {SMALLEST}; smaller tiles need less memory "
                               "and more time (default: chosen from the free memory)")
    hardware.add_argument("--threads", type=whole_number(1), metavar="N", help="number of CPU threads (default: one per core)")
    return parser.parse_args(arguments)


def load(weights, amount):
    """Load the generator that --weights and --blend ask for."""
    if amount is None:
        return load_generator(weights)
    kind = "-faces" if weights.endswith("-faces") else ""
    if weights not in (f"srgan{kind}", f"srresnet{kind}"):
        raise UserError(f"--blend mixes the networks srresnet and srgan, or the two for faces, and --weights {weights} is neither: leave "
                        "out one of the two options")
    return blend(load_generator(f"srresnet{kind}"), load_generator(f"srgan{kind}"), amount)


def plan(inputs, out, scale):
    """[(source, target), ...]: the path of each image to enlarge and of its result.

    inputs: paths of files and folders.   out: the -o option, or None.
    Raises UserError for a folder without images, and for an `out` that names a file where a folder is needed.
    """
    one = len(inputs) == 1 and not inputs[0].is_dir()
    folder = Path(out) if out else None
    if out and Path(out).suffix and not Path(out).is_dir() and not out.endswith(("/", os.sep)):
        if one:
            return [(inputs[0], Path(out))]
        if Path(out).suffix.lower() in picture.FORMATS:
            raise UserError(f"{out} is one file, but there are several images: give a folder with -o")

    jobs = {}       # {source: the folder of its result}
    for given in inputs:
        if given.is_dir():
            named = given if given.name not in ("", "..") else given.resolve()      # "." has no name to append the scale to
            root = folder or named.with_name(f"{named.name}_x{scale}")
            sources = {given / name: (root / name).parent for name in ImageFolder(given).names}
            earlier = {path.absolute() for _, target in results(sources, scale) for path in (target, comparison(target))}
            jobs |= {source: place for source, place in sources.items() if source.absolute() not in earlier}
        else:
            jobs[given] = folder or given.parent
    return results(jobs, scale)


def results(jobs, scale):
    """[(source, target), ...] from {source: folder}, with all targets distinct, also on a case-insensitive file system."""
    count, taken, found = Counter(str(place / source.stem).casefold() for source, place in jobs.items()), set(), []
    for source, place in jobs.items():
        alone = count[str(place / source.stem).casefold()] == 1         # otherwise such as photo.jpg and photo.png
        stem = f"{source.stem if alone else source.name.replace('.', '_')}_x{scale}"
        candidates = [place / f"{stem}{number}.png" for number in ("", *(f"-{k}" for k in range(2, len(jobs) + 2)))]
        target = next(path for path in candidates if str(path).casefold() not in taken)
        taken.add(str(target).casefold())
        found.append((source, target))
    return found


def comparison(target):
    """The path of the picture that --compare writes."""
    return target.with_name(f"{target.stem}_compare.png")


def identity(path):
    """A key that is the same for all names of one file; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def enlarge_file(source, target, weights, generator, device, options):
    """Enlarge one image file with the generator of these weights, and report it.  Raises UserError, and whatever Pillow raises."""
    start, scale = time.perf_counter(), generator.settings["scale"]
    with images.any_size():
        with images.opened(source) as image:
            width, height = image.size
        picture.require_format(target, scale * width, scale * height)
        room = require_memory(source, width, height, scale)
        original = picture.read(source)
    files.require_writable(target)
    tile = options.tile or choose_tile(generator, room if device.module is np else free_memory(device))
    with progress(total=width * height, desc=printable(source.name), unit=" pixels", unit_scale=True, delay=1, leave=False) as bar:
        while True:
            try:
                result = enlarge(original, generator, device, tile, bar.update)
                break
            except MemoryError:
                if tile == SMALLEST:
                    raise
                tile = max(SMALLEST, tile // 2)
                bar.reset()
        bar.set_postfix_str("writing")
        replaced = target.exists()
        remarks = original.remarks + picture.write(target, result, original.profile, original.exif, original.extras)
        if options.compare:
            name = Path(weights).stem
            label = LABELS.get(name, name) if options.blend is None else f"SRResNet to SRGAN, {options.blend:g}"
            compare(comparison(target), original, result, label, source.name)
    say(f"{source} -> {target}{' (replaced)' * replaced}: {result.width}x{result.height}, {time.perf_counter() - start:.1f} s"
        + f", with {weights}" * (options.weights == "auto" and options.blend is None),
        *(f"  {remark}" for remark in remarks))


def require_memory(source, width, height, scale):
    """The bytes of main memory that remain free beside the result.  Raises UserError if the result does not fit."""
    needed, free = 4 * width * height * scale**2, free_memory(CPU)
    if needed > free:
        raise UserError(f"{source}: the result, {scale * width}x{scale * height} pixels, needs {needed / 1e9:.1f} GB of memory, "
                        f"but only {free / 1e9:.1f} GB are free: cut the image into parts")
    return free - needed


def compare(path, original, result, label, title):
    """Write a picture of the input, its bicubic enlargement and the result: whole, and below them their busiest detail."""
    pixels = original.pixels if original.pixels.dtype == np.uint8 else images.to_eight_bits(original.pixels)
    lr = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    if original.alpha is not None:
        lr.putalpha(Image.fromarray(original.alpha))
    lr, scale = images.to_rgb(lr), result.width // lr.width

    def shrunk(image, size):
        """The whole image at this size, or smaller where a side would exceed WHOLE pixels."""
        size = [max(1, round(n * min(1, WHOLE / max(size)))) for n in size]
        return image if image.size == tuple(size) else image.resize(size, BICUBIC)

    coarse = lr.reduce(-(-max(lr.size) // 500))
    factor = lr.width / coarse.width
    side = min(DETAIL, *lr.size)
    top, left = (int(n * factor) for n in images.busiest(np.asarray(coarse), max(1, min(int(side / factor), *coarse.size))))
    top, left = min(top, lr.height - side), min(left, lr.width - side)
    box = left, top, left + side, top + side
    large = [scale * n for n in box]
    rows = [[("input", shrunk(lr, lr.size)), ("bicubic", shrunk(lr, result.size)), (label, shrunk(result, result.size))],
            [(None, lr.crop(box)), (None, lr.resize((scale * side, scale * side), BICUBIC, box)), (None, result.crop(large))]]
    images.figure(path, [[(name, np.asarray(images.to_rgb(image)), None) for name, image in row] for row in rows], title)


if __name__ == "__main__":
    sys.exit(main())
