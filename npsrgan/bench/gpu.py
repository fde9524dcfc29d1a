"""The benchmark's sides on a GPU:

    ours    as `train` runs: the training step as a CUDA graph
    torch   PyTorch as it is commonly run: eager, cudnn.benchmark on, TF32 convolutions
    best    PyTorch at its best: channels_last, fused Adam, everything as a CUDA graph
On all sides, single operations run from CUDA graphs, several times per graph, to time the kernels without Python's overhead.
Their inputs may still be in the GPU's cache, which is rare in a training step.

Times are measured between CUDA events after a warm-up.  Memory is the peak that the side's allocator reserved on the GPU, without
memory used only to try convolution algorithms.
"""
import subprocess
import sys
import time
from functools import partial

import numpy as np

from npsrgan import device
from npsrgan.bench import driver
from npsrgan.bench.rows import Row, adam_step, compute_on, draw, inference, operations, training, upload
from npsrgan.fast.cuda import blas, graph, set_precision

TURNS = False
WARM_UP, RUNS = 5, 4        # runs before the first measurement, and in each
BUSY = 0.2                  # minimum seconds of warm-up: an idle GPU is slow at first
IN_A_GRAPH = 10             # repetitions of a single operation in a graph


class Side(driver.Side):
    """Base class of our side and PyTorch's.  Subclasses set `event`, a class, and `elapsed`: the milliseconds between two events."""

    def release_trials(self):
        """Free memory used to try convolution algorithms, and reset the peak."""

    def warm_up(self):
        """Run until the GPU is as fast as it will be."""
        self.release_trials()
        begun, runs = time.monotonic(), 0
        while runs < WARM_UP or time.monotonic() < begun + BUSY:
            self.run()
            runs += 1
            done = self.event()
            done.record()
            done.synchronize()

    def time(self):
        """The seconds of each of RUNS runs."""
        times = []
        for _ in range(RUNS):
            start, end = self.event(), self.event()
            start.record()
            self.run()
            end.record()
            times.append((start, end))
        end.synchronize()
        return [self.elapsed(*pair) / 1e3 / self.repeated for pair in times]


def repeated(row):
    """How many times one run repeats the row's work."""
    return 1 if row.step else IN_A_GRAPH


class Ours(Side):
    """Our side."""

    def __init__(self, options):
        import cupy
        self.cupy, self.graphs, self.precision, self.trainers = cupy, graph.Graphs(cupy), options.precision, None
        compute_on(device.select("gpu")[0])
        self.event, self.elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time

    def prepare(self, row):
        set_precision(row.precision or self.precision)
        run, self.repeated = row.prepare("ours"), repeated(row)
        self.trainers = getattr(run, "graphs", None)
        if self.repeated == 1:          # a trainer has its own graphs, and Adam is one kernel
            return run
        work = partial(_repeatedly, run)
        return lambda: self.graphs(work)["result"]

    def used(self):
        """The graphs that this row uses: this side's and its trainer's."""
        return [graphs for graphs in (self.graphs, self.trainers) if graphs]

    def memory(self):
        """The bytes that all pools have reserved on the GPU."""
        pools = [self.cupy.get_default_memory_pool(), *(graphs.pool for graphs in self.used())]
        return sum(pool.total_bytes() for pool in pools)

    @property
    def note(self):
        """A remark to print, or None."""
        return None if all(graphs.record for graphs in self.used()) else "not recorded as a CUDA graph"

    def clear(self):
        self.graphs.forget()
        self.trainers = None
        self.cupy.get_default_memory_pool().free_all_blocks()


def _repeatedly(run):
    for _ in range(IN_A_GRAPH - 1):
        run()
    return {"result": run()}


class Torch(Side):
    """PyTorch's side, as it is commonly run or at its best."""

    def __init__(self, options, best=False):
        import torch

        from npsrgan.bench import pytorch
        self.torch, self.pytorch, self.precision, self.best = torch, pytorch, options.precision, best
        self.event, self.elapsed = partial(torch.cuda.Event, enable_timing=True), lambda a, b: a.elapsed_time(b)

    def prepare(self, row):
        self.pytorch.configure_gpu(self.best, row.precision or self.precision)
        run, self.repeated = row.prepare("torch"), repeated(row)
        return self.pytorch.captured(run, self.repeated) if self.best or self.repeated > 1 else run

    def memory(self):
        return self.torch.cuda.max_memory_reserved()

    def release_trials(self):
        self.torch.cuda.empty_cache()
        self.torch.cuda.reset_peak_memory_stats()

    clear = release_trials


SIDES = {"ours": Ours, "torch": Torch, "best": partial(Torch, best=True)}


def rows(quick):
    """Yield every Row, or a few of them: whole steps first, at batch 16 and 64."""
    yield Row("srgan_step batch 16", training("step", 16), step=True)
    yield Row("srresnet_step batch 16", training("srresnet_step", 16), step=True)
    yield Row("srgan_step float32 batch 16", training("step", 16), step=True, precision="float32")
    yield Row("srgan_step batch 64", training("step", 64), step=True)
    yield Row("srresnet_step batch 64", training("srresnet_step", 64), step=True)
    yield Row("adam_step discriminator", adam_step, step=True)
    yield Row("srresnet_infer_small", inference(44, 54))
    yield Row("srresnet_infer_large", inference(256, 256))
    yield from operations(quick, batch=16)


def ceilings():
    """A large product in either precision, and a large copy."""
    def product(side, tf32):
        a = upload(draw(8192, 8192))
        return lambda: blas.matmul(a, a, tf32=tf32)[:1, :1]

    def copy(side):
        a = upload(np.resize(draw(1 << 20), 1 << 28))
        b = a.copy()
        return lambda: b.__setitem__(slice(None), a)
    for precision in ("float32", "tf32"):
        yield Row(f"{precision} product 8192", partial(product, tf32=precision == "tf32"), 2 * 8192**3, step=True, precision=precision)
    yield Row("copy of 1 GiB", copy, bytes=2 << 30, step=True)


def facts(options):
    """The GPU's name and, if PyTorch is installed and finds the GPU, its version and CUDA's.

    PyTorch is asked in a separate process: it and CuPy each bring their own CUDA libraries, sometimes of different versions.
    """
    question = "import torch; assert torch.cuda.is_available(); print(torch.__version__, torch.version.cuda)"
    asked = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True)
    return {"gpu": device.select("gpu")[0].description, "precision": options.precision} | (
        dict(zip(("torch", "torch_cuda"), asked.stdout.split())) if asked.returncode == 0 else {})
