"""The benchmark: the two sides compute the same, and the report says what it should.  Nothing here judges a time."""
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from npsrgan import fast
from npsrgan.bench import __main__ as bench
from npsrgan.bench import cpu, driver, loader, profile
from npsrgan.bench import rows as bench_rows
from npsrgan.bench.methods import METHODS, print_cpu_methods
from npsrgan.fast.blocks import any_size
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import VGG19
from npsrgan.ops import operation
from npsrgan.tape import Tape
from npsrgan.trainer import Trainer

NAMES = {"srgan_step batch 4", "srgan_step batch 8", "srresnet_step batch 1", "srresnet_step batch 4", "srresnet_step 24x24 batch 16",
         "srresnet_infer_small", "srresnet_infer_large", "batch_norm 64 at 44 +gradients", "prelu 64 at 44", "conv 3x3 64->64 at 176/2"}


@pytest.fixture(autouse=True)
def own_threads():
    yield
    fast.set_threads(None)


def test_the_report(tmp_path, capsys):
    bench.main(["--quick", "--pairs", "2", "--threads", "1", "--only", "nothing", "infer_small", "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    (row,) = report["rows"]
    assert report["machine"]["threads"] == 1 and report["machine"]["flops_per_s"] > 1e8
    assert row["name"] == "srresnet_infer_small" and row["ours_s"] > 0 and row["ours_spread_s"] >= 0 and 20 < row["ours_mb"] < 2000
    out = capsys.readouterr().out
    if "torch" in report["machine"]:
        for side in ("torch", "channels_last"):
            assert row[f"ratio_{side}"] == row["ours_s"] / row[f"{side}_s"] and row[f"{side}_mb"] > 20
            assert row[f"memory_ratio_{side}"] == row["ours_mb"] / row[f"{side}_mb"]
        assert row["fastest"] == min(("torch", "channels_last"), key=lambda side: row[f"{side}_s"])
        assert f" to {row['fastest']}, memory " in out and row["difference"] < 1e-3 and report["machine"]["torch"][0].isdigit()
    assert "srresnet_infer_small" in out


def test_without_torch_our_times_alone(monkeypatch, capsys):
    monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda name: None)
    bench.main(["--quick", "--pairs", "1", "--only", "infer_small"])
    out = capsys.readouterr().out
    assert "not installed" in out and "ratio" not in out


class Answers:
    """A process that answers requests with what is in a dict, raises what is an exception there, and notes what it was asked."""

    def __init__(self, asked, **answers):
        self.asked, self.answers = asked, answers

    def ask(self, request, *rows):
        self.asked.append((self.answers["name"], request, *rows))
        answer = self.answers[request]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        self.asked.append((self.answers["name"], "close"))


def test_both_layouts_of_torch_run_as_our_side_does(monkeypatch):
    """The same number of threads and the same setting of malloc in each side's process."""
    bench_torch = pytest.importorskip("npsrgan.bench.pytorch", reason="torch is not installed")
    torch, kept, options = bench_torch.torch, [], SimpleNamespace(threads=1)
    monkeypatch.setattr(fast, "keep_memory", lambda: kept.append(1))
    try:
        for count, (side, last) in enumerate([("ours", False), ("torch", False), ("channels_last", True)], 1):
            torch.set_num_threads(2)
            fast.set_threads(None)
            made = cpu.SIDES[side](options)
            asked_for = made.prepare(bench_rows.Row("a row that returns which side it is prepared for", lambda name: name))
            assert len(kept) == count and fast.get_threads() == 1 and asked_for == ("ours" if side == "ours" else "torch")
            if side != "ours":
                image = bench_torch.tensor(np.zeros((2, 4, 4, 3)))
                assert torch.get_num_threads() == 1 and image.is_contiguous(memory_format=torch.channels_last) == last
    finally:
        bench_torch.configure(1, channels_last=False)


def test_a_run_is_timed_after_another(monkeypatch):
    count, found = [], []
    side = cpu.Ours(SimpleNamespace(threads=1))
    side.begin(bench_rows.Row("a row that counts its runs", lambda name: lambda: count.append(1)))
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: found.append(len(count)) or 0.0)
    side.time()
    assert found == [2, 3]


def test_the_ratio_is_to_the_fastest_side():
    for torch_s, channels_last_s, fastest, ratio in [(1.0, 2.0, "torch", " 0.50"), (2.0, 0.4, "channels_last", " 1.25")]:
        row = bench_rows.Row("conv", None)
        sides = {name: Answers([], name=name, begin=np.ones(2), time=[seconds], finish=(peak, None)) for name, seconds, peak in
                 (("ours", 0.5, 3e6), ("torch", torch_s, 4e6), ("channels_last", channels_last_s, 6e6))}
        driver.compare(row, driver.measure(row, sides, 1), {})
        memory = "0.75" if fastest == "torch" else "0.50"
        assert row.result["fastest"] == fastest and f"ratio {ratio} to {fastest}, memory  {memory}" in driver.row_line(row)
        assert f"channels_last {channels_last_s * 1e3:9.3f} ms" in driver.row_line(row)


def test_the_sides_take_turns():
    asked, row = [], bench_rows.Row("conv", None)
    sides = {name: Answers(asked, name=name, begin=np.ones(2), time=[seconds], finish=(5e6, None))
             for name, seconds in (("ours", 0.5), ("torch", 1.0), ("channels_last", 2.0))}
    first = driver.measure(row, sides, 2)
    assert asked == [(side, *request) for request in (("begin", "conv"), ("time",), ("time",), ("finish",)) for side in sides]
    assert list(first) == ["ours", "torch", "channels_last"] and row.result == {
        "ours_s": 0.5, "ours_mb": 5, "ours_spread_s": 0, "torch_s": 1, "torch_mb": 5, "torch_spread_s": 0,
        "channels_last_s": 2, "channels_last_mb": 5, "channels_last_spread_s": 0}


@pytest.mark.parametrize("request_that_fails", ["begin", "time", "finish"])
def test_a_side_that_fails_is_named_and_the_others_are_measured(request_that_fails):
    row = bench_rows.Row("conv", None)
    good = {"begin": np.ones(1), "time": [1e-3], "finish": (1e6, "slow")}
    bad = good | {request_that_fails: driver.Failed("OutOfMemoryError: too much")}
    first = driver.measure(row, {"ours": Answers([], name="ours", **bad), "torch": Answers([], name="torch", **good)}, 3)
    driver.compare(row, first, {})
    assert row.result == {"ours_error": "OutOfMemoryError: too much", "torch_s": 0.001, "torch_mb": 1, "torch_spread_s": 0,
                          "torch_note": "slow"}
    assert "ours OutOfMemoryError: too much" in driver.row_line(row) and "torch     1.000 ms" in driver.row_line(row)


def test_what_is_made_of_the_answers():
    row = bench_rows.Row("srgan_step batch 16", None, flops=6e9, bytes=2e6, step=True)
    ones, sides = np.ones(4), {}
    for name, first, times, peak in [("ours", ones * 1.1, [0.002, 0.003, 0.010], 6e6), ("torch", ones, [0.006], 4e6),
                                     ("best", None, [0.0015], 3e6)]:
        sides[name] = Answers([], name=name, begin=first, time=times, finish=(peak, None))
    driver.compare(row, driver.measure(row, sides, 1), {"flops": 4e12, "bytes": 1e9})
    r = row.result
    assert r["ours_s"] == 0.003 and r["ours_spread_s"] == pytest.approx(0.001) and r["ours_mb"] == 6
    assert r["ratio_torch"] == 0.5 and r["ratio_best"] == 2 and r["memory_ratio_torch"] == 1.5 and r["memory_ratio_best"] == 2
    assert r["difference"] == pytest.approx(0.1) and r["images_per_s"] == pytest.approx(16 / 0.003)
    assert r["share_of_flops"] == pytest.approx(0.5) and r["share_of_bytes"] == pytest.approx(2 / 3)
    for words in ("ours     3.000 ms", "best     1.500 ms", "ratio  2.00 to best, memory  2.00", "50% of GEMM",
                  "67% of bandwidth", "5333 images/s"):
        assert words in driver.row_line(row)


def test_the_limits():
    sides = Answers([], name="ours", begin=None, time=[0.5], finish=(1, None))
    def rows():
        return [bench_rows.Row("a", None, flops=3e9, precision="tf32"), bench_rows.Row("b", None, flops=1e9, precision="float32"),
                bench_rows.Row("copy", None, bytes=4e9)]
    assert driver.find_limits(rows(), sides, "float32") == {"flops": 2e9, "bytes": 8e9}
    assert driver.find_limits(rows(), Answers([], name="ours", begin=driver.Failed("no")), "tf32") == {}


def test_a_process_reports_why_it_cannot_and_starts_anew():
    options = SimpleNamespace(threads=1)
    for process, request, words in [(driver.Process("cpu", "nobody", options), ["time"], "KeyError: 'nobody'"),
                                    (driver.Process("cpu", "ours", options), ["begin", "no such row"], "has no attribute 'prepare'")]:
        with pytest.raises(driver.Failed, match=words):
            process.ask(*request)
        assert process.pipe is None
    product = next(cpu.ceilings())
    assert np.array_equal(process.ask("begin", product.name), product.prepare("ours")())
    process.process.kill()
    with pytest.raises(driver.Failed, match="its process ended early"):
        process.ask("time")
    assert process.pipe is None


def test_a_process_that_never_answers(monkeypatch):
    process, ended = driver.Process("cpu", "ours", None), []
    process.process = SimpleNamespace(kill=lambda: ended.append(1), join=lambda: None)
    process.pipe = SimpleNamespace(send=lambda request: None, poll=lambda seconds: False)
    with pytest.raises(driver.Failed, match="no answer in 600 s"):
        process.ask("time")
    assert ended and process.pipe is None


def test_rows_have_different_names_and_the_promised_ones_are_there():
    names = [row.name for row in cpu.rows(quick=False)]
    assert len(set(names)) == len(names) and set(names) >= NAMES
    assert {row.name for row in cpu.rows(quick=True)} < set(names)


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

    with pytest.MonkeyPatch.context() as patch, Tape():     # without a tape, a convolution and PReLU are one operation
        patch.setattr(operation, "evaluate", watch)
        sr = trainer.networks["srgan"](np.zeros((1, 44, 44, 3), np.float32))
        trainer.networks["discriminator"].features(sr)
        trainer.vgg(sr)
    assert seen == set(bench_rows.CONVOLUTIONS)


def test_methods_are_timed_and_the_chosen_one_is_marked(capsys):
    print_cpu_methods([(8, 3, 16, 32, 1), (8, 3, 16, 16, 2), (6, 9, 16, 3, 1), (6, 9, 3, 16, 1)], repeats=1)
    header, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * 3 and all(line.count("*") == 1 for line in lines)
    columns = {name: header.index(name) + len(name) - 1 for name in METHODS}
    starred = [next(name for name, end in columns.items() if line.index("*") == end) for line in lines]
    assert starred == ["winograd"] * 3 + ["im2col"] * 3 + ["kn2row"] * 3 + ["im2col", "flipped", "im2col"]


def test_torch_gets_the_channels_in_its_own_order():
    pytest.importorskip("torch", reason="torch is not installed")
    for row in bench_rows.operation("shuffle", bench_rows.ops.pixel_shuffle, lambda: (bench_rows.draw(1, 3, 2, 20),),
                                    lambda F, x: F.pixel_shuffle(x, 2),
                               channels=np.arange(20).reshape(4, 5).T.ravel()):
        assert np.array_equal(row.prepare("ours")(), bench_rows.plain(row.prepare("torch")()))


def test_profile_accounts_for_the_step(monkeypatch, capsys):
    def step():
        with Tape():
            return SRResNet(8, 1)(np.zeros((1, 6, 6, 3), np.float32))
    monkeypatch.setattr(profile, "training", lambda method, batch: lambda side: step)
    profile.print_profile(gemm=1e9, steps=1)
    out = capsys.readouterr().out
    assert "conv 9x9 3->8 at 6" in out and "of GEMM" in out and "one step" in out and "batch_norm_prelu" not in out
    with any_size():            # with the fused operations' twins
        profile.print_profile(gemm=1e9, steps=1)
    out = capsys.readouterr().out
    assert "batch_norm_prelu" in out and "batch_norm_add" in out
    assert operation.evaluate.__module__ == "npsrgan.ops.operation"      # put back


def test_the_networks_in_torch_compute_the_same():
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


@pytest.mark.parametrize("option", ["--pairs", "--threads"])
def test_at_least_one_pair_and_one_thread(option, capsys):
    with pytest.raises(SystemExit) as exit:
        bench.main([option, "0"])
    assert exit.value.code == 2 and f"argument {option}: must be at least 1" in capsys.readouterr().err


def test_what_only_a_cpu_measures_is_not_asked_of_a_gpu(capsys):
    with pytest.raises(SystemExit) as exit:
        bench.main(["--device", "gpu", "--profile"])
    assert exit.value.code == 2 and "leave out --device gpu" in capsys.readouterr().err


def test_the_command_as_it_is_called():
    """Its processes find what they are to run: with `python -m`, the command's module is "__main__", which new ones cannot import."""
    done = subprocess.run([sys.executable, "-m", "npsrgan.bench", "--only", "pixel_shuffle", "--pairs", "1", "--threads", "1"],
                          capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and "pixel_shuffle" in done.stdout and " ms" in done.stdout, done.stderr[-2000:]


def test_the_loader_is_measured_from_every_source(monkeypatch, capsys):
    monkeypatch.setattr(loader, "SECONDS", 0)
    monkeypatch.setattr(loader.os, "cpu_count", lambda: 2)
    bench.main(["--loader"])
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] and line.split()[0] in ("folder", "zip", "pack")]
    assert [(source, threads) for source, threads, *_ in rows] == [(s, t) for s in ("folder", "zip", "pack") for t in "12"]
    assert "from 200 images" in out and all(float(number) > 0 for row in rows for number in row[2:5])
