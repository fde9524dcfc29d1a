"""A run that was stopped, killed or damaged and then resumed ends in the same bits as one that never was.

By hand, for longer:  python tests/commands/test_resume.py 100     kills a run at a hundred random moments.
"""
import csv
import itertools
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from runs import TOGETHER, arguments, differences, make_photos, outcome, start

from npsrgan import storage
from npsrgan.data import ImageFolder
from npsrgan.models import SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.system import files
from npsrgan.train import __main__ as train
from npsrgan.trainer import Trainer

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX does")
MODES = {"one after the other": {}, "together": TOGETHER}


@pytest.fixture(params=MODES)
def mode(request):
    """Options for the two ways to train."""
    return MODES[request.param]


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(step, number): send this process a signal during the step, once."""
    def install(at, number=signal.SIGINT, times=1):
        original, left = Trainer.step, [number] * times

        def step(self, *args, **kwargs):
            if self.steps + 1 == at:
                while left:
                    os.kill(os.getpid(), left.pop())
            return original(self, *args, **kwargs)
        monkeypatch.setattr(Trainer, "step", step)
    return install


@pytest.fixture
def stopped(tiny, tmp_path):
    """The folder of a run that has taken 4 steps of 8 and was stopped, with two checkpoints: of steps 2 and 4."""
    assert tiny(tmp_path / "run", gan_steps=0) == 0
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


def taken(path):
    """The steps a checkpoint stands at."""
    attributes = storage.read(path)[1]
    return attributes["srresnet_steps"] + attributes["srgan_steps"]


# ---------------------------------------------------------------- the same bits

@pytest.mark.parametrize("data", ["train", "few"])
def test_stopped_by_fewer_steps(tiny, photos, tmp_path, data):
    data = photos / data
    tiny(tmp_path / "whole", data=data)
    assert tiny(tmp_path / "run", data=data, steps=3, gan_steps=0) == 0
    for more in ({"steps": 4}, {"gan_steps": 1}, {"gan_steps": 4}):
        assert tiny(tmp_path / "run", "--resume", **more) == 0
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_stopped_by_fewer_steps_together(tiny, tmp_path):
    tiny(tmp_path / "whole", **TOGETHER)
    assert tiny(tmp_path / "run", **TOGETHER | {"steps": 3}) == 0
    for steps in (4, 7, 8):
        assert tiny(tmp_path / "run", "--resume", steps=steps) == 0
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_in_every_step(tiny, tmp_path, interrupt, mode, number, capsys):
    tiny(tmp_path / "whole", **mode)
    for step in range(1, 9):
        interrupt(step, number)
        code = tiny(tmp_path / "run", *["--resume"] * (step > 1), **(mode if step == 1 else {}))
        assert code == 128 + number
        assert taken(tmp_path / "run" / "checkpoint.h5") == step * (1 + bool(mode))     # together, a step counts for both
        said = capsys.readouterr().out
        assert f"stopped after step {step} and saved; to go on: python -m npsrgan.train --resume --out" in said
    assert not (tmp_path / "run" / "result.json").exists()
    assert tiny(tmp_path / "run", "--resume") == 0
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_the_command_that_goes_on_survives_a_shell(tiny, tmp_path, interrupt, capsys):
    interrupt(2)
    assert tiny(tmp_path / "my faces") == 130
    assert f"--resume --out '{tmp_path / 'my faces'}'" in capsys.readouterr().out


def test_a_second_interrupt_stops_at_once(tiny, tmp_path, interrupt, capsys):
    tiny(tmp_path / "whole")
    interrupt(4, times=2)
    assert tiny(tmp_path / "run") == 130
    assert taken(tmp_path / "run" / "checkpoint.h5") == 2
    assert "interrupted; to go on: python -m npsrgan.train --resume --out" in capsys.readouterr().out
    assert tiny(tmp_path / "run", "--resume") == 0
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_a_second_interrupt_with_nothing_saved_promises_nothing(tiny, tmp_path, interrupt, capsys):
    interrupt(1, times=2)
    assert tiny(tmp_path / "run") == 130
    assert "interrupted; nothing was saved yet" in capsys.readouterr().out


@needs_fork
@pytest.mark.parametrize("mode, data", [("one after the other", "few"), ("together", "train")])
def test_killed_in_the_midst_of_saving(tiny, photos, tmp_path, mode, data):
    """Each process dies one event later than the one before it (see runs._die_at), the last not at all."""
    options = MODES[mode] | {"data": photos / data, "save-every": 1}
    tiny(tmp_path / "whole", **options)
    words, reached = arguments(photos, tmp_path / "run", "--resume", **options), []
    words += arguments(photos, None, **options)                 # before the first checkpoint, --resume starts a new run
    for number in itertools.count(1):
        process = start(words, die_at=number)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        reached += [taken(path) for path in [tmp_path / "run" / "checkpoint.h5"] if path.exists()]
    assert number > 10 and reached == sorted(reached)
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []
    assert not list((tmp_path / "run").rglob(".*"))


@needs_fork
def test_killed_at_random_moments(tiny, photos, tmp_path, mode):
    options = longer(mode)
    tiny(tmp_path / "whole", **options)
    killed, differ = kill_and_resume(photos, tmp_path / "run", options, kills=4, rng=random.Random())
    print("killed after", killed)
    assert differ == []


def longer(mode):
    """Options for a run of some seconds."""
    return mode | {"steps": 10 * mode.get("steps", 4), "gan-steps": 10 * mode.get("gan-steps", 4), "save-every": 3, "log-every": 10}


def kill_and_resume(photos, out, options, kills, rng, longest=0.5):
    """Start a run, kill it after a random time, resume it, and so on; then let it finish.

    Returns the seconds after which each was killed, and how the last one's outcome differs from that in `whole` beside `out`.
    """
    words = arguments(photos, out, "--resume", **options) + arguments(photos, None, **options)
    killed = []
    for _ in range(kills):
        process, patience = start(words), rng.uniform(0.1, longest)
        process.join(patience)
        process.kill()
        process.join()
        killed += [round(patience, 3)] * (process.exitcode != 0)
    process = start(words)
    process.join()
    assert process.exitcode == 0
    return killed, differences(outcome(out.with_name("whole")), outcome(out))


# ---------------------------------------------------------------- damaged checkpoints

def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(position):
    """Damage that flips a bit of the byte at position(path, contents)."""
    def damage(path):
        contents = bytearray(path.read_bytes())
        contents[position(path, contents)] ^= 1
        path.write_bytes(contents)
    return damage


def in_weights(path, contents):
    return contents.index(storage.read(path)[0]["srresnet/parameters"].tobytes()) + 99


DAMAGES = {"cut short": cut, "a bit in the weights": flip(in_weights),
           "a bit in a name": flip(lambda path, contents: contents.index(b"adam_m")),
           "a bit in HDF5's header": flip(lambda *_: 520), "a bit in the checksum": flip(lambda *_: 10),
           "empty": lambda path: path.write_bytes(b""),
           "no HDF5": lambda path: path.write_text("Not found"), "gone": Path.unlink,
           "other weights": lambda path: shutil.copy(path.with_name("srresnet.h5"), path)}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint(tiny, tmp_path, stopped, damage, capsys):
    whole = tmp_path / "whole"
    tiny(whole)
    damage(stopped / "checkpoint.h5")
    capsys.readouterr()
    assert tiny(stopped, "--resume", gan_steps=4) == 0
    said = capsys.readouterr().out
    assert "continuing from the checkpoint before it" in said and "checkpoint.h5" in said and "continuing from step 2 of 8" in said
    assert differences(outcome(whole), outcome(stopped)) == []


def test_the_good_checkpoint_outlives_the_save_after_a_fallback(tiny, stopped, monkeypatch, capsys):
    """The next save is killed between its two renames: then the checkpoint must not be the damaged one."""
    cut(stopped / "checkpoint.h5")
    replace = os.replace

    def dying(source, target):
        if Path(source).name.startswith(".npsrgan-") and Path(target).name == "checkpoint.h5":
            raise KeyboardInterrupt
        replace(source, target)
    monkeypatch.setattr(storage.os, "replace", dying)
    capsys.readouterr()
    assert tiny(stopped, "--resume") == 130
    assert "interrupted; to go on:" in capsys.readouterr().out
    assert not (stopped / "checkpoint.h5").exists() and taken(stopped / "checkpoint.previous.h5") == 2
    monkeypatch.setattr(storage.os, "replace", replace)
    assert tiny(stopped, "--resume") == 0
    assert taken(stopped / "checkpoint.h5") == 4


def test_both_checkpoints_damaged(tiny, stopped, capsys):
    cut(stopped / "checkpoint.h5")
    cut(stopped / "checkpoint.previous.h5")
    before = [path.read_bytes() for path in sorted(stopped.glob("*.h5"))]
    capsys.readouterr()
    assert tiny(stopped, "--resume") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.count("is damaged") == 2 and "start a new run in another --out" in error
    assert before == [path.read_bytes() for path in sorted(stopped.glob("*.h5"))]


# ---------------------------------------------------------------- images and weights that moved or changed

@pytest.fixture
def elsewhere(tiny, photos, tmp_path):
    """A stopped run (4 steps of 8) whose images, first weights and VGG19 are all in tmp_path / "then"."""
    shutil.copytree(photos, tmp_path / "then" / "photos")
    storage.save_network(tmp_path / "then" / "first.h5", SRResNet(2, 1, 2, seed=5))
    storage.save_network(tmp_path / "then" / "vgg.h5", random_vgg19("conv1_1", seed=5))
    options = {"data": tmp_path / "then/photos/train", "val": tmp_path / "then/photos/val", "init": tmp_path / "then/first.h5",
               "vgg": tmp_path / "then/vgg.h5"}
    assert tiny(tmp_path / "whole", **options) == 0
    assert tiny(tmp_path / "run", steps=4, gan_steps=2, **options) == 0
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


def moved(folder):
    """Options for what now lies in another folder."""
    return {"data": folder / "photos/train", "val": folder / "photos/val", "vgg": folder / "vgg.h5"}


def test_everything_may_move(tiny, elsewhere, tmp_path, capsys):
    shutil.move(tmp_path / "then", tmp_path / "now")
    (tmp_path / "now" / "first.h5").unlink()            # was needed once
    capsys.readouterr()
    assert tiny(elsewhere, "--resume", gan_steps=4) == 2
    assert f"{tmp_path / 'then/photos/train'} does not exist any more: give its new path with --data" in capsys.readouterr().err
    assert tiny(elsewhere, "--resume", gan_steps=4, **moved(tmp_path / "now")) == 0
    places = ("'data'", "'val'", "'vgg'", "result.json")
    assert [key for key in differences(outcome(tmp_path / "whole"), outcome(elsewhere)) if not any(name in key for name in places)] == []


@pytest.mark.parametrize("change, option", [
    (lambda now: (now / "photos/train/3.png").unlink(), "--data"),
    (lambda now: shutil.copy(now / "photos/train/3.png", now / "photos/train/more.png"), "--data"),
    (lambda now: (now / "photos/val/v.png").write_bytes((now / "photos/train/3.png").read_bytes()), "--val"),
    (lambda now: storage.save_network(now / "vgg.h5", random_vgg19("conv1_1", seed=6)), "--vgg")],
    ids=["an image less", "an image more", "another image", "another VGG19"])
def test_other_contents_are_said_and_need_force(tiny, elsewhere, tmp_path, capsys, change, option):
    change(tmp_path / "then")
    capsys.readouterr()
    assert tiny(elsewhere, "--resume", gan_steps=4) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option} is not what this run was saved with") and "--force" in error and error.count("\n") == 1
    assert taken(elsewhere / "checkpoint.h5") == 6
    assert tiny(elsewhere, "--resume", "--force", gan_steps=4) == 0
    assert f"{option} is not what this run was saved with" in capsys.readouterr().out


# ---------------------------------------------------------------- two at once, and what the dead leave behind

@needs_fork
def test_two_processes_do_not_share_a_folder(tiny, photos, tmp_path, capsys):
    words = arguments(photos, tmp_path / "run", steps=10_000, save_every=10)
    process = start(words)
    try:
        while not (tmp_path / "run" / "checkpoint.h5").exists():
            time.sleep(0.05)
        for flags in ([], ["--resume"]):
            assert tiny(tmp_path / "run", *flags) == 2
            sentence = r"^error: another process is writing to .*run: wait until it ends, or choose another place$"
            assert re.search(sentence, capsys.readouterr().err, re.M)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    assert tiny(tmp_path / "run", "--resume", steps=taken(tmp_path / "run" / "checkpoint.h5"), gan_steps=0) == 0


def test_what_killed_runs_left_is_swept(tiny, stopped):
    for folder in (stopped, stopped / "samples"):
        (folder / f".npsrgan-{files._HOST}-4000000000.png").touch()
    assert tiny(stopped, "--resume", gan_steps=1) == 0
    assert not list(stopped.rglob(".*"))


# ---------------------------------------------------------------- what --resume accepts, and what it says

def test_changed_settings_are_refused_by_name(tiny, photos, stopped, capsys):
    assert tiny(stopped, "--resume", patch_size=4, init=photos / "few", seed=0, channels=2) == 2
    error = capsys.readouterr().err
    assert "--patch-size 4 (the checkpoint has 8)" in error and "--init" in error
    assert "--seed" not in error and "--channels" not in error       # given, but the same
    assert error.count("\n") == 1
    assert taken(stopped / "checkpoint.h5") == 4


def test_changeable_settings_are_accepted(tiny, stopped, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(stopped, moved)
    assert tiny(moved, "--resume", gan_steps=2, batch_size=2, save_every=5, log_every=7, device="auto") == 0
    assert taken(moved / "checkpoint.h5") == 6
    settings = storage.read(moved / "checkpoint.h5")[1]["settings"]
    for text in ('"gan_steps": 2', '"save_every": 5', '"log_every": 7', '"device": "auto"', '"channels": 2'):
        assert text in settings


def test_fewer_steps_than_taken_are_refused(tiny, stopped, capsys):
    assert tiny(stopped, "--resume", steps=3) == 2
    assert "already at 4 SRResNet and 0 SRGAN steps" in capsys.readouterr().err
    assert tiny(stopped, "--resume", gan_steps=3) == 0
    for fewer in ({"gan_steps": 2}, {"gan_steps": 0}):
        assert tiny(stopped, "--resume", **fewer) == 2
        assert "already at 4 SRResNet and 3 SRGAN steps" in capsys.readouterr().err


def test_more_srresnet_steps_are_refused_once_srgan_has_begun(tiny, stopped, capsys):
    tiny(stopped, "--resume", gan_steps=1)
    assert tiny(stopped, "--resume", steps=5) == 2
    assert "SRGAN has already begun from the SRResNet of step 4" in capsys.readouterr().err


def test_srgan_can_be_left_out_before_it_begins(tiny, tmp_path, interrupt):
    interrupt(2)
    tiny(tmp_path / "run")
    assert tiny(tmp_path / "run", "--resume", gan_steps=0) == 0
    assert taken(tmp_path / "run" / "checkpoint.h5") == 4
    tiny(tmp_path / "run", "--resume", gan_steps=4)
    tiny(tmp_path / "whole")
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_no_checkpoint_yet(tiny, tmp_path, photos, capsys):
    tiny(tmp_path / "whole")
    words = arguments(photos, tmp_path / "run", "--resume") + arguments(photos, None)
    assert train.main(words) == 0
    assert f"no checkpoint in {tmp_path / 'run'} yet: starting from the beginning" in capsys.readouterr().out
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_finished_run(tiny, tmp_path, monkeypatch, capsys):
    tiny(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    monkeypatch.setattr(ImageFolder, "__init__", None)      # a finished run needs no images
    capsys.readouterr()
    assert tiny(tmp_path / "run", "--resume") == 0
    assert "this run is finished (8 steps)" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}


def test_killed_before_the_result(tiny, tmp_path, capsys):
    tiny(tmp_path / "run")
    whole = outcome(tmp_path / "run")
    for name in ("result.json", "srresnet.h5", "srgan.h5", "discriminator.h5"):
        (tmp_path / "run" / name).unlink()
    assert tiny(tmp_path / "run", "--resume") == 0
    assert differences(whole, outcome(tmp_path / "run")) == []
    assert "this run is finished" not in capsys.readouterr().out


def test_interrupted_while_measuring_a_longer_run_again(tiny, tmp_path, monkeypatch, capsys):
    """The result of the shorter run must not pass for the longer one's."""
    tiny(tmp_path / "whole")
    tiny(tmp_path / "run", gan_steps=0)
    with monkeypatch.context() as patch:
        patch.setattr(train, "finish", lambda *args: os.kill(os.getpid(), signal.SIGINT))
        assert tiny(tmp_path / "run", "--resume", gan_steps=4) == 130
    said = capsys.readouterr()
    assert "interrupted; to go on:" in said.out and "Traceback" not in said.err
    assert tiny(tmp_path / "run", "--resume") == 0
    assert "this run is finished" not in capsys.readouterr().out
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "run")) == []


def test_log_is_cut_back(tiny, tmp_path, stopped):
    """Rows from after the checkpoint go, and so does one that a full disk or a kill cut off."""
    log = stopped / "log.csv"
    rows = log.read_text().splitlines()
    cut(stopped / "checkpoint.h5")                              # so it goes on from step 2
    log.write_text("\n".join([*rows, rows[-1].replace("4,", "7,", 1), "1"]))
    tiny(stopped, "--resume", gan_steps=4)
    tiny(tmp_path / "whole")
    assert differences(outcome(tmp_path / "whole"), outcome(stopped)) == []
    assert [row["step"] for row in outcome(stopped)["log.csv"]] == list("12345678")


@pytest.mark.parametrize("contents", [b"", b"step;psnr\n1;2\n", b"\xff\x00\xfe", b"step\n1\n"])
def test_a_log_that_somebody_edited(tiny, stopped, contents):
    (stopped / "log.csv").write_bytes(contents)
    assert tiny(stopped, "--resume", gan_steps=2) == 0
    assert [row["step"] for row in outcome(stopped)["log.csv"]] == ["5", "6"]


def test_a_log_of_an_earlier_version_goes_on(tiny, stopped):
    """Which had not got the column of the time spent waiting for data."""
    log = stopped / "log.csv"
    with open(log, newline="") as file:
        rows = [row[:2] + row[3:] for row in csv.reader(file)]
    assert "data_wait" not in rows[0]
    log.write_text("\n".join(map(",".join, rows)))
    assert tiny(stopped, "--resume", gan_steps=2) == 0
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == list("123456") and [bool(row["data_wait"]) for row in rows] == [False] * 4 + [True] * 2


def test_a_new_run_never_overwrites_a_checkpoint(tiny, stopped, capsys):
    before = (stopped / "checkpoint.h5").read_bytes()
    assert tiny(stopped) == 2
    assert "holds a checkpoint: continue it with --resume, or start a new run in another --out" in capsys.readouterr().err
    (stopped / "checkpoint.h5").rename(stopped / "checkpoint.previous.h5")
    assert tiny(stopped) == 2
    assert before == (stopped / "checkpoint.previous.h5").read_bytes()


def test_folders_by_default(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tiny(None) == tiny(None) == tiny(None, steps=3, gan_steps=0) == 0
    (tmp_path / "runs" / "demo-notes").mkdir()
    assert taken("runs/demo-1/checkpoint.h5") == 8 and taken("runs/demo-3/checkpoint.h5") == 3
    capsys.readouterr()
    assert tiny(None, "--resume", steps=4) == 0         # the newest
    assert taken("runs/demo-3/checkpoint.h5") == 4
    assert "results in runs/demo-3" in capsys.readouterr().out
    assert sorted(path.name for path in Path("runs").iterdir()) == ["demo-1", "demo-2", "demo-3", "demo-notes"]


def test_two_runs_that_begin_at_once_take_two_folders(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = train.sources

    def another_begins_meanwhile(settings):
        Path("runs/demo-1").mkdir(parents=True)
        return sources(settings)
    monkeypatch.setattr(train, "sources", another_begins_meanwhile)
    assert tiny(None) == 0
    assert not list(Path("runs/demo-1").iterdir()) and Path("runs/demo-2/result.json").exists()


def test_nothing_that_training_changes_is_left_out(tiny, stopped):
    """Adam's moments and the running statistics are in the checkpoint, and they have moved."""
    tiny(stopped, "--resume", gan_steps=2)
    arrays, attributes = storage.read(stopped / "checkpoint.h5")
    for network, steps in {"srresnet": 4, "srgan": 2, "discriminator": 2}.items():
        assert attributes[f"{network}_adam_steps"] == steps
        names = [name for name in arrays if name.startswith(network)]
        average = set() if network == "discriminator" else {"average", "average_state"}
        assert {name.split("/")[1] for name in names} == {"parameters", "adam_m", "adam_v", "state"} | average
        assert all(np.ptp(arrays[name]) > 0 for name in names)


if __name__ == "__main__":
    kills, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 50, time.time_ns()
    print(f"{kills} kills at random moments, seed {seed}")
    for name, mode in MODES.items():
        with tempfile.TemporaryDirectory() as folder:
            folder, options = Path(folder), longer(longer(mode))
            pictures = make_photos(folder)
            whole = start(arguments(pictures, folder / "whole", **options))
            whole.join()
            killed, differ = kill_and_resume(pictures, folder / "run", options, kills, random.Random(seed))
            print(f"{name}: killed {len(killed)} times; {differ or 'the same bits'}")
