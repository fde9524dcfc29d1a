"""Layers: operations together with their parameters, and networks built from them.

A layer finds its parameters by walking its attributes in the order in which `__init__` defined them, so a parameter's
name is its path (`body.0.1.gamma`) and the order never changes.  Lists and tuples are part of the path.  Arrays that are not
parameters (running statistics) are *state*: saved and moved with the layer, but never trained.
"""
import math
from collections.abc import Collection, Mapping
from itertools import accumulate, pairwise

import numpy as np

from npsrgan import ops
from npsrgan.ops.operation import with_twins
from npsrgan.tape import Tensor


class Parameter(Tensor):
    """A trainable tensor.  `name` is its path in the network, set by `Layer.pack`."""

    name = None


class Layer:
    """Base class of layers and networks.  Subclasses set parameters, state and inner layers in `__init__`, and define `forward`."""

    training = True
    _flat = None

    def __call__(self, x):
        return self.forward(x)

    def children(self):
        """(name, value) pairs in definition order: layers, parameters, arrays and settings.

        Each entry of a list or tuple is a child of its own, named `name.0`, `name.1` and so on.
        Raises TypeError for layers, parameters or arrays that would be overlooked; see `_flattened`.
        """
        for name, value in vars(self).items():
            yield from _flattened(name, value)

    def walk(self, prefix=""):
        """Yield (name, layer, value) for every parameter and state array of this layer and of the layers inside it."""
        for name, value in self.children():
            if isinstance(value, Layer):
                yield from value.walk(f"{prefix}{name}.")
            elif isinstance(value, Parameter) or _is_state(name, value):
                yield prefix + name, self, value

    def layers(self):
        """This layer and every layer inside it."""
        yield self
        for _, value in self.children():
            if isinstance(value, Layer):
                yield from value.layers()

    def parameters(self):
        """Every parameter, in definition order."""
        return [p for _, p in self._named() if isinstance(p, Parameter)]

    def state(self):
        """{name: array} of what is saved but not trained: running statistics.  The arrays themselves, not copies."""
        return {name: value for name, value in self._named() if not isinstance(value, Parameter)}

    def state_dict(self):
        """{name: array} of all parameters and state, in definition order.  The arrays themselves, not copies."""
        return {name: value.array if isinstance(value, Parameter) else value for name, value in self._named()}

    def load_state_dict(self, arrays):
        """Write `arrays` {name: NumPy array} into the parameters and state, in place, converted to their dtype.

        Raises ValueError if a name is missing or unexpected, or an array has another shape.  The message lists all of these,
        and nothing is changed.
        """
        mine = self.state_dict()
        wrong = [f"missing {name}" for name in mine if name not in arrays]
        wrong += [f"unexpected {name}" for name in arrays if name not in mine]
        wrong += [f"{name} has shape {arrays[name].shape}, not {mine[name].shape}" for name in mine
                  if name in arrays and arrays[name].shape != mine[name].shape]
        if wrong:
            raise ValueError("; ".join(wrong))
        for name, array in mine.items():
            array[...] = np.asarray(arrays[name].astype(array.dtype), like=array)

    def train(self, training=True):
        """Use batch statistics and update the running ones.  Returns the layer."""
        for layer in self.layers():
            layer.training = training
        return self

    def eval(self):
        """Use running statistics as constants.  Returns the layer."""
        return self.train(False)

    @property
    def flat(self):
        """All parameters in one buffer (total size,), which can be updated, saved or reduced as one array.  Each parameter is a view of it.

        Packs again if a parameter is no longer a view, as after a deep copy or after an inner layer was packed on its own.
        """
        if self._flat is None or not all(np.may_share_memory(p.array, self._flat) for p in self.parameters()):
            self.pack()
        return self._flat

    def pack(self):
        """Lay out all parameters in one new buffer and make each a view into it.  Returns the layer."""
        named = [(name, p) for name, p in self._named() if isinstance(p, Parameter)]
        self._flat = np.concatenate([p.array.ravel() for _, p in named])
        for (name, p), view in zip(named, views(self._flat, [p.shape for _, p in named])):
            p.name, p.array = name, view
        return self

    def freeze(self):
        """Forbid changes: writing into a parameter raises ValueError, so the fast convolutions may keep what they compute from it.

        `pack` and `to` make new arrays, which can be changed again.  Has no effect on a GPU.  Returns the layer.
        """
        self.pack()
        for array in (self._flat, *(p.array for p in self.parameters())):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        return self

    def to(self, convert):
        """Pass every array through `convert`, a function from array to array, and pack the results.  Returns the layer.

        `network.to(cupy.asarray)` moves a network to the GPU; `network.to(lambda a: a.astype(np.float64))` makes it double
        precision (np.float64 itself does not work: it turns an array with one entry into a scalar in NumPy 2.0).
        """
        for name, layer, value in list(self.walk()):
            if isinstance(value, Parameter):
                value.array = convert(value.array)
            else:
                setattr(layer, name.rpartition(".")[2], convert(value))
        return self.pack()

    def _named(self):
        return [(name, value) for name, _, value in self.walk()]


def _flattened(name, value):
    """Yield (name, value), or the entries of a list or tuple one by one.  Raises TypeError for layers or parameters in any other
    collection or object, and for state arrays in lists, since these would be neither trained nor saved."""
    if isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            if _is_state(name, entry):
                raise TypeError(f"{name} is a {type(value).__name__} of arrays: make each of them an attribute of the layer")
            yield from _flattened(f"{name}.{index}", entry)
    elif not isinstance(value, (Layer, Parameter)) and _holds_layers(value):
        raise TypeError(f"{name} is a {type(value).__name__} that holds layers or parameters: use a list, a tuple or attributes")
    else:
        yield name, value


def _is_state(name, value):
    return hasattr(value, "dtype") and not isinstance(value, Parameter) and not name.startswith("_")


def _holds_layers(value):
    if isinstance(value, (Layer, Parameter)):
        return True
    if hasattr(value, "dtype") or isinstance(value, (str, bytes)):
        return False
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, Collection):
        return any(map(_holds_layers, value))
    return any(isinstance(attribute, (Layer, Parameter)) for attribute in getattr(value, "__dict__", {}).values())


def views(flat, shapes):
    """Cut a flat buffer into consecutive views of the given shapes."""
    stops = accumulate(map(math.prod, shapes), initial=0)
    return [flat[start:stop].reshape(shape) for (start, stop), shape in zip(pairwise(stops), shapes)]


class Conv2d(Layer):
    """Convolution with a square kernel and padding k // 2; weight (k, k, in, out), bias (out,).  See `ops.conv2d`."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1):
        self.weight = Parameter(np.zeros((kernel_size, kernel_size, in_channels, out_channels), np.float32))
        self.bias = Parameter(np.zeros(out_channels, np.float32))
        self.stride = stride

    def forward(self, x):
        return ops.conv2d(x, self.weight, self.bias, self.stride)


class Linear(Layer):
    """Fully connected; weight (in, out), bias (out,)."""

    def __init__(self, in_features, out_features):
        self.weight = Parameter(np.zeros((in_features, out_features), np.float32))
        self.bias = Parameter(np.zeros(out_features, np.float32))

    def forward(self, x):
        return ops.linear(x, self.weight, self.bias)


class BatchNorm(Layer):
    """Batch normalisation over all axes but the last.  See `ops.batch_norm`."""

    momentum, eps = 0.9, 1e-5

    def __init__(self, channels):
        self.gamma = Parameter(np.ones(channels, np.float32))
        self.beta = Parameter(np.zeros(channels, np.float32))
        self.running_mean = np.zeros(channels, np.float32)
        self.running_var = np.ones(channels, np.float32)

    def forward(self, x):
        return ops.batch_norm(x, self.gamma, self.beta, self.running_mean, self.running_var, self.training, self.momentum, self.eps)


class PReLU(Layer):
    """ReLU with a learned slope below zero for each channel, initially 0.25.  See `ops.prelu`."""

    def __init__(self, channels):
        self.slope = Parameter(np.full(channels, 0.25, np.float32))

    def forward(self, x):
        return ops.prelu(x, self.slope)


class LeakyReLU(Layer):
    """ReLU with a constant slope below zero.  See `ops.leaky_relu`."""

    def __init__(self, slope=0.2):
        self.slope = slope

    def forward(self, x):
        return ops.leaky_relu(x, self.slope)


class PixelShuffle(Layer):
    """r*r*C channels -> C channels at r times the resolution.  See `ops.pixel_shuffle`."""

    def __init__(self, r=2):
        self.r = r

    def forward(self, x):
        return ops.pixel_shuffle(x, self.r)


class Flatten(Layer):
    """(N, ...) -> (N, everything else)."""

    def forward(self, x):
        return ops.flatten(x)


class Sequential(Layer):
    """Applies layers one after another.  They are named 0, 1, 2, ..."""

    def __init__(self, *steps):
        self.steps = steps

    def children(self):
        return [(str(index), step) for index, step in enumerate(self.steps)]

    @with_twins
    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class Residual(Sequential):
    """x + inner(x), where `inner` applies the layers one after another.  He et al. 2016, eq. 1."""

    @with_twins
    def forward(self, x):
        return x + super().forward(x)


INITIALISATIONS = ("he", "normal")


def initialise(network, seed=0, method="he"):
    """Draw the weights of every convolution and linear layer from `seed`; biases stay 0, PReLU 0.25, gamma 1, beta 0.

    method "he":     normal with variance 2 / fan_in, which keeps the signal's size through ReLUs (He et al. 2015, eq. 10).
    method "normal": normal with standard deviation 0.01.

    Returns the network, packed.  Raises ValueError for any other method.
    """
    if method not in INITIALISATIONS:
        raise ValueError(f"there is no initialisation {method!r}: choose one of {', '.join(INITIALISATIONS)}")
    weights = [layer.weight for layer in network.pack().layers() if isinstance(layer, (Conv2d, Linear))]
    for index, weight in enumerate(weights):
        fan_in = weight.array.size // weight.shape[-1]
        std = (2 / fan_in) ** 0.5 if method == "he" else 0.01
        np.random.default_rng([seed, index]).standard_normal(weight.shape, np.float32, out=weight.array)
        weight.array *= std
    return network
