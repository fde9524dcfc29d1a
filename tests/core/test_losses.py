"""The losses against their formulas; which of them stay alive where the discriminator is sure."""
import math

import numpy as np
import pytest
from comparisons import relative_error, wave

from npsrgan import losses
from npsrgan.tape import Tape, Tensor

REAL, FAKE = 3 * wave(7, 1), 3 * wave(7, 1, seed=1)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def with_gradients(loss, *arrays):
    tensors = [Tensor(array) for array in arrays]
    with Tape() as tape:
        value = loss(*tensors)
    return float(value), tape.gradient(value, tensors)


def test_mean_squared_error():
    a, b = wave(2, 3, 4, 3), wave(2, 3, 4, 3, seed=1)
    value, (d_a, d_b) = with_gradients(losses.mean_squared_error, a, b)
    assert value == pytest.approx(((a - b) ** 2).sum() / 72, rel=1e-14)
    assert relative_error(d_a, 2 * (a - b) / 72) < 1e-14 and np.array_equal(d_b, -d_a)


def test_weighted_absolute_error():
    a, b = [wave(2, 3, 4, 3), wave(1, 5)], [wave(2, 3, 4, 3, seed=1), wave(1, 5, seed=1)]
    value, (d_first, d_second) = with_gradients(lambda *a: losses.weighted_absolute_error(a, b, (0.5, 3)), *a)
    assert value == pytest.approx(0.5 * abs(a[0] - b[0]).mean() + 3 * abs(a[1] - b[1]).mean(), rel=1e-14)
    assert np.allclose(d_first, 0.5 * np.sign(a[0] - b[0]) / 72, rtol=1e-14)
    assert np.allclose(d_second, 3 * np.sign(a[1] - b[1]) / 5, rtol=1e-14)


def test_generator_adversarial_is_minus_log_d():
    value, (gradient,) = with_gradients(losses.generator_adversarial, FAKE)
    assert value == pytest.approx(-np.log(sigmoid(FAKE)).mean(), rel=1e-14)
    assert relative_error(gradient, (sigmoid(FAKE) - 1) / 7) < 1e-14


def test_discriminator_adversarial_is_the_mean_of_both_errors():
    value, (d_real, d_fake) = with_gradients(losses.discriminator_adversarial, REAL, FAKE)
    assert value == pytest.approx((-np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean()) / 2, rel=1e-13)
    assert relative_error(d_real, (sigmoid(REAL) - 1) / 14) < 1e-14
    assert relative_error(d_fake, sigmoid(FAKE) / 14) < 1e-14


def test_the_discriminators_loss_does_not_care_how_many_there_are_of_each():
    few, _ = with_gradients(losses.discriminator_adversarial, REAL, FAKE[:1])
    many, _ = with_gradients(losses.discriminator_adversarial, REAL, np.repeat(FAKE[:1], 5, axis=0))
    assert few == pytest.approx(many, rel=1e-14)


def test_a_discriminator_that_cannot_tell_pays_log_2():
    zeros = np.zeros((4, 1))
    assert with_gradients(losses.discriminator_adversarial, zeros, zeros)[0] == pytest.approx(math.log(2), rel=1e-15)
    assert with_gradients(losses.generator_adversarial, zeros)[0] == pytest.approx(math.log(2), rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sure", [40, 1000])
def test_where_the_discriminator_is_sure_the_losses_keep_their_gradient(sure, dtype):
    caught = np.full((2, 1), -sure, dtype)          # D sees through both fakes, or takes both photographs for fakes
    fooled = -caught

    value, (gradient,) = with_gradients(losses.generator_adversarial, caught)
    assert value == sure and (gradient == -0.5).all()

    value, (d_real, d_fake) = with_gradients(losses.discriminator_adversarial, caught, fooled)
    assert value == sure and (d_real == -0.25).all() and (d_fake == 0.25).all()


def test_the_generators_loss_does_not_saturate():
    """-log D is steepest where D is sure of a fake; log(1 - D), its saturating sister, is flat there (Goodfellow et al. 2014)."""
    logits = np.linspace(-12, 12, 25)[:, None]
    _, (gradient,) = with_gradients(losses.generator_adversarial, logits)
    assert (np.diff(gradient, axis=0) > 0).all() and (gradient < 0).all()
    assert gradient[0] * 25 == pytest.approx(-1, abs=1e-5)
    saturating = -sigmoid(logits)                   # d/dz of log(1 - sigmoid(z))
    assert abs(saturating[0]) < 1e-5


def test_the_players_pull_the_fakes_logit_in_opposite_directions():
    _, (for_g,) = with_gradients(losses.generator_adversarial, FAKE)
    _, (_, for_d) = with_gradients(losses.discriminator_adversarial, REAL, FAKE)
    assert (for_g < 0).all() and (for_d > 0).all()


@pytest.mark.parametrize("loss, count", [(losses.mean_squared_error, 2), (losses.generator_adversarial, 1),
                                         (losses.discriminator_adversarial, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_keep_the_type_of_numbers(loss, count, dtype, version):
    tensors = [Tensor(wave(5, 1, seed=seed).astype(dtype)) for seed in range(count)]
    with Tape() as tape:
        value = loss(*tensors)
    assert value.dtype == dtype and value.shape == ()
    assert all(g.dtype == dtype for g in tape.gradient(value, tensors))
