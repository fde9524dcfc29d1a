"""Operations made of operations: where they have no twin, and where they have; and the layers that call them."""
import numpy as np
import pytest
from comparisons import relative_error, rounding, wave

from npsrgan import losses, ops
from npsrgan.fast import fusion, set_threads
from npsrgan.layers import BatchNorm, Conv2d, LeakyReLU, PixelShuffle, PReLU, Residual, Sequential
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import VGG19, random_vgg19
from npsrgan.ops.operation import composite, reference_only, twin
from npsrgan.tape import Tape, Tensor


@composite
def twice_plus(x, y, factor=2.0):
    """factor * x + y"""
    return ops.add(ops.scale(x, factor), y)


@pytest.fixture
def with_twin():
    """A twin of `twice_plus` for vectors; the list of what it was asked."""
    asked = []

    @twin(twice_plus)
    def one_pass(x, y, factor=2.0):
        asked.append((x, y, factor))
        return (factor * x + y, (lambda dy: factor * dy, lambda dy: dy)) if x.ndim == 1 else NotImplemented
    yield asked
    twice_plus.twins.clear()


def recorded(function, *args, **kwargs):
    """(value, gradients of its sum, names of the operations on the tape)"""
    with Tape() as tape:
        value = function(*args, **kwargs)
        loss = ops.sum(value)
    names = [record.name for record in tape._records[:-1]]
    return value.array, tape.gradient(loss, [a for a in args if isinstance(a, Tensor)]), names


def test_without_a_twin_its_operations_are_recorded():
    value, gradients, names = recorded(twice_plus, Tensor(wave(3)), Tensor(wave(3, seed=1)), factor=3.0)
    assert names == ["scale", "add"] and twice_plus.__name__ == "twice_plus"
    assert np.array_equal(value, 3 * wave(3) + wave(3, seed=1)) and [g.tolist() for g in gradients] == [[3] * 3, [1] * 3]


def test_a_twin_is_one_record(with_twin):
    x, y = Tensor(wave(3)), Tensor(wave(3, seed=1))
    for call in (lambda x, y: twice_plus(x, y, 3.0), lambda x, y: twice_plus(y=y, factor=3.0, x=x)):
        value, gradients, names = recorded(call, x, y)
        assert names == ["twice_plus"] and with_twin[-1][0] is x.array and with_twin[-1][2] == 3
        assert np.array_equal(value, 3 * wave(3) + wave(3, seed=1)) and [g.tolist() for g in gradients] == [[3] * 3, [1] * 3]
    assert recorded(lambda x: twice_plus(x, wave(3)), x)[1][0].tolist() == [2] * 3          # a constant among its inputs
    assert isinstance(twice_plus(wave(3), wave(3)), Tensor)


def test_a_twin_may_decline_and_be_switched_off(with_twin):
    matrix = Tensor(wave(2, 3))
    assert recorded(twice_plus, matrix, matrix)[2] == ["scale", "add"] and len(with_twin) == 1
    with reference_only():
        assert recorded(twice_plus, Tensor(wave(3)), Tensor(wave(3)))[2] == ["scale", "add"] and len(with_twin) == 1


# The networks' own

NORM = {"running_mean": wave(4), "running_var": wave(4) ** 2 + 1}
OPERATIONS = [
    (fusion.batch_norm_prelu, (wave(4),), lambda x, gamma, beta, slope, **o: ops.prelu(ops.batch_norm(x, gamma, beta, **o), slope)),
    (fusion.batch_norm_leaky_relu, (0.3,), lambda x, gamma, beta, slope, **o: ops.leaky_relu(ops.batch_norm(x, gamma, beta, **o), slope)),
    (fusion.batch_norm_add, (wave(2, 3, 5, 4),), lambda x, gamma, beta, more, **o: ops.batch_norm(x, gamma, beta, **o) + more),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("operation, more, unfused", OPERATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_batch_norm_and_what_follows(operation, more, unfused, training):
    results = []
    for function in (operation, unfused):
        options = {name: array.copy() for name, array in NORM.items()} | {"training": training, "momentum": 0.8, "eps": 0.1}
        inputs = [Tensor(a) if isinstance(a, np.ndarray) else a for a in (wave(2, 3, 5, 4), wave(4, seed=1), wave(4, seed=2), *more)]
        value, gradients, _ = recorded(function, *inputs, **options)
        results.append([value, *gradients, options["running_mean"], options["running_var"]])
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("operation, more, unfused", [
    (fusion.conv2d_relu, (), lambda x, w, b, **o: ops.relu(ops.conv2d(x, w, b, **o))),
    (fusion.conv2d_leaky_relu, (0.3,), lambda x, w, b, slope, **o: ops.leaky_relu(ops.conv2d(x, w, b, **o), slope)),
], ids=lambda value: getattr(value, "__name__", ""))
def test_convolution_and_what_follows(operation, more, unfused):
    inputs = [Tensor(a) for a in (wave(2, 6, 5, 4), wave(3, 3, 4, 6, seed=1), wave(6, seed=2))]
    results = [recorded(function, *inputs, *more, stride=2, padding=0) for function in (operation, unfused)]
    assert results[0][2] == results[1][2] and results[0][0].shape == (2, 2, 2, 6)
    assert all(np.array_equal(one, other) for one, other in zip(*([value, *gradients] for value, gradients, _ in results)))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape, kernel, stride", [
    ((1, 10, 9, 3), (9, 9, 3, 16), 1), ((2, 21, 18, 16), (3, 3, 16, 80), 1), ((3, 8, 8, 16), (3, 3, 16, 16), 1),
    ((2, 9, 9, 16), (3, 3, 16, 16), 2), ((1, 9, 9, 32), (9, 9, 32, 3), 1), ((1, 5, 5, 256), (3, 3, 256, 256), 1),
    ((1, 5, 6, 16), (2, 4, 16, 16), 1)])
def test_what_follows_a_convolution_in_inference(shape, kernel, stride, threads):
    """By every method of convolution, in one piece and in several.  PReLU and addition are exact, so the results are equal to the bit."""
    x, w, b, slope = wave(*shape), wave(*kernel, seed=1), wave(kernel[3], seed=2), abs(wave(kernel[3], seed=3)) / 4
    set_threads(threads)
    y = ops.conv2d(x, w, b, stride).array
    followed = ops.prelu.reference(y, slope)[0], ops.prelu.reference(y, slope[:1])[0]
    pairs = [(fusion.conv2d_prelu, (slopes, stride), value) for slopes, value in zip((slope, slope[:1]), followed)]
    if y.shape[:3] == shape[:3]:
        pairs.append((fusion.conv2d_add, (2 * y,), y + 2 * y))
    for operation, more, expected in pairs:
        value, _ = operation.twins[0](x, w, b, *more)
        assert np.array_equal(value, expected)
        with Tape():
            assert operation.twins[0](x, w, b, *more) is NotImplemented
    if kernel[3] % 4 == 0:      # Winograd's method computes a quarter of the channels at a time, so BLAS may add in another order
        value, _ = fusion.conv2d_prelu.twins[0](x, w, b, slope, stride, 2)
        assert relative_error(value, ops.pixel_shuffle.reference(followed[0], 2)[0]) < 10 * rounding(w[..., 0].size, x.dtype)
    assert fusion.conv2d_prelu.twins[0](x, w, b, slope + 2) is NotImplemented
    assert fusion.conv2d_prelu.twins[0](x, w, b, slope, stride, 9) is NotImplemented         # the reference reports the error
    set_threads(None)


def test_layers_pass_their_stride_on():
    for after in (LeakyReLU(0.3), PReLU(6)):
        layers, x = (Conv2d(4, 6, 3, stride=2), after), wave(2, 6, 5, 4)
        layers[0].weight.array[...] = wave(3, 3, 4, 6)
        assert np.array_equal(Sequential(*layers)(x).array, layers[1](layers[0](x)).array)


@pytest.fixture
def willing(monkeypatch):
    """Every fused operation has a twin that takes everything and answers 7; the names of those that were asked."""
    asked = []
    for operation in (fusion.conv2d_leaky_relu, fusion.conv2d_prelu, fusion.conv2d_add, fusion.batch_norm_prelu,
                      fusion.batch_norm_leaky_relu, fusion.batch_norm_add, fusion.pixel_shuffle_prelu):
        def answer(*args, operation=operation):
            asked.append(operation.__name__)
            return np.full((1, 2, 2, 4), 7.0, np.float32), ()
        monkeypatch.setattr(operation, "twins", [answer])
    return asked


def test_layers_find_the_operation_for_their_neighbours(willing):
    x = wave(1, 2, 2, 4).astype(np.float32)
    for layers, expected in [
        ([BatchNorm(4), PReLU(4)], ["batch_norm_prelu"]),
        ([BatchNorm(4), LeakyReLU()], ["batch_norm_leaky_relu"]),
        ([PixelShuffle(2), PReLU(1)], ["pixel_shuffle_prelu"]),
        ([Conv2d(4, 4, 3), LeakyReLU(), BatchNorm(4), PReLU(4)], ["conv2d_leaky_relu", "batch_norm_prelu"]),
        ([Conv2d(4, 4, 3), BatchNorm(4), PReLU(4), PReLU(4), BatchNorm(4), LeakyReLU()], ["batch_norm_prelu", "batch_norm_leaky_relu"]),
        ([PReLU(4), BatchNorm(4), Conv2d(4, 4, 3), PReLU(4), LeakyReLU(), BatchNorm(4)], ["conv2d_prelu"]),
        ([Conv2d(4, 16, 3), PReLU(16), PixelShuffle(2), BatchNorm(4), PReLU(4)], ["conv2d_prelu", "batch_norm_prelu"]),
    ]:
        Sequential(*layers)(x)
        assert willing == expected
        willing.clear()
    Residual(BatchNorm(4), PReLU(4), BatchNorm(4))(x)
    Residual(BatchNorm(4), Conv2d(4, 4, 3))(x)
    assert willing == ["batch_norm_prelu", "batch_norm_add", "conv2d_add"]


def test_a_layer_that_is_another_keeps_its_own_way(willing):
    class Halving(BatchNorm):
        def forward(self, x):
            return ops.scale(x, 0.5)

    x = wave(1, 2, 2, 4).astype(np.float32)
    assert np.array_equal(Sequential(Halving(4), LeakyReLU(1.0))(x).array, 0.5 * x)
    assert np.array_equal(Residual(Halving(4))(x).array, 1.5 * x) and willing == []


def test_the_layers_as_written_fuse_nothing(willing):
    x = wave(1, 2, 2, 4).astype(np.float32)
    with reference_only():
        Residual(Conv2d(4, 4, 3), LeakyReLU(), BatchNorm(4), PReLU(4), BatchNorm(4))(x)
    assert willing == []


@pytest.mark.parametrize("build, shape", [
    (lambda: SRResNet(4, 2), (2, 6, 5, 3)), (lambda: Discriminator(4, 16), (2, 16, 16, 3)),
    (lambda: random_vgg19("conv4_2"), (2, 16, 16, 3)),
], ids=["SRResNet", "Discriminator", "VGG19"])
def test_networks_compute_the_same_with_and_without_fusion(build, shape, monkeypatch):
    """To the bit: on a CPU, a fused operation runs the same operations."""
    results, x = [], Tensor(wave(*shape))
    for _ in range(2):
        network = build().to(lambda a: a.astype(np.float64))
        with Tape() as tape:
            value = network(x)
            loss = ops.sum(ops.square(value))
        results.append([value.array, *tape.gradient(loss, [x, *network.parameters()][:1 if isinstance(network, VGG19) else None]),
                        *network.state().values()])
        for function in (Sequential.forward, Residual.forward, VGG19.stage, VGG19.activate):
            monkeypatch.setattr(function, "twins", [])
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


def test_vgg19_before_relu_pools_after_relu_or_before(monkeypatch):
    vgg, image, names = random_vgg19("conv3_1"), Tensor(wave(1, 12, 10, 3).astype(np.float32)), ["conv1_2", "conv2_1", "conv3_1"]
    fused = vgg.before_relu(image, names)
    with reference_only():
        for one, other in zip(fused, vgg.before_relu(image, names), strict=True):
            assert np.allclose(one.array, other.array, rtol=0, atol=1e-4 * np.abs(other.array).max())


def test_the_mean_squared_error_may_have_a_twin(monkeypatch):
    monkeypatch.setattr(losses.mean_squared_error, "twins", [lambda a, b: (np.float32(5), ())])
    assert float(losses.mean_squared_error(wave(3), wave(3))) == 5
