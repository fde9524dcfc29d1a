# %% [markdown]
# # Lesson 21: The bug museum, third room: files and data
#
# **The question.** Which bugs hide in data and files, some of them until the power fails?
#
# You should know: batch norm (lesson 08) and Adam (lesson 11). Lesson 19 explains how
# the museum works.
#
# Papers: Ledig et al. 2017, section 3.2; Kingma and Ba 2015.
#
# Lives in: nowhere in the package, we hope. The cures are in `npsrgan/storage.py`,
# `npsrgan/trainer.py`, `npsrgan/train/` and `npsrgan/data/`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from _lesson import exercise, picture_row, predict, save
from _museum import catches, exhibit

from npsrgan import storage
from npsrgan.adam import Adam
from npsrgan.data import Batches, DeadLeaves
from npsrgan.images import to_float, to_uint8
from npsrgan.layers import Linear, Sequential, initialise
from npsrgan.models import VGG19
from npsrgan.models.vgg19 import random_vgg19

# %% [markdown]
# ## 1. A batch is one face, sixteen times
#
# *Symptom.* "Batch 16 costs 16 times as much as batch 1 and learns no faster." "Evaluation mode gives
# grey mush."
#
# *The bug.* All crops of a batch are cut from one file. A face of CelebA is 178 x 218 pixels, and a
# low-resolution patch of 44 pixels is one of $4 \cdot 44 = 176$ at high resolution. Along the shorter
# side there are $\lfloor 178 / 4 \rfloor = 44$ low-resolution pixels, so there is just one place for
# the patch, and along the longer side there are eleven. All sixteen crops show nearly the same
# picture (in a square image, exactly the same), and batch norm measures one face.
#
# The stand-ins for faces here are dead leaves, 178 x 178 pixels each.

# %%
faces = DeadLeaves(20, 178)


def batch(bug, size=16, patch=44):
    """High-resolution crops, float32 (size, 176, 176, 3)."""
    if not bug:
        return to_float(Batches(faces, size, patch).batch(0)[1])
    image, rng = to_float(faces.load(0)), np.random.default_rng(15)
    crops = []
    for _ in range(size):
        top, left = (4 * rng.integers(side // 4 - patch + 1) for side in image.shape[:2])
        crops.append(image[top : top + 4 * patch, left : left + 4 * patch])
    return np.stack(crops)


def different_pictures(crops):
    return len({crop.tobytes() for crop in crops})


predict(
    "In how many places can a patch of 43 pixels be cut from 44 x 44 low-resolution pixels?",
    guess=None,
    value=(44 - 43 + 1) ** 2,
    because="n - p + 1 along each side",
)


@exhibit
def test_a_batch_holds_different_pictures(bug):
    different = different_pictures(batch(bug))
    assert different == 16, f"{different} different picture(s) in a batch of 16"


# %% [markdown]
# *The cure* is in `Batches`: each crop comes from another image, and has its own place, flip and
# rotation.

# %%
rows = {}
for bug, name in ((True, "the bug"), (False, "the cure")):
    for k, crop in enumerate(batch(bug)[:5], start=1):
        rows[f"{name}, {k} of 16"] = to_uint8(crop)
save(picture_row(rows, columns=5, height=2), "21_one_face")

# %% [markdown]
# ## 2. Half a file
#
# *Symptom.* "The power failed while it was saving. Now the checkpoint cannot be opened."
#
# *The bug.* The new file is written over the old one.
#
# *The cure*, in `storage.write`: write a new file beside the old one, flush it, and rename it. Renaming
# is one operation of the file system. Whenever the process dies, there is either the old file or the
# new one, and never half of one.


# %%
def die_while_saving(path, contents, bug):
    half = contents[: len(contents) // 2]
    (path if bug else path.with_suffix(".part")).write_bytes(half)  # the renaming would come next


@exhibit
def test_dying_while_saving_leaves_a_whole_file(bug):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.h5")
        storage.write(path, {"weights": np.ones(100)}, {"step": 100})
        die_while_saving(path, path.read_bytes(), bug)
        try:
            storage.read(path)
        except storage.DamagedFile as error:
            raise AssertionError(str(error).replace(folder, "")) from None


# %% [markdown]
# ## 3. The backup that is never reached
#
# *Symptom.* "It does not start, although a backup copy lies beside the broken file."
#
# *The bug.* The program loads the main file, and loads the backup if something in it is missing. But
# loading a torn main file raises an error, so the line that loads the backup is never reached.
#
# *The cure.* Damage is what a backup is for, so expect it: try each file, and go on to the next when
# reading raises `DamagedFile`.


# %%
@exhibit
def test_a_torn_file_is_replaced_by_its_backup(bug):
    with tempfile.TemporaryDirectory() as folder:
        main, backup = Path(folder, "checkpoint.h5"), Path(folder, "backup.h5")
        storage.write(backup, {"weights": np.ones(100)}, {"step": 100})
        die_while_saving(main, backup.read_bytes(), bug=True)
        step = None
        for path in (main,) if bug else (main, backup):  # with the bug, the first error is the end
            with suppress(storage.DamagedFile):
                step = storage.read(path)[1]["step"]
        assert step == 100, "the resume stops at the torn file, beside a whole backup"


# %% [markdown]
# ## 4. Weights saved, moments forgotten
#
# *Symptom.* "The loss jumps each time I resume, and needs an hour to come back."
#
# *The bug.* The checkpoint holds the parameters, but not Adam's moments $m$ and $v$, nor its step count.
# A new Adam begins with a bias-corrected $m / \sqrt{v} = g / |g|$, so in its first step every
# parameter moves by a whole learning rate, whatever the size of its gradient.
#
# *The cure.* A checkpoint holds everything that training changes (`Trainer.save`). The test that proves
# it stops a run, resumes it, and compares with a run that was never stopped, bit for bit.


# %%
def train(stop_at, bug):
    """Ten steps on a ravine.  At `stop_at` the process ends, and another goes on from its file."""
    layer = initialise(Sequential(Linear(4, 1)))
    adam = Adam(layer, 0.1)
    for step in range(10):
        if step == stop_at:
            fresh = Adam(layer, 0.1)
            if not bug:
                fresh.m[...], fresh.v[...], fresh.steps = adam.m, adam.v, adam.steps
            adam = fresh
        adam.step([p.array * np.float32(10**k) for k, p in enumerate(layer.parameters())])
    return layer.flat.copy()


@exhibit
def test_resumed_is_as_never_stopped(bug):
    change = np.abs(train(5, bug) - train(None, bug)).max()
    assert change == 0, (
        f"five steps after resuming, parameters differ by {change:.2f}, with a learning rate of 0.1"
    )


# %% [markdown]
# ## 5. Missing weights only warn
#
# *Symptom.* "UserWarning: missing keys ...", and it scrolled away. "Training with VGG works, but no better
# than with random weights."
#
# *The bug.* Parameters that are missing from the file keep their initial values.
#
# *The cure.* `Layer.load_state_dict` raises an error that lists every missing name, and changes nothing.


# %%
def load(network, arrays, bug):
    if bug:  # and a warning, which scrolls away
        arrays = network.state_dict() | arrays
    network.load_state_dict(arrays)


@exhibit
def test_an_incomplete_file_is_refused(bug):
    arrays = random_vgg19("conv1_2").state_dict()
    del arrays["conv1_2.weight"]
    try:
        load(VGG19("conv1_2"), arrays, bug)
    except ValueError as error:
        assert "missing conv1_2.weight" in str(error)
    else:
        raise AssertionError("VGG19 was filled from a file without conv1_2.weight")


# %% [markdown]
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "CelebA's images are 178 x 218 pixels. At how many places can a small patch of 40 pixels be cut?",
    answer=None,
    check=lambda a: a == 75,
    hint="178 / 4 and 218 / 4, rounded down, are 44 and 54; then n - 40 + 1 along each",
)
exercise(
    2,
    "A checkpoint holds the parameters, Adam's m and Adam's v. How many times as large is it as the "
    "parameters alone?",
    answer=None,
    check=lambda a: a == 3,
    hint="m and v have one number for each parameter",
)

# %% [markdown]
# Write a test that catches exhibit 4. It takes a function `run(stop_at)`, which trains for ten steps,
# is interrupted and resumed before step `stop_at` (None: never), and returns the parameters. With the
# bug, it must raise an AssertionError or return False.


# %%
def runs(bug):
    return lambda stop_at: train(stop_at, bug)


exercise(3, "Write my_test(run).", answer=None, check=catches(runs), hint="run(5) against run(None)")
