"""What the mask generator's ratings of its masks are worth, and what its thresholds give: records -> tables, sentences.

Imports no torch. The masks of several runs of a series (seeds) are taken together; images are averaged over the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.metrics import bootstrap_interval
from lorasam_core.records import Record
from lorasam_core.tables import interval, paired, run_ids, shown, test_rows

SOURCES = {  # table of a run: whose masks it holds
    "calibration": "masks of validation images, without the two filters",
    "annotations": "masks of test images that passed the run's own filters",
}
BINS = 10
PAIR = ["pred_iou_thresh", "stability_score_thresh"]
FILTERS = {  # name in a run's metrics: label, evaluator
    "own": ("the runs' own", "generator"),
    "study": ("the study's", "generator_study"),
    "tuned": ("tuned on validation images", "generator_tuned"),
}
CORRELATIONS = {"rank_iou": "predicted_iou", "rank_stability": "stability_score"}

Series = Mapping[str, Sequence[Record]]  # frozen and adapted: their runs


# ------------------------------------------------------------------------------------------------- ratings
def source(series: Series) -> str:
    """Where the masks of all series can be read from: "calibration", else "annotations"; "" where they cannot."""
    there = [runs for runs in series.values() if runs]
    return next((name for name in SOURCES if there and all(len(masks(runs, name)) for runs in there)), "")


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
    table.attrs.update(made_by="lorasam_core.chapters.calibration.calibration_table", runs=run_ids(*series.values()))
    return table


def ratings_table(series: Series, name: str = "calibration") -> pd.DataFrame:
    """One row a series: how far its ratings are off, and how well they sort.

    Columns: series, masks, images, groups; predicted, iou (means, 0 to 1); excess, low, high (mean of predicted - true
    IoU with its interval over groups); error (expected calibration error: |predicted - iou| of the bins of
    `calibration_table`, weighted by their share; Guo et al. 2017, On Calibration of Modern Neural Networks);
    rank_iou, rank_stability (Spearman's correlation of predicted IoU and of stability with the true IoU).
    """
    bins = calibration_table(series, name)
    rows = []
    for label in bins["series"].unique():
        found, part = masks(series[label], name), bins[bins["series"] == label]
        gap = (found["predicted_iou"] - found["iou"]).to_numpy()
        excess, low, high = bootstrap_interval(gap, found["group"].to_numpy())
        rows.append({
            "series": label, "masks": len(found), "images": found["id"].nunique(), "groups": found["group"].nunique(),
            "predicted": found["predicted_iou"].mean(), "iou": found["iou"].mean(),
            "excess": excess, "low": low, "high": high,
            "error": ((part["predicted"] - part["iou"]).abs() * part["share"]).sum(),
            **{key: found[column].corr(found["iou"], method="spearman") for key, column in CORRELATIONS.items()},
        })  # fmt: skip
    columns = ["series", "masks", "images", "groups", "predicted", "iou", "excess", "low", "high", "error"]
    table = pd.DataFrame(rows, columns=[*columns, *CORRELATIONS])
    table.attrs.update(made_by="lorasam_core.chapters.calibration.ratings_table", runs=run_ids(*series.values()))
    return table


def ratings_display(table: pd.DataFrame) -> pd.DataFrame:
    """A `ratings_table` as the reader sees it."""
    rows = [
        {
            "model": row["series"],
            "masks": f"{row['masks']:,}",
            "mean predicted IoU, %": shown(row["predicted"]),
            "mean true IoU, %": shown(row["iou"]),
            "difference, points": shown(row["excess"], row["low"], row["high"], sign=True),
            "expected calibration error, points": shown(row["error"]),
            "rank correlation with the true IoU: predicted IoU": _correlation(row["rank_iou"]),
            "stability": _correlation(row["rank_stability"]),
        }
        for row in table.to_dict("records")
    ]
    out = pd.DataFrame(rows)
    out.attrs.update(table.attrs)
    return out


# ------------------------------------------------------------------------------------------------- thresholds
def threshold_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a pair of thresholds: means over validation images of ap50, f1, dice (in %) and n_pred (masks an image).

    Columns: pred_iou_thresh, stability_score_thresh and these; no row where no run has measured them.
    """
    tables = [table for record in records if len(table := record.table("thresholds"))]
    scores = ["ap50", "f1", "dice", "n_pred"]
    if not tables:
        return pd.DataFrame(columns=[*PAIR, *scores])
    means = pd.concat(tables).groupby(PAIR)[scores].mean()
    table = (means * [100, 100, 100, 1]).reset_index()
    table.attrs.update(made_by="lorasam_core.chapters.calibration.threshold_table", runs=run_ids(records))
    return table


def sweep_rows(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Threshold tables of several series as one, with the column series first."""
    table = pd.concat(dict(tables), names=["series"]).reset_index("series")
    runs = [run for part in tables.values() for run in part.attrs["runs"]]
    table.attrs.update(made_by="lorasam_core.chapters.calibration.threshold_table", runs=runs)
    return table


def filters_rows(series: Series) -> pd.DataFrame:
    """What three sets of filters give on the test images, long.

    Columns: filters, series, thresholds (text: predicted IoU / stability / minimum area in pixels; of several runs each
    that differs), ap50 and dice with ap50_low, ap50_high, dice_low, dice_high in %, n_pred (masks an image). Only runs
    that have compared filters count.
    """
    rows = []
    for key, (label, evaluator) in FILTERS.items():
        for name, records in series.items():
            if not (runs := compared(records)):
                continue
            row: dict[str, Any] = {"filters": label, "series": name, "thresholds": "; ".join(_thresholds(runs, key))}
            for metric in ("ap50", "dice"):
                found = interval(runs, evaluator, metric)
                parts = {metric: "mean", f"{metric}_low": "low", f"{metric}_high": "high"}
                row |= {column: 100 * found[part] for column, part in parts.items()}
            rows.append(row | {"n_pred": interval(runs, evaluator, "n_pred")["mean"]})
    table = pd.DataFrame(rows)
    ids = run_ids(*(compared(runs) for runs in series.values()))
    table.attrs.update(made_by="lorasam_core.chapters.calibration.filters_rows", runs=ids)
    return table


def filters_table(series: Series) -> pd.DataFrame:
    """`filters_rows` as the reader sees them: a row a set of filters, columns of AP50 and Dice of each series."""
    long, out = filters_rows(series), []
    if long.empty:
        return long
    for label, part in long.groupby("filters", sort=False):
        rows = part.to_dict("records")
        values = [row["thresholds"] for row in rows]
        named = [f"{row['series']} {row['thresholds']}" for row in rows]
        cells = {
            "filters": label,
            "predicted IoU / stability / area": ", ".join(named if len({*values}) > 1 else values[:1]),
        }
        for metric, title in (("ap50", "AP50"), ("dice", "Dice")):
            for row in rows:
                cells[f"{title}, %: {row['series']}"] = shown(
                    *(row[metric + end] / 100 for end in ("", "_low", "_high"))
                )
        out.append(cells)
    table = pd.DataFrame(out)
    table.attrs.update(long.attrs)
    return table


def compared(records: Sequence[Record]) -> list[Record]:
    """The runs that have compared filters."""
    return [record for record in records if "filters" in record.metrics]


# ------------------------------------------------------------------------------------------------- sentences
def missing_sentence(series: Series) -> str:
    """What this edition has not measured, and what is shown in its stead; an empty text where nothing lacks."""
    lacking = [name for name, runs in series.items() if not len(masks(runs, "calibration"))]
    if not lacking:
        return ""
    lacks = f"No {' or '.join(lacking)} run of this edition asked the mask generator without its filters"
    if source(series) == "annotations":
        return f"{lacks}: what can be rated here are masks of test images that passed them, and of the others nothing."
    return f"{lacks}, or kept the ratings of its masks: they cannot be compared with the truth here."


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
        gap = f"{shown(row['excess'], row['low'], row['high'], sign=True)} points on average"
        how = "is too high" if row["low"] > 0 else "is too low" if row["high"] < 0 else "cannot be told from right"
        if not np.isfinite(row["low"]):
            how = "has too few groups for an interval"
        text.append(
            f"The {row['series']} model's predicted IoU {how} ({gap}); its expected calibration error is "
            f"{shown(row['error'])} points."
        )
    if text:
        sorts, stable = (
            " and ".join(f"{_correlation(row[key])} {row['series']}" for row in table.to_dict("records"))
            for key in CORRELATIONS
        )
        text.append(
            "A filter needs the order more than the value: the rank correlation of the predicted with the true IoU is "
            f"{sorts}, that of the stability {stable}."
        )
    return " ".join(text)


def sweep_sentence(series: Series) -> str:
    """Where each series' AP50 is greatest on the validation images, and whether that is the edge of the grid."""
    text = []
    for name, records in series.items():
        if (table := threshold_table(records)).empty:
            continue
        best = table.iloc[int(table["ap50"].to_numpy().argmax())]
        rated = dict(zip(PAIR, ("predicted IoU", "stability"), strict=True))
        chosen = [f"{what} {best[c]:g}" if best[c] > 0 else f"no filter on the {what}" for c, what in rated.items()]
        edge = [what for column, what in rated.items() if best[column] == table[column].max()]
        beyond = f" (the highest {' and '.join(edge)} that was tried)" if edge else ""
        text.append(
            f"On the validation images the {name} model's AP50 is greatest ({best['ap50']:.1f} %) with "
            f"{' and '.join(chosen)}{beyond}; over the whole grid it runs from {table['ap50'].min():.1f} to "
            f"{table['ap50'].max():.1f} %."
        )
    return " ".join(text) or "No other thresholds were tried for this edition."


def thresholds_sentence(series: Series) -> str:
    """What the study's and the tuned filters change on the test images, and what adapting gains under each."""
    text = []
    for name, records in series.items():
        if not (runs := compared(records)):
            continue
        counts = {key: interval(runs, evaluator, "n_pred")["mean"] for key, (_, evaluator) in FILTERS.items()}
        study, tuned = (_points(change(runs, FILTERS[key][1])) for key in ("study", "tuned"))
        text.append(
            f"Of the {name} model's masks the runs' own filters keep {counts['own']:.1f} a test image; the study's "
            f"{counts['study']:.1f}, which changes the AP50 by {study}; the tuned ones {counts['tuned']:.1f}, which "
            f"changes it by {tuned}."
        )
    frozen, adapted = (compared(series.get(name, ())) for name in ("frozen", "adapted"))
    if frozen and adapted:
        gains = [f"{_points(paired(frozen, adapted, e, 'ap50'))} (filters: {label})" for label, e in FILTERS.values()]
        text.append(f"Adapting changes the AP50 by {'; by '.join(gains)}.")
    return " ".join(text) or "No other filters were asked for the test images of this edition."


def change(records: Sequence[Record], evaluator: str, metric: str = "ap50") -> tuple[float, float, float]:
    """Mean difference of a test metric under another evaluator's filters and the runs' own, on the same images, with
    its interval over groups (0 to 1).
    """
    rows = test_rows(records, "generator", metric).merge(test_rows(records, evaluator, metric), on=["id", "group"])
    gap = rows[f"{metric}_y"] - rows[f"{metric}_x"]
    return bootstrap_interval(gap.to_numpy(float), rows["group"].to_numpy())


def _thresholds(records: Sequence[Record], key: str) -> list[str]:
    values = [record.metrics["filters"][key] for record in records]
    return list(dict.fromkeys(f"{v[PAIR[0]]:g} / {v[PAIR[1]]:g} / {v['min_mask_region_area']:g}" for v in values))


def _points(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    if not np.isfinite(mean):
        return "an unknown number of points"
    doubt = ", which the test set cannot tell from none" if low <= 0 <= high else ""
    return f"{shown(mean, low, high, sign=True)} points{doubt}"


def _correlation(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"
