"""Other people's weights into our networks, by the order and the shapes of their arrays; and our networks into PyTorch's layouts.

Whatever a repository calls its layers, its state dict lists them in the order in which they were defined, and the last part of
a name (weight, bias, running_mean) says what an array is.  Convolutions, batch norms and PReLUs are each taken in their own
order, so it does not matter how a file interleaves them.

PyTorch and Paddle keep a kernel as (out, in, height, width), we as (height, width, in, out).  Their pixel shuffle takes channel
c*r*r + i*r + j to offset (i, j), ours channel (i*r + j)*C + c: the kernels before one are reordered (see `ops.pixel_shuffle`).
"""
import math
from itertools import groupby
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from npsrgan.convert.pickles import Stored
from npsrgan.errors import UserError
from npsrgan.layers import BatchNorm, Conv2d, PReLU
from npsrgan.models import VGG19, SRResNet
from npsrgan.models.vgg19 import LAYERS, PLAN

IMAGENET_MEAN, IMAGENET_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])      # of RGB in [0, 1]
_PADDLE = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight"}
_UNTOUCHED = 0.25       # PReLU's slope before training
_SHARED = 16            # times the size of the file: more than honest tensors take in memory, even 8-bit ones made float32


class Unmapped(UserError):
    """Weights that are not those of a network we have.  The message lists what does not fit."""


class Found(NamedTuple):
    """A network, and the names of the arrays in the file that it has no use for."""

    network: object
    left_out: list


def find(source, path, key=None, slope=None):
    """The network in a `formats.Source`: (the name of its state dict in the file, "" for the file itself; a Found).

    key:   the state dict to take; None: the one that fits, and of several the moving average ("ema").
    slope: of the activations below zero, for files without PReLU: 0 for ReLU, 0.2 for LeakyReLU(0.2).
    Raises UserError where nothing fits, or more than one.
    """
    dicts = {name: arrays for name, arrays in _state_dicts(source.contents) if key in (None, name)}
    if not dicts:
        raise UserError(f"{path} holds no state dict with convolutions" + (f" under the name {key!r}" if key is not None else ""))
    fitting, trouble = {}, {}
    for name, arrays in dicts.items():
        if 4 * sum(math.prod(array.shape) for array in arrays.values()) > _SHARED * path.stat().st_size:
            raise UserError(f"{path} was not read: its tensors share their numbers, and together would be far larger than it is")
        try:
            fitting[name] = _network(arrays, slope)
        except Unmapped as error:
            trouble[name] = error
    if not fitting:
        largest = max(dicts, key=lambda name: len(dicts[name]))
        raise Unmapped(f"{path}{f', {largest!r},' if largest else ''} cannot be mapped: {trouble[largest]}")
    chosen = [name for name in fitting if "ema" in name] or list(fitting)
    if len(chosen) > 1:
        raise UserError(f"{path} holds several networks: choose one with --key, of {', '.join(fitting)}")
    return chosen[0], fitting[chosen[0]]


def _state_dicts(contents):
    """Every dict in nested containers that holds kernels, with the path of keys that leads to it."""
    waiting, seen = [("", contents)], set()
    while waiting:
        path, value = waiting.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen:     # containers can hold each other
            continue
        seen.add(id(value))
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        arrays = {name: item for name, item in items if isinstance(item, Stored) and isinstance(name, str)}
        if any(len(array.shape) == 4 for array in arrays.values()):
            yield path, arrays
        waiting += [(f"{path}.{name}".lstrip("."), item) for name, item in reversed(items)]


class _Layers(NamedTuple):
    """The layers of a state dict, each {"weight": Stored, ...}, and the names of all other arrays."""

    convolutions: list
    norms: list
    slopes: list
    others: list


def _layers(arrays):
    groups, layers = {}, _Layers([], [], [], [])
    for name in arrays:
        path, _, leaf = name.rpartition(".")
        groups.setdefault(path, {})[_PADDLE.get(leaf, leaf)] = name
    for group in groups.values():
        group.pop("num_batches_tracked", None)
        layer = {leaf: arrays[name] for leaf, name in group.items()}
        shape = layer["weight"].shape if "weight" in layer else ()
        per_channel = {leaf for leaf, array in layer.items() if array.shape == shape[:1]}
        if len(shape) == 4 and layer.keys() - per_channel == {"weight"} and per_channel <= {"bias"}:
            layers.convolutions.append(layer)
        elif layer.keys() == per_channel == {"weight", "bias", "running_mean", "running_var"}:
            layers.norms.append(layer)
        elif layer.keys() == per_channel == {"weight"}:
            layers.slopes.append(layer)
        else:
            layers.others.extend(group.values())
    return layers


def _network(arrays, slope):
    layers = _layers(arrays)
    shapes = [layer["weight"].shape for layer in layers.convolutions]
    if not shapes:
        raise Unmapped(f"it has no convolutions, only {', '.join(arrays)}")
    channels = [3, *[channels for _, channels, depth in PLAN for _ in range(depth)]]
    vgg19 = [(after, before, 3, 3) for before, after in zip(channels, channels[1:])]
    if len(shapes) > 1 and shapes == vgg19[:len(shapes)]:
        return _vgg19(layers, arrays)
    return Found(_srresnet(layers, shapes, slope), [])


def _vgg19(layers, arrays):
    """VGG19 as far as the file goes, whatever classifier follows it left out.

    torchvision and PaddleClas trained on RGB in [0, 1], normalised by ImageNet's mean and deviation; that is folded into gain
    and shift.  The feature scale is 1: 1/12.75 belongs to the original weights, which see pixels up to 255.
    """
    if layers.norms:
        raise Unmapped(f"it is a VGG19 with {len(layers.norms)} batch norms, which the VGG19 of the perceptual loss has not")
    network = VGG19(LAYERS[len(layers.convolutions) - 1])
    network.input_gain[...], network.input_shift[...] = 0.5 / IMAGENET_STD, (0.5 - IMAGENET_MEAN) / IMAGENET_STD
    own = {name: arrays[name].read() for name, shape in (("input_gain", (3,)), ("input_shift", (3,)), ("feature_scale", ()))
           if name in arrays and arrays[name].shape == shape}
    if len(own) == 3:       # written by `to_torch`
        network.input_gain[...], network.input_shift[...] = own["input_gain"], own["input_shift"]
        network.settings["feature_scale"] = float(own["feature_scale"])
    _fill_convolutions(network, layers.convolutions)
    return Found(network, [name for name in layers.others if name not in own])


def _srresnet(layers, shapes, slope):
    """SRResNet with as many channels, blocks and doublings as the shapes say; as if it worked in [-1, 1] (see `ranges`)."""
    c = shapes[0][0]
    doublings = shapes.count((4 * c, c, 3, 3))
    blocks = max((len(shapes) - 3 - doublings) // 2, 0)
    first, last = shapes[0][2], shapes[-1][2]
    wanted = [(c, 3, first, first), *[(c, c, 3, 3)] * (2 * blocks + 1), *[(4 * c, c, 3, 3)] * doublings, (3, c, last, last)]
    if shapes != wanted or doublings not in (1, 2) or not {first, last} <= {1, 3, 5, 7, 9}:
        raise Unmapped(f"its convolutions are {_in_words(shapes)}, and SRResNet's are 3->C 9x9, twice C->C 3x3 for each block "
                       "and once more, C->4C 3x3 for each of one or two doublings, C->3 9x9")
    slopes = _slopes(layers.slopes, blocks, doublings, c, slope)
    sizes = [layer["weight"].shape[0] for layer in layers.norms]
    if sizes not in ([c] * (2 * blocks + 1), [c] * (2 * blocks + 1) + [4 * c] * doublings):
        raise Unmapped(f"it has {len(sizes)} batch norms for {blocks} blocks, where SRResNet has two in each block "
                       "and one after them")
    if layers.others:
        raise Unmapped(f"SRResNet has nothing like {', '.join(layers.others)}")

    network = SRResNet(c, blocks, 2 ** doublings)
    _fill_convolutions(network, layers.convolutions, dict(zip(range(2 * blocks + 2, len(shapes)), layers.norms[2 * blocks + 1:])))
    for ours, theirs in zip(_of_kind(network, BatchNorm), layers.norms):
        ours.gamma.array[...], ours.beta.array[...] = theirs["weight"].read(), theirs["bias"].read()
        ours.running_mean[...], ours.running_var[...] = theirs["running_mean"].read(), theirs["running_var"].read()
    for ours, theirs in zip(_of_kind(network, PReLU), slopes):
        ours.slope.array[...] = theirs          # one for all channels, or one for each
    return network


def _slopes(found, blocks, doublings, channels, slope):
    """The slopes of our 1 + blocks + doublings PReLUs."""
    needed = 1 + blocks + doublings
    if not found and slope is not None:
        return [slope] * needed
    slopes = [layer["weight"].read() for layer in found if layer["weight"].shape in ((1,), (channels,))]
    if len(slopes) == len(found) == 2 * blocks + 2 + doublings:
        # Some repositories give every convolution but the last a PReLU and skip those after a block's second convolution and
        # after the last block.  Skipped means never trained.
        skipped = slopes[2:2 * blocks + 2:2] + [slopes[2 * blocks + 1]]
        if all((values == _UNTOUCHED).all() for values in skipped):
            return slopes[:1] + slopes[1:2 * blocks + 1:2] + slopes[2 * blocks + 2:]
    if not len(slopes) == len(found) == needed:
        hint = "; if it uses ReLU give --slope 0, for LeakyReLU(0.2) --slope 0.2" if not found else ""
        raise Unmapped(f"it has {len(found)} PReLUs for {blocks} blocks, where SRResNet has {needed}, "
                       f"each with 1 or {channels} slopes{hint}")
    return slopes


def _fill_convolutions(network, layers, norms=None):
    """Write their convolutions into ours.  norms: {number of a convolution: a batch norm after it, to be folded into it}."""
    shuffled = 4 * network.settings.get("channels", 0)
    for number, (ours, theirs) in enumerate(zip(_of_kind(network, Conv2d), tqdm(layers, "reading", delay=2, leave=False))):
        weight = theirs["weight"].read()
        bias = theirs["bias"].read() if "bias" in theirs else np.zeros(len(weight), np.float32)
        if norms and number in norms:
            norm = {leaf: stored.read() for leaf, stored in norms[number].items()}
            factor = norm["weight"] / np.sqrt(norm["running_var"] + np.float32(BatchNorm.eps))
            weight, bias = weight * factor[:, None, None, None], (bias - norm["running_mean"]) * factor + norm["bias"]
        if len(weight) == shuffled:
            weight, bias = _ours_from_theirs(weight), _ours_from_theirs(bias)
        margin = (ours.weight.shape[0] - weight.shape[2]) // 2      # a smaller kernel is a larger one with zeros around it
        ours.weight.array[...] = np.pad(weight.transpose(2, 3, 1, 0), ((margin, margin), (margin, margin), (0, 0), (0, 0)))
        ours.bias.array[...] = bias


def to_torch(network):
    """{name: array} of an SRResNet or VGG19 as the state dict of PyTorch modules nested and named like our layers.

    PReLU's slope and batch norm's gamma and beta go by PyTorch's names, weight and bias.  VGG19 comes with its input_gain,
    input_shift and feature_scale.  Raises UserError for other networks.
    """
    if not isinstance(network, (SRResNet, VGG19)):
        raise UserError(f"only generators and VGG19 can be written for PyTorch, not a {type(network).__name__}")
    shuffled, arrays = 4 * network.settings.get("channels", 0), {}
    values = network.state_dict()
    for name, layer, attribute in network.walk():
        array = values[name]
        if isinstance(layer, Conv2d):
            array = array.transpose(3, 2, 0, 1) if attribute == "weight" else array
            array = _theirs_from_ours(array) if len(array) == shuffled else array
        renamed = {"slope": "weight", "gamma": "weight", "beta": "bias"}.get(attribute, attribute)
        arrays[name[:len(name) - len(attribute)] + renamed] = array
    if isinstance(network, VGG19):
        arrays["feature_scale"] = np.float32(network.settings["feature_scale"])
    return arrays


def _ours_from_theirs(array):
    return array.reshape(-1, 4, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def _theirs_from_ours(array):
    return array.reshape(4, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def _of_kind(network, kind):
    return [layer for layer in network.layers() if isinstance(layer, kind)]


def _in_words(shapes):
    """Such as "3->64 9x9, 33 times 64->64 3x3"."""
    runs = [(shape, len(list(run))) for shape, run in groupby(shapes)]
    return ", ".join(f"{n} times " * (n > 1) + f"{i}->{o} {h}x{w}" for (o, i, h, w), n in runs)
