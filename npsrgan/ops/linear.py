"""The fully connected layer."""
from npsrgan.ops.operation import op


@op
def linear(x, w, b=None):
    """x @ w + b.  x (N, in), w (in, out), b (out,) or None -> (N, out).  Raises ValueError if shapes do not match."""
    if x.ndim != 2 or x.shape[1] != w.shape[0]:
        raise ValueError(f"linear: an input of shape {x.shape} does not fit weights of shape {w.shape}")

    def d_x(dy): return dy @ w.T
    def d_w(dy): return x.T @ dy
    def d_b(dy): return dy.sum(0)
    return x @ w if b is None else x @ w + b, (d_x, d_w, d_b)
