"""Runs of several configurations side by side: tables of plain numbers, their text, and what they can tell apart.

Imports no torch. Levels are in %, differences in points; intervals are bootstrap 95 % intervals over groups. A
difference is claimed where its paired interval excludes zero and, where the noise of seeds is known, it exceeds that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lorasam_core.config import RunConfig
from lorasam_core.phrases import listed
from lorasam_core.records import Record
from lorasam_core.study import REPORTED, equivalent, reported
from lorasam_core.tables import SETTING_NAMES, by_value, interval, paired, run_ids, shown, training_of

MEASURES = {  # column: evaluator, column of per_image.csv, words
    "predictor_dice": ("predictor", "dice", "predictor Dice"),
    "point_iou": ("point", "iou_rated", "point IoU"),
    "box_iou": ("box", "iou_rated", "box IoU"),
    "generator_dice": ("generator", "dice", "mask generator Dice"),
    "ap50": ("generator", "ap50", "AP50"),
    "f1": ("generator", "f1", "F1"),
    "pq": ("generator", "pq", "PQ"),
}
COSTS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (  # column, key in metrics.json, over seeds
    ("trainable", "trainable_parameters", max), ("steps", "steps", max), ("images_seen", "images_seen", max),
    ("minutes", "seconds", np.mean), ("peak_memory_mb", "peak_memory_mb", max),
)  # fmt: skip
NOWHERE = (float("nan"),) * 3


# ------------------------------------------------------------------------------------------------- groups
def groups(records: Iterable[Record]) -> list[list[Record]]:
    """Runs that differ in nothing but seed and name, one list each, in order; a seed that stands twice counts once."""
    found: dict[RunConfig, dict[int, Record]] = {}
    for record in records:
        found.setdefault(training_of(record), {}).setdefault(record.config.seed, record)
    return [list(runs.values()) for runs in found.values()]


def with_seeds(records: Sequence[Record], pool: Iterable[Record]) -> list[Record]:
    """The records, and after them those of `pool` that are other seeds of one of them."""
    known = {training_of(record) for record in records}
    return [*records, *(record for record in pool if training_of(record) in known)]


def shared_name(records: Sequence[Record], others: Iterable[Record]) -> str | None:
    """Name of the first record whose configuration is that of one of `others`, such as the reference of sweeps."""
    known = {training_of(record) for record in others}
    return next((record.config.name for record in records if training_of(record) in known), None)


# ------------------------------------------------------------------------------------------------- tables
def comparison_table(
    records: Sequence[Record], reference: str | None = None, measures: Sequence[str] = tuple(MEASURES)
) -> pd.DataFrame:
    """One row a group of `groups`, under the name of its first run, with the measures that any of them has.

    reference: the name of the row that the others are compared with; None, or a name that is not there: the first.
    Columns: name, runs (seeds), reference (bool); for each measure MEASURE, _low, _high (%), _std (over seeds, points,
    NaN for one), _gain, _gain_low, _gain_high (paired difference to the reference, points, NaN for itself); trainable,
    steps, images_seen, minutes (mean), peak_memory_mb (greatest). NaN where something was not measured.
    """
    found = groups(records)
    names = [runs[0].config.name for runs in found]
    place = names.index(reference) if reference in names else 0
    columns: dict[str, list[Any]] = {"name": names, "runs": [len(runs) for runs in found]}
    columns["reference"] = [i == place for i in range(len(found))]
    for measure in measures:
        evaluator, metric, _ = MEASURES[measure]
        levels = [interval(runs, evaluator, metric) for runs in found]
        measured = [math.isfinite(level["mean"]) for level in levels]
        if not any(measured):
            continue
        for key, end in (("mean", ""), ("low", "_low"), ("high", "_high")):
            columns[measure + end] = [100 * level[key] for level in levels]
        columns[f"{measure}_std"] = [seed_noise(runs, measure)["std"] for runs in found]
        gains = [
            paired(found[place], runs, evaluator, metric) if i != place and measured[i] and measured[place] else NOWHERE
            for i, runs in enumerate(found)
        ]
        for k, end in enumerate(("_gain", "_gain_low", "_gain_high")):
            columns[measure + end] = [100 * gain[k] for gain in gains]
    for column, key, over in COSTS:
        columns[column] = [over([r.metrics.get(key) or 0 for r in runs]) for runs in found]
    columns["minutes"] = [seconds / 60 for seconds in columns["minutes"]]
    table = pd.DataFrame(columns)
    table.attrs.update(made_by="lorasam_core.chapters.comparisons.comparison_table", runs=run_ids(records))
    return table


def comparison_display(table: pd.DataFrame, measures: Sequence[str] = tuple(MEASURES)) -> pd.DataFrame:
    """A comparison_table as the reader sees it: levels with intervals, and the first measure's paired difference."""
    there = [measure for measure in measures if measure in table]
    out = pd.DataFrame({"run": table["name"]})
    if there and (table["runs"] > 1).any():
        spread = zip(table["runs"], table[f"{there[0]}_std"], strict=True)
        out["seeds (standard deviation)"] = [f"{n}" if n < 2 else f"{n} (± {std:.1f})" for n, std in spread]
    for measure in there:
        out[f"{MEASURES[measure][2]}, %"] = _cells(table, measure)
        if measure == there[0]:
            base = table.loc[table["reference"], "name"].iloc[0]
            out[f'difference to "{base}", points'] = _cells(table, f"{measure}_gain", sign=True)
    out.attrs.update(table.attrs)
    return out


def cost_display(table: pd.DataFrame) -> pd.DataFrame:
    """What each row of a comparison_table cost: trained numbers, steps, images, minutes of training, peak memory."""
    out = pd.DataFrame({"run": table["name"]})
    for column, label, style in (
        ("trainable", "trainable parameters", ",.0f"), ("steps", "steps", ",.0f"),
        ("images_seen", "images seen", ",.0f"), ("minutes", "minutes", ".1f"),
        ("peak_memory_mb", "peak memory, MB", ",.0f"),
    ):  # fmt: skip
        out[label] = [format(value, style) if value else "–" for value in table[column]]
    out.attrs.update(table.attrs)
    return out


def series_table(series: Mapping[str, Sequence[Record]], field: str, measure: str = "predictor_dice") -> pd.DataFrame:
    """Adapted runs of several sweeps over one setting, long: `field`, series, mean, low, high (%), runs."""
    evaluator, metric, _ = MEASURES[measure]
    rows = []
    for name, records in series.items():
        for value, runs in by_value(records, field).items():
            found = interval(runs, evaluator, metric)
            percent = {key: 100 * found[key] for key in ("mean", "low", "high")}
            rows.append({field: value, "series": name, **percent, "runs": len(runs)})
    table = pd.DataFrame(rows, columns=[field, "series", "mean", "low", "high", "runs"])
    table.attrs.update(made_by="lorasam_core.chapters.comparisons.series_table", runs=run_ids(*series.values()))
    return table


# ------------------------------------------------------------------------------------------------- sentences
def comparison_sentence(table: pd.DataFrame, measure: str = "predictor_dice", noise: float = float("nan")) -> str:
    """What can and what cannot be told apart from the reference of a comparison_table.

    noise: points by which two seeds of one configuration differ (`least` of `seed_noise`); NaN: not known.
    """
    label = MEASURES[measure][2]
    if measure not in table or table[measure].notna().sum() < 2 or table.loc[table["reference"], measure].isna().any():
        return f"Too few of these runs have been measured by {label}: there is nothing to compare."
    base = table[table["reference"]].iloc[0]
    kinds: dict[str, list[str]] = {"higher": [], "lower": [], "noisy": [], "tied": [], "open": []}
    for row in table[~table["reference"] & table[measure].notna()].to_dict("records"):
        gain, low, high = (row[f"{measure}{end}"] for end in ("_gain", "_gain_low", "_gain_high"))
        kind = verdict(gain, low, high, noise)
        by = f" ({shown(gain / 100, low / 100, high / 100, sign=True)})" if kind in ("higher", "lower") else ""
        kinds[kind].append(f"*{row['name']}*{by}")
    text = [f"The {label} of *{base['name']}* is {_level(base, measure)} %."]
    if clear := [f"{kind} for {listed(kinds[kind])}" for kind in ("higher", "lower") if kinds[kind]]:
        text.append(f"By paired differences, in points, it is {', and '.join(clear)}.")
        text.append("" if math.isfinite(noise) else "What another seed would change is not in the intervals.")
    if kinds["tied"]:
        text.append(f"On these test images {listed(kinds['tied'])} cannot be told from it.")
    if kinds["noisy"]:
        text.append(f"No more than another seed might do ({noise:.1f} points): {listed(kinds['noisy'])}.")
    if kinds["open"]:
        text.append(f"There are too few groups to draw an interval for {listed(kinds['open'])}.")
    return " ".join(filter(None, text))


def smallest_sentence(table: pd.DataFrame, measure: str = "predictor_dice") -> str:
    """The row with the fewest trained numbers that is not below the reference, where it has fewer than that."""
    if measure not in table:
        return ""
    base = table[table["reference"]].iloc[0]
    rows = table[~table["reference"] & (table["trainable"] > 0) & (table["trainable"] < base["trainable"])]
    rows = rows[rows[f"{measure}_gain_high"] >= 0].sort_values("trainable")
    if not len(rows):
        return f"No row with fewer trained numbers than *{base['name']}* keeps up with its {MEASURES[measure][2]}."
    return (
        f"*{rows.iloc[0]['name']}*, with {rows.iloc[0]['trainable']:,.0f} trained numbers in place of "
        f"{base['trainable']:,.0f}, is the smallest whose {MEASURES[measure][2]} the test images do not show to be "
        f"below that of *{base['name']}*."
    )


def verdict(gain: float, low: float, high: float, noise: float = float("nan")) -> str:
    """higher or lower; tied (the interval holds zero); noisy (no more than `noise`); open (no interval)."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "open"
    if low <= 0 <= high:
        return "tied"
    return "noisy" if abs(gain) <= noise else "higher" if gain > 0 else "lower"


def seed_noise(seeds: Sequence[Record], measure: str = "predictor_dice") -> dict[str, float]:
    """What seeds alone do to a measure: n, std, range and least, in points; NaN for fewer than two.

    least: t(0.975, n - 1) * sqrt(2) * std, the difference that two single runs of this configuration, were they
    normally distributed, would exceed in one of twenty cases.
    """
    evaluator, metric, _ = MEASURES[measure]
    means = np.array([100 * interval([record], evaluator, metric)["mean"] for record in seeds])
    means = means[np.isfinite(means)]
    if len(means) < 2:
        return {"n": len(means), "std": math.nan, "range": math.nan, "least": math.nan}
    std = float(means.std(ddof=1))
    least = float(stats.t.ppf(0.975, len(means) - 1)) * math.sqrt(2) * std
    return {"n": len(means), "std": std, "range": float(np.ptp(means)), "least": least}


def noise_sentence(seeds: Sequence[Record], sweep: Sequence[Record] = (), field: str = "") -> str:
    """Standard deviation and range of the predictor's Dice over seeds; which steps of a sweep are no larger than that.

    seeds: runs of one configuration; sweep: runs of several values of `field`, beside which the study's are put.
    """
    found = seed_noise(seeds)
    if found["n"] < 2:
        return "What noise alone does is not known here: it takes two seeds of one configuration or more."
    text = [
        f"Trained from {found['n']} seeds, one configuration has a predictor Dice with a standard deviation of "
        f"{found['std']:.2f} points and a range of {found['range']:.2f}. Two single runs of it would differ by more "
        f"than {found['least']:.1f} points in one case of twenty (Student's t; degrees of freedom: "
        f"{found['n'] - 1:.0f})."
    ]
    name = SETTING_NAMES.get(field, field)
    theirs: dict[Any, float] = {}
    if sweep:
        model = sweep[0].config.model
        theirs = {v: reported(field, v, model)[0] or math.nan for v in equivalent(field, model)}
        dice = {v: 100 * interval(runs, "predictor", "dice")["mean"] for v, runs in by_value(sweep, field).items()}
        text.append(_steps_within(dice, f"of the {name}", found["least"]))
        text.append(_steps_within(theirs, f"of the {name}, as {REPORTED},", found["least"]))
    if len(theirs) > 1:
        text.append("The study gives one number a value, of another model on other data, whose noise is not known.")
    return " ".join(filter(None, text))


def steps_note(records: Sequence[Record]) -> str:
    """The budget of what is compared, how long it took, and which runs were still improving when it ended."""
    runs = [record for record in {r.run_id: r for r in records}.values() if record.metrics.get("steps")]
    if not runs:
        return ""
    steps, images, minutes = (
        [r.metrics[key] / scale for r in runs] for key, scale in (("steps", 1), ("images_seen", 1), ("seconds", 60))
    )
    count = "The one trained run" if len(runs) == 1 else f"Each of the {len(runs)} trained runs"
    text = f"{count} took {_span(steps)} steps and saw {_span(images)} images, in {_span(minutes, '.1f')} minutes."
    last = [f"*{r.config.name}*" for r in runs if r.metrics.get("best_step") == r.metrics["steps"]]
    if not last:
        return f"{text} None was at its best in its last validation."
    which = "all of them" if len(last) == len(runs) > 1 else listed(last)
    return f"{text} The last validation was the best for {which}: not converged, so that a longer run may gain."


def _steps_within(values: Mapping[Any, float], of: str, least: float) -> str:
    """Which steps between neighbouring values are no larger than the noise; an empty text for fewer than two values."""
    known = sorted((value, level) for value, level in values.items() if math.isfinite(level))
    steps = [(a, b, to - level) for (a, level), (b, to) in pairwise(known)]
    if not steps:
        return ""
    within = [f"{a:g} to {b:g} ({step:+.1f})" for a, b, step in steps if abs(step) <= least]
    if not within:
        return f"Every step between neighbouring values {of} is larger than that."
    return f"Of the steps between neighbouring values {of} these are no larger than that: {listed(within)}."


def _cells(table: pd.DataFrame, column: str, sign: bool = False) -> list[str]:
    numbers = zip(*(table[f"{column}{end}"] / 100 for end in ("", "_low", "_high")), strict=True)
    return [shown(mean, low, high, sign) for mean, low, high in numbers]


def _level(row: pd.Series, measure: str) -> str:
    mean, low, high = (float(row[f"{measure}{end}"]) / 100 for end in ("", "_low", "_high"))
    return shown(mean, low, high)


def _span(values: Sequence[float], style: str = ",.0f") -> str:
    low, high = format(min(values), style), format(max(values), style)
    return low if low == high else f"{low} to {high}"
