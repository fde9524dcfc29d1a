"""What the benchmark measures.  Each row is prepared for us and for PyTorch, on a CPU or a GPU, with the same numbers in both."""
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from npsrgan import ops
from npsrgan.adam import Adam
from npsrgan.device import CPU
from npsrgan.inference import fold
from npsrgan.models import Discriminator, SRResNet
from npsrgan.ops.operation import evaluate
from npsrgan.train.settings import PRESETS
from npsrgan.trainer import Trainer

_device = CPU

# The three networks' convolutions in preset `seed`: image size, kernel size, channels in and out, stride.
CONVOLUTIONS = [
    (44, 9, 3, 64, 1), (44, 3, 64, 64, 1), (44, 3, 64, 256, 1), (88, 3, 64, 256, 1), (176, 9, 64, 3, 1),
    (176, 3, 3, 64, 1), (176, 3, 64, 64, 1), (176, 3, 64, 64, 2), (88, 3, 64, 128, 1), (88, 3, 128, 128, 1), (88, 3, 128, 128, 2),
    (44, 3, 128, 256, 1), (44, 3, 256, 256, 1), (44, 3, 256, 256, 2), (22, 3, 256, 512, 1), (22, 3, 512, 512, 1),
    (22, 3, 512, 512, 2), (11, 3, 512, 512, 1)]
QUICK = CONVOLUTIONS[1], CONVOLUTIONS[4], CONVOLUTIONS[10]


def convolution_name(size, k, c, o, stride):
    """A convolution's name in tables."""
    return f"conv {k}x{k} {c}->{o} at {size}" + "/2" * (stride == 2)


@dataclass
class Row:
    """One thing to measure.  prepare("ours") and prepare("torch") return functions to be timed.  `plain` makes their results comparable."""

    name: str
    prepare: Callable
    flops: float = 0            # additions and multiplications by the definition of the operation
    bytes: float = 0            # total size of all inputs and outputs
    step: bool = False          # whether it is a training step or Adam's part of one
    precision: str | None = None    # of convolutions on a GPU, if it is not the requested one
    result: dict = field(default_factory=dict)


def compute_on(device):
    """Make our side compute on this device.Device from now on."""
    global _device
    _device = device


def upload(values):
    """A copy of `values` where our side computes."""
    return _device.array(values)


def plain(result):
    """The result of a row's function as a NumPy array, or None."""
    if isinstance(result, dict):
        return np.array([float(value) for value in result.values()])
    for method in ("get", "cpu"):           # CuPy's and PyTorch's methods to copy to main memory
        result = getattr(result, method)() if hasattr(result, method) else result
    return None if result is None else np.asarray(result)


def draw(*shape, seed=0):
    """Standard normal float32 entries, determined by shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def operation(name, ours, arguments, theirs, flops=0, bytes=0, channels=None):
    """Two rows for an operation: its value alone, and its value with all gradients.

    arguments: a function that draws them.   theirs(F, *tensors), with torch's F.
    channels: the order of x's channels for which torch gives the same result.
    """
    for gradients in (False, True):
        def prepare(side, gradients=gradients):
            drawn = arguments()
            cotangent = draw(len(drawn[0]), *ours(drawn[0][:1], *drawn[1:]).shape[1:], seed=1) if gradients else None
            if side == "torch":
                from npsrgan.bench import pytorch
                return pytorch.operation(theirs, [a for a in drawn if isinstance(a, np.ndarray)], cotangent, channels)

            inputs = [upload(a) if isinstance(a, np.ndarray) else a for a in drawn]
            dy = upload(cotangent) if gradients else None

            def run():
                y, rules = evaluate(ours, inputs, {})         # as when a tape records, but without one
                return [rule(dy) for rule in rules][0] if gradients else y
            return run
        yield Row(name + " +gradients" * gradients, prepare, flops * (1 + 2 * gradients), bytes * (1 + 2 * gradients))


def operations(quick, batch=4):
    """Rows for the operations: every distinct convolution, batch norm, PReLU and pixel shuffle."""
    for size, k, c, o, stride in QUICK if quick else CONVOLUTIONS:
        def arguments(size=size, k=k, c=c, o=o, stride=stride):
            return draw(batch, size, size, c), draw(k, k, c, o) / np.float32((k * k * c) ** 0.5), draw(o), stride
        pixels = batch * (size // stride) ** 2
        yield from operation(convolution_name(size, k, c, o, stride), ops.conv2d, arguments,
                             lambda F, x, w, b, s=stride, p=k // 2: F.conv2d(x, w, b, s, p),
                             2 * pixels * k * k * c * o, 4 * (batch * size * size * c + k * k * c * o + pixels * o))
    for size, c in [(44, 64)] if quick else [(44, 64), (88, 128), (22, 512)]:
        yield from operation(f"batch_norm {c} at {size}", ops.batch_norm,
                             lambda size=size, c=c: (draw(batch, size, size, c), draw(c), draw(c)),
                             lambda F, x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, True))
    for size in [88] if quick else [44, 88, 176]:
        yield from operation(f"prelu 64 at {size}", ops.prelu,
                             lambda size=size: (draw(batch, size, size, 64), np.full(64, 0.25, np.float32)),
                             lambda F, x, slope: F.prelu(x, slope))
    if not quick:
        yield from operation("pixel_shuffle 256 at 88", ops.pixel_shuffle, lambda: (draw(batch, 88, 88, 256),),
                             lambda F, x: F.pixel_shuffle(x, 2),
                             channels=np.arange(256).reshape(4, 64).T.ravel())      # their c*4 + i is our i*64 + c


def adam_step(side):
    """One step of Adam on the discriminator at 176x176: 68 million parameters."""
    discriminator = Discriminator()
    if side == "torch":
        from npsrgan.bench import pytorch
        return pytorch.adam_step(discriminator)
    adam = Adam(_moved(discriminator))
    gradients = [upload(draw(*p.shape)) for p in discriminator.parameters()]
    return lambda: adam.step(gradients)


def inference(height, width):
    """A paper-size SRResNet, folded, on one image of height x width pixels."""
    def prepare(side):
        generator, lr = SRResNet().eval(), draw(1, height, width, 3)
        if side == "torch":
            from npsrgan.bench import pytorch
            return pytorch.inference(generator, lr)
        generator, lr = fold(_moved(generator)), upload(lr)
        return lambda: generator(lr).array
    return prepare


def _moved(network):
    """The network, on the device."""
    return network if _device.module is np else network.to(upload)


def training(method, batch, patch=44):
    """A step of preset `seed`, 44x44 -> 176x176: `srresnet_step`, or `step`, which is SRResNet and SRGAN with VGG19.

    batch: the number of low-resolution patches of patch x patch pixels.
    """
    def prepare(side):
        settings = replace(PRESETS["seed"], batch_size=batch, patch_size=patch, together=method == "step")
        trainer = Trainer(settings, CPU if side == "torch" else _device, say=lambda line: None)
        lr, hr = (np.tanh(draw(batch, size, size, 3)) for size in (patch, 4 * patch))
        if side == "torch":
            from npsrgan.bench import pytorch
            trainer, lr, hr = pytorch.Trainer(trainer), pytorch.tensor(lr), pytorch.tensor(hr)
        else:
            lr, hr = upload(lr), upload(hr)

        def run():
            losses = getattr(trainer, method)(lr, hr)
            return {name: losses[name] for name in sorted(losses)}
        run.graphs = getattr(trainer, "graphs", None)
        return run
    return prepare
