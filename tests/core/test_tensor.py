"""Tensors and the functions on them: constants, operators, keywords, identity, fast twins."""
import numpy as np

from npsrgan import ops
from npsrgan.ops.operation import op, reference_only, twin
from npsrgan.tape import Tape, Tensor


def tensor(*values):
    """A vector, or of one value a scalar."""
    return Tensor(np.array(values if len(values) > 1 else values[0], np.float64))


def test_arrays_and_numbers_are_constants():
    a = tensor(1.0, 2.0)
    with Tape() as tape:
        loss = ops.sum(np.array([3.0, 4.0]) * a * 2 - 1.0)          # the array's own * must not take the tensor apart
    assert len(tape) == 4
    assert tape.gradient(loss, a).tolist() == [6, 8]


def test_operators():
    a, b = tensor(1.0, 2.0), tensor(3.0, 5.0)
    with Tape() as tape:
        results = {"a + b": a + b, "2 + a": 2 + a, "a - b": a - b, "2 - a": 2 - a, "a * b": a * b, "2 * a": 2 * a, "-a": -a,
                   "a[1]": a[1]}
    assert {name: value.array.tolist() for name, value in results.items()} == {
        "a + b": [4, 7], "2 + a": [3, 4], "a - b": [-2, -3], "2 - a": [1, 0], "a * b": [3, 10], "2 * a": [2, 4],
        "-a": [-1, -2], "a[1]": 2}
    assert len(tape) == len(results)


def test_a_tensor_passed_by_keyword_gets_its_gradient():
    x, slope = tensor(-2.0, 3.0), Tensor(np.array([0.25]))
    with Tape() as tape:
        loss = ops.sum(ops.prelu(slope=slope, x=x))
    d_slope, d_x = tape.gradient(loss, [slope, x])
    assert d_slope.tolist() == [-2] and d_x.tolist() == [0.25, 1]


def test_tensors_are_told_apart_by_identity():
    a, b = tensor(1.0), tensor(1.0)
    assert a != b and len({a, b}) == 2
    with Tape() as tape:
        loss = ops.sum(a * 2.0 + b * 3.0)
    assert [float(g) for g in tape.gradient(loss, [a, b])] == [2, 3]


def test_twins_are_asked_newest_first_and_may_decline():
    @op
    def identity(x):
        return x + 0, (lambda dy: dy,)

    @twin(identity)
    def older(x):
        return x + 1, (lambda dy: dy,)

    @twin(identity)
    def newer(x):
        return (x + 2, (lambda dy: dy,)) if x > 0 else NotImplemented

    assert float(identity(1.0)) == 3
    assert float(identity(-1.0)) == 0
    with reference_only():
        assert float(identity(1.0)) == 1
    assert float(identity(1.0)) == 3
