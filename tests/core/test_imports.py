"""The architecture: no circle of imports, the reading order of the README, and who may import whom.

By hand, a picture of the imports:  python tests/core/test_imports.py imports.png
"""
import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "npsrgan"
CORE = ("tape", "ops", "layers", "models", "losses", "adam")


def module(path):
    """npsrgan/ops/linear.py -> "npsrgan.ops.linear"; a package by its own name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module(path): path for path in PACKAGE.rglob("*.py")}


def imports(path, lazily=True):
    """The modules of ours that a file imports, at its top and, lazily, inside functions.  Names from a package's own files count."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if lazily else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in inner}
    return {name for name in found if name in FILES} - {module(path)}


def test_no_import_is_part_of_a_circle():
    try:
        TopologicalSorter({name: imports(path) - {"npsrgan"} for name, path in FILES.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_file_imports_a_command():
    for name, path in FILES.items():
        assert not {other for other in imports(path) if other.endswith("__main__")}, name


def test_the_core_knows_nothing_of_speed_files_or_commands():
    for name, path in FILES.items():
        if name.split(".")[1:2] and name.split(".")[1] in CORE:
            assert {other.split(".")[1] for other in imports(path)} <= set(CORE), name


def reading_order():
    """The README's list: for each line of its table, the files and folders it names."""
    page = (ROOT / "README.md").read_text().split("## Map of the code")[1]
    rows = re.findall(r"^\| (`[^|]*)\|", page, re.MULTILINE)
    return [[name.removeprefix("npsrgan/").rstrip("/").removesuffix(".py") for name in re.findall(r"`([^`]*)`", row)] for row in rows]


def test_each_file_uses_only_what_the_readme_lists_above_it():
    """At its top.  What fast/ does when it replaces operations is taken on trust."""
    place = {name: number for number, row in enumerate(reading_order()) for name in row}
    assert set(place) == {path.stem for path in PACKAGE.iterdir() if path.name[0] not in "_."}
    for name, path in FILES.items():
        if name != "npsrgan":
            mine = name.split(".")[1]
            used = {other.split(".")[1] for other in imports(path, lazily=False) if other != "npsrgan"} - {"fast"}
            assert not [other for other in used if place[other] > place[mine]], name


def test_the_package_has_few_entries():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 22


def draw(target):
    """Files and folders of the package in the order of the README, and an arrow from each to what it imports."""
    from matplotlib.figure import Figure
    order = [name for row in reading_order() for name in row]
    edges = {(name.split(".")[1], other.split(".")[1]) for name, path in FILES.items() if name != "npsrgan"
             for other in imports(path, lazily=False) if other != "npsrgan"}
    drawing = Figure(figsize=(9, 10), layout="constrained")
    axes = drawing.subplots()
    for number, name in enumerate(order):
        axes.text(0, -number, name, ha="right", va="center")
    for a, b in sorted(edges):
        if a != b:
            first, last = -order.index(a), -order.index(b)
            upward = last > first
            axes.annotate("", (0.1 if upward else -2, last), (0.1 if upward else -2, first), arrowprops={
                "arrowstyle": "->", "alpha": 0.6, "connectionstyle": "arc3,rad=0.6",
                "color": f"C{order.index(b) % 3}" if upward else "red"})
    axes.set(xlim=(-10, 10), ylim=(-len(order), 1), title="Imports of npsrgan: each uses what stands above it (red: taken on trust)")
    axes.axis("off")
    drawing.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(sys.argv[1])
