"""Twins of batch_norm, alone and with what follows it: two passes over memory forward and two backward.

Only x and the channel statistics are kept; the normalised values and the activation's slopes are computed again where needed.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast import fusion
from npsrgan.fast.blocks import STEEP, by_long_rows, large, per_channel, shared, supported
from npsrgan.fast.threads import scratch
from npsrgan.ops.normalisation import keep_running, sharing
from npsrgan.ops.operation import twin


@twin(ops.batch_norm)
def batch_norm(x, gamma, beta, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5, residual=None):
    """See the reference.  With s = 1 / sqrt(var + eps) and x_hat = (x - mean) * s:

    y = x * gamma*s + (beta - mean * gamma*s),      dx = gamma*s * (dy - d_beta/m - x_hat * d_gamma/m)
    """
    if not large(x) or not supported(x, gamma, beta):
        return NotImplemented
    c, group = x.shape[-1], sharing.get() if training else None
    x, mean, inv_std = _statistics(x, running_mean, running_var, training, momentum, eps)
    scale = gamma * inv_std

    @shared
    def sums(dy):       # d_gamma and d_beta, also needed for d_x
        def work(x, dy):
            return per_channel(np.einsum("ij,ij->j", x, dy), c), per_channel(dy.sum(0), c)
        x_dy, d_beta = _total(by_long_rows(work, x, dy))
        return ((x_dy - mean * d_beta) * inv_std).astype(x.dtype), d_beta.astype(x.dtype)

    def d_gamma(dy): return sums(dy)[0]
    def d_beta(dy):  return sums(dy)[1]

    def d_x(dy):
        return _d_x(x, dy, np.empty(x.shape, x.dtype), mean, inv_std, scale, group and group.mean(np.stack(sums(dy))))

    def normalise(x, y, *rest):
        *residual, scale, shift = rest
        np.multiply(x, scale, out=y)
        y += shift
        if residual:
            y += residual[0]

    y = np.empty(x.shape, x.dtype)
    by_long_rows(normalise, x, y, *([] if residual is None else [residual]), vectors=[scale, beta - mean * scale])
    return y, (d_x, d_gamma, d_beta)


@twin(fusion.batch_norm_add)
def batch_norm_add(x, gamma, beta, residual, *options, **named):
    """See fusion."""
    if not supported(x, residual) or x.shape != residual.shape:
        return NotImplemented
    result = batch_norm(x, gamma, beta, *options, **named, residual=residual)
    return result if result is NotImplemented else (result[0], (*result[1], lambda dy: dy))


@twin(fusion.batch_norm_prelu)
def batch_norm_prelu(x, gamma, beta, slope, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
    """See fusion.  With z for the batch norm's output:

        dz = dy * (1 where z > 0, else slope),          d_slope = sum of min(z, 0) * dy

    The factor is a `STEEP` line, limited: max(slope, min(1, STEEP * z)).  So where z is 0 and the slope negative, it is 0.
    """
    if not large(x) or not supported(x, gamma, beta, slope) or slope.shape != gamma.shape or slope.max() > 1:
        return NotImplemented
    c, group = x.shape[-1], sharing.get() if training else None
    x, mean, inv_std = _statistics(x, running_mean, running_var, training, momentum, eps)
    scale = gamma * inv_std
    shift = beta - mean * scale

    @shared
    def gradients(dy):
        def work(x, dy, dz, scale, shift, slope):
            z = np.multiply(x, scale, out=scratch("block", x.shape, x.dtype))       # times STEEP
            z += shift
            np.clip(z, -np.inf, 1, out=dz)
            np.maximum(dz, slope, out=dz)
            dz *= dy
            np.clip(z, -np.inf, 0, out=z)
            long = np.einsum("ij,ij->j", x, dz), dz.sum(0), np.einsum("ij,ij->j", z, dy)
            return [per_channel(each, c) for each in long]
        dz = np.empty(x.shape, x.dtype)
        x_dz, d_beta, z_dy = _total(by_long_rows(work, x, dy, dz, vectors=[STEEP * scale, STEEP * shift, slope]))
        sums = [each.astype(x.dtype) for each in ((x_dz - mean * d_beta) * inv_std, d_beta, z_dy / STEEP)]
        return _d_x(x, dz, dz, mean, inv_std, scale, group and group.mean(np.stack(sums[:2]))), *sums

    def d_x(dy):     return gradients(dy)[0]
    def d_gamma(dy): return gradients(dy)[1]
    def d_beta(dy):  return gradients(dy)[2]
    def d_slope(dy): return gradients(dy)[3]

    def forward(x, y, scale, shift, slope):
        np.multiply(x, scale, out=y)
        y += shift
        np.maximum(y, np.multiply(y, slope, out=scratch("block", x.shape, x.dtype)), out=y)

    y = np.empty(x.shape, x.dtype)
    by_long_rows(forward, x, y, vectors=[scale, shift, slope])
    return y, (d_x, d_gamma, d_beta, d_slope)


@twin(fusion.batch_norm_leaky_relu)
def batch_norm_leaky_relu(x, gamma, beta, slope, *options, **named):
    """See fusion: PReLU with a constant slope."""
    if not supported(x, gamma):
        return NotImplemented
    result = batch_norm_prelu(x, gamma, beta, np.full_like(gamma, slope), *options, **named)
    return result if result is NotImplemented else (result[0], result[1][:3])


def _statistics(x, running_mean, running_var, training, momentum, eps):
    """x, the mean and the inverse standard deviation to normalise with; in training, the running statistics are updated.

    Where the mean is much larger than the deviation, sums of x^2 and x*dy have too few digits left.  Then x is centred first.
    """
    mean, var = _moments(x) if training else (running_mean.copy(), running_var)
    offset = np.zeros_like(mean)
    if (mean**2 > 16 * var).any():
        x, far, offset = np.empty(x.shape, x.dtype), x, mean
        by_long_rows(lambda far, x, mean: np.subtract(far, mean, out=x), far, x, vectors=[mean])
        mean, var = _moments(x) if training else (mean - offset, var)
    if training and running_mean is not None:
        m = x.size // x.shape[-1] * sharing.get().size
        keep_running(running_mean, mean + offset, momentum)
        keep_running(running_var, var * (m / max(m - 1, 1)), momentum)
    return x, mean, 1 / np.sqrt(var + eps)


def _moments(x):
    """Mean and variance of each channel from one pass, which sums x and x^2."""
    def work(x):
        return per_channel(x.sum(0), c), per_channel(np.einsum("ij,ij->j", x, x), c)
    c = x.shape[-1]
    mean, square = sharing.get().mean(_total(by_long_rows(work, x)) * c / x.size)
    return mean.astype(x.dtype), (square - mean**2).astype(x.dtype)


def _d_x(x, dz, dx, mean, inv_std, scale, sums):
    """The gradient for x, written to dx, which may be dz, the gradient for the output.  sums: d_gamma and d_beta, or None in evaluation."""
    def work(x, dz, dx, scale, *correction):
        np.multiply(dz, scale, out=dx)
        if correction:
            tilt, level = correction
            dx += np.multiply(x, tilt, out=scratch("block", x.shape, x.dtype))
            dx += level

    correction = []
    if sums is not None:
        of_gamma, of_beta = sums * (-scale * x.shape[-1] / x.size)
        correction = [of_gamma * inv_std, of_beta - mean * of_gamma * inv_std]
    by_long_rows(work, x, dz, dx, vectors=[scale, *correction])
    return dx


def _total(parts):
    """The sums over the batch from those of its blocks, in double precision."""
    return np.sum(parts, axis=0, dtype=np.float64)
