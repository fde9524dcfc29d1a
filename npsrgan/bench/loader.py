"""How many pairs of patches a second do threads prepare, from a folder, a zip archive and a pack of it?"""
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import numpy as np

from npsrgan import images
from npsrgan.data import Batches, ImageFolder, Photograph, open_images
from npsrgan.data.pack import pack
from npsrgan.system.terminal import progress, say

BATCH, PATCH, IMAGES, SECONDS = 16, 24, 500, 3      # IMAGES: at most so many are taken


def print_loader(folder=None):
    """Print a line for each source and number of threads.  folder: images; None for 178 x 218 crops of a photograph, as JPEG.

    A GPU waits for data if its step of a batch of 16 is shorter than the time in the last column.
    """
    with TemporaryDirectory() as place:
        original = ImageFolder(folder or crops(Path(place, "folder")))
        original = original.subset(original.names[:IMAGES])
        with ZipFile(Path(place, "zip"), "w") as archive:
            for name in original.names:
                archive.write(original.root / name, name)
        pack(original, Path(place, "pack"))
        sources = {"folder": original} | {name: open_images(Path(place, name)) for name in ("zip", "pack")}
        cases = [(name, threads) for name in sources for threads in (1, 2, 4, 8) if threads <= (os.cpu_count() or 1)]
        say("", f"pairs of {PATCH}x{PATCH} and {4 * PATCH}x{4 * PATCH} pixels from {len(original)} images",
            "source  threads  pairs/s   CPU us/pair   shortest step it feeds, batch 16")
        for name, threads in progress(cases, desc="loader", leave=False):
            wall, cpu = seconds_per_pair(Batches(sources[name], BATCH, PATCH, workers=threads))
            say(f"{name:6}  {threads:7}  {1 / wall:7.0f}  {1e6 * cpu:12.0f}   {1e3 * BATCH * wall:26.1f} ms")


def crops(folder):
    """Write 178 x 218 crops of a photograph as JPEG files.  Returns the folder."""
    photo, rng = Photograph().load(0), np.random.default_rng(0)
    for index in range(200):
        top, left = rng.integers(photo.shape[0] - 218), rng.integers(photo.shape[1] - 178)
        images.write(folder / f"{index}.jpg", photo[top:top + 218, left:left + 178])
    return folder


def seconds_per_pair(batches):
    """(seconds, CPU-seconds of all threads) per pair of patches, after the first batches."""
    stream, count = batches.ahead_from(0), 0
    for _ in range(2 * batches.ahead):
        next(stream)
    start, cpu = time.perf_counter(), time.process_time()
    while not count or time.perf_counter() - start < SECONDS:
        next(stream)
        count += batches.batch_size
    stream.close()
    return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count
