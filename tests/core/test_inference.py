"""Folded networks compute what the trained ones do in evaluation mode."""
import numpy as np
import pytest
from comparisons import double, relative_error, rounding

from npsrgan import images, ops
from npsrgan.device import CPU
from npsrgan.inference import apply_in_tiles, blend, fold
from npsrgan.layers import BatchNorm, Conv2d, LeakyReLU, Parameter, PixelShuffle, PReLU, Residual, Sequential
from npsrgan.models import Discriminator, SRResNet
from npsrgan.system.errors import UserError
from npsrgan.tape import Tape, Tensor


def trained(network):
    """A network whose every parameter and statistic has moved away from where it began."""
    rng = np.random.default_rng(0)
    for name, array in network.state_dict().items():
        array += 0.1 * rng.standard_normal(array.shape).astype(array.dtype)
        if name.endswith("running_var"):
            array[...] = rng.uniform(0.3, 3, array.shape)
    return network


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("network, size", [(SRResNet(8, 2, 2), 9), (SRResNet(16, 3, 4), 12), (Discriminator(4, 32), 32)])
def test_a_folded_network_computes_the_same(network, size, dtype):
    network = trained(network).to(lambda array: array.astype(dtype))
    image = np.random.default_rng(1).uniform(-1, 1, (2, size, size, 3)).astype(dtype)
    before, kept = image.copy(), {name: array.copy() for name, array in network.state_dict().items()}
    network.train()
    folded = fold(network)
    assert all(layer.training for layer in network.layers())
    expected, actual = network.eval()(image).array, folded(image).array

    assert actual.dtype == dtype
    taps = sum(p.array.size // p.shape[-1] for p in folded.parameters() if len(p.shape) > 1)
    assert np.abs(actual - expected).max() < 2 * rounding(taps, dtype) * np.abs(expected).max()        # of either network
    assert np.array_equal(image, before)
    assert all(np.array_equal(array, kept[name]) for name, array in network.state_dict().items())
    assert not any(isinstance(layer, BatchNorm) for layer in folded.layers())


@pytest.mark.parametrize("network, size", [(SRResNet(8, 2, 2), 9), (Discriminator(4, 32), 32),
                                           (Sequential(Conv2d(3, 8, 3), PReLU(8), Conv2d(8, 4, 3), PixelShuffle(2), PReLU(1)), 4),
                                           (Sequential(Conv2d(3, 12, 3), PixelShuffle(2), PReLU(3)), 4)])
def test_a_folded_network_has_the_same_gradients(network, size):
    """Of the input, and of a slope, which folding may repeat for each phase of a pixel shuffle."""
    network = trained(network).to(double).eval()
    image = Tensor(np.random.default_rng(1).uniform(-1, 1, (2, size, size, 3)))
    cotangent = np.random.default_rng(2).standard_normal(network(image).shape)

    def gradients(network):
        slopes = [layer.slope for layer in network.layers() if isinstance(getattr(layer, "slope", None), Parameter)]
        with Tape() as tape:
            loss = ops.sum(network(image) * cotangent)
        return [loss.array, *tape.gradient(loss, [image, *slopes])]

    for mine, theirs in zip(gradients(fold(network)), gradients(network), strict=True):
        mine = mine.reshape(-1, theirs.size).sum(0) if mine.ndim == 1 else mine
        assert relative_error(mine, theirs) < 1e-12


def test_a_layer_used_twice_is_folded_for_each_use():
    """A convolution before two batch norms and before none, a batch norm after two convolutions, and a block that is used twice."""
    convolution, other, norm = Conv2d(3, 3, 3), Conv2d(3, 3, 1), BatchNorm(3)
    block = Sequential(convolution, BatchNorm(3), PReLU(3))
    network = Sequential(convolution, norm, other, norm, block, convolution, Residual(convolution, BatchNorm(3)), block)
    network = trained(network.to(double)).eval()
    image = np.random.default_rng(1).uniform(-1, 1, (1, 5, 6, 3))
    expected = network(image).array
    folded = fold(network)
    assert relative_error(folded(image).array, expected) < 1e-12 and np.array_equal(network(image).array, expected)
    assert not any(isinstance(layer, BatchNorm) for layer in folded.layers())


@pytest.mark.parametrize("in_front", [[], [PixelShuffle(1)], [PixelShuffle(2)], [LeakyReLU(0.1), PixelShuffle(2)]])
def test_a_folded_network_never_overwrites_what_it_was_given(in_front):
    """A shuffle of one column of pixels is a view of its input."""
    image = np.random.default_rng(1).uniform(-1, 1, (1, 5, 1, 4))
    before = image.copy()
    network = Sequential(*in_front, PReLU(1)).to(double)
    assert np.array_equal(fold(network)(image).array, network(image).array) and np.array_equal(image, before)


def test_a_subclass_is_left_as_it_is():
    class Doubled(Conv2d):
        def forward(self, x):
            return 2.0 * super().forward(x)
    network = trained(Sequential(Doubled(3, 4, 3), BatchNorm(4), Doubled(4, 4, 3), PReLU(4))).to(double).eval()
    image = np.random.default_rng(1).uniform(-1, 1, (1, 6, 6, 3))
    assert np.array_equal(fold(network)(image).array, network(image).array)


def test_super_resolve_takes_and_gives_8_bit_images():
    generator = trained(SRResNet(8, 1, 2))
    lr = np.random.default_rng(2).integers(0, 256, (7, 10, 3), np.uint8)
    sr = apply_in_tiles(fold(generator), lr, CPU)
    expected = images.to_uint8(generator.eval()(images.to_float(lr)[None]).array[0])
    assert sr.shape == (14, 20, 3) and sr.dtype == np.uint8
    assert np.abs(sr.astype(int) - expected).max() <= 1


# Blending

def test_a_blend_lies_between_the_networks_and_shares_nothing_with_them():
    first, second = trained(SRResNet(8, 1, 2, seed=0)), trained(SRResNet(8, 1, 2, seed=1))
    a, b = ({name: array.copy() for name, array in network.state_dict().items()} for network in (first, second))
    blended = blend(first, second, 0.25)
    for name, array in blended.state_dict().items():
        assert array.dtype == np.float32
        expected = 0.75 * a[name].astype(np.float64) + 0.25 * b[name]
        assert np.abs(array - expected).max() <= rounding(2) * max(np.abs(a[name]).max(), np.abs(b[name]).max())
    blended.flat[...] = 0
    assert not any(p.array.any() for p in blended.parameters())      # the parameters are views into its own buffer
    for network, before in ((first, a), (second, b)):
        assert all(np.array_equal(array, before[name]) for name, array in network.state_dict().items())


@pytest.mark.parametrize("amount, which", [(0, 0), (1, 1)])
def test_the_ends_of_a_blend_are_the_networks_themselves(amount, which):
    networks = trained(SRResNet(8, 1, 2, seed=0)), trained(SRResNet(8, 1, 2, seed=1))
    expected = networks[which].state_dict()
    assert all(np.array_equal(array, expected[name]) for name, array in blend(*networks, amount).state_dict().items())


def test_what_cannot_be_blended_is_a_user_error():
    with pytest.raises(UserError, match="different settings.*'blocks': 1.*'blocks': 2"):
        blend(SRResNet(8, 1), SRResNet(8, 2), 0.5)
    with pytest.raises(UserError, match="different settings.*'folded': True"):
        blend(SRResNet(8, 1), fold(SRResNet(8, 1)), 0.5)
    for amount in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            blend(SRResNet(8, 1), SRResNet(8, 1), amount)
