"""The smoke profile end to end, by the commands that a user gives; the rendered pages are looked at in tests/book."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from lorasam_core.cli import main
from lorasam_core.config import UNTRAINED
from lorasam_core.experiments.profiles import load_profile
from lorasam_core.experiments.records import read_edition

CHECKOUT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(smoke_book):
    assert smoke_book.status == 0, smoke_book.output[-4000:]
    return smoke_book


@pytest.fixture
def call(made, capfd, monkeypatch):
    """Another command on the same folders, in this process; what it printed."""
    monkeypatch.chdir(CHECKOUT)

    def call(command, *arguments):
        capfd.readouterr()
        main([command, *arguments, "--runs", str(made.runs), "--book", str(made.book)])
        return capfd.readouterr().out

    return call


def test_ends_by_naming_the_index(made):
    assert Path(made.output.strip().splitlines()[-1]) == made.index.resolve()
    assert made.index.is_file() and "WARNING" not in made.output


def test_every_run_of_the_profile_is_finished_and_complete(made):
    edition, profile = read_edition(made.edition), load_profile("smoke")
    assert edition.missing() == [] and len(edition.records) == 13
    listed = {e["name"]: [run["name"] for run in e["runs"]] for e in profile.experiments}
    assert {name: [r.config.name for r in edition.experiment(name)] for name in listed} == listed
    for record in edition.records:
        assert set(record.metrics["test"]) == set(record.config.evaluate) == set(record.per_image["evaluator"])
        assert (record.adapter is not None) == (record.config.method == "lora")
        assert record.history.empty == (record.config.method in UNTRAINED)


def test_every_page_of_the_contents_is_rendered(made):
    contents = yaml.safe_load((made.book / "_toc.yml").read_text())
    files = [contents["root"], *(c["file"] for part in contents["parts"] for c in part["chapters"])]
    assert [f for f in files if not (made.html / f"{f}.html").is_file()] == []
    executed = {p.stem for p in (made.edition / "pages").glob("*.ipynb")}
    assert executed == {Path(f).name for f in files if f.startswith("_generated/")}
    assert executed == {p.stem for p in (CHECKOUT / "notebooks").rglob("*.py")}


def test_every_cell_was_executed_without_error(made):
    for path in (made.edition / "pages").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        assert all(c["execution_count"] for c in cells), path.name
        outputs = [o for c in cells for o in c["outputs"]]
        noisy = [o["text"] for o in outputs if o["output_type"] == "stream" and o["name"] == "stderr"]
        assert noisy == [] and not any(o["output_type"] == "error" for o in outputs), path.name


def test_every_figure_and_table_has_its_provenance(made):
    ids = {r.run_id for r in read_edition(made.edition).records}
    records = [*made.edition.glob("figures/*.json"), *made.edition.glob("tables/*.json")]
    assert records
    for record in records:
        values = json.loads(record.read_text())
        assert (CHECKOUT / "notebooks" / f"{values['notebook']}.py").is_file()
        assert set(values["runs"]) <= ids or values["notebook"] == "your_particles/adapt"  # which has runs of its own
        assert all((record.parent / name).is_file() for name in values["files"]) and values["caption"]
        assert values["alt"] or values["kind"] == "table"


def test_a_second_call_redoes_nothing(made, call):
    def state():
        files = [p for p in made.edition.rglob("*") if p.is_file() and p.name != "edition.json"]
        return {p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}

    before = state()
    output = call("experiments", "--profile", "smoke")
    assert "13 runs, 13 finished before" in output
    assert state() == before
    assert Path(output.strip().splitlines()[-1]) == made.index.resolve()


def test_the_book_alone_from_the_newest_edition(made, call):
    output = call("book")
    assert "edition smoke: 23 pages" in output
    assert Path(output.strip().splitlines()[-1]) == made.index.resolve()


def test_dry_run_lists_every_run_as_done(call):
    output = call("experiments", "--profile", "smoke", "--dry-run")
    rows = [line.split() for line in output.strip().splitlines()[1:]]
    assert len(rows) == sum(len(e["runs"]) for e in load_profile("smoke").experiments)
    assert {row[-1] for row in rows} == {"yes"}
