"""Lesson 21: the bug museum, third room: files and data.  Which errors wait until the power fails?

You should know: batches and batch norm (lesson 08), Adam (11).  Papers: Ledig et al. 2017, section 3.2; Kingma and Ba 2015.
Lives in: nowhere in npsrgan/, it is to be hoped; the cures live in storage.py, trainer.py, train.py and data/.
"""
# %% The rules of the house: a function with a switch `bug`, and a test that fails with it and passes without (lesson 19).
import sys; sys.path[:0] = ["lessons", "."]
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from _lesson import exercise, picture_row, save
from _museum import exhibit

from npsrgan import storage
from npsrgan.adam import Adam
from npsrgan.data import Batches, DeadLeaves
from npsrgan.images import to_float, to_uint8
from npsrgan.layers import Linear, Sequential, initialise
from npsrgan.models import VGG19
from npsrgan.models.vgg19 import random_vgg19

faces = DeadLeaves(20, 178)         # 178 x 178 pixels: what a square cut of CelebA's faces (178 x 218) leaves


# %% 1. A batch is one face, sixteen times
# Symptom: "batch 16 costs 16 times as much as batch 1 and learns no faster"; "evaluation mode gives grey mush".
# The bug: all crops of a batch are cut from one file.  An LR patch of 44 is an HR patch of 176, and 178 / 4 rounds down to 44:
# there is one place to cut at, and all sixteen crops are the same picture.  Batch norm's statistics are those of one face.
# The cure (data.Batches): each crop from another image, each with its own place, flip and turn.


def batch(bug, size=16, patch=44):
    """HR crops, float32 (size, 176, 176, 3)."""
    if not bug:
        return Batches(faces, size, patch).batch(0)[1]
    image, rng = to_float(faces.load(0)), np.random.default_rng(15)
    corners = [[4 * rng.integers(side // 4 - patch + 1) for side in image.shape[:2]] for _ in range(size)]
    return np.stack([image[top:top + 4 * patch, left:left + 4 * patch] for top, left in corners])


@exhibit
def test_a_batch_holds_different_pictures(bug):
    different = len({crop.tobytes() for crop in batch(bug)})
    assert different == 16, f"{different} different picture(s) in a batch of 16"


rows = {("the bug" if bug else "the cure") + f", {k + 1} of 16": to_uint8(batch(bug)[k])
        for bug in (True, False) for k in range(5)}
save(picture_row(rows, columns=5, height=2), "21_one_face")

# %% 2. Half a file
# Symptom: "the power failed while it was saving; now the checkpoint cannot be opened."
# The bug: the file is written in its place.  The cure (storage.write): write beside it, flush, rename.  Then, whenever the
# process dies, there is the old file or the new, never half of one.


def die_while_saving(path, contents, bug):
    half = contents[:len(contents) // 2]
    (path if bug else path.with_suffix(".part")).write_bytes(half)          # and the renaming would come next


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


# %% 3. The backup that nobody reaches
# Symptom: "it does not start, although there is a backup copy right beside the broken file."
# The bug: load(main); if something is missing: load(backup).  A torn main file raises in the first line.
# The cure (train.find_checkpoint): damage is what a backup is for; expect it.


@exhibit
def test_a_torn_file_is_replaced_by_its_backup(bug):
    with tempfile.TemporaryDirectory() as folder:
        main, backup = Path(folder, "checkpoint.h5"), Path(folder, "backup.h5")
        storage.write(backup, {"weights": np.ones(100)}, {"step": 100})
        die_while_saving(main, backup.read_bytes(), bug=True)
        step = None
        for path in (main,) if bug else (main, backup):         # with the bug, the first error is the end
            with suppress(storage.DamagedFile):
                step = storage.read(path)[1]["step"]
        assert step == 100, "the resume stops at the torn file, beside a whole backup"


# %% 4. Weights saved, moments forgotten
# Symptom: "the loss jumps each time I resume, and needs an hour to come back."
# The bug: Adam's m, v and step count are not saved.  With new ones, every parameter moves by a whole learning rate at once.
# The cure: a checkpoint holds all that training changes (Trainer.save).  The test: stop and resume, compare bit for bit.


def train(stop_at, bug):
    """Ten steps on a ravine; at `stop_at` the process ends and another goes on from the file."""
    layer = initialise(Sequential(Linear(4, 1)))
    adam = Adam(layer, 0.1)
    for step in range(10):
        if step == stop_at:
            fresh = Adam(layer, 0.1)
            if not bug:
                fresh.m[...], fresh.v[...], fresh.steps = adam.m, adam.v, adam.steps
            adam = fresh
        adam.step([p.array * np.float32(10**k) for k, p in enumerate(layer.parameters())])
    return layer.flat


@exhibit
def test_resumed_is_as_never_stopped(bug):
    change = np.abs(train(5, bug) - train(None, bug)).max()
    assert change == 0, f"five steps after resuming, parameters differ by {change:.2f}, with a learning rate of 0.1"


# %% 5. Missing weights only warn
# Symptom: "UserWarning: missing keys ..., scrolled away"; "training with VGG works, but no better than with random weights".
# The bug: what the file lacks keeps its initial value.  The cure: Layer.load_state_dict raises, and lists every name.


def load(network, arrays, bug):
    if bug:     # ... and a warning, which scrolls away
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


# %% Your turn
exercise(1, "CelebA's images are 178 x 218.  At how many places can an LR patch of 40 be cut (on the LR grid, scale 4)?", None,
         lambda a: a == 75, hint="178 / 4 and 218 / 4, rounded down; a patch of 40 has n - 40 + 1 places along a side of n")
exercise(2, "A checkpoint holds parameters, Adam's m and v.  How many times the size of the parameters alone has it?", None,
         lambda a: a == 3)
