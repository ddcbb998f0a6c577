"""What the mask generator's thresholds give, the runs' own, the study's and tuned ones: records -> tables, sentences.

Imports no torch. Thresholds are chosen on validation images and judged on test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.experiments.records import Record
from lorasam_core.report.chapters.calibration import Series
from lorasam_core.report.tables import interval, paired, run_ids, shown, test_rows
from lorasam_core.stats import bootstrap_interval

METRICS = {"f1": "F1", "ap50": "AP50", "dice": "Dice"}  # judged on the test images
PAIR = ["pred_iou_thresh", "stability_score_thresh"]
RARE = 0.05  # share of the draws under which a pair does not count as one that may be chosen
FILTERS = {  # name in a run's metrics: label, evaluator
    "own": ("the runs' own", "generator"),
    "study": ("the study's", "generator_study"),
    "tuned": ("by validation", "generator_tuned"),
}


# ------------------------------------------------------------------------------------------------- tables
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
    table.attrs.update(made_by="lorasam_core.report.chapters.thresholds.threshold_table", runs=run_ids(records))
    return table


def choice_table(series: Series, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How firmly each run's pair of thresholds was chosen: whole groups of its validation images are drawn anew, with
    replacement, and the pair of the greatest mean F1 is chosen each time (of equal ones the lowest).

    One row a run that swept thresholds: series, seed, pred_iou_thresh and stability_score_thresh (its choice), again
    (share of the draws that choose it), pairs (each chosen in RARE of the draws or more), ahead (mean F1 of the choice
    less that of the next best pair, 0 to 1), images, groups. Fewer than two groups: again is NaN, pairs is 0. No row
    for a run in which no pair finds a particle: nothing is chosen there.
    """
    rows = []
    for name, records in series.items():
        for record in records:
            if not len(table := record.table("thresholds")):
                continue
            scores = table.pivot(index=["id", "group"], columns=PAIR, values="f1")
            means = scores.mean().to_numpy()
            if not means.max() > 0:
                continue
            best, best_two = int(means.argmax()), np.sort(means)[-2:]
            groups = scores.groupby(level="group")
            sums, counts = groups.sum().to_numpy(), groups.size().to_numpy()
            drawn = np.random.default_rng(seed).integers(counts.size, size=(draws, counts.size))
            chosen = (sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1, keepdims=True)).argmax(axis=1)
            shares = np.bincount(chosen, minlength=scores.shape[1]) / draws
            known = counts.size > 1
            rows.append({
                "series": name, "seed": record.config.seed, **dict(zip(PAIR, scores.columns[best], strict=True)),
                "again": shares[best] if known else float("nan"),
                "pairs": int((shares >= RARE).sum()) if known else 0, "ahead": best_two[1] - best_two[0],
                "images": len(scores), "groups": counts.size,
            })  # fmt: skip
    columns = ["series", "seed", *PAIR, "again", "pairs", "ahead", "images", "groups"]
    out = pd.DataFrame(rows, columns=columns)
    out.attrs.update(made_by="lorasam_core.report.chapters.thresholds.choice_table", runs=run_ids(*series.values()))
    return out


def choice_display(table: pd.DataFrame) -> pd.DataFrame:
    """A choice_table as the reader sees it."""
    out = pd.DataFrame({
        "model": table["series"], "seed": table["seed"],
        "predicted IoU / stability": [f"{a:g} / {b:g}" for a, b in zip(*(table[c] for c in PAIR), strict=True)],
        "ahead of the next pair, points of F1": [f"{100 * gap:.1f}" for gap in table["ahead"]],
        "chosen again, % of draws": ["–" if np.isnan(again) else f"{100 * again:.0f}" for again in table["again"]],
        "pairs in 5 % of draws or more": [str(n) if n else "–" for n in table["pairs"]],
    })  # fmt: skip
    out.attrs.update(table.attrs)
    return out


def sweep_rows(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Threshold tables of several series as one, with the column series first."""
    table = pd.concat(dict(tables), names=["series"]).reset_index("series")
    runs = [run for part in tables.values() for run in part.attrs["runs"]]
    table.attrs.update(made_by="lorasam_core.report.chapters.thresholds.threshold_table", runs=runs)
    return table


def filters_rows(series: Series) -> pd.DataFrame:
    """What three sets of filters give on the test images, long.

    Columns: filters, series, thresholds (text: predicted IoU / stability / minimum area in pixels; of several runs that
    differ, each with its seed), f1, ap50 and dice, each with _low and _high, in %, n_pred (masks an image). Only
    runs that have compared filters count.
    """
    rows = []
    for key, (label, evaluator) in FILTERS.items():
        for name, records in series.items():
            if not (runs := compared(records)):
                continue
            row: dict[str, Any] = {"filters": label, "series": name, "thresholds": "; ".join(_thresholds(runs, key))}
            for metric in METRICS:
                found = interval(runs, evaluator, metric)
                parts = {metric: "mean", f"{metric}_low": "low", f"{metric}_high": "high"}
                row |= {column: 100 * found[part] for column, part in parts.items()}
            rows.append(row | {"n_pred": interval(runs, evaluator, "n_pred")["mean"]})
    table = pd.DataFrame(rows)
    ids = run_ids(*(compared(runs) for runs in series.values()))
    table.attrs.update(made_by="lorasam_core.report.chapters.thresholds.filters_rows", runs=ids)
    return table


def filters_table(series: Series) -> pd.DataFrame:
    """`filters_rows` as the reader sees them: a row a set of filters, columns of METRICS of each series."""
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
        for metric, title in METRICS.items():
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
def sweep_sentence(series: Series) -> str:
    """Where each series' F1 is greatest on the validation images, whether that is the edge of the grid, the AP50 there.

    Of several seeds the mean is meant; each of them is judged with a pair of its own.
    """
    text = []
    for name, records in series.items():
        if (table := threshold_table(records)).empty:
            continue
        best = table.iloc[int(table["f1"].to_numpy().argmax())]
        rated = dict(zip(PAIR, ("predicted IoU", "stability"), strict=True))
        chosen = [f"{what} {best[c]:g}" if best[c] > 0 else f"no filter on the {what}" for c, what in rated.items()]
        edge = [what for column, what in rated.items() if best[column] == table[column].max()]
        whose = " (mean over its seeds)" if len(records) > 1 else ""
        beyond = f" (the highest {' and '.join(edge)} that was tried)" if edge else ""
        text.append(
            f"On the validation images the {name} model's F1{whose} is greatest ({best['f1']:.1f} %) with "
            f"{' and '.join(chosen)}{beyond}; over the whole grid it runs from {table['f1'].min():.1f} to "
            f"{table['f1'].max():.1f} %. The AP50 is {best['ap50']:.1f} % there, {table['ap50'].max():.1f} % at most."
        )
    return " ".join(text) or "No other thresholds were tried for this edition."


def choice_sentence(table: pd.DataFrame) -> str:
    """What a choice_table says of the thresholds; an empty text where nothing was chosen or no draw can be made."""
    known = table[table["again"].notna()]
    if known.empty:
        return ""
    least, most = (f"{100 * share:.0f}" for share in (known["again"].min(), known["again"].max()))
    share = f"{least} %" if least == most else f"{least} to {most} %"
    first = known.iloc[0]
    return (
        f"Drawn anew by group ({first['images']} images of {first['groups']} groups), the validation images choose the "
        f"same pair in {share} of the draws. Pairs that win at least one draw in twenty: up to {known['pairs'].max()} "
        "for a model and seed. What follows on the test images is what one choice of a pair gives; its intervals are "
        "of other test images, not of another choice."
    )


def thresholds_sentence(series: Series) -> str:
    """What the study's and the tuned filters change on the test images, and what adapting gains under each."""
    text = []
    for name, records in series.items():
        if not (runs := compared(records)):
            continue
        counts = {key: interval(runs, evaluator, "n_pred")["mean"] for key, (_, evaluator) in FILTERS.items()}
        others = []
        for key, called in (("study", "the study's"), ("tuned", "those by validation")):
            if same(runs, key):
                others.append(f"{called} are the same")
                continue
            if not counts[key]:
                others.append(f"{called} not one")
                continue
            by = [_points(change(runs, FILTERS[key][1], metric)) for metric in ("f1", "ap50")]
            others.append(f"{called} {counts[key]:.1f}, which changes the F1 by {by[0]} and the AP50 by {by[1]}")
        kept = f"the runs' own filters keep {counts['own']:.1f} a test image"
        text.append(f"Of the {name} model's masks {'; '.join([kept, *others])}.")
        if change(runs, FILTERS["tuned"][1])[2] < 0:
            text.append("What was best on the validation images is worse on the test images.")
    text += _gains(series)
    return " ".join(text) or "No other filters were asked for the test images of this edition."


def _gains(series: Series) -> list[str]:
    """What adapting changes in METRICS under each set of filters, and whose merit a change of the AP50 is."""
    frozen, adapted = (compared(series.get(name, ())) for name in ("frozen", "adapted"))
    if not frozen or not adapted:
        return []
    text = []
    for metric, title in METRICS.items():
        gains = []
        for key, (label, evaluator) in FILTERS.items():
            gain = paired(frozen, adapted, evaluator, metric)
            passed = any(gain) or interval(frozen, evaluator, "n_pred")["mean"] > 0
            if passed and (key == "own" or not same([*frozen, *adapted], key)):
                gains.append(f"{_points(gain)} (filters: {label})")
        if gains:
            text.append(f"Adapting changes the {title} by {'; by '.join(gains)}.")
    tuned = FILTERS["tuned"][1]
    lost, after = change(frozen, tuned, "ap50"), change(adapted, tuned, "ap50")
    if lost[2] < 0 < paired(frozen, adapted, tuned, "ap50")[1] and lost[0] < after[0]:
        text.append(
            "AP50 ranks masks by itself, and filters mostly take from it: the pairs of the greatest F1 change that "
            f"of the frozen model by {shown(lost[0], sign=True)} points and that of the adapted one by "
            f"{shown(after[0], sign=True)}. The gain in AP50 under them is so far a loss of the frozen model."
        )
    return text


def change(records: Sequence[Record], evaluator: str, metric: str = "f1") -> tuple[float, float, float]:
    """Mean difference of a test metric under another evaluator's filters and the runs' own, on the same images, with
    its interval over groups (0 to 1).
    """
    rows = test_rows(records, "generator", metric).merge(test_rows(records, evaluator, metric), on=["id", "group"])
    gap = rows[f"{metric}_y"] - rows[f"{metric}_x"]
    return bootstrap_interval(gap.to_numpy(float), rows["group"].to_numpy())


def same(records: Sequence[Record], key: str) -> bool:
    """Whether a set of FILTERS is, in every run, the run's own."""
    return all(record.metrics["filters"][key] == record.metrics["filters"]["own"] for record in records)


def _thresholds(records: Sequence[Record], key: str) -> list[str]:
    values = [record.metrics["filters"][key] for record in records]
    text = [f"{v[PAIR[0]]:g} / {v[PAIR[1]]:g} / {v['min_mask_region_area']:g}" for v in values]
    if len(set(text)) == 1:
        return text[:1]
    return [f"{value} (seed {record.config.seed})" for value, record in zip(text, records, strict=True)]


def _points(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    if not np.isfinite(mean):
        return "an unknown number of points"
    if not np.isfinite(low):
        return f"{shown(mean, sign=True)} points, on too few groups for an interval"
    if mean == low == high == 0:
        return "nothing"
    doubt = " (these images cannot tell it from none)" if low <= 0 <= high else ""
    return f"{shown(mean, low, high, sign=True)} points{doubt}"
