"""What the model card measures, against segment-anything's own predictor and cases made by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from lorasam_core import base_measures
from pretrain.measure import (
    HELD_OUT_SEED,
    LARGE,
    Particles,
    Picture,
    Scenes,
    by_size,
    measure,
    measure_generator,
    measure_prompts,
)
from pretrain.scenes import generate_scene
from lorasam_core.mask_generator import MaskGenerator
from lorasam_core.model_card import read_card
from lorasam_core.pretraining import TRAIN_SEED
from tests.tiny_sam import tiny_sam

SIDE = 96


@pytest.fixture
def sam():
    return tiny_sam(image_size=SIDE, patch=16)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(
        base_measures, "GENERATOR", base_measures.GENERATOR | {"points_per_side": 4, "pred_iou_thresh": 0}
    )
    monkeypatch.setattr(base_measures, "GENERATOR_IMAGES", {"scenes": 2, "synthetic": 1})


def test_scenes_are_those_that_training_never_draws():
    assert HELD_OUT_SEED != TRAIN_SEED
    scenes = Scenes(3, SIDE)
    expected = generate_scene(HELD_OUT_SEED, 2, SIDE)
    assert np.array_equal(scenes[2].image, expected.image) and np.array_equal(scenes[2].masks, expected.masks)
    assert [picture.id for picture in scenes] == ["scene-0", "scene-1", "scene-2"]


def test_particles_are_the_test_images_instance_by_instance():
    particles = Particles("synthetic")
    picture, sample = particles[1], particles.samples[1]
    assert len(particles) == 12 and picture.id == sample.id and picture.group == sample.group
    for i, mask in zip(np.unique(sample.labels)[1:], picture.masks, strict=True):
        assert np.array_equal(mask, sample.labels == i)


def test_prompts_are_scored_as_segment_anything_answers_them(sam, monkeypatch):
    """The prompts that were given, repeated by the original predictor at the image's resolution."""
    given = []
    score = base_measures.score_prompts

    def watched(predictor, true, **prompts):
        given.append((true, prompts))
        return score(predictor, true, **prompts)

    monkeypatch.setattr(base_measures, "score_prompts", watched)
    scenes = Scenes(2, SIDE)
    table = measure_prompts(sam, scenes)
    rows = []
    for number, picture in enumerate(scenes):
        predictor = SamPredictor(sam)
        predictor.set_image(picture.image)
        (true, points), (_, boxes) = given[2 * number : 2 * number + 2]
        whole = predictor.predict(box=np.array([0, 0, SIDE, SIDE]), multimask_output=False)[0][0]
        union = picture.masks.any(0)
        for mask, point, box in zip(true, points["points"], boxes["boxes"], strict=True):
            assert any(np.array_equal(mask, known) for known in picture.masks)
            assert mask[int(point[1]), int(point[0])]
            masks, rated, _ = predictor.predict(point[None], np.array([1]))
            ious = (masks & mask).sum((1, 2)) / (masks | mask).sum((1, 2))
            single, promised, _ = predictor.predict(box=box, multimask_output=False)
            overlap = (single[0] & mask).sum() / (single[0] | mask).sum()
            error = (np.abs(rated - ious).mean() + abs(promised[0] - overlap)) / 2
            dice = 2 * (whole & union).sum() / (whole.sum() + union.sum())
            rows.append([np.sqrt(mask.sum()) / SIDE, ious.max(), ious[rated.argmax()], overlap, error, dice])
    assert table["id"].tolist() == [p.id for p in scenes for _ in range(min(8, len(p.masks)))]
    assert np.allclose(table.drop(columns=["id", "group", "corrected_iou"]).to_numpy(), rows, atol=1e-5)


class Corrector:
    """Answers what it is told to: with every point that it is given it gets that pixel right."""

    device, original_size = torch.device("cpu"), (4, 5)
    transform = ResizeLongestSide(5)

    def __init__(self, masks: np.ndarray) -> None:
        self.masks, self.asked = masks, []

    def predict_torch(self, coords, labels, mask_input, multimask_output):
        self.asked.append((tuple(coords.shape), None if mask_input is None else mask_input.flatten(1).max(1).values))
        guess = torch.zeros(self.masks.shape, dtype=torch.bool)
        for row, mask in enumerate(self.masks):
            for (x, y), label in zip(coords[row].int().tolist(), labels[row].tolist(), strict=True):
                assert mask[y, x] == label  # 1 in the object, 0 beside it
                guess[row, y, x] = bool(label)
        count = 3 if multimask_output else 1
        rated = torch.arange(count) / 3 + torch.zeros(len(guess), 1)
        low = rated[:, :, None, None] + len(coords[0]) + torch.zeros(2, 2)
        return guess[:, None].expand(-1, count, -1, -1), rated, low


def test_corrections_are_points_where_the_mask_is_wrong():
    masks = np.zeros((2, 4, 5), bool)
    masks[0, 1, 1:4] = masks[1, 2, 2] = True
    predictor = Corrector(masks)
    points = np.array([[2.0, 1.0], [2.0, 2.0]])
    found = base_measures._corrected(predictor, masks, points, np.random.default_rng(0))
    assert found.tolist() == [1, 1]  # one pixel by the point, one each by two corrections
    assert [shape for shape, _ in predictor.asked] == [(2, 1, 2), (2, 2, 2), (2, 3, 2)]
    before = [previous for _, previous in predictor.asked]
    assert before[0] is None
    torch.testing.assert_close(before[1], torch.full((2,), 1 + 2 / 3))  # the best rated of three
    torch.testing.assert_close(before[2], torch.full((2,), 2.0))


def test_the_generator_is_asked_for_large_objects(sam, few, monkeypatch):
    large, small, miss = np.zeros((3, SIDE, SIDE), bool)
    large[10:40, 10:40] = small[60:63, 60:63] = miss[50:90, 10:40] = True
    picture = Picture(np.zeros((SIDE, SIDE, 3), np.uint8), np.stack([large, small]), "a", "a")
    assert np.sqrt(small.mean()) < LARGE < np.sqrt(large.mean())

    def annotations(*masks):
        found = [{"segmentation": m, "predicted_iou": 0.9 - i / 10} for i, m in enumerate(masks)]
        monkeypatch.setattr(MaskGenerator, "generate", lambda self, image: found)
        return measure_generator(sam, [picture, picture], 1).iloc[0]

    both = annotations(small, large)
    assert len(measure_generator(sam, [picture, picture], 1)) == 1
    assert (both["ap50"], both["ap50_all"], both["n_pred"], both["n_true"]) == (1, 1, 2, 1)
    assert annotations(miss, large)["ap50"] == pytest.approx(0.5)
    assert annotations()["ap50"] == 0


def test_bins_of_size():
    table = pd.DataFrame(
        {"side": [0.01, 0.02, 0.1, 0.11, 0.9], "point_best_iou": [0, 0.2, 0.4, 0.6, 1], "point_rated_iou": 0.5}
    ).assign(box_iou=0.25)
    found = by_size(table)
    assert found["side"].tolist() == [0, 1 / 64, 1 / 16, 1 / 4] and found["n"].tolist() == [1, 1, 2, 1]
    assert found["point_best_iou"].tolist() == [0, 0.2, 0.5, 1]


def test_what_is_measured_is_kept_and_data_that_cannot_be_had_left_out(sam, few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base_measures, "SCENE_SIDE", SIDE)
    found = measure(sam, tmp_path, scenes=2, data=["scenes", "no such data"])
    assert found.keys() == {"scenes"} and "no such data is left out: " in capsys.readouterr().out
    card = found["scenes"]
    table = pd.read_csv(tmp_path / "scenes_2_prompts.csv")
    large = table[table["side"] >= LARGE]
    assert card["point_best_iou"]["mean"] == pytest.approx(table["point_best_iou"].mean(), abs=1e-4)
    assert card["large_box_iou"]["n"] == len(large) < len(table) == card["box_iou"]["n"]
    assert card["box_iou"]["low"] <= card["box_iou"]["mean"] <= card["box_iou"]["high"]
    assert sum(card["by_size"]["n"]) == len(table) and card["ap50"]["n"] == 2
    assert json.loads(json.dumps(card)) == card
    for name in ("measure_prompts", "measure_generator"):
        monkeypatch.setattr(base_measures, name, lambda *args, **kwargs: pytest.fail("measured again"))
    assert measure(sam, tmp_path, scenes=2, data=["scenes"]) == found


def test_the_first_scenes_measure_as_the_card_says():
    """Twenty of the thousand scenes, measured again: within five standard errors of the card's mean."""
    from lorasam_core.sam import load_sam

    torch.manual_seed(0)
    table, card = measure_prompts(load_sam("vit_t"), Scenes(20)), read_card()["measures"]["scenes"]
    for name in ("point_best_iou", "box_iou"):
        error = table.groupby("id")[name].mean().std() / np.sqrt(20)
        assert abs(table[name].mean() - card[name]["mean"]) < 5 * error
