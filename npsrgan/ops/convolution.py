"""Two-dimensional convolution, as a sum of matrix products."""
import numpy as np

from npsrgan.ops.operation import op


@op
def conv2d(x, w, b=None, stride=1, padding=None):
    """Slide the kernel over the zero-padded image (a cross-correlation, as in every deep-learning library).

        y[n, h, k, :] = b + sum over i, j of  xp[n, stride*h + i, stride*k + j, :] @ w[i, j]

    For one kernel offset (i, j), the pixels involved form a shifted, strided window of the padded image xp, and the sum
    over input channels is a matrix product.  A convolution is therefore a sum of kh * kw shifted matrix products.

    x (N, H, W, C), w (kh, kw, C, O), b (O,) or None -> y (N, H', W', O) with H' = (H + 2*padding - kh) // stride + 1.
    `padding` zeros are added on all four sides; the default is kh // 2 above and below and kw // 2 left and right, which
    for odd kernels keeps the size at stride 1 and halves it (rounded up) at stride 2.  Raises ValueError if shapes do not match.
    """
    kh, kw, channels, _ = w.shape
    ph, pw = (kh // 2, kw // 2) if padding is None else (padding, padding)
    (height, width), offsets = x.shape[1:3], [(i, j) for i in range(kh) for j in range(kw)]
    h, k = (height + 2 * ph - kh) // stride + 1, (width + 2 * pw - kw) // stride + 1
    if x.shape[3] != channels or h < 1 or k < 1:
        raise ValueError(f"conv2d: an image of shape {x.shape}, padded by {ph}, {pw}, does not fit a kernel of shape {w.shape}")
    xp = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))

    def window(i, j):
        return slice(None), slice(i, i + stride * (h - 1) + 1, stride), slice(j, j + stride * (k - 1) + 1, stride)

    y = xp[window(0, 0)] @ w[0, 0]
    for i, j in offsets[1:]:
        y += xp[window(i, j)] @ w[i, j]
    if b is not None:
        y += b

    def d_x(dy):        # each output pixel passes its gradient back to the window it was computed from
        dxp = np.zeros_like(xp)
        for i, j in offsets:
            dxp[window(i, j)] += dy @ w[i, j].T
        return dxp[:, ph:ph + height, pw:pw + width]

    def d_w(dy):        # correlate every window with the output's gradient
        return np.stack([np.tensordot(xp[window(i, j)], dy, axes=((0, 1, 2), (0, 1, 2))) for i, j in offsets]).reshape(w.shape)

    def d_b(dy):
        return dy.sum((0, 1, 2))

    return y, (d_x, d_w, d_b)
