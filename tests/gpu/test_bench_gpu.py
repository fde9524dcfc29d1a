"""The benchmark on a GPU, without one: what is asked of each side, what is made of the answers, and that no failure stops it."""
import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from card import Card
from comparisons import DOUBLE, wave

from npsrgan.bench import __main__ as bench
from npsrgan.bench import driver
from npsrgan.bench import gpu as bench_gpu
from npsrgan.bench import rows as bench_rows
from npsrgan.device import CPU, Device
from npsrgan.system.errors import UserError
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer

ROW = bench_rows.Row("conv", None, flops=6e9, bytes=2e6)


class Side(bench_gpu.Side):
    """A side whose runs take 1, 2, 3, ... milliseconds by its clock."""

    def __init__(self):
        self.now, self.runs, self.note = 0.0, 0, "slow"

    def prepare(self, row):
        self.repeated = bench_gpu.repeated(row)

        def run():
            self.runs += 1
            self.now += self.runs
            return np.full(3, self.runs)
        return run

    def event(self):
        event = SimpleNamespace(synchronize=lambda: None)
        event.record = lambda: setattr(event, "time", self.now)
        return event

    def elapsed(self, start, end):
        return end.time - start.time

    def memory(self):
        return 5_000_000

    def release_trials(self):
        assert self.runs == 1


@pytest.mark.parametrize("row", [ROW, dataclasses.replace(ROW, step=True)], ids=["an operation", "a step"])
def test_a_row_is_timed_after_a_warm_up(row, monkeypatch):
    monkeypatch.setattr(bench_gpu, "BUSY", 0)
    side, before = Side(), 1 + bench_gpu.WARM_UP
    assert side.begin(row).tolist() == [1, 1, 1] and side.runs == before
    times = side.time() + side.time()
    assert [round(1e3 * side.repeated * t) for t in times] == [before + 1 + k for k in range(2 * bench_gpu.RUNS)]
    assert side.repeated == (1 if row.step else bench_gpu.IN_A_GRAPH)
    assert side.finish() == (5_000_000, "slow") and side.run is None


def test_an_idle_card_is_kept_busy_for_a_while(monkeypatch):
    clock = iter(np.arange(0, 100, bench_gpu.BUSY / 30))
    monkeypatch.setattr(bench_gpu.time, "monotonic", lambda: next(clock))
    side = Side()
    side.begin(ROW)
    assert side.runs == pytest.approx(1 + 30 + bench_gpu.WARM_UP, abs=2)


@pytest.fixture
def asked(monkeypatch):
    """What the sides' processes were asked, with stand-ins for them that cannot do the first row; on a machine without PyTorch."""
    asked = []

    class Process:
        def __init__(self, device, side, options):
            assert device == "gpu"
            self.side, self.options = side, options

        def ask(self, request, *row):
            asked.append((self.side, request, *row))
            if row == ("srgan_step batch 16",):
                raise driver.Failed("no")
            return {"begin": np.ones(2), "time": [0.001, 0.002], "finish": (1e6, None)}[request]

        def close(self):
            asked.append((self.side, "close"))
    monkeypatch.setattr(bench, "Process", Process)
    monkeypatch.setattr(bench_gpu.device, "select", lambda choice: (Device(np, "a stand-in"), None))
    monkeypatch.setattr(bench_gpu.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=1))
    return asked


def test_the_report(tmp_path, asked, capsys):
    """From the command line to the file, with the first row failing."""
    bench.main(["--device", "gpu", "--precision", "float32", "--quick", "--only", "step", "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    names = [f"{name} batch {batch}" for batch in (16, 64) for name in ("srgan_step", "srresnet_step")] + ["adam_step discriminator"]
    assert [row["name"] for row in report["rows"]] == names and report["rows"][0] == {"name": names[0], "ours_error": "no"}
    assert report["machine"]["gpu"] == "a stand-in" and report["machine"]["flops_per_s"] == pytest.approx(2 * 8192**3 / 1.5e-3)
    assert report["machine"]["bytes_per_s"] == pytest.approx((2 << 30) / 1.5e-3)
    assert [request for request in asked if request[1] == "close"] == [("ours", "close")] == asked[-1:]       # one process for all rows
    assert "our times alone" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main(["--device", "gpu", "--only", "no such row"])


def test_each_side_measures_a_row_alone(asked, monkeypatch):
    monkeypatch.setattr(bench_gpu.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=0, stdout="2.11.0 13.0"))
    bench.main(["--device", "gpu", "--pairs", "2", "--only", "infer_large"])
    requests = [("begin", "srresnet_infer_large"), ("time",), ("time",), ("finish",)]
    assert asked[-15:-3] == [(side, *request) for side in ("ours", "torch", "best") for request in requests]


def test_the_other_precision_is_a_row_only_where_it_is_another(asked):
    for precision, steps in (("tf32", ["srgan_step float32 batch 16", "srgan_step batch 64"]), ("float32", ["srgan_step batch 64"])):
        asked.clear()
        bench.main(["--device", "gpu", "--precision", precision, "--only", "srgan_step"])
        assert [request[2] for request in asked if request[1] == "begin" and "srgan" in request[2]] == ["srgan_step batch 16", *steps]


def test_torch_is_found_or_not(monkeypatch):
    monkeypatch.setattr(bench_gpu.device, "select", lambda choice: (Device(np, "a stand-in"), None))

    def says(status, words):
        monkeypatch.setattr(bench_gpu.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=status, stdout=words))
        return bench_gpu.facts(SimpleNamespace(precision="tf32"))
    mine = {"gpu": "a stand-in", "precision": "tf32"}
    assert says(0, "2.11.0+cu130 13.0\n") == mine | {"torch": "2.11.0+cu130", "torch_cuda": "13.0"} and says(1, "") == mine


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_networks_in_torch_train_as_we_do(channels_last):
    """Three steps of all networks: every loss, and so every gradient before it.  In double precision, since Adam moves a parameter
    whose gradient should be zero by a whole step in the direction that rounding gave."""
    bench_torch = pytest.importorskip("npsrgan.bench.pytorch", reason="torch is not installed")
    settings = Settings(steps=3, together=True, patch_size=8, channels=8, blocks=1, discriminator_channels=4, vgg_layer="conv2_2",
                        adversarial_weight=0.1, equal_phases=False)
    mine = Trainer(settings.validate(), DOUBLE, say=lambda line: None)
    bench_torch.configure(1, channels_last)
    try:
        theirs = bench_torch.Trainer(mine)
        for network in (*theirs.networks.values(), theirs.vgg):
            network.double()
        for step in range(3):
            lr, hr = (wave(2, side, side, 3, seed=step) for side in (8, 32))
            losses = {name: float(loss) for name, loss in theirs.step(bench_torch.tensor(lr), bench_torch.tensor(hr)).items()}
            assert losses == pytest.approx(mine.step(lr, hr), rel=1e-9)
        last = theirs.networks["discriminator"][0][2].weight
        assert last.is_contiguous(memory_format=torch_format(channels_last))
    finally:
        bench_torch.configure(1, channels_last=False)


def torch_format(channels_last):
    import torch
    return torch.channels_last if channels_last else torch.contiguous_format


def test_rows_have_different_names_and_count_their_work():
    rows = list(bench_gpu.rows(quick=False))
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) and {row.name for row in bench_gpu.rows(quick=True)} < set(names)
    conv = next(row for row in rows if row.name == "conv 3x3 64->64 at 176/2 +gradients")
    x, w, y = 16 * 176 * 176 * 64, 9 * 64 * 64, 16 * 88 * 88 * 64
    assert conv.flops == 3 * 2 * y * 9 * 64 and conv.bytes == 3 * 4 * (x + w + y)
    assert all(row.flops and row.bytes for row in rows if row.name.startswith("conv"))


def test_plain_speaks_every_side():
    on_card = SimpleNamespace(get=lambda: np.arange(3))
    in_torch = SimpleNamespace(cpu=lambda: np.arange(3))
    assert bench_rows.plain(on_card).tolist() == bench_rows.plain(in_torch).tolist() == [0, 1, 2]
    assert bench_rows.plain({"a": np.float32(1), "b": 2.0}).tolist() == [1, 2] and bench_rows.plain(None) is None


def test_a_row_computes_where_it_is_told_to():
    uploaded = []

    def array(values):
        uploaded.append(values.shape)
        return values.copy()
    try:
        bench_rows.compute_on(Device(SimpleNamespace(array=array), "a stand-in"))
        for row in list(bench_rows.operation("prelu", bench_rows.ops.prelu, lambda: (np.ones((1, 2, 2, 3)), np.ones(3)), None)):
            row.prepare("ours")()
    finally:
        bench_rows.compute_on(CPU)
    assert uploaded == [(1, 2, 2, 3), (3,), (1, 2, 2, 3), (3,), (1, 2, 2, 3)]


def test_our_side_replays_its_operations_and_counts_its_memory(monkeypatch):
    card = Card()
    monkeypatch.setitem(sys.modules, "cupy", card.module)
    monkeypatch.setattr(bench_gpu, "BUSY", 0)
    monkeypatch.setattr(bench_gpu.device, "select", lambda choice: (Device(card.module, "a stand-in"), None))
    evaluated, rows = [], bench_rows.operation("square", bench_rows.ops.square, lambda: (bench_rows.draw(2, 3, 3, 2),), None)

    def counted(x):
        evaluated.append(x)
        return bench_rows.ops.square.reference(x)
    monkeypatch.setattr(bench_rows.ops.square, "twins", [counted])
    try:
        side = bench_gpu.Ours(SimpleNamespace(precision="tf32"))
        for row in rows:
            evaluated.clear()
            first, times = side.begin(row), [*side.time(), *side.time()]
            x = bench_rows.draw(2, 3, 3, 2)
            dy = bench_rows.draw(2, 3, 3, 2, seed=1)
            assert np.allclose(first, 2 * x * dy if "gradients" in row.name else x * x)
            assert len(times) == 2 * bench_gpu.RUNS
            assert card.graphs[-1].launched == len(times) + bench_gpu.WARM_UP - 1
            assert sum(isinstance(a, card.kind) for a in evaluated) == 3 * bench_gpu.IN_A_GRAPH      # twice to warm up, once recorded
            assert side.finish() == (2000, None)       # two pools
        step = bench_rows.Row("step", lambda side: lambda: None, step=True)
        assert side.prepare(step)() is None and side.note is None
        side.graphs.record = False          # as after a failure
        assert side.note == "not recorded as a CUDA graph"
    finally:
        bench_rows.compute_on(CPU)


def test_no_gpu_is_said():
    try:
        bench_gpu.device.select("gpu")
    except UserError:
        with pytest.raises(SystemExit):
            bench.main(["--device", "gpu"])
