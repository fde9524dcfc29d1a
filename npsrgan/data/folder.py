"""A folder of images, and its split into training and validation images."""
import os
import zlib
from collections import deque
from pathlib import Path
from threading import Lock

from npsrgan import images
from npsrgan.system.errors import UserError
from npsrgan.system.terminal import progress, say

SHOWN = 5       # how many of the files left out are named


class ImageFolder:
    """The images in a folder and its subfolders, sorted by name.

    root:  the folder.
    names: paths relative to it, with forward slashes; None searches for all images, identified by content instead of file
           name, and follows links.  One line reports what is left out: hidden files and files that are not images.
    cache: bytes of decoded images to keep in memory.  The first images loaded stay; the others are decoded every time.

    Raises UserError if the folder does not exist or holds no image.
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

    def contents(self):
        """A short description of the images: their number, total bytes, and a checksum of names and sizes."""
        sizes = [os.stat(f"{self.root}/{name}").st_size for name in self.names]
        checksum = zlib.crc32("\n".join(map("{}\0{}".format, self.names, sizes)).encode("utf-8", "surrogateescape"))
        return f"{len(sizes)} images of {sum(sizes)} bytes, checksum {checksum:08x}"

    def load(self, index):
        """Image `index`: uint8 (H, W, 3), read-only.  Raises images.ImageError if the file is not a complete image."""
        image = self._decoded.get(index)
        if image is None:
            try:
                image = images.read(self.root / self.names[index])
            except MemoryError:
                raise images.ImageError(f"{self.root / self.names[index]}: out of memory while it was read") from None
            image.flags.writeable = False
            with self._lock:        # threads load images concurrently
                if index not in self._decoded and image.nbytes <= self._room:
                    self._decoded[index] = image
                    self._room -= image.nbytes
        return image


def split(folder, fraction=0.05, most=1000):
    """(training, validation): two ImageFolders, the second with about `fraction` of the images.

    An image is used for validation if the CRC-32 of its name, as a fraction of 2^32, is below `fraction`, so adding images to the
    folder later moves no image between the sets.  `fraction` is halved until at most about `most` images are for validation.
    (The image with the lowest CRC-32 is always for validation and that with the highest for training, so neither set is empty.)
    Raises UserError if the folder has fewer than two images.
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
    names, others, visited, waiting = [], [], set(), deque([""])
    with progress(desc="searching", unit=" folders", delay=2, leave=False) as bar:
        while waiting:
            folder = waiting.popleft()
            try:
                status, entries = os.stat(root / folder), sorted(os.scandir(root / folder), key=lambda entry: entry.name)
            except OSError as error:
                others.append(f"{folder or root}/ ({error.strerror})")
                continue
            if (status.st_dev, status.st_ino) in visited:       # already visited through a link, perhaps in a cycle
                continue
            visited.add((status.st_dev, status.st_ino))
            bar.update()
            for entry in entries:
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    others.append(name)
                elif _is(entry.is_dir):
                    (waiting.append if entry.is_symlink() else waiting.appendleft)(name)        # links last: direct paths take precedence
                elif _is(entry.is_file) and images.is_image(entry.path):
                    names.append(name)
                else:
                    what = (images.foreign(entry.path) if _is(entry.is_file) else "a broken link" if entry.is_symlink() else "no file")
                    others.append(f"{name} ({what.partition(':')[0]})" if what else name)
    others.sort(key=lambda name: "(" not in name)       # files with a known problem come first
    left_out = (f"{len(others)} other file{'s' * (len(others) > 1)} left out: "
                + ", ".join(others[:SHOWN] + ["..."] * (len(others) > SHOWN))) if others else ""
    if not names:
        raise UserError(f"{root} holds no image" + f"; {left_out}" * bool(others))
    if others:
        say(f"{root}: {left_out}")
    return sorted(names)


def _is(test):
    """The result of a test for a folder or a file; False if it fails (a cyclic link)."""
    try:
        return test()
    except OSError:
        return False
