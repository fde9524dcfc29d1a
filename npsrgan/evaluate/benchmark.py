"""The images of a benchmark: pairs of a low-resolution image and its original, read from folders in their published layouts."""
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import Image

from npsrgan import images
from npsrgan.data import ImageFolder, bicubic, by_partition, degrade, open_images
from npsrgan.data.folder import PARTITION
from npsrgan.data.pack import Pack
from npsrgan.evaluate.lpips import SMALLEST
from npsrgan.system.errors import UserError
from npsrgan.system.terminal import say

RESIZERS = {"matlab": bicubic, "pil": degrade, "photo": degrade}      # modules with `downscale` and `upscale`
LAYOUTS = (         # folder of originals, folder of low-resolution images; {} is the scale factor, * is the same text in both
    ("HR", "LRx{}"), ("HR", "LR"),
    ("HR", "LR_bicubic/X{}"),                       # EDSR's benchmarks
    ("GTmod12", "LRbicx{}"),                        # BasicSR's benchmarks
    ("*_HR", "*_LR_bicubic/X{}"))                   # DIV2K, Flickr2K
LOOKS_LIKE_LR = re.compile(r"(?<![a-z])lr(bic)?(x\d|(?![a-z]))", re.IGNORECASE)
EXPECTED = ("give a folder of originals only, or one with HR and LRx{0}, HR and LR_bicubic/X{0}, GTmod12 and LRbicx{0}, or NAME_HR and "
            "NAME_LR_bicubic/X{0} in it, or with pairs of files NAME_HR.png and NAME_LR.png")


class Benchmark:
    """The images of a folder: pairs of a low-resolution image and its original.

    name: for tables.   folder: originals, searched recursively, a zip archive of them, one of the LAYOUTS, or pairs
    NAME_SRF_4_HR.png and NAME_SRF_4_LR.png (SelfExSR) or NAME_HR.png and NAME_LR.png.   degrade: a key of RESIZERS, used for
    originals without a low-resolution image; with "photo", for all originals.
    lpips: whether LPIPS will be measured; if so, images too small for it are refused.

    names: the originals' paths, relative to `root`.   source: where the low-resolution images come from, in words.   grey: the
    names of the grey files loaded so far.
    Raises UserError for a folder without images, or one in which originals and low-resolution images cannot be told apart.
    """

    def __init__(self, name, folder, scale, degrade, lpips):
        self.name, self.scale, self.resizer, self.grey = name, scale, RESIZERS[degrade], set()
        self.originals, self.lr_paths, source = _find(Path(folder), scale)
        self.root = self.originals.root
        self.photo = degrade == "photo"
        if self.photo:
            self.lr_paths, source = dict.fromkeys(self.lr_paths), None
        self.names, self.source = list(self.lr_paths), source or f"LR by --degrade {degrade}"
        self.smallest = max(11 + 2 * scale, SMALLEST * 4 // 3 if lpips else 0)     # SSIM's window inside the border; 3/4 for LPIPS

    def load(self, name):
        """(lr, hr), uint8 (h, w, 3) and (scale h, scale w, 3).  Raises images.ImageError for a pair that cannot be used."""
        original = self.originals.opened(name)
        hr = degrade.crop_to_multiple(images.read(*original), self.scale)
        with images.opened(*original) as file:
            if Image.getmodebase(file.mode) == "L":
                self.grey.add(name)
        if min(hr.shape[:2]) < self.smallest:
            raise images.ImageError(f"{self.root / name} has {hr.shape[1]}x{hr.shape[0]} pixels to compare, "
                                    f"but {self.smallest} on each side are needed")
        if self.photo:
            return degrade.photo(hr, self.scale, degrade.seeded_by(name)), hr
        if self.lr_paths[name] is None:
            return self.resizer.downscale(hr, self.scale), hr
        lr = images.read(self.lr_paths[name])
        height, width = (n // self.scale for n in hr.shape[:2])
        if lr.shape[:2] != (height, width):
            raise images.ImageError(f"{self.lr_paths[name]} has {lr.shape[1]}x{lr.shape[0]} pixels, "
                                    f"but its original needs {width}x{height}")
        return lr, hr


def _find(folder, scale):
    """(originals, {name of an original: path of its low-resolution image, or None to make it}, their location in words or None)."""
    originals = sorted({path for path in folder.glob("*/") for hr, _ in LAYOUTS if fnmatchcase(path.name, hr)})
    if len(originals) > 1:
        raise UserError(f"{folder} holds several folders of originals, {', '.join(path.name for path in originals)}: give one of them")
    if not originals:
        return _among_files(_measured(folder), scale)
    originals = ImageFolder(originals[0])
    root, names = originals.root, originals.names
    low = [folder / lr.format(scale).replace("*", root.name.removesuffix("_HR")) for hr, lr in LAYOUTS if fnmatchcase(root.name, hr)]
    low = [path for path in low if path.is_dir()]
    if len(low) > 1:
        raise UserError(f"{folder} holds several folders of low-resolution images, {' and '.join(map(str, low))}: keep only one of them")
    if not low:
        for path in folder.glob("*/"):
            if LOOKS_LIKE_LR.search(path.name) and not any(fnmatchcase(path.name, lr.format("*").split("/")[0]) for _, lr in LAYOUTS):
                raise UserError(f"{path.name} beside {root} is not a known folder of low-resolution images: " + EXPECTED.format(scale))
        return originals, dict.fromkeys(names), None        # low-resolution images for another scale factor are not an error
    pairs = {name: _partner(low[0], name, scale) for name in names}
    if not any(path.exists() for path in pairs.values()):
        raise UserError(f"{low[0]} holds no low-resolution image for any of {root}: {names[0]} needs one of the same name, with or "
                        f"without x{scale} before the suffix")
    return originals, pairs, f"LR from {low[0]}"


def _measured(path):
    """The images in a folder or an archive; if CelebA's list beside it names some for testing, only those."""
    found = open_images(path)
    if isinstance(found, Pack):
        raise UserError(f"{path} is a pack for training: give the folder or the zip archive that it was made from")
    *_, test = by_partition(found)
    if test:
        say(f"{path}: by {PARTITION}, {len(test)} of {len(found)} images are for testing, and only these are measured")
    return test or found


def _partner(folder, name, scale):
    """The path of the low-resolution image in its folder: 0001.png or 0001x4.png; the first if neither exists."""
    path = folder / name
    paths = [path, path.with_name(f"{path.stem}x{scale}{path.suffix}")]
    found = [path for path in paths if path.exists()] or paths[:1]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} could both be the low-resolution image of {name}: keep only one of them")
    return found[0]


def _among_files(originals, scale):
    """The same for the images of a folder without a subfolder of originals: pairs among the files, or only originals."""
    folder, names, known = originals.root, originals.names, set(originals.names)
    pairs = {hr: lr for hr, lr in ((name, re.sub(r"_HR(\.\w+)$", r"_LR\1", name)) for name in names) if lr in known - {hr}}
    if pairs and not folder.is_dir():
        raise UserError(f"{folder} holds pairs of original and low-resolution images: unpack it, and give the folder")
    if pairs:
        scales = {name: re.search(r"_SRF_(\d+)_HR\.", name) for name in pairs}
        chosen = {name: folder / pairs[name] for name, found in scales.items() if not found or int(found[1]) == scale}
        if not chosen:
            raise UserError(f"{folder} holds no pairs for x{scale}, but others such as {next(iter(pairs))}: choose other weights")
        rest = len(names) - 2 * len(chosen)
        return originals, chosen, f"LR from the same folder{f', {rest} other images left out' * bool(rest)}"
    bases = Counter(re.sub(r"x[2348]$", "", Path(name).stem) for name in names)
    low = [name for name in names if LOOKS_LIKE_LR.search(name)]
    low = low if len(low) < len(names) else []        # a suffix that all names have means nothing
    low += [name for name in names if (found := re.fullmatch(r"(.+)x[2348]", Path(name).stem)) and bases[found[1]] > 1]
    if low:
        raise UserError(f"{folder} seems to mix low-resolution images, such as {low[0]}, with originals: " + EXPECTED.format(scale))
    return originals, dict.fromkeys(names), None
