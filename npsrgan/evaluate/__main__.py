"""Measure how well networks enlarge images.  Low-resolution images are enlarged
by nearest neighbour, bicubic, Lanczos and networks, and compared with the
originals.

Examples:
  python -m npsrgan.evaluate Set5 Set14
  python -m npsrgan.evaluate photos/ --weights runs/demo-1/srgan.h5
  python -m npsrgan.evaluate Set5 --lpips lpips_alex.npz --figure crops.png

The columns (npsrgan/evaluate/README.md explains them in detail):
  PSNR-Y, SSIM-Y  on the Y channel, without a border as wide as the scale
                  factor, as in papers; grey files on their own levels; 100 dB
                  for an exact copy
  PSNR-RGB        the same on the three colour channels
  LPIPS           perceptual distance, with --lpips; LPIPS 3/4: of both images
                  reduced to three quarters of their size
  mesh            amplitude, in grey levels, of a pattern that repeats with the
                  period of the scale factor, where the original is smooth;
                  "-" if it is smooth nowhere
  LR PSNR         of the result, downscaled again, against the low-resolution
                  image (RGB)
Below each mean is its 95 % bootstrap interval over the images.  Differences to
bicubic are computed image by image.
"""
# Top to bottom: the command, the methods, the measurements.  benchmark.py reads the images; report.py prints and writes the
# results.  --help prints the text above.
import argparse
import math
import os
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from npsrgan import images
from npsrgan.data import bicubic
from npsrgan.device import select
from npsrgan.evaluate import report
from npsrgan.evaluate.benchmark import RESIZERS, Benchmark
from npsrgan.evaluate.lpips import LPIPS
from npsrgan.fast import keep_memory, set_threads
from npsrgan.inference import apply_in_tiles, blend, fold
from npsrgan.metrics import CAP, mesh, psnr, smooth_pixels, ssim
from npsrgan.storage import load_generator
from npsrgan.system import files
from npsrgan.system.errors import UserError, command, of_one_item, path, whole_number
from npsrgan.system.terminal import printable, progress, say

CLASSICAL = ("nearest", "bicubic", "lanczos")
BLENDS = 11             # points of the curve
CROPS = 6               # rows of --figure
VIEWS = {"lpips": lambda image: image, "lpips_reduced": lambda image: bicubic.resize(image, Fraction(3, 4))}    # the images given to LPIPS


@command
def main(arguments=None):
    """The command.  Returns the exit status: 0 when done, 2 when images were skipped."""
    options = parse(arguments)
    set_threads(options.threads or None)
    keep_memory()
    device, remark = select(options.device)
    say(remark or device.description)
    generators = load(options.weights)
    scale, lpips = common_scale(generators), LPIPS(options.lpips, device) if options.lpips else None
    ends, amounts = list(generators)[:2], np.linspace(0, 1, BLENDS).round(9).tolist() if options.curve else []
    blends = {amount: network(blend(*(generators[name] for name in ends), amount), device) for amount in [*options.blend, *amounts]}
    methods = classical(RESIZERS[options.degrade], scale)
    methods |= {name: network(generator, device) for name, generator in generators.items()}
    methods |= {f"blend {amount:g}": blends[amount] for amount in options.blend}
    rivals = noise_rows(ends, options.noise)
    names = unique([printable(Path(os.path.abspath(folder)).name) for folder in options.folders])
    benchmarks = [Benchmark(name, folder, scale, options.degrade, lpips) for name, folder in zip(names, options.folders)]

    summaries, rows, crops, curves, skipped = {}, [], [], {}, 0
    for benchmark in benchmarks:
        scores, found = measure(benchmark, benchmark.names, methods, rivals, lpips,
                                math.ceil(CROPS / len(benchmarks)) if options.figure else 0)
        skipped += len(benchmark.names) - len(scores)
        if not scores:
            say(f"{benchmark.name}: none of its images could be measured")
            continue
        summary = summaries[benchmark.name] = report.summarise(scores)
        say("", *report.table(benchmark, summary, rivals).split("\n"))
        crops += found
        if options.json:        # after each folder, so that a later failure does not lose the results
            files.write_json(options.json, summaries)
        if options.csv:
            rows += [{"folder": benchmark.name, "image": image, "method": method} | row
                     for image, measured in scores.items() for method, row in measured.items()]
            report.write_csv(options.csv, rows)
        if options.curve:
            between, _ = measure(benchmark, list(scores), {amount: blends[amount] for amount in amounts}, {}, lpips)
            curves[benchmark.name] = report.curve(summary, ["original", "bicubic", *rivals], between)
            files.write_json(beside(options.curve), curves)
    if options.figure and crops:
        images.figure(options.figure, [crop.panels for crop in crops], "Where the methods differ most (numbers: of the whole image)")
    if curves:
        report.plot_curves(options.curve, curves, ends)
    if not lpips:
        say("", "LPIPS was not measured: give its weights with --lpips FILE (npsrgan/evaluate/README.md says where to get them)")
    if skipped:
        say("", f"{skipped} of {sum(len(benchmark.names) for benchmark in benchmarks)} images could not be measured and were skipped")
    return 2 if skipped else 0


def parse(arguments):
    """Parse the options.  Raises UserError for contradictory ones."""
    parser = argparse.ArgumentParser(prog="python -m npsrgan.evaluate", usage="%(prog)s [options] FOLDER [FOLDER ...]",
                                     description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=path, metavar="FOLDER",
                        help="a folder of originals, searched recursively, or a zip archive of them; or a benchmark as published: HR/ and "
                             "LRx4/, GTmod12/ and LRbicx4/, DIV2K_valid_HR/ and DIV2K_valid_LR_bicubic/X4/, or pairs of files "
                             "NAME_HR.png and NAME_LR.png")
    add = parser.add_argument_group("what is measured").add_argument
    add("--weights", nargs="*", type=path, default=["srresnet", "srgan"], metavar="W",
        help="networks to measure: weights files, or names of weights that come with npsrgan; --weights alone: no network "
             "(default: srresnet srgan)")
    add("--lpips", type=path, metavar="FILE", help="measure LPIPS with the weights in this file, lpips_alex.npz (default: no LPIPS)")
    add("--blend", nargs="+", type=float, default=[], metavar="A",
        help="add a row for each blend of the first two networks: from 0, the first, to 1, the second (default: none)")
    add("--noise", nargs="+", type=float, default=[2.0], metavar="SIGMA",
        help="add a row for the first network's result plus white noise of this standard deviation, a trivial baseline; in grey "
             "levels, 0 to 255; 0: none (default: 2)")
    add("--degrade", choices=RESIZERS, default="matlab",
        help="how originals without low-resolution images are downscaled, and how the row bicubic enlarges: like MATLAB or Pillow; "
             "photo: downscaled with blur, noise and JPEG, seeded by the file name, and enlarged like Pillow (default: matlab)")
    add = parser.add_argument_group("files to write").add_argument
    add("--json", type=path, metavar="FILE",
        help='the means: {"FOLDER": {"METHOD": {"psnr_y": mean, ...}}}, FOLDER being the last part of the path; METHOD "original" has '
             "only a mesh")
    add("--csv", type=path, metavar="FILE", help="the measurements of every image")
    add("--figure", type=path, metavar="FILE.png", help="a picture of the crops in which the methods differ most")
    add("--curve", type=path, metavar="FILE.png",
        help="a plot of PSNR against LPIPS and mesh for blends of the first two networks, and FILE.json with its numbers; needs --lpips")
    add = parser.add_argument_group("hardware").add_argument
    add("--device", choices=("auto", "cpu", "gpu"), default="auto",
        help="where to compute; auto: on the GPU if there is one that works (default: auto)")
    add("--threads", type=whole_number(0), default=0, metavar="N", help="number of CPU threads; 0: one per core (default: 0)")
    options = parser.parse_args(arguments)
    if not all(0 <= sigma <= 255 for sigma in options.noise):
        raise UserError("--noise takes standard deviations from 0 to 255 grey levels")
    if options.curve and not options.lpips:
        raise UserError("--curve draws PSNR against LPIPS: give --lpips FILE too")
    if (options.curve or options.blend) and len(options.weights) < 2:
        raise UserError("--curve and --blend mix two networks: give two of them after --weights")
    for picture in filter(None, (options.figure, options.curve)):
        if Path(picture).suffix.lower() not in report.PICTURES:
            raise UserError(f"{picture}: this suffix cannot be written: end the name in one of {', '.join(report.PICTURES)}")
    written = [Path(file).resolve() for file in (options.json, options.csv, options.figure, options.curve,
                                                 options.curve and beside(options.curve)) if file]
    if len(set(written)) < len(written):
        raise UserError("--json, --csv, --figure, --curve and the .json of --curve must be different files: choose other names")
    for file in written:        # fail before measuring, not after
        files.require_writable(file)
    return options


def beside(curve):
    """The path for the numbers of the curve."""
    return Path(curve).with_suffix(".json")


def unique(names):
    """The names, with -2, -3, ... appended to repeated ones."""
    result = []
    for name in names:
        candidates = [name, *(f"{name}-{k}" for k in range(2, len(names) + 2))]
        result.append(next(candidate for candidate in candidates if candidate not in result))
    return result


def load(weights):
    """{name: generator}, named by file.  No two names are equal, and none equals that of a classical method."""
    names = unique([*CLASSICAL, "original", *(Path(name).stem for name in weights)])[len(CLASSICAL) + 1:]
    return {name: load_generator(file) for name, file in zip(names, weights)}


def common_scale(generators):
    """The scale factor of all networks; 4 if there are none."""
    scales = {name: generator.settings["scale"] for name, generator in generators.items()}
    if len(set(scales.values())) > 1:
        raise UserError("the networks have different scale factors, so measure them separately: "
                        + ", ".join(f"{name} x{scale}" for name, scale in scales.items()))
    return next(iter(scales.values()), 4)


def classical(resizer, scale):
    """{name: function from a low-resolution image to a high-resolution one} of the classical methods."""
    def lanczos(lr):
        return np.array(Image.fromarray(lr).resize((lr.shape[1] * scale, lr.shape[0] * scale), Image.Resampling.LANCZOS))

    return dict(zip(CLASSICAL, (lambda lr: lr.repeat(scale, 0).repeat(scale, 1), lambda lr: resizer.upscale(lr, scale), lanczos)))


def network(generator, device):
    """The same function for a generator; images may have any size."""
    folded = fold(generator).to(device.array)
    return lambda lr: apply_in_tiles(folded, lr, device)


def noise_rows(generators, sigmas):
    """{name of the row: (generator, sigma)} for --noise, which is added to the first generator's results; empty without a generator."""
    sigmas = [sigma for sigma in sigmas if sigma]
    return {f"{name} + noise{f' {sigma:g}' * (len(sigmas) > 1)}": (name, sigma) for name in generators[:1] for sigma in sigmas}


def add_noise(image, sigma, name):
    """Add white noise of standard deviation `sigma`, the same in all channels, to a uint8 image.

    The image's name is the seed: an image always gets the same noise, scaled by sigma, whatever else is measured.
    """
    noise = np.random.default_rng(zlib.crc32(name.encode("utf-8", "surrogateescape"))).standard_normal(image.shape[:2])
    return np.clip(np.rint(image + sigma * noise[..., None]), 0, 255).astype(np.uint8)


def measure(benchmark, names, methods, rivals, lpips=None, keep=0):
    """({image: {method: {metric: number}}}, [the `keep` most telling crops of all images]) of the named images.

    methods: {name: function from lr to sr}.   rivals: from `noise_rows`.
    The method "original" has only a mesh.  The mesh is None for images without smooth areas.  Images that cannot be used are
    reported and left out.
    """
    scores, crops = {}, []
    for name in progress(names, printable(benchmark.name), unit=" images", leave=False):
        try:
            row, panels = measure_one(benchmark, name, methods, rivals, lpips, keep)
        except Exception as error:      # in one image: go on with the others
            say(f"skipped: {of_one_item(error, benchmark.root / name)}", file=sys.stderr)
            continue
        scores[name] = row
        crops = sorted(crops + panels, key=lambda crop: -crop.difference)[:keep]
    return scores, crops


def measure_one(benchmark, name, methods, rivals, lpips, keep):
    """The same for one image: ({method: {metric: number}}, [its most telling crop, if any is to be kept])."""
    lr, hr = benchmark.load(name)
    results = {method: enlarge(lr) for method, enlarge in methods.items()}
    results |= {row: add_noise(results[method], sigma, name) for row, (method, sigma) in rivals.items()}
    smooth, channel = smooth_pixels(hr), "grey" if name in benchmark.grey else "y"
    features = {metric: lpips.features(view(hr)) for metric, view in VIEWS.items()} if lpips else {}
    scores = {}
    for method, sr in results.items():
        row = {"psnr_y": psnr(sr, hr, benchmark.scale, channel), "ssim_y": ssim(sr, hr, benchmark.scale, channel),
               "psnr_rgb": psnr(sr, hr, benchmark.scale, "rgb"),
               "lr_psnr": psnr(benchmark.resizer.downscale(sr, benchmark.scale), lr, 0, "rgb")}
        row = {metric: min(value, CAP) for metric, value in row.items()}
        row |= {metric: lpips.distance(lpips.features(VIEWS[metric](sr)), original) for metric, original in features.items()}
        scores[method] = row | {"mesh": mesh(sr, smooth, benchmark.scale)}
    scores["original"] = {"mesh": mesh(hr, smooth, benchmark.scale)}
    crops = [report.telling_crop(f"{benchmark.name}/{name}", results, hr, scores, benchmark.scale)] if keep else []
    return scores, crops


if __name__ == "__main__":
    sys.exit(main())
