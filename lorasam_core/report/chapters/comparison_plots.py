"""Charts of numbers of labels: tables of `label_counts` in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lorasam_core.plots import ADAPTED, FROZEN, styled
from lorasam_core.report.chapters.comparisons import MEASURES

UNET = "#009E73"
Level = Mapping[str, float]


@styled
def label_chart(
    table: pd.DataFrame, frozen: Mapping[str, Level] | None = None,
    measures: Sequence[str] = ("predictor_dice", "f1", "ap50"),
) -> Figure:  # fmt: skip
    """Measures against the number of training images, a line a series, the frozen model as a band; a panel a measure.

    table: label_counts.label_table's; frozen: measure -> mean, low, high in %.
    """
    measures = [measure for measure in measures if measure in table and table[measure].notna().any()]
    figure = Figure(figsize=(1.2 + 2.4 * max(len(measures), 1.6), 2.8))
    counts = sorted(set(table["images"]))
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    axes: Axes
    for axes, measure in zip(panels, measures, strict=True):
        if frozen is not None and np.isfinite(frozen.get(measure, {}).get("mean", np.nan)):
            _band(axes, frozen[measure])
        for name, color in (("adapted", ADAPTED), ("U-Net", UNET)):
            rows = table[(table["series"] == name) & table[measure].notna()].sort_values("images")
            spread = _spread(*(rows[f"{measure}{end}"].to_numpy(float) for end in ("", "_low", "_high")))
            if len(rows):
                axes.errorbar(rows["images"], rows[measure], spread, fmt="o-", color=color, capsize=2.5, label=name)
        axes.set(xscale="log", title=f"{MEASURES[measure][2]}, %", xlabel="training images")
        axes.set_xticks(counts, [f"{count}" for count in counts], minor=False)
        axes.minorticks_off()
    lines: dict[str, Any] = {}
    for axes in panels:
        lines |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    panels[-1].legend(lines.values(), lines.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _band(axes: Axes, level: Level) -> None:
    axes.axhspan(level["low"], level["high"], color=FROZEN, alpha=0.15, linewidth=0)
    axes.axhline(level["mean"], color=FROZEN, linestyle="--", label="frozen")


def _spread(mean: Any, low: Any, high: Any) -> Any:
    """Lengths of error bars; a bootstrap interval need not hold its mean, and a bar cannot be negative."""
    return np.clip([mean - low, high - mean], 0, None)
