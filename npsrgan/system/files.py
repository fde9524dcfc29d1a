"""Files that are there whole or not at all, and folders that one process at a time may use."""
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
    """A temporary path in the same folder, moved onto `path` in one step at the end: nobody ever sees half a file.

    The folder is created where needed; of a link, what it points to is replaced.
    Raises UserError for a device, a pipe or a folder, which a file cannot replace.
    """
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".npsrgan-{_HOST}-{os.getpid()}{path.suffix}")      # short, for names may be long already
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path):
    """Raise UserError where `replacing(path)` could not write, before much is computed for it.  Leaves no file behind.

    Raises OSError where nothing can be written beside it either: the disk is full, or the file system read-only.
    """
    path = _target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        trial = path.with_name(path.name[:-8] + ".npsrgan")     # as long a name as the real one
        with suppress(FileExistsError):
            trial.touch(exist_ok=False)
            trial.unlink()
    except OSError as error:
        if fatal(error):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise UserError(f"cannot write {path} ({error.strerror}): name another place") from None


def _target(path):
    """The path itself, or what it links to.  Raises UserError where it is something other than a file."""
    path = Path(os.path.realpath(path))
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise UserError(describe(error)) from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is {kind(mode)}: give the name of a file")
    return path


def kind(mode):
    """What a `st_mode` is of, in words."""
    names = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISREG: "a file"}
    return next((name for test, name in names.items() if test(mode)), "a device")


def sweep(folder):
    """Remove the temporary files that killed processes left in a folder."""
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


@contextmanager
def locked(folder):
    """Inside, no other process is `locked` on this folder.  Raises UserError where one is already.

    The lock is the kernel's: it ends with the process, however that ends.  Where the file system knows none, nothing is held.
    """
    with ExitStack() as held:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process trains in {folder}: wait for it, or give another --out") from None
        except (OSError, AttributeError):
            pass
        yield
