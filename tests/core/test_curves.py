"""Does training with the fast twins go the way it goes with the operations one reads?"""
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from npsrgan.data import Batches, Photograph
from npsrgan.data.feed import Feed
from npsrgan.device import CPU
from npsrgan.ops.operation import reference_only
from npsrgan.train.settings import PRESETS
from npsrgan.trainer import Trainer

STEPS = 50


def test_the_first_steps_of_the_demo_networks_lose_the_same_with_and_without_the_twins():
    """Rounding grows from step to step: Adam turns the smallest gradient into a whole step.  So the curves are compared as wholes."""
    # On a photograph: dead leaves take a minute to draw.
    s = replace(PRESETS["demo"], gan_steps=0)
    batches = Batches(Photograph(), s.batch_size, s.patch_size, s.scale, s.seed, report=lambda line: None)
    stream = [(lr, hr) for _, lr, hr in Feed(batches.ahead_from(0, STEPS))]

    def curve(context):
        with context:
            trainer = Trainer(s, CPU)
            return np.array([trainer.step(lr, hr)["srresnet_pixel"] for lr, hr in stream])

    readable, fast = curve(reference_only()), curve(nullcontext())
    assert readable[-10:].mean() < 0.5 * readable[0]        # it does learn
    assert np.linalg.norm(fast - readable) < 0.01 * np.linalg.norm(readable)
