"""Against PyTorch in float64: every operation, the losses, whole networks at the paper's size, Adam, ten steps of training."""
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; the golden files stand in for it")

import oracle  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from comparisons import (  # noqa: E402
    OPERATIONS,
    PAPER_NETWORKS,
    SMALL_NETWORKS,
    Comparison,
    double,
    relative_error,
    small_trainer,
    training_run,
    wave,
    worst_error,
)

from npsrgan import losses, ops  # noqa: E402
from npsrgan.adam import Adam, schedule  # noqa: E402
from npsrgan.fast import adam as fast_adam  # noqa: E402
from npsrgan.layers import Linear  # noqa: E402
from npsrgan.tape import Tape, Tensor  # noqa: E402

# Channels and sides at which fast versions take other paths.
WIDE = [Comparison("conv2d", [image, kernel, kernel[3:]], options) for image, kernel, options in [
    ((2, 22, 21, 64), (3, 3, 64, 64), {}),
    ((1, 11, 12, 64), (3, 3, 64, 256), {}),
    ((2, 8, 8, 256), (3, 3, 256, 256), {}),
    ((1, 3, 3, 512), (3, 3, 512, 512), {}),
    ((2, 24, 23, 64), (3, 3, 64, 64), {"stride": 2}),
    ((1, 6, 6, 512), (3, 3, 512, 512), {"stride": 2}),
    ((1, 30, 29, 3), (9, 9, 3, 64), {}),
    ((1, 30, 31, 64), (9, 9, 64, 3), {}),
]]


def test_every_operation_is_compared():
    assert len({comparison.operation for comparison in OPERATIONS} & set(ops.__all__)) >= 22        # a new one need not be


@pytest.mark.parametrize("comparison", OPERATIONS + WIDE, ids=str)
def test_operation(comparison, version):
    error, name = worst_error(comparison.run(), oracle.run_operation(comparison))
    assert error < 1e-12, name


@pytest.fixture(scope="module", params=SMALL_NETWORKS + PAPER_NETWORKS, ids=str)
def network(request):
    """A comparison, what torch says, and which gradients are zero: found once for both versions."""
    return request.param, oracle.run_network(request.param), request.param.zero()


def test_network(network, version):
    comparison, theirs, zero = network
    error, name = worst_error(comparison.run(), theirs, zero)
    assert error < 1e-12, name


@pytest.mark.parametrize("size", [1, 8, 30])
@pytest.mark.parametrize("ours, theirs", [
    (losses.mean_squared_error, F.mse_loss),
    (lambda real, fake: losses.generator_adversarial(fake) + 0.0 * ops.mean(real),
     lambda real, fake: F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake)) + 0 * real.mean()),
    (losses.discriminator_adversarial,
     lambda real, fake: (F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
                         + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))) / 2),
], ids=["mean_squared_error", "generator", "discriminator"])
def test_loss(ours, theirs, size):
    arrays = size * wave(9, 1), size * wave(9, 1, seed=1)
    mine, torchs = [Tensor(a) for a in arrays], [oracle.tensor(a) for a in arrays]
    with Tape() as tape:
        loss = ours(*mine)
    expected = theirs(*torchs)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-12)
    for gradient, t in zip(tape.gradient(loss, mine), torchs):
        assert relative_error(gradient, t.grad.numpy()) < 1e-12


@pytest.mark.parametrize("options", [{}, {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3}], ids=["defaults", "others"])
@pytest.mark.parametrize("kind", ["constant", "drop", "cosine"])
def test_adam(kind, options, monkeypatch):
    monkeypatch.setattr(fast_adam, "BLOCK", 1000)
    steps, network = 100, Linear(60, 50)
    network.load_state_dict({"weight": wave(60, 50), "bias": wave(50, seed=1)})
    network.to(double)
    adam = Adam(network, schedule(kind, 1e-2, steps), **options)
    theirs = [oracle.tensor(p.array) for p in network.parameters()]
    betas = options.get("beta1", 0.9), options.get("beta2", 0.999)
    optimiser = torch.optim.Adam(theirs, 1e-2, betas, options.get("eps", 1e-8))
    factor = {"constant": lambda t: 1, "drop": lambda t: 1 if t < steps / 2 else 0.1,
              "cosine": lambda t: 0.01 + 0.99 * (1 + np.cos(np.pi * t / steps)) / 2}[kind]
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    for step in range(steps):
        gradients = [10.0 ** (step % 5 - 2) * wave(*p.shape, seed=step) + 0.1 for p in network.parameters()]
        adam.step(gradients)
        for parameter, gradient in zip(theirs, gradients):
            parameter.grad = torch.tensor(gradient)
        optimiser.step()
        rates.step()
    assert adam.steps == steps
    for mine, parameter in zip(network.parameters(), theirs):
        assert relative_error(mine.array, parameter.detach().numpy()) < 1e-12


def test_ten_steps_of_srresnet_and_srgan(version):
    trainer = small_trainer()
    theirs, first = oracle.run_training(trainer), {name: network.flat.copy() for name, network in trainer.networks.items()}
    error, name = worst_error(training_run(trainer), theirs)
    assert error < 1e-8, name
    for name, network in trainer.networks.items():
        assert np.abs(network.flat - first[name]).max() > 1e-3          # they did move
