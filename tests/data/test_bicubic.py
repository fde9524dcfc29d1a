"""MATLAB's bicubic: against the published benchmarks, against its definition in exact fractions, and against numbers kept here."""
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from npsrgan import images
from npsrgan.data import bicubic
from npsrgan.metrics import psnr

BENCHMARKS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"
NOISE = np.random.default_rng(0).integers(0, 256, (27, 38, 3), np.uint8)


@pytest.mark.parametrize("name, count, decibels", [("Set5", 5, 28.430), ("Set14", 14, 26.091), ("BSD100", 100, 25.962)])
def test_equals_every_published_file(name, count, decibels):
    """LRx4 to the bit; and enlarged again, the PSNR (Y) that papers print."""
    if not BENCHMARKS.is_dir():
        pytest.skip(f"needs the benchmark images in {BENCHMARKS}")
    pairs = [(images.read(path), images.read(BENCHMARKS / name / "LRx4" / path.name)) for path in (BENCHMARKS / name / "HR").iterdir()]
    assert len(pairs) == count
    assert all(np.array_equal(bicubic.downscale(hr, 4), lr) for hr, lr in pairs)
    assert np.mean([psnr(bicubic.upscale(lr, 4), hr) for hr, lr in pairs]) == pytest.approx(decibels, abs=5e-4)


def exact(row, factor):
    """The definition for one row of integers, in fractions: nothing is rounded but the result."""
    size, stretch = len(row), max(1 / factor, Fraction(1))
    result = []
    for i in range(ceil(size * factor)):
        centre = (i + Fraction(1, 2)) / factor - Fraction(1, 2)
        weights = {}
        for j in range(floor(centre - 2 * stretch), floor(centre + 2 * stretch) + 2):
            x = abs(j - centre) / stretch
            weights[j] = (Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1 if x <= 1 else
                          -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2 if x < 2 else 0)
        mean = sum(w * int(row[min(max(j, 0), size - 1)]) for j, w in weights.items()) / sum(weights.values())
        result.append(min(max(floor(mean + Fraction(1, 2)), 0), 255))
    return result


def exact_image(image, factor):
    """The same of an image: rows first."""
    rows = np.array([[exact(image[:, k, c], factor) for c in range(3)] for k in range(image.shape[1])], np.uint8)
    return np.array([[exact(rows[:, c, i], factor) for c in range(3)] for i in range(rows.shape[2])], np.uint8).transpose(0, 2, 1)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("resize", [bicubic.downscale, bicubic.upscale])
def test_equals_its_definition(resize, scale):
    image = NOISE[:9, :14]
    h, w = (n // scale * scale for n in image.shape[:2]) if resize is bicubic.downscale else image.shape[:2]
    result = resize(image, scale)
    assert result.dtype == np.uint8 and result.flags.c_contiguous
    assert np.array_equal(result, exact_image(image[:h, :w], Fraction(1, scale) if resize is bicubic.downscale else Fraction(scale)))


@pytest.mark.parametrize("factor", [Fraction(3, 4), Fraction(2, 3), Fraction(5, 2), Fraction(1)], ids=str)
def test_factors_between_whole_ones(factor):
    """The size is rounded up, and the grid still has the factor asked for: 0.75 of 9 pixels are 7, each 4/3 wide."""
    for height, width in ((9, 14), (8, 12), (11, 5)):
        image = NOISE[:height, :width]
        result = bicubic.resize(image, factor)
        assert result.shape == (ceil(height * factor), ceil(width * factor), 3)
        assert np.array_equal(result, exact_image(image, factor))
    assert np.array_equal(bicubic.resize(NOISE, Fraction(1)), NOISE)


def test_halves_go_up_and_overshoots_are_cut():
    """Between levels 1 and 4, halving gives 2.5 exactly: a mean of two equal halves.  And next to an edge the kernel's lobes overshoot."""
    half = np.repeat(np.tile([[1], [1], [1], [1], [4], [4], [4], [4]], (1, 8))[..., None], 3, 2).astype(np.uint8)
    shifted = np.concatenate([half[:1], half[:-1]])        # the step now lies inside the third output pixel
    assert bicubic.downscale(shifted, 2)[:, 0, 0].tolist() == [1, 1, 3, 4]
    step = np.where(half == 1, 0, 255).astype(np.uint8)
    assert bicubic.upscale(step, 2).min() == 0 and bicubic.upscale(step, 2).max() == 255


def test_numbers_kept_here():
    """Of the code when it equalled all 119 published files."""
    assert crc32(bicubic.downscale(NOISE, 4)) == 4153463345
    assert crc32(bicubic.upscale(NOISE, 4)) == 2050192099


def test_flat_stays_flat():
    flat = np.full((16, 12, 3), 77, np.uint8)
    assert (bicubic.downscale(flat, 4) == 77).all() and (bicubic.upscale(flat, 4) == 77).all()
