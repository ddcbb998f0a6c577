"""The notebooks' sources, read and not executed: parameters, provenance and form."""

import ast
import itertools
import re
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

from lorasam_core.pages import declared, page_list, read_notebook
from lorasam_core.profiles import load_profile

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))
PROFILES = ("smoke", "quick", "emps", "study")
SHOWS = ("figure", "table")


def code_cells(path):
    return [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]


def calls(path, *attributes):
    """Every call `something.attribute(...)` in a notebook, for these attributes."""
    tree = ast.parse("\n".join(cell.source for cell in code_cells(path)))
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    return [n for n in nodes if n.func.attr in attributes]


def argument(call, position, keyword):
    """The text given to a call at this position or by this keyword, with * for what an f-string fills in; else None."""
    given = [k.value for k in call.keywords if k.arg == keyword] or call.args[position : position + 1]
    if given and isinstance(given[0], ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "*" for part in given[0].values)
    return given[0].value if given and isinstance(given[0], ast.Constant) else None


def shown(path):
    """Names of what a notebook makes by page.figure(figure, name, ...) and page.table(table, name, ...)."""
    found = calls(path, *SHOWS)
    return [argument(c, 1, "name") for c in found if isinstance(c.func.value, ast.Name) and c.func.value.id == "page"]


def test_there_are_notebooks_and_no_executed_ones():
    assert [p.stem[:2] for p in NOTEBOOKS] == [f"{i:02}" for i in range(1, len(NOTEBOOKS) + 1)] and NOTEBOOKS
    assert not list(NOTEBOOKS[0].parent.rglob("*.ipynb"))


def test_every_figure_and_table_has_exactly_one_producing_notebook():
    names = [(path.stem, name) for path in NOTEBOOKS for name in shown(path)]
    assert names and None not in [name for _, name in names], "a name cannot be read from the source"
    assert [pair for pair, count in Counter(names).items() if count > 1] == []
    for one, other in itertools.permutations(names, 2):  # a name with * stands for every name that fits it
        assert one[0] == other[0] or not fnmatch(other[1].replace("*", "x"), one[1]), (one, other)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_signs_with_its_own_name_and_saves_nothing_past_the_report(path):
    pages = calls(path, "Page")
    assert [argument(call, 1, "notebook") for call in pages] == [path.stem]
    assert calls(path, "savefig", "write_fragments") == []


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_fits_the_notebooks(profile):
    pages = page_list(load_profile(profile), "runs/x")
    assert [p.notebook.stem for p in pages] == [p.stem for p in NOTEBOOKS]
    assert all({"profile", "edition"} <= set(p.parameters) for p in pages[:8])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_typed_commented_scalars(path):
    (cell,) = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    statements = ast.parse(cell.source).body
    assert statements and all(isinstance(s, ast.AnnAssign) for s in statements)
    for statement, line in zip(statements, cell.source.splitlines(), strict=True):
        assert re.search(r"  # \w", line), f"{line!r} has no comment"
        assert type(ast.literal_eval(statement.value)).__name__ == ast.unparse(statement.annotation)
    assert set(declared(path)) == {s.target.id for s in statements}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_short_and_visible(path):
    for cell in code_cells(path):
        tags = cell.metadata.get("tags", [])
        assert not {"remove-input", "remove-cell", "hide-cell"} & set(tags)
        if "parameters" in tags:
            continue
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 10 or path.stem.startswith("03_"), cell.source
        if not path.stem.startswith("03_"):  # the one that teaches the layer
            assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(ast.parse(cell.source)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pages_begin_with_a_title_and_prose(path):
    cells = read_notebook(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    words = sum(len(c.source.split()) for c in cells if c.cell_type == "markdown")
    assert words > 100
