"""The tiles of the convolutions' matrix products, and the choice among them.

A block computes m x n entries of a product, in chunks of BK terms (product.cuh).  The table lists the limits in TF32 on an H200,
in flops per clock of a multiprocessor.  The tensor cores reach at most 2048, with mma.sync about 60 % of it.  Shared memory moves
128 bytes per clock: a chunk is copied there, and each warp reads its rows of A and its columns of B.  The L2 cache supplies an
estimated 5.5 TB/s, 23 bytes per clock; if the L1 cache keeps A for the three taps of a row, A needs only a third of the traffic.
(The tiles of 32 columns serve kernels of one column: kn2row.py.)

                  warps, each          shared memory          L2 cache, with L1 hits
    256 x 128     4 x 2, 64 x 64           1489                 971        1749
    128 x 128     2 x 2, 64 x 64           1365                 729        1093
    256 x  64     4 x 1, 64 x 64           1260                 583        1249
    128 x  64     2 x 2, 64 x 32            910                 486         874
     64 x  64     2 x 2, 32 x 32            683                 364         546
    256 x  32     4 x 1, 64 x 32            780                 324
    128 x  32     4 x 1, 32 x 32            630                 291

Calculated, not measured.  Large tiles do more arithmetic per byte read, but leave multiprocessors idle if there are few pixels.
More stages hide memory latency, but leave less of the shared on-chip memory to the L1 cache.  In float32 arithmetic is the limit,
256 flops per clock, for every tile.  `python -m npsrgan.bench --device gpu --methods` times every tile.
"""
import math
from typing import NamedTuple

from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.precision import tensor_cores


class Tile(NamedTuple):
    """m x n entries of a product, and how a block computes them."""

    m: int
    n: int
    warps: tuple        # down and across; empty in float32, where a thread computes 8 x 8 entries
    blocks: int         # resident per multiprocessor: limits the registers per thread
    stages: int         # chunks in shared memory at once

    def __str__(self):
        return f"{self.m}x{self.n}/{self.stages}"

    @property
    def threads(self):
        """Threads per block: THREADS in product.cuh."""
        return 32 * self.warps[0] * self.warps[1] if self.warps else self.m * self.n // 64

    def macros(self):
        """The macros for product.cuh."""
        shape = {"TF32": int(bool(self.warps)), "BM": self.m, "BN": self.n, "BK": depth(), "STAGES": self.stages, "BLOCKS": self.blocks}
        return shape | dict(zip(("WARPS_M", "WARPS_N"), self.warps))


# From large to small, keyed by the maximum number of outputs (128: any number).
USUAL = {True: {32: (Tile(128, 32, (4, 1), 3, 3),),
                64: (Tile(128, 64, (2, 2), 2, 3), Tile(64, 64, (2, 2), 3, 3)),
                128: (Tile(128, 128, (2, 2), 2, 3), Tile(128, 64, (2, 2), 2, 3), Tile(64, 64, (2, 2), 3, 3))},
         False: {32: (Tile(128, 32, (), 6, 2),),
                 64: (Tile(128, 64, (), 3, 2), Tile(64, 64, (), 6, 2)),
                 128: (Tile(128, 128, (), 2, 2), Tile(128, 64, (), 3, 2), Tile(64, 64, (), 6, 2))}}
# Tiles that may be faster on tensor cores when entries are copied in fours; used only by the benchmark.
UNUSUAL = {32: (Tile(256, 32, (4, 1), 2, 2),),
           64: (Tile(256, 64, (4, 1), 2, 2), Tile(128, 64, (2, 2), 3, 2)),
           128: (Tile(256, 128, (4, 2), 1, 3), Tile(128, 128, (2, 2), 2, 2))}


def depth():
    """Terms of a chunk, BK.  It is the same for all tiles, so all sum an entry in the same order, with bitwise equal results."""
    return 32 if tensor_cores() else 16


def choose(columns, grid, memory, plain):
    """The largest usual tile that gives every multiprocessor a block, or the smallest if there are too few pixels.

    columns: of the product.   grid(tile): of a launch, in blocks.   memory(tile): bytes of shared memory per stage, and the rest.
    plain: whether entries are copied in fours rather than one by one.
    """
    return candidates(columns, grid, memory, plain)[0]


def candidates(columns, grid, memory, plain):
    """Tiles for the benchmark to time: the choice of `choose`, then others that keep at least half of the GPU busy."""
    def blocks(tile): return math.prod(grid(tile))
    usual, enough = _fitting(USUAL[tensor_cores()], columns, memory), compile.multiprocessors()
    chosen = next((tile for tile in usual if blocks(tile) >= enough), usual[-1])
    others = usual + (_fitting(UNUSUAL, columns, memory) if plain and tensor_cores() else [])
    return list(dict.fromkeys([chosen, *(tile for tile in others if 2 * blocks(tile) >= enough)]))


def _fitting(table, columns, memory):
    """The tiles for this number of columns, as returned by `fit`."""
    width = next((width for width in (32, 64) if columns <= width), 128)
    return [fitted for tile in table[width] if (fitted := fit(tile, *memory(tile)))]


def fit(tile, stage, besides):
    """The tile with as many blocks and stages as fit on a multiprocessor, or None if not even one block with two stages fits."""
    room = compile.shared_memory() + 1024       # CUDA reserves 1 KB per block
    for blocks in range(tile.blocks, 0, -1):
        stages = min(tile.stages, (room // blocks - 1024 - besides) // stage)
        if stages >= 2:
            return tile._replace(blocks=blocks, stages=stages)
    return None
