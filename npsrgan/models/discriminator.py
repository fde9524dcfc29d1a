"""The discriminator."""
from npsrgan import ops
from npsrgan.layers import BatchNorm, Conv2d, Flatten, Layer, LeakyReLU, Linear, Sequential, initialise


class Discriminator(Layer):
    """Classifies images as real or generated.  Ledig et al. 2017, section 2.1 and figure 4.

    (N, image_size, image_size, 3) in [-1, 1] -> (N, 1), a logit: positive for real, sigmoid(logit) = D(image).

    channels:   width of the first layer; the last has 8 times as many.
    image_size: side of the square images, divisible by 16, because four convolutions halve it.
    slope:      of LeakyReLU below zero (0.2 in the paper).     seed, init: see `layers.initialise`.

    Raises ValueError for any other image_size.
    """

    def __init__(self, channels=64, image_size=176, slope=0.2, seed=0, init="he"):
        if image_size < 16 or image_size % 16:
            raise ValueError(f"the discriminator halves its images four times, so their side must be divisible by 16, unlike {image_size}")
        self.settings = {"channels": channels, "image_size": image_size, "slope": slope}
        c = channels
        plan = [(c, c, 2), (c, 2 * c, 1), (2 * c, 2 * c, 2), (2 * c, 4 * c, 1), (4 * c, 4 * c, 2), (4 * c, 8 * c, 1), (8 * c, 8 * c, 2)]
        blocks = [layer for inputs, outputs, stride in plan
                  for layer in (Conv2d(inputs, outputs, 3, stride), BatchNorm(outputs), LeakyReLU(slope))]
        self.features = Sequential(Conv2d(3, c, 3), LeakyReLU(slope), *blocks)
        self.classifier = Sequential(Flatten(), Linear(8 * c * (image_size // 16) ** 2, 16 * c), LeakyReLU(slope), Linear(16 * c, 1))
        initialise(self, seed, init)

    def forward(self, image):
        return self.classifier(self.features(image))

    def both(self, hr, sr):
        """The logits of two batches, each normalised by its own statistics: the values of `forward(hr)` and `forward(sr)`.

        The classifier normalises nothing, so both batches pass through it as one.  Its weights, nine tenths of the network's at
        176x176, are then read once, and have one gradient instead of two and their sum.
        """
        features = self.features(hr), self.features(sr)
        logits, n = self.classifier(ops.concatenate(*features, axis=0)), hr.shape[0]
        return ops.slice(logits, slice(None, n)), ops.slice(logits, slice(n, None))
