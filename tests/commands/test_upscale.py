"""The command: every kind of picture comes out larger and otherwise the same, and nothing of the user's is ever lost."""
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import RGB, save
from test_inference import trained
from test_picture import SRGB, png16

import npsrgan
from npsrgan import images, inference, storage
from npsrgan.device import CPU
from npsrgan.models import SRResNet
from npsrgan.system import files
from npsrgan.upscale import __main__ as upscale
from npsrgan.upscale import enlarge

GREY = RGB[..., 0]
SHIPPED = ("srgan", "srresnet", "srgan-photo", "srgan-faces", "srresnet-faces")


def copier(channels=4):
    """An SRResNet that repeats every pixel 4 x 4 times, within rounding: what it is given is known from what comes out."""
    network = SRResNet(channels, 1, 4)
    network.flat[...] = 0
    network.head.steps[0].weight.array[4, 4, :3, :3] = network.tail.weight.array[4, 4, :3, :3] = np.eye(3)
    for layer in network.layers():
        if hasattr(layer, "slope"):
            layer.slope.array[...] = 1
    for doubling in network.upsampling.steps:
        for place in range(4):
            doubling.steps[0].weight.array[1, 1, :, place * channels:(place + 1) * channels] = np.eye(channels)
    return network


def repeated(array):
    return array.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The folder of weights that ship with npsrgan: here all of them copiers."""
    monkeypatch.setattr(storage, "WEIGHTS", tmp_path / "weights")
    for name in SHIPPED:
        storage.save_network(tmp_path / "weights" / f"{name}.h5", copier(), dtype="float16")
    return tmp_path / "weights"


@pytest.fixture
def run(weights, tmp_path, monkeypatch, capsys):
    """run(arguments) in an empty folder: (status, what was said, what was complained of)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments):
        status = upscale.main([*map(str, arguments), "--device", "cpu"])
        output = capsys.readouterr()
        return status, output.out, output.err
    return call


def load(path):
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


# Pictures

@pytest.mark.parametrize("array, mode", [
    (RGB, "RGB"), (GREY, "L"), (GREY.astype(np.uint16) * 256 + 77, "I;16"), (np.dstack([GREY] * 3), "RGB")])
def test_colour_and_grey_come_back_as_they_were(run, array, mode):
    status, said, complaints = run(save(Path("a.png"), array), "--tile", 32)
    assert status == 0 and "error" not in complaints and "a.png -> a_x4.png: 160x96" in said
    assert load("a_x4.png")[0] == mode
    assert np.abs(load("a_x4.png")[1].astype(int) - repeated(array)).max() <= (array.dtype == np.uint16)


def test_what_the_network_says_about_grey_is_read_as_luminance(run, weights):
    network = copier()
    network.tail.bias.array[...] = 0.5, -0.2, 0.1
    storage.save_network(weights / "srgan.h5", network)
    flat = np.full((8, 8), 100, np.uint8)
    run(save(Path("grey.png"), flat), save(Path("colourless.png"), np.dstack([flat] * 3)))
    expected = round(100 + 127.5 * (0.299 * 0.5 - 0.587 * 0.2 + 0.114 * 0.1))
    for name in ("grey", "colourless"):
        assert (load(f"{name}_x4.png")[1] == expected).all()


def test_alpha_is_enlarged_beside_the_colour_and_hidden_colours_do_not_show(run):
    rgba = np.zeros((24, 24, 4), np.uint8)          # a white disc on hidden black
    y, x = np.mgrid[:24, :24] - 11.5
    rgba[np.hypot(y, x) < 8] = 255
    run(save(Path("a.png"), rgba))
    mode, large = load("a_x4.png")
    assert mode == "RGBA" and large.shape == (96, 96, 4)
    assert np.array_equal(large[..., 3], np.asarray(Image.fromarray(rgba[..., 3]).resize((96, 96), Image.Resampling.BICUBIC)))
    assert {0, 255} < set(np.unique(large[..., 3])) and (large[large[..., 3] > 0][:, :3] >= 254).all()


def test_orientation_profile_and_exif(run):
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "a maker"
    assert run(save(Path("a.png"), RGB, exif=tags, icc_profile=SRGB))[0] == 0
    with Image.open("a_x4.png") as image:
        assert image.size == (96, 160) and image.info["icc_profile"] == SRGB
        assert dict(image.getexif()) == {0x010F: "a maker"}
        assert np.array_equal(np.asarray(image), repeated(np.rot90(RGB, -1)))


def test_what_is_lost_is_said(run):
    png16(Path("deep.png"), RGB.astype(np.uint16) * 257)
    assert "16-bit" in run("deep.png")[1]
    save(Path("clear.png"), np.dstack([RGB, GREY]))
    assert "white" in run("clear.png", "-o", "clear.jpg")[1]


def test_a_real_network_gives_what_it_gives_elsewhere(run):
    network = trained(SRResNet(8, 1, 2))
    storage.save_network("mine.h5", network)
    run(save(Path("a.png"), RGB), "--weights", "mine.h5", "--tile", 32, "--threads", 1)
    expected = inference.apply_in_tiles(inference.fold(network), RGB, CPU)
    assert np.abs(load("a_x2.png")[1].astype(int) - expected).max() <= 1


# Weights

def test_auto_takes_the_network_that_knows_jpeg_for_a_jpeg(run, weights):
    """By content, not by name, and it says which; what is asked for by name is taken as it is."""
    network = copier()
    network.tail.bias.array += 0.4
    storage.save_network(weights / "srgan-photo.h5", network)
    flat = np.full((9, 12, 3), 100, np.uint8)
    Image.fromarray(flat).save("a.png", "JPEG")
    save(Path("b.png"), flat)
    status, said, _ = run("a.png", "b.png")
    lines = said.splitlines()
    assert status == 0 and any("a_x4.png" in line and line.endswith(", with srgan-photo") for line in lines)
    assert any("b_x4.png" in line and line.endswith(", with srgan") for line in lines)
    jpeg, lossless = (np.asarray(Image.open(f"{name}_x4.png")).mean() for name in "ab")
    assert jpeg == pytest.approx(100 + 0.4 * 127.5, abs=3) and lossless == pytest.approx(100, abs=2)
    run("a.png", "--weights", "srgan")
    assert np.asarray(Image.open("a_x4.png")).mean() == pytest.approx(100, abs=2)
    assert np.asarray(npsrgan.super_resolve("a.png")).mean() == pytest.approx(jpeg, abs=1)
    assert npsrgan.super_resolve(flat).mean() == pytest.approx(100, abs=2)


def test_auto_loads_only_what_is_used(run, weights):
    (weights / "srgan.h5").unlink()
    Image.fromarray(RGB).save("a.jpg")
    assert run("a.jpg")[0] == 0 and Path("a_x4.png").exists()
    save(Path("b.png"), RGB)
    status, _, complaint = run("a.jpg", "b.png")
    assert status == 2 and "b.png" in complaint and "srgan" in complaint and "a.jpg" not in complaint


def test_blending_mixes_the_pair(run, weights):
    for kind, levels in (("", (0.2, 0.6)), ("-faces", (-0.8, -0.4))):
        for name, level in zip(("srresnet", "srgan"), levels):
            network = copier()
            network.flat[...], network.tail.bias.array[...] = 0, level
            storage.save_network(weights / f"{name}{kind}.h5", network)
    save(Path("a.png"), RGB)
    for arguments, level in (([], 0.6), (["--blend", 0], 0.2), (["--blend", 0.25], 0.3),
                             (["--blend", 0.25, "--weights", "srresnet"], 0.3),
                             (["--blend", 0.75, "--weights", "srgan-faces"], -0.5), (["--weights", "srresnet-faces"], -0.8)):
        run("a.png", *arguments)
        assert np.unique(load("a_x4.png")[1]) == [round((level + 1) * 127.5)], arguments


@pytest.mark.parametrize("arguments, words", [
    (["--weights", "nowhere.h5"], "no weights nowhere.h5: .* srgan, srgan-faces, srgan-photo, srresnet, srresnet-faces"),
    (["--blend", "0.5", "--weights", "mine.h5"], "--blend mixes"), (["--blend", "1.5"], "between 0 and 1"),
    (["b.png", "-o", "all.png"], "several images"), (["empty"], "holds no image")])
def test_what_cannot_be_meant_ends_at_once(run, capsys, arguments, words):
    Path("empty").mkdir()
    save(Path("a.png"), RGB)
    with pytest.raises(SystemExit) as end:
        run("a.png", *arguments)
    complaint = capsys.readouterr().err
    assert end.value.code == 2 and complaint.startswith("error: ") and complaint.count("\n") == 1
    assert re.search(words, complaint)
    assert not list(Path().glob("*_x4*"))


@pytest.mark.parametrize("option, value", [("--tile", "31"), ("--threads", "0"), ("--tile", "many")])
def test_numbers_out_of_range(run, option, value):
    with pytest.raises(SystemExit) as end:
        run("a.png", option, value)
    assert end.value.code == 2


# Which file becomes which

def test_where_results_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/deep/b.png", "c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        save(Path(name), RGB)
    Path("old").mkdir()

    def plan(inputs, out=None):
        root = tmp_path.as_posix() + "/"
        return {source.as_posix().removeprefix(root): target.as_posix().removeprefix(root)
                for source, target in upscale.plan([Path(name) for name in inputs], out, 4)}

    folder = {"photos/a.jpg": "photos_x4/a_x4.png", "photos/deep/b.png": "photos_x4/deep/b_x4.png"}
    assert plan(["photos"]) == plan(["photos/"]) == folder
    assert plan(["c.png", "photos"]) == {"c.png": "c_x4.png", **folder}
    assert plan(["photos/a.jpg"]) == {"photos/a.jpg": "photos/a_x4.png"}
    assert plan(["c.png"], "d.webp") == {"c.png": "d.webp"}
    assert plan(["c.png"], "d.xyz") == {"c.png": "d.xyz"}           # refused when it is looked at
    for out in ("old", "new", "new/"):
        assert plan(["c.png"], out) == {"c.png": f"{out.rstrip('/')}/c_x4.png"}
        assert plan(["c.png", "photos"], out) == {"c.png": f"{out.rstrip('/')}/c_x4.png",
                                                  **{s: t.replace("photos_x4", out.rstrip("/")) for s, t in folder.items()}}
    monkeypatch.chdir("photos")
    assert plan(["."]) == {"a.jpg": "photos_x4/a_x4.png", "deep/b.png": "photos_x4/deep/b_x4.png"}


def test_results_inside_a_folder_are_not_enlarged_again(run):
    Path("in").mkdir()
    save(Path("in/a.png"), RGB)
    save(Path("in/other_x4.png"), RGB)          # no result: there is no `other`
    for _ in range(2):
        assert run("in", "-o", "in")[0] == 0
        assert sorted(path.name for path in Path("in").iterdir()) == ["a.png", "a_x4.png", "other_x4.png", "other_x4_x4.png"]


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_an_input_is_never_overwritten(run, link):
    before = save(Path("a.png"), RGB).read_bytes()
    out = Path("a.png")
    if link:
        out = Path("b.png")
        getattr(out, link)(Path("a.png").absolute())
    status, _, complaints = run("a.png", "-o", out)
    assert status == 2 and "overwrite" in complaints and Path("a.png").read_bytes() == before


def test_an_input_that_is_named_like_a_result_is_safe(run):
    save(Path("a.png"), RGB)
    before = save(Path("a_x4.png"), GREY).read_bytes()
    status, _, complaints = run("a.png", "a_x4.png")
    assert status == 2 and "overwrite the input a_x4.png" in complaints and Path("a_x4.png").read_bytes() == before
    assert Path("a_x4_x4.png").exists()


def test_two_images_never_become_one_file(run):
    """And one that is broken does not take the other's name."""
    Path("b").mkdir()
    save(Path("a.png"), RGB), save(Path("a.bmp"), GREY), save(Path("b/a.png"), GREY)
    Path("a.jpg").write_text("broken")
    status, _, complaints = run("a.jpg", "a.png", "a.bmp", "b/a.png", "a.png", "-o", "out")
    assert status == 2 and complaints.count("error") == 1 and "a.jpg" in complaints
    assert sorted(path.name for path in Path("out").iterdir()) == ["a_bmp_x4.png", "a_png_x4-2.png", "a_png_x4.png"]
    assert load("out/a_png_x4.png")[0] == "RGB" and load("out/a_png_x4-2.png")[0] == "L"


def test_an_older_result_is_replaced_and_that_is_said(run):
    save(Path("a.png"), RGB)
    assert "replaced" not in run("a.png")[1]
    save(Path("a.png"), GREY)
    assert "a_x4.png (replaced)" in run("a.png")[1] and load("a_x4.png")[0] == "L"


# Failures

def test_a_broken_file_among_many_is_named_and_skipped(run):
    Path("in").mkdir()
    whole = save(Path("in/a.png"), RGB).read_bytes()
    save(Path("in/z.png"), RGB)
    Path("in/cut.png").write_bytes(whole[:600])
    Path("in/text.jpg").write_text("hello")
    status, said, complaints = run("in", "nowhere.png")
    assert status == 2 and said.count("->") == 2
    assert all(name in complaints for name in ("in/cut.png", "in/text.jpg", "nowhere.png", "3 of 5"))
    assert sorted(path.name for path in Path("in_x4").iterdir()) == ["a_x4.png", "z_x4.png"]


def test_a_failed_write_leaves_the_old_result_and_no_litter(run, monkeypatch):
    before = save(Path("a_x4.png"), GREY).read_bytes()
    save(Path("a.png"), RGB)

    def fail(self, path, **options):
        path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device", str(path))
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(SystemExit) as end:
        run("a.png")
    assert end.value.code == 2 and Path("a_x4.png").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "a_x4.png"]


def test_what_cannot_be_written_is_said_before_anything_is_computed(run, monkeypatch):
    monkeypatch.setattr(upscale, "enlarge", lambda *_: pytest.fail("computed"))
    save(Path("long.png"), np.zeros((2, 5000), np.uint8))
    save(Path("a.png"), RGB)
    for arguments, words in ((["long.png", "-o", "a.webp"], "16383"), (["a.png", "-o", "a.xyz"], "end the name in")):
        status, _, complaints = run(*arguments)
        assert status == 2 and words in complaints
    Path("file").touch()
    status, _, complaints = run("a.png", "-o", "file/a.png")
    assert status == 2 and "cannot write" in complaints and "file/a.png" in complaints
    monkeypatch.setattr(upscale, "free_memory", lambda device: 4 * 160 * 96 - 1)
    status, _, complaints = run("a.png")
    assert status == 2 and "160x96 pixels, needs 0.0 GB" in complaints


def test_pillows_limit_of_pixels_does_not_count_here(run, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with images.any_size():
        save(Path("a.png"), RGB)
    assert run("a.png")[0] == 0
    assert Image.MAX_IMAGE_PIXELS == 100


def test_out_of_memory_tries_smaller_tiles(run, monkeypatch):
    asked, real = [], enlarge.super_resolve_tiles

    def tiles(generator, lr, device, tile):
        asked.append(tile)
        if tile > enough:
            raise MemoryError
        yield from real(generator, lr, device, tile)
    monkeypatch.setattr(enlarge, "super_resolve_tiles", tiles)
    save(Path("a.png"), RGB)
    enough = 50
    assert run("a.png", "--tile", 150)[0] == 0 and asked == [150, 75, 37]
    enough = 0
    status, _, complaints = run("a.png")
    assert status == 2 and "a.png: out of memory" in complaints and asked[-1] == 32


def test_whatever_pillow_opens_is_an_image(run):
    """By what is in it; what is left out is named; links are followed, also in a circle."""
    Path("in/deep").mkdir(parents=True)
    names = ["a.avif", "b.jfif", "c.gif", "d.jpg", "e.ppm", "f.tga", "g.jpe", "h.jp2"]
    for name in names:
        Image.fromarray(RGB).save(f"in/{name}")
    Image.fromarray(RGB).save("in/extensionless", "JPEG")
    Path("elsewhere").mkdir()
    save(Path("elsewhere/linked.png"), RGB)
    Path("in/link").symlink_to(Path("elsewhere").absolute())
    Path("in/deep/circle").symlink_to(Path("in").absolute())
    Path("in/i.png").symlink_to(Path("elsewhere/linked.png").absolute())
    Path("in/gone.png").symlink_to("nowhere")
    os.mkfifo("in/pipe.png")
    for name in ("Thumbs.db", "notes.txt", ".hidden.png"):
        Path("in", name).write_text("no image")
    Path("in/phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    status, said, complaints = run("in")
    assert status == 0 and not complaints
    made = sorted(path.relative_to("in_x4").as_posix() for path in Path("in_x4").rglob("*.png"))
    assert made == sorted([*(f"{name[0]}_x4.png" for name in names), "extensionless_x4.png", "i_x4.png", "link/linked_x4.png"])
    assert ("in: 6 other files left out: gone.png (a broken link), phone.HEIC (a HEIC or AVIF photograph), pipe.png (no file), "
            ".hidden.png, Thumbs.db, ...") in said


@pytest.mark.parametrize("arguments", [[""], ["a.png", "-o", ""], ["a.png", "--weights", ""]])
def test_an_empty_name_is_not_the_current_folder(run, capsys, arguments):
    save(Path("a.png"), RGB)
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert end.value.code == 2 and "must not be empty" in capsys.readouterr().err and not Path("a_x4.png").exists()


def test_a_name_as_long_as_names_can_be(run):
    """The result's name is too long: said before anything is computed, and the others are enlarged."""
    for length in (200, 246, 250, 254):
        save(Path("n" * (length - 4) + ".png"), RGB)
    status, said, complaints = run(*sorted(Path().glob("*.png")))
    assert status == 2 and said.count("->") == 3 and complaints.count("File name too long") == 1


def test_whatever_one_image_raises_the_others_are_enlarged(run, monkeypatch):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        save(Path(name), RGB)
    failures = {"a.png": RuntimeError("of the reader"), "b.png": MemoryError(), "c.png": OSError(5, "Input/output error", "c.png")}
    read = upscale.picture.read

    def failing(path):
        if path.name in failures:
            raise failures[path.name]
        return read(path)
    monkeypatch.setattr(upscale.picture, "read", failing)
    status, said, complaints = run("a.png", "b.png", "c.png", "d.png")
    assert status == 2 and said.count("->") == 1 and complaints.count("error:") == 3 and "3 of 4" in complaints


def test_a_disk_without_space_ends_the_run(run, monkeypatch, capsys):
    save(Path("a.png"), RGB), save(Path("b.png"), RGB)

    def full(path, image, **options):
        raise OSError(28, "No space left on device", str(path))
    monkeypatch.setattr(images, "write", full)
    with pytest.raises(SystemExit):
        run("a.png", "b.png")
    assert re.fullmatch(r"error: .*a_x4.png: the disk is full: free some space and try again\n", capsys.readouterr().err)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp", "png"])
def test_metadata_that_the_writer_chokes_on_cost_only_themselves(run, monkeypatch, suffix):
    tags = Image.Exif()
    tags[0x010F] = "a maker" * 20_000           # over the 64 KB of a JPEG segment
    save(Path("a.png"), RGB, exif=tags, dpi=(300, 300))
    status, said, complaints = run("a.png", "-o", f"out.{suffix}")
    assert status == 0 and Path(f"out.{suffix}").exists()
    if suffix == "jpg":
        assert "its EXIF data could not be kept in a .jpg file" in said
        with Image.open("out.jpg") as image:
            assert image.info["dpi"] == (300, 300)


NAMES = {"new\nline": "new\\nline", "escape\x1b[31m": "escape\\x1b[31m", "latin\udce9": "latin\\udce9",
         "right\u202eleft": "right\\u202eleft"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_names_that_a_terminal_cannot_show(weights, tmp_path, encoding):
    (tmp_path / "in").mkdir()
    for name in [*NAMES, "日本語"]:
        save(tmp_path / "in" / f"{name}.png", RGB)
        (tmp_path / "in" / f"{name} broken.png").write_text("no image")
    done = program(tmp_path, weights, "in", "--compare", PYTHONIOENCODING=encoding)
    assert done.returncode == 2 and done.stdout.count(b"->") == 5 and done.stderr.count(b"\nerror: ") + 1 == 5
    said = (done.stdout + done.stderr).decode(encoding)
    assert all(shown in said for shown in NAMES.values()) and "\x1b" not in said and "Glyph" not in said
    assert ("日本語" if encoding == "utf-8" else "\\u65e5\\u672c\\u8a9e") in said
    assert len(list((tmp_path / "in_x4").glob("*_x4.png"))) == 5


def program(cwd, weights, *arguments, shell=None, **environment):
    """The command in a process of its own, with these weights.  shell: what follows behind it, such as "| head -1"."""
    code = ("import sys, pathlib; from npsrgan import storage; storage.WEIGHTS = pathlib.Path(sys.argv.pop(1));"
            "from npsrgan.upscale.__main__ import main; sys.exit(main())")
    words = [sys.executable, "-c", code, str(weights), *map(str, arguments), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(upscale.__file__).parents[2]), **environment}
    if shell is not None:
        words = ["bash", "-c", f"{shlex.join(words)} {shell}"]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, timeout=120)


@pytest.mark.parametrize("shell, status, words", [
    ("| head -1; exit ${PIPESTATUS[0]}", 0, b""), (">&-", 0, b""), ("2>&-", 0, b""), (">&- 2>&- <&-", 0, b""),
    ("> /dev/full", 2, b"error: standard output cannot be written: the disk is full"), ("2> /dev/full", 0, b"")])
def test_output_that_goes_nowhere(tmp_path, weights, shell, status, words):
    for k in range(4):
        save(tmp_path / f"{k}.png", RGB)
    done = program(tmp_path, weights, *(f"{k}.png" for k in range(4)), shell=shell)
    assert done.returncode == status and done.stderr.startswith(words) and b"Traceback" not in done.stderr and b"ignored" not in done.stderr
    assert bool(words) == bool(done.stderr)
    assert len(list(tmp_path.glob("*_x4.png"))) == 4        # the work is done all the same


def test_no_bar_where_nobody_watches(tmp_path, weights):
    save(tmp_path / "a.png", np.zeros((100, 300, 3), np.uint8))
    done = program(tmp_path, weights, "a.png", "nowhere.png")
    assert done.stderr.startswith(b"error: ") and b"\r" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_litter(tmp_path, weights, number):
    code = ("import sys, time, pathlib; from npsrgan import storage; storage.WEIGHTS = pathlib.Path(sys.argv.pop(1));"
            "from PIL import Image; from npsrgan.upscale.__main__ import main\n"
            "def save(self, path, **options):\n  path.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
            "Image.Image.save = save; sys.exit(main())")
    save(tmp_path / "a.png", RGB)
    process = subprocess.Popen([sys.executable, "-c", code, str(weights), "a.png", "--device", "cpu"], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(Path(upscale.__file__).parents[2])})
    while process.stdout.readline() != "writing\n":
        pass
    process.send_signal(number)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 128 + number and complaints == "interrupted\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "weights"]


def test_what_a_killed_process_left_is_swept(run):
    """Of a process that no longer runs, and of no other."""
    save(Path("a.png"), RGB)
    names = [f".npsrgan-{files._HOST}-{pid}.png" for pid in (4_000_000_000, os.getppid())] + [".npsrgan-elsewhere-4000000000.png"]
    for name in names:
        Path(name).touch()
    assert run("a.png")[0] == 0
    assert [name for name in names if Path(name).exists()] == names[1:]


@pytest.mark.parametrize("target", ["pipe", "/dev/full"])
def test_a_device_is_not_made_a_file(run, target):
    os.mkfifo("pipe")
    save(Path("a.png"), RGB)
    link = Path("out.png")
    link.symlink_to(Path(target).absolute())
    before = Path(target).stat()
    status, _, complaints = run("a.png", "-o", "out.png")
    assert status == 2 and "give the path of a file" in complaints and Path(target).stat().st_mode == before.st_mode


def test_of_a_link_the_target_is_replaced(run):
    save(Path("a.png"), RGB)
    Path("there").mkdir()
    Path("out.png").symlink_to(Path("there/result.png").absolute())
    for _ in range(2):
        assert run("a.png", "-o", "out.png")[0] == 0
    assert Path("out.png").is_symlink() and load("there/result.png")[0] == "RGB"


# Comparing

@pytest.mark.parametrize("array", [RGB, GREY.astype(np.uint16) * 257, np.dstack([RGB, GREY]), np.zeros((1, 3), np.uint8),
                                   np.zeros((30, 1300, 3), np.uint8)])
def test_a_comparison_is_written_beside_the_result(run, array):
    assert run(save(Path("a.png"), array), "--compare")[0] == 0
    assert images.read("a_x4_compare.png").shape[1] > 500
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "a_x4.png", "a_x4_compare.png"]


# As a program

def test_the_program_ends_in_one_sentence(tmp_path):
    done = subprocess.run([sys.executable, "-m", "npsrgan.upscale", "a.png", "--weights", "nowhere.h5"], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(Path(upscale.__file__).parents[2])})
    assert done.returncode == 2
    assert done.stderr.startswith("error: there are no weights nowhere.h5") and done.stderr.count("\n") == 1
