"""Atomic writes of files, and locks on files and folders that one process at a time may use."""
import json
import os
import platform
import re
import stat
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from npsrgan.system.errors import UserError, describe, fatal

try:
    import fcntl
except ImportError:     # Windows
    fcntl = None

_HOST = re.sub(r"\W", "", platform.node(), flags=re.ASCII)[:20]
_TEMPORARY = re.compile(rf"\.npsrgan-{_HOST}-(\d+)(\.\w+)?")


@contextmanager
def replacing(path):
    """Context manager: yields a temporary path in the same folder, and moves it onto `path` atomically at the end.

    The folder is created if needed.  For a link, the file it points to is replaced.
    Raises UserError for a device, a pipe or a folder, which a file cannot replace.
    """
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".npsrgan-{_HOST}-{os.getpid()}{path.suffix}")      # short, because the name may already be long
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path):
    """Raise UserError if `replacing(path)` could not write; call it before a long computation.  Leaves no file behind.

    Raises OSError if no other file could be written either: the disk is full, or the file system is read-only.
    """
    path = _target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        trial = path.with_name(path.name[:-8] + ".npsrgan")     # a name as long as the real one
        with suppress(FileExistsError):
            trial.touch(exist_ok=False)
            trial.unlink()
    except OSError as error:
        if fatal(error):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None


def _target(path):
    """The path itself, or the target of a link.  Raises UserError if something other than a file exists there."""
    path = Path(os.path.realpath(path))
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise UserError(describe(error)) from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is {kind(mode)}: give the path of a file")
    return path


def kind(mode):
    """The kind of file that an `st_mode` describes, in words."""
    names = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in names.items() if test(mode)), "a device")


def sweep(folder):
    """Remove the temporary files that killed processes have left in a folder."""
    for path in Path(folder).glob(".npsrgan-*"):
        owner = _TEMPORARY.fullmatch(path.name)
        if owner and not _runs(int(owner[1])):
            path.unlink(missing_ok=True)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def write_json(path, contents):
    """Write standard JSON, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def locked(path):
    """Context manager: lock an existing file or folder.  Raises UserError if another process holds the lock.

    The kernel releases the lock when the process ends, however it ends.  If the file system has no locks, nothing is locked.
    """
    with ExitStack() as held:
        try:
            mode = fcntl.LOCK_EX | fcntl.LOCK_NB        # on Windows, fails before the file is open, so that it can be renamed
            descriptor = os.open(path, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            raise UserError(f"another process is writing to {path}: wait until it ends, or choose another place") from None
        except (OSError, AttributeError):
            pass
        yield
