"""Run a generator on images of any size in little memory: in tiles that overlap by the radius of the receptive field.

The overlap is computed and then cropped, so tiles leave no seams: the result is that of the whole image at once.  The
network's first half, which has nearly all of the receptive field, runs on large tiles.  Its second half needs nine times the
memory for each pixel but has a radius of three pixels, so it runs on small parts of a tile's features.
"""
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npsrgan import images
from npsrgan.device import to_numpy
from npsrgan.fast.threads import shares
from npsrgan.tape import Tensor

TILE = 512                  # default side of a tile, in input pixels
SMALLEST = 32               # smallest side of a tile: below it, nearly all of the work would be overlap
GIGABYTE = 1 << 30
MEMINFO, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class Span(NamedTuple):
    """An interval of one axis: the wanted output, and the input that the network must be given for it."""

    wanted: slice
    given: slice

    @property
    def inside(self):
        """The position of the wanted interval within the given one."""
        return slice(self.wanted.start - self.given.start, self.wanted.stop - self.given.start)


def spans(wanted, size, radius, limit):
    """Split a slice of range(limit) into Spans of nearly equal length, at most `size`, extended by `radius` within the limit."""
    length = wanted.stop - wanted.start
    cuts = [(wanted.start + a, wanted.start + b) for a, b in shares(length, -(-length // size))]
    return [Span(slice(a, b), slice(max(a - radius, 0), min(b + radius, limit))) for a, b in cuts]


def super_resolve_tiles(generator, lr, device, tile):
    """Yield (top, left, sr) for the parts of the result, which together cover it: sr is a float array (h, w, 3), about [-1, 1].

    generator: a models.Generator in evaluation mode, or folded, on the device.   lr: uint8 or uint16 (H, W, 3), or (H, W, 1) for grey.
    tile:      side of a tile in pixels of lr, without overlap.         top, left: in pixels of the result.
    """
    scale = generator.settings["scale"]
    radius, second_radius = generator.radius(), generator.radius(half=True)
    part = max(64, tile // 4)
    for rows in spans(slice(0, lr.shape[0]), tile, radius, lr.shape[0]):
        for columns in spans(slice(0, lr.shape[1]), tile, radius, lr.shape[1]):
            given = images.to_float(lr[rows.given, columns.given])
            colour = np.ascontiguousarray(np.broadcast_to(given, (1, *given.shape[:2], 3)))
            features = generator.features(device.array(colour)).array
            for y in spans(rows.inside, part, second_radius, features.shape[1]):
                for x in spans(columns.inside, part, second_radius, features.shape[2]):
                    sr = generator.enlarge(Tensor(features[:, y.given, x.given])).array
                    sr = sr[0, _times(scale, y.inside), _times(scale, x.inside)]
                    top, left = rows.given.start + y.wanted.start, columns.given.start + x.wanted.start
                    yield scale * top, scale * left, to_numpy(sr)


def apply_in_tiles(generator, lr, device, tile=TILE):
    """Enlarge a uint8 (h, w, 3) image of any size with a generator, folded or in evaluation mode: uint8 (scale*h, scale*w, 3)."""
    scale = generator.settings["scale"]
    sr = np.empty((scale * lr.shape[0], scale * lr.shape[1], 3), np.uint8)
    for top, left, part in super_resolve_tiles(generator, lr, device, tile):
        sr[top:top + part.shape[0], left:left + part.shape[1]] = images.to_uint8(part)
    return sr


def _times(factor, stretch):
    return slice(factor * stretch.start, factor * stretch.stop)


def choose_tile(generator, free):
    """The side of a tile for a generator with `free` bytes of memory: a tile takes half of them, at most a gigabyte.

    More would gain little: at 64 channels, the overlap is then a sixth of the work.  Another tile size gives the same result
    up to rounding; only the same size gives the same bits.
    """
    budget = min(free // 2, GIGABYTE)
    side = int((max(budget, 0) / (4 * generator.live_channels)) ** 0.5) - 2 * generator.radius()
    return max(SMALLEST, side // 32 * 32)


def free_memory(device):
    """The bytes of the device's memory that are free for new arrays."""
    if device.module is np:
        return _free_main_memory()
    cuda, pool = device.module.cuda, device.module.get_default_memory_pool()
    return cuda.runtime.memGetInfo()[0] + pool.free_bytes()


def _free_main_memory():
    """Linux's available memory, or what a container's or process's limit leaves if that is less; elsewhere, a modest guess."""
    try:
        free = 1024 * _entry(MEMINFO, "MemAvailable:")
    except OSError:
        return 4 * GIGABYTE
    with suppress(OSError, ValueError):     # no container, or one without a limit (the file says "max")
        free = min(free, int((CONTAINER / "memory.max").read_text()) - _entry(CONTAINER / "memory.stat", "anon"))
    with suppress(OSError, ImportError):
        import resource  # not on Windows
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:     # `ulimit -v`
            free = min(free, limit - 1024 * _entry(Path("/proc/self/status"), "VmSize:"))
    return max(free, 0)


def _entry(path, name):
    """The number after `name` in a file of lines "name number"."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[:1] == [name])
