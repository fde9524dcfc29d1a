"""Every fast twin against the version one reads, on every shape the networks use (smaller images)."""
import copy
import threading
import time
import weakref

import numpy as np
import pytest
from comparisons import double, rounding
from threadpoolctl import threadpool_info, threadpool_limits

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.fast import blocks, fusion, get_threads, im2col, set_threads, winograd
from npsrgan.fast.threads import parallel, per_thread, scratch, shares
from npsrgan.layers import Conv2d
from npsrgan.models import SRResNet
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor

# image (N, H, W, C), kernel (kh, kw, C, O), stride, padding
CONVOLUTIONS = [
    ((2, 12, 12, 3), (9, 9, 3, 64), 1, None),           # SRResNet: head,
    ((2, 44, 44, 64), (3, 3, 64, 64), 1, None),         # body,
    ((1, 22, 22, 64), (3, 3, 64, 256), 1, None),        # upsampling,
    ((2, 30, 30, 64), (9, 9, 64, 3), 1, None),          # tail
    ((2, 16, 16, 3), (3, 3, 3, 64), 1, None),           # discriminator: first layer,
    ((3, 24, 24, 64), (3, 3, 64, 64), 2, None),         # its halving layers, at even
    ((1, 11, 11, 128), (3, 3, 128, 128), 2, None),      # and odd sizes,
    ((2, 22, 22, 64), (3, 3, 64, 128), 1, None),        # and those between; VGG19 has such too,
    ((3, 11, 11, 128), (3, 3, 128, 160), 1, None),      # down to few pixels
    ((4, 5, 3, 16), (3, 3, 16, 16), 1, None),           # smaller than two tiles
    ((1, 1, 1, 16), (3, 3, 16, 20), 1, None),
    ((2, 9, 14, 16), (3, 3, 16, 24), 1, 0),             # other paddings
    ((2, 9, 14, 24), (3, 3, 24, 16), 1, 2),
    ((2, 9, 14, 16), (3, 3, 16, 16), 1, 4),
    ((2, 13, 10, 24), (9, 9, 24, 3), 1, 2),
    ((2, 12, 9, 16), (5, 3, 16, 2), 1, None),           # other kernels and strides
    ((2, 12, 9, 3), (5, 3, 3, 16), 1, 0),
    ((2, 10, 7, 4), (5, 3, 4, 2), 1, None),
    ((2, 3, 2, 20), (9, 9, 20, 2), 1, None),            # an image smaller than its kernel
    ((2, 10, 7, 4), (4, 4, 4, 2), 2, 1),
    ((2, 10, 7, 4), (2, 2, 4, 2), 3, 0),
    ((2, 10, 7, 4), (1, 1, 4, 2), 2, 0),
]
rng = np.random.default_rng(0)
IMAGE = rng.standard_normal((3, 20, 24, 16)) * 3 + 1
VECTOR = rng.standard_normal((2, 16))
OPERATIONS = [
    (ops.relu, (IMAGE,)),
    (ops.leaky_relu, (IMAGE, 0.2)), (ops.leaky_relu, (IMAGE, 1.5)), (ops.leaky_relu, (IMAGE, -0.5)),
    (ops.prelu, (IMAGE, VECTOR[0])), (ops.prelu, (IMAGE, VECTOR[0] + 1)), (ops.prelu, (IMAGE, np.array([0.25]))),
    (ops.batch_norm, (IMAGE, *VECTOR)),
    (ops.batch_norm, (IMAGE + 100, *VECTOR)),           # a mean much larger than the deviation
    (ops.batch_norm, (IMAGE, *VECTOR, VECTOR[0] + 1, VECTOR[1] ** 2 + 1)),
    (ops.batch_norm, (IMAGE, *VECTOR, VECTOR[0] + 1, VECTOR[1] ** 2 + 1, False)),
    (ops.add, (IMAGE, IMAGE[::-1])),
    (ops.max_pool2d, (IMAGE,)), (ops.max_pool2d, (IMAGE[:, :19, :23],)), (ops.max_pool2d, (np.round(IMAGE),)),     # ties
    (ops.max_pool2d, (IMAGE, 3, 3)),
    (ops.pixel_shuffle, (IMAGE,)), (ops.pixel_shuffle, (IMAGE[..., :9], 3)),
    (ops.linear, (rng.standard_normal((4, 600)), rng.standard_normal((600, 50)), rng.standard_normal(50))),
    (ops.linear, (rng.standard_normal((3, 600)), rng.standard_normal((600, 50)))),
]


def convolution(image, kernel, stride, padding):
    draw = np.random.default_rng([*image, *kernel])
    return *(draw.standard_normal(shape) for shape in (image, kernel, kernel[3:])), stride, padding


TERMS = 2304        # of the longest sums: 3x3 taps of 256 channels
LOST = 10           # a digit goes to Winograd's transforms, whose intermediate values are larger than their results

CASES = OPERATIONS + [(ops.conv2d, convolution(*case)) for case in CONVOLUTIONS]
NAMES = [f"{operation.__name__}-{index}" for index, (operation, _) in enumerate(CASES)]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    """Small arrays are left to the references; here they are not.  Small blocks, so that there are several."""
    monkeypatch.setattr(winograd, "WAKING", 0)
    monkeypatch.setattr(blocks, "SMALL", 1)
    monkeypatch.setattr(blocks, "BLOCK", 3000)
    yield
    set_threads(None)


def run_twin(operation, *args):
    """(value, rules) of the twin that takes these arguments."""
    for twin in operation.twins:
        result = twin(*args)
        if result is not NotImplemented:
            return result
    pytest.fail(f"no twin of {operation.__name__} takes these arguments")


def cast(args, dtype):
    """Copies of the arrays (some operations write into them) in the given type."""
    return [a.astype(dtype) if isinstance(a, np.ndarray) else a for a in args]


def assert_equal(actual, expected, dtype, what):
    assert actual.dtype == dtype and actual.shape == expected.shape, what
    scale = expected.std() if expected.size > 1 else np.abs(expected).max()
    assert np.abs(actual - expected).max() <= LOST * rounding(TERMS, dtype) * scale, what


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("operation, args", CASES, ids=NAMES)
def test_twin_equals_reference(operation, args, dtype, threads):
    set_threads(threads)
    exact, mine = cast(args, dtype), cast(args, dtype)
    exact = cast(exact, np.float64)         # the reference in double precision, on the values the twin sees
    expected, expected_rules = operation.reference(*exact)
    value, rules = run_twin(operation, *mine)
    assert_equal(value, expected, dtype, "value")
    dy = np.random.default_rng(1).standard_normal(expected.shape).astype(dtype)
    for index, (rule, expected_rule) in enumerate(zip(rules, expected_rules, strict=True)):
        assert_equal(rule(dy), expected_rule(dy.astype(np.float64)), dtype, f"gradient {index}")
    for before, after in zip(exact, mine):      # running statistics are updated alike, all else is left alone
        if isinstance(before, np.ndarray):
            np.testing.assert_allclose(before, after, rtol=rounding(1440, dtype))


STATISTICS = VECTOR[0] + 1, VECTOR[1] ** 2 + 1       # running mean and variance
FUSED = [
    (fusion.batch_norm_prelu, (np.linspace(-0.5, 1, 16),)),
    (fusion.batch_norm_leaky_relu, (0.2,)),
    (fusion.batch_norm_add, (IMAGE[::-1],)),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [(), (*STATISTICS, True), (*STATISTICS, False)], ids=["bare", "training", "evaluation"])
@pytest.mark.parametrize("operation, more", FUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_fused_twin_equals_its_operations_in_turn(operation, more, options, threads):
    """In double precision: in float32 rounding may take an activation's input across its kink."""
    set_threads(threads)
    cotangent = np.random.default_rng(1).standard_normal(IMAGE.shape)

    def run():
        inputs = [Tensor(a) if isinstance(a, np.ndarray) else a for a in (IMAGE + 100, *VECTOR, *more)]
        kept = cast(options, np.float64)
        with Tape() as tape:
            value = operation(*inputs, *kept)
            loss = ops.sum(value * cotangent)
            name = tape._records[0].name
        gradients = tape.gradient(loss, [a for a in inputs if isinstance(a, Tensor)])
        return [name, value.array, *gradients, *kept[:2]]

    name, *fast = run()
    with reference_only():
        _, *expected = run()
    assert name == operation.__name__       # the twin took it
    for index, (mine, theirs) in enumerate(zip(fast, expected, strict=True)):
        assert_equal(mine, theirs, np.float64, index)


def test_fused_twins_leave_slopes_above_one_to_others():
    slope = np.linspace(0, 1.1, 16)
    assert all(twin(IMAGE, *VECTOR, slope) is NotImplemented for twin in fusion.batch_norm_prelu.twins)
    assert all(twin(IMAGE, *VECTOR, 1.1) is NotImplemented for twin in fusion.batch_norm_leaky_relu.twins)


@pytest.mark.parametrize("limit", [0, 1 << 40])
@pytest.mark.parametrize("case", [case for case in CONVOLUTIONS if case[1][:2] == (3, 3) and case[2] == 1 and case[0][3] >= 16], ids=str)
def test_both_orders_of_winograd(case, limit, monkeypatch):
    monkeypatch.setattr(winograd, "LARGE_KERNEL", limit)
    test_twin_equals_reference(ops.conv2d, convolution(*case), np.float64, 2)


def test_small_pieces_of_convolutions(monkeypatch):
    monkeypatch.setattr(im2col, "CACHE", 5000)
    monkeypatch.setattr(im2col, "FEWEST_PIXELS", 1)
    monkeypatch.setattr(winograd, "_tiles_in_a_piece", lambda c, o: 2)
    monkeypatch.setattr(winograd, "TILES", 2)
    for case in CONVOLUTIONS:
        test_twin_equals_reference(ops.conv2d, convolution(*case), np.float64, 2)


@pytest.mark.parametrize("operation, args", CASES, ids=NAMES)
def test_strided_inputs(operation, args):
    """Views with gaps between their entries, and gradients too."""
    def gaps(a):
        wide = np.full((*a.shape, 2), np.nan)
        wide[..., 0] = a
        return wide[..., 0]
    strided = [gaps(a) if isinstance(a, np.ndarray) else a for a in args]
    expected, expected_rules = operation.reference(*cast(args, np.float64))
    value, rules = run_twin(operation, *strided)
    assert_equal(value, expected, np.float64, "value")
    dy = np.random.default_rng(1).standard_normal(expected.shape)
    for rule, expected_rule in list(zip(rules, expected_rules))[:2]:
        assert_equal(rule(gaps(dy)), expected_rule(dy), np.float64, "gradient")


@pytest.mark.parametrize("operation, args", CASES, ids=NAMES)
def test_the_same_bits_every_time(operation, args):
    set_threads(2)
    dy = np.random.default_rng(1).standard_normal(operation.reference(*cast(args, np.float32))[0].shape).astype(np.float32)
    runs = []
    for _ in range(4):
        value, rules = run_twin(operation, *cast(args, np.float32))
        runs.append([value] + [rule(dy) for rule in rules[:2]])
    assert all(np.array_equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


def test_nothing_goes_stale():
    """A kernel changed in place is a new kernel; another dy in the same place is another dy."""
    x, w, b, *_ = convolution(*CONVOLUTIONS[1])
    for _ in range(2):
        value, rules = run_twin(ops.conv2d, x, w, b)
        expected, expected_rules = ops.conv2d.reference(x, w, b)
        assert_equal(value, expected, np.float64, "value")
        assert_equal(rules[0](value), expected_rules[0](value), np.float64, "d_x")
        w *= -0.5
    calls = []
    remember = blocks.shared(lambda dy: calls.append(dy.copy()) or float(dy.sum()))
    for k in range(5):
        dy = np.full(3, k)      # likely to lie where the last one lay
        assert remember(dy) == remember(dy) == 3 * k
        del dy
    assert len(calls) == 5
    one, two = np.ones(3), np.zeros(3)
    assert (remember(one), remember(two), remember(one)) == (3, 0, 3)
    gone = weakref.ref(one)
    del one
    assert gone() is None       # and no gradient is kept alive


class Stranger(np.ndarray):
    """An array that is not quite NumPy's."""


@pytest.mark.parametrize("operation, args", CASES, ids=NAMES)
def test_declines_what_it_is_not_made_for(operation, args):
    for strange in (cast(args, np.float16), cast(args, np.int64), [args[0].view(Stranger), *args[1:]],
                    [args[0].astype(np.float32), *[a if isinstance(a, np.ndarray) else a for a in args[1:]]]):
        arrays = [a for a in strange if isinstance(a, np.ndarray)]
        if arrays[0].dtype != np.float32 or len({a.dtype for a in arrays}) > 1:
            assert all(twin(*strange) is NotImplemented for twin in operation.twins)


def test_shapes_that_do_not_fit_are_explained_by_the_reference():
    with pytest.raises(ValueError, match="does not fit"):
        ops.conv2d(np.ones((1, 8, 8, 16)), np.ones((3, 3, 17, 16)))
    with pytest.raises(ValueError, match="does not fit"):
        ops.linear(np.ones((2, 3)), np.ones((4, 5)))
    with pytest.raises(ValueError, match="do not split"):
        ops.pixel_shuffle(np.ones((1, 8, 8, 15)))


def test_a_network_with_and_without_twins():
    """In double precision: in float32 rounding may take a PReLU's input across its kink."""
    lr, hr = rng.standard_normal((2, 9, 11, 3)), rng.standard_normal((2, 36, 44, 3))

    def gradients():
        network = SRResNet(channels=16, blocks=1, seed=1).to(double)
        with Tape() as tape:
            loss = losses.mean_squared_error(network(lr), hr)
        return np.concatenate([g.ravel() for g in tape.gradient(loss, network.parameters())])

    fast = gradients()
    with reference_only():
        expected = gradients()
    limit = LOST * rounding(fast.size, np.float64)
    assert np.linalg.norm(fast - expected) < limit * np.linalg.norm(expected) and not np.array_equal(fast, expected)


# Work shared by gradient rules

def test_shared_work_is_done_once_for_each_gradient():
    asked = []

    @blocks.shared
    def double(dy):
        asked.append(dy.sum())
        return 2 * dy
    a, b = np.ones(3), np.full(3, 5.0)
    assert double(a) is double(a) and asked == [3]
    assert double(b)[0] == 10 and double(a)[0] == 2 and asked == [3, 15, 3]         # only the last one is remembered


def test_shared_work_is_forgotten_with_its_gradient():
    """The next gradient may be made where the last one was; and the work itself, which may be large, does not outlive it."""
    compute = blocks.shared(lambda dy: dy + 1)
    for value in range(20):
        dy = np.full(1000, float(value))
        result = compute(dy)
        assert (result == value + 1).all()
        remembered = weakref.ref(result)
        del result
        assert remembered() is not None
        del dy
        assert remembered() is None


# The pool of threads

def test_parallel_keeps_the_order_and_uses_the_threads():
    set_threads(3)
    meet = threading.Barrier(3, timeout=10)     # passes only if three jobs run at once

    def work(job):
        if job < 3:
            meet.wait()
        time.sleep(0.01 * (job % 3 == 0))
        return job * job, threading.get_ident()
    squares, threads = zip(*parallel(work, range(20)))
    assert squares == tuple(i * i for i in range(20)) and len(set(threads)) == 3
    assert parallel(work, []) == []


def test_parallel_inside_parallel_stays_in_its_thread():
    set_threads(2)
    results = parallel(lambda i: (threading.get_ident(), parallel(lambda j: (i, j, threading.get_ident()), range(3))), range(4))
    for i, (thread, inner) in enumerate(results):
        assert inner == [(i, j, thread) for j in range(3)]


def test_an_error_in_a_job_is_raised_by_the_caller_and_leaves_the_pool_usable():
    set_threads(2)

    def work(job):
        if job >= 5:
            raise KeyError(job)
    with pytest.raises(KeyError, match="5"):
        parallel(work, range(50))
    assert parallel(lambda job: -job, range(3)) == [0, -1, -2]


@pytest.fixture
def two_blas_threads():
    """BLAS set to two threads, by a thread that is gone: while one lives, threadpoolctl may let no other change the number."""
    def set_from_another_thread(number):
        setter = threading.Thread(target=lambda: threadpool_limits(number, user_api="blas"))
        setter.start()
        setter.join()
    before = max(blas_threads())
    set_from_another_thread(2)
    yield
    set_from_another_thread(before)


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_blas_has_one_thread_inside_and_its_old_setting_after(two_blas_threads):
    assert parallel(lambda _: blas_threads(), range(2)) == [{1}, {1}] and blas_threads() == {2}
    with pytest.raises(ZeroDivisionError):
        parallel(lambda _: 1 / 0, range(2))
    assert blas_threads() == {2}


@pytest.mark.parametrize("last", ["caller", "other"])
def test_the_last_busy_pool_gives_blas_back(two_blas_threads, last):
    entered, leave = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: parallel(lambda _: entered.set() or leave.wait(10), range(1)))
    other.start()
    assert entered.wait(10) and blas_threads() == {1}
    if last == "caller":
        parallel(lambda _: leave.set() or other.join(), range(1))
    else:
        parallel(lambda _: None, range(1))
        assert blas_threads() == {1}        # the other is still busy
        leave.set()
        other.join()
    assert blas_threads() == {2}


def test_several_python_threads_at_once(two_blas_threads):
    arguments = [cast(convolution(*case), np.float32)[:2] for case in CONVOLUTIONS[:4]]
    expected = [run_twin(ops.conv2d, *args)[0] for args in arguments]
    wrong = []

    def compute(index):
        for _ in range(5):
            if not np.array_equal(run_twin(ops.conv2d, *arguments[index])[0], expected[index]):
                wrong.append(index)
    users = [threading.Thread(target=compute, args=(index,)) for index in range(4)]
    [user.start() for user in users]
    [user.join() for user in users]
    assert not wrong and blas_threads() == {2}


def test_the_number_of_threads():
    assert get_threads() >= 1
    set_threads(3)
    assert get_threads() == 3 and shares(10) == [(0, 4), (4, 7), (7, 10)] and shares(2) == [(0, 1), (1, 2)]
    for n in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            set_threads(n)
    assert get_threads() == 3


def test_scratch_memory_belongs_to_a_thread_and_a_role():
    a, b = scratch("a", (4, 5), np.float32), scratch("b", (4, 5), np.float32)
    assert a.shape == (4, 5) and a.dtype == np.float32
    assert np.shares_memory(a, scratch("a", (10,), np.float64)) and not np.shares_memory(a, b)
    other = []
    thread = threading.Thread(target=lambda: other.append(scratch("a", (4, 5), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(a, other[0])


def test_what_a_thread_remembers_is_its_own_and_bounded():
    made = []
    build = per_thread(lambda *key: made.append(key) or [key])
    assert build(1, 2) is build(1, 2) and build(2, 1) == [(2, 1)] and len(made) == 2
    other = []
    thread = threading.Thread(target=lambda: other.append(build(1, 2)))
    thread.start()
    thread.join()
    assert other[0] is not build(1, 2)
    ones = per_thread(np.ones)
    values = [weakref.ref(ones(size)) for size in range(1, 1000)]
    assert 1 <= sum(value() is not None for value in values) <= 100


# Frozen weights

def test_a_frozen_kernel_is_transformed_once(monkeypatch):
    x, w, b, *_ = convolution((2, 9, 10, 16), (3, 3, 16, 24), 1, None)
    expected, expected_rules = ops.conv2d.reference(x, w, b)
    w.flags.writeable = False
    for limit in (0, 1 << 40):              # with the data gradient from the same transformed kernel, and from its own
        monkeypatch.setattr(winograd, "LARGE_KERNEL", limit)
        for _ in range(2):
            value, rules = run_twin(ops.conv2d, x, w, b)
            assert_equal(value, expected, np.float64, "value")
            assert_equal(rules[0](expected), expected_rules[0](expected), np.float64, "d_x")
            assert_equal(rules[1](expected), expected_rules[1](expected), np.float64, "d_w")
    kept = weakref.ref(winograd._kernel(w))
    assert kept() is winograd._kernel(w)
    del w, rules, expected_rules
    assert kept() is None                   # it does not outlive its array


def test_frozen_means_that_nothing_can_write():
    array = np.ones((3, 3, 16, 16))
    view = array[:]
    view.flags.writeable = False
    assert not winograd.is_frozen(array) and not winograd.is_frozen(view)       # `array` can still be written
    array.flags.writeable = False
    assert winograd.is_frozen(array) and winograd.is_frozen(view) and winograd.is_frozen(view[::-1])
    assert not winograd.is_frozen(np.frombuffer(bytearray(8)))


def test_a_changed_weight_of_a_frozen_network_is_never_overlooked():
    """Writing fails; every way to change the weights makes new arrays, and convolutions compute with those."""
    network, x = Conv2d(16, 16, 3), rng.standard_normal((1, 8, 8, 16))
    network.to(double).weight.array[...] = rng.standard_normal((3, 3, 16, 16))
    before = network.freeze()(x).array
    for write in (lambda: network.weight.array.fill(0), lambda: network.flat.fill(0), lambda: network.weight.array[0].fill(0),
                  lambda: network.load_state_dict(Conv2d(16, 16, 3).state_dict()), lambda: Adam(network).step([np.ones(2320)])):
        with pytest.raises(ValueError, match="read-only"):
            write()
    assert np.array_equal(network(x).array, before)
    for change in (Conv2d.pack, lambda network: network.to(np.copy), copy.deepcopy):
        network = change(network)
        network.weight.array *= 2
        with reference_only():
            expected = network(x).array
        assert_equal(network(x).array, expected, np.float64, "after a change")
        network.freeze()
        assert_equal(network(x).array, expected, np.float64, "frozen again")
