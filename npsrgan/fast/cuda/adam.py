"""Adam's update of a whole network in one kernel: seven floats moved per parameter, and no more."""
import math

import numpy as np

from npsrgan import adam
from npsrgan.fast.cuda import compile
from npsrgan.ops.operation import twin

THREADS, CHUNK = 256, 1024      # of a block, and its entries
PARAMETERS = 256                # of one launch: the table of their gradients must fit into the 4 KB of a kernel's arguments
TABLE = np.dtype([("of", np.uintp, PARAMETERS), ("start", np.int32, PARAMETERS + 1)], align=True)       # Gradients in adam.cu


@twin(adam.update)
def update(p, gradients, m, v, rate, count, beta1, beta2, eps):
    """As the reference.  The kernel reads rate and count from the GPU's memory: a CUDA graph's inputs, or copies of the numbers."""
    if not compile.suits(p, m, v):
        return NotImplemented
    rate, count = (_on_gpu(number, p, dtype) for number, dtype in ((rate, np.float32), (count, np.int32)))
    gradients = [compile.packed(gradient.astype(np.float32, copy=False)) for gradient in gradients]
    if (size := sum(gradient.size for gradient in gradients)) != p.size:
        raise ValueError(f"gradients of {size} entries cannot move parameters of {p.size}")
    numbers = [np.float32(number) for number in (1 - beta1, 1 - beta2, math.log(beta1), math.log(beta2), eps)]
    end = 0
    for first in range(0, len(gradients), PARAMETERS):
        group = gradients[first:first + PARAMETERS]
        *starts, size = np.cumsum([0, *(gradient.size for gradient in group)]).tolist()
        table = np.zeros(1, TABLE)
        table["of"][0, :len(group)] = [compile.address(gradient) for gradient in group]
        table["start"] = np.iinfo(np.int32).max
        table["start"][0, :len(group)] = starts
        begin, end = end, end + size
        arrays = p[begin:end], table, m[begin:end], v[begin:end], rate, count
        compile.kernel("adam", "adam")((-(-size // CHUNK),), (THREADS,), (*arrays, *numbers, np.int32(size)))


def _on_gpu(number, like, dtype):
    """A number as an array of one entry; an array as it is."""
    if hasattr(number, "shape"):
        return number
    array = np.zeros_like(like, dtype, shape=1)
    array.fill(number)
    return array
