"""What the tables of particle sizes show, in words that claim no more than their intervals. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.report.chapters.sizes import DISTANCES, NAMES, Series
from lorasam_core.report.phrases import difference, listed
from lorasam_core.report.tables import interval, shown

FEW = 10  # particles of an image: of fewer, D10 and D90 say little
SPECK = 25  # pixels of area: a particle under it may be what a mask above left of another
NONE = "The runs of this edition kept no particle sizes; runs that use the mask generator keep them now."


def size_sentence(errors: pd.DataFrame) -> str:
    """What `size_errors` say of the adapted model: its error in D50, its bias, the worst quantity, the change."""
    table = errors[(errors["series"] == "adapted") & ~errors["quantity"].isin(DISTANCES)]
    rows: dict[str, Any] = {row["quantity"]: row for _, row in table.iterrows()}
    if not rows:
        return NONE
    text = []
    if "D50" in rows:
        d50 = rows["D50"]
        text.append(
            f"The adapted model's D50 is off by {shown(*_three(d50, 'size'))} % in the mean over {d50['n']} test "
            f"images, and by at most {shown(d50['half'])} % in half of them."
        )
    high = [_name(q) for q, row in rows.items() if row["error_low"] > 0]
    low = [_name(q) for q, row in rows.items() if row["error_high"] < 0]
    sides = [f"{side} for {listed(names)}" for side, names in (("above zero", high), ("below zero", low)) if names]
    unknown = [_name(q) for q, row in rows.items() if not np.isfinite(row["error_low"])]
    if sides:
        text.append(f"Its mean error is {'; '.join(sides)} (the 95 % interval excludes zero).")
    elif not unknown:
        text.append("None of its mean errors differs detectably from zero: nothing shows that it reads high or low.")
    if unknown:
        text.append(f"There are too few groups for an interval of its mean error in {listed(unknown)}.")
    worst = max(rows, key=lambda q: float(rows[q]["size"]))
    text.append(f"The largest mean absolute error is that of the {_name(worst)}, {shown(rows[worst]['size'])} %.")
    for q, where in (("D50", "in which both models find whole particles"), ("count", "with whole labelled particles")):
        if q in rows and np.isfinite(rows[q]["change"]):
            said = difference(*_three(rows[q], "change"), "rises by", "falls by", "changes by")
            said = said.replace(" points", " percentage points")
            text.append(
                f"Against the frozen model the absolute error of the {_name(q)} {said} (on the "
                f"{rows[q]['change_n']:.0f} images {where})."
            )
    return " ".join(text)


def filters_sentence(series: Series) -> str:
    """Which masks the sizes are those of: the runs' own thresholds, and how many masks an image these let pass."""
    runs = [record for records in series.values() for record in records if len(record.table("particles"))]
    if not runs:
        return ""
    own = next(filter(None, (record.metrics.get("filters", {}).get("own") for record in runs)), None)
    pair = f"the thresholds of the setting `{runs[0].config.generator}`"
    if own:
        rated, stable = own["pred_iou_thresh"], own["stability_score_thresh"]
        pair = f"a predicted IoU above {rated:g} and a stability of at least {stable:g}"
    counts = {name: interval(records, "generator", "n_pred")["mean"] for name, records in series.items()}
    masks = listed(f"{count:.1f} of the {name} model" for name, count in counts.items() if np.isfinite(count))
    true = interval(runs[:1], "generator", "n_true")["mean"]
    return (
        f"These are the sizes of the masks that passed the filters of the runs' own mask generator: {pair}, one pair "
        f"for all models, not chosen on these images. An image has {masks} in the mean, and {true:.1f} labelled "
        "particles. Other filters give other sizes."
    )


def beside_sentence(errors: pd.DataFrame, others: Sequence[str]) -> str:
    """The absolute error in D50 and number of other series in `size_errors`, beside the adapted model's; an empty text
    where none of them is there.
    """
    rows: dict[Any, Any] = errors.set_index(["quantity", "series"]).to_dict("index")
    text = []
    for other in others:
        parts = [
            f"{shown(*_three(rows[q, other], 'size'))} % in the {_name(q)}"
            for q in ("D50", "count")
            if (q, other) in rows and (q, "adapted") in rows
        ]
        if parts:
            text.append(f"The mean absolute error of *{other}* is {listed(parts)}.")
    if text:
        text.append("No interval of a difference to the adapted model was drawn.")
    return " ".join(text)


def few_sentence(series: Series) -> str:
    """How many whole particles the labels of a test image hold, and in how many images these are under FEW."""
    tables = [table for records in series.values() for record in records if len(table := record.table("particles"))]
    if not tables:
        return ""
    whole = tables[0][~tables[0]["touches_border"].astype(bool)]  # labels are the same for every run
    true = whole[whole["source"] == "true"].groupby("id").size()
    if true.empty:
        return ""
    text = (
        f"The median number of whole labelled particles is {true.median():g} an image, in the {len(true)} test images "
        "that have any."
    )
    if few := int((true < FEW).sum()):
        text += (
            f" In {few} of these there are fewer than {FEW}: their D10 and D90 are little more than the smallest and "
            "the largest particle."
        )
    return text


def speck_sentence(series: Series) -> str:
    """How many of the whole particles are under SPECK, labelled and found, in images that are measured in pixels."""
    shares: dict[str, float] = {}
    for name, records in series.items():
        tables = [table for record in records if len(table := record.table("particles"))]
        if not tables:
            continue
        found = pd.concat(tables)
        found = found[(found["unit"] == "px") & ~found["touches_border"].astype(bool)]
        specks = (np.pi / 4 * found["diameter"] ** 2).round() < SPECK
        for source, label in (("true", "whole labelled particles"), ("predicted", f"{name} model's")):
            if (part := specks[found["source"] == source]).size:
                shares.setdefault(label, part.mean())
    if not shares:
        return ""
    counts = listed(f"{shown(share)} % of the {label}" for label, share in shares.items())
    return (
        "Where masks overlap, the one rated higher is on top; what remains of the other counts as a particle, however "
        f"small. In the images that are measured in pixels, {counts} are under {SPECK} pixels of area."
    )


def pooled_sentence(rows: pd.DataFrame) -> str:
    """What `pooled_rows` say: where the adapted model's distribution differs most from the labels', and by how much."""
    found: dict[Any, dict[Any, float]] = rows.set_index("series").astype(float).to_dict("index")
    there = [name for name, values in found.items() if np.isfinite(values["wasserstein"])]
    if "adapted" not in there:
        return "The adapted model's particles cannot be compared with the labels here."
    ratios = {name: found["adapted"][name] / found["labels"][name] - 1 for name in ("D10", "D50", "D90")}
    shares = listed(f"{name} by {shown(ratio, sign=True)} %" for name, ratio in ratios.items())
    text = f"Over all particles the adapted model's figures differ from the labels': {shares}. The largest of these "
    text += f"differences is that of {max(ratios, key=lambda name: abs(ratios[name]))}."
    if "frozen" in there:
        before, after = (found[name]["wasserstein"] for name in ("frozen", "adapted"))
        text += (
            f" Its distribution lies {shown(after)} % of a mean diameter from that of the labels, the frozen model's "
            f"{shown(before)} %. These pooled numbers have no intervals."
        )
    return text


def _three(row: Mapping[str, Any] | pd.Series, name: str) -> tuple[float, float, float]:
    return float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"])


def _name(quantity: str) -> str:
    return NAMES.get(quantity, quantity)
