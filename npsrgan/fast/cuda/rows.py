"""Maps threads to an array of rows and columns with per-column (per-channel) values; see rows.cuh."""
import numpy as np

from npsrgan.fast.cuda import compile

THREADS = 256       # per block
AT_ONCE = 4         # rows that a thread loads before using the first: the kernels' unroll factor
LIMIT = 2**31 - 2**24       # entries of an array: 32-bit indices must also reach slightly before its beginning and past its end


def supported(x, *others):
    """Whether all are float32 CuPy arrays, and x is neither empty nor too large for 32-bit indices."""
    return compile.supported(x, *others) and 0 < x.size < LIMIT


class Rows:
    """Launches kernels that include rows.cuh, for arrays (rows, columns)."""

    def __init__(self, file, rows, columns):
        self.file, self.numbers = file, (np.int32(rows), np.int32(columns))
        self.width = 4 if columns % 4 == 0 else 1
        packs = columns // self.width
        side = min(32, 1 << (packs - 1).bit_length())           # threads along a row: a power of two
        self.block = side, THREADS // side
        across, down = -(-packs // side), -(-rows * side // THREADS)
        # Enough blocks to keep every multiprocessor's memory accesses busy, but few enough that all run at once and leave few
        # partial sums.
        each = -(-down // max(1, 4 * compile.multiprocessors() // across))          # rows per thread
        self.grid = across, -(-down // (-(-each // AT_ONCE) * AT_ONCE))

    @property
    def parts(self):
        """The number of partial sums per column: one from each row of blocks."""
        return self.grid[1]

    def __call__(self, function, *arguments):
        """Launch a kernel with these arguments, followed by the numbers of rows and columns."""
        compile.kernel(self.file, function, WIDTH=self.width)(self.grid, self.block, (*arguments, *self.numbers))


def entries(file, size):
    """The launcher for elementwise kernels, which treat an array as rows of one pack."""
    columns = 4 if size % 4 == 0 else 1
    return Rows(file, size // columns, columns)
