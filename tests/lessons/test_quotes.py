"""What the lessons quote exists: files, links, other lessons, and every piece of code in the source it is said to be from."""
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
SOURCES = "npsrgan/**/*.py", "npsrgan/**/*.cu", "npsrgan/**/*.cuh"
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def prose(text):
    """The markdown cells of a lesson, without their comment signs."""
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)*)", text, re.MULTILINE)
    return "\n".join(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells)


def quotes(markdown):
    """(file or None, code) of each fenced block whose first line names a file, and of each piece of code within a line.

    A fenced block without a file is an example, such as an exhibit of the bug museum, and says of itself where it is from.
    """
    for block in re.findall(r"^```\w*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        if named := re.match(r"(?://|#) (\S+/\S+)\n", block):
            yield named[1], block[named.end():]
    outside = re.sub(r"^```.*?^```|^    .*?$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", outside):
        yield None, code


def squeezed(code):
    return re.sub(r"\s+", "", code)


def code_of(path):
    """A lesson without its comments."""
    with open(path, "rb") as file:
        return squeezed("".join(token.string for token in tokenize.tokenize(file.readline) if token.type != tokenize.COMMENT
                                and token.type != tokenize.ENCODING))


@cache
def known():
    """All code of the package and the lessons; a lesson's prose is no source."""
    package = [path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]
    return (squeezed("\n".join(path.read_text(encoding="utf-8") for path in package))
            + "".join(code_of(path) for path in sorted((ROOT / "lessons").glob("*.py"))))


def is_known(code):
    """Whether a piece of code within a line is a path that exists, a command, or occurs in a source.

    Of a call or an index with plain names, such as `run(step)` or `image[y, x]`, only what is called or indexed must occur: the
    reader may be asked to write it.  Of a method, its name after the point.  Of an assignment, both sides must occur.
    """
    if code.startswith(("python ", "pip ", "--")):
        return True
    if re.fullmatch(r"[\w.]+/[\w./]*", code):
        return (ROOT / code).exists() or code.startswith(("lessons/output", "runs/"))
    return squeezed(code) in known() or all(_named(part) in known() or re.fullmatch(r"[\w.\s]+", part)
                                            for part in re.split(r"\s[-+*/]?=\s", code))


def _named(part):
    """What is called or indexed: run(step) -> run; network.eval() -> .eval."""
    call = re.fullmatch(r"(.*?)(\w*)[(\[][\w\s.,=]*[)\]]", part, re.DOTALL)
    return squeezed("." * call[1].endswith(".") + call[2] if call else part)


@each_lesson
def test_every_piece_of_code_in_prose_is_where_it_is_said_to_be(lesson):
    for file, code in quotes(prose(lesson.read_text(encoding="utf-8"))):
        if file:
            assert squeezed(code) in squeezed((ROOT / file).read_text(encoding="utf-8")), f"{file} does not contain: {code}"
        else:
            assert is_known(code), f"no source contains: {code}"


@each_lesson
def test_links_lead_somewhere(lesson):
    text = prose(lesson.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (lesson.parent / target).exists(), target


@each_lesson
def test_other_lessons_are_named_by_numbers_that_exist(lesson):
    numbers = {path.stem[:2] for path in LESSONS}
    for number in re.findall(r"[Ll]essons? (\d\d)\b", lesson.read_text(encoding="utf-8")):
        assert number in numbers, f"there is no lesson {number}"


def test_a_wrong_quote_is_noticed():
    markdown = "`p += gradient * (k - i)` and\n```\n// npsrgan/fast/cuda/adam.cu\nv[i] = wrong;\n```\n"
    (file, block), (_, inline) = quotes(markdown)
    assert file == "npsrgan/fast/cuda/adam.cu" and squeezed(block) not in squeezed((ROOT / file).read_text())
    assert not is_known(inline) and not is_known("npsrgan/nowhere.py") and is_known("npsrgan/adam.py") and is_known("np.where(x, y)")
