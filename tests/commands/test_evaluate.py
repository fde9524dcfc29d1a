"""`python -m npsrgan.evaluate`: what it measures, writes, skips and refuses."""
import csv
import json
import os
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_lpips import WEIGHTS, write_random_weights

from npsrgan import images, storage
from npsrgan.data import bicubic, degrade
from npsrgan.device import CPU
from npsrgan.evaluate import __main__ as evaluate
from npsrgan.evaluate import report
from npsrgan.evaluate.benchmark import Benchmark
from npsrgan.evaluate.lpips import LPIPS
from npsrgan.inference import apply_in_tiles, blend, fold
from npsrgan.metrics import luma, mesh, psnr, smooth_pixels, ssim
from npsrgan.models import SRResNet
from npsrgan.system.errors import UserError

BENCHMARKS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"


def photograph(index, height=54, width=66):
    """Soft waves and hard edges."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (5 + index) + y / 9), np.cos(x * y / 200 + index), np.sign(np.sin(x / 6) * np.sin(y / 7))], axis=2)
    return np.clip(np.rint(128 + 80 * waves), 0, 255).astype(np.uint8)


def smooth(height, width):
    """A slope in three colours."""
    return np.rint(np.stack([np.add.outer(np.arange(height) / a, np.arange(width) / b) + 90 for a, b in ((2, 5), (4, 3), (3, 3))],
                            axis=2)).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three folders of images, two generators of one architecture, one of scale 2, and weights of LPIPS."""
    root = tmp_path_factory.mktemp("evaluate")
    for index in range(2):
        images.write(root / "photos" / "in" / f"{index}.png", photograph(index))
        hr = degrade.crop_to_multiple(photograph(index), 4)
        images.write(root / "paired" / "HR" / f"{index}.png", hr)
        images.write(root / "paired" / "LRx4" / f"{index}.png", degrade.downscale(hr, 4) // 2)       # darker: surely not made from HR
    images.write(root / "more" / "photos" / "9.png", photograph(9))
    images.write(root / "smooth" / "a.png", smooth(72, 76))
    images.write(root / "smooth" / "rough.png", photograph(3, 72, 76))
    for name, seed, scale in (("a", 0, 4), ("b", 1, 4), ("twice", 2, 2)):
        generator = SRResNet(4, 1, scale, seed)
        generator.tail.bias.array += 0.1 * seed
        storage.save_network(root / f"{name}.h5", generator)
    write_random_weights(root / "lpips.npz")
    return root


@pytest.fixture
def run(made, capsys):
    """run(folder, ..., option=value, ...): exit status, stdout and stderr.  Without `weights`, none."""
    def run(*folders, **options):
        words = [str(made / folder) for folder in folders] + ["--device", "cpu", "--weights", *map(str, options.pop("weights", []))]
        for name, value in options.items():
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        try:
            code = evaluate.main(words)
        except SystemExit as end:
            code = end.code
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())
    return run


def numbers(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_everything(made, run, tmp_path, monkeypatch):
    """Two folders of one name, every output; and every number of one image, recomputed."""
    monkeypatch.setattr(evaluate, "BLENDS", 3)
    paths = {"json": tmp_path / "new" / "r.json", "csv": tmp_path / "r.csv", "figure": tmp_path / "f.png", "curve": tmp_path / "c.png"}
    done = run("photos", "more/photos", weights=[made / "a.h5", made / "b.h5"], lpips=made / "lpips.npz", **paths)
    assert done.code == 0 and "LPIPS was not measured" not in done.out
    assert "photos: 2 images, x4, LR by --degrade matlab" in done.out and "photos-2: 1 image, x4" in done.out
    assert {path.name for path in tmp_path.rglob("*.*")} == {"r.json", "r.csv", "f.png", "c.png", "c.json"}
    for name in ("f.png", "c.png"):
        assert images.read(tmp_path / name).std() > 10

    result = numbers(paths["json"])
    assert list(result) == ["photos", "photos-2"]
    methods = ["nearest", "bicubic", "lanczos", "a", "b", "a + noise"]
    assert list(result["photos"]) == [*methods, "original"]
    with open(paths["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (2 + 1) * 7
    for metric in ("psnr_y", "ssim_y", "psnr_rgb", "lpips", "lpips_reduced", "lr_psnr"):
        for method in methods:
            values = [float(row[metric]) for row in rows if (row["folder"], row["method"]) == ("photos", method)]
            assert len(values) == 2 and result["photos"][method][metric] == pytest.approx(np.mean(values), rel=1e-12)

    hr = photograph(9)[:52, :64]
    lr = bicubic.downscale(hr, 4)
    enlarged = {"nearest": np.kron(lr, np.ones((4, 4, 1), np.uint8)), "bicubic": bicubic.upscale(lr, 4),
                "lanczos": np.asarray(Image.fromarray(lr).resize((64, 52), Image.Resampling.LANCZOS)),
                "a": apply_in_tiles(fold(storage.load_network(made / "a.h5")), lr, CPU),
                "b": apply_in_tiles(fold(storage.load_network(made / "b.h5")), lr, CPU)}
    enlarged["a + noise"] = evaluate.add_noise(enlarged["a"], 2, "9.png")
    lpips = LPIPS(made / "lpips.npz")
    for method, sr in enlarged.items():
        row = result["photos-2"][method]
        assert row["images"] == 1 and set(row["interval"].values()) == {None}
        expected = {"psnr_y": psnr(sr, hr, 4), "ssim_y": ssim(sr, hr, 4), "psnr_rgb": psnr(sr, hr, 4, "rgb"), "lpips": lpips(sr, hr),
                    "lpips_reduced": lpips(*(bicubic.resize(image, Fraction(3, 4)) for image in (sr, hr))),
                    "lr_psnr": psnr(bicubic.downscale(sr, 4), lr, 0, "rgb")}
        assert row["mesh"] is None          # of an image that is nowhere smooth
        assert {metric: row[metric] for metric in expected} == pytest.approx(expected, rel=1e-6)

    curves = numbers(tmp_path / "c.json")
    assert list(curves) == ["photos", "photos-2"]
    points = curves["photos-2"]["curve"]
    assert [point["blend"] for point in points] == [0, 0.5, 1]
    middle = apply_in_tiles(fold(blend(*(storage.load_network(made / f"{name}.h5") for name in "ab"), 0.5)), lr, CPU)
    for point, sr in zip(points, (enlarged["a"], middle, enlarged["b"])):
        assert (point["psnr_y"], point["lpips"]) == pytest.approx((psnr(sr, hr, 4), lpips(sr, hr)), rel=1e-6) and point["mesh"] is None
    for row in ("bicubic", "a + noise"):
        assert curves["photos"][row].items() <= result["photos"][row].items() and "lpips_reduced" in curves["photos"][row]


def test_the_mesh_of_images_that_are_smooth_somewhere(made, run, tmp_path, monkeypatch):
    """Of the original's smooth windows, whatever the method makes of them; "-" and nothing in the mean for the image without any."""
    monkeypatch.setattr(evaluate, "BLENDS", 2)
    paths = {"json": tmp_path / "r.json", "csv": tmp_path / "r.csv", "curve": tmp_path / "c.png", "figure": tmp_path / "f.png"}
    done = run("smooth", weights=[made / "a.h5", made / "b.h5"], blend=[0.25], lpips=made / "lpips.npz", **paths)
    assert done.code == 0 and "(mesh: measured on 1 of 2 images; the others have no smooth areas)" in done.out
    result, (curve,) = numbers(paths["json"])["smooth"], numbers(tmp_path / "c.json").values()
    with open(paths["csv"], newline="") as file:
        rows = {(row["image"], row["method"]): row for row in csv.DictReader(file)}

    hr = smooth(72, 76)
    lr, where = bicubic.downscale(hr, 4), smooth_pixels(hr)
    a, b = (storage.load_network(made / f"{name}.h5") for name in "ab")
    for method, sr in {"nearest": lr.repeat(4, 0).repeat(4, 1), "a": apply_in_tiles(fold(a), lr, CPU), "original": hr,
                       "blend 0.25": apply_in_tiles(fold(blend(a, b, 0.25)), lr, CPU)}.items():
        expected = pytest.approx(mesh(sr, where, 4), rel=1e-6)
        assert result[method]["mesh"] == expected and float(rows["a.png", method]["mesh"]) == expected
        assert rows["rough.png", method]["mesh"] == "-"
    assert result["nearest"]["mesh"] > 0.2 and result["nearest"]["images"] == 2 and result["original"]["images"] == 1
    assert result["nearest"]["minus_bicubic"]["mean"]["mesh"] == pytest.approx(result["nearest"]["mesh"] - result["bicubic"]["mesh"])
    assert [point["mesh"] for point in curve["curve"]] == pytest.approx([result[name]["mesh"] for name in "ab"])
    assert curve["original"] == {"mesh": result["original"]["mesh"]}


def test_the_trivial_rival(made, run, tmp_path):
    """White grey noise on the first network's result; as much as asked for, or none."""
    found = {}
    for name, options in {"default": {}, "three": {"noise": [3]}, "both": {"noise": [2, 3.5]}, "none": {"noise": [0]}}.items():
        assert run("more/photos", weights=[made / "a.h5", made / "b.h5"], json=tmp_path / "r.json", **options).code == 0
        (found[name],) = numbers(tmp_path / "r.json").values()
    assert [[row for row in rows if "noise" in row] for rows in found.values()] == [
        ["a + noise"], ["a + noise"], ["a + noise 2", "a + noise 3.5"], []]
    assert found["both"]["a + noise 2"] == found["default"]["a + noise"] != found["three"]["a + noise"]
    hr = photograph(9)[:52, :64]
    sr = apply_in_tiles(fold(storage.load_network(made / "a.h5")), bicubic.downscale(hr, 4), CPU)
    assert found["three"]["a + noise"]["psnr_y"] == psnr(evaluate.add_noise(sr, 3, "9.png"), hr, 4)
    done = run("more/photos", json=tmp_path / "r.json")
    assert "noise" not in done.out and list(*numbers(tmp_path / "r.json").values()) == ["nearest", "bicubic", "lanczos", "original"]


def test_the_best_row_of_noise_is_named():
    scores = {"a.png": {"bicubic": {"lpips": 0.5, "lpips_reduced": 0.4}, "n 1": {"lpips": 0.2, "lpips_reduced": 0.1},
                        "n 2": {"lpips": 0.15, "lpips_reduced": 0.3}, "original": {"mesh": None}}}
    benchmark = SimpleNamespace(name="x", scale=4, source="x", grey=set())
    text = report.table(benchmark, report.summarise(scores), {"n 1": ("n", 1), "n 2": ("n", 2)})
    assert "in LPIPS: n 2, 0.1500)" in text and "in LPIPS 3/4: n 1, 0.1000)" in text
    assert "best row" not in report.table(benchmark, report.summarise(scores), {"n 1": ("n", 1)})


def test_noise_is_white_grey_and_decided_by_the_name():
    grey = np.full((200, 300, 3), 120, np.uint8)
    noise = evaluate.add_noise(grey, 3, "a.png").astype(float) - 120
    assert (noise == noise[..., :1]).all() and noise.std() == pytest.approx((9 + 1 / 12)**0.5, rel=0.01) and abs(noise.mean()) < 0.05
    spectrum = np.abs(np.fft.fft2(noise[..., 0]))**2 / noise[..., 0].size
    assert all(part.mean() == pytest.approx(9, rel=0.1) for part in (spectrum[:50, :75], spectrum[50:150, 75:225]))
    assert np.array_equal(evaluate.add_noise(grey, 3, "a.png") - 120.0, noise)
    assert not np.array_equal(evaluate.add_noise(grey, 3, "b.png") - 120.0, noise)
    assert evaluate.add_noise(grey + np.uint8(134), 50, "a.png").max() == 255 and evaluate.add_noise(grey // 60, 50, "a.png").min() == 0


def test_grey_files_are_measured_on_their_own_levels(run, tmp_path):
    """Files of one channel, as papers do; a colour file that happens to be grey is a colour file."""
    for name in ("grey", "rgb"):
        image = Image.fromarray(photograph(1)).convert("L")
        (tmp_path / name).mkdir()
        image.convert({"grey": "L", "rgb": "RGB"}[name]).save(tmp_path / name / "a.png")
    done = run(tmp_path / "grey", tmp_path / "rgb", json=tmp_path / "r.json")
    grey, rgb = numbers(tmp_path / "r.json").values()
    assert "(grey files, measured on their own levels as in papers: 1 of 1)" in done.out.split("rgb: 1 image")[0]
    assert "grey files" not in done.out.split("rgb: 1 image")[1]
    hr = images.read(tmp_path / "rgb" / "a.png")[:52, :64]
    sr = bicubic.upscale(bicubic.downscale(hr, 4), 4)
    assert grey["bicubic"]["psnr_y"] == pytest.approx(psnr(sr, hr, 4, "rgb"), rel=1e-9) and rgb["bicubic"]["psnr_y"] == psnr(sr, hr, 4)
    assert grey["bicubic"]["ssim_y"] == pytest.approx(ssim(sr, hr, 4, "rgb"), rel=1e-9)


def test_crops_are_kept_only_for_the_figure_and_only_so_many(run, made, monkeypatch):
    """Each holds some 0.3 MB: those of ten thousand images would fill the memory."""
    benchmark = Benchmark("photos", made / "photos", 4, "matlab", None)
    methods = evaluate.classical(bicubic, 4)
    assert evaluate.measure(benchmark, benchmark.names, methods, {})[1] == []
    (best,), both = (evaluate.measure(benchmark, benchmark.names, methods, {}, keep=keep)[1] for keep in (1, 6))
    assert len(both) == 2 and best.difference == max(crop.difference for crop in both)
    monkeypatch.setattr(report, "telling_crop", lambda *args: pytest.fail("a crop that nobody asked for"))
    assert run("photos").code == 0


def test_low_resolution_comes_from_the_folder_beside_or_from_the_chosen_bicubic(made, run, tmp_path):
    found = {}
    for name, folder, options in (("beside", "paired", {}), ("matlab", "paired/HR", {}), ("pil", "paired/HR", {"degrade": "pil"}),
                                  ("photo", "paired", {"degrade": "photo"}), ("other scale", "paired", {"weights": [made / "twice.h5"]})):
        done = run(folder, json=tmp_path / "r.json", **options)
        (result,) = numbers(tmp_path / "r.json").values()
        found[name] = result["bicubic"]["psnr_y"]
        assert done.code == 0 and "LPIPS was not measured: give its weights with --lpips" in done.out and "lpips" not in result["bicubic"]
        assert ("LR from " in done.out) == (name == "beside")

    def expected(lr, resizer, scale=4):
        hrs = [degrade.crop_to_multiple(photograph(index), 4) for index in range(2)]
        return pytest.approx(np.mean([psnr(resizer.upscale(lr(hr), scale), hr, scale) for hr in hrs]))
    assert found["beside"] == expected(lambda hr: degrade.downscale(hr, 4) // 2, bicubic)
    assert found["matlab"] == expected(lambda hr: bicubic.downscale(hr, 4), bicubic)
    assert found["pil"] == expected(lambda hr: degrade.downscale(hr, 4), degrade)
    assert found["other scale"] == expected(lambda hr: bicubic.downscale(hr, 2), bicubic, 2)
    names = iter(sorted(path.name for path in (made / "paired" / "HR").iterdir()))
    assert found["photo"] == expected(lambda hr: degrade.photo(hr, 4, degrade.seeded_by(next(names))), degrade)
    assert len(set(found.values())) == 5


def test_what_cannot_be_measured_is_named_and_skipped(run, tmp_path):
    for index in range(4):
        images.write(tmp_path / "set" / "HR" / f"{index}.png", photograph(index, 40, 44))
        images.write(tmp_path / "set" / "LRx4" / f"{index}.png", photograph(index, 10, 11))
    (tmp_path / "set" / "HR" / "broken.png").write_bytes(b"no image")
    (tmp_path / "set" / "LRx4" / "1.png").unlink()
    images.write(tmp_path / "set" / "LRx4" / "2.png", photograph(2, 10, 12))
    images.write(tmp_path / "set" / "HR" / "3.png", photograph(3, 40, 18))
    done = run(tmp_path / "set", json=tmp_path / "r.json", csv=tmp_path / "r.csv")
    assert done.code == 2 and "4 of 5 images could not be measured and were skipped" in done.out
    skipped = [line for line in done.err.splitlines() if line.startswith("skipped: ")]
    for line, (name, words) in zip(skipped, [("LRx4/1.png", "no such file"), ("LRx4/2.png", "12x10 pixels, but its original needs 11x10"),
                                             ("HR/3.png", "16x40 pixels.* but 19 on"), ("HR/broken.png", "not an image")], strict=True):
        assert re.search(f"{name}.*{words}", line)
    assert numbers(tmp_path / "r.json")["set"]["bicubic"]["images"] == 1
    assert {line.split(",")[1] for line in (tmp_path / "r.csv").read_text().splitlines()} == {"image", "0.png"}


def test_a_folder_of_nothing_usable_leaves_the_others(made, run, tmp_path):
    images.write(tmp_path / "small" / "a.png", photograph(0, 28, 40))
    everything = {"json": tmp_path / "r.json", "csv": tmp_path / "r.csv", "figure": tmp_path / "f.png", "lpips": made / "lpips.npz"}
    done = run(tmp_path / "small", **everything)
    assert done.code == 2 and "small: none of its images could be measured" in done.out and "but 41 on each side are needed" in done.err
    assert not list(tmp_path.glob("*.*"))
    done = run(tmp_path / "small", "more/photos", json=tmp_path / "r.json")
    assert done.code == 0 and list(numbers(tmp_path / "r.json")) == ["small", "photos"]


def test_an_exact_copy_is_a_number(run, tmp_path):
    """Infinite decibels are no JSON, and would make a mean of whatever else there is."""
    images.write(tmp_path / "flat" / "a.png", np.full((32, 32, 3), 90, np.uint8))
    images.write(tmp_path / "flat" / "b.png", photograph(0))
    assert run(tmp_path / "flat", json=tmp_path / "r.json").code == 0
    row = numbers(tmp_path / "r.json")["flat"]["nearest"]
    hr = photograph(0)[:52, :64]
    assert row["psnr_y"] == pytest.approx((100 + psnr(bicubic.downscale(hr, 4).repeat(4, 0).repeat(4, 1), hr)) / 2)


def test_an_interrupted_run_keeps_the_folders_it_has_measured(made, run, tmp_path, monkeypatch):
    load = Benchmark.load

    def interrupted(self, name):
        if self.name == "paired":
            raise KeyboardInterrupt
        return load(self, name)
    monkeypatch.setattr(Benchmark, "load", interrupted)
    assert run("photos", "paired", json=tmp_path / "r.json", csv=tmp_path / "r.csv").code == 130
    assert list(numbers(tmp_path / "r.json")) == ["photos"] and (tmp_path / "r.csv").exists()


BAD = {
    "no such folder": (["nowhere"], {}, "nowhere: no such folder"),
    "no image": (["empty"], {}, "holds no image"),
    "weights: none": (["photos"], {"weights": ["none.h5"]}, "there are no weights none.h5"),
    "weights: no weights": (["photos"], {"weights": ["lpips.npz"]}, "lpips.npz is not a weights file but an archive of NumPy arrays"),
    "weights: two scales": (["photos"], {"weights": ["a.h5", "twice.h5"]}, "measure them separately: a x4, twice x2"),
    "lpips: none": (["photos"], {"lpips": "none.npz"}, "there is no LPIPS file none.npz"),
    "lpips: no weights": (["photos"], {"lpips": "a.h5"}, "a.h5 is damaged or not an .npz file"),
    "curve without LPIPS": (["photos"], {"weights": ["a.h5", "b.h5"], "curve": "c.png"}, "give --lpips FILE too"),
    "curve of one": (["photos"], {"weights": ["a.h5"], "curve": "c.png", "lpips": "lpips.npz"}, "--curve and --blend mix two networks"),
    "figure: suffix": (["photos"], {"figure": "f.txt"}, r"f.txt: this suffix cannot be written: end the name in one of \.png"),
    "a folder in the way": (["photos"], {"json": "photos"}, "photos is a folder: give the path of a file"),
    "one file for two": (["photos"], {"json": "x", "csv": "x"}, "must be different files"),
    "the curve's numbers in the way": (["photos"], {"weights": ["a.h5", "b.h5"], "curve": "c.png", "lpips": "lpips.npz",
                                                    "json": "c.json"}, "must be different files"),
    "blend of one": (["photos"], {"weights": ["a.h5"], "blend": 0.5}, "--curve and --blend mix two networks"),
    "blend outside": (["photos"], {"weights": ["a.h5", "b.h5"], "blend": 1.5}, "between 0 and 1, not 1.5"),
    "noise: negative": (["photos"], {"noise": [2, -1]}, "--noise takes standard deviations from 0 to 255"),
    "noise: nan": (["photos"], {"noise": "nan"}, "--noise takes standard deviations from 0 to 255"),
}


@pytest.mark.parametrize("words, sentence", [("--threads -1", "argument --threads: must be at least 0"),
                                             ("--threads x", "argument --threads: invalid number value: 'x'")])
def test_numbers_of_threads_that_do_not_exist(capsys, words, sentence):
    with pytest.raises(SystemExit) as end:
        evaluate.parse(["photos", *words.split()])
    assert end.value.code == 2 and capsys.readouterr().err.endswith(f"error: {sentence}\n")


@pytest.mark.parametrize("case", BAD)
def test_refused_before_anything_is_measured(made, run, monkeypatch, case):
    folders, options, sentence = BAD[case]
    monkeypatch.chdir(made)
    (made / "empty").mkdir(exist_ok=True)
    monkeypatch.setattr(evaluate, "measure", lambda *args: pytest.fail("it measures"))
    before = sorted(os.listdir(made))
    done = run(*folders, **options)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and re.search(f"^error: .*{sentence}", done.err)
    assert sorted(os.listdir(made)) == before


def test_large_images_go_through_a_network_in_tiles(made, monkeypatch):
    monkeypatch.setattr(apply_in_tiles, "__defaults__", (40,))       # the side of a tile where nobody chose
    generator, lr = storage.load_network(made / "a.h5"), photograph(0, 70, 97)
    whole, tiled = images.to_uint8(fold(generator)(images.to_float(lr)[None]).array[0]), evaluate.network(generator, CPU)(lr)
    assert tiled.shape == whole.shape and np.abs(tiled.astype(int) - whole).max() <= 1


def test_names_are_made_unique():
    assert evaluate.unique(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-2", "a-2-2", "a-3"]


def test_weights_may_be_called_like_another_row(made, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "bicubic.h5").write_bytes((made / "a.h5").read_bytes())
    (tmp_path / "original.h5").write_bytes((made / "a.h5").read_bytes())
    names = evaluate.load([tmp_path / "x" / "bicubic.h5", tmp_path / "y" / "bicubic.h5", tmp_path / "original.h5"])
    assert list(names) == ["bicubic-2", "bicubic-3", "original-2"]


# What is made of the measurements

def scored(**columns):
    """Scores in PSNR only, from the column of each method; and the originals', which are smooth nowhere."""
    return {f"{i}.png": {method: {"psnr_y": value} for method, value in zip(columns, row)} | {"original": {"mesh": None}}
            for i, row in enumerate(zip(*columns.values()))}


def test_intervals_are_those_of_the_bootstrap():
    """For many images and a normal distribution: the mean, and 1.96 standard errors to both sides."""
    values = np.random.default_rng(0).normal(30, 2, 400)
    low, high = report.interval(values)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.08 * error)
    assert report.interval(values) == (low, high)


def test_intervals_of_differences_are_paired():
    """Images differ by many decibels, the methods always by the same one: sure, though their intervals overlap."""
    bicubic = [20.0, 25, 30, 35, 28, 22]
    summary = report.summarise(scored(bicubic=bicubic, better=[value + 1 for value in bicubic], as_good=[20.5, 24.5, 30.5, 34.5, 28, 22]))
    assert summary["better"]["interval"]["psnr_y"][0] < summary["bicubic"]["interval"]["psnr_y"][1]
    assert summary["better"]["minus_bicubic"] == {"mean": {"psnr_y": 1}, "interval": {"psnr_y": (1, 1)}}
    low, high = summary["as_good"]["minus_bicubic"]["interval"]["psnr_y"]
    assert low < 0 < high and "minus_bicubic" not in summary["bicubic"]


def test_a_table_says_what_is_certain_and_what_the_paper_has():
    bicubic = [20.0, 25, 30, 35, 28, 22]
    summary = report.summarise(scored(bicubic=bicubic, srresnet=[value + 1.5 for value in bicubic], noise=[20.5, 24, 30.5, 34.5, 28, 22]))

    def benchmark(name, scale, source):
        return SimpleNamespace(name=name, scale=scale, source=source, grey=set())

    text = report.table(benchmark("Set5", 4, "LR from x"), summary, {"noise": ("srresnet", 2.5)})
    assert "\n(noise: white noise of 2.5 grey levels on top of srresnet, " in text
    assert re.search(r"^Set5: 6 images, x4, LR from x\n +PSNR-Y\n", text)
    assert re.search(r"\nsrresnet +28\.17\n +\d\d\.\d\d \.\. \d\d\.\d\d\n", text)
    assert re.search(r"\npaper: SRResNet +32\.05 +0\.9019\n", text)
    assert re.search(r"\nsrresnet +\+1\.50 \*\n +\+1\.50 \.\. \+1\.50", text)
    assert re.search(r"\nnoise +-0\.08\n +-0\.\d\d \.\. \+0\.\d\d", text)
    assert "paper" not in report.table(benchmark("Set5", 2, "x"), summary, {})
    assert "paper" not in report.table(benchmark("Set6", 4, "x"), summary, {})
    one = report.table(benchmark("a", 4, "x"), report.summarise(scored(bicubic=[20.0], srresnet=[21.0])), {})
    assert "1 image," in one and ".." not in one and "*" not in one


def test_the_crop_is_where_methods_differ():
    grey = np.full((200, 240, 3), 100, np.uint8)
    nearest, other = grey.copy(), grey.copy()
    nearest[:50, :50] = 255             # which is not asked
    other[120:190, 30:80] += np.uint8(40)
    other[10, 200] = 255                # a single pixel is no region
    row = {"psnr_y": 30.0}
    results = {"nearest": nearest, "bicubic": grey, "net": other}
    crop = report.telling_crop("a.png", results, grey, dict.fromkeys(results, row), 4)
    assert [title for title, _, _ in crop.panels] == ["LR", "bicubic", "net", "original"]
    shown = crop.panels[2][1]
    assert shown.shape == (96, 96, 3) and (shown[..., 0] == 140).sum() == 70 * 50

    first, second = np.random.default_rng(0).integers(0, 256, (2, 40, 51, 3), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view((luma(first) - luma(second))**2, (24, 24))
    top, left = np.unravel_index(windows.sum((2, 3)).argmax(), windows.shape[:2])
    crop = report.telling_crop("a.png", {"bicubic": first, "net": second}, first, {"bicubic": row, "net": row}, 1)
    assert np.array_equal(crop.panels[0][1], first[top:top + 24, left:left + 24])

    small = report.telling_crop("a.png", {"bicubic": grey[:20, :30], "net": other[:20, :30]}, grey[:20, :30],
                                {"bicubic": row | {"lpips": 0.1234, "mesh": 0.256}, "net": row | {"mesh": None}}, 4)
    assert small.panels[0][1].shape == (20, 20, 3)
    assert [caption for _, _, caption in small.panels] == ["30.00 dB, LPIPS 0.123, mesh 0.26", "30.00 dB", "a.png"]


# Which images belong together

def write_layout(root, files):
    """Files below `root`: originals of 40 x 40 pixels, and small images, of sides and grey levels given."""
    for name, (side, level) in files.items():
        images.write(root / name, np.full((side, side, 3), level, np.uint8))
    return root


ORIGINAL, SMALL, DECOY = (40, 100), (10, 77), (10, 5)
LAYOUTS = {         # (files, names of the originals among them)
    "plain": ({"a/0.png": ORIGINAL, "b/0.png": ORIGINAL}, ["a/0.png", "b/0.png"]),
    "ours": ({"HR/0.png": ORIGINAL, "LRx4/0.png": SMALL, "LRx2/0.png": DECOY}, ["0.png"]),
    "DIV2K's names in ours": ({"HR/in/0001.png": ORIGINAL, "LRx4/in/0001x4.png": SMALL}, ["in/0001.png"]),
    "HR and LR": ({"HR/0.png": ORIGINAL, "LR/0.png": SMALL}, ["0.png"]),
    "no small images of this scale": ({"HR/0.png": ORIGINAL, "LRx2/0.png": DECOY}, ["0.png"]),
    "EDSR": ({"HR/baby.png": ORIGINAL, "LR_bicubic/X4/babyx4.png": SMALL, "LR_bicubic/X2/babyx2.png": DECOY}, ["baby.png"]),
    "BasicSR": ({"GTmod12/baby.png": ORIGINAL, "original/baby.png": (41, 9), "LRbicx4/baby.png": SMALL, "LRbicx3/baby.png": DECOY},
                ["baby.png"]),
    "DIV2K": ({"DIV2K_valid_HR/0801.png": ORIGINAL, "DIV2K_valid_LR_bicubic/X4/0801x4.png": SMALL,
               "DIV2K_valid_LR_bicubic/X2/0801x2.png": DECOY}, ["0801.png"]),
    "SelfExSR": ({"image_SRF_4/img_001_SRF_4_HR.png": ORIGINAL, "image_SRF_4/img_001_SRF_4_LR.png": SMALL,
                  "image_SRF_4/img_001_SRF_4_bicubic.png": (40, 9), "image_SRF_2/img_001_SRF_2_HR.png": (40, 9),
                  "image_SRF_2/img_001_SRF_2_LR.png": DECOY}, ["image_SRF_4/img_001_SRF_4_HR.png"]),
    "pairs of files": ({"a_HR.png": ORIGINAL, "a_LR.png": SMALL}, ["a_HR.png"]),
    "all are called small": ({"IMG_LR.png": ORIGINAL, "lrx2.png": ORIGINAL}, ["IMG_LR.png", "lrx2.png"]),
    "no small names at all": ({"colra.png": ORIGINAL, "fx4.png": ORIGINAL, "x2.png": ORIGINAL}, ["colra.png", "fx4.png", "x2.png"]),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_in_which_benchmarks_are_published(tmp_path, case):
    files, originals = LAYOUTS[case]
    benchmark = Benchmark("set", write_layout(tmp_path, files), 4, "matlab", None)
    assert benchmark.names == originals
    level = 77 if SMALL in files.values() else 100      # of what is published, or of what is made from the original
    for name in originals:
        lr, hr = benchmark.load(name)
        assert (hr == 100).all() and (lr == level).all() and hr.shape == (40, 40, 3) and lr.shape == (10, 10, 3)
    assert benchmark.source.startswith("LR from " if level == 77 else "LR by --degrade matlab")
    assert (", 3 other images left out" in benchmark.source) == (case == "SelfExSR")


AMBIGUOUS = {
    "several originals": (["DIV2K_train_HR/0.png", "DIV2K_valid_HR/1.png"], "several folders of originals, DIV2K_train_HR, DIV2K_valid_HR"),
    "several small": (["HR/0.png", "LRx4/0.png", "LR_bicubic/X4/0x4.png"], "several folders of low-resolution images"),
    "both names": (["HR/0.png", "LRx4/0.png", "LRx4/0x4.png"], "could both be the low-resolution image of 0.png"),
    "other names": (["HR/0.png", "LRx4/zero.png"], "no low-resolution image for any of .*HR: 0.png needs one .* x4 before the suffix"),
    "other pairs": (["a_SRF_2_HR.png", "a_SRF_2_LR.png"], "no pairs for x4, but others such as a_SRF_2_HR.png"),
    "a folder of sets": (["Set5/HR/0.png", "Set5/LRx4/0.png"], "images, such as Set5/LRx4/0.png, with .* or one with HR and LRx4,"),
    "another layout": (["gt/0.png", "LRbicx4/0.png"], "low-resolution images, such as LRbicx4/0.png, with originals"),
    "an unknown folder": (["HR/0.png", "LR_x4/0.png"], "LR_x4 beside .*HR is not a known folder of low-resolution images: .* HR and LRx4,"),
    "a lone small image": (["b.png", "img_001_SRF_4_LR.png"], "low-resolution images, such as img_001_SRF_4_LR.png"),
    "sizes side by side": (["X2/0001x2.png", "X4/0001x4.png"], "low-resolution images, such as X2/0001x2.png"),
    "sizes beside originals": (["0001.png", "0001x4.png"], "low-resolution images, such as 0001x4.png"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_folders_in_which_originals_and_small_images_cannot_be_told_apart(tmp_path, case):
    files, sentence = AMBIGUOUS[case]
    write_layout(tmp_path, dict.fromkeys(files, ORIGINAL))
    with pytest.raises(UserError, match=sentence):
        Benchmark("set", tmp_path, 4, "matlab", None)


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"needs the benchmark images in {BENCHMARKS}")
def test_bicubic_on_set5_scores_what_papers_print(run, tmp_path):
    lpips = {"lpips": WEIGHTS} if WEIGHTS.is_file() else {}
    done = run(BENCHMARKS / "Set5", json=tmp_path / "r.json", **lpips)
    row = numbers(tmp_path / "r.json")["Set5"]["bicubic"]
    assert done.code == 0 and "paper: SRGAN" in done.out
    assert row["psnr_y"] == pytest.approx(28.43, abs=0.005) and row["ssim_y"] == pytest.approx(0.811, abs=0.0005)
    assert row.get("lpips", 0.340) == pytest.approx(0.340, abs=0.0005)


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"needs the benchmark images in {BENCHMARKS}")
def test_bicubic_on_set14_scores_what_papers_print(run, tmp_path):
    """Which it does only if bridge.png, the one grey file, is measured on its own levels: 26.09 otherwise."""
    done = run(BENCHMARKS / "Set14", json=tmp_path / "r.json")
    assert numbers(tmp_path / "r.json")["Set14"]["bicubic"]["psnr_y"] == pytest.approx(25.997, abs=5e-4)
    assert "as in papers: 1 of 14)" in done.out


# ---------------------------------------------------------------- one image's fault, and outputs that cannot be written

def test_whatever_one_image_raises_the_others_are_measured(run, made, tmp_path, monkeypatch):
    for index in range(4):
        images.write(tmp_path / "in" / f"{index}.png", photograph(index))
    Image.new("1", (10_000, 9_000)).save(tmp_path / "in" / "huge.png")
    failures = {"0.png": MemoryError(), "1.png": RuntimeError("of the reader"), "2.png": OSError(5, "Input/output error")}
    load = Benchmark.load

    def failing(self, name):
        if name in failures:
            raise failures[name]
        return load(self, name)
    monkeypatch.setattr(Benchmark, "load", failing)
    done = run(tmp_path / "in", json=tmp_path / "scores.json")
    assert done.code == 2 and "4 of 5 images could not be measured" in done.out
    assert numbers(tmp_path / "scores.json")["in"]["bicubic"]["images"] == 1
    for words in ("0.png: out of memory; close other programs", "1.png: of the reader", "2.png: Input/output error",
                  "huge.png has 90 megapixels"):
        assert words in done.err
    assert "batch-size" not in done.err


@pytest.mark.parametrize("option, suffix", [("json", ".json"), ("csv", ".csv"), ("figure", ".png")])
def test_outputs_are_looked_at_before_anything_is_measured(run, tmp_path, monkeypatch, option, suffix):
    monkeypatch.setattr(evaluate, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"full{suffix}").symlink_to("/dev/full")
    for name, words in ((f"file/a{suffix}", "cannot write"), (f"pipe{suffix}", "is a pipe"), (f"full{suffix}", "is a device"),
                        ("n" * 254 + suffix, "File name too long")):
        done = run("photos", **{option: tmp_path / name})
        assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert not Path("/dev/full").is_file()


@pytest.mark.parametrize("option", ["json", "csv", "figure", "curve", "lpips", "weights"])
def test_an_empty_name_is_not_the_current_folder(run, option):
    done = run("photos", **{option: [""]})
    assert done.code == 2 and "must not be empty" in done.err


def test_weights_of_lpips_that_cannot_be_trusted(made, tmp_path):
    with np.load(made / "lpips.npz") as file:
        arrays = dict(file)
    name = next(iter(arrays))
    endless = arrays[name].copy()
    endless.flat[0] = np.nan
    for damage, words in ((endless, "not finite"), (np.zeros(2**26, np.float32), "missing or has another shape")):
        np.savez_compressed(tmp_path / "x.npz", **arrays | {name: damage})
        with pytest.raises(UserError, match=words):
            LPIPS(tmp_path / "x.npz", CPU)
