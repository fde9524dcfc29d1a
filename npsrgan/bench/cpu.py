"""The benchmark's sides on a CPU:

    ours            as `train` runs
    torch           PyTorch with images in its default layout, (N, C, H, W)
    channels_last   PyTorch with images in our layout, (N, H, W, C), which is sometimes faster and sometimes slower
All sides have the same number of threads, and all keep freed memory (`fast.keep_memory`).

Memory is the peak resident memory of the side's process.
"""
import importlib.metadata
import importlib.util
import os
import platform
import resource
import sys
import time
from functools import partial

from npsrgan import fast
from npsrgan.bench import driver
from npsrgan.bench.rows import Row, adam_step, draw, inference, operations, training

PAUSE = 0.05        # seconds between turns: torch's threads keep spinning briefly
TURNS = True


class Ours(driver.Side):
    """Our side."""

    name = "ours"

    def __init__(self, options):
        fast.set_threads(options.threads)
        fast.keep_memory()          # as the training command does

    def prepare(self, row):
        return row.prepare(self.name)

    def time(self):
        """The seconds of one run, in a list.  It follows another run directly, as in training: after a pause, threads wake slowly."""
        time.sleep(PAUSE)
        self.run()
        start = time.perf_counter()
        self.run()
        return [time.perf_counter() - start]

    def memory(self):
        """This process's peak resident memory in bytes."""
        if os.path.exists("/proc/self/status"):         # getrusage would include the parent process's peak
            with open("/proc/self/status") as lines:
                return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Torch(Ours):
    """PyTorch's side."""

    name = "torch"

    def __init__(self, options, channels_last=False):
        from npsrgan.bench import pytorch
        super().__init__(options)
        pytorch.configure(fast.get_threads(), channels_last)


SIDES = {"ours": Ours, "torch": Torch, "channels_last": partial(Torch, channels_last=True)}


def rows(quick):
    """Yield every Row, or a few of them."""
    yield from operations(quick)
    yield Row("srresnet_infer_small", inference(44, 54))
    yield Row("srresnet_step batch 4", training("srresnet_step", 4))
    if not quick:
        yield Row("adam_step discriminator", adam_step)
        yield Row("srresnet_infer_large", inference(256, 256))
        for batch in (1, 2, 8):
            yield Row(f"srresnet_step batch {batch}", training("srresnet_step", batch))
        yield Row("srresnet_step 24x24 batch 16", training("srresnet_step", 16, 24))
        for batch in (1, 2, 4, 8):
            yield Row(f"srgan_step batch {batch}", training("step", batch))


def ceilings():
    """A large matrix product."""
    def product(side):
        a = draw(2048, 2048)
        return lambda: a @ a
    yield Row("product 2048", product, 2 * 2048**3)


def facts(options):
    """The processor's name and, if it is installed, PyTorch's version."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu} | ({"torch": importlib.metadata.version("torch")} if importlib.util.find_spec("torch") else {})
