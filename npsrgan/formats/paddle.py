"""Paddle's .pdparams: a pickle of a dict of NumPy arrays."""
import math

import numpy as np

from npsrgan.formats.pickles import PLAIN, Stored, load

_NAMES = "StructuredToParameterName@@"      # {name in the network: name of the variable}, in the network's order
_SLICES = "UnpackBigParamInfor@@"           # {name: its shape and its slices}, of arrays too large for pickles of protocol 2


def read(path):
    """The dict in a .pdparams file, sliced arrays put together and in their place, Paddle's own entries left out."""
    with open(path, "rb") as file:
        found = load(file, path, PLAIN)
    if not isinstance(found, dict):
        return found
    names = found.pop(_NAMES, {})
    for name, sliced in found.pop(_SLICES, {}).items():
        found[name] = _joined(tuple(sliced["OriginShape"]), [found.pop(part) for part in sliced["slices"]])
    return {name: found[name] for name in names if name in found} | found


def _joined(shape, slices):
    if math.prod(shape) != sum(math.prod(part.shape) for part in slices):
        raise ValueError(f"slices that do not make an array of shape {shape}")
    return Stored(shape, lambda: np.concatenate([part.read() for part in slices]).reshape(shape))
