"""The folder of a training run: which one, what is in it, and how to go on from it."""
import os
import shlex
from pathlib import Path

from npsrgan import storage
from npsrgan.system import files
from npsrgan.system.errors import UserError
from npsrgan.system.terminal import say
from npsrgan.train import checkpoint


def choose(settings, resume):
    """--out; by default a new runs/PRESET-N, or with --resume the newest existing one."""
    if settings.out:
        return Path(settings.out)
    runs = [int(folder.name.rsplit("-", 1)[1]) for folder in Path("runs").glob(f"{settings.preset}-*")
            if folder.name.rsplit("-", 1)[1].isdigit()]
    return Path("runs", f"{settings.preset}-{max(runs, default=0) + (not (resume and runs))}").absolute()


def find_checkpoint(path, resume):
    """What `checkpoint.load` returns for the newest intact checkpoint; None to start anew.  Raises UserError if neither is right."""
    older = storage.previous(path)
    if not resume:
        if path.exists() or older.exists():
            raise UserError(f"{shown(path.parent)} holds a checkpoint: continue it with --resume, or start a new run in another --out")
        return None
    if not path.exists() and not older.exists():
        say(f"no checkpoint in {shown(path.parent)} yet: starting from the beginning")
        return None
    try:
        return checkpoint.load(path)
    except UserError as error:
        damage = str(error)
    try:
        found = checkpoint.load(older)
    except UserError as error:
        raise UserError(f"{damage}, and {error}: start a new run in another --out") from None
    say(f"{damage}; continuing from the checkpoint before it")
    os.replace(older, os.path.realpath(path))     # so that the next save does not put the damaged file in its place
    return found


def prepare(out, fresh):
    """Create the folder for results, remove the result.json of earlier steps, and return the folder.

    fresh: it must be new; if another run has just taken its number, take the next one.
    Raises UserError if the folder cannot be created or written to.
    """
    try:
        while fresh:
            try:
                out.mkdir(parents=True)
                fresh = False
            except FileExistsError:
                stem, number = out.name.rsplit("-", 1)
                out = out.with_name(f"{stem}-{int(number) + 1}")
        (out / "samples").mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
        for folder in (out, out / "samples"):
            files.sweep(folder)
        (out / "result.json").unlink(missing_ok=True)       # it marks a run as finished
    except OSError as error:
        raise UserError(f"cannot write results to {shown(out)} ({error.strerror}): give another folder with --out") from None
    return out


def how_to_continue(out):
    """Words on how to continue a run that ended early."""
    newest = out / "checkpoint.h5"
    if not newest.exists() and not storage.previous(newest).exists():
        return "nothing was saved yet"
    return f"to go on: python -m npsrgan.train --resume --out {shlex.quote(str(shown(out)))}"


def shown(path):
    """A path as the user would type it in the current folder."""
    try:
        return Path(path).absolute().relative_to(Path.cwd())
    except ValueError:
        return path
