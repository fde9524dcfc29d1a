"""Images of any size through a generator in little memory: in tiles that overlap by as far as a pixel of the result sees.

The overlap is computed and then cut off, so tiles leave no seams: the result is that of the whole image at once.  The
network's first half, where nearly all of the seeing is done, runs on large tiles.  Its second half needs nine times the
memory for each pixel but sees three pixels far, so it runs on small parts of a tile's features.
"""
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npsrgan import images
from npsrgan.device import to_numpy
from npsrgan.fast.threads import shares
from npsrgan.tape import Tensor

TILE = 512                  # side of a tile where nobody chose, in pixels of the input
SMALLEST = 32               # side of a tile: below it, nearly all work would go into the overlap
GIGABYTE = 1 << 30
MEMINFO, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class Span(NamedTuple):
    """A stretch of one axis: what is wanted, and what must be given to the network for it."""

    wanted: slice
    given: slice

    @property
    def inside(self):
        """Where the wanted part lies in the given one."""
        return slice(self.wanted.start - self.given.start, self.wanted.stop - self.given.start)


def spans(wanted, size, radius, limit):
    """Cut a slice of range(limit) into Spans of nearly equal length, at most `size`, given with `radius` more at inner edges."""
    length = wanted.stop - wanted.start
    cuts = [(wanted.start + a, wanted.start + b) for a, b in shares(length, -(-length // size))]
    return [Span(slice(a, b), slice(max(a - radius, 0), min(b + radius, limit))) for a, b in cuts]


def super_resolve_tiles(generator, lr, device, tile):
    """Yield (top, left, sr) for parts that together make up the whole result: each a float array (h, w, 3), about [-1, 1].

    generator: a models.Generator in evaluation mode, or folded, on the device.   lr: uint8 or uint16 (H, W, 3), or (H, W, 1) for grey.
    tile:      side of a tile, in pixels of lr and without overlap.         top, left: in pixels of the result.
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


def super_resolve(generator, lr, device, tile=TILE):
    """A uint8 (h, w, 3) image of any size through a generator, folded or in evaluation mode: uint8 (scale*h, scale*w, 3)."""
    scale = generator.settings["scale"]
    sr = np.empty((scale * lr.shape[0], scale * lr.shape[1], 3), np.uint8)
    for top, left, part in super_resolve_tiles(generator, lr, device, tile):
        sr[top:top + part.shape[0], left:left + part.shape[1]] = images.to_uint8(part)
    return sr


def _times(factor, stretch):
    return slice(factor * stretch.start, factor * stretch.stop)


def choose_tile(generator, free):
    """The side of a tile that a generator can afford with `free` bytes of memory: it takes half of them, at most a gigabyte.

    More than that would save little: at 64 channels, the overlap is then a sixth of the work.  Another tile gives the same
    result within rounding, but only the same tile the same bits.
    """
    budget = min(free // 2, GIGABYTE)
    side = int((max(budget, 0) / (4 * generator.live_channels)) ** 0.5) - 2 * generator.radius()
    return max(SMALLEST, side // 32 * 32)


def free_memory(device):
    """Bytes of the device's memory that are free for new arrays."""
    if device.module is np:
        return _free_main_memory()
    cuda, pool = device.module.cuda, device.module.get_default_memory_pool()
    return cuda.runtime.memGetInfo()[0] + pool.free_bytes()


def _free_main_memory():
    """What Linux says is available, or less where the limit of a container or of the process is nearer; elsewhere, a modest guess."""
    try:
        free = 1024 * _entry(MEMINFO, "MemAvailable:")
    except OSError:
        return 4 * GIGABYTE
    with suppress(OSError, ValueError):     # no container, or one without a limit, which it calls "max"
        free = min(free, int((CONTAINER / "memory.max").read_text()) - _entry(CONTAINER / "memory.stat", "anon"))
    with suppress(OSError, ImportError):
        import resource  # which Windows lacks
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:     # `ulimit -v`
            free = min(free, limit - 1024 * _entry(Path("/proc/self/status"), "VmSize:"))
    return max(free, 0)


def _entry(path, name):
    """The number behind `name` in a file of lines "name number"."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[:1] == [name])
