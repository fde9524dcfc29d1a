"""Make notebooks and a website of the lessons:  python lessons/build.py [--no-run] [LESSON ...]

The lessons stay what they are, Python files in jupytext's percent format.  This runs each of them as a notebook, which takes about
as long as running them as scripts, and leaves in lessons/output/

    notebooks/NN_name.ipynb     with everything that the code printed and drew
    site/index.html             the path, then a page for each lesson and for each source file that a lesson names

The pages need no network and no JavaScript; formulas are MathML.  LESSON, such as 05: run only these.  --no-run: run none.  A lesson
that is not run shows what its notebook holds from an earlier run, unless it has changed since.  Needs what lessons/requirements.txt
lists.
"""
import argparse
import base64
import html
import os
import re
import shutil
import sys
from pathlib import Path

LESSONS = Path(__file__).resolve().parent
ROOT = LESSONS.parent
sys.path.insert(0, str(ROOT))

from npsrgan.system.errors import UserError, command  # noqa: E402

try:
    import jupytext
    from latex2mathml.converter import convert as to_mathml
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    from nbconvert.preprocessors import CellExecutionError, ExecutePreprocessor
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer
    from tqdm import tqdm
except ImportError as error:
    missing = error.name
else:
    missing = None

OUTPUT = LESSONS / "output"
NOTEBOOKS, SITE = OUTPUT / "notebooks", OUTPUT / "site"
LONGEST = 600       # seconds that one cell may take

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}style.css">
</head>
<body>
<nav>{links}</nav>
<main{kind}>
{body}
</main>
<nav>{links}</nav>
</body>
</html>
"""


@command
def main(arguments=None):
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python lessons/build.py", description="Make notebooks and a website of the lessons.")
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="number or file name of a lesson to run (default: all)")
    parser.add_argument("--no-run", action="store_true", help="run no lesson")
    asked = parser.parse_args(arguments)
    if missing:
        raise UserError(f"the package {missing} is missing: pip install -r lessons/requirements.txt")
    print(f"open {build([] if asked.no_run else chosen(asked.lessons))}")


def scripts():
    """Every lesson's file, in the order of reading."""
    return sorted(LESSONS.glob("[0-9][0-9]_*.py"))


def chosen(names):
    """The lessons with these numbers or names; all, if there are none.  Raises UserError for a name that is no lesson's."""
    found = {name: [path for path in scripts() if path.name.startswith(Path(name).name)] for name in names}
    for name, paths in found.items():
        if len(paths) != 1:
            raise UserError(f"there is no lesson {name}: choose from {', '.join(path.stem for path in scripts())}")
    return [path for [path] in found.values()] or scripts()


def build(run):
    """Run some lessons; write all notebooks and pages, and the index.  Returns the index's path.

    Raises UserError, after everything is written, that names the lessons that failed.
    """
    shutil.rmtree(SITE, ignore_errors=True)
    for folder in (NOTEBOOKS, SITE):
        folder.mkdir(parents=True, exist_ok=True)
    Site().write(run)
    return SITE / "index.html"


def notebook(lesson):
    """A lesson as a notebook that finds the lessons' helpers and pictures from the folder of the notebooks."""
    cells = jupytext.read(lesson)
    for cell in cells.cells:
        cell.source = cell.source.replace('sys.path[:0] = ["lessons", "."]', 'sys.path[:0] = ["lessons", ".", "../.."]')
        cell.source = cell.source.replace("](.pictures/", "](../../.pictures/")
    cells.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return cells


def unless_changed(cells, path):
    """The notebook of an earlier run, if it has the same cells; else the one given."""
    earlier = jupytext.read(path) if path.exists() else cells
    return earlier if [cell.source for cell in earlier.cells] == [cell.source for cell in cells.cells] else cells


def execute(cells):
    """Run a notebook from the folder that it will lie in; its outputs are kept in it.  Returns what went wrong, or None."""
    os.environ.pop("MPLBACKEND", None)      # figures belong into the notebook
    try:
        runner = ExecutePreprocessor(timeout=LONGEST, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
        runner.preprocess(cells, {"metadata": {"path": str(NOTEBOOKS)}})
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return None


class Site:
    """The pages.  A link to a lesson, or to a file of the repository, becomes a link to its page."""

    def __init__(self):
        self.sources = set()        # files of the repository that some page links to

    def write(self, run):
        style = (LESSONS / "_site.css").read_text(encoding="utf-8") + HtmlFormatter(style="friendly").get_style_defs(".code")
        style += f"\n@media (prefers-color-scheme: dark) {{\n{HtmlFormatter(style='github-dark').get_style_defs('.code')}\n}}\n"
        (SITE / "style.css").write_text(style, encoding="utf-8")
        shutil.copytree(LESSONS / ".pictures", SITE / "pictures")
        failed = {}
        for lesson in tqdm(scripts(), "lessons", disable=None):
            cells, path = notebook(lesson), NOTEBOOKS / f"{lesson.stem}.ipynb"
            if lesson in run:
                failed[lesson.stem] = execute(cells)
            else:
                cells = unless_changed(cells, path)
            jupytext.write(cells, path)
            self.lesson(lesson, cells)
        index = self.markdown((LESSONS / "README.md").read_text(encoding="utf-8"))
        self.page("index.html", "Lessons", index, "")
        for source in sorted(self.sources):
            self.source(source)
        failed = [f"{name} ({why})" for name, why in failed.items() if why]
        if failed:
            raise UserError(f"these lessons failed, and their pages end where they did: {'; '.join(failed)}")

    def lesson(self, lesson, cells):
        """The page of one lesson."""
        body, pictures = [], 0
        for cell in cells.cells:
            if cell.cell_type == "markdown":
                body.append(self.markdown(cell.source))
                continue
            if cell.metadata.get("title"):
                body.append(f"<h2>{html.escape(cell.metadata['title'])}</h2>")
            if cell.source:
                body.append(highlight(cell.source, PythonLexer(), HtmlFormatter(cssclass="code")))
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if "image/png" in data:
                    pictures += 1
                    name = f"pictures/{lesson.stem}_{pictures}.png"
                    (SITE / name).write_bytes(base64.b64decode(data["image/png"]))
                    body.append(f'<p><img src="{name}" alt="picture {pictures} of this lesson"></p>')
                elif said := printed(output):
                    body.append(f'<pre class="output">{html.escape(said)}</pre>')
        lessons, place = scripts(), scripts().index(lesson)
        links = ['<a href="index.html">All lessons</a>']
        links += [f'<a rel="prev" href="{path.stem}.html">← {title(path)}</a>' for path in lessons[max(place - 1, 0):place]]
        links += [f'<a rel="next" href="{path.stem}.html">{title(path)} →</a>' for path in lessons[place + 1:place + 2]]
        self.page(f"{lesson.stem}.html", title(lesson), "\n".join(body), " ".join(links))

    def source(self, path):
        """The page of one source file."""
        text = highlight(path.read_text(encoding="utf-8"), PythonLexer(), HtmlFormatter(cssclass="code", linenos="inline"))
        name = path.relative_to(ROOT).as_posix()
        up = "../" * (name.count("/") + 1)
        self.page(f"code/{name}.html", name, f"<h1>{name}</h1>{text}", f'<a href="{up}index.html">All lessons</a>', up, ' class="wide"')

    def page(self, name, heading, body, links, up="", kind=""):
        path = SITE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(title=html.escape(heading), body=body, links=links, up=up, kind=kind), encoding="utf-8")

    def markdown(self, text):
        return MarkdownWithMath(renderer=Renderer(self)).render(text)

    def address(self, url):
        """Where a link of a lesson leads on the site."""
        path = (LESSONS / url).resolve()
        if path in scripts():
            return f"{path.stem}.html"
        if not path.is_file():
            path = (ROOT / url).resolve()
        if path.is_file() and path.suffix in (".py", ".cu", ".cuh") and ROOT in path.parents:
            self.sources.add(path)
            return f"code/{path.relative_to(ROOT).as_posix()}.html"
        return None


def printed(output):
    """What a cell printed, without progress bars, which overwrite themselves."""
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return "" if output.get("name") == "stderr" and "\r" in text else text.rstrip()


def title(lesson):
    """A lesson's title: its number and what stands behind it."""
    first = re.search(r'^(?:# # |""")Lesson (\d\d: [^.?\n]+)', lesson.read_text(encoding="utf-8"), re.MULTILINE)
    return first[1]


if not missing:
    class Renderer(IPythonRenderer):
        """Markdown to HTML, with formulas as MathML and links into the site."""

        def __init__(self, site):
            super().__init__(escape=False, exclude_anchor_links=True)
            self.site = site

        def inline_math(self, body):
            return to_mathml(body)

        def block_math(self, body):
            return to_mathml(body, display="block")

        def codespan(self, text):
            address = self.site.address(text) if re.fullmatch(r"[\w/.]+\.(py|cuh?)", text) else None
            code = super().codespan(text)
            return f'<a href="{address}">{code}</a>' if address else code

        def image(self, text, url, title=None):
            return super().image(text, f"pictures/{Path(url).name}" if ".pictures/" in url else url, title)

        def link(self, text, url, title=None):
            return super().link(text, self.site.address(url) or url, title)


if __name__ == "__main__":
    main()
