"""The compact model's card, which `pretrain` writes beside the weights. Imports no torch.

`pretrain.measure` says how each number was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

CARD = Path(__file__).parents[1] / "weights" / "lite.json"


def read_card(path: Path = CARD) -> Mapping[str, Any]:
    """Recipe, device, hash of weights and base, and `pretrain.measure`'s numbers."""
    card: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def read_curve(path: Path = CARD) -> pd.DataFrame:
    """One row every fifty steps: phase, step (of all phases together), loss, iou_point, iou_box, iou_error, ..."""
    return pd.read_csv(path.with_suffix(".csv"))
