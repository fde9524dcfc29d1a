"""Files, folders, command lines and disks that are out to break something.

Whatever is put in, a command ends in time, in words, with status 0 or 2; it takes less than 3 GB, and leaves whole files or none.
Everything is drawn from seeds.  A short form runs with all tests; the long form, which prints the table of tests/README.md:

    python -m pytest -m long -s tests/commands/test_hostile.py
"""
import importlib
import io
import multiprocessing
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from runs import arguments
from test_lpips import write_random_weights
from test_storage import keras_file
from tqdm import tqdm

from npsrgan import images, storage
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.system.errors import UserError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes as POSIX does")
MEMORY = 3 * 10**9      # bytes of address space that a command gets
PATIENCE = 120          # seconds
RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)


def counts(short, long):
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.long)])


# ---------------------------------------------------------------- processes

_processes = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
if _processes:
    _processes.set_forkserver_preload([f"npsrgan.{name}.__main__" for name in ("train", "upscale", "evaluate", "convert")])


def start(function, *words, folder):
    """Run a function of the command line in another process, in a folder, into whose `out` and `err` it prints."""
    process = _processes.Process(target=_child, args=(function, words, str(folder)))
    process.start()
    return process


def _child(function, words, folder):
    os.chdir(folder)
    tqdm.set_lock(threading.RLock())        # its own spans processes, and would be left behind by a kill
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    sys.stdout, sys.stderr = (open(descriptor, "w", errors="backslashreplace", closefd=False) for descriptor in (1, 2))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        module, name = function.rsplit(".", 1)
        code = getattr(importlib.import_module(module), name)(list(words))
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code or 0)


def run(function, *words, folder, patience=PATIENCE):
    """What came of it: status (None where it had to be killed), out and err."""
    process = start(function, *map(str, words), folder=folder)
    process.join(patience)
    hung = process.is_alive()
    process.kill()
    process.join()
    out, err = ((folder / name).read_text(errors="backslashreplace") if (folder / name).exists() else "" for name in ("out", "err"))
    return SimpleNamespace(status=None if hung else process.exitcode, out=out, err=err)


def command(name, *words, folder, patience=PATIENCE):
    return run(f"npsrgan.{name}.__main__.main", *words, folder=folder, patience=patience)


def wrong(done):
    """What is wrong with how a command ended: "" if nothing is."""
    if done.status not in (0, 2):
        return f"status {done.status}"
    if "Traceback" in done.err or "Warning" in done.err or "ignored" in done.err:
        return "a traceback or a warning"
    return "no word about it" if done.status and not done.err.strip() else ""


def report(what, tried, faults, lost=()):
    """A row of the table, and the verdict."""
    print(f"\n| {what} | {tried} | {len(faults)} | {len(lost)} |")
    assert not faults and not lost, [*faults, *lost][:5]


def litter(folder):
    """Temporary files that were left."""
    return [str(path) for path in Path(folder).rglob(".*")]


# ---------------------------------------------------------------- damage

def damaged(contents, rng):
    """The bytes, changed in one of the ways in which files come to harm, or are harmed on purpose."""
    data = bytearray(contents)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, length = rng.randrange(len(data)), rng.choice([1, 2, 4, 8, 64])
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at + length] = rng.randbytes(length)
        elif kind == 2:
            data[at:at + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
        elif kind == 3:
            del data[at:at + length]
        elif kind == 4:
            data[at:at] = data[at:at + length]
        elif kind == 5:
            head = min(len(data), 200)          # where sizes stand
            data[at % head:at % head + 4] = rng.choice([2**31 - 1, 2**16, 10**6, 0]).to_bytes(4, rng.choice(["big", "little"]))
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def sound_images():
    """{suffix and number: the bytes of a file} of many kinds."""
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x/>" * 50)
    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x8769] = 6, "a maker", {0x829A: 0.5}
    rgb, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
    deep = Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)
    kinds = [(rgb, "png", {"pnginfo": text, "exif": tags, "dpi": (72, 72)}), (deep, "png", {}), (rgb.convert("RGBA"), "png", {}),
             (rgb.convert("P"), "png", {"transparency": 3}), (rgb.convert("CMYK"), "jpg", {}),
             (rgb, "jpg", {"exif": tags, "comment": b"a"}),
             (rgb, "tif", {"exif": tags.tobytes()}), (deep, "tif", {}),
             (rgb, "tif", {"compression": "tiff_lzw"}), (rgb, "webp", {"exif": tags}),
             (rgb, "gif", {"save_all": True, "append_images": [grey.convert("RGB")]}), (grey, "pcx", {})]
    kinds += [(rgb, suffix, {}) for suffix in ("bmp", "avif", "jp2", "ppm", "ico", "tga", "sgi", "dds", "qoi")]
    found = []
    for image, suffix, options in kinds:
        file = io.BytesIO()
        image.save(file, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "ppm": "PPM"}.get(suffix, suffix.upper()), **options)
        found.append((suffix, file.getvalue()))
    return found


@pytest.fixture
def weights(tmp_path):
    """A small generator, in a file."""
    storage.save_network(tmp_path / "small.h5", SRResNet(2, 1, 2))
    return tmp_path / "small.h5"


@counts(42, 500)
def test_damaged_images(tmp_path, weights, count):
    """Enlarged, measured and trained on, or named; the good one among them is not forgotten."""
    (tmp_path / "in").mkdir()
    kinds, faults, lost = sound_images(), [], []
    for index in range(count):
        suffix, contents = kinds[index % len(kinds)]
        (tmp_path / "in" / f"{index:03}.{suffix}").write_bytes(damaged(contents, random.Random(f"image {index}")))
    Image.fromarray(RGB).save(tmp_path / "in" / "sound.png")
    done = command("upscale", "in", "--weights", weights, "--device", "cpu", "--threads", 1, folder=tmp_path, patience=PATIENCE + 3 * count)
    faults += [wrong(done) + done.err[-500:]] * bool(wrong(done))
    for path in sorted((tmp_path / "in").iterdir()):
        result = next((tmp_path / "in_x2").glob(f"{path.stem}_x2.png"), None)
        if result is None and str(path.relative_to(tmp_path)) not in done.err:
            lost.append(f"{path.name} was forgotten")
        elif result is not None:
            images.read(result)         # a half written one raises
    lost += ["sound.png"] * (not (tmp_path / "in_x2" / "sound_x2.png").exists())
    done = command("evaluate", "in", "--weights", "--json", "scores.json", "--device", "cpu", folder=tmp_path,
                   patience=PATIENCE + 3 * count)
    faults += [wrong(done) + done.err[-500:]] * bool(wrong(done))
    lost += ["scores.json"] * (not (tmp_path / "scores.json").exists())
    words = arguments(tmp_path, tmp_path / "run", data=tmp_path / "in", val=tmp_path / "in", steps=2, gan_steps=0, patch_size=4)
    done = command("train", *words, folder=tmp_path, patience=PATIENCE + 3 * count)
    faults += [wrong(done) + done.err[-500:]] * bool(wrong(done))
    report("damaged images, each enlarged, measured and trained on", count, faults, lost + litter(tmp_path))


def sound_weights(folder):
    """The bytes of HDF5 files of weights: ours of each kind, and Keras's."""
    for index, network in enumerate([SRResNet(2, 1, 2), Discriminator(2, 16), random_vgg19("conv1_1")]):
        storage.save_network(folder / f"{index}.h5", network)
    keras_file(folder / "3.h5", "old", "conv1_2")
    keras_file(folder / "4.h5", "newer", "conv1_2")
    with h5py.File(folder / "5.h5", "w", libver="latest") as file, h5py.File(folder / "3.h5") as old:
        old.visititems(lambda name, item: file.create_dataset(name, data=item[()], chunks=True, compression="gzip")
                       if isinstance(item, h5py.Dataset) and item.size > 8 else None)
    return [(folder / f"{index}.h5").read_bytes() for index in range(6)]


def load_all(paths):
    """In the child: one line for every file, before and after."""
    for path in paths:
        print("?", path, flush=True)
        for load in (storage.load_network, lambda path: storage.load_vgg19(path, "conv1_1")):
            try:
                load(path)
            except UserError as error:
                assert str(path) in str(error) and len(str(error)) < 3000, error
        print("!", path, flush=True)
    return 0


@counts(30, 300)
def test_damaged_weights(tmp_path, count):
    """Half of them with the checksum that belongs to the damage: what HDF5 itself stumbles over."""
    sound, paths, faults = sound_weights(tmp_path), [], []
    for index in range(count):
        rng = random.Random(f"weights {index}")
        contents = sound[index % len(sound)]
        if contents.startswith(b"npsrgan "):
            payload = damaged(contents[512:], rng)
            contents = b"npsrgan %08x" % zlib.crc32(payload) + bytes(496) + payload
        else:
            contents = damaged(contents[:4096], rng) + contents[4096:] if rng.random() < 0.8 else damaged(contents, rng)
        paths.append(tmp_path / f"damaged{index:03}.h5")
        paths[-1].write_bytes(contents)
    waiting = list(map(str, paths))
    while waiting:
        done = run("test_hostile.load_all", *waiting, folder=tmp_path, patience=60 + 2 * len(waiting))
        begun = [line[2:] for line in done.out.splitlines() if line.startswith("? ")]
        finished = [line[2:] for line in done.out.splitlines() if line.startswith("! ")]
        if len(begun) > len(finished):
            faults.append(f"{begun[-1]}: status {done.status} {done.err[-300:]}")
        elif not begun:
            faults.append(f"nothing was begun: status {done.status} {done.err[-300:]}")
            break
        waiting = waiting[len(begun):]
    report("damaged HDF5 files, half of them with a right checksum", count, faults)


# ---------------------------------------------------------------- command lines

def command_line(rng, folder):
    """(command, words): options in any order with values that are none."""
    values = ["", "nan", "-1", "0", "1e300", "9" * 30, "nowhere", "pipe", "junk.h5", "photos", "photos/train", "photos/train/0.png",
              "small.h5", "vgg.h5", "lpips.npz", "/dev/zero", "/dev/full", "/proc/self/mem", "\x1b[31m", "new\nline", "n" * 300, "日本語",
              "\udcff", "-", "--", "=", "out", "out.png", "out/", "3", "0.5", "srgan", "conv1_1", "cpu", "1,2", "a.h5:b"]
    options = {"upscale": ["-o", "--weights", "--blend", "--compare", "--tile", "--threads", "--device"],
               "evaluate": ["--weights", "--degrade", "--lpips", "--json", "--csv", "--figure", "--curve", "--threads", "--noise"],
               "convert": ["-o", "--to", "--input", "--output", "--slope", "--key", "--feature-scale"],
               "train": ["--data", "--val", "--init", "--vgg", "--resume", "--force", "--batch-size", "--patch-size", "--learning-rate",
                         "--seed", "--vgg-layer", "--feature-scale", "--val-count", "--leaky-slope", "--pixel-weight", "--out"]}
    name = rng.choice(sorted(options))
    words = {"train": arguments(folder / "photos", "out", steps=2, gan_steps=0), "convert": [rng.choice(values), "-o", "converted.h5"]}.get(
        name, [rng.choice(values[6:]) for _ in range(rng.randint(1, 2))])
    for option in rng.sample(options[name], rng.randint(0, 3)):
        words += [option] if option in ("--compare", "--resume", "--force") else [option, rng.choice(values)]
    return name, words + ["--device", "cpu"] * (name != "convert")


@pytest.fixture
def scene(tmp_path, photos, weights):
    """A folder with something of everything that command lines name."""
    def prepare():
        shutil.rmtree(tmp_path / "scene", ignore_errors=True)
        shutil.copytree(photos, tmp_path / "scene" / "photos")
        shutil.copy(weights, tmp_path / "scene")
        storage.save_network(tmp_path / "scene" / "vgg.h5", random_vgg19("conv1_1"))
        shutil.copy(lpips, tmp_path / "scene")
        os.mkfifo(tmp_path / "scene" / "pipe")
        (tmp_path / "scene" / "junk.h5").write_text("junk")
        return tmp_path / "scene"
    lpips = tmp_path / "lpips.npz"
    write_random_weights(lpips)
    return prepare


@counts(8, 200)
def test_command_lines(scene, count):
    faults, lost = [], []
    for index in range(count):
        folder = scene()
        name, words = command_line(random.Random(f"command {index}"), folder)
        before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
        done = command(name, *words, folder=folder)
        if wrong(done):
            faults.append(f"{wrong(done)}: {name} {shlex.join(words)}: {done.err[-300:]}")
        lost += [str(path) for path, contents in before.items() if not path.exists() or path.read_bytes() != contents]
        lost += litter(folder)
    assert not Path("/dev/full").is_file() and not Path("/dev/zero").is_file()
    report("command lines", count, faults, lost)


# ---------------------------------------------------------------- kills and disks

@counts(3, 50)
def test_killed_while_enlarging(tmp_path, weights, count):
    """Whole results or none; and nothing is left by the run that comes after."""
    (tmp_path / "in").mkdir()
    for index in range(6):
        Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)).save(tmp_path / "in" / f"{index}.png")
    rng, lost, killed = random.Random("kills"), [], 0
    words = ("in", "--weights", str(weights), "--device", "cpu", "--threads", "1", "--compare")
    for _ in range(count):
        shutil.rmtree(tmp_path / "in_x2", ignore_errors=True)
        process = start("npsrgan.upscale.__main__.main", *words, folder=tmp_path)
        process.join(rng.uniform(0.1, 3))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        for path in (tmp_path / "in_x2").glob("[!.]*"):
            images.read(path)
    done = command("upscale", *words, folder=tmp_path)
    faults = [wrong(done)] * bool(wrong(done))
    lost += [f"result {index}" for index in range(6) if not (tmp_path / "in_x2" / f"{index}_x2.png").exists()] + litter(tmp_path)
    report(f"SIGKILL while enlarging ({killed} before the end)", count, faults, lost)


DISKS = {"full": "mount -t tmpfs -o size=24k none disk", "read-only": "mount -t tmpfs -o ro none disk"}
WRITERS = {"upscale": ["upscale", "big.png", "-o", "disk/out.png", "--weights", "small.h5", "--device", "cpu"],
           "upscale, a folder": ["upscale", "in", "-o", "disk/out", "--weights", "small.h5", "--device", "cpu"],
           "evaluate": ["evaluate", "in", "--weights", "--json", "disk/a.json", "--figure", "disk/a.png", "--device", "cpu"],
           "convert": ["convert", "small.h5", "--to", "torch", "-o", "disk/out.pth"], "train": None}


@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("writer", WRITERS)
def test_disks(tmp_path, photos, disk, writer):
    """Mounted for the one process, where the system allows that."""
    can = shutil.which("unshare") and subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True)
    if not can or can.returncode:
        pytest.skip("this system does not let tests mount a disk")
    (tmp_path / "disk").mkdir()
    (tmp_path / "in").mkdir()
    Image.fromarray(RGB.repeat(4, 0).repeat(4, 1)).save(tmp_path / "in" / "a.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)).save(tmp_path / "big.png")
    shutil.copy(tmp_path / "big.png", tmp_path / "in")
    storage.save_network(tmp_path / "small.h5", SRResNet(6, 2, 4))
    words = WRITERS[writer] or ["train", *arguments(photos, "disk/run", channels=16)]
    inside = (f"{DISKS[disk]} && {shlex.join([sys.executable, '-m', f'npsrgan.{words[0]}', *words[1:]])}; echo $? > status; "
              "find disk -name '.npsrgan*' -size +0 > litter; find disk -name '*_x*.png' -o -name 'a.*' | xargs -r cat > /dev/null")
    started = time.monotonic()
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inside], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
                          env=os.environ | {"PYTHONPATH": str(Path(images.__file__).parents[1])})
    assert (tmp_path / "status").read_text().strip() == "2", done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error:") >= 1, done.stderr
    assert any(words in done.stderr for words in ("disk is full", "read-only", "No space left", "Read-only")), done.stderr
    assert (tmp_path / "litter").read_text() == "" and time.monotonic() - started < PATIENCE
