"""The twin of conv2d: chooses how to convolve by the shapes."""
from npsrgan import ops
from npsrgan.fast.cuda import compile, implicit, planes
from npsrgan.fast.cuda.compile import packed
from npsrgan.fast.cuda.sums import column_sums
from npsrgan.tape import twin

LIMIT = 2**31 - 2**24       # entries of an array: the kernels count with 32 bits, and their windows begin outside the image


@twin(ops.conv2d)
def conv2d(x, w, b=None, stride=1, padding=None):
    """As the reference, on CuPy's arrays of float32; within rounding to TF32 where `precision` says so."""
    kh, kw, channels, o = w.shape
    ph, pw = (kh // 2, kw // 2) if padding is None else (padding, padding)
    shape = x.shape[0], (x.shape[1] + 2 * ph - kh) // stride + 1, (x.shape[2] + 2 * pw - kw) // stride + 1, o
    if not compile.suits(x, w, w if b is None else b) or x.shape[3] != channels or min(*shape, *x.shape) < 1:
        return NotImplemented       # the reference explains what does not fit
    if max(x.size, w.size, shape[0] * shape[1] * (shape[2] + kw) * max(o, kw)) > LIMIT:
        return NotImplemented
    x, w = packed(x), packed(w)

    def d_x(dy):
        dy, dx, turned = packed(dy), compile.empty(x.shape, x), w[::-1, ::-1].transpose(0, 1, 3, 2)
        if planes.suits(turned, stride):
            return planes.correlate(dy, packed(turned), dx, kh - 1 - ph, kw - 1 - pw)
        return implicit.correlate_adjoint(dy, w, dx, ph, pw, stride)

    def d_w(dy):
        if not planes.suits(w, stride):
            return implicit.correlate_kernel_gradient(x, packed(dy), (kh, kw), ph, pw, stride)
        # For few outputs x and dy change places, and x's channels fill the tiles: seen from x's pixels, dy moves the other way.
        turned = implicit.correlate_kernel_gradient(packed(dy), x, (kh, kw), kh - 1 - ph, kw - 1 - pw)
        return packed(turned[::-1, ::-1].transpose(0, 1, 3, 2))

    def d_b(dy): return column_sums(packed(dy).reshape(-1, o))

    if planes.suits(w, stride):
        y = planes.correlate(x, w, compile.empty(shape, x), ph, pw, b)
    else:
        y = implicit.correlate(x, w, compile.empty(shape, x), ph, pw, stride, b)
    return y, (d_x, d_w, d_b)
