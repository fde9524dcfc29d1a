"""The fast twins for an NVIDIA GPU: handwritten CUDA kernels, compiled on first use.  Importing this package registers them.

`device.select` imports this package only if it finds a GPU.

    compile.py        compiles .cu files into launchable kernels; queries about the GPU and about arrays
    precision.py      set_precision("float32" | "tf32")
    adam.py           Adam's update of a flat buffer in one kernel
    convolution.py    chooses the convolution method; conv2d, alone and fused with an activation
    implicit_gemm.py  convolution as an implicit matrix product (no im2col buffer), for every shape
    tiles.py          the tiles of these matrix products
    kn2row.py         convolution with few outputs, such as the 9x9 from 64 channels to 3
    blas.py           matrix products that a CUDA graph can record
    linear.py         the fully connected layer
    rows.py           maps threads to rows of channels
    sums.py           sums over rows in a fixed order
    normalisation.py  batch normalisation, alone and fused with the operation that follows
    activations.py    ReLU, LeakyReLU, PReLU, softplus
    rearrange.py      max pooling; pixel shuffle, alone and fused with PReLU; addition
    losses.py         the mean squared error
    nccl.py           exchanges arrays between the GPUs of several processes
"""
from npsrgan.fast.cuda import activations, adam, convolution, linear, losses, normalisation, rearrange  # noqa: F401  (importing registers)
from npsrgan.fast.cuda.precision import get_precision, set_precision

__all__ = ["get_precision", "set_precision"]
