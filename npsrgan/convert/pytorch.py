"""PyTorch's files, read and written without PyTorch: the zip archives of today, and the format from before version 1.6.

A zip archive holds `NAME/data.pkl`, a pickle in which every tensor is a call (which storage, offset, size, stride), and the
storages, plain numbers, as `NAME/data/0`, `NAME/data/1`, ...  The older format is five pickles one after another (a magic
number, the version, the machine, the object, the order of the storages), then each storage: its length and its numbers.
"""
import io
import math
import operator
import pickle
import zipfile
from functools import cached_property

import numpy as np

from npsrgan.convert.pickles import BFLOAT16, PLAIN, Sealed, Stored, load, numbers, one_sentence
from npsrgan.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"BFloat16": BFLOAT16, **{name: np.dtype(code) for name, code in {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1",
    "Bool": "?"}.items()}}


class _Storage(Sealed):
    """A run of numbers in the file, read once, when a tensor in it is asked for."""

    def __init__(self, dtype, length, load=None):
        self.dtype, self.length = dtype, operator.index(length)
        self.bytes = self.length * (2 if dtype == BFLOAT16 else dtype.itemsize)
        self.load = load        # () -> bytes; of the older format known only when the whole file was gone through

    @cached_property
    def array(self):
        return numbers(self.load(), self.dtype)


def _tensor(storage, offset, size, stride, *_):
    """In place of torch._utils._rebuild_tensor: a view of a storage, which must not reach beyond it nor be larger than it."""
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if not (all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
            and math.prod(size) <= storage.length and (0 in size or reach <= storage.length)):
        raise ValueError(f"a tensor of size {size} and stride {stride} at {offset} that does not fit its storage")

    def view():
        array = storage.array[offset:]
        steps = [array.itemsize * step if n > 1 else 0 for n, step in zip(size, stride)]
        return np.lib.stride_tricks.as_strided(array, size, steps, writeable=False)
    return Stored(size, view)


_ADMITTED = PLAIN | {
    ("torch._utils", "_rebuild_tensor"): _tensor, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): tuple, ("torch", "device"): lambda *_: "device",
    **{(module, f"{name}Storage"): dtype for module in ("torch", "torch.cuda") for name, dtype in _DTYPES.items()}}


def read_zip(path):
    """The object in a zip archive of torch.save.  Raises UserError for other zip archives and for damaged ones."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"{path} is cut short: a zip archive without its end, as of a download that broke off; "
                        "download it again") from None
    members = {member.filename: member for member in archive.infolist()}
    folders = [name[:-len("data.pkl")] for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(folders) != 1:
        raise UserError(f"{path} is a zip archive, but not one of torch.save: it holds no data.pkl")
    folder = folders[0]
    if folder + "constants.pkl" in members:
        raise UserError(f"{path} is a TorchScript program, not a state dict: load it with torch.jit.load "
                        "and save its state_dict()")
    # PyTorch never compresses, so what the members claim to hold fits into the file, or is a trap (a "zip bomb").
    if sum(member.file_size for member in members.values()) > path.stat().st_size:
        raise UserError(f"{path} is not as torch.save writes it: what is in it is larger than the file, compressed or invented")

    def contents(name):
        with one_sentence(path):
            return archive.read(members[name])

    if folder + "byteorder" in members and contents(folder + "byteorder") == b"big":
        raise UserError(f"{path} was written on a big-endian machine, whose numbers are not read here")
    storages = {}

    def storage(pid):
        kind, dtype, key, _, length = pid
        name = folder + "data/" + key
        if name not in storages:
            storages[name] = _Storage(dtype.stand_in, length, lambda: contents(name))
        if kind != "storage" or members[name].file_size != storages[name].bytes:
            raise ValueError(f"the storage {ascii(key)} has another size than the tensors in it")
        return storages[name]
    return load(io.BytesIO(contents(folder + "data.pkl")), path, _ADMITTED, storage)


def read_legacy(path):
    """The object in a file of torch.save before version 1.6.  Raises UserError for a damaged one."""
    storages = {}

    def storage(pid):
        kind, dtype, key, _, length, view = pid
        if kind != "storage" or view is not None:
            raise ValueError("a view of a storage")
        return storages.setdefault(key, _Storage(dtype.stand_in, length))

    def placed(offset, count):
        def contents():
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(count)
        return contents

    with open(path, "rb") as file:
        for _ in ("magic number", "version"):
            load(file, path, {})
        if not load(file, path, {}).get("little_endian", True):
            raise UserError(f"{path} was written on a big-endian machine, whose numbers are not read here")
        found = load(file, path, _ADMITTED, storage)
        size = path.stat().st_size
        for key in load(file, path, {}):
            length, offset = int.from_bytes(file.read(8), "little"), file.tell()
            if key not in storages or length != storages[key].length or offset + storages[key].bytes > size:
                raise UserError(f"{path} is damaged or cut short: it should hold more tensors than it does; download it again")
            storages[key].load = placed(offset, storages[key].bytes)
            file.seek(offset + storages[key].bytes)
    if any(storage.load is None for storage in storages.values()):
        raise UserError(f"{path} is damaged: some of its tensors have no numbers")
    return found


def write(file, arrays):
    """Write {name: float32 array} to a binary file as a state dict, which torch.load(..., weights_only=True) reads."""
    arrays = {name: np.asarray(array, "<f4", order="C") for name, array in arrays.items()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        def member(name, contents):
            archive.writestr(zipfile.ZipInfo(f"weights/{name}"), contents)      # dated 1980: the same weights give the same bytes

        member("data.pkl", _state_dict(arrays))
        member("byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            member(f"data/{key}", array.tobytes())
        member("version", b"3\n")


def _state_dict(arrays):
    """The pickle of an OrderedDict of tensors, put together by hand: Python's own writer would have to import torch."""
    def name_of(module, name):
        return pickle.GLOBAL + f"{module}\n{name}\n".encode()

    def plain(value):
        return pickle.dumps(value, 2)[2:-1]         # without the protocol in front and the full stop at the end

    empty = name_of("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    program = pickle.PROTO + b"\2" + empty + pickle.MARK
    for key, (name, array) in enumerate(arrays.items()):
        storage = (pickle.MARK + plain("storage") + name_of("torch", "FloatStorage") + plain(str(key)) + plain("cpu")
                   + plain(array.size) + pickle.TUPLE + pickle.BINPERSID)
        stride = tuple(step // array.itemsize for step in array.strides)
        program += (plain(name) + name_of("torch._utils", "_rebuild_tensor_v2")
                    + pickle.MARK + storage + plain(0) + plain(array.shape) + plain(stride) + plain(False) + empty
                    + pickle.TUPLE + pickle.REDUCE)
    return program + pickle.SETITEMS + pickle.STOP
