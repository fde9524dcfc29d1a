"""Every lesson runs from beginning to end, draws something, stays short, and marks its exercises rightly."""
import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from answers import ANSWERS
from PIL import Image

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
SECOND_EDITION = "# %% [markdown]"
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)

# `python lessons/NN_name.py`, except that every exercise is marked three times: as shipped, with a right answer, with a wrong one.
# A prediction is compared twice: as shipped, and with the right guess.
AS_SCRIPT = """
import runpy, sys
sys.path[0] = "lessons"
import _lesson
from tests.lessons.answers import ANSWERS

path, stem = sys.argv.pop(), sys.argv.pop()
answers, exercise, predict = dict(ANSWERS[stem]), _lesson.exercise, _lesson.predict

def marked(number, question, answer=None, check=None, **options):
    right, wrong = answers.pop(number)
    verdicts = [exercise(number, question, given, check, **options) for given in (answer, right, wrong)]
    assert verdicts == [None, True, False], f"exercise {number}: unanswered, right and wrong were marked {verdicts}"

def predicted(question, guess=None, value=None, *rest, **options):
    verdicts = [predict(question, given, value, *rest, **options) for given in (guess, value)]
    assert verdicts == [None, True], f"{question}: no guess and the right one were called {verdicts}"

_lesson.exercise, _lesson.predict = marked, predicted
sys.stdout = _lesson.Narrator(sys.stdout, path)      # as _lesson does for the lesson that imports it first
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
    answers = ANSWERS.get(lesson.stem, {})
    assert len(answers) >= 2, "put right and wrong answers to its exercises into answers.py"
    printed = python(AS_SCRIPT, lesson.stem, lesson.relative_to(ROOT))
    if SECOND_EDITION in lesson.read_text(encoding="utf-8"):
        assert any(callable(right) for right, _ in answers.values()), "at least one exercise asks for code"
        for heading in re.findall(r"^# #+ (.*)", lesson.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"\n{heading}\n" in printed
    drawn = pictures(lesson, began)
    assert drawn
    assert not [path.name for path in drawn if is_blank(path)]


@each_lesson
def test_names_files_that_are_there(lesson):
    text = lesson.read_text(encoding="utf-8")
    named = re.findall(r"`((?:npsrgan|lessons|tests|weights)/[\w./]*)`", text) + re.findall(r"\]\(\.\./([\w./]+)\)", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


@each_lesson
def test_is_made_of_cells(lesson):
    text = lesson.read_text(encoding="utf-8")
    assert text.count("\n# %%") >= 4
    for part in ("You should know", "Lives in", "assert ", "save("):
        assert part in text, f"a lesson says or does this: {part}"
    if SECOND_EDITION not in text:
        assert text.startswith(f'"""Lesson {lesson.stem[:2]}: ')
        return
    assert text.startswith(f"# %% [markdown]\n# # Lesson {lesson.stem[:2]}: ")
    assert "# **The question.** " in text and "predict(" in text
    assert not re.findall(r"^# %%(?! \[markdown\]\n#|\n)", text, re.MULTILINE), "headings belong into markdown cells"
    assert max(map(len, text.splitlines())) <= 110
    starts = [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    assert len(starts) == len(set(starts)), "one statement a line"


def test_predictions_are_compared(capsys):
    with mock.patch.object(sys, "path", [str(ROOT / "lessons"), *sys.path]):
        from _lesson import predict
    rights = (6.02, 6.02, "dB"), (0, 1e-17, ""), (1_000_000, 999_999, ""), ([1, 2], np.array([1.0, 2.0]), ""), ("blur", "blur", "")
    assert [predict("?", guess, value, unit=unit) for guess, value, unit in rights] == [True] * 5
    assert predict("?", None, 6.02) is None
    capsys.readouterr()
    wrongs = ((3, 6.02, "2.01 times too small"), (-6, 6.02, "the sign is different"), (5, 6.02, "too small"),
              (20, 10, "2 times too large"), ("edges", "blur", "different"), ([1, 2, 3], 5, "different"), (0, 1, "too small"))
    for guess, value, comment in wrongs:
        assert predict("?", guess, value) is False
        assert comment in capsys.readouterr().out


def test_runs_cell_by_cell_from_its_own_folder():
    began, lesson = time.time() - 1, LESSONS[1]
    python(AS_CELLS, lesson.name, cwd=lesson.parent)
    assert pictures(lesson, began)


def test_a_script_prints_its_headings_and_its_question():
    ended = subprocess.run([sys.executable, LESSONS[1]], cwd=ROOT, env={**os.environ, "MPLBACKEND": "Agg"}, capture_output=True, text=True,
                           timeout=300, check=True)
    assert ended.stdout.startswith("\nLesson 01: Images as arrays\n===")
    parts = ("How does a picture", "\n1. A photograph is", "shape (600, 512, 3)", "\n2. The numbers", "\nExercises\n", "exercise 1:")
    places = [ended.stdout.index(part) for part in parts]
    assert places == sorted(places)


def test_blank_pictures_are_noticed(tmp_path):
    from matplotlib.figure import Figure
    page = Figure()
    page.savefig(tmp_path / "page.png")
    page.subplots(1, 2)
    page.savefig(tmp_path / "axes.png")
    page.axes[0].plot([1, 2])
    page.savefig(tmp_path / "line.png")
    assert [is_blank(tmp_path / f"{name}.png") for name in ("page", "axes", "line")] == [True, True, False]
