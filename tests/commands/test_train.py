"""Training: what a run computes, and what it leaves."""
import copy
import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from runs import TINY, TOGETHER, arguments, differences, outcome, status

from npsrgan import losses, ops, storage
from npsrgan.data import Batches, DeadLeaves, ImageFolder, upscale, validation_pairs
from npsrgan.device import CPU
from npsrgan.fast import fusion
from npsrgan.images import to_float
from npsrgan.inference import apply_in_tiles, fold
from npsrgan.layers import Residual, Sequential
from npsrgan.metrics import psnr, ssim
from npsrgan.models import SRResNet
from npsrgan.models.vgg19 import VGG19, random_vgg19
from npsrgan.tape import Tape
from npsrgan.train import __main__ as train
from npsrgan.train import checkpoint, report
from npsrgan.train.settings import parse
from npsrgan.trainer import Trainer

MODES = {"one after the other": {}, "together": TOGETHER}


def trainer_with(photos, **options):
    """A Trainer of tiny networks."""
    settings, *_ = parse(arguments(photos, None, **options))
    return Trainer(settings.validate(), CPU, say=lambda line: None)


def batch(seed=0, n=3, side=8, scale=2):
    """Random patches: (lr, hr)."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-1, 1, (n, side, side, 3)).astype(np.float32),
            rng.uniform(-1, 1, (n, scale * side, scale * side, 3)).astype(np.float32))


def everything(network):
    return {name: array.tobytes() for name, array in network.state_dict().items()}


# ---------------------------------------------------------------- the operations as they are written

def test_a_reference_run_asks_no_twin(tiny, tmp_path, monkeypatch):
    """In training and validation, and again when it is resumed: what is not in ops/ raises here, and what is there is counted."""
    def twin(*args, **kwargs):
        raise AssertionError("a twin ran")
    called, written = [], ops.conv2d.reference

    def reference(*args, **kwargs):
        called.append(None)
        return written(*args, **kwargs)
    for operation in [*(getattr(ops, name) for name in ops.__all__), *vars(fusion).values(),
                      Sequential.forward, Residual.forward, VGG19.stage]:
        if hasattr(operation, "twins"):
            monkeypatch.setattr(operation, "twins", [twin])
    monkeypatch.setattr(ops.conv2d, "reference", reference)
    assert tiny(tmp_path / "run", "--reference", perceptual_weight=0) == 0 and len(called) > 100
    assert tiny(tmp_path / "run", "--resume", "--reference", gan_steps=5) == 0
    with pytest.raises(AssertionError, match="a twin ran"):
        tiny(tmp_path / "other", perceptual_weight=0)


# ---------------------------------------------------------------- what a run leaves

@pytest.mark.parametrize("mode", MODES)
def test_what_a_run_leaves(photos, tmp_path, capsys, mode):
    out = tmp_path / "run"
    assert status(arguments(photos, out, log_every=3, **MODES[mode])) == 0
    said = capsys.readouterr().out
    steps = ["3", "6", "8"] if MODES[mode] else ["3", "4", "6", "8"]        # and the last of SRResNet, and the last

    assert {path.name for path in out.iterdir()} == {
        "srresnet.h5", "srgan.h5", "discriminator.h5", "checkpoint.h5", "checkpoint.previous.h5",
        "loss.png", "result.png", "log.csv", "result.json", "samples"}
    assert [path.name for path in sorted((out / "samples").iterdir())] == [f"step_000000{step}.png" for step in steps]
    for picture in [out / "loss.png", out / "result.png", *(out / "samples").iterdir()]:
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("L"), float)
        assert min(pixels.shape) > 200 and pixels.std() > 10, picture

    result = json.loads((out / "result.json").read_text())
    assert result.keys() == {"bicubic", "srresnet", "srgan", "images", "settings"}
    assert all(result[method].keys() == {"psnr_y", "ssim_y"} for method in ("bicubic", "srresnet", "srgan"))
    assert result["images"] == 1 and result["settings"]["channels"] == 2 and result["settings"]["data"] == str(photos / "train")

    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == steps and tuple(rows[0]) == report.COLUMNS
    filled = {name for name, value in rows[-1].items() if value}
    assert filled == set(report.COLUMNS) - (set() if MODES[mode] else {"srresnet_pixel"})
    assert all(np.isfinite(float(value)) for row in rows for value in row.values() if value)

    health = [line for line in said.splitlines() if line.startswith("step ")]
    assert len(health) == len(steps)
    for words in ("SRGAN: pixel ", "perceptual ", "adversarial ", "discriminator ", "D(HR) ", "D(SR) ", "gradients at SR: ", "cosine ",
                  "PSNR: bicubic ", " images/s"):
        assert words in health[-1]
    assert re.search(r"bicubic +PSNR +\d+\.\d\d dB +SSIM \d\.\d{4}", said) and "SRGAN     PSNR" in said
    assert "a VGG19 with random weights" in said


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_result_is_that_of_the_weights(tiny, photos, tmp_path, mode):
    """Loaded without options, the weights give the numbers in result.json."""
    tiny(tmp_path / "run", val=photos / "train", val_count=2, log_every=8, **mode)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["images"] == 7            # in the end all, not only the two that are measured during training
    pairs = list(validation_pairs(ImageFolder(photos / "train"), 2))
    enlarged = {"bicubic": [upscale(lr, 2) for _, lr, _ in pairs]}
    for name in ("srresnet", "srgan"):
        network = storage.load_network(tmp_path / "run" / f"{name}.h5", SRResNet)
        enlarged[name] = [apply_in_tiles(fold(network), lr, CPU) for _, lr, _ in pairs]
    for method, images in enlarged.items():
        for metric, key in [(psnr, "psnr_y"), (ssim, "ssim_y")]:
            expected = np.mean([metric(image, hr, 2) for image, (_, _, hr) in zip(images, pairs)])
            assert result[method][key] == pytest.approx(expected, rel=1e-12)
    logged = np.mean([psnr(enlarged["srgan"][i], pairs[i][2], 2) for i in (0, 3)])
    assert float(outcome(tmp_path / "run")["log.csv"][-1]["srgan_psnr"]) == pytest.approx(logged, abs=1e-3)
    assert storage.load_network(tmp_path / "run" / "discriminator.h5").settings == {"channels": 2, "image_size": 16, "slope": 0.2}


def test_without_srgan(tiny, tmp_path):
    assert tiny(tmp_path / "run", gan_steps=0) == 0
    assert {path.name for path in (tmp_path / "run").glob("*.h5")} == {"srresnet.h5", "checkpoint.h5", "checkpoint.previous.h5"}
    assert json.loads((tmp_path / "run" / "result.json").read_text()).keys() == {"bicubic", "srresnet", "images", "settings"}


def test_an_image_that_bicubic_restores_exactly_leaves_finite_numbers(tiny, tmp_path):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (48, 48), (90, 120, 200)).save(tmp_path / "val" / "blue.png")
    assert tiny(tmp_path / "run", val=tmp_path / "val", steps=1, gan_steps=0, log_every=1) == 0
    text = (tmp_path / "run" / "result.json").read_text()
    assert "Infinity" not in text and json.loads(text)["bicubic"]["psnr_y"] == 100
    assert outcome(tmp_path / "run")["log.csv"][0]["bicubic_psnr"] == "100"


def test_checkpoints_and_log_lines_come_when_asked(tiny, tmp_path, monkeypatch):
    saved, save = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, trainer: (saved.append(trainer.steps), save(path, trainer)))
    tiny(tmp_path / "run", steps=6, gan_steps=5, save_every=4, log_every=5)
    assert saved == [4, 8, 11]
    saved.clear()
    tiny(tmp_path / "by time", steps=3, gan_steps=0, save_every=0, save_minutes=0)
    tiny(tmp_path / "seldom", steps=3, gan_steps=0, save_every=0)
    assert saved == [1, 2, 3, 3]
    assert [row["step"] for row in outcome(tmp_path / "run")["log.csv"]] == ["5", "6", "10", "11"]


def test_the_final_measurement_stops_at_its_count(tiny, photos, tmp_path):
    tiny(tmp_path / "run", val=photos / "train", val_count=1, final_count=3, steps=1, gan_steps=0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["images"] == 3 and result["settings"]["final_count"] == 3


def test_without_data(tiny, tmp_path, capsys):
    """Dead leaves to learn from, a photograph to measure on."""
    words = [word for name, value in (TINY | {"leaves": 4, "steps": 1, "gan-steps": 1}).items() for word in (f"--{name}", str(value))]
    assert train.main([*words, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["images"] == 1 and 25 < result["bicubic"]["psnr_y"] < 40
    settings, *_ = parse(words)
    leaves, _ = train.sources(settings)
    assert isinstance(leaves, DeadLeaves) and len(leaves) == 4 and min(leaves.load(0).shape[:2]) >= settings.image_size


def test_without_val_some_images_are_kept_for_it(photos, tmp_path, capsys):
    settings, *_ = parse(["--data", str(photos / "train")])
    training, validation = train.sources(settings)
    assert len(validation) == 1 and sorted(training.names + validation.names) == ImageFolder(photos / "train").names
    assert "no --val given: 1 of 7 images, chosen by file name, are kept for validation" in capsys.readouterr().out


def test_a_missing_folder_is_reported_before_networks_are_built(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "Trainer", lambda *args, **kwargs: pytest.fail("a network was built first"))
    assert tiny(tmp_path / "run", data=tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("integer", [0, 1])
def test_a_step_on_integers_is_refused(photos, integer):
    """They would be taken for images in [-1, 1]."""
    trainer, images = trainer_with(photos), list(batch())
    images[integer] = np.uint8(127.5 * (images[integer] + 1))
    with pytest.raises(TypeError, match=r"takes float images in \[-1, 1\], not .*uint8.*images.to_float"):
        trainer.step(*images)
    assert trainer.steps == 0


# ---------------------------------------------------------------- the same again, and not the same

@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_same_seed_gives_the_same_bits(tiny, tmp_path, mode):
    for name in ("a", "b"):
        tiny(tmp_path / name, **mode)
    tiny(tmp_path / "c", seed=1, **mode)
    a, b, c = (outcome(tmp_path / name) for name in "abc")
    assert differences(a, b) == []
    networks = {key: key[1] for key in a if key[0] == "checkpoint.h5" and str(key[1]).endswith("/parameters")}
    assert len(networks) == 3 and all(a[key] != c[key] for key in networks)


def test_another_seed_is_another_order(photos):
    a, b = (Batches(ImageFolder(photos / "train"), 3, 8, 2, seed).batch(0)[0] for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_log_lines_do_not_disturb_training(tiny, tmp_path):
    tiny(tmp_path / "often", log_every=1)
    tiny(tmp_path / "rarely", log_every=8)
    names = differences(outcome(tmp_path / "often"), outcome(tmp_path / "rarely"))
    assert names == ["('checkpoint.h5', 'log_every')", "log.csv", "result.json"]       # which holds log_every too


# ---------------------------------------------------------------- together

def test_together_both_train_on_the_same_batches_from_the_same_weights(tiny, tmp_path):
    """With the pixel loss alone, SRGAN's generator is SRResNet, bit for bit; only its discriminator learns something else."""
    tiny(tmp_path / "run", **TOGETHER, perceptual_weight=0, adversarial_weight=0, learning_rate=2e-4, gan_learning_rate=2e-4)
    arrays, attributes = storage.read(tmp_path / "run" / "checkpoint.h5")
    assert attributes["srresnet_steps"] == attributes["srgan_steps"] == 8
    for name in [name for name in arrays if name.startswith("srresnet/")]:
        assert np.array_equal(arrays[name], arrays[name.replace("srresnet", "srgan")]), name
    for row in outcome(tmp_path / "run")["log.csv"]:
        assert row["srresnet_pixel"] == row["pixel"]


def test_together_shows_both_and_they_differ(tiny, tmp_path):
    tiny(tmp_path / "run", **TOGETHER)
    arrays, _ = storage.read(tmp_path / "run" / "checkpoint.h5")
    assert not np.array_equal(arrays["srresnet/parameters"], arrays["srgan/parameters"])
    first = outcome(tmp_path / "run")["log.csv"][0]
    assert first["srresnet_pixel"] == first["pixel"] and first["srresnet_psnr"] != first["srgan_psnr"]


# ---------------------------------------------------------------- one after the other

def test_srgan_starts_from_the_trained_srresnet(photos):
    trainer = trainer_with(photos, steps=2, gan_steps=2)
    fresh = everything(trainer.networks["srgan"])
    begun = {}
    step = trainer.srgan_step

    def watched(lr, hr, diagnose):
        begun.setdefault("with", everything(trainer.networks["srgan"]))
        return step(lr, hr, diagnose)
    trainer.srgan_step = watched
    for number in range(4):
        trainer.step(*batch(number))
        assert (trainer.srresnet_steps, trainer.srgan_steps) == (min(number + 1, 2), max(number - 1, 0))
    trained = everything(trainer.trained("srresnet"))               # steps 3 and 4 left it alone
    assert begun["with"] == trained
    assert all(fresh[name] != trained[name] for name in trained if name.endswith(("weight", "mean", "variance")))
    assert everything(trainer.networks["srgan"]) != trained


def test_init_gives_both_generators_their_first_weights(photos, tmp_path):
    given = SRResNet(2, 1, 2, seed=9, equal_phases=True)
    storage.save_network(tmp_path / "given.h5", given)
    given.constrain()           # as the trainer does with what it reads: a second time, which still moves last bits
    for options in ({}, TOGETHER):
        trainer = trainer_with(photos, init=tmp_path / "given.h5", **options)
        assert everything(trainer.networks["srresnet"]) == everything(trainer.networks["srgan"]) == everything(given)
        assert all(layer.training for network in trainer.networks.values() for layer in network.layers())       # unlike what was loaded
    trainer = trainer_with(photos, init=tmp_path / "given.h5", steps=0, gan_steps=1, gan_learning_rate=1e-12)
    trainer.step(*batch())
    assert np.allclose(trainer.networks["srgan"].flat, given.flat, atol=1e-8)


def test_what_is_kept_is_the_average_of_the_weights_and_running_statistics(photos):
    trainer = trainer_with(photos, steps=4, gan_steps=3, average=0.3)
    kept = {}
    for number in range(7):
        name, t = ("srresnet", number) if number < 4 else ("srgan", number - 4)
        if t == 0:
            first = trainer.networks["srresnet"] if number == 0 else trainer.trained("srresnet")
            kept = {key: array.astype(float) for key, array in first.state_dict().items()}
        trainer.step(*batch(number))
        decay = min(0.3, (1 + t) / (10 + t))
        for key, array in trainer.networks[name].state_dict().items():
            kept[key] = decay * kept[key] + (1 - decay) * array
        for key, array in trainer.trained(name).state_dict().items():
            assert np.allclose(array, kept[key], rtol=1e-5, atol=1e-7), (number, key)
    assert not trainer.trained("srgan").training and trainer.networks["srgan"].training


def test_only_a_constant_rate_or_an_adversary_needs_an_average(photos):
    assert trainer_with(photos, schedule="cosine").averages.keys() == {"srgan"}
    plain = trainer_with(photos, average=0)
    assert not plain.averages and plain.trained("srgan") is plain.networks["srgan"]


def test_every_step_keeps_the_phases_equal(photos):
    trainer = trainer_with(photos, steps=2, gan_steps=2, average=0)
    flat = np.full((1, 24, 24, 3), 0.3, np.float32)
    for number in range(4):
        trainer.step(*batch(number))
        for network in (trainer.networks["srresnet"], trainer.networks["srgan"]):
            inside = network.eval()(flat).array[:, 20:-20, 20:-20]
            network.train()
            assert np.ptp(inside, axis=(1, 2)).max() < 1e-5


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_norm_keeps_the_statistics_that_srgan_starts_with(photos, frozen):
    trainer = trainer_with(photos, steps=2, gan_steps=2, **{"frozen_batch_norm": True} if frozen else {})
    for number in range(2):
        trainer.step(*batch(number))
    srresnet, discriminator = trainer.trained("srresnet"), trainer.networks["discriminator"]
    before = {key: array.copy() for key, array in discriminator.state().items()}
    lr, hr = batch(2)
    expected = copy.deepcopy(srresnet).train(not frozen)(lr).array
    row = trainer.step(lr, hr)
    assert row["pixel"] == pytest.approx(np.square(expected - hr, dtype=np.float64).mean(), rel=1e-5)
    for key, array in trainer.networks["srgan"].state().items():
        assert np.array_equal(array, srresnet.state()[key]) == frozen
    assert not any(np.array_equal(array, before[key]) for key, array in discriminator.state().items())


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_norm_of_an_srresnet_that_starts_from_weights(photos, tmp_path, frozen):
    """And its absolute error, which is the loss that the trainer reports."""
    start = trainer_with(photos, steps=2)
    for number in range(2):
        start.step(*batch(number))
    storage.save_network(tmp_path / "start.h5", start.trained("srresnet"))
    trainer = trainer_with(photos, steps=2, init=str(tmp_path / "start.h5"), pixel_loss="absolute",
                           **{"frozen_batch_norm": True} if frozen else {})
    network, (lr, hr) = copy.deepcopy(trainer.networks["srresnet"]), batch(2)
    row = trainer.step(lr, hr)
    assert row["srresnet_pixel"] == pytest.approx(np.abs(network.train(not frozen)(lr).array - hr, dtype=np.float64).mean(), rel=1e-5)
    for key, array in trainer.networks["srresnet"].state().items():
        assert np.array_equal(array, start.trained("srresnet").state()[key]) == frozen
    assert not np.array_equal(trainer.networks["srresnet"].flat, network.flat)


def test_the_learning_rates_follow_their_schedules(photos):
    trainer = trainer_with(photos, steps=10, gan_steps=4, learning_rate=1e-2, gan_learning_rate=1e-3, gan_schedule="drop")
    rates = {name: [adam.learning_rate(t) for t in range(4)] for name, adam in trainer.adam.items()}
    assert rates == {"srresnet": [1e-2] * 4, "srgan": [1e-3, 1e-3, 1e-4, 1e-4], "discriminator": [1e-3, 1e-3, 1e-4, 1e-4]}
    together = trainer_with(photos, **TOGETHER, gan_learning_rate=1e-3, gan_schedule="drop").adam["srgan"]
    assert [together.learning_rate(t) for t in (3, 4)] == [1e-3, 1e-4]          # of 8 steps, which count both


# ---------------------------------------------------------------- the step of SRGAN

def test_the_players_gradients_do_not_leak(photos):
    """Each player moves exactly as if the other's loss had never been computed."""
    both, alone = trainer_with(photos), trainer_with(photos)
    s = both.settings
    for number in range(3):
        lr, hr = batch(number)
        both.srgan_step(lr, hr)

        generator, discriminator = alone.networks["srgan"], alone.networks["discriminator"]
        with Tape() as tape:                    # the generator's turn: D judges, and is not asked how to judge better
            sr = generator(lr)
            _, fake = discriminator.both(hr, sr)
            loss = (ops.scale(losses.mean_squared_error(sr, hr), s.pixel_weight)
                    + ops.scale(losses.generator_adversarial(fake), s.adversarial_weight)
                    + ops.scale(losses.mean_squared_error(alone.vgg(sr), alone.vgg(hr).array), s.perceptual_weight))
        gradients = tape.gradient(loss, generator.parameters())
        with Tape() as tape:                    # the discriminator's turn, on a picture that leads back to no generator
            loss = losses.discriminator_adversarial(*discriminator.both(hr, sr.array))
        discriminator_gradients = tape.gradient(loss, discriminator.parameters())
        alone.adam["srgan"].step(gradients)
        generator.constrain()
        alone.adam["discriminator"].step(discriminator_gradients)
        for name in ("srgan", "discriminator"):
            assert both.networks[name].flat.tobytes() == alone.networks[name].flat.tobytes(), (name, number)


@pytest.mark.parametrize("layers", ["conv2_2", "conv2_1:3,conv1_2:0.5"])
def test_the_losses_are_what_they_are_called(photos, layers):
    """The row of the log, by hand, from D's and VGG19's outputs."""
    weights = {"adversarial_weight": 0.3, "perceptual_weight": 0.7, "pixel_weight": 2, "vgg_layer": layers}
    trainer, twin = trainer_with(photos, **weights), trainer_with(photos, **weights)

    def perceptual(image, original):
        if layers == "conv2_2":
            return losses.mean_squared_error(twin.vgg(image), twin.vgg(original).array)
        (shallow, deep), originals = (twin.vgg.before_relu(x, ("conv1_2", "conv2_1")) for x in (image, original))
        terms = [ops.mean(ops.absolute(x - y.array)) for x, y in zip((shallow, deep), originals)]
        return 0.5 * terms[0] + 3.0 * terms[1]

    lr, hr = batch()
    row = trainer.step(lr, hr) and trainer.srgan_step(lr, hr, diagnose=True)

    sr = twin.networks["srgan"](lr).array
    real, fake = (twin.networks["discriminator"](image).array.astype(np.float64) for image in (hr, sr))
    d_hr, d_sr = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
    expected = {"pixel": np.mean((sr - hr.astype(np.float64)) ** 2), "perceptual": float(perceptual(sr, hr)),
                "adversarial": np.mean(-np.log(d_sr)), "discriminator": np.mean([-np.log(d_hr), -np.log(1 - d_sr)]),
                "d_hr": d_hr.mean(), "d_sr": d_sr.mean()}
    gradients = {}
    for part, weight in {"pixel": 2, "perceptual": 0.7, "adversarial": 0.3}.items():
        with Tape() as tape:
            image = ops.scale(sr, 1.0)
            loss = {"pixel": lambda x: losses.mean_squared_error(x, hr),
                    "perceptual": lambda x: perceptual(x, hr),
                    "adversarial": lambda x: losses.generator_adversarial(twin.networks["discriminator"](x))}[part](image)
        gradients[part] = weight * tape.gradient(loss, image).astype(np.float64)
        expected[f"gradient_{part}"] = np.linalg.norm(gradients[part])
    content = gradients["pixel"] + gradients["perceptual"]
    expected["cosine"] = (np.sum(gradients["adversarial"] * content)
                          / np.linalg.norm(gradients["adversarial"]) / np.linalg.norm(content))
    assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("missing", ["pixel", "perceptual", "adversarial"])
def test_a_weight_of_zero_takes_its_loss_away(photos, missing):
    """Nothing of it reaches SR; without its weight VGG19 is not even loaded."""
    weights = {"pixel_weight": 0.5, "perceptual_weight": 0.5, "adversarial_weight": 0.5, f"{missing}_weight": 0}
    trainer = trainer_with(photos, **weights)
    row = trainer.srgan_step(*batch(), diagnose=True)
    if missing == "perceptual":
        assert trainer.vgg is None and "perceptual" not in row
    else:
        assert row[f"gradient_{missing}"] == 0
        assert missing != "adversarial" or row["cosine"] == 0


def test_vgg19_is_frozen_and_obeys_its_options(photos, tmp_path):
    storage.save_network(tmp_path / "vgg.h5", random_vgg19("conv2_1", seed=5, feature_scale=0.5))
    trainer = trainer_with(photos, vgg=tmp_path / "vgg.h5", vgg_layer="conv1_2")
    assert trainer.vgg.settings == {"layer": "conv1_2", "feature_scale": 0.5}
    before = everything(trainer.vgg)
    trainer.srgan_step(*batch())
    assert everything(trainer.vgg) == before
    assert trainer_with(photos, vgg=tmp_path / "vgg.h5", feature_scale=2).vgg.settings["feature_scale"] == 2
    assert trainer_with(photos).vgg.settings["feature_scale"] == 1      # random weights are scaled already
    assert trainer_with(photos, feature_scale=3).vgg.settings["feature_scale"] == 3


def test_srresnet_learns(photos):
    """The same batch again and again: the loss must fall, or the gradient points the wrong way."""
    trainer = trainer_with(photos, steps=60, channels=8, learning_rate=3e-3)
    lr, hr = map(to_float, Batches(ImageFolder(photos / "train"), 3, 8, 2).batch(0))
    values = [trainer.step(lr, hr)["srresnet_pixel"] for _ in range(60)]
    assert values[-1] < 0.2 * values[0]
