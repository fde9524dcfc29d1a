"""Every lesson runs from beginning to end, draws something, stays short, and marks its exercises rightly."""
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from answers import ANSWERS
from PIL import Image

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)

# `python lessons/NN_name.py`, except that every exercise is marked three times: as shipped, with a right answer, with a wrong one.
AS_SCRIPT = """
import runpy, sys
sys.path[0] = "lessons"
import _lesson
from tests.lessons.answers import ANSWERS

path, stem = sys.argv.pop(), sys.argv.pop()
answers, exercise = dict(ANSWERS[stem]), _lesson.exercise

def marked(number, question, answer=None, check=None, **options):
    right, wrong = answers.pop(number)
    verdicts = [exercise(number, question, given, check, **options) for given in (answer, right, wrong)]
    assert verdicts == [None, True, False], f"exercise {number}: unanswered, right and wrong were marked {verdicts}"

_lesson.exercise = marked
runpy.run_path(path, run_name="__main__")
assert not answers, f"tests/lessons/answers.py answers exercises that are not there: {list(answers)}"
"""

# One cell after another in one namespace, as an editor or Jupyter runs them: there is no __file__.
AS_CELLS = """
import sys
sys.path[0] = ""
namespace = {"__name__": "__main__"}
cells = open(sys.argv[1], encoding="utf-8").read().split("# %%")
assert len(cells) > 3
for cell in cells:
    exec("#" + cell if cell is not cells[0] else cell, namespace)
"""


def python(program, *arguments, cwd=ROOT):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONPATH")}
    ended = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=cwd, env={**environment, "MPLBACKEND": "Agg"},
                           capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


def pictures(lesson, since):
    """The pictures that a lesson has drawn since a time."""
    return [path for path in (ROOT / "lessons" / "output").glob(f"{lesson.stem[:2]}_*.png") if path.stat().st_mtime >= since]


def is_blank(path):
    """Nothing but a page, or a page with empty axes: no colour, and less contrast than a photograph."""
    picture = np.asarray(Image.open(path).convert("RGB"), np.float64)
    return np.mean(np.ptp(picture, axis=2) > 30) < 0.001 and picture.std() < 50


@each_lesson
def test_runs_draws_and_marks_its_exercises(lesson):
    began = time.time() - 1
    assert 2 <= len(ANSWERS.get(lesson.stem, {})) <= 3, "put right and wrong answers to its two or three exercises into answers.py"
    python(AS_SCRIPT, lesson.stem, lesson.relative_to(ROOT))
    drawn = pictures(lesson, began)
    assert drawn
    assert not [path.name for path in drawn if is_blank(path)]


@each_lesson
def test_is_short_and_made_of_cells(lesson):
    text = lesson.read_text(encoding="utf-8")
    assert text.startswith(f'"""Lesson {lesson.stem[:2]}: ')
    assert len(text.splitlines()) < 150
    assert text.count("\n# %% ") >= 4
    for part in ("You should know", "Lives in", "assert ", "save("):
        assert part in text, f"a lesson says or does this: {part}"


def test_runs_cell_by_cell_from_its_own_folder():
    began, lesson = time.time() - 1, LESSONS[1]
    python(AS_CELLS, lesson.name, cwd=lesson.parent)
    assert pictures(lesson, began)


def test_blank_pictures_are_noticed(tmp_path):
    from matplotlib.figure import Figure
    page = Figure()
    page.savefig(tmp_path / "page.png")
    page.subplots(1, 2)
    page.savefig(tmp_path / "axes.png")
    page.axes[0].plot([1, 2])
    page.savefig(tmp_path / "line.png")
    assert [is_blank(tmp_path / f"{name}.png") for name in ("page", "axes", "line")] == [True, True, False]
