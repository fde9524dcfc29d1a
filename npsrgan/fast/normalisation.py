"""Twins of batch_norm, alone and with what follows it: two passes over memory forward and two backward.

Only x and the channel statistics are kept; the normalised values and the activation's mask are computed again where needed.
"""
import numpy as np

from npsrgan import ops
from npsrgan.fast import fusion
from npsrgan.fast.blocks import by_long_rows, large, per_channel, shared, supported
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
    m, c, group = x.size // x.shape[-1], x.shape[-1], sharing.get()
    mean, inv_std = _statistics(x, running_mean, running_var, training, momentum, eps)
    scale = gamma * inv_std

    @shared
    def sums(dy):       # d_gamma and d_beta, also needed for d_x
        def work(x, dy, mean):
            centred = np.subtract(x, mean, out=scratch("block", x.shape, x.dtype))
            return per_channel(np.einsum("ij,ij->j", centred, dy), c), per_channel(dy.sum(0), c)
        d_gamma, d_beta = _total(by_long_rows(work, x, dy, vectors=[mean]))
        return (d_gamma * inv_std).astype(x.dtype), d_beta.astype(x.dtype)

    def d_gamma(dy): return sums(dy)[0]
    def d_beta(dy):  return sums(dy)[1]

    def d_x(dy):
        def work(x, dy, dx, scale, slope, level):
            np.multiply(x, slope, out=dx)
            dx += level
            dx += np.multiply(dy, scale, out=scratch("block", x.shape, x.dtype))
        dx = np.empty(x.shape, x.dtype)
        if training:
            of_gamma, of_beta = group.mean(np.stack(sums(dy)))
            slope = -scale * inv_std * of_gamma / m
            by_long_rows(work, x, dy, dx, vectors=[scale, slope, -scale * of_beta / m - mean * slope])
        else:
            by_long_rows(lambda dy, dx, scale: np.multiply(dy, scale, out=dx), dy, dx, vectors=[scale])
        return dx

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
    """See fusion.  With z for the batch norm's output, a = dy where z > 0, else 0, and s for the slope:

        dz = s * dy + (1 - s) * a,          d_slope = sum of z * (dy - a)

    So the sums over dz and d_slope follow from the sums of dy, a, x*dy and x*a.
    """
    if not large(x) or not supported(x, gamma, beta, slope) or slope.shape != gamma.shape or slope.max() > 1:
        return NotImplemented
    m, c, group = x.size // x.shape[-1], x.shape[-1], sharing.get()
    mean, inv_std = _statistics(x, running_mean, running_var, training, momentum, eps)
    scale = gamma * inv_std
    shift = beta - mean * scale

    def positive(x, scale, shift):       # z > 0; the same bits as z in the forward pass
        z = np.multiply(x, scale, out=scratch("block", x.shape, x.dtype))
        z += shift
        return z > 0

    @shared
    def sums(dy):
        def work(x, dy, scale, shift, mean):
            a = np.multiply(dy, positive(x, scale, shift), out=scratch("a", x.shape, x.dtype))
            centred = np.subtract(x, mean, out=scratch("block", x.shape, x.dtype))
            long = dy.sum(0), a.sum(0), np.einsum("ij,ij->j", centred, dy), np.einsum("ij,ij->j", centred, a)
            return [per_channel(each, c) for each in long]
        dy, a, x_dy, x_a = _total(by_long_rows(work, x, dy, vectors=[scale, shift, mean]))
        return [each.astype(x.dtype) for each in ((slope * x_dy + (1 - slope) * x_a) * inv_std, slope * dy + (1 - slope) * a,
                                                  scale * (x_dy - x_a) + beta * (dy - a))]

    def d_gamma(dy): return sums(dy)[0]
    def d_beta(dy):  return sums(dy)[1]
    def d_slope(dy): return sums(dy)[2]

    def d_x(dy):
        def work(x, dy, dx, scale, shift, below, more, *correction):
            np.multiply(positive(x, scale, shift), more, out=dx)
            dx += below
            dx *= dy
            if correction:
                dx += np.multiply(x, correction[0], out=scratch("block", x.shape, x.dtype))
                dx += correction[1]
        dx, correction = np.empty(x.shape, x.dtype), []
        if training:
            of_gamma, of_beta = group.mean(np.stack(sums(dy)[:2]))
            tilt = -scale * inv_std * of_gamma / m
            correction = [tilt, -scale * of_beta / m - mean * tilt]
        by_long_rows(work, x, dy, dx, vectors=[scale, shift, slope * scale, (1 - slope) * scale, *correction])
        return dx

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
    """The mean and the inverse standard deviation to normalise with; in training, the running statistics are updated."""
    if training:
        m = x.size // x.shape[-1] * sharing.get().size
        mean, var = _moments(x)
        if running_mean is not None:
            keep_running(running_mean, mean, momentum)
            keep_running(running_var, var * (m / max(m - 1, 1)), momentum)
    else:
        mean, var = running_mean.copy(), running_var
    return mean, 1 / np.sqrt(var + eps)


def _total(parts):
    """The sums over the batch from those of its blocks, in double precision."""
    return np.sum(parts, axis=0, dtype=np.float64)


def _moments(x, shift=None):
    """Mean and variance of each channel from one pass, which sums x and x^2.

    Where the mean is much larger than the deviation, x^2 has too few digits for their difference.  Such an x is summed again, less
    its mean.
    """
    def work(x, *shift):
        if shift:
            x = np.subtract(x, *shift, out=scratch("block", x.shape, x.dtype))
        return per_channel(x.sum(0), c), per_channel(np.einsum("ij,ij->j", x, x), c)

    c, shifts = x.shape[-1], [] if shift is None else [shift]
    mean, square = sharing.get().mean(_total(by_long_rows(work, x, vectors=shifts)) * c / x.size)
    var = square - mean**2
    if shift is None and (mean**2 > 16 * var).any():
        return _moments(x, mean.astype(x.dtype))
    return (mean + sum(shifts)).astype(x.dtype), var.astype(x.dtype)
