"""Tiles leave no seams, and no more of them is in memory than was asked for."""
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from comparisons import DOUBLE, double, rounding
from test_dispatch import GPU
from test_inference import trained

from npsrgan import images, ops
from npsrgan.device import CPU
from npsrgan.inference import fold
from npsrgan.inference import tiles as tiling
from npsrgan.inference.tiles import GIGABYTE, SMALLEST, choose_tile, free_memory, spans, super_resolve_tiles
from npsrgan.models import Assembled, Generator, SRResNet
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor


def generator(channels=16, blocks=1, scale=4, dtype=np.float32):
    """Folded, with every parameter in use, and an output that ranges over 2, as pictures do."""
    network = trained(SRResNet(channels, blocks, scale)).eval()
    noise = np.random.default_rng(3).uniform(-1, 1, (1, 24, 24, 3)).astype(np.float32)
    network.tail.weight.array *= 2 / np.ptp(network(noise).array)
    return fold(network.to(lambda array: array.astype(dtype)))


def limit(network, dtype=np.float32):
    """How far rounding may move a pixel, whose values range over 2: its sums have as many terms as all kernels have taps."""
    return 2 * rounding(sum(p.array.size // p.shape[-1] for p in network.parameters() if len(p.shape) == 4), dtype)


def assemble(network, lr, tile, device=CPU):
    """The parts put together, and how often each pixel was made."""
    scale = network.settings["scale"]
    whole = np.full((scale * lr.shape[0], scale * lr.shape[1], 3), np.nan, network.flat.dtype)
    times = np.zeros(whole.shape[:2], int)
    for top, left, sr in super_resolve_tiles(network, lr, device, tile):
        assert sr.dtype == whole.dtype
        part = np.s_[top:top + sr.shape[0], left:left + sr.shape[1]]
        whole[part] = sr
        times[part] += 1
    return whole, times


# The receptive radius

@pytest.mark.parametrize("blocks, scale", [(16, 4), (1, 4), (2, 2)])
def test_the_radius_is_how_far_a_pixel_sees(blocks, scale):
    network = trained(SRResNet(2, blocks, scale)).to(double).eval()
    radius = network.radius()
    assert radius == fold(network).radius()
    middle, side = radius + 3, 2 * radius + 7
    lr = Tensor(np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)))
    with reference_only(), Tape() as tape:
        pixel = slice(scale * middle, scale * (middle + 1))     # what one pixel becomes
        loss = ops.sum(network(lr)[:, pixel, pixel])
    rows, columns = np.nonzero(np.abs(tape.gradient(loss, lr)[0]).sum(2))
    for seen in (rows, columns):
        assert (seen.min(), seen.max()) == (middle - radius, middle + radius)


def test_the_radius_of_the_papers_network():
    network = SRResNet(2, blocks=16, scale=4)
    assert network.radius() == 40
    assert network.radius(half=True) == 3


# Tiles

@pytest.mark.parametrize("length, size, radius", [(1, 32, 9), (32, 32, 9), (33, 32, 9), (100, 32, 40), (1000, 64, 3)])
def test_spans_cover_everything_once(length, size, radius):
    cut = spans(slice(5, 5 + length), size, radius, length + 7)
    assert [i for span in cut for i in range(length + 7)[span.wanted]] == list(range(5, 5 + length))
    for span in cut:
        assert span.wanted.stop - span.wanted.start <= size
        assert span.given == slice(max(0, span.wanted.start - radius), min(length + 7, span.wanted.stop + radius))
        assert range(length + 7)[span.given][span.inside] == range(length + 7)[span.wanted]


@pytest.mark.parametrize("device, dtype", [(DOUBLE, np.float64), (CPU, np.float32)], ids=["float64", "float32"])
@pytest.mark.parametrize("blocks, scale, size, tile", [
    (1, 4, (9, 5), 32), (1, 4, (33, 20), 32), (1, 4, (70, 50), 32), (1, 4, (64, 32), 32), (1, 4, (150, 20), 128),
    (1, 2, (90, 50), 40), (1, 2, (1, 70), 32), (16, 4, (33, 90), 32)])
def test_tiles_equal_the_whole(blocks, scale, size, tile, device, dtype):
    network = generator(blocks=blocks, scale=scale, dtype=dtype)
    lr = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    whole, times = assemble(network, lr, tile, device)
    expected = network(images.to_float(lr)[None].astype(dtype)).array[0]
    assert (times == 1).all()
    assert 0.2 < np.ptp(expected) < 3
    assert np.abs(whole - expected).max() < limit(network, dtype)


@pytest.mark.parametrize("half", ["the whole network", "its second half"])
def test_any_smaller_overlap_would_leave_seams(half, monkeypatch):
    """So the test above would notice."""
    network = generator(blocks=0)
    whole = half == "the whole network"
    monkeypatch.setattr(SRResNet, "radius", lambda self, half=False: Generator.radius(self, half) - (half != whole))
    lr = np.random.default_rng(1).integers(0, 256, (150, 20, 3), np.uint8)
    tile = 64 if whole else 256
    assert np.abs(assemble(network, lr, tile)[0] - network(images.to_float(lr)[None]).array[0]).max() > limit(network)


def test_grey_and_16_bits_are_what_they_are_in_colour():
    network = generator()
    grey = np.random.default_rng(2).integers(0, 256, (40, 50, 1), np.uint8)
    expected = assemble(network, grey.repeat(3, 2), 32)[0]
    assert np.array_equal(assemble(network, grey, 32)[0], expected)
    assert np.abs(assemble(network, grey.astype(np.uint16) * 257, 32)[0] - expected).max() < limit(network)


def test_the_stand_in_for_a_gpu_computes_the_same():
    network, lr = generator(channels=4), np.random.default_rng(2).integers(0, 256, (40, 35, 3), np.uint8)
    with reference_only():
        expected = list(super_resolve_tiles(network, lr, CPU, 32))
        parts = list(super_resolve_tiles(network.to(GPU.array), lr, GPU, 32))
    assert len(parts) == len(expected) == 4
    for (*place, sr), (*expected_place, expected_sr) in zip(parts, expected):
        assert place == expected_place and isinstance(sr, np.ndarray) and np.array_equal(sr, expected_sr)


# Memory

def test_memory_depends_on_the_tile_and_not_on_the_image():
    network = generator(blocks=1)

    def peak(length):
        lr = np.zeros((32, length, 3), np.uint8)
        tracemalloc.start()
        for _ in super_resolve_tiles(network, lr, CPU, 32):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(96)        # what threads keep between calls
    assert peak(480) < 1.2 * peak(96)


def test_the_tile_grows_with_memory_up_to_a_limit():
    network = SRResNet(64, 16)
    sides = [choose_tile(network, free) for free in (-GIGABYTE, 0, GIGABYTE // 8, GIGABYTE, 2 * GIGABYTE, 2000 * GIGABYTE)]
    assert sides[:2] == [SMALLEST] * 2 and SMALLEST < sides[2] < sides[3] < sides[4] == sides[5]
    assert sides[4] % 32 == 0 and (sides[4] + 2 * 40) ** 2 * 4 * 64 * 4 <= GIGABYTE     # four arrays of 64 channels
    assert choose_tile(SRResNet(16, 16), GIGABYTE) > sides[3]


def test_free_memory_is_what_linux_says_and_what_a_container_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(tiling, "CONTAINER", tmp_path)
    assert free_memory(CPU) == 4 * GIGABYTE
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:   3000 kB\n")
    assert free_memory(CPU) == 3000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 400000\nfile 900000\n")
    assert free_memory(CPU) == 3000 * 1024
    for limit, free in ((1_000_000, 600_000), (10**10, 3000 * 1024)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_memory(CPU) == free


def test_free_memory_of_a_gpu_counts_what_cupy_keeps():
    pool = SimpleNamespace(free_bytes=lambda: 7)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (100, 1000))),
                           get_default_memory_pool=lambda: pool)
    assert free_memory(SimpleNamespace(module=cupy)) == 107


def test_free_memory_ends_at_the_limit_of_the_process():
    resource = pytest.importorskip("resource", reason="limits processes as POSIX does")
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = 1024 * tiling._entry(tiling.Path("/proc/self/status"), "VmSize:")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (size + 10**8, before[1]))
        assert 0 < free_memory(CPU) <= 10**8
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


ASSEMBLED = {
    "an enlargement added": [["affine", 3], ["conv", 3, 4, 3], ["prelu", 4], ["conv", 4, 4, 3], ["leaky", 0.1],
                             ["conv", 4, 4, 3], ["add", 3, 0.1], ["conv", 4, 16, 3], ["shuffle", 2], ["conv", 4, 12, 1],
                             ["shuffle", 2], ["recall", 1],
                             ["enlarge", 4, "bicubic"], ["add", 11, 1], ["squash", "tanh"], ["affine", 3]],
    "nothing but an enlargement": [["affine", 3], ["enlarge", 3, "bicubic"]],
    "resized": [["conv", 3, 4, 5], ["enlarge", 2, "nearest"], ["conv", 4, 4, 3], ["enlarge", 2, "bilinear"], ["conv", 4, 3, 3]],
}


@pytest.mark.parametrize("name", ASSEMBLED)
def test_tiles_equal_the_whole_for_any_steps(name):
    network = Assembled(4 if name != "nothing but an enlargement" else 3, ASSEMBLED[name])
    for number, array in enumerate(network.state_dict().values()):
        array += np.random.default_rng(number).uniform(-0.3, 0.3, array.shape).astype(np.float32)
    lr = np.random.default_rng(1).integers(0, 256, (150, 20, 3), np.uint8)
    whole = network(images.to_float(lr)[None]).array[0]
    assert np.abs(assemble(fold(network), lr, 32)[0] - whole).max() < 1e-5 * max(1, np.abs(whole).max())


def test_steps_that_do_not_fit_are_refused():
    for steps in ([["conv", 4, 4, 3]], [["add", 1, 1]], [["conv", 3, 4, 3], ["add", 0, 1]], [["squeeze", 2]], [["recall", 3]]):
        with pytest.raises(ValueError, match="step"):
            Assembled(2, steps)
