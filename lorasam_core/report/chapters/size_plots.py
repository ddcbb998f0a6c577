"""Charts of particle sizes, predicted against true."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from lorasam_core.plots import COLORS, OTHER, styled

MARKERS = {"frozen": "s", "adapted": "o"}


@styled
def agreement_chart(table: pd.DataFrame, quantity: str = "D50") -> Figure:
    """Predicted against true, a point an image, on logarithmic axes with the diagonal; a panel a unit.

    table: columns series (frozen, adapted), unit, true, predicted, as `sizes.agreement` makes it.
    """
    units = list(dict.fromkeys(table["unit"]))
    figure = Figure(figsize=(2.2 + 3.4 * len(units), 3.6))
    axes: Axes
    for axes, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units, strict=True):
        rows = table[table["unit"] == unit]
        ends = [rows[["true", "predicted"]].min().min() / 1.2, rows[["true", "predicted"]].max().max() * 1.2]
        axes.plot(ends, ends, color=COLORS["labels"], linewidth=1, label="equal")
        for name, found in rows.groupby("series", sort=False):
            axes.plot(
                found["true"], found["predicted"], MARKERS.get(str(name), "D"), color=COLORS.get(str(name), OTHER[0]),
                markersize=4, alpha=0.7, markeredgewidth=0, label=name,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        axes.set(xlabel=f"true {quantity}, {unit}", ylabel=f"predicted {quantity}, {unit}")
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def distribution_chart(table: pd.DataFrame) -> Figure:
    """Cumulative curves of relative diameters; table: series, percent, diameter, as `sizes.percentiles` makes it."""
    figure = Figure(figsize=(6.2, 3.2))
    axes = figure.subplots()
    names = list(dict.fromkeys(table["series"]))
    colors = [COLORS.get(name, OTHER[k % len(OTHER)]) for k, name in enumerate(names)]
    lines = {"hue": "series", "style": "series", "palette": colors, "estimator": None, "sort": False}
    sns.lineplot(table, x="diameter", y="percent", ax=axes, **lines)
    axes.set(xlabel="diameter / true D50 of its image", ylabel="particles smaller, %", xscale="log", ylim=(0, 101))
    _plain_ticks(axes.xaxis)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _plain_ticks(axis: Axis) -> None:
    """1, 2, 5, 10 ... on a logarithmic axis, without powers."""
    axis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(mpl.ticker.NullLocator())
