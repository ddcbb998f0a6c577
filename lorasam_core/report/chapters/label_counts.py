"""How many labelled images a method needs: tables and sentences by number of training images. Imports no torch.

Levels are in %, differences in points, with bootstrap 95 % intervals over groups; differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from lorasam_core.experiments.records import Record
from lorasam_core.report.chapters.comparisons import MEASURES
from lorasam_core.report.phrases import difference, listed
from lorasam_core.report.tables import interval, paired, run_ids, shown
from lorasam_core.stats import judge, seed_limit

SERIES = {"lora": "adapted", "unet": "U-Net"}  # method -> the name of its line
ASKED = ("predictor_dice", "f1", "ap50")
Counts = dict[str, dict[int, list[Record]]]


def by_count(records: Sequence[Record], total: int) -> Counts:
    """Series (adapted, U-Net) -> number of training images, ascending -> runs; without a limit, all `total` images."""
    found: Counts = {name: {} for name in SERIES.values()}
    for record in {r.run_id: r for r in records if r.config.method in SERIES}.values():
        count = min(record.config.train_limit or total, total)
        found[SERIES[record.config.method]].setdefault(count, []).append(record)
    return {name: dict(sorted(counts.items())) for name, counts in found.items() if counts}


def label_table(records: Sequence[Record], total: int, measures: Sequence[str] = ASKED) -> pd.DataFrame:
    """One row a series and number of training images: images, series, runs, and for each measure MEASURE, _low, _high
    (%), NaN where it was not measured.
    """
    rows = []
    for name, counts in by_count(records, total).items():
        for count, runs in counts.items():
            row: dict[str, object] = {"images": count, "series": name, "runs": len(runs)}
            for measure in measures:
                found = interval(runs, *MEASURES[measure][:2])
                for key, end in (("mean", ""), ("low", "_low"), ("high", "_high")):
                    row[measure + end] = 100 * found[key]
            rows.append(row)
    columns = ["images", "series", "runs", *(f"{m}{end}" for m in measures for end in ("", "_low", "_high"))]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(made_by="lorasam_core.report.chapters.label_counts.label_table", runs=run_ids(records))
    return table


def label_display(table: pd.DataFrame, measures: Sequence[str] = ASKED) -> pd.DataFrame:
    """A label_table as the reader sees it: a row a number of images, a column a measure and series."""
    out = pd.DataFrame({"training images": sorted(set(table["images"]))})
    for measure in measures:
        for name in dict.fromkeys(table["series"]):
            rows = table[(table["series"] == name) & table[measure].notna()].set_index("images")
            if len(rows):
                numbers = zip(*(rows[f"{measure}{end}"] / 100 for end in ("", "_low", "_high")), strict=True)
                cells = dict(zip(rows.index, (shown(*three) for three in numbers), strict=True))
                out[f"{MEASURES[measure][2]}, %: {name}"] = [cells.get(n, "–") for n in out["training images"]]
    out.attrs.update(table.attrs)
    return out


def enough_sentence(
    records: Sequence[Record], total: int, frozen: Sequence[Record] = (), measure: str = "predictor_dice",
    noise: float = float("nan"),
) -> str:  # fmt: skip
    """From how many images on the adapted model is not below that of all images, and what the first ones bring.

    Nothing of that is said where the adapted model of all images is not above the frozen one. noise: points by which
    two single runs of one configuration may differ; NaN: not known.
    """
    evaluator, metric, label = MEASURES[measure]
    runs = by_count(records, total).get("adapted", {})
    levels = {count: interval(some, evaluator, metric)["mean"] for count, some in runs.items()}
    levels = {count: level for count, level in levels.items() if math.isfinite(level)}
    if len(levels) < 2 or total not in levels:
        return f"Too few numbers of training images have been run to say how many the {label} needs."
    most, base = levels[total], interval(frozen, evaluator, metric)["mean"] if frozen else math.nan
    text = [f"With all {total} training images the {label} of the adapted model is {100 * most:.1f} %."]
    if math.isfinite(base):
        gain = difference(*paired(frozen, runs[total], evaluator, metric))
        kind = _verdict(frozen, runs[total], measure, noise)
        if kind != "higher":
            why = " on these images, no more than images and seeds may do together" if kind == "noisy" else ""
            return f"{text[0]} Against the frozen model that is {gain}{why}: no number of images is shown to be enough."
        fewer = {count: level - base for count, level in levels.items() if count < total}
        shares = [f"{round(100 * by / (most - base))} % with {n}" for n, by in fewer.items() if by > 0]
        text.append(
            f"Against the frozen model that is {gain}{f'; of this gain it has {listed(shares)}' * bool(shares)}."
        )
        under = {n: _verdict(frozen, runs[n], measure, noise) for n, by in fewer.items() if by <= 0}
        for told, words in ((True, "lower than"), (False, "no higher than")):
            if some := [
                f"{n} ({100 * fewer[n]:+.1f} points)" for n, kind in under.items() if (kind == "lower") == told
            ]:
                text.append(f"With {listed(some)} it is {words} the frozen model's.")
    kinds = {count: _verdict(runs[total], runs[count], measure, noise) for count in levels if count < total}
    if "open" in kinds.values():
        return " ".join([*text, "There are too few groups to draw intervals of the differences."])
    if above := [count for count, kind in kinds.items() if kind == "higher"]:
        text.append(f"It is higher than that with {_images(above)}.")
    return " ".join([*text, _from_on([count for count, kind in kinds.items() if kind == "lower"], list(kinds), total)])


def catch_up_sentence(
    records: Sequence[Record], total: int, measure: str = "predictor_dice", noise: float = float("nan")
) -> str:
    """At which numbers of images the adapted model or the U-Net leads, and from which on the adapted model's lead ends.

    The U-Net has caught up only where from there on it leads at some number.
    """
    label, series = MEASURES[measure][2], by_count(records, total)
    adapted, rival = series.get("adapted", {}), series.get("U-Net", {})
    both = [count for count in adapted if count in rival]
    kinds = {count: _verdict(rival[count], adapted[count], measure, noise) for count in both}
    kinds = {count: kind for count, kind in kinds.items() if kind != "open"}
    if not kinds:
        return f"The {label} of the adapted model and of a U-Net cannot be compared here."
    ahead, behind = ([count for count, kind in kinds.items() if kind == k] for k in ("higher", "lower"))
    level = [count for count in kinds if count not in ahead + behind]
    text = []
    for counts, words in (
        (ahead, "the adapted model leads"),
        (level, "the two cannot be told apart"),
        (behind, "the U-Net leads"),
    ):
        if counts:
            text.append(f"{words} with {_images(counts)}")
    first = next((n for n in kinds if all(m not in ahead for m in kinds if m >= n)), None)
    if first is None:
        answer = f"The U-Net has not caught up with {_images([max(kinds)])}."
    elif not any(count >= first for count in behind):
        answer = f"From {_images([first])} on no lead of the adapted model can be shown."
    elif first == min(kinds):
        answer = f"The U-Net is level or ahead from the smallest of these numbers on, {_images([first])}."
    else:
        answer = f"The U-Net has caught up from {_images([first])} on."
    return f"By {label}, {'; '.join(text)}. {answer}"


def _verdict(before: Sequence[Record], after: Sequence[Record], measure: str, noise: float) -> str:
    """`stats.judge` of after - before; open where one of them was not measured. Only what is trained has seeds."""
    evaluator, metric, _ = MEASURES[measure]
    if not all(math.isfinite(interval(runs, evaluator, metric)["mean"]) for runs in (before, after)):
        return "open"
    gain, low, high = (100 * value for value in paired(before, after, evaluator, metric))
    seeds = [sum(record.config.method in SERIES for record in runs) for runs in (before, after)]
    return judge(gain, low, high, seed_limit(noise, *seeds))


def _from_on(below: Sequence[int], fewer: Sequence[int], total: int) -> str:
    """The smallest number of images from which on nothing is shown to be lost; below: those below all images."""
    enough = [count for count in fewer if count > max(below, default=0)]
    if enough:
        return f"From {_images([min(enough)])} on it is not shown to be lower than with all {total}."
    if list(below) == list(fewer):
        return f"Each smaller number, up to {max(fewer)}, is below that: more labels still help."
    return f"With {_images([max(fewer)])} it is still below that with all {total}."


def _images(counts: Sequence[int]) -> str:
    return f"{listed(map(str, counts))} image{'' if list(counts) == [1] else 's'}"
