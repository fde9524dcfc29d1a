"""The benchmark on a GPU:  python -m npsrgan.bench --device gpu

Three sides, each in a process of its own, on the same card, one after the other for every row:
    ours    as `train` runs it: the training step as a CUDA graph
    torch   PyTorch as users run it: eager, cudnn.benchmark on, TF32 convolutions
    best    PyTorch at its best: channels_last, Adam in one kernel, everything as a CUDA graph
Single operations are replayed from CUDA graphs on all sides, so that the kernels are timed and not Python's way to them; their inputs
may still lie in the card's cache, as they seldom do in a training step.

Times are medians between CUDA events after a warm-up.  Memory is the most that the side's allocator took from the card.
"""
import gc
import importlib.util
import multiprocessing
import platform
from functools import partial

import numpy as np
from tqdm import tqdm

from npsrgan import bench_rows, device, fast, graph
from npsrgan.errors import UserError, first_line
from npsrgan.fast.cuda import blas, set_precision

WARM_UP, REPEATS = 5, 20
PATIENCE = 240              # seconds that a row may take a side


class Ours:
    """Our side: prepares a row, and speaks of time and memory in CuPy's terms."""

    def __init__(self, precision):
        import cupy
        set_precision(precision)
        self.cupy, self.graphs = cupy, graph.Graphs(cupy)
        bench_rows.settle(device.select("gpu")[0])
        self.event, self.elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time

    def prepare(self, row):
        run = row.prepare("ours")
        if row.step or row.name.startswith("adam"):         # a trainer has graphs of its own, and Adam is one kernel
            return run
        work = partial(_named, run)
        return lambda: self.graphs(work)["result"]

    def memory(self):
        """The bytes that all pools have taken from the card, and cuBLAS's scratch memory."""
        pools = [self.cupy.get_default_memory_pool(), *(o.pool for o in gc.get_objects() if type(o) is graph.Graphs)]
        return sum(pool.total_bytes() for pool in pools) + sum(workspace.size for workspace in blas._workspaces)

    def clear(self):
        self.graphs.forget()
        self.cupy.get_default_memory_pool().free_all_blocks()


def _named(run):
    return {"result": run()}


class Torch:
    """PyTorch's side, eager or at its best."""

    def __init__(self, precision, best=False):
        import torch

        from npsrgan import bench_torch
        bench_torch.settle_on_gpu(best, precision)
        self.torch, self.best, self.captured = torch, best, bench_torch.captured
        self.event, self.elapsed = partial(torch.cuda.Event, enable_timing=True), lambda a, b: a.elapsed_time(b)

    def prepare(self, row):
        run = row.prepare("torch")
        self.torch.cuda.reset_peak_memory_stats()
        return self.captured(run) if self.best or not row.step and not row.name.startswith("adam") else run

    def memory(self):
        return self.torch.cuda.max_memory_reserved()

    def clear(self):
        self.torch.cuda.empty_cache()
        self.torch.cuda.reset_peak_memory_stats()


SIDES = {"ours": Ours, "torch": Torch, "best": partial(Torch, best=True)}


def serve(pipe, side, precision):
    """A side's process: for every name of a row received, send its (result, milliseconds, bytes), or the error in one line."""
    rows = {row.name: row for row in [*bench_rows.gpu_rows(quick=False), *ceilings()]}
    try:
        side = SIDES[side](precision)
    except Exception as error:
        side = first_line(error)
    while name := pipe.recv():
        try:
            if isinstance(side, str):
                raise RuntimeError(side)
            pipe.send(time_row(side, rows[name]))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {first_line(error)}")
        else:
            side.clear()


def time_row(side, row):
    """(the first result, milliseconds of each run, the most bytes held)."""
    run = side.prepare(row)
    first = bench_rows.plain(run())
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(REPEATS):
        start, end = side.event(), side.event()
        start.record()
        run()
        end.record()
        times.append((start, end))
    end.synchronize()
    return first, [side.elapsed(*pair) for pair in times], side.memory()


def ceilings():
    """Rows that measure what the card can do at most, which the convolutions are held against."""
    def product(side, tf32):
        a = bench_rows._device.array(bench_rows.draw(8192, 8192))
        return lambda: blas.matmul(a, a, tf32=tf32)[:1, :1]

    def copy(side):
        a = bench_rows._device.array(np.ones(1 << 28, np.float32))
        b = a.copy()
        return lambda: b.__setitem__(slice(None), a)
    for tf32 in (False, True):
        yield bench_rows.Row("tf32 product 8192" if tf32 else "float32 product 8192", partial(product, tf32=tf32), 2 * 8192**3, step=True)
    yield bench_rows.Row("copy of 1 GiB", copy, bytes=2 << 30, step=True)


class Process:
    """A side in a process of its own.  After an error of the card's, which no process survives, a new one."""

    def __init__(self, side, precision):
        self.arguments, self.pipe = (side, precision), None

    def time(self, row):
        """What `time_row` returns, or a string that says why there is nothing."""
        if self.pipe is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, far_end = context.Pipe()
            self.process = context.Process(target=serve, args=(far_end, *self.arguments), daemon=True)
            self.process.start()
            far_end.close()
        try:
            self.pipe.send(row.name)
            answer = self.pipe.recv() if self.pipe.poll(PATIENCE) else f"no answer in {PATIENCE} s"
        except (EOFError, OSError):
            answer = "its process ended"
        if isinstance(answer, str):
            self.close()
        return answer

    def close(self):
        if self.pipe:
            self.process.kill()
            self.process.join()
            self.pipe = None


def measure(row, processes, limits):
    """Fill row.result: seconds (medians and median absolute deviations), MB (10^6 bytes), errors; ratios; and the shares of `limits`,
    {"flops": a second, "bytes": a second}, that our side reaches."""
    first = {}
    for name, process in processes.items():
        answer = process.time(row)
        if isinstance(answer, str):
            row.result[f"{name}_error"] = answer
            continue
        first[name], times, held = answer
        seconds = np.array(times) / 1e3
        row.result |= {f"{name}_s": float(np.median(seconds)), f"{name}_mb": held / 1e6,
                       f"{name}_spread_s": float(np.median(np.abs(seconds - np.median(seconds))))}
    r = row.result
    for name in ("torch", "best"):
        if "ours_s" in r and f"{name}_s" in r:
            r[f"ratio_{name}"], r[f"memory_ratio_{name}"] = r["ours_s"] / r[f"{name}_s"], r["ours_mb"] / r[f"{name}_mb"]
    if first.get("ours") is not None and first.get("torch") is not None and not row.name.startswith("adam"):
        r["difference"] = float(np.linalg.norm(first["ours"] - first["torch"]) / np.linalg.norm(first["torch"]))
    if row.step and "ours_s" in r and "batch" in row.name:
        r["images_per_s"] = int(row.name.split()[-1]) / r["ours_s"]
    if "ours_s" in r:
        r |= {f"share_of_{name}": getattr(row, name) / r["ours_s"] / limits[name] for name in limits if getattr(row, name)}


def describe(row):
    """A measured row as one line."""
    r = row.result
    parts = [f"{row.name:34}"]
    for name in SIDES:
        if f"{name}_s" in r:
            parts.append(f"{name} {r[f'{name}_s'] * 1e3:9.3f} ms ±{r[f'{name}_spread_s'] * 1e3:6.3f} {r[f'{name}_mb']:7.0f} MB")
        elif f"{name}_error" in r:
            parts.append(f"{name} {r[f'{name}_error'][:60]}")
    parts += [f"ratio {name} {r[f'ratio_{name}']:5.2f}" for name in ("torch", "best") if f"ratio_{name}" in r]
    parts += [f"{r[f'share_of_{name}']:.0%} of {what}" for name, what in (("flops", "GEMM"), ("bytes", "bandwidth"))
              if f"share_of_{name}" in r]
    if "images_per_s" in r:
        parts.append(f"{r['images_per_s']:.0f} images/s")
    if "difference" in r:
        parts.append(f"difference {r['difference']:.0e}")
    return "  ".join(parts)


def find_limits(ours, precision):
    """What our side reaches in a large matrix product and a large copy: {"flops": a second, "bytes": a second}."""
    limits = {}
    for row in ceilings():
        answer = ours.time(row)
        if not isinstance(answer, str):
            seconds = float(np.median(answer[1])) / 1e3
            if row.bytes:
                limits["bytes"] = row.bytes / seconds
            elif row.name.startswith(precision):
                limits["flops"] = row.flops / seconds
    return limits


def main(arguments):
    """`bench.main` for a GPU: measure every row, print it, and write the JSON file after each."""
    from npsrgan.bench import write_report
    chosen, _ = device.select("gpu")
    facts = {"gpu": chosen.description, "precision": arguments.precision, "threads": fast.get_threads(),
             "python": platform.python_version(), "numpy": np.__version__}
    sides = ["ours"]
    if importlib.util.find_spec("torch"):
        import torch
        facts |= {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
        if torch.cuda.is_available():
            sides = list(SIDES)
    if len(sides) == 1:
        print("PyTorch is not installed, or finds no GPU: our times alone")
    rows = [row for row in bench_rows.gpu_rows(arguments.quick) if not arguments.only or arguments.only in row.name]
    if not rows:
        raise UserError(f"no row's name contains {arguments.only!r}")
    processes = {side: Process(side, arguments.precision) for side in sides}
    try:
        limits = find_limits(processes["ours"], arguments.precision)
        facts |= {f"{name}_per_s": value for name, value in limits.items()}
        print(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()))
        for row in tqdm(rows, desc="bench"):
            measure(row, processes, limits)
            tqdm.write(describe(row))
            write_report(arguments.json, rows, facts)
    finally:
        for process in processes.values():
            process.close()
