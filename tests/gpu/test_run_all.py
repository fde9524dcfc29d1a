"""The script for a machine with a card, without one: nothing that goes wrong stops it or loses what was found before."""
import json
import sys
from types import SimpleNamespace

import pytest
import run_all
from runs import TINY

from npsrgan import storage

ROW = {"name": "srgan_step batch 16", "ours_s": 0.02, "ours_mb": 4000.0, "torch_s": 0.04, "torch_mb": 5000.0, "best_error": "no",
       "ratio_torch": 0.5, "share_of_flops": 0.25, "ours_note": "slow"}
LOG = {"step": 200.0, "images_per_s": 512.0, "data_wait": 0.015}
TRAINED = {"steps": 300, "log": [LOG], "bicubic": {"psnr_y": 26.0, "ssim_y": 0.7}, "srgan": {"psnr_y": 27.0, "ssim_y": 0.75}}


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A command line, a card, and stages that succeed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "vgg.h5").touch()
    monkeypatch.setattr(run_all, "select", lambda choice: (SimpleNamespace(description="A card"), None))

    def stages(**others):
        succeed = {"tests": {"passed": 9, "failed": 0, "skipped": 1, "failures": {}},
                   "benchmark": {"rows": [ROW], "ended": "out of time"}, "training": TRAINED}
        monkeypatch.setattr(run_all, "STAGES", {name: others.get(name, lambda *args, name=name: succeed[name]) for name in succeed})
    stages()
    words = ["--data", tmp_path / "data", "--vgg", tmp_path / "vgg.h5", "--out", tmp_path / "out"]
    return SimpleNamespace(words=list(map(str, words)), stages=stages, out=tmp_path / "out")


def test_one_table_last_and_all_in_the_report(options, capsys):
    assert run_all.main(options.words) == 0
    out = capsys.readouterr().out
    for words in ("A card: ", "9 passed, 0 failed, 1 skipped", "--- benchmark: out of time", "300 steps, 512 images/s, 1.5% of the time",
                  "  srgan     PSNR  27.00 dB  SSIM 0.7500"):
        assert words in out
    line = next(line for line in out.splitlines() if line.startswith("srgan_step batch 16"))
    assert line.split()[3:] == ["20.000", "40.000", "error", "0.50", "4000", "5000", "25%", "slow"]
    report = json.loads((options.out / "report.json").read_text())
    assert report["benchmark"]["rows"] == [ROW] and report["training"] == TRAINED and set(report["left_out"]) == set(run_all.KEPT.values())


def test_a_stage_that_breaks_does_not_stop_the_others(options, capsys):
    def broken(work, seconds, options):
        (work / "run").mkdir()
        (work / "run" / "srgan.h5").write_bytes(b"weights")
        (work / "run" / "loss.png").write_bytes(bytes(run_all.LARGEST + 1))
        raise RuntimeError("the card fell off the bus")
    options.stages(tests=broken)
    assert run_all.main(options.words) == 1
    out = capsys.readouterr().out
    assert "--- tests: RuntimeError: the card fell off the bus" in out and "300 steps, 512 images/s" in out
    assert (options.out / "srgan.h5").read_bytes() == b"weights" and not (options.out / "loss.png").exists()
    assert json.loads((options.out / "report.json").read_text())["left_out"]["loss.png"] == "has 16 MB"


def test_a_failed_test_and_no_time(options, capsys):
    failing = {"passed": 1, "failed": 1, "skipped": 0, "failures": {"test_x[cupy]": ["assert 1 == 2"]}}
    options.stages(tests=lambda *args: failing)
    assert run_all.main([*options.words, "--minutes", "0.3"]) == 1
    out = capsys.readouterr().out
    assert "  FAILED test_x[cupy]: assert 1 == 2" in out and "300 steps" in out
    assert run_all.main([*options.words, "--minutes", "0.08"]) == 1
    assert "--- tests: no time was left" in capsys.readouterr().out


def test_a_stage_that_ends_early_leaves_its_time_to_the_others(options, monkeypatch):
    clock, given = SimpleNamespace(now=0.0), {}
    monkeypatch.setattr(run_all.time, "monotonic", lambda: clock.now)

    def stage(name, takes):
        def run(work, seconds, options):
            given[name] = seconds
            clock.now += takes
            return {}
        return run
    options.stages(**{name: stage(name, takes) for name, takes in (("tests", 1), ("benchmark", 200), ("training", 0))})
    run_all.main([*options.words, "--minutes", "10"])
    assert given == pytest.approx({"tests": 0.3 * 564, "benchmark": 563 * 4 / 7, "training": 363})


def test_what_runs_too_long_is_stopped(tmp_path):
    output = tmp_path / "output.txt"
    assert run_all.run(["-c", "print('hello'); raise SystemExit(3)"], 60, output) == 3
    assert run_all.run(["-c", "import time; print('begun'); time.sleep(60)"], 1, output) is None
    handles = "import signal, time; signal.signal(2, lambda *a: (print('saved'), exit())); print('ready'); time.sleep(60)"
    assert run_all.run(["-c", handles], 1, output, gently=True) is None
    assert "hello" in output.read_text() and "begun" in output.read_text() and output.read_text().endswith("ready\nsaved\n")


def test_training_is_stopped_in_time_and_finished(photos, tmp_path):
    """On the CPU, with networks of two channels: trained, stopped, and measured from where it stopped."""
    from npsrgan.models.vgg19 import random_vgg19
    storage.save_network(tmp_path / "vgg.h5", random_vgg19("conv1_1"))
    words = [word for name, value in (TINY | {"save-every": 10**9}).items() if name not in ("steps", "gan-steps")
             for word in (f"--{name}", value)]
    result = run_all.training(tmp_path, 6, SimpleNamespace(data=photos, vgg=tmp_path / "vgg.h5"), ["--preset", "seed", *words])
    assert result["steps"] >= 1 and len(result["log"]) >= 1 and result["images"] == 1 and result["srgan"]["psnr_y"] > 3
    (tmp_path / "out").mkdir()
    assert run_all.keep(tmp_path, tmp_path / "out") == {}
    assert len(list((tmp_path / "out").iterdir())) == len(run_all.KEPT) + 2 <= 7         # with report.json at most eight


def test_the_tests_are_counted(tmp_path, monkeypatch):
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.parametrize('xp', ['cupy', 'numpy'])\ndef test_a(xp): assert 0\n"
                                         "def test_cupy_b(): pass\ndef test_cupy_c(): pytest.skip('no')\n")
    run = run_all.run

    def elsewhere(words, *args, **kwargs):
        return run([tmp_path if word == "tests" else word for word in words], *args, **kwargs)

    monkeypatch.setattr(run_all, "run", elsewhere)
    result = run_all.tests(tmp_path, 60, None)
    assert (result["passed"], result["failed"], result["skipped"]) == (1, 1, 1) and list(result["failures"]) == ["test_a[cupy]"]
    monkeypatch.setattr(run_all, "run", lambda *args, **kwargs: 4)
    (tmp_path / "tests.xml").unlink()
    assert run_all.tests(tmp_path, 60, None) == {"error": "pytest ended with status 4"}


@pytest.mark.skipif(sys.platform == "win32", reason="a path of POSIX's")
def test_what_is_not_there_is_said(options, capsys):
    with pytest.raises(SystemExit) as caught:
        run_all.main([*options.words, "--data", "/no/such/folder"])
    assert caught.value.code == 2 and "there is no /no/such/folder" in capsys.readouterr().err
