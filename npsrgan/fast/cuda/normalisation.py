"""The twins of batch_norm, alone and fused with the operation that follows.

Only x, the preceding convolution's output, and two numbers per channel are saved.  Memory traffic in arrays of x's size; the
forward pass needs 3 rather than 2 because the statistics must be known before normalising:

                                 forward                         backward
    batch_norm                   3 (moments 1, normalise 2)      5 (sums 2, d_x 3)
    with PReLU or LeakyReLU      3 (unfused: 5)                  5 (unfused: 8, or 10 with d_slope)
    with an addition             4 (unfused: 6)                  5
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast import fusion
from npsrgan.fast.blocks import shared
from npsrgan.fast.cuda import compile
from npsrgan.fast.cuda.compile import NULL, packed
from npsrgan.fast.cuda.rows import Rows, supported
from npsrgan.fast.cuda.sums import sum_parts
from npsrgan.ops.normalisation import keep_running, sharing
from npsrgan.ops.operation import twin


@twin(ops.batch_norm)
def batch_norm(x, gamma, beta, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """See the reference.  The running averages are updated on the GPU without synchronisation."""
    done = _normalise(x, gamma, beta, running_mean, running_var, training, momentum, eps)
    return done if done is NotImplemented else (done[0], done[1][:3])


@twin(fusion.batch_norm_prelu)
def batch_norm_prelu(x, gamma, beta, slope, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Rules for x, gamma, beta and slope."""
    return _normalise(x, gamma, beta, running_mean, running_var, training, momentum, eps, slopes=slope)


@twin(fusion.batch_norm_leaky_relu)
def batch_norm_leaky_relu(x, gamma, beta, slope, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Rules for x, gamma and beta."""
    done = _normalise(x, gamma, beta, running_mean, running_var, training, momentum, eps, slope=slope)
    return done if done is NotImplemented else (done[0], done[1][:3])


@twin(fusion.batch_norm_add)
def batch_norm_add(x, gamma, beta, residual, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """Rules for x, gamma, beta and residual."""
    done = _normalise(x, gamma, beta, running_mean, running_var, training, momentum, eps, residual=residual)
    return done if done is NotImplemented else (done[0], (*done[1][:3], lambda dy: dy))


def _normalise(x, gamma, beta, running_mean, running_var, training, momentum, eps, slopes=None, slope=1.0, residual=None):
    """(y, (d_x, d_gamma, d_beta, d_slopes)) of leaky(batch_norm(x)) + residual; slope 1 is the identity."""
    channels = [a for a in (gamma, beta, running_mean, running_var, slopes) if a is not None]
    if not supported(x, *channels, *([] if residual is None else [residual])):
        return NotImplemented
    columns = x.shape[-1]
    if any(a.shape != (columns,) or not a.flags.c_contiguous for a in channels) or (residual is not None and residual.shape != x.shape):
        return NotImplemented
    x = packed(x)
    m, group = x.size // columns, sharing.get()
    launch = Rows("normalisation", m, columns)
    if training and group.size > 1:
        mine = _moments(launch, x, None, None, momentum, eps)
        statistics = _moments_of_all(group, m, mine, running_mean, running_var, momentum, eps)
    elif training:
        statistics = _moments(launch, x, running_mean, running_var, momentum, eps)
    else:
        statistics = np.stack([running_mean, 1 / np.sqrt(running_var + eps)])
    by_channel = statistics, packed(gamma), packed(beta), NULL if slopes is None else packed(slopes), np.float32(slope)

    @shared
    def sums(dy):       # d_gamma, d_beta and d_slopes; d_x also needs the first two
        parts = compile.empty((launch.parts, 3, columns), x)
        launch("gradient_sums", x, packed(dy), *by_channel, parts)
        return sum_parts(parts, compile.empty((3, columns), x))

    def d_gamma(dy):  return sums(dy)[0]
    def d_beta(dy):   return sums(dy)[1]
    def d_slopes(dy): return sums(dy)[2]

    def d_x(dy):
        dx = compile.empty(x.shape, x)
        launch("gradient", x, packed(dy), *by_channel, group.mean(sums(dy)) if training else NULL, np.float32(1 / m), dx)
        return dx

    y = compile.empty(x.shape, x)
    launch("normalise", x, *by_channel, NULL if residual is None else packed(residual), y)
    return y, (d_x, d_gamma, d_beta, d_slopes)


def _moments(launch, x, running_mean, running_var, momentum, eps):
    """(2, C): the mean of each channel and 1 / sqrt(variance + eps)."""
    columns = x.shape[-1]
    parts, statistics = compile.empty((3, launch.parts, columns), x), compile.empty((2, columns), x)
    launch("moments", x, parts)
    running = (NULL, NULL) if running_mean is None else (running_mean, running_var)
    numbers = np.int32(launch.parts), np.int32(columns), np.float32(momentum), np.float32(eps)
    compile.kernel("normalisation", "finish_moments")((-(-columns // 4),), (4, 64), (parts, statistics, *running, *numbers))
    return statistics


def _moments_of_all(group, m, statistics, running_mean, running_var, momentum, eps):
    """As `_moments`, over the m rows of each process of a group.  statistics: those of this process."""
    mean, inv_std = statistics
    center = group.mean(mean)
    spread = group.mean(1 / inv_std ** 2 + (mean - center) ** 2)        # the variance, plus eps
    if running_mean is not None:
        n = m * group.size
        keep_running(running_mean, center, momentum)
        keep_running(running_var, (spread - eps) * (n / (n - 1)), momentum)
    return np.stack([center, 1 / np.sqrt(spread)])
