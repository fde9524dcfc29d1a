"""PSNR and SSIM against scikit-image, against its numbers, and against numbers everybody in the field knows; the mesh."""
from pathlib import Path

import numpy as np
import pytest

from npsrgan import images
from npsrgan.data import upscale
from npsrgan.metrics import grey, luma, mesh, psnr, smooth_pixels, ssim

BENCHMARKS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"


def pair(height=40, width=52):
    """Two similar images with structure: a picture of waves, and the same with noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(x * y / 200), np.sin(x / 3)], axis=2)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return tuple(np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (128 + 90 * waves, 128 + 85 * waves + noise))


def test_luma_of_the_primaries():
    primaries = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert np.allclose(luma(primaries), [[16, 235, 81.481, 144.553, 40.966]], atol=1e-12) and luma(primaries).dtype == np.float64


@pytest.mark.parametrize("channel", ["y", "rgb"])
@pytest.mark.parametrize("border", [0, 4])
def test_equals_scikit_image(channel, border):
    reference = pytest.importorskip("skimage.metrics")
    a, b = pair()
    inside = np.s_[border:40 - border, border:52 - border]
    x, y = ((luma(image) if channel == "y" else image.astype(float))[inside] for image in (a, b))
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False,
               "channel_axis": None if channel == "y" else 2}
    assert psnr(a, b, border, channel) == pytest.approx(reference.peak_signal_noise_ratio(x, y, data_range=255), abs=1e-10)
    assert ssim(a, b, border, channel) == pytest.approx(reference.structural_similarity(x, y, **options), abs=1e-10)


@pytest.mark.parametrize("channel, border, decibels, similarity", [
    ("y", 0, 31.17924919, 0.7838709619), ("y", 4, 31.33435396, 0.7631380148),
    ("rgb", 0, 26.18681216, 0.8127127239), ("rgb", 4, 26.19237963, 0.8145921668)])
def test_equals_the_numbers_of_scikit_image(channel, border, decibels, similarity):
    """The numbers of scikit-image 0.26 for the test above, for where it is not installed."""
    a, b = pair()
    assert psnr(a, b, border, channel) == pytest.approx(decibels, abs=1e-6)
    assert ssim(a, b, border, channel) == pytest.approx(similarity, abs=1e-8)


def test_psnr_by_hand():
    a = np.zeros((10, 10, 3), np.uint8)
    assert psnr(a, a + np.uint8(255), border=0, channel="rgb") == 0
    assert psnr(a, a + np.uint8(1), border=0, channel="rgb") == pytest.approx(20 * np.log10(255))


def test_equal_images():
    a, _ = pair()
    assert psnr(a, a) == float("inf") and ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_grey_images_are_compared_on_their_own_levels():
    """What MATLAB codes do with a file of one channel; on Y, from 16 to 235, the same error looks 1.32 dB smaller."""
    a, b = (np.repeat(image[..., :1], 3, axis=2) for image in pair())
    assert np.allclose(grey(a), a[..., 0], atol=1e-11)
    inside = np.s_[4:-4, 4:-4, 0]
    expected = 10 * np.log10(255**2 / np.mean((a[inside].astype(float) - b[inside]) ** 2))
    assert psnr(a, b, 4, "grey") == pytest.approx(expected, abs=1e-10)
    assert psnr(a, b, 4, "y") - psnr(a, b, 4, "grey") == pytest.approx(20 * np.log10(255 / 219), abs=1e-10)
    assert ssim(a, b, 4, "grey") == pytest.approx(ssim(a, b, 4, "rgb"), abs=1e-10)


def test_the_border_does_not_count():
    a, b = pair()
    c = a.copy()
    c[:4], c[-4:], c[:, :4], c[:, -4:] = (b[:4], b[-4:], b[:, :4], b[:, -4:])
    assert psnr(a, c, border=4) == float("inf") and psnr(a, c, border=3) < 60


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_what_cannot_be_compared_is_a_value_error(measure):
    a, b = pair()
    for x, y in [(a, b[1:]), (a.astype(float), b), (a, b / 255), (a[..., 0], b[..., 0]), (a[:8], b[:8])]:
        with pytest.raises(ValueError):
            measure(x, y)
    with pytest.raises(ValueError, match="'lab'"):
        measure(a, b, channel="lab")
    with pytest.raises(ValueError, match="11x11"):
        ssim(a[:18], b[:18])


@pytest.mark.parametrize("name, decibels", [("Set5", 28.43), ("Set14", 26.09), ("BSD100", 25.96)])
def test_bicubic_scores_what_it_scores_in_every_paper(name, decibels):
    if not BENCHMARKS.is_dir():
        pytest.skip(f"needs the benchmark images in {BENCHMARKS}")
    scores = [psnr(upscale(images.read(BENCHMARKS / name / "LRx4" / path.name), 4), images.read(path))
              for path in sorted((BENCHMARKS / name / "HR").iterdir())]
    assert np.mean(scores) == pytest.approx(decibels, abs=0.005)


# The mesh

SLOPE = np.add.outer(np.arange(120), 0.5 * np.arange(150)) / 4 + 80        # levels of grey: a smooth image


def with_pattern(pattern, image=SLOPE):
    """A grey image, as a float so that amplitudes are exact, with a small pattern repeated over it."""
    repeats = [-(-n // m) for n, m in zip(image.shape, pattern.shape)]
    return np.repeat((image + np.tile(pattern, repeats)[:image.shape[0], :image.shape[1]])[..., None], 3, axis=2)


EVERYWHERE = np.zeros(SLOPE.shape, bool)
EVERYWHERE[16:-16, 16:-16] = True


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_mesh_of_a_known_pattern_is_its_amplitude(scale):
    pattern = np.random.default_rng(scale).normal(0, 1, (scale, scale))
    for amplitude in (0.1, 0.8):
        exact = amplitude * pattern / pattern.std()
        assert mesh(with_pattern(exact), EVERYWHERE, scale) == pytest.approx(amplitude * 219 / 255, rel=1e-2)
        flat = with_pattern(exact, np.full(SLOPE.shape, 100.0))
        assert mesh(flat, EVERYWHERE, scale) == pytest.approx(amplitude * 219 / 255, rel=1e-10)
    rows = np.where(np.arange(scale) < 1, 1.0, 0)[:, None]       # of one direction only
    assert mesh(with_pattern(rows, np.full(SLOPE.shape, 100.0)), EVERYWHERE, scale) == pytest.approx(rows.std() * 219 / 255, rel=1e-10)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_what_does_not_repeat_with_the_scale_is_no_mesh(scale):
    """None; a period of 5, of twice the scale; noise, but for chance."""
    assert mesh(with_pattern(np.zeros((1, 1)), np.full(SLOPE.shape, 100.0)), EVERYWHERE, scale) < 1e-12
    rng = np.random.default_rng(0)
    assert mesh(with_pattern(rng.normal(0, 1, (5, 5))), EVERYWHERE, scale) < 0.05
    alternating = np.kron([[1, -1], [-1, 1]], rng.normal(0, 1, (scale, scale)))
    assert mesh(with_pattern(alternating), EVERYWHERE, scale) < 0.05
    noise = mesh(with_pattern(rng.normal(0, 2, SLOPE.shape)), EVERYWHERE, scale)
    assert 0 < noise < 2 * 2 * scale / EVERYWHERE.sum()**0.5


def test_smooth_windows():
    """A slope is smooth; edges, texture of 8 levels, black and white are not; what is finer than the blur counts too."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.rint(SLOPE)[..., None], 3, axis=2)
    covered = smooth_pixels(image.astype(np.uint8))
    assert covered[16:112, 16:128].all() and covered.sum() == 96 * 112      # windows of 32 at multiples of 16, 8 from the border
    y, x = np.indices(image.shape[:2])[..., None]
    for spoilt in (image + 9 * rng.standard_normal(x.shape), image + 9 * ((x + y) % 2 * 2 - 1), image + 10 * (x // 12 % 2 * 2 - 1),
                   0 * image, 0 * image + 255):
        assert not smooth_pixels(np.clip(np.rint(spoilt), 0, 255).astype(np.uint8)).any()
    half = image.copy()
    half[:, 75:] += 40 * (np.arange(75) // 7 % 2)[:, None]
    assert smooth_pixels(half.astype(np.uint8))[:, :64].any() and not smooth_pixels(half.astype(np.uint8))[:, 96:].any()
    assert mesh(image, np.zeros(image.shape[:2], bool)) is None and not smooth_pixels(image[:40, :55].astype(np.uint8)).any()


@pytest.mark.parametrize("name, pixels, original, nearest", [
    ("017", 70656, 0.07303378888980057, 0.06335603967385738), ("059", 64256, 0.058283539195393815, 0.14760060669128489),
    ("081", 87552, 0.021134655227484016, 0.0379480653681249)])
def test_the_mesh_of_photographs(name, pixels, original, nearest):
    """Of the published originals and of their small images, each pixel 4 x 4 times: the numbers of an independent program."""
    if not BENCHMARKS.is_dir():
        pytest.skip(f"needs the benchmark images in {BENCHMARKS}")
    hr, lr = (images.read(BENCHMARKS / "BSD100" / kind / f"{name}.png") for kind in ("HR", "LRx4"))
    smooth = smooth_pixels(hr)
    assert smooth.sum() == pixels
    assert mesh(hr, smooth) == pytest.approx(original, rel=1e-9)
    assert mesh(lr.repeat(4, 0).repeat(4, 1), smooth) == pytest.approx(nearest, rel=1e-9)
