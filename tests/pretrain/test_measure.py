"""What the model card measures, against segment-anything's own predictor and cases made by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from lorasam_core.masks.generator import MaskGenerator
from lorasam_core.report.model_card import read_card
from pretrain import measure as module
from pretrain.measure import (
    CANDIDATE_MEASURES,
    HELD_OUT_SEED,
    PROMPT_MEASURES,
    THRESHOLDS,
    Particles,
    Picture,
    Scenes,
    best_f1,
    by_size,
    choose,
    measure,
    measure_candidates,
    measure_prompts,
)
from pretrain.recipe import TRAIN_SEED
from pretrain.scenes import generate_scene
from tests.pretrain.made_lite import random_lite

SIDE = 96


@pytest.fixture(scope="module")
def sam():
    return random_lite(image_size=SIDE)


@pytest.fixture
def few(monkeypatch):
    """Four points instead of 256."""
    monkeypatch.setattr(module, "EVERYTHING", module.EVERYTHING | {"points_per_side": 2})


# ------------------------------------------------------------------------------------------------- pictures
def test_scenes_are_those_that_training_never_draws():
    assert HELD_OUT_SEED != TRAIN_SEED
    scenes = Scenes(3, SIDE)
    expected = generate_scene(HELD_OUT_SEED, 2, SIDE)
    assert np.array_equal(scenes[2].image, expected.image) and np.array_equal(scenes[2].masks, expected.masks)
    assert [picture.id for picture in scenes] == ["scene-0", "scene-1", "scene-2"]


def test_particles_are_test_images_instance_by_instance():
    particles = Particles("synthetic")
    assert len(particles) == len(particles.samples) == 12  # fewer than IMAGES: all
    picture, sample = particles[1], particles.samples[1]
    assert (picture.id, picture.group) == (sample.id, sample.group) and np.array_equal(picture.image, sample.image)
    for i, mask in zip(np.unique(sample.labels)[1:], picture.masks, strict=True):
        assert np.array_equal(mask, sample.labels == i)


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 11]), (4, [0, 3, 7, 11]), (12, range(12))])
def test_particles_are_evenly_spaced_from_first_to_last(count, chosen):
    particles = Particles("synthetic", count=count)
    assert [picture.id for picture in particles] == [particles.samples[i].id for i in chosen]


# ------------------------------------------------------------------------------------------------- prompts
def test_prompts_are_scored_as_segment_anything_answers_them(sam, monkeypatch):
    """The prompts that were given, repeated by the original predictor at the image's resolution."""
    given = []
    score = module.score_prompts

    def watched(predictor, true, **prompts):
        given.append((true, prompts))
        return score(predictor, true, **prompts)

    monkeypatch.setattr(module, "score_prompts", watched)
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
    found = module._corrected(predictor, masks, points, np.random.default_rng(0))
    assert found.tolist() == [1, 1]  # one pixel by the point, one each by two corrections
    assert [shape for shape, _ in predictor.asked] == [(2, 1, 2), (2, 2, 2), (2, 3, 2)]
    before = [previous for _, previous in predictor.asked]
    assert before[0] is None
    torch.testing.assert_close(before[1], torch.full((2,), 1 + 2 / 3))  # the best rated of three
    torch.testing.assert_close(before[2], torch.full((2,), 2.0))


def test_bins_of_size():
    table = pd.DataFrame(
        {"side": [0.01, 0.02, 0.1, 0.11, 0.9], "point_best_iou": [0, 0.2, 0.4, 0.6, 1], "point_rated_iou": 0.5}
    ).assign(box_iou=0.25)
    found = by_size(table)
    assert found["side"].tolist() == [0, 1 / 64, 1 / 16, 1 / 4] and found["n"].tolist() == [1, 1, 2, 1]
    assert found["point_best_iou"].tolist() == [0, 0.2, 0.5, 1]


# ------------------------------------------------------------------------------------------------- candidates
def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    mask[top:bottom, left:right] = True
    return mask


def annotation(mask: np.ndarray, rated: float, stable: float) -> dict:
    return {
        "segmentation": mask, "area": int(mask.sum()), "predicted_iou": rated, "stability_score": stable,
    }  # fmt: skip


@pytest.fixture
def candidates_of(sam, monkeypatch):
    """What is measured of candidates made by hand for each of some pictures."""

    def measured(*cases: tuple[list[np.ndarray], list[dict]]) -> tuple[pd.DataFrame, pd.DataFrame]:
        answers = iter(found for _, found in cases)
        monkeypatch.setattr(MaskGenerator, "generate", lambda self, image: next(answers))
        image = np.zeros((20, 20, 3), np.uint8)
        return measure_candidates(sam, [Picture(image, np.stack(m), f"p{n}", "g") for n, (m, _) in enumerate(cases)])

    return measured


def test_candidates_of_a_case_made_by_hand(candidates_of):
    a, b, c = rectangle(0, 10, 0, 4), rectangle(0, 10, 6, 10), rectangle(12, 20, 0, 20)
    found = [
        annotation(a, 0.9, 1.0),  # score 0.9
        annotation(rectangle(0, 8, 0, 4), 0.8, 1.0),  # in the one before: dropped, though its IoU with a is 0.8
        annotation(rectangle(0, 5, 6, 10), 0.5, 0.5),  # score 0.25; half of b, exactly found
        annotation(rectangle(12, 20, 12, 20), 0.6, 1.0),  # too little of c
        annotation(np.ones((20, 20), bool), 1.0, 1.0),  # more than nine tenths of the image
        annotation(np.zeros((20, 20), bool), 1.0, float("nan")),  # nothing
    ]
    images, candidates = candidates_of(([a, b, c], found))
    row = images.iloc[0]
    assert (row["id"], row["group"], row["n_true"], row["n_candidates"]) == ("p0", "g", 3, 4)
    assert row["recall"] == pytest.approx(2 / 3) and row["f1_perfect"] == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    # three are kept, with scores 0.9 (a), 0.6 (none) and 0.25 (b)
    expected = {0.1: 2 * 2 / (3 + 3), 0.25: 2 * 2 / (3 + 3), 0.3: 2 * 1 / (2 + 3), 0.6: 2 / (2 + 3), 0.7: 2 / (1 + 3)}
    assert {t: row[f"f1_{t:g}"] for t in expected} == pytest.approx(expected)
    # precision 1 up to a third of the recall, 2/3 up to two thirds, of 101 recalls
    assert row["ap50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert candidates["iou"].tolist() == pytest.approx([1, 0.8, 0.5, 64 / 160])
    assert candidates["predicted_iou"].tolist() == [0.9, 0.8, 0.5, 0.6] and set(candidates["id"]) == {"p0"}


def test_an_image_without_candidates_counts_as_nothing_found(candidates_of):
    mask = rectangle(3, 9, 3, 9)
    images, candidates = candidates_of(([mask], []), ([mask], [annotation(mask, 0.5, float("nan"))]))
    assert images["n_candidates"].tolist() == [0, 1] and images["recall"].tolist() == [0, 1]
    assert images.loc[0, ["f1_perfect", "ap50", "f1_0.1"]].tolist() == [0, 0, 0]
    assert images.loc[1, "f1_0.1"] == 0  # without stability the score is 0
    assert candidates["id"].tolist() == ["p1"]


@torch.no_grad()
def test_candidates_are_all_masks_of_a_grid_of_points_unfiltered(sam, few):
    """Four points, three masks each, by segment-anything's predictor."""
    picture = Scenes(1, SIDE)[0]
    _, candidates = measure_candidates(sam, [picture])
    predictor, expected = SamPredictor(sam), []
    predictor.set_image(picture.image)
    for point in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        masks, rated, _ = predictor.predict(np.array([point]) * SIDE, np.array([1]))
        ious = [[(m & t).sum() / (m | t).sum() for t in picture.masks] for m in masks]
        kept = [n for n, mask in enumerate(masks) if 0 < mask.sum() <= 0.9 * SIDE**2]
        expected += [(rated[n], max(ious[n])) for n in kept]
    found = list(zip(candidates["predicted_iou"], candidates["iou"], strict=True))
    assert len(found) == len(expected) > 4
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-4)


CANDIDATE = st.tuples(
    st.integers(0, 8), st.integers(1, 6), st.integers(0, 8), st.integers(1, 6),
    st.sampled_from([0.05, 0.2, 0.4, 0.6, 0.8]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(CANDIDATE, min_size=1, max_size=12))
def test_what_is_chosen_lies_in_nothing_better_and_what_is_not_does(candidates):
    # doubled, for overlaps are counted on every second row and column
    masks = [rectangle(y, y + h, x, x + w).repeat(2, 0).repeat(2, 1) for y, h, x, w, _ in candidates]
    score, numbers = np.array([row[-1] for row in candidates]), range(len(masks))

    def inside(i: int, j: int) -> float:
        return (masks[i] & masks[j]).sum() / min(masks[i].sum(), masks[j].sum())

    assume(not any(inside(i, j) == 0.5 for i in numbers for j in numbers))  # which rounding would decide
    kept = choose(masks, score)
    assert kept == sorted(kept, key=lambda i: (-score[i], i))
    for i in numbers:
        before = [j for j in kept if (-score[j], j) < (-score[i], i)]
        assert (i in kept) == (score[i] >= 0.1 and not any(inside(i, j) > 0.5 for j in before))
    for threshold in (0.2, 0.5, 0.9):
        higher = choose(masks, score, threshold)
        assert higher == kept[: len(higher)] and len(higher) == sum(score[kept] >= threshold)


def test_no_more_masks_are_chosen_than_are_useful(monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    masks = [rectangle(2 * n, 2 * n + 2, 0, 20) for n in range(6)]
    assert choose(masks, np.linspace(0.2, 0.9, 6)) == [5, 4, 3]


@pytest.mark.parametrize(
    ("iou", "expected"),
    [
        ([[0.6, 0.0], [0.0, 0.7]], 1.0),
        ([[0.6, 0.9], [0.0, 0.8]], 2 * 1 / 4),  # the first takes the better one, which the second then lacks
        ([[0.8, 0.6], [0.9, 0.0]], 2 * 1 / 4),
        ([[0.9, 0.6], [0.8, 0.55]], 1.0),
        ([[0.49, 0.4]], 0.0),
        ([[0.5, 0.0]], 2 * 1 / 3),
        (np.zeros((0, 3)), 0.0),
    ],
)
def test_f1_of_cases_made_by_hand(iou, expected):
    assert module._f1(np.array(iou)) == pytest.approx(expected)


def test_the_best_threshold_is_that_of_the_best_mean():
    table = pd.DataFrame({f"f1_{t:g}": [0.3, 0.3] for t in THRESHOLDS})
    table["f1_0.25"], table["f1_0.4"] = [0.9, 0.1], [0.5, 0.6]
    assert best_f1(table) == (0.4, "f1_0.4")


def test_the_correlation_and_its_interval_are_those_of_images_drawn_with_replacement():
    rng, sizes = np.random.default_rng(0), [30, 10, 25, 40, 8, 16]
    table = pd.DataFrame({"id": np.repeat([f"p{n}" for n in range(6)], sizes), "iou": rng.random(sum(sizes))})
    table["predicted_iou"] = 0.4 * table["iou"] + rng.normal(np.repeat(rng.normal(0, 0.1, 6), sizes), 0.2)
    found = module._correlation(table)
    assert found["mean"] == pytest.approx(table["iou"].corr(table["predicted_iou"]), abs=1e-4)
    parts, drawn = [part for _, part in table.groupby("id")], []
    for _ in range(1500):
        again = pd.concat([parts[n] for n in rng.integers(6, size=6)])
        drawn.append(np.corrcoef(again["iou"], again["predicted_iou"])[0, 1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))
    assert found["n"] == sum(sizes)


def test_ratings_that_are_all_alike_correlate_with_nothing():
    alike = pd.DataFrame({"id": ["a", "a", "b"], "predicted_iou": 0.0, "iou": [0.1, 0.5, 0.9]})
    assert module._correlation(alike)["mean"] == 0


# ------------------------------------------------------------------------------------------------- the card
def test_what_is_measured_is_kept_and_data_that_cannot_be_had_left_out(sam, few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SCENE_SIDE", SIDE)
    monkeypatch.setattr(module, "IMAGES", 2)
    found = measure(sam, tmp_path, scenes=3, data=["scenes", "no such data"])
    assert found.keys() == {"scenes"} and "no such data is left out: " in capsys.readouterr().out
    names = ("prompts", "images", "candidates")
    assert {path.name for path in tmp_path.iterdir()} == {f"scenes_test_3_{name}.csv" for name in names}
    prompts, images, candidates = (pd.read_csv(tmp_path / f"scenes_test_3_{name}.csv") for name in names)
    assert prompts["id"].nunique() == 3 and len(images) == 2  # of candidates there are too many for a thousand scenes
    card = found["scenes"]
    for table, measures in ((prompts, PROMPT_MEASURES), (images, CANDIDATE_MEASURES)):
        for name in measures:
            assert card[name]["mean"] == pytest.approx(table[name].mean(), abs=1e-4)
            assert card[name]["n"] == len(table) and card[name]["low"] <= card[name]["mean"] <= card[name]["high"]
    by_threshold = images[[f"f1_{t:g}" for t in THRESHOLDS]].mean()
    assert card["f1"]["mean"] == pytest.approx(by_threshold.max(), abs=1e-4) and card["threshold"] in THRESHOLDS
    pearson = np.corrcoef(candidates["predicted_iou"], candidates["iou"])[0, 1]
    assert card["correlation"]["mean"] == pytest.approx(pearson, abs=1e-3)
    assert card["correlation"]["n"] == len(candidates)
    assert card["foreground_dice"]["n"] == 3 and sum(card["by_size"]["n"]) == len(prompts)
    assert json.loads(json.dumps(card)) == card
    for name in ("measure_prompts", "measure_candidates"):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: pytest.fail("measured again"))
    assert measure(sam, tmp_path, scenes=3, data=["scenes"]) == found


def test_the_first_scenes_measure_as_the_card_says():
    """A few of the thousand scenes, measured again: within five standard errors of the card's mean."""
    from lorasam_core.models.sam import load_sam

    card, count = read_card()["measures"]["scenes"], 6
    table = measure_prompts(load_sam("lite"), Scenes(count))
    for name in ("point_best_iou", "box_iou"):
        error = table.groupby("id")[name].mean().std() / np.sqrt(count)
        assert abs(table[name].mean() - card[name]["mean"]) < 5 * error
