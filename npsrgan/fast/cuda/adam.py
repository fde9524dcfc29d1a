"""Adam's update of a whole network in one kernel: seven floats moved per parameter, and no more."""
import math

import numpy as np

from npsrgan.fast.cuda import compile

THREADS, CHUNK = 256, 1024      # of a block, and its entries
PARAMETERS = 256                # of one launch: the table of their gradients must fit into the 4 KB of a kernel's arguments
TABLE = np.dtype([("of", np.uintp, PARAMETERS), ("start", np.int32, PARAMETERS + 1)], align=True)       # Gradients in adam.cu


def update(p, gradients, m, v, rate, steps, beta1, beta2, eps):
    """One step of algorithm 1 of Kingma and Ba 2015, in place.

    p, m, v: parameters and the two running means of their gradients; flat, float32, on the GPU.
    gradients: an array for each parameter, in their order in p.
    rate (1,) float32 and steps (1,) int32, counting this one, on the GPU: they may change between repetitions of a recorded
    launch.
    Raises ValueError for gradients that do not have as many entries as p.
    """
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
        arrays = p[begin:end], table, m[begin:end], v[begin:end], rate, steps
        compile.kernel("adam", "adam")((-(-size // CHUNK),), (THREADS,), (*arrays, *numbers, np.int32(size)))
