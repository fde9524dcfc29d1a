"""Convert weights of other projects to npsrgan's, or npsrgan's for other programs.

Examples:
  python -m npsrgan.convert theirs.pth -o ours.h5
  python -m npsrgan.convert ours.h5 -o ours.onnx --to onnx

Files:    PyTorch (.pth, .pt: state dicts, checkpoints, whole networks),
          safetensors, Paddle (.pdparams), Keras (.h5, .keras) and npsrgan's
          own.  The libraries that wrote them are not needed, and no code in a
          file is run.
Networks: SRResNet, SRGAN's generator, EDSR, MSRResNet and similar networks,
          x2 to x8, colour or grey; Keras models of common layers; VGG19, with
          or without its classifier.  Layers are recognised by shape, not by
          name.
"""
import argparse
import io
import json
import math
from pathlib import Path

from npsrgan import storage
from npsrgan.convert import formats, networks, onnx, pytorch, readings, safetensors, structure
from npsrgan.models import VGG19
from npsrgan.system.errors import UserError, command, path
from npsrgan.system.files import replacing, require_writable
from npsrgan.system.terminal import say

GENERATORS = [
    ("input", list(readings.INPUTS), "range of the pixels it takes: symmetric is [-1, 1], unit [0, 1], bytes [0, 255], imagenet [0, 1] "
     "normalised by ImageNet's mean and deviation, div2k [0, 255] minus DIV2K's mean"),
    ("output", list(readings.OUTPUTS), "range of the pixels it returns, likewise; tanh, sigmoid: this function follows the last "
     "convolution (tanh: also (tanh + 1) / 2)"),
    ("eps", None, "epsilon of its batch norms, such as 1e-5 (PyTorch) or 1e-3 (Keras)"),
    ("slope", None, "slope below zero of its activations other than PReLU: 0 for ReLU, 0.2 for LeakyReLU(0.2)"),
    ("activations", list(readings.ACTIVATIONS), "where these activations are: everywhere, in the residual blocks only, everywhere but "
     "after the first convolution, or as in MSRResNet"),
    ("residual", None, "factor on the output of a residual block before it is added, such as 0.1"),
    ("base", ["none", *readings.BASES[1:]], "enlargement of the input that is added to the output"),
]


@command
def main(arguments=None):
    """The command.  Returns exit status 0; errors are raised (see `errors.command`)."""
    options = parse(arguments)
    source, out = Path(options.source), Path(options.out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out} is the file to convert: give another file after -o")
    if options.feature_scale is not None and not 0 < options.feature_scale < math.inf:
        raise UserError(f"--feature-scale must be positive (it is {options.feature_scale:g})")
    for name in ("eps", "slope", "residual"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name} must be at least 0 and finite (it is {value:g})")
    require_writable(out)
    try:
        network, about = load(source, options)
    except structure.Unmapped as error:
        raise UserError(f"{source} cannot be converted: {error}") from None
    for name, array in network.state_dict().items():
        storage.require_sound(array, name, source)
    if options.feature_scale is not None and isinstance(network, VGG19):
        network.settings["feature_scale"] = options.feature_scale
    first, *others = about.split("\n")
    say(f"{source}: {first}", *others)
    if options.to == "npsrgan":
        storage.save_network(out, network, f"converted from {source.name}")
    else:
        contents = exported(network, options.to)
        with replacing(out) as temporary:
            Path(temporary).write_bytes(contents)
    say(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB): {described(network)}")
    return 0


def parse(arguments=None):
    """Parse the command line into a namespace."""
    parser = argparse.ArgumentParser(prog="python -m npsrgan.convert", usage="%(prog)s [options] SOURCE -o FILE",
                                     formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    option = parser.add_argument
    option("source", type=path, metavar="SOURCE", help="the file to read")
    option("-o", "--out", required=True, type=path, metavar="FILE", help="the file to write (required)")
    option("--to", choices=["npsrgan", "torch", "safetensors", "onnx"], default="npsrgan",
           help="format to write; torch, safetensors: a state dict of SRResNet or VGG19, whose modules are nested and named like "
                "npsrgan's layers; onnx: any generator (default: npsrgan)")
    option("--key", metavar="NAME",
           help="which state dict to take from a checkpoint that holds several, or a prefix of the names in it (default: the one that "
                "fits; if several fit, the moving average)")
    option("--feature-scale", type=float, metavar="F",
           help="of VGG19: positive factor on its features (default: 1/12.75 for Keras's weights, which are the original ones; 1 for "
                "others)")
    option = parser.add_argument_group("what the file of a generator does not say", "By default, all likely values are tried on a\n"
                                       "photograph, and the best are used.  Give the options that you know.").add_argument
    for name, values, words in GENERATORS:
        option(f"--{name}", **({"choices": values} if values else {"type": float, "metavar": name[0].upper()}), help=words)
    option("--force", action="store_true", help="convert the generator however bad its picture of the photograph is")
    return parser.parse_args(arguments)


def load(path, options):
    """The network in a file of any supported kind, and a sentence about what was found."""
    source = formats.read(path)
    if source.kind == "npsrgan":
        if options.to == "npsrgan":
            raise UserError(f"{path} is already a weights file of npsrgan: give --to torch, safetensors or onnx to convert it for other "
                            "programs")
        return storage.load_network(path), source.kind
    if source.kind == "HDF5" and isinstance(source.contents, dict) and any("block1_conv1" in name for name in source.contents):
        return storage.load_vgg19(path, layer=None), "Keras"
    fixed = {name: getattr(options, name) for name, _, _ in GENERATORS}
    return networks.find(source, path, fixed, options.key, options.force)


def exported(network, to):
    """The bytes of a file for other programs.  Raises UserError for a network that the format cannot hold."""
    if to == "onnx":
        return onnx.contents(networks.assembled(network))
    arrays = networks.to_torch(network)
    if to == "safetensors":
        return safetensors.contents(arrays, {"format": "pt", "network": type(network).__name__, "settings": json.dumps(network.settings),
                                             "pixels": "RGB from -1 (black) to 1 (white)"})
    file = io.BytesIO()
    pytorch.write(file, arrays)
    return file.getvalue()


def described(network):
    """A network's class and settings in words."""
    values = {name: "" if value is True else f" {value:.4g}" if isinstance(value, float) else f" {value}"
              for name, value in network.settings.items() if not isinstance(value, list)}
    return ", ".join([type(network).__name__, *[name.replace("_", " ") + value for name, value in values.items()]])


if __name__ == "__main__":
    raise SystemExit(main())
