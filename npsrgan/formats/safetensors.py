"""safetensors: the length of a JSON header, the header (each tensor's type, shape and place), the numbers."""
import json
import math

import numpy as np

from npsrgan.formats.pickles import Stored

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
           "BOOL": "?"}


def read(path):
    """{name: tensor} of a .safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
    numbers = np.memmap(path, np.uint8, "r", offset=8 + length) if path.stat().st_size > 8 + length else np.zeros(0, np.uint8)

    def tensor(entry):
        dtype, (start, stop), shape = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"], entry["shape"]
        if not 0 <= start <= stop <= numbers.size or math.prod(shape) * dtype.itemsize != stop - start:
            raise ValueError("a tensor that reaches beyond the file")
        return Stored(shape, lambda: numbers[start:stop].view(dtype).reshape(shape))
    return {name: tensor(entry) for name, entry in header.items() if name != "__metadata__"}
