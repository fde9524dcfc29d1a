"""The fast twins: the same operations written for speed on NumPy arrays.  Importing this package registers them.

`ops/` holds the reference.  Here a convolution becomes a few large matrix products, work is split into pieces that fit in
a core's cache, and a small thread pool shares the pieces.  Every twin returns what its reference returns, within rounding,
and returns NotImplemented for inputs it does not support.

    memory.py         keep_memory(): for long-running commands
    threads.py        the pool: set_threads(n), parallel(work, jobs)
    im2col.py         convolution as one matrix product per piece of image, for every shape
    winograd.py       3x3 at stride 1 with a quarter of the multiplications
    kn2row.py         convolution with few outputs, such as the 9x9 from 64 channels to 3
    convolution.py    chooses the convolution method and registers the twin of conv2d
    blocks.py         elementwise operations and sums in cache-sized blocks
    activations.py    ReLU, LeakyReLU, PReLU
    normalisation.py  batch normalisation, alone and with the activation or addition after it
    linear.py         the fully connected layer
    fusion.py         fused operations, and the layers that use them
    adam.py           Adam's update
    rearrange.py      max pooling, pixel shuffle, addition
"""
from npsrgan.fast import activations, adam, convolution, fusion, linear, normalisation, rearrange  # noqa: F401  (importing registers)
from npsrgan.fast.memory import keep_memory
from npsrgan.fast.threads import get_threads, set_threads

__all__ = ["get_threads", "keep_memory", "set_threads"]
