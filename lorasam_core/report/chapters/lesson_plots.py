"""Figures of the chapters that teach: prompts, embeddings, label images, thresholds, funnels and intervals.

As in `plots`: arrays and tables in, figures out; nothing here reads records or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from lorasam_core.plots import LABELS, OTHER, image_grid, overlay, rgb, styled

POSITIVE, NEGATIVE = OTHER[0], OTHER[3]
INSTANCES = ("#FFFFFF", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#BBBBBB")  # background, then ids
KEPT, DROPPED = OTHER[2], LABELS


class Prompted(NamedTuple):
    """What a panel of `prompts` shows: an image uint8 (H, W[, 3]), one mask bool (H, W) over it, and the prompt."""

    image: NDArray[Any]
    mask: NDArray[Any] | None = None
    points: Sequence[Sequence[float]] = ()  # X, Y
    positive: Sequence[int] = ()  # 1 or 0 for each point; empty: all 1
    box: Sequence[float] | None = None  # X0, Y0, X1, Y1


# ------------------------------------------------------------------------------------------------- pictures
def pca_picture(features: NDArray[Any]) -> NDArray[np.uint8]:
    """The three directions in which an embedding (C, h, w) varies most, as red, green and blue: uint8 (h, w, 3).

    Each channel runs from its 1st to its 99th percentile; signs are such that its largest loading is positive.
    """
    flat = features.reshape(len(features), -1).T.astype(np.float64)  # C h w -> h*w C
    _, _, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    first = directions[:3]
    first = first * np.sign(first[np.arange(len(first)), np.abs(first).argmax(axis=1)])[:, None]
    channels = (flat - flat.mean(axis=0)) @ first.T
    low, high = np.percentile(channels, [1, 99], axis=0)
    scaled = np.clip((channels - low) / np.maximum(high - low, 1e-12), 0, 1)
    picture: NDArray[np.uint8] = (255 * scaled).round().astype(np.uint8).reshape(*features.shape[1:], 3)
    return picture


def likeness(features: NDArray[Any], row: int, column: int) -> NDArray[np.float64]:
    """Cosine of an embedding (C, h, w), less its mean, at each place with that at one place: float64 (h, w)."""
    centred = features - features.mean(axis=(1, 2), keepdims=True)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    cosines: NDArray[np.float64] = np.einsum("c,chw->hw", unit[:, row, column], unit).astype(np.float64)
    return cosines


def grey(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers (H, W) as grey values: `low` black, `high` white."""
    scaled: NDArray[np.uint8] = (255 * np.clip((values - low) / (high - low), 0, 1)).round().astype(np.uint8)
    return scaled


def outlines(image: NDArray[Any], masks: NDArray[Any], seed: int = 0) -> NDArray[np.uint8]:
    """The edges of masks bool (M, H, W), which may overlap, each in a seeded colour over the dimmed image."""
    out = (0.6 * rgb(image)).astype(np.uint8)
    hues = np.random.default_rng(seed).random(len(masks))
    for mask, hue in zip(masks, hues, strict=True):
        edge = mask & ~ndimage.binary_erosion(mask, iterations=2)
        out[edge] = np.round(255 * mpl.colors.hsv_to_rgb((hue, 0.7, 1.0))).astype(np.uint8)
    return out


def around(mask: NDArray[Any], margin: int = 20) -> tuple[slice, slice]:
    """Rows and columns of a mask (H, W) that is not empty, with `margin` pixels on each side where there are any."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = max(int(rows[0]) - margin, 0), max(int(columns[0]) - margin, 0)
    return slice(top, int(rows[-1]) + margin + 1), slice(left, int(columns[-1]) + margin + 1)


@styled
def prompts(panels: Mapping[str, Prompted], columns: int = 4, width: float = 8.0) -> Figure:
    """Titled images with a mask in blue and the prompt: stars for points inside, crosses for outside, boxes dashed."""
    figure, grid = image_grid((panel.image for panel in panels.values()), columns, width)
    for axes, (title, panel) in zip(grid, panels.items(), strict=False):
        picture = rgb(panel.image) if panel.mask is None else overlay(panel.image, panel.mask)
        axes.imshow(picture, interpolation="antialiased")
        axes.set_title(title)
        if panel.mask is not None and panel.mask.any() and not panel.mask.all():
            axes.contour(
                panel.mask, levels=[0.5], colors="white", linewidths=0.8
            )  # blue alone is lost on a blue object
        _draw_prompt(axes, panel)
    return figure


def _draw_prompt(axes: Axes, panel: Prompted) -> None:
    signs = panel.positive if len(panel.positive) else [1] * len(panel.points)
    for (x, y), sign in zip(panel.points, signs, strict=True):
        marker, color = ("*", POSITIVE) if sign else ("X", NEGATIVE)
        axes.plot(x, y, marker, color=color, markersize=13, markeredgecolor="white", markeredgewidth=1.2)
    if panel.box is not None:
        x0, y0, x1, y1 = panel.box
        for color, width in (("white", 3.0), (POSITIVE, 1.6)):
            frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=width)
            frame.set_linestyle("-" if color == "white" else (0, (4, 2)))
            axes.add_patch(frame)


@styled
def label_grids(pictures: Mapping[str, NDArray[Any]], names: Mapping[str, Mapping[int, str]] | None = None) -> Figure:
    """Small label images (H, W) by title, side by side and pixel by pixel; names: of instances, by title and id, in
    place of the ids.
    """
    tallest = max(labels.shape[0] / labels.shape[1] for labels in pictures.values())
    width = min(8.0, 0.5 * sum(labels.shape[1] for labels in pictures.values()))
    figure = Figure(figsize=(width, width / len(pictures) * tallest + 0.3))
    axes: Axes
    for axes, (title, labels) in zip(
        figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        colors = np.where(labels > 0, (labels - 1) % (len(INSTANCES) - 1) + 1, 0)
        axes.imshow(colors, cmap=ListedColormap(list(INSTANCES)), vmin=0, vmax=len(INSTANCES) - 1)
        axes.set_xticks(np.arange(labels.shape[1] + 1) - 0.5, [])
        axes.set_yticks(np.arange(labels.shape[0] + 1) - 0.5, [])
        axes.tick_params(length=0)
        axes.grid(color="#DDDDDD", linewidth=0.5)
        axes.set(title=title, axisbelow=False)
        axes.spines[:].set_visible(False)
        for i in np.unique(labels[labels > 0]):
            row, column = (float(where.mean()) for where in np.nonzero(labels == i))
            text = (names or {}).get(title, {}).get(int(i), str(i))
            axes.text(column, row, text, ha="center", va="center", fontsize=11, fontweight="bold")
    return figure


@styled
def point_map(image: NDArray[Any], points: NDArray[Any], values: NDArray[Any], label: str) -> Figure:
    """Points (P, 2), X and Y, over the image, coloured by their values (P,)."""
    figure = Figure(figsize=(5.6, 4.6))
    axes = figure.subplots()
    axes.imshow(rgb(image), alpha=0.75)
    axes.axis("off")
    drawn = axes.scatter(*points.T, c=values, cmap="viridis", s=34, edgecolors="white", linewidths=0.5)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label=label)
    return figure


@styled
def threshold_pictures(image: NDArray[Any], logits: Mapping[str, NDArray[Any]], offset: float = 1.0) -> Figure:
    """For each title the image with a mask's outline at three thresholds of its logits (H, W): -offset, 0, offset."""
    figure = Figure(figsize=(4.0 * len(logits), 4.2))
    levels, colors = (-offset, 0.0, offset), (OTHER[1], "#FFFFFF", OTHER[0])
    axes: Axes
    for axes, (title, values) in zip(figure.subplots(1, len(logits), squeeze=False)[0], logits.items(), strict=True):
        axes.imshow(rgb(image), alpha=0.85)
        for level, color in zip(levels, colors, strict=True):
            if values.min() < level < values.max():
                axes.contour(values, levels=[level], colors=color, linewidths=1.6)
        ys, xs = np.nonzero(values > -offset)
        if len(ys):
            reach = 0.75 * max(int(np.ptp(ys)), int(np.ptp(xs)), 20)
            y, x = (ys.min() + ys.max()) / 2, (xs.min() + xs.max()) / 2
            rows, columns = image.shape[:2]
            axes.set(
                xlim=(max(x - reach, 0), min(x + reach, columns - 1)),
                ylim=(min(y + reach, rows - 1), max(y - reach, 0)),
            )
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    lines = [
        mpl.lines.Line2D([], [], color=c, linewidth=2.4, label=f"{v:+g}" if v else "0") for v, c in zip(levels, colors)
    ]
    legend = figure.legend(
        handles=lines, title="logits above", loc="outside lower center", ncols=3, frameon=True, facecolor="#777777",
        labelcolor="white",
    )  # fmt: skip
    legend.get_title().set_color("white")
    return figure


# -------------------------------------------------------------------------------------------------- charts
@styled
def share_chart(table: pd.DataFrame) -> Figure:
    """One bar a measure, cut into the shares of its parts; table: columns part, measure, share (in %)."""
    measures, parts = list(dict.fromkeys(table["measure"])), list(dict.fromkeys(table["part"]))
    figure = Figure(figsize=(7.2, 0.8 + 0.5 * len(measures)))
    axes = figure.subplots()
    left = np.zeros(len(measures))
    for part, color in zip(parts, (OTHER[1], OTHER[0], OTHER[2], OTHER[3]), strict=False):
        rows = table[table["part"] == part].set_index("measure")["share"]
        widths = np.array([float(rows.get(m, 0.0)) for m in measures])
        axes.barh(measures, widths, left=left, color=color, label=part, height=0.6)
        left += widths
    axes.invert_yaxis()
    axes.set(xlabel="share, %", xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def step_chart(table: pd.DataFrame) -> Figure:
    """A first step against the rank, relative to the lowest, a line a scaling: its norm, and its effect on the loss.

    table: columns rank, scaling, norm, loss.
    """
    figure = Figure(figsize=(8.0, 2.9))
    ranks = sorted(set(table["rank"]))
    titles = {"norm": "norm of the update", "loss": "first-order change of the loss"}
    for axes, (column, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for k, (scaling, rows) in enumerate(table.sort_values("rank").groupby("scaling", sort=False)):
            values = rows[column].to_numpy(float)
            axes.plot(rows["rank"], values / values[0], "o-", color=OTHER[k], label=scaling, markersize=4)
        axes.set(title=title, xlabel="rank", xscale="log")
        axes.set_xticks(ranks, [f"{rank}" for rank in ranks], minor=False)
        axes.minorticks_off()
    figure.axes[0].set(ylabel="relative to the lowest rank")
    axes.legend(title="scaling", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def precision_recall_chart(steps: pd.DataFrame, recalls: pd.DataFrame) -> Figure:
    """Precision over recall: the steps of `worked.precision_recall` and the envelope of `worked.at_recalls`."""
    figure = Figure(figsize=(6.2, 3.2))
    axes = figure.subplots()
    axes.fill_between(recalls["recall"], recalls["precision"], step="pre", color=OTHER[1], alpha=0.35, linewidth=0)
    axes.step(recalls["recall"], recalls["precision"], where="pre", color=OTHER[1], label="envelope, at 101 recalls")
    axes.plot(steps["recall"], steps["precision"], "o--", color="#000000", linewidth=0.8, label="after each prediction")
    for recall, rows in steps.groupby("recall"):
        for row in rows.itertuples():
            axes.annotate(str(row.prediction), (recall, row.precision), (5, 4), textcoords="offset points")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def funnel_chart(table: pd.DataFrame, column: str = "masks") -> Figure:
    """How many masks are left after each stage, the first on top; table: columns stage and `column`."""
    figure = Figure(figsize=(7.2, 0.7 + 0.38 * len(table)))
    axes = figure.subplots()
    bars = axes.barh(table["stage"], table[column], color=KEPT, height=0.65)
    axes.bar_label(bars, [f"{v:,}" for v in table[column]], padding=3)
    axes.invert_yaxis()
    axes.set(xlabel=column)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    return figure


@styled
def filter_chart(table: pd.DataFrame, rated: float, stable: float) -> Figure:
    """One dot a mask: predicted IoU and stability, those that cover a particle in another colour; lines: thresholds.

    table: columns rated, stable, right (bool).
    """
    figure = Figure(figsize=(6.2, 3.6))
    axes = figure.subplots()
    kinds = ((False, DROPPED, "x", "no particle"), (True, KEPT, "o", "a particle\n(IoU 0.5 or more)"))
    for right, color, marker, label in kinds:
        rows = table[table["right"] == right]
        axes.scatter(rows["rated"], rows["stable"], s=14, color=color, marker=marker, linewidths=0.8, label=label)
    axes.axvline(rated, color="#000000", linestyle="--", linewidth=1)
    axes.axhline(stable, color="#000000", linestyle="--", linewidth=1)
    axes.set(xlabel="predicted IoU", ylabel="stability score")
    axes.legend(title="the mask is of", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def coverage_chart(table: pd.DataFrame, truth: float, count: int = 50) -> Figure:
    """The first intervals of `worked.coverage`, a panel for each way of drawing; those that miss the truth in black."""
    ways = list(dict.fromkeys(table["drawn"]))
    figure = Figure(figsize=(8.0, 2.9))
    for axes, way in zip(figure.subplots(1, len(ways), sharey=True, squeeze=False)[0], ways, strict=True):
        rows = table[(table["drawn"] == way) & (table["set"] <= count)]
        for holds, color, width in ((True, OTHER[1], 1.6), (False, "#000000", 2.2)):
            some = rows[rows["holds"] == holds]
            label = "holds the true mean" if holds else "misses it"
            axes.vlines(some["set"], some["low"], some["high"], color=color, linewidth=width, label=label)
        axes.axhline(truth, color=LABELS, linestyle="--", linewidth=1)
        axes.set(title=f"{way} drawn", xlabel="set of images")
        axes.grid(axis="x", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
