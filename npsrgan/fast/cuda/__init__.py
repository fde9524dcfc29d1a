"""The fast twins for an NVIDIA GPU: CUDA kernels written by hand, compiled when first used; importing registers them.

`device.select` imports this package when it has found a GPU; on a CPU nothing of it loads.

    compile.py        from a .cu file to a kernel that can be launched; what the twins ask about the GPU and their arrays
    precision.py      set_precision("float32" | "tf32")
    adam.py           Adam's update of a flat buffer, one kernel
    convolution.py    chooses how to convolve; conv2d, alone and with the activation that follows
    implicit.py       convolution as matrix products whose large factor is never laid out: every shape
    tiles.py          the tiles into which these products are cut
    planes.py         few outputs: the 9x9 convolution from 64 channels to 3
    blas.py           matrix products that a CUDA graph can record
    linear.py         the fully connected layer
    rows.py           how threads lie over rows of channels
    sums.py           sums over rows in a fixed order
    normalisation.py  batch normalisation, alone and with what follows it
    activations.py    ReLU, LeakyReLU, PReLU, softplus
    movement.py       max pooling, pixel shuffle, alone and with PReLU, addition
    losses.py         the mean squared error
"""
from npsrgan.fast.cuda import activations, adam, convolution, linear, losses, movement, normalisation  # noqa: F401  (importing registers)
from npsrgan.fast.cuda.precision import get_precision, set_precision

__all__ = ["get_precision", "set_precision"]
