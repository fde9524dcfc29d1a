"""Every operation as it runs against its reference in double precision: sizes, strides, options, types and memory layouts drawn by
hypothesis.  Longer, by hand:  python -m pytest -m long tests/core/test_properties.py
"""
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from npsrgan import ops
from npsrgan.fast import blocks, fusion, winograd
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor

LIMITS = {np.float32: 2e-4, np.float64: 1e-10}      # of max|difference| / max|expected|: as the twins' own tests have it
sides, widths = st.integers(1, 9), st.integers(1, 20)


def images(draw, channels=None, least=1):
    return draw(st.integers(1, 3)), draw(st.integers(least, 12)), draw(st.integers(least, 12)), channels or draw(widths)


def anything(draw):
    return tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))


def broadcast(draw):
    shape = anything(draw)
    other = tuple(n if draw(st.booleans()) else 1 for n in shape)[draw(st.integers(0, len(shape) - 1)):]
    return [shape, other] if draw(st.booleans()) else [other, shape]


def reduction(draw):
    shape = anything(draw)
    axis = draw(st.sampled_from([None, *range(-len(shape), len(shape)), tuple(range(len(shape)))]))
    return [shape], {"axis": axis, "keepdims": draw(st.booleans())}


def convolution(draw):
    n, h, w, c = images(draw)
    kh, kw, stride = draw(st.sampled_from([(3, 3), (3, 3), (9, 9), (1, 1), (4, 4), (5, 3)])) + (draw(st.sampled_from([1, 1, 2, 3])),)
    padding = None if kh == kw and kh % 2 and draw(st.booleans()) else draw(st.integers(0, 4))
    least = 1 if padding is None else max(1, max(kh, kw) - 2 * padding)
    outputs = draw(widths)
    return [(n, max(h, least), max(w, least), c), (kh, kw, c, outputs), (outputs,)], {"stride": stride, "padding": padding}


def normalisation(draw):
    n, h, w, c = images(draw, least=4)      # of fewer numbers, what is left of the gradient is nearly nothing but rounding
    options = {"training": draw(st.booleans())}
    if draw(st.booleans()) or not options["training"]:
        options |= {"running_mean": np.linspace(-1, 1, c), "running_var": np.linspace(0.5, 2, c)}
    return [(n, h, w, c), (c,), (c,)], options


def pooling(draw):
    size = draw(st.integers(1, 3))
    return [images(draw, least=3)], {"size": size, "stride": draw(st.integers(1, 3))}


def shuffling(draw):
    r = draw(st.integers(1, 3))
    return [images(draw, r * r * draw(sides))], {"r": r}


def slicing(draw):
    shape = anything(draw)
    index = tuple(slice(*sorted((draw(st.integers(0, n - 1)), n)), draw(st.integers(1, 2))) for n in shape)
    return [shape], {"index": index}


def joining(draw):
    shape = anything(draw)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    pieces = [list(shape) for _ in range(draw(st.integers(1, 3)))]
    for piece in pieces:
        piece[axis] = draw(sides)
    return [tuple(piece) for piece in pieces], {"axis": axis}


def linear(draw):
    n, inputs, outputs = draw(sides), draw(widths), draw(widths)
    return [(n, inputs), (inputs, outputs), (outputs,)][:2 + draw(st.booleans())], {}


def with_slope(case):
    def drawn(draw):
        shapes, options = case(draw)
        return shapes, options | {"slope": draw(st.sampled_from([0.2, 0.0, 1.5, -0.5]))}
    return drawn


def and_residual(case):
    """Another input, shaped like the first."""
    return lambda draw: (lambda shapes, options: ([*shapes, shapes[0]], options))(*case(draw))


def following(draw):
    """A convolution that a PReLU follows: with the default padding and a bias."""
    shapes, options = convolution(draw)
    return [*shapes, shapes[2]], {"stride": options["stride"]}


def square_convolution(draw):
    """From as many channels to as many, without a change of size."""
    n, h, w, c = images(draw)
    k = draw(st.sampled_from([1, 3, 5, 9]))
    return [(n, h, w, c), (k, k, c, c), (c,)], {}


def and_per_channel(case, channels):
    """Another input: a number for each channel of the result."""
    def drawn(draw):
        shapes, options = case(draw)
        return [*shapes, (channels(shapes, options),)], options
    return drawn


plain = lambda draw: ([anything(draw)], {})
pair = lambda draw: (broadcast(draw), {})
channels = lambda shapes, options: shapes[0][-1] // options.get("r", 1) ** 2
CASES = {
    "relu": plain, "sigmoid": plain, "softplus": plain, "square": plain, "absolute": plain, "log": plain, "flatten": plain,
    "leaky_relu": with_slope(plain), "scale": lambda draw: ([anything(draw)], {"factor": draw(st.sampled_from([0.0, -1.7, 3.0]))}),
    "add": pair, "subtract": pair, "multiply": pair, "sum": reduction, "mean": reduction,
    "reshape": lambda draw: ([anything(draw)], {"shape": (-1,)}), "slice": slicing, "concatenate": joining,
    "prelu": and_per_channel(lambda draw: ([images(draw)], {}), channels), "batch_norm": normalisation, "conv2d": convolution,
    "linear": linear, "max_pool2d": pooling, "pixel_shuffle": shuffling,
    "conv2d_relu": convolution, "conv2d_leaky_relu": with_slope(convolution),
    "batch_norm_prelu": and_per_channel(normalisation, channels), "batch_norm_leaky_relu": with_slope(normalisation),
    "conv2d_prelu": following, "conv2d_add": and_residual(square_convolution), "batch_norm_add": and_residual(normalisation),
    "pixel_shuffle_prelu": and_per_channel(shuffling, channels)}
FUSED = {name for name, value in vars(fusion).items() if getattr(value, "__module__", None) == fusion.__name__ and hasattr(value, "twins")}


def gaps(array):
    wide = np.full((*array.shape, 2), np.nan, array.dtype)
    wide[..., 0] = array
    return wide[..., 0]


def backwards(array):
    turned = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[turned])[turned]


def protected(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = [np.ascontiguousarray, np.asfortranarray, gaps, backwards, protected]


def run(operation, arrays, options, cotangent):
    """[value without a tape, value with one, gradient of each input, running statistics afterwards]."""
    def copied():
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in options.items()}

    alone, options = operation(*arrays, **copied()).array, copied()
    tensors = [Tensor(array) for array in arrays]
    with Tape() as tape:
        value = operation(*tensors, **options)
        loss = ops.sum(value * cotangent(value.shape))
    return [alone, value.array, *tape.gradient(loss, tensors), *(option for option in options.values() if isinstance(option, np.ndarray))]


def test_every_operation_is_drawn():
    assert FUSED <= CASES.keys() <= set(ops.__all__) | FUSED and len(CASES) >= 23 + len(FUSED)       # a new one need not be


@pytest.mark.parametrize("examples", [20, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", CASES)
def test_an_operation_equals_its_reference(monkeypatch, name, examples):
    operation = getattr(ops, name, None) or getattr(fusion, name)
    monkeypatch.setattr(winograd, "WAKING", 0)
    monkeypatch.setattr(blocks, "SMALL", 1)
    monkeypatch.setattr(blocks, "BLOCK", 300)

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def check(data):
        shapes, options = CASES[name](data.draw)
        dtype, seed = data.draw(st.sampled_from([np.float32, np.float64])), data.draw(st.integers(0, 99))
        layouts = [data.draw(st.sampled_from(LAYOUTS)) for _ in shapes]
        rng = np.random.default_rng([seed, 1])
        values = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]        # the same numbers in both types
        if name == "log":
            values = [np.abs(value) + np.float32(0.1) for value in values]

        def cotangent(dtype):
            return lambda shape: np.random.default_rng([seed, 2]).standard_normal(shape).astype(np.float32).astype(dtype)

        given_options = {key: value.astype(dtype) if isinstance(value, np.ndarray) else value for key, value in options.items()}
        mine = [layout(value.astype(dtype)) for layout, value in zip(layouts, values)]
        found = run(operation, mine, given_options, cotangent(dtype))
        with reference_only():
            expected = run(operation, [value.astype(np.float64) for value in values], options, cotangent(np.float64))
        for index, (array, exact) in enumerate(zip(found, expected, strict=True)):
            assert array.dtype == dtype and array.shape == exact.shape, index
            assert np.abs(array - exact).max(initial=0) <= LIMITS[dtype] * max(np.abs(exact).max(initial=0), 1e-3), index
        for value, array in zip(values, mine):
            assert np.array_equal(value, array)         # nothing was written into

    check()
