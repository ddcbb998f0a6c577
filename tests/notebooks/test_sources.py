"""The sources of the pages: short cells, typed parameters, named figures with words for those who do not see them."""

import ast
import re
from pathlib import Path

import jupytext
import pytest

from lorasam_core.report.pages import declared

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.rglob("*.py"))
CELLS = {path.relative_to(FOLDER).with_suffix("").as_posix(): jupytext.read(path).cells for path in NOTEBOOKS}
LAYER = "lessons/lora_layer"


def code(stem):
    return [cell for cell in CELLS[stem] if cell.cell_type == "code"]


def calls(stem, name):
    """Calls of page.<name> in a notebook."""
    for cell in code(stem):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == f"page.{name}":
                yield node


def test_the_notebooks_stand_in_three_folders_under_names_of_their_own():
    assert {stem.split("/")[0] for stem in CELLS} == {"lessons", "results", "your_particles"}
    assert len({stem.split("/")[1] for stem in CELLS}) == len(CELLS)  # a page is named by the last part


@pytest.mark.parametrize("stem", CELLS)
def test_cells_are_short_and_define_nothing(stem):
    for cell in code(stem):
        assert len(cell.source.splitlines()) <= 15 or "parameters" in cell.metadata.get("tags", []), cell.source
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert stem == LAYER or not kinds & {ast.FunctionDef, ast.ClassDef}, cell.source


@pytest.mark.parametrize("stem", CELLS)
def test_parameters_are_typed_scalars_with_a_comment(stem):
    cell = next(c for c in code(stem) if "parameters" in c.metadata.get("tags", []))
    for line in cell.source.splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool) = \S+  # \S.*", line), line
    names = list(declared(FOLDER / f"{stem}.py"))
    assert names[:3] == ["profile", "edition", "data"] and len(names) == len(cell.source.splitlines())
    assert ("workers" in names) == (stem.split("/")[1] in ("rank", "learning_rate", "batch_size"))


@pytest.mark.parametrize("stem", CELLS)
def test_a_page_names_itself_and_says_what_it_shows(stem):
    source = "\n".join(cell.source for cell in code(stem))
    assert f'"{stem}")\npage.banner(' in source
    assert CELLS[stem][0].cell_type == "markdown" and CELLS[stem][0].source.startswith("# ")


def test_every_figure_and_table_has_one_notebook():
    owners = {}
    for stem in CELLS:
        for kind, position in (("figure", 1), ("table", 1)):
            for call in calls(stem, kind):
                name = call.args[position]
                text = name.value if isinstance(name, ast.Constant) else ast.unparse(name)
                assert owners.setdefault((kind, text), stem) == stem, text
                assert len(call.args) >= (4 if kind == "figure" else 3), text  # caption, and for figures words
    assert len(owners) > 25


@pytest.mark.parametrize("stem", CELLS)
def test_figures_are_followed_by_words(stem):
    """Between a figure's cell and the next one there is a sentence, computed or written."""
    words = False
    for cell in reversed(CELLS[stem]):
        if cell.cell_type == "code" and "page.figure(" in cell.source:
            assert words, cell.source
            words = False
        words = words or cell.cell_type == "markdown"


@pytest.mark.parametrize("stem", CELLS)
def test_prose_holds_no_measured_number(stem):
    """Percentages and Dice values belong to records; written text may not hold them."""
    for cell in CELLS[stem]:
        if cell.cell_type == "markdown":
            prose = re.sub(r"`[^`]*`|\$[^$]*\$", "", cell.source)
            assert not re.search(r"\d+\.\d+ ?%|Dice of \d|\b\d{2}\.\d{1,2}\b", prose), cell.source
