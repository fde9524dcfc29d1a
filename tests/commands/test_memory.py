"""Memory stays flat however long training and measuring go on.

In a process of its own, resident memory is read after a warm-up and at the end.  The limit is half of what it would grow by if each
step kept one batch of bytes, or each image its pixels: the smallest arrays that there are.
"""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")

WATCH = """
import sys

def resident():
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def watch(owner, name, calls):
    '''Print the resident bytes after each of these calls of a function.'''
    function, count = getattr(owner, name), 0
    def watched(*args, **kwargs):
        nonlocal count
        result = function(*args, **kwargs)
        count += 1
        if count in calls:
            print("resident", resident())
        return result
    setattr(owner, name, watched)
"""
TRAIN = WATCH + """
from npsrgan.train import __main__ as train
from npsrgan.trainer import Trainer
watch(Trainer, "step", [int(n) for n in sys.argv[1:3]])
sys.exit(train.main(sys.argv[3:]))
"""
EVALUATE = WATCH + """
from npsrgan.evaluate import __main__ as evaluate
watch(evaluate, "measure_one", [int(n) for n in sys.argv[1:3]])
sys.exit(evaluate.main(sys.argv[3:]))
"""


def growth(script, *words):
    """By how many bytes resident memory grows between the two moments."""
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, timeout=600,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    before, after = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("resident"))
    return after - before


def pictures(folder, count, side):
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{index:03}.png")
    return folder


def test_over_many_steps(tmp_path):
    batch, patch, scale, warm, steps = 16, 8, 4, 50, 150
    grown = growth(TRAIN, warm, steps, "--data", pictures(tmp_path / "in", 40, 48), "--out", tmp_path / "run", "--steps", steps,
                   "--together", "--gan-steps", 0, "--batch-size", batch, "--patch-size", patch, "--channels", 2, "--blocks", 0,
                   "--discriminator-channels", 2, "--perceptual-weight", 0, "--log-every", 1000, "--val-count", 1, "--device", "cpu")
    assert grown < (steps - warm) * batch * 3 * patch**2 * (1 + scale**2) / 2


def test_over_many_images(tmp_path):
    side, warm, images = 96, 50, 250
    grown = growth(EVALUATE, warm, images, pictures(tmp_path / "in", images, side), "--weights", "--json", tmp_path / "scores.json")
    assert grown < (images - warm) * 3 * side**2 / 2
