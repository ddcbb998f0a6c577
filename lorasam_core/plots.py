"""One visual language for the report: frozen and adapted always in the same two colours, readable when colour-blind.

Every function that returns a figure marks it with `made_by`, its own dotted name, which report.Page writes beside the
picture. Nothing here reads records or models: arrays and tables in, figures out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from lorasam_core.measure.metrics import paint
from lorasam_core.measure.sizes import readable_unit

FROZEN, ADAPTED, STUDY, LABELS = "#0072B2", "#D55E00", "#000000", "#666666"  # Okabe and Ito's palette, and a grey
TRAIN, VALIDATION = "#009E73", "#CC79A7"
COLORS = {
    "frozen": FROZEN, "adapted": ADAPTED, "reported by the study": STUDY, "labels": LABELS,
    "train": TRAIN, "validation": VALIDATION,
}  # fmt: skip
OTHER = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442")
MASK_BLUE = (30, 110, 255)
POINT = (213, 94, 0)
INSET_RED = "#E8112D"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#E6E6E6", "grid.linewidth": 0.6, "axes.axisbelow": True, "figure.facecolor": "white",
    "figure.constrained_layout.use": True, "svg.hashsalt": "lorasam", "savefig.dpi": 160, "lines.linewidth": 1.6,
}  # fmt: skip
AXIS_LABELS = {"rank": "rank", "learning_rate": "learning rate", "batch_size": "batch size", "scaling": "scaling"}

Inset = tuple[int, int, int, int]  # y, x, height, width in pixels


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw inside STYLE, and mark the figure with the function that made it."""

    @functools.wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            figure = function(*args, **kwargs)
        figure.made_by = f"{function.__module__}.{function.__name__}"
        return figure

    return draw


def save(figure: Figure, path: str | Path) -> Path:
    """Write SVG or PNG, by the suffix; the same figure gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


# ------------------------------------------------------------------------------------------------ pictures
def rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey or RGB uint8 (H, W[, 3]) -> RGB uint8 (H, W, 3)."""
    return np.ascontiguousarray(np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]).astype(np.uint8)


def overlay(
    image: NDArray[Any], mask: NDArray[Any], color: tuple[int, int, int] = MASK_BLUE, alpha: float = 0.55
) -> NDArray[np.uint8]:
    """One mask (H, W) in one colour over the image, its edge drawn solid -> RGB uint8 (H, W, 3)."""
    inside = np.asarray(mask) > 0
    if inside.shape != image.shape[:2]:
        raise ValueError(f"The mask is {inside.shape}, the image {image.shape[:2]}; give a mask of the image's size.")
    out = rgb(image).astype(float)
    out[inside] = (1 - alpha) * out[inside] + alpha * np.array(color)
    out[inside & ~ndimage.binary_erosion(inside)] = color
    return out.round().astype(np.uint8)


def mark_point(image: NDArray[Any], point: NDArray[Any], radius: int = 5) -> NDArray[np.uint8]:
    """A point (X, Y) as a square with a white rim over the image -> RGB uint8 (H, W, 3)."""
    out = rgb(image).copy()
    x, y = (int(value) for value in point)
    for reach, color in ((radius + 2, (255, 255, 255)), (radius, POINT)):
        out[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = color
    return out


def instance_mosaic(
    image: NDArray[Any], labels_or_annotations: NDArray[Any] | Sequence[Mapping[str, Any]], seed: int = 0
) -> NDArray[np.uint8]:
    """Each instance in a random but seeded colour on black -> RGB uint8 (H, W, 3).

    Takes an int label image (H, W), or the mask generator's annotations, painted in ascending predicted IoU.
    """
    if isinstance(labels_or_annotations, np.ndarray):
        labels: NDArray[Any] = labels_or_annotations.astype(np.int64)
    else:
        masks = np.array([a["segmentation"] for a in labels_or_annotations], dtype=bool).reshape(-1, *image.shape[:2])
        scores = np.array([a["predicted_iou"] for a in labels_or_annotations], dtype=float)
        labels = paint(masks, scores, image.shape[:2])
    draws = np.random.default_rng(seed).random((int(labels.max(initial=0)), 3))  # row by row: id i keeps its colour
    colors = mpl.colors.hsv_to_rgb(draws * [1.0, 0.45, 0.3] + [0.0, 0.45, 0.7])
    table = np.vstack([np.zeros((1, 3)), colors.reshape(-1, 3)])
    return (table[labels] * 255).round().astype(np.uint8)


def pick_inset(first: NDArray[Any], second: NDArray[Any], fraction: float = 0.2) -> Inset:
    """The square (y, x, side, side), `fraction` of the short side wide, in which two masks (H, W) differ most."""
    height, width = first.shape
    side = max(4, round(min(height, width) * fraction))
    differ = ((np.asarray(first) > 0) != (np.asarray(second) > 0)).astype(float)
    edges = np.pad(differ.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = edges[side:, side:] - edges[:-side, side:] - edges[side:, :-side] + edges[:-side, :-side]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x), side, side


def _draw_inset(axes: Axes, picture: NDArray[Any], inset: Inset) -> None:
    """A red box around the region, and the region enlarged in the corner farthest from it."""
    y, x, h, w = inset
    height, width = picture.shape[:2]
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=INSET_RED, linewidth=1.4))
    share = 0.4 * min(height, width)  # side of the enlarged square in image pixels: clear of a box across the middle
    left = 0.0 if x + w / 2 > width / 2 else 1 - share / width
    bottom = 0.0 if y + h / 2 < height / 2 else 1 - share / height
    zoom = axes.inset_axes((left, bottom, share / width, share / height))
    zoom.imshow(picture[y : y + h, x : x + w], cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    zoom.set(xticks=[], yticks=[])
    for spine in zoom.spines.values():
        spine.set(visible=True, color=INSET_RED, linewidth=1.8)


@styled
def panels(
    pictures: Mapping[str, NDArray[Any]],
    inset: Inset | None = None,
    columns: int | None = None,
    width: float = 8.0,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Titled pictures, uint8 (H, W[, 3]), in rows of `columns` (None: one row), each with the inset enlarged."""
    columns = min(columns or len(pictures), len(pictures))
    rows = -(-len(pictures) // columns)
    tallest = max(p.shape[0] / p.shape[1] for p in pictures.values())
    figure = Figure(figsize=(width, rows * (width / columns * tallest + 0.25)))
    grid = figure.subplots(rows, columns, squeeze=False)
    axes: Axes
    for axes in grid.flat:
        axes.axis("off")
    for axes, (title, picture) in zip(grid.flat, pictures.items(), strict=False):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        axes.set_title(title, color=(colors or {}).get(title, "black"))
        axes.set_anchor("N")  # titles of a row at one height, whatever the pictures' shapes
        if inset is not None:
            _draw_inset(axes, picture, inset)
    return figure


@styled
def comparison(
    image: NDArray[Any],
    frozen: Any,
    adapted: Any,
    inset: Inset | None = None,
    titles: tuple[str, str, str] = ("input", "frozen", "adapted"),
) -> Figure:
    """Input, frozen, adapted in a row, as the study shows them.

    Boolean masks are laid over the image in blue (the predictor); label images or annotations become instance mosaics.
    """
    drawn = [
        overlay(image, x) if isinstance(x, np.ndarray) and x.dtype == bool else instance_mosaic(image, x)
        for x in (frozen, adapted)
    ]
    pictures = dict(zip(titles, [rgb(image), *drawn], strict=True))
    return panels(pictures, inset, colors={titles[1]: FROZEN, titles[2]: ADAPTED})


@styled
def contact_sheet(samples: Sequence[Any], columns: int = 6, labels: bool = False, width: float = 8.0) -> Figure:
    """Thumbnails of Samples, titled with their ids; with `labels`, the instance mosaics instead of the images."""
    pictures = {s.id: instance_mosaic(s.image, s.labels) if labels else rgb(s.image) for s in samples}
    return panels(pictures, columns=columns, width=width)


# -------------------------------------------------------------------------------------------------- charts
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
def ablation_chart(table: pd.DataFrame, field: str, frozen: Mapping[str, float] | None = None) -> Figure:
    """Dice by the values of one setting: measured with its interval, and the study's number beside it, marked.

    table: columns `field`, dice, low, high, reported_dice (all in %, NaN where missing), as report.ablation_table makes
    it; frozen: the frozen model's mean, low, high in %, drawn as a band.
    """
    figure = Figure(figsize=(6.2, 3.2))
    axes = figure.subplots()
    place = np.arange(len(table))
    if frozen is not None:
        axes.axhspan(frozen["low"], frozen["high"], color=FROZEN, alpha=0.15, linewidth=0)
        axes.axhline(frozen["mean"], color=FROZEN, linestyle="--", label="frozen, measured")
    ours = table["dice"].notna().to_numpy()
    spread = [(table["dice"] - table["low"])[ours], (table["high"] - table["dice"])[ours]]
    label = "adapted, measured"
    axes.errorbar(place[ours] - 0.08, table["dice"][ours], spread, fmt="o-", color=ADAPTED, capsize=3, label=label)
    theirs = table["reported_dice"].notna().to_numpy()
    if theirs.any():
        axes.plot(
            place[theirs] + 0.08, table["reported_dice"][theirs], "D:", color=STUDY, markerfacecolor="white",
            linewidth=1, label="reported by the study\n(ViT-B, its own data)",
        )  # fmt: skip
    axes.set(xlabel=AXIS_LABELS.get(field, field.replace("_", " ")), ylabel="test Dice, %")
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
def size_plot(sizes: Mapping[str, NDArray[Any]], unit: str) -> Figure:
    """Number-weighted cumulative distributions of equivalent diameters (unit nm or px), D10, D50 and D90 marked.

    The axis is in the `readable_unit` of all particles together.
    """
    every = np.concatenate([[], *sizes.values()])
    by, unit = readable_unit(float(np.median(every)) if len(every) else 0.0, unit)
    sizes = {name: np.asarray(diameters) / by for name, diameters in sizes.items()}
    figure = Figure(figsize=(6.2, 3.2))
    axes = figure.subplots()
    for k, (name, diameters) in enumerate(sizes.items()):
        color = COLORS.get(name, OTHER[k % len(OTHER)])
        if len(diameters):
            sns.ecdfplot(x=diameters, ax=axes, color=color, label=f"{name}, {len(diameters)} particles", stat="percent")
            axes.plot(np.quantile(diameters, [0.1, 0.5, 0.9]), [10, 50, 90], "o", color=color, markersize=4)
    axes.set(xlabel=f"equivalent diameter, {unit}", ylabel="particles smaller, %", xscale="log", ylim=(0, 101))
    axes.xaxis.set_major_formatter(mpl.ticker.LogFormatter(minor_thresholds=(2, 0.6)))
    axes.xaxis.set_minor_formatter(mpl.ticker.LogFormatter(minor_thresholds=(2, 0.6)))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def setting(value: Any) -> str:
    """A setting's value as profiles and the study write it: 0.00001, where :g would give 1e-05."""
    return np.format_float_positional(value, trim="-") if isinstance(value, (float, np.floating)) else str(value)
