"""What an adaptation gained and what that can and cannot say: a table, and a page that needs nothing else."""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lorasam_core import charts, plots, stats
from lorasam_core.experiments.adapt_plan import INTERVAL_GROUPS, Held, count, limits
from lorasam_core.experiments.outputs import replace
from lorasam_core.measure.sizes import measure

if TYPE_CHECKING:
    from lorasam_core.experiments.adapt import Adapted

MEASURES = {
    "dice": ("Dice, %", "overlap of the foreground that the predictor sees, tile by tile, with all labelled particles"),
    "ap50": ("AP50, %", "average precision at IoU 0.5 of every mask that scores 0.05 or more; no threshold has a say"),
    "f1": ("F1, %", "share of particles found and labelled that match at IoU 0.5, above the score threshold"),
    "d50_error": (
        "error of D50, %",
        "how far the median diameter is off, either way, without particles at the border, in images "
        "where every model finds one",
    ),
}
PICTURES = 3
SHOWN = 640  # pixels of a picture at most
ENOUGH = 20  # labelled particles for a size distribution
CSS = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; } td, th { padding: .3rem .6rem; text-align: right;
border-bottom: 1px solid var(--line); } td:first-child, th:first-child { text-align: left; }
td + td { white-space: nowrap; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; } figure { margin: 0; flex: 1 1 12rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; background: #fff; } pre { overflow-x: auto; padding: .6rem;
border: 1px solid var(--line); }
"""


def means(rows: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Mean of each measure by model, shares, and the particles found and labelled in all; None: nothing to measure."""
    table = {}
    for model, part in _comparable(rows).groupby("model", sort=False):
        values = part[[*MEASURES]].mean().to_dict()
        counts = part[["found", "labelled"]].sum().to_dict()
        table[str(model)] = {
            str(k): None if math.isnan(v) else round(float(v), 4) for k, v in (values | counts).items()
        }
    return table


def _comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors of D50 without their sign, none where a model has none: all models are asked of the same images."""
    lacking = rows["d50_error"].isna().groupby([rows["set"], rows["id"]]).transform("any")
    return rows.assign(d50_error=rows["d50_error"].abs().mask(lacking))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Measures by model, as text, in %: means over images, with the paired difference of the adapted model to the
    frozen one; intervals where there are six groups. Empty where nothing was measured.
    """
    if rows.empty:
        return pd.DataFrame({"measure": []})
    models, lines = list(rows["model"].unique()), []
    enough = rows["group"].nunique() >= INTERVAL_GROUPS
    long = _comparable(rows).rename(columns={"model": "run"}).assign(model=rows["model"])
    for name, (title, _) in MEASURES.items():
        scores = long.assign(value=long[name])
        mean, change = stats.mean_interval(scores, "model"), stats.paired(scores, "model", "frozen")
        for found in (mean, change):
            if not enough:
                found[["low", "high"]] = math.nan
        change = stats.verdict(change).set_index("model").loc[["adapted"]]
        line = {"measure": title} | dict(zip(models, stats.as_text(mean), strict=True))
        line |= {"adapted - frozen": stats.as_text(change, sign=True).iloc[0], "verdict": change["verdict"].iloc[0]}
        lines.append(line)
    sums = rows.groupby("model")[["found", "labelled"]].sum()
    counts = {model: f"{sums.loc[model, 'found']:,} of {sums.loc[model, 'labelled']:,}" for model in models}
    return pd.DataFrame([*lines, {"measure": "particles found, labelled"} | counts]).fillna("")


def command(result: Adapted) -> str:
    """How the adapter is used."""
    given = "" if (path := result.plan.config.checkpoint) is None else f" --checkpoint {shlex.quote(path)}"
    return f"lorasam segment YOUR_FOLDER --adapter {shlex.quote(str(result.adapter))}{given} --out masks"


def _png(picture: np.ndarray | Figure, alt: str) -> str:
    """An img element that holds the picture, RGB uint8 (H, W, 3) or a figure."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", dpi=110)
    else:
        buffer.write(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _pictures(result: Adapted) -> Iterator[str]:
    """Of the images with the lowest, the median and the highest F1 the labels and what the models found, outlined."""
    rows = result.rows[result.rows["model"] == "adapted"].sort_values("f1", kind="stable")
    places = sorted({round(place) for place in np.linspace(0, len(rows) - 1, min(PICTURES, len(rows)))})
    for row in rows.iloc[places].to_dict("records"):
        held = Held(row["set"], row["id"])
        sample = result.plan.sample(held)
        side = 2 * result.plan.config.crop_size
        window = tuple(slice(max(0, (length - side) // 2), (length + side) // 2) for length in sample.shape)
        yield f"<h3>{escape(held.id)}: F1 {row['f1']:.0%}</h3><div class='row'>"
        found = {model: result.labels(model, held) for model in result.answers}
        for name, labels in ({"labels": sample.labels} | found).items():
            picture = _outlined(sample.image[window], labels[window])
            shown = _png(picture, f"{name} of {held.id}, outlined")
            yield f"<figure>{shown}<figcaption>{escape(name)}</figcaption></figure>"
        yield "</div>"


def _outlined(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scale = min(1, SHOWN / max(labels.shape))
    size = [max(1, round(length * scale)) for length in labels.shape[::-1]]
    small = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int32)
    return plots.outlines(cv2.resize(image, size, interpolation=cv2.INTER_AREA), small, numbers=False)


def _sizes(result: Adapted) -> Figure | None:
    """Size distributions, found and labelled, without particles at the border; None for too few."""
    samples = {held: result.plan.sample(held) for held in result.plan.test}
    nm = all(sample.pixel_size for sample in samples.values())

    def diameters(labels: np.ndarray, pixel_size: float | None) -> Any:
        parts = measure(labels, pixel_size if nm else None)
        return parts.loc[~parts["touches_border"], "equivalent_diameter"].to_numpy(float)

    pooled = {"labels": [diameters(sample.labels, sample.pixel_size) for sample in samples.values()]}
    for model in result.answers:
        pooled[model] = [diameters(result.labels(model, held), s.pixel_size) for held, s in samples.items()]
    every = {name: np.concatenate([[], *parts]) for name, parts in pooled.items()}
    return charts.size_plot(every, "nm" if nm else "px") if len(every["labels"]) >= ENOUGH else None


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def write(result: Adapted, history: pd.DataFrame, path: Path) -> None:
    """The page, one HTML file without any other resource; whatever comes from names of files is escaped."""
    plan, images = result.plan, result.plan.sets["folder"]
    done = f"{count(len(images), 'image')} in {count(len(set(images.groups.values())), 'group')}, "
    done += f"{count(plan.particles, 'particle')}; {result.minutes:.1f} minutes of training."
    parts = [
        f"<h1>Adapter for {escape(images.name)}</h1><p>{escape(done)}</p>",
        _list([f"{escape(name)}: {escape(reason)}" for name, reason in plan.reasons.items()]),
        "<h2>What it gained</h2>",
    ]
    if plan.test:
        parts.append(f"<div class='wide' tabindex='0'>{table(result.rows).to_html(index=False, border=0)}</div>")
        parts.append(_list([f"<b>{escape(title)}</b>: {escape(what)}" for title, what in MEASURES.values()]))
    parts += ["<h2>What this can and cannot say</h2>", _list([escape(sentence) for sentence in limits(plan)])]
    parts += ["<h2>Held-out images</h2>", *_pictures(result)] if plan.test else []
    parts += ["<h2>Training</h2>", _png(charts.curves(history), "Loss, accuracy and mIoU by optimiser step")]
    parts.append("<p>The one point of validation is of training images: it chose nothing, and measures nothing.</p>")
    if plan.test and (figure := _sizes(result)) is not None:
        parts += ["<h2>Sizes in the held-out images</h2>", _png(figure, "Cumulative distributions of diameters")]
    parts += ["<h2>Use it</h2>", f"<pre tabindex='0'>{escape(command(result))}</pre>"]
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lorasam adapt</title>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    head += f"style-src 'unsafe-inline'\"><style>{CSS}</style></head><body><main>"
    page = head + "\n".join(parts) + "</main></body></html>\n"
    replace(path, lambda to: to.write_text(page, encoding="utf-8"))
