"""Opening images, wherever they are, and dividing them into images for training and for validation."""
import re
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from npsrgan.data.archive import ImageArchive
from npsrgan.data.folder import ImageFolder
from npsrgan.data.pack import INDEX, Pack
from npsrgan.system.errors import UserError


def open_images(path, cache=0):
    """The images in a folder, a zip archive or a pack: an ImageFolder, an ImageArchive or a Pack.

    cache: bytes of decoded images to keep in memory; a pack needs none.
    Raises UserError if there are none.
    """
    if not Path(path).is_file():
        return ImageFolder(path, cache=cache)
    try:
        archive = ZipFile(path)
    except (BadZipFile, NotImplementedError):
        raise UserError(f"{path} is neither a folder, a complete zip archive nor a pack: give the folder that holds the images") from None
    return Pack(archive) if INDEX in archive.NameToInfo else ImageArchive(archive, cache)


def by_partition(images):
    """[training, validation, test]: the images as CelebA's list_eval_partition.txt divides them; all are empty without the list.

    The list has a line for each image: its file name and 0, 1 or 2.  A person is in one part only.  Suffixes are ignored,
    because CelebA is published in PNG, too.
    """
    listed = dict(re.findall(r"^(\S+?)\.\w+[ \t]+([012])\s*$", images.partition(), re.MULTILINE))
    parts = [], [], []
    for name in images.names if listed else []:
        part = listed.get(name.rpartition("/")[2].rpartition(".")[0])
        if part:
            parts[int(part)].append(name)
    return [images.subset(names) for names in parts]


def split(source, fraction=0.05, most=1000):
    """(training, validation): two subsets of the images, the second with about `fraction` of them.

    An image is used for validation if the CRC-32 of its name, as a fraction of 2^32, is below `fraction`, so adding images
    later moves no image between the sets.  `fraction` is halved until at most about `most` images are for validation.
    (The image with the lowest CRC-32 is always for validation and that with the highest for training, so neither set is empty.)
    Raises UserError if there are fewer than two images.
    """
    if len(source) < 2:
        raise UserError(f"{source.root} has one image only: add more, or give other images for validation with --val")
    hashes = {name: zlib.crc32(name.encode("utf-8", "surrogateescape")) / 2**32 for name in source.names}
    while fraction * len(source) > most:
        fraction /= 2
    fraction = min(max(fraction, min(hashes.values()) + 2**-32), max(hashes.values()))
    return (source.subset(name for name in source.names if hashes[name] >= fraction),
            source.subset(name for name in source.names if hashes[name] < fraction))
