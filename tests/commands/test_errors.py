"""Whatever goes wrong: one clear sentence on stderr, exit status 2 (130 after Ctrl-C), no traceback, nothing lost."""
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image
from runs import TOGETHER, arguments, differences, outcome, status

from npsrgan import device, storage
from npsrgan.data import dead_leaves, folder
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.system import errors, files
from npsrgan.train import __main__ as train
from npsrgan.train import report
from npsrgan.trainer import Trainer

ROOT = Path(__file__).parents[2]


def the_sentence(capsys):
    """The error on stderr, which must be the only line there that is no progress bar."""
    printed = capsys.readouterr().err.replace("\r", "\n")
    lines = [line for line in printed.split("\n") if line.strip() and "steps/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), printed
    return lines[0]


# ---------------------------------------------------------------- what the user gives

@pytest.fixture
def junk(tmp_path, photos):
    """A folder full of things that are not what they should be."""
    junk = tmp_path / "junk"
    for name in ("empty", "corrupt", "small", "some", "one"):
        (junk / name).mkdir(parents=True)
    (junk / "empty" / "notes.txt").write_text("no image")
    (junk / "file").write_text("no folder")
    whole = (photos / "train" / "0.png").read_bytes()
    for name in ("corrupt/a.png", "corrupt/b.png"):
        (junk / name).write_bytes(whole[:len(whole) // 2])
    for name in ("small/a.png", "small/b.png"):
        Image.fromarray(np.zeros((12, 40, 3), np.uint8)).save(junk / name)
    shutil.copy(photos / "train" / "0.png", junk / "one")
    storage.save_network(junk / "wide.h5", SRResNet(3, 1, 2))
    storage.save_network(junk / "d.h5", Discriminator(2, 16))
    storage.save_network(junk / "vgg.h5", random_vgg19("conv1_1"))
    storage.write(junk / "checkpoint.h5", {}, {"srresnet_steps": 1, "settings": "{}"})
    (junk / "pointer.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 80142336\n")
    with h5py.File(junk / "foreign.h5", "w") as file:
        file["block1_conv1/block1_conv1_W_1:0"] = np.zeros((3, 3, 3, 60), np.float32)
    return junk


BAD_INPUT = {
    "no such folder": ({"data": "nowhere"}, r"nowhere: no such folder"),
    "no such folder to validate on": ({"val": "nowhere"}, r"nowhere: no such folder"),
    "a file as folder": ({"data": "file"}, r"file is neither a folder, .*: give the folder"),
    "no images": ({"data": "empty"}, r"empty holds no image"),
    "all corrupt": ({"data": "corrupt"}, r"none of 2 images can be used: 2 cannot be read, 0 are too small; the first: .*[ab]\.png"),
    "all too small": ({"data": "small"}, r"all 2 images are too small for patches of 16 pixels: give larger images or a smaller"),
    "nothing to validate on": ({"val": "corrupt"}, r"none of 2 validation images can be used"),
    "one image and no --val": ({"data": "one", "val": None}, r"has one image only"),
    "patch 0": ({"patch_size": 0}, r"--patch-size must be at least 1"),
    "batch 0": ({"batch_size": 0}, r"--batch-size must be at least 1"),
    "not divisible": ({"patch_size": 9}, r"--patch-size .* divisible by 16"),
    "negative weight": ({"adversarial_weight": -1}, r"--adversarial-weight must be a number, and not negative"),
    "no number": ({"pixel_weight": "nan"}, r"--pixel-weight must be a number"),
    "no steps": ({"steps": 0, "gan_steps": 0}, r"--steps must be at least 1"),
    "no learning rate": ({"learning_rate": 0}, r"--learning-rate must lie between 0 and 1"),
    "steps of SRGAN where both train together": ({"preset": "seed", "gan_steps": 3}, r"--gan-steps has no meaning"),
    "init: another architecture": ({"init": "wide.h5"}, r"wide.h5 holds another generator: give --channels 3 --blocks 1 --scale 2"),
    "init: a discriminator": ({"init": "d.h5"}, r"d.h5 holds a Discriminator, not a SRResNet"),
    "init: a checkpoint": ({"init": "checkpoint.h5"}, r"checkpoint.h5 holds something else \(a checkpoint\?\), not"),
    "init: no HDF5": ({"init": "file"}, r"file is not a weights file of a known kind"),
    "init: nothing": ({"init": "nowhere.h5"}, r"there is no file .*nowhere.h5"),
    "vgg: nothing": ({"vgg": "nowhere.h5"}, r"there is no file .*nowhere.h5: npsrgan/train/README.md says where"),
    "vgg: no HDF5": ({"vgg": "file"}, r"file is not a weights file of a known kind"),
    "vgg: a pointer of Git LFS": ({"vgg": "pointer.h5"}, r"pointer.h5 is not a weights file but a Git LFS pointer"),
    "vgg: lacks layers": ({"vgg": "vgg.h5", "vgg_layer": "conv1_2"}, r"missing conv1_2.weight; missing conv1_2.bias"),
    "vgg: of another shape": ({"vgg": "foreign.h5"}, r"missing conv1_1.bias; conv1_1.weight has shape \(3, 3, 3, 60\)"),
    "vgg: a discriminator": ({"vgg": "d.h5"}, r"d.h5 holds a Discriminator, not a VGG19"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(photos, junk, tmp_path, capsys, monkeypatch, case):
    options, sentence = BAD_INPUT[case]
    monkeypatch.chdir(junk)
    words = arguments(photos, tmp_path / "run", **options)
    if options.get("val", "") is None:
        del words[words.index("--val"):words.index("--val") + 2]
    assert status(words) == 2
    assert re.search(sentence, the_sentence(capsys))
    assert not (tmp_path / "run" / "checkpoint.h5").exists()


def test_a_corrupt_image_among_good_ones(photos, tiny, tmp_path, junk, capsys):
    """Skipped, named once, counted at the end; the others train."""
    some = junk / "some"
    shutil.copytree(photos / "train", some, dirs_exist_ok=True)
    shutil.copy(junk / "corrupt" / "a.png", some / "broken.png")
    shutil.copy(junk / "small" / "a.png", some / "tiny.png")
    assert tiny(tmp_path / "run", data=some) == 0
    said = capsys.readouterr().out
    assert said.count("broken.png") == 1 and said.count("tiny.png has 40x12 pixels: too small for a patch of 16x16") == 1
    assert "2 of 9 training images could not be used and were skipped" in said


def test_the_real_command_ends_without_a_traceback(tmp_path):
    done = subprocess.run([sys.executable, "-m", "npsrgan.train", "--data", str(tmp_path / "nowhere")], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"error: {tmp_path / 'nowhere'}: no such folder\n"
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- where the results go

@pytest.mark.parametrize("out", ["file", "file/run", "/proc/run"])
def test_folders_that_cannot_be_written(tiny, junk, capsys, out):
    if out.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    assert tiny(junk / out) == 2
    assert re.search(r"cannot write results to .* \(.+\): give another folder with --out", the_sentence(capsys))
    assert (junk / "file").read_text() == "no folder"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tiny, tmp_path, capsys):
    (tmp_path / "mine").mkdir(mode=0o500)
    assert tiny(tmp_path / "mine" / "run") == 2
    assert re.search("Permission denied", the_sentence(capsys))


@pytest.fixture
def limit():
    """limit.install(step, bytes): from that step on no file can grow beyond so many bytes, as on a full disk, until limit.lift()."""
    resource = pytest.importorskip("resource", reason="limits processes as POSIX does")
    before, undo = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def install(at, size):
        original = Trainer.step

        def step(self, *args, **kwargs):
            if self.steps + 1 == at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size() if callable(size) else size, before[1]))
            return original(self, *args, **kwargs)
        Trainer.step, undo[:] = step, [original]

    def lift():
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if undo:
            Trainer.step = undo.pop()
    yield SimpleNamespace(install=install, lift=lift)
    lift()


@pytest.mark.parametrize("mode", [{}, TOGETHER], ids=["one after the other", "together"])
def test_a_disk_that_fills_during_a_checkpoint(tiny, tmp_path, limit, capsys, mode):
    tiny(tmp_path / "whole", **mode)
    capsys.readouterr()
    limit.install(5, 20_000)            # the checkpoint of step 6 does not fit
    code = tiny(tmp_path / "run", **mode)
    limit.lift()
    assert code == 2
    assert re.search(r"could not write .*checkpoint.h5 \(File too large\): .*; the file saved before is intact", the_sentence(capsys))
    assert storage.read(tmp_path / "run" / "checkpoint.h5")[1]["srresnet_steps"] == 4
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint.h5", "checkpoint.previous.h5", "log.csv", "samples"]
    assert tiny(tmp_path / "run", "--resume") == 0
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_a_disk_that_fills_during_the_log(tiny, tmp_path, limit, capsys):
    tiny(tmp_path / "whole")
    capsys.readouterr()
    limit.install(6, lambda: (tmp_path / "run" / "log.csv").stat().st_size + 20)         # a row does not fit
    code = tiny(tmp_path / "run")
    limit.lift()
    assert code == 2
    assert re.search(r"writing to .*run failed \(File too large\); to go on: .* --resume --out .*run", the_sentence(capsys))
    assert tiny(tmp_path / "run", "--resume") == 0
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_a_disk_that_fills_during_a_picture(photos, tmp_path, limit, capsys):
    limit.install(4, 3000)
    code = status(arguments(photos, tmp_path / "run", log_every=4))
    limit.lift()
    assert code == 2
    assert re.search(r"writing to .*run failed \(File too large\); to go on: ", the_sentence(capsys))
    assert not list((tmp_path / "run" / "samples").iterdir())
    assert storage.read(tmp_path / "run" / "checkpoint.h5")[1]["srresnet_steps"] == 2


@pytest.mark.parametrize("function", ["write_result", "comparison_picture"])
def test_a_disk_that_fills_at_the_end(tiny, tmp_path, monkeypatch, capsys, function):
    def full(path, *args):
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(report, function, full)
        assert tiny(tmp_path / "run") == 2
    assert re.search(r"writing to .*run failed \(No space left on device\); to go on: ", the_sentence(capsys))
    assert not (tmp_path / "run" / "result.json").exists()
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert tiny(tmp_path / "run", "--resume") == 0 and (tmp_path / "run" / "result.json").exists()


# ---------------------------------------------------------------- training that diverges

def spoil(trainer, what):
    """Make something that training changes infinite or NaN."""
    arrays = {"parameter": trainer.networks["srresnet"].flat, "moment": trainer.adam["srresnet"].v,
              "statistic": next(iter(trainer.networks["srresnet"].state().values()))}
    arrays[what].reshape(-1)[-1] = math.inf if what == "moment" else math.nan


@pytest.mark.parametrize("what", ["parameter", "moment", "statistic"])
@pytest.mark.parametrize("spoiled", [2, 3], ids=["before a checkpoint", "between checkpoints"])
def test_nothing_that_is_not_finite_is_saved(tiny, tmp_path, monkeypatch, capsys, what, spoiled):
    tiny(tmp_path / "whole", save_every=1, steps=1, gan_steps=0)
    capsys.readouterr()
    step = Trainer.srresnet_step

    def spoiling(self, lr, hr):
        row = step(self, lr, hr)
        if self.srresnet_steps == spoiled:
            spoil(self, what)
        return row
    monkeypatch.setattr(Trainer, "srresnet_step", spoiling)
    assert tiny(tmp_path / "run", save_every=spoiled - 1, log_every=100) == 2
    assert re.search(rf"training stopped and the checkpoint of step {spoiled - 1} is kept; start anew with a smaller "
                                "--learning-rate", the_sentence(capsys))
    arrays, attributes = storage.read(tmp_path / "run" / "checkpoint.h5")
    assert attributes["srresnet_steps"] == spoiled - 1 and all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.parametrize("mode", [{"steps": 1}, TOGETHER], ids=["one after the other", "together"])
def test_a_loss_that_explodes(tiny, tmp_path, capsys, recwarn, mode):
    """A weight so large that gradients overflow."""
    assert tiny(tmp_path / "run", **mode, adversarial_weight=1e38, save_every=1) == 2
    assert re.search(r"no longer finite|is (nan|inf)", the_sentence(capsys))
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]     # stderr has said it once
    if mode == TOGETHER:
        assert not (tmp_path / "run" / "checkpoint.h5").exists()
    else:
        assert storage.read(tmp_path / "run" / "checkpoint.h5")[1]["srgan_steps"] == 0


@pytest.mark.parametrize("options, remedy", [
    ({"pixel_weight": 1e300, "steps": 1}, r"a smaller --pixel-weight \(it is 1e\+300\)"),
    ({"leaky_slope": 1e30, "steps": 1}, r"a smaller --leaky-slope \(it is 1e\+30\)"),
    ({"learning_rate": 0.99, "steps": 200, "gan_steps": 0, "init": "wild.h5"}, "other weights in --init: nothing was learned yet")])
def test_what_is_to_blame(tiny, tmp_path, monkeypatch, capsys, options, remedy):
    generator = SRResNet(2, 1, 2)
    generator.flat[...] = 1e30
    storage.save_network(tmp_path / "wild.h5", generator)
    monkeypatch.chdir(tmp_path)
    assert tiny(tmp_path / "run", save_every=1, **options) == 2
    assert re.search(f"start anew with {remedy}", the_sentence(capsys))


# ---------------------------------------------------------------- photographs, names and pictures

def test_large_images_are_validated_in_parts(tiny, photos, tmp_path, monkeypatch):
    """As many pixels at once as a tile has, however large the photograph is."""
    rng = np.random.default_rng(0)
    (tmp_path / "val").mkdir()
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    coarse.resize((1400, 1200)).save(tmp_path / "val" / "large.png")
    seen, features = [], SRResNet.features
    monkeypatch.setattr(SRResNet, "features", lambda self, lr: (seen.append(lr.shape), features(self, lr))[1])
    assert tiny(tmp_path / "run", val=tmp_path / "val", steps=1, gan_steps=0) == 0
    assert 300 < max(max(shape[1:3]) for shape in seen) < 600        # of 700 pixels; with the overlap


@pytest.mark.parametrize("error, words", [(MemoryError(), r"out of memory while validating at step 3, the checkpoint of step 3 is kept: "
                                           "give smaller images with --val, or fewer with --val-count"),
                                          (OSError(28, "No space left on device"), "No space left")])
def test_what_fails_while_validating_costs_no_training(tiny, tmp_path, monkeypatch, capsys, error, words):
    validate = train.validate

    def failing(trainer, pairs, out, step):
        if step == 3:
            raise error
        return validate(trainer, pairs, out, step)
    monkeypatch.setattr(train, "validate", failing)
    assert tiny(tmp_path / "run", save_every=100) == 2
    assert re.search(words, the_sentence(capsys))
    assert storage.read(tmp_path / "run" / "checkpoint.h5")[1]["srresnet_steps"] == 3


def test_names_that_no_font_and_no_terminal_has(photos, tmp_path):
    """In a terminal of ASCII; the pictures are drawn, without a warning."""
    for name in ("日本語\x1b[31m.png", "new\nline.png", "latin\udce9.png"):
        (tmp_path / "val").mkdir(exist_ok=True)
        shutil.copy(photos / "val" / "v.png", tmp_path / "val" / name)
    (tmp_path / "val" / "broken\n.png").write_text("no image")
    words = arguments(photos, tmp_path / "run", val=tmp_path / "val", steps=2, gan_steps=0)
    done = real(tmp_path, words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (tmp_path / "run" / "samples" / "step_0000001.png").exists() and (tmp_path / "run" / "result.png").exists()
    assert "broken\\n.png" in done.stdout and "\x1b" not in done.stdout


def real(cwd, words, shell=None, **environment):
    """The command in a process of its own.  shell: what follows behind it, such as "| head -1"."""
    command = [sys.executable, "-m", "npsrgan.train", *words]
    if shell is not None:
        command = ["bash", "-c", f"{shlex.join(command)} {shell}"]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True,
                          timeout=120)


@pytest.mark.parametrize("shell, status, complaint", [("| head -1; exit ${PIPESTATUS[0]}", 0, ""), (">&- 2>&-", 0, ""),
                                                     ("> /dev/full", 2, "error: standard output cannot be written: the disk is full")])
def test_training_goes_on_where_nobody_reads(photos, tmp_path, shell, status, complaint):
    done = real(tmp_path, arguments(photos, tmp_path / "run", steps=2, gan_steps=0), shell)
    assert done.returncode == status and done.stderr.startswith(complaint) and bool(done.stderr) == bool(complaint)
    assert (tmp_path / "run" / "result.json").exists()


def test_interrupted_while_modules_are_loaded(tmp_path):
    (tmp_path / "numpy.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    for name in ("train", "upscale", "evaluate", "convert"):
        process = subprocess.Popen([sys.executable, "-m", f"npsrgan.{name}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "" and process.returncode == -signal.SIGINT


@pytest.mark.parametrize("option", ["--data", "--val", "--out", "--init", "--vgg"])
def test_an_empty_name_is_not_the_current_folder(photos, tmp_path, capsys, option):
    assert status([*arguments(photos, tmp_path / "run"), option, ""]) == 2
    assert the_sentence(capsys) == f"error: {option} must not be empty"


# ---------------------------------------------------------------- Ctrl-C outside the steps, which test_resume.py is about

def interrupting(function):
    def call(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return function(*args, **kwargs)
    return call


@pytest.mark.parametrize("moment", ["drawing dead leaves", "searching images", "making networks", "reading validation images"])
def test_interrupted_before_training(tiny, photos, tmp_path, monkeypatch, capsys, moment):
    module, name = {"drawing dead leaves": (dead_leaves.DeadLeaves, "__init__"), "searching images": (folder, "_search"),
                    "making networks": (train, "Trainer"), "reading validation images": (train, "validation_pairs")}[moment]
    monkeypatch.setattr(module, name, interrupting(getattr(module, name)))
    words = arguments(photos, tmp_path / "run", leaves=4)
    if moment == "drawing dead leaves":
        words = words[:words.index("--data")] + words[words.index("--data") + 2:]
    assert status(words) == 130
    said = capsys.readouterr()
    if moment == "reading validation images":
        assert said.out.splitlines()[-1] == "interrupted; nothing was saved yet" and said.err == ""
    else:
        assert said.err == "interrupted\n" and not (tmp_path / "run").exists()


def test_interrupted_while_measuring(tiny, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(train, "ssim", interrupting(train.ssim))
        assert tiny(tmp_path / "run") == 130
    said = capsys.readouterr()
    assert "interrupted; to go on: python -m npsrgan.train --resume --out" in said.out and "Traceback" not in said.err
    assert tiny(tmp_path / "run", "--resume") == 0 and (tmp_path / "run" / "result.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="sends a signal as POSIX does")
def test_the_real_command_interrupted(tmp_path):
    """While it draws dead leaves, in threads."""
    process = subprocess.Popen([sys.executable, "-c", "from npsrgan.train.__main__ import main; print('ready', flush=True); main()",
                                "--leaves", "100000", "--device", "cpu"], cwd=tmp_path, text=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stderr.splitlines()[-1].strip() == "interrupted" and "Traceback" not in stderr


# ---------------------------------------------------------------- commands, memory and devices

def test_how_a_command_ends(capsys):
    def ends(error):
        @errors.command
        def main():
            raise error
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, capsys.readouterr().err

    assert ends(errors.UserError("do that")) == (2, "error: do that\n")
    assert ends(OSError(28, "No space left on device", "x.png")) == (2, "error: x.png: the disk is full: free some space and try again\n")
    assert ends(PermissionError(13, "Permission denied", "x")) == (2, "error: x: permission denied\n")
    assert ends(OSError(5, "Input/output error")) == (2, "error: Input/output error\n")
    assert ends(MemoryError()) == (2, "error: out of memory: close other programs, or use smaller images\n")
    on_gpu = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})
    assert ends(on_gpu()) == (2, "error: out of memory on the GPU: close other programs, or use smaller images\n")
    assert ends(KeyboardInterrupt()) == (130, "interrupted\n")
    with pytest.raises(ZeroDivisionError):          # our own errors keep their traceback
        errors.command(lambda: 1 / 0)()
    assert errors.command(lambda: 7)() == 7


def cupy(count=1, product=1.0, count_error=None, product_error=None, driver=0):
    """What stands in for CuPy on a machine without it, or without a GPU, or without CUDA's libraries."""
    class Ones:
        def __matmul__(self, other):
            if product_error:
                raise product_error
            return np.full((8, 8), 8 * product, np.float32)

    def get_count():
        if count_error:
            raise count_error
        return count
    runtime = SimpleNamespace(getDeviceCount=get_count, getDeviceProperties=lambda index: {"name": b"NVIDIA X"},
                              driverGetVersion=lambda: driver, runtimeGetVersion=lambda: 12090)
    cuda = SimpleNamespace(runtime=runtime, Device=lambda number: SimpleNamespace(use=lambda: None))
    return SimpleNamespace(__version__="14", ndarray=Ones, ones=lambda *args: Ones(), cuda=cuda)


DEVICES = {
    "no CuPy": (None, r'CuPy is not installed; for an NVIDIA GPU: pip install "cupy-cuda12x\[ctk\]"'),
    "no driver": (cupy(count_error=RuntimeError("driver is insufficient\nmore")), "no NVIDIA GPU found"),
    "old driver": (cupy(count_error=RuntimeError("insufficient"), driver=11080),
                   r"the NVIDIA driver is too old: it supports CUDA 11\.8, but this CuPy needs CUDA 12\.9; install a newer driver"),
    "a driver of the same generation": (cupy(count_error=RuntimeError("insufficient"), driver=12020), "no usable NVIDIA driver"),
    "full memory": (cupy(product_error=MemoryError()), "the GPU's memory is full: end other programs that use the GPU, or"),
    "no GPU": (cupy(count=0), "no NVIDIA GPU found"),
    "no libraries": (cupy(product_error=OSError("libcublas.so.12: cannot open")),
                     r'the GPU does not work \(libcublas.so.12: cannot open\).*pip install "cupy-cuda12x\[ctk\]"'),
    "wrong product": (cupy(product=2.0), "the GPU does not work"),
}


@pytest.mark.parametrize("case", DEVICES)
def test_no_usable_gpu(photos, tiny, tmp_path, monkeypatch, capsys, case):
    module, sentence = DEVICES[case]
    monkeypatch.setitem(sys.modules, "cupy", module)
    assert tiny(tmp_path / "run", device="gpu") == 2
    assert re.search(sentence, the_sentence(capsys))
    assert tiny(tmp_path / "run", device="auto", steps=1, gan_steps=0) == 0
    said = capsys.readouterr().out
    assert "computing on the CPU" in said and re.search(sentence, said)
    if sentence == "no NVIDIA GPU found":
        assert said.splitlines()[0] == "no NVIDIA GPU found: computing on the CPU"


def test_a_cupy_that_cannot_be_imported_is_not_said_to_be_missing(tmp_path, monkeypatch):
    """CuPy wraps the reason into a frame of several lines."""
    (tmp_path / "cupy.py").write_text("try:\n    import cupy_core_of_another_cuda\n"
                                      "except ImportError as error:\n    raise ImportError('\\n=====\\nFailed') from error\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(errors.UserError, match="installed but cannot be imported .No module named 'cupy_core_of_another_cuda'"):
        device.select("gpu")


@pytest.mark.parametrize("contents", ["raise RuntimeError('half of it is missing')", "import nothing_like_it", "x = 1"])
def test_half_of_a_cupy_is_no_reason_to_fail(tmp_path, monkeypatch, contents):
    (tmp_path / "cupy.py").write_text(contents)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)      # to be restored
    del sys.modules["cupy"]
    chosen, remark = device.select("auto")
    assert chosen == device.CPU and remark.startswith("computing on the CPU: CuPy is installed but cannot be imported")
    assert remark.count("\n") == 0


def test_devices_that_work(monkeypatch):
    fake = cupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    for choice in ("gpu", "auto"):
        chosen, remark = device.select(choice)
        assert chosen.module is fake and remark is None and chosen.description == "NVIDIA X, CuPy 14"
    monkeypatch.setitem(sys.modules, "cupy", None)      # "cpu" does not even look for CuPy
    assert device.select("cpu") == (device.CPU, None)
