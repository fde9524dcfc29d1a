"""Errors a user can cause, and how a command ends with them: one clear sentence, exit status 2, no traceback."""
import errno
import sys
from functools import wraps


class UserError(Exception):
    """Something the user can put right.  The message is one sentence that says what is wrong and what to do."""


def command(main):
    """Make `main()` a command's entry point, which ends in one sentence on stderr where it cannot do its work.

    The exit status is 2 after a UserError, a failing disk or too little memory, and 130 after Ctrl-C.
    """
    @wraps(main)
    def guarded(*args):
        try:
            return main(*args)
        except UserError as error:
            sentence = str(error)
        except OSError as error:
            sentence = describe(error)
        except MemoryError as error:
            sentence = f"out of memory{on_gpu(error)}: try a smaller --batch-size or smaller images"
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2)
    return guarded


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
