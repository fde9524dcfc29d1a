"""Operations against their definitions, written out in loops and formulas; conventions; types of numbers; refusals."""
import math

import numpy as np
import pytest
from comparisons import positive, relative_error, rounding, wave

from npsrgan import ops
from npsrgan.device import to_numpy
from npsrgan.gradcheck import CASES
from npsrgan.ops.arithmetic import unbroadcast
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor


def value_and_gradients(operation, *arrays, **options):
    """The value, and the gradient of the sum of all entries with respect to each array."""
    tensors = [Tensor(array) for array in arrays]
    with Tape() as tape:
        value = operation(*tensors, **options)
        loss = ops.sum(value)
    return value.array, tape.gradient(loss, tensors)


# Every operation there is

def test_every_operation_is_in_the_table_of_gradient_checks():
    assert {case.operation.__name__ for case in CASES} >= set(ops.__all__)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_numbers_keep_their_type(case, dtype, version, xp):
    def convert(value):
        return xp.asarray(value.astype(dtype)) if isinstance(value, np.ndarray) else value

    tensors = [Tensor(convert(np.array(a))) for a in case.inputs]
    options = {name: convert(value) for name, value in case.options.items()}
    with Tape() as tape:
        value = case.operation(*tensors, **options)
        loss = ops.sum(value * convert(wave(*value.shape)))
    assert value.dtype == loss.dtype == dtype
    assert [g.dtype for g in tape.gradient(loss, tensors)] == [dtype] * len(tensors)
    assert all(option.dtype == dtype for option in options.values() if hasattr(option, "dtype"))
    assert isinstance(value.array, xp.ndarray | np.floating)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inputs_and_cotangents_are_not_written_into(case, version):
    arrays = [np.array(a, np.float64) for a in case.inputs]
    for function in (*case.operation.twins, case.operation.reference) if hasattr(case.operation, "twins") else ():
        result = function(*arrays, **case.options)
        if result is NotImplemented:
            continue
        value, rules = result
        dy = wave(*np.shape(value))
        for rule in rules[:len(arrays)]:
            rule(dy)
        assert np.array_equal(dy, wave(*np.shape(value)))
        assert all(np.array_equal(a, original) for a, original in zip(arrays, case.inputs))


# Convolution

def convolution_by_loops(x, w, b, stride, top, left, height, width):
    """y[n, h, k, o] = b[o] + sum over i, j, c of x[n, stride*h + i - top, stride*k + j - left, c] * w[i, j, c, o], x 0 outside."""
    y = np.zeros((len(x), height, width, w.shape[3])) + b
    for n, h, k, i, j in np.ndindex(len(x), height, width, *w.shape[:2]):
        row, column = stride * h + i - top, stride * k + j - left
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            y[n, h, k] += x[n, row, column] @ w[i, j]
    return y


@pytest.mark.parametrize("size, kernel, stride, padding", [
    ((5, 6), (3, 3), 1, None), ((6, 6), (3, 3), 2, None), ((7, 5), (3, 3), 2, None), ((1, 1), (3, 3), 1, None),
    ((5, 4), (9, 9), 1, None), ((4, 5), (1, 1), 1, None), ((6, 7), (3, 3), 1, 0), ((6, 7), (2, 4), 3, 2)])
def test_conv2d_is_its_definition(size, kernel, stride, padding, version, xp):
    x, w, b = wave(2, *size, 3), wave(*kernel, 3, 4, seed=1), wave(4, seed=2)
    top, left = (padding, padding) if padding is not None else (kernel[0] // 2, kernel[1] // 2)
    h, k = ((n + 2 * p - s) // stride + 1 for n, p, s in zip(size, (top, left), kernel))
    y = ops.conv2d(xp.asarray(x), xp.asarray(w), xp.asarray(b), stride, padding).array
    assert relative_error(to_numpy(y), convolution_by_loops(x, w, b, stride, top, left, h, k)) < 1e-13


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_conv2d_keeps_the_size_at_stride_1_and_halves_it_rounded_up_at_stride_2(size, version):
    for kernel in (1, 3, 5, 9):
        x, w = np.ones((1, size, size + 1, 2)), np.ones((kernel, kernel, 2, 3))
        assert ops.conv2d(x, w).shape == (1, size, size + 1, 3)
        assert ops.conv2d(x, w, stride=2).shape == (1, (size + 1) // 2, (size + 2) // 2, 3)


def test_conv2d_at_stride_2_pads_as_paddle_does_and_not_as_tensorflow(version):
    """Paddle's padding [1, 0, 1, 0], a row above and a column left, is ours at even sizes, where the rows below and right are
    never reached.  TensorFlow's SAME pads even sizes below and right: another result, as large, shifted by a pixel."""
    x, w, b = wave(2, 8, 6, 3), wave(3, 3, 3, 4, seed=1), wave(4, seed=2)
    y = ops.conv2d(x, w, b, stride=2).array
    paddle = np.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    tensorflow = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    assert relative_error(ops.conv2d(paddle, w, b, 2, padding=0).array, y) < 1e-14
    assert relative_error(ops.conv2d(tensorflow, w, b, 2, padding=0).array, y) > 0.1


@pytest.mark.parametrize("image, kernel, padding", [((1, 5, 5, 3), (3, 3, 4, 2), None), ((1, 2, 5, 3), (3, 3, 3, 2), 0),
                                                    ((1, 5, 2, 3), (3, 3, 3, 2), 0)])
def test_conv2d_refuses_what_does_not_fit(image, kernel, padding, version):
    with pytest.raises(ValueError, match=r"conv2d: an image of shape .* does not fit a kernel of shape"):
        ops.conv2d(np.ones(image), np.ones(kernel), padding=padding)


# Linear

def test_linear_is_its_definition_and_refuses_what_does_not_fit(version):
    x, w, b = wave(3, 4), wave(4, 2, seed=1), wave(2, seed=2)
    expected = [[sum(x[n, i] * w[i, o] for i in range(4)) + b[o] for o in range(2)] for n in range(3)]
    assert relative_error(ops.linear(x, w, b).array, expected) < 1e-14
    for wrong in (np.ones((3, 5)), np.ones((3, 2, 2))):
        with pytest.raises(ValueError, match="linear: an input of shape .* does not fit weights of shape"):
            ops.linear(wrong, w, b)


# Batch normalisation

def test_batch_norm_in_training_uses_the_batch_and_remembers_it(version, xp):
    x, gamma, beta = 3 + wave(4, 5, 6, 3), positive(3), wave(3)
    mean, var = x.mean((0, 1, 2)), ((x - x.mean((0, 1, 2))) ** 2).mean((0, 1, 2))
    running_mean, running_var = xp.asarray(wave(3, seed=1)), xp.asarray(positive(3, seed=1))
    y = ops.batch_norm(*(xp.asarray(a) for a in (x, gamma, beta)), running_mean, running_var, momentum=0.8, eps=1e-3).array
    assert relative_error(to_numpy(y), gamma * (x - mean) / np.sqrt(var + 1e-3) + beta) < 1e-13
    assert relative_error(to_numpy(running_mean), 0.8 * wave(3, seed=1) + 0.2 * mean) < 1e-13
    unbiased = var * 120 / 119                                          # 4 * 5 * 6 = 120 values to a channel
    assert relative_error(to_numpy(running_var), 0.8 * positive(3, seed=1) + 0.2 * unbiased) < 1e-13


def test_batch_norm_normalises(version):
    y = ops.batch_norm(7 + 5 * wave(8, 4, 4, 3), np.ones(3), np.zeros(3)).array
    assert np.abs(y.mean((0, 1, 2))).max() < 1e-14
    assert np.abs(y.var((0, 1, 2)) - 1).max() < 1e-5


@pytest.mark.parametrize("mean", [0, 30, 1000])
def test_batch_norm_keeps_its_digits_at_a_large_mean(mean):
    """A mean in float32 is off by mean * eps / 2, if it is the nearest number; sums add the rounding of their terms, 24 at most."""
    x = (mean + np.random.default_rng(0).standard_normal((16, 24, 24, 32))).astype(np.float32)
    running = {dtype: [np.zeros(32, dtype), np.ones(32, dtype)] for dtype in (np.float32, np.float64)}
    with reference_only():
        mine, exact = (ops.batch_norm(x.astype(dtype), np.ones(32, dtype), np.zeros(32, dtype), *running[dtype]).array for dtype in running)
    assert mine.dtype == np.float32 and np.abs(mine - exact).max() < mean * np.finfo(np.float32).eps / 2 + rounding(24)
    for mine, exact in zip(running[np.float32], running[np.float64]):
        assert relative_error(mine, exact) < rounding(24)


def test_batch_norm_in_evaluation_uses_constants_and_leaves_them(version):
    x, gamma, beta, running_mean, running_var = wave(2, 3, 3, 4), positive(4), wave(4), wave(4, seed=1), positive(4, seed=1)
    kept = running_mean.copy(), running_var.copy()
    y, (d_x, d_gamma, d_beta) = value_and_gradients(ops.batch_norm, x, gamma, beta, running_mean=running_mean,
                                                    running_var=running_var, training=False)
    x_hat = (x - kept[0]) / np.sqrt(kept[1] + 1e-5)
    assert relative_error(y, gamma * x_hat + beta) < 1e-14
    assert relative_error(d_x, np.zeros_like(x) + gamma / np.sqrt(kept[1] + 1e-5)) < 1e-14
    assert relative_error(d_gamma, x_hat.sum((0, 1, 2))) < 1e-13
    assert d_beta.tolist() == [18] * 4
    assert np.array_equal(running_mean, kept[0]) and np.array_equal(running_var, kept[1])


def test_batch_norm_of_a_single_value_stays_finite(version):
    running_var = np.ones(3)
    y, gradients = value_and_gradients(ops.batch_norm, wave(1, 1, 1, 3), np.ones(3), wave(3), running_mean=np.zeros(3),
                                       running_var=running_var)
    # A twin may add x / sqrt(eps) and -mean / sqrt(eps), each of them rounded.
    assert np.abs(y.ravel() - wave(3)).max() < 2 * np.finfo(np.float64).eps / np.sqrt(1e-5)
    assert all(np.isfinite(g).all() for g in gradients) and np.isfinite(running_var).all()


# Activations

def test_at_zero_the_negative_side_rules(version):
    """Where a kink leaves a choice we take the left derivative, as PyTorch does."""
    zero = np.zeros((2, 3))
    assert value_and_gradients(ops.relu, zero)[1][0].tolist() == [[0] * 3] * 2
    assert value_and_gradients(ops.leaky_relu, zero, slope=0.25)[1][0].tolist() == [[0.25] * 3] * 2
    assert value_and_gradients(ops.prelu, zero, np.array([0.25, 0.5, 2]))[1][0].tolist() == [[0.25, 0.5, 2]] * 2


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.2, 1.0, 1.5])
def test_leaky_relu_at_any_slope(slope, version):
    x = wave(4, 5)
    y, (d_x,) = value_and_gradients(ops.leaky_relu, x, slope=slope)
    assert relative_error(y, np.where(x > 0, x, slope * x)) < 1e-15
    assert relative_error(d_x, np.where(x > 0, 1.0, slope)) < 1e-15


@pytest.mark.parametrize("slope", [[0.25], [1.5], [-0.5], [0.25, 1.5, -0.5]])
def test_prelu_at_any_slope(slope, version):
    x, slope = wave(2, 4, 3), np.array(slope)
    y, (d_x, d_slope) = value_and_gradients(ops.prelu, x, slope)
    assert relative_error(y, np.where(x > 0, x, slope * x)) < 1e-15
    assert relative_error(d_x, np.where(x > 0, 1.0, np.zeros_like(x) + slope)) < 1e-15
    below = np.where(x > 0, 0, x).sum((0, 1))
    assert relative_error(d_slope, below if slope.size == 3 else [below.sum()]) < 1e-14


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softplus_is_right_and_alive_at_any_logit(dtype, version, xp):
    with np.errstate(over="raise", invalid="raise"):
        y, (d_x,) = value_and_gradients(ops.softplus, xp.asarray(np.array([-1000, -20, 0, 20, 1000], dtype)))
    close = {"rtol": 4 * np.finfo(dtype).eps, "atol": 0}
    small = math.exp(-20)
    np.testing.assert_allclose(to_numpy(y), [0, math.log1p(small), math.log(2), 20 + math.log1p(small), 1000], **close)
    np.testing.assert_allclose(to_numpy(d_x), [0, small / (1 + small), 0.5, 1 / (1 + small), 1], **close)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_right_at_any_logit(dtype, version, xp):
    with np.errstate(over="raise", invalid="raise"):
        y, (d_x,) = value_and_gradients(ops.sigmoid, xp.asarray(np.array([-1000, -20, 0, 20, 1000], dtype)))
    close = {"rtol": 4 * np.finfo(dtype).eps, "atol": 0}
    small = math.exp(-20)
    np.testing.assert_allclose(to_numpy(y), [0, small / (1 + small), 0.5, 1 / (1 + small), 1], **close)
    np.testing.assert_allclose(to_numpy(d_x), [0, small / (1 + small) ** 2, 0.25, small / (1 + small) ** 2, 0], **close)


# Pooling

def test_max_pool2d_leaves_out_the_rest_at_odd_sizes(version):
    x = wave(2, 5, 7, 3)
    y, (d_x,) = value_and_gradients(ops.max_pool2d, x)
    expected = np.array([[[[x[n, 2 * h:2 * h + 2, 2 * k:2 * k + 2, c].max() for c in range(3)] for k in range(3)] for h in range(2)]
                         for n in range(2)])
    assert np.array_equal(y, expected)
    assert not d_x[:, 4].any() and not d_x[:, :, 6].any()
    assert np.array_equal(d_x.astype(bool), np.isin(x, expected))


def test_max_pool2d_gives_a_tie_to_the_first_in_reading_order(version):
    x = np.array([[5, 5, 1, 2], [5, 5, 3, 3], [0, 7, 4, 4], [7, 7, 4, 4.0]]).reshape(1, 4, 4, 1)
    _, (d_x,) = value_and_gradients(ops.max_pool2d, x)
    assert d_x[0, :, :, 0].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


# Pixel shuffle

def test_pixel_shuffle_is_its_formula(version, xp):
    r, c, x = 3, 2, wave(2, 3, 4, 18)
    y = to_numpy(ops.pixel_shuffle(xp.asarray(x), r).array)
    assert y.shape == (2, 9, 12, 2)
    for n, h, w, i, j, k in np.ndindex(2, 3, 4, r, r, c):
        assert y[n, r * h + i, r * w + j, k] == x[n, h, w, (i * r + j) * c + k]


def test_pixel_shuffle_is_tensorflows_depth_to_space_and_torchs_with_channels_reordered(version):
    """TensorFlow: output (y, x) takes its C channels from depth (y mod r * r + x mod r) * C on; PyTorch: channel c from depth
    c*r*r + (y mod r) * r + x mod r."""
    r, c, x = 2, 3, wave(1, 4, 5, 12)
    tensorflow, torch = np.empty((1, 8, 10, 3)), np.empty((1, 8, 10, 3))
    for h, w, k in np.ndindex(8, 10, c):
        tensorflow[0, h, w, k] = x[0, h // r, w // r, (h % r * r + w % r) * c + k]
        torch[0, h, w, k] = x[0, h // r, w // r, k * r * r + h % r * r + w % r]
    assert np.array_equal(ops.pixel_shuffle(x, r).array, tensorflow)
    order = [k * r * r + position for position in range(r * r) for k in range(c)]
    assert np.array_equal(ops.pixel_shuffle(x[..., order], r).array, torch)


def test_pixel_shuffle_moves_every_value_and_its_gradient_moves_back(version):
    x = wave(2, 3, 3, 8)
    y, (d_x,) = value_and_gradients(lambda t: ops.pixel_shuffle(t) * 1.0, x)
    assert np.array_equal(np.sort(y.ravel()), np.sort(x.ravel())) and d_x.tolist() == np.ones_like(x).tolist()
    with Tape() as tape:
        t = Tensor(x)
        loss = ops.sum(ops.pixel_shuffle(t) * y)        # each value meets itself
    assert np.array_equal(tape.gradient(loss, t), x)


def test_pixel_shuffle_refuses_channels_that_do_not_split(version):
    with pytest.raises(ValueError, match="pixel_shuffle: 6 channels do not split into blocks of 2 x 2 pixels"):
        ops.pixel_shuffle(np.ones((1, 2, 2, 6)))


# Arithmetic and shapes

def test_broadcasting_backward_sums_over_what_was_repeated(version):
    a, b = wave(2, 3, 4), wave(3, 1, seed=1)
    _, (d_a, d_b) = value_and_gradients(ops.multiply, a, b)
    assert np.array_equal(d_a, np.broadcast_to(b, a.shape))
    assert relative_error(d_b, a.sum((0, 2))[:, None]) < 1e-14
    _, (d_a, d_b) = value_and_gradients(ops.subtract, b, a)
    assert d_a.tolist() == [[8]] * 3 and d_b.tolist() == (-np.ones((2, 3, 4))).tolist()


def test_unbroadcast():
    dy = np.ones((2, 3, 4))
    for shape in [(), (1,), (4,), (3, 1), (1, 4), (2, 1, 4), (1, 3, 1), (2, 3, 4), (1, 1, 1)]:
        dx = unbroadcast(dy, np.empty(shape))
        assert dx.shape == shape and (dx == 24 // max(1, int(np.prod(shape)))).all()
    assert unbroadcast(dy, 2.5).shape == ()


def test_sum_and_mean(version):
    x = wave(2, 3, 4)
    for axis in (None, 0, -1, (0, 2), (0, 1, 2)):
        for keepdims in (False, True):
            y, (d_x,) = value_and_gradients(ops.mean, x, axis=axis, keepdims=keepdims)
            assert relative_error(y, x.mean(axis=axis, keepdims=keepdims)) < 1e-14
            assert relative_error(d_x, np.full_like(x, y.size / x.size)) < 1e-14
            y, (d_x,) = value_and_gradients(ops.sum, x, axis=axis, keepdims=keepdims)
            assert relative_error(y, x.sum(axis=axis, keepdims=keepdims)) < 1e-14
            assert d_x.tolist() == np.ones_like(x).tolist()


def test_scale_takes_a_numpy_number_without_widening(version):
    y, (d_x,) = value_and_gradients(ops.scale, np.ones(3, np.float32), factor=np.float64(0.1))
    assert y.dtype == d_x.dtype == np.float32


def test_slice_and_concatenate_give_each_part_its_own_gradient(version):
    a, b = wave(2, 3), wave(2, 2, seed=1)
    with Tape() as tape:
        ta, tb = Tensor(a), Tensor(b)
        joined = ops.concatenate(ta, tb)
        loss = ops.sum(joined[:, 1:4] * 2.0)
    assert np.array_equal(joined.array, np.concatenate([a, b], 1))
    d_a, d_b = tape.gradient(loss, [ta, tb])
    assert d_a.tolist() == [[0, 2, 2]] * 2 and d_b.tolist() == [[2, 0]] * 2


def test_reshape_and_flatten(version):
    x = wave(2, 3, 4)
    assert ops.reshape(x, (4, 6)).shape == (4, 6) and ops.flatten(x).shape == (2, 12)
    assert np.array_equal(ops.flatten(x).array.ravel(), x.ravel())
    assert value_and_gradients(ops.flatten, x)[1][0].shape == x.shape
