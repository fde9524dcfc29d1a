"""Converts other projects' weights to ours, and ours to files for other programs.

    python -m npsrgan.convert SOURCE -o FILE.h5
    python -m npsrgan.convert FILE.h5 -o FILE.onnx --to onnx

Needs neither PyTorch, Paddle nor TensorFlow, and runs no code from a file.
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

DESCRIPTION = """Convert weights from elsewhere into a file for npsrgan, or a file of npsrgan for other programs.

read:  PyTorch (.pth, .pt: state dicts, checkpoints, whole networks), safetensors, Paddle (.pdparams), Keras (.h5, .keras),
       npsrgan's own files.  No library of theirs is needed, and nothing in a file is run.
known: SRResNet, SRGAN's generator, EDSR, MSRResNet and their relatives, x2 to x8, colour or grey; of Keras, what its layers
       can be followed through; VGG19, whatever classifier follows.  Layers are found by shape, not by name."""

GENERATORS = [
    ("input", list(readings.INPUTS), "the pixels it takes: symmetric [-1, 1], unit [0, 1], bytes [0, 255], imagenet and div2k: "
     "less the mean of those images"),
    ("output", list(readings.OUTPUTS), "the pixels it gives, where tanh also stands for (tanh + 1) / 2"),
    ("eps", None, "of its batch norms"),
    ("slope", None, "below zero, of activations that are no PReLU: 0 for ReLU, 0.2 for LeakyReLU(0.2)"),
    ("activations", list(readings.ACTIVATIONS), "where those stand"),
    ("residual", None, "the factor on what a block adds"),
    ("base", ["none", *readings.BASES[1:]], "the enlargement of the input that is added"),
]


@command
def main(arguments=None):
    """The command.  Returns exit status 0; errors are raised (see `errors.command`)."""
    options = parse(arguments)
    source, out = Path(options.source), Path(options.out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out} is what is to be converted: give another file after -o")
    if options.feature_scale is not None and not 0 < options.feature_scale < math.inf:
        raise UserError(f"--feature-scale must be positive (it is {options.feature_scale:g})")
    for name in ("eps", "slope", "residual"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name} must be a positive number or 0 (it is {value:g})")
    require_writable(out)
    try:
        network, about = load(source, options)
    except structure.Unmapped as error:
        raise UserError(f"{source} cannot be mapped: {error}") from None
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
    parser = argparse.ArgumentParser(
        prog="python -m npsrgan.convert", formatter_class=argparse.RawDescriptionHelpFormatter, description=DESCRIPTION)
    option = parser.add_argument
    option("source", type=path, metavar="SOURCE", help="the file to read")
    option("-o", "--out", required=True, type=path, metavar="FILE", help="the file to write")
    option("--to", choices=["npsrgan", "torch", "safetensors", "onnx"], default="npsrgan",
           help="torch and safetensors: a state dict of SRResNet or VGG19, in modules nested and named like npsrgan's layers; onnx: any "
                "generator (default: npsrgan)")
    for name, values, words in GENERATORS:
        option(f"--{name}", **({"choices": values} if values else {"type": float, "metavar": name[0].upper()}),
               help=f"of a generator: {words} (default: found by trying on a photograph)")
    option("--force", action="store_true", help="convert a generator however bad its picture of the photograph is")
    option("--key", metavar="NAME",
           help="the state dict to take from a checkpoint with several, or a prefix of names in it (default: the one that fits, "
                "of several the moving average)")
    option("--feature-scale", type=float, metavar="F",
           help="factor on VGG19's features (default: 1/12.75 for Keras's weights, which are the original ones, 1 for others)")
    return parser.parse_args(arguments)


def load(path, options):
    """The network in a file of any supported kind, and a sentence about what was found."""
    source = formats.read(path)
    if source.kind == "npsrgan":
        if options.to == "npsrgan":
            raise UserError(f"{path} is a file of npsrgan already; with --to torch, safetensors or onnx it is converted for others")
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
