"""The directive `times-by-device`: how long the runs of the published editions took, read from their records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lorasam_core.experiments.records import Edition, published_editions
from lorasam_core.report.figures import table_markdown

CAPTION = "Wall time of the runs of the published editions, training and tests together"


def rows(edition: Edition) -> pd.DataFrame:
    """One row a device: edition, model, device, number of runs, minutes of a run (least to most), hours in all."""
    runs = pd.DataFrame([
        {"device": r.environment.get("device_name", "–"), "minutes": r.environment.get("wall_seconds", 0) / 60}
        for r in edition.records
    ])  # fmt: skip
    return pd.DataFrame([
        {
            "edition": edition.name, "model": edition.info.get("model", "–"), "device": device, "runs": len(minutes),
            "minutes a run": f"{minutes.min():.1f} to {minutes.max():.1f}", "hours in all": f"{minutes.sum() / 60:.1f}",
        }
        for device, minutes in runs.groupby("device")["minutes"]
    ])  # fmt: skip


class TimesByDevice(SphinxDirective):
    """A table of all published editions, without content or options."""

    def run(self) -> list[nodes.Node]:
        editions = published_editions()
        for edition in editions:
            self.env.note_dependency(str(edition.path / "edition.json"))
        table = pd.concat([rows(edition) for edition in editions]) if editions else pd.DataFrame()
        text = table_markdown(table, CAPTION, "tab-times") if len(table) else "No edition has been published yet."
        box = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), __file__), 0, box)
        return box.children


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("times-by-device", TimesByDevice)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
