"""The generator of the paper."""
from npsrgan.layers import BatchNorm, Conv2d, PixelShuffle, PReLU, Residual, Sequential, initialise
from npsrgan.models.generator import Generator


class SRResNet(Generator):
    """The generator of SRGAN: enlarges images by `scale`.  Ledig et al. 2017, section 2.1 and figure 4.

    (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1], since no activation bounds the output.

    channels: width of every hidden layer.       blocks: number of residual blocks.
    scale:    2, 3, 4 or 8; see SHUFFLES.        seed, init: see `layers.initialise`.

    equal_phases: keep the convolutions before the pixel shuffles free of checkerboard patterns; see `constrain`.
    Raises ValueError for any other scale.
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
        """`features` holds four arrays at once: the head's output, and a block's input, a convolution's input and its output."""
        return 4 * self.settings["channels"]

    def constrain(self):
        """With `equal_phases`, project the weights, in place, onto those that add no periodic pattern.

        The r*r channels that a pixel shuffle interleaves are the phases (row, column) of the enlarged image.  Along an axis on which
        its input is constant, a convolution only sees the sums of its taps along that axis.  If they differ between the phases on
        that axis, the output has a pattern of period r: a mesh in flat areas, beads along straight edges.  Therefore the deviation
        of each phase's sum from the mean over the axis's phases is subtracted, spread evenly over the taps.  The bias is projected in
        the same way.  The projections for the two axes commute, so both conditions hold afterwards.
        Sugawara, Shiota and Kiya 2019, "Checkerboard artifacts free convolutional neural networks", state the condition for images
        that are flat on both axes at once.
        """
        if "equal_phases" not in self.settings:
            return
        for convolution, shuffle, _ in (stage.steps for stage in self.upsampling.steps):
            for array, k in ((convolution.weight.array, convolution.weight.shape[0]), (convolution.bias.array, 1)):
                view = array.reshape(k, k, -1, shuffle.r, shuffle.r, array.shape[-1] // shuffle.r ** 2)     # taps, inputs, phases, outputs
                for tap, phase in ((0, 3), (1, 4)):     # rows, columns
                    gain = view.mean(tap, keepdims=True)
                    view -= gain - gain.mean(phase, keepdims=True)
