"""safetensors: the length of a JSON header, the header (each tensor's type, shape and place), the numbers."""
import json
import math

import numpy as np

from npsrgan.convert.pickles import BFLOAT16, Stored, numbers

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
           "U8": "u1", "BOOL": "?"}


def read(path):
    """{name: tensor} of a .safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
    contents = np.memmap(path, np.uint8, "r")[8 + length:]

    def tensor(entry):
        dtype, (start, stop), shape = _DTYPES[entry["dtype"]], entry["data_offsets"], entry["shape"]
        size = 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
        if not 0 <= start <= stop <= contents.size or math.prod(shape) * size != stop - start or min(shape, default=0) < 0:
            raise ValueError("a tensor that reaches beyond the file")
        return Stored(shape, lambda: numbers(contents[start:stop], dtype).reshape(shape))
    return {name: tensor(entry) for name, entry in header.items() if name != "__metadata__"}
