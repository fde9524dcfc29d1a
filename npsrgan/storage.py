"""HDF5 files: weights, checkpoints and VGG19.  Written whole or not at all, and checked when read."""
import io
import json
import os
import re
import zlib
from pathlib import Path

import h5py
import numpy as np

from npsrgan.device import to_numpy
from npsrgan.errors import UserError
from npsrgan.layers import Layer
from npsrgan.models import GENERATORS, VGG19, Assembled, Discriminator, Generator
from npsrgan.models.vgg19 import LAYERS

WEIGHTS = Path(__file__).parent.parent / "weights"                  # what ships with the program
KERAS_MEANS = np.array([123.68, 116.779, 103.939], np.float32)      # RGB, 0 to 255: what Keras's VGG19 subtracts
KERAS_FEATURE_SCALE = 1 / 12.75                                     # Ledig et al. 2017, section 2.2.1
_BLOCK, _MARK = 512, b"npsrgan "        # HDF5's user block, which it leaves alone: the mark, and the CRC-32 of all that follows


class DamagedFile(UserError):
    """A file that is there but cannot be trusted: cut short, altered, or not HDF5."""


def write(path, arrays, attributes, keep_previous=False):
    """Write {name: array} and {name: string or number} to an HDF5 file, atomically.

    The file is written beside its place, flushed to the disk, and renamed: whenever the process is killed, `path` holds
    the old contents or the new, never a part.  With keep_previous the old file becomes NAME.previous.SUFFIX.
    A checksum of everything goes in front, into HDF5's user block.
    Raises UserError where the disk refuses; then the old file is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")        # always this one: what a killed process left is overwritten
    memory = io.BytesIO()       # HDF5 crashes on a disk that fills, so the disk sees only the finished bytes
    with h5py.File(memory, "w", userblock_size=_BLOCK) as file:
        for name, array in arrays.items():
            file[name] = to_numpy(array)
        file.attrs.update(attributes)
    contents = memory.getbuffer()
    contents[:len(_MARK) + 8] = _MARK + b"%08x" % zlib.crc32(contents[_BLOCK:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            os.replace(path, previous(path))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"could not write {path} ({error.strerror}): free some space or choose another folder; "
                        "what was saved before is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path):
    """The arrays and attributes of a file made by `write`.  Raises UserError if it is missing, DamagedFile if it is not whole."""
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}")
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read ({error.strerror})") from error
    if not contents.startswith(_MARK):
        raise DamagedFile(f"{path} is an HDF5 file, but not one that npsrgan wrote" if h5py.is_hdf5(path)
                          else f"{path} is damaged or no HDF5 file")
    if contents[len(_MARK):len(_MARK) + 8] != b"%08x" % zlib.crc32(memoryview(contents)[_BLOCK:]):
        raise DamagedFile(f"{path} is damaged: its contents do not match its checksum")
    arrays = {}
    with h5py.File(io.BytesIO(contents), "r") as file:      # only now: some damage makes HDF5 search in circles for ever
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        attributes = {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}
    return arrays, attributes


def previous(path):
    """Where `write(..., keep_previous=True)` leaves the file that was there before."""
    return Path(path).with_name(f"{Path(path).stem}.previous{Path(path).suffix}")


def network_classes():
    """{name in files: class} of all networks."""
    return GENERATORS | {"Assembled": Assembled, "Discriminator": Discriminator, "VGG19": VGG19}


def save_network(path, network, about="", dtype=None):
    """Write a network's settings, parameters and state.  about: a sentence on where it comes from.  dtype: such as "float16".

    Raises UserError for a network that `load_network` could not build again, and writes nothing: a folded one, or one of a class
    that is not registered.
    """
    kind, name = type(network), type(network).__name__
    if network_classes().get(name) is not kind:
        raise UserError(f"{path} was not written: {name} is not a registered network, add a generator to models.GENERATORS first")
    if "folded" in network.settings:
        raise UserError(f"{path} was not written: fold() makes networks for inference only, save the network that was folded")
    arrays = {name: to_numpy(array) for name, array in network.state_dict().items()}
    if dtype:
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    write(path, arrays, {"network": name, "settings": json.dumps(network.settings), "about": about})


def load_network(path, kind=Layer):
    """Build the network that a file of `save_network` describes, and fill it.  kind: a class that it must belong to.

    Returns the network in evaluation mode.  To train it further, call its `train()`.

    Raises UserError for a file that is missing, damaged, of another kind, or whose arrays do not fit its own settings.
    """
    arrays, attributes = _network_file(path, kind)
    name = attributes["network"]
    try:
        network = network_classes()[name](**json.loads(attributes["settings"]))
        network.load_state_dict(arrays)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit a {name} with {attributes['settings']}: {error}") from None
    return network.eval()


def load_generator(name_or_path):
    """A trained generator, by the name of one in `weights/`, such as "srgan", or by the path of a file of `save_network`.

    Returns a models.Generator in evaluation mode, in float32 whatever the file holds.  Raises UserError as `load_network` does,
    and for a name or path that leads to no file, with the names there are.
    """
    text = str(name_or_path)
    shipped = sorted(file.stem for file in WEIGHTS.glob("*.h5"))
    if text in shipped:
        return load_network(WEIGHTS / f"{text}.h5", Generator)
    if not Path(text).exists():
        known = f"the weights that come with npsrgan are {', '.join(shipped)}" if shipped else f"{WEIGHTS} holds no weights yet"
        raise UserError(f"there are no weights {text}: {known}; any other file goes by its path, FILE.h5")
    return load_network(text, Generator)


def _network_file(path, kind):
    """What `read` returns, of a file that `save_network` wrote for a network of this class."""
    arrays, attributes = read(path)
    name = attributes.get("network")
    if not issubclass(network_classes().get(name, type(None)), kind):
        wanted = {Layer: "a network", Generator: "a generator"}.get(kind, f"a {kind.__name__}")
        found = f"a{'n' * (name[0] == 'A')} {name}" if name else "no weights but something else (a checkpoint?)"
        raise UserError(f"{path} holds {found}, not {wanted}")
    return arrays, attributes


def load_vgg19(path, layer="conv5_4", feature_scale=None):
    """VGG19 up to `layer`, from Keras's "notop" HDF5 file (as published, old and new names) or from `save_network`'s.

    layer: None takes the last one that the file holds.
    feature_scale: None takes what belongs to the file: 1/12.75 for Keras's, what was saved for ours.
    Raises UserError that says what is wrong with the file, or lists every array that is missing or misshapen.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no VGG19 file {path}; the README says where to get one")
    with open(path, "rb") as file:
        ours = file.read(len(_MARK)) == _MARK
    if ours:
        found, attributes = _network_file(path, VGG19)
        scale = json.loads(attributes["settings"])["feature_scale"]
    else:
        found, scale = _keras_arrays(path), KERAS_FEATURE_SCALE
    if layer is None:
        layers = [layer for layer in LAYERS if f"{layer}.weight" in found]
        if not layers:
            raise UserError(f"{path} is an HDF5 file, but neither npsrgan's nor Keras's VGG19: it has no block1_conv1")
        layer = layers[-1]
    vgg = VGG19(layer, scale if feature_scale is None else feature_scale)
    needed = vgg.state_dict()
    try:
        vgg.load_state_dict({name: array for name, array in found.items() if name in needed})
    except ValueError as error:
        raise UserError(f"{path} is not a VGG19 as far as {layer}: {error}") from None
    return vgg


def _keras_arrays(path):
    """{our name: array} of the convolutions in a Keras file; its input normalisation, BGR minus means, made ours."""
    arrays = {"input_gain": np.full(3, 127.5, np.float32), "input_shift": 127.5 - KERAS_MEANS}

    def visit(name, item):
        match = re.search(r"block(\d)_conv(\d)", name)
        if isinstance(item, h5py.Dataset) and match and not name.startswith("optimizer"):
            layer = f"conv{match[1]}_{match[2]}"
            arrays[f"{layer}.{'weight' if item.ndim == 4 else 'bias'}"] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:
        raise DamagedFile(f"the VGG19 file {path} is damaged or no HDF5 file") from error
    if f"{LAYERS[0]}.weight" in arrays:       # the kernel wants blue first; give it red first, as we do everywhere
        arrays["conv1_1.weight"] = arrays["conv1_1.weight"][:, :, ::-1]
    return arrays
