"""What is compared with PyTorch: every operation on many shapes, and whole networks.  No PyTorch here: see oracle.py.

Inputs and weights come from a formula, since NumPy may change its random streams; so answers can be kept (golden/).
"""
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from npsrgan import ops
from npsrgan.device import Device
from npsrgan.layers import BatchNorm, Conv2d, Sequential
from npsrgan.models import VGG19, Discriminator, SRResNet
from npsrgan.tape import Tape, Tensor
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer


def wave(*shape, seed=0):
    """Numbers in [-1, 1] without a pattern: the sine of a growing frequency.  The same everywhere, to the last bit or two."""
    count = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float64)
    return np.sin(0.37 * count * count + seed).reshape(shape)


def positive(*shape, seed=0):
    """The same in [0.5, 2.5]."""
    return 1.5 + wave(*shape, seed=seed)


def double(array):
    """The array in double precision, for `Layer.to`."""
    return array.astype(np.float64)


DOUBLE = Device(SimpleNamespace(array=lambda values: np.array(values, np.float64)), "NumPy in double precision")


def rounding(terms, dtype=np.float32):
    """How far rounding may move a result, relative to its size, on the way through sums of `terms` numbers in all: 4 eps sqrt(terms).

    Each addition rounds its partial sum by at most u = eps / 2, up or down.  The errors of n additions therefore add up as a random
    walk does: to no more than 8 u sqrt(n), but for one result in 10^13 (Higham and Mary 2019, theorem 2.4, with lambda = 8).  Layers one
    after another count as one long sum.  Which kernels the BLAS library picks changes the order of the sums, but not this limit.
    """
    return 4 * float(np.finfo(dtype).eps) * terms ** 0.5


def relative_error(mine, theirs):
    """max|mine - theirs| / max|theirs|."""
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    assert mine.shape == theirs.shape
    return np.abs(mine - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), np.finfo(np.float64).tiny)


def worst_error(mine, theirs, zero=()):
    """The largest relative error among {name: array}, and whose it is.  Of the names in `zero`, where theory says 0
    and both sides hold nothing but rounding, the largest entry of `mine` counts instead."""
    assert mine.keys() == theirs.keys()
    return max((np.abs(mine[name]).max() if name in zero else relative_error(mine[name], theirs[name]), name) for name in mine)


def digest(array):
    """The array itself if it is small, else its projections on two waves, about as large as its norm."""
    if array.size <= 500:
        return array
    return np.array([np.vdot(wave(array.size, seed=seed), array) for seed in (101, 102)])


class Comparison(NamedTuple):
    """An operation by name, the shapes of its inputs, its options, and the function that makes inputs of shapes."""

    operation: str
    shapes: list
    options: dict = {}
    values: object = wave

    def __str__(self):
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        options = (f"{k} {'x'.join(map(str, v.shape)) if hasattr(v, 'shape') else v}" for k, v in self.options.items())
        return f"{self.operation}: " + "; ".join([shapes, *options])

    def inputs(self):
        return [self.values(*shape, seed=seed) for seed, shape in enumerate(self.shapes)]

    def run(self):
        """{name: array}: the value, the gradient of every input for one cotangent, and the options that are arrays, as the
        operation left them."""
        tensors = [Tensor(array) for array in self.inputs()]
        options = {name: np.copy(value) if hasattr(value, "shape") else value for name, value in self.options.items()}
        with Tape() as tape:
            value = getattr(ops, self.operation)(*tensors, **options)
            loss = ops.sum(value * wave(*value.shape, seed=99))
        gradients = tape.gradient(loss, tensors)
        return ({"value": value.array} | {f"gradient {k}": g for k, g in enumerate(gradients)}
                | {name: option for name, option in options.items() if hasattr(option, "shape")})


def _wide(*shape, seed=0):
    return 30 * wave(*shape, seed=seed)


def _statistics(channels, training):
    return {"running_mean": wave(channels, seed=7), "running_var": positive(channels, seed=8), "training": training}


OPERATIONS = [Comparison(*line) for line in [
    ("add", [(2, 3, 4), (2, 3, 4)]),
    ("add", [(2, 3, 4), (3, 1)]),
    ("add", [(4,), (2, 3, 4)]),
    ("add", [(2, 1, 4), (1, 3, 1)]),
    ("subtract", [(2, 3, 4), (2, 3, 4)]),
    ("subtract", [(3, 1), (2, 3, 4)]),
    ("subtract", [(2, 3, 4), ()]),
    ("multiply", [(3, 3), (3, 3)]),
    ("multiply", [(2, 3, 4), (2, 1, 4)]),
    ("multiply", [(), (2, 3)]),
    ("scale", [(3, 4)], {"factor": -1.7}),
    ("square", [(3, 4)]),
    ("absolute", [(3, 4)]),
    ("log", [(3, 4)], {}, positive),
    ("sum", [(2, 3, 4)]),
    ("sum", [(2, 3, 4)], {"axis": 1}),
    ("sum", [(2, 3, 4)], {"axis": (0, 2)}),
    ("sum", [(2, 3, 4)], {"axis": (0, -1), "keepdims": True}),
    ("mean", [(2, 3, 4)]),
    ("mean", [(2, 3, 4)], {"axis": -1}),
    ("mean", [(2, 3, 4)], {"axis": (0, 1), "keepdims": True}),
    ("relu", [(3, 5, 7)]),
    ("leaky_relu", [(3, 5, 7)]),
    ("leaky_relu", [(3, 5, 7)], {"slope": 0.01}),
    ("prelu", [(2, 5, 4, 3), (3,)]),
    ("prelu", [(2, 5, 4, 3), (1,)]),
    ("prelu", [(6, 4), (4,)]),
    ("sigmoid", [(3, 5)]),
    ("sigmoid", [(6, 9)], {}, _wide),
    ("softplus", [(3, 5)]),
    ("softplus", [(6, 9)], {}, _wide),
    ("linear", [(3, 4), (4, 5), (5,)]),
    ("linear", [(1, 7), (7, 1), (1,)]),
    ("linear", [(5, 4), (4, 3)]),
    # Convolutions: every kernel and stride of the networks, sides even, odd and smaller than the kernel.
    ("conv2d", [(2, 5, 6, 3), (3, 3, 3, 4), (4,)]),
    ("conv2d", [(1, 1, 1, 3), (3, 3, 3, 4), (4,)]),
    ("conv2d", [(2, 9, 4, 5), (3, 3, 5, 2), (2,)]),
    ("conv2d", [(1, 13, 14, 4), (3, 3, 4, 4), (4,)]),
    ("conv2d", [(2, 4, 5, 3), (3, 3, 3, 2)]),
    ("conv2d", [(2, 8, 8, 3), (3, 3, 3, 4), (4,)], {"stride": 2}),
    ("conv2d", [(2, 7, 9, 3), (3, 3, 3, 4), (4,)], {"stride": 2}),
    ("conv2d", [(2, 7, 6, 3), (3, 3, 3, 4), (4,)], {"stride": 2}),
    ("conv2d", [(2, 6, 7, 3), (3, 3, 3, 4)], {"stride": 2}),
    ("conv2d", [(1, 2, 1, 3), (3, 3, 3, 4), (4,)], {"stride": 2}),
    ("conv2d", [(1, 10, 11, 3), (9, 9, 3, 4), (4,)]),
    ("conv2d", [(1, 4, 5, 4), (9, 9, 4, 3), (3,)]),
    ("conv2d", [(2, 3, 4, 3), (1, 1, 3, 5), (5,)]),
    ("conv2d", [(2, 5, 4, 3), (1, 1, 3, 5), (5,)], {"stride": 2}),
    ("conv2d", [(1, 7, 6, 2), (5, 5, 2, 3), (3,)]),
    ("conv2d", [(2, 6, 5, 3), (3, 3, 3, 4), (4,)], {"padding": 0}),
    ("conv2d", [(2, 6, 5, 3), (3, 3, 3, 4), (4,)], {"padding": 2}),
    ("conv2d", [(2, 7, 7, 3), (3, 3, 3, 4), (4,)], {"stride": 2, "padding": 0}),
    ("conv2d", [(1, 5, 7, 2), (2, 4, 2, 3)], {"stride": 3, "padding": 2}),
    ("conv2d", [(1, 6, 7, 2), (4, 2, 2, 3), (3,)]),
    ("batch_norm", [(3, 4, 5, 3), (3,), (3,)]),
    ("batch_norm", [(3, 4, 5, 3), (3,), (3,)], _statistics(3, training=True)),
    ("batch_norm", [(3, 4, 5, 3), (3,), (3,)], _statistics(3, training=False)),
    ("batch_norm", [(7, 2), (2,), (2,)], _statistics(2, training=True)),
    ("batch_norm", [(2, 1, 1, 4), (4,), (4,)], _statistics(4, training=True)),
    ("batch_norm", [(5, 3, 3, 2), (2,), (2,)], _statistics(2, training=True) | {"momentum": 0.7, "eps": 1e-3}),
    ("max_pool2d", [(2, 4, 6, 3)]),
    ("max_pool2d", [(2, 5, 7, 3)]),
    ("max_pool2d", [(1, 6, 7, 2)], {"size": 3, "stride": 2}),
    ("max_pool2d", [(1, 7, 7, 2)], {"size": 2, "stride": 3}),
    ("pixel_shuffle", [(2, 3, 4, 12)]),
    ("pixel_shuffle", [(1, 5, 2, 4)]),
    ("pixel_shuffle", [(1, 2, 3, 18)], {"r": 3}),
    ("reshape", [(2, 3, 4)], {"shape": (4, -1)}),
    ("flatten", [(2, 3, 4, 2)]),
    ("slice", [(4, 5, 3)], {"index": np.s_[1:, ::2, 0]}),
    ("slice", [(4, 5, 3)], {"index": np.s_[..., -1]}),
    ("slice", [(4, 5)], {"index": 2}),
    ("concatenate", [(2, 3), (2, 4), (2, 1)]),
    ("concatenate", [(2, 3, 2), (1, 3, 2)], {"axis": 0}),
]]


def fill(network):
    """Give a network weights by formula, in float64, such that signals keep their size and no gradient is small."""
    network.to(double)
    for seed, (name, array) in enumerate(network.state_dict().items()):
        values = wave(*array.shape, seed=seed)
        kind = name.rsplit(".", 1)[-1]
        if kind == "weight":
            values *= 2 / np.sqrt(array.size / array.shape[-1])         # the variance of `wave` is 1/2: He initialisation
        elif kind in ("gamma", "running_var", "input_gain"):
            values = 1 + 0.3 * values
        elif kind == "slope":
            values = 0.25 + 0.1 * values
        else:
            values *= 0.1
        array[...] = values
    return network


class NetworkComparison(NamedTuple):
    """A network by class and settings, the shape of its input, and its mode."""

    network: type
    settings: dict
    shape: tuple
    training: bool = True

    def __str__(self):
        settings = ", ".join(f"{k} {v}" for k, v in self.settings.items())
        return f"{self.network.__name__}: {settings}; {'training' if self.training else 'evaluation'}"

    def zero(self):
        """The names of the gradients that theory says are zero: of biases that a batch norm then subtracts with the mean."""
        return [f"gradient of {bias.name}" for bias in _biases_before_batch_norm(self.build())] if self.training else []

    def build(self):
        return fill(self.network(**self.settings)).train(self.training)

    def run(self):
        """{name: array}: the output, the gradient of the input and of every parameter, and the state afterwards."""
        network, image = self.build(), Tensor(wave(*self.shape))
        with Tape() as tape:
            value = network(image)
            loss = ops.mean(value * wave(*value.shape, seed=99))
        parameters = network.parameters()
        d_image, *gradients = tape.gradient(loss, [image, *parameters])
        return ({"value": value.array, "gradient of the input": d_image} | network.state()
                | {f"gradient of {p.name}": g for p, g in zip(parameters, gradients)})


def _biases_before_batch_norm(network):
    return [step.bias for layer in network.layers() if isinstance(layer, Sequential)
            for step, after in zip(layer.steps, layer.steps[1:]) if isinstance(step, Conv2d) and isinstance(after, BatchNorm)]


SMALL_NETWORKS = [NetworkComparison(*line) for line in [
    (SRResNet, {"channels": 4, "blocks": 2}, (2, 5, 4, 3)),
    (SRResNet, {"channels": 4, "blocks": 2}, (2, 5, 4, 3), False),
    (SRResNet, {"channels": 6, "blocks": 1, "scale": 2}, (2, 3, 6, 3)),
    (Discriminator, {"channels": 2, "image_size": 16}, (3, 16, 16, 3)),
    (Discriminator, {"channels": 2, "image_size": 32, "slope": 0.01}, (2, 32, 32, 3), False),
    (VGG19, {"layer": "conv2_2", "feature_scale": 0.5}, (2, 9, 8, 3), False),
]]
PAPER_NETWORKS = [NetworkComparison(*line) for line in [
    (SRResNet, {"channels": 64, "blocks": 16}, (2, 6, 7, 3)),
    (SRResNet, {"channels": 64, "blocks": 16}, (1, 6, 7, 3), False),
    (Discriminator, {"channels": 64, "image_size": 32}, (3, 32, 32, 3)),
    (Discriminator, {"channels": 64, "image_size": 32}, (2, 32, 32, 3), False),
    (VGG19, {"layer": "conv5_4"}, (1, 32, 32, 3), False),
]]


STEPS = 10
RATES = {"srresnet": ("drop", 1e-3), "srgan": ("cosine", 2e-3), "discriminator": ("cosine", 2e-3)}
WEIGHTS = {"pixel": 1.0, "perceptual": 0.1, "adversarial": 0.1}


def small_trainer():
    """A trainer of both generators and the discriminator in double precision, its weights by formula."""
    settings = Settings(steps=STEPS, together=True, patch_size=8, channels=8, blocks=2, discriminator_channels=4, equal_phases=False,
                        schedule=RATES["srresnet"][0], learning_rate=RATES["srresnet"][1],
                        gan_schedule=RATES["srgan"][0], gan_learning_rate=RATES["srgan"][1],
                        vgg_layer="conv2_2", **{f"{name}_weight": weight for name, weight in WEIGHTS.items()})
    trainer = Trainer(settings.validate(), DOUBLE, say=lambda line: None)
    for network in (*trainer.networks.values(), trainer.vgg):
        weights = {name: array.copy() for name, array in fill(type(network)(**network.settings)).state_dict().items()}
        network.pack().load_state_dict(weights)         # VGG19 was frozen
    return trainer


def small_batch(step):
    """Low and high resolution, (2, 8, 8, 3) and (2, 32, 32, 3)."""
    return wave(2, 8, 8, 3, seed=step), wave(2, 32, 32, 3, seed=step)


def training_run(trainer):
    """The losses of every step by name, and what the parameters have become."""
    rows = [trainer.step(*small_batch(step)) for step in range(STEPS)]
    return ({name: np.array([row[name] for row in rows]) for name in rows[0]}
            | {f"parameters of {name}": network.flat for name, network in trainer.networks.items()})
