"""The generator."""
from npsrgan import ops
from npsrgan.layers import BatchNorm, Conv2d, Layer, PixelShuffle, PReLU, Residual, Sequential, initialise


class SRResNet(Layer):
    """Low resolution in, `scale` times the resolution out.  Ledig et al. 2017, section 2.1 and figure 4.

    (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1]: nothing at the end forces it there.

    channels: width of every hidden layer.       blocks: number of residual blocks.
    scale:    2 or 4, one pixel shuffle per doubling.   seed, init: see `layers.initialise`.

    Two settings are for weights from elsewhere, and are kept only where they are set:
    unit_input: the weights see pixels in [0, 1].  No weights in [-1, 1] could do the same, because of the zeros that pad the
                first convolution: they are black to such weights, and mid-grey to ours.
    tanh:       at the end, which forces the output into [-1, 1].
    """

    def __init__(self, channels=64, blocks=16, scale=4, seed=0, init="he", unit_input=False, tanh=False):
        if scale not in (2, 4):
            raise ValueError(f"SRResNet enlarges by 2 or by 4, not by {scale}")
        self.settings = {"channels": channels, "blocks": blocks, "scale": scale}
        self.settings |= {name: True for name, wanted in (("unit_input", unit_input), ("tanh", tanh)) if wanted}
        c = channels
        self.head = Sequential(Conv2d(3, c, 9), PReLU(c))
        self.body = Sequential(*[Residual(Conv2d(c, c, 3), BatchNorm(c), PReLU(c), Conv2d(c, c, 3), BatchNorm(c))
                                 for _ in range(blocks)],
                               Conv2d(c, c, 3), BatchNorm(c))
        self.upsampling = Sequential(*[Sequential(Conv2d(c, 4 * c, 3), PixelShuffle(2), PReLU(c))
                                       for _ in range(scale // 2)])
        self.tail = Conv2d(c, 3, 9)
        initialise(self, seed, init)
        if init == "he":
            # Behind the residual blocks no batch norm holds the signal's size.  Left as loud as it arrives there, the first picture
            # is noise of twice the contrast of a photograph, and hundreds of steps go into unlearning it.
            for layer in [*self.upsampling.layers(), self.tail]:
                if isinstance(layer, Conv2d):
                    layer.weight.array *= 0.3

    def forward(self, lr):
        return self.enlarge(self.features(lr))

    def features(self, lr):
        """The first half, at low resolution: (N, h, w, 3) -> (N, h, w, channels)."""
        if "unit_input" in self.settings:
            lr = ops.scale(lr, 0.5) + 0.5
        shallow = self.head(lr)
        return self.body(shallow) + shallow

    def enlarge(self, features):
        """The second half: (N, h, w, channels) -> (N, scale*h, scale*w, 3)."""
        sr = self.tail(self.upsampling(features))
        if "tanh" in self.settings:
            sr = ops.scale(ops.sigmoid(ops.scale(sr, 2)), 2) - 1.0      # tanh(x) = 2 sigmoid(2x) - 1
        return sr
