"""Identifies a state dict's arrays as parts of VGG19 or of a generator with residual blocks, whatever the layers are called.

Names and their order say little.  Shapes say more: the head takes an image, the tail returns one, and a convolution before a
pixel shuffle has r*r times the channels.  The convolutions in between form pairs, one per residual block, which share the
beginning of their names; one without a partner comes after the blocks or after the upsampling.  If several structures are still
possible, `readings` tries them on a photograph.
"""
import re
from itertools import groupby
from typing import NamedTuple

import numpy as np

from npsrgan.system.errors import UserError

SHUFFLES = (2, 3, 4, 8)
_RENAMED = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight"}     # Paddle's names
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
_UNTOUCHED = 0.25           # PReLU's slope before training


class Unmapped(UserError):
    """The weights are not those of a network that npsrgan has.  The message says what they seem to be."""


class Part:
    """A layer of a state dict.  path: its name, split at the dots.  A convolution also has the batch norm and PReLU that follow it."""

    def __init__(self, path, place, arrays):
        self.path, self.place, self.stored, self.norm, self.slope, self._read = path, place, arrays, None, None, {}
        self.shape = arrays["weight"].shape if "weight" in arrays else ()

    def __getitem__(self, leaf):
        """The array of this name, in PyTorch's layout; a missing bias is 0."""
        if leaf not in self._read:
            self._read[leaf] = self.stored[leaf].read() if leaf in self.stored else np.zeros(self.shape[0], np.float32)
        return self._read[leaf]

    @property
    def kind(self):
        """ "conv", "norm", "slope", or "" for anything else."""
        per_channel = {leaf for leaf, array in self.stored.items() if array.shape == self.shape[:1]}
        other = self.stored.keys() - per_channel
        if len(self.shape) == 4 and other == {"weight"} and per_channel <= {"bias"}:
            return "conv"
        names = per_channel if not other else ()
        return {("bias", "running_mean", "running_var", "weight"): "norm", ("weight",): "slope"}.get(tuple(sorted(names)), "")


class Generator(NamedTuple):
    """The parts of a generator.  blocks: two convolutions each, or one without a residual connection."""

    head: Part
    blocks: list
    middle: Part | None     # after the blocks
    ups: list               # [(convolution, r of the pixel shuffle after it)]
    late: Part | None       # after the upsampling
    tail: Part
    direct: int             # r of a pixel shuffle after the tail, or 1
    shifts: list            # 1x1 convolutions of the image, first and last, which subtract and add a mean
    plain_order: bool       # whether pixel shuffles use TensorFlow's channel order, which is ours

    @property
    def parts(self):
        """All convolutions, in execution order."""
        middle, late = ([part] if part else [] for part in (self.middle, self.late))
        return [self.head, *[part for block in self.blocks for part in block], *middle, *[up for up, _ in self.ups], *late, self.tail]

    @property
    def colours(self):
        """Number of image channels: 3, or 1 for grey."""
        return self.head.shape[1]

    @property
    def silent(self):
        """Whether its activations have no parameters, so that a state dict does not show where they are."""
        return not any(part.slope for part in self.parts)

    @property
    def normed(self):
        """Whether it has batch norms."""
        return any(part.norm for part in self.parts)

    @property
    def chain(self):
        """Whether nothing in it is residual."""
        return any(len(block) == 1 for block in self.blocks)

    @property
    def scale(self):
        """The factor by which it enlarges."""
        return int(np.prod([r for _, r in self.ups], dtype=int)) * self.direct


def naturally(name):
    """A sort key for names: block 2 comes before block 10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def parts_of(arrays):
    """{kind: [Part]} of a state dict {name: Stored}, without counters."""
    groups, kinds = {}, {"conv": [], "norm": [], "slope": [], "": []}
    for name, array in arrays.items():
        path, _, leaf = name.rpartition(".")
        if leaf not in _COUNTERS and array.shape != ():
            groups.setdefault(path, {})[_RENAMED.get(leaf, leaf)] = array
    for place, (path, group) in enumerate(groups.items()):
        part = Part(tuple(path.split(".")), place, group)
        kinds[part.kind].append(part)
    return kinds


def generators(kinds, plain_order=False):
    """Every Generator that the parts could form, likeliest first.  Raises Unmapped if there is none."""
    convs = kinds["conv"]
    image = {part.shape[1] for part in convs} & {1, 3}
    heads = [part for part in convs if part.shape[1] in image and part.shape[0] > 3]
    if kinds[""] or len(heads) != 1 or any(len({*part.shape[2:]}) > 1 or part.shape[2] % 2 == 0 for part in convs):
        raise Unmapped(recognised(kinds))
    head, = heads
    c, colours = head.shape[:2]
    shifts = sorted((part for part in convs if part.shape == (3, 3, 1, 1)), key=lambda part: part["bias"].sum())      # the first subtracts
    rest = [part for part in convs if part is not head and part not in shifts]
    tails = {r: [part for part in rest if part.shape[:2] == (colours * r * r, c)] for r in (1, *SHUFFLES)}
    direct = next((r for r, found in tails.items() if len(found) == 1), 1)
    ups = [(part, r) for part in rest for r in SHUFFLES if part.shape[:2] == (r * r * c, c) and part not in tails[direct]]
    trunk = [part for part in rest if part.shape[:2] == (c, c)]
    if (len(tails[direct]) != 1 or len(ups) + len(trunk) + 1 != len(rest) or len(shifts) not in (0, 2)
            or max(part.shape[2] for part in convs) > 15):
        raise Unmapped(recognised(kinds))
    blocks, single, prefixes = _pairs(trunk)
    if len(kinds["slope"]) >= len(trunk) + 1 > 3 and not blocks:        # a chain: each convolution has an activation
        blocks, single = [(part,) for part in single], []
    elif not blocks and len(single) > 2:                                # the names do not help: pair them in order
        blocks, single = list(zip(single[::2], single[1::2])), single[len(single) // 2 * 2:]
    if len(single) > 2:
        raise Unmapped(recognised(kinds))
    likely = (*single, None, None)[:2]          # (middle, late)
    if len(single) == 1 and ups and single[0].place > ups[-1][0].place:
        likely = likely[::-1]
    found = [Generator(head, blocks, middle, ups, late, tails[direct][0], direct, shifts, plain_order)
             for middle, late in dict.fromkeys([likely, likely[::-1]])]
    if not 2 <= found[0].scale <= 8:
        raise Unmapped(recognised(kinds))
    _attach(found[0], kinds, prefixes)
    return found


def _pairs(trunk):
    """(blocks, convolutions without a partner, prefixes of the blocks): two that share a prefix with no third form a block."""
    blocks, single = {}, []
    for part in trunk:
        for length in range(len(part.path) - 1, 0, -1):
            sharing = [other for other in trunk if other.path[:length] == part.path[:length]]
            if len(sharing) > 1:
                break
        else:
            sharing = []
        if len(sharing) == 2:
            blocks[part.path[:length]] = tuple(sharing)
        else:
            single.append(part)
    return list(blocks.values()), single, list(blocks)


def _attach(generator, kinds, prefixes):
    """Assign every batch norm and PReLU to a convolution.  Raises Unmapped for those that fit none."""
    blocks, c = generator.blocks, generator.head.shape[0]
    trunk = [part for block in blocks for part in block]
    ends = [block[1] for block in blocks if len(block) == 2] + [generator.middle]
    free = [part for part in generator.parts[:-1] if not (prefixes and part in trunk)]
    for kind in ("norm", "slope"):
        inside = {prefix: [] for prefix in prefixes}
        others = []
        for layer in kinds[kind]:
            inside.get(next((prefix for prefix in prefixes if layer.path[:len(prefix)] == prefix), None), others).append(layer)
        for block, layers in zip(blocks, inside.values()):
            if len(layers) > 2 or kind == "norm" and len(layers) == 1:
                raise _without_place(kind, layers, "of one residual block")
            for part, layer in zip(block, layers):
                setattr(part, kind, layer)

        sizes = {layer: [layer.shape[0]] if kind == "norm" or layer.shape[0] not in (1, c) else [c, *[r * r * c for r in SHUFFLES]]
                 for layer in others}
        places = {layer: [part for part in free if part.shape[0] in sizes[layer] and (kind == "slope" or part is not generator.head)]
                  for layer in others}
        chosen = [_nearest(layer, places[layer]) for layer in others]
        if kind == "slope" and len(kinds[kind]) == 1 and blocks:        # defined once and used everywhere
            chosen = [part for part in generator.parts[:-1] if part not in ends]
            others = others * len(chosen)
        elif None in chosen or len(set(chosen)) < len(chosen):          # the names do not help: assign them in order
            chosen = [part for part in free if any(part in places[layer] for layer in others) and (kind == "norm" or part not in ends)]
            if kind == "slope" and len(chosen) < len(others) and generator.middle:
                chosen.insert(len(chosen) - len(generator.ups) - bool(generator.late), generator.middle)
        if len(chosen) != len(others):
            raise _without_place(kind, others, "outside the residual blocks")
        for part, layer in zip(chosen, others):
            setattr(part, kind, layer)
    # Some authors define a PReLU for every convolution but skip those before an addition, which are then never trained.
    skipped = [part for part in ends if part and part.norm and part.slope]
    if all((part.slope["weight"] == _UNTOUCHED).all() for part in skipped):
        for part in skipped:
            part.slope = None


def _nearest(layer, parts):
    """The convolution before a layer that shares the longest beginning of its name; of several, the last."""
    def shared(part):
        return next((n for n, (a, b) in enumerate(zip(part.path, layer.path)) if a != b), min(len(part.path), len(layer.path)))
    return max((part for part in parts if part.place < layer.place), key=lambda part: (shared(part), part.place), default=None)


def _without_place(kind, layers, where):
    names = listed([".".join(layer.path) for layer in layers])
    return Unmapped(f"its {len(layers)} {'batch norms' if kind == 'norm' else 'PReLUs'} {where} fit no convolution: {names}")


def recognised(kinds):
    """A sentence about weights of an unknown network: what they look like, and what npsrgan reads."""
    shapes = [part.shape for part in kinds["conv"]]
    names = " ".join(".".join(part.path) for parts in kinds.values() for part in parts).lower()
    leaves = [(part.path, set(part.stored), part.shape) for part in kinds[""]]
    narrow = min((shape[0] for shape in shapes if shape[0] > 3 and shape[1] > 3), default=0)
    signs = {
        "weight or spectral normalisation: call torch.nn.utils.remove_weight_norm or remove_spectral_norm before saving":
            any(leaf & {"weight_g", "weight_orig"} or "parametrizations" in path for path, leaf, _ in leaves),
        "a transformer's attention (SwinIR, HAT)": "attn" in names or "relative_position" in names,
        "ESRGAN's RRDBNet: dense blocks": len({shape[1] for shape in shapes if shape[0] == narrow and shape[2] == 3}) > 3,
        "depthwise convolutions, as in MobileNet blocks": any(shape[1] == 1 and shape[0] > 4 for shape in shapes) and
            any(shape[2:] == (1, 1) for shape in shapes),
        "InstanceNorm, GroupNorm or LayerNorm: scales and shifts without running statistics":
            any(leaf == {"weight", "bias"} and len(shape) == 1 for _, leaf, shape in leaves),
        "channel attention, as in RCAN": any(shape[2:] == (1, 1) and shape[0] * 4 <= shape[1] for shape in shapes) and
            any(shape[2:] == (1, 1) and shape[1] * 4 <= shape[0] for shape in shapes),
        "a discriminator or a classifier: fully connected layers": any(leaf == {"weight", "bias"} and len(shape) == 2
                                                                       for _, leaf, shape in leaves),
        "transposed or strided convolutions: even kernels": any(shape[2] % 2 == 0 for shape in shapes),
    }
    looks = next((f"it looks like {words}" for words, seen in signs.items() if seen), None)
    if looks is None and kinds[""]:
        unknown = [".".join(filter(None, [*part.path, leaf])) for part in kinds[""] for leaf in part.stored]
        looks = f"it has arrays that belong to no layer of npsrgan: {listed(unknown)}"
    runs = [(shape, len(list(run))) for shape, run in groupby(shapes)]
    runs = listed([f"{n} times " * (n > 1) + f"{i}->{o} {h}x{w}" for (o, i, h, w), n in runs])
    return (f"{looks}; " if looks else "") + (f"its convolutions are {runs}; " if not looks else "") + (
        "npsrgan reads SRResNet, EDSR, MSRResNet and similar networks, and VGG19")


def listed(words, most=6):
    """The words joined by commas, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
