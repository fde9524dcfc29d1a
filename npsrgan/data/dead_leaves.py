"""Dead leaves: synthetic images for training without photographs.

Leaves of random size fall on top of one another.  Seen from above, they have the statistics of photographs: occlusion edges,
smooth surfaces between them, detail at every scale and a power spectrum close to 1/f^2 (Lee, Mumford and Huang 2001).  Networks
trained on such images can restore photographs (Achddou, Gousseau and Ladjal 2021).
"""
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from npsrgan.system.terminal import progress

_OVERSAMPLING = 2       # drawn twice as large, then downscaled, for soft edges like those of a lens
_DEPTH = 4              # mean number of leaves above a point
_LEAVES = 2             # first element of the seeds (see batches.py)

# Photographs vary along these axes independently (Ruderman, Cronin and Chiao 1998): light-dark, yellow-blue, red-green.
_OPPONENT = np.array([[1, 1, 1], [0.5, 0.5, -1], [1, -1, 0]], np.float32)


class DeadLeaves:
    """A source of `count` dead-leaves images of size x size pixels, all drawn at the start and kept; image i depends only on (seed, i)."""

    def __init__(self, count=250, size=192, seed=0):
        pool = ThreadPoolExecutor()
        try:
            drawn = pool.map(lambda i: draw(size, seed, i), range(count))
            self._images = list(progress(drawn, "drawing dead leaves", count, leave=False, delay=2))
        finally:
            pool.shutdown(cancel_futures=True)      # after Ctrl-C, do not draw the remaining images

    def __len__(self):
        return len(self._images)

    def contents(self):
        """A short description of the images."""
        return f"{len(self)} dead leaves"

    def name(self, index):
        """The name of image `index` in messages and logs."""
        return f"dead leaves {index}"

    def load(self, index):
        """Image `index`: uint8 (size, size, 3)."""
        return self._images[index]


def draw(size, seed, index):
    """Dead-leaves image `index` of a seed: uint8 (size, size, 3)."""
    rng = np.random.default_rng([_LEAVES, seed, index])
    side = _OVERSAMPLING * size
    image = Image.fromarray(_painted(rng, _fallen(rng, side)))
    blur = max(0, rng.normal(-0.2, 0.5))      # most images are in focus
    image = image.filter(ImageFilter.GaussianBlur(_OVERSAMPLING * blur))
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))


def _fallen(rng, side):
    """The index of the visible leaf at each pixel: intp (side, side), 0 for the background.

    Most leaves are discs.  A fraction, different in every image, are polygons and sticks, for straight edges and corners.
    """
    finest = math.exp(rng.uniform(math.log(1.5), math.log(10)))       # smallest radius in pixels: a close-up or a distant view
    radii = _radii(rng, _OVERSAMPLING * finest, side, side)
    n = len(radii)
    centres = rng.uniform(-radii, side + radii, (2, n))
    angles, corners = rng.uniform(0, 2 * math.pi, n), rng.integers(3, 8, n)
    kinds = rng.random(n) / rng.choice([0.1, 0.6])      # below 1: not a disc

    picture = Image.new("I", (side, side))
    pen = ImageDraw.Draw(picture)
    for i, (r, x, y, angle, k, kind) in enumerate(np.stack([radii, *centres, angles, corners, kinds], axis=1).tolist(), start=1):
        if kind > 1:
            pen.ellipse((x - r, y - r, x + r, y + r), fill=i)
        elif kind > 0.4:
            turns = [angle + 2 * math.pi * corner / k for corner in range(int(k))]
            pen.polygon([(x + r * math.cos(turn), y + r * math.sin(turn)) for turn in turns], fill=i)
        else:
            dx, dy = r * math.cos(angle), r * math.sin(angle)
            pen.line((x - dx, y - dy, x + dx, y + dy), fill=i, width=max(2, round(r / k)))
    return np.asarray(picture).astype(np.intp)


def _radii(rng, r_min, r_max, side):
    """Radii of the leaves that touch the image, with density r^-3, the only density that makes the image scale-invariant.

    A Poisson-distributed number of leaves falls on a square just large enough for the largest leaf to touch the image from
    outside.  A leaf of radius r touches it only from within a square of side + 2 r; the others are dropped.
    """
    square = (side + 2 * r_max) ** 2
    mean_leaf = 2 * math.pi * math.log(r_max / r_min) / (r_min**-2 - r_max**-2)     # area
    u = rng.random(rng.poisson(_DEPTH * square / mean_leaf))
    radii = (r_min**-2 - u * (r_min**-2 - r_max**-2)) ** -0.5                       # inverse of the cumulative distribution
    return radii[rng.random(len(radii)) * square < (side + 2 * radii) ** 2]


def _painted(rng, leaf):
    """Colour, shading and texture for each leaf: indices (side, side) -> uint8 (side, side, 3)."""
    n, side = leaf.max() + 1, len(leaf)
    x = np.linspace(-1, 1, side, dtype=np.float32)
    y = x[:, None]

    wave = rng.uniform(0, 2 * math.pi, n)
    cycles = np.exp(rng.uniform(math.log(4), math.log(side / 5), n))                # across the image
    slope_x, slope_y, wave_x, wave_y, phase, grating, noise = (a.astype(np.float32).take(leaf) for a in (
        rng.normal(0, 0.2, n), rng.normal(0, 0.2, n),                               # shading
        math.pi * cycles * np.cos(wave), math.pi * cycles * np.sin(wave),           # a grating: its wave vector,
        rng.uniform(0, 2 * math.pi, n),                                             # its phase,
        0.2 * rng.random(n) * (rng.random(n) < 0.2),                                # and its amplitude, mostly 0
        rng.exponential(0.08, n)))                                                  # the amplitude of the noise

    light = 1 + slope_x * x + slope_y * y + grating * np.sin(wave_x * x + wave_y * y + phase)
    light += noise * _power_law_noise(rng, side)
    painted = _colours(rng, n).take(leaf, axis=0) * light[..., None]
    return np.rint(255 * np.clip(painted, 0, 1)).astype(np.uint8)


def _colours(rng, n):
    """A palette of natural colours, float32 (n, 3) in [0, 1]: lightness varies most, and the colours of an image share a tint."""
    lightness = rng.normal(rng.uniform(0.3, 0.65), 0.22, n)
    yellow = rng.normal(rng.normal(0.04, 0.06), 0.06, n)
    red = rng.normal(rng.normal(0, 0.03), 0.03, n)
    opponent = np.stack([np.clip(lightness, 0.05, 0.95), yellow, red], axis=1)
    return np.clip(opponent.astype(np.float32) @ _OPPONENT, 0, 1)


def _power_law_noise(rng, side):
    """A random texture with power spectrum 1/f^2, mean 0 and standard deviation 1: float32 (side, side)."""
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)).astype(np.float32)
    f[0, 0] = np.inf        # zero mean
    spectrum = np.exp(2j * np.pi * rng.random(f.shape, np.float32)) / f
    texture = np.fft.irfft2(spectrum, (side, side))
    return texture / texture.std()
