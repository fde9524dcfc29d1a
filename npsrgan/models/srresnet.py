"""The generator of the paper."""
from npsrgan.layers import BatchNorm, Conv2d, PixelShuffle, PReLU, Residual, Sequential, initialise
from npsrgan.models.generator import Generator


class SRResNet(Generator):
    """The generator of SRGAN: enlarges images by `scale`.  Ledig et al. 2017, section 2.1 and figure 4.

    (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1], since no activation bounds the output.

    channels: width of every hidden layer.       blocks: number of residual blocks.
    scale:    2, 3, 4 or 8, in steps of SHUFFLES.   seed, init: see `layers.initialise`.

    equal_phases: keep the convolutions before the pixel shuffles free of checkerboard patterns; see `constrain`.
    """

    SHUFFLES = {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}        # scale: the factors of the pixel shuffles, one after another

    def __init__(self, channels=64, blocks=16, scale=4, seed=0, init="he", equal_phases=False):
        if scale not in self.SHUFFLES:
            raise ValueError(f"SRResNet enlarges by 2, 3, 4 or 8, not by {scale}")
        self.settings = {"channels": channels, "blocks": blocks, "scale": scale, **({"equal_phases": True} if equal_phases else {})}
        c = channels
        self.head = Sequential(Conv2d(3, c, 9), PReLU(c))
        self.body = Sequential(*[Residual(Conv2d(c, c, 3), BatchNorm(c), PReLU(c), Conv2d(c, c, 3), BatchNorm(c))
                                 for _ in range(blocks)],
                               Conv2d(c, c, 3), BatchNorm(c))
        self.upsampling = Sequential(*[Sequential(Conv2d(c, r * r * c, 3), PixelShuffle(r), PReLU(c))
                                       for r in self.SHUFFLES[scale]])
        self.tail = Conv2d(c, 3, 9)
        initialise(self, seed, init)
        if init == "he":
            # After the residual blocks, no batch norm limits the scale of the signal.  Without this factor, the initial output is
            # noise with twice the contrast of a photograph, and training takes hundreds of steps to unlearn it.
            for layer in [*self.upsampling.layers(), self.tail]:
                if isinstance(layer, Conv2d):
                    layer.weight.array *= 0.3
        self.constrain()

    def features(self, lr):
        """The first half, at low resolution: (N, h, w, 3) -> (N, h, w, channels)."""
        shallow = self.head(lr)
        return self.body(shallow) + shallow

    def enlarge(self, features):
        """The second half: (N, h, w, channels) -> (N, scale*h, scale*w, 3)."""
        return self.tail(self.upsampling(features))

    @property
    def second_half(self):
        return self.upsampling, self.tail

    @property
    def live_channels(self):
        """The body's last sum, a block's sum, a convolution's input and its output."""
        return 4 * self.settings["channels"]

    def constrain(self):
        """With `equal_phases`, project the weights, in place, onto those for which a flat image stays flat.

        The r*r channels that a pixel shuffle interleaves are the phases of the enlarged image.  For a constant input, a
        convolution returns one number per output channel: the sum of its taps times the input, plus the bias.  If it differs
        between phases, the output has a pattern with a period of r pixels.  Therefore the deviation of each phase's sum, and bias, from
        the mean over all phases is subtracted, spread evenly over the taps.  Call it after every update of the weights.
        The condition is from Sugawara, Shiota and Kiya 2019, "Checkerboard artifacts free convolutional neural networks".
        """
        if "equal_phases" not in self.settings:
            return
        for convolution, shuffle, _ in (stage.steps for stage in self.upsampling.steps):
            weight, bias, phases = convolution.weight.array, convolution.bias.array, shuffle.r ** 2
            for array, taps in ((weight, weight.shape[0] * weight.shape[1]), (bias, 1)):
                by_phase = array.reshape(taps, -1, phases, array.shape[-1] // phases)       # a view: taps, inputs, phases, outputs
                gain = by_phase.mean(0)
                by_phase -= gain - gain.mean(1, keepdims=True)
