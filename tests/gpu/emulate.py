"""CUDA kernels on the CPU: the same sources, built by g++ behind cuda_shim.h, launched by the very twins on NumPy arrays.

Inside `with emulated():` npsrgan.fast.cuda.compile hands out these kernels and takes NumPy's arrays for CuPy's.
"""
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from unittest import mock

import numpy as np

from npsrgan.fast.cuda import compile

GXX = shutil.which("g++")
SHIM = Path(__file__).with_name("cuda_shim.h")
BUILT = Path(tempfile.gettempdir(), "npsrgan-emulated-kernels")
MARGIN = 1024           # floats of NaN around every array: a kernel that reads them shows, one that writes them is caught
TYPES = {"f": np.float32, "i": np.int32}

falling = False         # the order in which the threads of a block run


@contextmanager
def emulated(capability=90, multiprocessors=4, shared_memory=227 << 10):
    """A GPU with these properties, made of g++ and NumPy."""
    def supported(*arrays):
        return all(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in arrays)

    def empty(shape, like):     # whatever is left unwritten shows
        return np.full(shape, np.nan, like.dtype)

    architecture = {} if capability >= 80 else {"__CUDA_ARCH__": 10 * capability}       # with the copies of old GPUs
    with mock.patch.multiple(compile, kernel=partial(kernel, **architecture), supported=supported, empty=empty,
                             address=lambda array: array.ctypes.data, capability=lambda: capability,
                             multiprocessors=lambda: multiprocessors, shared_memory=lambda: shared_memory):
        yield


@cache
def kernel(name, function, shared=0, **defines):
    """As compile.kernel."""
    if shared > 227 << 10:
        raise ValueError(f"{function} asks for {shared} bytes of shared memory: no GPU has so much")
    library = ctypes.CDLL(build(name, function, compile.options(defines)))
    library.kinds.restype = library.launch.restype = ctypes.c_char_p
    kinds = re.findall(r"\*?[fi?]", library.kinds().decode())

    def launch(grid, block, args):
        if type(grid) is not tuple or type(block) is not tuple:         # CuPy takes nothing else
            raise TypeError(f"{function} was given the sizes {grid} and {block}")
        if len(args) != len(kinds):
            raise TypeError(f"{function} takes {len(kinds)} arguments, not {len(args)}")
        if np.prod(block) > 1024 or max(grid[1:], default=1) > 65535:
            raise ValueError(f"no GPU runs a grid {grid} of blocks {block}")
        held = [_hold(kind, arg) for kind, arg in zip(kinds, args)]
        values = [ctypes.c_void_p(pointer) if kind[0] == "*" else pointer for kind, (pointer, _, _) in zip(kinds, held)]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        for _, room, view in held:
            if room is not None:
                library.know(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(view.nbytes))
        sizes = [(ctypes.c_uint * 3)(*size, *[1] * (3 - len(size))) for size in (grid, block)]
        if trouble := library.launch(*sizes, pointers, shared, int(falling)):
            raise RuntimeError(f"{function}, {trouble.decode()}")
        for arg, (_, room, view) in zip(args, held):
            if room is not None:
                assert _untouched(room, view), f"{function} wrote beyond the end of an array"
                if arg.flags.writeable:
                    arg[...] = view
                else:
                    assert np.array_equal(arg, view), f"{function} wrote into frozen weights"
    return launch


def _hold(kind, arg):
    """(a pointer to a copy of the array with a margin around it, the whole room, the copy), or (the number or struct, None, None)."""
    if kind == "?":         # a struct, as CuPy passes one: an array of one
        if arg.shape != (1,) or arg.dtype.names is None:
            raise TypeError(f"a kernel was given {arg!r} for a struct")
        return (ctypes.c_char * arg.nbytes).from_buffer_copy(arg), None, None
    dtype = TYPES[kind[-1]]
    if kind[0] != "*":
        if type(arg) is not dtype:
            raise TypeError(f"a kernel was given {arg!r} for {dtype.__name__}")
        return ctypes.c_float(float(arg)) if dtype is np.float32 else ctypes.c_int(int(arg)), None, None
    if isinstance(arg, np.intp) and arg == 0:
        return 0, None, None
    if arg.dtype != dtype or not arg.flags.c_contiguous:
        raise TypeError("a kernel was given an array of another type, or with gaps")
    room = np.full(arg.size + 2 * MARGIN + 64, np.nan).astype(np.float32).view(np.uint32)
    start = MARGIN + (arg.ctypes.data - room.ctypes.data) // 4 % 64        # at the same place between multiples of 256 bytes
    view = room[start:start + arg.size].view(dtype).reshape(arg.shape)
    view[...] = arg
    return view.ctypes.data, room, view


def _untouched(room, view):
    start = (view.ctypes.data - room.ctypes.data) // 4
    blank = np.float32(np.nan).view(np.uint32)
    return (room[:start] == blank).all() and (room[start + view.size:] == blank).all()


def build(name, function, options):
    """The path of the library that g++ makes of a kernel; the same text is built only once."""
    text = compile.source(name).replace("extern __shared__", "extern")      # the shim defines what they refer to
    key = _hash(text, *options, SHIM.read_text())
    library = BUILT / f"{function}-{key}.so"
    if not library.exists():
        BUILT.mkdir(exist_ok=True)
        own = [f"#define {option[2:].replace('=', ' ')}" for option in options if "__CUDA_ARCH__" not in option]
        source = library.with_name(f"{library.stem}-{os.getpid()}.cpp")
        source.write_text("\n".join([*own, text, f"EMULATE({function})"]))
        flags = [option for option in options if "__CUDA_ARCH__" in option]
        _gxx(*flags, "-include", str(_header(*flags)), str(source), "-shared", to=library)
        source.unlink()
    return str(library)


@cache
def _header(*flags):
    """The shim, parsed once for all kernels: with the C++ headers it includes, it takes longer than a kernel."""
    folder = BUILT / _hash(SHIM.read_text(), *flags)
    folder.mkdir(parents=True, exist_ok=True)
    header = folder / SHIM.name
    shutil.copy(SHIM, header)
    if not (folder / f"{SHIM.name}.gch").exists():
        _gxx(*flags, "-x", "c++-header", str(header), to=folder / f"{SHIM.name}.gch")
    return header


def _gxx(*arguments, to):
    part = to.with_name(f"{to.name}-{os.getpid()}")         # other processes may be building the same
    flags = ["-O1", "-w", "-U_FORTIFY_SOURCE", "-std=c++17", "-fPIC", "-ffp-contract=off"]
    subprocess.run([GXX, *flags, *arguments, "-o", str(part)], check=True)
    part.rename(to)


def _hash(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
