"""Reading what people have, refusing what is broken, and never wrapping a grey level."""
import os
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from npsrgan import images
from npsrgan.system.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


# Reading

@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "PNG"])
def test_reads_lossless_files_exactly(tmp_path, suffix):
    image = images.read(save(tmp_path / f"a.{suffix}", RGB))
    assert image.dtype == np.uint8 and np.array_equal(image, RGB)
    image[0, 0] = 0     # and it is the caller's to change


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_reads_lossy_files(tmp_path, suffix):
    flat = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    assert np.abs(images.read(save(tmp_path / f"a.{suffix}", flat)).astype(int) - flat).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.fromarray(RGB).convert("L" if mode == "I;16" else mode).convert(mode).save(path)
    image = images.read(path)
    assert image.shape == RGB.shape and image.dtype == np.uint8


def test_a_palette_is_looked_up(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(images.read(tmp_path / "a.png")[0], [[10, 20, 30], [40, 50, 60]])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    levels = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    image = images.read(save(tmp_path / f"a.{suffix}", levels))
    assert np.array_equal(image, np.rint(levels / 257).astype(np.uint8)[..., None].repeat(3, 2))


@pytest.mark.parametrize("array", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000, np.int32), np.full((4, 4), 200, np.int32)])
def test_samples_without_a_range_are_refused(tmp_path, array):
    with pytest.raises(images.ImageError, match="8 or 16 bits"):
        images.read(save(tmp_path / "a.tif", array))


def test_transparency_shows_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0] = 10, 20, 30, 255
    image = images.read(save(tmp_path / "a.png", rgba))
    assert np.array_equal(image[:, 0], [[10, 20, 30], [255, 255, 255]])


def test_a_transparent_palette_entry_shows_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "a.png", transparency=1)
    assert np.array_equal(images.read(tmp_path / "a.png")[0], [[10, 20, 30], [255, 255, 255]])


@pytest.mark.parametrize("orientation, upright", [
    (1, RGB), (2, RGB[:, ::-1]), (3, RGB[::-1, ::-1]), (4, RGB[::-1]), (5, RGB.swapaxes(0, 1)), (6, np.rot90(RGB, -1)),
    (7, np.rot90(RGB, 2).swapaxes(0, 1)), (8, np.rot90(RGB))])
def test_the_orientation_tag_is_obeyed(tmp_path, orientation, upright):
    tags = Image.Exif()
    tags[0x0112] = orientation
    assert np.array_equal(images.read(save(tmp_path / "a.png", RGB, exif=tags)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image(tmp_path):
    path = save(tmp_path / "a.jpg", RGB, exif=b"Exif\0\0no tags at all")
    assert images.read(path).shape == RGB.shape


# Refusing

@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_file_is_an_image_error_that_names_it(tmp_path, suffix, share):
    whole = save(tmp_path / f"whole.{suffix}", RGB).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(images.ImageError, match=str(path)):
        images.read(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "gif"])
def test_random_damage_raises_image_errors_only(tmp_path, suffix):
    whole = save(tmp_path / f"whole.{suffix}", RGB).read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for position in rng.integers(0, min(len(whole), 600), 6):
            damaged[position] = rng.integers(256)
        (tmp_path / f"a.{suffix}").write_bytes(damaged)
        try:
            images.read(tmp_path / f"a.{suffix}")
        except images.ImageError:
            refused += 1
    assert refused


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_an_image_error(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(images.ImageError, match=str(path)):
        images.read(path)


@pytest.mark.parametrize("inverted", [False, True])
def test_12_bits_and_white_that_is_0(tmp_path, inverted):
    """TIFF files that say so in their tags: 4095 is white, or 0 is."""
    def tag(number, kind, value):
        return struct.pack("<HHII", number, kind, 1, value)

    levels = [0, 1024, 2048, 4095]
    data = bytes([0x00, 0x04, 0x00, 0x80, 0x0F, 0xFF])           # the same, 12 bits each
    tags = [tag(256, 4, 4), tag(257, 4, 1), tag(258, 3, 12), tag(259, 3, 1), tag(262, 3, 1), tag(273, 4, 8), tag(277, 3, 1),
            tag(278, 4, 1), tag(279, 4, 6)]
    if inverted:
        levels, data = [65535, 49151, 32767, 0], struct.pack("<4H", 0, 16384, 32768, 65535)
        tags[2], tags[4], tags[8] = tag(258, 3, 16), tag(262, 3, 0), tag(279, 4, 8)
    head = b"II*\0" + struct.pack("<I", 16) + data.ljust(8, b"\0")
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4))
    assert np.array_equal(images.read(tmp_path / "a.tif")[0, :, 0], np.rint(np.array(levels) * 255 / max(levels)))


def test_a_transparent_grey_of_16_bits_shows_white(tmp_path):
    levels = np.array([[1000, 2000]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png", transparency=1000)
    assert images.read(tmp_path / "a.png")[0, :, 0].tolist() == [255, 8]


def test_a_profile_is_obeyed(tmp_path):
    """A profile in which red and green have changed places."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    r, g = srgb.index(b"rXYZ"), srgb.index(b"gXYZ")
    srgb[r:r + 4], srgb[g:g + 4] = b"gXYZ", b"rXYZ"
    swapped = bytes(srgb).replace(b"s\0R\0G\0B", b"o\0t\0h\0e").replace(b"sRGB", b"othe")
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    assert images.read(save(tmp_path / "a.png", red, icc_profile=swapped))[0, 0].tolist() == pytest.approx([0, 255, 0], abs=3)
    assert images.read(save(tmp_path / "b.png", red))[0, 0].tolist() == [255, 0, 0]
    assert images.read(save(tmp_path / "c.png", red, icc_profile=b"no profile"))[0, 0].tolist() == [255, 0, 0]


def test_a_side_matter_does_not_cost_the_image(tmp_path):
    text = PngInfo()
    text.add_text("story", "x" * 3_000_000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "x" * 3_000_000)
    assert np.array_equal(images.read(save(tmp_path / "a.png", RGB, pnginfo=text)), RGB)


FOREIGN = {"a HEIC": b"\0\0\0\x18ftypheic" + bytes(20), "a JPEG XL": b"\xff\x0a" + bytes(20), "an SVG": b"<?xml version='1.0'?>\n<svg>",
           "a PDF": b"%PDF-1.7\n", "a camera's raw": b"II*\0\x10\0\0\0CR\2\0", "a video": b"\0\0\0\x18ftypisom" + bytes(20),
           "empty: copy": b"", "a Git LFS pointer: run": b"version https://git-lfs.github.com/spec/v1\n",
           "a web page: download": b"<!DOCTYPE html><html>"}


@pytest.mark.parametrize("words", FOREIGN)
def test_what_pillow_cannot_read_is_called_what_it_is(tmp_path, words):
    (tmp_path / "a.jpg").write_bytes(FOREIGN[words])
    with pytest.raises(images.ImageError, match=f"a.jpg is {words}"):
        images.read(tmp_path / "a.jpg")


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, words in [(tmp_path / "pipe.png", "is a pipe"), ("/dev/zero", "is a device")]:
        with pytest.raises(images.ImageError, match=words):
            images.read(path)


def test_a_huge_image_is_refused_with_its_size(tmp_path):
    Image.new("1", (10_000, 9_000)).save(tmp_path / "a.png")
    with pytest.raises(images.ImageError, match="a.png has 90 megapixels, more than the limit of 67: cut it"):
        images.read(tmp_path / "a.png")


def test_a_missing_file_and_a_folder_are_image_errors(tmp_path):
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(images.ImageError, match=str(path)):
            images.read(path)


def test_a_decompression_bomb_is_an_image_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(images.ImageError, match="a.png"):
        images.read(save(tmp_path / "a.png", RGB))


# Levels

def test_all_levels_survive_the_round_trip():
    levels = np.arange(256, dtype=np.uint8)
    x = images.to_float(levels)
    assert x.dtype == np.float32 and x.min() == -1 and x.max() == 1
    assert np.array_equal(images.to_uint8(x), levels)
    assert np.array_equal(images.to_uint8(x.astype(np.float64)), levels)


def test_what_leaves_the_range_is_clipped_and_never_wraps():
    assert images.to_uint8(np.float32([-1e9, -1.01, 1.01, 1e9])).tolist() == [0, 0, 255, 255]


def test_levels_are_rounded_and_not_truncated():
    assert images.to_uint8((np.array([99.4, 99.6, 254.6]) / 127.5) - 1).tolist() == [99, 100, 255]


# Writing

def test_writes_whole_files_and_creates_the_folder(tmp_path):
    path = tmp_path / "new" / "a.png"
    images.write(path, RGB)
    images.write(str(path), RGB[::-1])
    assert np.array_equal(images.read(path), RGB[::-1])
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    images.write(tmp_path / "a.png", RGB)

    def fail(self, path, **options):
        path.write_bytes(b"half a fi")
        raise OSError("disk full")
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        images.write(tmp_path / "a.png", RGB[::-1])
    assert np.array_equal(images.read(tmp_path / "a.png"), RGB)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a", "a.xyz"])
def test_a_suffix_that_names_no_format_is_a_user_error(tmp_path, name):
    with pytest.raises(UserError, match="suffix"):
        images.write(tmp_path / name, RGB)


# Figures

def find(picture, patch):
    """Whether `patch` stands in `picture`, pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], patch.shape[:2])
    corners = np.argwhere(np.all(windows[:, :, :2, :40] == patch[:2, :40, 0], axis=(2, 3)))
    return any(np.array_equal(picture[y:y + patch.shape[0], x:x + patch.shape[1]], patch) for y, x in corners)


def test_figure_shows_every_pixel_and_enlarges_with_hard_edges(tmp_path):
    hr = np.random.default_rng(2).integers(0, 256, (300, 320, 3)).astype(np.uint8)
    lr = hr[:75, :80]
    images.figure(tmp_path / "a.png", [("LR", lr, None), ("HR", hr, r"$\mathematics$ is text")], title="step 100")
    picture = images.read(tmp_path / "a.png")
    assert find(picture, hr)
    assert find(picture, lr.repeat(4, 0).repeat(4, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_figure_with_rows_and_shapes_of_all_kinds(tmp_path):
    tall, wide = RGB.swapaxes(0, 1), RGB
    panels = [("tall", tall, None), ("wide", wide, "a caption so long that it must be broken into two lines or more"), (None, wide, None)]
    images.figure(tmp_path / "row.png", panels)
    images.figure(tmp_path / "rows.png", [panels, panels[:1]])
    row, rows = (images.read(tmp_path / f"{name}.png").shape for name in ("row", "rows"))
    assert row[1] == rows[1] and row[0] < rows[0]


def test_figure_leaves_no_global_state(tmp_path):
    from subprocess import run
    from sys import executable
    code = ("import sys, numpy as np; from npsrgan import images; assert 'matplotlib' not in sys.modules;"
            f"images.figure({str(tmp_path / 'a.png')!r}, [('a', np.zeros((8, 8, 3), np.uint8), None)]);"
            "assert 'matplotlib.pyplot' not in sys.modules")
    run([executable, "-c", code], check=True)
