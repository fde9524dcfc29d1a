"""The twin of linear: products that a CUDA graph can record.  They always use float32, as PyTorch does by default."""
from npsrgan import ops
from npsrgan.fast.cuda.blas import matmul
from npsrgan.fast.cuda.compile import supported
from npsrgan.ops.operation import twin


@twin(ops.linear)
def linear(x, w, b=None):
    """See the reference.  For the few rows of a batch, each product is one pass over w."""
    if not supported(x, w, *([] if b is None else [b])) or x.ndim != 2 or x.shape[1] != w.shape[0]:
        return NotImplemented

    def d_x(dy): return matmul(dy, w.T)
    def d_w(dy): return matmul(x.T, dy)
    def d_b(dy): return dy.sum(0)

    y = matmul(x, w)
    if b is not None:
        y += b
    return y, (d_x, d_w, d_b)
