"""The gradient checks pass, and fail wherever a rule is wrong: each rule of each case is sabotaged in several ways."""
from itertools import combinations

import numpy as np
import pytest
from comparisons import wave

from npsrgan import gradcheck, ops
from npsrgan.gradcheck import CASES, check, check_directions, network_checks
from npsrgan.layers import LeakyReLU, Linear, Sequential
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

OPERATIONS = [case for case in CASES if hasattr(case.operation, "reference")]       # the others are put together from these


def sabotaged(reference, position, change):
    """The function behind an operation, with the answer of one rule passed through `change`."""
    def wrong(*args, **kwargs):
        value, rules = reference(*args, **kwargs)
        return value, tuple(rule if k != position else lambda dy, rule=rule: change(rule(dy)) for k, rule in enumerate(rules))
    return wrong


@pytest.fixture
def sabotage(monkeypatch):
    """`sabotage(operation, position, change)`: from now on that rule is wrong wherever the operation is used."""
    def install(operation, position, change):
        monkeypatch.setattr(operation, "reference", sabotaged(operation.reference, position, change))
        monkeypatch.setattr(operation, "twins", [])
    return install


def changes(shape):
    """Ways to be wrong, by name: 0.1 % too large, zero, of the other sign, and two axes of equal length exchanged."""
    yield "0.1 % too large", lambda dx: 1.001 * dx
    yield "zero", np.zeros_like
    yield "negated", np.negative
    for a, b in combinations(range(len(shape)), 2):
        if shape[a] == shape[b] > 1:
            yield f"axes {a} and {b} exchanged", lambda dx, a=a, b=b: dx.swapaxes(a, b)


SABOTAGES = [pytest.param(case, position, change, id=f"{case.name}, input {position}, {how}")
             for case in OPERATIONS for position, array in enumerate(case.inputs) for how, change in changes(array.shape)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_passes(case, version):
    checks = case.run()
    assert len(checks) == len(case.inputs)
    assert all(c.passed for c in checks), "\n".join(map(str, checks))


@pytest.mark.parametrize("case, position, change", SABOTAGES)
def test_a_sabotaged_rule_fails_and_no_other_does(case, position, change):
    wrong = case._replace(operation=op(sabotaged(case.operation.reference, position, change)))
    assert [c.passed for c in wrong.run()] == [k != position for k in range(len(case.inputs))]


def test_exchanged_axes_are_tried_on_every_kind_of_layout():
    """The shapes in the table must allow it."""
    tried = {(param.values[0].operation.__name__, param.values[1]) for param in SABOTAGES if "exchanged" in param.id}
    assert tried >= {("conv2d", 1), ("linear", 1), ("multiply", 0), ("batch_norm", 0), ("prelu", 0)}


# Batch normalisation, the hard case

def without_its_extra_terms(x, gamma, beta, *args, **kwargs):
    """batch_norm whose d_x takes the batch's statistics for constants: the classic mistake."""
    value, (_, d_gamma, d_beta) = HONEST_BATCH_NORM(x, gamma, beta, *args, **kwargs)
    inv_std = 1 / np.sqrt(x.var(tuple(range(x.ndim - 1))) + 1e-5)
    return value, (lambda dy: gamma * inv_std * dy, d_gamma, d_beta)


HONEST_BATCH_NORM = ops.batch_norm.reference


@pytest.fixture
def wrong_batch_norm(monkeypatch):
    monkeypatch.setattr(ops.batch_norm, "reference", without_its_extra_terms)
    monkeypatch.setattr(ops.batch_norm, "twins", [])


def test_batch_norm_without_its_extra_terms_fails(wrong_batch_norm):
    x, gamma, beta = wave(3, 4, 4, 3), wave(3, seed=1), wave(3, seed=2)
    assert [c.passed for c in check(ops.batch_norm, x, gamma, beta)] == [False, True, True]


def test_a_zero_gradient_that_is_not_zero_fails(wrong_batch_norm):
    case = next(case for case in CASES if case.zero)
    bias = case.run()[case.zero[0]]
    assert not bias.passed and bias.limit == gradcheck.ZERO and abs(bias.analytic) > 0.01 and abs(bias.numeric) < gradcheck.ZERO


def test_a_cotangent_of_ones_would_see_nothing():
    """The sum of batch norm's output never changes: with ones, the right answer is zero, and a rule of zeros would pass."""
    x = Tensor(wave(3, 4, 4, 3))
    with Tape() as tape:
        loss = ops.sum(ops.batch_norm(x, np.ones(3), np.zeros(3)))
    assert np.abs(tape.gradient(loss, x)).max() < 1e-12


# Losses and networks, along directions

def test_the_networks_pass():
    checks = list(network_checks())
    assert all(c.passed for c in checks), "\n".join(str(c) for c in checks if not c.passed)
    by_name = {}
    for c in checks:
        by_name.setdefault(c.name, []).append(c)
    assert all(len(group) == 6 for group in by_name.values())
    assert all(abs(c.analytic) > 1e-6 for group in by_name.values() for c in group[:1])      # there is something to check


@pytest.mark.parametrize("operation, position", [
    (ops.conv2d, 0), (ops.conv2d, 1), (ops.conv2d, 2), (ops.batch_norm, 0), (ops.batch_norm, 1), (ops.batch_norm, 2),
    (ops.prelu, 0), (ops.prelu, 1), (ops.linear, 0), (ops.linear, 1), (ops.linear, 2), (ops.leaky_relu, 0), (ops.relu, 0),
    (ops.max_pool2d, 0), (ops.pixel_shuffle, 0), (ops.add, 0), (ops.add, 1), (ops.square, 0), (ops.softplus, 0)],
    ids=lambda value: getattr(value, "__name__", value))
def test_the_networks_notice_a_rule_that_is_a_thousandth_wrong(operation, position, sabotage):
    sabotage(operation, position, lambda dx: 1.001 * dx)
    assert any(not c.passed for c in network_checks())


def test_the_networks_notice_a_batch_norm_without_its_extra_terms(wrong_batch_norm):
    assert any(not c.passed for c in network_checks())


def test_a_direction_that_crosses_a_kink_is_drawn_again():
    """|x| near its kink: a step of 1e-6 from 2e-7 crosses it, and the difference is worth nothing."""
    x = Tensor(np.full(3, 2e-7))
    checks = check_directions(lambda: ops.sum(ops.leaky_relu(x, slope=-1.0)), [x])
    assert any("redrawn" in c.what for c in checks)
    assert not all(c.passed for c in checks)            # at most three times: it does not go on until something passes


def test_a_network_is_checked_in_all_its_parameters():
    network = Sequential(Linear(3, 4), LeakyReLU(0.2), Linear(4, 2)).to(lambda array: array.astype(np.float64))
    for seed, parameter in enumerate(network.parameters()):
        parameter.array[...] = wave(*parameter.shape, seed=seed)

    def loss():
        return ops.mean(network(wave(5, 3)) * wave(5, 2, seed=9))
    assert [str(c) for c in check_directions(loss, network)] == [str(c) for c in check_directions(loss, network.parameters())]


def test_a_network_without_parameters_is_no_success():
    with pytest.raises(ValueError, match="generator has no parameters to check"):
        check_directions(lambda: ops.mean(LeakyReLU(0.2)(wave(3))), LeakyReLU(0.2), "generator")


def test_what_is_checked_is_left_as_it_was():
    x = Tensor(wave(5))
    check_directions(lambda: ops.sum(ops.square(x)), [x])
    assert np.array_equal(x.array, wave(5))
    for case in CASES[:3]:
        before = [a.copy() for a in case.inputs]
        case.run()
        assert all(np.array_equal(a, b) for a, b in zip(case.inputs, before))


# What a failure says, and what the command returns

def test_a_failure_names_the_operation_the_input_the_worst_index_and_both_numbers():
    @op
    def careless(x, w):
        def d_w(dy):
            dw = dy * x
            dw[1, 2] += 0.5         # right but for one entry
            return dw
        return x * w, (lambda dy: dy * w, d_w)

    right, wrong = check(careless, wave(2, 3), wave(2, 3, seed=1))
    assert right.passed and not wrong.passed
    assert str(right).startswith("ok") and "worst" not in str(right)
    assert wrong.where == (1, 2) and wrong.analytic - wrong.numeric == pytest.approx(0.5, rel=1e-6)
    message = str(wrong)
    assert message.startswith("FAIL") and "careless" in message and "input 1 (2, 3)" in message and "worst at (1, 2)" in message
    assert f"the rule says {wrong.analytic:.10g}" in message and f"finite differences say {wrong.numeric:.10g}" in message


def test_nan_never_passes(sabotage):
    sabotage(ops.square, 0, lambda dx: dx * np.nan)
    assert not check(ops.square, wave(3))[0].passed


def test_the_command_succeeds(capsys):
    assert gradcheck.main([]) == 0
    output = capsys.readouterr().out
    assert "0 failed" in output and "FAIL" not in output
    assert all(output.count(f"ok    {case.name:34} ") == 2 * len(case.inputs) for case in CASES)    # as read, and as run


def test_the_command_fails_where_a_rule_is_wrong(capsys, sabotage, monkeypatch):
    monkeypatch.setattr(gradcheck, "network_checks", lambda: [])
    sabotage(ops.linear, 1, lambda dx: 1.001 * dx)
    assert gradcheck.main([]) == 1
    output = capsys.readouterr().out
    assert output.count("FAIL") == 4 and "4 failed" in output           # with and without bias, as read and as run
    assert all("linear" in line for line in output.splitlines() if line.startswith("FAIL"))


def test_the_command_fails_where_a_network_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(gradcheck, "CASES", [])
    monkeypatch.setattr(gradcheck, "network_checks", lambda: [gradcheck.Check("G", "along", (), 1.0, 2.0, 0.5)])
    assert gradcheck.main([]) == 1
    assert "FAIL  G" in capsys.readouterr().out
