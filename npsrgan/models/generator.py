"""The interface of a generator that can be trained, saved, converted, evaluated and applied to images of any size."""
from npsrgan.layers import Conv2d, Layer, PixelShuffle


class Generator(Layer):
    """A network that enlarges images: (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1].

    To add one, write a subclass and add it to `models.GENERATORS`.  A subclass has

        __init__(channels, blocks, scale, seed, init, equal_phases), called by training (other arguments need defaults)
        settings                the arguments to rebuild it, including "scale", as saved in weight files
        features(lr)            the first half, at low resolution: (N, h, w, 3) -> (N, h, w, C)
        enlarge(features)       the second half: (N, h, w, C) -> (N, scale*h, scale*w, 3)
        second_half             the layers of `enlarge` in the order in which they run, for `radius`
        live_channels           number of channels of all arrays that `features` holds at once, which limits the tile size

    and defines its layers in the order in which they run.  `radius`, the overlap of tiles, supports convolutions of stride 1
    and pixel shuffles.
    """

    def forward(self, lr):
        return self.enlarge(self.features(lr))

    def radius(self, half=False):
        """The receptive radius in low-resolution pixels; with `half`, of `enlarge` alone.  See `receptive_radius`."""
        return receptive_radius(*(self.second_half if half else [self]))

    def constrain(self):
        """Project the weights, in place, onto the allowed set.  Called after every update; by default, all weights are allowed."""


def receptive_radius(*layers):
    """How many input pixels an output pixel depends on in each direction, in evaluation mode: 40 for SRResNet with 16 blocks.

    Supports networks without strides whose layers are defined in the order in which they run.  Counted backward from the output:
    a k x k convolution adds k // 2 pixels at its own resolution, and a pixel shuffle by r divides the radius by r, rounded up.
    """
    radius = 0
    for layer in reversed([inner for outer in layers for inner in outer.layers()]):
        if isinstance(layer, Conv2d):
            radius += layer.weight.shape[0] // 2
        elif isinstance(layer, PixelShuffle):
            radius = -(-radius // layer.r)
    return radius
