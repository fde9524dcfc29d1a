"""Is each convolution computed by the fastest method available?  Times every method on every shape of the networks.

A GPU has a single method; there, every tile size is timed.
"""
import timeit
from functools import partial

import numpy as np

from npsrgan.bench.rows import convolution_name, draw
from npsrgan.device import select
from npsrgan.fast import im2col, keep_memory, kn2row, winograd
from npsrgan.fast.convolution import choose

PASSES = ("forward", "x gradient", "kernel gradient")        # in the order of `choose`'s results
METHODS = {        # {name: a function for each pass}
    "im2col": (im2col.correlate, im2col.correlate_adjoint, im2col.correlate_kernel_gradient),
    "winograd": (winograd.correlate, winograd.correlate_adjoint, winograd.correlate_kernel_gradient),
    "kn2row": (kn2row.correlate, kn2row.correlate_adjoint, kn2row.correlate_kernel_gradient),
    "flipped": (None, kn2row.correlate_flipped, None),
}


def print_methods(convolutions, options, rate):
    """Print the milliseconds of every method for each convolution; a star marks the one that `conv2d` uses.

    convolutions: (size, kernel size, channels in, channels out, stride).   options: the command's.
    rate: flops per second in a large matrix product; on a GPU, the speed of the chosen tile is also given as a part of it.
    """
    if options.device == "gpu":
        from npsrgan.fast.cuda import set_precision
        set_precision(options.precision)
        print_tiles(convolutions, select("gpu")[0], rate)
    else:
        keep_memory()
        print_cpu_methods(convolutions)


def print_cpu_methods(convolutions, repeats=5):
    """Print the milliseconds of each applicable method for each convolution and pass, at batch 4."""
    print(f"{'milliseconds, batch 4; * is chosen':44}" + "".join(f"{name:>11}" for name in METHODS))
    for size, k, c, o, stride in convolutions:
        chosen = choose(k, k, c, o, stride, k // 2)
        x, w, p, side = draw(4, size, size, c), draw(k, k, c, o), k // 2, -(-size // stride)
        y, dy = np.empty((4, side, side, o), x.dtype), draw(4, side, side, o)
        calls = (lambda f: f(x, w, y, p, p), lambda f: f(dy, w, np.empty_like(x), p, p), lambda f: f(x, dy, (k, k), p, p))     # noqa: B023
        for number, label in enumerate(PASSES):
            cells = ""
            for method, functions in METHODS.items():
                function, taken = functions[number], getattr(chosen[number], "func", chosen[number])
                if function is None or stride > 1 and method != "im2col" or k > 3 and method == "winograd":
                    cells += " " * 11
                    continue
                call = partial(calls[number], partial(function, stride=stride) if stride > 1 else function)
                _, *seconds = timeit.repeat(call, number=1, repeat=1 + repeats)         # the first warms up
                cells += f"{np.median(seconds) * 1e3:10.1f}{'*' if function is taken else ' '}"
            print(f"{convolution_name(size, k, c, o, stride):27} {label:16}{cells}", flush=True)


def print_tiles(convolutions, device, rate, batch=16):
    """Print the milliseconds with each tile on the GPU, for each convolution and pass; a star marks the one that is used.

    Then print the Tflop/s with that tile.   device: a device.Device.   convolutions, rate: as above.
    """
    from npsrgan.fast.cuda import tiles
    from npsrgan.fast.cuda.convolution import conv2d
    print(f"{f'milliseconds, batch {batch}; * is taken':44}   rows x columns / stages of the tile, and its time")
    for size, k, c, o, stride in convolutions:
        x, w, side = device.array(draw(batch, size, size, c)), device.array(draw(k, k, c, o)), -(-size // stride)
        dy, flops = device.array(draw(batch, side, side, o)), 2 * batch * side * side * k * k * c * o
        _, rules = conv2d(x, w, None, stride)
        for label, call in zip(PASSES, (lambda: conv2d(x, w, None, stride), lambda: rules[0](dy), lambda: rules[1](dy))):  # noqa: B023
            seconds, taken = _time_tiles(call, tiles, device.cuda)
            cells = "".join(f"{tile!s:>11} {time * 1e3:6.3f}{'*' if tile == taken else ' '}" for tile, time in seconds.items())
            cells += f"  {flops / seconds[taken] / 1e12:4.0f} Tflop/s  {flops / seconds[taken] / rate:4.0%} of GEMM"
            print(f"{convolution_name(size, k, c, o, stride):27} {label:16}{cells}", flush=True)


def _time_tiles(call, tiles, cuda, rounds=3, launches=10):
    """({tile: seconds per call}, the tile chosen by default).  The tiles take turns in every round, because clock rates rise."""
    found, choose = [], tiles.choose

    def choose_nth(number):
        def chosen(*args, **kwargs):
            found[:] = tiles.candidates(*args, **kwargs)
            return found[min(number, len(found) - 1)]
        tiles.choose = chosen
        call()

    def clock():
        start, end = cuda.Event(), cuda.Event()
        start.record()
        for _ in range(launches):
            call()
        end.record()
        end.synchronize()
        return cuda.get_elapsed_time(start, end) / 1e3 / launches

    try:
        choose_nth(0)
        seconds = dict.fromkeys(found, np.inf)
        for _ in range(rounds):
            for number, tile in enumerate(seconds):
                choose_nth(number)
                seconds[tile] = min(seconds[tile], clock())
    finally:
        tiles.choose = choose
    return seconds, next(iter(seconds))
