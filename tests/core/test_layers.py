"""Layers: names and order, one flat buffer, state dicts, modes, moving, and how weights begin."""
import copy
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from comparisons import double, wave

from npsrgan import layers, ops
from npsrgan.adam import Adam
from npsrgan.device import to_numpy
from npsrgan.gradcheck import check_directions
from npsrgan.layers import (
    BatchNorm,
    Conv2d,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    Parameter,
    PixelShuffle,
    PReLU,
    Residual,
    Sequential,
    initialise,
    views,
)
from npsrgan.models import Discriminator, SRResNet


class Net(Layer):
    """Something of everything."""

    def __init__(self):
        self.first = Conv2d(3, 4, 3)
        self.body = Sequential(Residual(Conv2d(4, 4, 3), BatchNorm(4), PReLU(4)), LeakyReLU(0.1))
        self.gain = np.ones(2, np.float32)
        self._private = np.ones(1)
        self.settings = {"size": 3}
        self.last = Linear(4, 1)

    def forward(self, x):
        return self.body(self.first(x))


NAMES = ["first.weight", "first.bias", "body.0.0.weight", "body.0.0.bias", "body.0.1.gamma", "body.0.1.beta",
         "body.0.1.running_mean", "body.0.1.running_var", "body.0.2.slope", "gain", "last.weight", "last.bias"]
STATE = ["body.0.1.running_mean", "body.0.1.running_var", "gain"]


# Names and order

def test_names_are_paths_in_the_order_of_definition():
    net = Net().pack()
    assert list(net.state_dict()) == NAMES
    assert list(net.state()) == STATE
    assert [p.name for p in net.parameters()] == [name for name in NAMES if name not in STATE]
    assert [type(layer).__name__ for layer in net.layers()] == ["Net", "Conv2d", "Sequential", "Residual", "Conv2d", "BatchNorm",
                                                                 "PReLU", "LeakyReLU", "Linear"]


def test_names_and_order_are_the_same_every_time():
    assert list(SRResNet(4, 2).state_dict()) == list(SRResNet(4, 2, seed=5).state_dict())
    names = list(SRResNet(4, 1).state_dict())
    assert names[:5] == ["head.0.weight", "head.0.bias", "head.1.slope", "body.0.0.weight", "body.0.0.bias"]
    assert names[-2:] == ["tail.weight", "tail.bias"]


# One flat buffer

def test_parameters_are_views_into_one_buffer():
    net = Net()
    flat, parameters = net.flat, net.parameters()
    assert flat.ndim == 1 and flat.size == sum(p.array.size for p in parameters)
    assert all(np.shares_memory(flat, p.array) for p in parameters)
    flat[...] = np.arange(flat.size)
    assert net.first.weight.array.ravel().tolist() == list(range(3 * 3 * 3 * 4))        # in order, from the beginning
    assert net.last.bias.array.tolist() == [flat.size - 1]
    net.last.bias.array[...] = -7
    assert flat[-1] == -7
    assert net.flat is flat
    assert not any(np.shares_memory(flat, array) for array in net.state().values())


def test_packing_changes_no_value(xp):
    net = Net()
    for seed, array in enumerate(net.state_dict().values()):
        array[...] = wave(*array.shape, seed=seed)
    before = {name: array.copy() for name, array in net.state_dict().items()}
    net.to(xp.asarray)
    assert all(isinstance(array, xp.ndarray) for array in net.state_dict().values())
    assert all(np.array_equal(to_numpy(array), before[name]) for name, array in net.state_dict().items())


def test_views_cut_a_buffer():
    flat = np.arange(11.0)
    a, b, c = views(flat, [(2, 3), (), (4,)])
    assert a.tolist() == [[0, 1, 2], [3, 4, 5]] and b == 6 and c.tolist() == [7, 8, 9, 10]
    assert all(np.shares_memory(view, flat) for view in (a, b, c))


def test_to_moves_everything_and_keeps_parameters_the_same_objects():
    net = Net().pack()
    parameters = net.parameters()
    assert net.to(double) is net
    assert {array.dtype for array in net.state_dict().values()} == {np.dtype(np.float64)} and net.flat.dtype == np.float64
    assert all(new is old for new, old in zip(net.parameters(), parameters))
    net.flat[0] = 42
    assert net.first.weight.array[0, 0, 0, 0] == 42


# State dicts

def test_loading_writes_in_place_and_converts():
    net = Net().pack()
    flat, running_mean = net.flat, net.state()["body.0.1.running_mean"]
    arrays = {name: wave(*array.shape, seed=seed) for seed, (name, array) in enumerate(net.state_dict().items())}
    net.load_state_dict(arrays)
    assert net.flat is flat and net.state()["body.0.1.running_mean"] is running_mean
    for name, array in net.state_dict().items():
        assert array.dtype == np.float32 and np.array_equal(array, arrays[name].astype(np.float32))
    assert np.array_equal(flat[:108], arrays["first.weight"].astype(np.float32).ravel())


def test_loading_lists_every_problem_and_then_changes_nothing():
    net = Net().pack()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    arrays = {name: array + 1 for name, array in net.state_dict().items()}
    del arrays["body.0.2.slope"], arrays["gain"]
    arrays |= {"stranger": np.ones(1), "last.weight": np.ones((1, 4)), "first.bias": np.ones(5)}
    with pytest.raises(ValueError) as error:
        net.load_state_dict(arrays)
    for problem in ["missing body.0.2.slope", "missing gain", "unexpected stranger", "last.weight has shape (1, 4), not (4, 1)",
                    "first.bias has shape (5,), not (4,)"]:
        assert problem in str(error.value)
    assert str(error.value).count(";") == 4
    assert all(np.array_equal(array, before[name]) for name, array in net.state_dict().items())


@pytest.mark.parametrize("change, problem", [
    (lambda arrays: arrays.pop("gain"), "missing gain"),
    (lambda arrays: arrays.update(stranger=np.ones(1)), "unexpected stranger"),
    (lambda arrays: arrays.update({"last.bias": np.ones(())}), r"last.bias has shape \(\), not \(1,\)")])
def test_loading_refuses_each_problem_alone(change, problem):
    net = Net().pack()
    arrays = {name: array + 1 for name, array in net.state_dict().items()}
    change(arrays)
    with pytest.raises(ValueError, match=f"^{problem}$"):
        net.load_state_dict(arrays)
    assert not net.flat[:100].any() and (net.gain == 1).all()


# Modes

def test_train_and_eval_reach_every_layer():
    net = Net()
    assert net.training and net.body.steps[0].steps[1].training
    assert net.eval() is net and not any(layer.training for layer in net.layers())
    assert net.train() is net and all(layer.training for layer in net.layers())
    assert Net().training                   # it was the instance's mode, not the class's


def test_evaluation_depends_on_no_other_image_and_changes_nothing():
    net = initialise(Net()).to(double)
    x = wave(4, 5, 5, 3)
    assert not np.allclose(net(x).array[:1], net(x[:1]).array)      # training: the batch is part of the answer
    net.eval()
    state = [a.copy() for a in net.state().values()]
    together = net(x).array
    assert np.allclose(together[:1], net(x[:1]).array, rtol=1e-12)
    assert all(np.array_equal(a, b) for a, b in zip(state, net.state().values()))


def test_running_statistics_follow_the_data():
    layer, x = BatchNorm(3).to(double), 2 + 3 * wave(6, 5, 4, 3)
    for _ in range(200):
        layer(x)
    assert np.allclose(layer.running_mean, x.mean((0, 1, 2)), rtol=1e-8)
    assert np.allclose(layer.running_var, x.var((0, 1, 2), ddof=1), rtol=1e-8)
    trained = ops.batch_norm(x, layer.gamma, layer.beta).array
    assert np.allclose(layer.eval()(x).array, trained, rtol=1e-2, atol=0.01)


# What the layers compute

def test_layers_are_their_operations():
    x, flat = wave(2, 6, 6, 4), wave(3, 4)

    def filled(layer):
        layer.to(double)
        for seed, p in enumerate(layer.parameters()):
            p.array[...] = wave(*p.shape, seed=seed)
        return layer

    conv, linear, prelu = filled(Conv2d(4, 8, 3, stride=2)), filled(Linear(4, 2)), filled(PReLU(4))
    pairs = [(conv(x), ops.conv2d(x, wave(3, 3, 4, 8), wave(8, seed=1), 2)), (linear(flat), ops.linear(flat, wave(4, 2), wave(2, seed=1))),
             (prelu(x), ops.prelu(x, wave(4))), (LeakyReLU(0.3)(x), ops.leaky_relu(x, 0.3)),
             (PixelShuffle()(x), ops.pixel_shuffle(x, 2)), (Flatten()(x), ops.flatten(x)),
             (Sequential(LeakyReLU(0.5), LeakyReLU(0.5))(x), ops.leaky_relu(x, 0.25)),
             (Residual(LeakyReLU(0.5))(x), ops.leaky_relu(x, 0.5) + x)]
    for mine, expected in pairs:
        assert np.array_equal(mine.array, expected.array)


# How weights begin

def test_he_keeps_the_variance_at_two_over_fan_in():
    net = initialise(Sequential(Conv2d(32, 64, 3), Linear(500, 100)), seed=3)
    conv, linear = net.steps
    for weight, fan_in in [(conv.weight.array, 9 * 32), (linear.weight.array, 500)]:
        assert weight.var() == pytest.approx(2 / fan_in, rel=0.05)
        assert abs(weight.mean()) < 4 * (2 / fan_in / weight.size) ** 0.5
        kurtosis = (weight ** 4).mean() / weight.var() ** 2
        assert kurtosis == pytest.approx(3, rel=0.1)                # a normal distribution's
    assert not conv.bias.array.any() and not linear.bias.array.any()


def test_he_keeps_the_size_of_a_signal_through_relus():
    x = wave(16, 400)
    for layer in initialise(Sequential(*[Linear(400, 400) for _ in range(10)])).steps:
        x = ops.relu(layer(x)).array
    assert 0.4 < (x ** 2).mean() / 0.5 < 2.5


def test_normal_is_a_hundredth_whatever_the_fan_in():
    net = initialise(Sequential(Conv2d(32, 64, 3), Linear(500, 100)), method="normal")
    for layer in net.steps:
        assert layer.weight.array.std() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("method", layers.INITIALISATIONS)
@pytest.mark.parametrize("build", [lambda init: SRResNet(8, 2, init=init), lambda init: Discriminator(8, 16, init=init)])
def test_only_weights_are_drawn(method, build):
    for name, array in build(method).state_dict().items():
        kind = name.rsplit(".", 1)[1]
        if kind == "weight":
            assert array.std() > 0.005
        else:
            begin = {"bias": 0, "beta": 0, "running_mean": 0, "gamma": 1, "running_var": 1, "slope": 0.25}[kind]
            assert (array == begin).all(), name
        assert array.dtype == np.float32


def test_drawing_follows_from_the_seed_alone():
    a, b, c = SRResNet(4, 2, seed=1), SRResNet(4, 2, seed=1), SRResNet(4, 2, seed=2)
    assert np.array_equal(a.flat, b.flat) and not np.array_equal(a.flat, c.flat)
    weights = [layer.weight.array.ravel()[:100] for layer in a.layers() if isinstance(layer, Conv2d)]
    assert len({tuple(w) for w in weights}) == len(weights)         # no two layers begin alike


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="no initialisation 'xavier': choose one of he, normal"):
        initialise(Linear(2, 2), method="xavier")


class Branches(Layer):
    """Layers and parameters in lists and tuples."""

    def __init__(self):
        self.branches = [Conv2d(3, 4, 3), (BatchNorm(4), LeakyReLU(0.1))]
        self.gains = (Parameter(np.ones(4, np.float32)), Parameter(np.ones(4, np.float32)))
        self.sizes, self._buffers = [1, 2], [np.ones(2)]

    def forward(self, x):
        conv, (norm, leaky) = self.branches
        y = conv(x)
        return leaky(norm(y)) * self.gains[0] + y * self.gains[1]


def test_layers_in_lists_and_tuples_are_found():
    net = initialise(Branches()).eval()
    assert list(net.state_dict()) == ["branches.0.weight", "branches.0.bias", "branches.1.0.gamma", "branches.1.0.beta",
                                      "branches.1.0.running_mean", "branches.1.0.running_var", "gains.0", "gains.1"]
    assert not net.branches[1][0].training and net.branches[0].weight.array.std() > 0.1
    net.to(double)
    assert {array.dtype for array in net.state_dict().values()} == {np.dtype(np.float64)}
    assert all(check.passed for check in check_directions(lambda: ops.mean(net(wave(2, 5, 5, 3)) * wave(2, 5, 5, 4)), net))
    assert net.flat.size == 3 * 3 * 3 * 4 + 5 * 4


@pytest.mark.parametrize("held", [{"a": Conv2d(3, 4, 3)}, {"a": [PReLU(4)]}, {Conv2d(3, 4, 3)}, [{"a": PReLU(4)}], deque([PReLU(4)]),
                                  {"a": Parameter(np.ones(2))}, SimpleNamespace(layer=PReLU(4)), [np.ones(3)], (np.ones(3),)],
                         ids=lambda held: type(held).__name__)
def test_layers_and_arrays_that_would_be_overlooked_are_refused(held):
    net = Sequential(Linear(2, 2), Branches())
    net.steps[1].extra = held
    for ask in (net.parameters, net.state_dict, net.pack, net.eval, lambda: initialise(net)):
        with pytest.raises(TypeError, match=r"^extra(\.0)? is a \w+ (that holds layers or parameters: use a list|of arrays: make each)"):
            ask()


def test_settings_are_no_layers():
    net = Branches()
    net.settings, net.names, net.module, net.function = {"a": [1, "b"], "c": {2}}, ["x", "yz"], np, ops.relu
    assert len(net.parameters()) == 6


def test_the_buffer_is_never_one_that_the_parameters_have_left():
    """A deep copy is of the parameters and of the buffer, each by itself; a layer inside may have been given a buffer of its own."""
    net = Net().pack()
    for changed in (copy.deepcopy(net), net):
        assert changed.body.flat.size and all(np.shares_memory(changed.flat, p.array) for p in changed.parameters())
        Adam(changed, 0.5).step([np.ones(p.shape) for p in changed.parameters()])
        assert np.array_equal(np.concatenate([p.array.ravel() for p in changed.parameters()]), changed.flat)
        assert np.allclose(changed.first.weight.array, -0.5)


def test_a_parameter_is_found_wherever_it_is():
    class Scale(Layer):
        def __init__(self):
            self.factor = Parameter(np.ones(1, np.float32))

        def forward(self, x):
            return x * self.factor

    net = Sequential(Scale(), Sequential(Sequential(Scale()))).pack()
    assert [p.name for p in net.parameters()] == ["0.factor", "1.0.0.factor"]
