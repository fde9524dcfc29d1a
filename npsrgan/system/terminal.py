"""Printing by commands: escaped for the terminal, with progress bars only on a terminal, and safe against closed pipes."""
import errno
import os
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial

from tqdm import tqdm

progress = partial(tqdm, disable=None, dynamic_ncols=True)      # None: no bar if stderr is not a terminal


_CONTROL = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\r\t"}


def printable(text):
    """Text with control and unprintable characters escaped: newlines, escape sequences, undecodable bytes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def say(*lines, file=None):
    """Print each line, made printable, without breaking a progress bar.  file: None for stdout."""
    tqdm.write("\n".join(map(printable, lines)), file=file or sys.stdout)


class Output:
    """A text stream in place of stdout or stderr that never fails, and escapes characters its encoding lacks.

    After a failed write, further output is discarded and the work goes on.  `failure` is then the OSError; it stays None for a
    pipe that the reader has closed, such as `head`, and for a closed terminal.
    """

    def __init__(self, stream, name):
        self.stream, self.name, self.failure = stream or open(os.devnull, "w"), name, None
        self._encoding = self.stream.encoding or "utf-8"

    def write(self, text):
        text = text.translate(_CONTROL)
        self._attempt(self.stream.write, text.encode(self._encoding, "backslashreplace").decode(self._encoding))
        return len(text)

    def flush(self):
        self._attempt(self.stream.flush)

    def _attempt(self, function, *arguments):
        try:
            function(*arguments)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                self.failure = error
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:      # buffered output goes there too
                os.dup2(nowhere.fileno(), self.stream.fileno())
        except RuntimeError:    # reentrant call: a signal arrived during another write
            pass
        except ValueError:      # the stream is closed
            self.stream = open(os.devnull, "w")

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextmanager
def guarded_output():
    """Context manager: replace stdout and stderr by Outputs.  Yields the one for stdout."""
    with redirect_stdout(Output(sys.stdout, "standard output")) as output, redirect_stderr(Output(sys.stderr, "standard error")) as errors:
        try:
            yield output
        finally:
            output.flush()
            errors.flush()
