"""What the mask generator's ratings of its masks are worth: records -> tables, sentences.

Imports no torch. The masks of several runs of a series (seeds) are taken together; images are averaged over the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.experiments.records import Record
from lorasam_core.report.phrases import UNCLEAR
from lorasam_core.report.tables import run_ids, shown
from lorasam_core.stats import bootstrap_interval

SOURCES = {  # table of a run: whose masks it holds
    "calibration": "masks of validation images, without the two filters, duplicates removed",
    "annotations": "masks of test images that passed the run's own filters",
}
BINS = 10
MASKS = 5  # of an image: over fewer a rank correlation is left out
ENDS = ("", "_low", "_high")
CORRELATIONS = {"rank_iou": "predicted_iou", "rank_stability": "stability_score"}

Series = Mapping[str, Sequence[Record]]  # frozen and adapted: their runs


# ------------------------------------------------------------------------------------------------- ratings
def source(series: Series) -> str:
    """Where the masks of all series can be read from: "calibration", else "annotations"; "" where they cannot."""
    there = [runs for runs in series.values() if runs]
    return next((name for name in SOURCES if there and all(len(masks(runs, name)) for runs in there)), "")


def asked(series: Series) -> dict[str, list[Record]]:
    """Of every series the runs that asked the mask generator without its filters; all of them where none did."""
    return {name: [run for run in runs if len(run.table("calibration"))] or list(runs) for name, runs in series.items()}


def masks(records: Sequence[Record], name: str) -> pd.DataFrame:
    """Rows of the table `name` of all runs: id, group, iou, predicted_iou, stability_score, area."""
    tables = [table for record in records if len(table := record.table(name))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def calibration_table(series: Series, name: str = "calibration") -> pd.DataFrame:
    """Masks in ten bins of predicted IoU: what the model says of them, and what they are.

    Columns: series, bin (its lower edge; ratings outside 0 to 1 count in the outermost bins), masks, share (of the
    series' masks), predicted and iou (means, 0 to 1), low and high (95 % interval of iou over groups). Empty bins are
    left out. name: the table of the runs, as `source` finds it.
    """
    rows = []
    for label, records in series.items():
        if not len(found := masks(records, name)):
            continue
        number = np.floor(found["predicted_iou"] * BINS).clip(0, BINS - 1)
        for k, part in found.groupby(number):
            mean, low, high = bootstrap_interval(part["iou"].to_numpy(), part["group"].to_numpy())
            rows.append({
                "series": label, "bin": k / BINS, "masks": len(part), "share": len(part) / len(found),
                "predicted": part["predicted_iou"].mean(), "iou": mean, "low": low, "high": high,
            })  # fmt: skip
    columns = ["series", "bin", "masks", "share", "predicted", "iou", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(
        made_by="lorasam_core.report.chapters.calibration.calibration_table", runs=run_ids(*series.values())
    )
    return table


def ratings_table(series: Series, name: str = "calibration") -> pd.DataFrame:
    """One row a series: how far its ratings are off, and how well they sort.

    Columns: series, runs (seeds), masks (of all runs), images, groups; predicted, iou (means, 0 to 1); excess, low,
    high (mean of predicted - true IoU with its interval over groups); error (expected calibration error: |predicted -
    iou| of the bins of `calibration_table`, weighted by their share; Guo et al. 2017, On Calibration of Modern Neural
    Networks); rank_iou, rank_stability, each with _low and _high (`image_correlations`, their mean over images and its
    interval over groups).
    """
    bins = calibration_table(series, name)
    rows = []
    for label in bins["series"].unique():
        found, part = masks(series[label], name), bins[bins["series"] == label]
        gap = (found["predicted_iou"] - found["iou"]).to_numpy()
        excess, low, high = bootstrap_interval(gap, found["group"].to_numpy())
        rows.append({
            "series": label, "runs": sum(len(masks([record], name)) > 0 for record in series[label]),
            "masks": len(found), "images": found["id"].nunique(), "groups": found["group"].nunique(),
            "predicted": found["predicted_iou"].mean(), "iou": found["iou"].mean(),
            "excess": excess, "low": low, "high": high,
            "error": ((part["predicted"] - part["iou"]).abs() * part["share"]).sum(),
        })  # fmt: skip
        sorting = image_correlations(series[label], name)
        for key in CORRELATIONS:
            valid = sorting[sorting[key].notna()]
            ends = bootstrap_interval(valid[key].to_numpy(float), valid["group"].to_numpy())
            rows[-1] |= dict(zip((key, f"{key}_low", f"{key}_high"), ends, strict=True))
    columns = ["series", "runs", "masks", "images", "groups", "predicted", "iou", "excess", "low", "high", "error"]
    table = pd.DataFrame(rows, columns=[*columns, *(f"{key}{end}" for key in CORRELATIONS for end in ENDS)])
    table.attrs.update(made_by="lorasam_core.report.chapters.calibration.ratings_table", runs=run_ids(*series.values()))
    return table


def image_correlations(records: Sequence[Record], name: str = "calibration") -> pd.DataFrame:
    """One row an image, the mean over the runs: id, group, and of CORRELATIONS Spearman's correlation over its masks.

    Within an image, for that is where the generator sorts its masks: one that rates all masks of an easy image higher
    has a correlation over all images together that says nothing of its choice. NaN for fewer than MASKS masks, and
    where all are worth the same or are rated the same.
    """
    rows = []
    for record in records:
        found = record.table(name)
        for (i, group), part in found.groupby(["id", "group"], sort=False) if len(found) else ():
            ranks = part[["iou", *CORRELATIONS.values()]].rank()
            told = len(part) >= MASKS and ranks["iou"].nunique() > 1
            both = {
                key: ranks[c].corr(ranks["iou"]) for key, c in CORRELATIONS.items() if told and ranks[c].nunique() > 1
            }
            rows.append({"id": i, "group": group, **dict.fromkeys(CORRELATIONS, np.nan), **both})
    table = pd.DataFrame(rows, columns=["id", "group", *CORRELATIONS])
    return table.groupby(["id", "group"], sort=False)[[*CORRELATIONS]].mean().reset_index()


def ratings_display(table: pd.DataFrame) -> pd.DataFrame:
    """A `ratings_table` as the reader sees it."""
    rows = [
        {
            "model": row["series"],
            "masks (runs)": f"{row['masks']:,} ({row['runs']})",
            "images (groups)": f"{row['images']} ({row['groups']})",
            "mean predicted IoU, %": shown(row["predicted"]),
            "mean true IoU, %": shown(row["iou"]),
            "difference, points": shown(row["excess"], row["low"], row["high"], sign=True),
            "expected calibration error, points": shown(row["error"]),
            "rank correlation with the true IoU, within an image: predicted IoU": _correlation(row, "rank_iou"),
            "stability": _correlation(row, "rank_stability"),
        }
        for row in table.to_dict("records")
    ]
    out = pd.DataFrame(rows)
    out.attrs.update(table.attrs)
    return out


# ------------------------------------------------------------------------------------------------- sentences
def missing_sentence(series: Series) -> str:
    """What this edition has not measured, and what is shown in its stead: series, or seeds of the adapted one; an empty
    text where nothing lacks.
    """
    lacking = [name for name, runs in series.items() if not len(masks(runs, "calibration"))]
    if not lacking:
        return _seeds_sentence(len(series.get("adapted", ())), len(asked(series).get("adapted", ())))
    lacks = f"No {' or '.join(lacking)} run of this edition asked the mask generator without its filters"
    if source(series) == "annotations":
        return f"{lacks}: what can be rated here are masks of test images that passed them, and of the others nothing."
    return f"{lacks}, or kept the ratings of its masks: they cannot be compared with the truth here."


def _seeds_sentence(every: int, some: int) -> str:
    if some == every:
        return ""
    were, them = ("was", "it") if some == 1 else ("were", "them")
    return (
        f"Only {some} of the {every} seeds of the main configuration {were} asked for masks without the filters; this "
        f"page shows {them} alone, and its gains differ from those of pages that average all seeds."
    )


def training_sentence(record: Record) -> str:
    """Which of the decoder's answers an adapter's objective has trained for."""
    if record.config.objective == "semantic":
        return (
            "The main configuration of this edition is trained as the study's, by the pixels of one mask: neither the "
            "mask tokens of the generator nor the IoU head had a say."
        )
    return (
        f"The main configuration of this edition (objective `{record.config.objective}`) is prompted with points and "
        "boxes too: for a point the best of the generator's three masks learns, and so does the rating. That changes "
        "A and B alone; the weights of the IoU head stay those of the frozen model."
    )


def calibration_sentence(table: pd.DataFrame) -> str:
    """What a `ratings_table` shows: off by how much, in which direction, and whether the order can be trusted."""
    text = []
    for row in table.to_dict("records"):
        gap = f"{shown(row['excess'], row['low'], row['high'], sign=True)} points"
        how = "too high" if row["low"] > 0 else "too low" if row["high"] < 0 else "right"
        doubt = ", as far as these images tell" if how == "right" else ""
        said = f"is {how} on average{doubt} ({gap})"
        if not np.isfinite(row["low"]):
            said = f"is off by {gap} on average, on too few groups for an interval"
        text.append(
            f"The {row['series']} model's predicted IoU {said}; its expected calibration error is "
            f"{shown(row['error'])} points."
        )
    if text:
        sorts, stable = (
            " and ".join(f"{_correlation(row, key)} {row['series']}" for row in table.to_dict("records"))
            for key in CORRELATIONS
        )
        if table["rank_iou"].notna().any():
            text.append(
                "A filter needs the order more than the value, and so do average precision and the painting of masks "
                "over one another: among the masks of one image the rank correlation of the predicted with the true "
                f"IoU is {sorts}, that of the stability {stable}."
            )
    return " ".join(text)


def order_sentence(series: Series, name: str = "calibration") -> str:
    """What adapting changes in the rank correlations, paired by image; an empty text where it cannot be said."""
    tables = [image_correlations(series.get(key, ()), name) for key in ("frozen", "adapted")]
    both = tables[0].merge(tables[1], on=["id", "group"])
    said = []
    for key, what in (("rank_iou", "predicted IoU"), ("rank_stability", "stability")):
        gap = (both[f"{key}_y"] - both[f"{key}_x"]).astype(float)
        change, low, high = bootstrap_interval(gap[gap.notna()].to_numpy(), both.loc[gap.notna(), "group"].to_numpy())
        if np.isfinite(low):
            doubt = f", {UNCLEAR}" if low <= 0 <= high else ""
            said.append(f"of the {what} by {change:+.2f} [{low:+.2f},\u00a0{high:+.2f}]{doubt}")
    return f"On the same images adapting changes the rank correlation {'; '.join(said)}." if said else ""


def _correlation(row: Mapping[Any, Any], key: str) -> str:
    mean, low, high = (row[key + end] for end in ENDS)
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.2f}" + (f" [{low:.2f},\u00a0{high:.2f}]" if np.isfinite(low) else "")
