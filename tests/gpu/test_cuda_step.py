"""A whole training step of both generators and the discriminator with the GPU's twins, played on the CPU."""
from unittest import mock

import emulate
import numpy as np
import pytest
from comparisons import DOUBLE, relative_error, rounding, wave
from emulate import emulated

from npsrgan import losses
from npsrgan.device import CPU
from npsrgan.fast import cuda
from npsrgan.fast.cuda import compile
from npsrgan.ops.operation import reference_only
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer

STEP_TERMS = 10_000         # as in test_gpu.py, of smaller networks


def one_step(device):
    """A trainer that has taken a step, and the losses of it.  Of smaller images D's last batch norm would have two values for each
    channel; its gradient is then a difference of nearly equal numbers."""
    settings = Settings(steps=1, together=True, patch_size=8, channels=8, blocks=1, discriminator_channels=4, vgg_layer="conv2_1",
                        adversarial_weight=0.1)
    trainer = Trainer(settings.validate(), device, say=lambda line: None)
    return trainer, trainer.step(*(wave(2, side, side, 3, seed=1).astype(np.float32) for side in (8, 32)))


@pytest.fixture
def played(monkeypatch):
    """An emulated GPU; the names of the kernels that were launched on it."""
    launched, twin = set(), losses.mean_squared_error.twins[0]

    def mean_squared_error(a, b):       # NumPy makes a number of an array without axes where CuPy keeps the array
        done = twin(a, b)
        return done if done is NotImplemented else (done[0], tuple(lambda dy, rule=rule: rule(np.asarray(dy)) for rule in done[1]))

    monkeypatch.setattr(losses.mean_squared_error, "twins", [mean_squared_error])

    def noting(name, function, *args, **kwargs):
        launched.add(function)
        return emulate.kernel(name, function, *args, **kwargs)

    cuda.set_precision("float32")
    with emulated(multiprocessors=1), mock.patch.object(compile, "kernel", noting):
        yield launched
    cuda.set_precision("tf32")


@pytest.mark.skipif(emulate.GXX is None, reason="no g++, with which the emulated kernels are built")
def test_a_training_step(played):
    """In float32, against the reference in double precision."""
    mine, my_losses = one_step(CPU)
    with reference_only():
        theirs, their_losses = one_step(DOUBLE)
    assert my_losses == pytest.approx(their_losses, rel=rounding(STEP_TERMS))
    for name, network in mine.networks.items():
        assert relative_error(mine.adam[name].m, theirs.adam[name].m) < rounding(STEP_TERMS)       # the gradients, that is
        for key, state in network.state().items():
            assert relative_error(state, theirs.networks[name].state()[key]) < rounding(STEP_TERMS), key
    assert played == {
        "convolution", "kernel_gradient", "add_planes", "column_sums", "sum_parts", "moments", "finish_moments", "normalise",
        "gradient_sums", "gradient", "relu", "relu_gradient", "leaky_relu", "leaky_relu_gradient", "prelu", "prelu_gradient",
        "softplus", "softplus_gradient", "pixel_shuffle", "pixel_shuffle_gradient", "max_pool2d", "max_pool2d_gradient", "add",
        "squared_error", "finish_mean", "squared_error_gradient", "adam"}
