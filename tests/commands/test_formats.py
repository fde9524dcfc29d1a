"""Reading files from elsewhere: nothing in them is run, nothing in them fills the memory, and what is no weights is named."""
import io
import os
import pickle
import re
import struct
import sys
import zipfile

import numpy as np
import pytest

from npsrgan.convert import __main__ as convert
from npsrgan.convert import formats, pickles, pytorch
from npsrgan.convert.pickles import Stored
from npsrgan.system.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C          # the first number in PyTorch's files before version 1.6

# ---------------------------------------------------------------- pickles that want more than tensors


def called(module, name, *arguments, protocol=2):
    """A pickle that calls module.name(*arguments)."""
    found = (f"c{module}\n{name}\n".encode() if protocol == 2 else
             b"".join(pickle.SHORT_BINUNICODE + bytes([len(word)]) + word.encode() for word in (module, name)) + pickle.STACK_GLOBAL)
    return pickle.PROTO + bytes([protocol]) + found + pickle.dumps(arguments, 2)[2:-1] + pickle.REDUCE + pickle.STOP


class Reduces:
    """Pickled as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def hostile(marker):
    """{name: a pickle that, read carelessly, makes the file `marker`}."""
    touch, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    state = pickle.dumps({"os": 1}, 2)[2:-1]
    return {
        "os.system": pickle.dumps(Reduces(os.system, (touch,))),
        "os.system, protocol 4": called("posix", "system", touch, protocol=4),
        "builtins.eval": pickle.dumps(Reduces(eval, (code,))),
        "builtins.exec, by Python 2's name": called("__builtin__", "exec", code),
        "among tensors": pickle.dumps({"w": np.zeros(3), "x": Reduces(os.system, (touch,))}, 4),
        "as a key": b"\x80\x02}" + called("posix", "system", touch)[2:-1] + b"K\x01s.",
        "getattr of an admitted name": b"\x80\x02c__builtin__\ngetattr\nccollections\nOrderedDict\nX\x06\0\0\0__init\x86R.",
        "a dotted name below an admitted one": called("collections", "OrderedDict.fromkeys", "ab", protocol=4),
        "a module beside an admitted name": called("collections", "_sys.modules", protocol=4),
        "a pickle in a pickle": called("pickle", "loads", pickle.dumps(Reduces(os.system, (touch,)))),
        "numpy, running code": called("numpy.testing._private.utils", "runstring", code, {}),
        "numpy, loading a file": called("numpy", "load", str(marker)),
        "torch, loading a file": called("torch.serialization", "load", str(marker)),
        "torch, an unlisted rebuilder": called("torch._utils", "_rebuild_wrapper_subclass", 1),
        "subprocess": called("subprocess", "check_output", ["touch", str(marker)]),
        "an object by INST": b"(S" + repr(touch).encode() + b"\niposix\nsystem\n.",
        "an object by OBJ": b"(cposix\nsystem\nS" + repr(touch).encode() + b"\no.",
        "an object by NEWOBJ": b"\x80\x02cos\n_wrap_close\n)\x81.",
        "an object of an admitted class by NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        "an extension code": b"\x80\x02\x82\x01.",
        "a changed stand-in": b"\x80\x02ccollections\nOrderedDict\n" + state + b"b.",
        "a changed stand-in, by slots": b"\x80\x02c_codecs\nencode\nN" + state + b"\x86b.",
        "a changed tensor class": b"\x80\x02cnumpy\ndtype\nX\x02\0\0\0f4\x85RN" + state + b"\x86b.",
        "an encoding that is a codec": called("_codecs", "encode", "x", "zlib_codec"),
        "numpy.ndarray, called": called("numpy", "ndarray", (10**9, 10**3)),
        "an array of objects": called("numpy", "dtype", "O8"),
        "a persistent id": b"\x80\x02X\x01\0\0\0aQ.",
    }


def as_paddle(path, program):
    path.write_bytes(program)


def as_zip(path, program):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")


def as_legacy(path, program):
    path.write_bytes(pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
                     + program + pickle.dumps([], 2))


CONTAINERS = {"zip": as_zip, "before 1.6": as_legacy, "Paddle": as_paddle}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", hostile(""))
def test_a_hostile_pickle_is_refused_and_nothing_ran(tmp_path, capsys, name, container):
    marker, path = tmp_path / "marker", tmp_path / "weights"
    program = hostile(marker)[name]
    program = program if program.startswith(b"\x80") else b"\x80\x02" + program
    CONTAINERS[container](path, program)
    with pytest.raises(SystemExit) as end:
        convert.main([str(path), "-o", str(tmp_path / "out.h5")])
    sentence = capsys.readouterr().err
    assert end.value.code == 2 and sentence.count("\n") == 1
    assert re.match(f"error: {path} (was not read: |is damaged or cut short \\(|holds no state dict)", sentence)
    assert not marker.exists() and not (tmp_path / "out.h5").exists()
    if program.find(b"posix") > 0 or program.find(b"eval") > 0 or program.find(b"subprocess") > 0:
        assert "it asks to run '" in sentence


def test_the_hostile_pickles_are_no_dummies(tmp_path):
    """Read carelessly, they do run."""
    for name in ("os.system", "os.system, protocol 4", "builtins.eval", "among tensors", "a pickle in a pickle", "subprocess",
                 "an object by INST", "an object by OBJ", "builtins.exec, by Python 2's name", "as a key"):
        marker = tmp_path / name.replace(" ", "_")
        pickle.loads(hostile(marker)[name])
        assert marker.exists(), name


def test_what_was_asked_for_is_named(tmp_path):
    for program, words in [(called("posix", "system", "true"), "x.pth was not read: it asks to run 'posix.system', which no weights need"),
                           (called("os", "b" * 500), "'os.b{60,80}'"),
                           (called("os.a\x1b[31m", "b"), r"'os\.a\\x1b\[31m\.b'")]:
        as_zip(tmp_path / "x.pth", program)
        with pytest.raises(pickles.Refused, match=words):
            formats.read(tmp_path / "x.pth")


class Trap:
    """An object of a class that nobody imports: making one would be noticed."""

    def __init__(self):
        raise AssertionError("made")


def test_unknown_names_are_inert(tmp_path):
    """Neither imported nor called, and what they hold is looked through."""
    marker = "npsrgan_there_is_no_such_module"
    for program in (called(marker, "anything", 1), called("test_formats", "Trap"), called("torch.nn", "Module", 1),
                    called("numpy", "load", "x")):
        as_zip(tmp_path / "x.pth", program)
        found = formats.read(tmp_path / "x.pth").contents
        assert type(found) is pickles.Inert and not found and marker not in sys.modules
    as_zip(tmp_path / "x.pth", b"\x80\x02c__main__\nA\n)\x81" + pickle.dumps({"x": {"y": 1}}, 2)[2:-1] + b"b.")
    assert formats.read(tmp_path / "x.pth").contents == {"x": {"y": 1}}


def test_attributes_of_a_dict_are_left_out(tmp_path):
    """PyTorch keeps `_metadata` so."""
    state = pickle.dumps({"items": 1, "_metadata": 2}, 2)[2:-1]
    as_zip(tmp_path / "x.pth", b"\x80\x02ccollections\nOrderedDict\n)R" + state + b"b.")
    found = formats.read(tmp_path / "x.pth").contents
    assert found == {} and list(found.items()) == []


# ---------------------------------------------------------------- sizes that lie

def tensor_program(size=(2, 3), stride=(3, 1), offset=0, length=6, key="0", kind="FloatStorage", storage="storage"):
    """A state dict of one tensor, as in PyTorch's zip archives."""
    def plain(value): return pickle.dumps(value, 2)[2:-1]
    return (b"\x80\x02}" + plain("w") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + plain(storage) + f"ctorch\n{kind}\n".encode()
            + plain(key) + plain("cpu") + plain(length) + b"tQ" + plain(offset) + plain(size) + plain(stride) + b"\x89}tRs.")


def archive(path, program, storage=bytes(24), compress=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, contents in {"data.pkl": program, "data/0": storage, **members}.items():
            file.writestr(f"archive/{name}", contents)
    return path


def test_a_tensor_by_hand(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    for stride, expected in [((3, 1), numbers.reshape(2, 3)), ((1, 2), numbers.reshape(3, 2).T)]:
        source = formats.read(archive(tmp_path / "x.pth", tensor_program(stride=stride), numbers.tobytes()))
        assert np.array_equal(source.contents["w"].read(), expected)


LIES = {
    "an offset beyond the storage": {"offset": 1}, "a stride beyond it": {"stride": (4, 1)}, "a negative offset": {"offset": -1},
    "a negative stride": {"stride": (-3, 1)}, "a negative size": {"size": (-2, -3)}, "a size beyond it": {"size": (3, 3)},
    "one number a thousand million times": {"size": (10**9,), "stride": (0,)}, "a size that overflows": {"size": (2**32, 2**32)},
    "one stride too few": {"stride": (1,)}, "sizes that are no integers": {"size": (2.0, 3.0)},
    "a storage too short": {"length": 7},
    "a storage of thousands of millions": {"length": 2**60}, "a storage that is not there": {"key": "1"},
    "a storage elsewhere": {"key": "../../../../../etc/passwd"}, "another type": {"kind": "DoubleStorage"},
    "something else than a storage": {"storage": "module"}, "no type of numbers": {"kind": "Size"},
}


@pytest.mark.parametrize("name", LIES)
def test_sizes_that_lie(tmp_path, name):
    path = archive(tmp_path / "x.pth", tensor_program(**LIES[name]))
    with pytest.raises(UserError, match="was not read: |is damaged or cut short .*data/"):
        formats.read(path)


def test_memory_is_not_filled(tmp_path):
    bombs = {
        "a compressed archive": archive(tmp_path / "a", tensor_program(), bytes(10**7), zipfile.ZIP_DEFLATED),
        "a memo slot": tmp_path / "b", "a string of 2**62 bytes": tmp_path / "c", "a line without end": tmp_path / "d",
    }
    bombs["a memo slot"].write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**32 - 2) + b".")
    bombs["a string of 2**62 bytes"].write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.")
    bombs["a line without end"].write_bytes(b"\x80\x02I" + b"9" * 10**6 + b"\n.")
    assert formats.read(bombs.pop("a memo slot")).contents == {}        # kept in a dict, which is as large as what is in it
    for path in bombs.values():
        with pytest.raises(UserError, match="damaged or cut short|more than it can"):
            formats.read(path)


def test_nothing_takes_for_ever(tmp_path):
    """A few hundred bytes would, if keys could be anything: a tuple of one tuple twice, a hundred times over, as a key."""
    twice = b"".join(b"q%ch%c\x86" % (i, i) for i in range(100))
    programs = {"a key": b"\x80\x02})" + twice + b"K\x01s.", "depth": b"\x80\x02)" + b"\x85" * 10**6 + b".",
                "length": b"\x80\x02](" + b"K\x01" * 10**6 + b"e."}
    for name, program in programs.items():
        (tmp_path / name).write_bytes(program)
        as_zip(tmp_path / f"{name}.pth", program)
    for path in (tmp_path / "a key", tmp_path / "a key.pth"):
        assert formats.read(path).contents == {}
    for name in ("depth", "length", "depth.pth", "length.pth"):
        with pytest.raises(pickles.Refused, match="was not read: it has more than 500000 instructions"):
            formats.read(tmp_path / name)
    header = b'{"a":' + b"[" * 10**5
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(pickles.Refused, match="nested deeper than any weights file"):
        formats.read(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**40) + b'{"a":1}')
    with pytest.raises(pickles.Refused, match="its header is larger"):
        formats.read(tmp_path / "x.safetensors")


def test_members_that_overlap(tmp_path):
    """A directory that lists one member's bytes many times over promises more than the file holds."""
    path = archive(tmp_path / "x.pth", tensor_program(), bytes(2000), **{f"data/{i}": b"" for i in range(1, 9)})
    contents = bytearray(path.read_bytes())
    sizes = struct.pack("<II", 2000, 2000)
    for found in re.finditer(b"PK\1\2", bytes(contents)):
        contents[found.start() + 20:found.start() + 28] = sizes
    path.write_bytes(contents)
    with pytest.raises(UserError, match="more than it can"):
        formats.read(path)


def test_containers_that_hold_themselves(tmp_path, capsys):
    loop = []
    loop.append(loop)
    wide = {}
    for _ in range(60):
        wide = {"a": wide, "b": wide}       # 2**60 paths through 60 dicts
    for value in (loop, wide):
        (tmp_path / "x.pdparams").write_bytes(pickle.dumps(value, 2))
        with pytest.raises(SystemExit):
            convert.main([str(tmp_path / "x.pdparams"), "-o", str(tmp_path / "x.h5")])
        assert "holds no state dict with convolutions" in capsys.readouterr().err


# ---------------------------------------------------------------- plain contents

@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numpy_arrays_and_plain_containers(tmp_path, protocol):
    arrays = {"float": np.float64([[1, 2], [3, 4]]), "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
              "half": np.float16([0.5]), "big-endian": np.array([1, 2], ">f4"), "int": np.arange(3),
              "none": np.zeros((0, 3), np.float32), "number": np.array(7.0)}
    plain = {"list": [1, -2.5, None, True, False], "tuple": ("a", "b"), "big": 10**30, "scalar": np.float32(0.5), 7: {"a": {"b": []}}}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays | plain, protocol))
    found = formats.read(tmp_path / "x.pdparams").contents
    for name, array in arrays.items():
        read = found[name].read()
        assert np.array_equal(read, array) and read.dtype == (np.float32 if array.dtype.kind == "f" else array.dtype)
    assert {name: found[name] for name in plain} == plain


# ---------------------------------------------------------------- what is no weights, or no longer

NO_WEIGHTS = {
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 8\n", "run `git lfs pull`"),
    "a web page": (b"\n<!DOCTYPE html><html>Quota exceeded", "a web page"),
    "a web page with a mark": (b"\xef\xbb\xbf<HTML>", "a web page"),
    "an error in XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    "nothing": (b"", "is empty"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a weights file of a known kind"),
    "text": (b"hello", "not a weights file of a known kind"),
    "a damaged HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(90), "damaged or cut short"),
    "a damaged file of ours": (b"npsrgan 00000000" + bytes(900), "already a weights file of npsrgan"),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_no_weights(tmp_path, capsys, name):
    contents, sentence = NO_WEIGHTS[name]
    (tmp_path / "x.pth").write_bytes(contents)
    with pytest.raises(SystemExit) as end:
        convert.main([str(tmp_path / "x.pth"), "-o", str(tmp_path / "x.h5")])
    printed = capsys.readouterr().err
    assert end.value.code == 2 and sentence in printed and printed.count("\n") == 1 and not (tmp_path / "x.h5").exists()


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="is a folder: give the path of a weights file"):
        formats.read(tmp_path)
    with pytest.raises(UserError, match="there is no file .*none.pth"):
        formats.read(tmp_path / "none.pth")


def test_other_zip_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("readme.txt", "no weights")
    with pytest.raises(UserError, match="torch.save did not write it"):
        formats.read(tmp_path / "x.zip")
    archive(tmp_path / "x.pt", called("__torch__", "Net"), **{"constants.pkl": b"", "code/__torch__.py": b""})
    with pytest.raises(UserError, match=r"TorchScript program, not a state dict: load it with torch.jit.load and save"):
        formats.read(tmp_path / "x.pt")
    archive(tmp_path / "big.pt", tensor_program(), byteorder=b"big")
    with pytest.raises(UserError, match="big-endian"):
        formats.read(tmp_path / "big.pt")


def every_array(value):
    """Read all there is."""
    if isinstance(value, Stored):
        value.read()
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        every_array(item)


@pytest.fixture(params=["zip", "before 1.6", "Paddle"])
def whole(request):
    """A good file of each kind, as bytes: two arrays."""
    arrays = {"a": np.arange(40, dtype=np.float32).reshape(5, 8), "b": np.ones(3, np.float32)}
    if request.param == "Paddle":
        return pickle.dumps(arrays, 4)
    if request.param == "zip":
        file = io.BytesIO()
        pytorch.write(file, arrays)
        return file.getvalue()
    program = tensor_program(size=(5, 8), stride=(8, 1), length=40).replace(b"tQ", b"NtQ")
    return (pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + program
            + pickle.dumps(["0"], 2) + (40).to_bytes(8, "little") + arrays["a"].tobytes())


def test_every_length_of_a_cut_download_is_noticed(tmp_path, whole):
    path = tmp_path / "x"
    path.write_bytes(whole)
    every_array(formats.read(path).contents)
    for length in [*range(1, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut short|damaged|of a known kind"):
            every_array(formats.read(path).contents)


def test_damage_is_a_sentence_or_another_number(tmp_path, whole):
    """Whatever byte is changed: never another exception than UserError."""
    rng, path = np.random.default_rng(1), tmp_path / "x"
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(damaged), rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            every_array(formats.read(path).contents)
        except UserError as error:
            assert "\n" not in str(error)
