"""Where arrays live: NumPy's on the CPU, CuPy's on the GPU.  CuPy is imported only here, and only when a GPU is asked for."""
from typing import Any, NamedTuple

import numpy as np

from npsrgan.system.errors import UserError, first_line


class Device(NamedTuple):
    """`module` is numpy or cupy; `description` names the device in one line."""

    module: Any
    description: str

    @property
    def cuda(self):
        """The module `cupy.cuda` (streams, events, memory); None on a CPU."""
        return getattr(self.module, "cuda", None)

    def array(self, values):
        """A copy of `values` on this device."""
        return self.module.array(values)


CPU = Device(np, "CPU, NumPy " + np.__version__)


def to_numpy(array):
    """The array itself if it is a NumPy array, else a copy in main memory."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def select(choice="auto", number=0):
    """The device for "cpu", "gpu" or "auto", and a remark (or None) for the user.  number: of the GPU, modulo how many there are.

    "auto" selects the GPU if it can multiply two small matrices, otherwise the CPU, with the reason as the remark.
    Raises UserError for "gpu" if no GPU can be used.
    """
    if choice == "cpu":
        return CPU, None
    try:
        return _gpu(number), None
    except UserError as reason:
        if choice == "gpu":
            raise
        return CPU, "no NVIDIA GPU found: computing on the CPU" if isinstance(reason, NoGPU) else f"computing on the CPU: {reason}"


class NoGPU(UserError):
    """There is no GPU.  With "auto", this is not an error."""


def _gpu(number):
    try:
        import cupy
        runtime = cupy.cuda.runtime
    except Exception as error:      # a broken installation raises more than ImportError
        if getattr(error, "name", None) == "cupy" and isinstance(error, ImportError):
            raise UserError('CuPy is not installed; for an NVIDIA GPU: pip install "cupy-cuda12x[ctk]"') from None
        raise UserError(f"CuPy is installed but cannot be imported ({first_line(error.__cause__ or error)}): install it again") from None
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        raise _driver(runtime, error) from None
    if not count:
        raise NoGPU("no NVIDIA GPU found; use --device cpu")
    number %= count
    cupy.cuda.Device(number).use()
    try:        # without CUDA's libraries, CuPy can be imported but fails at the first matrix product: try one
        ones = cupy.ones((8, 8), np.float32)
        if float((ones @ ones).sum()) != 512:
            raise RuntimeError("a matrix product came out wrong")
        name = runtime.getDeviceProperties(number)["name"].decode()
    except MemoryError:
        raise UserError("the GPU's memory is full: end other programs that use the GPU, or use --device cpu") from None
    except Exception as error:
        raise UserError(f'the GPU does not work ({first_line(error)}); if CUDA\'s libraries are missing: '
                        f'pip install "cupy-cuda{runtime.runtimeGetVersion() // 1000}x[ctk]"') from None
    import npsrgan.fast.cuda  # noqa: F401  (registers the operations for CuPy's arrays)
    return Device(cupy, f"{name}, CuPy {cupy.__version__}")


def _driver(runtime, error):
    """The error for a driver that cannot count its GPUs.  It says what to do."""
    try:
        has, needs = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except Exception:
        has = needs = None
    if has and has < needs // 1000 * 1000:      # within a major version, newer libraries run on an older driver
        return UserError(f"the NVIDIA driver is too old: it supports CUDA {_version(has)}, but this CuPy needs CUDA {_version(needs)}; "
                         "install a newer driver, or use --device cpu")
    if not has:     # version 0: no driver is installed
        return NoGPU("no NVIDIA GPU found; use --device cpu")
    return UserError(f"no usable NVIDIA driver ({first_line(error)}); install one for CUDA 12 or newer, or use --device cpu")


def _version(number):
    """12090 -> "12.9"."""
    return f"{number // 1000}.{number % 1000 // 10}"
