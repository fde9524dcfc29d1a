"""Reads and writes PyTorch files without PyTorch: today's zip archives, and (reading only) the format before version 1.6.

A zip archive holds `NAME/data.pkl`, a pickle in which every tensor is a call (storage, offset, size, stride), and the
storages, raw numbers, as `NAME/data/0`, `NAME/data/1`, ...  The older format is five pickles one after another (a magic
number, the version, the machine, the object, the order of the storages), then each storage: its length and its numbers.
"""
import io
import math
import pickle
import zipfile
from functools import cached_property, partial

import numpy as np

from npsrgan.convert.pickles import BFLOAT16, FUNCTIONS, Named, Refused, Stored, load, mapped, numbers, one_sentence
from npsrgan.system.errors import UserError

_INFLATED, _LARGEST = 8, 400_000_000        # limits for compressed members: ratio to the file's size, and bytes
_PROGRAM = 64_000_000                       # bytes of a pickle, without its tensors
_DTYPES = {"BFloat16": BFLOAT16, **{name: np.dtype(code) for name, code in {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1",
    "Bool": "?"}.items()}}


class _Storage:
    """A run of numbers in the file, read once, when a tensor in it is first needed."""

    def __init__(self, dtype, length, load=None):
        self.dtype, self.length = dtype, length
        self.bytes = self.length * (2 if dtype == BFLOAT16 else dtype.itemsize)
        self.load = load        # () -> bytes; in the older format, known only after a pass through the whole file

    @cached_property
    def array(self):
        return numbers(self.load(), self.dtype)


def _tensor(storage, offset, size, stride, *_):
    """Replaces torch._utils._rebuild_tensor: a view of a storage, which must not reach beyond it or be larger than it."""
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1
    if not (len(size) == len(stride) and all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
            and math.prod(size) <= storage.length and (0 in size or reach <= storage.length)):
        raise Refused("a tensor does not fit its storage")

    def view():
        array = storage.array[offset:]
        steps = [array.itemsize * step if n > 1 else 0 for n, step in zip(size, stride)]
        return np.lib.stride_tricks.as_strided(array, size, steps, writeable=False)
    return Stored(size, view)


def _as_pickled(function, _, arguments, *__):
    """Replaces torch._tensor._rebuild_from_type_v2, which calls the function for a tensor with attributes."""
    return _FUNCTIONS[function](*arguments)


_FUNCTIONS = FUNCTIONS | {
    ("torch._utils", "_rebuild_tensor"): _tensor, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _as_pickled,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor}


def read_zip(path):
    """The object in a zip archive written by torch.save.  Raises UserError for other zip archives and for damaged ones."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"{path} is cut short: it is a zip archive without its end, perhaps because a download broke off; "
                        "download it again") from None
    members = {member.filename: member for member in archive.infolist()}
    folders = [name[:-len("data.pkl")] for name in members if name.split("/")[-1] == "data.pkl" and "__MACOSX" not in name]
    if len(folders) != 1:
        raise UserError(f"{path} is a zip archive, but torch.save did not write it: it holds no data.pkl")
    folder = folders[0]
    if folder + "constants.pkl" in members:
        raise UserError(f"{path} is a TorchScript program, not a state dict: load it with torch.jit.load and save its state_dict()")
    # PyTorch never compresses, but some files have been unpacked and zipped again.
    size, packed = path.stat().st_size, [member.file_size for member in members.values() if member.compress_type]
    if sum(member.file_size for member in members.values()) - sum(packed) > size or sum(packed) > min(_INFLATED * size, _LARGEST):
        raise Refused("it claims to hold more than it can")

    def contents(name, most=_LARGEST):
        if members[name].file_size > most:
            raise Refused("it claims to hold more than it can")
        with one_sentence(path):
            return archive.read(members[name])

    if folder + "byteorder" in members and contents(folder + "byteorder", 10) == b"big":
        raise UserError(f"{path} was written on a big-endian machine: save it again on a little-endian one")
    storages = {}

    def storage(pid):
        kind, dtype, key, _, length = pid
        made = _storage(storages, kind, dtype, key, length, lambda: contents(f"{folder}data/{key}", size))
        if members[f"{folder}data/{key}"].file_size != made.bytes:
            raise Refused("a storage does not have the size that it states")
        return made
    return load(io.BytesIO(contents(folder + "data.pkl", _PROGRAM)), _FUNCTIONS, storage)


def _storage(storages, kind, dtype, key, length, load=None):
    """The _Storage for this key, created on first use."""
    if (kind != "storage" or type(key) is not str or type(length) is not int or length < 0
            or not isinstance(dtype, Named) or dtype.name.removesuffix("Storage") not in _DTYPES):
        raise Refused("a tensor is stored in an unknown way")
    return storages.setdefault(key, _Storage(_DTYPES[dtype.name.removesuffix("Storage")], length, load))


def read_legacy(path):
    """The object in a file written by torch.save before version 1.6.  Raises UserError for a damaged one."""
    storages = {}

    def storage(pid):
        if pid[0] == "module":          # the source code of a class, in files with a whole network
            return pid[1]
        kind, dtype, key, _, length, view = pid
        if view is not None:
            raise Refused("a storage is a view of another")
        return _storage(storages, kind, dtype, key, length)

    with mapped(path) as file:
        for _ in ("magic number", "version"):
            load(file, {})
        if not load(file, {}).get("little_endian", True):
            raise UserError(f"{path} was written on a big-endian machine: save it again on a little-endian one")
        found = load(file, _FUNCTIONS, storage)
        size = path.stat().st_size
        for key in load(file, {}):
            length, offset = int.from_bytes(file.read(8), "little"), file.tell()
            if key not in storages or length != storages[key].length or offset + storages[key].bytes > size:
                raise UserError(f"{path} is damaged or cut short, because tensors are missing: download it again")
            storages[key].load = partial(np.fromfile, path, np.uint8, storages[key].bytes, offset=offset)
            file.seek(offset + storages[key].bytes)
    if any(storage.load is None for storage in storages.values()):
        raise UserError(f"{path} is damaged: some of its tensors have no numbers; download it again")
    return found


def write(file, arrays):
    """Write {name: float32 array} to a binary file as a state dict, which torch.load(..., weights_only=True) reads."""
    arrays = {name: np.asarray(array, "<f4", order="C") for name, array in arrays.items()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        def member(name, contents):
            archive.writestr(zipfile.ZipInfo(f"weights/{name}"), contents)      # dated 1980, so that the same weights give the same bytes

        member("data.pkl", _state_dict(arrays))
        member("byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            member(f"data/{key}", array.tobytes())
        member("version", b"3\n")


def _state_dict(arrays):
    """The pickle of an OrderedDict of tensors, assembled by hand: Python's own pickler would need to import torch."""
    def name_of(module, name):
        return pickle.GLOBAL + f"{module}\n{name}\n".encode()

    def plain(value):
        return pickle.dumps(value, 2)[2:-1]         # without the protocol at the start and the STOP opcode (a full stop) at the end

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
