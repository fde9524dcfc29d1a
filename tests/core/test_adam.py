"""Adam against its algorithm, and the schedules of its learning rate."""
import math

import numpy as np
import pytest
from comparisons import relative_error, wave

from npsrgan.adam import SCHEDULES, Adam, schedule
from npsrgan.device import to_numpy
from npsrgan.fast import adam as fast_adam
from npsrgan.layers import Linear, Sequential


def network(dtype=np.float64, sizes=((3, 4), (4, 2))):
    net = Sequential(*[Linear(*size) for size in sizes]).to(lambda a: a.astype(dtype))
    for seed, p in enumerate(net.parameters()):
        p.array[...] = wave(*p.shape, seed=seed)
    return net


def gradients_for(net, step):
    return [wave(*p.shape, seed=100 * step + k) * 10.0 ** (k - 2) for k, p in enumerate(net.parameters())]


def test_adam_is_algorithm_1(xp, version):
    net = network()
    expected = [p.array.copy() for p in net.parameters()]
    net.to(xp.asarray)
    adam = Adam(net, 0.01, beta1=0.8, beta2=0.95, eps=1e-4)
    m, v = [0 * p for p in expected], [0 * p for p in expected]
    for t in range(1, 31):
        gradients = gradients_for(net, t)
        adam.step([xp.asarray(g) for g in gradients])
        for k, g in enumerate(gradients):
            m[k] = 0.8 * m[k] + 0.2 * g
            v[k] = 0.95 * v[k] + 0.05 * g * g
            expected[k] -= 0.01 * (m[k] / (1 - 0.8 ** t)) / (np.sqrt(v[k] / (1 - 0.95 ** t)) + 1e-4)
    assert adam.steps == 30
    assert all(relative_error(to_numpy(p.array), e) < 1e-13 for p, e in zip(net.parameters(), expected))


def test_the_first_step_is_as_long_as_the_rate_whatever_the_gradient():
    """What the two corrections are for: m^ = g and v^ = g^2, so that the step is the rate, in the direction of the sign."""
    net = network()
    before = net.flat.copy()
    gradients = gradients_for(net, 1)
    Adam(net, 1e-3).step(gradients)
    signs = np.concatenate([np.sign(g).ravel() for g in gradients])
    assert np.abs(net.flat - before + 1e-3 * signs).max() < 1e-6


def test_a_constant_gradient_moves_by_the_rate_every_step():
    net = network()
    adam, before = Adam(net, 1e-3), net.flat.copy()
    for _ in range(50):
        adam.step([np.full(p.shape, 0.3) for p in net.parameters()])
    assert np.allclose(before - net.flat, 50 * 1e-3, rtol=1e-6)


def test_adam_finds_a_minimum():
    net = network()
    adam = Adam(net, schedule("cosine", 0.05, 1000))
    for _ in range(1000):
        adam.step([p.array - 3 for p in net.parameters()])
    assert np.abs(net.flat - 3).max() < 1e-3


@pytest.mark.parametrize("block", [1, 7, 409, 410, 1000])
def test_a_network_is_updated_to_the_last_entry_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(fast_adam, "BLOCK", block)
    net = network(sizes=((40, 10),))
    before = net.flat.copy()
    Adam(net, 1e-3).step([np.ones(p.shape) for p in net.parameters()])
    assert np.allclose(before - net.flat, 1e-3, rtol=1e-6)


def test_the_views_stay_views_and_float32_stays_float32():
    net = network(np.float32)
    adam = Adam(net, np.float64(1e-3))
    flat, m, v = net.flat, adam.m, adam.v
    adam.step(gradients_for(net, 1))                    # float64 gradients do not widen anything
    assert net.flat is flat and adam.m is m and adam.v is v
    assert {a.dtype for a in (net.flat, adam.m, adam.v, *(p.array for p in net.parameters()))} == {np.dtype(np.float32)}
    assert all(np.shares_memory(p.array, flat) for p in net.parameters())


def test_gradients_are_read_and_left_alone():
    net = network()
    gradients = gradients_for(net, 1)
    Adam(net).step(gradients)
    assert all(np.array_equal(a, b) for a, b in zip(gradients, gradients_for(net, 1)))


def test_two_adams_that_go_on_from_the_same_moments_agree():
    a, b = network(), network()
    first, second = Adam(a, 1e-2), Adam(b, 1e-2)
    for step in range(5):
        first.step(gradients_for(a, step))
    b.flat[...], second.m[...], second.v[...], second.steps = a.flat, first.m, first.v, first.steps
    for adam, net in [(first, a), (second, b)]:
        adam.step(gradients_for(net, 9))
    assert np.array_equal(a.flat, b.flat)


def test_one_gradient_per_parameter():
    net = network()
    with pytest.raises(ValueError, match="gradients of 24 entries cannot move parameters of 26"):
        Adam(net).step(gradients_for(net, 1)[:-1])


def test_the_schedule_is_asked_for_the_rate_of_every_step():
    asked, net = [], network()

    def rate(steps):
        asked.append(steps)
        return 1e-3 * (steps + 1)

    adam, lengths = Adam(net, rate), []
    for _ in range(4):
        before = net.flat.copy()
        adam.step([np.ones(p.shape) for p in net.parameters()])
        lengths.append(float(before[0] - net.flat[0]))
    assert asked == [0, 1, 2, 3]
    assert lengths == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3], rel=1e-6)


# Schedules

def test_constant():
    assert {schedule("constant", 3e-4, 100)(t) for t in range(200)} == {3e-4}


def test_drop_is_a_tenth_in_the_second_half():
    rates = [schedule("drop", 1e-4, 10)(t) for t in range(12)]
    assert rates == [1e-4] * 5 + [1e-5] * 7
    assert [schedule("drop", 1.0, 5)(t) for t in range(5)] == [1, 1, 1, 0.1, 0.1]       # the middle step still belongs to the first


def test_cosine_falls_to_a_hundredth():
    rate = schedule("cosine", 2.0, 100)
    rates = [rate(t) for t in range(101)]
    assert rates[0] == 2 and rates[100] == pytest.approx(0.02) and rates[50] == pytest.approx(1.01)
    assert rates[25] == pytest.approx(2 * (0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2))
    assert all(a > b for a, b in zip(rates, rates[1:]))
    assert rate(150) == rates[100]                      # a run that goes on after its end does not speed up again
    assert schedule("cosine", 1.0, 0)(0) == 1


def test_every_schedule_is_known_and_no_other():
    assert all(schedule(kind, 1.0, 10)(0) == 1 for kind in SCHEDULES)
    with pytest.raises(ValueError, match="no schedule 'linear': choose one of constant, drop, cosine"):
        schedule("linear", 1.0, 10)
