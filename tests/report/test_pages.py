"""Notebooks to executed pages: parameters checked first, unchanged pages kept, failed ones named."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

import lorasam_core
from lorasam_core.config import RunConfig
from lorasam_core.experiments import runs
from lorasam_core.experiments import sweeps as experiments
from lorasam_core.experiments.profiles import load_profile
from lorasam_core.experiments.records import read_edition
from lorasam_core.report import book, pages
from lorasam_core.report.pages import execute_pages, page_key, page_list

GOOD = """# %% [markdown]
# # A page
# %% tags=["parameters"]
profile: str = "quick"  # table of runs
edition: str = ""  # folder of the runs
steps: int = 3  # how many
# %%
import json, os, sys, lorasam_core
from lorasam_core.experiments.sweeps import sweep
names = [r.config.name for r in sweep(profile, "main", edition)]
package = str(lorasam_core.__path__[0])
said = {"package": package, "steps": steps, "edition": edition, "runs": names, "torch": "torch" in sys.modules}
print(json.dumps({"cwd": os.getcwd(), **said}))
"""
BAD = "# %% [markdown]\n# # No parameters\n# %%\n1 / 0\n"
PROFILE = """
experiments:
- {name: main, notebook: results/good, parameters: {steps: 7}, runs: [{name: main}]}
- {name: bad, notebook: results/bad}
- {name: lacking, notebook: results/good, page: lacking, runs: [{name: other, rank: 3}]}
"""


def write_checkout(root: Path) -> None:
    (root / "notebooks" / "profiles").mkdir(parents=True)
    (root / "notebooks" / "results").mkdir()
    (root / "notebooks" / "profiles" / "p.yaml").write_text(PROFILE)
    (root / "notebooks" / "results" / "good.py").write_text(GOOD)
    (root / "notebooks" / "results" / "bad.py").write_text(BAD)
    run = root / "runs" / "p" / "abc"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(RunConfig().to_dict()))
    (run / "metrics.json").write_text(json.dumps({"run_id": "abc", "test": {}}))
    rows = {"main": [{"name": "main", "run_id": "abc"}], "lacking": [{"name": "other", "run_id": "def"}]}
    info = {"name": "p", "profile": "p", "data": "synthetic", "experiments": rows}
    (root / "runs" / "p" / "edition.json").write_text(json.dumps(info))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    write_checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Three pages executed once: one good, one that fails, one whose run is missing; then the good one again."""
    root = tmp_path_factory.mktemp("checkout")
    write_checkout(root)
    old = root / "runs" / "p" / "figures"
    old.mkdir()
    for name, owner in (("mine", "results/good"), ("other", "results/rank")):
        (old / f"{name}.png").write_bytes(b"")
        (old / f"{name}.json").write_text(json.dumps({"notebook": owner, "files": [f"{name}.png"]}))
    (root / "runs" / "p" / "pages").mkdir()
    (root / "runs" / "p" / "pages" / "good.part-999999999.ipynb").write_text("{}")
    here = Path.cwd()
    os.chdir(root)
    try:
        edition, listed = read_edition("runs/p"), page_list(load_profile("p"), "runs/p")
        done, failures = execute_pages(listed, edition)
        before = done[0].stat().st_mtime_ns
        again = execute_pages(listed[:1], edition)
        return SimpleNamespace(root=root, done=done, failures=failures, again=again, before=before)
    finally:
        os.chdir(here)


def output(executed):
    notebook = nbformat.read(executed.root / executed.done[0], 4)
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and "sweep" in c.source]
    assert [o.name for o in cell.outputs] == ["stdout"]  # no warning on a page
    return notebook, json.loads(cell.outputs[0].text)


def test_page_is_executed_from_the_root_with_this_package_and_its_parameters(executed):
    notebook, said = output(executed)
    assert [p.name for p in executed.done] == ["good.ipynb"]
    assert (said["cwd"], said["steps"], said["edition"]) == (str(executed.root.resolve()), 7, "runs/p")
    assert said["package"] == str(lorasam_core.__path__[0]) and said["runs"] == ["main"]
    assert not said["torch"]  # a page that shows records starts fast
    nbformat.validate(notebook)


def test_code_stays_visible_and_only_the_plumbing_is_folded(executed):
    notebook, _ = output(executed)
    tags = [c.metadata.get("tags", []) for c in notebook.cells if c.cell_type == "code"]
    assert ["hide-input" in t for t in tags] == ["injected-parameters" in t for t in tags] == [False, True, False]
    assert "papermill" not in notebook.metadata


def test_failed_and_lacking_pages_are_named_and_stop_no_other(executed):
    lacking, failed = executed.failures
    assert "lacking is not made: its run 'other' is missing" in lacking
    assert "the page bad failed (ZeroDivisionError" in failed
    kept = executed.root / "runs" / "p" / "pages" / "bad.failed.ipynb"
    assert str(kept.relative_to(executed.root)) in failed
    assert "ZeroDivisionError" in kept.read_text() and not (kept.parent / "bad.ipynb").exists()
    assert not list(kept.parent.glob("*.part-*"))


def test_unchanged_page_is_not_executed_again(executed):
    assert executed.again == (executed.done, [])
    assert (executed.root / executed.done[0]).stat().st_mtime_ns == executed.before


@pytest.mark.slow
def test_pages_made_by_workers_are_those_of_one_process(executed, checkout):
    pytest.importorskip("distributed")
    (checkout / "runs" / "p" / "pages").mkdir()
    done, failures = execute_pages(page_list(load_profile("p"), "runs/p"), read_edition("runs/p"), workers=2)
    assert (done, failures) == (executed.done, executed.failures)
    cells = [nbformat.read(root / done[0], 4).cells for root in (checkout, executed.root)]
    said = [json.loads(c[-1].outputs[0].text) | {"cwd": ""} for c in cells]
    assert said[0] == said[1]


def test_a_pages_own_old_figures_are_forgotten(executed):
    left = {p.name for p in (executed.root / "runs" / "p" / "figures").iterdir()}
    assert left == {"other.png", "other.json"}


def test_a_page_depends_on_notebook_parameters_and_metrics(checkout):
    page, edition = page_list(load_profile("p"), "runs/p", only="main")[0], read_edition("runs/p")
    key = page_key(page, edition)
    assert key == page_key(page, read_edition("runs/p"))
    (checkout / "runs/p/abc/metrics.json").write_text('{"run_id": "abc", "test": {"predictor": {}}}')
    assert page_key(page, read_edition("runs/p")) != key
    assert page_key(pages.Page(page.experiment, page.notebook, page.name, {"steps": 8}), edition) != key
    page.notebook.write_text(GOOD + "# changed\n")
    assert page_key(page, edition) != key


def test_a_page_is_made_again_for_code_that_it_imports_not_for_words_or_other_modules(checkout, monkeypatch, tmp_path):
    copy = shutil.copytree(Path(lorasam_core.__path__[0]), tmp_path / "copy" / "lorasam_core")
    monkeypatch.setattr(pages, "__file__", str(copy / "report" / "pages.py"))
    page, edition = page_list(load_profile("p"), "runs/p", only="main")[0], read_edition("runs/p")
    key = page_key(page, edition)

    def after(name, old, new):
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new))
        pages._code.cache_clear()
        made = page_key(page, edition)
        (copy / name).write_text(text)
        pages._code.cache_clear()
        return made

    assert after("experiments/executor.py", "import asyncio", "import asyncio  # a comment") == key
    assert after("experiments/executor.py", '"""Tasks in this', '"""Jobs in this') == key
    assert after("commands/check.py", "LINES = 40", "LINES = 41") == key  # which nothing that the page asks imports
    assert after("experiments/executor.py", "timeout=5", "timeout=6") != key
    assert after("models/lora/layer.py", "import math", "import math, cmath") != key  # imported relatively


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("- {name: x, notebook: results/good, parameters: {stps: 7}}",
         r"good\.py has no parameter 'stps'; it has profile, edition, steps"),
        ("- {name: x, notebook: results/bad, parameters: {steps: 7}}",
         r"bad\.py has no parameter 'steps'; it has none"),
        ("- {name: x, notebook: results/good, parameters: {steps: many}}",
         r"declares steps as int, and is given 'many'"),
        ("- {name: x, notebook: results/goud}",
         r"names the notebook 'results/goud'; there are results/bad, results/good"),
        ("- {name: x, notebook: results/good}\n- {name: y, notebook: results/good}", "make the page 'good'"),
    ],
)  # fmt: skip
def test_a_misspelt_parameter_is_refused_before_anything_runs(checkout, monkeypatch, line, message):
    def forbidden(*arguments, **options):
        raise AssertionError("something was run")

    for module, name in ((runs, "prepare"), (runs, "run_one"), (pages, "execute"), (book, "build")):
        monkeypatch.setattr(module, name, forbidden)
    (checkout / "notebooks" / "profiles" / "q.yaml").write_text(f"experiments:\n{line}\n")
    with pytest.raises(SystemExit, match=message):
        experiments.main(["--profile", "q"])
    assert not (checkout / "runs" / "q").exists()


def test_folder_outside_the_checkout_is_given_as_it_is(checkout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert page_list(load_profile("p"), elsewhere)[0].parameters["edition"] == elsewhere.resolve().as_posix()
    assert page_list(load_profile("p"), "runs/p")[0].parameters["edition"] == "runs/p"
    assert page_list(load_profile("p"), checkout / "runs" / "p")[0].parameters["edition"] == "runs/p"


def test_book_of_a_published_edition_is_made_from_its_records_alone(checkout, monkeypatch, capsys):
    (checkout / "notebooks" / "profiles" / "p.yaml").write_text(PROFILE.split("- {name: bad")[0])
    target = checkout / "book" / "results" / "p"
    target.parent.mkdir(parents=True)
    (checkout / "runs" / "p").rename(target)
    info = json.loads((target / "edition.json").read_text())
    del info["experiments"]["lacking"]
    (target / "edition.json").write_text(json.dumps(info))
    before = {p.name for p in target.rglob("*")}
    stale = checkout / "book" / "_generated" / "stale.md"
    stale.parent.mkdir()
    stale.write_text("")
    monkeypatch.setattr(book.report, "write_fragments", lambda edition, folder: (folder / "landing.md").write_text("x"))
    monkeypatch.setattr(book, "_jupyter_book", lambda source: None)
    pages.main([])
    assert (checkout / "runs" / "published-p" / "pages" / "good.ipynb").is_file()
    assert {p.name for p in stale.parent.iterdir()} == {"good.ipynb", "landing.md"}
    assert {p.name for p in target.rglob("*")} == before
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == str(checkout.resolve() / "book" / "_build" / "html" / "index.html")


def test_what_did_not_change_is_not_read_again(tmp_path):
    made, kept = tmp_path / "made", tmp_path / "kept"
    for folder, files in (
        (made, {"a": "1", "b": "2", "x/c": "3"}),
        (kept, {"a": "1", "b": "0", "x/d": "4", "y/a": "1"}),
    ):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            os.utime(folder / name, (1, 1))
    book._renew(made, kept)
    left = {path.relative_to(kept).as_posix(): path for path in kept.rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in left.items()} == {"a": "1", "b": "2", "x/c": "3"}
    assert {name for name, path in left.items() if path.stat().st_mtime == 1} == {"a"}  # by which Sphinx goes


def test_a_warning_of_jupyter_book_is_an_error_also_the_next_time(checkout, monkeypatch):
    tool = checkout / "jupyter-book"
    tool.write_text('#!/bin/sh\necho "$@" > called\nexit 1\n')
    tool.chmod(0o755)
    monkeypatch.setattr(book.sys, "executable", str(checkout / "python"))
    kept = checkout / "book" / "_build" / ".doctrees"
    kept.mkdir(parents=True)
    with pytest.raises(book.BookError, match="jupyter-book has warned or failed"):
        book._jupyter_book(checkout / "book")
    assert not kept.exists()  # else the same pages would pass unread
    assert {"build", "-W", "--keep-going", "-n"} <= set((checkout / "called").read_text().split())


def test_book_refuses_an_edition_that_lacks_a_run(checkout):
    with pytest.raises(ValueError, match="lacks the run 'other'"):
        book.build(read_edition("runs/p"))


def test_build_without_any_finished_edition(checkout):
    with pytest.raises(SystemExit, match="error: runs holds no finished edition"):
        pages.main(["--edition", "x"])
