"""Weights from elsewhere: what PyTorch computes with them we compute, what is no weights is named."""
import argparse
import datetime
import enum
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from test_storage import by_hand, keras_file

from npsrgan import storage
from npsrgan.convert import __main__ as convert
from npsrgan.convert import formats, networks, structure
from npsrgan.convert import readings as ranges
from npsrgan.convert.pickles import Stored
from npsrgan.inference import fold
from npsrgan.layers import BatchNorm, Conv2d, PReLU
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import LAYERS, PLAN, random_vgg19
from npsrgan.system.errors import UserError

torch = pytest.importorskip("torch", reason="torch is not installed; the files to convert are made with it")
import safetensors.torch  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """That files are flushed is tested in test_storage.py; here it would take longer than everything else."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def run(*words):
    """The command.  Returns its exit status."""
    try:
        return convert.main([str(word) for word in words])
    except SystemExit as end:
        return end.code


def image(height, width, channels=3, seed=0):
    return np.random.default_rng([seed, 5]).uniform(-1, 1, (1, height, width, channels)).astype(np.float32)


def nchw(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


def nhwc(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


# ---------------------------------------------------------------- generators

class Block(nn.Module):
    """A residual block, its layers defined in an order of choice: a state dict lists them so."""

    def __init__(self, c, bias, norm, act, order, factor):
        super().__init__()
        made = {"conv1": nn.Conv2d(c, c, 3, padding=1, bias=bias), "bn1": norm(c), "act": act(),
                "conv2": nn.Conv2d(c, c, 3, padding=1, bias=bias), "bn2": norm(c), "unused": nn.PReLU(c)}
        for name in order.split():
            setattr(self, name, made[name])
        self.factor = factor

    def forward(self, x):
        return x + self.factor * self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))


def no_norm(c):
    return nn.Identity()


class Generator(nn.Module):
    """The generator as repositories vary it.  end: from raw output to the repository's pixels."""

    def __init__(self, c=8, blocks=2, shuffles=(2, 2), colours=3, bias=True, bias_everywhere=True, act=nn.PReLU, head_act=None,
                 up_act=None, norm=nn.BatchNorm2d, order="conv1 bn1 act conv2 bn2", head=9, tail=9, middle="bn", middle_first=False,
                 upsampling_norm=False, unused=False, late=False, factor=1, direct=1, end=lambda y: y, base=None, skip=True,
                 means=False):
        super().__init__()
        if means:       # the last one defined first
            self.add_mean, self.sub_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        def conv(i, o, k): return nn.Conv2d(i, o, k, padding=k // 2, bias=bias_everywhere)
        head_act, up_act = head_act or act, up_act or act
        trunk = nn.Sequential(*[Block(c, bias, norm, act, order + " unused" * unused, factor) for _ in range(blocks)])
        second = {"conv": nn.Conv2d(c, c, 3, padding=1, bias=bias), "bn": norm(c), "act": act(), "unused": nn.PReLU(c)}
        second = nn.ModuleDict({name: second[name] for name in ["conv", *[middle] * bool(middle), *["unused"] * unused]})
        if middle_first:
            self.second = second
        self.first = nn.Sequential(conv(colours, c, head), head_act())
        self.trunk = trunk
        self.second = second if middle is not None else nn.ModuleDict()
        self.up = nn.Sequential(*[nn.Sequential(conv(c, r * r * c, 3), *[norm(r * r * c)] * upsampling_norm, nn.PixelShuffle(r), up_act())
                                  for r in shuffles])
        self.late = nn.Sequential(conv(c, c, 3), up_act()) if late else nn.Identity()
        self.last, self.shuffle, self.end = conv(c, colours * direct**2, tail), nn.PixelShuffle(direct), end
        self.base, self.skip, self.scale = base, skip, int(np.prod(shuffles, dtype=int)) * direct
        generator = torch.Generator().manual_seed(1)
        for name, array in self.state_dict().items():
            if array.is_floating_point() and not (unused and "unused" in name):
                low, high = (0.5, 1.5) if name.endswith("var") else (-0.3, 0.6) if array.ndim == 1 else (-0.1, 0.1)
                array.uniform_(low, high, generator=generator)
        for sign, mean in ((1, self.add_mean), (-1, self.sub_mean)) if means else ():
            mean.weight.data, mean.bias.data = torch.eye(3)[..., None, None], sign * torch.tensor([114.0, 111.0, 103.0])
        self.means = means
        self.eval()

    def forward(self, x):
        x = self.sub_mean(x) if self.means else x
        y = head = self.first(x)
        y = self.trunk(y)
        for name, layer in self.second.items():
            y = y if name == "unused" else layer(y)
        y = self.shuffle(self.last(self.late(self.up(y + head if self.skip else y))))
        if self.base:
            y = y + nn.functional.interpolate(x, scale_factor=self.scale, mode=self.base,
                                              **({} if self.base == "nearest" else {"align_corners": False}))
        return self.end(self.add_mean(y) if self.means else y)


def shared():
    """One PReLU for the whole network: a state dict lists it at every place where it stands."""
    one = nn.PReLU()
    return lambda: one


def leaky(slope):
    return lambda: nn.LeakyReLU(slope)


def eps(value, but=()):
    """Batch norms with another eps, except for some widths."""
    return lambda c: nn.BatchNorm2d(c) if c in but else nn.BatchNorm2d(c, value)


def unit_tanh(y):
    return (torch.tanh(y) + 1) / 2


EDSR = {"norm": no_norm, "act": nn.ReLU, "head": 3, "tail": 3, "head_act": nn.Identity, "up_act": nn.Identity, "middle": ""}
# name: how the repository's generator differs; the pixels it takes and gives; more options
GENERATORS = {
    "plain": ({}, "symmetric", "symmetric", []),
    "(tanh + 1) / 2": ({"end": unit_tanh}, "unit", "tanh", []),
    "per-channel PReLU, tanh": ({"act": lambda: nn.PReLU(8), "end": torch.tanh}, "symmetric", "tanh", []),
    "no biases beside batch norm": ({"bias": False}, "unit", "unit", []),
    "no biases at all, LeakyReLU": ({"bias": False, "bias_everywhere": False, "act": leaky(0.2)}, "unit", "unit", ["--slope", 0.2]),
    "ReLU, batch norm in the upsampling": ({"act": nn.ReLU, "upsampling_norm": True, "end": torch.tanh},
                                           "symmetric", "tanh", ["--slope", 0]),
    "PReLU defined last": ({"order": "conv1 bn1 conv2 bn2 act"}, "unit", "symmetric", []),
    "batch norms defined first": ({"order": "bn1 bn2 act conv1 conv2"}, "unit", "symmetric", []),
    "the middle convolution defined first": ({"middle_first": True}, "symmetric", "symmetric", []),
    "one PReLU for all": ({"act": shared(), "tail": 3}, "symmetric", "symmetric", []),
    "PReLUs nobody uses": ({"act": lambda: nn.PReLU(8), "unused": True, "end": torch.tanh}, "unit", "tanh", []),
    "sigmoid": ({"end": torch.sigmoid}, "unit", "sigmoid", []),
    "x2, five blocks": ({"shuffles": (2,), "blocks": 5}, "unit", "unit", []),
    "x3": ({"shuffles": (3,)}, "symmetric", "symmetric", []),
    "x8": ({"shuffles": (2, 2, 2)}, "symmetric", "symmetric", []),
    "one shuffle by 4": ({"shuffles": (4,)}, "symmetric", "symmetric", []),
    "no blocks": ({"blocks": 0}, "symmetric", "unit", []),
    "another width": ({"c": 5}, "symmetric", "symmetric", []),
    "bytes": ({}, "bytes", "bytes", []),
    "ImageNet's normalisation": ({"end": torch.tanh}, "imagenet", "tanh", []),
    "eps 0.8": ({"norm": eps(0.8)}, "symmetric", "symmetric", ["--eps", 0.8]),
    "eps 0.8, but not in the upsampling": ({"norm": eps(0.8, but=[32]), "upsampling_norm": True, "end": torch.tanh}, "symmetric", "tanh",
                                           ["--eps", 0.8]),
    "PReLU in place of the last batch norm": ({"middle": "act", "shuffles": (2, 2, 2), "end": unit_tanh}, "unit", "tanh", []),
    "grey": ({"colours": 1}, "unit", "unit", []),
    "EDSR": (EDSR, "bytes", "bytes", ["--activations", "blocks", "--residual", 1]),
    "EDSR, x3, residuals scaled": (EDSR | {"factor": 0.1, "shuffles": (3,)}, "div2k", "div2k",
                                   ["--activations", "blocks", "--residual", 0.1]),
    "EDSR with its mean": (EDSR | {"means": True}, "bytes", "bytes", ["--activations", "blocks", "--residual", 1]),
    "MSRResNet": (EDSR | {"head_act": leaky(0.1), "up_act": leaky(0.1), "late": True, "middle": None, "skip": False, "base": "bilinear"},
                  "unit", "unit", ["--activations", "msrresnet", "--base", "bilinear"]),
    "no batch norm, PReLU, bicubic added": (EDSR | {"act": nn.PReLU, "head_act": nn.PReLU, "base": "bicubic"}, "unit", "unit",
                                            ["--base", "bicubic"]),
    "LeakyReLU, a late convolution": (EDSR | {"act": leaky(0.2), "head_act": leaky(0.2), "up_act": leaky(0.2), "late": True},
                                      "unit", "unit", ["--slope", 0.2, "--activations", "everywhere"]),
    "shuffled at the end": (EDSR | {"shuffles": (), "direct": 4}, "unit", "unit", ["--activations", "blocks"]),
}
TO_OWN = {"symmetric": lambda x: x, "unit": lambda x: x / 2 + 0.5, "bytes": lambda x: 127.5 * (x + 1),
          "imagenet": lambda x: ((x / 2 + 0.5) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
          "div2k": lambda x: 127.5 * (x + 1) - 255 * np.array([0.4488, 0.4371, 0.4040])}
FROM_OWN = {"symmetric": lambda y: y, "unit": lambda y: 2 * y - 1, "bytes": lambda y: y / 127.5 - 1,
            "div2k": lambda y: (y + 255 * np.array([0.4488, 0.4371, 0.4040])) / 127.5 - 1}


def same_as_torch(path, theirs, taken, given, tolerance=1e-4):
    """Whether the generator in a file computes what a PyTorch module does in its own units, to the borders."""
    ours = storage.load_generator(path).eval()
    x = image(7, 9)
    grey = theirs.first[0].in_channels == 1
    own = TO_OWN[taken](x @ ranges.LUMA if grey else x).astype(np.float32)
    raw = nhwc(theirs(nchw(own)))
    unsquashed = given if given in FROM_OWN else "symmetric" if theirs.end is torch.tanh else "unit"
    y, result = FROM_OWN[unsquashed](raw), ours(x).array
    error = np.abs(result @ ranges.LUMA - y if grey else result - y).max()
    assert error < tolerance * max(1, np.abs(y).max()), error
    assert np.abs(fold(ours)(x).array - result).max() < tolerance * max(1, np.abs(y).max())
    return ours


@pytest.mark.parametrize("name", GENERATORS)
def test_a_converted_generator_computes_what_torch_computes(tmp_path, capsys, name):
    """To the borders, where zeros that pad the image mean black or grey."""
    variant, taken, given, options = GENERATORS[name]
    theirs = Generator(**variant)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", taken, "--output", given, *options) == 0
    ours = same_as_torch(tmp_path / "ours.h5", theirs, taken, given)
    assert ours.settings["scale"] == theirs.scale
    printed = capsys.readouterr().out
    assert f"{ranges.INPUTS[taken][0]} in, {ranges.OUTPUTS[given][0]} out" in printed and "scale" in printed


@pytest.mark.parametrize("name", ["plain", "batch norms defined first", "EDSR", "MSRResNet", "no blocks"])
def test_names_that_say_nothing(tmp_path, name):
    """Layers are numbered, as by one flat Sequential: the order in which they are defined must be enough."""
    variant, taken, given, options = GENERATORS[name]
    theirs = Generator(**variant)
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in theirs.state_dict()))
    renamed = {f"{layers.index(key.rpartition('.')[0])}.{key.rpartition('.')[2]}": array for key, array in theirs.state_dict().items()}
    torch.save(renamed, tmp_path / "theirs.pth")
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", taken, "--output", given, *options) == 0
    same_as_torch(tmp_path / "ours.h5", theirs, taken, given)


def test_one_prelu_listed_once(tmp_path):
    """As by repositories that define it once and call it everywhere."""
    theirs = Generator(act=shared(), tail=3)
    slopes = [key for key, array in theirs.state_dict().items() if array.shape == (1,)]
    torch.save({key: array for key, array in theirs.state_dict().items() if key not in slopes[1:]}, tmp_path / "theirs.pth")
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", "symmetric", "--output", "symmetric") == 0
    same_as_torch(tmp_path / "ours.h5", theirs, "symmetric", "symmetric")


@pytest.mark.parametrize("wrap", [
    lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.zeros(8, 3, 9, 9)}}}},
    lambda state: {"params": {name: torch.zeros_like(array) for name, array in state.items()}, "params_ema": state},
    lambda state: {"model": {"generator": state, "discriminator": {"conv.weight": torch.zeros(8, 3, 3, 3)}}},
    lambda state: {f"module.{name}": array for name, array in state.items()},
    lambda state: [1, ("x", state)],
], ids=["checkpoint", "moving average", "nested", "DataParallel", "in a tuple"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_checkpoints(tmp_path, wrap, new):
    theirs = Generator(c=8, blocks=1)
    torch.save(wrap(theirs.state_dict()), tmp_path / "theirs.pth", _use_new_zipfile_serialization=new)
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", "symmetric", "--output", "symmetric") == 0
    x = image(6, 6)
    assert np.allclose(storage.load_network(tmp_path / "ours.h5").eval()(x).array, nhwc(theirs(nchw(x))), atol=1e-5)


class Color(enum.Enum):
    RED = 1


EXTRAS = {
    "options": lambda: argparse.Namespace(lr=1e-4, out=Path("runs"), size=[3, 4]), "a date": lambda: datetime.datetime.now(),
    "a defaultdict": lambda: defaultdict(list, {"psnr": [1.0, 2.0]}), "a path": lambda: Path("x"), "a type": lambda: torch.float32,
    "a member of an enumeration": lambda: Color.RED, "a set with tuples": lambda: {(1, 2)}, "tuples as keys": lambda: {(1, 2): 3},
    "a random state": lambda: np.random.default_rng(0), "an optimiser": lambda: torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict(),
    "a whole discriminator": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 4)), "a scalar of NumPy": lambda: np.float64(0.5),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_harmless_extras(tmp_path, new):
    theirs = Generator(blocks=1)
    torch.save({"extras": {name: make() for name, make in EXTRAS.items()}, "g": theirs.state_dict()}, tmp_path / "theirs.pth",
               _use_new_zipfile_serialization=new)
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", "symmetric", "--output", "symmetric") == 0
    same_as_torch(tmp_path / "ours.h5", theirs, "symmetric", "symmetric")


WHOLES = {
    "a whole network": lambda theirs: theirs,
    "in DataParallel": nn.DataParallel,
    "in a checkpoint": lambda theirs: {"epoch": 3, "generator": theirs, "args": argparse.Namespace(a=1)},
    "averaged": lambda theirs: torch.optim.swa_utils.AveragedModel(theirs).state_dict(),
    "beside a discriminator, in one state dict": lambda theirs: {
        **{f"generator.{name}": array for name, array in theirs.state_dict().items()},
        **{f"discriminator.{name}": array for name, array in nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 4)).state_dict().items()}},
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", WHOLES)
@pytest.mark.filterwarnings("ignore")
def test_networks_that_are_not_state_dicts(tmp_path, name, new):
    theirs = Generator(blocks=1)
    del theirs.end, theirs.base             # functions, which cannot be pickled
    torch.save(WHOLES[name](theirs), tmp_path / "theirs.pth", _use_new_zipfile_serialization=new)
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", "symmetric", "--output", "symmetric") == 0
    theirs.end, theirs.base = (lambda y: y), None
    same_as_torch(tmp_path / "ours.h5", theirs, "symmetric", "symmetric")


def test_a_prefix_is_a_key(tmp_path, capsys):
    a, b = Generator(blocks=1), Generator(blocks=2)
    torch.save({f"{prefix}.{name}": array for prefix, network in (("a", a), ("b", b)) for name, array in network.state_dict().items()},
               tmp_path / "theirs.pth")
    words = tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", "symmetric", "--output", "symmetric"
    assert run(*words) == 2 and "choose one with --key: a, b" in capsys.readouterr().err
    for key, blocks in (("a", 1), ("b.", 2)):
        assert run(*words, "--key", key) == 0 and storage.load_network(tmp_path / "ours.h5").settings["blocks"] == blocks


def test_an_archive_that_was_zipped_again(tmp_path):
    theirs = Generator(blocks=1)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with zipfile.ZipFile(tmp_path / "theirs.pth") as old, zipfile.ZipFile(tmp_path / "again.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(f"a folder/{name}", old.read(name))
    assert run(tmp_path / "again.pth", "-o", tmp_path / "ours.h5", "--force", "--input", "symmetric", "--output", "symmetric") == 0
    same_as_torch(tmp_path / "ours.h5", theirs, "symmetric", "symmetric")


def test_two_networks_in_one_file(tmp_path, capsys):
    a, b = Generator(blocks=1).state_dict(), Generator(blocks=2).state_dict()
    torch.save({"a": a, "b": {"inner": b}}, tmp_path / "theirs.pth")
    words = tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", "--input", "symmetric", "--output", "symmetric"
    assert run(*words) == 2
    assert "several networks: choose one with --key: a, b.inner" in capsys.readouterr().err
    assert run(*words, "--key", "b.inner") == 0
    assert storage.load_network(tmp_path / "ours.h5").settings["blocks"] == 2
    assert run(*words, "--key", "c") == 2
    assert "no state dict with convolutions under the name 'c'" in capsys.readouterr().err


def without(part):
    return lambda state: {name: array for name, array in state.items() if part not in name}


UNMAPPED = {
    "a layer of something else": (lambda state: state | {"mean": torch.zeros(3), "extra.table": torch.zeros(2, 2)},
                                  r"belong to no layer of npsrgan: mean, extra\.table"),
    "half the batch norms": (without("bn2"), r"its 1 batch norms of one residual block fit no convolution: trunk\.0\.bn1"),
    "no last convolution": (without("last"), r"its convolutions are 3->8 9x9, 5 times 8->8 3x3, 2 times 8->32 3x3; npsrgan reads SRRes"),
    "a tensor alone": (lambda state: {"w": torch.zeros(4, 4)}, r"holds no state dict with convolutions"),
}


@pytest.mark.parametrize("name", UNMAPPED)
def test_what_cannot_be_mapped_is_listed(tmp_path, capsys, name):
    change, sentence = UNMAPPED[name]
    torch.save(change(Generator().state_dict()), tmp_path / "theirs.pth")
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5") == 2
    assert re.search(sentence, capsys.readouterr().err) and not (tmp_path / "ours.h5").exists()


def test_tensors_that_share_their_numbers(tmp_path, capsys):
    """A small file can describe a network of any size."""
    one = torch.zeros(64, 64, 3, 3)
    torch.save({f"{i}.weight": one for i in range(1000)}, tmp_path / "theirs.pth")
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5") == 2
    assert "would be far larger than the file" in capsys.readouterr().err


class Dense(nn.Module):
    """ESRGAN's dense block."""

    def __init__(self):
        super().__init__()
        self.conv_first, self.conv_last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)
        self.rdb = nn.ModuleList([nn.Conv2d(8 + 4 * i, 4, 3) for i in range(4)] + [nn.Conv2d(24, 8, 3)])


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)
        self.depthwise, self.pointwise = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)


LOOKS = {
    "ESRGAN's RRDBNet": Dense, "MobileNet blocks": MobileNet,
    "InstanceNorm": lambda: Generator(norm=lambda c: nn.InstanceNorm2d(c, affine=True)),
    "a transformer's attention": lambda: nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "attn": nn.Linear(8, 24)}),
    "fully connected layers": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2), nn.Linear(16, 1)),
    "remove_weight_norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.utils.weight_norm(nn.Conv2d(8, 12, 3))),
    "transposed or strided": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 4, 2), nn.Conv2d(8, 3, 3)),
    "channel attention": lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 2, 1), nn.Conv2d(2, 16, 1), nn.Conv2d(16, 12, 3)),
    "its convolutions are 3->64 3x3, 64->32 3x3": lambda: nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 32, 3)),
    "no state dict with convolutions": lambda: nn.BatchNorm2d(4),
}


@pytest.mark.parametrize("words", LOOKS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_other_networks_are_called_what_they_are(tmp_path, capsys, words):
    torch.save(LOOKS[words]().state_dict(), tmp_path / "theirs.pth")
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5") == 2
    printed = capsys.readouterr().err
    assert words in printed and len(printed) < 480 + len(str(tmp_path))     # six lines of a terminal


# ---------------------------------------------------------------- the pixels that a generator takes and gives

def enlarger(knots, values):
    """A generator that repeats pixels, each value sent through the piecewise linear function with the given knots: what
    training would make of the simplest network.  relu(x - knot) is a hidden channel, their weighted sum the function."""
    network = SRResNet(3 * (len(knots) - 1), 0, 2)
    convolutions, c = [layer for layer in network.layers() if isinstance(layer, Conv2d)], 3 * (len(knots) - 1)
    for layer in network.layers():
        if isinstance(layer, PReLU):
            layer.slope.array[...] = 0
        if isinstance(layer, BatchNorm):
            layer.gamma.array[...] = 0
        if isinstance(layer, Conv2d):
            layer.weight.array[...] = 0
    steps = np.diff(values) / np.diff(knots)
    head, _, up, tail = convolutions
    for hidden in range(c):
        piece, colour = divmod(hidden, 3)
        head.weight.array[4, 4, colour, hidden], head.bias.array[hidden] = 1, -knots[piece]
        up.weight.array[1, 1, hidden, hidden::c] = 1
        tail.weight.array[4, 4, hidden, colour] = steps[piece] - (steps[piece - 1] if piece else 0)
    tail.bias.array[...] = values[0]
    return network


def read(state, **fixed):
    """The best reading of a state dict."""
    kinds = structure.parts_of({name: Stored(array.shape, lambda array=array: np.asarray(array)) for name, array in state.items()})
    return ranges.most_plausible(structure.generators(kinds), fixed)


@pytest.mark.parametrize("taken", ["symmetric", "unit"])
@pytest.mark.parametrize("given", ["symmetric", "unit", "tanh", "sigmoid"])
def test_the_pixels_are_found_by_trying(taken, given):
    pixels = np.linspace(-0.98, 0.98, 9)
    knots = pixels if taken == "symmetric" else (pixels + 1) / 2
    values = {"symmetric": pixels, "unit": (pixels + 1) / 2, "tanh": np.arctanh(pixels), "sigmoid": 2 * np.arctanh(pixels)}[given]
    best, bicubic = read(networks.to_torch(enlarger(knots, values)))
    assert (best.choice.input, best.choice.output) == (taken, given) and best.score > bicubic - 4      # as repeated pixels are


def trained(name="srresnet", change=lambda state: state):
    """A trained generator's state dict, as another repository would have it."""
    return change({name: np.array(array) for name, array in networks.to_torch(storage.load_generator(name)).items()})


def with_eps(value):
    """The same function for batch norms with another eps."""
    def change(state):
        for name in [name for name in state if name.endswith("running_var")]:
            gamma = name.replace("running_var", "weight")
            state[gamma] = state[gamma] * np.sqrt((state[name] + value) / (state[name] + 1e-5))
        return state
    return change


def test_eps_is_found_by_trying(capsys):
    best, _ = read(trained("srresnet-faces", with_eps(0.8)))      # with srresnet, other units are within 0.4 dB, so the command asks
    assert best.choice.eps == (0.8, 0.8) and (best.choice.input, best.choice.output) == ("symmetric", "symmetric")
    assert "eps 0.8" in best.choice.words


def test_what_makes_a_bad_picture_is_refused_whatever_is_given(tmp_path, capsys):
    torch.save(Generator().state_dict(), tmp_path / "theirs.pth")
    words = tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--input", "symmetric", "--output", "symmetric"
    assert run(*words) == 2 and not (tmp_path / "ours.h5").exists()
    assert re.search(r"far worse than bicubic enlargement \(.*its layers are probably in another order or of another kind, or .* --force",
                     capsys.readouterr().err)
    assert run(*words, "--force") == 0


def test_what_is_no_better_than_bicubic_is_doubted(tmp_path, capsys):
    def mixed(state):       # the second convolution of every block first
        def swapped(name): return re.sub(r"^(body\.\d+\.)([03])\.", lambda found: f"{found[1]}{3 - int(found[2])}.", name)
        return {name: state[swapped(name)] for name in state}
    torch.save({name: torch.tensor(array) for name, array in trained(change=mixed).items()}, tmp_path / "theirs.pth")
    words = tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--input", "symmetric", "--output", "symmetric", "--eps", 1e-5
    assert run(*words) == 0 and "no better than bicubic enlargement: perhaps its layers" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--eps", "-1"), ("--slope", "nan"), ("--residual", "inf")])
def test_numbers_that_no_network_has(tmp_path, capsys, words):
    torch.save(Generator().state_dict(), tmp_path / "theirs.pth")
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", "--force", *words) == 2
    assert f"{words[0]} must be at least 0 and finite" in capsys.readouterr().err


def test_noise_is_in_no_units():
    with pytest.raises(UserError, match="far worse"):
        read(networks.to_torch(SRResNet(4, 1, 2)))


# ---------------------------------------------------------------- VGG19

def torch_vgg(until, bias=True, seed=3):
    """torchvision's features up to a layer's ReLU, with weights of the right size."""
    torch.manual_seed(seed)
    layers, before = [], 3
    for block, channels, depth in PLAN:
        for i in range(depth):
            if LAYERS.index(f"conv{block}_{i + 1}") <= LAYERS.index(until):
                layers += [nn.Conv2d(before, channels, 3, padding=1, bias=bias), nn.ReLU()]
                nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
            before = channels
        layers.append(nn.MaxPool2d(2))
    while not isinstance(layers[-1], nn.ReLU):
        layers.pop()
    network = nn.Module()
    network.features = nn.Sequential(*layers)
    network.classifier = nn.Sequential(nn.Linear(8, 4))
    return network


def torch_features(network, x):
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = ((torch.tensor(x) + 1) / 2 - mean) / deviation
    return nhwc(network.features(normalised.permute(0, 3, 1, 2)))


def same_features(path, theirs, layer):
    ours = storage.load_vgg19(path, layer)
    x = image(20, 18)
    expected = torch_features(theirs, x)
    assert np.abs(ours(x).array - expected).max() < 1e-5 * np.abs(expected).max()
    return ours


@pytest.mark.parametrize("until, new", [("conv2_2", False), ("conv5_4", True)])
def test_vgg19_of_torchvision(tmp_path, capsys, until, new):
    theirs = torch_vgg(until)
    torch.save(theirs.state_dict(), tmp_path / "vgg19.pth", _use_new_zipfile_serialization=new)
    assert run(tmp_path / "vgg19.pth", "-o", tmp_path / "vgg19.h5") == 0
    printed = capsys.readouterr().out
    assert "left out: classifier.0.weight, classifier.0.bias" in printed and f"layer {until}, feature scale 1" in printed
    ours = same_features(tmp_path / "vgg19.h5", theirs, until)
    assert ours.settings == {"layer": until, "feature_scale": 1.0}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("sliced", [False, True])
def test_vgg19_of_paddle(tmp_path, protocol, sliced):
    """PaddleClas's VGG19 has no biases; a pickle of protocol 2 may have to cut an array into slices."""
    theirs = torch_vgg("conv2_2", bias=False)
    names = ["_conv_block_1._conv_1", "_conv_block_1._conv_2", "_conv_block_2._conv_1", "_conv_block_2._conv_2"]
    state = {f"{name}.weight": array.numpy() for name, array in zip(names, theirs.features.state_dict().values())}
    state |= {"_fc1.weight": np.zeros((8, 4), np.float32), "_fc1.bias": np.zeros(4, np.float32)}
    if sliced:
        name = f"{names[1]}.weight"
        whole = state.pop(name)
        parts = [f"{name}@@.{i}" for i in range(3)]
        state |= dict(zip(parts, np.split(whole.ravel(), [1000, 30000])))
        state["UnpackBigParamInfor@@"] = {name: {"OriginShape": whole.shape, "slices": parts}}
    state["StructuredToParameterName@@"] = {f"{name}.weight": f"conv2d_{i}.w_0" for i, name in enumerate(names)}
    (tmp_path / "VGG19_pretrained.pdparams").write_bytes(pickle.dumps(state, protocol))
    assert run(tmp_path / "VGG19_pretrained.pdparams", "-o", tmp_path / "vgg19.h5", "--feature-scale", 1.0) == 0
    same_features(tmp_path / "vgg19.h5", theirs, "conv2_2")


def test_a_generator_of_paddle(tmp_path):
    theirs = Generator(act=lambda: nn.PReLU(8))
    names = {f"{name}.{ours}": f"{name}.{paddles}" for name, module in theirs.named_modules() for kind, ours, paddles in [
        (nn.PReLU, "weight", "_weight"), (nn.BatchNorm2d, "running_mean", "_mean"), (nn.BatchNorm2d, "running_var", "_variance")]
        if isinstance(module, kind)}
    state = {names.get(name, name): array.numpy() for name, array in theirs.state_dict().items() if "num_batches" not in name}
    assert len([name for name in state if name.endswith(("._weight", "._mean", "._variance"))]) == 5 + 5 + 5
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(state, 4))
    assert run(tmp_path / "x.pdparams", "-o", tmp_path / "x.h5", "--force", "--input", "symmetric", "--output", "symmetric") == 0
    x = image(5, 6)
    assert np.allclose(storage.load_network(tmp_path / "x.h5").eval()(x).array, nhwc(theirs(nchw(x))), atol=1e-5)


@pytest.mark.parametrize("naming", ["old", "newer"])
def test_vgg19_of_keras(tmp_path, capsys, naming):
    weights = keras_file(tmp_path / "keras.h5", naming)
    assert run(tmp_path / "keras.h5", "-o", tmp_path / "vgg19.h5") == 0
    assert "Keras" in capsys.readouterr().out
    x = image(8, 8)
    expected = by_hand(x, weights, 1 / 12.75)
    assert np.abs(storage.load_vgg19(tmp_path / "vgg19.h5", "conv2_2")(x).array[0] - expected).max() < 1e-4 * expected.max()


def test_feature_scale_is_the_users(tmp_path):
    torch.save(torch_vgg("conv1_2").state_dict(), tmp_path / "vgg19.pth")
    assert run(tmp_path / "vgg19.pth", "-o", tmp_path / "vgg19.h5", "--feature-scale", 0.25) == 0
    assert storage.load_network(tmp_path / "vgg19.h5").settings["feature_scale"] == 0.25


def test_vgg19_with_batch_norm_is_another_network(tmp_path, capsys):
    theirs = torch_vgg("conv1_2").state_dict() | {f"bn.{name}": array for name, array in nn.BatchNorm2d(64).state_dict().items()}
    torch.save(theirs, tmp_path / "vgg19_bn.pth")
    assert run(tmp_path / "vgg19_bn.pth", "-o", tmp_path / "vgg19.h5") == 2
    assert "VGG19 with 1 batch norms" in capsys.readouterr().err


# ---------------------------------------------------------------- back to PyTorch

def readmes_modules(path, **sizes):
    """The network that the README's lines make of a file."""
    code = (ROOT / "npsrgan/convert/README.md").read_text().split("```python\n")[1].split("```")[0]
    arguments = ", ".join(f"{name}={value}" for name, value in sizes.items())
    code = code.replace("= SRResNet()", f"= SRResNet({arguments})").replace('"ours.pth"', repr(str(path)))
    names = {}
    exec(code, names)
    return names["network"]


def changed(network):
    for number, array in enumerate(network.state_dict().values()):
        array += np.random.default_rng([number, 8]).uniform(0, 0.1, array.shape).astype(np.float32)
    return network.eval()


@pytest.mark.parametrize("scale", [4, 3])
def test_there_and_back_is_exact(tmp_path, scale):
    ours = changed(SRResNet(6, 2, scale, seed=2))
    storage.save_network(tmp_path / "ours.h5", ours)
    assert run(tmp_path / "ours.h5", "-o", tmp_path / "theirs.pth", "--to", "torch") == 0
    theirs = readmes_modules(tmp_path / "theirs.pth", c=6, blocks=2, shuffles=SRResNet.SHUFFLES[scale])
    x = image(6, 5)
    assert np.allclose(nhwc(theirs(nchw(x))), ours(x).array, atol=1e-5)

    torch.save(theirs.state_dict(), tmp_path / "again.pth")         # with what PyTorch adds: counters, metadata
    assert run(tmp_path / "ours.h5", "-o", tmp_path / "third.pth", "--to", "safetensors") == 0
    loaded = safetensors.torch.load_file(tmp_path / "third.pth")
    assert all(torch.equal(loaded[name], array) for name, array in torch.load(tmp_path / "theirs.pth", weights_only=True).items())
    with safetensors.safe_open(tmp_path / "third.pth", "pt") as file:
        assert json.loads(file.metadata()["settings"]) == ours.settings and "from -1" in file.metadata()["pixels"]
    for name in ("theirs", "again", "third"):
        words = "--force", "--input", "symmetric", "--output", "symmetric"
        assert run(tmp_path / f"{name}.pth", "-o", tmp_path / "back.h5", *words) == 0
        back = storage.load_network(tmp_path / "back.h5").state_dict()
        assert all(np.array_equal(back[name], array) for name, array in ours.state_dict().items())


ONNX = {"SRResNet": ({}, "symmetric", "symmetric", []), **{name: GENERATORS[name] for name in (
    "(tanh + 1) / 2", "PReLU in place of the last batch norm", "grey", "EDSR, x3, residuals scaled", "MSRResNet",
    "no batch norm, PReLU, bicubic added", "sigmoid")}}


@pytest.mark.parametrize("name", ONNX)
def test_onnxruntime_computes_what_we_compute(tmp_path, name):
    """For images of several sizes, to the borders."""
    onnxruntime = pytest.importorskip("onnxruntime")
    variant, taken, given, options = ONNX[name]
    torch.save(Generator(**variant).state_dict(), tmp_path / "theirs.pth")
    words = "--force", "--input", taken, "--output", given, *options
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "ours.h5", *words) == 0
    assert run(tmp_path / "ours.h5", "-o", tmp_path / "ours.onnx", "--to", "onnx") == 0
    session = onnxruntime.InferenceSession(tmp_path / "ours.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert "from -1" in about["input"] and "from -1" in about["output"]
    ours = storage.load_generator(tmp_path / "ours.h5")
    assert about["scale"] == str(ours.settings["scale"])
    for height, width in ((6, 7), (9, 5)):
        x = image(height, width)
        y = session.run(["sr"], {"lr": x.transpose(0, 3, 1, 2).copy()})[0].transpose(0, 2, 3, 1)
        assert np.abs(y - ours(x).array).max() < 1e-4 * max(1, np.abs(y).max())


def test_onnx_is_asked_for_where_it_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    storage.save_network(tmp_path / "ours.h5", SRResNet(4, 1, 2))
    assert run(tmp_path / "ours.h5", "-o", tmp_path / "x.onnx", "--to", "onnx") == 2
    assert "pip install onnx" in capsys.readouterr().err and not (tmp_path / "x.onnx").exists()


def test_vgg19_there_and_back_is_exact(tmp_path):
    ours = random_vgg19("conv2_1", 4, 0.3)
    ours.input_gain[...], ours.input_shift[...] = [1, 2, 3], [4, 5, 6]
    storage.save_network(tmp_path / "ours.h5", ours)
    assert run(tmp_path / "ours.h5", "-o", tmp_path / "theirs.pth", "--to", "torch") == 0
    state = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert state["conv1_2.weight"].shape == (64, 64, 3, 3) and state["feature_scale"].item() == pytest.approx(0.3)
    assert run(tmp_path / "theirs.pth", "-o", tmp_path / "back.h5") == 0
    back = storage.load_network(tmp_path / "back.h5")
    assert all(np.array_equal(back.state_dict()[name], array) for name, array in ours.state_dict().items())
    assert back.settings["feature_scale"] == pytest.approx(0.3, rel=1e-6)


def test_the_same_network_gives_the_same_bytes(tmp_path):
    storage.save_network(tmp_path / "ours.h5", SRResNet(4, 1, 2))
    for name in "ab":
        assert run(tmp_path / "ours.h5", "-o", tmp_path / name, "--to", "torch") == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "ours.h5"]        # no temporary file left


def test_only_generators_and_vgg19_go_to_torch(tmp_path, capsys):
    storage.save_network(tmp_path / "d.h5", Discriminator(2, 16))
    assert run(tmp_path / "d.h5", "-o", tmp_path / "d.pth", "--to", "torch") == 2
    assert "only SRResNet and VGG19 can be written as a state dict, not Discriminator" in capsys.readouterr().err


# ---------------------------------------------------------------- the command

@pytest.mark.parametrize("rename", [lambda name: name, lambda name: name.replace("upsampling", "a").replace("tail", "b").replace(
    "head", "z"), lambda name: f"net.{name}"], ids=["our names", "names that sort elsewhere", "with a prefix"])
def test_safetensors_names_are_sorted_and_tell_the_structure_all_the_same(tmp_path, rename):
    """The library writes names sorted as text: block 10 before block 2, the body before the head."""
    ours = storage.load_generator("srresnet")
    save_file({rename(name): np.ascontiguousarray(array) for name, array in networks.to_torch(ours).items()}, tmp_path / "x.safetensors")
    assert run(tmp_path / "x.safetensors", "-o", tmp_path / "x.h5", "--input", "symmetric", "--output", "symmetric") == 0
    back = storage.load_network(tmp_path / "x.h5", SRResNet)
    assert all(np.array_equal(back.state_dict()[name], array) for name, array in ours.state_dict().items())


def test_a_safetensors_file(tmp_path):
    theirs = Generator(blocks=12)
    theirs.first[0].weight.data = theirs.first[0].weight.data.bfloat16().float()     # the type with the wide range
    state = theirs.state_dict() | {"first.0.weight": theirs.first[0].weight.data.bfloat16()}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    assert run(tmp_path / "x.safetensors", "-o", tmp_path / "x.h5", "--force", "--input", "symmetric", "--output", "symmetric") == 0
    same_as_torch(tmp_path / "x.h5", theirs, "symmetric", "symmetric")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match="reaches beyond the file"):
        formats.read(tmp_path / "x.safetensors")


def test_never_over_its_source(tmp_path, capsys):
    storage.save_network(tmp_path / "ours.h5", SRResNet(4, 1, 2))
    before = (tmp_path / "ours.h5").read_bytes()
    for out in (tmp_path / "ours.h5", tmp_path):
        assert run(tmp_path / "ours.h5", "-o", out, "--to", "torch") == 2
    assert run(tmp_path / "ours.h5", "-o", tmp_path / "x.h5") == 2
    assert "already a weights file of npsrgan" in capsys.readouterr().err
    assert (tmp_path / "ours.h5").read_bytes() == before and os.listdir(tmp_path) == ["ours.h5"]


def test_as_a_command_without_torch(tmp_path):
    """In a process of its own, where importing torch fails."""
    storage.save_network(tmp_path / "ours.h5", SRResNet(4, 1, 2))
    code = "import sys; sys.modules['torch'] = None; from npsrgan.convert.__main__ import main; main({}); main({})".format(
        [str(tmp_path / "ours.h5"), "-o", str(tmp_path / "a.pth"), "--to", "torch"],
        [str(tmp_path / "a.pth"), "-o", str(tmp_path / "b.h5"), "--input", "unit", "--output", "unit", "--force"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5, done.stderr
    assert storage.load_generator(tmp_path / "b.h5").settings["scale"] == 2


@pytest.mark.parametrize("value", ["nan", "0", "-1", "inf"])
def test_a_feature_scale_that_is_none(tmp_path, capsys, value):
    with pytest.raises(SystemExit) as end:
        convert.main([str(tmp_path / "x.h5"), "-o", str(tmp_path / "y.h5"), "--feature-scale", value])
    assert end.value.code == 2 and "--feature-scale must be positive" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["", "-o", "y.h5"], ["x.h5", "-o", ""]])
def test_an_empty_name_is_not_the_current_folder(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        convert.main(arguments)
    assert end.value.code == 2 and "must not be empty" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_not_converted(tmp_path, capsys):
    storage.save_network(tmp_path / "vgg.h5", random_vgg19("conv5_4"))
    convert.main([str(tmp_path / "vgg.h5"), "-o", str(tmp_path / "vgg.pth"), "--to", "torch"])
    state = torch.load(tmp_path / "vgg.pth")
    next(iter(state.values())).view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(SystemExit) as end:
        convert.main([str(tmp_path / "nan.pth"), "-o", str(tmp_path / "y.h5")])
    assert end.value.code == 2 and "holds numbers that are not finite" in capsys.readouterr().err and not (tmp_path / "y.h5").exists()
