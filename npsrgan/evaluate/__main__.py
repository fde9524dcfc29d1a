"""Measure networks and classical methods on folders of images:  python -m npsrgan.evaluate --help

Top to bottom: the command, the methods, the measurements.  benchmark.py reads the images; report.py prints and writes the results.
"""
import argparse
import math
import os
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

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
from npsrgan.system.errors import UserError, command, of_one_item, path
from npsrgan.system.terminal import printable, progress, say

CLASSICAL = ("nearest", "bicubic", "lanczos")
BLENDS = 11             # points of the curve
CROPS = 6               # rows of --figure
VIEWS = {"lpips": lambda image: image, "lpips_reduced": lambda image: bicubic.resize(image, Fraction(3, 4))}    # the images given to LPIPS


@command
def main(arguments=None):
    """The command.  Returns the exit status: 0 when done, 2 when images were skipped."""
    options = parse(arguments)
    if options.threads:
        set_threads(options.threads)
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
            report.write_json(options.json, summaries)
        if options.csv:
            rows += [{"folder": benchmark.name, "image": image, "method": method} | row
                     for image, measured in scores.items() for method, row in measured.items()]
            report.write_csv(options.csv, rows)
        if options.curve:
            between, _ = measure(benchmark, list(scores), {amount: blends[amount] for amount in amounts}, {}, lpips)
            curves[benchmark.name] = report.curve(summary, ["original", "bicubic", *rivals], between)
            report.write_json(beside(options.curve), curves)
    if options.figure and crops:
        report.figure(options.figure, crops)
    if curves:
        report.plot_curves(options.curve, curves, ends)
    if not lpips:
        say("", "LPIPS was not measured: give its weights with --lpips FILE (npsrgan/evaluate/README.md says where to get them)")
    if skipped:
        say("", f"{skipped} of {sum(len(benchmark.names) for benchmark in benchmarks)} images could not be measured and were skipped")
    return 2 if skipped else 0


def parse(arguments):
    """Parse the options; contradictory ones are refused."""
    parser = argparse.ArgumentParser(
        prog="python -m npsrgan.evaluate", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Enlarge small images by nearest neighbour, bicubic, Lanczos and networks, and compare with the originals.",
        epilog=f"""\
PSNR and SSIM are computed as papers do, on Y (of a grey file, on its own levels), without a border as wide as the scale;
PSNR-RGB likewise, on the three channels; an exact copy counts as {CAP:g} dB.  LPIPS looks at the whole image, LPIPS 3/4 at both
images reduced to three quarters.  Mesh is the amplitude, in grey levels, of what repeats with the period of the scale where the
original is smooth; - where it is smooth nowhere.  LR PSNR compares the result, made small again as --degrade says, with the
small image (RGB, all pixels).  Below each mean stands its 95 % bootstrap interval over images; differences to bicubic are
taken image by image.""")
    add = parser.add_argument
    add("folders", nargs="+", type=path, metavar="FOLDER",
        help="original images, searched recursively, or a zip archive of them; or a benchmark as published: HR/ and LRx4/, "
             "GTmod12/ and LRbicx4/, DIV2K_valid_HR/ and DIV2K_valid_LR_bicubic/X4/, or pairs of files NAME_HR.png and NAME_LR.png")
    add("--weights", nargs="*", type=path, default=["srresnet", "srgan"], metavar="W",
        help="generators: files, or names of those that come with npsrgan (default: srresnet srgan); nothing: none")
    add("--blend", nargs="+", type=float, default=[], metavar="A",
        help="also rows for blends of the first two networks: 0 is all the first, 1 all the second")
    add("--noise", nargs="+", type=float, default=[2.0], metavar="SIGMA",
        help="a trivial rival: a row with white grey noise of so many levels on the first network's result, one for each SIGMA "
             "(default: 2); 0: none")
    add("--degrade", choices=RESIZERS, default="matlab",
        help="whose bicubic makes images small where there is no LRx4/, and large in the row bicubic; or photo: images are "
             "made small with blur, noise and JPEG, seeded by their names, as training's --degradation photo does (default: matlab)")
    add("--lpips", type=path, metavar="FILE", help="measure LPIPS, with the weights in this file (lpips_alex.npz)")
    add("--json", type=path, metavar="FILE",
        help='write {"FOLDER": {"METHOD": {"psnr_y": mean, ...}}}, where FOLDER is the last part of its path, made unique; '
             'METHOD "original" has a mesh only')
    add("--csv", type=path, metavar="FILE", help="write the measurements of every image")
    add("--figure", type=path, metavar="FILE.png", help="draw the crops in which the methods differ most")
    add("--curve", type=path, metavar="FILE.png",
        help="draw PSNR against LPIPS and mesh for blends of the first two networks; the numbers go to FILE.json")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to compute (default: auto)")
    add("--threads", type=int, default=0, help="CPU threads (default: one for each core)")
    options = parser.parse_args(arguments)
    if options.threads < 0:
        raise UserError("--threads must not be negative")
    if not all(0 <= sigma <= 255 for sigma in options.noise):
        raise UserError("--noise takes standard deviations from 0 to 255 grey levels")
    if options.curve and not options.lpips:
        raise UserError("--curve draws PSNR against LPIPS: give --lpips FILE too")
    if (options.curve or options.blend) and len(options.weights) < 2:
        raise UserError("--curve and --blend mix two networks: give two files after --weights")
    for picture in filter(None, (options.figure, options.curve)):
        if Path(picture).suffix.lower() not in report.PICTURES:
            raise UserError(f"{picture}: end the name of a picture in one of {', '.join(report.PICTURES)}")
    written = [Path(file).resolve() for file in (options.json, options.csv, options.figure, options.curve,
                                                 options.curve and beside(options.curve)) if file]
    if len(set(written)) < len(written):
        raise UserError("--json, --csv, --figure, and --curve with its .json must be different files")
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
    """The factor by which all networks enlarge; 4 if there are none."""
    scales = {name: generator.settings["scale"] for name, generator in generators.items()}
    if len(set(scales.values())) > 1:
        raise UserError("the networks enlarge differently, so measure them apart: "
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
