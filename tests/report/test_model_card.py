"""The compact model's card: that it is of the weights in the package."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from lorasam_core.models.sam import WEIGHTS, WEIGHTS_SHA256, load_sam
from lorasam_core.report.model_card import read_card, read_curve


def test_the_card_is_that_of_the_weights():
    """The committed numbers are of the file that load_sam checks by its hash."""
    card = read_card()
    assert card["weights_sha256"] == WEIGHTS_SHA256
    scenes = card["measures"]["scenes"]
    assert (
        scenes["point_best_iou"]["n"] >= 500
        and card["measures"]["emps"]["recall"]["n"] == 24
        and set(card["measures"]) >= {"scenes", "synthetic", "emps"}
    )
    assert scenes["point_best_iou"]["mean"] >= scenes["point_rated_iou"]["mean"]
    assert card["base_hash"] == load_sam("lite").base_hash
    with safe_open(WEIGHTS, "pt") as file:
        inside = {key: json.loads(value) for key, value in file.metadata().items()}
    assert inside == {key: value for key, value in card.items() if key not in ("weights_sha256", "base_hash")}


def test_the_curve_runs_through_all_phases():
    curve, phases = read_curve(), read_card()["phases"]
    assert curve["phase"].unique().tolist() == [phase["name"] for phase in phases]
    assert curve["step"].is_monotonic_increasing
    assert curve["step"].max() == pytest.approx(sum(phase["steps"] for phase in phases), abs=50)
