"""Errors a user can cause, and how a command ends with them: one clear sentence, exit status 2, no traceback."""
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
    """Something the user can put right.  The message is one sentence that says what is wrong and what to do."""


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end.  `number` is the signal's."""

    def __init__(self, number=signal.SIGINT, frame=None):
        super().__init__(number)
        self.number = number

    @property
    def status(self):
        """The exit status that tells a shell of it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


def command(main):
    """Make `main()` a command's entry point, which ends in one sentence on stderr where it cannot do its work.

    The exit status is 2 after a UserError, a failing disk or too little memory, and 128 plus its number after a signal.
    Signals raise Stopped, so that what is half done is cleaned up.  What is printed is shown by every terminal, and where
    nobody reads it any more, the work goes on (see `terminal.Output`).
    """
    @wraps(main)
    def guarded(*args):
        with guarded_output() as output, on_signal(_raise):
            try:
                status = main(*args)
                output.flush()
                if not output.failure:
                    return status
                sentence = f"{output.name} cannot be written: {describe(output.failure)}; the rest was done"
            except UserError as error:
                sentence = str(error)
            except OSError as error:
                sentence = describe(error)
            except MemoryError as error:
                sentence = f"out of memory{on_gpu(error)}: close other programs, or give smaller images"
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
    """Inside, `handler(number, frame)` is called for signals that ask the process to end, except those that are ignored (nohup)."""
    before = {}
    if threading.current_thread() is threading.main_thread():       # Python refuses others
        before = {number: signal.getsignal(number) for number in STOPPING}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def path(text):
    """A type for argparse: the text, which must not be empty, for an empty path means the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def of_one_item(error, item):
    """The sentence on what went wrong with one of several items.  Raises the error again where it concerns them all: a full disk."""
    if isinstance(error, OSError) and fatal(error):
        raise error
    if isinstance(error, MemoryError):
        return f"{item}: out of memory{on_gpu(error)}; close other programs, or cut the image into parts"
    text = describe(error) if isinstance(error, OSError) else str(error) or type(error).__name__
    return text if str(item) in text else f"{item}: {text}"


def fatal(error):
    """Whether an OSError is about the whole disk, so that nothing else can be written to it either."""
    return error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def on_gpu(error):
    """ " on the GPU" for a MemoryError of CuPy's, "" for others: words to put behind "memory"."""
    return " on the GPU" if type(error).__module__.startswith("cupy") else ""


def first_line(error):
    """What an error says first: CUDA's and its compiler's go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def describe(error):
    """An OSError in words, with the path it is about."""
    what = {errno.ENOSPC: "the disk is full: free some space and try again",
            errno.EACCES: "permission denied", errno.EROFS: "the file system is read-only",
            errno.ENOENT: "no such file or folder"}.get(error.errno, error.strerror or str(error))
    return f"{error.filename}: {what}" if error.filename else what
