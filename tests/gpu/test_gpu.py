"""On a GPU everything is as on a CPU: values and gradients of operations and networks, a training step, the graph of it, the data.

Every test runs on NumPy too, smaller where that takes long: so a mistake in a test shows on a machine without a GPU.
By hand, with a card:  python -m pytest tests/gpu/test_gpu.py
"""
import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
from comparisons import DOUBLE, OPERATIONS, PAPER_NETWORKS, SMALL_NETWORKS, rounding, wave

from npsrgan import ops
from npsrgan.bench import rows as bench_rows
from npsrgan.data.feed import Feed
from npsrgan.device import CPU, Device, to_numpy
from npsrgan.fast.cuda.upload import Upload
from npsrgan.gradcheck import CASES, check
from npsrgan.images import to_float, to_uint8
from npsrgan.inference import apply_in_tiles, fold
from npsrgan.models import SRResNet
from npsrgan.ops.operation import op, reference_only
from npsrgan.system.errors import on_gpu
from npsrgan.tape import Tape, Tensor
from npsrgan.train import checkpoint
from npsrgan.train.settings import PRESETS, Settings
from npsrgan.trainer import Trainer, numbers

ROUNDING = 2e-4, 2e-3       # how far, in norm, float32 and TF32 may be from the truth


@pytest.fixture
def device(xp):
    return CPU if xp is np else Device(xp, "GPU")


@contextmanager
def precision(xp, name):
    """Convolutions on the GPU in "float32" or "tf32"; on the CPU there is but one."""
    if xp is np:
        yield
        return
    from npsrgan.fast import cuda
    before = cuda.get_precision()
    cuda.set_precision(name)
    try:
        yield
    finally:
        cuda.set_precision(before)


def distance(mine, theirs):
    """Norm of the difference over norm of the truth."""
    mine, theirs = np.asarray(to_numpy(mine), np.float64), np.asarray(to_numpy(theirs), np.float64)
    assert mine.shape == theirs.shape and np.isfinite(mine).all()
    return np.linalg.norm(mine - theirs) / max(np.linalg.norm(theirs), 1e-30)


# ---------------------------------------------------------------- operations

def answers(case, convert):
    """Value, gradients, and options that are arrays, afterwards."""
    tensors = [Tensor(convert(array)) for array in case.inputs()]
    options = {name: convert(value) if hasattr(value, "shape") else value for name, value in case.options.items()}
    with Tape() as tape:
        value = getattr(ops, case.operation)(*tensors, **options)
        loss = ops.sum(value * convert(wave(*value.shape, seed=99)))
    return [value.array, *tape.gradient(loss, tensors), *(option for option in options.values() if hasattr(option, "shape"))]


@pytest.mark.parametrize("case", OPERATIONS, ids=str)
def test_operations(xp, case):
    """In float32, as chosen and as one reads them, against the reference in float64 on NumPy."""
    with reference_only():
        truth = answers(case, lambda array: array.astype(np.float32).astype(np.float64))
        plain = answers(case, lambda array: xp.asarray(array, np.float32))
    with precision(xp, "float32"):
        chosen = answers(case, lambda array: xp.asarray(array, np.float32))
    for results in (plain, chosen):
        for mine, theirs in zip(results, truth, strict=True):
            assert (xp is np or isinstance(mine, xp.ndarray)) and mine.dtype == np.float32
            assert np.abs(to_numpy(mine) - theirs).max(initial=0) <= rounding(324) * max(np.abs(theirs).max(initial=0), 1)  # 9x9 of 4


@pytest.mark.parametrize("shape", bench_rows.CONVOLUTIONS, ids=str)
def test_convolutions_of_the_networks(xp, shape):
    """All three products, in both precisions; the truth is the reference in float64, on the same device."""
    size, k, c, o, stride = shape
    if xp is np:
        size, c, o = size // 11, min(c, 64), min(o, 64)
    x, w, b = (xp.asarray(a) for a in (bench_rows.draw(2, size, size, c), bench_rows.draw(k, k, c, o) / (k * c ** 0.5), bench_rows.draw(o)))
    with reference_only():
        truth, rules = ops.conv2d.reference(*(a.astype(np.float64) for a in (x, w, b)), stride)
        dy = xp.asarray(bench_rows.draw(*truth.shape, seed=1))
        truth = [truth, *(rule(dy.astype(np.float64)) for rule in rules)]
    for name, limit in zip(("float32", "tf32"), ROUNDING):
        with precision(xp, name), Tape() as tape:
            tensors = [Tensor(a.astype(np.float32)) for a in (x, w, b)]
            y = ops.conv2d(*tensors, stride)
            loss = ops.sum(y * dy)
        with precision(xp, name):
            mine = [y.array, *tape.gradient(loss, tensors)]
        assert max(distance(a, b) for a, b in zip(mine, truth, strict=True)) < limit, name


def through(xp, function, options):
    """An operation on NumPy's arrays that computes `function` and its gradients on the device."""
    options = {name: xp.asarray(value) if hasattr(value, "shape") else value for name, value in options.items()}

    @op
    def there_and_back(*arrays):
        tensors = [Tensor(xp.asarray(array)) for array in arrays]

        def rule(k):
            def d(dy):
                with Tape() as tape:
                    loss = ops.sum(function(*tensors, **options) * xp.asarray(dy))
                return to_numpy(tape.gradient(loss, tensors[k]))
            return d
        with Tape():
            value = function(*tensors, **options).array
        assert (xp is np or isinstance(value, xp.ndarray)) and value.dtype == np.float64
        return to_numpy(value), tuple(rule(k) for k in range(len(arrays)))
    return there_and_back


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_in_double_precision(xp, case):
    if xp is np and case.name not in ("add", "prelu", "batch_norm", CASES[-1].name):
        pytest.skip("for cards: test_gradcheck.py checks all of them on NumPy's arrays")
    checks = check(through(xp, case.operation, case.options), *case.inputs, name=case.name, zero=case.zero)
    assert [str(result) for result in checks if not result.passed] == []


# ---------------------------------------------------------------- networks

@pytest.mark.parametrize("case", SMALL_NETWORKS + PAPER_NETWORKS, ids=str)
def test_networks(xp, case):
    """In float32, output, gradients and running statistics: no further from the truth than ten times NumPy's reference in float32."""
    if xp is np and case in PAPER_NETWORKS:
        pytest.skip("for cards: the small ones show on NumPy that the test works")

    def run(convert):
        network = case.build().to(convert)
        image = Tensor(convert(wave(*case.shape)))
        with Tape() as tape:
            value = network(image)
            loss = ops.mean(value * convert(wave(*value.shape, seed=99)))
        gradients = tape.gradient(loss, [image, *network.parameters()])
        named = {f"gradient of {p.name}": g for p, g in zip(network.parameters(), gradients[1:])}
        return {"value": value.array, "gradient of the input": gradients[0]} | network.state() | {
            name: g for name, g in named.items() if name not in case.zero()}

    with reference_only():
        truth, theirs = (run(lambda a, dtype=dtype: a.astype(dtype)) for dtype in (np.float64, np.float32))
    with precision(xp, "float32"):
        mine = run(lambda a: xp.asarray(a, np.float32))
    for name in truth:
        assert distance(mine[name], truth[name]) < 10 * distance(theirs[name], truth[name]) + 1e-5, name


def test_inference(xp, device):
    network = SRResNet(16, 2).eval()
    image = ((wave(9, 13, 3) + 1) * 127.5).astype(np.uint8)
    expected = apply_in_tiles(network, image, CPU).astype(int)
    mine = apply_in_tiles(fold(SRResNet(16, 2).eval().to(xp.asarray)), image, device)
    assert mine.dtype == np.uint8 and np.abs(mine - expected).max() <= 1


# ---------------------------------------------------------------- training

SETTINGS = Settings(steps=8, together=True, patch_size=8, channels=16, blocks=2, discriminator_channels=8, vgg_layer="conv2_2",
                    adversarial_weight=0.1, learning_rate=1e-3, gan_learning_rate=1e-3, schedule="cosine", gan_schedule="cosine")


def batch(step, settings=SETTINGS, count=4):
    return tuple(wave(count, side, side, 3, seed=step).astype(np.float32) for side in (settings.patch_size, settings.image_size))


def trainer_on(device, said=None, **changes):
    settings = dataclasses.replace(SETTINGS, **changes).validate()
    return Trainer(settings, device, say=(said if said is not None else []).append)


STEP_TERMS = 100_000        # a step's sums: layers of at most 576 taps forward and back, the pixels of a batch for a kernel's gradient


def step_error(xp, device, seed):
    """The largest error of one step against the reference in double precision: of losses, gradients and running statistics."""
    mine, exact = trainer_on(device, graph=False), trainer_on(DOUBLE)
    with precision(xp, "float32"):
        row = numbers(mine.step(*batch(seed), diagnose=True))
    with reference_only():
        expected = exact.step(*batch(seed), diagnose=True)
    errors = [abs(row[key] - value) / max(abs(value), 1) for key, value in expected.items()]
    for name, adam in mine.adam.items():
        state = exact.networks[name].state()
        errors += [distance(adam.m, exact.adam[name].m), distance(adam.v, exact.adam[name].v) / 2]      # v holds squares
        errors += [distance(array, state[key]) for key, array in mine.networks[name].state().items()]
    assert row.keys() == expected.keys()
    return max(errors)


def test_a_training_step(xp, device):
    """In double precision every number is the reference's.  In float32 rounding may take a pre-activation across the kink of its ReLU
    and so change a gradient by as much as one unit carries.  That happens on one batch in four; a fault shows on every batch."""
    if xp is np:
        assert step_error(xp, DOUBLE, 0) < rounding(STEP_TERMS, np.float64)
    assert min(step_error(xp, device, seed) for seed in range(4)) < rounding(STEP_TERMS)


@pytest.mark.parametrize("diagnosed", [(), (5,)], ids=["", "with diagnostics"])
def test_the_graph_computes_what_the_plain_loop_does(xp, device, diagnosed):
    """Through a schedule, with a validation between two steps, a shortage of memory, and the batches coming on a second stream."""
    said, outcomes = [], []
    for graph in (True, False):
        trainer = trainer_on(device, said, graph=graph)
        rows = []
        for step, lr, hr in trainer.feed([(step, *map(to_uint8, batch(step))) for step in range(8)]):
            rows.append(numbers(trainer.step(lr, hr, diagnose=step in diagnosed)))
            if step == 3 and device.cuda:
                trainer._run.pool.free_all_blocks()         # as CuPy does where memory runs short: graphs are recorded anew
            if step == 4:
                apply_in_tiles(fold(trainer.networks["srgan"]), np.zeros((20, 20, 3), np.uint8), device)
        outcomes.append((rows, {name: to_numpy(array) for name, array in trainer.arrays().items()}))
        if graph and device.cuda:
            assert len(trainer._run._recorded) == 2, said       # one of SRResNet's step, one of SRGAN's
    assert all("random weights" in line for line in said), said
    (rows, arrays), (plain_rows, plain_arrays) = outcomes
    for step, (row, plain) in enumerate(zip(rows, plain_rows)):
        assert row == pytest.approx(plain, rel=1e-3, abs=1e-5), step
    for name in arrays:
        if name.endswith("parameters") or "running" in name:
            assert distance(arrays[name], plain_arrays[name]) < 1e-3, name


def test_a_checkpoint_goes_from_device_to_device(xp, device, tmp_path):
    mine = trainer_on(device)
    for step in range(4):
        mine.step(*batch(step))
    checkpoint.save(tmp_path / "checkpoint.h5", mine)
    _, *state = checkpoint.load(tmp_path / "checkpoint.h5")
    there, here = trainer_on(device), trainer_on(CPU)
    for trainer in (there, here):
        checkpoint.restore(trainer, *state)
        assert trainer.steps == 4 and all(adam.steps == 4 for adam in trainer.adam.values())
    with precision(xp, "float32"):
        rows = [numbers(trainer.step(*batch(4))) for trainer in (mine, there, here)]
    for row in rows[1:]:
        assert row == pytest.approx(rows[0], rel=rounding(STEP_TERMS))


def test_batches_arrive(device):
    trainer = trainer_on(device)
    given = [(step, *map(to_uint8, batch(step))) for step in range(7)]
    feed = trainer.feed(iter(given))
    assert type(feed) is (Upload if device.cuda else Feed)
    for (step, lr, hr), (arrived, *arrays) in zip(given, feed, strict=True):
        assert arrived == step and np.array_equal(to_numpy(arrays[0]), to_float(lr)) and np.array_equal(to_numpy(arrays[1]), to_float(hr))
    assert 0 <= feed.waited() < 60


def test_too_little_memory(device):
    if not device.cuda:
        pytest.skip("for cards")
    trainer = trainer_on(device)
    trainer._run.pool.set_limit(size=1 << 20)
    with pytest.raises(MemoryError) as caught:
        trainer.step(*batch(0))
    assert on_gpu(caught.value) == " on the GPU"
    caught.value.__traceback__ = None
    trainer._run.pool.set_limit(size=1 << 33)
    assert trainer.largest_batch(*batch(0)) == 2            # half of the four that it is asked for


def test_the_whole_networks_take_a_step(device):
    """Preset `seed`, batch 16, as users train it."""
    if not device.cuda:
        pytest.skip("for cards: seconds there, half a minute on a CPU")
    settings, said = dataclasses.replace(PRESETS["seed"], steps=5), []
    trainer = Trainer(settings.validate(), device, said.append)
    rows = [numbers(trainer.step(*batch(0, settings, 16))) for _ in range(5)]
    assert all(np.isfinite(list(row.values())).all() for row in rows) and len(trainer._run._recorded) == 2, said
    assert rows[-1]["srresnet_pixel"] < rows[0]["srresnet_pixel"]
