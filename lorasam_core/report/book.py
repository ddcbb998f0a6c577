"""Executed pages and the report's fragments to the rendered book."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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
    generated = source / "_generated"
    shutil.rmtree(generated, ignore_errors=True)
    generated.mkdir(parents=True)
    for page in pages:
        notebook = for_book(json.loads(page.read_text(encoding="utf-8")))
        (generated / page.name).write_text(json.dumps(notebook), encoding="utf-8")
    report.write_fragments(edition, generated)
    _jupyter_book(source)
    index = (source / "_build" / "html" / "index.html").resolve()
    print(f"edition {edition.name}: {len(pages)} pages from notebooks, {len(edition.records)} runs")
    print(index)
    return index


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
