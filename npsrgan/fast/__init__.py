"""The fast twins: the same operations again, written for speed on NumPy arrays; importing this package registers them.

`ops/` holds the reference. Here a convolution becomes a few large matrix products, work is cut into pieces that
stay in a core's cache, and a small pool of threads shares the pieces.  Every twin returns what its reference returns,
within rounding, and declines (returns NotImplemented) whatever it is not made for.

    memory.py         keep_memory(): for commands that run long
    threads.py        the pool: set_threads(n), parallel(work, jobs)
    im2col.py         convolution as one matrix product per piece of image: every shape
    winograd.py       3x3 at stride 1 with a quarter of the multiplications
    planes.py         few outputs: the 9x9 convolution from 64 channels to 3
    convolution.py    chooses how to convolve, and registers the twin of conv2d
    blocks.py         elementwise work and sums, block by block in the cache
    activations.py    ReLU, LeakyReLU, PReLU
    normalisation.py  batch normalisation
    linear.py         the fully connected layer
    adam.py           Adam's update
    movement.py       max pooling, pixel shuffle, addition
"""
from npsrgan.fast import activations, adam, convolution, linear, movement, normalisation  # noqa: F401  (importing registers)
from npsrgan.fast.memory import keep_memory
from npsrgan.fast.threads import get_threads, set_threads

__all__ = ["get_threads", "keep_memory", "set_threads"]
