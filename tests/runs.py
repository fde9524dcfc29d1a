"""Tiny training runs for the tests: a pytest plugin with the fixtures `photos` and `tiny`, and what compares two runs."""
import csv
import itertools
import json
import multiprocessing
import os
import signal
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from npsrgan import storage
from npsrgan.train import __main__ as train
from npsrgan.train import report

TINY = {"channels": 2, "blocks": 1, "discriminator-channels": 2, "patch-size": 8, "scale": 2, "batch-size": 3, "steps": 4,
        "gan-steps": 4, "log-every": 1, "save-every": 2, "vgg-layer": "conv1_1", "schedule": "constant",
        "gan-schedule": "constant", "device": "cpu"}
TOGETHER = {"together": True, "steps": 8, "gan-steps": 0}       # instead of one after the other; as many steps in all


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with train/ (7 images), few/ (2) and val/ (1), of 40x48 pixels."""
    return make_photos(tmp_path_factory.mktemp("photos"))


def make_photos(folder):
    rng = np.random.default_rng(0)
    for name in [*(f"train/{i}.png" for i in range(7)), "few/a.png", "few/b.png", "val/v.png"]:
        (folder / name).parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8))
        coarse.resize((48, 40), Image.Resampling.BICUBIC).save(folder / name)
    return folder


@pytest.fixture
def tiny(photos, monkeypatch):
    """tiny(out, *flags, **options): the exit status of a small run without pictures, which take longer than its training."""
    leave_out_pictures(monkeypatch.setattr)

    def run(out, *flags, **options):
        return status(arguments(photos, out, *flags, **options))
    return run


def leave_out_pictures(setattr):
    """Replace everything that draws; they are tested apart."""
    setattr(report, "sample_picture", lambda *args: None)
    setattr(report, "comparison_picture", lambda *args: None)
    setattr(report.Log, "plot", lambda *args: None)


def arguments(photos, out, *flags, **options):
    """The command line of a tiny run into `out`, on photos/train if not said otherwise; with --resume only what `options` says."""
    options = {name.replace("_", "-"): value for name, value in options.items()}
    if "--resume" not in flags:
        options = {"data": photos / "train", "val": photos / "val"} | TINY | options
    words = [str(flag) for flag in flags] + ([] if out is None else ["--out", str(out)])
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def status(words):
    """The exit status of the command with these arguments, in this process."""
    try:
        return train.main(words)
    except SystemExit as end:
        return end.code


def outcome(out):
    """Everything two equal runs must agree on, to the bit: what is in every file of weights, the log and the result, less speeds."""
    found = {}
    for path in sorted(Path(out).glob("*.h5")):
        if "previous" not in path.name:
            arrays, attributes = storage.read(path)
            settings = json.loads(attributes.pop("settings"))
            found |= {(path.name, name): (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
            found |= {(path.name, name): value for name, value in (attributes | settings).items() if name != "out"}
    with open(out / "log.csv", newline="") as file:
        found["log.csv"] = [{name: value for name, value in row.items() if name not in ("images_per_s", "data_wait")}
                            for row in csv.DictReader(file)]
    if (out / "result.json").exists():
        found["result.json"] = json.loads((out / "result.json").read_text())
        del found["result.json"]["settings"]["out"]
    return found


def differences(a, b):
    """The keys under which two outcomes differ: [] if they are the same."""
    return sorted(str(key) for key in a.keys() | b.keys() if a.get(key) != b.get(key))


# A run in a process of its own, to be killed.  One server process has everything imported and forks the others off quickly.
_processes = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
if _processes:
    _processes.set_forkserver_preload(["npsrgan.train.__main__"])


def start(words, die_at=None):
    """Start the command in another process.  die_at: SIGKILL itself at that event, of those that `_die_at` counts."""
    process = _processes.Process(target=_child, args=(words, die_at))
    process.start()
    return process


def _child(words, die_at):
    leave_out_pictures(setattr)
    tqdm.set_lock(threading.RLock())        # its own spans processes, and would be left behind
    if die_at:
        _die_at(die_at)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = status(words)
    os._exit(code or 0)


def _die_at(number):
    """From now on, kill this process at the n-th event: a file of weights half written, or written but not yet flushed; a rename
    about to happen, or done."""
    events = itertools.count(1)

    def event():
        if next(events) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function):
        def call(*args):
            event()
            function(*args)
            event()
        return call

    class Halves:
        def __init__(self, path, mode):
            self.file = open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, contents):
            self.file.write(contents[:len(contents) // 2])
            self.file.flush()
            event()
            self.file.write(contents[len(contents) // 2:])

    storage.open = Halves
    os.replace, os.fsync = watched(os.replace), watched(os.fsync)
