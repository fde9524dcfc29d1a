"""Where arrays live: NumPy's on the CPU, CuPy's on the GPU.  CuPy is imported here and only when asked for."""
from typing import Any, NamedTuple

import numpy as np

from npsrgan.errors import UserError


class Device(NamedTuple):
    """`module` is numpy or cupy; `description` names the device in one line."""

    module: Any
    description: str

    def array(self, values):
        """A copy of `values`, on this device."""
        return self.module.array(values)


CPU = Device(np, "CPU, NumPy " + np.__version__)


def to_numpy(array):
    """The array itself if it is NumPy's, else a copy in main memory."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def select(choice="auto"):
    """The device for "cpu", "gpu" or "auto", and a remark (or None) for the user.

    "auto" takes the GPU if it can multiply two small matrices, and otherwise the CPU, with the reason as the remark.
    Raises UserError for "gpu" where there is none to use.
    """
    if choice == "cpu":
        return CPU, None
    try:
        return _gpu(), None
    except UserError as reason:
        if choice == "gpu":
            raise
        return CPU, f"using the CPU: {reason}"


def _gpu():
    try:
        import cupy
    except ImportError:
        raise UserError('CuPy is not installed; for an NVIDIA GPU: pip install "cupy-cuda12x[ctk]"') from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise UserError(f"no usable NVIDIA driver ({_first_line(error)}); install one for CUDA 12 or newer, or use --device cpu") from None
    if not count:
        raise UserError("the NVIDIA driver finds no GPU; use --device cpu")
    try:        # CuPy imports well without CUDA's libraries and fails at the first product: so make one
        ones = cupy.ones((8, 8), np.float32)
        if float((ones @ ones).sum()) != 512:
            raise RuntimeError("a product of two matrices came out wrong")
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception as error:
        raise UserError(f'the GPU does not compute ({_first_line(error)}); CUDA\'s libraries may be missing: '
                        'pip install "cupy-cuda12x[ctk]"') from None
    import npsrgan.fast.cuda  # noqa: F401  (registers the twins for CuPy's arrays)
    return Device(cupy, f"{name}, CuPy {cupy.__version__}")


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
