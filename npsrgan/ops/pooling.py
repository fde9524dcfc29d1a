"""Maximum pooling."""
import numpy as np

from npsrgan.ops.operation import op


@op
def max_pool2d(x, size=2, stride=2):
    """The largest value of each size x size window.  Windows are `stride` apart; a remainder at the right or bottom edge is ignored.

    x (N, H, W, C) -> (N, (H - size) // stride + 1, (W - size) // stride + 1, C).  Among equal values, only
    the first in row-major order receives the gradient.
    """
    h, k = (x.shape[1] - size) // stride + 1, (x.shape[2] - size) // stride + 1
    windows = [np.s_[:, i:i + stride * (h - 1) + 1:stride, j:j + stride * (k - 1) + 1:stride]
               for i in range(size) for j in range(size)]
    candidates = np.stack([x[window] for window in windows])
    winner = candidates.argmax(0)

    def d_x(dy):
        dx = np.zeros_like(x)
        for index, window in enumerate(windows):
            dx[window] += np.where(winner == index, dy, 0)
        return dx

    return candidates.max(0), (d_x,)
