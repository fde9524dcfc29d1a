"""Tiles of the GPU's convolutions: which are tried, how they are timed, and that which one wins never shows in a result."""
import sys
from types import SimpleNamespace
from unittest import mock

import emulate
import numpy as np
import pytest
from emulate import emulated

from npsrgan import ops
from npsrgan.bench import __main__ as bench
from npsrgan.bench import gpu as bench_gpu
from npsrgan.fast.cuda import convolution, implicit, set_precision, tiles, tuning

needs_gxx = pytest.mark.skipif(emulate.GXX is None, reason="no g++, with which the emulated kernels are built")
ENOUGH = 10**9          # multiplications


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(tuning, "times", {})
    yield
    set_precision("tf32")


class Watch:
    """A clock by which ways take as long as it is told.  Ways are launched by their own names; `launched` lists them."""

    def __init__(self, monkeypatch, **seconds):
        self.seconds, self.launched = seconds, []
        monkeypatch.setattr(tuning, "measurable", lambda: True)
        monkeypatch.setattr(tuning, "clock", self.clock)

    def clock(self, launch, count):
        for _ in range(count):
            launch()
        return self.seconds[self.launched[-1]]

    def prepare(self, way):
        return lambda: self.launched.append(way)

    def ask(self, question="q", work=ENOUGH):
        return tuning.fastest(question, lambda: list(self.seconds), self.prepare, work)


def test_the_fastest_wins_and_is_remembered(monkeypatch):
    watch = Watch(monkeypatch, usual=3e-4, best=1e-4, worst=5e-4)
    assert watch.ask() == "best" and tuning.times == {"q": watch.seconds}
    count = len(watch.launched)
    watch.seconds["worst"] = 1e-6
    assert watch.ask() == "best" and len(watch.launched) == count
    assert watch.ask("another question") == "worst" and len(watch.launched) > count


def test_chance_does_not_win(monkeypatch):
    assert Watch(monkeypatch, usual=1.01e-4, best=1e-4).ask() == "usual"
    assert Watch(monkeypatch, usual=1.03e-4, best=1e-4).ask("q2") == "best"


def test_a_long_launch_is_timed_alone_and_short_ones_in_a_row(monkeypatch):
    watch = Watch(monkeypatch, long=1.0, short=1e-6, between=1e-4)
    watch.ask()
    assert {way: watch.launched.count(way) - 2 for way in watch.seconds} == {
        "long": tuning.ROUNDS, "short": tuning.BURST * tuning.ROUNDS, "between": 2 * tuning.ROUNDS}


def test_neither_a_card_that_is_still_waking_up_nor_a_disturbance_decides(monkeypatch):
    """Whatever comes later looks faster; and then the first is held up once."""
    for question, pace in ("waking", 0.97 ** np.arange(10)), ("disturbed", [1, 1, 1, 1, 1, 1, 1, 1, 9, 1]):
        watch, paces = Watch(monkeypatch, first=1.0, second=1.05), iter(pace)
        clock = watch.clock
        monkeypatch.setattr(tuning, "clock", lambda launch, count, clock=clock, paces=paces: next(paces) * clock(launch, count))
        assert watch.ask(question) == "first"


def test_little_work_and_captured_streams_take_the_first_way(monkeypatch):
    watch = Watch(monkeypatch, usual=3e-4, best=1e-4)
    assert watch.ask(work=tuning.WORTH - 1) == "usual"
    monkeypatch.setattr(tuning, "measurable", lambda: False)
    assert watch.ask() == "usual" and not watch.launched and not tuning.times
    monkeypatch.setattr(tuning, "measurable", lambda: True)
    assert watch.ask() == "best"
    monkeypatch.setattr(tuning, "measurable", lambda: pytest.fail("what is known need not be asked for"))
    assert watch.ask() == "best"


class CardError(RuntimeError):
    """As CuPy's CUDADriverError."""

    def __init__(self, status):
        super().__init__(f"CUDA error {status}")
        self.status = status


@pytest.mark.parametrize("when", ["prepared", "launched"])
def test_what_the_card_refuses_is_left_out(monkeypatch, when):
    watch, refused = Watch(monkeypatch, usual=1e-4, too_large=1e-6, best=5e-5), {"usual": 1, "too_large": 701}

    def prepare(way):
        def launch():
            if way in refused:
                raise CardError(refused[way])
            watch.launched.append(way)
        if when == "prepared" and way in refused:
            launch()
        return launch
    watch.prepare = prepare
    assert watch.ask() == "best" and list(tuning.times["q"]) == ["best"]
    refused["best"] = 701
    with pytest.raises(CardError, match="701"):
        watch.ask("q2")


@pytest.mark.parametrize("error", [MemoryError(), CardError(2), CardError(700), RuntimeError("what is this")])
def test_other_errors_pass_through_and_nothing_is_remembered(monkeypatch, error):
    watch = Watch(monkeypatch, usual=1e-4, best=5e-5)
    watch.prepare = lambda way: mock.Mock(side_effect=error if way == "usual" else lambda: watch.launched.append(way))
    with pytest.raises(type(error)):
        watch.ask()
    assert not tuning.times


def test_events_and_captures_are_asked_for_as_cupy_has_them(monkeypatch):
    now, capturing = [0.0], [False]

    class Event:
        def record(self):
            self.at = now[0]

        def synchronize(self):
            assert not capturing[0]
    stream = SimpleNamespace(is_capturing=lambda: capturing[0])
    cuda = SimpleNamespace(Event=Event, get_current_stream=lambda: stream, get_elapsed_time=lambda a, b: b.at - a.at)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    assert tuning.clock(lambda: now.__setitem__(0, now[0] + 3), 4) == pytest.approx(3e-3)
    assert tuning.measurable()
    capturing[0] = True
    assert not tuning.measurable()


# Which tiles are tried

def tried(rows, columns, plain=True):
    def grid(tile): return -(-rows // tile.m) * -(-columns // tile.n), 1
    def memory(tile): return 144 * (tile.m + tile.n), 16 * tile.m
    return tiles.candidates(columns, grid, memory, plain)


def test_the_rule_gives_every_multiprocessor_a_block_if_there_are_enough():
    with emulated(multiprocessors=132):
        assert [tried(*shape)[0][:2] for shape in [(30976, 64), (495616, 128), (7744, 256), (1936, 512), (100, 512), (495616, 27)]] == [
            (128, 64), (128, 128), (128, 64), (64, 64), (64, 64), (128, 32)]


def test_few_tiles_are_tried_and_none_that_leaves_most_of_the_card_idle():
    for precision in ("tf32", "float32"):
        set_precision(precision)
        with emulated(multiprocessors=132):
            for rows in (10, 2000, 8000, 500000):
                for columns in (27, 64, 128, 512):
                    found = tried(rows, columns)
                    assert 1 <= len(found) <= 5 and len(set(found)) == len(found)
                    assert all(2 * -(-rows // tile.m) * -(-columns // tile.n) >= 132 for tile in found[1:])
            assert len(tried(500000, 128)) == (5 if precision == "tf32" else 3)
            assert len(tried(500000, 64, plain=False)) == 2


def test_tiles_fit_into_the_memory_that_a_multiprocessor_has():
    wide = tiles.USUAL[True][128][0]
    for room, fitted in [(227, (2, 3)), (163, (2, 2)), (99, (1, 2)), (73, None)]:
        with emulated(shared_memory=room << 10):
            tile = tiles.fit(wide, 144 * 256, 2048)
            assert fitted == (tile and (tile.blocks, tile.stages))
            different = tried(500000, 128)
            assert len(set(different)) == len(different) and all(tile.m < 256 for tile in different) == (room < 163)


def question_of(batch, size=44, work=implicit.correlate, kernel=(3, 3, 32, 64), stride=1):
    """What is asked about a convolution of images that are never touched."""
    asked = []

    def fastest(question, ways, prepare, multiplications):
        asked.append((question, multiplications))
        return ways()[0]
    x, w = np.empty((batch, size, size, kernel[2]), np.float32), np.empty(kernel, np.float32)
    y = np.empty((batch, -(-size // stride), -(-size // stride), kernel[3]), np.float32)
    with emulated(), mock.patch.object(implicit.compile, "kernel", lambda *args, **macros: lambda *args: None), \
            mock.patch.object(implicit, "sum_parts", lambda parts, out: out), mock.patch.object(tuning, "fastest", fastest):
        if work is implicit.correlate_kernel_gradient:
            work(x, y, kernel[:2], 1, 1, stride)
        else:
            work(*((x, w, y) if work is implicit.correlate else (y, w, x)), 1, 1, stride)
    return asked[0]


def test_images_of_about_the_same_size_share_an_answer_and_nothing_else_does():
    directions = implicit.correlate, implicit.correlate_adjoint, implicit.correlate_kernel_gradient
    assert question_of(2)[0] == question_of(2, 40)[0] != question_of(5)[0]
    questions = [question_of(4, work=work)[0] for work in directions]
    questions += [question_of(4, kernel=(3, 3, 64, 32))[0], question_of(4, kernel=(5, 3, 32, 64))[0], question_of(16, stride=2)[0]]
    set_precision("float32")
    questions.append(question_of(4)[0])
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("work", [implicit.correlate, implicit.correlate_adjoint, implicit.correlate_kernel_gradient])
def test_multiplications_are_counted(work):
    assert question_of(2, work=work)[1] == 2 * 44 * 44 * 9 * 32 * 64
    assert question_of(2, work=work, stride=2)[1] == 2 * 22 * 22 * 9 * 32 * 64


# The choice never shows

def all_tiles(precision, width):
    return [tile for some in (tiles.USUAL[precision == "tf32"], tiles.UNUSUAL if precision == "tf32" else {})
            for tile in some.get(width, ())]


def in_tile(monkeypatch, tile, work, *args):
    """What `work` returns if it must take this tile, on a GPU with 16 multiprocessors."""
    monkeypatch.setattr(tiles, "candidates", lambda columns, grid, memory, plain: [tiles.fit(tile, *memory(tile))])
    with emulated(multiprocessors=16):
        return work(*args)


def drawn(image, kernel):
    rng = np.random.default_rng([*image, *kernel])
    return [rng.standard_normal(shape).astype(np.float32) for shape in (image, kernel, (*image[:3], kernel[3]))]


@needs_gxx
@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_every_tile_gives_the_same_bits(monkeypatch, precision):
    """And the right ones.  Forward all, back those for many outputs; wider than one tile and higher than another."""
    set_precision(precision)
    x, w, dy = drawn((1, 17, 16, 64), (1, 3, 64, 72))
    y, (d_x, *_) = ops.conv2d.reference(*(a.astype(np.float64) for a in (x, w)), padding=None)
    every = [tile for width in (128, 64, 32) for tile in all_tiles(precision, width)]
    limit = 2e-3 if precision == "tf32" else 2e-4
    for work, some, arrays, exact in [(implicit.correlate, every, (x, w), y),
                                      (implicit.correlate_adjoint, every[:5], (dy, w), d_x(dy.astype(np.float64)))]:
        results = [in_tile(monkeypatch, tile, work, *arrays, np.full(exact.shape, np.nan, np.float32), 0, 1) for tile in some]
        assert np.linalg.norm(results[0] - exact) <= limit * np.linalg.norm(exact)
        assert all(np.array_equal(results[0], result) for result in results[1:])


@needs_gxx
@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_every_tile_gives_the_same_bits_of_a_kernels_gradient(monkeypatch, precision):
    set_precision(precision)
    for outputs, width in (72, 128), (40, 64):
        x, w, dy = drawn((2, 17, 16, 64), (1, 3, 64, outputs))
        _, (_, d_w, _) = ops.conv2d.reference(*(a.astype(np.float64) for a in (x, w)))
        exact, summed = d_w(dy.astype(np.float64)), mock.Mock(wraps=implicit.sum_parts)
        monkeypatch.setattr(implicit, "sum_parts", summed)
        results = [in_tile(monkeypatch, tile, implicit.correlate_kernel_gradient, x, dy, (1, 3), 0, 1)
                   for tile in all_tiles(precision, width)]
        assert np.linalg.norm(results[0] - exact) <= (2e-3 if precision == "tf32" else 2e-4) * np.linalg.norm(exact)
        assert all(np.array_equal(results[0], result) for result in results[1:])
        assert len({len(call.args[0]) for call in summed.call_args_list}) == 1 and summed.call_count == len(results)


@needs_gxx
def test_a_convolution_tries_its_tiles_and_takes_the_fastest(monkeypatch):
    x, w, _ = drawn((1, 17, 16, 64), (1, 3, 64, 72))
    launched = []

    def clock(launch, count):       # the fewer blocks the faster; and each really writes its result
        launch()
        launched.append(grid := launch.args[0])
        return grid[0]
    monkeypatch.setattr(tuning, "clock", clock)
    monkeypatch.setattr(tuning, "WORTH", 1)
    with emulated(multiprocessors=1):
        by_rule = convolution.conv2d(x, w)[0]
        assert not launched
        monkeypatch.setattr(tuning, "measurable", lambda: True)
        tuned = convolution.conv2d(x, w)[0]
    assert len(launched) == 5 * (2 + tuning.ROUNDS) and np.array_equal(by_rule, tuned)
    (times,) = tuning.times.values()
    assert tuning.best(times)[:2] == (256, 128)


def test_on_a_card_every_tile_gives_the_same_bits(xp):
    """Tried for real: as large as is worth it, forward and back, in both precisions."""
    if xp is np:
        pytest.skip("nothing is tried on a CPU")
    x, w, dy = (xp.asarray(a) for a in drawn((16, 44, 44, 64), (3, 3, 64, 128)))
    for precision in ("tf32", "float32"):
        set_precision(precision)
        results = []
        for way in range(5):
            def choose(seconds, way=way):
                return list(seconds)[min(way, len(seconds) - 1)]
            with mock.patch.object(tuning, "best", choose):
                y, rules = convolution.conv2d(x, w)
                results.append([a.get() for a in (y, *(rule(dy) for rule in rules[:2]))])
        assert all(np.array_equal(a, b) for result in results[1:] for a, b in zip(results[0], result))
        assert all(0 < second < 1 for seconds in tuning.times.values() for second in seconds.values())
    assert len(tuning.times) == 6


# python -m npsrgan.bench --device gpu --methods

def test_the_benchmark_prints_every_tile_and_which_is_taken(monkeypatch, capsys):
    """On an emulated GPU whose kernels compute nothing, and by a clock that likes threads."""
    def clock(launch, count):
        return 0.256 / launch.args[1][0]
    monkeypatch.setattr(tuning, "clock", clock)
    monkeypatch.setattr(tuning, "WORTH", 2 * 10**6)
    card = SimpleNamespace(description="a stand-in", array=lambda values: values)
    closed = []
    monkeypatch.setattr("npsrgan.device.select", lambda choice: (card, None))
    monkeypatch.setattr(bench_gpu, "Process", lambda side, precision: SimpleNamespace(close=lambda: closed.append((side, precision))))
    monkeypatch.setattr(bench_gpu, "find_limits", lambda process, precision: {"flops": 4e12})
    monkeypatch.setattr(bench, "QUICK", [(32, 3, 64, 128, 1), (32, 3, 3, 64, 2), (16, 3, 64, 3, 1), (4, 1, 64, 64, 1)])
    with emulated(multiprocessors=16), mock.patch.object(implicit.compile, "kernel", lambda *args, **macros: lambda *args: None):
        monkeypatch.setattr(tuning, "measurable", lambda: True)
        bench.main(["--device", "gpu", "--methods", "--quick", "--precision", "tf32"])
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title == "a stand-in, tf32, 4 Tflop/s in a large matrix product" and closed == [("ours", "tf32")]
    assert [line[:44].split()[-1] for line in lines] == ["forward", "gradient", "gradient"] * 4 and "at 32/2" in lines[3]
    assert all(line.count("*") == 1 and "Tflop/s" in line for line in lines[:9])
    assert all("too little work" in line for line in lines[9:])
    assert " ".join(lines[0][44:].split()) == ("128x128/3 2.000 128x64/3 2.000 64x64/3 2.000 256x128/3 1.000* 128x128/2 2.000 "
                                               "2 Tflop/s 60% of GEMM")
