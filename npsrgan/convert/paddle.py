"""Paddle's .pdparams: a pickle of a dict of NumPy arrays."""
import math

import numpy as np
from tqdm import tqdm

from npsrgan.convert.pickles import FUNCTIONS, Refused, Stored, load, mapped
from npsrgan.system.terminal import progress

_NAMES = "StructuredToParameterName@@"      # {name in the network: name of the variable}, in the network's order
_SLICES = "UnpackBigParamInfor@@"           # {name: its shape and slices}, of arrays too large for pickle protocol 2


def read(path):
    """The dict in a .pdparams file, with sliced arrays reassembled in place and Paddle's own entries removed."""
    # These pickles hold the numbers themselves, half a gigabyte for a VGG19: hence the progress bar.
    with (mapped(path) as file,
          tqdm.wrapattr(file, "read", path.stat().st_size, **progress.keywords, desc="reading", delay=2, leave=False) as watched):
        found = load(watched, FUNCTIONS)
    if not isinstance(found, dict):
        return found
    names = found.pop(_NAMES, {})
    for name, sliced in found.pop(_SLICES, {}).items():
        found[name] = _joined(tuple(sliced["OriginShape"]), [found.pop(part) for part in sliced["slices"]])
    return {name: found[name] for name in names if name in found} | found


def _joined(shape, slices):
    if math.prod(shape) != sum(math.prod(part.shape) for part in slices):
        raise Refused("the slices of an array do not have its size")
    return Stored(shape, lambda: np.concatenate([part.read() for part in slices]).reshape(shape))
