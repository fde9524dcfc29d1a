"""`import npsrgan`: README's lines as they stand, every kind of image, and one sentence for what is none."""
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import npsrgan
from npsrgan.models import SRResNet
from npsrgan.system.errors import UserError

ROOT = Path(__file__).parents[2]
RGB = np.random.default_rng(0).integers(0, 256, (20, 36, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def network():
    return SRResNet(4, 1, 2, seed=1).eval()


def test_the_lines_of_the_readme(tmp_path, monkeypatch):
    lines = re.search(r"```python\n(import npsrgan\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    Image.fromarray(RGB).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(lines, names := {})
    assert names["large"].size == (144, 80)
    with Image.open("photo_x4.png") as saved:
        assert saved.size == (144, 80) and np.array_equal(saved, names["large"])


def test_import_is_cheap():
    code = "import sys, npsrgan; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert not {"h5py", "PIL", "matplotlib", "tqdm", "cupy", "npsrgan.storage", "npsrgan.trainer"} & set(loaded)


def test_load_takes_names_and_files():
    by_name, by_path = npsrgan.load("srresnet"), npsrgan.load(ROOT / "weights" / "srresnet.h5")
    assert not by_name.training and np.array_equal(by_name.flat, by_path.flat)
    with pytest.raises(UserError, match="there are no weights nothing: give one of"):
        npsrgan.load("nothing")


def test_arrays_come_back_as_arrays(network):
    colour = npsrgan.super_resolve(RGB, network, device="cpu")
    assert colour.dtype == np.uint8 and colour.shape == (40, 72, 3)
    grey = npsrgan.super_resolve(RGB[..., 0], network, device="cpu")
    assert grey.dtype == np.uint8 and grey.shape == (40, 72)
    assert np.array_equal(npsrgan.super_resolve(RGB[..., :1], network, device="cpu"), grey[..., None])


def test_a_path_an_image_and_an_array_say_the_same(network, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    expected = npsrgan.super_resolve(RGB, network, device="cpu")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(RGB)):
        large = npsrgan.super_resolve(image, network, device="cpu")
        assert isinstance(large, Image.Image) and np.array_equal(large, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16"])
def test_images_keep_their_mode(network, mode):
    levels = np.arange(20 * 36, dtype=np.uint16).reshape(20, 36) * 90
    image = Image.fromarray(levels) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    large = npsrgan.super_resolve(image, network, device="cpu")
    assert large.mode == mode and large.size == (72, 40)


def test_a_tile_makes_no_difference(network):
    image = np.tile(RGB, (4, 2, 1))
    whole, tiled = (npsrgan.super_resolve(image, network, device="cpu", tile=tile).astype(int) for tile in (None, 32))
    assert np.abs(whole - tiled).max() <= 1


@pytest.mark.parametrize("image, kind, sentence", [
    (RGB / 255, ValueError, "an image array holds uint8 levels from 0 to 255, not float64"),
    (RGB[None], ValueError, r"an image array has the shape \(H, W\), \(H, W, 1\) or \(H, W, 3\), not \(1, 20, 36, 3\)"),
    (RGB[:0], ValueError, r"not \(0, 36, 3\)"),
    ([[0]], TypeError, "an image is a path, a PIL image or a NumPy array, not list"),
    ("nowhere.png", UserError, "nowhere.png"),
])
def test_what_is_no_image_gets_one_sentence(network, image, kind, sentence):
    with pytest.raises(kind, match=sentence):
        npsrgan.super_resolve(image, network, device="cpu")


def test_a_small_tile_gets_one_sentence(network):
    with pytest.raises(ValueError, match="tile must be at least 32, not 8"):
        npsrgan.super_resolve(RGB, network, tile=8)


def test_reference_only_runs_the_operations_as_they_are_written(network, monkeypatch):
    fast = npsrgan.super_resolve(RGB, network)

    def twin(*args, **kwargs):
        raise AssertionError("a twin ran")
    monkeypatch.setattr(npsrgan.ops.conv2d, "twins", [twin])
    with npsrgan.reference_only():
        assert np.abs(npsrgan.super_resolve(RGB, network).astype(int) - fast).max() <= 1        # rounding may pick the next level
    with pytest.raises(AssertionError, match="a twin ran"):
        npsrgan.super_resolve(RGB, network)
