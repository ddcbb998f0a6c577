"""Numbers in the written pages: each place is filled from the published records when a page is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lorasam_core.experiments.records import published_editions
from lorasam_core.report.numbers import fill


def read(app: Any, docname: str, source: list[str]) -> None:
    """Fill a page's text, in place; a number that no record has ends the build."""
    if published := published_editions():
        source[0] = fill(source[0], published[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
