"""PSNR and SSIM against scikit-image, against its numbers, and against numbers everybody in the field knows."""
from pathlib import Path

import numpy as np
import pytest

from npsrgan import images
from npsrgan.data import upscale
from npsrgan.metrics import luma, psnr, ssim

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
