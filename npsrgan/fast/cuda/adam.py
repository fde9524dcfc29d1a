"""Adam's update of a flat buffer in one kernel: seven floats moved per parameter, and no more."""
import math

import numpy as np

from npsrgan.fast.cuda import compile

THREADS = 256


def update(p, g, m, v, rate, steps, beta1, beta2, eps):
    """One step of algorithm 1 of Kingma and Ba 2015, in place.

    p, g, m, v: parameters, their gradient and its two running means; flat, float32, on the GPU.
    rate (1,) float32 and steps (1,) int32, counting this one, on the GPU: they may change between repetitions of a recorded
    launch.
    """
    blocks = min(-(-p.size // THREADS), 32 * compile.multiprocessors())
    numbers = map(np.float32, (1 - beta1, 1 - beta2, math.log(beta1), math.log(beta2), eps))
    compile.kernel("adam", "adam")((blocks,), (THREADS,), (p, g, m, v, rate, steps, *numbers, np.int32(p.size)))
