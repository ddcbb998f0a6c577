"""The compact model's card: that it is of the weights in the package, and the tables made of it."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from lorasam_core.models.sam import WEIGHTS, WEIGHTS_SHA256, load_sam
from lorasam_core.report.model_card import (
    MEASURES,
    card_rows,
    card_table,
    read_card,
    read_curve,
    size_rows,
)


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


def numbers(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 30}


@pytest.fixture
def card() -> dict:
    bins = {"side": [0, 0.0625], "n": [30, 5], "point_best_iou": [0.1, 0.2], "box_iou": [0.3, 0.4]}
    scenes = {name: numbers(0.8) for name in MEASURES} | {"by_size": bins}
    emps = {name: numbers(0.5) for name in MEASURES}
    more = {"side": [0, 0.0625], "n": [9, 21], "point_best_iou": [0.2, 0.3], "box_iou": [0.4, 0.5]}
    return {"base_hash": "b" * 64, "measures": {"scenes": scenes, "emps": emps | {"by_size": more}}}


def test_the_table_shows_measures_by_kind_of_image(card):
    table = card_table(card).set_index("measure, %")
    assert list(table.columns) == [
        "generated scenes", "generated scenes: at least, aim", "EMPS", "EMPS: at least, aim",
    ]  # fmt: skip
    row = table.loc["box, 5 % jitter: IoU, single mask"]
    assert row.tolist() == ["80.0 [70.0,\u00a090.0]", "68, 80", "50.0 [40.0,\u00a060.0]", "76, 82"]
    assert table.loc["whole-image box: Dice of the foreground"].tolist()[1::2] == ["–", "82, 88"]


def test_the_rows_hold_the_same_numbers(card):
    rows = card_rows(card)
    assert len(rows) == 2 * len(MEASURES) and set(rows["series"]) == {"generated scenes", "EMPS"}
    assert rows.set_index(["series", "metric"]).loc[("EMPS", "box, 5 % jitter: IoU, single mask"), "mean"] == 50


def test_bins_with_few_objects_or_without_a_lower_bound_are_not_drawn(card):
    found = {measure: size_rows(card, measure).to_dict("records") for measure in ("point_best_iou", "box_iou")}
    row = {"side": 6.25, "series": "EMPS", "objects": 21}
    assert found == {"point_best_iou": [row | {"iou": 0.3}], "box_iou": [row | {"iou": 0.5}]}
