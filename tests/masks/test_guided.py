"""The guided generator against segment-anything's predictor, asked point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.utils.amg import build_point_grid, calculate_stability_score

from lorasam_core.data.particles import generate
from lorasam_core.masks.guided import GuidedGenerator
from lorasam_core.measure.metrics import iou
from lorasam_core.models.sam import load_sam

SIDE, EVERY = 12, 4


@pytest.fixture(scope="module")
def asked():
    """An oblong micrograph, what the guided generator finds in it, and segment-anything's predictor on it."""
    image = generate(seed=3, index=5, size=(192, 256)).image
    sam = load_sam("lite", image_size=256)
    generator = GuidedGenerator(sam, points_per_side=SIDE, sparse_every=EVERY, score_thresh=0.1)
    predictor = SamPredictor(sam)
    predictor.set_image(np.repeat(image[..., None], 3, axis=2))
    return image, generator, generator.generate(image), predictor


def whole_image_mask(predictor: SamPredictor) -> torch.Tensor:
    """Logits of the image's own box, at the decoder's resolution, without the padding: (48, 64)."""
    height, width = predictor.original_size
    box = torch.tensor([[0.0, 0.0, width, height]]) * (256 / max(height, width))
    return predictor.predict_torch(None, None, boxes=box, multimask_output=False)[2][0, 0, :48, :64]


def answers(predictor: SamPredictor, point: list[float]):
    coords = predictor.transform.apply_coords_torch(torch.tensor([[point]]), predictor.original_size)
    masks, rated, low = predictor.predict_torch(coords, torch.ones(1, 1), multimask_output=True)
    return masks[0].numpy(), rated[0], low[0, :, :48, :64]


def rule(inside: torch.Tensor, rated: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """Scores of three masks by the rule, 0 for those over half of the image."""
    shares = torch.stack([(inside & (logits > 0)).sum() / (logits > 0).sum() for logits in low])
    small = (low > 0).flatten(1).sum(1) <= inside.numel() / 2
    return rated.clamp(max=1) * calculate_stability_score(low, 0.0, 1.0) * shares * small


def test_each_mask_is_the_best_scored_of_the_predictors_three(asked):
    _, _, found, predictor = asked
    inside = whole_image_mask(predictor) > 0
    assert len(found) > 3
    for annotation in found:
        masks, rated, low = answers(predictor, annotation["point_coords"][0])
        shares = torch.stack([(inside & (logits > 0)).sum() / (logits > 0).sum() for logits in low])
        scores = rule(inside, rated, low)
        best = int(scores.argmax())
        assert annotation["score"] == pytest.approx(float(scores[best]), abs=1e-4)
        assert annotation["predicted_iou"] == pytest.approx(float(rated[best]), abs=1e-4)
        assert annotation["foreground_share"] == pytest.approx(float(shares[best]), abs=1e-4)
        assert iou(annotation["segmentation"], masks[best]) > 0.999
        assert annotation["area"] == annotation["segmentation"].sum()


def test_points_lie_in_the_foreground_or_on_the_sparse_grid(asked):
    image, generator, _, predictor = asked
    generator = GuidedGenerator(generator.predictor.model, **generator.settings | {"settled_thresh": 1.0})
    found = generator.generate(image)
    grid = build_point_grid(SIDE)
    inside = (whole_image_mask(predictor) > 0).numpy()
    x, y = (grid * (inside.shape[1], inside.shape[0])).astype(int).T
    row, column = np.divmod(np.arange(len(grid)), SIDE)
    sparse = (row % EVERY == 2) & (column % EVERY == 2)
    assert generator.points_asked == (inside[y, x] | sparse).sum() < SIDE**2
    points = {tuple(a["point_coords"][0]) for a in found}
    assert len(points) == len(found)  # one mask a point
    allowed = {tuple(point) for point in grid[inside[y, x] | sparse] * (image.shape[1], image.shape[0])}
    assert points <= allowed


def test_a_finer_pass_leaves_out_what_lies_in_a_settled_mask(asked, monkeypatch):
    image, generator, _, predictor = asked
    generator = GuidedGenerator(generator.predictor.model, **generator.settings | {"settled_thresh": 0.2})
    points, best = [], generator._best
    monkeypatch.setattr(generator, "_best", lambda *args: points.extend(args[2].tolist()) or best(*args))
    generator.generate(image)
    inside = whole_image_mask(predictor) > 0
    grid = build_point_grid(SIDE)
    x, y = (grid * (inside.shape[1], inside.shape[0])).astype(int).T
    row, column = np.divmod(np.arange(len(grid)), SIDE)
    left = inside.numpy()[y, x] | ((row % EVERY == 2) & (column % EVERY == 2))
    settled, expected, allowed = np.zeros(inside.shape, bool), [], left.sum()
    for step in (4, 2, 1):
        turn = left & (row % step == step // 2) & (column % step == step // 2)
        left &= ~turn
        found = []
        for point in grid[turn & ~settled[y, x]] * (image.shape[1], image.shape[0]):
            expected.append(point.tolist())
            _, rated, low = answers(predictor, expected[-1])
            scores = rule(inside, rated, low).nan_to_num()
            if scores.max() >= 0.2:
                found.append(low[int(scores.argmax())].numpy() > 0)
        settled |= np.any([settled, *found], axis=0)
    assert sorted(points) == sorted(expected) and len(expected) < allowed


def test_no_mask_lies_by_more_than_half_in_a_better_one(asked):
    _, _, found, _ = asked
    assert [a["score"] for a in found] == sorted((a["score"] for a in found), reverse=True)
    for k, worse in enumerate(found):
        for better in found[:k]:
            shared = (worse["segmentation"] & better["segmentation"]).sum()
            assert shared <= 0.55 * min(worse["area"], better["area"])  # half, at a quarter of the resolution


def test_a_higher_threshold_keeps_the_beginning_of_the_same_list(asked):
    image, generator, found, _ = asked
    middle = found[len(found) // 2]["score"]
    fewer = GuidedGenerator(generator.predictor.model, points_per_side=SIDE, score_thresh=middle - 1e-6).generate(image)
    assert [a["point_coords"] for a in fewer] == [a["point_coords"] for a in found[: len(found) // 2 + 1]]


def test_large_and_small_masks_go_and_nothing_may_be_found(asked):
    image, generator, found, _ = asked
    sam, areas = generator.predictor.model, [a["area"] for a in found]
    limits = {"largest_share": 0.02, "min_area": int(np.median(areas))}
    within = GuidedGenerator(sam, points_per_side=SIDE, score_thresh=0.1, **limits).generate(image)
    assert all(limits["min_area"] <= a["area"] <= 0.025 * image.size for a in within) and len(within) < len(found)
    assert GuidedGenerator(sam, points_per_side=SIDE, score_thresh=1.0).generate(image) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 3}, "'points' is no setting"),
        ({"points_per_side": 0}, "at least 1"),
        ({"score_thresh": 2}, "0 to 1"),
    ],
)
def test_wrong_settings_are_refused(asked, settings, message):
    with pytest.raises(ValueError, match=message):
        GuidedGenerator(asked[1].predictor.model, **settings)
