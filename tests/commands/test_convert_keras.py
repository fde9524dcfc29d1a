"""Keras's generators: what Keras computes with them we compute, from every kind of file that it writes."""
import json
import os

import h5py
import numpy as np
import pytest
from test_convert import run

from npsrgan import storage
from npsrgan.convert import formats
from npsrgan.system.errors import UserError

pytest.importorskip("torch", reason="torch is not installed, on which Keras runs here")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="keras is not installed; the files to convert are made with it")
from keras import layers as L  # noqa: E402


def convolution(filters, size=3, **options):
    return L.Conv2D(filters, size, padding="same", **options)


def prelu():
    return L.PReLU(shared_axes=[1, 2])


@keras.saving.register_keras_serializable("npsrgan tests")
class Shuffle(L.Layer):
    """What repositories write around depth_to_space, under names of their own."""

    def call(self, x):
        n, h, w, c = x.shape
        x = keras.ops.transpose(keras.ops.reshape(x, (n, h, w, 2, 2, c // 4)), (0, 1, 3, 2, 4, 5))
        return keras.ops.reshape(x, (n, 2 * h, 2 * w, c // 4))

    def compute_output_shape(self, shape):
        return (shape[0], None, None, shape[3] // 4)


def shuffled(x):
    x = Shuffle()(convolution(32)(x))
    return prelu()(x)


def resized(x):
    return L.Activation("relu")(convolution(16)(L.UpSampling2D(2)(x)))


def srgan(enlarge, norm_first=True, head=lambda x: x, blocks=5, activation="tanh", shared=None, base=False, colours=3):
    """A generator as repositories define it for Keras, with random weights.  Five blocks: the text conv2d_10 sorts before conv2d_2."""
    keras.utils.set_random_seed(1)
    x = image = L.Input((None, None, colours))
    act = shared or prelu
    x = first = act()(convolution(8, 9)(head(x)))
    for _ in range(blocks):
        y = convolution(8, use_bias=norm_first)(x)
        y = act()(L.BatchNormalization(momentum=0.8)(y)) if norm_first else L.BatchNormalization(momentum=0.8)(L.ReLU()(y))
        x = L.Add()([x, L.BatchNormalization(epsilon=1e-2)(convolution(8)(y))])
    x = L.Add()([L.BatchNormalization()(convolution(8)(x)), first])
    x = convolution(colours, 9, activation=activation)(enlarge(enlarge(x)))
    model = keras.Model(image, L.Add()([L.UpSampling2D(4, interpolation="bilinear")(image), x]) if base else x)
    rng = np.random.default_rng(3)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) if "variance" in v.path or "gamma" in v.path else
                       w + rng.uniform(-0.05, 0.05, w.shape) if w.ndim == 4 else rng.uniform(-0.1, 0.3, w.shape)
                       for v, w in zip(model.weights, model.get_weights())])
    return model


one = L.PReLU(shared_axes=[1, 2], name="the_one")
MODELS = {
    "pixel shuffles": lambda: srgan(shuffled),
    "resized, batch norm behind ReLU": lambda: srgan(resized, norm_first=False),
    "an input rescaled, ReLU6's neighbour": lambda: srgan(resized, head=L.Rescaling(1 / 255), activation="sigmoid"),
    "one PReLU for all": lambda: srgan(resized, shared=lambda: one),
    "an enlargement added": lambda: srgan(resized, base=True, activation=None),
    "grey": lambda: srgan(resized, colours=1),
}
KINDS = {".keras": lambda model, path: model.save(path), ".h5": lambda model, path: model.save(path)}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_a_converted_model_computes_what_keras_computes(tmp_path, suffix, name):
    model = MODELS[name]()
    KINDS[suffix](model, tmp_path / f"theirs{suffix}")
    words = ["--input", "symmetric", "--output", "symmetric"]
    assert run(tmp_path / f"theirs{suffix}", "-o", tmp_path / "ours.h5", "--force", *words) == 0
    compare(model, tmp_path / "ours.h5")


def compare(model, path):
    ours = storage.load_generator(path).eval()
    x = np.random.default_rng(0).uniform(-1, 1, (1, 6, 7, 3)).astype(np.float32)
    if model.input_shape[-1] == 1:
        x[...] = x[..., :1]
    expected, result = np.asarray(model.predict(x[..., :model.input_shape[-1]], verbose=0)), ours(x).array
    assert np.abs(result - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("suffix", [".weights.h5", "old"])
@pytest.mark.filterwarnings("ignore")
def test_weights_without_a_description(tmp_path, suffix):
    model = srgan(shuffled, activation=None)
    path = tmp_path / f"theirs{suffix.replace('old', '.h5')}"
    model.save(path) if suffix == "old" else model.save_weights(path)
    if suffix == "old":
        with h5py.File(path, "a") as file:
            del file.attrs["model_config"]
    words = ["--input", "symmetric", "--output", "symmetric", "--eps", "0.001"]
    model = keras.models.clone_model(model, clone_function=lambda layer: L.BatchNormalization.from_config(layer.get_config() | {
        "epsilon": 1e-3}) if isinstance(layer, L.BatchNormalization) else type(layer).from_config(layer.get_config()))
    model.set_weights(srgan(shuffled, activation=None).get_weights())
    assert run(path, "-o", tmp_path / "ours.h5", "--force", *words) == 0
    compare(model, tmp_path / "ours.h5")


@pytest.mark.parametrize("layer, words", [
    (lambda: L.SeparableConv2D(8, 3, padding="same"), "MobileNet blocks"), (lambda: L.Conv2D(8, 3), "padding valid"),
    (lambda: L.Conv2DTranspose(8, 3), "transposed convolutions"), (lambda: L.GroupNormalization(2), "InstanceNorm or GroupNorm"),
    (lambda: L.Conv2D(8, 3, 2, padding="same"), "strides"), (lambda: L.PReLU(), "a slope for each pixel"),
    (lambda: L.GlobalAveragePooling2D(), "GlobalAveragePooling2D, which npsrgan does not have")])
@pytest.mark.filterwarnings("ignore")
def test_layers_that_there_are_no_steps_for(tmp_path, capsys, layer, words):
    model = keras.Sequential([L.Input((8, 8, 3)), convolution(8), layer()])
    model.save(tmp_path / "theirs.keras")
    assert run(tmp_path / "theirs.keras", "-o", tmp_path / "ours.h5") == 2
    printed = capsys.readouterr().err
    assert "theirs.keras cannot be converted" in printed and words in printed and len(printed) < 480


def test_arrays_that_are_nowhere(tmp_path):
    """A small file can describe an array of any size, or one in another file."""
    for name, options in {"empty": {"shape": (3, 10**5, 10**5), "chunks": (1, 1000, 1000)},
                          "packed": {"data": np.zeros((1000, 1000)), "compression": "gzip"},
                          "elsewhere": {"shape": (16,), "external": [("/etc/passwd", 0, 64)]}}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("model_weights/conv2d/kernel", dtype="f4", **options)
        with pytest.raises(UserError, match="was not read: 'model_weights/conv2d/kernel' is not an array, or claims to be larger"):
            formats.read(tmp_path / f"{name}.h5")


def test_layers_that_wait_for_each_other(tmp_path):
    nodes = [{"class_name": "Conv2D", "config": {"name": a}, "inbound_nodes": [[[b, 0, 0]]]} for a, b in ("ab", "ba")]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"layers": nodes, "output_layers": [["a", 0, 0]]}})
    with pytest.raises(UserError, match="form a circle"):
        formats.read(tmp_path / "x.h5")
