"""safetensors files: the length of a JSON header, the header (each tensor's type, shape and position), then the numbers."""
import json
import math

import numpy as np

from npsrgan.convert.pickles import BFLOAT16, Refused, Stored, numbers

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
           "U8": "u1", "BOOL": "?"}
_HEADER = 8_000_000     # bytes; a network of a thousand tensors takes about 100,000


def read(path):
    """{name: tensor} of a .safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER:
            raise Refused("its header is larger than any network needs")
        header = json.loads(file.read(length))
    contents = np.memmap(path, np.uint8, "r")[8 + length:]

    def tensor(entry):
        dtype, (start, stop), shape = _DTYPES[entry["dtype"]], entry["data_offsets"], entry["shape"]
        size = 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
        if (not all(type(n) is int and n >= 0 for n in (start, stop, *shape)) or not start <= stop <= contents.size
                or math.prod(shape) * size != stop - start):
            raise Refused("a tensor reaches beyond the file, or does not fit its shape")
        return Stored(shape, lambda: numbers(contents[start:stop], dtype).reshape(shape))
    return {name: tensor(entry) for name, entry in header.items() if name != "__metadata__"}


def contents(arrays, about):
    """The bytes of a file of {name: float32 array}, with {name: text} as metadata."""
    header, place = {"__metadata__": about}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [place, place + 4 * array.size]}
        place += 4 * array.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)         # aligns the numbers to 8 bytes
    return len(text).to_bytes(8, "little") + text + b"".join(np.asarray(array, "<f4").tobytes() for array in arrays.values())
