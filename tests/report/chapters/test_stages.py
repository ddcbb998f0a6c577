"""The mask generator's stages against segment-anything's own generator, on a tiny random SAM."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from lorasam_core.data.particles import generate
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator
from lorasam_core.masks.predictor import as_rgb
from lorasam_core.measure.metrics import iou
from lorasam_core.models.sam import load_sam
from lorasam_core.report.chapters import stages
from tests.tiny_sam import tiny_sam

GRID = {"points_per_side": 6, "points_per_batch": 5}
LOOSE = {**GRID, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def sam() -> Sam:
    return tiny_sam()


@pytest.fixture(scope="module")
def compact() -> Sam:
    """The compact model on a small input: its masks have outlines and boxes of their own."""
    return load_sam("lite", image_size=128)


def picture(seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def assert_same(last: stages.Answers, expected: list[dict]) -> None:
    assert len(last) == len(expected) > 4
    for i, annotation in enumerate(expected):
        assert np.array_equal(last.masks[i].numpy(), annotation["segmentation"])
        assert float(last.rated[i]) == pytest.approx(annotation["predicted_iou"], abs=1e-5)
        assert float(last.stable[i]) == pytest.approx(annotation["stability_score"], abs=1e-6, nan_ok=True)
        assert last.points[i].tolist() == annotation["point_coords"][0]
        x, y, width, height = annotation["bbox"]
        assert last.boxes[i].tolist() == [x, y, x + width, y + height]
    assert stages.agreement(last, expected) == (0, 0)


def test_every_point_answers_with_three_masks(sam: Sam) -> None:
    asked = stages.ask(SamAutomaticMaskGenerator(sam, **LOOSE), picture())
    assert asked.masks.shape == (108, 48, 80) and asked.masks.dtype == torch.bool and len(asked) == 108
    assert asked.number.tolist() == list(range(108))
    assert np.allclose(asked.points[:4], [[80 / 12, 4], [80 / 12, 4], [80 / 12, 4], [20, 4]])
    row = next(i for i in range(108) if asked.masks[i].any())
    ys, xs = np.nonzero(asked.masks[row].numpy())
    assert asked.boxes[row].tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]


@pytest.mark.parametrize("kind", [SamAutomaticMaskGenerator, MaskGenerator])
@pytest.mark.parametrize("extra", [{}, {"min_mask_region_area": 20}])
def test_the_last_stage_is_what_segment_anything_returns(sam: Sam, kind: type, extra: dict) -> None:
    last = stages.stages(kind(sam, **LOOSE, **extra), picture())[-1].answers
    assert_same(last, SamAutomaticMaskGenerator(sam, **LOOSE, **extra).generate(picture()))


def test_each_stage_keeps_a_part_of_the_one_before(compact: Sam) -> None:
    settings = QUICK_SETTINGS | {"points_per_side": 12, "pred_iou_thresh": 0.05, "min_mask_region_area": 60}
    settings |= {"stability_score_thresh": 0.5}  # low thresholds, so that each stage has something left to do
    image = generate(seed=0, index=18, size=(128, 128)).image
    passed = stages.stages(MaskGenerator(compact, **settings), image)
    assert [s.name for s in passed] == ["asked", "rated", "stable", "distinct", "clean"]
    numbers = [set(s.answers.number.tolist()) for s in passed]
    assert all(len(after) < len(before) for before, after in pairwise(numbers))
    assert (passed[1].answers.rated > settings["pred_iou_thresh"]).all()
    assert (passed[2].answers.stable >= settings["stability_score_thresh"]).all()
    assert len(stages.changes(passed[3].answers, passed[4].answers)) > 0
    assert_same(passed[-1].answers, SamAutomaticMaskGenerator(compact, **settings).generate(as_rgb(image)))


def test_nothing_passes_and_nothing_fails(sam: Sam) -> None:
    none = stages.stages(MaskGenerator(sam, **GRID, pred_iou_thresh=1.0, min_mask_region_area=9), picture())
    assert len(none[-1].answers) == 0 and MaskGenerator(sam, **GRID, pred_iou_thresh=1.0).generate(picture()) == []
    assert stages.agreement(none[-1].answers, []) == (0, 0)
    every = stages.stages(MaskGenerator(sam, **LOOSE), picture())
    assert len(every[2].answers) == 108
    with pytest.raises(ValueError, match="none has duplicates"):
        stages.duplicates(none[2].answers, none[3].answers, 0.7)
    labels = np.zeros((48, 80), np.int32)
    labels[4:12, 4:12] = 1
    assert stages.funnel_sentence(stages.funnel(none, labels), 1).endswith("nothing passes these thresholds.")


def test_crops_are_refused(sam: Sam) -> None:
    with pytest.raises(ValueError, match="crop_n_layers"):
        stages.stages(MaskGenerator(sam, **GRID, crop_n_layers=1), picture())


def made_by_hand() -> stages.Answers:
    """Three masks of 20 x 20 pixels: two nearly equal squares and a small one, of two points."""
    masks = torch.zeros(3, 20, 20, dtype=torch.bool)
    masks[0, 2:12, 2:12], masks[1, 2:12, 2:13], masks[2, 14:18, 14:18] = True, True, True
    boxes = torch.tensor([[2, 2, 11, 11], [2, 2, 12, 11], [14, 14, 17, 17]])
    points = torch.tensor([[5.0, 5.0], [5.0, 5.0], [15.0, 15.0]], dtype=torch.float64)
    return stages.Answers(masks, torch.tensor([0.9, 0.8, 0.7]), torch.ones(3), boxes, points, torch.tensor([0, 1, 3]))


def test_the_funnel_counts_masks_points_and_particles() -> None:
    answers = made_by_hand()
    labels = np.zeros((20, 20), np.int32)
    labels[2:12, 2:12], labels[0:2, 15:19] = 4, 9
    passed = [stages.Stage("asked", "all", answers), stages.Stage("rated", "some", answers.take(torch.tensor([2, 0])))]
    table = stages.funnel(passed, labels)
    assert table["masks"].tolist() == [3, 2] and table["points"].tolist() == [2, 2]
    assert table["right"].tolist() == pytest.approx([2 / 3, 1 / 2]) and table["found"].tolist() == [1, 1]
    sentence = stages.funnel_sentence(table, 2)
    assert "Of 3 masks 2 are left" in sentence and "*rated* (1)" in sentence and "from 67 % to 50 %" in sentence
    assert stages.shown_funnel(table)["masks of a particle, %"].tolist() == ["67", "50"]
    nothing = stages.funnel(
        [*passed, stages.Stage("stable", "none", answers.take(torch.zeros(3, dtype=torch.bool)))], labels
    )
    assert stages.shown_funnel(nothing).iloc[-1].tolist() == ["stable", "none", "0", "0", "–", "0"]


def test_duplicates_are_the_boxes_that_overlap_the_winner() -> None:
    answers = made_by_hand()
    rows, winner = stages.duplicates(answers, answers.take(torch.tensor([2, 0])), 0.7)
    assert rows.tolist() == [0, 1] and winner == 1  # 90 of 99 box areas; the small one is alone


def test_changes_are_found_by_the_masks_number() -> None:
    before = made_by_hand()
    after = before.take(torch.tensor([2, 1]))
    after.masks[1, 3, 3] = False
    assert stages.changes(before, after).to_dict("list") == {"number": [1], "pixels": [1]}
    assert stages.changes(before, before).empty


def test_agreement_counts_masks_without_a_counterpart_and_pixels_that_differ() -> None:
    answers = made_by_hand()
    other = answers.masks.numpy().copy()
    other[1, 2, 2] = False  # 109 of 110 pixels: the same up to rounding
    assert iou(other[1], answers.masks[1].numpy()) > stages.SAME
    notes = [{"segmentation": m} for m in other]
    assert stages.agreement(answers, notes) == (0, 1)
    assert stages.agreement(answers, notes[:2]) == (1, 1)


def test_the_largest_error_is_where_most_is_wrong() -> None:
    true, guess = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    true[10:21, 5:16] = True
    assert stages.largest_error(guess, true) == ((10, 15), 1)  # the centre of what is missing
    guess[10:21, 5:16], guess[0:7, 30:37] = True, True
    assert stages.largest_error(guess, true) == ((33, 3), 0)
    assert stages.largest_error(true, true) == ((0, 0), 0)


def test_thresholds_sentence_says_whom_they_let_pass() -> None:
    right, passes = np.array([True, True, False, False, False]), np.array([True, False, False, False, True])
    text = stages.thresholds_sentence(right, passes)
    assert text.startswith("2 of 5 masks") and "50 % pass" in text and text.endswith("others 33 %.")
    assert stages.thresholds_sentence(~right & right, passes).startswith("Not one")
    assert stages.thresholds_sentence(right | ~right, passes).startswith("All")


def test_costs_count_parameters_and_shares_add_up(sam: Sam) -> None:
    costs = stages.part_costs(sam, picture(), repeats=1)
    assert costs["parameters"].sum() == sum(p.numel() for p in sam.parameters())
    shares = stages.cost_shares(costs)
    assert shares.groupby("measure")["share"].sum().tolist() == pytest.approx([100, 100])
    by_hand = pd.DataFrame({"part": ["a", "b"], "parameters": [3, 1], "seconds": [0.1, 0.3]})
    assert stages.cost_shares(by_hand)["share"].tolist() == pytest.approx([75, 25, 25, 75])


def test_lesson_settings_take_the_thresholds_of_the_edition() -> None:
    assert stages.lesson_settings("quick") == QUICK_SETTINGS
    study = stages.lesson_settings("study")
    assert study["pred_iou_thresh"] == STUDY_SETTINGS["pred_iou_thresh"] and study["crop_n_layers"] == 0
    assert study["points_per_side"] == QUICK_SETTINGS["points_per_side"]
