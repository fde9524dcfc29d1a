"""The GPU's convolutions with the activation that follows, played on the CPU; and the networks that find them."""
import copy
import weakref

import emulate
import numpy as np
import pytest
from comparisons import double, rounding
from emulate import emulated
from test_cuda_convolution import CASES, LIMITS, draw, error, usual_precision  # noqa: F401  (a fixture)

from npsrgan import ops
from npsrgan.fast.cuda import convolution, set_precision
from npsrgan.models import Discriminator
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor

pytestmark = pytest.mark.skipif(emulate.GXX is None, reason="no g++, with which the emulated kernels are built")


@pytest.mark.parametrize("precision, case", [("tf32", CASES[2]), ("tf32", CASES[9]), ("tf32", CASES[12]), ("float32", CASES[4])], ids=str)
@pytest.mark.parametrize("twin, more, slope", [(convolution.conv2d_relu, (), 0), (convolution.conv2d_leaky_relu, (0.2,), 0.2)],
                         ids=["relu", "leaky_relu"])
def test_with_the_activation_that_follows(precision, case, twin, more, slope):
    set_precision(precision)
    image, kernel, stride, padding, multiprocessors = case
    x, w, b = draw(image, kernel)
    v, rules = ops.conv2d.reference(*(a.astype(np.float64) for a in (x, w, b)), stride, padding)
    dy = np.random.default_rng(1).standard_normal(v.shape).astype(np.float32)
    with emulated(90, multiprocessors):
        y, my_rules = twin(x, w, b, *more, stride=stride, padding=padding)
        assert error(y, np.where(v > 0, v, slope * v)) < LIMITS[precision]
        dv = np.where(y > 0, dy, slope * dy.astype(np.float64))         # v next to 0 may be rounded across it
        for my_rule, rule in zip(my_rules, rules, strict=True):
            assert error(my_rule(dy), rule(dv)) < LIMITS[precision]


@pytest.mark.parametrize("case", [CASES[3], CASES[10]], ids=str)
def test_an_activation_without_a_bias_and_of_what_is_not_a_number(case):
    x, w, _ = draw(*case[:2])
    x[0, 3, 4, 5] = np.nan
    with emulated(multiprocessors=case[4]):
        y, _ = convolution.conv2d_relu(x, w)
    exact = ops.conv2d.reference(x.astype(np.float64), w.astype(np.float64))[0]
    assert np.array_equal(np.isnan(y), np.isnan(exact)) and np.isnan(y).any()
    assert error(np.nan_to_num(y), np.maximum(np.nan_to_num(exact), 0)) < LIMITS["tf32"]


def test_the_activations_gradient_is_computed_once_and_let_go(monkeypatch):
    found, gradient = [], convolution.activations.gradient

    def noting(*args):
        found.append(gradient(*args))
        return found[-1]
    monkeypatch.setattr(convolution.activations, "gradient", noting)
    with emulated(multiprocessors=CASES[3][4]):
        y, rules = convolution.conv2d_relu(*draw(*CASES[3][:2]))
        dy = np.ones_like(y)
        for rule in rules:
            rule(dy)
    assert len(found) == 1
    dv = weakref.ref(found.pop())
    assert dv() is not None
    del dy
    assert dv() is None


def passed(network, image):
    """(features, gradient of their weighted sum with respect to the image, names of the operations on the tape)"""
    image = Tensor(image)
    with Tape() as tape:
        y = network(image)
        loss = ops.sum(y * np.cos(np.arange(y.array.size, dtype=np.float32)).reshape(y.shape))
    names = [record.name for record in tape._records[:-2]]
    return y.array, tape.gradient(loss, image), names


@pytest.mark.parametrize("network, pairs", [
    (random_vgg19("conv2_2"), {"conv2d_relu": 3, "conv2d": 1, "relu": 1}),
    (Discriminator(4, 16), {"conv2d_leaky_relu": 1, "conv2d": 7, "batch_norm_leaky_relu": 7, "leaky_relu": 1}),
], ids=["VGG19", "discriminator"])
def test_networks_find_the_operation(network, pairs):
    set_precision("float32")
    image = np.random.default_rng(3).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    with emulated(multiprocessors=1):
        features, gradient, names = passed(network, image)
    with reference_only():
        exact_features, exact_gradient, exact_names = passed(copy.deepcopy(network).to(double), double(image))
    assert {name: names.count(name) for name in pairs} == pairs
    assert not any(name.startswith("conv2d_") for name in exact_names)
    taps = sum(p.array.size // p.shape[-1] for p in network.parameters() if len(p.shape) > 1)
    assert error(features, exact_features) < rounding(taps) and error(gradient, exact_gradient) < rounding(2 * taps)
