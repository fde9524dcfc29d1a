"""What a generator must offer, so that it can be trained, saved, converted, evaluated and applied to images of any size."""
from npsrgan.layers import Layer


class Generator(Layer):
    """A network that enlarges images: (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1].

    To add one, write a subclass and add it to `models.GENERATORS`.  A subclass has

        __init__(channels, blocks, scale, seed, init, equal_phases), which training calls (further arguments need defaults)
        settings                the arguments to build it again, "scale" among them: what a file of weights keeps
        features(lr)            the first half, at low resolution: (N, h, w, 3) -> (N, h, w, C)
        enlarge(features)       the second half: (N, h, w, C) -> (N, scale*h, scale*w, 3)
        second_half             the layers of `enlarge` in the order in which they run, for the overlap of tiles
        live_channels           channels of all arrays that `features` holds at a time, for the size of tiles

    and defines its layers in the order in which they run.  Tiles are exact for convolutions of stride 1 and pixel shuffles.
    """

    def forward(self, lr):
        return self.enlarge(self.features(lr))

    def constrain(self):
        """Project the weights, in place, onto those that are allowed.  Called after every update; by default all are allowed."""
