"""A folder of images, and its split into training and validation images."""
import os
import zlib
from pathlib import Path
from threading import Lock

from tqdm import tqdm

from npsrgan import images
from npsrgan.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class ImageFolder:
    """The images in a folder and its subfolders, sorted by name.

    root:  the folder.
    names: paths relative to it, with forward slashes; None searches for all images that are not hidden.
    cache: bytes of decoded images to keep in memory.  The first images loaded stay; the others are decoded every time.

    Raises UserError where there is no such folder or no image in it.
    """

    def __init__(self, root, names=None, cache=0):
        self.root = Path(root)
        self.names = _search(self.root) if names is None else list(names)
        self.cache = cache
        self._decoded, self._room, self._lock = {}, cache, Lock()

    def __len__(self):
        return len(self.names)

    def name(self, index):
        """The path of image `index`, relative to the folder, with forward slashes."""
        return self.names[index]

    def load(self, index):
        """Image `index`: uint8 (H, W, 3), read-only.  Raises images.ImageError for a file that is not a whole image."""
        image = self._decoded.get(index)
        if image is None:
            image = images.read(self.root / self.names[index])
            image.flags.writeable = False
            with self._lock:        # threads load images side by side
                if index not in self._decoded and image.nbytes <= self._room:
                    self._decoded[index] = image
                    self._room -= image.nbytes
        return image


def split(folder, fraction=0.05, most=1000):
    """(training, validation): two ImageFolders, the second with about `fraction` of the images.

    An image is for validation where the CRC-32 of its name, as a fraction of 2^32, is below `fraction`: whatever is added to the
    folder later, no image changes sides.  The fraction is halved until it leaves no more than about `most` images for validation.
    (In a small folder the lowest is for validation and the highest for training in any case, so that neither side is empty.)
    Raises UserError for a folder with fewer than two images.
    """
    if len(folder) < 2:
        raise UserError(f"{folder.root} has one image only: give more, or give others for validation with --val")
    hashes = {name: zlib.crc32(name.encode("utf-8", "surrogateescape")) / 2**32 for name in folder.names}
    while fraction * len(folder) > most:
        fraction /= 2
    fraction = min(max(fraction, min(hashes.values()) + 2**-32), max(hashes.values()))
    held_out = [name for name in folder.names if hashes[name] < fraction]
    return (ImageFolder(folder.root, [name for name in folder.names if hashes[name] >= fraction], folder.cache),
            ImageFolder(folder.root, held_out))


def _search(root):
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds the images" if root.exists()
                        else f"{root}: no such folder")
    names = []
    for folder, subfolders, files in tqdm(os.walk(root, onerror=_raise), desc=f"searching {root}", unit=" folders", delay=2):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files
                  if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not names:
        raise UserError(f"{root} holds no image: none of its files ends in {', '.join(SUFFIXES)}")
    return sorted(names)


def _raise(error):
    raise error
