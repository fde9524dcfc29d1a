"""VGG19, whose features the perceptual loss compares."""
from itertools import pairwise

import numpy as np

from npsrgan import ops
from npsrgan.layers import Conv2d, Layer, initialise
from npsrgan.ops.operation import with_twins

PLAN = [(1, 64, 2), (2, 128, 2), (3, 256, 4), (4, 512, 4), (5, 512, 4)]      # block, channels, convolutions
LAYERS = [f"conv{block}_{i + 1}" for block, _, depth in PLAN for i in range(depth)]


class VGG19(Layer):
    """The convolutions of VGG19 up to `layer`, whose outputs after ReLU are the features.  Simonyan and Zisserman 2015, table 1.

    (N, H, W, 3) RGB in [-1, 1] -> (N, H', W', C): H' is H, halved once for each block before that of `layer`.

    layer:         "conv1_1" to "conv5_4".
    feature_scale: factor on the features, 1/12.75 for the original weights (Ledig et al. 2017, section 2.2.1).
    The input normalisation that the weights expect is stored with them: x -> input_gain * x + input_shift, both (3,), for RGB.

    Training never requests gradients of its parameters, so none are computed.  Raises ValueError for any other layer.
    """

    def __init__(self, layer="conv5_4", feature_scale=1.0):
        if layer not in LAYERS:
            raise ValueError(f"VGG19 has no layer {layer!r}: choose one of {', '.join(LAYERS)}")
        self.settings = {"layer": layer, "feature_scale": feature_scale}
        self.input_gain, self.input_shift = np.ones(3, np.float32), np.zeros(3, np.float32)
        self._names = LAYERS[:LAYERS.index(layer) + 1]
        self.pooled = [name for name, after in pairwise(self._names) if after.endswith("_1")]
        before = 3
        for block, channels, depth in PLAN:
            for name in [f"conv{block}_{i + 1}" for i in range(depth)]:
                if name in self._names:
                    setattr(self, name, Conv2d(before, channels, 3))
                    before = channels

    def forward(self, image):
        x = image * self.input_gain + self.input_shift
        for name in self._names:
            x = self.stage(name, x)
        return ops.scale(x, self.settings["feature_scale"])

    def before_relu(self, image, names):
        """The outputs of several convolutions before their ReLU, from shallow to deep: a list of tensors (N, H', W', C).

        They keep the information that ReLU discards: Wang et al. 2018 (ESRGAN), section 3.3.  names: of layers up to `layer`.
        """
        x, found = image * self.input_gain + self.input_shift, []
        for name in self._names:
            if name in names:
                x = getattr(self, name)(x)
                found.append(ops.scale(x, self.settings["feature_scale"]))
                x = self.activate(name, x)
            else:
                x = self.stage(name, x)
        return found

    @with_twins
    def stage(self, name, x):
        """One convolution and what follows it."""
        return self.activate(name, getattr(self, name)(x))

    @with_twins
    def activate(self, name, x):
        """ReLU, with pooling if another block follows."""
        x = ops.relu(x)
        return ops.max_pool2d(x) if name in self.pooled else x


def random_vgg19(layer="conv2_2", seed=0, feature_scale=1.0):
    """A VGG19 with random weights, for use without a weight file: He initialisation, then each layer scaled so that its
    output has unit variance on random images.  Its features respond to colours, edges and textures, not to objects."""
    vgg = initialise(VGG19(layer, feature_scale), seed)
    noise = np.random.default_rng([seed, 19]).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    x = 4 * noise.mean((1, 2), keepdims=True) + 0.5 * noise       # flat colours and some noise: closer to a photo than pure noise
    for name in vgg._names:
        convolution = getattr(vgg, name)
        deviation = float(ops.relu(convolution(x)).array.std())
        x = ops.scale(vgg.stage(name, x), 1 / deviation)
        convolution.weight.array /= deviation                     # biases are 0, so this scales the output
    return vgg
