"""Images in a zip archive, as CelebA is published."""
import io
import os
from threading import Lock

from npsrgan import images
from npsrgan.data.folder import ImageFolder, sorted_names
from npsrgan.system.terminal import progress

LARGEST = 2**30     # bytes of a file that is read from an archive


class ImageArchive(ImageFolder):
    """The images in a zip archive, read without unpacking, sorted by name.  Names leave out the folders that hold all images.

    archive: a zipfile.ZipFile.   cache: see ImageFolder.   Raises UserError if the archive holds no image.
    """

    def __init__(self, archive, cache=0):
        self._archive, self._one_reader = archive, Lock()
        root, names, others = archive.filename, [], []
        for entry in progress(archive.infolist(), "searching", unit=" files", delay=2, leave=False):
            hidden = entry.filename.startswith(".") or "/." in entry.filename
            if not entry.is_dir():
                (others if hidden or not self._is_image(entry) else names).append(entry.filename)
        names = sorted_names(root, set(names), others)
        common = os.path.commonprefix([names[0], names[-1]])        # sorted, so it is common to all
        self._folder = common[:common.rfind("/") + 1]
        super().__init__(root, [name.removeprefix(self._folder) for name in names], cache)

    def _is_image(self, entry):
        if os.path.splitext(entry.filename)[1].lower() in images.suffixes():
            return True
        try:
            with self._archive.open(entry) as file:
                return images.is_image(entry.filename, file)
        except Exception:       # encrypted, damaged, or compressed by an unknown method
            return False

    def sizes(self):
        """The size of each file in bytes, unpacked."""
        return [self._archive.getinfo(self._folder + name).file_size for name in self.names]

    def opened(self, name):
        """(path, file) of an image, as arguments for images.read and images.opened.  Raises ImageError if it cannot be unpacked."""
        path, entry = self.root / name, self._archive.getinfo(self._folder + name)
        if entry.file_size > LARGEST:
            raise images.ImageError(f"{path} has {entry.file_size} bytes: too large for an image")
        try:
            with self._one_reader:      # threads share the open archive
                return path, io.BytesIO(self._archive.read(entry))
        except MemoryError:
            raise
        except Exception as error:      # zipfile raises BadZipFile, RuntimeError, NotImplementedError, zlib.error and more
            raise images.ImageError(f"{path} cannot be unpacked: {error or type(error).__name__}") from error
