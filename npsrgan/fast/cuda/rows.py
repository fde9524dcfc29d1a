"""How threads lie over an array of rows and columns, where a column (a channel) has numbers of its own; see rows.cuh."""
import numpy as np

from npsrgan.fast.cuda import compile

THREADS = 256       # in a block
AT_ONCE = 4         # rows that a thread asks for before it needs the first: as the kernels' loops are unrolled
LIMIT = 2**31 - 2**24       # entries of an array: the kernels count with 32 bits, a little before its beginning and beyond its end


def suits(x, *others):
    """CuPy arrays of float32, the first neither empty nor too large to count."""
    return compile.suits(x, *others) and 0 < x.size < LIMIT


class Rows:
    """The launches of kernels that include rows.cuh, for arrays (rows, columns)."""

    def __init__(self, file, rows, columns):
        self.file, self.numbers = file, (np.int32(rows), np.int32(columns))
        self.width = 4 if columns % 4 == 0 else 1
        packs = columns // self.width
        side = min(32, 1 << (packs - 1).bit_length())           # threads beside each other: a power of two
        self.block = side, THREADS // side
        across, down = -(-packs // side), -(-rows * side // THREADS)
        # Enough blocks for every multiprocessor to have memory at work all the time, few partial sums to add up afterwards, and no
        # block that must wait until others are done.
        each = -(-down // max(1, 4 * compile.multiprocessors() // across))          # rows of a thread
        self.grid = across, -(-down // (-(-each // AT_ONCE) * AT_ONCE))

    @property
    def parts(self):
        """How many partial sums a column has: one from each row of blocks."""
        return self.grid[1]

    def __call__(self, function, *arguments):
        """Launch a kernel with these arguments and, after them, the numbers of rows and columns."""
        compile.kernel(self.file, function, WIDTH=self.width)(self.grid, self.block, (*arguments, *self.numbers))


def entries(file, size):
    """The launches for arrays in which every entry is treated alike: rows of one pack."""
    columns = 4 if size % 4 == 0 else 1
    return Rows(file, size // columns, columns)
