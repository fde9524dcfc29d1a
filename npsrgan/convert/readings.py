"""Determines by trial what a weights file does not say: a photograph shows which reading of a generator is right.

A state dict holds the numbers, but not the units of the pixels, batch norm's eps, or the positions of activations without
parameters.  Every combination that its author may have meant is tried: it enlarges a downscaled crop of a photograph.
"""
from itertools import product
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from npsrgan import images
from npsrgan.convert.structure import Generator
from npsrgan.data.degrade import downscale, upscale
from npsrgan.data.photograph import Photograph
from npsrgan.layers import BatchNorm, Conv2d, PReLU
from npsrgan.metrics import psnr
from npsrgan.models import SRResNet
from npsrgan.models.assembled import Assembled, Enlarge
from npsrgan.system.errors import UserError
from npsrgan.tape import Tensor

MARGIN = 0.4        # dB by which a reading must beat those that make another picture
SAME = 45.0         # PSNR in dB above which two pictures count as the same
FLOOR = 5.0         # a best reading this many dB below bicubic enlargement is refused
LUMA = np.float32([[0.299], [0.587], [0.114]])          # weights of RGB, ITU-R BT.601
_IMAGENET = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])        # mean and standard deviation of RGB in [0, 1]
_DIV2K = np.float32([0.4488, 0.4371, 0.4040])

# Units of a generator's pixels.  Input, from [-1, 1]: {name: (in words, gain, shift)}.
INPUTS = {"symmetric": ("[-1, 1]", 1, 0), "unit": ("[0, 1]", 0.5, 0.5), "bytes": ("[0, 255]", 127.5, 127.5),
          "imagenet": ("[0, 1] normalised by ImageNet's mean and deviation", 0.5 / _IMAGENET[1], (0.5 - _IMAGENET[0]) / _IMAGENET[1]),
          "div2k": ("[0, 255] less DIV2K's mean", 127.5, 127.5 - 255 * _DIV2K)}
# Output, to [-1, 1]: {name: (in words, function after the last convolution, gain, shift)}.
OUTPUTS = {"symmetric": ("[-1, 1]", None, 1, 0), "unit": ("[0, 1]", None, 2, -1), "bytes": ("[0, 255]", None, 1 / 127.5, -1),
           "tanh": ("tanh", "tanh", 1, 0), "sigmoid": ("sigmoid", "sigmoid", 2, -1),
           "div2k": ("[0, 255] less DIV2K's mean", None, 1 / 127.5, 2 * _DIV2K - 1)}
BASES = (None, "nearest", "bilinear", "bicubic")        # an enlargement of the input that is added to the result
# Fixed slopes in place of PReLU: {name: (after the head, in the blocks, after the upsampling)}; * is the choice's slope.
ACTIVATIONS = {"everywhere": ("*", "*", "*"), "blocks": (None, "*", None), "not-first": (None, "*", "*"), "msrresnet": (0.1, 0, 0.1)}


class Choice(NamedTuple):
    """What a file leaves open.  None: it does not apply to this file."""

    eps: tuple | None               # of the batch norms in the trunk and in the upsampling
    activations: str | None         # a name in ACTIVATIONS
    slope: float | None             # their slope below zero
    residual: float                 # factor on what a block adds
    skip: bool                      # whether the head's output is added after the blocks
    input: str = ""
    output: str = ""
    base: str | None = None

    @property
    def words(self):
        """The choice in words, as printed."""
        said = [f"{INPUTS[self.input][0]} in, {OUTPUTS[self.output][0]} out"]
        if self.eps:
            said.append(f"eps {self.eps[0]:g}" + f", {self.eps[1]:g} in the upsampling" * (self.eps[0] != self.eps[1]))
        if self.activations:
            said.append("activations as in MSRResNet" if self.activations == "msrresnet"
                        else f"slope {self.slope:g} " + {"blocks": "in blocks", "not-first": "but not first"}.get(
                            self.activations, self.activations))
        said += [f"residuals times {self.residual:g}"] * (self.residual != 1) + ["no long skip"] * (not self.skip)
        return ", ".join(said + [f"{self.base} enlargement added"] * bool(self.base))


class Program:
    """Steps for an Assembled, and their arrays."""

    def __init__(self):
        self.steps, self.arrays = [], {}

    def add(self, kind, *arguments, **arrays):
        """Add a step.  Returns the number of its value."""
        self.steps.append([kind, *arguments])
        self.arrays.update({f"{len(self.steps)}.{name}": np.asarray(array, np.float32) for name, array in arrays.items()})
        return len(self.steps)

    def affine(self, channels, gain, shift):
        """Add gain * x + shift, unless that equals x.  Returns the number of the value."""
        if np.all(np.equal(gain, 1)) and not np.any(shift):
            return len(self.steps)
        gain, shift = (np.broadcast_to(array, channels) if channels > 1 else np.reshape(np.mean(array), 1) for array in (gain, shift))
        return self.add("affine", channels, gain=gain, shift=shift)

    def network(self, scale=1, inputs=3):
        """The Assembled."""
        network = Assembled(scale, self.steps, inputs)
        network.load_state_dict(self.arrays)
        return network


def folded(part, r=1, eps=0.0, only=True):
    """A Part's kernel (k, k, in, out) and bias in our layout.  r: the factor of the pixel shuffle after it, 1 for none.

    PyTorch and Paddle store a kernel as (out, in, height, width).  Their pixel shuffle moves channel c*r*r + i*r + j to offset
    (i, j), ours channel (i*r + j)*C + c (see `ops.pixel_shuffle`).  A batch norm after the convolution is folded into it if `only`.
    """
    kernel, bias = part["weight"].astype(np.float64), part["bias"].astype(np.float64)
    if part.norm and only:
        factor = part.norm["weight"] / np.sqrt(part.norm["running_var"] + eps)
        kernel, bias = kernel * factor[:, None, None, None], (bias - part.norm["running_mean"]) * factor + part.norm["bias"]
    return reordered(kernel, r).transpose(2, 3, 1, 0), reordered(bias, r)


def reordered(array, r):
    """Reorder the first axis from PyTorch's channel order for a pixel shuffle to ours."""
    return array.reshape(-1, r * r, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def core(program, generator, choice):
    """Add a generator's steps, from its input units to its output units, to a Program."""
    if not isinstance(generator, Generator):
        return generator.core(program)
    at_head, in_blocks, above = [choice.slope if slope == "*" else slope for slope in ACTIVATIONS.get(choice.activations, (None,) * 3)]

    def convolution(part, slope=None, r=1):
        plain = generator.plain_order and r > 1
        kernel, bias = folded(part, 1 if plain else r, choice.eps[r > 1] if choice.eps else 0)
        program.add("conv", *kernel.shape[2:], len(kernel), weight=kernel, bias=bias)
        before = part.slope and part.slope.shape[0] == part.shape[0] and r > 1
        for shuffled in (False, True):
            if shuffled and r > 1:
                program.add("shuffle", r)
            if part.slope and before != shuffled:
                values = part.slope["weight"]
                program.add("prelu", len(values), slope=reordered(values, r) if before and not plain else values)
            elif slope is not None and shuffled:
                program.add("leaky", slope)
        return len(program.steps)

    for shift in generator.shifts[:1]:
        convolution(shift)
    start = convolution(generator.head, at_head)
    for block in generator.blocks:
        before = len(program.steps)
        convolution(block[0], in_blocks)
        if len(block) == 2:
            convolution(block[1])
            program.add("add", before, choice.residual)
    if generator.middle:
        convolution(generator.middle)
    if choice.skip:
        program.add("add", start, 1)
    for up, r in generator.ups:
        convolution(up, above, r)
    if generator.late:
        convolution(generator.late, above)
    convolution(generator.tail, None, generator.direct)
    for shift in generator.shifts[1:]:
        convolution(shift)


def before(program, colours, choice):
    """Add what comes before a generator: from RGB in [-1, 1] to its input units."""
    if colours == 1:
        program.add("conv", 3, 1, 1, weight=LUMA[None, None], bias=[0])
    program.affine(colours, *INPUTS[choice.input][1:])


def behind(program, colours, choice):
    """Add what comes after it: from its output units to [-1, 1]."""
    _, squash, gain, shift = OUTPUTS[choice.output]
    if squash:
        program.add("squash", squash)
    program.affine(colours, gain, shift)


def whole(generator, choice):
    """The generator from RGB to RGB: an Assembled.  A grey generator gets the luminance; colour is enlarged bicubically."""
    program, colours = Program(), generator.colours
    before(program, colours, choice)
    own = len(program.steps)
    core(program, generator, choice)
    if choice.base:
        result = len(program.steps)
        program.add("recall", own)
        program.add("enlarge", generator.scale, choice.base)
        program.add("add", result, 1)
    behind(program, colours, choice)
    if colours == 1:
        grey = program.add("conv", 1, 3, 1, weight=np.ones((1, 1, 1, 3)), bias=np.zeros(3))
        program.add("recall", 0)
        program.add("enlarge", generator.scale, "bicubic")
        program.add("conv", 3, 3, 1, weight=(np.eye(3) - LUMA)[None, None], bias=np.zeros(3))
        program.add("add", grey, 1)
    return program.network(generator.scale)


def paper(generator, choice):
    """The generator as an SRResNet, which can be trained further; None if it is another network."""
    if not isinstance(generator, Generator):
        return None
    head, middle, tail, c = generator.head, generator.middle, generator.tail, generator.head.shape[0]
    trunk = [part for block in generator.blocks for part in block] + [middle]
    inner = [head, *[block[0] for block in generator.blocks], *[up for up, _ in generator.ups]]
    _, squash, gain, shift = OUTPUTS[choice.output]
    if (choice.input != "symmetric" or squash or choice.base or choice.residual != 1 or not choice.skip or generator.late
            or choice.activations not in (None, "everywhere") or None in trunk or any(len(block) < 2 for block in generator.blocks)
            or generator.scale not in SRResNet.SHUFFLES or [r for _, r in generator.ups] != SRResNet.SHUFFLES[generator.scale]
            or head.shape[1] != 3 or max(head.shape[2], tail.shape[2]) > 9 or any(part.shape[2] > 3 for part in inner[1:] + trunk)
            or not all(part.norm and (part.norm["running_var"] + choice.eps[0] >= BatchNorm.eps).all() for part in trunk)
            or any(part.slope for part in trunk if part not in inner)
            or choice.activations is None and not all(part.slope and part.slope.shape[0] in (1, c) for part in inner)):
        return None
    network = SRResNet(c, len(generator.blocks), generator.scale)
    convolutions, norms, slopes = ([layer for layer in network.layers() if isinstance(layer, kind)] for kind in (Conv2d, BatchNorm, PReLU))
    stages = {id(part): r for part, r in generator.ups if not generator.plain_order}
    for layer, part in zip(convolutions, generator.parts):
        kernel, bias = folded(part, stages.get(id(part), 1), choice.eps[1], only=part not in trunk)
        margin = (layer.weight.shape[0] - len(kernel)) // 2         # pad smaller kernels with zeros
        layer.weight.array[...] = np.pad(kernel, ((margin, margin), (margin, margin), (0, 0), (0, 0)))
        layer.bias.array[...] = bias
    for layer, part in zip(norms, trunk):
        layer.gamma.array[...], layer.beta.array[...] = part.norm["weight"], part.norm["bias"]
        layer.running_mean[...] = part.norm["running_mean"]
        layer.running_var[...] = part.norm["running_var"] + np.float32(choice.eps[0] - BatchNorm.eps)   # so that variance + eps is the same
    for layer, part in zip(slopes, inner):
        layer.slope.array[...] = part.slope["weight"] if part.slope else choice.slope
    network.tail.weight.array *= gain
    network.tail.bias.array[...] = network.tail.bias.array * gain + shift
    return network


def choices(generator, fixed):
    """Every Choice for a generator, without its units, likeliest first.  fixed: {name: the user's value, or None}."""
    def those(name, values): return values if fixed.get(name) is None else [fixed[name]]
    if not isinstance(generator, Generator):        # a Keras model: nothing is left open
        yield Choice(None, None, None, 1.0, True)
        return
    above = [part.norm for part, _ in generator.ups if part.norm]
    eps = [None]
    if generator.normed:
        usual = [1e-3, 1e-5] if generator.plain_order else [1e-5, 1e-3]
        # A widely copied template passes 0.8 as eps by mistake for momentum, but not in the upsampling.
        eps = [(one, other) for one in those("eps", [*usual, 0.8]) for other in ({1e-5, one} if above else [one])]
    for one in those("activations", ["everywhere"] if generator.normed else ACTIVATIONS) if generator.silent else [None]:
        slopes = {"msrresnet": [0.1], "blocks": [0.0], None: [None]}.get(one, [0.0, 0.2, 0.1])
        skips = [True] if generator.middle else [False] if generator.chain or one == "msrresnet" else [False, True]
        residuals = [1.0, 0.1] if one == "blocks" and not generator.normed else [1.0]
        yield from (Choice(*chosen) for chosen in product(eps, [one], those("slope", slopes), those("residual", residuals), skips))


class Reading(NamedTuple):
    """One way to read a file, and its result on the photograph."""

    generator: object
    choice: Choice
    score: float            # PSNR in dB, RGB
    picture: np.ndarray


def most_plausible(generators, fixed, force=False):
    """The most plausible Reading of several possible structures, and bicubic enlargement's PSNR.

    The network does not have to be good: a wrong reading shows as lost contrast or colour, or as noise.
    fixed: {field of Choice: value} that the user gave.   force: accept the best, however bad it is and however close the next.
    Raises UserError if no reading stands out, or if all are far below bicubic enlargement.
    """
    scale, colours = generators[0].scale, generators[0].colours
    hr = Photograph().load(0)[300:300 + 24 * scale, 300:300 + 24 * scale]       # smooth, with all greys from black to white
    if colours == 1:
        hr = images.to_uint8(images.to_float(hr) @ LUMA).repeat(3, 2)
    lr = downscale(hr, scale)
    bicubic = psnr(upscale(lr, scale), hr, scale, "rgb")
    small = Tensor(images.to_float(lr)[None])
    # The PSNR of each base alone, which a network with a base must beat: otherwise it may add only noise.
    plain = {base: psnr(images.to_uint8(Enlarge(scale, base)(small).array[0]), hr, scale, "rgb") for base in BASES[1:]}
    candidates = [(generator, choice) for generator in generators for choice in choices(generator, fixed)]
    # EDSR uses [0, 255].  A network with PReLU works nearly as well there as in its own units, because only the biases differ.
    rare = ["div2k"] * generators[0].normed if generators[0].silent else ["bytes", "div2k"]
    inputs = [fixed["input"]] if fixed.get("input") else [name for name in INPUTS if name not in rare]
    given = fixed.get("base")
    bases = [None if given == "none" else given] if given else BASES
    first, readings = None, []
    for generator, choice in tqdm(candidates, "trying on a photograph", delay=2, leave=False):
        program = Program()
        core(program, generator, choice)
        network = program.network(scale, colours)
        for name in inputs:
            own = Program()
            before(own, colours, choice._replace(input=name))
            pixels = own.network()(small)
            raw = network(pixels)
            for output, base in product([fixed["output"]] if fixed.get("output") else OUTPUTS, bases):
                if base and not given and (output != name or generator.normed):
                    continue
                chosen = choice._replace(input=name, output=output, base=base)
                last = Program()
                behind(last, colours, chosen)
                total = Tensor(raw.array + Enlarge(scale, base)(pixels).array) if base else raw
                sr = last.network(1, colours)(total).array[0]
                picture = images.to_uint8(np.nan_to_num(np.broadcast_to(sr, hr.shape)))
                score = psnr(picture, hr, scale, "rgb")
                if not base or given or score > plain[base] + MARGIN:
                    readings.append(Reading(generator, chosen, score, picture))
                first = first or readings[0]
        top = max(reading.score for reading in readings)
        readings = [reading for reading in readings if reading.score > top - 2 * MARGIN]
    best = max(readings, key=lambda reading: reading.score)
    best = next(reading for reading in readings if same(best, reading) and reading.score > best.score - MARGIN / 5)
    others = sorted((reading for reading in readings if reading.score > best.score - MARGIN and not same(best, reading)),
                    key=lambda reading: -reading.score)
    if best.score < bicubic - FLOOR:
        if force:       # the scores say nothing then: take the likeliest
            return first, bicubic
        raise UserError(f"in every reading, the network's picture is far worse than bicubic enlargement ({best.score:.1f} and "
                        f"{bicubic:.1f} dB): its layers are probably in another order or of another kind, or it adds an enlarged "
                        f"input, which --base selects; --force converts it as {first.choice.words}")
    if others and not force:
        raise UserError(f"two readings of the weights are equally good on a photograph, {best.choice.words} ({best.score:.1f} dB) and "
                        f"{others[0].choice.words} ({others[0].score:.1f} dB): give {differing(best.choice, others[0].choice)}")
    return best, bicubic


def same(a, b):
    """Whether two Readings make nearly the same picture."""
    return np.array_equal(a.picture, b.picture) or psnr(a.picture, b.picture, 1, "rgb") > SAME


def differing(a, b):
    """The options that would distinguish two Choices."""
    named = ("input", "output", "eps", "slope", "activations", "residual", "base")
    names = [name for name in named if getattr(a, name) != getattr(b, name)]
    return " and ".join(f"--{name}" for name in names) or "--force for the first"
