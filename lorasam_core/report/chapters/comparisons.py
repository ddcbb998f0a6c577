"""Runs of several configurations side by side: tables of plain numbers, their text, and what they can tell apart.

Imports no torch. Levels are in %, differences in points; intervals are bootstrap 95 % intervals over groups. A
difference is claimed where its paired interval excludes zero, and still does with the noise of seeds added where that
is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.config import UNRATED, RunConfig
from lorasam_core.experiments.records import Record
from lorasam_core.report import findings
from lorasam_core.report.phrases import listed
from lorasam_core.report.tables import interval, paired, run_ids, shown, training_of
from lorasam_core.stats import judge, seed_limit

MEASURES = {  # column: evaluator, column of per_image.csv, words
    "predictor_dice": ("predictor", "dice", "predictor Dice"),
    "point_iou": ("point", "iou_rated", "point IoU"),
    "box_iou": ("box", "iou_rated", "box IoU"),
    "generator_dice": ("generator", "dice", "mask generator Dice"),
    "ap50": ("generator", "ap50", "AP50"),
    "f1": ("generator", "f1", "F1"),
    "pq": ("generator", "pq", "PQ"),
    "tuned_f1": ("generator_tuned", "f1", "F1 with thresholds by validation"),
}


def _greatest_of_all(values: Sequence[float]) -> float:
    """The greatest, 0 where one of them is not known (0)."""
    return max(values) if all(values) else 0


COSTS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (  # column, key in metrics.json, over seeds
    ("trainable", "trainable_parameters", max), ("steps", "steps", max), ("images_seen", "images_seen", max),
    ("minutes", "seconds", np.mean), ("peak_memory_mb", "peak_memory_mb", max),
    ("training_memory_mb", "training_memory_mb", _greatest_of_all),
)  # fmt: skip
UNKNOWN = dict.fromkeys(("mean", "low", "high"), float("nan"))
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
    steps, images_seen, minutes (mean), peak_memory_mb (greatest, of the whole run), training_memory_mb (greatest,
    with its validations; 0: nothing was trained, or an older record is among the runs). NaN where something was not
    measured.
    """
    found = groups(records)
    names = [runs[0].config.name for runs in found]
    place = names.index(reference) if reference in names else 0
    columns: dict[str, list[Any]] = {"name": names, "runs": [len(runs) for runs in found]}
    columns["reference"] = [i == place for i in range(len(found))]
    for measure in measures:
        evaluator, metric, _ = MEASURES[measure]
        levels = [interval(runs, evaluator, metric) for runs in found]
        if measure == "generator_dice":  # of what has no mask generator it is the predictor's once more
            levels = [UNKNOWN if runs[0].config.method in UNRATED else at for runs, at in zip(found, levels)]
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
    table.attrs.update(made_by="lorasam_core.report.chapters.comparisons.comparison_table", runs=run_ids(records))
    return table


def measured(table: pd.DataFrame, measures: Sequence[str]) -> tuple[str, ...]:
    """Those of the measures that the reference of a comparison_table has, in order."""
    return tuple(m for m in measures if m in table and table.loc[table["reference"], m].notna().all())


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


def _training_memory_known(table: pd.DataFrame) -> bool:
    """Whether each row of a comparison_table that trained states the memory of that alone; older records do not."""
    trained = table[table["trainable"] > 0]
    return len(trained) > 0 and bool((trained["training_memory_mb"] > 0).all())


def cost_note(table: pd.DataFrame) -> str:
    """What a caption of cost_display must say of its times and memory."""
    memory = (
        "Peak memory is that of training, validations included: on a CPU of the whole process, with libraries and "
        "images, on a GPU what was allocated there."
        if _training_memory_known(table)
        else "Peak memory is that of training and of all that was evaluated, which was more for main runs: no measure "
        "of training alone."
    )
    return f"Wall time of runs that may have shared the processor is no measure of speed; see *Speed*. {memory}"


def cost_display(table: pd.DataFrame) -> pd.DataFrame:
    """What each row of a comparison_table cost: trained numbers, steps, images, whole minutes, peak memory (of training
    where all that trained state it).
    """
    training = _training_memory_known(table)
    out = pd.DataFrame({"run": table["name"]})
    for column, label, style in (
        ("trainable", "trainable parameters", ",.0f"), ("steps", "steps", ",.0f"),
        ("images_seen", "images seen", ",.0f"), ("minutes", "minutes", ",.0f"),
        ("training_memory_mb", "peak memory of training, MB", ",.0f") if training
        else ("peak_memory_mb", "peak memory, MB", ",.0f"),
    ):  # fmt: skip
        out[label] = [format(value, style) if value else "–" for value in table[column]]
    out["minutes"] = out["minutes"].replace("0", "under 1")
    out.attrs.update(table.attrs)
    return out


# ------------------------------------------------------------------------------------------------- sentences
def comparison_sentence(table: pd.DataFrame, measure: str = "predictor_dice", noise: float = float("nan")) -> str:
    """What can and what cannot be told apart from the reference of a comparison_table.

    noise: points by which two single runs of one configuration may differ (`least` of `seed_noise`); NaN: not known.
    """
    label = MEASURES[measure][2]
    if measure not in table or table[measure].notna().sum() < 2 or table.loc[table["reference"], measure].isna().any():
        return f"Too few of these runs have been measured by {label}: there is nothing to compare."
    base = table[table["reference"]].iloc[0]
    rows = table.assign(kind=verdicts(table, measure, noise))[~table["reference"] & table[measure].notna()]
    kinds: dict[str, list[str]] = {"higher": [], "lower": [], "noisy": [], "tied": [], "open": []}
    for row in rows.to_dict("records"):
        gain, low, high = (row[f"{measure}{end}"] / 100 for end in ("_gain", "_gain_low", "_gain_high"))
        by = f" ({shown(gain, low, high, sign=True)})" if row["kind"] not in ("tied", "open") else ""
        kinds[row["kind"]].append(f"*{row['name']}*{by}")
    text = [f"The {label} of *{base['name']}* is {_level(base, measure)} %."]
    if clear := [f"{kind} for {listed(kinds[kind])}" for kind in ("higher", "lower") if kinds[kind]]:
        text.append(f"By paired differences, in points, it is {', and '.join(clear)}.")
        text.append("" if math.isfinite(noise) else "What another seed would change is not in the intervals.")
    if kinds["tied"]:
        text.append(f"No detectable difference on these test images: {listed(kinds['tied'])}.")
    if kinds["noisy"]:
        text.append(f"No more than other images and other seeds may do together: {listed(kinds['noisy'])}.")
    if kinds["open"]:
        text.append(f"There are too few groups to draw an interval for {listed(kinds['open'])}.")
    return " ".join(filter(None, text))


def smallest_sentence(table: pd.DataFrame, measure: str = "predictor_dice", noise: float = float("nan")) -> str:
    """The row with the fewest trained numbers that is not below the reference, where it has fewer than that.

    An empty text where no row with fewer has an interval.
    """
    if measure not in table:
        return ""
    base = table[table["reference"]].iloc[0]
    judged = table.assign(kind=verdicts(table, measure, noise), limit=seed_limits(table, noise))
    rows = judged[(table["trainable"] > 0) & ~table["reference"]]
    rows = rows[(rows["trainable"] < base["trainable"]) & (rows["kind"] != "open")].sort_values("trainable")
    if not len(rows):
        return ""
    rows = rows[rows["kind"] != "lower"]
    if not len(rows):
        return f"No row with fewer trained numbers than *{base['name']}* keeps up with its {MEASURES[measure][2]}."
    gain, low, high = (float(rows.iloc[0][f"{measure}_gain{end}"]) / 100 for end in ("", "_low", "_high"))
    limit = float(rows.iloc[0]["limit"])
    return (
        f"*{rows.iloc[0]['name']}*, with {rows.iloc[0]['trainable']:,.0f} trained numbers in place of "
        f"{base['trainable']:,.0f}, is the smallest whose {MEASURES[measure][2]} is not shown to be below that of "
        f"*{base['name']}*: it lies {shown(gain, low, high, sign=True)} points from it."
        f"{_not_excluded(gain, low, limit)}"
    )


def _not_excluded(gain: float, low: float, limit: float) -> str:
    """The loss that images, and seeds where their limit (points) is known, leave possible: no proof of equality."""
    least = 100 * gain - math.hypot(100 * (gain - low), limit if math.isfinite(limit) else 0)
    if least >= 0:
        return ""
    seeds = "other images and seeds" if math.isfinite(limit) else "other images"
    return f" With {seeds} a loss of up to {-least:.1f} points is not excluded: not shown to differ is not shown equal."


def seed_limits(table: pd.DataFrame, noise: float) -> list[float]:
    """For each row of a comparison_table what seeds alone may do to its difference to the reference, in points.

    noise: that of two single runs, taken to be the same for every row that is trained; a row without steps has none.
    """
    seeds = (table["runs"] * (table["steps"] > 0)).astype(int)
    base = int(seeds[table["reference"]].iloc[0]) if len(table) else 0
    return [seed_limit(noise, base, own) for own in seeds]


def verdicts(table: pd.DataFrame, measure: str, noise: float) -> list[str]:
    """`stats.judge` of each row of a comparison_table against its reference (which is open itself)."""
    gains = zip(*(table[f"{measure}{end}"] for end in ("_gain", "_gain_low", "_gain_high")), strict=True)
    limits = seed_limits(table, noise)
    return [judge(gain, low, high, limit) for (gain, low, high), limit in zip(gains, limits, strict=True)]


def seed_noise(seeds: Sequence[Record], measure: str = "predictor_dice") -> dict[str, float]:
    """`findings.seed_noise` of one of MEASURES: n, std, range and least, in points."""
    return findings.seed_noise(seeds, *MEASURES[measure][:2])


def _cells(table: pd.DataFrame, column: str, sign: bool = False) -> list[str]:
    numbers = zip(*(table[f"{column}{end}"] / 100 for end in ("", "_low", "_high")), strict=True)
    return [shown(mean, low, high, sign) for mean, low, high in numbers]


def _level(row: pd.Series, measure: str) -> str:
    mean, low, high = (float(row[f"{measure}{end}"]) / 100 for end in ("", "_low", "_high"))
    return shown(mean, low, high)
