"""Keras files: HDF5, with or without the model's description, and .keras, a zip archive of the description and an HDF5 file.

If there is a description (JSON), the model's layers are added to a program step by step.  If not, there are only names and
arrays, which are treated as a state dict.  Keras kernels are (height, width, in, out), as ours are.
"""
import io
import json
import math
import re
import zipfile

import h5py
import numpy as np

from npsrgan.convert.pickles import Refused, Stored
from npsrgan.convert.readings import Program
from npsrgan.convert.structure import Unmapped, listed, naturally

_OBJECTS, _DESCRIPTION, _INFLATED = 20_000, 8_000_000, 8       # limits: objects in a file, bytes of JSON, ratio to the size on disk
_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "alpha": "weight", "moving_mean": "running_mean",
           "moving_variance": "running_var", "bias": "bias"}
_IGNORED = ("Dropout", "SpatialDropout2D", "GaussianNoise", "ActivityRegularization", "Identity")
_UNREADABLE = {"SeparableConv2D": "MobileNet blocks", "DepthwiseConv2D": "MobileNet blocks", "Dense": "fully connected layers",
               "Conv2DTranspose": "transposed convolutions", "Functional": "a model inside a model", "Sequential": "a model inside a model",
               "Model": "a model inside a model", "LayerNormalization": "LayerNorm", "GroupNormalization": "InstanceNorm or GroupNorm",
               "InstanceNormalization": "InstanceNorm"}


def read(path):
    """The contents of an HDF5 file: a Model if it has a description, else {name: Stored} like a state dict."""
    return _read(path, path)


def read_zip(path):
    """The same for a .keras file."""
    with zipfile.ZipFile(path) as archive:
        for name in ("config.json", "model.weights.h5"):
            size = archive.getinfo(name).file_size
            if size > _INFLATED * path.stat().st_size or name.endswith("json") and size > _DESCRIPTION:
                raise Refused("it claims to hold more than it can")
        return _read(path, io.BytesIO(archive.read("model.weights.h5")), archive.read("config.json"))


def _read(path, place, description=None):
    with h5py.File(place, "r") as file:
        arrays = _arrays(file, place)
        description = description or file.attrs.get("model_config")
        group = file.get("model_weights", file)
        order = [name if isinstance(name, str) else name.decode() for name in group.attrs.get("layer_names", ())]
    layers = {}         # {layer: {leaf: Stored}}
    for name, array in arrays.items():
        parts = [part for part in re.sub(r":\d+$", "", name).split("/") if part not in ("model_weights", "vars", "layers", "_layers")]
        if not name.startswith("optimizer") and len(parts) > 1:
            layers.setdefault(parts[0] if order or name.startswith(("layers", "_layers")) else "/".join(parts[:-1]), {})[parts[-1]] = array
    if description is not None:
        if len(description) > _DESCRIPTION:
            raise Refused("its description is larger than any network needs")
        return Model(json.loads(description), layers)
    names = order or sorted(layers, key=naturally)
    return {f"{name}.{_leaf(name, leaf)}": _as_pytorch(array) for name in names for leaf, array in layers.get(name, {}).items()}


def _arrays(file, place):
    """{path in the file: Stored}, each checked: HDF5 can describe arrays that do not exist or lie in other files."""
    found = {}

    def visit(name, item):
        if len(found) > _OBJECTS:
            raise Refused(f"it has more than {_OBJECTS} parts; networks have some hundreds")
        found[name] = None
        if isinstance(item, h5py.Dataset):
            largest = max(item.nbytes, math.prod(item.chunks or (0,)) * item.dtype.itemsize)
            if item.external or item.is_virtual or item.dtype.kind not in "fiu" or largest > _INFLATED * item.id.get_storage_size() + 64:
                raise Refused(f"{ascii(name[-60:])} is not an array, or claims to be larger than it is")
            found[name] = Stored(item.shape, lambda: _dataset(place, name))
    file.visititems(visit)
    return {name: array for name, array in found.items() if array}


def _dataset(place, name):
    with h5py.File(place, "r") as file:
        return file[name][()]


def _leaf(layer, leaf):
    """PyTorch's name for an array.  Newer files number their arrays."""
    if leaf.isdigit():
        names = ["weight", "bias", *["running_mean", "running_var"] * ("batch_norm" in layer)]
        return dict(enumerate(names)).get(int(leaf), leaf)
    return _LEAVES.get(leaf, leaf)


def _as_pytorch(array):
    """In PyTorch's layout: kernels transposed, per-channel slopes flattened."""
    if len(array.shape) == 4:
        height, width, before, after = array.shape
        return Stored((after, before, height, width), lambda: array.read().transpose(3, 2, 0, 1))
    if len(array.shape) == 3 and array.shape[:2] == (1, 1):
        return Stored(array.shape[2:], lambda: array.read().ravel())
    return array


def _tensors(node, layers):
    """Every (layer, index of its use) that a node's description names as an input, in any Keras version's notation."""
    if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
        yield tuple(node["config"]["keras_history"][:2])
    elif isinstance(node, list) and len(node) > 1 and isinstance(node[0], str) and node[0] in layers and isinstance(node[1], int):
        yield tuple(node[:2])
        yield from _tensors(node[2:], layers)
    elif isinstance(node, (list, dict)):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _tensors(inner, layers)


class Model:
    """A Keras model of one image: its description, and {layer's name in the file: {leaf: Stored}}.

    Raises structure.Unmapped for layers that have no corresponding steps.
    """

    silent, normed, plain_order = True, True, True      # no search for an enlargement: the description would show it

    def __init__(self, description, stored):
        config = description["config"]
        config = {"layers": config} if isinstance(config, list) else config
        self.layers, self.stored, self.inputs = {}, {}, {}
        new, counts = any(leaf.isdigit() for arrays in stored.values() for leaf in arrays), {}
        for layer in config["layers"]:
            kind, name = layer["class_name"], layer["config"].get("name", layer.get("name"))
            # Newer files name arrays by the layer's kind and number, older ones by its name.
            snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", kind))).lower()
            counts[snake] = counts.get(snake, -1) + 1
            numbered = f"{snake}_{counts[snake]}" if counts[snake] else snake
            self.layers[name] = layer
            arrays = stored.get(numbered if new else name, {})
            self.stored[name] = {_leaf(snake, leaf): array for leaf, array in arrays.items()}
        for place, (name, layer) in enumerate(self.layers.items()):
            nodes = layer.get("inbound_nodes", [])
            for index, node in enumerate(nodes):
                self.inputs[name, index] = list(_tensors(node, self.layers))
            if "inbound_nodes" not in layer or not nodes:
                self.inputs[name, 0] = [(list(self.layers)[place - 1], 0)] if place and "output_layers" not in config else []
        last = list(_tensors(config.get("output_layers") or [[list(self.layers)[-1], 0, 0]], self.layers))
        if len(last) != 1:
            raise Unmapped(f"it is a model with {len(last)} outputs, not one")
        self.order = self._in_order(last[0])
        self.convolutions = [node for node in self.order if self.layers[node[0]]["class_name"] == "Conv2D"]
        if not self.convolutions:
            raise Unmapped("it has no convolutions")
        self.colours = self.stored[self.convolutions[0][0]]["weight"].shape[2]

    def _in_order(self, last):
        """The nodes (layer, index of its use) that lead to the last one, each after its inputs, deepest first."""
        places = {name: place for place, name in enumerate(self.layers)}
        order, waiting = [], [last]
        while waiting:
            missing = [node for node in self.inputs[waiting[-1]] if node not in order]
            if not missing:
                node = waiting.pop()
                order += [node] if node not in order else []
            elif len(waiting) > len(self.inputs):
                raise Refused("its layers form a circle")
            else:
                waiting.append(min(missing, key=lambda node: places[node[0]]))
        return order

    @property
    def scale(self):
        """The factor by which it enlarges."""
        program = Program()
        self.core(program)
        return program.network(1, self.colours).size[-1]

    def core(self, program):
        """Add the model's steps to a Program, from its own pixels to its own pixels."""
        values, self.channels = {}, {}
        start = len(program.steps)
        for node in self.order:
            inputs = self.inputs[node]
            if not inputs:
                values[node], self.channels[node] = start, self.colours
                continue
            if values[inputs[0]] != len(program.steps):
                program.add("recall", values[inputs[0]])
            self.channels[node] = self.channels[inputs[0]]
            kind, config, arrays = self.layers[node[0]]["class_name"], self.layers[node[0]]["config"], self.stored[node[0]]
            self._add(program, node, kind, config, arrays, [values[source] for source in inputs[1:]])
            values[node] = len(program.steps)

    def _add(self, program, node, kind, config, arrays, others):
        channels = self.channels[node]
        function = str(config.get("function", "")) if kind == "TFOpLambda" else kind
        if kind == "Conv2D":
            kernel = arrays["weight"].read()
            plain = {"strides": 1, "dilation_rate": 1, "groups": 1, "padding": "same", "data_format": "channels_last"}
            odd = [f"{name} {config[name]}" for name, usual in plain.items()
                   if config.get(name, usual) not in (usual, [usual, usual], (usual, usual))]
            if odd or kernel.shape[2] != channels or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
                raise Unmapped(f"{node[0]} is a convolution of another kind: {listed(odd) or kernel.shape}")
            bias = arrays["bias"].read() if "bias" in arrays else np.zeros(kernel.shape[3])
            program.add("conv", *kernel.shape[2:], len(kernel), weight=kernel, bias=bias)
            self.channels[node] = kernel.shape[3]
            self._activation(program, node, config.get("activation"))
        elif kind == "BatchNormalization":
            gain = (arrays["weight"].read() if "weight" in arrays else 1) / np.sqrt(
                arrays["running_var"].read().astype(np.float64) + config.get("epsilon", 1e-3))
            shift = (arrays["bias"].read() if "bias" in arrays else 0) - arrays["running_mean"].read() * gain
            source = self.inputs[node][0]
            if program.steps[-1][0] == "conv" and sum(source in nodes for nodes in self.inputs.values()) == 1:
                weight, bias = (f"{len(program.steps)}.{name}" for name in ("weight", "bias"))
                program.arrays[weight] = np.float32(program.arrays[weight] * gain)
                program.arrays[bias] = np.float32(program.arrays[bias] * gain + shift)
            else:
                program.affine(channels, gain, shift)
        elif kind == "PReLU":
            slope = arrays["weight"].read()
            if slope.size not in (1, channels):
                raise Unmapped(f"{node[0]} is a PReLU with a slope for each pixel, which works for one image size only")
            program.add("prelu", slope.size, slope=slope.ravel())
        elif kind in ("Activation", "ReLU", "LeakyReLU"):
            if config.get("max_value") is not None or config.get("threshold"):
                raise Unmapped(f"{node[0]} is an activation with a maximum or a threshold")
            slope = config.get("negative_slope", config.get("alpha", 0.3 if kind == "LeakyReLU" else 0.0))
            self._activation(program, node, config["activation"] if kind == "Activation" else slope)
        elif kind == "UpSampling2D":
            size = config.get("size", [2, 2])
            if size[0] != size[1] or config.get("interpolation", "nearest") not in ("nearest", "bilinear"):
                raise Unmapped(f"{node[0]} enlarges in another way: {config}")
            program.add("enlarge", size[0], config.get("interpolation", "nearest"))
        elif kind == "Add" or function.endswith(("operators__.add", "math.add")):
            for other in others:
                program.add("add", other, 1)
        elif kind == "Rescaling":
            program.affine(channels, config["scale"], config.get("offset", 0))
        elif kind not in _IGNORED:
            self._unknown(program, node, kind, function)

    def _activation(self, program, node, activation):
        """Add an activation given by its name, its description or its slope."""
        if isinstance(activation, dict):
            inner = activation.get("config")
            activation = inner if isinstance(inner, str) else (inner or {}).get("negative_slope", activation["class_name"].lower())
        slope = {"relu": 0.0, "leaky_relu": 0.2}.get(activation, activation)
        if isinstance(slope, (int, float)):
            program.add("leaky", float(slope))
        elif activation in ("tanh", "sigmoid"):
            program.add("squash", activation)
        elif activation not in (None, "linear"):
            raise Unmapped(f"{node[0]} has an activation {activation!r}")

    def _unknown(self, program, node, kind, function):
        """Add a function whose code is not read: a pixel shuffle if it reduces the channels, a change of units at either end."""
        after = self._needed(node)
        r = round((self.channels[node] / after) ** 0.5) if after else 1
        if after and r > 1 and r * r * after == self.channels[node]:
            program.add("shuffle", r)
            self.channels[node] = after
        elif kind not in ("Lambda", "TFOpLambda") or not (
                self.order.index(node) < self.order.index(self.convolutions[0]) or self.order.index(node) > self.order.index(
                    self.convolutions[-1])):
            looks = f"; it looks like {_UNREADABLE[kind]}" if kind in _UNREADABLE else ""
            raise Unmapped(f"{node[0]} is a layer {function}, which npsrgan does not have{looks}")

    def _needed(self, node):
        """The number of channels that the next layer with weights takes, or that the output image has."""
        position = self.order.index(node)
        if self.channels[node] == self.colours or position > self.order.index(self.convolutions[-1]) and (
                self.channels[node] % self.colours == 0):
            return self.colours
        for name, _ in self.order[position + 1:]:
            shape = self.stored[name]["weight"].shape if "weight" in self.stored[name] else ()
            if shape:
                return shape[2] if len(shape) == 4 else shape[-1]
        return None
