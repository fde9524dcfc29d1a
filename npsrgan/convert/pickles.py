"""Reading pickles without running them.

A pickle is a program: it may ask for any function by name and call it.  The reader here knows a short list of names, and what
answers to them are stand-ins of our own, which make nothing but arrays and plain containers.  Asked for anything else, it
refuses the whole file.
"""
import pickle
import pickletools
import re
from contextlib import contextmanager

import numpy as np

from npsrgan.errors import UserError

BFLOAT16 = "bfloat16"       # a type that NumPy does not have: the upper half of a float32


class Refused(UserError):
    """A pickle that asks for more than arrays and plain containers."""


@contextmanager
def one_sentence(path):
    """Whatever damaged bytes raise, and they can raise nearly anything, becomes a UserError about the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).replace("\n", " ")[:120] or type(error).__name__
        raise UserError(f"{path} is damaged or cut short ({reason}): download it again") from error


def load(file, path, admitted, persistent=None):
    """Read one pickle from a binary file, and leave the file behind it.

    path:       for the error messages.
    admitted:   {(module, name): stand-in}, what it may ask for.
    persistent: the function that answers persistent ids (PyTorch's storages); None: there are none.
    Raises Refused for a pickle that asks for anything else, and nearly any exception for damaged bytes.
    """
    start = file.tell()
    _check_memo(file)
    file.seek(start)
    return _Unpickler(file, path, admitted, persistent).load()


def _check_memo(file):
    """Go through the instructions of a pickle without following them.

    Python's reader keeps a table as long as the largest index a pickle says; one that writes to slot four thousand million
    would fill the memory.  Honest ones count up from 0.
    """
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise ValueError("a memo index out of order")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, path, admitted, persistent):
        super().__init__(file, encoding="latin1")       # what Python 2 called a string was bytes
        self.path, self.admitted, self.persistent = path, admitted, persistent

    def find_class(self, module, name):
        if (module, name) not in self.admitted:
            raise Refused(f"{self.path} was not read: it asks for {ascii(f'{module}.{name}'[:80])}, and only tensors and plain "
                          "containers are read from a pickle; where it holds a whole network, save its state_dict() instead")
        return Admitted(self.admitted[module, name])

    def persistent_load(self, pid):
        if self.persistent is None:
            raise ValueError("a persistent id")
        return self.persistent(pid)


class Sealed:
    """What a pickle may hold but not change: its BUILD instruction, which sets attributes, is refused."""

    def __setstate__(self, state):
        raise ValueError("an instruction to change what must not change")


class Admitted(Sealed):
    """What a pickle gets for a name it may ask for: something to call or to pass on."""

    def __init__(self, stand_in):
        self.stand_in = stand_in

    def __call__(self, *arguments):
        return self.stand_in(*arguments)


class Stored(Sealed):
    """An array of known shape in a file, whose values are read when `read()` asks for them."""

    def __init__(self, shape, load):
        self.shape, self._load = tuple(shape), load

    def read(self):
        """The array: float32 where the file has floating-point numbers of any size, else as it is."""
        array = self._load()
        return np.array(array, np.float32 if array.dtype.kind == "f" else None, order="C")


def numbers(contents, dtype):
    """The array of a NumPy type, or BFLOAT16, in some bytes."""
    if dtype == BFLOAT16:
        return (np.frombuffer(contents, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(contents, dtype)


class Dict(dict):
    """In place of OrderedDict.  What BUILD would add (PyTorch's _metadata) is left out."""

    def __setstate__(self, state):
        pass


class _DType(Sealed):
    """In place of numpy.dtype, for numbers only."""

    def __init__(self, code, *_):
        if not re.fullmatch("[fiu][1248]|b1", code):
            raise ValueError(f"the array type {ascii(code[:20])}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("a byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(Stored):
    """In place of numpy.ndarray: made empty by `_reconstruct`, then filled by BUILD."""

    def __init__(self, *_):
        super().__init__((0,), lambda: np.zeros(0, np.float32))

    def __setstate__(self, state):
        _, shape, dtype, fortran, contents = state
        array = _numbers(dtype, contents).reshape(shape, order="F" if fortran else "C")
        super().__init__(array.shape, lambda: array)


def _numbers(dtype, contents):
    return numbers(contents.encode("latin1") if isinstance(contents, str) else contents, dtype.dtype)


def _encode(text, encoding):
    """In place of codecs.encode, by which old pickles write bytes."""
    if encoding != "latin1":
        raise ValueError("an encoding")
    return text.encode("latin1")


def _not_to_be_called(*_):
    raise ValueError("a call of what is only to be named")


PLAIN = {("collections", "OrderedDict"): Dict, ("collections", "Counter"): Dict, ("_codecs", "encode"): _encode,
         ("__builtin__", "bytes"): lambda: b"", ("__builtin__", "set"): set, ("builtins", "set"): set,
         ("numpy", "ndarray"): _not_to_be_called, ("numpy", "dtype"): _DType,
         **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
         **{(f"numpy.{core}.multiarray", "scalar"): lambda *number: _numbers(*number).item() for core in ("core", "_core")}}
