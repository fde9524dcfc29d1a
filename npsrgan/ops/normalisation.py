"""Batch normalisation."""
from contextvars import ContextVar
from types import SimpleNamespace

import numpy as np

from npsrgan.ops.operation import op

# The processes that share a batch: their number, and the mean of an array over all of them.  For several, see system/workers.py.
ONE_PROCESS = SimpleNamespace(size=1, mean=lambda array: array)
sharing = ContextVar("sharing", default=ONE_PROCESS)


def keep_running(average, value, momentum):
    """average <- momentum * average + (1 - momentum) * value, in place."""
    average *= momentum
    average += (1 - momentum) * value


def mean_of_rows(x):
    """The mean over every axis but the last, (..., C) -> (C,).  Reduced axis by axis, which limits rounding errors."""
    while x.ndim > 1:
        x = x.mean(x.ndim - 2)
    return x


@op
def batch_norm(x, gamma, beta, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Normalise each channel, then scale and shift.  Ioffe and Szegedy 2015, algorithms 1 and 2.

    x (..., C): statistics are taken over every axis but the last; gamma, beta, running_mean, running_var (C,).

    In training, the mean and variance are those of the batch, so every output depends on every input of its channel.  The two
    extra terms of d_x follow from this.  The running arrays are updated in place to momentum * old + (1 - momentum) * batch,
    with the unbiased variance.  In evaluation, the running arrays are used as constants.

    If several processes share the batch, with as many samples each, statistics and sums are those of the whole batch.
    """
    axes, m, group = tuple(range(x.ndim - 1)), x.size // x.shape[-1], sharing.get()
    if training:
        mean = group.mean(mean_of_rows(x))
        mean = mean + group.mean(mean_of_rows(x - mean))        # the sum of small deviations corrects the rounding of the first
        var = group.mean(mean_of_rows((x - mean) ** 2))
        if running_mean is not None:
            keep_running(running_mean, mean, momentum)
            n = m * group.size
            keep_running(running_var, var * (n / max(n - 1, 1)), momentum)
    else:
        mean, var = running_mean, running_var
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = (x - mean) * inv_std

    def d_gamma(dy): return (dy * x_hat).sum(axes)
    def d_beta(dy):  return dy.sum(axes)

    def d_x(dy):
        if training:
            dy = dy - group.mean(d_beta(dy)) / m - x_hat * (group.mean(d_gamma(dy)) / m)
        return gamma * inv_std * dy

    return gamma * x_hat + beta, (d_x, d_gamma, d_beta)
