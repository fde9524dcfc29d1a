"""Images in a folder."""
import copy
import os
import zlib
from collections import deque
from pathlib import Path
from threading import Lock

from npsrgan import images
from npsrgan.system.errors import UserError
from npsrgan.system.terminal import progress, say

SHOWN = 5       # how many of the files left out are named
PARTITION = "list_eval_partition.txt"       # CelebA's list of the images for training, validation and testing


class Images:
    """Base class of images with names, in a folder or one file.  Subclasses define `load` and `sizes`.

    root: where they are.   names: their names, sorted, with forward slashes.
    """

    def __init__(self, root, names):
        self.root, self.names = Path(root), list(names)

    def __len__(self):
        return len(self.names)

    def name(self, index):
        """The name of image `index`."""
        return self.names[index]

    def subset(self, names):
        """The same images, but only those with these names."""
        chosen = copy.copy(self)
        chosen.names = list(names)
        return chosen

    def contents(self):
        """A short description of the images: their number, total bytes, and a checksum of names and sizes.

        A folder, a zip archive of it and a pack of it have the same.
        """
        sizes = self.sizes()
        checksum = zlib.crc32("\n".join(map("{}\0{}".format, self.names, sizes)).encode("utf-8", "surrogateescape"))
        return f"{len(sizes)} images of {sum(sizes)} bytes, checksum {checksum:08x}"

    def partition(self):
        """The text of CelebA's list_eval_partition.txt, which lies beside `root`; empty if there is none."""
        try:
            return (self.root.absolute().parent / PARTITION).read_text(errors="replace")
        except OSError:
            return ""


class ImageFolder(Images):
    """The images in a folder and its subfolders, sorted by name.

    root:  the folder.
    names: paths relative to it, with forward slashes; None searches for all images, identified by content instead of file
           name, and follows links.  One line reports what is left out: hidden files and files that are not images.
    cache: bytes of decoded images to keep in memory.  The first images loaded stay; the others are decoded every time.

    Raises UserError if the folder does not exist or holds no image.
    """

    def __init__(self, root, names=None, cache=0):
        super().__init__(root, _search(Path(root)) if names is None else names)
        self._decoded, self._room, self._lock = {}, [cache], Lock()

    def sizes(self):
        """The size of each file in bytes."""
        return [os.stat(f"{self.root}/{name}").st_size for name in self.names]

    def opened(self, name):
        """(path, file) of an image, as arguments for images.read and images.opened; file is None for a file on the disk."""
        return self.root / name, None

    def load(self, index):
        """Image `index`: uint8 (H, W, 3), read-only.  Raises images.ImageError if the file is not a complete image."""
        name = self.names[index]
        image = self._decoded.get(name)
        if image is None:
            try:
                image = images.read(*self.opened(name))
            except MemoryError:
                raise images.ImageError(f"{self.root / name}: out of memory while it was read") from None
            image.flags.writeable = False
            with self._lock:        # threads load images concurrently
                if name not in self._decoded and image.nbytes <= self._room[0]:
                    self._decoded[name] = image
                    self._room[0] -= image.nbytes
        return image


def sorted_names(root, names, others):
    """The names of the images found in `root`, sorted; one line reports the others.  Raises UserError if there is no image."""
    others = sorted(others, key=lambda name: "(" not in name)       # files with a known problem come first
    left_out = (f"{len(others)} other file{'s' * (len(others) > 1)} left out: "
                + ", ".join(others[:SHOWN] + ["..."] * (len(others) > SHOWN))) if others else ""
    if not names:
        raise UserError(f"{root} holds no image" + f"; {left_out}" * bool(others))
    if others:
        say(f"{root}: {left_out}")
    return sorted(names)


def _search(root):
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds the images" if root.exists() else f"{root}: no such folder")
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
    return sorted_names(root, names, others)


def _is(test):
    """The result of a test for a folder or a file; False if it fails (a cyclic link)."""
    try:
        return test()
    except OSError:
        return False
