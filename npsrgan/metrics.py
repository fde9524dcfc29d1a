"""PSNR and SSIM, as super-resolution papers report them; and the strength of the mesh artefact that a network produces.

Images are uint8 (H, W, 3), RGB.  Papers compare the luma channel and crop a border as wide as the scale factor.
"""
import numpy as np

CAP = 100.0     # dB: counted in a mean for an exact copy, whose PSNR is infinite


def luma(image):
    """The Y of BT.601 Y'CbCr: float64 (H, W), from 16 (black) to 235 (white).

    As MATLAB's rgb2ycbcr computes it, but not rounded to whole levels.
    """
    return 16 + image @ (np.array([65.481, 128.553, 24.966]) / 255)


def grey(image):
    """The level of a grey image, whose three channels are equal: float64 (H, W), from 0 to 255.

    Papers measure a grey file on these levels, not on `luma`, whose range is smaller: here the same error costs 1.32 dB more.
    If the channels differ, as in a network's output, this is their mean with the weights of BT.601.
    """
    return (luma(image) - 16) * (255 / 219)


def psnr(a, b, border=4, channel="y"):
    """Peak signal-to-noise ratio in dB, for a peak of 255; infinite for equal images.

    border: pixels cropped from each side, usually the scale factor.  channel: "y" compares `luma`, "grey" compares `grey`,
    "rgb" all three channels.
    Raises ValueError for images that are not uint8 (H, W, 3) of one shape, or are no larger than their borders.
    """
    a, b = _prepare(a, b, border, channel)
    error = np.mean((a - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a, b, border=4, channel="y"):
    """Structural similarity, at most 1 (equal images): Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13.

    11x11 Gaussian windows of standard deviation 1.5 that lie inside the image; K1 = 0.01, K2 = 0.03.
    With channel "rgb", the mean over the three channels.  Otherwise as `psnr`; also raises ValueError below 11x11 pixels.
    """
    a, b = _prepare(a, b, border, channel)
    if min(a.shape[:2]) < len(_GAUSSIAN):
        raise ValueError(f"SSIM needs 11x11 pixels inside the border, not {a.shape[0]}x{a.shape[1]}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                  / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
    return float(similarity.mean())


def mesh(image, smooth, scale=4):
    """Strength of a pattern with period `scale` in the smooth areas: rms amplitude in levels of Y, at least 0.

    For a flat area, a network that commutes with shifts of the low-resolution image can only produce a pattern that repeats every
    `scale` pixels.  The high-pass, Y minus its box blur, is averaged over the smooth pixels of each of the scale^2 phases (y mod scale,
    x mod scale): texture and noise cancel, and the pattern remains.  The result is the standard deviation of these means.
    The box is a whole number of periods wide, 8 pixels or a little more, so that it removes nothing of the pattern.
    Photographs have about 0.04; at 0.3 the pattern is visible as a wire mesh.  White noise alone gives its standard deviation
    times scale / sqrt(smooth pixels).  The definition is our own.

    image: uint8 (H, W, 3).  smooth: bool (H, W), `smooth_pixels` of the original, so that all methods are judged on the same pixels.
    Returns None if no pixel is smooth.
    """
    if not smooth.any():
        return None
    y = luma(image)
    detail = y - _box(y, scale * -(-8 // scale))
    return float(np.std([detail[i::scale, j::scale][smooth[i::scale, j::scale]].mean() for i in range(scale) for j in range(scale)]))


def smooth_pixels(image):
    """Mask of the smooth areas, where a mesh would be visible: bool (H, W), true in all smooth windows.

    The windows have 32 x 32 pixels and lie at multiples of 16 in both directions, 8 pixels or more from the border.  A window is
    smooth if the mean of Y in it lies between 25 and 225, and if the standard deviation around the best-fitting plane is below
    6 levels, both for Y and for its box blur of 8 pixels.
    """
    y = luma(image)
    blurred, smooth = _box(y, 8), np.zeros(y.shape, bool)
    for top, left in np.ndindex(*(max(0, (n - 40) // 16) for n in y.shape)):
        window = np.s_[16 * top + 16:16 * top + 48, 16 * left + 16:16 * left + 48]
        smooth[window] |= 25 < y[window].mean() < 225 and max(_around_plane(y[window]), _around_plane(blurred[window])) < 6
    return smooth


_SLOPES = np.mgrid[:32, :32].reshape(2, -1) - 15.5
_PLANE = np.stack([np.full(1024, 1 / 32), *_SLOPES / np.linalg.norm(_SLOPES, axis=1, keepdims=True)])      # orthonormal


def _around_plane(window):
    """The standard deviation of 32 x 32 values around their best-fitting plane."""
    values = window.ravel()
    return (values - _PLANE @ values @ _PLANE).std()


def _box(y, side):
    """The mean of a square around each pixel, same size as `y`; the border is padded with the edge pixels."""
    return _blur(np.pad(y, ((side - 1) // 2, side // 2), mode="edge"), np.full(side, 1 / side))


_GAUSSIAN = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5**2))
_GAUSSIAN /= _GAUSSIAN.sum()


def _blur(x, weights=_GAUSSIAN):
    """The weighted mean of each square window inside the image, as a separable filter: vertical, then horizontal."""
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, len(weights), axis) @ weights
    return x


def _prepare(a, b, border, channel):
    """Both images, checked and cropped, as float64 (H, W, C)."""
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"expected two uint8 (H, W, 3) images of one shape, not {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if min(a.shape[:2]) <= 2 * border:
        raise ValueError(f"an image of {a.shape[0]}x{a.shape[1]} pixels has no inside after cutting {border} from each side")
    if channel not in _CHANNELS:
        raise ValueError(f"channel is 'y', 'grey' or 'rgb', not {channel!r}")
    inside = np.s_[border:a.shape[0] - border, border:a.shape[1] - border]
    return (np.atleast_3d(_CHANNELS[channel](x[inside])) for x in (a, b))


_CHANNELS = {"y": luma, "grey": grey, "rgb": np.float64}
