"""Training on two processes, started by mpiexec: the same run as on one, and an end for both when one fails.

This file is also what mpiexec runs: see `as_a_process`.

By hand:  mpiexec -n 2 python tests/commands/test_workers.py measure     times steps of preset seed with batch 4, and their messages.
"""
import csv
import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path[:0] = map(str, [Path(__file__).parents[2], Path(__file__).parents[1]])

import numpy as np
import pytest
import runs
from comparisons import DOUBLE, wave

from npsrgan.data import Batches, DeadLeaves
from npsrgan.device import CPU
from npsrgan.fast import set_threads
from npsrgan.fast.blocks import any_size
from npsrgan.images import ImageError
from npsrgan.ops.operation import reference_only
from npsrgan.system.errors import UserError
from npsrgan.system.workers import ALONE, connect, ending_all
from npsrgan.train import __main__ as train
from npsrgan.train.settings import PRESETS, Settings
from npsrgan.trainer import Trainer, numbers

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(not (MPIEXEC and importlib.util.find_spec("mpi4py")), reason="PyPI's mpich and mpi4py are not installed")
HANGS = 300         # seconds after which a run that has not ended is said to hang
SETTINGS = Settings(steps=2, gan_steps=4, batch_size=8, patch_size=4, channels=4, blocks=1, discriminator_channels=2, vgg_layer="conv1_2",
                    adversarial_weight=0.1, learning_rate=1e-3, gan_learning_rate=1e-3, average=0.9)
CASES = {"one after the other": (SETTINGS, any_size),
         "by the reference": (SETTINGS, reference_only),
         "together": (dataclasses.replace(SETTINGS, together=True, steps=3, gan_steps=0, vgg_layer="conv1_1:0.5,conv1_2:2"), any_size),
         "local": (dataclasses.replace(SETTINGS, batch_norm="local"), any_size)}


def mpiexec(mode, *words, processes=2):
    """Run this file in so many processes.  Returns what `subprocess.run` does, with what they wrote."""
    return subprocess.run([MPIEXEC, "-n", str(processes), sys.executable, __file__, mode, *map(str, words)], capture_output=True,
                          text=True, timeout=HANGS)


def steps(case, workers):
    """{name: array or number} of the losses of every step over all processes, and of all that has changed in the end, in float64."""
    settings, version = CASES[case]
    trainer = Trainer(settings.validate(), DOUBLE, say=lambda line: None, workers=workers)
    for average in trainer.averages.values():
        average.to(DOUBLE.array)
    for adam in trainer.adam.values():
        adam.eps = 1e-4         # a bias before batch norm has no gradient but rounding errors, which Adam divides by this
    batches = Batches(DeadLeaves(12, 32, 0), settings.batch_size, settings.patch_size, rank=workers.rank, ranks=workers.size)
    found = {}
    with version():
        for step in range(settings.total_steps):
            row = workers.row(numbers(trainer.step(*batches.batch(step), diagnose=step % 2)))
            found |= {f"{name} of step {step}": value for name, value in row.items()}
    return found | trainer.arrays()


def as_a_process(mode, *words):
    """What each of the processes does.  mode: "steps", a key of HARM, or "" for the command as it is."""
    if mode == "steps":
        workers = connect()
        for case in CASES:
            found = {name.replace("/", "|"): value for name, value in steps(case, workers).items()}
            np.savez(Path(words[0], f"{case} {workers.rank}.npz"), **found)
        return 0
    if mode == "measure":
        return measure(connect())
    if mode == "without mpi4py":
        sys.modules["mpi4py"] = None
    runs.leave_out_pictures(setattr)
    unharmed = Trainer.step

    def step(self, *args, **kwargs):
        row = unharmed(self, *args, **kwargs)
        return HARM[mode](row) if self.workers.rank == 1 and self.steps == 3 and mode in HARM else row
    Trainer.step = step
    return train.main(list(words))


def measure(workers, count=4):
    """Print the seconds of each step, one thread a process, and the number, megabytes and seconds of its large and small messages."""
    set_threads(1)
    settings = dataclasses.replace(PRESETS["seed"], batch_size=4)
    trainer, messages, mean = Trainer(settings, CPU, say=lambda line: None, workers=workers), [], workers.mean

    def timed(array):
        workers.highest(0)          # wait for the others first
        start = time.perf_counter()
        result = mean(array)
        messages.append((array.nbytes / 1e6, time.perf_counter() - start))
        return result
    if workers.size > 1:
        workers.mean = timed
    lr, hr = (wave(4 // workers.size, side, side, 3).astype(np.float32) for side in (settings.patch_size, settings.image_size))
    for _ in range(count):
        messages.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.step(lr, hr)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        parts = [[part for part in messages if (part[0] > 1) == large] for large in (True, False)]
        told = [f"{len(part)} messages, {sum(size for size, _ in part):.2f} MB, {sum(time for _, time in part):.2f} s" for part in parts]
        if workers.rank == 0:
            print(f"{wall:.2f} s, of CPU {cpu:.2f} s", *told, sep="; ", flush=True)
    return 0


def fail(error):
    raise error


HARM = {        # what happens to one of the processes in its third step
    "raises": lambda row: fail(ValueError("of this test")),
    "exits": lambda row: sys.exit(3),
    "exits at once": lambda row: os._exit(3),
    "is killed": lambda row: os.kill(os.getpid(), signal.SIGKILL),
    "runs out of memory": lambda row: fail(MemoryError()),
    "finds a loss that is no number": lambda row: row | {"srresnet_pixel": np.nan},
    "is asked to stop": lambda row: os.kill(os.getpid(), signal.SIGTERM) or row,
}


# ---------------------------------------------------------------- the same run

@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """two_processes(case): what `steps` found on each of two processes."""
    folder = tmp_path_factory.mktemp("steps")
    done = mpiexec("steps", folder)
    assert done.returncode == 0, done.stderr

    def load(case):
        ranks = [np.load(folder / f"{case} {rank}.npz") for rank in range(2)]
        return [{name.replace("|", "/"): found[name] for name in found} for found in ranks]
    return load


@needs_mpi
@pytest.mark.parametrize("case", [case for case in CASES if case != "local"])
def test_two_processes_with_half_a_batch_each_are_one_with_all_of_it(two_processes, case):
    alone = steps(case, ALONE)
    for found in two_processes(case):
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert np.asarray(value).dtype == np.float64
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12 * max(1, np.abs(value).max()), err_msg=name)


@needs_mpi
def test_local_batch_norm_is_another_run(two_processes):
    alone, (mine, other) = steps("local", ALONE), two_processes("local")
    assert mine["srresnet_pixel of step 0"] == other["srresnet_pixel of step 0"]
    first = "adversarial of step 2"         # of SRGAN, whose discriminator is still the same
    assert abs(mine[first] / alone[first] - 1) > 0.01
    assert any(np.abs(mine[name] - other[name]).max() > 1e-3 for name in mine if "running" in name)
    assert all(np.array_equal(mine[name], other[name]) for name in mine if name.endswith("/parameters"))


# ---------------------------------------------------------------- the command

@pytest.fixture
def train_on(photos, tmp_path):
    """train_on(processes, out, *flags, mode="", **options): a tiny run of the command on so many processes, with batches of 4."""
    def run(processes, out, *flags, mode="", **options):
        options = options if "--resume" in flags else {"batch_size": 4, "log_every": 4} | options
        return mpiexec(mode, *runs.arguments(photos, tmp_path / out, *flags, **options), processes=processes)
    return run


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """The outcome of a run on two processes that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert mpiexec("", *runs.arguments(photos, out, batch_size=4, log_every=4)).returncode == 0
    return runs.outcome(out)


def log(out):
    """{step: the numbers of its line in the log that do not depend on the time}"""
    with open(out / "log.csv", newline="") as file:
        return {row["step"]: {name: float(value) for name, value in row.items() if value and name not in ("images_per_s", "data_wait")}
                for row in csv.DictReader(file)}


def assert_same_run(mine, theirs):
    """In float32, and after steps of Adam: a few digits."""
    for step, row in log(theirs).items():
        assert log(mine)[step] == pytest.approx(row, rel=2e-3, abs=2e-3)
    assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in theirs.iterdir())


@needs_mpi
def test_process_0_writes_what_one_process_would_and_others_say_nothing(train_on, tiny, tmp_path, capsys):
    done = train_on(2, "two")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("2 processes, each with 2 of a batch's 4 images") == 1
    assert done.stdout.count("step 8/8") == 1 and done.stdout.count("held-out image") == 1
    assert tiny(tmp_path / "one", batch_size=4, log_every=4) == 0
    assert_same_run(tmp_path / "two", tmp_path / "one")


@needs_mpi
def test_a_run_goes_on_with_another_number_of_processes(train_on, tiny, tmp_path):
    assert tiny(tmp_path / "one", batch_size=4, log_every=4) == 0
    assert tiny(tmp_path / "run", batch_size=4, log_every=4, steps=2, gan_steps=0) == 0
    assert train_on(2, "run", "--resume", steps=4, gan_steps=2).returncode == 0
    assert tiny(tmp_path / "run", "--resume", gan_steps=4) == 0
    assert_same_run(tmp_path / "run", tmp_path / "one")
    refused = train_on(3, "run", "--resume", gan_steps=6)
    assert refused.returncode == 2
    assert sentence(refused) == ("a batch of 4 cannot be divided equally among 3 processes: give a --batch-size that is a multiple of 3")


def sentence(done):
    """The one error that was reported."""
    [said] = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    return said


@needs_mpi
@pytest.mark.parametrize("mode", HARM)
def test_the_end_of_one_process_is_the_end_of_both(train_on, undisturbed, tmp_path, mode):
    """Within seconds: mpiexec would wait for ever for a process that waits for another.  What was saved is kept, and goes on to the same
    bits as if nothing had happened."""
    done = train_on(2, "run", mode=mode)
    kept = "the checkpoint of step 2 is kept"
    status, said = {"raises": (1, "ValueError: of this test"), "exits": (3, ""), "exits at once": (3, ""), "is killed": (9, ""),
                    "runs out of memory": (2, f"error: out of memory at step 3, {kept}: try a smaller --batch-size"),
                    "finds a loss that is no number": (2, f"error: at step 3 the loss srresnet_pixel is nan: training stopped and {kept}"),
                    "is asked to stop": (143, "")}[mode]
    assert done.returncode == status and done.stderr.count(said) >= 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == said.startswith("error: ")
    if mode == "is asked to stop":
        assert done.stdout.count("stopped after step 3 and saved") == 1
    assert train_on(2, "run", "--resume").returncode == 0
    assert runs.differences(runs.outcome(tmp_path / "run"), undisturbed) == []


@needs_mpi
def test_without_mpi4py_one_sentence_says_what_to_install(train_on, tmp_path):
    done = train_on(2, "run", mode="without mpi4py")
    assert done.returncode == 2
    assert sentence(done) == ("mpiexec started 2 processes, but mpi4py cannot be imported: pip install mpi4py mpich, and use the mpiexec "
                              "that they install")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("names", [("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")])
def test_an_mpi4py_of_another_mpi_is_refused(monkeypatch, names):
    """Each process would take itself for the only one, and write into the folder of the others."""
    for name, value in zip(names, ("4", "0")):
        monkeypatch.setenv(name, value)
    world = SimpleNamespace(COMM_WORLD=SimpleNamespace(size=1))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=world))
    with pytest.raises(UserError, match="started 4 processes, but mpi4py, made for another MPI, finds 1"):
        connect()


# ---------------------------------------------------------------- its parts

@pytest.mark.parametrize("ranks", [2, 3])
def test_the_processes_share_the_batch_of_one(ranks):
    """Also where an image cannot be used: the next one of the epoch takes its place, as on one process."""
    class Source(DeadLeaves):
        def load(self, index):
            if index == 5:
                raise ImageError("broken")
            return super().load(index)

    source = Source(13, 32, 0)
    whole = Batches(source, 6, 4, report=lambda line: None)
    parts = [Batches(source, 6, 4, report=lambda line: None, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(5):
        mine = np.concatenate([part.batch(step)[1] for part in parts])
        assert sorted(image.tobytes() for image in mine) == sorted(image.tobytes() for image in whole.batch(step)[1])


if __name__ == "__main__":
    sys.exit(ending_all(lambda: as_a_process(*sys.argv[1:])))
