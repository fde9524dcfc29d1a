"""How cuBLAS is told to read our arrays: checked with a cuBLAS of NumPy's, which reads memory from the same arguments as the real one."""
import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from comparisons import relative_error, wave

from npsrgan.fast.cuda import blas


class Library:
    """cuBLAS's functions, computing in main memory.  `calls` holds the names and what follows the handle."""

    def __init__(self):
        self.calls, self.status = [], 0

    def __getattr__(self, name):
        def function(*arguments):
            self.calls.append((name, arguments))
            if name == "cublasGemmStridedBatchedEx":
                self.product(*arguments)
            return self.status
        return function

    def product(self, handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, stride_a, b, b_type, ldb, stride_b, beta, c, c_type, ldc,
                stride_c, batch, compute, algorithm):
        assert (a_type, b_type, c_type) == (a_type,) * 3 and (a_type, compute) in {(0, 68), (0, 77), (1, 70)}
        dtype, number = (np.float64, ctypes.c_double) if a_type else (np.float32, ctypes.c_float)
        scale, add = (ctypes.cast(p, ctypes.POINTER(number))[0] for p in (alpha, beta))
        assert (scale, add) == (1, 0) and handle and algorithm == -1

        def matrix(address, rows, columns, lead):       # column-major, as the documentation of cublasGemmEx has it
            assert lead >= rows
            memory = (number * (lead * (columns - 1) + rows)).from_address(address)
            return np.ndarray((rows, columns), dtype, memory, 0, (dtype().itemsize, lead * dtype().itemsize))

        for index in range(batch):
            size = dtype().itemsize * index
            left = matrix(a + stride_a * size, *((k, m) if op_a else (m, k)), lda)
            right = matrix(b + stride_b * size, *((n, k) if op_b else (k, n)), ldb)
            matrix(c + stride_c * size, m, n, ldc)[...] = (left.T if op_a else left) @ (right.T if op_b else right)


@pytest.fixture
def library(monkeypatch):
    fake = Library()
    monkeypatch.setattr(blas, "_library", lambda: fake)
    monkeypatch.setattr(blas, "_stream", lambda: 7)
    monkeypatch.setattr(blas, "address", lambda array: array.ctypes.data)
    monkeypatch.setattr(blas, "_create", lambda: (1, SimpleNamespace(ptr=64)))
    return fake


VIEWS = {"plain": lambda a: a, "transposed": lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2),
         "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2]}
SHAPES = [((3, 4), (4, 5)), ((1, 4), (4, 1)), ((4, 1), (1, 3)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (6, 4, 1)),
          ((1, 2, 3), (3, 2)), ((3, 1, 1), (3, 1, 7))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("views", [(a, b) for a in VIEWS for b in VIEWS], ids=" @ ".join)
def test_products(library, shapes, views, dtype):
    a, b = (VIEWS[view](wave(*shape, seed=seed).astype(dtype)) for seed, (shape, view) in enumerate(zip(shapes, views)))
    mine = blas.matmul(a, b)
    assert mine.dtype == dtype and relative_error(mine, a @ b) < (1e-6 if dtype == np.float32 else 1e-14)
    copied = np.full_like(mine, np.nan)
    assert blas.matmul(a, b, out=copied) is copied and np.array_equal(copied, mine)


def test_a_transposed_view_is_not_copied(library):
    a, b = wave(3, 4).astype(np.float32), wave(5, 4).astype(np.float32)
    blas.matmul(a, b.T)
    _, arguments = library.calls[-1]
    assert arguments[7] == b.ctypes.data and arguments[11] == a.ctypes.data and arguments[1:3] == (1, 0)


def test_tf32_is_for_float32_products_that_ask_for_it(library):
    a, b = wave(3, 4), wave(4, 5)
    for dtype, tf32, compute in [(np.float32, False, 68), (np.float32, True, 77), (np.float64, True, 70)]:
        blas.matmul(a.astype(dtype), b.astype(dtype), tf32=tf32)
        assert library.calls[-1][1][-2] == compute


def test_nothing_to_add_up(library):
    assert blas.matmul(np.ones((3, 0), np.float32), np.ones((0, 2), np.float32)).tolist() == [[0, 0]] * 3
    assert blas.matmul(np.ones((0, 3)), np.ones((3, 2))).shape == (0, 2) and not library.calls


def test_what_does_not_fit_is_refused(library):
    ones = np.ones
    for a, b in [(ones((2, 3)), ones((4, 5))), (ones((2, 3)), ones((3, 5), np.float32)), (ones(3), ones((3, 2))),
                 (ones((2, 3, 4)), ones((3, 4, 5))), (ones((2, 3), np.int32), ones((3, 2), np.int32))]:
        with pytest.raises(ValueError, match="do not fit"):
            blas.matmul(a, b)
    library.status = 14
    with pytest.raises(RuntimeError, match=r"cublas\w+ failed with status 14"):
        blas.matmul(ones((2, 3)), ones((3, 2)))


def test_every_product_is_on_the_current_stream_with_memory_given_after_the_stream(library, monkeypatch):
    for stream in (5, 6):
        monkeypatch.setattr(blas, "_stream", lambda stream=stream: stream)
        library.calls.clear()
        blas.matmul(np.ones((2, 3)), np.ones((3, 2)))
        (first, stream_given), (second, memory_given), (third, _) = library.calls
        assert [first, second, third] == ["cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasGemmStridedBatchedEx"]
        assert stream_given == (1, stream) and memory_given == (1, 64, blas.WORKSPACE)


def test_one_handle_and_its_memory_are_kept_for_ever(monkeypatch):
    fake, asked = Library(), []
    pool = SimpleNamespace(malloc=lambda size: asked.append(size) or SimpleNamespace(ptr=64))
    monkeypatch.setattr(blas, "_library", lambda: fake)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(get_default_memory_pool=lambda: pool))
    try:
        assert blas._create() is blas._create()
    finally:
        blas._create.cache_clear()
    assert [name for name, _ in fake.calls] == ["cublasCreate_v2"] and asked == [blas.WORKSPACE]


def test_the_library_is_the_one_that_cupy_loads(monkeypatch):
    """Which CuPy 14 does when its package, not the import system, is asked for the module."""
    asked, functions = [], {name: SimpleNamespace() for name in blas._SIGNATURES}

    class Package:
        def __getattr__(self, name):
            asked.append(name)
    runtime = SimpleNamespace(runtimeGetVersion=lambda: 13000)
    for name, module in {"cupy": SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)), "cupy_backends": SimpleNamespace(),
                         "cupy_backends.cuda": SimpleNamespace(), "cupy_backends.cuda.libs": Package()}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**functions) if "cublas" in asked and "13" in name else None)
    blas._library.__wrapped__()
    assert all(function.argtypes == blas._SIGNATURES[name] for name, function in functions.items())


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_on_a_card(xp, shapes, dtype):
    if xp is np:
        pytest.skip("for cards: the rest of this file checks the same on NumPy's arrays")
    for views in [(a, b) for a in VIEWS for b in VIEWS]:
        a, b = (wave(*shape, seed=seed).astype(dtype) for seed, shape in enumerate(shapes))
        on_card = [VIEWS[view](xp.asarray(x)) if view != "strided" else xp.asarray(np.repeat(x, 2, -1))[..., ::2]
                   for x, view in zip((a, b), views)]
        assert relative_error(blas.matmul(*on_card).get(), a @ b) < (1e-6 if dtype == np.float32 else 1e-14)
        assert relative_error(blas.matmul(*on_card, tf32=True).get(), a @ b) < (2e-3 if dtype == np.float32 else 1e-14)
