"""Pictures of every kind come back as they were, upright, and what cannot be kept is said."""
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from test_images import RGB, save

from npsrgan import images
from npsrgan.system.errors import UserError
from npsrgan.upscale import picture

GREY = RGB[..., 0]
ALPHA = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]          # for what looks at the header alone
ORIENTATION, MAKER, EXIF_IFD, WIDTH, EXPOSURE = 0x0112, 0x010F, 0x8769, 0xA002, 0x829A


def png16(path, samples):
    """A PNG file of 16 bits, which Pillow does not write in colour.  samples (H, W, C), C 2 for grey and alpha, 3 for RGB."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2}[channels], 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


# Reading

@pytest.mark.parametrize("array, mode", [(RGB, "RGB"), (GREY, "L"), (GREY.astype(np.uint16) * 257 + 5, "I;16")])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colour_and_grey_of_8_and_16_bits(tmp_path, array, mode, suffix):
    got = picture.read(save(tmp_path / f"a.{suffix}", array))
    assert got.mode == mode and got.alpha is None and not got.remarks
    assert got.pixels.dtype == array.dtype and np.array_equal(got.pixels, array.reshape(24, 40, -1))


@pytest.mark.parametrize("colour, mode", [(RGB, "RGB"), (GREY[..., None], "L")])
def test_alpha_stands_beside_the_colours(tmp_path, colour, mode):
    got = picture.read(save(tmp_path / "a.png", np.dstack([colour, ALPHA])))
    assert got.mode == mode and np.array_equal(got.pixels, colour) and np.array_equal(got.alpha, ALPHA)


def test_a_palette_is_colour_and_may_be_transparent(tmp_path):
    flat = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    flat.putpalette([10, 20, 30, 40, 50, 60])
    flat.save(tmp_path / "a.png")
    flat.save(tmp_path / "b.png", transparency=1)
    got, clear = picture.read(tmp_path / "a.png"), picture.read(tmp_path / "b.png")
    assert got.mode == "RGB" and got.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]] and got.alpha is None
    assert clear.alpha.tolist() == [[255, 0]]


def test_black_and_white_is_grey(tmp_path):
    Image.fromarray(GREY).convert("1").save(tmp_path / "a.png")
    got = picture.read(tmp_path / "a.png")
    assert got.mode == "L" and set(np.unique(got.pixels)) == {0, 255}


def test_a_colour_file_without_colours_is_grey_inside(tmp_path):
    got = picture.read(save(tmp_path / "a.png", np.dstack([GREY] * 3)))
    assert got.mode == "RGB" and np.array_equal(got.pixels[..., 0], GREY) and got.pixels.shape[2] == 1


def test_inks_become_colours(tmp_path):
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    flat.save(tmp_path / "a.jpg")
    flat.save(tmp_path / "b.jpg", icc_profile=SRGB)     # a profile that is not for inks
    for name in ("a.jpg", "b.jpg"):
        got = picture.read(tmp_path / name)
        assert got.mode == "RGB" and got.profile is None and np.abs(got.pixels.astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("samples", [RGB, np.dstack([GREY, ALPHA])])
def test_16_bit_colour_is_announced(tmp_path, samples):
    got = picture.read(png16(tmp_path / "a.png", samples.astype(np.uint16) * 257))
    assert "16-bit" in got.remarks[0]
    assert np.array_equal(got.pixels, samples[..., :got.pixels.shape[2]]) and got.pixels.dtype == np.uint8


def test_an_animation_is_announced(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    got = picture.read(tmp_path / "a.png")
    assert "first" in got.remarks[0] and np.array_equal(got.pixels, RGB)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_orientation_is_obeyed_and_then_forgotten_and_the_rest_of_exif_kept(tmp_path, suffix):
    tags = Image.Exif()
    tags[ORIENTATION], tags[MAKER] = 6, "a maker"
    if suffix != "tif":         # whose tags are mostly about how its pixels are stored
        tags[EXIF_IFD] = {WIDTH: 40, EXPOSURE: 0.5}
    flat = np.zeros((24, 40, 3), np.uint8)
    flat[:12] = 200
    got = picture.read(save(tmp_path / f"a.{suffix}", flat, exif=tags))
    assert got.pixels.shape[:2] == (40, 24)
    assert got.pixels[:, 14:].min() > 150 and got.pixels[:, :10].max() < 50         # what was above is on the right
    if suffix != "tif":
        kept = Image.Exif()
        kept.load(got.exif)
        assert ORIENTATION not in kept and kept[MAKER] == "a maker"
        assert dict(kept.get_ifd(EXIF_IFD)) == {EXPOSURE: 0.5}


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_costs_only_itself(tmp_path):
    tags = Image.Exif()
    tags[MAKER] = "a maker whose name is long enough to be stored elsewhere"
    for index, damage in enumerate([b"Exif\0\0no tags at all", tags.tobytes()[:30]]):
        got = picture.read(save(tmp_path / f"{index}.jpg", RGB, exif=damage))
        assert got.pixels.shape == RGB.shape
        picture.write(tmp_path / "out.jpg", Image.fromarray(RGB), exif=got.exif)


# What is written about a picture: kept, or its loss is said

ABOUT = {"resolution": "dpi", "XMP": "xmp", "comment": "comment", "text": "text"}
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def with_everything(path):
    """A file with all that its format can say."""
    tags = Image.Exif()
    tags[MAKER] = "a maker"
    text = PngInfo()
    text.add_text("Author", "somebody")
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    if path.suffix == ".tif":
        tags[700] = XMP
    options = {".png": {"pnginfo": text}, ".jpg": {"comment": b"a comment", "xmp": XMP}, ".tif": {}, ".webp": {"xmp": XMP}}
    Image.fromarray(RGB).save(path, exif=tags, dpi=(300, 300), **options[path.suffix])
    return path


@pytest.mark.parametrize("target", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".tif", ".webp"])
def test_what_is_written_about_a_picture_is_kept_or_its_loss_is_said(tmp_path, source, target):
    got = picture.read(with_everything(tmp_path / f"a{source}"))
    remarks = picture.write(tmp_path / f"b{target}", Image.fromarray(RGB), got.profile, got.exif, got.extras)
    again = picture.read(tmp_path / f"b{target}")
    exif = Image.Exif()
    exif.load(again.exif)
    assert exif[MAKER] == "a maker"         # a TIFF's too, which has no orientation
    special = {".png": {"dpi", "text"}, ".jpg": {"dpi", "comment"}, ".tif": {"dpi"}, ".webp": set()}
    assert got.extras.keys() == special[source] | {"xmp"}
    for words, name in ABOUT.items():
        if name in got.extras:
            said = any(words in remark for remark in remarks)
            value = again.extras.get(name) or again.extras.get("text", {}).get("Comment", "").encode()
            same = value and (np.allclose(np.array(value, float), 300, atol=0.1) if name == "dpi" else value == got.extras[name])
            assert bool(same) != said, (name, value, remarks)


def test_other_losses_are_said(tmp_path):
    levels = np.array([[1000, 2000]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png", transparency=1000)
    got = picture.read(tmp_path / "a.png")
    assert got.mode == "I;16" and got.alpha is None and "transparency was lost" in got.remarks[0]
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    assert "CMYK" in picture.read(tmp_path / "a.jpg").remarks[0]


def test_a_picture_of_somebody_elses_is_not_changed():
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    given = Image.fromarray(RGB)
    given.info["exif"] = tags.tobytes()
    for _ in range(2):
        assert picture.from_image(given).pixels.shape[:2] == (40, 24)


def test_broken_files_are_image_errors(tmp_path):
    (tmp_path / "a.png").write_bytes(save(tmp_path / "b.png", RGB).read_bytes()[:500])
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "c.tif")
    for name, words in (("a.png", "truncated"), ("c.tif", "8 or 16 bits"), ("d.png", "no such file")):
        with pytest.raises(images.ImageError, match=f"{name}.*{words}"):
            picture.read(tmp_path / name)


# What nobody sees

def test_hidden_colours_come_from_their_visible_neighbours():
    pixels = np.zeros((9, 7, 3), np.uint8)      # hidden: black
    alpha = np.zeros((9, 7), np.uint8)
    pixels[4, 3], alpha[4, 3] = (200, 100, 50), 1
    pixels[4, 4], alpha[4, 4] = (200, 100, 50), 255
    filled = picture.without_fringes(pixels, alpha)
    assert filled.dtype == np.uint8 and (filled == (200, 100, 50)).all()
    row, visible = np.zeros((1, 64, 1), np.uint8), np.zeros((1, 64), np.uint8)
    row[:, :3], row[:, -3:], visible[:, :3], visible[:, -3:] = 10, 90, 255, 255
    filled = picture.without_fringes(row, visible)[0, :, 0]
    assert (filled[:16] == 10).all() and (filled[-16:] == 90).all()


def test_visible_colours_stay_as_they_are():
    assert np.array_equal(picture.without_fringes(RGB, ALPHA)[ALPHA > 0], RGB[ALPHA > 0])
    assert not picture.without_fringes(RGB, np.zeros_like(ALPHA)).any()         # nothing is visible: no matter, but no warning


# Writing

MODES = {"L": GREY, "LA": np.dstack([GREY, ALPHA]), "RGB": RGB, "RGBA": np.dstack([RGB, ALPHA]),
         "I;16": GREY.astype(np.uint16) * 200}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_png_and_tiff_hold_every_kind(tmp_path, mode, suffix):
    assert picture.write(tmp_path / f"a.{suffix}", Image.fromarray(MODES[mode])) == []
    with Image.open(tmp_path / f"a.{suffix}") as back:
        assert back.mode == mode and np.array_equal(np.asarray(back), MODES[mode])


@pytest.mark.parametrize("name, mode, written, remark", [
    ("a.jpg", "L", "L", None), ("a.JPEG", "RGB", "RGB", None), ("a.jpg", "RGBA", "RGB", "filled with white"),
    ("a.jpg", "LA", "L", "filled with white"), ("a.jpg", "I;16", "L", "reduced to 8"), ("a.webp", "L", "RGB", None),
    ("a.webp", "RGBA", "RGBA", None), ("a.webp", "LA", "RGBA", None), ("a.webp", "I;16", "RGB", "reduced to 8")])
def test_what_other_formats_hold(tmp_path, name, mode, written, remark):
    remarks = picture.write(tmp_path / name, Image.fromarray(MODES[mode]))
    assert len(remarks) == (remark is not None) and all(remark in text for text in remarks)
    with Image.open(tmp_path / name) as back:
        assert back.mode == written


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.zeros((16, 32, 4), np.uint8)
    rgba[:, :16] = 200, 30, 30, 255
    picture.write(tmp_path / "a.jpg", Image.fromarray(rgba))
    back = images.read(tmp_path / "a.jpg").astype(int)
    assert np.abs(back[:, :8] - (200, 30, 30)).max() < 8 and back[:, 24:].min() > 247


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_profile_and_exif_are_written(tmp_path, suffix):
    tags = Image.Exif()
    tags[MAKER] = "a maker"
    assert picture.write(tmp_path / f"a.{suffix}", Image.fromarray(RGB), SRGB, tags.tobytes()) == []
    with Image.open(tmp_path / f"a.{suffix}") as back:
        assert back.info["icc_profile"] == SRGB and back.getexif()[MAKER] == "a maker"


@pytest.mark.parametrize("name, mode, profile, kept", [
    ("a.png", "L", GREY_PROFILE, True), ("a.png", "I;16", GREY_PROFILE, True), ("a.png", "LA", GREY_PROFILE, True),
    ("a.png", "RGBA", SRGB, True), ("a.png", "L", SRGB, False), ("a.png", "RGB", GREY_PROFILE, False),
    ("a.webp", "L", GREY_PROFILE, False), ("a.png", "RGB", b"no profile", False)])
def test_a_profile_is_kept_where_it_is_for_such_pixels(tmp_path, name, mode, profile, kept):
    remarks = picture.write(tmp_path / name, Image.fromarray(MODES[mode]), profile)
    with Image.open(tmp_path / name) as back:
        assert (back.info.get("icc_profile") == profile) == kept
    assert bool(remarks) != kept


def test_formats_that_are_unknown_or_too_small_are_user_errors():
    picture.require_format("a.webp", 16_383, 16_383)
    for name, width, words in (("a.webp", 16_384, "16384x9 .* 16383"), ("a.jpg", 70_000, "65500"),
                               ("a.gif", 9, "end the name in"), ("a", 9, "end the name in")):
        with pytest.raises(UserError, match=words):
            picture.require_format(name, width, 9)
