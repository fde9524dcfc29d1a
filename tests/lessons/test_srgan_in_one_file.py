"""lessons/srgan_in_one_file.py computes what the package computes, stays small, and beats bicubic enlargement."""
import ast
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from npsrgan.device import Device
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer

FILE = Path(__file__).parents[2] / "lessons" / "srgan_in_one_file.py"
STEPS, RATE = 3, 1e-2


@pytest.fixture(scope="module")
def one_file():
    with mock.patch.object(sys, "path", [str(FILE.parent), *sys.path]):
        import srgan_in_one_file
        return srgan_in_one_file


@pytest.fixture
def trainer():
    """The package's, in double precision: three steps of SRResNet, then three of SRGAN, without VGG19 as in the file."""
    double = Device(SimpleNamespace(array=lambda values: np.array(values, np.float64)), "NumPy in double precision")
    settings = Settings(steps=STEPS, gan_steps=STEPS, patch_size=8, channels=6, blocks=2, discriminator_channels=4, learning_rate=RATE,
                        gan_learning_rate=RATE, average=0.0, perceptual_weight=0.0, adversarial_weight=1e-2)
    return Trainer(settings.validate(), double)


def with_weights_of(one_file, theirs, mine, *shape):
    """A network of the file's with the parameters of the package's, which come in the same order."""
    mine(one_file.Tensor(np.zeros(shape)))          # creates them
    mine.averages.clear()                           # these are in float32
    for p, q in zip(theirs.parameters(), mine.parameters, strict=True):
        assert q.array.shape in (p.shape, (1, 1, *p.shape))         # its dense layers are convolutions of one pixel
        q.array = p.array.reshape(q.array.shape).copy()
    return mine


def test_its_losses_are_the_packages(one_file, trainer):
    networks = trainer.networks
    generator = with_weights_of(one_file, networks["srresnet"], one_file.SRResNet(6, blocks=2), 2, 8, 8, 3)
    discriminator = with_weights_of(one_file, networks["discriminator"], one_file.Discriminator(4), 2, 32, 32, 3)
    adam, adam_g, adam_d = map(one_file.Adam, (generator, generator, discriminator))
    rng, rows, first = np.random.default_rng(15), [], networks["srresnet"].flat.copy()
    for step in range(2 * STEPS):
        low, high = rng.uniform(-1, 1, (2, 8, 8, 3)), rng.uniform(-1, 1, (2, 32, 32, 3))
        tensors = one_file.Tensor(low), one_file.Tensor(high)
        mine = one_file.pixel_step(adam, *tensors, RATE) if step < STEPS else one_file.game_step(adam_g, adam_d, *tensors, RATE)
        rows.append((list(mine.values()), list(trainer.step(low, high).values())))
        assert [loss.array.dtype for loss in rows[-1][0]] == [np.float64] * len(mine)
    assert [len(mine) for mine, _ in rows] == [1] * STEPS + [3] * STEPS
    for mine, theirs in rows:
        np.testing.assert_allclose([float(loss.array) for loss in mine], theirs, rtol=1e-9)
    for name, start in (("srresnet", first), ("srgan", networks["srresnet"].flat)):
        assert np.abs(networks[name].flat - start).max() > RATE       # the weights have moved, or equal losses would say little


def test_trains_in_single_precision(one_file):
    generator, discriminator = one_file.SRResNet(4, blocks=1), one_file.Discriminator(2)
    adams = one_file.Adam(generator), one_file.Adam(discriminator)
    low, high = (one_file.Tensor(np.zeros((2, side, side, 3), np.float32)) for side in (4, 16))
    losses = one_file.game_step(*adams, low, high, RATE)
    arrays = [tensor.array for tensor in (*losses.values(), *generator.parameters, *discriminator.parameters)]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_its_picture_beats_bicubic(one_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(one_file, "__file__", str(tmp_path / "srgan_in_one_file.py"))
    scores = one_file.main(pixel_steps=750, game_steps=5)
    assert scores["SRResNet"] > scores["bicubic"] and scores["SRGAN"] != scores["SRResNet"]
    picture = Image.open(tmp_path / "output" / "srgan_in_one_file.png")
    assert picture.size == (5 * 256, 256)
    assert f"bicubic {scores['bicubic']:.2f} dB, SRResNet {scores['SRResNet']:.2f} dB" in capsys.readouterr().out


def test_is_small_and_needs_numpy_and_pillow_alone():
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert max(map(len, text.splitlines())) <= 100
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules == {"math", "pathlib", "numpy", "PIL"}
