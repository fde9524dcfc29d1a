"""The CUDA graph of a training step, on a stand-in for a card: what is recorded, what repeats it, and what happens where it cannot be."""
import dataclasses
import gc
import weakref

import numpy as np
import pytest
from card import Card
from comparisons import DOUBLE, wave
from test_dispatch import StandIn

from npsrgan.device import CPU, Device
from npsrgan.fast.cuda.graph import WARM_UP, Graphs
from npsrgan.ops.operation import reference_only
from npsrgan.train import __main__ as train
from npsrgan.train.settings import Settings
from npsrgan.trainer import Trainer, numbers

SETTINGS = Settings(steps=9, together=True, patch_size=4, channels=4, blocks=1, discriminator_channels=2, vgg_layer="conv2_1",
                    adversarial_weight=0.1, schedule="cosine", gan_schedule="drop", learning_rate=1e-2, gan_learning_rate=1e-2)
ALONE = dataclasses.replace(SETTINGS, together=False, steps=4, gan_steps=8)


@pytest.fixture
def card():
    with reference_only():
        yield Card()


def batch(step):
    return tuple(wave(2, side, side, 3, seed=step).astype(np.float32) for side in (4, 16))


def trainer_on(card, settings=SETTINGS, say=None):
    return Trainer(settings.validate(), Device(card.module, "a stand-in") if card else CPU, say=say or (lambda line: None))


def run(trainer, diagnosed=()):
    """The rows of all steps, and what training has changed."""
    rows = [numbers(trainer.step(*batch(step), diagnose=step in diagnosed)) for step in range(trainer.settings.total_steps)]
    return rows, {name: array.get() if isinstance(array, StandIn) else array.copy() for name, array in trainer.arrays().items()}


def assert_same(mine, theirs):
    """To the bit."""
    assert mine[0] == theirs[0]
    assert [name for name, array in theirs[1].items() if array.tobytes() != mine[1][name].tobytes()] == []


def plainly(card, settings, **diagnosed):
    """What training without graphs gives."""
    before = len(card.graphs)
    outcome = run(trainer_on(card, dataclasses.replace(settings, graph=False)), **diagnosed)
    assert len(card.graphs) == before
    return outcome


@pytest.mark.parametrize("settings", [SETTINGS, ALONE], ids=["together", "one after the other"])
def test_training_by_graphs_is_training(card, settings):
    """Batches, rates and counts change from step to step, and the graph follows them all; running statistics too."""
    diagnosed = range(5, 8) if settings.together else range(6, 10)
    assert_same(run(trainer_on(card, settings), diagnosed=diagnosed), plainly(card, settings, diagnosed=diagnosed))
    assert [graph.launched for graph in card.graphs] == ([7, 4] if settings.together else [2, 2])     # without warm-up and diagnostics
    assert all(len(graph.thunks) > 50 for graph in card.graphs)


def test_training_on_a_card_is_training_on_a_cpu(card):
    """In double precision: Adam moves a parameter whose gradient should be zero by a whole step in the direction that rounding gave.
    The rate is a power of two, since a card keeps it in float32."""
    settings = dataclasses.replace(SETTINGS, schedule="constant", gan_schedule="constant", learning_rate=2**-7, gan_learning_rate=2**-7)
    upload = card.module.array
    card.module.array = lambda values: upload(np.asarray(values, np.float64))
    (mine, _), (theirs, _) = (run(Trainer(settings.validate(), device)) for device in (Device(card.module, ""), DOUBLE))
    for row, expected in zip(mine, theirs, strict=True):
        assert row == pytest.approx(expected, rel=1e-10)
    assert len(card.graphs) == 2


def test_a_step_that_reads_a_value_cannot_be_recorded_and_training_goes_on(card, monkeypatch):
    said, work = [], Trainer._train_srgan

    def reads(self, *inputs, diagnose=False):
        row = work(self, *inputs, diagnose=diagnose)
        float(row["pixel"])
        return row
    monkeypatch.setattr(Trainer, "_train_srgan", reads)
    assert_same(run(trainer_on(card, say=said.append)), plainly(card, SETTINGS))
    assert card.recording is None and len(said) == 2 and said[1] == (
        "the training step cannot be recorded as a CUDA graph (cudaErrorStreamCaptureUnsupported: operation not permitted when stream "
        "is capturing): going on without, slower")


def test_recording_stops_where_a_capture_is_broken_off(card, monkeypatch):
    """Even by Ctrl-C, which is not for the graph to catch."""
    graphs = Graphs(card.module)

    def work(x):
        if card.recording is not None:
            raise KeyboardInterrupt
        return {"y": x + 1}
    for _ in range(WARM_UP):
        graphs(work, card.upload(np.ones(3)))
    with pytest.raises(KeyboardInterrupt):
        graphs(work, card.upload(np.ones(3)))
    assert card.recording is None and graphs.record


def test_each_function_and_shape_has_its_graph_and_forget_drops_them(card):
    graphs, calls = Graphs(card.module), []

    def double(x):
        calls.append(x.shape)
        return {"y": x + x}

    def square(x):
        return {"y": x * x}
    for value in range(1, 6):
        for size in (2, 3):
            x = card.upload(np.full(size, float(value)))
            assert graphs(double, x)["y"].get().tolist() == [2.0 * value] * size
            assert graphs(square, x)["y"].get().tolist() == [1.0 * value ** 2] * size
    assert len(card.graphs) == 4 and calls == [(2,), (3,)] * (WARM_UP + 1)      # the last time to be recorded
    graphs.forget()
    gc.collect()
    graphs(double, x)
    assert len(calls) == 2 * (WARM_UP + 1) + 1


def double(x):
    return {"y": x + x}


def doubled(graphs, card, *values):
    """What graphs make of arrays of these values, one after the other."""
    return [graphs(double, card.upload(np.full(3, float(value))))["y"].get()[0] / 2 for value in values]


def test_graphs_are_dropped_where_the_pool_gives_their_memory_back(card):
    """As CuPy's does where memory runs short, by itself and without a word."""
    graphs = Graphs(card.module)
    assert doubled(graphs, card, *range(WARM_UP + 2)) == list(range(WARM_UP + 2)) and [g.launched for g in card.graphs] == [2]
    graphs.pool.malloc(512)()
    graphs.pool.free_all_blocks()
    assert not card.taken and doubled(graphs, card, *range(WARM_UP + 2)) == list(range(WARM_UP + 2))
    assert [g.launched for g in card.graphs] == [2, 2]      # warmed up and recorded anew


def test_a_recording_for_which_memory_runs_short_is_not_used(card):
    said = []
    graphs = Graphs(card.module, say=said.append)

    def short(x):
        if card.recording is not None:
            graphs.pool.malloc(512)()
            graphs.pool.free_all_blocks()
        return double(x)
    for value in range(WARM_UP + 2):
        assert graphs(short, card.upload(np.ones(3) * value))["y"].get()[0] == 2 * value
    assert said == ["the training step cannot be recorded as a CUDA graph (too little memory): going on without, slower"]
    assert [g.launched for g in card.graphs] == [0]


def test_the_pool_asks_for_what_the_default_pool_holds_and_leaves_nothing_behind(card):
    graphs, card.memory = Graphs(card.module), 1000
    card.module.get_default_memory_pool().malloc(600)()
    graphs.pool.malloc(500)()
    assert list(card.taken.values()) == [500]
    with pytest.raises(RuntimeError, match="cudaErrorMemoryAllocation"):        # of which CuPy's pool makes a MemoryError
        graphs.pool.malloc(501)
    doubled(graphs, card, *range(WARM_UP + 2))
    del graphs
    gc.collect()
    assert not card.taken


def test_what_a_broken_recording_held_is_free_before_the_step_is_computed_plainly(card):
    held, graphs = [], Graphs(card.module, say=lambda line: None)

    def breaks(x):
        large = {x.shape}       # as the arrays of a step; of a set one can ask whether it is still there
        assert [holder() for holder in held] == [None] * len(held)
        if card.recording is not None:
            held.append(weakref.ref(large))
            float(x)
        return double(x)
    for value in range(WARM_UP + 1):
        assert graphs(breaks, card.upload(np.ones(1) * value))["y"].get() == 2 * value
    assert len(held) == 1


def test_numbers_reach_a_graph_as_arrays_of_one_entry(card):
    graphs, seen = Graphs(card.module), []

    def work(x, rate, count):
        seen.append((rate.dtype, rate.shape, count.dtype, count.shape))
        return {"y": x * rate + count}
    results = [graphs(work, card.upload(np.ones(2)), 0.5 * step, step)["y"].get().tolist() for step in range(6)]
    assert results == [[1.5 * step] * 2 for step in range(6)]
    assert seen == [(np.float32, (1,), np.int32, (1,))] * (WARM_UP + 1)


def test_numbers_waits_for_nothing_on_a_cpu():
    assert numbers({"a": np.float32(0.5), "b": 1.0}) == {"a": 0.5, "b": 1.0}


# The loop

def losses_from(card, monkeypatch, bad):
    """Let the loss be NaN from step `bad` on.  Returns the steps at which losses were read."""
    read, step = [], Trainer.step

    def broken(self, lr, hr, diagnose=False):
        row = step(self, lr, hr, diagnose)
        return row | {"pixel": card.upload(np.float32(np.nan))} if self.steps >= bad else row

    def require_finite(row, number, original=train.require_finite):
        read.append(number)
        return original(row, number)
    monkeypatch.setattr(Trainer, "step", broken)
    monkeypatch.setattr(train, "require_finite", require_finite)
    return read


@pytest.fixture
def tiny_on(card, tiny, monkeypatch):
    """`tiny` runs on the card."""
    monkeypatch.setattr(train, "select", lambda choice, number: (Device(card.module, "a stand-in"), None))
    return tiny


def test_losses_are_read_only_where_they_are_logged_or_saved(card, tiny_on, tmp_path, monkeypatch, capsys):
    read = losses_from(card, monkeypatch, bad=99)
    assert tiny_on(tmp_path / "run", steps=9, gan_steps=0, together=True, log_every=4, save_every=5) == 0
    assert sorted(set(read)) == [4, 5, 8, 9]
    assert len(card.graphs) == 2 and card.streams == 2


def test_a_loss_that_is_not_finite_is_noticed_before_the_next_checkpoint(card, tiny_on, tmp_path, monkeypatch, capsys):
    losses_from(card, monkeypatch, bad=6)
    assert tiny_on(tmp_path / "run", steps=9, gan_steps=0, together=True, log_every=9, save_every=4) == 2
    assert "at step 8 the loss pixel is nan: training stopped and the checkpoint of step 4 is kept" in capsys.readouterr().err


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


def test_out_of_memory_says_what_fits(card, tiny_on, tmp_path, monkeypatch, capsys):
    """A step is tried with fewer and fewer images."""
    tried, step = [], Trainer.step

    def limited(self, lr, hr, diagnose=False):
        tried.append(len(lr))
        if len(lr) > fits and self.steps >= 2:
            raise OutOfMemoryError("Out of memory allocating 1 bytes")
        return step(self, lr, hr, diagnose)
    monkeypatch.setattr(Trainer, "step", limited)
    for fits, words in [(1, "--batch-size 1 fits"), (0, "try a smaller --batch-size")]:
        tried.clear()
        assert tiny_on(tmp_path / f"run{fits}", steps=9, gan_steps=0, together=True, batch_size=4, save_every=2) == 2
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert sentence == f"error: out of memory on the GPU at step 3, the checkpoint of step 2 is kept: {words}"
        assert tried == [4, 4, 4, 2, 1]


def test_out_of_memory_on_a_cpu(tiny, tmp_path, monkeypatch, capsys):
    def step(self, lr, hr, diagnose=False):
        raise MemoryError
    monkeypatch.setattr(Trainer, "step", step)
    assert tiny(tmp_path / "run") == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence == "error: out of memory at step 1, there was no checkpoint yet: try a smaller --batch-size"
