"""Executed pages and the report's fragments to the rendered book."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lorasam_core.experiments.records import Edition, root
from lorasam_core.report import page as report
from lorasam_core.report.figures import for_book
from lorasam_core.report.pages import edition_pages, execute_pages


class BookError(RuntimeError):
    """The book could not be finished; the message says why."""


def build(
    edition: Edition, source: str | Path = "", workers: int = 1, runs: str | Path = "runs", scheduler: str = ""
) -> Path:
    """Render an edition; returns the path of index.html, and prints it last.

    source: the book's folder ("" is book/). Pages that are not current are executed from the records; no run of the
    edition is done. Raises ValueError when a run is missing, and BookError when a page fails or jupyter-book warns.
    """
    source = Path(source) if source else root() / "book"
    if missing := edition.missing():
        raise ValueError(f"the edition {edition.name} lacks the run {missing[0]!r}; run its experiments first.")
    pages, failures = execute_pages(edition_pages(edition), edition, workers, runs, scheduler)
    if failures:
        raise BookError("\n".join(failures))
    with tempfile.TemporaryDirectory() as folder:
        generated = Path(folder) / "_generated"
        generated.mkdir()
        for page in pages:
            notebook = for_book(json.loads(page.read_text(encoding="utf-8")))
            (generated / page.name).write_text(json.dumps(notebook), encoding="utf-8")
        report.write_fragments(edition, generated)
        _renew(generated, source / generated.name)
    _jupyter_book(source)
    index = (source / "_build" / "html" / "index.html").resolve()
    print(f"edition {edition.name}: {len(pages)} pages from notebooks, {len(edition.records)} runs")
    print(index)
    return index


def _renew(made: Path, kept: Path) -> None:
    """Make the files of `kept` those of `made`. One that is the same stays as old as it is: Sphinx reads no page again
    whose files are no younger than its last reading.
    """
    for old in [path for path in kept.rglob("*") if path.is_file()]:
        new = made / old.relative_to(kept)
        if not (new.is_file() and filecmp.cmp(new, old, shallow=False)):
            old.unlink()
    for new in [path for path in made.rglob("*") if path.is_file()]:
        old = kept / new.relative_to(made)
        if not old.is_file():
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new, old)


def _jupyter_book(source: Path) -> None:
    """Build with every warning an error, and show them."""
    beside = shutil.which("jupyter-book", path=str(Path(sys.executable).parent)) or shutil.which("jupyter-book")
    if beside is None:
        raise ValueError("jupyter-book is not installed beside this Python; install the extra: pip install -e .[book]")
    path = os.pathsep.join(filter(None, [str(root()), os.environ.get("PYTHONPATH", "")]))  # the API pages import it
    command = [beside, "build", str(source), "-W", "--keep-going", "-n", "-q"]
    if subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode != 0:
        # the next build would find these pages unchanged, and be silent about their warnings
        shutil.rmtree(source / "_build" / ".doctrees", ignore_errors=True)
        raise BookError("jupyter-book has warned or failed; its messages stand above, and the book is not finished.")
