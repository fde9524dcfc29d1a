"""Compiles .cu files into launchable kernels, and answers the twins' queries about the GPU and about arrays.

CuPy compiles a kernel with NVRTC for the current GPU on its first launch, and caches the result in ~/.cupy/kernel_cache.
"""
import re
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def source(name):
    """The text of NAME.cu with its includes expanded."""
    def read(file):
        return re.sub(r'^#include "(.+)"$', lambda line: read(line[1]), (FOLDER / file).read_text(), flags=re.M)
    return read(f"{name}.cu")


def options(defines):
    """The compiler options for macros {name: integer or text}."""
    return tuple(f"-D{name}={value}" for name, value in sorted(defines.items()))


@cache
def kernel(name, function, shared=0, **defines):
    """The __global__ function of NAME.cu, compiled with `defines` as macros: launch(grid, block, args).

    grid, block: tuples of integers.     shared: bytes of dynamic shared memory per block.
    args: arrays; np.int32 and np.float32 for int and float (Python numbers would be passed as 8 bytes); NULL for no array.
    """
    import cupy
    language = "--std=c++17"        # CuPy 14's choice; CuPy 13's is c++11
    raw = cupy.RawModule(code=source(name), options=(language, *options(defines))).get_function(function)
    if shared:          # a kernel must request more than 48 KB, including static shared arrays
        raw.max_dynamic_shared_size_bytes = shared
    return partial(raw, shared_mem=shared)


NULL = np.intp(0)


@cache
def _device():
    import cupy
    return cupy.cuda.Device()


@cache
def capability():
    """The GPU's compute capability: 70 for 7.0, 90 for 9.0."""
    return int(_device().compute_capability)


@cache
def multiprocessors():
    """The number of streaming multiprocessors (SMs)."""
    return _device().attributes["MultiProcessorCount"]


@cache
def shared_memory():
    """The maximum bytes of shared memory per block."""
    return _device().attributes["MaxSharedMemoryPerBlockOptin"]


def supported(*arrays):
    """Whether all arguments are float32 CuPy arrays: the twins' supported inputs."""
    cupy = sys.modules.get("cupy")      # if CuPy is not imported, there are no CuPy arrays
    return cupy is not None and all(isinstance(a, cupy.ndarray) and a.dtype == np.float32 for a in arrays)


def empty(shape, like):
    """A new array of this shape, on the device and of the dtype of `like`."""
    return np.empty(shape, like.dtype, like=like)       # CuPy's empty_like treats the shape () as not given


def packed(array):
    """The array or a copy: contiguous and 16-byte aligned, as loads of four floats at a time require.

    A parameter is a view into the flat buffer of its network and may begin at any offset.
    """
    return array if array.flags.c_contiguous and address(array) % 16 == 0 else array.copy()


def address(array):
    """An array's address in GPU memory."""
    return array.data.ptr
