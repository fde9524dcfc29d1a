"""The tiles that the convolutions' matrix products are cut into: which there are, and which one is taken.

A block computes m x n entries of a product, in chunks of BK terms (product.cuh).  What limits that in TF32 on an H200, in flops
for each clock of a multiprocessor; the tensor cores do at most 2048, by mma.sync about 60 % of it.  Shared memory moves 128 bytes
a clock: a chunk is copied there, and each warp reads its rows of A and its columns of B.  The second-level cache gives, by an
estimate of 5.5 TB/s, 23 bytes a clock; if the first-level cache keeps A for the three taps of a row, only a third of it.
(The tiles of 32 columns serve kernels of one column: planes.py.)

                  warps, of            shared memory      second-level cache, with the first
    256 x 128     4 x 2, 64 x 64           1489                 971        1749
    128 x 128     2 x 2, 64 x 64           1365                 729        1093
    256 x  64     4 x 1, 64 x 64           1260                 583        1249
    128 x  64     2 x 2, 64 x 32            910                 486         874
     64 x  64     2 x 2, 32 x 32            683                 364         546
    256 x  32     4 x 1, 64 x 32            780                 324
    128 x  32     4 x 1, 32 x 32            630                 291

Counted, not measured.  Large tiles do more for what they read, but leave multiprocessors idle where there are few pixels; more
stages hide the memory's delay, but leave less of the same memory to the first-level cache.  In float32 the arithmetic is the
limit, 256 flops a clock, whatever the tile.  `python -m npsrgan.bench --device gpu --methods` times every tile.
"""
import math
from typing import NamedTuple

from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.precision import tensor_cores


class Tile(NamedTuple):
    """m x n entries of a product; how a block computes them."""

    m: int
    n: int
    warps: tuple        # down and across; none in float32, where a thread has 8 x 8 entries
    blocks: int         # at a time on a multiprocessor: so many registers may a thread have
    stages: int         # chunks in shared memory at a time

    def __str__(self):
        return f"{self.m}x{self.n}/{self.stages}"

    @property
    def threads(self):
        """Of a block: THREADS in product.cuh."""
        return 32 * self.warps[0] * self.warps[1] if self.warps else self.m * self.n // 64

    def macros(self):
        """Those of product.cuh."""
        shape = {"TF32": int(bool(self.warps)), "BM": self.m, "BN": self.n, "BK": depth(), "STAGES": self.stages, "BLOCKS": self.blocks}
        return shape | dict(zip(("WARPS_M", "WARPS_N"), self.warps))


# From large to small, by the number of outputs up to which they serve (the last: any).
USUAL = {True: {32: (Tile(128, 32, (4, 1), 3, 3),),
                64: (Tile(128, 64, (2, 2), 2, 3), Tile(64, 64, (2, 2), 3, 3)),
                128: (Tile(128, 128, (2, 2), 2, 3), Tile(128, 64, (2, 2), 2, 3), Tile(64, 64, (2, 2), 3, 3))},
         False: {32: (Tile(128, 32, (), 6, 2),),
                 64: (Tile(128, 64, (), 3, 2), Tile(64, 64, (), 6, 2)),
                 128: (Tile(128, 128, (), 2, 2), Tile(128, 64, (), 3, 2), Tile(64, 64, (), 6, 2))}}
# What may be faster on tensor cores, where entries are copied in fours: only the benchmark takes these.
UNUSUAL = {32: (Tile(256, 32, (4, 1), 2, 2),),
           64: (Tile(256, 64, (4, 1), 2, 2), Tile(128, 64, (2, 2), 3, 2)),
           128: (Tile(256, 128, (4, 2), 1, 3), Tile(128, 128, (2, 2), 2, 2))}


def depth():
    """Terms of a chunk, BK: the same for all tiles, so that all add up an entry in the same order, to the same bits."""
    return 32 if tensor_cores() else 16


def choose(columns, grid, memory, plain):
    """The largest of the usual tiles of which every multiprocessor gets a block; where there are few pixels, the smallest.

    columns: of the product.   grid(tile): of a launch, in blocks.   memory(tile): bytes that a block shares, for one stage and besides.
    plain: whether entries are copied in fours, not one by one.
    """
    return candidates(columns, grid, memory, plain)[0]


def candidates(columns, grid, memory, plain):
    """Different tiles for the benchmark to time: the one that `choose` takes, then others that keep half of the GPU busy."""
    def blocks(tile): return math.prod(grid(tile))
    usual, enough = _fitting(USUAL[tensor_cores()], columns, memory), compile.multiprocessors()
    chosen = next((tile for tile in usual if blocks(tile) >= enough), usual[-1])
    others = usual + (_fitting(UNUSUAL, columns, memory) if plain and tensor_cores() else [])
    return list(dict.fromkeys([chosen, *(tile for tile in others if 2 * blocks(tile) >= enough)]))


def _fitting(table, columns, memory):
    """The tiles for so many columns, as `fit` returns them."""
    width = next((width for width in (32, 64) if columns <= width), 128)
    return [fitted for tile in table[width] if (fitted := fit(tile, *memory(tile)))]


def fit(tile, stage, besides):
    """The tile with as many blocks and stages as find room on a multiprocessor; None if not even one block with two stages does."""
    room = compile.shared_memory() + 1024       # CUDA keeps 1 KB of it for each block
    for blocks in range(tile.blocks, 0, -1):
        stages = min(tile.stages, (room // blocks - 1024 - besides) // stage)
        if stages >= 2:
            return tile._replace(blocks=blocks, stages=stages)
    return None
