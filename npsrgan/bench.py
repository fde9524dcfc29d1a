"""Measure our speed and memory on the CPU, against PyTorch's where torch is installed.

    python -m npsrgan.bench [--quick] [--json FILE] [--profile] [--methods] [--threads N] [--channels-last]

Both sides compute the same with the same weights, on the same number of threads, in turns: A B A B.  Each has a process of
its own, so that neither inherits the other's settings, threads or memory.
"""
import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from npsrgan import fast, ops, tape
from npsrgan.adam import Adam
from npsrgan.bench_methods import print_methods
from npsrgan.device import CPU
from npsrgan.errors import UserError, command
from npsrgan.inference import fold
from npsrgan.models import Discriminator, SRResNet
from npsrgan.settings import PRESETS
from npsrgan.trainer import Trainer

# What the three networks convolve, at batch 4: size of the image, size of the kernel, channels in and out, stride.
CONVOLUTIONS = [
    (44, 9, 3, 64, 1), (44, 3, 64, 64, 1), (44, 3, 64, 256, 1), (88, 3, 64, 256, 1), (176, 9, 64, 3, 1),
    (176, 3, 3, 64, 1), (176, 3, 64, 64, 1), (176, 3, 64, 64, 2), (88, 3, 64, 128, 1), (88, 3, 128, 128, 1), (88, 3, 128, 128, 2),
    (44, 3, 128, 256, 1), (44, 3, 256, 256, 1), (44, 3, 256, 256, 2), (22, 3, 256, 512, 1), (22, 3, 512, 512, 1),
    (22, 3, 512, 512, 2), (11, 3, 512, 512, 1)]
QUICK = CONVOLUTIONS[1], CONVOLUTIONS[4], CONVOLUTIONS[10]
PAUSE = 0.05        # seconds between the turns: torch's threads keep spinning for a moment


@dataclass
class Row:
    """One thing to measure.  prepare("ours") and prepare("torch") return functions to be timed."""

    name: str
    prepare: Callable
    flops: float = 0            # additions and multiplications as the definition counts them
    result: dict = field(default_factory=dict)


def draw(*shape, seed=0):
    """Standard normal float32 entries, the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def operation(name, ours, arguments, theirs, flops=0, channels=None):
    """Two rows for an operation: its value alone, and with all its gradients.

    theirs(F, *tensors), with torch's F.   channels: the order of x's channels in which torch computes the same.
    """
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    for gradients in (False, True):
        def prepare(side, gradients=gradients):
            cotangent = draw(*ours(*arguments).shape, seed=1) if gradients else None
            if side == "torch":
                from npsrgan import bench_torch
                return bench_torch.operation(theirs, arrays, cotangent, channels)

            def run():
                y, rules = tape._evaluate(ours, arguments, {})      # as under a tape, but without one
                return [rule(cotangent) for rule in rules][0] if gradients else y
            return run
        yield Row(name + " +gradients" * gradients, prepare, flops=flops * (1 + 2 * gradients))


def operations(quick):
    """Rows for the operations: every distinct convolution, batch norm, PReLU, pixel shuffle."""
    for size, k, c, o, stride in QUICK if quick else CONVOLUTIONS:
        arguments = draw(4, size, size, c), draw(k, k, c, o) / np.float32((k * k * c) ** 0.5), draw(o), stride
        yield from operation(f"conv {k}x{k} {c}->{o} at {size}" + "/2" * (stride == 2), ops.conv2d, arguments,
                             lambda F, x, w, b, s=stride, p=k // 2: F.conv2d(x, w, b, s, p),
                             2 * 4 * (size // stride) ** 2 * k * k * c * o)
    for size, c in [(44, 64)] if quick else [(44, 64), (88, 128), (22, 512)]:
        yield from operation(f"batch_norm {c} at {size}", ops.batch_norm, (draw(4, size, size, c), draw(c), draw(c)),
                             lambda F, x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, True))
    for size in [88] if quick else [44, 88, 176]:
        yield from operation(f"prelu 64 at {size}", ops.prelu, (draw(4, size, size, 64), np.full(64, 0.25, np.float32)),
                             lambda F, x, slope: F.prelu(x, slope))
    if not quick:
        yield from operation("pixel_shuffle 256 at 88", ops.pixel_shuffle, (draw(4, 88, 88, 256),), lambda F, x: F.pixel_shuffle(x, 2),
                             channels=np.arange(256).reshape(4, 64).T.ravel())      # their c*4 + i is our i*64 + c


def adam_step(side):
    """One step of Adam on the discriminator at 176x176: 68 million parameters."""
    discriminator = Discriminator()
    if side == "torch":
        from npsrgan import bench_torch
        return bench_torch.adam_step(discriminator)
    adam, gradients = Adam(discriminator), [draw(*p.shape) for p in discriminator.parameters()]
    return lambda: adam.step(gradients)


def inference(height, width):
    """A paper-size SRResNet, folded, on one image of height x width pixels."""
    def prepare(side):
        generator, lr = SRResNet().eval(), draw(1, height, width, 3)
        if side == "torch":
            from npsrgan import bench_torch
            return bench_torch.inference(generator, lr)
        generator = fold(generator)
        return lambda: generator(lr).array
    return prepare


def training(method, batch=4):
    """A step of preset `seed`, 44x44 -> 176x176: `srresnet_step`, or `step`, which is SRResNet and SRGAN with VGG19."""
    def prepare(side):
        settings = replace(PRESETS["seed"], batch_size=batch, together=method == "step")
        trainer = Trainer(settings, CPU, say=lambda line: None)
        lr, hr = (np.tanh(draw(batch, size, size, 3)) for size in (44, 176))
        if side == "torch":
            from npsrgan import bench_torch
            trainer, lr, hr = bench_torch.Trainer(trainer), bench_torch.tensor(lr), bench_torch.tensor(hr)

        def run():
            losses = getattr(trainer, method)(lr, hr)
            return np.array([losses[name] for name in ("srresnet_pixel", "pixel", "perceptual") if name in losses])
        return run
    return prepare


def all_rows(quick):
    """Yield every Row, or a few of them."""
    yield from operations(quick)
    yield Row("srresnet_infer_small", inference(44, 54))
    yield Row("srresnet_step", training("srresnet_step"))
    if not quick:
        yield Row("adam_step discriminator", adam_step)
        yield Row("srresnet_infer_large", inference(256, 256))
        yield Row("srgan_step", training("step"))
        for name, method in (("srresnet_step", "srresnet_step"), ("srgan_step", "step")):
            for batch in (1, 2, 8):
                yield Row(f"{name} batch {batch}", training(method, batch))


def serve(pipe, side, name, threads, channels_last):
    """A side's process: send the first result; for every True received, run again and send the seconds; at last, the peak memory."""
    fast.set_threads(threads)
    if side == "torch":
        from npsrgan import bench_torch
        bench_torch.settle(threads, channels_last)
    else:
        fast.keep_memory()          # as the training command does
    run = next(row for row in all_rows(quick=False) if row.name == name).prepare(side)
    pipe.send(run())                # this is the warm-up, too
    while pipe.recv():
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)
    pipe.send(peak_memory())


def measure(row, sides, pairs, channels_last):
    """Fill row.result: times in seconds, medians and spreads (median absolute deviations); peak memory of each process in MB
    (10^6 bytes); and how far apart the results lie."""
    pipes, first = {}, {}
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
    """The most memory in bytes that this process has held resident."""
    if os.path.exists("/proc/self/status"):         # getrusage would count the process that started this one
        with open("/proc/self/status") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gemm_rate():
    """Additions and multiplications per second in a large matrix product, the most this machine does in float32."""
    a, seconds = draw(2048, 2048), []
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def machine(gemm):
    """{name: value} of what the numbers depend on.  gemm: additions and multiplications per second."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "threads": fast.get_threads(), "gemm_gflops": gemm / 1e9,
            "python": platform.python_version(), "numpy": np.__version__}


@contextmanager
def timed_operations(seconds, calls, flops):
    """While open, add up the time of every operation and every gradient rule under its name and shapes."""
    evaluate = tape._evaluate

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

    tape._evaluate = watched
    try:
        yield
    finally:
        tape._evaluate = evaluate


def print_profile(gemm, steps=3):
    """Where the time of our SRGAN step goes, and how fast its convolutions are against the machine's matrix product.

    Convolutions count as the definition does; methods that save multiplications may exceed 100 %.
    """
    step = training("step")("ours")
    step()
    seconds, calls, flops = defaultdict(float), Counter(), Counter()
    with timed_operations(seconds, calls, flops):
        start = time.perf_counter()
        for _ in tqdm(range(steps), desc="profile", leave=False):
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
    """The command: measure every row, print it, and write the JSON file after each."""
    parser = argparse.ArgumentParser(prog="python -m npsrgan.bench", description="Our speed and memory on the CPU, against PyTorch's.")
    parser.add_argument("--quick", action="store_true", help="a few rows only, about a minute")
    parser.add_argument("--pairs", type=int, default=5, help="times each side is measured (default: 5)")
    parser.add_argument("--only", metavar="WORD", help="only the rows whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    parser.add_argument("--profile", action="store_true", help="print where the time of our SRGAN step goes, and nothing else")
    parser.add_argument("--methods", action="store_true", help="print the time of every way to convolve, and nothing else")
    parser.add_argument("--threads", type=int, help="threads of both sides (default: one for each core)")
    parser.add_argument("--channels-last", action="store_true", help="let torch keep images as we do; it may be faster")
    arguments = parser.parse_args(arguments)
    if arguments.pairs < 1 or (arguments.threads or 1) < 1:
        raise UserError("--pairs and --threads must be at least 1")
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
    rows = [row for row in all_rows(arguments.quick) if not arguments.only or arguments.only in row.name]
    for row in tqdm(rows, desc="bench"):
        measure(row, sides, arguments.pairs, arguments.channels_last)
        tqdm.write(describe(row))
        if arguments.json:
            finished = [{"name": r.name} | r.result for r in rows if r.result]
            with open(arguments.json, "w") as file:
                json.dump({"rows": finished, "machine": facts}, file, indent=1)


if __name__ == "__main__":
    main()
