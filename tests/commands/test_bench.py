"""The benchmark: the two sides compute the same, and the report says what it should.  Nothing here judges a time."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npsrgan import fast
from npsrgan.bench import __main__ as bench
from npsrgan.bench import rows as bench_rows
from npsrgan.bench.methods import WAYS, print_methods
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import VGG19
from npsrgan.ops import operation
from npsrgan.trainer import Trainer

NAMES = {"srgan_step", "srresnet_step", "srresnet_infer_small", "srresnet_infer_large"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bench, "gemm_rate", lambda: 1e9)
    monkeypatch.setattr(bench, "PAUSE", 0)
    yield
    fast.set_threads(None)


def test_the_report(tmp_path, capsys):
    bench.main(["--quick", "--pairs", "2", "--threads", "1", "--only", "infer_small", "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    (row,) = report["rows"]
    assert report["machine"]["threads"] == 1 and report["machine"]["gemm_gflops"] == 1
    assert row["name"] == "srresnet_infer_small" and row["ours_s"] > 0 and row["ours_spread_s"] >= 0 and 20 < row["ours_mb"] < 2000
    if "torch_s" in row:
        assert row["ratio"] == row["ours_s"] / row["torch_s"] and row["torch_mb"] > 20 and row["difference"] < 1e-3
    assert "srresnet_infer_small" in capsys.readouterr().out


def test_without_torch_our_times_alone(monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    bench.main(["--quick", "--pairs", "1", "--only", "infer_small"])
    out = capsys.readouterr().out
    assert "not installed" in out and "ratio" not in out


def test_a_process_that_dies_is_reported(capsys):
    row = bench_rows.Row("no such row", None)
    with pytest.raises(bench.UserError, match="ended early"):
        bench.measure(row, ["ours"], 1, False)


def test_rows_have_different_names_and_the_promised_ones_are_there():
    names = [row.name for row in bench_rows.cpu_rows(quick=False)]
    assert len(set(names)) == len(names) and set(names) >= NAMES
    assert {row.name for row in bench_rows.cpu_rows(quick=True)} < set(names)


def test_every_convolution_of_the_networks_is_measured():
    trainer = Trainer(bench_rows.replace(bench_rows.PRESETS["seed"], vgg_layer="conv5_4"), bench_rows.CPU, say=lambda line: None)
    seen, evaluate = set(), operation.evaluate

    def watch(function, arrays, kwargs):
        if function.__name__ == "conv2d":
            x, w, _, stride, *_ = arrays
            seen.add((x.shape[1], *w.shape[1:], stride))
            size = -(-x.shape[1] // stride)
            return np.zeros((1, size, size, w.shape[3]), np.float32), ()
        return evaluate(function, arrays, kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operation, "evaluate", watch)
        sr = trainer.networks["srgan"](np.zeros((1, 44, 44, 3), np.float32))
        trainer.networks["discriminator"].features(sr)
        trainer.vgg(sr)
    assert seen == set(bench_rows.CONVOLUTIONS)


def test_methods_are_timed_and_the_chosen_one_is_marked(capsys):
    print_methods([(8, 3, 16, 32, 1), (8, 3, 16, 16, 2), (6, 9, 16, 3, 1), (6, 9, 3, 16, 1)], bench.draw, repeats=1)
    header, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * 3 and all(line.count("*") == 1 for line in lines)
    columns = {name: header.index(name) + len(name) - 1 for name in WAYS}
    starred = [next(name for name, end in columns.items() if line.index("*") == end) for line in lines]
    assert starred == ["winograd"] * 3 + ["im2col"] * 3 + ["planes"] * 3 + ["im2col", "turned", "im2col"]


def test_torch_gets_the_channels_in_its_own_order():
    pytest.importorskip("torch", reason="torch is not installed")
    for row in bench_rows.operation("shuffle", bench_rows.ops.pixel_shuffle, lambda: (bench.draw(1, 3, 2, 20),),
                                    lambda F, x: F.pixel_shuffle(x, 2),
                               channels=np.arange(20).reshape(4, 5).T.ravel()):
        assert np.array_equal(row.prepare("ours")(), row.prepare("torch")())


def test_profile_accounts_for_the_step(monkeypatch, capsys):
    monkeypatch.setattr(bench, "training", lambda method: lambda side: lambda: SRResNet(8, 1)(np.zeros((1, 6, 6, 3), np.float32)))
    bench.print_profile(gemm=1e9, steps=1)
    out = capsys.readouterr().out
    assert "conv 9x9 3->8 at 6" in out and "of GEMM" in out and "one step" in out
    assert operation.evaluate.__module__ == "npsrgan.ops.operation"      # put back


def test_twins_in_torch_compute_the_same():
    bench_torch = pytest.importorskip("npsrgan.bench.pytorch", reason="torch is not installed")
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    generator, discriminator, vgg = SRResNet(8, 2), Discriminator(4, 16), VGG19("conv2_2")
    for network in (generator, discriminator):
        for array in network.state_dict().values():
            array += rng.uniform(0, 0.1, array.shape).astype(np.float32)
    for parameter in vgg.parameters():
        parameter.array += rng.uniform(-0.1, 0.1, parameter.shape).astype(np.float32)
    for evaluation in (False, True):
        bench_torch.configure(1, channels_last=evaluation)
        for ours in (generator.train(not evaluation), discriminator.features, vgg):
            module = bench_torch.network(ours) if ours is not discriminator.features else bench_torch.module_of(ours)
            theirs = bench_rows.plain(bench_torch.array(module(bench_torch.tensor(image))))
            assert np.abs(ours(image).array - theirs).max() < 1e-4 * np.abs(theirs).max()
    bench_torch.configure(1, channels_last=False)


def test_what_only_a_cpu_measures_is_not_asked_of_a_gpu(capsys):
    with pytest.raises(SystemExit) as exit:
        bench.main(["--device", "gpu", "--profile"])
    assert exit.value.code == 2 and "leave out --device gpu" in capsys.readouterr().err


def test_the_command_as_it_is_called():
    """Its processes find what they are to run: with `python -m`, the command's module is "__main__", which new ones cannot import."""
    done = subprocess.run([sys.executable, "-m", "npsrgan.bench", "--only", "pixel_shuffle", "--pairs", "1", "--threads", "1"],
                          capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and "pixel_shuffle" in done.stdout and " ms" in done.stdout, done.stderr[-2000:]
