"""HDF5 files: whole or not at all, exact, and VGG19 in every layout."""
import json
import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from comparisons import rounding

from npsrgan import storage
from npsrgan.inference import fold
from npsrgan.models import VGG19, Discriminator, SRResNet
from npsrgan.models.vgg19 import LAYERS, PLAN, random_vgg19
from npsrgan.system.errors import UserError

ARRAYS = {"a/weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a/state/mean": np.array([1.5, -0.0, 2.5]),
          "count": np.array(7), "none": np.zeros((0, 3), np.float16), "transposed": np.arange(6.0).reshape(2, 3).T}
ATTRIBUTES = {"steps": 3, "rate": 0.25, "about": "ä few wörds", "settings": "{}"}
REAL = Path(__file__).parents[3] / "shared" / "data" / "vgg19" / "vgg19_notop.h5"


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f")
                                        for k in a)


# ---------------------------------------------------------------- write and read

def test_round_trip_is_exact(tmp_path):
    storage.write(tmp_path / "new" / "x.h5", ARRAYS, ATTRIBUTES)
    arrays, attributes = storage.read(tmp_path / "new" / "x.h5")
    assert same(arrays, ARRAYS) and np.signbit(arrays["a/state/mean"][1])
    assert attributes == ATTRIBUTES and {type(value) for value in attributes.values()} == {int, float, str}


def test_the_same_contents_give_the_same_bytes(tmp_path):
    for name in ("x.h5", "y.h5"):
        storage.write(tmp_path / name, ARRAYS, ATTRIBUTES)
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()


def test_other_programs_can_read_it(tmp_path):
    storage.write(tmp_path / "x.h5", ARRAYS, ATTRIBUTES)
    with h5py.File(tmp_path / "x.h5") as file:
        assert np.array_equal(file["a/weight"], ARRAYS["a/weight"]) and file.attrs["about"] == ATTRIBUTES["about"]


def test_every_flipped_bit_is_noticed(tmp_path):
    storage.write(tmp_path / "x.h5", {"w": np.arange(5.0)}, {"steps": 3})
    contents = (tmp_path / "x.h5").read_bytes()
    mark = len(b"npsrgan 01234567")
    for position in [*range(mark), *range(512, len(contents), 7)]:      # between them there is nothing
        damaged = bytearray(contents)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "x.h5").write_bytes(damaged)
        with pytest.raises(storage.DamagedFile, match="x.h5 (is|holds)"):
            storage.read(tmp_path / "x.h5")


def test_every_length_is_noticed(tmp_path):
    storage.write(tmp_path / "x.h5", {"w": np.arange(5.0)}, {"steps": 3})
    contents = (tmp_path / "x.h5").read_bytes()
    for length in [*range(0, len(contents), 97), len(contents) - 1]:
        (tmp_path / "x.h5").write_bytes(contents[:length])
        with pytest.raises(storage.DamagedFile):
            storage.read(tmp_path / "x.h5")


@pytest.mark.parametrize("fails", ["write", "fsync", "replace", "flush"])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "x.h5"
    storage.write(path, {"w": np.zeros(3)}, {"steps": 1})

    def full(*args):
        raise OSError(28, "No space left on device")

    class Full:
        def __init__(self, *args):
            self.file = open(*args)
            self.fileno = self.file.fileno
            self.write = full if fails == "write" else self.file.write
            self.flush = full if fails == "flush" else self.file.flush

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

    with monkeypatch.context() as patch:
        if fails in ("write", "flush"):
            patch.setattr(storage, "open", Full, raising=False)
        else:
            patch.setattr(os, fails, full)
        with pytest.raises(UserError, match=r"could not write .*x\.h5 \(No space left on device\): free some space"):
            storage.write(path, {"w": np.ones(3)}, {"steps": 2}, keep_previous=True)
    assert os.listdir(tmp_path) == ["x.h5"] and storage.read(path)[1] == {"steps": 1}


def test_the_file_reaches_the_disk_before_its_name_does(tmp_path, monkeypatch):
    """Flushed, then renamed: the other order can leave an empty file after a power cut."""
    happened = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (happened.append(("fsync", os.fstat(fd).st_size)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (happened.append((Path(a).name, Path(b).name)), replace(a, b)))
    storage.write(tmp_path / "x.h5", {"w": np.zeros(3)}, {}, keep_previous=True)
    size = (tmp_path / "x.h5").stat().st_size
    storage.write(tmp_path / "x.h5", {"w": np.zeros(3)}, {}, keep_previous=True)
    temporary = happened[1][0]
    assert temporary.startswith(".npsrgan-")
    assert happened == [("fsync", size), (temporary, "x.h5"),
                        ("fsync", size), ("x.h5", "x.previous.h5"), (temporary, "x.h5")]


def test_previous_is_kept_only_where_asked(tmp_path):
    path = tmp_path / "x.h5"
    for step, keep in [(1, True), (2, False), (3, True), (4, True)]:
        storage.write(path, {}, {"steps": step}, keep_previous=keep)
    assert storage.read(path)[1] == {"steps": 4} and storage.read(storage.previous(path))[1] == {"steps": 3}
    assert sorted(os.listdir(tmp_path)) == ["x.h5", "x.previous.h5"]


def test_of_a_link_the_target_is_written_and_kept(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "x.h5").symlink_to(tmp_path / "there" / "real.h5")
    for step in (1, 2):
        storage.write(tmp_path / "x.h5", {}, {"steps": step}, keep_previous=True)
    assert (tmp_path / "x.h5").is_symlink() and storage.read(tmp_path / "x.h5")[1] == {"steps": 2}
    assert storage.read(storage.previous(tmp_path / "x.h5"))[1] == {"steps": 1}


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        storage.read(tmp_path / "none.h5")
    with pytest.raises(UserError, match="is a folder: give the path of a weights file in it"):
        storage.read(tmp_path)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["w"] = np.zeros(3)
    with pytest.raises(storage.DamagedFile, match="npsrgan did not write it"):
        storage.read(tmp_path / "foreign.h5")


# ---------------------------------------------------------------- networks

NETWORKS = [lambda: SRResNet(4, 1, 2, seed=3), lambda: Discriminator(2, 16, 0.01, seed=3), lambda: random_vgg19("conv1_2", 3, 0.25)]


@pytest.mark.parametrize("make", NETWORKS)
def test_networks_load_without_options(tmp_path, make):
    network = make()
    for number, array in enumerate(network.state().values()):
        array += number + 0.5                                   # running statistics as training leaves them: not 0 and 1
    storage.save_network(tmp_path / "x.h5", network, "about it")
    loaded = storage.load_network(tmp_path / "x.h5")
    assert type(loaded) is type(network) and loaded.settings == network.settings
    assert same(loaded.state_dict(), network.state_dict())
    assert storage.read(tmp_path / "x.h5")[1]["about"] == "about it"
    image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    assert np.array_equal(loaded.eval()(image).array, network.eval()(image).array)


def test_loaded_networks_are_in_evaluation_mode(tmp_path):
    """So that one inference neither depends on its batch nor changes the running statistics."""
    storage.save_network(tmp_path / "x.h5", SRResNet(4, 1, 2, seed=3))
    image = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 3)).astype(np.float32)
    for load in (storage.load_generator, storage.load_network):
        network = load(tmp_path / "x.h5")
        assert not any(layer.training for layer in network.layers())
        state = {name: array.copy() for name, array in network.state().items()}
        network(image)
        assert same(network.state(), state)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    class Mine(SRResNet):
        pass
    for network, words in [(fold(SRResNet(4, 1, 2)), "save the original network"),
                           (Mine(4, 1, 2), "Mine is not a registered network")]:
        with pytest.raises(UserError, match=f"x.h5 was not written: .*{words}"):
            storage.save_network(tmp_path / "x.h5", network)
    assert not list(tmp_path.iterdir())


def test_half_precision(tmp_path):
    network = SRResNet(4, 1, 2, seed=3)
    storage.save_network(tmp_path / "whole.h5", network)
    storage.save_network(tmp_path / "half.h5", network, dtype="float16")
    assert all(array.dtype == np.float16 for array in storage.read(tmp_path / "half.h5")[0].values())
    loaded = storage.load_network(tmp_path / "half.h5").state_dict()
    for name, array in network.state_dict().items():
        assert loaded[name].dtype == np.float32 and np.array_equal(loaded[name], array.astype(np.float16).astype(np.float32))
    assert network.flat.dtype == np.float32


def test_networks_of_another_kind(tmp_path):
    storage.save_network(tmp_path / "d.h5", Discriminator(2, 16))
    with pytest.raises(UserError, match="holds a Discriminator, not a SRResNet"):
        storage.load_network(tmp_path / "d.h5", SRResNet)
    storage.write(tmp_path / "checkpoint.h5", {}, {"srresnet_steps": 3, "settings": "{}"})
    with pytest.raises(UserError, match=r"holds something else \(a checkpoint\?\), not a network"):
        storage.load_network(tmp_path / "checkpoint.h5")
    with pytest.raises(UserError, match="there is no file"):
        storage.load_network(tmp_path / "none.h5")


@pytest.mark.parametrize("settings, words", [({"channels": 5, "blocks": 1, "scale": 2}, r"tail.weight has shape \(9, 9, 4, 3\)"),
                                             ({"channels": 4, "blocks": 0, "scale": 2}, "unexpected body.0.0.weight"),
                                             ({"channels": 4, "layers": 1}, "unexpected keyword argument 'layers'")])
def test_a_file_that_contradicts_itself(tmp_path, settings, words):
    network = SRResNet(4, 1, 2)
    network.settings = settings
    storage.save_network(tmp_path / "x.h5", network)
    with pytest.raises(UserError, match=f"does not fit a SRResNet .*{words}"):
        storage.load_network(tmp_path / "x.h5")


def test_generators_go_by_name_or_by_path(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WEIGHTS", tmp_path / "weights")
    storage.save_network(tmp_path / "weights" / "srgan.h5", SRResNet(4, 1, seed=1), dtype="float16")
    storage.save_network(tmp_path / "mine.h5", SRResNet(4, 2, seed=2))
    named, mine = storage.load_generator("srgan"), storage.load_generator(tmp_path / "mine.h5")
    assert (named.settings["blocks"], mine.settings["blocks"]) == (1, 2)
    assert all(array.dtype == np.float32 for array in named.state_dict().values())
    with pytest.raises(UserError, match="no weights srresnet: give one of srgan, or"):
        storage.load_generator("srresnet")
    (tmp_path / "weights" / "srgan.h5").unlink()
    with pytest.raises(UserError, match="holds no weights yet"):
        storage.load_generator("srgan")
    with pytest.raises(UserError, match="is a folder"):
        storage.load_generator(tmp_path)


# ---------------------------------------------------------------- what others put into files

def forge(path, change):
    """Change an HDF5 file of ours, and give it the checksum that belongs to it."""
    with h5py.File(path, "r+", locking=False) as file:
        change(file)
    contents = path.read_bytes()
    path.write_bytes(b"npsrgan %08x" % zlib.crc32(contents[512:]) + bytes(496) + contents[512:])


def replaced(name, **options):
    """A change that puts something else in the place of a dataset."""
    def change(file):
        del file[name]
        file.create_dataset(name, **options)
    return change


def set_settings(**settings):
    def change(file):
        file.attrs["settings"] = json.dumps(json.loads(file.attrs["settings"]) | settings)
    return change


def set_attribute(name, value):
    return lambda file: file.attrs.modify(name, value) if np.ndim(value) == 0 else file.attrs.__setitem__(name, value)


WEIGHT, VARIANCE = "body.0.0.weight", "body.0.1.running_var"
FORGERIES = {
    "NaN": (replaced(WEIGHT, data=np.full((3, 3, 4, 4), np.nan)), "body.0.0.weight holds numbers that are not finite"),
    "infinite": (replaced(WEIGHT, data=np.full((3, 3, 4, 4), -np.inf)), "not finite"),
    "too large for float32": (replaced(WEIGHT, data=np.full((3, 3, 4, 4), 1e300)), "not finite"),
    "complex": (replaced(WEIGHT, data=np.full((3, 3, 4, 4), 1j)), "body.0.0.weight does not hold real numbers"),
    "text": (replaced(WEIGHT, data=[b"a", b"b"]), "not hold real numbers"),
    "compound": (replaced(WEIGHT, data=np.zeros(3, [("a", "f4"), ("b", "f4")])), "not hold real numbers"),
    "of no shape": (replaced(WEIGHT, data=h5py.Empty("f4")), "not hold real numbers|damaged"),
    "a variance below zero": (replaced(VARIANCE, data=np.float32([1, 1, -1, 1])), "running_var holds negative variances"),
    "in another file": (replaced(WEIGHT, shape=(3, 3, 4, 4), dtype="f4", external=[("/dev/zero", 0, 576)]), "stored in another file"),
    "terabytes": (replaced(WEIGHT, shape=(2**40,), dtype="f4", chunks=(1024,)), "claims to be larger than the file"),
    "another array": (lambda file: file.create_dataset("more", data=np.zeros(3)), "unexpected more"),
    "a link": (lambda file: file.__setitem__("link", h5py.ExternalLink("/etc/passwd", "/x")), "link is a link, not an array"),
    "a billion blocks": (set_settings(blocks=10**9), "settings are those of a larger network"),
    "a million channels": (set_settings(channels=10**6), "settings are those of a larger network"),
    "fewer than no blocks": (set_settings(blocks=-1), "settings are those of a larger network"),
    "blocks in words": (set_settings(blocks="one"), "setting blocks is 'one'"),
    "half a channel": (set_settings(channels=2.5), "setting channels is 2.5"),
    "a list of scales": (set_settings(scale=[4]), r"setting scale is \[4\]"),
    "an unknown setting": (set_settings(depth=3), "does not fit"),
    "no settings": (lambda file: file.attrs.__delitem__("settings"), "settings cannot be read"),
    "nested JSON": (set_attribute("settings", "[" * 20_000), "settings cannot be read"),
    "settings that are a number": (set_attribute("settings", "3"), "settings cannot be read"),
    "a name that is an array": (set_attribute("network", np.zeros(3)), "its network is neither text nor a number"),
    "no name": (lambda file: file.attrs.__delitem__("network"), "holds something else"),
}


@pytest.mark.parametrize("change, words", FORGERIES.values(), ids=FORGERIES)
def test_nothing_that_a_file_says_is_believed(tmp_path, change, words):
    """With a checksum that is right: not damage, but somebody's work."""
    storage.save_network(tmp_path / "x.h5", SRResNet(4, 1, 2))
    forge(tmp_path / "x.h5", change)
    with pytest.raises(UserError, match=words) as caught:
        storage.load_generator(tmp_path / "x.h5")
    assert str(tmp_path / "x.h5") in str(caught.value) and len(str(caught.value)) < 400


def test_every_loader_asks_for_finite_numbers(tmp_path):
    for network, load in [(SRResNet(4, 1, 2), storage.load_network), (Discriminator(2, 16), storage.load_network),
                          (random_vgg19("conv1_1"), lambda path: storage.load_vgg19(path, "conv1_1"))]:
        network.flat[-1] = np.nan
        storage.save_network(tmp_path / "x.h5", network)
        with pytest.raises(storage.DamagedFile, match="not finite"):
            load(tmp_path / "x.h5")
    keras_file(tmp_path / "vgg.h5")
    with h5py.File(tmp_path / "vgg.h5", "r+") as file:
        file["block1_conv1/block1_conv1_b_1:0"][3] = np.inf
    with pytest.raises(storage.DamagedFile, match="block1_conv1_b_1:0 holds numbers that are not finite"):
        storage.load_vgg19(tmp_path / "vgg.h5", "conv2_2")


def test_a_vgg19_file_of_bad_intentions(tmp_path):
    """Gigabytes of zeros behind gzip, terabytes that are only declared, another file's bytes, a pipe to wait for."""
    os.mkfifo(tmp_path / "pipe")
    path, shape = tmp_path / "vgg.h5", (3, 3, 3, 64)
    for words, options in [("has shape", {"shape": (3, 3, 3, 2**26), "dtype": "f4", "compression": "gzip", "chunks": (3, 3, 3, 2**16)}),
                           ("has shape", {"shape": (2**10, 2**10, 2**10, 2**10), "dtype": "f4", "chunks": (1, 1, 1, 64)}),
                           ("in chunks that are too large", {"shape": shape, "maxshape": (None,) * 4, "chunks": (2**12, 2**12, 3, 64),
                                                             "dtype": "f4", "compression": "gzip"}),
                           ("stored in another file", {"shape": shape, "dtype": "f4", "external": [(str(tmp_path / "pipe"), 0, 6912)]})]:
        keras_file(path)
        with h5py.File(path, "r+") as file:
            del file["block1_conv1/block1_conv1_W_1:0"]
            file.create_dataset("block1_conv1/block1_conv1_W_1:0", **options)
        with pytest.raises(UserError, match=words):
            storage.load_vgg19(path, "conv2_2")


def test_a_file_that_another_program_has_locked(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="locks files as POSIX does")
    keras_file(tmp_path / "vgg.h5")
    storage.save_network(tmp_path / "x.h5", SRResNet(4, 1, 2))
    for name, load in [("vgg.h5", lambda path: storage.load_vgg19(path, "conv2_2")), ("x.h5", storage.load_network)]:
        with open(tmp_path / name, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            load(tmp_path / name)


KINDS = {"a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 80142336\n",
         "a web page": b"<!DOCTYPE html><html>", "is empty": b"", "PyTorch": b"PK\3\4" + bytes(100),
         "safetensors": (100).to_bytes(8, "little") + b"{}" + bytes(100), "a pickle, as Paddle": b"\x80\4" + bytes(100),
         "not a weights file of a known kind": b"hello",
         "a file of npsrgan|npsrgan did not write it|damaged": b"\x89HDF\r\n\x1a\n" + bytes(500)}


@pytest.mark.parametrize("words", KINDS)
def test_a_wrong_kind_of_file_is_called_what_it_is(tmp_path, words):
    (tmp_path / "x.h5").write_bytes(KINDS[words])
    for load in (storage.load_generator, storage.load_network, storage.load_vgg19):
        with pytest.raises(UserError, match=words):
            load(tmp_path / "x.h5")


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in [(tmp_path / "pipe", "is a pipe"), ("/dev/zero", "is a device")]:
        with pytest.raises(UserError, match=words):
            storage.load_generator(path)


# ---------------------------------------------------------------- VGG19

NAMES = {"old": ("{0}/{0}_W_1:0", "{0}/{0}_b_1:0"), "newer": ("{0}/{0}/kernel:0", "{0}/{0}/bias:0")}


def keras_file(path, naming="old", until="conv2_2", leave_out=(), change=None):
    """Write a VGG19 in Keras's layout, with weights from a formula.  Returns {"conv1_1": (kernel, bias), ...}."""
    weights, before = {}, 3
    for block, channels, depth in PLAN:
        for i in range(depth):
            layer = f"conv{block}_{i + 1}"
            if LAYERS.index(layer) <= LAYERS.index(until):
                rng = np.random.default_rng([block, i])
                weights[layer] = (rng.normal(0, (2 / 9 / before) ** 0.5, (3, 3, before, channels)).astype(np.float32),
                                  rng.normal(0, 0.1, channels).astype(np.float32))
            before = channels
    with h5py.File(path, "w") as file:
        for layer, arrays in weights.items():
            for name, array in zip(NAMES[naming], arrays):
                name = name.format(f"block{layer[4]}_conv{layer[6]}")
                if layer not in leave_out:
                    file[name] = array if layer != change else array[..., :-1]
        file["optimizer_weights/block1_conv1/kernel"] = np.zeros((3, 3, 3, 64), np.float32)     # of somebody's fine-tuning
        file["block1_pool/nothing"] = np.zeros(0)
    return weights


def by_hand(image, weights, scale):
    """VGG19's first two blocks as Keras computes them: BGR, minus means, 'same' zeros around, in float64."""
    x = (image[0].astype(np.float64) + 1) * 127.5
    x = x[..., ::-1] - np.array([103.939, 116.779, 123.68])
    for layer, (kernel, bias) in weights.items():
        if layer == "conv2_1":
            x = np.maximum(np.maximum(x[::2, ::2], x[1::2, ::2]), np.maximum(x[::2, 1::2], x[1::2, 1::2]))
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(1, 1), (1, 1), (0, 0)]), (3, 3), (0, 1))
        x = np.maximum(np.einsum("hwcij,ijco->hwo", windows, kernel.astype(np.float64)) + bias, 0)
    return scale * x


@pytest.mark.parametrize("naming", NAMES)
def test_keras_layouts(tmp_path, naming):
    weights = keras_file(tmp_path / "vgg.h5", naming)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    features = storage.load_vgg19(tmp_path / "vgg.h5", "conv2_2")(image).array[0]
    expected = by_hand(image, weights, 1 / 12.75)
    assert features.shape == (4, 4, 128) and np.abs(features - expected).max() < rounding(9 * (3 + 64 + 64 + 128)) * expected.max()


def test_feature_scale_and_input_normalisation_travel_with_the_file(tmp_path):
    keras_file(tmp_path / "keras.h5")
    image = np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    vgg = storage.load_vgg19(tmp_path / "keras.h5", "conv2_2")
    assert vgg.settings["feature_scale"] == pytest.approx(1 / 12.75)
    asked = storage.load_vgg19(tmp_path / "keras.h5", "conv2_2", feature_scale=0.5)
    assert np.allclose(asked(image).array, vgg(image).array * 12.75 / 2, rtol=rounding(3), atol=0)

    for network, scale in [(vgg, 1 / 12.75), (asked, 0.5), (random_vgg19("conv2_2"), 1.0)]:
        storage.save_network(tmp_path / "ours.h5", network)
        again = storage.load_vgg19(tmp_path / "ours.h5", "conv2_2")
        assert again.settings["feature_scale"] == pytest.approx(scale)
        assert np.array_equal(again(image).array, network(image).array)
    cut = storage.load_vgg19(tmp_path / "ours.h5", "conv1_2", feature_scale=2.0)      # less of it than the file has
    assert cut.settings == {"layer": "conv1_2", "feature_scale": 2.0}


def test_vgg19_files_that_lack_something(tmp_path):
    keras_file(tmp_path / "vgg.h5", leave_out=["conv1_2"], change="conv2_1")
    with pytest.raises(UserError) as caught:
        storage.load_vgg19(tmp_path / "vgg.h5", "conv3_1")
    for words in ("missing conv1_2.weight", "missing conv1_2.bias", "missing conv3_1.weight", "missing conv3_1.bias",
                  "conv2_1.weight has shape (3, 3, 64, 127), not (3, 3, 64, 128)", "conv2_1.bias has shape (127,)"):
        assert words in str(caught.value)
    assert "conv1_1" not in str(caught.value)
    storage.load_vgg19(tmp_path / "vgg.h5", "conv1_1")          # as far as it goes, it is good

    storage.save_network(tmp_path / "short.h5", random_vgg19("conv1_2"))
    with pytest.raises(UserError, match="does not hold VGG19 up to conv2_1: missing conv2_1.weight; missing conv2_1.bias"):
        storage.load_vgg19(tmp_path / "short.h5", "conv2_1")


def test_files_that_are_no_vgg19(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        storage.load_vgg19(tmp_path / "none.h5")
    (tmp_path / "pointer.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 80142336\n")
    with pytest.raises(UserError, match="pointer.h5 is not a weights file but a Git LFS pointer"):
        storage.load_vgg19(tmp_path / "pointer.h5")
    keras_file(tmp_path / "cut.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "cut.h5").read_bytes()[:-1000])
    with pytest.raises(UserError, match="cut.h5 is damaged"):
        storage.load_vgg19(tmp_path / "cut.h5", "conv2_2")
    storage.save_network(tmp_path / "d.h5", Discriminator(2, 16))
    with pytest.raises(UserError, match="holds a Discriminator, not a VGG19"):
        storage.load_vgg19(tmp_path / "d.h5")
    storage.save_network(tmp_path / "ours.h5", random_vgg19("conv1_1"))
    contents = bytearray((tmp_path / "ours.h5").read_bytes())
    contents[-1] ^= 1
    (tmp_path / "ours.h5").write_bytes(contents)
    with pytest.raises(UserError, match="does not match|do not match"):
        storage.load_vgg19(tmp_path / "ours.h5", "conv1_1")


@pytest.mark.skipif(not REAL.exists(), reason=f"there is no {REAL}")
def test_the_real_file():
    vgg = storage.load_vgg19(REAL)
    assert isinstance(vgg, VGG19) and vgg.settings == {"layer": "conv5_4", "feature_scale": storage.KERAS_FEATURE_SCALE}
    with h5py.File(REAL) as file:
        weights = {f"conv{b}_{i}": tuple(file[f"block{b}_conv{i}/block{b}_conv{i}_{kind}_1:0"][()] for kind in "Wb")
                   for b, i in [(1, 1), (1, 2), (2, 1), (2, 2)]}
    image = np.random.default_rng(1).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    features = storage.load_vgg19(REAL, "conv2_2")(image).array[0]
    expected = by_hand(image, weights, 1 / 12.75)
    assert np.abs(features - expected).max() < rounding(9 * (3 + 64 + 64 + 128)) * expected.max()
