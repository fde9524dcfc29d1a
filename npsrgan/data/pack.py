"""A pack: many images, decoded, in one file that is mapped into memory, so that a crop costs no decoding.

The file holds the pixels of all images, uint8 (H, W, 3), one after another, and then a zip archive with their index: a line
of JSON for each, [name, bytes of the original file, H, W, CRC-32 of the pixels].  HDF5 with a dataset for each image takes some
20 times as long for a crop as a view of mapped memory, and one large dataset would need its size before writing.
"""
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np

from npsrgan.data.feed import ahead_of
from npsrgan.data.folder import PARTITION, Images
from npsrgan.images import ImageError
from npsrgan.system import files
from npsrgan.system.errors import UserError
from npsrgan.system.terminal import progress, say

INDEX = "npsrgan.jsonl"     # the index in the archive
THREADS = min(8, os.cpu_count() or 1)


class Pack(Images):
    """The images in a pack.  archive: the zipfile.ZipFile at its end.  Raises UserError if the file is damaged."""

    def __init__(self, archive):
        path, offset, self._places = archive.filename, 0, {}
        try:
            for name, size, height, width, _ in map(json.loads, archive.read(INDEX).splitlines()):
                self._places[name] = size, offset, height, width
                offset += 3 * height * width
            self._partition = archive.read(PARTITION).decode(errors="replace") if PARTITION in archive.namelist() else ""
        except (BadZipFile, OSError, TypeError, ValueError, zlib.error) as error:
            raise UserError(f"{path} is damaged: pack the images again ({error})") from None
        if not self._places or offset > os.path.getsize(path):
            raise UserError(f"{path} is damaged: it has fewer pixels than its index says; pack the images again")
        self._pixels = np.asarray(np.memmap(path, np.uint8, "r"))
        super().__init__(path, self._places)

    def sizes(self):
        """The size in bytes of the file that each image was in."""
        return [self._places[name][0] for name in self.names]

    def partition(self):
        """The text of CelebA's list_eval_partition.txt, which was beside the images; empty if there was none."""
        return self._partition or super().partition()

    def load(self, index):
        """Image `index`: uint8 (H, W, 3), a read-only view of the file."""
        _, offset, height, width = self._places[self.names[index]]
        return self._pixels[offset:offset + 3 * height * width].reshape(height, width, 3)


def pack(source, path):
    """Write a pack of the images of an ImageFolder or ImageArchive.  Returns the number of images that could not be read.

    The pixels go to PATH.partial and their index to PATH.journal; both are kept when the work is interrupted, and the next call
    continues there.  In the end everything is read back and compared with its checksums, and then moved to `path`.
    Raises UserError if `path` exists, if another process is writing it, if no image can be read, or if the file is not what was
    written.
    """
    path, partial, journal = (Path(f"{path}{suffix}") for suffix in ("", ".partial", ".journal"))
    if path.exists():
        raise UserError(f"{path} exists already: give another file, or delete it")
    files.require_writable(path)
    partial.touch()
    with files.locked(partial):
        return _write(source, path, partial, journal)


def _write(source, path, partial, journal):
    heading = json.dumps(source.contents())
    done = _intact(partial, journal, heading)
    if done:
        say(f"{len(done)} of {len(source)} images are packed already")
    with files.replacing(journal) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in [heading, *map(json.dumps, done)]))
    with open(partial, "ab") as pixels, open(journal, "a") as index:
        pixels.truncate(sum(3 * height * width for _, _, height, width, _ in done))
        start = len(done)
        images = progress(_decoded(source, start), "packing", len(source), initial=start, unit=" images")
        for image, name, size in zip(images, source.names[start:], source.sizes()[start:]):
            try:
                image = image.result()
            except ImageError as error:
                say(f"left out: {error}")
                image = np.empty((0, 0, 3), np.uint8)
            pixels.write(image.data)
            print(json.dumps([name, size, *image.shape[:2], zlib.crc32(image.data)]), file=index)
    done = _intact(partial, journal, heading)
    if len(done) < len(source):
        raise UserError(f"{partial} does not hold what was written from image {len(done)} on: check the disk, and give the command again")
    packed = [record for record in done if record[2]]
    listed = source.partition()
    if not packed:
        raise UserError(f"none of the {len(source)} images of {source.root} can be read")
    with open(partial, "r+b") as file:
        file.seek(0, os.SEEK_END)
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:       # its offsets count from the start of the file
            archive.writestr(INDEX, "".join(f"{line}\n" for line in map(json.dumps, packed)))
            if listed:
                archive.writestr(PARTITION, listed)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    journal.unlink()
    return len(done) - len(packed)


def _intact(partial, journal, heading):
    """The records of the images that are packed already and match their checksums, up to the first that is not or does not."""
    try:
        first, *lines = journal.read_text().splitlines() or [""]
        pixels = open(partial, "rb")
    except FileNotFoundError:
        return []
    records = []
    with pixels:
        for line in progress(lines if first == heading else [], "verifying", unit=" images", delay=2, leave=False):
            try:
                name, size, height, width, checksum = json.loads(line)
            except ValueError:      # the last line of an interrupted run
                break
            if zlib.crc32(pixels.read(3 * height * width)) != checksum:
                break
            records.append([name, size, height, width, checksum])
    return records


def _decoded(source, first):
    """Futures of the images from `first` on, in order.  Threads decode some of them ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from ahead_of((pool.submit(source.load, index) for index in range(first, len(source))), THREADS)
