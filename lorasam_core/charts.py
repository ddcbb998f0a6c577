"""Charts of the report: curves, ablations, intervals, size distributions, in the style and colours of `plots`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lorasam_core.measure.sizes import readable_unit
from lorasam_core.plots import ADAPTED, COLORS, FROZEN, LABELS, OTHER, STUDY, TRAIN, VALIDATION, setting, styled

KEY = "Grey: what other seeds may do in 19 of 20 cases; hollow: no detectable difference."  # of `difference_chart`
VERDICTS = {"higher": TRAIN, "lower": VALIDATION}  # all others grey and hollow


@styled
def curves(history: pd.DataFrame, reported: Mapping[str, float] | None = None) -> Figure:
    """Loss, accuracy and mIoU by step, training as a running mean over its single values.

    history: one row a log step, as training writes it; reported: the study's last values by column.
    """
    figure = Figure(figsize=(8.4, 2.7))
    window = 2 * max(1, round(len(history) / 40))  # even: objectives that alternate are averaged
    for axes, name in zip(figure.subplots(1, 3), ("loss", "accuracy", "miou"), strict=True):
        for part, color in (("train", TRAIN), ("validation", VALIDATION)):
            column = f"{'val' if part == 'validation' else part}_{name}"
            rows = history.dropna(subset=[column])
            if part == "train":
                axes.plot(rows["step"], rows[column], color=color, alpha=0.3, linewidth=0.8)
                mean = rows[column].rolling(window, min_periods=window).mean()
                axes.plot(rows["step"], mean, color=color, label=f"train, mean of {window}")
            else:
                axes.plot(rows["step"], rows[column], "o-", color=color, label=part, markersize=3)
            if reported and column in reported:
                end = history["step"].max()
                axes.plot(end, reported[column], "D", color=color, markerfacecolor="white", clip_on=False)
        axes.set(xlabel="optimiser step", title={"miou": "mIoU"}.get(name, name))
    if reported:
        axes.plot([], [], "D", color=STUDY, markerfacecolor="white", label="last value reported\nby the study")
    axes.legend(loc="best")
    return figure


@styled
def ablation_chart(table: pd.DataFrame, field: str, frozen: pd.DataFrame | None = None) -> Figure:
    """Dice by the values of one setting: measured with its interval, and the study's number beside it, marked.

    table: columns `field`, mean, low, high (0 to 1, as `stats.mean_interval` makes them) and reported (the study's, in
    %), NaN where missing; frozen: the frozen model's mean, low, high in a table of one row, drawn as a band.
    """
    figure = Figure(figsize=(6.2, 3.2))
    axes = figure.subplots()
    place = np.arange(len(table))
    if frozen is not None and len(frozen):
        mean, low, high = 100 * frozen[["mean", "low", "high"]].iloc[0]
        axes.axhspan(low, high, color=FROZEN, alpha=0.15, linewidth=0)
        axes.axhline(mean, color=FROZEN, linestyle="--", label="frozen, measured")
    ours = table["mean"].notna().to_numpy()
    mean, low, high = (100 * table.loc[ours, name] for name in ("mean", "low", "high"))
    label = "adapted, measured"
    axes.errorbar(place[ours] - 0.08, mean, [mean - low, high - mean], fmt="o-", color=ADAPTED, capsize=3, label=label)
    theirs = table["reported"].notna().to_numpy()
    if theirs.any():
        axes.plot(
            place[theirs] + 0.08, table["reported"][theirs], "D:", color=STUDY, markerfacecolor="white",
            linewidth=1, label="reported by the study\n(ViT-B, its own data)",
        )  # fmt: skip
    axes.set(xlabel=field.replace("_", " "), ylabel="test Dice, %")
    axes.set_xticks(place, [setting(x) for x in table[field]])
    axes.margins(x=0.1)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def interval_chart(table: pd.DataFrame, xlabel: str = "score") -> Figure:
    """Means with intervals, one row a metric, one colour a series; table: columns metric, series, mean, low, high."""
    metrics, series = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["series"]))
    figure = Figure(figsize=(7.2, 0.7 + 0.34 * len(metrics)))
    axes = figure.subplots()
    for k, name in enumerate(series):
        rows = table[table["series"] == name]
        place = np.array([metrics.index(m) for m in rows["metric"]]) + 0.22 * (k - (len(series) - 1) / 2)
        spread = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
        color = COLORS.get(name, OTHER[k % len(OTHER)])
        axes.errorbar(rows["mean"], place, xerr=spread, fmt="o", color=color, capsize=2.5, label=name, markersize=5)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.set(xlabel=xlabel, ylim=(len(metrics) - 0.5, -0.5))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def line_chart(table: pd.DataFrame, x: str, y: str, hue: str, log: str = "xy", **labels: str) -> Figure:
    """Lines of y over x, one colour a value of `hue`; `log` names the logarithmic axes, `labels` xlabel and ylabel."""
    figure = Figure(figsize=(6.2, 3.2))
    axes = figure.subplots()
    names = list(dict.fromkeys(table[hue]))
    colors = [COLORS.get(name, OTHER[k % len(OTHER)]) for k, name in enumerate(names)]
    sns.lineplot(table, x=x, y=y, hue=hue, style=hue, markers=True, dashes=False, palette=colors, ax=axes)
    axes.set(**{f"{axis}scale": "log" for axis in log}, **labels)
    if "x" in log:
        axes.set_xticks(sorted(set(table[x])), [setting(v) for v in sorted(set(table[x]))], minor=False)
        axes.minorticks_off()
    axes.legend(title=hue, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def size_plot(
    samples: Mapping[str, NDArray[Any]], unit: str, weights: Mapping[str, NDArray[Any]] | None = None,
    weight: str = "number",
) -> Figure:  # fmt: skip
    """Cumulative distribution, D10, D50 and D90 marked, beside the share of each size class; a colour a sample.

    samples: name to equivalent diameters, (N,), unit nm or px; weights: the same names to what each particle counts
    for (None: one); weight: what by. Shown in the `readable_unit`; the axis is logarithmic where the largest is 10
    times the smallest.
    """
    every = np.concatenate([[], *samples.values()])
    by, unit = readable_unit(float(np.median(every)) if len(every) else 0.0, unit)
    wide = len(every) > 0 and every.max() >= 10 * every.min()
    there, back = (np.log, np.exp) if wide else (np.asarray, np.asarray)
    edges = np.histogram_bin_edges(there(every / by), "auto")
    figure = Figure(figsize=(7.6, 3.0))
    left, right = figure.subplots(1, 2)
    for k, (name, sizes) in enumerate(samples.items()):
        color, order = COLORS.get(name, OTHER[k % len(OTHER)]), np.argsort(sizes)
        counts = np.ones(len(sizes)) if weights is None else weights[name][order]
        sizes, shares = sizes[order] / by, 100 * np.cumsum(counts) / counts.sum()
        left.step(sizes, shares, where="post", color=color, label=f"{name}, {len(sizes):,} particles")
        if len(sizes):
            left.plot(sizes[np.searchsorted(shares, (10, 50, 90))], (10, 50, 90), "o", color=color, markersize=4)
            heights = np.histogram(there(sizes), edges, weights=100 * counts / counts.sum())[0]
            right.stairs(heights, back(edges), color=color, fill=True, alpha=0.35)
            right.stairs(heights, back(edges), color=color)
    for axes, label in ((left, f"smaller, % by {weight}"), (right, f"in each class, % by {weight}")):
        axes.set(xlabel=f"equivalent diameter, {unit}", ylabel=label, xscale="log" if wide else "linear")
        if wide:
            axes.xaxis.set_major_formatter(mpl.ticker.LogFormatter(minor_thresholds=(2, 0.6)))
            axes.xaxis.set_minor_formatter(mpl.ticker.LogFormatter(minor_thresholds=(2, 0.6)))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def interval_lines(table: pd.DataFrame, x: str, unit: str = ", %", **labels: str) -> Figure:
    """Means with intervals over a logarithmic x, a panel a measure and a line a series; one of x = 0 alone is a band.

    table: columns x, measure, series, mean, low, high (as `stats.mean_interval` makes them; drawn times 100).
    unit: what stands behind each measure's name.
    """
    measures, names = list(dict.fromkeys(table["measure"])), list(dict.fromkeys(table["series"]))
    figure = Figure(figsize=(1.2 + 2.4 * max(len(measures), 1.6), 2.8))
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for k, name in enumerate(names):
            rows = table[(table["measure"] == measure) & (table["series"] == name)].sort_values(x)
            mean, low, high = (100 * rows[column].to_numpy(float) for column in ("mean", "low", "high"))
            color = COLORS.get(name, OTHER[k % len(OTHER)])
            if len(rows) and (rows[x] == 0).all():
                axes.axhspan(low[0], high[0], color=color, alpha=0.15, linewidth=0)
                axes.axhline(mean[0], color=color, linestyle="--", label=name)
            else:  # a bootstrap interval need not hold its mean, and a bar cannot be negative
                spread = np.clip([mean - low, high - mean], 0, None)
                axes.errorbar(rows[x], mean, spread, fmt="o-", color=color, capsize=2.5, label=name)
        ticks = sorted(set(table.loc[table[x] > 0, x]))
        axes.set(xscale="log", title=f"{measure}{unit}", **labels)
        axes.set_xticks(ticks, [setting(tick) for tick in ticks], minor=False)
        axes.minorticks_off()
    panels[0].legend(*panels[0].get_legend_handles_labels(), loc="best")
    return figure


@styled
def difference_chart(table: pd.DataFrame, by: str, panel: str = "measure") -> Figure:
    """Paired differences with intervals: a row a value of `by`, a panel a value of `panel`, a colour a verdict.

    table: `stats.verdict`'s, and the column `panel`. Grey bars are what seeds alone may do to each difference; points
    of what is no finding are hollow.
    """
    names, kinds = list(dict.fromkeys(table[by])), list(dict.fromkeys(table["verdict"]))
    titles = list(dict.fromkeys(table[panel]))
    figure = Figure(figsize=(1.6 + 2.2 * max(len(titles), 2.4), 1.0 + 0.3 * len(names)))
    panels = figure.subplots(1, max(len(titles), 1), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=False):
        rows = table[table[panel] == title]
        place, limit = np.array([names.index(name) for name in rows[by]]), 100 * rows["seeds"].fillna(0).to_numpy(float)
        axes.barh(place, 2 * limit, left=-limit, height=1.0, color="#DDDDDD", linewidth=0)
        axes.axvline(0, color="black", linewidth=0.9)
        for kind in kinds:
            here = (rows["verdict"] == kind).to_numpy()
            change, low, high = (100 * rows.loc[here, name].to_numpy(float) for name in ("difference", "low", "high"))
            spread = np.clip([change - low, high - change], 0, None)  # a bootstrap interval need not hold its mean
            look = {"color": VERDICTS[kind]} if kind in VERDICTS else {"color": LABELS, "markerfacecolor": "white"}
            axes.errorbar(change, place[here], xerr=spread, fmt="o", capsize=2.5, label=kind, **look)
        axes.use_sticky_edges = False  # grey ends inside the axes
        axes.set(title=title, xlabel="points")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure
