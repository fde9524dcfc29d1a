"""Other people's weights into ours, and ours into PyTorch's.

    python -m npsrgan.convert SOURCE -o FILE.h5
    python -m npsrgan.convert FILE.h5 -o FILE.pth --to torch

Needs neither PyTorch, Paddle nor TensorFlow, and runs nothing that a file contains.
"""
import argparse
from pathlib import Path

from npsrgan import storage
from npsrgan.convert import formats, networks, pytorch, ranges
from npsrgan.errors import UserError, command
from npsrgan.images import replacing
from npsrgan.models import VGG19, SRResNet

DESCRIPTION = """Convert weights from elsewhere into a file for npsrgan, or a file of npsrgan for PyTorch.

read:  PyTorch state dicts, also inside checkpoints (.pth, .pt); Paddle (.pdparams); safetensors; Keras's VGG19 (.h5);
       npsrgan's own files.  No library of theirs is needed, and nothing in a file is run.
known: SRResNet, SRGAN's generator, with any number of channels and blocks, x2 or x4; VGG19, whatever classifier follows.
       Layers are matched by order and shape, not by name."""


@command
def main(arguments=None):
    """The command.  Returns the exit status 0; what goes wrong is raised (see `errors.command`)."""
    options = parse(arguments)
    source, out = Path(options.source), Path(options.out)
    if out.is_dir() or out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out} is {'a folder' if out.is_dir() else 'what is to be converted'}: give another file after -o")
    network, about = load(source, options)
    if options.feature_scale is not None and isinstance(network, VGG19):
        network.settings["feature_scale"] = options.feature_scale
    print(f"{source}: {about}")
    if options.to == "torch":
        arrays = networks.to_torch(network)
        with replacing(out) as temporary, open(temporary, "wb") as file:
            pytorch.write(file, arrays)
        if {"unit_input", "tanh"} & network.settings.keys():
            print("a state dict does not say so, but these weights take pixels in [0, 1] (unit input) or end in tanh (tanh): "
                  "the PyTorch modules must do that")
    else:
        storage.save_network(out, network, f"converted from {source.name}")
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB): {described(network)}")
    return 0


def parse(arguments=None):
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m npsrgan.convert", formatter_class=argparse.RawDescriptionHelpFormatter, description=DESCRIPTION)
    option = parser.add_argument
    option("source", metavar="SOURCE", help="the file to read")
    option("-o", "--out", required=True, metavar="FILE", help="the file to write")
    option("--to", choices=["npsrgan", "torch"], default="npsrgan",
           help="torch: a state dict for torch.load, in modules nested and named like npsrgan's layers (default: npsrgan)")
    option("--input", choices=list(ranges.INPUTS),
           help="pixels that a generator takes: symmetric [-1, 1], unit [0, 1] (default: found by trying it on a photograph)")
    option("--output", choices=list(ranges.OUTPUTS),
           help="pixels that it gives: symmetric [-1, 1], unit [0, 1], or through tanh, also as (tanh + 1) / 2, or through "
                "sigmoid (default: found by trying)")
    option("--slope", type=float, metavar="S",
           help="of a generator without PReLU, whose activations a file does not tell: 0 for ReLU, 0.2 for LeakyReLU(0.2)")
    option("--key", metavar="NAME",
           help="the state dict to take from a checkpoint with several (default: the one that fits, a moving average first)")
    option("--feature-scale", type=float, metavar="F",
           help="factor on VGG19's features (default: 1/12.75 for Keras's weights, which are the original ones, 1 for others)")
    return parser.parse_args(arguments)


def load(path, options):
    """The network in a file of any kind, and a sentence about what was found."""
    source = formats.read(path)
    if source.kind == "npsrgan":
        if options.to != "torch":
            raise UserError(f"{path} is a file of npsrgan already; with --to torch it is converted for PyTorch")
        return storage.load_network(path), source.kind
    if source.kind == "HDF5":
        return storage.load_vgg19(path, layer=None), "Keras"
    key, (network, left_out) = networks.find(source, path, options.key, options.slope)
    about = f"{source.kind}{f', {key!r}' if key else ''}"
    if isinstance(network, SRResNet):
        (taken, given), score, bicubic = ranges.judge(network, options.input, options.output)
        network = ranges.interpret(network, taken, given)
        return network, (f"{about}; SRResNet, {ranges.INPUTS[taken]} in, {ranges.OUTPUTS[given][0]} out "
                         f"(tried on a photograph: {score:.1f} dB, bicubic {bicubic:.1f} dB)")
    if left_out:
        about += f"; left out: {', '.join(left_out)}"
    return network, about


def described(network):
    """A network's class and settings in words."""
    values = {name: "" if value is True else f" {value:.4g}" if isinstance(value, float) else f" {value}"
              for name, value in network.settings.items()}
    return ", ".join([type(network).__name__, *[name.replace("_", " ") + value for name, value in values.items()]])


if __name__ == "__main__":
    raise SystemExit(main())
