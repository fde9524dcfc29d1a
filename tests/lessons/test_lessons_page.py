"""lessons/README.md shows every lesson, in order, with a small picture that the lesson draws."""
import re
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

LESSONS = Path(__file__).parents[2] / "lessons"
SCRIPTS = sorted(LESSONS.glob("[0-9][0-9]_*.py"))


@pytest.fixture
def pictures():
    with mock.patch.object(sys, "path", [str(LESSONS), *sys.path]):
        import _pictures
        return _pictures


def test_the_page_shows_every_lesson_in_order():
    page = (LESSONS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d\d_\w+\.py)\)", page) == [script.name for script in SCRIPTS]
    assert re.findall(r"!\[\]\(\.pictures/(\d\d)\.jpg\)", page) == [script.name[:2] for script in SCRIPTS]


def test_its_pictures_are_small_and_there():
    for script in SCRIPTS:
        path = LESSONS / ".pictures" / f"{script.name[:2]}.jpg"
        assert path.stat().st_size < 60_000
        assert Image.open(path).format == "JPEG"


def test_each_lesson_draws_the_picture_that_is_chosen(pictures):
    assert [name[:2] for name in pictures.CHOSEN] == [script.name[:2] for script in SCRIPTS]
    for name, script in zip(pictures.CHOSEN, SCRIPTS):
        assert f'"{name}"' in script.read_text(encoding="utf-8")


def test_any_picture_is_shrunk_below_the_limit(pictures, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 2000, 3)).astype(np.uint8)      # what JPEG is worst at
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(pictures.shrink(tmp_path / "noise.png")) < pictures.LARGEST
