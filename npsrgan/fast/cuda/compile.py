"""From a .cu file to a kernel that can be launched, and what the twins ask about the GPU and about their arrays.

CuPy compiles with NVRTC, for the GPU at hand, when a kernel is first launched, and keeps the result in ~/.cupy/kernel_cache.
"""
import re
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def source(name):
    """The text of NAME.cu, with the files that it includes put in their places."""
    def read(file):
        return re.sub(r'^#include "(.+)"$', lambda line: read(line[1]), (FOLDER / file).read_text(), flags=re.M)
    return read(f"{name}.cu")


def options(defines):
    """The compiler's options for {name: whole number or text} of macros."""
    return tuple(f"-D{name}={value}" for name, value in sorted(defines.items()))


@cache
def kernel(name, function, shared=0, **defines):
    """The __global__ function of NAME.cu, compiled with `defines` as macros: launch(grid, block, args).

    grid, block: tuples of whole numbers.     shared: bytes of dynamic shared memory for each block.
    args: arrays; np.int32 and np.float32 for int and float (Python's own numbers would be passed as 8 bytes); NULL for no array.
    """
    import cupy
    language = "--std=c++17"        # CuPy 14's choice; CuPy 13's is c++11
    raw = cupy.RawModule(code=source(name), options=(language, *options(defines))).get_function(function)
    if shared:          # more than 48 KB, arrays of fixed size included, a kernel must ask for
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
    """How many of its blocks the GPU really runs at the same time, if each fills a multiprocessor."""
    return _device().attributes["MultiProcessorCount"]


@cache
def shared_memory():
    """Bytes of shared memory that one block can have at most."""
    return _device().attributes["MaxSharedMemoryPerBlockOptin"]


def suits(*arrays):
    """CuPy arrays of float32: what the twins are for."""
    cupy = sys.modules.get("cupy")      # if nobody has imported it, nobody has arrays of it
    return cupy is not None and all(isinstance(a, cupy.ndarray) and a.dtype == np.float32 for a in arrays)


def empty(shape, like):
    """A new array of a shape, on the same device and of the same type as another."""
    return np.empty(shape, like.dtype, like=like)       # CuPy's empty_like takes the shape () for none given


def packed(array):
    """The array, or a copy of it, without gaps and at an address divisible by 16, as loads of four floats at a time demand.

    A parameter is a view into the flat buffer of its network, and may begin anywhere.
    """
    return array if array.flags.c_contiguous and address(array) % 16 == 0 else array.copy()


def address(array):
    """Where an array begins in the GPU's memory."""
    return array.data.ptr
