"""Settings, presets and the command line made from them."""
import dataclasses
import re

import pytest

from npsrgan.system.errors import UserError
from npsrgan.train.settings import GROUPS, PRESETS, Settings, merge, parse


def test_layers_of_vgg19_and_their_weights():
    assert Settings().vgg_weights == {}
    several = dataclasses.replace(Settings(), vgg_layer="conv5_4:18,conv2_2:0.3")
    assert list(several.vgg_weights.items()) == [("conv2_2", 0.3), ("conv5_4", 18)]
    for wrong in ("conv2_2:x", "conv9_1", "conv1_2:1,conv9_1:2", "conv1_2:-1", "conv1_2,conv2_2:1", ""):
        with pytest.raises(UserError, match="--vgg-layer must be one of conv1_1, "):
            dataclasses.replace(PRESETS["demo"], vgg_layer=wrong).validate()


def test_presets_are_valid_and_demo_is_the_default():
    for name, preset in PRESETS.items():
        assert preset.validate().preset == name
    assert parse([]) == (PRESETS["demo"], False, False, set())


def test_preset_seed_is_the_tutorial_with_its_errors_put_right():
    s = PRESETS["seed"]
    assert (s.channels, s.blocks, s.scale, s.patch_size, s.image_size, s.batch_size) == (64, 16, 4, 44, 176, 16)
    assert s.together and s.gan_steps == 0 and s.total_steps == s.steps
    assert (s.pixel_weight, s.perceptual_weight, s.adversarial_weight) == (1, 1e-2, 1e-2)
    assert s.learning_rate == s.gan_learning_rate == 1e-4 and s.schedule == s.gan_schedule == "constant"
    assert (s.weight_init, s.leaky_slope, s.vgg_layer, s.discriminator_channels) == ("normal", 0.01, "conv5_4", 64)
    assert s.log_every == 100 and s.val_count == 16 and (s.save_minutes, s.save_every, s.final_count) == (10, 0, 500)


def test_preset_paper_is_the_paper():
    s = PRESETS["paper"]
    assert (s.channels, s.blocks, s.scale, s.patch_size, s.image_size, s.batch_size) == (64, 16, 4, 24, 96, 16)
    assert (s.steps, s.gan_steps, s.together) == (1_000_000, 200_000, False)
    assert (s.pixel_weight, s.perceptual_weight, s.adversarial_weight) == (0, 1, 1e-3)
    assert s.learning_rate == s.gan_learning_rate == 1e-4 and (s.schedule, s.gan_schedule) == ("constant", "drop")
    assert (s.weight_init, s.leaky_slope, s.vgg_layer) == ("he", 0.2, "conv5_4")


def test_preset_demo_runs_without_data_vgg19_or_gpu():
    s = PRESETS["demo"]
    assert s.data is s.val is s.vgg is None and s.device == "auto" and s.gan_steps and not s.together


def test_every_setting_can_be_overridden():
    for item in dataclasses.fields(Settings):
        flag, default = "--" + item.name.replace("_", "-"), getattr(PRESETS["seed"], item.name)
        if isinstance(default, bool):
            words, value = [flag.replace("--", "--no-") if default else flag], not default
        elif item.metadata["choices"]:
            value = next((choice for choice in item.metadata["choices"] if choice != default), default)
            words = [flag, str(value)]
        else:
            value = next((v for v in (77, 0.77) if type(v).__name__ in str(item.type)), "/some/where")
            words = [flag, str(value)]
        settings, *_, given = parse((["--preset", "seed"] if item.name != "preset" else []) + words)
        assert getattr(settings, item.name) == value and type(getattr(settings, item.name)) is type(value), item.name
        assert item.name in given
        if item.name != "preset":
            others = dataclasses.replace(settings, **{item.name: default})
            assert others == PRESETS["seed"], item.name


def test_folders_mean_the_same_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    settings, *_ = parse(["--data", "faces", "--vgg", "~/vgg.h5"])
    assert settings.data == str(tmp_path / "faces") and settings.vgg == "/home/me/vgg.h5"


IMPOSSIBLE = {
    "--patch-size 0": "--patch-size must be at least 1 (it is 0)",
    "--patch-size -8": "--patch-size must be at least 1 (it is -8)",
    "--patch-size 6": "--patch-size must give images whose side the discriminator can halve four times: "
                      "4 times it must be divisible by 16 (it is 6)",
    "--patch-size 12 --scale 2": "2 times it must be divisible by 16 (it is 12)",
    "--batch-size 0": "--batch-size must be at least 1 (it is 0)",
    "--channels 0": "--channels must be at least 1 (it is 0)",
    "--blocks -1": "--blocks must be a number, and not negative (it is -1)",
    "--discriminator-channels 0": "--discriminator-channels must be at least 1 (it is 0)",
    "--pixel-weight -1": "--pixel-weight must be a number, and not negative (it is -1.0)",
    "--perceptual-weight nan": "--perceptual-weight must be a number, and not negative (it is nan)",
    "--adversarial-weight inf": "--adversarial-weight must be a number, and not negative (it is inf)",
    "--pixel-weight 0 --perceptual-weight 0 --adversarial-weight 0": "must not all be zero",
    "--feature-scale 0": "--feature-scale must be positive (it is 0.0)",
    "--feature-scale nan": "--feature-scale must be positive (it is nan)",
    "--learning-rate 0": "--learning-rate must lie between 0 and 1 (it is 0.0)",
    "--learning-rate nan": "--learning-rate must lie between 0 and 1 (it is nan)",
    "--gan-learning-rate -0.0001": "--gan-learning-rate must lie between 0 and 1 (it is -0.0001)",
    "--steps 0 --gan-steps 0": "--steps must be at least 1, or there is nothing to do (it is 0)",
    "--steps -1": "--steps must be a number, and not negative (it is -1)",
    "--gan-steps -1": "--gan-steps must be a number, and not negative (it is -1)",
    "--preset seed --steps 0": "--steps must be at least 1",
    "--preset seed --gan-steps 5": "--gan-steps has no meaning where both generators train together: --steps counts both (it is 5)",
    "--val-count 0": "--val-count must be at least 1",
    "--leaves 0": "--leaves must be at least 1",
    "--seed -1": "--seed must be a number, and not negative (it is -1)",
    "--threads -1": "--threads must be a number, and not negative (it is -1)",
    "--log-every 0": "--log-every must be at least 1",
    "--save-every -1": "--save-every must be a number, and not negative",
}


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_impossible_options(words):
    settings, *_ = parse(words.split())
    with pytest.raises(UserError) as caught:
        settings.validate()
    assert IMPOSSIBLE[words] in str(caught.value)


@pytest.mark.parametrize("words", ["--blocks 0", "--steps 0", "--gan-steps 0 --patch-size 7", "--perceptual-weight 0",
                                   "--feature-scale 1e-3", "--preset seed --no-together --gan-steps 5",
                                   "--seed 123456789012345678901234567890"])
def test_unusual_but_possible_options(words):
    settings, *_ = parse(words.split())
    assert settings.validate() is settings


@pytest.mark.parametrize("words", ["--preset best", "--scale 5", "--device tpu", "--schedule weekly",
                                   "--weight-init zeros", "--steps many", "--batch-size 1.5", "--colour red"])
def test_what_is_no_option_at_all(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(words.split())
    assert caught.value.code == 2 and words.split()[0] in capsys.readouterr().err.splitlines()[-1]


def test_merge():
    saved = dataclasses.replace(PRESETS["demo"], channels=8, data="/faces", steps=10)
    assert merge(saved, PRESETS["demo"], set()) == saved        # what the preset says is not what the user asked for
    asked, *_, given = parse("--channels 8 --steps 20 --save-every 7 --log-every 9 --device cpu --gan-steps 3 --out /x".split())
    merged = merge(saved, asked, given)
    assert merged == dataclasses.replace(saved, steps=20, gan_steps=3, save_every=7, log_every=9, device="cpu", out="/x")
    asked, *_, given = parse("--channels 9 --blocks 3 --preset seed --seed 0".split())
    with pytest.raises(UserError) as caught:
        merge(saved, asked, given)
    assert re.fullmatch(r"a resumed run keeps its settings: leave out --blocks 3 \(the checkpoint has \d+\), "
                        r"--channels 9 \(the checkpoint has 8\), "
                        r"--preset seed \(the checkpoint has demo\), or start a new run in another --out", str(caught.value))


def test_nothing_else_can_change():
    saved = PRESETS["demo"]
    refused = set()
    for item in dataclasses.fields(Settings):
        try:
            merge(saved, dataclasses.replace(saved, **{item.name: "something else"}), {item.name})
        except UserError:
            refused.add(item.name)
    assert refused == {item.name for item in dataclasses.fields(Settings)} - {
        "steps", "gan_steps", "batch_size", "save_minutes", "save_every", "log_every", "final_count", "cache", "device", "precision",
        "graph", "reference", "data", "val", "vgg", "out"}


def test_help_tells_every_setting_and_its_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    described = text[text.index(" --preset {demo,seed,paper,photo} all"):]
    for item in dataclasses.fields(Settings):
        flag, values = "--" + item.name.replace("_", "-"), [getattr(preset, item.name) for preset in PRESETS.values()]
        entry = described[[*re.finditer(rf" {flag}(, --no| [A-Z{{])", described)][-1].start():][:700]
        assert item.metadata["help"] in entry
        if item.name != "preset" and item.default is not None:
            defaults = f"(default: {values[0]})" if len(set(values)) == 1 else ", ".join(f"{n}: {v}" for n, v in zip(PRESETS, values))
            assert defaults in entry, flag
    assert " --resume continue from the checkpoint" in text and "%" not in described
    assert sorted(" ".join(GROUPS.values()).split()) == sorted(item.name for item in dataclasses.fields(Settings))
