"""Batches of training patches, prepared in advance, and pairs of whole images for validation.

There is no random state.  The order of an epoch is drawn from a generator seeded with (seed, epoch), and the crop, flip and
rotation of a sample from one seeded with (seed, step, sample).  Batch 7,000 is therefore the same after a resume, with any
number of threads and in any order.
"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count, islice

import numpy as np

from npsrgan.data import degrade
from npsrgan.data.feed import ahead_of
from npsrgan.images import ImageError
from npsrgan.system.errors import UserError
from npsrgan.system.terminal import say

# First elements of the seeds.  NumPy pads seeds with zeros, so without these (seed, epoch) would equal (seed, step=epoch, sample=0).
_ORDER, _SAMPLE = 0, 1


class TooSmall(ImageError):
    """An image smaller than a patch."""


def _to_stderr(message):
    say(message, file=sys.stderr)


class Batches:
    """Batches of random patches of a source's images.  Each batch is a pure function of (seed, step).

    source:     has len, .name(i) and .load(i) (see npsrgan.data).
    batch_size: N, patches per batch, each from a different image if there are enough images.
    patch_size: p, the side of a low-resolution patch; that of the high-resolution patch is scale * p.
    photo:      whether to use the realistic degradation of `degrade.photo` instead of clean bicubic downscaling.
    workers:    threads that load and crop images; None for one per processor, at most 8.
    ahead:      batches to prepare in advance.
    report:     called with a message about each skipped file; None writes to stderr.
    rank, ranks: give only samples rank, rank + ranks, ... of each batch: N / ranks of them.

    A file that is damaged or smaller than a patch is skipped, and the next image of the epoch takes its place.  Each rank finds this
    out by itself: if two of them skip a file of the same batch, the same image takes both places.
    `skipped` maps the names of the files skipped so far to the reasons.
    """

    def __init__(self, source, batch_size, patch_size, scale=4, seed=0, photo=False, workers=None, ahead=4, report=None, rank=0, ranks=1):
        self.source, self.batch_size, self.patch_size, self.scale, self.seed = source, batch_size, patch_size, scale, seed
        self.photo, self.rank, self.ranks, self.share = photo, rank, ranks, batch_size // ranks
        self.workers = workers or min(8, os.cpu_count() or 1)
        self.ahead = ahead
        self.steps_per_epoch = max(1, len(source) // batch_size)
        self.skipped = {}
        self._report = report or _to_stderr
        self._too_small = 0
        self._said_repeats = False
        self._order = (None, None)      # of the last epoch requested: (epoch, permutation)

    def batch(self, step):
        """The batch of a step: (lr, hr), uint8, shapes (N, p, p, 3) and (N, scale p, scale p, 3); `images.to_float` converts them.

        Raises UserError if no image can be used.
        """
        return self._collect(step, {})

    def ahead_from(self, first, last=None):
        """Iterate over (step, lr, hr) for the steps first, first + 1, ... last - 1 (None: without end), as `batch` gives them.

        Threads prepare the next `ahead` batches in the meantime; they stop when the iterator is exhausted, closed or deleted.
        Exceptions in a thread are raised here.
        """
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        steps = count(first) if last is None else range(first, last)
        try:
            for step, samples in ahead_of(((step, self._start(pool, step)) for step in steps), self.ahead):
                yield step, *self._collect(step, samples)
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool, step):
        """Submit the samples that a batch will most likely need to the threads.  Returns {position: future}."""
        return {position: pool.submit(self._sample, step, position, index)
                for position, index in islice(self._candidates(step), self.share)}

    def _collect(self, step, started):
        """The batch of the first usable candidates of a step.  Samples not submitted to a thread are loaded here."""
        pairs = []
        for position, index in self._candidates(step):
            try:
                pairs.append(started[position].result() if position in started else self._sample(step, position, index))
            except ImageError as error:
                self.skipped[self.source.name(index)] = str(error)
                self._too_small += isinstance(error, TooSmall)
                self._report(f"skipped: {error}")
                continue
            if len(pairs) == self.share:
                break
        if position >= len(self.source) and not self._said_repeats:
            self._said_repeats = True
            self._report(f"{len(self.source) - len(self.skipped)} usable images for batches of {self.batch_size}: "
                         "a batch holds several patches of one image")
        lr, hr = zip(*pairs)
        return np.stack(lr), np.stack(hr)

    def _candidates(self, step):
        """(position, index) of candidate images for a batch: its share of the epoch's order, then the images that follow."""
        epoch, k = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self.source))
        order = self._order[1]
        for position in chain(range(self.rank, self.batch_size, self.ranks), count(self.batch_size)):
            if len(self.skipped) == len(order):
                raise UserError(self._nothing_usable())
            index = int(order[(k * self.batch_size + position) % len(order)])
            if self.source.name(index) not in self.skipped:
                yield position, index

    def _sample(self, step, position, index):
        """One augmented pair of patches: (lr, hr), uint8 and contiguous.  Runs in threads and changes no attribute."""
        image, p, scale = self.source.load(index), self.patch_size, self.scale
        height, width = (n // scale for n in image.shape[:2])
        if min(height, width) < p:
            raise TooSmall(f"{self.source.name(index)} has {image.shape[1]}x{image.shape[0]} pixels: "
                           f"too small for a patch of {scale * p}x{scale * p}")
        rng = np.random.default_rng([_SAMPLE, self.seed, step, position])
        top, left = rng.integers(height - p + 1), rng.integers(width - p + 1)
        flip, turns = rng.integers(2), rng.integers(4)
        return tuple(np.ascontiguousarray(np.rot90(patch[:, ::-1] if flip else patch, turns))
                     for patch in degrade.patch_pair(image, top, left, p, scale, rng if self.photo else None))

    def _nothing_usable(self):
        n, unreadable = len(self.skipped), len(self.skipped) - self._too_small
        if n == 0:
            return "there are no images to take patches from"
        if n == self._too_small:
            return (f"all {n} images are too small for patches of {self.scale * self.patch_size} pixels: "
                    "give larger images or a smaller --patch-size")
        return (f"none of {n} images can be used: {unreadable} cannot be read, {self._too_small} are too small; "
                f"the first: {'; '.join(islice(self.skipped.values(), 3))}")


def validation_pairs(source, scale=4, count=None, report=None, photo=False):
    """Iterate over (name, lr, hr) for whole images: hr uint8 (H, W, 3), cropped to a multiple of the scale, and lr downscaled from it.

    photo: whether lr is made by `degrade.photo`, seeded by the name, instead of clean bicubic downscaling.
    count: number of images, spread evenly over the source; None, or more than there are, takes all of them.
    Images that are damaged or smaller than 8 low-resolution pixels are skipped and reported, as in `Batches`.
    Raises UserError if no image is left.
    """
    n = len(source)
    chosen = n if count is None else min(count, n)
    reasons = []
    for index in (i * n // chosen for i in range(chosen)):
        try:
            image = source.load(index)
            if min(image.shape[:2]) < 8 * scale:
                raise TooSmall(f"{source.name(index)} has {image.shape[1]}x{image.shape[0]} pixels: too small to validate on")
        except ImageError as error:
            reasons.append(str(error))
            (report or _to_stderr)(f"skipped: {error}")
            continue
        lr = degrade.photo(image, scale, degrade.seeded_by(source.name(index))) if photo else degrade.downscale(image, scale)
        yield source.name(index), lr, degrade.crop_to_multiple(image, scale)
    if len(reasons) == chosen:
        raise UserError(f"none of {chosen} validation images can be used, the first: {'; '.join(reasons[:3])}")
