"""Measure our speed and memory on the CPU or the GPU, compared with PyTorch if torch is installed.

    python -m npsrgan.bench [--device gpu] [--quick] [--json FILE] [--profile] [--methods] [--threads N] [--channels-last]

rows.py says what is measured, and gpu.py how it is measured on a GPU.  On a CPU:

Both sides do the same computation with the same weights and number of threads, in turns (A B A B).  Each has its own process,
so that neither inherits the other's settings, threads or memory.
"""
import argparse
import importlib.util
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager

import numpy as np

from npsrgan import fast
from npsrgan.bench.methods import print_methods, print_methods_on_gpu
from npsrgan.bench.rows import CONVOLUTIONS, QUICK, cpu_rows, draw, plain, training, write_report
from npsrgan.ops import operation
from npsrgan.system.errors import UserError, command
from npsrgan.system.terminal import progress, say

PAUSE = 0.05        # seconds between turns: torch's threads keep spinning briefly


def serve(pipe, side, name, threads, channels_last):
    """A side's process: send the first result; for every True received, run again and send the seconds; finally send the peak memory."""
    fast.set_threads(threads)
    if side == "torch":
        from npsrgan.bench import pytorch
        pytorch.configure(threads, channels_last)
    else:
        fast.keep_memory()          # as the training command does
    run = next(row for row in cpu_rows(quick=False) if row.name == name).prepare(side)
    pipe.send(plain(run()))         # also the warm-up
    while pipe.recv():
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)
    pipe.send(peak_memory())


def measure(row, sides, pairs, channels_last):
    """Fill row.result: times in seconds, medians and spreads (median absolute deviations); peak memory of each process in MB
    (10^6 bytes); and the difference between the results."""
    pipes, first = {}, {}
    from npsrgan.bench.__main__ import serve  # under its full name: a new process cannot find what "__main__" defines in a package
    context = multiprocessing.get_context("spawn")
    for side in sides:
        pipes[side], far_end = context.Pipe()
        context.Process(target=serve, args=(far_end, side, row.name, fast.get_threads(), channels_last), daemon=True).start()
        far_end.close()
    times = {side: [] for side in sides}
    try:
        first = {side: pipe.recv() for side, pipe in pipes.items()}
        for _ in range(pairs):
            for side, pipe in pipes.items():
                time.sleep(PAUSE)
                pipe.send(True)
                times[side].append(pipe.recv())
        for side, pipe in pipes.items():
            pipe.send(False)
            row.result[f"{side}_mb"] = pipe.recv() / 1e6
    except (EOFError, BrokenPipeError):
        raise UserError(f"a process that measures {row.name} ended early (out of memory?)") from None
    for side, seconds in times.items():
        row.result[f"{side}_s"] = float(np.median(seconds))
        row.result[f"{side}_spread_s"] = float(np.median(np.abs(np.subtract(seconds, np.median(seconds)))))
    if "torch" in sides:
        row.result["ratio"] = row.result["ours_s"] / row.result["torch_s"]
        if first["ours"] is not None:
            row.result["difference"] = float(np.abs(first["ours"] - first["torch"]).max() / np.abs(first["torch"]).max())


def peak_memory():
    """This process's peak resident memory in bytes."""
    if os.path.exists("/proc/self/status"):         # getrusage would include the parent process's peak
        with open("/proc/self/status") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gemm_rate():
    """Additions and multiplications per second in a large matrix product, this machine's peak in float32."""
    a, seconds = draw(2048, 2048), []
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def machine(gemm):
    """{name: value} of everything the results depend on.  gemm: additions and multiplications per second."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "threads": fast.get_threads(), "gemm_gflops": gemm / 1e9,
            "python": platform.python_version(), "numpy": np.__version__}


@contextmanager
def timed_operations(seconds, calls, flops):
    """A context in which the time of every operation and gradient rule is summed by name and shapes."""
    evaluate = operation.evaluate

    def timed(name, function, work=0):
        def run(*args):
            start = time.perf_counter()
            result = function(*args)
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
            name = f"conv {w.shape[0]}x{w.shape[1]} {w.shape[2]}->{w.shape[3]} at {x.shape[1]}" + "/2" * (stride == 2)
            work = 2 * x[..., 0].size // stride**2 * w.size
        value, rules = timed(name, evaluate, work)(function, arrays, kwargs)
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
    step = training("step")("ours")
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


def describe(row):
    """A measured row as one line."""
    r = row.result
    line = f"{row.name:36} {r['ours_s'] * 1e3:9.1f} ms ±{r['ours_spread_s'] * 1e3:6.1f} {r['ours_mb']:6.0f} MB"
    if "ratio" in r:
        line += f"   torch {r['torch_s'] * 1e3:9.1f} ms ±{r['torch_spread_s'] * 1e3:6.1f} {r['torch_mb']:6.0f} MB   ratio {r['ratio']:5.2f}"
    if "difference" in r:
        line += f"   difference {r['difference']:.0e}"
    return line


@command
def main(arguments=None):
    """The command: measure and print every row, and write the JSON file after each."""
    parser = argparse.ArgumentParser(prog="python -m npsrgan.bench", description="Our speed and memory, against PyTorch's.")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute (default: cpu); the GPU measures "
                        "whole training steps at batch 16 and 64, and their pieces at batch 16")
    parser.add_argument("--quick", action="store_true", help="a few rows only, about a minute")
    parser.add_argument("--pairs", type=int, default=5, help="times each side is measured (default: 5)")
    parser.add_argument("--only", metavar="WORD", help="only the rows whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    parser.add_argument("--precision", choices=("tf32", "float32"), default="tf32", help="of convolutions on a GPU (default: tf32)")
    parser.add_argument("--profile", action="store_true", help="print where the time of our SRGAN step goes, and nothing else")
    parser.add_argument("--methods", action="store_true", help="print the time of every way to convolve (on a GPU: in "
                        "every tile that is tried), and nothing else")
    parser.add_argument("--threads", type=int, help="threads of both sides (default: one for each core)")
    parser.add_argument("--channels-last", action="store_true", help="let torch keep images as we do; it may be faster")
    arguments = parser.parse_args(arguments)
    if arguments.pairs < 1 or (arguments.threads or 1) < 1:
        raise UserError("--pairs and --threads must be at least 1")
    if arguments.profile and arguments.device == "gpu":
        raise UserError("--profile looks at the step on a CPU: leave out --device gpu")
    if arguments.device == "gpu":
        if arguments.methods:
            return print_methods_on_gpu(QUICK if arguments.quick else CONVOLUTIONS, draw, arguments.precision)
        from npsrgan.bench import gpu
        return gpu.main(arguments)
    fast.set_threads(arguments.threads)
    sides = ["ours"] + ["torch"] * (importlib.util.find_spec("torch") is not None)
    gemm = gemm_rate()
    facts = machine(gemm)
    print(", ".join(f"{key} {value:.0f}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()))
    if arguments.profile:
        return print_profile(gemm)
    if arguments.methods:
        fast.keep_memory()
        return print_methods(QUICK if arguments.quick else CONVOLUTIONS, draw)
    if "torch" not in sides:
        print("torch is not installed: our times alone")
    rows = [row for row in cpu_rows(arguments.quick) if not arguments.only or arguments.only in row.name]
    for row in progress(rows, desc="bench"):
        measure(row, sides, arguments.pairs, arguments.channels_last)
        say(describe(row))
        write_report(arguments.json, rows, facts)


if __name__ == "__main__":
    main()
