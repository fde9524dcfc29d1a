"""Files of weights from elsewhere, read without the libraries that wrote them and without running anything inside them."""
from pathlib import Path
from typing import NamedTuple

from npsrgan.convert import paddle, pytorch, safetensors
from npsrgan.convert.pickles import one_sentence
from npsrgan.errors import UserError, describe


class Source(NamedTuple):
    """What is in a file: `kind` in words, and `contents`, nested dicts and lists with `Stored` arrays in them.

    ordered:     whether names come in the order in which the layers were defined.
    plain_order: whether channels come in TensorFlow's order before a pixel shuffle, which is ours, and not in PyTorch's.
    npsrgan's own files, which `storage` reads, are only told apart: kind "npsrgan", no contents.
    """

    kind: str
    contents: object
    ordered: bool = True
    plain_order: bool = False


def read(path):
    """What a file of weights holds: a Source.

    Raises UserError, in one sentence, for a file that holds no weights (and says what it is), is damaged or cut short, or
    wants to be run (`pickles.Refused`).
    """
    path = Path(path)
    kind, reader = _recognise(path)
    with one_sentence(path):
        return Source(kind, reader(path), kind != "safetensors")


def _recognise(path):
    """(the file's kind, the function that reads it), from its first bytes."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file of weights in it")
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise UserError(describe(error)) from error
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise UserError(f"{path} is empty: the download did not begin, or the disk was full; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is no weights but a pointer of Git LFS: run `git lfs pull` where it came from, "
                        "or download the file itself")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise UserError(f"{path} is no weights but a web page, perhaps one that asks to log in or to confirm: "
                        "download the file itself")
    if head.startswith((b"npsrgan ", b"\x89HDF\r\n\x1a\n")):
        return "npsrgan" if head.startswith(b"npsrgan ") else "HDF5", lambda path: None
    if head.startswith(b"PK\3\4"):
        return "PyTorch", pytorch.read_zip
    if pytorch.is_legacy(path):
        return "PyTorch before 1.6", pytorch.read_legacy
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5":
        return "a pickle, as Paddle writes it", paddle.read
    if head[8:9] == b"{":
        return "safetensors", safetensors.read
    raise UserError(f"{path} holds no weights of a known kind: PyTorch, Paddle (.pdparams), safetensors and Keras (HDF5) "
                    "are read")
