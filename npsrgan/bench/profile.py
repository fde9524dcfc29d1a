"""Where does the time of a training step go?  Times every operation and gradient rule on a CPU."""
import time
from collections import Counter, defaultdict
from contextlib import contextmanager

from npsrgan.bench.rows import convolution_name, training
from npsrgan.ops import operation
from npsrgan.system.terminal import progress


@contextmanager
def timed_operations(seconds, calls, flops):
    """A context in which the time of every operation and gradient rule is summed by name and shapes."""
    evaluate = operation.evaluate

    def timed(name, function, work=0):
        def run(*args):
            start = time.perf_counter()
            result = function(*args)
            if result is not NotImplemented:
                seconds[name] += time.perf_counter() - start
                calls[name] += 1
                flops[name] += work
            return result
        return run

    def watched(function, arrays, kwargs):
        name, work = function.__name__, 0
        if name == "conv2d":
            x, w = arrays[:2]
            stride = arrays[3] if len(arrays) > 3 else 1
            name = convolution_name(x.shape[1], *w.shape[1:], stride)
            work = 2 * x[..., 0].size // stride**2 * w.size
        result = timed(name, evaluate, work)(function, arrays, kwargs)
        if result is NotImplemented:
            return result
        value, rules = result
        return value, tuple(timed(f"{name} d{k}", rule, work * (k < 2)) for k, rule in enumerate(rules))

    operation.evaluate = watched
    try:
        yield
    finally:
        operation.evaluate = evaluate


def print_profile(gemm, steps=3):
    """Print where the time of our SRGAN step goes, and the speed of its convolutions relative to the machine's matrix product.

    Flops are counted by the definition of a convolution, so methods that save multiplications may exceed 100 %.
    """
    step = training("step", 4)("ours")
    step()
    seconds, calls, flops = defaultdict(float), Counter(), Counter()
    with timed_operations(seconds, calls, flops):
        start = time.perf_counter()
        for _ in progress(range(steps), desc="profile", leave=False):
            step()
        total = time.perf_counter() - start
    seconds["everything else (Adam, sums of gradients, losses)"] = total - sum(seconds.values())
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1])[:40]:
        rate = f"{flops[name] / spent / gemm:6.0%} of GEMM" if flops[name] else ""
        print(f"{name:50} {spent / steps * 1e3:8.1f} ms {calls[name] / steps:5.0f} calls {spent / total:6.1%} {rate}")
    print(f"{'one step':50} {total / steps * 1e3:8.1f} ms")
