"""What a generator must offer, so that it can be trained, saved, converted, evaluated and applied to images of any size."""
from npsrgan.layers import Conv2d, Layer, PixelShuffle


class Generator(Layer):
    """A network that enlarges images: (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1].

    To add one, write a subclass and add it to `models.GENERATORS`.  A subclass has

        __init__(channels, blocks, scale, seed, init, equal_phases), which training calls (further arguments need defaults)
        settings                the arguments to build it again, "scale" among them: what a file of weights keeps
        features(lr)            the first half, at low resolution: (N, h, w, 3) -> (N, h, w, C)
        enlarge(features)       the second half: (N, h, w, C) -> (N, scale*h, scale*w, 3)
        second_half             the layers of `enlarge` in the order in which they run, for `radius`
        live_channels           channels of all arrays that `features` holds at a time, for the size of tiles

    and defines its layers in the order in which they run.  `radius`, the overlap of tiles, is right for convolutions of stride 1 and
    pixel shuffles.
    """

    def forward(self, lr):
        return self.enlarge(self.features(lr))

    def radius(self, half=False):
        """How many pixels of the input a pixel of the result sees beyond its own place; half: as `enlarge` sees the features."""
        return receptive_radius(*(self.second_half if half else [self]))

    def constrain(self):
        """Project the weights, in place, onto those that are allowed.  Called after every update; by default all are allowed."""


def receptive_radius(*layers):
    """How many pixels of the input a pixel of the output sees beyond its own place, in evaluation mode: 40 for 16 blocks.

    Of networks without strides, whose layers are defined in the order in which they run.  Counted backward from the output:
    a k x k convolution sees k // 2 pixels further at its own resolution, and before a pixel shuffle by r, r pixels were one.
    """
    radius = 0
    for layer in reversed([inner for outer in layers for inner in outer.layers()]):
        if isinstance(layer, Conv2d):
            radius += layer.weight.shape[0] // 2
        elif isinstance(layer, PixelShuffle):
            radius = -(-radius // layer.r)
    return radius
