"""How firmly thresholds were chosen, on validation images whose pairs are easily counted."""

import numpy as np
import pandas as pd
import pytest

from lorasam_core.report.chapters import thresholds
from tests.made_records import make_record, per_image


def swept(tmp_path, name, scores, groups):
    """A run whose validation images have these F1 (rows: images, columns: pairs of a grid)."""
    grid = [(0.0, 0.0), (0.0, 0.8), (0.5, 0.0)]
    rows = [
        {"id": str(i), "group": group, "pred_iou_thresh": a, "stability_score_thresh": b, "f1": f1,
         "dice": f1, "ap50": f1, "n_pred": 1}
        for i, (group, image) in enumerate(zip(groups, scores, strict=True))
        for (a, b), f1 in zip(grid, image, strict=True)
    ]  # fmt: skip
    judged = [per_image("generator", "AB", f1=[0.5, 0.5])]
    return make_record(tmp_path, name, judged, {"thresholds": pd.DataFrame(rows)})


def test_the_share_of_draws_that_choose_again_is_that_of_the_formula(tmp_path):
    """Of two groups one favours the second pair and the other, of two images, the third, which is the best of both
    together (by groups that weigh the same it would not be): only a draw of the former alone, one in four, chooses
    otherwise.
    """
    run = swept(tmp_path, "r", [[0, 0.5, 0.1], [0, 0.2, 0.5], [0, 0.2, 0.5]], ["A", "B", "B"])
    alone = swept(tmp_path, "s", [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], ["A", "A"])
    table = thresholds.choice_table({"frozen": [alone], "adapted": [run]}, draws=4000)
    one, two = table.to_dict("records")
    assert (two["pred_iou_thresh"], two["stability_score_thresh"], two["pairs"]) == (0.5, 0.0, 2)
    assert two["again"] == pytest.approx(0.75, abs=0.03) and two["ahead"] == pytest.approx((1.1 - 0.9) / 3)
    assert (one["pred_iou_thresh"], one["stability_score_thresh"]) == (0.5, 0.0) and np.isnan(one["again"])
    shown = thresholds.choice_display(table)
    assert shown["predicted IoU / stability"].tolist() == ["0.5 / 0", "0.5 / 0"]
    assert shown["chosen again, % of draws"].tolist() == ["–", f"{100 * two['again']:.0f}"]
    assert shown["ahead of the next pair, points of F1"].tolist() == ["10.0", "6.7"]
    said = thresholds.choice_sentence(table)
    assert f"in {100 * two['again']:.0f} % of the draws" in said and "up to 2 for a model and seed" in said
    nothing = swept(tmp_path, "z", [[0, 0, 0]] * 2, ["A", "B"])
    assert thresholds.choice_table({"adapted": [nothing]}).empty
    assert not thresholds.choice_sentence(table[:1]) and not thresholds.choice_sentence(table[:0])


def test_a_pair_that_every_image_favours_is_always_chosen(tmp_path):
    scores = np.random.default_rng(0).uniform(0, 0.5, (8, 3)) + np.array([0, 0.6, 0])
    run = swept(tmp_path, "r", scores, list("AABBCDEF"))
    row = thresholds.choice_table({"adapted": [run]}).iloc[0]
    assert (row["again"], row["pairs"], row["images"], row["groups"]) == (1.0, 1, 8, 6)
    means = np.sort(scores.mean(axis=0))
    assert row["ahead"] == pytest.approx(means[2] - means[1])
