"""The compact model's card: its record, and the tables that pages make of it. Imports no torch.

`pretrain` writes the record beside the weights; `pretrain.measure` says how each number was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.stats import shown

CARD = Path(__file__).parents[1] / "weights" / "lite.json"
IMAGES = {"scenes": "generated scenes", "synthetic": "generated particles", "emps": "EMPS"}
MEASURES = {  # name in the record: row of the table
    "foreground_dice": "whole-image box: Dice of the foreground",
    "point_best_iou": "one point: IoU, best of three masks",
    "point_rated_iou": "one point: IoU, mask the model rates best",
    "corrected_iou": "one point and two corrections: IoU, single mask",
    "box_iou": "box, 5 % jitter: IoU, single mask",
    "iou_error": "IoU head: mean absolute error",
    "correlation": "all masks of 256 points: correlation of predicted with true IoU",
    "recall": "all masks of 256 points: true masks found at IoU 0.5",
    "f1": "masks chosen by predicted IoU x stability: F1 at IoU 0.5",
    "ap50": "masks chosen by predicted IoU x stability: AP50",
}
TARGETS = {  # what the base was to reach at least, and the aim
    "emps": {
        "foreground_dice": (0.82, 0.88), "point_best_iou": (0.65, 0.75), "point_rated_iou": (0.57, 0.70),
        "box_iou": (0.76, 0.82), "correlation": (0.55, 0.70), "recall": (0.80, 0.90), "f1": (0.57, 0.70),
    },
    "scenes": {
        "point_best_iou": (0.60, 0.72), "point_rated_iou": (0.50, 0.64), "box_iou": (0.68, 0.80),
        "iou_error": (0.12, 0.08),
    },
}  # fmt: skip


def read_card(path: Path = CARD) -> Mapping[str, Any]:
    """Recipe, device, hash of weights and base, and `pretrain.measure`'s numbers."""
    card: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def read_curve(path: Path = CARD) -> pd.DataFrame:
    """One row every fifty steps: phase, step (of all phases together), loss, iou_point, iou_box, iou_error, ..."""
    return pd.read_csv(path.with_suffix(".csv"))


def card_table(card: Mapping[str, Any]) -> pd.DataFrame:
    """The measures as the reader sees them: a row a measure, a column a kind of image, % with 95 % interval.

    Means of prompts are over objects. Beside EMPS and scenes stand what was to be reached there and the aim.
    """
    names = [name for name in IMAGES if name in card["measures"]]
    rows = []
    for measure, label in MEASURES.items():
        row = {"measure, %": label}
        for name in names:
            row[IMAGES[name]] = _cell(card["measures"][name][measure])
            if name in TARGETS:
                least, aim = TARGETS[name].get(measure, (np.nan, np.nan))
                row[f"{IMAGES[name]}: at least, aim"] = (
                    "–" if np.isnan(least) else f"{100 * least:.0f}, {100 * aim:.0f}"
                )
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs.update(made_by="lorasam_core.report.model_card.card_table")
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
    table.attrs.update(made_by="lorasam_core.report.model_card.card_rows")
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


def _cell(found: Mapping[str, float]) -> str:
    return shown(found["mean"], found["low"], found["high"])
