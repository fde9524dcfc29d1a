"""The tape: gradients asked for by loss and by tensor, only the needed rules, memory let go on the way, errors in words."""
import threading
import weakref

import numpy as np
import pytest
from comparisons import double as double_precision

from npsrgan import losses, ops
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor


def tensor(*values):
    """A vector, or of one value a scalar."""
    return Tensor(np.array(values if len(values) > 1 else values[0], np.float64))


@op
def double(x):
    return 2 * x, (lambda dy: 2 * dy,)


# Questions and answers

def test_one_tensor_gives_one_array_and_many_give_a_list(xp):
    a, b = Tensor(xp.array([1.0, 2.0])), Tensor(xp.array([3.0, 5.0]))
    with Tape() as tape:
        loss = ops.sum(a * b)
    one = tape.gradient(loss, a, keep=True)
    assert type(one) is xp.ndarray and one.tolist() == [3, 5]
    many = tape.gradient(loss, [b, a], keep=True)
    assert [g.tolist() for g in many] == [[1, 2], [3, 5]]
    assert [g.tolist() for g in tape.gradient(loss, (a,), keep=True)] == [[3, 5]]
    assert [g.tolist() for g in tape.gradient(loss, [a, a])] == [[3, 5], [3, 5]]


def test_intermediate_results_can_be_asked_about_together_with_what_they_came_from():
    a = tensor(1.0, 2.0)
    with Tape() as tape:
        b = ops.square(a)
        c = b * 3.0
        loss = ops.sum(ops.square(c))               # 9 a^4
    d_loss, d_c, d_b, d_a = tape.gradient(loss, [loss, c, b, a])
    assert d_loss == 1
    assert d_c.tolist() == [6, 24]                  # 2 c
    assert d_b.tolist() == [18, 72]                 # 18 b
    assert d_a.tolist() == [36, 288]                # 36 a^3


def test_fan_in_adds_up():
    a = tensor(1.0, -2.0)
    with Tape() as tape:
        b = a + a
        c = b + b
        loss = ops.sum(c * a)                       # 4 a^2
    assert tape.gradient(loss, a).tolist() == [8, -16]


def test_a_gradient_handed_to_two_inputs_is_never_written_into():
    a, b, weights = tensor(1.0, 2.0), tensor(3.0, 4.0), tensor(10.0, 20.0)
    with Tape() as tape:
        early = a * weights                         # reaches `a` after the sum did, and must not reach `b`
        total = a + b                               # both rules hand on the very same array
        loss = ops.sum(total) + ops.sum(early)
    d_a, d_b, d_total = tape.gradient(loss, [a, b, total])
    assert d_a.tolist() == [11, 21]
    assert d_b.tolist() == d_total.tolist() == [1, 1]


def test_a_rule_may_return_an_array_that_it_keeps():
    kept = np.ones(2)

    @op
    def stubborn(x):
        return x, (lambda dy: kept,)

    a = tensor(1.0, 2.0)
    with Tape() as tape:
        loss = ops.sum(stubborn(a)) + ops.sum(stubborn(a)) + ops.sum(a)
    assert tape.gradient(loss, a).tolist() == [3, 3]
    assert kept.tolist() == [1, 1]


def test_asked_twice_gives_what_two_runs_give():
    generator, discriminator = SRResNet(4, 1).to(double_precision), Discriminator(2, 16).to(double_precision)
    rng = np.random.default_rng(0)
    lr, hr = rng.uniform(-1, 1, (2, 4, 4, 3)), rng.uniform(-1, 1, (2, 16, 16, 3))

    def run():
        with Tape() as tape:
            fake = discriminator(generator(lr))
            return (tape, losses.generator_adversarial(fake), losses.discriminator_adversarial(discriminator(hr), fake))

    tape, generator_loss, discriminator_loss = run()
    together = [tape.gradient(generator_loss, generator.parameters(), keep=True),
                tape.gradient(discriminator_loss, discriminator.parameters())]
    apart = []
    for which, network in [(1, generator), (2, discriminator)]:
        tape, *both = run()
        apart.append(tape.gradient(both[which - 1], network.parameters()))
    for mine, theirs in zip(together, apart):
        for g, h in zip(mine, theirs, strict=True):
            assert np.array_equal(g, h) and np.abs(g).max() > 0


def test_keep_leaves_the_tape_as_it_was():
    a = tensor(1.0)
    with Tape() as tape:
        loss = ops.square(double(a))
    before = len(tape)
    assert [float(tape.gradient(loss, a, keep=True)) for _ in range(3)] == [8, 8, 8]
    assert len(tape) == before == 2
    tape.gradient(loss, a)
    assert len(tape) == 0


# Only what is needed

def test_only_rules_between_the_source_and_the_loss_are_called(count_rules):
    called = count_rules(ops.multiply)
    a, b, c = tensor(1.0), tensor(2.0), tensor(3.0)
    with Tape() as tape:
        unused = a * a                              # leads nowhere  # noqa: F841
        frozen = b * c                              # leads to the loss, but not from `a`
        loss = a * frozen
    assert float(tape.gradient(loss, a, keep=True)) == 6
    assert called == [0]
    called.clear()
    assert float(tape.gradient(loss, b)) == 3
    assert called == [1, 0]


def test_a_frozen_network_costs_no_weight_gradients(count_rules):
    generator, vgg = SRResNet(4, 1), random_vgg19("conv2_2")
    called = count_rules(ops.conv2d)
    with Tape() as tape:
        loss = ops.mean(vgg(generator(np.ones((1, 4, 4, 3), np.float32))))
    tape.gradient(loss, generator.parameters())
    convolutions, frozen = 7, 4                     # G's: head, two in the block, after the body, two upsampling, tail
    assert called.count(1) == called.count(2) == convolutions
    assert called.count(0) == convolutions - 1 + frozen         # nobody asked for the gradient of the image


def test_the_players_losses_cost_no_gradient_of_the_other_player(count_rules):
    generator, discriminator = SRResNet(4, 1), Discriminator(2, 16)
    convolution, dense, normalisation = count_rules(ops.conv2d), count_rules(ops.linear), count_rules(ops.batch_norm)
    with Tape() as tape:
        fake = discriminator(generator(np.ones((1, 4, 4, 3), np.float32)))
        generator_loss, discriminator_loss = losses.generator_adversarial(fake), ops.mean(ops.softplus(fake))
    tape.gradient(generator_loss, generator.parameters(), keep=True)
    assert sorted(dense) == [0, 0]                              # through both linear layers, but nothing for their weights
    assert convolution.count(1) == 7 and convolution.count(0) == 6 + 8
    assert normalisation.count(1) == 3 and normalisation.count(0) == 3 + 7

    for counts in (convolution, dense, normalisation):
        counts.clear()
    tape.gradient(discriminator_loss, discriminator.parameters())
    assert convolution.count(1) == 8 and convolution.count(0) == 7          # D's first convolution does not pass it on to G
    assert sorted(dense) == [0, 0, 1, 1, 2, 2]
    assert normalisation.count(1) == 7


# Size and memory

def test_a_chain_of_ten_thousand_operations():
    a = x = tensor(1.0, 2.0)
    with Tape() as tape:
        for _ in range(10_000):
            x = x + 1.0
        loss = ops.sum(x * a)
    assert len(tape) == 10_002
    assert tape.gradient(loss, a).tolist() == [10_002, 10_004]


def memory_probe():
    """An operation whose rule holds an array, and three lists: weak references to all outputs, to all held arrays, and, of
    each rule call, how many of both are alive."""
    outputs, held, alive = [], [], []

    @op
    def probe(x):
        saved, y = x + 1, x * 2

        def d_x(dy):
            alive.append([sum(reference() is not None for reference in references) for references in (outputs, held)])
            return dy * saved / saved * 2

        outputs.append(weakref.ref(y))
        held.append(weakref.ref(saved))
        return y, (d_x,)

    return probe, alive


def test_memory_is_let_go_during_the_walk():
    probe, alive = memory_probe()
    a = x = tensor(1.0, 2.0)
    with Tape() as tape:
        for _ in range(20):
            x = probe(x)
        loss = ops.sum(x)
    del x
    assert tape.gradient(loss, a).tolist() == [2.0 ** 20] * 2
    assert alive == [[n, n] for n in range(20, 0, -1)]      # an output, and what its rule held, die before the next rule runs


def test_memory_of_records_that_no_gradient_passes_is_let_go_too():
    probe, alive = memory_probe()
    a = x = tensor(1.0, 2.0)
    with Tape() as tape:
        first = probe(a)
        for _ in range(20):
            x = double(probe(x))                            # a long side branch, later than what the loss needs
        loss = ops.sum(first)
    del x, first
    tape.gradient(loss, a)
    assert alive == [[1, 1]]


def test_keep_keeps_what_the_rules_hold():
    probe, alive = memory_probe()
    a = x = tensor(1.0, 2.0)
    with Tape() as tape:
        for _ in range(5):
            x = probe(x)
        loss = ops.sum(x)
    tape.gradient(loss, a, keep=True)
    assert alive == [[5, 5]] * 5


def test_a_tape_that_is_dropped_takes_its_records_along():
    probe, _ = memory_probe()
    a = tensor(1.0, 2.0)
    with Tape() as tape:
        y = weakref.ref(probe(a))
    assert y() is not None
    del tape
    assert y() is None


# When things are recorded

def test_no_tape_no_recording():
    with Tape() as tape:
        pass
    double(tensor(1.0))
    assert len(tape) == 0


def test_nested_tapes_record_their_own():
    a = tensor(3.0)
    with Tape() as outer:
        b = double(a)
        with Tape() as inner:
            c = ops.square(b)
        d = double(b)
    assert (len(outer), len(inner)) == (2, 1)
    assert float(inner.gradient(c, b)) == 12
    assert float(outer.gradient(d, a)) == 4


def test_independent_tapes_answer_for_themselves():
    a = tensor(3.0)
    with Tape() as first:
        b = double(a)
    with Tape() as second:
        c = ops.square(a)
    assert float(second.gradient(c, a)) == 6
    assert float(first.gradient(b, a)) == 2


def test_a_tape_can_be_continued():
    a = tensor(3.0)
    with Tape() as tape:
        b = double(a)
    ops.square(b)
    with tape:
        c = double(b)
    assert float(tape.gradient(c, a)) == 4


def test_an_exception_ends_the_recording():
    with pytest.raises(ZeroDivisionError), Tape() as tape:
        raise ZeroDivisionError
    double(tensor(1.0))
    assert len(tape) == 0


def test_another_thread_records_nothing_on_this_tape():
    with Tape() as tape:
        thread = threading.Thread(target=double, args=(tensor(1.0),))
        thread.start()
        thread.join()
    assert len(tape) == 0


# Errors

def test_a_loss_must_be_a_scalar():
    a = tensor(1.0, 2.0)
    with Tape() as tape:
        b = double(a)
        loss = ops.sum(b)
    with pytest.raises(ValueError, match=r"a loss must be a scalar, but this one has shape \(2,\)"):
        tape.gradient(b, a)
    assert tape.gradient(loss, a).tolist() == [2, 2]        # a refused question spends nothing


def test_a_parameter_without_influence_is_named():
    generator = SRResNet(4, 1)
    stray = tensor(1.0, 2.0, 3.0)
    with Tape() as tape:
        loss = ops.mean(generator.head(np.ones((1, 4, 4, 3), np.float32)))
    with pytest.raises(ValueError) as error:
        tape.gradient(loss, [*generator.parameters(), stray])
    assert "does not depend on" in str(error.value)
    assert "tail.weight" in str(error.value) and "body.0.1.gamma" in str(error.value)
    assert f"wrt[{len(generator.parameters())}], shape (3,)" in str(error.value)
    assert "head" not in str(error.value)
    tape.gradient(loss, generator.head.parameters())        # a refused question spends nothing


def test_a_loss_that_no_tape_recorded_depends_on_nothing():
    a = tensor(1.0)
    b = double(a)
    with Tape() as tape:
        loss = double(b)
    with pytest.raises(ValueError, match="before the tape began"):
        tape.gradient(loss, a)


def test_a_spent_tape_says_so():
    a = tensor(1.0)
    with Tape() as tape:
        loss = double(a)
    tape.gradient(loss, a)
    with pytest.raises(RuntimeError, match="spent.*keep=True"):
        tape.gradient(loss, a)
    with pytest.raises(RuntimeError, match="spent"), tape:
        pass


def test_a_rule_that_returns_the_wrong_shape_is_named():
    @op
    def careless(x):
        return x * np.ones((2, 1)), (lambda dy: dy,)

    a = tensor(1.0, 2.0, 3.0)
    with Tape() as tape:
        loss = ops.sum(careless(a))
    with pytest.raises(ValueError, match=r"careless: .* shape \(2, 3\) for an input of shape \(3,\)"):
        tape.gradient(loss, a)
