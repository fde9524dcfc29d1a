"""What every lesson begins with: the repository on the path, a way to save and show its pictures, and exercises.

A lesson's first line, `import sys; sys.path[:0] = ["lessons", "."]`, finds this file from the lesson's own folder (where scripts
and most editors' cells run) and from the repository.
"""
import sys
import textwrap
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "output"
sys.path.insert(0, str(FOLDER.parent))

import matplotlib  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402

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


def exercise(number, question, answer=None, check=None, hint="look at the cells above again"):
    """Ask the reader something, and say whether the answer is right.

    answer: the reader's: a number, an array, a function.  None, as shipped, is politely passed over.
    check:  a function from the answer to True; or to False, which prints `hint`; or to a sentence that says what is different.
    Returns True for right, False for wrong, None for not yet answered.  Never raises: a lesson runs to its end.
    """
    print(textwrap.fill(f"exercise {number}: {question}", 110, subsequent_indent="    "))
    if answer is None:
        print("    not yet answered: put your answer in the place of None and run this cell again")
        return None
    try:
        verdict = check(answer)
    except Exception as error:
        verdict = f"the check could not use this answer ({type(error).__name__}: {error})"
    complaint = verdict if isinstance(verdict, str) else None if verdict else hint
    print(f"    not yet: {complaint}" if complaint else "    right")
    return not complaint
