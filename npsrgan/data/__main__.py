"""Prepare images for training:  python -m npsrgan.data --help"""
import argparse
import sys

from npsrgan.data.pack import Pack, pack
from npsrgan.data.sources import open_images
from npsrgan.system.errors import UserError, command, path
from npsrgan.system.terminal import say


@command
def main(arguments=None):
    """The command.  Returns the exit status: 0 when done, 2 when images were left out."""
    options = parse(arguments)
    source = open_images(options.images)
    if isinstance(source, Pack):
        raise UserError(f"{options.images} is a pack already")
    try:
        left_out = pack(source, options.file)
    except KeyboardInterrupt:
        say("the images packed so far are kept: give the same command again to continue")
        raise
    say(f"{len(source) - left_out} images are packed in {options.file}; to use it: python -m npsrgan.train --data {options.file}")
    if left_out:
        say(f"{left_out} of {len(source)} images could not be read and were left out")
    return 2 if left_out else 0


def parse(arguments):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m npsrgan.data", description="Prepare images for training.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    packing = commands.add_parser(
        "pack", help="decode all images once and write them to one file, from which training reads without decoding",
        description="Decode all images once and write them to one file, from which training reads without decoding: python -m "
                    "npsrgan.train --data FILE.  The file takes 3 bytes a pixel: 24 GB for CelebA's 202,599 aligned images.  When the "
                    "command is interrupted, the same command goes on where it stopped.  Images that cannot be read are reported and "
                    "left out; the exit status is then 2.",
        epilog="Example: python -m npsrgan.data pack img_align_celeba.zip celeba.pack")
    packing.add_argument("images", type=path, metavar="FOLDER", help="folder of images, searched recursively, or a zip archive of them")
    packing.add_argument("file", type=path, metavar="FILE", help="the file to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
