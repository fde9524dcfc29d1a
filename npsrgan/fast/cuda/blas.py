"""Matrix products by cuBLAS, called so that a CUDA graph can record them.

CuPy's own products (`@`, `matmul`, `tensordot`) call the same library, but raise an error while a stream is being captured:
"calling cuBLAS API during stream capture is currently unsupported".  cuBLAS itself supports capture if its workspace has been
set beforehand.  So this module calls it directly through ctypes, with its own handle and workspace.
"""
import ctypes
import sys
from functools import cache

from npsrgan.fast.cuda.compile import address, empty

WORKSPACE = 32 << 20        # bytes of workspace: NVIDIA's recommendation for the largest GPUs

# From cublas_api.h and library_types.h.
_PLAIN, _TRANSPOSED, _DEFAULT_ALGORITHM = 0, 1, -1
_COMPUTE = {("float32", False): (0, 68), ("float32", True): (0, 77), ("float64", False): (1, 70), ("float64", True): (1, 70)}
_POINTER, _INT, _STRIDE = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_SIGNATURES = {
    "cublasCreate_v2": [_POINTER],
    "cublasSetStream_v2": [_POINTER, _POINTER],
    "cublasSetWorkspace_v2": [_POINTER, _POINTER, ctypes.c_size_t],
    "cublasGemmStridedBatchedEx": [_POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER, _POINTER, _INT, _INT, _STRIDE,
                                   _POINTER, _INT, _INT, _STRIDE, _POINTER, _POINTER, _INT, _INT, _STRIDE, _INT, _INT, _INT],
}


def matmul(a, b, out=None, tf32=False):
    """a @ b for CuPy arrays of one dtype, float32 or float64.

    a (m, k) or (N, m, k), b (k, n) or (N, k, n) -> (m, n), or (N, m, n) if either has N.  Transposed views cost nothing; other
    non-contiguous views are copied first.  out: a contiguous output array.  tf32: round the factors of float32 products to
    a 10-bit fraction for the tensor cores; the sums are float32 either way.

    Raises ValueError for mismatched shapes or dtypes, and RuntimeError where cuBLAS cannot be found or reports an error.
    """
    if a.dtype != b.dtype or (a.dtype.name, tf32) not in _COMPUTE or a.shape[-1] != b.shape[-2] or {a.ndim, b.ndim} - {2, 3}:
        raise ValueError(f"matmul: {a.dtype} {a.shape} and {b.dtype} {b.shape} do not fit")
    batch = {x.shape[0] for x in (a, b) if x.ndim == 3}
    if len(batch) > 1:
        raise ValueError(f"matmul: batches of {a.shape[0]} and {b.shape[0]} do not fit")
    (m, k), n = a.shape[-2:], b.shape[-1]
    if out is None:
        out = empty((*batch, m, n), a)
    if out.size == 0 or k == 0:
        out[...] = 0
        return out
    a, a_operation, a_lead, a_stride = _layout(a)
    b, b_operation, b_lead, b_stride = _layout(b)
    kind, compute = _COMPUTE[a.dtype.name, tf32]
    one, zero = ((ctypes.c_double if kind else ctypes.c_float)(value) for value in (1, 0))
    # cuBLAS is column-major: it sees the row-major a and b as a' and b', and computes (a @ b)' = b' @ a'.
    _call("cublasGemmStridedBatchedEx", _handle(), b_operation, a_operation, n, m, k, ctypes.byref(one),
          address(b), kind, b_lead, b_stride, address(a), kind, a_lead, a_stride, ctypes.byref(zero),
          address(out), kind, n, m * n, max(batch, default=1), compute, _DEFAULT_ALGORITHM)
    return out


def _layout(a):
    """How cuBLAS reads an array: (array, operation, leading dimension, entries between consecutive matrices)."""
    *batch, height, width = a.shape
    if a.flags.c_contiguous:
        operation, lead = _PLAIN, width
    elif a.swapaxes(-1, -2).flags.c_contiguous:
        operation, lead = _TRANSPOSED, height
    else:
        a, operation, lead = a.copy(), _PLAIN, width
    return a, operation, lead, height * width if batch else 0


def _handle():
    """The handle, set to the current stream.  Setting a stream resets the workspace, so that is set again.

    One handle serves all streams here, because the computing streams synchronise with the default stream.
    """
    handle, workspace = _create()
    _call("cublasSetStream_v2", handle, _stream())
    _call("cublasSetWorkspace_v2", handle, workspace.ptr, WORKSPACE)
    return handle


def _stream():
    import cupy
    return cupy.cuda.get_current_stream().ptr


@cache
def _create():
    """(a handle, its workspace).  A graph may store the workspace's address, so it is never freed."""
    import cupy
    handle, workspace = _POINTER(), cupy.get_default_memory_pool().malloc(WORKSPACE)
    _call("cublasCreate_v2", ctypes.byref(handle))
    return handle, workspace


@cache
def _library():
    """The copy of cuBLAS that CuPy has loaded."""
    import cupy
    from cupy_backends.cuda.libs import cublas  # noqa: F401  (loads it; `import ...libs.cublas` would not find the one in pip's wheels)
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    name = f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}"
    try:
        library = ctypes.CDLL(name)
        for function, types in _SIGNATURES.items():
            getattr(library, function).argtypes = types
    except (OSError, AttributeError) as error:
        raise RuntimeError(f"cuBLAS cannot be called ({error})") from None
    return library


def _call(function, *arguments):
    status = getattr(_library(), function)(*arguments)
    if status:
        raise RuntimeError(f"{function} failed with status {status}")
