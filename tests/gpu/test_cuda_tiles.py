"""Tiles of the GPU's convolutions: which one is taken, and that it never shows in a result."""
from types import SimpleNamespace
from unittest import mock

import emulate
import numpy as np
import pytest
from emulate import emulated

from npsrgan import ops
from npsrgan.bench import __main__ as bench
from npsrgan.bench import gpu as bench_gpu
from npsrgan.bench import methods
from npsrgan.fast.cuda import convolution, implicit_gemm, set_precision, tiles

needs_gxx = pytest.mark.skipif(emulate.GXX is None, reason="no g++, with which the emulated kernels are built")

@pytest.fixture(autouse=True)
def usual_precision():
    yield
    set_precision("tf32")


# Which tile is taken

def tried(rows, columns, plain=True):
    """The tile that is taken, and the others that the benchmark times."""
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
            assert len(tried(500000, 64, plain=False)) == 2
            assert len(tried(500000, 128)) == (5 if precision == "tf32" else 3)


def test_tiles_fit_into_the_memory_that_a_multiprocessor_has():
    wide = tiles.USUAL[True][128][0]
    for room, fitted in [(227, (2, 3)), (163, (2, 2)), (99, (1, 2)), (73, None)]:
        with emulated(shared_memory=room << 10):
            tile = tiles.fit(wide, 144 * 256, 2048)
            assert fitted == (tile and (tile.blocks, tile.stages))
            different = tried(500000, 128)
            assert len(set(different)) == len(different) and all(tile.m < 256 for tile in different) == (room < 163)


# The choice never shows

def all_tiles(precision, width):
    return [tile for some in (tiles.USUAL[precision == "tf32"], tiles.UNUSUAL if precision == "tf32" else {})
            for tile in some.get(width, ())]


def in_tile(monkeypatch, tile, work, *args):
    """What `work` returns if it must take this tile, on a GPU with 16 multiprocessors."""
    monkeypatch.setattr(tiles, "choose", lambda columns, grid, memory, plain: tiles.fit(tile, *memory(tile)))
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
    for work, some, arrays, exact in [(implicit_gemm.correlate, every, (x, w), y),
                                      (implicit_gemm.correlate_adjoint, every[:5], (dy, w), d_x(dy.astype(np.float64)))]:
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
        exact, summed = d_w(dy.astype(np.float64)), mock.Mock(wraps=implicit_gemm.sum_parts)
        monkeypatch.setattr(implicit_gemm, "sum_parts", summed)
        results = [in_tile(monkeypatch, tile, implicit_gemm.correlate_kernel_gradient, x, dy, (1, 3), 0, 1)
                   for tile in all_tiles(precision, width)]
        assert np.linalg.norm(results[0] - exact) <= (2e-3 if precision == "tf32" else 2e-4) * np.linalg.norm(exact)
        assert all(np.array_equal(results[0], result) for result in results[1:])
        assert len({len(call.args[0]) for call in summed.call_args_list}) == 1 and summed.call_count == len(results)


def test_on_a_card_every_tile_gives_the_same_bits(xp):
    """For real, forward and back, in both precisions."""
    if xp is np:
        pytest.skip("there are no tiles on a CPU")
    x, w, dy = (xp.asarray(a) for a in drawn((16, 44, 44, 64), (3, 3, 64, 128)))
    for precision in ("tf32", "float32"):
        set_precision(precision)
        results = []
        for number in range(5):
            def choose(*args, number=number, **kwargs):
                found = tiles.candidates(*args, **kwargs)
                return found[min(number, len(found) - 1)]
            with mock.patch.object(tiles, "choose", choose):
                y, rules = convolution.conv2d(x, w)
                results.append([a.get() for a in (y, *(rule(dy) for rule in rules[:2]))])
        assert all(np.array_equal(a, b) for result in results[1:] for a, b in zip(results[0], result))


# python -m npsrgan.bench --device gpu --methods

def test_the_benchmark_prints_every_tile_and_which_is_taken(monkeypatch, capsys):
    """On an emulated GPU whose kernels compute nothing, and by a clock that likes threads."""
    launched = []

    class Event:
        def record(self):
            self.at = len(launched)

        def synchronize(self):
            pass
    cuda = SimpleNamespace(Event=Event, get_elapsed_time=lambda a, b: 1e3 * sum(launched[a.at:b.at]))
    card = SimpleNamespace(description="a stand-in", array=lambda values: values, cuda=cuda)
    closed = []
    for module in (bench_gpu.device, methods):
        monkeypatch.setattr(module, "select", lambda choice: (card, None))
    monkeypatch.setattr(bench_gpu.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=1))
    monkeypatch.setattr(bench, "Process", lambda device, side, options: SimpleNamespace(close=lambda: closed.append((device, side))))
    monkeypatch.setattr(bench, "find_limits", lambda ceilings, process, precision: {"flops": 4e12})
    monkeypatch.setattr(bench, "QUICK", [(32, 3, 64, 128, 1), (32, 3, 3, 64, 2), (16, 3, 64, 3, 1)])

    def kernel(name, *args, **macros):
        return lambda grid, block, args: launched.append(0.256 / block[0] if name in ("convolution", "kernel_gradient") else 0)
    with emulated(multiprocessors=16), mock.patch.object(implicit_gemm.compile, "kernel", kernel):
        bench.main(["--device", "gpu", "--methods", "--quick", "--precision", "tf32"])
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("gpu a stand-in, precision tf32, ") and title.endswith("flops_per_s 4e+12") and closed == [("gpu", "ours")]
    assert [line[:44].split()[-1] for line in lines] == ["forward", "gradient", "gradient"] * 3 and "at 32/2" in lines[3]
    assert all(line.count("*") == 1 and "Tflop/s" in line for line in lines)
    assert " ".join(lines[0][44:].split()) == ("128x128/3 2.000* 128x64/3 2.000 64x64/3 2.000 256x128/3 1.000 128x128/2 2.000 "
                                               "1 Tflop/s 30% of GEMM")
    assert tiles.choose.__module__ == tiles.__name__        # put back
