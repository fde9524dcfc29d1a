"""How close two images are: PSNR and SSIM, as super-resolution papers report them.

Images are uint8 (H, W, 3), RGB.  Papers compare the luma channel and leave out a border as wide as the scale.
"""
import numpy as np

CAP = 100.0     # dB: what an exact copy, whose PSNR is infinite, counts as where a mean is taken


def luma(image):
    """The Y of BT.601 Y'CbCr: float64 (H, W), from 16 (black) to 235 (white).

    As MATLAB's rgb2ycbcr computes it, but not rounded to whole levels.
    """
    return 16 + image @ (np.array([65.481, 128.553, 24.966]) / 255)


def psnr(a, b, border=4, channel="y"):
    """Peak signal-to-noise ratio in dB, for a peak of 255; infinite for equal images.

    border: pixels cut from each side, usually the scale.  channel: "y" compares luma, "rgb" all three channels.
    Raises ValueError for images that are not uint8 (H, W, 3) of one shape, or are no larger than their borders.
    """
    a, b = _prepare(a, b, border, channel)
    error = np.mean((a - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a, b, border=4, channel="y"):
    """Structural similarity, at most 1 (equal images): Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13.

    Gaussian windows of 11x11 and standard deviation 1.5, only where they lie inside the image; K1 = 0.01, K2 = 0.03.
    With channel "rgb" the mean over the three channels.  Otherwise as `psnr`; also raises ValueError below 11x11 pixels.
    """
    a, b = _prepare(a, b, border, channel)
    if min(a.shape[:2]) < len(_WINDOW):
        raise ValueError(f"SSIM needs 11x11 pixels inside the border, not {a.shape[0]}x{a.shape[1]}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                  / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
    return float(similarity.mean())


_WINDOW = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()


def _blur(x):
    """The Gaussian-weighted mean of each window: a two-dimensional Gaussian is one along rows, then one along columns."""
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, len(_WINDOW), axis) @ _WINDOW
    return x


def _prepare(a, b, border, channel):
    """Both images checked, cropped, and as float64 (H, W, C)."""
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"two uint8 (H, W, 3) images of one shape, please, not {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if min(a.shape[:2]) <= 2 * border:
        raise ValueError(f"an image of {a.shape[0]}x{a.shape[1]} pixels has no inside after cutting {border} from each side")
    if channel not in ("y", "rgb"):
        raise ValueError(f"channel is 'y' or 'rgb', not {channel!r}")
    inside = np.s_[border:a.shape[0] - border, border:a.shape[1] - border]
    return ((luma(x[inside])[..., None] if channel == "y" else x[inside].astype(np.float64)) for x in (a, b))
