"""Adam (Kingma and Ba 2015, algorithm 1) on flat buffers, and learning-rate schedules."""
import math

import numpy as np

from npsrgan.fast.threads import parallel
from npsrgan.layers import split


class Adam:
    """Moves a network's parameters against their gradients, each at a pace set by the gradients it has seen.

        m <- beta1 m + (1 - beta1) g             a running mean of the gradient
        v <- beta2 v + (1 - beta2) g^2           and of its square, both starting at 0; hence the
        m^ = m / (1 - beta1^t)                   bias correction after t steps
        v^ = v / (1 - beta2^t)
        p <- p - rate * m^ / (sqrt(v^) + eps)

    learning_rate: a number, or a schedule: a function from the number of steps taken to the rate of the next one.
    """

    BLOCK = 1 << 16     # entries updated at a time: few enough to stay in the cache through all formulas, enough to hide the calls

    def __init__(self, network, learning_rate=1e-4, beta1=0.9, beta2=0.999, eps=1e-8):
        self.network, self.learning_rate, self.beta1, self.beta2, self.eps = network, learning_rate, beta1, beta2, eps
        self.m, self.v = np.zeros_like(network.flat), np.zeros_like(network.flat)
        self.steps, self._rate = 0, None
        self._kernel, self._on_gpu = _kernel(network.flat), []
        if self._kernel:        # where a GPU reads what changes from step to step
            self._on_gpu = [np.zeros_like(self.m, dtype, shape=1) for dtype in (np.float32, np.int32)]
        else:
            self._gradient = np.zeros_like(self.m)
            self._gradients = split(self._gradient, [p.shape for p in network.parameters()])

    @property
    def rate(self):
        """The learning rate of the next step."""
        return self.learning_rate(self.steps) if callable(self.learning_rate) else self.learning_rate

    def step(self, gradients):
        """Update the network.  gradients: one array per parameter, in the order of `network.parameters()`."""
        self.advance()
        self.update(gradients)

    def advance(self):
        """The half of a step that needs no gradients: count it, and ask for its rate.

        On a GPU both numbers go into memory there, carried along by the kernels that write them: nothing waits, and `update` is the
        same work in every step, which a CUDA graph can repeat.
        """
        self._rate, self.steps = self.rate, self.steps + 1
        for array, number in zip(self._on_gpu, (self._rate, self.steps)):
            array.fill(number)

    def update(self, gradients):
        """The other half, after `advance`: move the network.  gradients: as for `step`."""
        if self._kernel:
            self._kernel(self.network.flat, gradients, self.m, self.v, *self._on_gpu, self.beta1, self.beta2, self.eps)
            return
        for mine, gradient in zip(self._gradients, gradients, strict=True):
            mine[...] = gradient
        rate, correction1, correction2 = self._rate, 1 - self.beta1 ** self.steps, 1 - self.beta2 ** self.steps
        block = self.BLOCK if isinstance(self.m, np.ndarray) else self.m.size      # a GPU wants one large piece

        def update(start):
            p, g, m, v = (a[start:start + block] for a in (self.network.flat, self._gradient, self.m, self.v))
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            p -= rate / correction1 * m / (np.sqrt(v / correction2) + self.eps)

        parallel(update, range(0, self.m.size, block))


def _kernel(flat):
    """All formulas in one pass, for a buffer of float32 on a GPU; None elsewhere."""
    if not type(flat).__module__.startswith("cupy") or flat.dtype != np.float32:
        return None
    from npsrgan.fast.cuda.adam import update  # only now: on a CPU nothing of it loads
    return update


SCHEDULES = ("constant", "drop", "cosine")


def schedule(kind, rate, steps):
    """A function from steps taken to learning rate, over a training of `steps` steps.

    "constant": `rate` throughout.  "drop": a tenth of it in the second half (Ledig et al. 2017, section 3.2).
    "cosine": from `rate` down to a hundredth of it along half a cosine.
    """
    if kind == "constant":
        return lambda t: rate
    if kind == "drop":
        return lambda t: rate if t < steps / 2 else rate / 10
    if kind == "cosine":
        return lambda t: rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(t / max(steps, 1), 1))))
    raise ValueError(f"there is no schedule {kind!r}: choose one of {', '.join(SCHEDULES)}")
