"""The twin of batch_norm: two passes over memory forward and two backward; only the channel statistics are saved."""
import numpy as np

from npsrgan import ops
from npsrgan.fast.blocks import by_rows, large, shared, suits
from npsrgan.ops.normalisation import keep_running
from npsrgan.ops.operation import twin


@twin(ops.batch_norm)
def batch_norm(x, gamma, beta, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """See the reference.  With s = 1 / sqrt(var + eps); x_hat = (x - mean) * s is recomputed where needed:

    y = (x - mean) * gamma*s + beta,     dx = gamma*s * (dy - d_beta/m - (x - mean) * s*d_gamma/m)
    """
    if not large(x) or not suits(x, gamma, beta):
        return NotImplemented
    m = x.size // x.shape[-1]
    if training:
        mean, var = _moments(x)
        if running_mean is not None:
            keep_running(running_mean, mean, momentum)
            keep_running(running_var, var * (m / max(m - 1, 1)), momentum)
    else:
        mean, var = running_mean.copy(), running_var
    inv_std = 1 / np.sqrt(var + eps)
    scale = gamma * inv_std

    @shared
    def sums(dy):       # d_gamma and d_beta, also needed for d_x
        def work(x, dy):
            ones, centred = np.ones(len(x), x.dtype), x - mean
            centred *= dy
            return (ones @ centred) * inv_std, ones @ dy
        return np.sum(by_rows(work, x, dy), axis=0, dtype=np.float64).astype(x.dtype)

    def d_gamma(dy): return sums(dy)[0]
    def d_beta(dy):  return sums(dy)[1]

    def d_x(dy):
        dx = np.empty(x.shape, x.dtype)
        if not training:
            by_rows(lambda dy, dx: np.multiply(dy, scale, out=dx), dy, dx)
            return dx
        slope, level = -scale * inv_std * d_gamma(dy) / m, -scale * d_beta(dy) / m

        def work(x, dy, dx):
            np.subtract(x, mean, out=dx)
            dx *= slope
            dx += level
            dx += dy * scale
        by_rows(work, x, dy, dx)
        return dx

    def normalise(x, y):
        np.subtract(x, mean, out=y)
        y *= scale
        y += beta

    y = np.empty(x.shape, x.dtype)
    by_rows(normalise, x, y)
    return y, (d_x, d_gamma, d_beta)


def _moments(x):
    """Mean and variance of each channel in one pass: block statistics, combined as in Chan, Golub and LeVeque 1979.

    For block b with n_b entries, mean_b and sum of squared deviations S_b:   S = sum of S_b + n_b * (mean_b - mean)^2.
    """
    def work(x):
        ones = np.ones(len(x), x.dtype)
        mean = ones @ x / x.dtype.type(len(x))
        deviations = x - mean
        deviations *= deviations
        return len(x), mean, ones @ deviations

    counts, means, squares = (np.array(values, np.float64) for values in zip(*by_rows(work, x)))
    counts, m = counts[:, None], counts.sum()
    mean = (counts * means).sum(0) / m
    var = (squares + counts * (means - mean) ** 2).sum(0) / m
    return mean.astype(x.dtype), var.astype(x.dtype)
