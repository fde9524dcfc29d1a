"""Adam's update of a whole network in one kernel that moves only seven floats per parameter."""
import math

import numpy as np

from npsrgan import adam
from npsrgan.fast.cuda import compile
from npsrgan.ops.operation import twin

THREADS, CHUNK = 256, 1024      # threads and entries of a block
PARAMETERS = 256                # per launch: the table of their gradients must fit in the 4 KB of a kernel's arguments
TABLE = np.dtype([("of", np.uintp, PARAMETERS), ("start", np.int32, PARAMETERS + 1)], align=True)       # Gradients in adam.cu


@twin(adam.update)
def update(p, gradients, m, v, rate, count, beta1, beta2, eps):
    """See the reference.  The kernel reads rate and count from GPU memory: a CUDA graph's inputs, or copies of the numbers."""
    if not compile.supported(p, m, v):
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
    """Convert a number to an array of one entry; return an array unchanged."""
    if hasattr(number, "shape"):
        return number
    array = np.zeros_like(like, dtype, shape=1)
    array.fill(number)
    return array
