"""The reports of a training run: log.csv, sample pictures, loss curves, the final comparison and result.json."""
import csv
from pathlib import Path

import numpy as np

from npsrgan import images
from npsrgan.metrics import psnr, ssim
from npsrgan.system import files

METHODS = ("bicubic", "srresnet", "srgan")
LOSSES = ("srresnet_pixel", "pixel", "perceptual", "adversarial", "discriminator")
COLUMNS = ("step", "images_per_s", "data_wait", *LOSSES, "d_hr", "d_sr", "gradient_pixel", "gradient_perceptual", "gradient_adversarial",
           "cosine", *(f"{method}_psnr" for method in METHODS))


def labels(generator):
    """{method: display name}.  generator: the name of the generator's class."""
    return dict(zip(METHODS, ("bicubic", generator, "SRGAN")))


def generators(trainer):
    """{method: display name} of the generators to show: SRGAN only once it differs from SRResNet."""
    named = labels(trainer.settings.generator)
    return {method: named[method] for method in ("srresnet", "srgan")[:1 + bool(trainer.srgan_steps)]}


class Log:
    """`log.csv`: a row for every log line.  Rows after `step`, which the run wrote after its last checkpoint, are removed."""

    def __init__(self, path, step):
        self.path, self.rows = Path(path), []
        if step and self.path.exists():
            with open(self.path, newline="", errors="replace") as file:
                self.rows = [row for row in csv.DictReader(file) if self._whole(row) and int(row["step"]) <= step]
        with files.replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    @staticmethod
    def _whole(row):
        """Whether a row has all columns of this or an earlier version: on a full disk, the last row may be truncated."""
        return (tuple(row) in (COLUMNS, tuple(name for name in COLUMNS if name != "data_wait"))
                and None not in row.values() and row["step"].isdecimal())

    def add(self, row):
        """Append {column: value}; floats are written with six significant digits, and missing columns left empty."""
        row = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in row.items()}
        self.rows.append(row)
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)

    def column(self, name):
        """(steps, values) of the rows that have a value in this column."""
        points = [(int(row["step"]), float(row[name])) for row in self.rows if row.get(name)]
        return [step for step, _ in points], [value for _, value in points]

    def plot(self, path, generator="SRResNet"):
        """Plot the losses, the balance of generator and discriminator, and the validation PSNR against the steps."""
        from matplotlib.figure import Figure  # slow to import, and needed only here

        curves = (      # title, style, {column: label}
            ("losses", {"yscale": "log"}, {"srresnet_pixel": f"{generator}, pixels", "pixel": "SRGAN, pixels",
                                           "perceptual": "SRGAN, features", "adversarial": "SRGAN, adversarial",
                                           "discriminator": "discriminator"}),
            ("what the discriminator believes: real is 1, made is 0", {"ylim": (0, 1)}, {"d_hr": "D(HR)", "d_sr": "D(SR)"}),
            ("validation PSNR (Y), dB", {}, {f"{method}_psnr": label for method, label in labels(generator).items()}))
        drawing = Figure(figsize=(15, 4), layout="constrained")
        for axes, (title, look, columns) in zip(drawing.subplots(1, len(curves)), curves):
            for name, label in columns.items():
                steps, values = self.column(name)
                if steps:
                    axes.plot(steps, values, "--" if name == "bicubic_psnr" else ".-", label=label)
            axes.set(title=title, xlabel="step", **look)
            axes.grid(alpha=0.3)
            if axes.has_data():
                axes.legend()
        with files.replacing(path) as temporary:
            drawing.savefig(temporary, dpi=90)


def health_line(row, total, generator="SRResNet"):
    """One line on the state of training, from a log row."""
    def say(*names):
        return ", ".join(f"{name.split('_', 1)[-1]} {row[name]:.3g}" for name in names if name in row)

    parts = [f"step {row['step']}/{total}"]
    if "srresnet_pixel" in row:
        parts.append(f"{generator}: " + say("srresnet_pixel"))
    if "pixel" in row:
        parts.append("SRGAN: " + say("pixel", "perceptual", "adversarial", "discriminator")
                     + f", D(HR) {row['d_hr']:.2f}, D(SR) {row['d_sr']:.2f}")
        parts.append("gradients at SR: " + say("gradient_pixel", "gradient_perceptual", "gradient_adversarial", "cosine"))
    measured = [(label, row[f"{method}_psnr"]) for method, label in labels(generator).items() if f"{method}_psnr" in row]
    parts.append("PSNR: " + ", ".join(f"{label} {value:.2f}" for label, value in measured))
    parts.append(f"{row['images_per_s']:.1f} images/s, {row['data_wait']:.0%} of the time waiting for data")
    return " | ".join(parts)


def sample_picture(path, lr, results, hr, title):
    """Write a picture: LR | every network's result | HR.  results: {label: uint8 image}."""
    images.figure(path, [("LR", lr, None), *[(label, image, None) for label, image in results.items()], ("HR", hr, None)], title=title)


def comparison_picture(path, lr, results, hr, title):
    """Write a picture: LR | bicubic and the networks | HR of a whole image, with PSNR and SSIM, and a detail of each below.

    results: {label: uint8 image}.
    """
    scale = hr.shape[0] // lr.shape[0]
    side = min(*lr.shape[:2], 40)
    top, left = images.busiest(lr, side)

    def detail(image):
        factor = image.shape[0] // lr.shape[0]
        return image[top * factor:(top + side) * factor, left * factor:(left + side) * factor]

    panels = [("LR", lr, None), *[(label, image, f"{psnr(image, hr, scale):.2f} dB, SSIM {ssim(image, hr, scale):.3f}")
                                  for label, image in results.items()], ("HR", hr, None)]
    images.figure(path, [panels, [(None, detail(image), None) for _, image, _ in panels]], title=title)


def write_result(path, scores, count, settings):
    """Write result.json: each method's mean PSNR and SSIM on Y, number of images, settings.  scores: {method: [(psnr, ssim)]}."""
    result = {method: {"psnr_y": float(np.mean([p for p, _ in pairs])), "ssim_y": float(np.mean([s for _, s in pairs]))}
              for method, pairs in scores.items()}
    files.write_json(path, result | {"images": count, "settings": settings})
    return result
