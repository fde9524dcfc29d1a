"""Turns a file's contents into one of our networks, and one of our networks into PyTorch's layout."""
import math

import numpy as np

from npsrgan.convert import keras, readings, structure
from npsrgan.convert.pickles import Stored
from npsrgan.convert.structure import Unmapped
from npsrgan.layers import BatchNorm, Conv2d
from npsrgan.models import VGG19, Assembled, SRResNet
from npsrgan.models.vgg19 import LAYERS, PLAN
from npsrgan.system.errors import UserError

_SHARED = 8             # times the file's size: more than valid tensors take in memory, even 8-bit ones converted to float32
_DEPTH = 12             # of nested containers


def find(source, path, fixed, key=None, force=False):
    """The network in a `formats.Source`, and a sentence about what was found.

    fixed: {field of readings.Choice: value} that the user specified.   force: see `readings.most_plausible`.
    key:   the state dict to use, or a prefix of the names in it; None: the one that fits, or the moving average if several do.
    Raises UserError if none fits, or more than one.
    """
    if isinstance(source.contents, keras.Model):
        if not 2 <= source.contents.scale <= 8:
            raise Unmapped(f"its scale factor is {source.contents.scale}, not 2 to 8")
        return _read(source.kind, [source.contents], fixed, force)
    dicts = dict(_state_dicts(source.contents, source.ordered))
    if key is not None:
        inner = {f"{path}.{prefix}".lstrip("."): part for path, arrays in dicts.items() for prefix, part in _by_prefix(arrays).items()}
        dicts = {name: arrays for name, arrays in (inner | dicts).items() if name == key.rstrip(".")}
    if not dicts:
        raise UserError(f"{path} holds no state dict with convolutions" + (f" under the name {key!r}" if key is not None else ""))
    fitting, trouble, waiting = {}, {}, list(dicts.items())
    for name, arrays in waiting:
        if 4 * sum(math.prod(array.shape) for array in arrays.values()) > _SHARED * path.stat().st_size:
            raise UserError(f"{path} was not read: its tensors share memory or are compressed, and would be far larger than the file")
        try:
            kinds = structure.parts_of(arrays)
            fitting[name] = _vgg19(kinds, arrays) or structure.generators(kinds, source.plain_order)
        except Unmapped as error:
            trouble[name] = error
            if name in dicts:           # perhaps several networks in one state dict
                waiting += [(f"{name}.{prefix}".lstrip("."), part) for prefix, part in _by_prefix(arrays).items()]
    if not fitting:
        largest = max(dicts, key=lambda name: len(dicts[name]))
        raise Unmapped(f"{f'{largest!r}: ' if largest else ''}{trouble[largest]}")
    chosen = [name for name in fitting if "ema" in name] or list(fitting)
    if len(chosen) > 1:
        raise UserError(f"{path} holds several networks: choose one with --key: {structure.listed(list(fitting))}")
    found, about = fitting[chosen[0]], f"{source.kind}{f', {chosen[0]!r}' if chosen[0] else ''}"
    if isinstance(found, tuple):
        network, left_out = found
        return network, about + (f"; left out: {structure.listed(left_out)}" if left_out else "")
    return _read(about, found, fixed, force)


def _read(about, found, fixed, force):
    """The network of the most plausible of the generators found, chosen on the photograph, and a sentence about it."""
    best, bicubic = readings.most_plausible(found, fixed, force)
    network = readings.paper(best.generator, best.choice) or readings.whole(best.generator, best.choice)
    doubt = "" if best.score > bicubic + readings.MARGIN else (
        "\nthat is no better than bicubic enlargement: perhaps its layers are in another order or of another kind; compare its results "
        "with those that its author shows")
    return network, (f"{about}; {best.choice.words} (tried on a photograph: {best.score:.1f} dB, bicubic enlargement "
                     f"{bicubic:.1f} dB){doubt}")


def _state_dicts(contents, ordered):
    """Every dict in nested containers that holds kernels, with the path of keys to it."""
    waiting, seen = [("", contents, 0)], set()
    while waiting:
        path, value, depth = waiting.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen or depth > _DEPTH:   # containers can contain each other
            continue
        seen.add(id(value))
        module = isinstance(value, dict) and isinstance(value.get("_modules"), dict)
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        arrays = dict(_of_module(value)) if module else {
            name: item for name, item in items if isinstance(item, Stored) and isinstance(name, str)}
        if any(len(array.shape) == 4 for array in arrays.values()):
            if not ordered:
                arrays = {name: arrays[name] for name in sorted(arrays, key=structure.naturally)}
            yield path, arrays
        if not module:
            waiting += [(f"{path}.{name}".lstrip("."), item, depth + 1) for name, item in reversed(items)
                        if isinstance(item, (dict, list, tuple)) and item]


def _by_prefix(arrays):
    """{first part of a name: the arrays whose names begin with it} of a state dict, for prefixes with several kernels."""
    parts = {}
    for name, array in arrays.items():
        parts.setdefault(name.partition(".")[0], {})[name] = array
    return {prefix: part for prefix, part in parts.items()
            if len(part) < len(arrays) and sum(len(array.shape) == 4 for array in part.values()) > 2}


def _of_module(module, prefix="", depth=0):
    """(name, array) of a pickled torch.nn.Module, as in its state_dict."""
    for group in ("_parameters", "_buffers"):
        for name, value in (module.get(group) or {}).items():
            if isinstance(value, Stored):
                yield f"{prefix}{name}", value
    for name, inner in (module.get("_modules") or {}).items():
        if isinstance(inner, dict) and depth < _DEPTH:
            yield from _of_module(inner, f"{prefix}{name}.", depth + 1)


def _vgg19(kinds, arrays):
    """(VGG19 up to the last layer with arrays, the names ignored), with or without a classifier; None for another network.

    torchvision and PaddleClas trained on RGB in [0, 1], normalised by ImageNet's mean and standard deviation; this is folded into
    gain and shift.  The feature scale is 1: 1/12.75 is for the original weights, which take pixels up to 255.
    """
    channels = [3, *[channels for _, channels, depth in PLAN for _ in range(depth)]]
    shapes = [part.shape for part in kinds["conv"]]
    if len(shapes) < 2 or shapes != [(after, before, 3, 3) for before, after in zip(channels, channels[1:])][:len(shapes)]:
        return None
    if kinds["norm"]:
        raise Unmapped(f"it is a VGG19 with {len(kinds['norm'])} batch norms, and the perceptual loss needs one without")
    network = VGG19(LAYERS[len(shapes) - 1])
    _, network.input_gain[...], network.input_shift[...] = readings.INPUTS["imagenet"]
    own = {name: arrays[name].read() for name, shape in (("input_gain", (3,)), ("input_shift", (3,)), ("feature_scale", ()))
           if name in arrays and arrays[name].shape == shape}
    if len(own) == 3:       # written by `to_torch`
        network.input_gain[...], network.input_shift[...] = own["input_gain"], own["input_shift"]
        network.settings["feature_scale"] = float(own["feature_scale"])
    layers = [layer for layer in network.layers() if isinstance(layer, Conv2d)]
    for ours, theirs in zip(layers, kinds["conv"]):
        ours.weight.array[...], ours.bias.array[...] = readings.folded(theirs)
    used = [id(array) for part in kinds["conv"] for array in part.stored.values()]
    return network, [name for name, array in arrays.items() if id(array) not in used and name not in own]


def to_torch(network):
    """{name: array} of an SRResNet or VGG19 as the state dict of PyTorch modules nested and named like our layers.

    PReLU's slope and batch norm's gamma and beta get PyTorch's names, weight and bias.  VGG19 includes its input_gain,
    input_shift and feature_scale.  Raises UserError for other networks.
    """
    if not isinstance(network, (SRResNet, VGG19)):
        raise UserError(f"only SRResNet and VGG19 can be written as a state dict, not {type(network).__name__}: --to onnx writes "
                        "any generator")
    stages = network.upsampling.steps if isinstance(network, SRResNet) else ()
    shuffles = {stage.steps[0]: stage.steps[1].r for stage in stages}
    values, arrays = network.state_dict(), {}
    for name, layer, _ in network.walk():
        array, attribute = values[name], name.rpartition(".")[2]
        if isinstance(layer, Conv2d):
            array = array.transpose(3, 2, 0, 1) if attribute == "weight" else array
            r = shuffles.get(layer, 1)          # undo our channel order for a pixel shuffle
            array = array.reshape(r * r, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
        renamed = {"slope": "weight", "gamma": "weight", "beta": "bias"}.get(attribute, attribute)
        arrays[name[:len(name) - len(attribute)] + renamed] = array
    if isinstance(network, VGG19):
        arrays["feature_scale"] = np.float32(network.settings["feature_scale"])
    return arrays


def assembled(network):
    """The Assembled equivalent to a generator in evaluation mode.  Raises UserError for networks that are not generators."""
    if isinstance(network, Assembled):
        return network
    if not isinstance(network, SRResNet):
        raise UserError(f"only generators can be written as ONNX, not {type(network).__name__}")
    arrays = {name: Stored(array.shape, lambda array=array: np.asarray(array)) for name, array in to_torch(network).items()}
    generator, *_ = structure.generators(structure.parts_of(arrays))
    return readings.whole(generator, readings.Choice((BatchNorm.eps,) * 2, None, None, 1.0, True, "symmetric", "symmetric"))
