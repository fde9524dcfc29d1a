"""Is each convolution done in the fastest of the ways there are?  Every way, timed on every shape of the networks."""
import time
from functools import partial

import numpy as np

from npsrgan.fast import im2col, planes, winograd
from npsrgan.fast.convolution import choose

QUESTIONS = ("forward", "x gradient", "kernel gradient")        # in the order in which `choose` answers
WAYS = {        # {name: a function for each question}
    "im2col": (im2col.correlate, im2col.correlate_adjoint, im2col.correlate_kernel_gradient),
    "winograd": (winograd.correlate, winograd.correlate_adjoint, winograd.correlate_kernel_gradient),
    "planes": (planes.correlate, planes.correlate_adjoint, planes.correlate_kernel_gradient),
    "turned": (None, planes.correlate_turned, None),
}


def print_methods(convolutions, draw, repeats=5):
    """Print, for each convolution and question, the milliseconds of each way that can do it; a star marks the one that `conv2d` takes.

    convolutions: (size, kernel size, channels in, channels out, stride), at batch 4.   draw: a function from a shape to an array.
    """
    print(f"{'milliseconds, batch 4; * is chosen':44}" + "".join(f"{name:>11}" for name in WAYS))
    for size, k, c, o, stride in convolutions:
        chosen = choose(k, k, c, o, stride, k // 2)
        calls = _calls(size, k, c, o, stride, draw)
        for question, label in enumerate(QUESTIONS):
            cells = ""
            for name, ways in WAYS.items():
                way, taken = ways[question], getattr(chosen[question], "func", chosen[question])
                if way is None or stride > 1 and name != "im2col" or k > 3 and name == "winograd":
                    cells += " " * 11
                    continue
                seconds = _median(partial(calls[question], partial(way, stride=stride) if stride > 1 else way), repeats)
                cells += f"{seconds * 1e3:10.1f}{'*' if way is taken else ' '}"
            print(f"{f'conv {k}x{k} {c}->{o} at {size}' + '/2' * (stride == 2):27} {label:16}{cells}", flush=True)


def _calls(size, k, c, o, stride, draw):
    """For each question a function that answers it in the way it is given."""
    x, w, p = draw(4, size, size, c), draw(k, k, c, o), k // 2
    y, dy = np.empty((4, -(-size // stride), -(-size // stride), o), x.dtype), draw(4, -(-size // stride), -(-size // stride), o)
    return (lambda way: way(x, w, y, p, p), lambda way: way(dy, w, np.empty_like(x), p, p), lambda way: way(x, dy, (k, k), p, p))


def _median(call, repeats):
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
