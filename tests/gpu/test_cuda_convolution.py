"""The GPU's convolutions, played on the CPU, against the version one reads; and their launches for the networks' own shapes."""
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import emulate
import numpy as np
import pytest
from emulate import emulated
from test_cuda import NO_NVRTC, cubin, order  # noqa: F401  (a fixture)

from npsrgan import ops
from npsrgan.fast.cuda import compile, convolution, set_precision, tiles

needs_gxx = pytest.mark.skipif(emulate.GXX is None, reason="no g++, with which the emulated kernels are built")
LIMITS = {"float32": 2e-4, "tf32": 2e-3}        # norm of the difference over norm of the result in float64

# image, kernel, stride, padding, multiprocessors: more of them make smaller tiles, and more stretches of a kernel gradient
CASES = [
    ((2, 7, 9, 32), (3, 3, 32, 64), 1, None, 2),        # fewer pixels than two tiles
    ((3, 9, 8, 64), (3, 3, 64, 32), 1, None, 16),
    ((1, 13, 12, 64), (3, 3, 64, 132), 1, None, 1),     # two columns of tiles, the second nearly empty
    ((1, 12, 13, 32), (3, 3, 32, 64), 1, None, 1000),   # the smallest tiles
    ((2, 9, 7, 64), (3, 3, 64, 64), 2, None, 1),        # stride 2: odd sizes,
    ((1, 8, 10, 32), (3, 3, 32, 40), 2, None, 5),       # even ones,
    ((1, 7, 10, 96), (3, 3, 96, 64), 2, None, 1),       # both
    ((2, 13, 12, 3), (9, 9, 3, 64), 1, None, 8),        # three channels: 9x9,
    ((2, 10, 7, 3), (3, 3, 3, 64), 1, None, 1),         # 3x3
    ((2, 11, 13, 64), (9, 9, 64, 3), 1, None, 8),       # three outputs
    ((1, 9, 8, 16), (3, 3, 16, 10), 1, None, 1),
    ((1, 1, 1, 32), (3, 3, 32, 5), 1, None, 1),         # smaller than the kernel, odd outputs
    ((1, 6, 5, 42), (3, 3, 42, 70), 1, None, 1),        # channels and outputs that fit nothing
    ((2, 9, 14, 32), (3, 3, 32, 24), 1, 4, 1),          # other paddings,
    ((2, 9, 14, 24), (3, 3, 24, 16), 1, 0, 1),
    ((1, 9, 12, 32), (9, 9, 32, 2), 1, 2, 1),
    ((2, 5, 7, 2), (2, 4, 2, 3), 3, 2, 1),              # kernels and strides
    ((2, 9, 8, 32), (1, 1, 32, 7), 2, 0, 1),            # from which some pixels get nothing
]
MOST_SHARED = {70: 96 << 10, 80: 163 << 10, 86: 99 << 10, 90: 227 << 10}       # bytes for a block
MODES = [("tf32", 90), ("float32", 90), ("float32", 70)]
# Each builds kernels of its own, which takes a second.
TRIED = {MODES[0]: CASES, MODES[1]: [*CASES[:7:2], CASES[12], CASES[16]], MODES[2]: [CASES[5]]}
# What the networks convolve, at batch 16 and 44 x 44 -> 176 x 176, and their largest at batch 64.
NETWORKS = [((16, 44, 44, 3), (9, 9, 3, 64), 1), ((16, 44, 44, 64), (3, 3, 64, 64), 1), ((64, 88, 88, 64), (3, 3, 64, 256), 1),
            ((64, 176, 176, 64), (9, 9, 64, 3), 1), ((64, 176, 176, 3), (3, 3, 3, 64), 1),
            ((64, 176, 176, 64), (3, 3, 64, 64), 2), ((16, 88, 88, 64), (3, 3, 64, 128), 1),
            ((16, 88, 88, 128), (3, 3, 128, 128), 2), ((16, 22, 22, 512), (3, 3, 512, 512), 2),
            ((64, 176, 176, 64), (3, 3, 64, 64), 1), ((16, 44, 44, 256), (3, 3, 256, 256), 1),
            ((16, 11, 11, 512), (3, 3, 512, 512), 1)]


@pytest.fixture(autouse=True)
def usual_precision():
    yield
    set_precision("tf32")


def draw(image, kernel):
    rng = np.random.default_rng([*image, *kernel])
    return [rng.standard_normal(shape).astype(np.float32) for shape in (image, kernel, kernel[3:])]


def error(mine, exact):
    """NaN, an entry that was not written, is as wrong as can be."""
    assert mine.dtype == np.float32 and mine.shape == exact.shape
    return np.linalg.norm(mine - exact) / np.linalg.norm(exact) if np.isfinite(mine).all() else np.inf


def run(x, w, b, stride, padding, dy):
    value, rules = convolution.conv2d(x, w, b, stride, padding)
    return value, *(rule(dy) for rule in rules)


def compare(case, limit, arrays=None):
    """The largest error of value and gradients, all of which must meet the limit."""
    image, kernel, stride, padding = case[:4]
    x, w, b = arrays or draw(image, kernel)
    exact, rules = ops.conv2d.reference(*(a.astype(np.float64) for a in (x, w, b)), stride, padding)
    dy = np.random.default_rng(1).standard_normal(exact.shape).astype(np.float32)
    mine = run(x, w, b, stride, padding, dy)
    errors = [error(a, e) for a, e in zip(mine, [exact, *(rule(dy.astype(np.float64)) for rule in rules)], strict=True)]
    assert max(errors) <= limit, dict(zip(["value", "d_x", "d_w", "d_b"], errors))
    return max(errors)


@needs_gxx
@pytest.mark.parametrize("precision, capability, case", [(*mode, case) for mode, cases in TRIED.items() for case in cases],
                         ids=lambda value: str(value).replace(" ", ""))
def test_equals_the_reference(precision, capability, case):
    set_precision(precision)
    with emulated(capability, case[4]):
        compare(case, LIMITS[precision])


@needs_gxx
@pytest.mark.parametrize("case", [CASES[5], CASES[9]], ids=str)
@pytest.mark.parametrize("precision", LIMITS)
def test_threads_do_not_race(case, precision, monkeypatch):
    """The same bits whether the threads of a block run in rising or in falling order."""
    set_precision(precision)
    image, kernel, stride, padding, multiprocessors = case
    x, w, b = draw(image, kernel)
    dy = np.cos(np.arange(ops.conv2d.reference(x, w, b, stride, padding)[0].size, dtype=np.float32))
    dy = dy.reshape(ops.conv2d.reference(x, w, b, stride, padding)[0].shape)
    results = []
    for falling in (False, True):
        monkeypatch.setattr(emulate, "falling", falling)
        with emulated(90, multiprocessors):
            results.append(run(x, w, b, stride, padding, dy))
    assert all(np.array_equal(one, two) for one, two in zip(*results))


@needs_gxx
def test_factors_are_rounded_to_the_nearest_tf32():
    """Cut off, as the hardware would, all factors shrink by 2e-4 on average, and sums of positive products by 5e-4."""
    case = CASES[0]
    with emulated(90, 4):
        x, w, b = (np.abs(a) for a in draw(*case[:2]))
        assert error(convolution.conv2d(x, w, b)[0], ops.conv2d.reference(*(a.astype(np.float64) for a in (x, w, b)))[0]) < 5e-5


@needs_gxx
def test_two_stages_where_shared_memory_is_small():
    with emulated(86, 1, shared_memory=99 << 10):
        compare(CASES[2], LIMITS["tf32"])


@needs_gxx
def test_not_a_number_stays_one():
    x, w, b = draw(*CASES[0][:2])
    x[1, 3, 4, 5] = np.uint32(0x7fffffff).view(np.float32)         # the one that GPUs make
    with emulated():
        y, (_, d_w, _) = convolution.conv2d(x, w, b)
        assert np.isnan(y[1, 2:5, 3:6]).all() and np.isnan(y).sum() == 9 * 64
        assert np.isnan(d_w(np.ones_like(y))).any()


@needs_gxx
def test_views_into_a_flat_buffer_and_arrays_with_gaps():
    x, w, b = draw(*CASES[5][:2])
    flat = np.zeros(w.size + b.size + 1, np.float32)
    views = flat[1:1 + w.size].reshape(w.shape), flat[1 + w.size:]       # at no multiple of 16 bytes
    for view, values in zip(views, (w, b)):
        view[...] = values
    wide = np.repeat(x, 2, axis=3)
    with emulated(multiprocessors=5):
        compare(CASES[5], LIMITS["tf32"], (wide[..., ::2], *views))


def test_declines_what_it_is_not_made_for():
    x, w, b = draw(*CASES[0][:2])
    assert convolution.conv2d(x, w, b) is NotImplemented        # NumPy's arrays, that is
    with emulated():
        double = [a.astype(np.float64) for a in (x, w, b)]
        for arrays in [double, (x, double[1], b), (x[..., :16], w, b), (x[:0], w, b)]:
            assert convolution.conv2d(*arrays) is NotImplemented
        assert convolution.conv2d(x[:, :1], w, b, padding=0) is NotImplemented
        with mock.patch.object(convolution, "LIMIT", x.size - 1):
            assert convolution.conv2d(x, w, b) is NotImplemented
        for odd in (b[:1], np.repeat(b, 2)[::2]):
            assert convolution.conv2d(x, w, odd) is NotImplemented
        assert convolution.conv2d(x, w, b, stride=256) is NotImplemented        # more phases than a grid has rows
        assert convolution.conv2d_leaky_relu(x, w, b, -0.1) is NotImplemented
        few = draw(*CASES[10][:2])
        with mock.patch.object(convolution, "LIMIT", 9 * 10 * 3 * 10 - 1):      # its planes are the largest array
            assert convolution.conv2d(*few) is NotImplemented


# The networks' own shapes: nothing computed, but every launch looked at

def launches(precision, capability):
    """{(file, function, shared memory, macros)} of what the networks may launch on a GPU with 132 multiprocessors, in every tile.

    The arrays are never touched, so they take no memory.
    """
    seen = set()

    def kernel(name, function, shared=0, **defines):
        def launch(grid, block, args):
            assert all(0 < size < 2**31 for size in grid[:1]) and all(0 < size < 65536 for size in grid[1:])
            assert np.prod(block) <= 1024 and all(isinstance(a, (np.ndarray, np.int32, np.float32, np.intp)) for a in args)
        seen.add((name, function, shared, tuple(defines.items())))
        return launch

    set_precision(precision)
    def empty(shape, like):
        return np.empty(shape, np.float32)

    with emulated(capability, 132, MOST_SHARED[capability]), mock.patch.multiple(compile, kernel=kernel, empty=empty):
        for image, kernel_shape, stride in NETWORKS:
            x, w, b = (np.empty(shape, np.float32) for shape in (image, kernel_shape, kernel_shape[3:]))
            for number in range(5):
                def take(*args, number=number, **kwargs):
                    found = tiles.candidates(*args, **kwargs)
                    return found[min(number, len(found) - 1)]
                with mock.patch.object(tiles, "choose", take):
                    value, rules = convolution.conv2d(x, w, b, stride)
                    for rule in rules:
                        rule(value)
    return seen


@pytest.mark.parametrize("precision, capability", [*MODES, ("tf32", 86)])
def test_launches_for_the_networks(precision, capability):
    seen = launches(precision, capability)
    for name, _, shared, defines in seen:
        defines = dict(defines)
        if "BM" in defines:         # so many blocks fit onto a multiprocessor, which keeps 1 KB for each
            static = 16 * defines["BM"] if name == "convolution" else 32 * defines["BK"]
            assert defines["BLOCKS"] * (shared + static + 1024) <= MOST_SHARED[capability] + 1024
            assert shared <= 48 << 10 or capability > 70
            assert shared + static <= 48 << 10 or shared > 48 << 10         # else compile.kernel must ask for it
    assert {name for name, *_ in seen} == {"convolution", "kernel_gradient", "kn2row", "sums"}


@pytest.mark.skipif(NO_NVRTC is not None, reason=str(NO_NVRTC))
@pytest.mark.parametrize("precision, architecture", [("float32", 70), ("tf32", 80), ("tf32", 90)])
def test_all_that_the_networks_launch_compiles(precision, architecture):
    with ThreadPoolExecutor(2) as pool:
        for code in pool.map(lambda launch: cubin(launch[0], architecture, compile.options(dict(launch[3]))),
                             launches(precision, architecture)):
            assert code[:4] == b"\x7fELF"
