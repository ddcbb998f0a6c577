"""Charts of the mask generator's filters: what ratings are worth, and what pairs of thresholds give."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lorasam_core.plots import COLORS, INSET_RED, LABELS, OTHER, styled

SCALE = "cividis"  # as light or dark to a colour-blind reader as to others


@styled
def calibration_chart(table: pd.DataFrame) -> Figure:
    """True over predicted IoU in bins with 95 % intervals, the diagonal of a perfect rating, and below it the share of
    the masks in each bin; one colour a series. table: as `calibration.calibration_table` makes it.
    """
    figure = Figure(figsize=(6.4, 4.6))
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], "--", color=LABELS, linewidth=1, label="as rated")
    names = list(dict.fromkeys(table["series"]))
    width = 0.08 / max(1, len(names))
    for k, name in enumerate(names):
        rows, color = table[table["series"] == name], COLORS.get(name, OTHER[k % len(OTHER)])
        spread = np.clip([rows["iou"] - rows["low"], rows["high"] - rows["iou"]], 0, None)
        axes.errorbar(rows["predicted"], rows["iou"], spread, fmt="o-", color=color, capsize=2.5, label=name)
        strip.bar(rows["bin"] + 0.01 + width * (k + 0.5), 100 * rows["share"], width, color=color)
    axes.set(ylabel="true IoU, mean", ylim=(-0.02, 1.02))
    strip.set(xlabel="predicted IoU", ylabel="masks, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def threshold_heatmap(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """F1 in % over two thresholds, a panel a series on one scale of colours, the highest value of each framed.

    tables: series -> a `thresholds.threshold_table`.
    """
    grids = {
        name: table.pivot(index="pred_iou_thresh", columns="stability_score_thresh", values="f1").sort_index()
        for name, table in tables.items()
    }
    values = np.concatenate([grid.to_numpy().ravel() for grid in grids.values()])
    figure = Figure(figsize=(0.6 + 3.7 * len(grids), 3.3))
    for k, (axes, (name, grid)) in enumerate(zip(figure.subplots(1, len(grids), squeeze=False).flat, grids.items())):
        sns.heatmap(
            grid, ax=axes, cmap=SCALE, vmin=np.nanmin(values), vmax=np.nanmax(values), annot=True, fmt=".1f",
            cbar=k == len(grids) - 1, cbar_kws={"label": "F1 on validation images, %"}, annot_kws={"fontsize": 8},
        )  # fmt: skip
        row, column = np.unravel_index(int(np.nanargmax(grid.to_numpy())), grid.shape)
        axes.add_patch(Rectangle((float(column), float(row)), 1, 1, fill=False, edgecolor=INSET_RED, linewidth=2.5))
        axes.grid(False)
        axes.tick_params(axis="y", rotation=0)
        axes.set_title(name, color=COLORS.get(name, "black"))
        axes.set(xlabel="stability, at least", ylabel="predicted IoU, above" if k == 0 else "")
    return figure
