"""Reads pickles without running them.

A pickle is a program for a small stack machine, which may look up any function by name and call it.  The machine here
follows the instructions but calls nothing that a pickle names: a few names map to functions of its own, which make arrays, and
every other name gives an inert object, which only stores its contents.  The result consists of lists, tuples, dicts and arrays.
"""
import math
import mmap
import pickletools
import re
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from npsrgan.system.errors import UserError

BFLOAT16 = "bfloat16"       # a type that NumPy lacks: the upper half of a float32
_INSTRUCTIONS = 500_000   # at most; a network with its optimiser takes about ten thousand
# Names that no weights need.  They would not be run either, but the owner of such a file should be told.
_SYSTEM = {"os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "runpy", "importlib", "pty", "ctypes", "webbrowser", "pickle"}
_RUNNING = {"eval", "exec", "execfile", "compile", "open", "__import__", "getattr", "setattr", "input", "breakpoint"}


class Refused(UserError):
    """A file contains something that no program writes when saving weights."""


@contextmanager
def one_sentence(path):
    """Turn whatever damaged bytes raise, which can be nearly anything, into a UserError about the file."""
    try:
        yield
    except Refused as error:
        raise Refused(f"{path} was not read: {error}") from None
    except RecursionError:
        raise Refused(f"{path} was not read: it is nested deeper than any weights file") from None
    except UserError:
        raise
    except Exception as error:
        reason = str(error).replace("\n", " ")[:120] or type(error).__name__
        raise UserError(f"{path} is damaged or cut short ({ascii(reason)[1:-1]}): download it again") from error


class Stored:
    """An array in a file: its shape is known, and `read()` loads its values."""

    def __init__(self, shape, load):
        self.shape, self._load = tuple(shape), load

    def read(self):
        """The array: float32 for floating-point numbers of any size, else unchanged."""
        array = self._load()
        return np.array(array, np.float32 if array.dtype.kind == "f" else None, order="C")


class Named(NamedTuple):
    """A name that a pickle looks up."""

    module: str
    name: str


class Inert(dict):
    """Stands in for an object of a pickle: its attributes and its items, if they have names."""


class _DType:
    """Replaces numpy.dtype, for numbers."""

    def __init__(self, code):
        self.dtype = np.dtype(code)

    def build(self, state):
        """Set the byte order, which a pickle adds afterwards."""
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in ("<", ">", "=", "|") else "?")


class _Array(Stored):
    """Replaces numpy.ndarray: created empty, then filled."""

    def __init__(self, *_):
        super().__init__((0,), lambda: np.zeros(0, np.float32))

    def build(self, state):
        """Set the contents.  An array of anything but numbers stays empty."""
        _, shape, dtype, fortran, contents = state
        if isinstance(dtype, _DType):
            if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * dtype.dtype.itemsize != len(contents):
                raise Refused(f"an array of {len(contents)} bytes does not fit its shape")
            super().__init__(shape, lambda: _flat(dtype, contents).reshape(shape, order="F" if fortran else "C"))


def _flat(dtype, contents):
    return numbers(contents.encode("latin1") if isinstance(contents, str) else contents, dtype.dtype)


def numbers(contents, dtype):
    """A flat array from bytes.  dtype: NumPy's, or BFLOAT16."""
    if dtype == BFLOAT16:
        return (np.frombuffer(contents, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(contents, dtype)


def named(pairs):
    """A dict of the pairs whose keys are strings or integers.  Other keys could take forever to hash, and no weights use them."""
    return {key: value for key, value in pairs if isinstance(key, (str, int))}


# Functions for names in any pickle.  Old pickles write bytes as text and a call that encodes it.
FUNCTIONS = {("collections", "OrderedDict"): lambda pairs=(): named(pairs), ("_codecs", "encode"): lambda text, encoding: text,
             ("__builtin__", "bytes"): lambda *_: b"",
             ("numpy", "dtype"): lambda code, *_: _DType(code) if re.fullmatch("[fiu][1248]|b1", code) else Inert(),
             **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
             **{(f"numpy.{core}.multiarray", "scalar"): lambda dtype, contents: _flat(dtype, contents[:8])[0].item()
                if isinstance(dtype, _DType) else None for core in ("core", "_core")}}


class _Machine:
    """The machine that interprets a pickle.  It has one method per kind of instruction; the table below them maps opcodes to methods."""

    def __init__(self, functions, persistent):
        self.functions, self.persistent, self.stack, self.marked, self.memo = functions, persistent, [], [], {}

    def run(self, file):
        for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            if count == _INSTRUCTIONS:
                raise Refused(f"it has more than {_INSTRUCTIONS} instructions; weights need some ten thousand")
            if instruction.name == "STOP":
                return self.stack.pop()
            STEPS[instruction.name](self, argument)

    def push(self, value):
        self.stack.append(value)

    def mark(self, _):
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self):
        items, self.stack = self.stack, self.marked.pop()
        return items

    def pop(self, count):
        items = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return items

    def keep(self, place):
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def extend(self, items):
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)

    def update(self, items):
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(named(zip(items[::2], items[1::2], strict=True)))

    def ask(self, module, name):
        if module.split(".")[0] in _SYSTEM or module in ("builtins", "__builtin__") and name in _RUNNING:
            raise Refused(f"it asks to run {ascii(f'{module}.{name}'[:80])}, which no weights need; do not load it with other "
                          "programs either")
        self.push(Named(module, name))

    def call(self, function, arguments):
        known = isinstance(function, Named) and function in self.functions
        self.push(self.functions[function](*arguments) if known else Inert())

    def build(self, state):
        target = self.stack[-1]
        if isinstance(target, (_Array, _DType)):
            target.build(state)
        elif type(target) is Inert:
            for part in state if isinstance(state, tuple) else (state,):        # attributes, and slots
                target.update(part if isinstance(part, dict) else {})


def _refuse(machine, argument):
    raise Refused("it has an instruction that no weights need")


STEPS = {
    **dict.fromkeys(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
                     "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
                     "BINBYTES8", "BYTEARRAY8", "NONE"], _Machine.push),
    **dict.fromkeys(["PROTO", "FRAME"], lambda machine, argument: None),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"], _Machine.keep),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], lambda machine, place: machine.push(machine.memo[place])),
    **dict.fromkeys(["EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"], _refuse),
    **dict.fromkeys(["REDUCE", "NEWOBJ"], lambda machine, _: machine.call(*machine.pop(2))),
    **dict.fromkeys(["EMPTY_LIST", "EMPTY_SET"], lambda machine, _: machine.push([])),
    **dict.fromkeys(["LIST", "FROZENSET"], lambda machine, _: machine.push(machine.since_mark())),
    **dict.fromkeys(["APPENDS", "ADDITEMS"], lambda machine, _: machine.extend(machine.since_mark())),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.pop(1) if machine.stack else machine.since_mark(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "DICT": lambda machine, _: (items := machine.since_mark(), machine.push({}), machine.update(items)),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "GLOBAL": lambda machine, names: machine.ask(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.ask(*machine.pop(2)),
    "INST": lambda machine, names: (items := machine.since_mark(), machine.ask(*names.split(" ", 1)), machine.call(*machine.pop(1), items)),
    "OBJ": lambda machine, _: (items := machine.since_mark(), machine.call(items[0], items[1:])),
    "NEWOBJ_EX": lambda machine, _: machine.call(*machine.pop(3)[:2]),
    "BUILD": lambda machine, _: machine.build(*machine.pop(1)),
    "PERSID": lambda machine, argument: machine.push(machine.persistent(argument)),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(*machine.pop(1))),
}


def load(file, functions, persistent=_refuse):
    """Read one pickle from a binary file and leave the file position after it.

    functions:  {(module, name): function} to call for these names.
    persistent: the function that resolves persistent ids (PyTorch's storages).
    Raises Refused for a pickle that asks to run something or does not end, and nearly any exception for damaged bytes.
    """
    return _Machine(functions, persistent).run(file)


@contextmanager
def mapped(path):
    """A file opened for reading; a read beyond its end returns what is there, without reserving memory for the rest."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        yield memory
