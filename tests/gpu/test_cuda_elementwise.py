"""The GPU's kernels that are bound by memory, played on the CPU, against the operations one reads."""
import weakref
from unittest import mock

import emulate
import numpy as np
import pytest
from emulate import emulated
from test_cuda import NO_NVRTC, cubin
from test_sharing import Group

from npsrgan import losses, ops
from npsrgan.fast import cuda, fusion  # noqa: F401  (importing cuda registers the twins)
from npsrgan.fast.cuda import compile, rows
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor

pytestmark = pytest.mark.skipif(emulate.GXX is None, reason="no g++, with which the emulated kernels are built")
LIMIT = 2e-4        # norm of the difference over norm of the result in float64


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def norms(*shape):
    """x, gamma, beta"""
    return 3 * draw(*shape) + 1, draw(shape[-1]), draw(shape[-1], seed=1)


def running(channels):
    return {"running_mean": draw(channels, seed=2), "running_var": np.abs(draw(channels, seed=3)) + 0.1}


CASES = [
    (ops.batch_norm, norms(2, 5, 7, 64), running(64)),
    (ops.batch_norm, norms(3, 9, 4, 6), {}),                                # channels one by one
    (ops.batch_norm, norms(1, 40, 41, 3), running(3)),                      # more rows than threads
    (ops.batch_norm, norms(4, 3, 3, 260), {"momentum": 0.5, "eps": 0.1}),   # a second row of blocks, nearly empty
    (ops.batch_norm, norms(1, 1, 1, 8), running(8) | {"training": False}),
    (ops.batch_norm, norms(5, 1), running(1)),
    (ops.batch_norm, (draw(2, 30, 20, 4) + 1000, *norms(4)[1:], ), {}),     # a mean much larger than the deviation
    (ops.batch_norm, norms(2, 6, 5, 20), running(20) | {"training": False}),
    (fusion.batch_norm_prelu, (*norms(2, 9, 7, 64), draw(64, seed=4)), running(64)),
    (fusion.batch_norm_prelu, (*norms(3, 5, 5, 5), draw(5, seed=4)), running(5) | {"training": False}),
    (fusion.batch_norm_leaky_relu, (*norms(2, 6, 7, 132), 0.2), running(132)),
    (fusion.batch_norm_leaky_relu, (*norms(2, 6, 7, 10), -0.5), {}),
    (fusion.batch_norm_add, (*norms(2, 9, 7, 64), draw(2, 9, 7, 64, seed=4)), running(64)),
    (fusion.batch_norm_add, (*norms(3, 1, 5, 7), draw(3, 1, 5, 7, seed=4)), running(7) | {"training": False}),
    (ops.relu, (draw(2, 5, 7, 64),), {}), (ops.relu, (draw(1, 70, 78, 2),), {}),
    (ops.leaky_relu, (draw(2, 5, 7, 64), 0.2), {}), (ops.leaky_relu, (draw(9, 16), 0.0), {}),
    (ops.leaky_relu, (draw(9, 12), -0.5), {}),
    (ops.prelu, (draw(2, 5, 7, 64), draw(64)), {}), (ops.prelu, (draw(2, 40, 17, 5), draw(5)), {}),
    (ops.prelu, (draw(1, 140), draw(140)), {}),
    (ops.prelu, (draw(2, 5, 7, 64), draw(1)), {}), (ops.prelu, (draw(1, 1), draw(1)), {}),
    (ops.add, (draw(2, 5, 7, 64), draw(2, 5, 7, 64, seed=1)), {}), (ops.add, (draw(3, 4), draw(3, 4, seed=1)), {}),
    (ops.pixel_shuffle, (draw(2, 3, 5, 64),), {}), (ops.pixel_shuffle, (draw(1, 1, 1, 27),), {"r": 3}),
    (fusion.pixel_shuffle_prelu, (draw(2, 3, 5, 256), draw(64)), {}), (fusion.pixel_shuffle_prelu, (draw(2, 7, 3, 20), draw(5)), {}),
    (fusion.pixel_shuffle_prelu, (draw(1, 4, 3, 36), draw(4)), {"r": 3}),
    (ops.max_pool2d, (draw(2, 6, 8, 64),), {}), (ops.max_pool2d, (draw(2, 7, 5, 6),), {}),           # a rest at both edges
    (ops.max_pool2d, (np.round(draw(2, 6, 9, 4)),), {}), (ops.max_pool2d, (draw(1, 8, 10, 12),), {"size": 3, "stride": 3}),     # ties
    (ops.softplus, (30 * draw(16, 1),), {}),
    (losses.mean_squared_error, (draw(2, 40, 17, 3), draw(2, 40, 17, 3, seed=1)), {}),
    (losses.mean_squared_error, (draw(3, 5, 5, 3), draw(3, 5, 5, 3, seed=1)), {}),
    (losses.mean_squared_error, (draw(1, 1), draw(1, 1, seed=1)), {}),
]


def name(case):
    operation, (x, *_), options = case
    return f"{operation.__name__}-{'x'.join(map(str, x.shape))}" + "-evaluation" * (options.get("training") is False)


def cuda_twin(operation):
    return next(twin for twin in operation.twins if twin.__module__.startswith("npsrgan.fast.cuda"))


def copies(options, dtype=np.float32):
    return {key: value.astype(dtype) if isinstance(value, np.ndarray) else value for key, value in options.items()}


def arrays(options):
    return [value for value in options.values() if isinstance(value, np.ndarray)]


def exact(case):
    """(value, gradients, running averages afterwards, dy), by the reference in float64."""
    operation, inputs, options = case
    tensors, options = [Tensor(a.astype(np.float64)) if isinstance(a, np.ndarray) else a for a in inputs], copies(options, np.float64)
    with reference_only(), Tape() as tape:
        value = operation(*tensors, **options)
        dy = draw(*value.shape, seed=9)
        loss = ops.sum(value * dy.astype(np.float64))
    return value.array, tape.gradient(loss, [t for t in tensors if isinstance(t, Tensor)]), arrays(options), dy


def played(case, dy, change=lambda a: a):
    """The same by the twin; `change` is done to all arrays that it gets."""
    operation, inputs, options = case
    options = copies(options)
    value, rules = cuda_twin(operation)(*[change(a) if isinstance(a, np.ndarray) else a for a in inputs], **options)
    return value, [rule(change(dy)) for rule in rules], arrays(options)


def assert_close(mine, theirs):
    assert mine.dtype == np.float32 and mine.shape == theirs.shape and np.isfinite(mine).all()
    assert np.linalg.norm(mine - theirs) <= LIMIT * np.linalg.norm(theirs)


def compare(case, change=lambda a: a):
    value, gradients, running, dy = exact(case)
    my_value, my_gradients, my_running = played(case, dy, change)
    assert_close(my_value, value)
    for mine, theirs in zip([*my_gradients, *my_running], [*gradients, *running], strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_equals_the_reference(case):
    with emulated(multiprocessors=1):
        compare(case)


SHARED = [case for case in CASES if case[0].__name__.startswith("batch_norm") and len(case[1][0]) % 2 == 0]


@pytest.mark.parametrize("case", SHARED, ids=name)
def test_a_batch_may_be_shared_by_two_processes(case):
    """Each gets every other sample; the statistics, and the sums in d_x, are those of all."""
    operation, (x, *others), options = case
    value, gradients, running, dy = exact(case)

    def half(rank):
        mine = [array[rank::2] if np.shape(array) == x.shape else array for array in others]
        return played((operation, (x[rank::2], *mine), options), dy[rank::2])

    with emulated(multiprocessors=1):
        halves = Group(2).each(half)
    for rank, (my_value, my_gradients, my_running) in enumerate(halves):
        assert_close(my_value, value[rank::2])
        for mine, theirs in zip([my_gradients[0], *my_running], [gradients[0][rank::2], *running], strict=True):
            assert_close(mine, theirs)
    for mine, theirs in zip(zip(*(my_gradients[1:3] for _, my_gradients, _ in halves)), gradients[1:3], strict=True):
        assert_close(sum(mine), theirs)


@pytest.mark.parametrize("case", [
    (fusion.batch_norm_prelu, (*norms(2, 20, 17, 64), draw(64, seed=4)), running(64)),
    (fusion.pixel_shuffle_prelu, (draw(1, 9, 19, 256), draw(64)), {}),
    (losses.mean_squared_error, (draw(260, 256), draw(260, 256, seed=1)), {}),
], ids=name)
def test_many_blocks(case):
    """More partial sums than the threads that add them up."""
    with emulated(multiprocessors=100), mock.patch.object(rows, "AT_ONCE", 1):
        compare(case)


def test_no_block_waits_and_no_row_is_left_alone():
    """At most four blocks for each multiprocessor; a thread has whole lots of four rows, while there are rows for that."""
    with emulated(multiprocessors=132):
        for n, columns in [(16 * 176 * 176, 64), (16 * 44 * 44, 64), (16 * 11 * 11, 512), (16 * 88 * 88, 128), (5, 64), (1, 1), (999, 3)]:
            launch = rows.Rows("normalisation", n, columns)
            (across, down), (side, high) = launch.grid, launch.block
            assert across * side * launch.width >= columns and across * down <= 4 * 132 and side * high == rows.THREADS
            each = -(-n // (down * high))
            assert each * down * high >= n and (each % 4 == 0 or down == 1 or each < 4)


@pytest.mark.parametrize("case", CASES[::3], ids=name)
def test_the_same_bits_in_either_order_of_threads(case, monkeypatch):
    dy = exact(case)[3]
    results = []
    for falling in (False, True):
        monkeypatch.setattr(emulate, "falling", falling)
        with emulated(multiprocessors=2):
            value, gradients, running = played(case, dy)
        results.append([value, *gradients, *running])
    assert all(np.array_equal(one, two) for one, two in zip(*results))


def gaps(a):
    """The same values, every second float."""
    wide = np.full((*a.shape, 2), np.nan, np.float32)
    wide[..., 0] = a
    return wide[..., 0]


def shifted(a):
    """The same values at an address that four floats at a time cannot be read from."""
    view = np.empty(a.size + 4, np.float32)
    start = 1 if view.ctypes.data % 16 == 0 else 2
    view[start:start + a.size] = a.ravel()
    return view[start:start + a.size].reshape(a.shape)


@pytest.mark.parametrize("case", CASES[::2], ids=name)
def test_views(case):
    with emulated(multiprocessors=1):
        compare(case, shifted)
        compare(case, lambda a: gaps(a) if a.ndim > 1 else a)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_declines_what_it_is_not_made_for(case):
    operation, inputs, options = case
    twin = cuda_twin(operation)
    assert twin(*inputs, **options) is NotImplemented               # NumPy's arrays, that is
    with emulated():
        double = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in inputs]
        assert twin(*double, **copies(options, np.float64)) is NotImplemented
        assert twin(double[0], *inputs[1:], **options) is NotImplemented
        assert twin(inputs[0][:0], *inputs[1:], **options) is NotImplemented
        with mock.patch.object(rows, "LIMIT", inputs[0].size):         # as large as that
            assert twin(*inputs, **options) is NotImplemented


@pytest.mark.parametrize("operation, more", [
    (ops.batch_norm, norms(8)[1:]), (ops.prelu, (draw(8),)), (fusion.pixel_shuffle_prelu, (draw(2),)),
], ids=lambda value: getattr(value, "__name__", ""))
def test_declines_channels_with_gaps(operation, more):
    with emulated():
        assert cuda_twin(operation)(draw(2, 6, 4, 8), *map(gaps, more)) is NotImplemented


@pytest.mark.parametrize("operation, more, kept", [
    (ops.relu, (), "y"), (ops.leaky_relu, (0.2,), "y"), (ops.max_pool2d, (), "xy"), (ops.batch_norm, norms(8)[1:], "x"),
    (fusion.batch_norm_prelu, (*norms(8)[1:], draw(8)), "x"), (fusion.batch_norm_add, (*norms(8)[1:], draw(2, 6, 4, 8)), "x"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_nothing_is_kept_for_the_gradient_but(operation, more, kept):
    with emulated():
        x = draw(2, 6, 4, 8)
        y, rules = cuda_twin(operation)(x, *more)
        alive = {"x": weakref.ref(x), "y": weakref.ref(y)}
        del x, y
        assert "".join(name for name, array in alive.items() if array() is not None) == kept and rules


@pytest.mark.skipif(NO_NVRTC is not None, reason=str(NO_NVRTC))
@pytest.mark.parametrize("file", ["activations", "losses", "rearrange", "normalisation"])
def test_compiles_for_channels_one_by_one(file):
    for width in (1, 4):
        assert cubin(file, 90, compile.options({"WIDTH": width}))
