"""HDF5 files: weights, checkpoints and VGG19.  Written atomically, and validated when read."""
import inspect
import io
import json
import math
import os
import re
import stat
import zlib
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from npsrgan.device import to_numpy
from npsrgan.layers import Layer
from npsrgan.models import GENERATORS, VGG19, Assembled, Discriminator, Generator
from npsrgan.models.vgg19 import LAYERS
from npsrgan.system import files
from npsrgan.system.errors import UserError, describe

WEIGHTS = Path(__file__).parent.parent / "weights"                  # the weights that ship with the program
KERAS_MEANS = np.array([123.68, 116.779, 103.939], np.float32)      # RGB, 0 to 255: the means that Keras's VGG19 subtracts
KERAS_FEATURE_SCALE = 1 / 12.75                                     # Ledig et al. 2017, section 2.2.1
_BLOCK, _MARK = 512, b"npsrgan "        # HDF5's user block, which HDF5 ignores: the mark, and the CRC-32 of everything after the block
_KINDS = {          # first bytes of weights files, as regular expressions, and the kinds of these files
    _MARK: "npsrgan", rb"\x89HDF\r\n\x1a\n": "HDF5", rb"PK\x03\x04.*metadata\.json": "Keras", rb"PK\x03\x04": "PyTorch",
    rb".{,22}" + re.escape((0x1950A86A20F9469CFC6C).to_bytes(10, "little")): "PyTorch before 1.6",
    rb"\x80[\x02-\x05]": "a pickle, as Paddle writes it", rb".{8}\{": "safetensors"}
_FOREIGN = {        # the same for other files: what they are, and what to do
    rb"\Z": "empty, perhaps because the disk was full: download it again",
    rb"(?i)[\xef\xbb\xbf\s]*version https://git-lfs": "not a weights file but a Git LFS pointer: run `git lfs pull` in its repository, or "
                                                      "download the file itself",
    rb"(?i)[\xef\xbb\xbf\s]*<(!doctype html|html|\?xml|head)": "not a weights file but a web page, perhaps one that asks you to log in "
                                                               "or to confirm: download the file itself",
    rb"PK\x03\x04.{,120}\.npy": "not a weights file but an archive of NumPy arrays (.npz): give another file"}
_FILTERS = {1, 2, 3, 32000}             # HDF5 filters that are read: deflate, shuffle, Fletcher-32, LZF
_CHUNK = 2**26                          # largest chunk in bytes, which HDF5 decompresses at once


class DamagedFile(UserError):
    """A file that exists but cannot be trusted: truncated, altered, or not HDF5."""


def recognise(path):
    """The kind of a weights file, from its first bytes: "npsrgan", "HDF5", "Keras" (its zip archives), "PyTorch",
    "PyTorch before 1.6", "safetensors" or "a pickle, as Paddle writes it".

    Raises UserError for a missing file and for a file of any other kind, which the message names if it can.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"{path} is {files.kind(mode)}: give the path of a weights file" + " in it" * stat.S_ISDIR(mode))
        with open(path, "rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(describe(error)) from error
    for start, what in _FOREIGN.items():
        if re.match(start, head, re.DOTALL):
            raise DamagedFile(f"{path} is {what}")
    for start, kind in _KINDS.items():
        if re.match(start, head, re.DOTALL):
            return kind
    raise DamagedFile(f"{path} is not a weights file of a known kind, or is damaged: give a file of npsrgan, PyTorch, Paddle (.pdparams), "
                      "safetensors or Keras (HDF5)")


def write(path, arrays, attributes, keep_previous=False):
    """Write {name: array} and {name: string or number} to an HDF5 file, atomically.

    The file is written to the same folder, flushed to the disk, and renamed: whenever the process is killed, `path` holds
    either the old contents or the new.  With keep_previous the old file becomes NAME.previous.SUFFIX.
    A checksum of the contents is stored in HDF5's user block, at the start of the file.
    Raises UserError if the file cannot be written; the old file then remains.
    """
    path = Path(os.path.realpath(path))     # for a link, the file that it points to
    memory = io.BytesIO()       # HDF5 can crash on a full disk, so it writes to memory
    with h5py.File(memory, "w", userblock_size=_BLOCK) as file:
        for name, array in arrays.items():
            file[name] = to_numpy(array)
        file.attrs.update(attributes)
    contents = memory.getbuffer()
    contents[:len(_MARK) + 8] = _MARK + b"%08x" % zlib.crc32(contents[_BLOCK:])
    try:
        with files.replacing(path) as temporary:
            with open(temporary, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            if keep_previous and path.exists():
                os.replace(path, previous(path))
    except OSError as error:
        raise UserError(f"could not write {path} ({error.strerror}): free some space or choose another folder; "
                        "the file saved before is intact") from error


def read(path):
    """The arrays and attributes of a file made by `write`.

    Raises UserError if it is missing or of another kind, DamagedFile if it is incomplete or holds non-finite numbers.
    """
    kind = recognise(path)
    if kind == "HDF5":
        raise DamagedFile(f"{path} is an HDF5 file, but npsrgan did not write it: try python -m npsrgan.convert")
    if kind != "npsrgan":
        raise DamagedFile(f"{path} is not a weights file of npsrgan ({kind}): convert it with python -m npsrgan.convert")
    arrays = {}
    with _one_sentence(path):
        checksum, size = 0, os.path.getsize(path)
        with open(path, "rb") as file:
            expected = file.read(_BLOCK)[len(_MARK):len(_MARK) + 8]
            while block := file.read(2**20):
                checksum = zlib.crc32(block, checksum)
        if expected != b"%08x" % checksum:
            raise DamagedFile(f"{path} is damaged: its contents do not match its checksum; copy or download it again")
        with h5py.File(path, "r", locking=False) as file:       # only after the checksum: some damage makes HDF5 loop for ever
            for name, dataset in _datasets(file, path):
                size -= dataset.nbytes
                if size < 0:
                    raise DamagedFile(f"{path} is damaged: {name} claims to be larger than the file")
                arrays[name] = _values(dataset, name, path)
            attributes = {name: _scalar(file.attrs, name, path) for name in file.attrs}
    return arrays, attributes


@contextmanager
def _one_sentence(path):
    """Context manager: whatever HDF5 raises for damaged bytes, which can be nearly anything, becomes a DamagedFile."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise DamagedFile(f"{path} is damaged or cut short: copy or download it again") from error


def _datasets(file, path):
    """Yield (name, dataset) for every dataset in an HDF5 file.  Raises DamagedFile for links."""
    groups, count = [file], 0
    while groups:
        group = groups.pop()
        for key in group:
            name, count = f"{group.name}/{key}".lstrip("/"), count + 1
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or name.count("/") > 8 or count > 10**5:
                raise DamagedFile(f"{path} is damaged: {name} is a link, not an array")
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append(item)
            else:
                yield name, item


def _values(dataset, name, path):
    """The numbers of a dataset whose shape has been checked; its type, storage and filters are checked before it is read.

    Raises DamagedFile for anything but finite real numbers, and for negative variances.
    """
    kind, filters = dataset.dtype.kind, dataset.id.get_create_plist()
    if kind not in "fiu" or dataset.shape is None:
        raise DamagedFile(f"{path}: {name} does not hold real numbers")
    if dataset.external or dataset.is_virtual:
        raise DamagedFile(f"{path}: {name} is stored in another file, which is not read")
    if not {filters.get_filter(i)[0] for i in range(filters.get_nfilters())} <= _FILTERS:
        raise DamagedFile(f"{path}: {name} is compressed by an unknown method")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _CHUNK:
        raise DamagedFile(f"{path}: {name} is stored in chunks that are too large")
    return require_sound(dataset[()], name, path)


def require_sound(array, name, path):
    """Return the array.  Raises DamagedFile for numbers that are not finite in float32, and for negative variances."""
    if not np.isfinite(array).all() or array.size and abs(array).max() > np.finfo(np.float32).max:
        raise DamagedFile(f"{path}: {name} holds numbers that are not finite in float32")
    if name.endswith("running_var") and array.min(initial=0) < 0:
        raise DamagedFile(f"{path}: {name} holds negative variances")
    return array


def _scalar(attributes, name, path):
    """A string or number among an HDF5 file's attributes."""
    if attributes.get_id(name).shape == ():
        value = attributes[name]
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, str | int | float):
            return value
    raise DamagedFile(f"{path} is damaged: its {name} is neither text nor a number")


def previous(path):
    """The path to which `write(..., keep_previous=True)` moves the old file."""
    path = Path(os.path.realpath(path))
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def network_classes():
    """{name in files: class} for all networks."""
    return GENERATORS | {"Assembled": Assembled, "Discriminator": Discriminator, "VGG19": VGG19}


def save_network(path, network, about="", dtype=None):
    """Write a network's settings, parameters and state.  about: a sentence on its origin.  dtype: such as "float16".

    Raises UserError, and writes nothing, for a network that `load_network` could not rebuild: a folded one, or one of an
    unregistered class.
    """
    kind, name = type(network), type(network).__name__
    if network_classes().get(name) is not kind:
        raise UserError(f"{path} was not written: {name} is not a registered network; add it to models.GENERATORS first")
    if "folded" in network.settings:
        raise UserError(f"{path} was not written: fold() makes networks for inference only; save the original network")
    arrays = {name: to_numpy(array).astype(dtype or array.dtype) for name, array in network.state_dict().items()}
    write(path, arrays, {"network": name, "settings": json.dumps(network.settings), "about": about})


def load_network(path, kind=Layer):
    """Build the network described by a file of `save_network`, and load its weights.  kind: the class it must be an instance of.

    Returns the network in evaluation mode.  To train it further, call its `train()`.

    Raises UserError for a file that is missing, damaged, of another kind, or whose arrays do not match its own settings.
    """
    arrays, name, settings = _network_file(path, kind)
    try:
        network = network_classes()[name](**settings)
        network.load_state_dict(arrays)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} does not fit a {name} with {str(settings):.200}: {str(error):.2000}") from None
    return network.eval()


def load_generator(name_or_path):
    """Load a trained generator, by its name in `weights/`, such as "srgan", or by the path of a file of `save_network`.

    Returns a models.Generator in evaluation mode, in float32 whatever the file holds.  Raises UserError as `load_network` does,
    and for a name or path without a file; the message lists the names.
    """
    text = str(name_or_path)
    shipped = sorted(file.stem for file in WEIGHTS.glob("*.h5"))
    if text in shipped:
        return load_network(WEIGHTS / f"{text}.h5", Generator)
    if not Path(text).exists():
        known = f"one of {', '.join(shipped)}" if shipped else f"a name ({WEIGHTS} holds no weights yet)"
        raise UserError(f"there are no weights {text}: give {known}, or the path of a weights file")
    return load_network(text, Generator)


def _network_file(path, kind):
    """(arrays, class name, settings) from a file that `save_network` wrote for a network of this class."""
    arrays, attributes = read(path)
    name = attributes.get("network")
    if not issubclass(network_classes().get(name, type(None)), kind):
        wanted = {Layer: "a network", Generator: "a generator"}.get(kind, f"a {kind.__name__}")
        found = f"a{'n' * str(name).startswith('A')} {name}" if name else "something else (a checkpoint?)"
        raise UserError(f"{path} holds {found}, not {wanted}")
    settings = decode(attributes.get("settings"), path)
    require_plausible(settings, network_classes()[name], sum(array.size for array in arrays.values()), path)
    return arrays, name, settings


def decode(text, path):
    """The dictionary encoded by a JSON text.  Raises DamagedFile if there is none."""
    try:
        settings = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise DamagedFile(f"{path} is damaged: its settings cannot be read")
    return settings


def require_plausible(settings, constructor, count, path):
    """Raise DamagedFile for settings of wrong types, or of a network with far more than `count` numbers, which could exhaust the
    memory.  Every network here has more numbers than the products that are compared."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(constructor).parameters.items()}

    def alike(value, default):
        return (isinstance(value, type(default)) and not (isinstance(value, bool) and not isinstance(default, bool))
                or isinstance(default, float) and type(value) is int) and value == value

    wrong = [name for name, default in defaults.items()
             if name in settings and default not in (None, inspect.Parameter.empty) and not alike(settings[name], default)]
    if wrong:
        raise DamagedFile(f"{path} is damaged: its setting {wrong[0]} is {settings[wrong[0]]!r:.40}")
    channels, blocks, side = (settings[name] if type(settings.get(name)) is int else 0 for name in ("channels", "blocks", "image_size"))
    steps = settings.get("steps", []) if isinstance(settings.get("steps"), list) else []
    products = sum(math.prod(n for n in step if type(n) is int) for step in steps if isinstance(step, list))
    if min(channels, blocks, side) < 0 or max(channels**2 * (1 + blocks), channels * side**2, products - 10**5) > count:
        raise DamagedFile(f"{path} is damaged: its settings are those of a larger network")


def load_vgg19(path, layer="conv5_4", feature_scale=None):
    """Load VGG19 up to `layer`, from Keras's "notop" HDF5 file (as published, old or new names) or from a file of `save_network`.

    layer: None means the last one in the file.
    feature_scale: None means the file's own: 1/12.75 for a Keras file, the saved value for ours.
    Raises UserError, which says what is wrong with the file, or lists every array that is missing or has the wrong shape.
    """
    if not Path(path).exists():
        raise UserError(f"there is no file {path}: npsrgan/train/README.md says where to get VGG19's weights")
    if recognise(path) == "HDF5":
        found, scale = _keras_arrays(path), KERAS_FEATURE_SCALE
    else:
        found, _, settings = _network_file(path, VGG19)
        scale = settings.get("feature_scale", 1.0)
        if not 0 < scale < math.inf:
            raise DamagedFile(f"{path} is damaged: its setting feature_scale is {scale}")
    if layer is None:
        layers = [layer for layer in LAYERS if f"{layer}.weight" in found]
        if not layers:
            raise UserError(f"{path} is an HDF5 file, but not the VGG19 of npsrgan or Keras: it has no block1_conv1")
        layer = layers[-1]
    vgg = VGG19(layer, scale if feature_scale is None else feature_scale)
    needed = vgg.state_dict()
    try:
        vgg.load_state_dict({name: array for name, array in found.items() if name in needed})
    except ValueError as error:
        raise UserError(f"{path} does not hold VGG19 up to {layer}: {error}") from None
    return vgg


def _keras_arrays(path):
    """{our name: array} of the convolutions in a Keras file; its input normalisation, BGR minus means, is converted to ours."""
    arrays = {"input_gain": np.full(3, 127.5, np.float32), "input_shift": 127.5 - KERAS_MEANS}
    shapes = {name: array.shape for name, array in VGG19().state_dict().items()}
    with _one_sentence(path), h5py.File(path, "r", locking=False) as file:
        for name, dataset in _datasets(file, path):
            match = re.search(r"block(\d)_conv(\d)", name)
            if match and not name.startswith("optimizer"):
                ours = f"conv{match[1]}_{match[2]}.{'weight' if dataset.ndim == 4 else 'bias'}"
                right = dataset.shape == shapes.get(ours)       # a wrong shape is not read: `load_state_dict` reports it
                arrays[ours] = _values(dataset, name, path) if right else np.broadcast_to(np.float32(0), dataset.shape)
    if f"{LAYERS[0]}.weight" in arrays:       # the kernel expects blue first: reorder its input channels to RGB
        arrays["conv1_1.weight"] = arrays["conv1_1.weight"][:, :, ::-1]
    return arrays
