"""Zip archives, packs and CelebA's list: the same images as in the folder, wherever they are, and nothing lost on the way."""
import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from runs import arguments, differences, outcome, status

from npsrgan import images
from npsrgan.data import Batches, ImageFolder, by_partition, open_images, split
from npsrgan.data import __main__ as data
from npsrgan.data import pack as packing
from npsrgan.data.archive import ImageArchive
from npsrgan.data.pack import Pack, pack
from npsrgan.evaluate import __main__ as evaluate
from npsrgan.system.errors import UserError
from npsrgan.train import __main__ as train
from npsrgan.train.settings import parse

NAMES = ["000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg", "sub/000005.png", "sub/000006.png"]


@pytest.fixture
def celeba(tmp_path):
    """A folder of images, one of them in another orientation, and a zip archive of it beside it."""
    rng, folder = np.random.default_rng(0), tmp_path / "img_align_celeba"
    (folder / "sub").mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    for index, name in enumerate(NAMES):
        picture = Image.fromarray(rng.integers(0, 256, (10, 12 + index, 3), np.uint8)).resize((48 + 4 * index, 40))
        picture.save(folder / name, **({"exif": turned} if index == 2 else {}))
    zipped(folder)
    return folder


def zipped(folder, compression=zipfile.ZIP_DEFLATED):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.mkdir(folder.name)
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder.parent))
    return path


def run(*words):
    """The exit status of python -m npsrgan.data."""
    try:
        return data.main([*map(str, words)])
    except SystemExit as end:
        return end.code


def packed(folder):
    path = folder.with_suffix(".pack")
    assert pack(open_images(folder), path) == 0
    return path


def same(mine, theirs):
    return mine.names == theirs.names and all(np.array_equal(mine.load(i), theirs.load(i)) for i in range(len(theirs)))


# The same images everywhere

@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_folder_archive_and_pack_hold_the_same(celeba, compression):
    folder, archive, pixels = open_images(celeba), open_images(zipped(celeba, compression)), open_images(packed(celeba))
    assert [type(source) for source in (folder, archive, pixels)] == [ImageFolder, ImageArchive, Pack]
    assert folder.names == NAMES and folder.load(2).shape == (56, 40, 3)
    for source in (archive, pixels):
        assert same(source, folder) and source.contents() == folder.contents()
        assert source.load(0).flags.writeable is False and source.name(5) == NAMES[5]
        for mine, theirs in zip(split(source, 0.3), split(folder, 0.3)):
            assert same(mine, theirs) and mine.contents() == theirs.contents()
    batches = [Batches(source, 4, 8).batch(1) for source in (folder, archive, pixels)]
    assert all(np.array_equal(mine, theirs) for other in batches[1:] for mine, theirs in zip(other, batches[0]))


def test_training_is_the_same_bits_from_each_and_goes_on_from_another(celeba, tiny, tmp_path):
    def trained(name):
        return {key: value for key, value in outcome(tmp_path / name).items() if key == "log.csv" or isinstance(value, tuple)}

    sources = {"folder": celeba, "archive": celeba.with_suffix(".zip"), "pack": packed(celeba)}
    for name, path in sources.items():
        assert tiny(tmp_path / name, data=path, val=path, val_count=2, final_count=1, batch_size=2, steps=2, gan_steps=0) == 0
        assert differences(trained("folder"), trained(name)) == []
    assert tiny(tmp_path / "half", data=celeba, val=celeba, val_count=2, final_count=1, batch_size=2, steps=1, gan_steps=0) == 0
    assert status(arguments(None, tmp_path / "half", "--resume", data=sources["pack"], val=sources["archive"], steps=2)) == 0
    assert differences(trained("folder"), trained("half")) == [] and len(trained("half")["log.csv"]) == 2


# Archives

def test_an_archive_is_searched_as_a_folder_is(tmp_path, capsys):
    picture = Image.fromarray(np.zeros((40, 48, 3), np.uint8))
    picture.save(tmp_path / "good.png")
    (tmp_path / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("top/b/x.png", "top/a.PNG", "top/.hidden.png", "__MACOSX/top/._a.png", "top/without suffix"):
            archive.write(tmp_path / "good.png", name)
        archive.write(tmp_path / "notes.txt", "top/notes.txt")
    found = open_images(tmp_path / "a.zip")
    assert found.names == ["a.PNG", "b/x.png", "without suffix"] and all(found.load(i).shape == (40, 48, 3) for i in range(3))
    assert "3 other files left out: " in capsys.readouterr().out


def test_decoded_images_of_an_archive_are_kept_up_to_the_given_size(celeba):
    archive = open_images(celeba.with_suffix(".zip"), cache=open_images(celeba).load(1).nbytes)
    assert archive.load(1) is archive.load(1) and archive.load(3) is not archive.load(3)
    assert archive.subset(NAMES[1:2]).load(0) is archive.load(1)


def test_threads_may_read_one_archive(celeba):
    archive, folder = open_images(celeba.with_suffix(".zip")), open_images(celeba)
    expected = [folder.load(i) for i in range(len(folder))]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda k: np.array_equal(archive.load(k % 6), expected[k % 6]), range(300)))


def test_a_bad_image_in_an_archive_is_an_image_error_that_names_it(celeba):
    (celeba / "text.png").write_text("no image")
    path = zipped(celeba, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as archive:
        torn, locked = (archive.getinfo(f"img_align_celeba/{name}") for name in NAMES[:2])
    content = bytearray(path.read_bytes())
    content[torn.header_offset + 300] ^= 1                              # its checksum will not match
    central = content.rindex(locked.filename.encode())
    content[central - 46 + 8] |= 1                                      # said to be encrypted
    path.write_bytes(content)
    archive = open_images(path)
    for name, words in [(NAMES[0], "Bad CRC-32"), (NAMES[1], "encrypted"), ("text.png", "not an image of a known kind")]:
        with pytest.raises(images.ImageError, match=re.escape(f"img_align_celeba.zip/{name}") + ".*" + words):
            archive.load(archive.names.index(name))
    said = []
    assert Batches(archive, 2, 8, report=said.append).batch(0)[1].shape == (2, 32, 32, 3)
    assert all(np.array_equal(archive.load(i), open_images(celeba).load(i)) for i in (2, 3))


def test_what_is_neither_folder_nor_archive_nor_pack_is_a_user_error(celeba, tmp_path):
    (tmp_path / "file.jpg").write_bytes((celeba / NAMES[0]).read_bytes())
    (tmp_path / "half.zip").write_bytes(celeba.with_suffix(".zip").read_bytes()[:3000])
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("a.txt", "no image")
    for name, words in [("file.jpg", "a complete zip archive"), ("half.zip", "a complete zip archive"), ("nowhere", "no such folder"),
                        ("texts.zip", "holds no image")]:
        with pytest.raises(UserError, match=words):
            open_images(tmp_path / name)


# Packs

def test_a_bad_image_does_not_end_the_packing_and_is_reported(celeba, tmp_path, capsys):
    (celeba / "000000.jpg").write_bytes((celeba / NAMES[0]).read_bytes()[:500])
    assert run("pack", celeba, tmp_path / "faces.pack") == 2
    printed = capsys.readouterr().out
    assert "left out: " in printed and "000000.jpg" in printed and "1 of 7 images could not be read" in printed
    assert same(open_images(tmp_path / "faces.pack"), ImageFolder(celeba, NAMES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.pack", "img_align_celeba", "img_align_celeba.zip"]


class Interrupted(ImageFolder):
    """A folder in which reading image `at` is interrupted.  `loaded`: what was read."""

    def __init__(self, root, at=None):
        super().__init__(root)
        self.at, self.loaded = at, []

    def load(self, index):
        if index == self.at:
            raise KeyboardInterrupt
        self.loaded.append(index)
        return super().load(index)


@pytest.mark.parametrize("damage", ["", "torn pixels", "torn journal", "wrong pixels"])
def test_an_interrupted_packing_goes_on_where_it_was_intact(celeba, tmp_path, damage):
    path, partial, journal = (tmp_path / f"faces.pack{suffix}" for suffix in ("", ".partial", ".journal"))
    with pytest.raises(KeyboardInterrupt):
        pack(Interrupted(celeba, 4), path)
    assert partial.exists() and not path.exists()
    sizes = [open_images(celeba).load(i).nbytes for i in range(4)]
    assert partial.stat().st_size == sum(sizes)
    content = bytearray(partial.read_bytes())
    if damage == "torn pixels":
        partial.write_bytes(content[:-1])
    elif damage == "torn journal":
        journal.write_text(journal.read_text()[:-3])
    elif damage == "wrong pixels":
        content[sizes[0] + 7] ^= 1
        partial.write_bytes(content)
    source = Interrupted(celeba)
    assert pack(source, path) == 0
    assert sorted(source.loaded) == list(range({"": 4, "wrong pixels": 1}.get(damage, 3), 6))
    assert same(open_images(path), open_images(celeba)) and not partial.exists() and not journal.exists()


def test_two_processes_do_not_pack_the_same_file(celeba, tmp_path):
    """The second is refused at every moment of the first's work, and the first's pack is whole."""
    path, refused = tmp_path / "faces.pack", []

    class Watched(ImageFolder):
        def load(self, index):
            with pytest.raises(UserError, match="another process is writing to .*faces.pack.partial: wait"):
                pack(ImageFolder(celeba), path)
            refused.append(index)
            return super().load(index)
    assert pack(Watched(celeba), path) == 0
    assert sorted(refused) == list(range(6)) and same(open_images(path), open_images(celeba))
    pack(open_images(celeba), tmp_path / "again.pack")        # the lock is gone with the process's work


def test_other_images_start_another_packing(celeba, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack(Interrupted(celeba, 4), tmp_path / "faces.pack")
    (celeba / NAMES[3]).unlink()
    assert pack(open_images(celeba), tmp_path / "faces.pack") == 0
    assert same(open_images(tmp_path / "faces.pack"), open_images(celeba))


def test_a_pack_is_read_back_before_it_is_called_done(celeba, tmp_path, monkeypatch):
    """A disk that returns other bytes than were written."""
    intact, partial = packing._intact, tmp_path / "faces.pack.partial"

    def spoiled(*args):
        if partial.stat().st_size:
            content = bytearray(partial.read_bytes())
            content[-9] ^= 1
            partial.write_bytes(content)
        return intact(*args)
    monkeypatch.setattr(packing, "_intact", spoiled)
    with pytest.raises(UserError, match="does not hold what was written from image 5 on"):
        pack(open_images(celeba), tmp_path / "faces.pack")
    monkeypatch.setattr(packing, "_intact", intact)
    assert pack(open_images(celeba), tmp_path / "faces.pack") == 0 and same(open_images(tmp_path / "faces.pack"), open_images(celeba))


def test_what_cannot_be_packed_is_one_sentence(celeba, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    (tmp_path / "there").write_text("mine")
    for source, file, words in [(celeba, "there", "exists already"), (tmp_path / "nowhere", "new", "no such folder"),
                                (packed(celeba), "new", "is a pack already"), (tmp_path / "bad", "new", "none of the 1 images"),
                                (celeba, "there/new", "cannot write")]:
        assert run("pack", source, tmp_path / file) == 2
        error, = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and words in error
    assert (tmp_path / "there").read_text() == "mine" and run("pack", celeba) == 2 and run() == 2


def test_a_damaged_pack_is_a_user_error(celeba, tmp_path):
    whole = packed(celeba).read_bytes()
    index = whole.rindex(b"PK\3\4") + 60
    for name, content in [("cut", whole[:-100]), ("headless", whole[5000:]), ("index", whole[:index] + b"?" + whole[index + 1:])]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="pack"):
            open_images(tmp_path / name)


def test_help_says_what_a_user_must_know(capsys):
    assert run("--help") == 0 and "pack" in capsys.readouterr().out
    assert run("pack", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(words in text for words in ("24 GB", "goes on where it stopped", "zip archive", "--data FILE"))


# CelebA's list

LIST = "000001.jpg 0\n000002.jpg 1\r\n000003.jpg 2\n000004.jpg 0\n000005.jpg 2\n000006.jpg 1\n999999.jpg 0\n"


def test_celebas_list_divides_folder_archive_and_pack(celeba, tmp_path):
    assert not any(by_partition(open_images(celeba)))
    (tmp_path / "list_eval_partition.txt").write_text(LIST)
    elsewhere = tmp_path / "elsewhere" / "faces.pack"
    elsewhere.parent.mkdir()
    pack(open_images(celeba), elsewhere)
    for path in (celeba, celeba.with_suffix(".zip"), elsewhere):
        parts = by_partition(open_images(path))
        assert [part.names for part in parts] == [[NAMES[0], NAMES[3]], [NAMES[1], NAMES[5]], [NAMES[2], NAMES[4]]]
        assert np.array_equal(parts[1].load(1), open_images(celeba).load(5))


def test_training_follows_celebas_list_unless_val_is_given(celeba, tmp_path, capsys):
    (tmp_path / "list_eval_partition.txt").write_text(LIST)
    words = ["--data", str(celeba.with_suffix(".zip"))]
    training, validation = train.sources(parse(words)[0])
    assert training.names == [NAMES[0], NAMES[3]] and validation.names == [NAMES[1], NAMES[5]]
    line, = capsys.readouterr().out.splitlines()
    assert "list_eval_partition.txt" in line and "2 images are for training and 2 for validation; 2 are left" in line
    training, validation = train.sources(parse([*words, "--val", str(celeba)])[0])
    assert len(training) == len(validation) == 6 and capsys.readouterr().out == ""
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 2\n")        # nobody to validate on
    training, validation = train.sources(parse(words)[0])
    assert len(training) + len(validation) == 6 and "chosen by file name" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_evaluate_measures_what_the_list_keeps_for_testing(celeba, tmp_path, capsys, kind):
    path = celeba if kind == "folder" else celeba.with_suffix(".zip")

    def measured():
        assert evaluate.main([str(path), "--weights", "--csv", str(tmp_path / "scores.csv")]) == 0
        rows = (tmp_path / "scores.csv").read_text().splitlines()[1:]
        return {row.split(",")[1] for row in rows}, capsys.readouterr().out
    assert measured()[0] == set(NAMES)
    (tmp_path / "list_eval_partition.txt").write_text(LIST)
    names, printed = measured()
    assert names == {NAMES[2], NAMES[4]} and "2 of 6 images are for testing, and only these are measured" in printed


def test_evaluate_reads_an_archive_as_its_folder(celeba, tmp_path, capsys):
    Image.open(celeba / NAMES[0]).convert("L").save(celeba / "grey.png")        # measured on its own levels
    zipped(celeba)
    results = []
    for path in (celeba, celeba.with_suffix(".zip")):
        assert evaluate.main([str(path), "--weights", "--json", str(tmp_path / "scores.json")]) == 0
        results.append(list(json.loads((tmp_path / "scores.json").read_text()).values()))
    assert results[0] == results[1]
    with pytest.raises(SystemExit):
        evaluate.main([str(packed(celeba)), "--weights"])
    assert "is a pack for training: give the folder" in capsys.readouterr().err
