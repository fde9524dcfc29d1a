"""The benchmark on a GPU:  python -m npsrgan.bench --device gpu

Three sides, each in its own process on the same GPU, measured one after the other for every row:
    ours    as `train` runs: the training step as a CUDA graph
    torch   PyTorch as it is commonly run: eager, cudnn.benchmark on, TF32 convolutions
    best    PyTorch at its best: channels_last, fused Adam, everything as a CUDA graph
On all sides single operations are replayed from CUDA graphs, several times per graph, to time the kernels without Python's overhead.
Their inputs may still be in the GPU's cache, which is rare in a training step.

Times are medians, measured between CUDA events after a warm-up.  Memory is the peak that the side's allocator reserved on the GPU,
without memory used only to try convolution algorithms.
"""
import multiprocessing
import platform
import subprocess
import sys
import time
from functools import partial

import numpy as np

from npsrgan import device, fast
from npsrgan.bench import rows
from npsrgan.fast.cuda import blas, graph, set_precision
from npsrgan.system.errors import UserError, first_line
from npsrgan.system.terminal import progress, say

WARM_UP, REPEATS = 5, 20    # runs
BUSY = 0.2                  # minimum seconds of warm-up: an idle GPU is slow at first
IN_A_GRAPH = 10             # repetitions of a single operation in a graph
PATIENCE = 240              # most seconds that a row may take per side


def repeated(row):
    """How many times one run repeats the row's work."""
    return 1 if row.step or row.name.startswith("adam") else IN_A_GRAPH


class Ours:
    """Our side: prepares rows, and measures time and memory with CuPy."""

    def __init__(self, precision):
        import cupy
        self.cupy, self.graphs, self.precision, self.trainers = cupy, graph.Graphs(cupy), precision, None
        rows.compute_on(device.select("gpu")[0])
        self.event, self.elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time

    def prepare(self, row):
        set_precision(row.precision or self.precision)
        run = row.prepare("ours")
        self.trainers = getattr(run, "graphs", None)
        if repeated(row) == 1:          # a trainer has its own graphs, and Adam is one kernel
            return run
        work = partial(_repeatedly, run)
        return lambda: self.graphs(work)["result"]

    def used(self):
        """The graphs that this row uses: this side's and its trainer's."""
        return [graphs for graphs in (self.graphs, self.trainers) if graphs]

    def pools(self):
        return [self.cupy.get_default_memory_pool(), *(graphs.pool for graphs in self.used())]

    def memory(self):
        """The bytes that all pools have reserved on the GPU."""
        return sum(pool.total_bytes() for pool in self.pools())

    def notes(self):
        """Remarks to print, as a list of lines."""
        return [] if all(graphs.record for graphs in self.used()) else ["not recorded as a CUDA graph"]

    def release_trials(self):
        """Nothing to do: the first run tries no convolution algorithms."""

    def clear(self):
        self.graphs.forget()
        self.trainers = None
        self.cupy.get_default_memory_pool().free_all_blocks()


def _repeatedly(run):
    for _ in range(IN_A_GRAPH - 1):
        run()
    return {"result": run()}


class Torch:
    """PyTorch's side: eager, or at its best."""

    def __init__(self, precision, best=False):
        import torch

        from npsrgan.bench import pytorch
        self.torch, self.best, self.precision, self.twins = torch, best, precision, pytorch
        self.event, self.elapsed = partial(torch.cuda.Event, enable_timing=True), lambda a, b: a.elapsed_time(b)

    def prepare(self, row):
        self.twins.configure_gpu(self.best, row.precision or self.precision)
        run = row.prepare("torch")
        return self.twins.captured(run, repeated(row)) if self.best or repeated(row) > 1 else run

    def memory(self):
        return self.torch.cuda.max_memory_reserved()

    def notes(self):
        return []

    def release_trials(self):
        """Free memory used to try convolution algorithms, and reset the peak."""
        self.torch.cuda.empty_cache()
        self.torch.cuda.reset_peak_memory_stats()

    clear = release_trials


SIDES = {"ours": Ours, "torch": Torch, "best": partial(Torch, best=True)}


def serve(pipe, side, precision):
    """A side's process: for every row name received, send what `time_row` returns, or the error in one line."""
    found = {row.name: row for row in [*rows.gpu_rows(quick=False), *ceilings()]}
    try:
        side = SIDES[side](precision)
    except Exception as error:
        side = first_line(error)
    while name := pipe.recv():
        try:
            if isinstance(side, str):
                raise RuntimeError(side)
            pipe.send(time_row(side, found[name]))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {first_line(error)}")
        else:
            side.clear()


def time_row(side, row):
    """(the first result, milliseconds of each run, peak bytes, remarks)."""
    run = side.prepare(row)
    first = rows.plain(run())
    side.release_trials()
    begun, runs = time.monotonic(), 0
    while runs < WARM_UP or time.monotonic() < begun + BUSY:
        run()
        runs += 1
        done = side.event()
        done.record()
        done.synchronize()
    times = []
    for _ in range(REPEATS):
        start, end = side.event(), side.event()
        start.record()
        run()
        end.record()
        times.append((start, end))
    end.synchronize()
    return first, [side.elapsed(*pair) / repeated(row) for pair in times], side.memory(), *side.notes()


def ceilings():
    """Rows that measure the GPU's limits, with which the convolutions are compared."""
    def product(side, tf32):
        a = rows._device.array(rows.draw(8192, 8192))
        return lambda: blas.matmul(a, a, tf32=tf32)[:1, :1]

    def copy(side):
        a = rows._device.array(np.resize(rows.draw(1 << 20), 1 << 28))
        b = a.copy()
        return lambda: b.__setitem__(slice(None), a)
    for tf32 in (False, True):
        yield rows.Row("tf32 product 8192" if tf32 else "float32 product 8192", partial(product, tf32=tf32), 2 * 8192**3, step=True)
    yield rows.Row("copy of 1 GiB", copy, bytes=2 << 30, step=True)


class Process:
    """A side in its own process, which is replaced after a CUDA error, since no process survives one."""

    def __init__(self, side, precision):
        self.arguments, self.pipe = (side, precision), None

    def time(self, row):
        """What `time_row` returns, or a string that says why there is no result."""
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
    """Fill row.result: seconds (medians and median absolute deviations), MB (10^6 bytes), errors; ratios; and the fractions of `limits`,
    {"flops": per second, "bytes": per second}, that our side reaches."""
    first = {}
    for name, process in processes.items():
        answer = process.time(row)
        if isinstance(answer, str):
            row.result[f"{name}_error"] = answer
            continue
        first[name], times, held, *notes = answer
        seconds = np.array(times) / 1e3
        row.result |= {f"{name}_s": float(np.median(seconds)), f"{name}_mb": held / 1e6,
                       f"{name}_spread_s": float(np.median(np.abs(seconds - np.median(seconds))))}
        row.result |= {f"{name}_note": note for note in notes}
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
    parts += [f"{name} {r[f'{name}_note']}" for name in SIDES if f"{name}_note" in r]
    return "  ".join(parts)


def find_limits(ours, precision):
    """Our side's rates in a large matrix product and a large copy: {"flops": per second, "bytes": per second}."""
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


def find_torch():
    """{"torch": version, "torch_cuda": version} if PyTorch is installed and finds the GPU, else {}.

    Runs in a separate process: PyTorch and CuPy each bring their own CUDA libraries, sometimes of different versions.
    """
    question = "import torch; assert torch.cuda.is_available(); print(torch.__version__, torch.version.cuda)"
    asked = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True)
    return dict(zip(("torch", "torch_cuda"), asked.stdout.split())) if asked.returncode == 0 else {}


def main(arguments):
    """`bench.main` for a GPU: measure and print every row, and write the JSON file after each."""
    chosen, _ = device.select("gpu")
    facts = {"gpu": chosen.description, "precision": arguments.precision, "threads": fast.get_threads(),
             "python": platform.python_version(), "numpy": np.__version__}
    facts |= (theirs := find_torch())
    sides = list(SIDES) if theirs else ["ours"]
    if not theirs:
        print("PyTorch is not installed, or finds no GPU: our times alone")
    chosen_rows = [row for row in rows.gpu_rows(arguments.quick)
            if (not arguments.only or arguments.only in row.name) and row.precision != arguments.precision]
    if not chosen_rows:
        raise UserError(f"no row's name contains {arguments.only!r}")
    processes = {side: Process(side, arguments.precision) for side in sides}
    try:
        limits = find_limits(processes["ours"], arguments.precision)
        facts |= {f"{name}_per_s": value for name, value in limits.items()}
        print(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()))
        for row in progress(chosen_rows, desc="bench"):
            measure(row, processes, limits)
            say(describe(row))
            rows.write_report(arguments.json, chosen_rows, facts)
    finally:
        for process in processes.values():
            process.close()
