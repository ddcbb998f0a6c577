"""The compact model's card: its record, and the tables that pages make of it. Imports no torch.

`pretraining` writes the record beside the weights; `base_measures` says how each number was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.metrics import bootstrap_interval
from lorasam_core.phrases import listed
from lorasam_core.records import Edition, Record
from lorasam_core.tables import adapted_runs, frozen_runs, run_ids, shown, test_rows

CARD = Path(__file__).parent / "weights" / "vit_t.json"
IMAGES = {"scenes": "generated scenes", "synthetic": "generated particles", "emps": "EMPS, test"}
LARGE = "objects at least 1/16 of the image's side across"
MEASURES = {  # name in the record: row of the table
    "point_best_iou": "one point: IoU, best of three masks",
    "point_rated_iou": "one point: IoU, mask the model rates best",
    "corrected_iou": "one point and two corrections: IoU, single mask",
    "box_iou": "box, 5 % jitter: IoU, single mask",
    "iou_error": "IoU head: mean absolute error",
    "ap50": f"mask generator, 32 points a side: AP50, {LARGE}",
    "ap50_all": "mask generator, 32 points a side: AP50",
    "foreground_dice": "whole-image box: Dice of the foreground",
}
TARGETS = {  # of the prompts on scenes: trained on a GPU, on two CPU cores
    "point_best_iou": (0.80, 0.60), "point_rated_iou": (0.72, 0.50), "box_iou": (0.85, 0.65), "iou_error": (0.08, 0.12),
    "ap50": (0.50, 0.25),
}  # fmt: skip
LEAD, CLEAR = "scenes lead frozen by, points", "beyond its interval"  # columns of gap_table
SAME_QUESTION = {  # measure of the card: evaluator and column of a run
    "foreground_dice": ("predictor", "dice"),
    "point_best_iou": ("point", "iou_best"),
    "point_rated_iou": ("point", "iou_rated"),
    "box_iou": ("box", "iou_rated"),
}


def read_card(path: Path = CARD) -> Mapping[str, Any]:
    """Recipe, device, hash of weights and base, and `base_measures.measure`'s numbers."""
    card: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def read_curve(path: Path = CARD) -> pd.DataFrame:
    """One row every ten steps: phase, step (of all phases together), loss, iou_point, iou_box, iou_error."""
    curve = pd.read_csv(path.with_suffix(".csv"))
    ends = curve.groupby("phase", sort=False)["step"].max()
    return curve.assign(step=curve["step"] + curve["phase"].map(ends.cumsum() - ends))


def card_table(card: Mapping[str, Any]) -> pd.DataFrame:
    """The measures as the reader sees them: a row a measure, a column a kind of image, % with 95 % interval.

    The measures of prompts are means over all objects, and again over the large ones.
    """
    names = [name for name in IMAGES if name in card["measures"]]
    rows = []
    for measure, label in MEASURES.items():
        versions = {measure: label}
        if f"large_{measure}" in card["measures"][names[0]]:
            versions[f"large_{measure}"] = f"{label}, {LARGE}"
        for key, text in versions.items():
            cells = {IMAGES[name]: _cell(card["measures"][name][key]) for name in names}
            goals = TARGETS.get(key)
            goal = f"{100 * goals[1]:.0f}, {100 * goals[0]:.0f}" if goals else "–"
            rows.append({"measure, %": text, **cells, "aim on scenes: CPU, GPU": goal})
    table = pd.DataFrame(rows)
    table.attrs.update(made_by="lorasam_core.model_card.card_table")
    return table


def card_rows(card: Mapping[str, Any]) -> pd.DataFrame:
    """The same as long rows for a file or a chart: metric, series (kind of image), mean, low, high in %, n."""
    rows = [
        {"metric": label, "series": IMAGES[name]}
        | {key: 100 * card["measures"][name][measure][key] for key in ("mean", "low", "high")}
        | {"n": card["measures"][name][measure]["n"]}
        for measure, label in MEASURES.items()
        for name in IMAGES
        if name in card["measures"]
    ]
    table = pd.DataFrame(rows)
    table.attrs.update(made_by="lorasam_core.model_card.card_rows")
    return table


def size_rows(card: Mapping[str, Any], measure: str) -> pd.DataFrame:
    """IoU (0 to 1) by size, long: side (lower bound of a bin, % of the image's side), series, iou, objects.

    measure: point_best_iou, point_rated_iou or box_iou. Bins of fewer than 20 objects, and the one from 0 on, are left
    out.
    """
    rows = [
        {"side": 100 * side, "series": IMAGES[name], "iou": iou, "objects": n}
        for name in IMAGES
        if name in card["measures"]
        for side, iou, n in zip(
            *(card["measures"][name]["by_size"][key] for key in ("side", measure, "n")), strict=True
        )
        if side > 0 and n >= 20
    ]
    return pd.DataFrame(rows)


def gap_table(edition: Edition, card: Mapping[str, Any]) -> pd.DataFrame:
    """The base on scenes and on the edition's test images, and the main configuration there, as text in %.

    A row a question that card and runs both ask: metric, scenes, frozen, adapted, how far the scenes lead the frozen
    model (points), and whether that lead is clear of the frozen model's interval. As the card's, the runs' means are
    over objects, with intervals over groups; the Dice of the foreground is over images in both. No row where the
    edition has no adapted run, or another base than the card's.
    """
    columns = ["metric, %", "scenes", "frozen", "adapted", LEAD, CLEAR]
    rows, runs = [], []
    adapted_records = _adapted(edition)
    if adapted_records and "scenes" in card["measures"] and edition.info.get("base_hash") == card["base_hash"]:
        runs = [frozen_runs(edition), adapted_records]
        for measure, (evaluator, metric) in SAME_QUESTION.items():
            scenes = card["measures"]["scenes"][measure]
            frozen, adapted = (_over_objects(records, evaluator, metric) for records in runs)
            if not np.isfinite([frozen[0], adapted[0]]).all():
                continue
            lead = f"{100 * (scenes['mean'] - frozen[0]):+.1f}"
            clear = "yes" if scenes["mean"] > frozen[2] else "no"  # NaN for a single group
            values = (MEASURES[measure], _cell(scenes), shown(*frozen), shown(*adapted), lead, clear)
            rows.append(dict(zip(columns, values, strict=True)))
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(made_by="lorasam_core.model_card.gap_table", runs=run_ids(*runs))
    return table


def gap_sentence(table: pd.DataFrame) -> str:
    """What a `gap_table` says in words; an empty text for an empty one."""
    if table.empty:
        return ""
    clear = table.loc[table[CLEAR] == "yes", "metric, %"]
    which = f": {listed(f'*{name}*' for name in clear)}" if len(clear) else ""
    text = (
        f"In {len(clear)} of {len(table)} questions the frozen model does better on scenes than on these particles, "
        f"beyond its interval{which}."
    )
    if len(clear) < len(table):
        text += (
            " In the others no gap between the two is shown: the objects of scenes are often faint, small or parts of "
            "others. What adapting gains there may be more training of a weak base, and not the closing of a gap."
        )
    return text


def aims_sentence(card: Mapping[str, Any]) -> str:
    """Which of the TARGETS for training on two CPU cores the base reached on scenes."""
    reached = [
        MEASURES[measure]
        for measure, (_, aim) in TARGETS.items()
        if (card["measures"]["scenes"][measure]["mean"] - aim) * (-1 if measure == "iou_error" else 1) >= 0
    ]
    if not reached:
        return f"Of the {len(TARGETS)} aims for training on two CPU cores the base reached none."
    names = listed(f"*{name}*" for name in reached)
    return f"Of the {len(TARGETS)} aims for training on two CPU cores the base reached {len(reached)}: {names}."


def _over_objects(records: Sequence[Record], evaluator: str, metric: str) -> tuple[float, float, float]:
    """Mean over objects and its interval over groups: each image counts as often as it has prompted objects (`n`)."""
    rows = test_rows(records, evaluator, metric)
    asked = records[0].per_image if records else pd.DataFrame({"evaluator": []})
    asked = asked[asked["evaluator"] == evaluator]
    if "n" in asked and asked["n"].notna().any():
        rows = rows.merge(asked[["id", "n"]], on="id")
        rows = rows.loc[rows.index.repeat(rows["n"].astype(int))]
    rows = rows[rows[metric].notna()]
    return bootstrap_interval(rows[metric].to_numpy(float), rows["group"].to_numpy())


def _adapted(edition: Edition) -> list[Record]:
    try:
        return adapted_runs(edition)
    except ValueError:  # none is done yet
        return []


def _cell(found: Mapping[str, float]) -> str:
    return shown(found["mean"], found["low"], found["high"])
