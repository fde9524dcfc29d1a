"""The results of an evaluation: means and their intervals, tables, JSON and CSV, the figure of crops, and the curve.

`scores` is always {image: {method: {metric: number}}}; a mesh may be None.
"""
import csv
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from npsrgan import images
from npsrgan.metrics import luma
from npsrgan.system import files

NAMES = {"psnr_y": "PSNR-Y", "ssim_y": "SSIM-Y", "psnr_rgb": "PSNR-RGB", "lpips": "LPIPS", "lpips_reduced": "LPIPS 3/4", "mesh": "mesh",
         "lr_psnr": "LR PSNR"}
DIGITS = {"psnr_y": 2, "ssim_y": 4, "psnr_rgb": 2, "lpips": 4, "lpips_reduced": 4, "mesh": 3, "lr_psnr": 2}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
PAPER = {       # Ledig et al. 2017, table 2: (PSNR, SSIM)
    "Set5": {"bicubic": (28.43, 0.8211), "SRResNet": (32.05, 0.9019), "SRGAN": (29.40, 0.8472)},
    "Set14": {"bicubic": (25.99, 0.7486), "SRResNet": (28.49, 0.8184), "SRGAN": (26.02, 0.7397)},
    "BSD100": {"bicubic": (25.94, 0.6935), "SRResNet": (27.58, 0.7620), "SRGAN": (25.16, 0.6688)}}
DRAWS, SEED = 10_000, 0
CROP = 24       # side of the crops, in low-resolution pixels


def interval(values):
    """The 95 % percentile bootstrap interval of the mean of one number per image: (low, high).  Efron 1979.

    The draws depend only on the number of images.  So all methods share the same draws, and the interval of a difference is that
    of paired samples.  (With fewer than about 20 images such intervals are known to be too narrow.)
    """
    return tuple(np.percentile(_drawn(len(values)) @ values / len(values), [2.5, 97.5]).tolist())


@lru_cache(maxsize=1)
def _drawn(count):
    """How often each of `count` images occurs in each bootstrap sample of `count` images: float64 (draws, count).

    For more than 500 images there are fewer than 10,000 draws, to limit memory.
    """
    draws = min(DRAWS, 5_000_000 // count)
    drawn = np.random.default_rng([SEED, count]).integers(0, count, (draws, count))
    return np.bincount((drawn + count * np.arange(draws)[:, None]).ravel(), minlength=draws * count).reshape(draws, count).astype(float)


def column(scores, method, metric):
    """The metric's values, for all images that have one."""
    values = (rows[method][metric] for rows in scores.values())
    return np.array([value for value in values if value is not None])


def mean(values):
    """The mean of the numbers, None if there are none."""
    return float(values.mean()) if len(values) else None


def summarise(scores):
    """{method: {metric: mean, "images": n, "interval": {metric: (low, high)}, "minus_bicubic": {"mean": ..., "interval": ...}}}.

    "minus_bicubic" holds the same for the differences to bicubic, image by image.  With one image the interval is None.  Images
    without a mesh are left out of its mean, which is None if none is left; "images" of the "original" counts those with a mesh.
    """
    def means(columns):
        return {metric: mean(values) for metric, values in columns.items()}

    def intervals(columns):
        return {metric: interval(values) if len(values) > 1 else None for metric, values in columns.items()}

    summary = {}
    for method, row in next(iter(scores.values())).items():
        columns = {metric: column(scores, method, metric) for metric in row}
        summary[method] = means(columns) | {"images": max(map(len, columns.values())), "interval": intervals(columns)}
        if method not in ("bicubic", "original"):
            columns = {metric: values - column(scores, "bicubic", metric) for metric, values in columns.items()}
            summary[method]["minus_bicubic"] = {"mean": means(columns), "interval": intervals(columns)}
    return summary


def table(benchmark, summary, rivals):
    """The summary of a folder as text, with the paper's numbers if it has any for it, and the differences to bicubic.

    rivals: {name of the row: (method, sigma of the noise on its results)}.
    """
    metrics = [metric for metric in NAMES if metric in summary["bicubic"]]
    paper = PAPER.get(benchmark.name, {}) if benchmark.scale == 4 else {}
    count = summary["bicubic"]["images"]
    width = 2 + max(map(len, [*summary, *(f"paper: {name}" for name in paper)]))

    def line(name, cells):
        return (name.ljust(width) + "".join(cell.ljust(18) for cell in cells)).rstrip()

    def cell(metric, means, span, sign):
        if means.get(metric) is None:
            return "-" * (metric in means)
        return f"{means[metric]:{sign}.{DIGITS[metric]}f}" + " *" * bool(sign and span and span[0] * span[1] > 0)

    def lines(name, means, intervals, sign=""):
        """The means, with the intervals below them.  With a sign, a star marks means whose interval excludes 0."""
        spans = [intervals.get(metric) for metric in metrics]
        lower = [" .. ".join(f"{end:{sign}.{min(DIGITS[metric], 3)}f}" for end in span or ()) for metric, span in zip(metrics, spans)]
        return [line(name, [cell(metric, means, span, sign) for metric, span in zip(metrics, spans)])] + [line("", lower)] * any(lower)

    text = [f"{benchmark.name}: {count} image{'s' * (count > 1)}, x{benchmark.scale}, {benchmark.source}",
            line("", [NAMES[metric] for metric in metrics])]
    for method, row in summary.items():
        text += lines(method, row, row["interval"])
    text += [line(f"paper: {name}", [f"{decibels:.2f}", f"{similarity:.4f}"]) for name, (decibels, similarity) in paper.items()]
    if paper:
        text.append("(paper: Ledig et al. 2017, table 2; its SSIM was computed by other software and is higher)")
    text += [f"({name}: white noise of {sigma:g} grey levels on top of {method}, which no metric should reward)"
             for name, (method, sigma) in rivals.items()]
    for metric in ("lpips", "lpips_reduced") if len(rivals) > 1 and "lpips" in metrics else ():
        best = min(rivals, key=lambda name: summary[name][metric])
        text.append(f"(the best noise row in {NAMES[metric]}: {best}, {summary[best][metric]:.4f})")
    if benchmark.grey:
        text.append(f"(grey files, measured on their own levels as in papers: {len(benchmark.grey)} of {count})")
    if 0 < summary["original"]["images"] < count:
        text.append(f"(mesh: measured on {summary['original']['images']} of {count} images; the others have no smooth areas)")
    text.append("minus bicubic" + ", * where the interval excludes 0" * (count > 1))
    for method, row in summary.items():
        if "minus_bicubic" in row:
            text += lines(method, row["minus_bicubic"]["mean"], row["minus_bicubic"]["interval"], "+")
    return "\n".join(text)


def write_csv(path, rows):
    """Write a line for each dictionary, with the keys of the first as columns.  "-" marks what could not be measured."""
    with files.replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: "-" if value is None else value for key, value in row.items()} for row in rows)


class Crop(NamedTuple):
    """A square of an image in all versions: how much the methods differ in it, and its panels for `images.figure`."""

    difference: float
    panels: list


def telling_crop(name, results, hr, scores, scale):
    """The square in which the methods differ most: the one with the largest summed variance of Y between them.

    Nearest neighbour is left out of the variance, because it differs at every edge; it shows the low-resolution image.
    results: {method: uint8 image}.  scores: {method: {metric: number}}.
    """
    spread = np.var([luma(image) for method, image in results.items() if method != "nearest"], axis=0)
    side = min(CROP * scale, *hr.shape[:2])
    total = np.pad(spread, ((1, 0), (1, 0))).cumsum(0).cumsum(1)         # sums of everything above and to the left
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    panels = [("LR" if method == "nearest" else method, image, caption_of(scores[method])) for method, image in results.items()]
    return Crop(float(sums.max()) / side**2, [(title, image[top:top + side, left:left + side].copy(), caption)
                                              for title, image, caption in [*panels, ("original", hr, name)]])


def caption_of(row):
    """The caption below a crop: metrics of the whole image."""
    parts = (("psnr_y", "{:.2f} dB"), ("lpips", "LPIPS {:.3f}"), ("mesh", "mesh {:.2f}"))
    return ", ".join(text.format(row[metric]) for metric, text in parts if row.get(metric) is not None)


def curve(summary, rows, blends):
    """What --curve writes about a folder: {row: {metric: mean}, ..., "curve": [{"blend": amount, metric: mean, ...}, ...]}.

    rows: rows of the summary to draw beside the curve.   blends: like `scores`, with amounts in place of methods.
    """
    amounts = next(iter(blends.values()))
    return {name: {metric: summary[name][metric] for metric in NAMES if metric in summary[name]} for name in rows} | {
        "curve": [{"blend": amount} | {metric: mean(column(blends, amount, metric)) for metric in row} for amount, row in amounts.items()
                  if amount != "original"]}


def plot_curves(path, curves, ends):
    """Plot PSNR against LPIPS for blends of two networks (Blau and Michaeli 2018, figure 1), with the mesh below.

    A column for each folder.  curves: {folder: what `curve` returns}.  ends: the names of the two networks.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    drawing = Figure(figsize=(1 + 4.6 * len(curves), 7), layout="constrained")
    axes = drawing.subplots(2, len(curves), squeeze=False, sharex="col", height_ratios=(2, 1))
    for column, (folder, found) in zip(axes.T, curves.items()):
        points, single = found["curve"], [name for name in found if name not in ("curve", "original")]
        for axis, metric, room in zip(column, ("lpips", "mesh"), (-8, 8)):      # labels: below LPIPS, above the mesh
            if points[0][metric] is None:
                axis.text(0.5, 0.5, "no image has a smooth area", transform=axis.transAxes, ha="center")
                continue
            axis.plot([p["psnr_y"] for p in points], [p[metric] for p in points], ".-")
            axis.plot([found[name]["psnr_y"] for name in single], [found[name][metric] for name in single], "x", color="grey")
            labelled = [*zip((ends[0], "half each", ends[1]), points[::len(points) // 2]), *((name, found[name]) for name in single)]
            for name, point in labelled:
                axis.annotate(images.drawable(name), (point["psnr_y"], point[metric]), xytext=(8, room), textcoords="offset points",
                              va="center", parse_math=False)
            axis.grid(alpha=0.3)
            axis.margins(0.4, 0.15)
        if found["original"]["mesh"] is not None:
            column[1].axhline(found["original"]["mesh"], color="grey", linestyle=":", label="the originals")
            column[1].legend(loc="upper left")
        column[0].set_title(images.drawable(folder), parse_math=False)
        column[0].set(ylabel="LPIPS (lower: more alike to the eye)")
        column[1].set(ylabel="mesh in grey levels", xlabel="PSNR-Y in dB (higher: closer pixel by pixel)")
    with files.replacing(path) as temporary:
        drawing.savefig(temporary, dpi=110)
