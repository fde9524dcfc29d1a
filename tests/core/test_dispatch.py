"""Would it run on CuPy?  Every operation, every rule and a whole training step on a stand-in for CuPy's arrays.

The stand-in speaks NumPy's two protocols as CuPy does, and is as strict: no silent way back to NumPy, no mixing with NumPy's
arrays, no function or argument that CuPy has not got (asked of the module itself where it is installed; it needs no GPU).
"""
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from comparisons import wave
from numpy.lib.mixins import NDArrayOperatorsMixin

from npsrgan import ops, storage
from npsrgan.device import CPU, Device
from npsrgan.fast import blocks
from npsrgan.fast.cuda import compile
from npsrgan.gradcheck import CASES
from npsrgan.layers import Layer
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor
from npsrgan.train import checkpoint
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer

try:
    import cupy
except ImportError:
    cupy = None

UPLOADS = ("asarray", "array")          # the functions that take NumPy's arrays: the way to the GPU


class StandIn(NDArrayOperatorsMixin):
    """An array that CuPy could hold.  What it has, `cupy.ndarray` has."""

    def __init__(self, values):
        self._values = np.asarray(values)

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    T = property(lambda self: StandIn(self._values.T))

    def get(self):
        """A copy in main memory: the only way back."""
        return self._values.copy()

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion to a NumPy array")

    def __float__(self):
        return float(self._values)

    def __bool__(self):
        return bool(self._values)

    def __len__(self):
        return len(self._values)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        known(ufunc.__name__)
        if method != "__call__" or kwargs:
            raise TypeError(f"{ufunc.__name__}: CuPy has no {method}, or not with {kwargs}")
        return wrapped(ufunc(*map(bare, inputs), **({"out": tuple(map(bare, out))} if out else {})))

    def __array_function__(self, function, types, args, kwargs):
        known(function.__name__, args, kwargs)
        if function.__name__.endswith("_like") and kwargs.get("shape") == ():
            kwargs = kwargs | {"shape": None}       # CuPy asks `if shape`
        if function.__name__ in UPLOADS:
            return StandIn(function(*args, **kwargs))
        return wrapped(function(*map(bare, args), **{name: bare(value) for name, value in kwargs.items()}))

    def __getitem__(self, index):
        return StandIn(self._values[bare(index)])

    def __setitem__(self, index, value):
        self._values[bare(index)] = bare(value)

    def sum(self, axis=None, keepdims=False):
        return StandIn(self._values.sum(axis=axis, keepdims=keepdims))

    def mean(self, axis=None, keepdims=False):
        return StandIn(self._values.mean(axis=axis, keepdims=keepdims))

    def var(self, axis=None, keepdims=False):
        return StandIn(self._values.var(axis=axis, keepdims=keepdims))

    def max(self, axis=None, keepdims=False):
        return StandIn(self._values.max(axis=axis, keepdims=keepdims))

    def argmax(self, axis=None, keepdims=False):
        return StandIn(self._values.argmax(axis=axis, keepdims=keepdims))

    def all(self, axis=None):
        return StandIn(self._values.all(axis=axis))

    def reshape(self, *shape):
        return StandIn(self._values.reshape(*shape))

    def transpose(self, *axes):
        return StandIn(self._values.transpose(*axes))

    def ravel(self):
        return StandIn(self._values.ravel())

    def copy(self):
        return StandIn(self._values.copy())

    def astype(self, dtype):
        return StandIn(self._values.astype(dtype))


def known(name, args=(), kwargs=None):
    """Refuse a function that CuPy has not got, or that does not take these arguments there."""
    if cupy is None:
        return
    if not hasattr(cupy, name):
        raise TypeError(f"CuPy has no function {name}")
    if kwargs is not None and not isinstance(getattr(cupy, name), cupy.ufunc):
        inspect.signature(getattr(cupy, name)).bind(*args, **kwargs)


def bare(value):
    """What is inside: of a stand-in, or of each in a list or tuple.  NumPy's own arrays are refused, as CuPy refuses them."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(bare, value))
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array among CuPy's")
    return value._values if isinstance(value, StandIn) else value


def wrapped(value):
    return StandIn(value) if isinstance(value, (np.ndarray, np.generic)) else value


def upload(values):
    """A copy of an array as a stand-in; anything else as it is."""
    return StandIn(values.copy()) if isinstance(values, np.ndarray) else values


GPU = Device(SimpleNamespace(array=lambda values: StandIn(np.array(values))), "a stand-in for a GPU")


# The stand-in is strict

def test_the_stand_in_refuses_what_cupy_refuses():
    a = StandIn(np.ones(3))
    for forbidden in [lambda: np.asarray(a), lambda: np.array([a]), lambda: a + np.ones(3), lambda: np.ones(3) * a,
                      lambda: np.concatenate([a, np.ones(3)]), lambda: a.__setitem__(0, np.ones(())), lambda: a[np.array([0])],
                      lambda: np.add.reduce(a), lambda: np.testing.assert_array_equal(a, a),
                      lambda: np.lib.stride_tricks.as_strided(a, (2, 2), (8, 8))]:
        with pytest.raises((TypeError, ValueError, AttributeError)):
            forbidden()
    assert isinstance(np.asarray(np.ones(3), like=a), StandIn)
    assert np.empty_like(a, shape=()).shape == (3,) and np.empty_like(a, shape=(2,)).shape == (2,)
    assert isinstance(a + 1.0, StandIn) and isinstance(np.float64(2) * a, StandIn) and float(a.sum()) == 3


@pytest.mark.skipif(cupy is None, reason="CuPy is not installed: only NumPy's half of the stand-in's strictness is tested")
def test_the_stand_in_refuses_what_cupy_has_not_got():
    a = StandIn(np.ones(3))
    for forbidden in [lambda: np.full(3, 1.0, like=a), lambda: np.block([a, a]), lambda: np.spacing(a),
                      lambda: np.insert(a, 0, 1.0), lambda: np.pad(a, 1, "constant", 0)]:
        with pytest.raises(TypeError):
            forbidden()
    offered = [name for name in vars(StandIn) if not name.startswith("_")]
    assert all(hasattr(cupy.ndarray, name) for name in offered)


def test_new_arrays_for_the_twins():
    for shape in ((), (3,), (2, 0), (2, 1, 3)):
        for dtype in (np.float32, np.float64):
            for like in (upload(np.ones((4, 5), dtype)), upload(np.ones((), dtype)).T, upload(np.asfortranarray(np.ones((2, 3), dtype)))):
                mine = compile.empty(shape, like)
                assert isinstance(mine, StandIn) and mine.shape == shape and mine.dtype == dtype


# Operations

@pytest.fixture(autouse=True)
def willing_twins(monkeypatch):
    """No twin declines because an array is small."""
    monkeypatch.setattr(blocks, "SMALL", 0)


def run(case, convert):
    tensors = [Tensor(convert(array)) for array in case.inputs]
    options = {name: convert(value) for name, value in case.options.items()}
    with Tape() as tape:
        value = case.operation(*tensors, **options)
        loss = ops.sum(value * convert(wave(*value.shape)))
    return [value.array, loss.array, *tape.gradient(loss, tensors), *(o for o in options.values() if hasattr(o, "shape"))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_operation_and_every_rule(case):
    with reference_only():
        expected = run(case, lambda a: a.copy() if isinstance(a, np.ndarray) else a)
    for mine, theirs in zip(run(case, upload), expected, strict=True):
        assert isinstance(mine, StandIn) and mine.dtype == theirs.dtype
        assert np.array_equal(mine.get(), theirs)


@pytest.mark.parametrize("case", [case for case in CASES if getattr(case.operation, "twins", ())], ids=lambda case: case.name)
def test_every_fast_twin_declines_other_arrays(case):
    for twin in case.operation.twins:
        options = {name: upload(value) for name, value in case.options.items()}
        assert twin(*map(upload, case.inputs), **options) is NotImplemented
        if len(case.inputs) > 1:            # one of NumPy's among them is no better
            mixed = [case.inputs[0], *map(upload, case.inputs[1:])]
            assert twin(*mixed, **options) is NotImplemented


# Training

def test_training_both_generators_and_the_discriminator(tmp_path):
    settings = Settings(steps=3, together=True, patch_size=4, channels=4, blocks=1, discriminator_channels=2, vgg_layer="conv2_1",
                        adversarial_weight=0.1, schedule="cosine").validate()
    on_gpu, on_cpu = (Trainer(settings, device, say=lambda line: None) for device in (GPU, CPU))
    with reference_only():
        for step in range(3):
            lr, hr = (wave(2, side, side, 3, seed=step).astype(np.float32) for side in (4, 16))
            rows = [trainer.step(lr, hr, diagnose=True) for trainer in (on_gpu, on_cpu)]
            assert rows[0] == rows[1]
    for name, network in on_gpu.networks.items():
        assert isinstance(network.flat, StandIn) and isinstance(on_gpu.adam[name].m, StandIn)
        for mine, theirs in [(network.flat, on_cpu.networks[name].flat), (on_gpu.adam[name].m, on_cpu.adam[name].m),
                             (on_gpu.adam[name].v, on_cpu.adam[name].v)]:
            assert mine.dtype == np.float32 and np.array_equal(mine.get(), theirs)
        for key, array in network.state().items():
            assert np.array_equal(array.get(), on_cpu.networks[name].state()[key])

    checkpoint.save(tmp_path / "checkpoint.h5", on_gpu)
    restored = Trainer(settings, GPU, say=lambda line: None)
    checkpoint.restore(restored, *storage.read(tmp_path / "checkpoint.h5"))
    with reference_only():
        assert restored.step(lr, hr) == on_gpu.step(lr, hr)


def test_loading_weights_and_inference():
    settings = Settings(steps=1, patch_size=4, channels=4, blocks=1)
    on_gpu, on_cpu = (Trainer(settings, device).networks["srresnet"] for device in (GPU, CPU))
    weights = {name: wave(*array.shape) for name, array in on_cpu.state_dict().items()}
    for network in (on_gpu, on_cpu):
        network.load_state_dict({name: np.abs(array) for name, array in weights.items()})
        assert isinstance(network, Layer) and not network.eval().training
    x = wave(1, 5, 4, 3).astype(np.float32)
    with reference_only():
        assert np.array_equal(on_gpu(upload(x)).array.get(), on_cpu(x).array)
