"""Checkpoints: everything that a training run needs to resume as if it had never stopped."""
import dataclasses
import json
import zlib

import numpy as np

from npsrgan import storage
from npsrgan.device import to_numpy
from npsrgan.system.errors import UserError
from npsrgan.train.settings import Settings

_ABSENT = {"equal_phases": False, "average": 0.0}       # values for checkpoints that predate these settings


class Diverged(UserError):
    """A loss, or an array that training changes, is no longer finite."""


def save(path, trainer):
    """Write a checkpoint: parameters, running statistics, Adam's moments and steps, and the settings.

    No random state is saved: every draw is a function of the seed and the step.
    Raises Diverged, and writes nothing, if any number is not finite; UserError if the file cannot be written.
    """
    for name, array in trainer.arrays().items():
        if not np.isfinite(array).all():
            raise Diverged(f"{name} has entries that are no longer finite numbers")
    counts = {f"{name}_adam_steps": adam.steps for name, adam in trainer.adam.items()}
    storage.write(path, trainer.arrays(), counts | {"srresnet_steps": trainer.srresnet_steps, "srgan_steps": trainer.srgan_steps,
                                                  **{f"{name}_contents": text for name, text in trainer.inputs.items() if text},
                                                  "settings": json.dumps(dataclasses.asdict(trainer.settings))}, keep_previous=True)


def vgg_contents(trainer):
    """A short text that identifies the VGG19 of a run, by a checksum of its weights; None without VGG19."""
    if trainer.vgg is None or not trainer.settings.vgg:
        return trainer.vgg and "random weights"
    checksum = 0
    for array in trainer.vgg.state_dict().values():
        checksum = zlib.crc32(np.ascontiguousarray(to_numpy(array)), checksum)
    return f"weights with checksum {checksum:08x}, times {trainer.vgg.settings['feature_scale']:g}"


def load(path):
    """(settings, arrays, attributes) that `save` wrote.  Raises UserError for a file that is missing, damaged or no checkpoint."""
    arrays, attributes = storage.read(path)
    if "srresnet_steps" not in attributes:
        raise UserError(f"{path} is not a checkpoint: give the folder of a run with --out")
    settings = storage.decode(attributes.get("settings"), path)
    storage.require_plausible(settings, Settings, sum(array.size for array in arrays.values()), path)
    if any(type(value) is not int or value < 0 for name, value in attributes.items() if name.endswith("_steps")):
        raise storage.DamagedFile(f"{path} is damaged: its number of steps is invalid")
    try:
        return Settings(**_ABSENT | settings).validate(), arrays, attributes
    except TypeError:
        raise UserError(f"{path} was written by another version of npsrgan: continue it with that version, or start a new run") from None


def restore(trainer, arrays, attributes):
    """Restore what `save` wrote.  A network that is not in the checkpoint, because its training had not begun, stays new.

    Raises UserError if the arrays belong to another architecture, if the settings ask for fewer steps than were taken, or if
    SRGAN was started from an SRResNet after a different number of `steps`.
    """
    s = trainer.settings
    trainer.srresnet_steps, trainer.srgan_steps = attributes["srresnet_steps"], attributes.get("srgan_steps", 0)
    if s.steps < trainer.srresnet_steps or not s.together and s.gan_steps < trainer.srgan_steps:
        raise UserError(f"the checkpoint is already at {trainer.srresnet_steps} SRResNet and {trainer.srgan_steps} SRGAN steps: "
                        "--steps and --gan-steps cannot ask for fewer")
    if trainer.srgan_steps and not s.together and s.steps != trainer.srresnet_steps:
        raise UserError(f"SRGAN has already begun from the SRResNet of step {trainer.srresnet_steps}: leave out --steps, only "
                        "--gan-steps can still change")
    mine, arrays = trainer.arrays(), {key: array for key, array in arrays.items() if key.split("/")[0] in trainer.networks}
    saved = {name for name in trainer.networks if f"{name}/parameters" in arrays}
    wrong = [key for key in arrays.keys() | {key for key in mine if key.split("/")[0] in saved}
             if key not in mine or key not in arrays or mine[key].shape != arrays[key].shape]
    if wrong:
        raise UserError(f"the checkpoint holds networks of another architecture ({', '.join(sorted(wrong)[:3])}): "
                        "start a new run in another --out")
    for key, array in arrays.items():
        mine[key][...] = trainer.device.array(array)
    for name in saved:
        trainer.adam[name].steps = attributes.get(f"{name}_adam_steps", 0)
