"""Gradient checks: every rule is compared with central finite differences, in float64, through the tape.

    python -m npsrgan.gradcheck          one line per operation and input, and per network; exit status 1 on a failure

For an operation, every entry of small inputs is changed by +-1e-6, and the change of a scalar loss is compared with the
result of the rule.  The loss is sum(cotangent * output) with a *random* cotangent: with all ones, a batch norm whose gradient is zero
would pass, because the sum of its output never changes.  Inputs stay at least 0.1 away from kinks.  A network has
too many entries, so it is checked along random directions in the space of all its parameters.
"""
import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from npsrgan import losses, ops
from npsrgan.fast.blocks import any_size
from npsrgan.layers import Layer
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.ops.operation import reference_only
from npsrgan.system.errors import command
from npsrgan.tape import Tape, Tensor

EPS = 1e-6
TOLERANCE = 1e-7        # for errors relative to the largest entry of the gradient
ZERO = 1e-9             # for gradients that are zero in theory


class Check(NamedTuple):
    """The largest error found between `analytic`, the result of the rules, and `numeric`, the finite difference."""

    name: str
    what: str           # the input, or the direction
    where: tuple        # index of the worst entry
    analytic: float
    numeric: float
    error: float
    limit: float = TOLERANCE

    @property
    def passed(self):
        """Whether the error is below the limit.  NaN never passes."""
        return self.error < self.limit

    def __str__(self):
        line = f"{'ok  ' if self.passed else 'FAIL'}  {self.name:34} {self.what:22} error {self.error:.1e}"
        if not self.passed:
            line += f"  worst at {self.where}: the rule says {self.analytic:.10g}, finite differences say {self.numeric:.10g}"
        return line


def check(function, *inputs, name=None, zero=(), seed=0, eps=EPS):
    """Check the gradient of `function` with respect to each of its inputs, entry by entry.

    function: takes tensors, returns a tensor of any shape.     inputs: float64 arrays, not too large.
    zero:     positions of inputs whose gradient is zero in theory; for these, the error is the largest entry.
    Returns one Check per input.  error = max|analytic - numeric| / max|numeric|.
    """
    name = name or getattr(function, "__name__", "function")
    tensors = [Tensor(np.array(a, np.float64)) for a in inputs]
    cotangent = np.random.default_rng([seed, 1]).standard_normal(function(*tensors).shape)
    size = np.linalg.norm(cotangent) * np.linalg.norm(function(*tensors).array)
    cotangent *= np.sqrt(cotangent.size) / size                     # the loss is of order 1

    def loss():
        return ops.sum(function(*tensors) * cotangent)

    with Tape() as tape:
        value = loss()
    checks = []
    for position, (tensor, analytic) in enumerate(zip(tensors, tape.gradient(value, tensors))):
        numeric = np.empty(tensor.shape)
        for index in np.ndindex(tensor.shape):
            numeric[index] = _difference(loss, tensor, index, eps)
        if position in zero:
            errors, limit = np.maximum(np.abs(analytic), np.abs(numeric)), ZERO
        else:
            errors, limit = np.abs(analytic - numeric) / np.abs(numeric).max(), TOLERANCE
        where = tuple(int(i) for i in np.unravel_index(errors.argmax(), errors.shape))
        checks.append(Check(name, f"input {position} {tensor.shape}", where, float(analytic[where]), float(numeric[where]),
                            float(errors[where]), limit))
    return checks


def _difference(loss, tensor, index, eps):
    """d loss / d tensor[index] by a central difference."""
    value = tensor.array[index]
    tensor.array[index] = value + eps
    above = float(loss())
    tensor.array[index] = value - eps
    below = float(loss())
    tensor.array[index] = value
    return (above - below) / (2 * eps)


def check_directions(loss, wrt, name="network", random_directions=5):
    """Check the gradient of a scalar along directions of unit norm over all tensors of `wrt` together.

    loss: a function without arguments that returns a scalar tensor computed from them (float64; changed, then restored).
    wrt:  a network, for all of its parameters, or a list of tensors.
    One direction is the gradient's own, the others are random.  error = |difference| / (|gradient| |direction|).  A
    network with ReLUs has kinks: if steps of EPS and EPS / 2 disagree, the direction crosses one and is redrawn, at most 3 times in all.
    Returns one Check per direction.  Raises ValueError if there is no tensor to check.
    """
    tensors = wrt.parameters() if isinstance(wrt, Layer) else list(wrt)
    if not tensors:
        raise ValueError(f"{name} has no parameters to check")
    with Tape() as tape:
        value = loss()
    gradients = tape.gradient(value, tensors)
    norm = np.sqrt(sum(float((g * g).sum()) for g in gradients))
    rng = np.random.default_rng([0, 2])

    def draw():
        direction = [rng.standard_normal(t.shape) for t in tensors]
        length = np.sqrt(sum(float((d * d).sum()) for d in direction))
        return [d / length for d in direction]

    def slope(direction, eps):
        originals = [t.array.copy() for t in tensors]
        values = []
        for step in (eps, -eps):
            for t, original, d in zip(tensors, originals, direction):
                t.array[...] = original + step * d
            values.append(float(loss()))
        for t, original in zip(tensors, originals):
            t.array[...] = original
        return (values[0] - values[1]) / (2 * eps)

    checks, redrawn = [], 0
    for k in range(random_directions + 1):
        direction, kind = ([g / norm for g in gradients], "along the gradient") if k == 0 else (draw(), f"random direction {k}")
        numeric = slope(direction, EPS)
        while abs(numeric - slope(direction, EPS / 2)) > 0.5 * TOLERANCE * norm and redrawn < 3:
            direction, kind, redrawn = draw(), f"random direction {k}, redrawn", redrawn + 1
            numeric = slope(direction, EPS)
        analytic = sum(float((g * d).sum()) for g, d in zip(gradients, direction))
        checks.append(Check(name, kind, (), analytic, numeric, abs(analytic - numeric) / norm))
    return checks


def normal(*shape, seed=0):
    """Standard normal entries, moved away from zero by 0.1, because activations have their kinks there."""
    x = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return x + 0.1 * np.sign(x)


def positive(*shape):
    """Entries of at least 0.1."""
    return np.abs(normal(*shape))


def distinct(*shape):
    """Entries that differ by at least 0.2, so that no maximum changes position."""
    return 0.2 * np.random.default_rng(shape).permutation(int(np.prod(shape))).reshape(shape)


class Case(NamedTuple):
    """One line of the table: an operation, tiny inputs, constant options."""

    name: str
    operation: Callable
    inputs: tuple
    options: dict = {}
    zero: tuple = ()

    def run(self):
        """Check this case.  Returns a list of Checks."""
        return check(lambda *tensors: self.operation(*tensors, **self.options), *self.inputs, name=self.name, zero=self.zero)


def _bias_before_batch_norm(x, w, b, gamma, beta):
    """Batch norm subtracts the bias before it together with the mean, so the bias has zero gradient."""
    return ops.batch_norm(ops.conv2d(x, w, b), gamma, beta)


CASES = [
    Case("add", ops.add, (normal(2, 3, 4), normal(2, 3, 4, seed=1))),
    Case("add, broadcast", ops.add, (normal(2, 3, 4), normal(3, 1))),
    Case("subtract, broadcast", ops.subtract, (normal(4), normal(2, 3, 4))),
    Case("multiply", ops.multiply, (normal(3, 3), normal(3, 3, seed=1))),
    Case("multiply, broadcast", ops.multiply, (normal(2, 3, 4), normal(2, 1, 4))),
    Case("scale", ops.scale, (normal(3, 4),), {"factor": -1.7}),
    Case("square", ops.square, (normal(3, 4),)),
    Case("absolute", ops.absolute, (normal(3, 4),)),
    Case("log", ops.log, (positive(3, 4),)),
    Case("sum", ops.sum, (normal(2, 3, 4),)),
    Case("sum, axis", ops.sum, (normal(2, 3, 4),), {"axis": (0, 2)}),
    Case("mean", ops.mean, (normal(2, 3, 4),)),
    Case("mean, axis, keepdims", ops.mean, (normal(2, 3, 4),), {"axis": 1, "keepdims": True}),
    Case("relu", ops.relu, (normal(3, 5),)),
    Case("leaky_relu", ops.leaky_relu, (normal(3, 5),), {"slope": 0.2}),
    Case("prelu, per channel", ops.prelu, (normal(2, 3, 3, 4), normal(4))),
    Case("prelu, shared", ops.prelu, (normal(2, 3, 3, 4), normal(1))),
    Case("sigmoid", ops.sigmoid, (normal(3, 5),)),
    Case("softplus", ops.softplus, (normal(3, 5),)),
    Case("linear", ops.linear, (normal(3, 4), normal(4, 4), normal(4))),
    Case("linear, no bias", ops.linear, (normal(3, 4), normal(4, 5))),
    Case("conv2d 1x1", ops.conv2d, (normal(2, 3, 4, 3), normal(1, 1, 3, 2), normal(2))),
    Case("conv2d 3x3", ops.conv2d, (normal(2, 5, 6, 3), normal(3, 3, 3, 4), normal(4))),
    Case("conv2d 3x3, stride 2", ops.conv2d, (normal(2, 6, 5, 3), normal(3, 3, 3, 4), normal(4)), {"stride": 2}),
    Case("conv2d 3x3, no padding, no bias", ops.conv2d, (normal(2, 5, 6, 3), normal(3, 3, 3, 3)), {"padding": 0}),
    Case("conv2d 2x4, stride 3, padding 2", ops.conv2d, (normal(1, 5, 7, 2), normal(2, 4, 2, 3)), {"stride": 3, "padding": 2}),
    Case("conv2d 9x9", ops.conv2d, (normal(1, 7, 6, 2), normal(9, 9, 2, 3), normal(3))),
    Case("conv2d 3x3, many channels", ops.conv2d, (normal(1, 5, 5, 16), normal(3, 3, 16, 16), normal(16))),
    Case("conv2d 3x3, many to few", ops.conv2d, (normal(1, 4, 5, 16), normal(3, 3, 16, 2), normal(2))),
    Case("conv2d 3x3, few to many", ops.conv2d, (normal(1, 4, 5, 2), normal(3, 3, 2, 16), normal(16))),
    Case("batch_norm, training", ops.batch_norm, (normal(3, 4, 4, 3), normal(3), normal(3, seed=1))),
    Case("batch_norm, evaluation", ops.batch_norm, (normal(3, 4, 4, 3), normal(3), normal(3, seed=1)),
         {"running_mean": normal(3, seed=2), "running_var": positive(3), "training": False}),
    Case("conv2d bias before batch_norm", _bias_before_batch_norm,
         (normal(2, 4, 4, 2), normal(3, 3, 2, 3), normal(3), normal(3, seed=1), normal(3, seed=2)), zero=(2,)),
    Case("max_pool2d", ops.max_pool2d, (distinct(2, 5, 6, 3),)),
    Case("max_pool2d 3, stride 2, overlapping", ops.max_pool2d, (distinct(2, 6, 7, 2),), {"size": 3, "stride": 2}),
    Case("pixel_shuffle 2", ops.pixel_shuffle, (normal(2, 3, 4, 12),)),
    Case("pixel_shuffle 3", ops.pixel_shuffle, (normal(1, 2, 2, 18),), {"r": 3}),
    Case("reshape", ops.reshape, (normal(2, 3, 4),), {"shape": (4, 6)}),
    Case("flatten", ops.flatten, (normal(2, 3, 4),)),
    Case("slice", ops.slice, (normal(4, 5, 3),), {"index": np.s_[1:, ::2, 0]}),
    Case("concatenate", ops.concatenate, (normal(2, 3), normal(2, 4), normal(2, 1))),
    Case("concatenate, first axis", ops.concatenate, (normal(2, 3), normal(1, 3)), {"axis": 0}),
]


def network_checks():
    """Yield the Checks of small networks and of every loss of the SRGAN step, along random directions."""
    def exact(network):
        return network.to(lambda array: array.astype(np.float64))

    generator, discriminator = exact(SRResNet(4, 2)), exact(Discriminator(2, 16))
    vgg = exact(random_vgg19("conv2_2"))
    lr, hr = np.clip(normal(2, 4, 4, 3), -1, 1), np.clip(normal(2, 16, 16, 3), -1, 1)
    image = Tensor(np.clip(normal(2, 8, 8, 3), -1, 1))
    hr_features, hr_layers = vgg(hr).array, [features.array for features in vgg.before_relu(hr, ("conv1_2", "conv2_2"))]

    def weighted(output):       # a random linear function of a network's output
        return ops.mean(output * normal(*output.shape, seed=3))

    for name, loss, wrt in [
        ("SRResNet, 4 channels, 2 blocks", lambda: weighted(generator(lr)), generator),
        ("the same, evaluation", lambda: weighted(generator.eval()(lr)), generator),
        ("discriminator, 2 channels, 16x16", lambda: weighted(discriminator(hr)), discriminator),
        ("VGG19 to conv2_2, its input", lambda: weighted(vgg(image)), [image]),
        ("VGG19 to conv2_2, its weights", lambda: weighted(vgg(image)), vgg),
        ("pixel loss, G", lambda: losses.mean_squared_error(generator.train()(lr), hr), generator),
        ("absolute pixel loss, G", lambda: losses.mean_absolute_error(generator(lr), hr), generator),
        ("perceptual loss, G", lambda: losses.mean_squared_error(vgg(generator(lr)), hr_features), generator),
        ("perceptual loss on two layers, G", lambda: losses.weighted_absolute_error(
            vgg.before_relu(generator(lr), ("conv1_2", "conv2_2")), hr_layers, (0.3, 1)), generator),
        ("adversarial loss, G", lambda: losses.generator_adversarial(discriminator(generator(lr))), generator),
        ("adversarial loss, D", lambda: losses.discriminator_adversarial(discriminator(hr), discriminator(generator(lr))),
         discriminator),
    ]:
        yield from check_directions(loss, wrt, name)


@command
def main(arguments=None):
    """Run every check, print one line for each, and return 1 if any failed."""
    argparse.ArgumentParser(prog="python -m npsrgan.gradcheck", description="Check every hand-written gradient against central "
                            "finite differences in float64: one line per operation and input, exit status 1 on a failure."
                            ).parse_args(arguments)
    checks = []
    for title, mode in [("the reference", reference_only), ("their fast twins", any_size)]:
        print(f"\nOperations, {title}:")
        for case in CASES:
            with mode():
                checks += _printed(case.run())
    print("\nNetworks and losses:")
    checks += _printed(network_checks())
    failed = [c for c in checks if not c.passed]
    print(f"\n{len(checks)} checks, {len(failed)} failed; worst error {max(c.error for c in checks):.1e}")
    return 1 if failed else 0


def _printed(checks):
    """Yield each check, and print it."""
    for result in checks:
        print(result, flush=True)
        yield result


if __name__ == "__main__":
    sys.exit(main())
