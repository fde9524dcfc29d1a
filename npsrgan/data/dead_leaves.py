"""Dead leaves: images drawn by formula, for training without a single photograph.

Leaves of random size fall on one another; what one sees from above has the statistics of photographs: occlusion edges,
smooth surfaces between them, detail at every scale and a power spectrum near 1/f^2 (Lee, Mumford and Huang 2001).  Networks
trained on such images restore photographs (Achddou, Gousseau and Ladjal 2021).
"""
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

_OVERSAMPLING = 2       # drawn twice as large, then downscaled: soft edges, as a lens makes them
_LAYERS = 5             # mean number of leaves above a point
_LEAVES = 2             # first word of the seeds (see batches.py)

# Photographs vary along these opponent axes independently (Ruderman, Cronin and Chiao 1998): light-dark, yellow-blue, red-green.
_OPPONENT = np.array([[1, 1, 1], [0.5, 0.5, -1], [1, -1, 0]], np.float32)


class DeadLeaves:
    """A source of `count` dead-leaves images of size x size pixels, drawn at once and kept; image i depends on (seed, i) only."""

    def __init__(self, count=250, size=192, seed=0):
        with ThreadPoolExecutor() as pool:
            drawn = pool.map(lambda i: draw(size, seed, i), range(count))
            self._images = list(tqdm(drawn, "drawing dead leaves", count, leave=False, delay=2))

    def __len__(self):
        return len(self._images)

    def name(self, index):
        """What messages and logs call image `index`."""
        return f"dead leaves {index}"

    def load(self, index):
        """Image `index`: uint8 (size, size, 3)."""
        return self._images[index]


def draw(size, seed, index):
    """Dead-leaves image `index` of a seed: uint8 (size, size, 3)."""
    rng = np.random.default_rng([_LEAVES, seed, index])
    side = _OVERSAMPLING * size
    leaf = _fallen(rng, side)
    image = Image.fromarray(_painted(rng, leaf))
    image = image.filter(ImageFilter.GaussianBlur(_OVERSAMPLING * max(0, rng.normal(0, 0.4))))      # some are out of focus
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))


def _fallen(rng, side):
    """Which leaf one sees at each pixel: int32 (side, side), 0 for the ground.

    Radii have the density r^-3 between r_min and r_max: then, and only then, the picture looks the same at every zoom.
    """
    r_min, r_max = side / 192, side / 3
    radii = _radii(rng, r_min, r_max, side)
    leaves = Image.new("I", (side, side))
    pen = ImageDraw.Draw(leaves)
    centres = rng.uniform(-radii, side + radii, (2, len(radii))).T
    angles, kinds = rng.uniform(0, 2 * math.pi, len(radii)), rng.random(len(radii))
    corners = rng.integers(3, 8, len(radii))
    straight = rng.choice([0.1, 0.5])       # the share of leaves with straight edges in this image
    for i, (r, (x, y), angle, kind, n) in enumerate(zip(radii.tolist(), centres.tolist(), angles.tolist(), kinds.tolist(),
                                                        corners.tolist()), start=1):
        if kind > straight:
            pen.ellipse((x - r, y - r, x + r, y + r), fill=i)
        elif kind > straight / 3:
            turns = (angle + 2 * math.pi * k / n for k in range(n))
            pen.polygon([(x + r * math.cos(t), y + r * math.sin(t)) for t in turns], fill=i)
        else:
            dx, dy = r * math.cos(angle), r * math.sin(angle)
            pen.line((x - dx, y - dy, x + dx, y + dy), fill=i, width=max(1, round(r / n)))
    return np.asarray(leaves)


def _radii(rng, r_min, r_max, side):
    """Radii of the leaves that touch the picture: a Poisson number of them, density r^-3 (side + 2 r)^2, biggest not first.

    A leaf of radius r is in view where its centre falls into a square of side + 2 r: big ones come from farther away.
    """
    # Drawn from r^-3 by inverting the cumulative distribution, then kept in proportion to the area they can come from.
    area = (side + 2 * r_max) ** 2
    mean_leaf = 2 * math.pi * math.log(r_max / r_min) / (r_min**-2 - r_max**-2)
    u = rng.random(rng.poisson(_LAYERS * area / mean_leaf))
    radii = (r_min**-2 - u * (r_min**-2 - r_max**-2)) ** -0.5
    return radii[rng.random(len(radii)) * area < (side + 2 * radii) ** 2]


def _painted(rng, leaf):
    """Colour, shading and texture for each leaf: int (side, side) -> uint8 (side, side, 3)."""
    n, side = leaf.max() + 1, len(leaf)
    y, x = np.mgrid[-1:1:side * 1j, -1:1:side * 1j].astype(np.float32)

    wave = rng.uniform(0, 2 * math.pi, n)
    cycles = np.exp(rng.uniform(math.log(4), math.log(side / 4), n))        # across the picture
    leaves = np.stack([
        rng.normal(0, 0.25, n), rng.normal(0, 0.25, n),                                 # shading: a slope along x and y
        math.pi * cycles * np.cos(wave), math.pi * cycles * np.sin(wave),               # a grating: its wave vector,
        rng.uniform(0, 2 * math.pi, n), 0.3 * rng.random(n) * (rng.random(n) < 0.2),    # its phase and its amplitude
        rng.exponential(0.08, n)], axis=1).astype(np.float32)                           # noise
    shade_x, shade_y, wave_x, wave_y, phase, grating, noise = np.moveaxis(leaves[leaf], -1, 0)

    light = 1 + shade_x * x + shade_y * y + grating * np.sin(wave_x * x + wave_y * y + phase)
    light += noise * _power_law_noise(rng, side)
    painted = _colours(rng, n)[leaf] * light[..., None]
    return np.rint(255 * np.clip(painted, 0, 1)).astype(np.uint8)


def _colours(rng, n):
    """A palette of natural colours, float32 (n, 3) in [0, 1]: lightness varies most, and a picture has a tint in common."""
    opponent = np.stack([rng.uniform(0.05, 0.95, n), rng.normal(rng.normal(0, 0.08), 0.08, n),
                         rng.normal(rng.normal(0, 0.03), 0.04, n)], axis=1)
    return np.clip(opponent.astype(np.float32) @ _OPPONENT, 0, 1)


def _power_law_noise(rng, side):
    """A random texture with power spectrum 1/f^2, mean 0 and standard deviation 1: float32 (side, side)."""
    fy, fx = np.fft.fftfreq(side), np.fft.rfftfreq(side)
    amplitude = 1 / np.maximum(np.hypot(fy[:, None], fx), 1 / side).astype(np.float32)
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape, np.float32)).astype(np.complex64)
    texture = np.fft.irfft2(spectrum, (side, side))
    return (texture - texture.mean()) / texture.std()
