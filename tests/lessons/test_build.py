"""lessons/build.py: every lesson becomes a notebook and a page, one of them runs, and a browser finds nothing wrong with the site."""
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))

# What a browser sees of each page, at the width of a desk's screen and of a phone's.
PROBE = """<!DOCTYPE html><link rel="icon" href="data:,"><iframe id="frame" height="800"></iframe><script>
async function look(page, width) {
  frame.width = width;
  await new Promise(ready => { frame.onload = ready; frame.src = page; });
  const seen = frame.contentDocument, formulas = [...seen.querySelectorAll("math")];
  const prose = seen.body.cloneNode(true);
  prose.querySelectorAll("pre, code").forEach(code => code.remove());
  return {page, width, formulas: formulas.length,
          flat: formulas.filter(formula => formula.getBoundingClientRect().height < 5).length,
          faulty: seen.querySelectorAll("merror").length, dollars: prose.textContent.split("$").length - 1,
          missing: [...seen.images].filter(image => !image.naturalWidth).length,
          overflow: seen.documentElement.scrollWidth - width,
          foreign: frame.contentWindow.performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith(origin)).length,
          paper: frame.contentWindow.getComputedStyle(seen.body).backgroundColor};
}
(async () => {
  const seen = [];
  for (const page of PAGES) for (const width of [1100, 380]) seen.push(await look(page, width));
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""


@pytest.fixture(scope="module")
def build():
    for package in ("jupytext", "nbconvert", "ipykernel", "latex2mathml"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install -r lessons/requirements.txt")
    with mock.patch.object(sys, "path", [str(ROOT / "lessons"), *sys.path]):
        import build
        return build


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    """The whole site, without what the code prints and draws."""
    folder = tmp_path_factory.mktemp("output")
    with mock.patch.multiple(build, NOTEBOOKS=folder / "notebooks", SITE=folder / "site"):
        return build.build(run=[]).parent


def script(program):
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_missing_package_ends_in_one_sentence():
    ended = script("import runpy, sys; sys.modules['jupytext'] = None; sys.argv = ['lessons/build.py']; "
                   "runpy.run_path('lessons/build.py', run_name='__main__')")
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr == "error: the package jupytext is missing: pip install -r lessons/requirements.txt\n"


def test_a_lesson_that_is_not_there_ends_in_one_sentence(build, capsys):
    with pytest.raises(SystemExit) as ended:
        build.main(["99"])
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: there is no lesson 99: choose from 00_what_it_is, ")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_every_lesson_becomes_a_notebook_with_its_cells_in_order(build, lesson):
    text = lesson.read_text(encoding="utf-8")
    cells = build.notebook(lesson).cells
    assert [cell.cell_type == "markdown" for cell in cells if cell.source] == \
        [mark == " [markdown]" for mark in re.findall(r"^# %%(.*)", "# %%\n" * (not text.startswith("# %%")) + text, re.MULTILINE)]
    for cell in cells:
        first = cell.source.replace(', "../.."]', "]").replace("](../../.pictures/", "](.pictures/").split("\n")[0]
        where = text.find(f"# {first}" if cell.cell_type == "markdown" else first)
        assert where >= 0, first
        text = text[where + len(first):]


def test_a_lesson_runs_as_a_notebook_and_its_pictures_are_on_its_page(build, tmp_path):
    lesson = LESSONS[1]
    with mock.patch.multiple(build, NOTEBOOKS=build.OUTPUT / "notebooks", SITE=tmp_path / "site"):
        build.build(run=[lesson])
    page = (tmp_path / "site" / f"{lesson.stem}.html").read_text(encoding="utf-8")
    outputs = [output for cell in json.loads((build.NOTEBOOKS / f"{lesson.stem}.ipynb").read_text(encoding="utf-8"))["cells"]
               for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("exercise 1" in "".join(output.get("text", "")) for output in outputs)
    assert "exercise 1" in page
    pictures = re.findall(r'<img src="(pictures/[^"]+)"', page)
    assert pictures and all((tmp_path / "site" / picture).stat().st_size > 1000 for picture in pictures)


def test_a_lesson_that_fails_is_named_and_its_results_are_shown_until_it_changes(build, tmp_path):
    lesson, page = tmp_path / "50_broken.py", tmp_path / "site" / "50_broken.html"
    lesson.write_text('# %% [markdown]\n# # Lesson 50: Broken\n\n# %%\nprint("before")\n\n# %%\n1 / 0\n', encoding="utf-8")
    result = '<pre class="output">before</pre>'
    with mock.patch.multiple(build, NOTEBOOKS=tmp_path / "notebooks", SITE=tmp_path / "site", scripts=lambda: [lesson]):
        with pytest.raises(build.UserError, match="50_broken .ZeroDivisionError: division by zero"):
            build.build(run=[lesson])
        assert result in page.read_text(encoding="utf-8")
        build.build(run=[])
        assert result in page.read_text(encoding="utf-8")
        lesson.write_text(lesson.read_text(encoding="utf-8").replace("1 / 0", "1 / 1"), encoding="utf-8")
        build.build(run=[])
        assert result not in page.read_text(encoding="utf-8")


def test_every_link_of_the_site_leads_somewhere_and_none_to_the_network(site):
    pages = sorted(site.rglob("*.html"))
    assert {page.stem for page in pages} >= {"index", *(lesson.stem for lesson in LESSONS)}
    for page in pages:
        links = re.findall(r'(?:href|src)="([^"]*)"', re.sub(r'(?s)<div class="code">.*?</div>', "", page.read_text(encoding="utf-8")))
        assert len(links) >= 4
        for link in links:
            if not link.startswith(("data:", "#")):
                assert (page.parent / link.split("#")[0]).is_file(), f"{page.name} links to {link}"
    assert '<link rel="stylesheet" href="../../style.css">' in (site / "code/npsrgan/tape.py.html").read_text(encoding="utf-8")


def test_a_browser_shows_the_site_without_a_failed_request_or_an_error(site):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium here to open the site with")
    pages = [page.relative_to(site).as_posix() for page in sorted(site.rglob("*.html"))]
    for scheme, looked_at in (("light", pages), ("dark", ["index.html"])):
        (site / f"probe_{scheme}.html").write_text(PROBE.replace("PAGES", json.dumps(looked_at)), encoding="utf-8")
    answers = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *parts):
            answers.append((self.path, parts[2] if len(parts) > 2 else parts))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = {}
    try:
        for scheme in ("dark", "light"):
            command = [chromium, "--headless", "--disable-gpu", *["--no-sandbox"] * (os.geteuid() == 0), "--enable-logging=stderr",
                       "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=600000", "--dump-dom",
                       f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}",
                       f"http://127.0.0.1:{server.server_port}/probe_{scheme}.html"]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert "CONSOLE" not in ended.stderr, ended.stderr
            seen[scheme] = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', ended.stdout)[1].replace("&amp;", "&"))
    finally:
        server.shutdown()
        server.server_close()
    assert {answer for _, answer in answers} <= {"200", "304"}, answers
    assert {page["page"] for page in seen["light"]} == set(pages)
    for page in seen["light"]:
        assert [page[fault] for fault in ("flat", "faulty", "dollars", "missing", "foreign")] == [0] * 5, page
        assert page["overflow"] <= 0, page
    second_edition = [lesson.stem for lesson in LESSONS if "# $$" in lesson.read_text(encoding="utf-8")]
    assert {page["page"][:-5] for page in seen["light"] if page["formulas"]} >= set(second_edition)
    assert {page["paper"] for page in seen["light"]} == {"rgb(255, 255, 255)"} != {page["paper"] for page in seen["dark"]}
