"""Reads weight files without the libraries that wrote them and without running anything inside them."""
from typing import NamedTuple

from npsrgan import storage
from npsrgan.convert import keras, paddle, pytorch, safetensors
from npsrgan.convert.pickles import one_sentence


class Source(NamedTuple):
    """What a file holds: `kind`, in words, and `contents`, nested dicts and lists of `Stored` arrays.

    ordered:     whether the names are in the order in which the layers were defined.
    plain_order: whether channels before a pixel shuffle are in TensorFlow's order, which is ours, rather than PyTorch's.
    npsrgan's own files are only recognised (kind "npsrgan", no contents); `storage` reads them.
    """

    kind: str
    contents: object
    ordered: bool = True
    plain_order: bool = False


def read(path):
    """Read a weight file into a Source.

    Raises UserError, in one sentence, for a file that holds no weights (the message says what it is), is damaged or truncated,
    or asks to run code (`pickles.Refused`).
    """
    kind = storage.recognise(path)
    with one_sentence(path):
        return Source(kind, READERS[kind](path) if kind in READERS else None, kind != "safetensors", kind in ("HDF5", "Keras"))


READERS = {"PyTorch": pytorch.read_zip, "PyTorch before 1.6": pytorch.read_legacy, "a pickle, as Paddle writes it": paddle.read,
           "safetensors": safetensors.read, "HDF5": keras.read, "Keras": keras.read_zip}
