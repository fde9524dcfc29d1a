"""The settings of a training run: one frozen dataclass, which also defines the command line, and the presets."""
import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from npsrgan.adam import SCHEDULES
from npsrgan.layers import INITIALISATIONS
from npsrgan.losses import PIXEL_LOSSES
from npsrgan.models import GENERATORS
from npsrgan.models.vgg19 import LAYERS
from npsrgan.system.errors import UserError


def option(default, text, choices=None):
    """A field of Settings, with its help text."""
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Everything that determines what a run computes.  Sizes are in low-resolution pixels unless stated otherwise."""

    preset: str = option("demo", "all settings that you do not give; demo: a small demonstration; seed: faces of CelebA; paper: as in the "
                                 "paper; photo: photographs, as for weights/ (default: demo)", ("demo", "seed", "paper", "photo"))
    data: str | None = option(None, "training images: a folder, searched recursively, a zip archive, or a pack of python -m npsrgan.data; "
                                    "without them, dead-leaves images are generated")
    val: str | None = option(None, "held-out images, as for --data; without them, those that CelebA's list_eval_partition.txt beside "
                                   "--data names, or a twentieth of --data, chosen by file name; without --data, one photograph")
    val_count: int = option(16, "number of held-out images that are measured during training")
    final_count: int = option(500, "number of held-out images that are measured at the end, spread evenly over all of them")
    out: str | None = option(None, "folder for the results (default: runs/PRESET-N)")
    init: str | None = option(None, "weights file of a generator from which both generators start (default: random initial weights)")
    steps: int = option(0, "training steps of SRResNet (with --together: of SRResNet and SRGAN)")
    gan_steps: int = option(0, "training steps of SRGAN, which starts from the trained SRResNet; 0: no SRGAN, or --together")
    together: bool = option(False, "train SRResNet and SRGAN side by side on the same batches, from the same initial weights")
    batch_size: int = option(16, "patches in a batch, each from another image")
    batch_norm: str = option("whole", "statistics of batch norm when several processes train: of the whole batch, as in one process, or "
                                      "local, of each process's part, which saves messages", ("whole", "local"))
    patch_size: int = option(24, "side of a low-resolution patch in pixels; times --scale, it must be divisible by 16")
    generator: str = option("SRResNet", "architecture of the generator", GENERATORS)
    scale: int = option(4, "scale factor in width and height", (2, 3, 4, 8))
    degradation: str = option("clean", "how low-resolution images are made; clean: bicubic, as in papers; photo: blur, noise and JPEG of "
                                       "random strength, as in everyday photographs", ("clean", "photo"))
    channels: int = option(64, "channels of the generator")
    blocks: int = option(16, "residual blocks of the generator")
    discriminator_channels: int = option(64, "channels of the discriminator's first layer")
    leaky_slope: float = option(0.2, "slope of the discriminator's LeakyReLU below zero")
    weight_init: str = option("he", "initial weights; normal: of standard deviation 0.01 in every layer", INITIALISATIONS)
    equal_phases: bool = option(True, "prevent checkerboard patterns: all phases of a pixel shuffle answer alike to what is constant "
                                      "along an axis; the paper's network has no such constraint")
    learning_rate: float = option(1e-4, "Adam's learning rate for SRResNet, between 0 and 1")
    gan_learning_rate: float = option(1e-4, "Adam's learning rate for SRGAN's generator and discriminator, between 0 and 1")
    schedule: str = option("constant", "SRResNet's learning rate over time; drop: a tenth in the second half", SCHEDULES)
    gan_schedule: str = option("constant", "SRGAN's learning rate over time", SCHEDULES)
    average: float = option(0.999, "decay per step of the moving average of SRGAN's weights, and of SRResNet's at a constant rate; the "
                                   "average is validated and saved; 0: no average")
    frozen_batch_norm: bool = option(False, "a generator that starts from trained weights, SRGAN or SRResNet with --init, normalises with "
                                            "their running statistics, not with each batch's")
    pixel_loss: str = option("squared", "SRResNet's loss; squared: the mean squared error, as in the paper; absolute: the mean absolute "
                                        "error", PIXEL_LOSSES)
    pixel_weight: float = option(1.0, "weight of the mean squared error of pixels in SRGAN's loss")
    perceptual_weight: float = option(1.0, "weight of the mean squared error of VGG19's features in SRGAN's loss")
    adversarial_weight: float = option(1e-3, "weight of the adversarial loss in SRGAN's loss")
    vgg: str | None = option(None, "HDF5 file of VGG19's weights, for the perceptual loss (npsrgan/train/README.md says where to get it); "
                                   "without it, random weights are used")
    vgg_layer: str = option("conv5_4", "convolution of VGG19 whose output after ReLU is compared, by squared error as in the paper; or "
                                       "several with weights, conv2_2:0.3,conv5_4:18: their outputs before ReLU, by absolute error")
    feature_scale: float | None = option(None, "factor on VGG19's features (default: the file's own; 1/12.75 for Keras's)")
    leaves: int = option(250, "number of dead-leaves images, if there is no --data")
    seed: int = option(0, "random seed")
    device: str = option("auto", "where to compute; auto: on the GPU if there is one that works", ("auto", "cpu", "gpu"))
    precision: str = option("tf32", "precision of convolutions on a GPU; tf32, as in PyTorch, rounds factors to 10 bits after the point; "
                                    "no effect on a CPU", ("tf32", "float32"))
    graph: bool = option(True, "launch the whole training step on a GPU at once, as a CUDA graph; no effect on a CPU")
    reference: bool = option(False, "run the reference operations in npsrgan/ops/, for breakpoints and comparison; many times slower")
    cache: int = option(1024, "memory for decoded training images in MB; images in it are not decoded again")
    threads: int = option(0, "number of CPU threads; 0: one per core")
    log_every: int = option(100, "steps between log lines, validations and sample pictures; on a GPU, losses are checked only then and "
                                 "before checkpoints")
    save_minutes: float = option(10.0, "minutes between checkpoints")
    save_every: int = option(0, "steps between additional checkpoints; 0: none")

    @property
    def image_size(self):
        """Side of the high-resolution crops in pixels."""
        return self.patch_size * self.scale

    @property
    def photo(self):
        """Whether low-resolution images look like everyday photographs; see `data.degrade.photo`."""
        return self.degradation == "photo"

    @property
    def vgg_weights(self):
        """{layer: weight}, from shallow to deep, if --vgg-layer gives several layers; {} for a single one, as in the paper."""
        pairs = [item.split(":") for item in self.vgg_layer.split(",")] if ":" in self.vgg_layer else []
        return {name: float(weight) for name, weight in sorted(pairs)}

    @property
    def total_steps(self):
        """The number of steps in the whole run."""
        return self.steps + self.gan_steps

    def validate(self):
        """Return the settings.  Raises UserError if they cannot work."""
        for name in ("batch_size", "patch_size", "channels", "discriminator_channels", "val_count", "final_count", "leaves",
                     "log_every"):
            _require(getattr(self, name) >= 1, name, "must be at least 1", self)
        for name in ("steps", "gan_steps", "blocks", "seed", "cache", "threads", "leaky_slope", "save_minutes", "save_every",
                     "pixel_weight", "perceptual_weight", "adversarial_weight"):
            _require(0 <= getattr(self, name) < math.inf, name, "must be a number, and not negative", self)      # NaN fails this, too
        try:
            known = set(self.vgg_weights or [self.vgg_layer]) <= set(LAYERS) and all(0 < w < math.inf for w in self.vgg_weights.values())
        except ValueError:
            known = False
        _require(known, "vgg_layer", f"must be one of {', '.join(LAYERS)}, or several with positive weights, conv2_2:0.3,conv5_4:18", self)
        _require(0 <= self.average < 1, "average", "must be at least 0 and below 1", self)
        for name in ("learning_rate", "gan_learning_rate"):
            _require(0 < getattr(self, name) < 1, name, "must lie between 0 and 1", self)
        _require(self.feature_scale is None or 0 < self.feature_scale < math.inf, "feature_scale", "must be positive", self)
        _require(self.total_steps > 0, "steps", "must be at least 1, or there is nothing to do", self)
        _require(not (self.together and self.gan_steps), "gan_steps",
                 "has no meaning where both generators train together: --steps counts both", self)
        _require(self.init or self.gan_steps or not self.frozen_batch_norm, "frozen_batch_norm",
                 "needs --init or --gan-steps, because it takes the statistics of a trained generator", self)
        trains_gan = self.together or self.gan_steps
        _require(not trains_gan or self.image_size % 16 == 0, "patch_size",
                 f"must give images whose side the discriminator can halve four times: {self.scale} times it must be divisible by 16", self)
        _require(not trains_gan or self.pixel_weight + self.perceptual_weight + self.adversarial_weight > 0, "pixel_weight",
                 "and the other two weights must not all be zero: SRGAN's generator would have nothing to learn", self)
        return self


def _require(condition, name, must, settings):
    if not condition:
        raise UserError(f"--{name.replace('_', '-')} {must} (it is {getattr(settings, name)})")


PRESETS = {
    # Trains two small networks in a few minutes on two CPU cores.
    "demo": Settings(preset="demo", steps=1000, gan_steps=300, batch_size=4, patch_size=16, channels=32, blocks=4,
                     discriminator_channels=16, learning_rate=2e-3, gan_learning_rate=5e-4, schedule="cosine", gan_schedule="cosine",
                     perceptual_weight=0.05, adversarial_weight=5e-3, vgg_layer="conv2_2", log_every=50),
    # The tutorial on which this project is based, with its errors corrected.
    "seed": Settings(preset="seed", steps=100_000, together=True, patch_size=44, weight_init="normal", leaky_slope=0.01,
                     perceptual_weight=1e-2, adversarial_weight=1e-2),
    # Ledig et al. 2017, section 3.2.
    "paper": Settings(preset="paper", steps=1_000_000, gan_steps=200_000, gan_schedule="drop", pixel_weight=0.0),
    # The settings of the weights in weights/: weights/README.md compares them with others.
    "photo": Settings(preset="photo", steps=60_000, gan_steps=10_000, batch_size=8, learning_rate=3e-4, schedule="cosine",
                      pixel_loss="absolute", gan_schedule="cosine", average=0.99,
                      pixel_weight=4.0, perceptual_weight=1e-3, adversarial_weight=2e-3,
                      vgg_layer="conv1_2:0.75,conv2_2:0.3,conv3_4:1.2,conv4_4:1.3,conv5_4:18"),
}
# Groups of --help, the most important first.
GROUPS = {
    "start here": "preset data vgg out",
    "data": "val degradation leaves",
    "networks": "generator scale channels blocks discriminator_channels leaky_slope weight_init equal_phases init",
    "training": "steps gan_steps together batch_size patch_size learning_rate gan_learning_rate schedule gan_schedule average "
                "frozen_batch_norm pixel_loss seed",
    "losses of SRGAN": "pixel_weight perceptual_weight adversarial_weight vgg_layer feature_scale",
    "hardware": "device threads cache precision graph batch_norm reference",
    "validating and saving": "log_every val_count final_count save_minutes save_every"}
# Settings that --resume may change.
CHANGEABLE = ("steps", "gan_steps", "batch_size", "save_minutes", "save_every", "log_every", "final_count", "cache", "device",
              "precision", "graph", "reference", "data", "val", "vgg", "out")


def parse(arguments=None):
    """Parse the command line.  Returns (settings, resume, force, given); given: the names of the settings that the user gave."""
    parser = argparse.ArgumentParser(
        prog="python -m npsrgan.train", usage="%(prog)s [options]", argument_default=argparse.SUPPRESS, description="""\
Train SRResNet and SRGAN.  Without options, a small demonstration runs, which
takes a few minutes and needs neither data nor a GPU.

Examples:
  python -m npsrgan.train
  python -m npsrgan.train --preset photo --data photos/ --vgg vgg19.h5 --out runs/mine
  python -m npsrgan.train --resume --out runs/mine""", formatter_class=argparse.RawDescriptionHelpFormatter)
    fields = {item.name: item for item in dataclasses.fields(Settings)}
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for title, names in GROUPS.items():
        for name in names.split():
            groups[title].add_argument("--" + name.replace("_", "-"), help=_help(fields[name]).replace("%", "%%"), **_kind(fields[name]))
    groups["start here"].add_argument(
        "--resume", action="store_true", default=False,
        help="continue from the checkpoint in --out (default: the newest runs/PRESET-N), with its settings; you can change only "
             + ", ".join("--" + name.replace("_", "-") for name in CHANGEABLE[:-1])
             + "; images and VGG19 may move, but not change")
    groups["validating and saving"].add_argument("--force", action="store_true", default=False,
                                                 help="with --resume: continue even if the images or VGG19 have changed")
    given = vars(parser.parse_args(arguments))
    resume, force = given.pop("resume"), given.pop("force")
    for name in ("data", "val", "out", "init", "vgg"):
        if name in given:
            if not given[name]:
                raise UserError(f"--{name} must not be empty")
            given[name] = str(Path(given[name]).expanduser().absolute())
    settings = dataclasses.replace(PRESETS[given.get("preset", "demo")], **given)
    return settings, resume, force, set(given)


def _help(item):
    """A field's help text, with its value in each preset."""
    values = {name: getattr(preset, item.name) for name, preset in PRESETS.items()}
    if item.default is None or item.name == "preset":
        return item.metadata["help"]
    if len(set(values.values())) == 1:
        return f"{item.metadata['help']} (default: {item.default})"
    return f"{item.metadata['help']} ({', '.join(f'{name}: {value}' for name, value in values.items())})"


def _kind(item):
    """The argparse arguments for a field."""
    kind, choices = (get_args(item.type) or (item.type,))[0], item.metadata["choices"]
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": kind, "choices": choices} if choices else {"type": kind, "metavar": item.name.split("_")[-1].upper()}


def merge(saved, asked, given):
    """The settings for resuming: those of the checkpoint, updated with the changeable ones that the user gave.

    Raises UserError, which names every other setting that was given and differs.
    """
    differ = [f"--{name.replace('_', '-')} {getattr(asked, name)} (the checkpoint has {getattr(saved, name)})"
              for name in sorted(given) if name not in CHANGEABLE and getattr(asked, name) != getattr(saved, name)]
    if differ:
        raise UserError("a resumed run keeps its settings: leave out " + ", ".join(differ) + ", or start a new run in another --out")
    return dataclasses.replace(saved, **{name: getattr(asked, name) for name in CHANGEABLE if name in given})
