"""Operations that rearrange values without changing them."""
import numpy as np

from npsrgan.ops.operation import op


@op
def reshape(x, shape):
    """The same entries, in row-major order, with another shape."""
    def d_x(dy): return dy.reshape(x.shape)
    return x.reshape(shape), (d_x,)


@op
def flatten(x):
    """(N, ...) -> (N, everything else)."""
    def d_x(dy): return dy.reshape(x.shape)
    return x.reshape(x.shape[0], -1), (d_x,)


@op
def slice(x, index):
    """x[index] for an index made of integers and slices (not arrays of indices)."""
    def d_x(dy):
        dx = np.zeros_like(x)
        dx[index] = dy
        return dx
    return x[index], (d_x,)


@op
def concatenate(*xs, axis=-1):
    """Join arrays along an axis, the only one in which their shapes may differ.  Each receives its own slice of the gradient."""
    ends = np.cumsum([x.shape[axis] for x in xs]).tolist()

    def d(k):
        return lambda dy: dy[(np.s_[:],) * (axis % dy.ndim) + (np.s_[ends[k] - xs[k].shape[axis]:ends[k]],)]
    return np.concatenate(xs, axis), tuple(d(k) for k in range(len(xs)))


@op
def pixel_shuffle(x, r=2):
    """Trade channels for resolution: every pixel's r*r*C channels become an r x r block of pixels with C channels.

        y[n, r*h + i, r*w + j, c] = x[n, h, w, (i*r + j)*C + c]

    x (N, H, W, r*r*C) -> (N, r*H, r*W, C).  Shi et al. 2016, section 3.2.  The position in the block is the slow
    part of the channel index, as in TensorFlow's depth_to_space, so that the C values of a pixel stay contiguous.  In PyTorch
    and Paddle it is the fast part: their channel c*r*r + i*r + j is our (i*r + j)*C + c.
    Raises ValueError if the number of channels is not divisible by r*r.
    """
    n, h, w, channels = x.shape
    c = channels // (r * r)
    if c * r * r != channels:
        raise ValueError(f"pixel_shuffle: {channels} channels do not split into blocks of {r} x {r} pixels")

    def d_x(dy): return dy.reshape(n, h, r, w, r, c).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    return x.reshape(n, h, w, r, r, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * r, w * r, c), (d_x,)
