"""The precision of convolutions on a GPU.

"float32": every product is in float32, as on a CPU.
"tf32":    tensor cores.  Factors are rounded to TF32, which keeps 10 of float32's 23 fraction bits; sums and arrays stay in
           float32.  GPUs before compute capability 8.0 do not support TF32 and multiply in float32.
"""
from npsrgan.fast.cuda import compile

PRECISIONS = ("tf32", "float32")        # the default first; it is also PyTorch's default for convolutions

_precision = PRECISIONS[0]


def get_precision():
    """The current precision, "tf32" or "float32"."""
    return _precision


def set_precision(precision):
    """Set the precision of all later convolutions.  Raises ValueError for anything but "tf32" or "float32"."""
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    _precision = precision


def tensor_cores():
    """Whether to multiply on tensor cores: TF32 is selected and the GPU supports it."""
    return _precision == "tf32" and compile.capability() >= 80
