"""Degradation, folders, dead leaves and batches: aligned, deterministic, distinct, and deaf to broken files."""
import gc
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npsrgan import images
from npsrgan.data import Batches, DeadLeaves, ImageFolder, degrade, downscale, patch_pair, split, upscale, validation_pairs
from npsrgan.data.dead_leaves import _power_law_noise, _radii, draw
from npsrgan.metrics import luma
from npsrgan.system.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (83, 107, 3)).astype(np.uint8)


class Memory:
    """A source of given images; image i is called 'i'."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def name(self, index):
        return str(index)

    def load(self, index):
        if self.pictures[index] is None:
            raise images.ImageError(f"{index} is broken")
        return self.pictures[index]


def flat(n, size=32):
    """n images, image i uniformly of level i: what a patch was cut from can be read off it."""
    return [np.full((size, size, 3), i, np.uint8) for i in range(n)]


def origins(patches):
    """The images of `flat` that patches come from."""
    return patches[:, 0, 0, 0].tolist()


def noise(n, height=40, width=48):
    return list(np.random.default_rng(3).integers(0, 256, (n, height, width, 3)).astype(np.uint8))


# Degradation

def test_downscale_is_pil_bicubic_of_the_part_that_divides():
    expected = Image.fromarray(NOISE[:80, :104].copy()).resize((26, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(downscale(NOISE, 4), np.asarray(expected))


def test_upscale_is_pil_bicubic():
    assert np.array_equal(upscale(NOISE, 2), np.asarray(Image.fromarray(NOISE).resize((214, 166), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_patch_is_a_crop_of_the_whole_image_downscaled(scale):
    whole, p = downscale(NOISE, scale), 7
    height, width = whole.shape[:2]
    for top in {0, 1, 2, 5, height - p - 1, height - p}:
        for left in {0, 1, 2, 5, width - p - 1, width - p}:
            lr, hr = patch_pair(NOISE, top, left, p, scale)
            assert np.array_equal(lr, whole[top:top + p, left:left + p])
            assert np.array_equal(hr, NOISE[scale * top:scale * (top + p), scale * left:scale * (left + p)])


def test_a_patch_may_be_the_whole_image():
    lr, hr = patch_pair(NOISE[:80, :80], 0, 0, 20, 4)
    assert np.array_equal(lr, downscale(NOISE[:80, :80], 4)) and np.array_equal(hr, NOISE[:80, :80])


# Folders

@pytest.fixture
def folder(tmp_path):
    """Good images of every kind, bad files of every kind, and files that are nobody's business."""
    good = tmp_path / "good"
    (good / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "zz").mkdir()
    picture = Image.fromarray(NOISE[:48, :64].copy())
    tags = Image.Exif()
    tags[0x0112] = 6
    picture.save(good / "rgb.png")
    picture.save(good / "B.JPG")
    picture.save(good / "turned.jpeg", exif=tags)
    picture.convert("P").save(good / "deep" / "palette.png")
    picture.convert("L").save(good / "deep" / "er" / "grey.bmp")
    picture.convert("RGBA").save(good / "deep" / "rgba.webp", lossless=True)
    picture.save(good / "a.tiff")
    picture.save(tmp_path / ".hidden" / "h.png")
    picture.save(good / ".h.png")
    (good / "notes.txt").write_text("not an image")
    (tmp_path / "zz" / "text.png").write_text("not an image either")
    (tmp_path / "zz" / "truncated.png").write_bytes((good / "rgb.png").read_bytes()[:900])
    Image.fromarray(NOISE[:12, :64].copy()).save(tmp_path / "zz" / "tiny.png")
    return tmp_path


GOOD = ["good/B.JPG", "good/a.tiff", "good/deep/er/grey.bmp", "good/deep/palette.png", "good/deep/rgba.webp", "good/rgb.png",
        "good/turned.jpeg"]
BAD = ["zz/text.png", "zz/tiny.png", "zz/truncated.png"]


def test_a_folder_is_searched_in_depth_and_sorted(folder):
    source = ImageFolder(folder)
    assert [source.name(i) for i in range(len(source))] == GOOD + BAD
    assert np.array_equal(source.load(GOOD.index("good/rgb.png")), NOISE[:48, :64])
    assert source.load(GOOD.index("good/turned.jpeg")).shape == (64, 48, 3)
    with pytest.raises(images.ImageError, match="text.png"):
        source.load(len(GOOD))


def test_decoded_images_are_kept_up_to_the_given_size(folder):
    size = NOISE[:48, :64].nbytes
    for cache, kept in [(size - 1, 0), (size, 1), (2 * size, 2)]:
        source = ImageFolder(folder, GOOD, cache)
        same = sum(source.load(i) is source.load(i) for i in (GOOD.index("good/rgb.png"), GOOD.index("good/deep/palette.png")))
        assert same == kept
    assert source.load(GOOD.index("good/rgb.png")).flags.writeable is False       # nobody may spoil what others will get


def test_what_is_no_folder_of_images_is_a_user_error(tmp_path):
    (tmp_path / "file.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, sentence in [("nowhere", "no such folder"), ("file.png", "is a file"), ("empty", "holds no image")]:
        with pytest.raises(UserError, match=sentence):
            ImageFolder(tmp_path / name)


def test_split_follows_names_and_additions_move_nobody():
    few, many = (ImageFolder("anywhere", [f"{i:06d}.jpg" for i in range(n)]) for n in (3000, 4000))
    (train, val), (train_more, val_more) = split(few, 0.1), split(many, 0.1)
    assert sorted(train.names + val.names) == few.names and 250 < len(val) < 350
    assert set(train.names) <= set(train_more.names) and set(val.names) <= set(val_more.names)
    assert val.root == few.root and val.names == sorted(val.names)
    (fewer_train, fewer_val) = split(many, 0.1, most=250)
    assert 150 < len(fewer_val) < 250 and set(fewer_val.names) < set(val_more.names) and len(fewer_train) + len(fewer_val) == 4000


def test_split_of_few_images_leaves_one_on_either_side():
    for n in (2, 3, 5):
        for fraction in (0, 0.01, 1):
            train, val = split(ImageFolder("anywhere", [f"{i}.jpg" for i in range(n)]), fraction)
            assert len(train) >= 1 and len(val) >= 1 and len(train) + len(val) == n
    with pytest.raises(UserError, match="--val"):
        split(ImageFolder("anywhere", ["a.jpg"]))


# Dead leaves

def test_dead_leaves_depend_on_seed_and_index_only():
    source = DeadLeaves(3, 64, seed=5)
    assert len(source) == 3 and len({source.name(i) for i in range(3)}) == 3
    assert np.array_equal(source.load(2), draw(64, 5, 2)) and source.load(2).shape == (64, 64, 3)
    assert np.array_equal(DeadLeaves(1, 64, seed=5).load(0), source.load(0))
    assert not np.array_equal(draw(64, 5, 0), draw(64, 5, 1)) and not np.array_equal(draw(64, 5, 0), draw(64, 6, 0))


def test_dead_leaves_look_like_photographs():
    """Spectrum near 1/f^2, heavy-tailed differences, contrast, and less colour than light.

    400 photographs of 192x192 pixels (BSDS500): exponent 2.4, kurtosis 13, standard deviation 43.
    """
    pictures = [draw(192, 0, i) for i in range(16)]
    window = np.hanning(192)[:, None] * np.hanning(192)
    f = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192))
    low, high = (f > 0.02) & (f < 0.04), (f > 0.16) & (f < 0.32)
    lights = [luma(picture) for picture in pictures]
    power = [abs(np.fft.fft2((y - y.mean()) * window)) ** 2 for y in lights]
    exponent = np.mean([np.log(s[low].mean() / s[high].mean()) / np.log(8) for s in power])
    differences = [np.diff(y, axis=1) for y in lights]
    kurtosis = np.median([(d**4).mean() / (d**2).mean() ** 2 for d in differences])
    assert 2 < exponent < 3.2 and kurtosis > 8 and 30 < np.mean([y.std() for y in lights]) < 55
    r, g, b = np.stack(pictures).reshape(-1, 3).T.astype(float)
    assert (r - g).std() < (r / 2 + g / 2 - b).std() < (r + g + b).std() / 3


def test_leaves_have_the_density_of_every_zoom():
    """r^-3: a quarter as many leaves in each octave of radii, once those that fall beside the picture are counted in."""
    radii = np.concatenate([_radii(np.random.default_rng(i), 2, 128, 256) for i in range(20)])
    counts, _ = np.histogram(radii, [2, 4, 8, 16, 32], weights=1 / (256 + 2 * radii) ** 2)
    assert radii.min() >= 2 and radii.max() <= 128 and np.allclose(counts[1:] / counts[:-1], 1 / 4, atol=0.03)


def test_noise_has_no_mean_and_a_power_law():
    texture = _power_law_noise(np.random.default_rng(0), 64)
    power = abs(np.fft.fft2(texture)) ** 2
    assert texture.dtype == np.float32 and abs(texture.mean()) < 1e-6 and texture.std() == pytest.approx(1, abs=1e-5)
    assert power[0, 2] / power[0, 16] == pytest.approx(64, rel=1e-3) and power[3, 2] / power[24, 16] == pytest.approx(64, rel=1e-3)


# Batches

def test_a_batch_is_uint8_in_full_range_and_its_own_function_of_seed_and_step():
    source = Memory(noise(9))
    lr, hr = Batches(source, 4, 6, seed=1).batch(7)
    assert lr.shape == (4, 6, 6, 3) and hr.shape == (4, 24, 24, 3) and lr.dtype == hr.dtype == np.uint8
    assert lr.flags.c_contiguous and hr.flags.c_contiguous and hr.min() < 13 and hr.max() > 242
    other = Batches(source, 4, 6, seed=1)
    other.batch(0)      # whatever was asked before
    again = other.batch(7)
    assert np.array_equal(lr, again[0]) and np.array_equal(hr, again[1])
    assert not np.array_equal(lr, other.batch(8)[0]) and not np.array_equal(lr, Batches(source, 4, 6, seed=2).batch(7)[0])


def test_every_patch_of_a_batch_comes_from_another_image_and_an_epoch_takes_each_once():
    batches = Batches(Memory(flat(23)), 5, 4)
    assert batches.steps_per_epoch == 4
    epochs = [[origins(batches.batch(epoch * 4 + k)[0]) for k in range(4)] for epoch in range(3)]
    for epoch in epochs:
        assert len({image for batch in epoch for image in batch}) == 20
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_recomputed_by_hand():
    """The documented draws: order from (0, seed, epoch); crop, flip and quarter turns from (1, seed, step, sample)."""
    pictures, seed, step, p = noise(10), 3, 8, 6
    lr, hr = Batches(Memory(pictures), 3, p, seed=seed).batch(step)
    order = np.random.default_rng([0, seed, step // 3]).permutation(10)
    for sample in range(3):
        picture = pictures[order[step % 3 * 3 + sample]]
        rng = np.random.default_rng([1, seed, step, sample])
        top, left, flip, turns = rng.integers(40 // 4 - p + 1), rng.integers(48 // 4 - p + 1), rng.integers(2), rng.integers(4)
        small = downscale(picture, 4)[top:top + p, left:left + p]
        large = picture[4 * top:4 * (top + p), 4 * left:4 * (left + p)]
        if flip:
            small, large = np.fliplr(small), np.fliplr(large)
        assert np.array_equal(lr[sample], np.rot90(small, turns))
        assert np.array_equal(hr[sample], np.rot90(large, turns))


def test_flips_and_turns_are_drawn_for_each_sample():
    """A picture with four different corners: all eight symmetries occur about equally, several of them in one batch."""
    corners = np.zeros((32, 32, 3), np.uint8)
    corners[:16, 16:], corners[16:, :16], corners[16:, 16:] = 60, 120, 240
    batches = Batches(Memory([corners] * 16), 16, 8)
    seen = [[tuple(hr[[2, 2, 29, 29], [2, 29, 2, 29], 0]) for hr in batches.batch(step)[1]] for step in range(40)]
    counts = {symmetry: sum(batch.count(symmetry) for batch in seen) for batch in seen for symmetry in batch}
    assert len(counts) == 8 and all(50 < n < 110 for n in counts.values())      # 80 each expected, standard deviation 8.4
    assert all(len(set(batch)) >= 3 for batch in seen)


def test_crops_reach_every_corner_of_the_image():
    y, x = np.mgrid[:44, :52]
    batches = Batches(Memory([np.stack([y, x, 0 * x], 2).astype(np.uint8)] * 16), 16, 6)
    corners = [hr.reshape(-1, 3).min(0)[:2] for step in range(40) for hr in batches.batch(step)[1]]
    assert {tuple(c) for c in np.array(corners) // 4} == {(i, j) for i in range(6) for j in range(8)}


def test_low_and_high_resolution_stay_aligned_through_the_augmentation():
    source = DeadLeaves(8, 96)
    lr, hr = Batches(source, 8, 12).batch(0)
    for small, large in zip(lr, hr):
        inside = np.abs(downscale(large, 4).astype(int) - small)[3:-3, 3:-3]
        assert inside.max() <= 2        # rounding between the passes; exactly equal but for the turn


def test_fewer_images_than_the_batch_repeat_and_say_so_once():
    said = []
    batches = Batches(Memory(flat(3)), 8, 4, report=said.append)
    for step in range(4):
        taken = origins(batches.batch(step)[0])
        assert sorted(taken.count(i) for i in range(3)) == [2, 3, 3]
    assert len(said) == 1 and "3 usable images for batches of 8" in said[0]


# Broken files

def test_broken_files_are_replaced_named_once_and_counted(folder):
    said = []
    batches = Batches(ImageFolder(folder), 4, 8, report=said.append)
    first = [batches.batch(step) for step in range(6)]
    assert sorted(batches.skipped) == BAD and len(said) == 3
    for name, word in zip(BAD, ["known kind", "64x12 pixels", "truncated"]):
        assert word in batches.skipped[name] and sum(name in sentence for sentence in said) == 1
    again = Batches(ImageFolder(folder), 4, 8, report=said.append)
    for step in (5, 0, 3):      # knowing the broken files or not makes no difference
        assert all(np.array_equal(a, b) for a, b in zip(first[step], again.batch(step)))


def test_replacements_are_the_images_that_follow_and_stay_distinct():
    pictures = flat(20)
    order = np.random.default_rng([0, 0, 0]).permutation(20)
    for position in (0, 2, 18, 19):
        pictures[order[position]] = None
    batches = Batches(Memory(pictures), 4, 4, report=lambda sentence: None)
    assert origins(batches.batch(0)[0]) == [order[i] for i in (1, 3, 4, 5)]
    assert origins(batches.batch(4)[0]) == [order[i] for i in (16, 17, 1, 3)]      # around the end of the epoch's order


def test_the_default_report_goes_to_stderr(capsys):
    Batches(Memory([None, *flat(4)[1:]]), 4, 4).batch(0)
    assert "skipped: 0 is broken" in capsys.readouterr().err


@pytest.mark.parametrize("pictures, words", [
    ([NOISE[:12, :80], NOISE[:80, :12]] * 3, ["all 6 images are too small", "32 pixels", "--patch-size"]),
    ([None] * 5, ["none of 5", "5 cannot be read", "is broken"]),
    ([None, NOISE[:12, :80]], ["none of 2", "1 cannot be read, 1 are too small", "is broken"]),
    ([], ["no images"])])
def test_no_usable_image_at_all_is_a_user_error_that_says_why(pictures, words):
    batches = Batches(Memory(pictures), 4, 8, report=lambda sentence: None)
    for ask in (lambda: batches.batch(0), lambda: next(batches.ahead_from(0))):
        with pytest.raises(UserError) as error:
            ask()
        assert all(word in str(error.value) for word in words)


# Ahead of time

@pytest.mark.parametrize("workers, ahead", [(1, 1), (2, 4), (5, 0), (None, 50)])
def test_batches_ahead_of_time_are_the_same_bits_in_order(folder, workers, ahead):
    said = []
    batches = Batches(ImageFolder(folder), 4, 8, workers=workers, ahead=ahead, report=said.append)
    expected = Batches(ImageFolder(folder), 4, 8, report=lambda sentence: None)
    steps = []
    for step, lr, hr in batches.ahead_from(2, 12):
        steps.append(step)
        assert all(np.array_equal(a, b) for a, b in zip((lr, hr), expected.batch(step)))
    assert steps == list(range(2, 12)) and len(said) == 3
    assert list(batches.ahead_from(5, 5)) == []


def preparing():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_threads_work_ahead_while_the_batch_is_used_and_no_farther():
    loads = []

    class Counting(Memory):
        def load(self, index):
            loads.append(index)
            return super().load(index)
    with closing(Batches(Counting(flat(64)), 4, 4, workers=2, ahead=3).ahead_from(0)) as stream:
        next(stream)
        deadline = time.monotonic() + 30
        while len(loads) < 16 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(loads) == 16         # the batch in use and three ahead


@pytest.mark.parametrize("end", ["close", "drop", "exhaust", "error"])
def test_threads_end_with_the_iterator(end):
    def interrupted(stream):
        for _ in stream:
            raise KeyboardInterrupt
    stream = Batches(Memory(noise(8)), 4, 6, ahead=20).ahead_from(0, 30 if end == "exhaust" else None)
    next(stream)
    assert preparing()
    if end == "close":
        stream.close()
    elif end == "exhaust":
        assert len(list(stream)) == 29
    elif end == "error":
        with pytest.raises(KeyboardInterrupt):
            interrupted(stream)
    del stream
    gc.collect()
    assert not preparing()


def test_an_error_in_a_thread_is_raised_where_the_batch_is_used():
    class Defective(Memory):
        def load(self, index):
            if index == 5:
                raise ZeroDivisionError("a bug")
            return super().load(index)
    batches = Batches(Defective(flat(8)), 4, 4, workers=2)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(batches.ahead_from(0, 4))
    assert not preparing()


def test_a_process_interrupted_in_the_middle_ends():
    code = ("import numpy as np\nfrom npsrgan.data import Batches, DeadLeaves\n"
            "for step, lr, hr in Batches(DeadLeaves(4, 64), 4, 8).ahead_from(0):\n    if step == 3: raise KeyboardInterrupt")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode != 0


# Validation

def test_photo_keeps_size_place_and_colour_and_follows_from_its_generator():
    """The strengths are drawn, so many draws together: their mean is the clean small image, whose edges alone are softer."""
    ramp = np.broadcast_to(np.linspace(40, 210, 96)[:, None, None] * [1, 0.8, 0.6], (96, 88, 3)).astype(np.uint8)
    draws = np.stack([degrade.photo(ramp, 4, np.random.default_rng(seed)) for seed in range(60)]).astype(float)
    assert draws.shape == (60, 24, 22, 3)
    assert np.abs(draws.mean(0) - downscale(ramp, 4))[2:-2].max() < 3
    noise = (draws - draws.mean((2,), keepdims=True)).std((1, 2, 3))
    assert noise.min() < 1.5 and 3 < noise.max() < 9
    again = degrade.photo(ramp, 4, np.random.default_rng(7))
    assert np.array_equal(again, draws[7]) and not np.array_equal(draws[7], draws[8])


@pytest.mark.parametrize("top, left", [(0, 0), (5, 17), (9, 26)])
def test_a_photos_patch_lies_where_its_original_does(top, left):
    """Of a bright square on black the small patch is bright where the large one is, blur and JPEG notwithstanding."""
    image = np.zeros((200, 240, 3), np.uint8)
    image[60:120, 96:160] = 230
    for seed in range(10):
        lr, hr = patch_pair(image, top, left, 24, 4, np.random.default_rng(seed))
        assert lr.shape == (24, 24, 3) and np.array_equal(hr, image[4 * top:4 * top + 96, 4 * left:4 * left + 96])
        clean = downscale(hr, 4)
        assert np.abs(lr.astype(float) - clean)[(clean > 229) | (clean < 1)].mean() < 14


def test_photo_patches_in_batches_and_pairs():
    clean, found = (Batches(Memory([NOISE] * 3), 3, 8, photo=photo) for photo in (False, True))
    for step in range(2):
        (lr, hr), (photo_lr, photo_hr) = clean.batch(step), found.batch(step)
        assert np.array_equal(hr, photo_hr) and not np.array_equal(lr, photo_lr)
        assert all(map(np.array_equal, found.batch(step), (photo_lr, photo_hr)))
    (_, lr, hr), = validation_pairs(Memory([NOISE]), 4, photo=True)
    assert np.array_equal(lr, degrade.photo(NOISE, 4, degrade.seeded_by("0"))) and hr.shape[0] == 4 * lr.shape[0]


def test_validation_pairs_are_whole_images_cut_to_the_scale():
    (name, lr, hr), = validation_pairs(Memory([NOISE]), 4)
    assert name == "0" and np.array_equal(hr, NOISE[:80, :104]) and np.array_equal(lr, downscale(NOISE, 4))


def test_validation_pairs_are_an_even_choice():
    chosen = [int(name) for name, _, _ in validation_pairs(Memory(flat(100)), 4, count=8)]
    assert len(chosen) == 8 and set(np.diff(chosen)) <= {12, 13}
    assert [int(name) for name, _, _ in validation_pairs(Memory(flat(5)), 4, count=8)] == [0, 1, 2, 3, 4]


def test_broken_validation_images_are_reported_and_none_at_all_is_a_user_error():
    said = []
    pairs = validation_pairs(Memory([None, NOISE, NOISE[:20]]), 4, report=said.append)
    assert [name for name, _, _ in pairs] == ["1"] and len(said) == 2 and "broken" in said[0] and "107x20" in said[1]
    with pytest.raises(UserError, match="none of 2 validation images"):
        list(validation_pairs(Memory([None, None]), 4, report=said.append))


def test_several_threads_may_be_the_first_to_load_the_photograph():
    """Two threads that import Matplotlib's modules at once may each wait for the other; then one goes on with half a module."""
    code = ("import sys\nfrom concurrent.futures import ThreadPoolExecutor\nfrom npsrgan.data import Photograph\n"
            "sys.setswitchinterval(1e-5)\n"
            "with ThreadPoolExecutor(8) as pool: print({p.shape for p in pool.map(Photograph().load, range(8))})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "{(600, 512, 3)}", done.stderr[-1000:]
