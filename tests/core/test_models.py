"""The three networks: sizes, numbers of parameters, what sees what, VGG19's input, refusals."""
import h5py
import numpy as np
import pytest
from comparisons import double, fill, relative_error, wave

from npsrgan import ops
from npsrgan.data import Photograph
from npsrgan.layers import Conv2d
from npsrgan.models import VGG19, Discriminator, SRResNet
from npsrgan.models.vgg19 import LAYERS, random_vgg19
from npsrgan.storage import load_vgg19
from npsrgan.tape import Tape, Tensor


def conv(k, inputs, outputs):
    """Parameters of a convolution with a bias."""
    return k * k * inputs * outputs + outputs


# Numbers of parameters, by hand from Ledig et al. 2017, figure 4

@pytest.mark.parametrize("c, blocks, scale", [(64, 16, 4), (64, 16, 2), (8, 0, 4), (6, 3, 2), (6, 1, 3), (6, 1, 8)])
def test_srresnet_has_as_many_parameters_as_its_figure(c, blocks, scale):
    prelu, norm = c, 2 * c
    count = (conv(9, 3, c) + prelu
             + blocks * (conv(3, c, c) + norm + prelu + conv(3, c, c) + norm)
             + conv(3, c, c) + norm
             + sum(conv(3, c, r * r * c) + prelu for r in {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}[scale])
             + conv(9, c, 3))
    assert SRResNet(c, blocks, scale).flat.size == count
    if (c, blocks, scale) == (64, 16, 4):
        assert count == 1_550_659


@pytest.mark.parametrize("c, size", [(64, 32), (4, 96), (3, 16)])
def test_the_discriminator_has_as_many_parameters_as_its_figure(c, size):
    widths = [(c, c), (c, 2 * c), (2 * c, 2 * c), (2 * c, 4 * c), (4 * c, 4 * c), (4 * c, 8 * c), (8 * c, 8 * c)]
    count = (conv(3, 3, c) + sum(conv(3, i, o) + 2 * o for i, o in widths)
             + (8 * c * (size // 16) ** 2) * 16 * c + 16 * c + 16 * c + 1)
    assert Discriminator(c, size).flat.size == count


def test_vgg19_has_the_parameters_of_its_sixteen_convolutions():
    assert len(LAYERS) == 16 and LAYERS[-1] == "conv5_4"
    assert sum(p.array.size for p in VGG19().parameters()) == 20_024_384


# Sizes of images

@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("height, width", [(1, 1), (5, 8), (7, 3)])
def test_srresnet_enlarges_any_image(scale, height, width):
    network = SRResNet(4, 1, scale).eval()
    assert network(np.zeros((2, height, width, 3), np.float32)).shape == (2, scale * height, scale * width, 3)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_the_discriminator_gives_a_logit_per_image(size):
    logits = Discriminator(2, size)(wave(3, size, size, 3).astype(np.float32))
    assert logits.shape == (3, 1) and logits.dtype == np.float32


def test_the_discriminator_takes_two_batches_at_once_as_one_after_the_other():
    at_once, in_turn = (fill(Discriminator(2, 16)) for _ in range(2))
    hr, sr = wave(3, 16, 16, 3), 2 * wave(2, 16, 16, 3)[::-1] - 1
    found = []
    for network, ask in [(at_once, at_once.both), (in_turn, lambda hr, sr: (in_turn(hr), in_turn(sr)))]:
        image = Tensor(sr)
        with Tape() as tape:
            real, fake = ask(hr, image)
            loss = ops.sum(ops.square(real)) - 3 * ops.sum(fake)
        found.append([real.array, fake.array, *tape.gradient(loss, [image, *network.parameters()]), *network.state().values()])
    largest = max(np.abs(array).max() for array in found[1])        # of the biases before batch norm, the gradient is 0
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape and np.abs(mine - theirs).max() < 1e-10 * largest


def test_the_discriminators_sides_are_halved_four_times():
    network = Discriminator(2, 32)
    assert network.features(np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 2, 2, 16)


@pytest.mark.parametrize("size", [0, 8, 15, 24, 40, 178])
def test_the_discriminator_refuses_sides_it_cannot_halve(size):
    with pytest.raises(ValueError, match=f"divisible by 16, unlike {size}"):
        Discriminator(2, size)


@pytest.mark.parametrize("scale", [1, 5, 16])
def test_srresnet_refuses_other_scales(scale):
    with pytest.raises(ValueError, match=f"by 2, 3, 4 or 8, not by {scale}"):
        SRResNet(4, 1, scale)


@pytest.mark.parametrize("layer, side, channels", [("conv1_1", 16, 64), ("conv1_2", 16, 64), ("conv2_2", 8, 128),
                                                   ("conv3_4", 4, 256)])
def test_vgg19_halves_the_side_before_every_block_but_the_first(layer, side, channels):
    vgg = random_vgg19(layer)
    assert vgg(np.zeros((1, 16, 16, 3), np.float32)).shape == (1, side, side, channels)


def test_before_relu_taps_the_layers_that_forward_goes_through():
    """ReLU of the deepest tap is the network's own output; a tap in front of a pooling layer is not pooled."""
    vgg, image = random_vgg19("conv2_2"), np.tanh(wave(2, 16, 16, 3)).astype(np.float32)
    shallow, deep = vgg.before_relu(image, ("conv1_2", "conv2_2"))
    assert shallow.shape == (2, 16, 16, 64) and shallow.array.min() < 0 < shallow.array.max()
    assert np.array_equal(ops.relu(deep).array, vgg(image).array)
    assert np.allclose(ops.relu(shallow).array, random_vgg19("conv1_2")(image).array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_what_is_constant_along_an_axis_stays_constant_along_it(scale, axis):
    """Beyond the reach of the zeros at the border, in float64, to the last bits; without the constraint it does not."""
    def variation(equal_phases, axes, image):
        network = SRResNet(8, 2, scale, seed=1, equal_phases=equal_phases).to(lambda array: array.astype(np.float64)).eval()
        for p in network.parameters():
            p.array += 0.1 * np.random.default_rng(5).standard_normal(p.shape)
        network.constrain()
        sr = network(image).array[:, 16 * scale:-16 * scale, 16 * scale:-16 * scale]
        return np.ptp(sr, axis=axes).max() / np.abs(sr).max()

    flat = np.full((1, 40, 40, 3), 0.3)
    stripes = np.repeat(np.random.default_rng(3).uniform(-1, 1, np.delete(flat.shape, axis))[:, None], 40, 1).swapaxes(1, axis)
    for axes, image in (((1, 2), flat), (axis, stripes)):
        assert variation(True, axes, image) < 1e-13 and variation(False, axes, image) > 1e-3


def test_the_projection_moves_no_further_than_it_must():
    """It is orthogonal: a second one changes nothing, and what it took away is at right angles to what is left."""
    network = SRResNet(4, 1, 4, seed=2).to(lambda array: array.astype(np.float64))
    before = network.flat.copy()
    network.settings["equal_phases"] = True
    network.constrain()
    once = network.flat.copy()
    network.constrain()
    assert np.allclose(network.flat, once, rtol=0, atol=1e-15)
    assert 0 < np.linalg.norm(before - once) and abs(once @ (before - once)) < 1e-12


def test_vgg19_refuses_an_unknown_layer():
    with pytest.raises(ValueError, match="no layer 'conv6_1': choose one of conv1_1, "):
        VGG19("conv6_1")


# What sees what

def extent(gradient):
    """(top, bottom, left, right): the first and last row and column of (N, H, W, C) that hold anything but zeros."""
    rows, columns = (np.flatnonzero(gradient.any(axis)) for axis in ((0, 2, 3), (0, 1, 3)))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def seen_from(network, image, position):
    """The extent of the part of `image` that one output pixel depends on."""
    image = Tensor(image)
    with Tape() as tape:
        pixel = ops.sum(network(image)[(0, *position)])
    return extent(tape.gradient(pixel, image))


@pytest.mark.parametrize("blocks", [1, 2])
def test_srresnets_receptive_field_is_what_its_kernels_make_it(blocks):
    """Down from output pixel 80 of 160: 9x9 sees 76..84; a shuffle halves, 38..42, and its 3x3 adds one, 37..43; again 18..21
    and 17..22; each 3x3 of the body and the first 9x9 add their half."""
    network = fill(SRResNet(4, blocks)).eval()
    reach = 2 * blocks + 1 + 4
    low, high = 17 - reach, 22 + reach
    assert seen_from(network, wave(1, 40, 40, 3), (80, 80)) == (low, high, low, high)


def test_the_discriminators_receptive_field():
    """Down from the middle one of 8 pixels: each 3x3 adds one on both sides, each stride of 2 doubles."""
    low = high = 4
    for stride in (2, 1, 2, 1, 2, 1, 2, 1):
        low, high = low * stride - 1, high * stride + 1
    network = fill(Discriminator(2, 128)).eval()
    assert seen_from(network.features, wave(1, 128, 128, 3), (4, 4)) == (low, high, low, high)


def test_in_training_a_batch_norm_makes_every_pixel_see_every_other():
    network = fill(SRResNet(4, 1))
    assert seen_from(network, wave(2, 20, 20, 3), (40, 40)) == (0, 19, 0, 19)


def test_nothing_bounds_srresnets_output():
    network = fill(SRResNet(4, 1)).eval()
    network.tail.bias.array[...] = [-5, 0, 5]
    colours = network(wave(1, 6, 6, 3)).array.mean((0, 1, 2))
    assert colours[0] < -1 and colours[2] > 1


def test_the_long_and_short_ways_around_are_there():
    """With every gamma 0 the body adds nothing, and the network is head, upsampling and tail."""
    network, x = fill(SRResNet(4, 3)), wave(2, 5, 5, 3)
    for name, array in network.state_dict().items():
        if name.endswith(("gamma", "beta")):
            array[...] = 0
    assert np.array_equal(network(x).array, network.tail(network.upsampling(network.head(x))).array)


# How the networks begin

def test_he_srresnet_is_damped_behind_the_residual_blocks():
    """Each convolution there begins at 0.3 of He's deviation; with init="normal" all begin at 0.01."""
    network = SRResNet(32, 1, 4)
    behind = [layer for layer in [*network.upsampling.layers(), network.tail] if isinstance(layer, Conv2d)]
    assert len(behind) == 3
    for layer in network.layers():
        if isinstance(layer, Conv2d):
            weight = layer.weight.array
            he = (2 / (weight.size / weight.shape[-1])) ** 0.5
            assert weight.std() == pytest.approx((0.3 if layer in behind else 1) * he, rel=5 / (2 * weight.size) ** 0.5)
    for layer in SRResNet(32, 1, 4, init="normal").layers():
        if isinstance(layer, Conv2d):
            assert layer.weight.array.std() == pytest.approx(0.01, rel=5 / (2 * layer.weight.array.size) ** 0.5)


def test_srresnets_first_picture_is_no_louder_than_a_photograph():
    network = SRResNet(64, 4, 4)
    picture = network(Photograph().load(0)[None, 100:124, 100:124] / np.float32(127.5) - 1).array
    assert 0.02 < picture.std() < 0.5


def test_random_vgg19_has_features_of_unit_deviation():
    vgg = random_vgg19("conv4_1", seed=5)
    noise = np.random.default_rng(1).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    x = 4 * noise.mean((1, 2), keepdims=True) + 0.5 * noise
    for name in vgg.state_dict():
        if name.endswith("weight"):
            layer = name.split(".")[0]
            features = VGG19(layer)
            features.load_state_dict({key: array for key, array in vgg.state_dict().items() if key in features.state_dict()})
            assert features(x).array.std() == pytest.approx(1, rel=0.35), layer         # on other random images than it was scaled on


# VGG19's input

def test_vgg19_from_kerass_file_is_what_keras_computes(tmp_path, version):
    """Keras's weights want BGR, 0 to 255, minus the means; ours take RGB in [-1, 1] and hold the rest themselves."""
    kernel, bias = 0.01 * wave(3, 3, 3, 64).astype(np.float32), wave(64, seed=1).astype(np.float32)
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        file["block1_conv1/block1_conv1_W_1:0"] = kernel
        file["block1_conv1/block1_conv1_b_1:0"] = bias
    vgg = load_vgg19(tmp_path / "vgg.h5", "conv1_1", feature_scale=0.5).to(double)

    image = wave(2, 7, 6, 3)
    bgr = (image[..., ::-1] + 1) * 127.5 - [103.939, 116.779, 123.68]
    expected = 0.5 * np.maximum(ops.conv2d(bgr, kernel.astype(np.float64), bias.astype(np.float64)).array, 0)
    assert (expected > 0).mean() > 0.2
    assert relative_error(vgg(image).array, expected) < 1e-7        # the means are float32: 116.779 has an error of 4e-6


def test_vgg19s_feature_scale_scales_the_features_and_their_gradient():
    image = Tensor(wave(1, 8, 8, 3))
    gradients = []
    for factor in (1.0, 1 / 12.75):
        vgg = fill(VGG19("conv1_2", factor))
        with Tape() as tape:
            loss = ops.sum(vgg(image))
        gradients.append((float(loss), tape.gradient(loss, image)))
    assert gradients[0][0] == pytest.approx(12.75 * gradients[1][0], rel=1e-12)
    assert relative_error(12.75 * gradients[1][1], gradients[0][1]) < 1e-12


@pytest.mark.parametrize("layer", ["conv2_2", "conv3_4"])
def test_the_random_vgg19s_features_have_unit_size(layer):
    image = np.tanh(wave(4, 1, 1, 3) + 0.3 * wave(4, 32, 32, 3)).astype(np.float32)
    features = random_vgg19(layer)(image).array
    assert 0.3 < features.std() < 3
    assert np.array_equal(features, random_vgg19(layer)(image).array)
    assert not np.array_equal(features, random_vgg19(layer, seed=1)(image).array)
