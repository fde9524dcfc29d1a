"""Adam (Kingma and Ba 2015, algorithm 1) on flat buffers, and learning-rate schedules."""
import math

import numpy as np

from npsrgan.ops.operation import with_twins


@with_twins
def update(p, gradients, m, v, rate, count, beta1, beta2, eps):
    """One step of Adam, in place.

        m <- beta1 m + (1 - beta1) g             running mean of the gradient
        v <- beta2 v + (1 - beta2) g^2           running mean of its square
        m^ = m / (1 - beta1^t)                   bias correction in step t = 1, 2, 3, ...,
        v^ = v / (1 - beta2^t)                   since m and v start at 0
        p <- p - rate * m^ / (sqrt(v^) + eps)

    p, m, v: flat arrays of the same size.  gradients: one array per parameter, in the parameters' order in p.
    rate, count (t): numbers, or arrays with one entry that a CUDA graph reads again in every step.
    Raises ValueError if the gradients do not have as many entries as p.
    """
    g = np.concatenate([gradient.ravel() for gradient in gradients])
    if g.size != p.size:
        raise ValueError(f"gradients of {g.size} entries cannot move parameters of {p.size}")
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    p -= rate / (1 - beta1 ** count) * m / (np.sqrt(v / (1 - beta2 ** count)) + eps)


class Adam:
    """The optimiser of a network: updates each parameter with a step size adapted to its past gradients.

    learning_rate: a number, or a schedule: a function from the number of steps taken to the rate of the next one.
    """

    def __init__(self, network, learning_rate=1e-4, beta1=0.9, beta2=0.999, eps=1e-8):
        self.network, self.learning_rate, self.beta1, self.beta2, self.eps = network, learning_rate, beta1, beta2, eps
        self.m, self.v, self.steps = np.zeros_like(network.flat), np.zeros_like(network.flat), 0

    @property
    def rate(self):
        """The learning rate of the next step."""
        return float(self.learning_rate(self.steps) if callable(self.learning_rate) else self.learning_rate)

    def step(self, gradients, rate=None, count=None):
        """Update the network.  gradients: one array per parameter, in the order of `network.parameters()`.

        rate, count: inputs of a step that a CUDA graph repeats; a caller that passes them must also update `steps`.
        """
        if count is None:
            rate, count = self.rate, self.steps + 1
            self.steps = count
        update(self.network.flat, gradients, self.m, self.v, rate, count, self.beta1, self.beta2, self.eps)


SCHEDULES = ("constant", "drop", "cosine")


def schedule(kind, rate, steps):
    """A function from the number of steps taken to the next step's learning rate, for a run of `steps` steps.

    "constant": `rate` throughout.  "drop": one tenth of it in the second half (Ledig et al. 2017, section 3.2).
    "cosine": from `rate` down to one hundredth of it along half a cosine period.  Raises ValueError for any other kind.
    """
    if kind == "constant":
        return lambda t: rate
    if kind == "drop":
        return lambda t: rate if t < steps / 2 else rate / 10
    if kind == "cosine":
        return lambda t: rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(t / max(steps, 1), 1))))
    raise ValueError(f"there is no schedule {kind!r}: choose one of {', '.join(SCHEDULES)}")
