"""A second generator, the RRDB network of ESRGAN, goes all the way after one registration: trained, saved, loaded, in tiles."""
import numpy as np
import pytest
from PIL import Image

from npsrgan import images, models, ops, storage
from npsrgan.device import CPU
from npsrgan.inference import fold, super_resolve_tiles
from npsrgan.layers import Conv2d, Layer, LeakyReLU, PixelShuffle, Sequential, initialise
from npsrgan.tape import Tensor
from npsrgan.upscale import __main__ as upscale


class DenseBlock(Layer):
    """x + 0.2 * (what the last of three convolutions makes of x and of what the others made).  Wang et al. 2018, figure 4."""

    def __init__(self, channels, growth):
        self.first = Sequential(Conv2d(channels, growth, 3), LeakyReLU())
        self.second = Sequential(Conv2d(channels + growth, growth, 3), LeakyReLU())
        self.last = Conv2d(channels + 2 * growth, channels, 3)

    def forward(self, x):
        a = self.first(x)
        b = self.second(ops.concatenate(x, a, axis=3))
        return x + ops.scale(self.last(ops.concatenate(x, a, b, axis=3)), 0.2)


class RRDBNet(models.Generator):
    """Dense blocks without batch norm; two of them are a residual block."""

    def __init__(self, channels=8, blocks=1, scale=4, seed=0, init="he", equal_phases=False):
        self.settings = {"channels": channels, "blocks": blocks, "scale": scale}
        self.head = Conv2d(3, channels, 3)
        self.body = Sequential(*[Sequential(DenseBlock(channels, 4), DenseBlock(channels, 4)) for _ in range(blocks)])
        self.upsampling = Sequential(*[Sequential(Conv2d(channels, 4 * channels, 3), PixelShuffle(2)) for _ in range(scale // 2)])
        self.tail = Conv2d(channels, 3, 3)
        initialise(self, seed, init)

    def features(self, lr):
        shallow = self.head(lr)
        return shallow + ops.scale(self.body(shallow), 0.2)

    def enlarge(self, features):
        return self.tail(self.upsampling(features))

    @property
    def second_half(self):
        return self.upsampling, self.tail

    @property
    def live_channels(self):
        return 4 * self.settings["channels"]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(models.GENERATORS, "RRDBNet", RRDBNet)


@pytest.fixture
def run(registered, tiny, tmp_path):
    """The folder of a finished run."""
    assert tiny(tmp_path / "run", generator="RRDBNet") == 0
    return tmp_path / "run"


def test_is_trained_saved_and_resumed_under_its_own_name(run, tiny, capsys):
    assert tiny(run, "--resume", gan_steps=5) == 0
    said = capsys.readouterr().out
    assert "RRDBNet" in said and "SRResNet" not in said
    for name in ("srresnet", "srgan"):
        assert type(storage.load_generator(run / f"{name}.h5")) is RRDBNet


def test_tiles_equal_the_whole(registered):
    generator = fold(RRDBNet()).to(lambda array: array.astype(np.float64))
    lr = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    whole = generator(Tensor(images.to_float(lr)[None])).array[0]
    tiles = np.zeros_like(whole)
    for top, left, sr in super_resolve_tiles(generator, lr, CPU, 32):
        tiles[top:top + sr.shape[0], left:left + sr.shape[1]] = sr
    assert np.abs(tiles - whole).max() < 1e-12 * np.abs(whole).max()


def test_enlarges_a_photo(run, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    assert upscale.main([str(tmp_path / "a.png"), "--weights", str(run / "srgan.h5"), "--tile", "32"]) == 0
    with Image.open(tmp_path / "a_x2.png") as large:
        assert large.size == (80, 96)


def test_weights_of_another_generator_are_no_start(run, tmp_path, tiny, capsys):
    assert tiny(tmp_path / "other", init=run / "srgan.h5") == 2
    assert "srgan.h5 holds a RRDBNet, not a SRResNet" in capsys.readouterr().err
