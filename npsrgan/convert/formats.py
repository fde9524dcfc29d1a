"""Files of weights from elsewhere, read without the libraries that wrote them and without running anything inside them."""
from typing import NamedTuple

from npsrgan import storage
from npsrgan.convert import keras, paddle, pytorch, safetensors
from npsrgan.convert.pickles import one_sentence


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
    kind = storage.recognise(path)
    with one_sentence(path):
        return Source(kind, READERS[kind](path) if kind in READERS else None, kind != "safetensors", kind in ("HDF5", "Keras"))


READERS = {"PyTorch": pytorch.read_zip, "PyTorch before 1.6": pytorch.read_legacy, "a pickle, as Paddle writes it": paddle.read,
           "safetensors": safetensors.read, "HDF5": keras.read, "Keras": keras.read_zip}
