"""How the convolutions on a GPU multiply.

"float32": every product in float32, as on a CPU.
"tf32":    on tensor cores.  Factors are rounded to TF32, 10 of float32's 23 bits after the point; products are added, and all
           arrays are kept, in float32.  GPUs before compute capability 8.0 have no such units and multiply in float32.
"""
from npsrgan.fast.cuda import compile

PRECISIONS = ("tf32", "float32")        # the default first: also PyTorch's, for convolutions

_precision = PRECISIONS[0]


def get_precision():
    """"tf32" or "float32", as last set."""
    return _precision


def set_precision(precision):
    """Choose for all convolutions from now on.  Raises ValueError for anything but "tf32" or "float32"."""
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    _precision = precision


def tensor_cores():
    """Whether to multiply on tensor cores: asked for, and the GPU has the units."""
    return _precision == "tf32" and compile.capability() >= 80
