"""Errors a user can cause, and how a command reports them: one clear sentence, exit status 2, no traceback."""
import argparse
import errno
import signal
import sys
import threading
from contextlib import contextmanager
from functools import wraps

from npsrgan.system.terminal import guarded_output, say

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class UserError(Exception):
    """A problem the user can fix.  The message is one sentence that says what is wrong and what to do."""


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end.  `number` is the signal number."""

    def __init__(self, number=signal.SIGINT):
        super().__init__(number)
        self.number = number

    @property
    def status(self):
        """The exit status that a shell expects: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


def command(main):
    """Make `main()` a command's entry point, which reports a failure in one sentence on stderr.

    The exit status is 2 after a UserError, an OSError or a MemoryError, and 128 plus the signal number after a signal.
    Signals raise Stopped, so that unfinished work is cleaned up.  Output is escaped for the terminal, and a closed pipe or
    terminal does not stop the work (see `terminal.Output`).
    """
    @wraps(main)
    def guarded(*args):
        with guarded_output() as output, on_signal(_raise):
            try:
                status = main(*args)
                output.flush()
                if not output.failure:
                    return status
                sentence = f"{output.name} cannot be written: {describe(output.failure)}; all other work was done"
            except UserError as error:
                sentence = str(error)
            except OSError as error:
                sentence = describe(error)
            except MemoryError as error:
                sentence = f"out of memory{on_gpu(error)}: close other programs, or use smaller images"
            except KeyboardInterrupt as error:
                say("interrupted", file=sys.stderr)
                raise SystemExit(getattr(error, "status", 130)) from None
            say(f"error: {sentence}", file=sys.stderr)
            raise SystemExit(2)
    return guarded


def _raise(number, frame):
    raise Stopped(number)


@contextmanager
def on_signal(handler):
    """Context manager: signals that ask the process to end call `handler(number, frame)`, except ignored ones (nohup)."""
    main = threading.current_thread() is threading.main_thread()        # signal.signal works only there
    before = {number: signal.signal(number, handler) for number in STOPPING if main and signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def path(text):
    """An argparse type: the text, which must not be empty, because an empty path means the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def whole_number(smallest):
    """An argparse type: an integer of at least `smallest`."""
    def number(text):
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}")
        return value
    return number


def of_one_item(error, item):
    """A sentence that says what went wrong with one of several items.  Re-raises an error that affects them all, such as a full disk."""
    if isinstance(error, OSError) and fatal(error):
        raise error
    if isinstance(error, MemoryError):
        return f"{item}: out of memory{on_gpu(error)}; close other programs, or cut the image into parts"
    text = describe(error) if isinstance(error, OSError) else str(error) or type(error).__name__
    return text if str(item) in text else f"{item}: {text}"


def fatal(error):
    """Whether an OSError concerns the whole disk, so that no other file can be written either."""
    return error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def on_gpu(error):
    """Words to put after "memory": " on the GPU" for CuPy's MemoryError, "" for any other."""
    return " on the GPU" if type(error).__module__.startswith("cupy") else ""


def first_line(error):
    """The first line of an error message: those of CUDA and its compiler run to pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def describe(error):
    """An OSError in words, with the path that it concerns."""
    what = {errno.ENOSPC: "the disk is full: free some space and try again",
            errno.EACCES: "permission denied", errno.EROFS: "the file system is read-only",
            errno.ENOENT: "no such file or folder"}.get(error.errno, error.strerror or str(error))
    return f"{error.filename}: {what}" if error.filename else what
