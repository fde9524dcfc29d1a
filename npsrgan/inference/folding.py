"""Faster inference: batch norm folded into the convolutions.  Also blends two networks."""
import copy

import numpy as np

from npsrgan.layers import BatchNorm, Conv2d, Parameter, PixelShuffle, PReLU, Sequential
from npsrgan.system.errors import UserError


def fold(network):
    """A faster copy of a network, for inference only: the same function as in evaluation mode, up to rounding.

    In evaluation mode batch norm scales each channel by a fixed s = gamma / sqrt(var + eps) and shifts it, and the convolution
    before it can absorb both:  s * (x * w + b - mean) + beta  =  x * (s w) + (s (b - mean) + beta).

    PReLU moves before the pixel shuffle, directly after the convolution, so that one pass can compute all three.

    The copy has gradients like any network, but different parameters, which are frozen.  Its settings mark it as folded: it cannot be
    saved, nor blended with a network that is not folded.
    """
    network = copy.deepcopy(network).eval()
    for layer in list(network.layers()):
        if isinstance(layer, Sequential):
            layer.steps = _folded(layer.steps)
    if hasattr(network, "settings"):
        network.settings["folded"] = True
    return network.freeze()


def _folded(steps):
    folded = []
    for step in steps:
        pair = tuple(map(type, (*folded[-1:], step)))       # exact types: a subclass may do something else
        if pair == (Conv2d, BatchNorm):
            before, scale = folded[-1], step.gamma.array / np.sqrt(step.running_var + step.eps)
            folded[-1] = copy.copy(before)      # the network may use the same layer elsewhere
            folded[-1].weight = Parameter(before.weight.array * scale)
            folded[-1].bias = Parameter((before.bias.array - step.running_mean) * scale + step.beta.array)
        elif pair == (PixelShuffle, PReLU):
            first, slope = copy.copy(step), step.slope.array
            first.slope = Parameter(np.tile(slope, folded[-1].r ** 2) if slope.size > 1 else slope)     # each phase's channels
            folded.insert(-1, first)
        else:
            folded.append(step)
    return tuple(folded)


def blend(srresnet, srgan, amount):
    """Interpolate two networks of one architecture: (1 - amount) * srresnet + amount * srgan, for each parameter and running
    statistic.  Wang et al. 2018 (ESRGAN), section 3.4: one number trades texture against noise, without training.

    amount: 0 for the first network's own arrays, 1 for the second's.  Raises UserError for an amount outside [0, 1], where a
    running variance could be negative, and for networks of different settings.  It works because training of the second network
    started from the first.
    """
    if not 0 <= amount <= 1:
        raise UserError(f"the amount of a blend must be between 0 and 1, not {amount:g}")
    if srresnet.settings != srgan.settings:
        raise UserError(f"networks with different settings cannot be blended: {srresnet.settings} and {srgan.settings}")
    blended, second = copy.deepcopy(srresnet), srgan.state_dict()
    for name, array in blended.state_dict().items():
        array[...] = (1 - amount) * array + amount * second[name]
    return blended.pack()
