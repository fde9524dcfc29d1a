"""What every lesson imports: saving pictures, predictions, exercises, and headings for those who run it as a script.

A lesson's first lines, `import sys` and `sys.path[:0] = ["lessons", "."]`, find this file from the lesson's own folder (where
scripts and most editors' cells run) and from the repository.
"""
import re
import sys
import textwrap
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "output"
sys.path.insert(0, str(FOLDER.parent))

import matplotlib  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

matplotlib.rcParams.update({"figure.dpi": 110, "savefig.bbox": "tight", "axes.spines.top": False, "axes.spines.right": False})


def save(figure, name):
    """Save a figure as lessons/output/NAME.png, say where, and show it where there is a screen.  name: such as "01_wrap"."""
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / f"{name}.png"
    figure.savefig(path)
    print(f"picture: {path.relative_to(FOLDER.parent)}")
    if plt.get_backend().lower() == "agg":
        plt.close(figure)
    else:
        plt.show(block=False)       # a window, or the picture under the cell
        plt.pause(0.1)


def picture_row(pictures, columns=None, height=2.6, **options):
    """A figure of pictures side by side, titled.  pictures: {title: array}, (H, W, 3) or (H, W); options go to imshow."""
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(height * columns, height * rows * 1.12), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, pictures.items()):
        axis.imshow(picture, cmap="gray", interpolation="nearest", **options)
        axis.set_title(title, fontsize=9)
    return figure


def predict(question, guess=None, value=None, because="", unit="", within=0.1):
    """Ask for a prediction, show the value that was computed, and compare the two.

    guess:   the reader's guess: a number, several numbers, a word.  None, as shipped, stands for no guess.
    value:   what the lesson computed.  Numbers count as equal within 10 % (`within`) or 1e-6; everything else must be the same.
    because: the reason, printed after the value.
    Returns True or False for a right or a wrong guess, None for none.  Never raises: a lesson runs to its end.
    """
    print(textwrap.fill(f"predict: {question}", 100, subsequent_indent="    "))
    right, comment = None, "no guess"
    if guess is not None:
        try:
            right = bool(np.allclose(np.asarray(guess, float), np.asarray(value, float), rtol=within, atol=1e-6))
        except (TypeError, ValueError):
            right = type(guess) is type(value) and guess == value
        comment = f"you predicted {_shown(guess)}: " + ("right" if right else _difference(guess, value))
    print(f"    computed: {_shown(value)}{unit and ' ' + unit}   ({comment})")
    if because:
        print(textwrap.fill(because, 100, initial_indent="    ", subsequent_indent="    "))
    return right


def _shown(value):
    """A value in a few digits: 0.1235, 1,234,567, [0.5 0.25], 'a word'."""
    if isinstance(value, (bool, np.bool_, str)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return f"{value:.4g}" if np.ndim(value) == 0 else np.array2string(np.asarray(value), precision=4, threshold=20)


def _difference(guess, value):
    """What is different about a wrong guess."""
    if isinstance(value, (bool, np.bool_, str)) or np.ndim(value) or np.ndim(guess) or isinstance(guess, str):
        return "different"
    if guess * value < 0:
        return "the sign is different"
    if guess == 0 or value == 0 or 0.5 < guess / value < 2:
        return "too small" if guess < value else "too large"
    return f"{value / guess:.3g} times too small" if abs(guess) < abs(value) else f"{guess / value:.3g} times too large"


def exercise(number, question, answer=None, check=None, hint="look at the cells above again"):
    """Ask the reader something, and say whether the answer is right.

    answer: the reader's answer: a number, an array, a function.  None, as shipped, stands for no answer.
    check:  a function from the answer to True; or to False, which prints `hint`; or to a sentence that says what is different.
    Returns True for right, False for wrong, None for not yet answered.  Never raises: a lesson runs to its end.
    """
    print(textwrap.fill(f"exercise {number}: {question}", 100, subsequent_indent="    "))
    if answer is None:
        print("    not yet answered")
        return None
    try:
        verdict = check(answer)
    except Exception as error:
        verdict = f"the check could not use this answer ({type(error).__name__}: {error})"
    complaint = verdict if isinstance(verdict, str) else None if verdict else hint
    print(f"    not yet: {complaint}" if complaint else "    right")
    return not complaint


class Narrator:
    """Standard output of a lesson that runs as a script: prints each heading before the first output below it."""

    def __init__(self, stream, path):
        self.stream, self.path = stream, path
        cells = Path(path).read_text(encoding="utf-8")
        self.waiting = []                                       # (line, text), in the order of the lesson
        for part in re.finditer(r"^# (#+) (.*)|^# \*\*The question\.\*\*((?:.*\n# ?)*?.*)(?=\n#\n)", cells, re.MULTILINE):
            line = cells.count("\n", 0, part.start()) + 1
            if part[1]:
                self.waiting.append((line, f"\n{part[2]}\n{'=-'[len(part[1]) > 1] * len(part[2])}\n"))
            else:
                self.waiting.append((line, textwrap.fill(part[3].replace("\n# ", " "), 100).strip() + "\n"))

    def write(self, text):
        frame = sys._getframe()
        while frame and (frame.f_code.co_filename, frame.f_code.co_name) != (self.path, "<module>"):
            frame = frame.f_back
        while frame and self.waiting and self.waiting[0][0] < frame.f_lineno:
            self.stream.write(self.waiting.pop(0)[1])
        return self.stream.write(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def _narrate():
    """Let the lesson that imports this file print its headings.  Editors and notebooks show the headings themselves."""
    frame = sys._getframe()
    while frame:
        path = frame.f_code.co_filename
        if frame.f_code.co_name == "<module>" and re.fullmatch(r"\d\d_\w+\.py", Path(path).name) and Path(path).exists():
            sys.stdout = Narrator(sys.stdout, path)
            return
        frame = frame.f_back


_narrate()
