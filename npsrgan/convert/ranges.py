"""In which units a generator's weights work: a state dict does not say, but a photograph shows.

Our SRResNet takes and gives pixels in [-1, 1].  Weights from elsewhere may take [0, 1], and give either, as they are or squeezed
by tanh or sigmoid.  What is linear goes into the last convolution; the rest is one of two settings of SRResNet.
"""
from itertools import product

from tqdm import tqdm

from npsrgan.data.degrade import downscale, upscale
from npsrgan.data.photograph import Photograph
from npsrgan.device import CPU
from npsrgan.errors import UserError
from npsrgan.inference import super_resolve
from npsrgan.metrics import psnr
from npsrgan.models import SRResNet

INPUTS = {"symmetric": "[-1, 1]", "unit": "[0, 1]"}
# In words; then factor and shift of the last convolution, and whether tanh follows.  In [-1, 1], (tanh(x) + 1) / 2 is tanh(x),
# and sigmoid(x) is tanh(x / 2).
OUTPUTS = {"symmetric": ("[-1, 1]", 1, 0, False), "unit": ("[0, 1]", 2, -1, False),
           "tanh": ("tanh", 1, 0, True), "sigmoid": ("sigmoid", 0.5, 0, True)}
MARGIN = 1.0        # dB by which one reading must beat all others to be believed,
FLOOR = 10.0        # and dB below bicubic enlargement at which none is


def interpret(network, input, output):
    """The SRResNet in [-1, 1] that does what `network` does between the given ranges (keys of INPUTS and OUTPUTS)."""
    _, factor, shift, tanh = OUTPUTS[output]
    result = SRResNet(**network.settings, unit_input=input == "unit", tanh=tanh)
    result.load_state_dict(network.state_dict())
    result.tail.weight.array *= factor
    result.tail.bias.array[...] = result.tail.bias.array * factor + shift
    return result


def judge(network, input=None, output=None):
    """The most plausible reading of a generator whose units are not known: ((input, output), its PSNR, bicubic's PSNR).

    Every combination of those not given enlarges a piece of a photograph that was made small, and is measured against the
    original.  The network need not be good: in the wrong units it loses contrast or colour.
    Raises UserError where no reading stands out.  That is so for a network trained in [-1, 1] that ends in no activation: it
    does the same for the half of its range that would be [0, 1].
    """
    hr = Photograph().load(0)[300:428, 300:428]         # smooth, and of all greys from black to white
    scale = network.settings["scale"]
    lr = downscale(hr, scale)
    readings = list(product([input] if input else INPUTS, [output] if output else OUTPUTS))
    scores = {reading: psnr(super_resolve(interpret(network, *reading).eval(), lr, CPU), hr, scale, "rgb")
              for reading in tqdm(readings, "trying", delay=2, leave=False)}
    bicubic = psnr(upscale(lr, scale), hr, scale, "rgb")
    best, *others = sorted(scores, key=scores.get, reverse=True)
    if others and (scores[best] < scores[others[0]] + MARGIN or scores[best] < bicubic - FLOOR):
        tried = "; ".join(f"--input {i} --output {o}: {scores[i, o]:.1f} dB" for i, o in (best, *others[:2]))
        raise UserError("which pixels the weights take and give cannot be told from what they make of a photograph "
                        f"({tried}; bicubic: {bicubic:.1f} dB): give --input and --output")
    return best, scores[best], bicubic
