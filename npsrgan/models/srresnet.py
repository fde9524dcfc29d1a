"""The generator."""
from npsrgan.layers import BatchNorm, Conv2d, Layer, PixelShuffle, PReLU, Residual, Sequential, initialise


class SRResNet(Layer):
    """Low resolution in, `scale` times the resolution out.  Ledig et al. 2017, section 2.1 and figure 4.

    (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1]: nothing at the end forces it there.

    channels: width of every hidden layer.       blocks: number of residual blocks.
    scale:    2 or 4, one pixel shuffle per doubling.   seed, init: see `layers.initialise`.
    """

    def __init__(self, channels=64, blocks=16, scale=4, seed=0, init="he"):
        if scale not in (2, 4):
            raise ValueError(f"SRResNet enlarges by 2 or by 4, not by {scale}")
        self.settings = {"channels": channels, "blocks": blocks, "scale": scale}
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
        shallow = self.head(lr)
        return self.body(shallow) + shallow

    def enlarge(self, features):
        """The second half: (N, h, w, channels) -> (N, scale*h, scale*w, 3)."""
        return self.tail(self.upsampling(features))
