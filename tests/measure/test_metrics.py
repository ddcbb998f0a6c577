"""Metrics against torchmetrics, pycocotools, scikit-image, scipy, the formula and cases made by hand."""

from __future__ import annotations

import contextlib
import io
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import optimize, stats
from skimage.metrics import contingency_table
from torchmetrics.functional import classification as tm
from torchmetrics.functional.detection import panoptic_quality as tm_panoptic_quality

from lorasam_core.measure import metrics
from lorasam_core.stats import bootstrap_interval

LABELS = arrays(np.int32, (6, 7), elements=st.integers(0, 4))
BINARY = arrays(np.bool_, (5, 6))
EMPTY = np.zeros((8, 8), np.int32)
ONE = np.pad(np.ones((3, 3), np.int32), ((0, 5), (0, 5)))


def blobs(seed: int, n: int, shape: tuple[int, int] = (32, 40)) -> np.ndarray:
    """n overlapping rectangles, bool (n, H, W), on a coarse grid so that equal IoUs occur."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, *shape), bool)
    for mask in masks:
        y, x = rng.integers(0, [shape[0] // 4 - 2, shape[1] // 4 - 2]) * 4
        h, w = rng.integers(1, 4, 2) * 4
        mask[y : y + h, x : x + w] = True
    return masks


def label_image(seed: int, n: int = 12) -> np.ndarray:
    return metrics.paint(blobs(seed, n), np.arange(n), (32, 40))


# ------------------------------------------------------------------------------------------------- binary masks


@pytest.mark.parametrize("seed", range(4))
def test_binary_metrics_agree_with_torchmetrics(seed: int) -> None:
    pred, true = blobs(seed, 3).any(0), blobs(seed + 100, 4).any(0)
    a, b = torch.as_tensor(pred).int(), torch.as_tensor(true).int()
    assert metrics.dice(pred, true) == pytest.approx(tm.binary_f1_score(a, b).item(), abs=1e-6)
    assert metrics.iou(pred, true) == pytest.approx(tm.binary_jaccard_index(a, b).item(), abs=1e-6)
    assert metrics.accuracy(pred, true) == pytest.approx(tm.binary_accuracy(a, b).item(), abs=1e-6)


def test_binary_metrics_of_empty_masks() -> None:
    for metric in (metrics.dice, metrics.iou):
        assert metric(EMPTY, EMPTY) == 1
        assert metric(ONE, EMPTY) == metric(EMPTY, ONE) == 0
    assert metrics.accuracy(EMPTY, EMPTY) == 1
    assert metrics.accuracy(ONE, EMPTY) == (64 - 9) / 64


@given(BINARY, BINARY)
def test_binary_metrics_are_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    for metric in (metrics.dice, metrics.iou, metrics.accuracy):
        assert metric(a, b) == metric(b, a)
        assert 0 <= metric(a, b) <= 1
        assert metric(a, a) == 1
    overlap = metrics.iou(a, b)
    assert metrics.dice(a, b) == pytest.approx(2 * overlap / (1 + overlap))


def test_binary_metrics_refuse_probabilities_and_other_sizes() -> None:
    with pytest.raises(ValueError, match="threshold"):
        metrics.dice(np.full((4, 4), 0.5), np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="same"):
        metrics.iou(np.ones((4, 4), bool), np.ones((4, 5), bool))


# ------------------------------------------------------------------------------------------------- COCO's AP


def coco_precision(
    pred: np.ndarray, scores: np.ndarray, true: np.ndarray, thresholds: list[float], min_area: float = 0
) -> float:
    """AP by pycocotools: one image, one category, areas from min_area on, no limit on detections."""

    def annotation(i: int, mask: np.ndarray) -> dict:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {
            "id": i + 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": rle,
            "area": float(mask.sum()),
            "iscrowd": 0,
        }

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": 1, "height": true.shape[1], "width": true.shape[2]}],
            "categories": [{"id": 1}],
            "annotations": [annotation(i, mask) for i, mask in enumerate(true)],
        }
        truth.createIndex()
        found = truth.loadRes([annotation(i, m) | {"score": float(s)} for i, (m, s) in enumerate(zip(pred, scores))])
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.maxDets = [1, 10, 10_000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[min_area, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"][:, :, 0, 0, -1].mean())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("min_area", [17, 33, 65])  # of areas that are multiples of 16
def test_average_precision_of_large_objects_is_that_of_pycocotools(seed: int, min_area: int) -> None:
    true, pred = blobs(seed, 9), np.concatenate([blobs(seed, 6), blobs(seed + 100, 9)])
    scores = np.random.default_rng(seed).permutation(len(pred)) / 20
    thresholds = [0.3, 0.5, 0.75]
    expected = coco_precision(pred, scores, true, thresholds, min_area)
    assert metrics.average_precision(pred, scores, true, thresholds, min_area) == pytest.approx(expected, abs=1e-9)


def test_average_precision_where_only_small_objects_are_there() -> None:
    small, large = np.zeros((2, 1, 8, 8), bool)
    small[0, :2, :2] = large[0, 2:, 2:] = True
    assert metrics.average_precision(small, [0.5], small, min_area=9) == 1
    assert metrics.average_precision(large, [0.5], small, min_area=9) == 0
    found = small.copy()
    found[0, :2, 2:4] = True  # large, and half of it the small object
    assert metrics.average_precision(found, [0.5], small, min_area=5) == 1
    assert metrics.average_precision(small, [0.5], large, min_area=9) == 0


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = blobs(seed, 15)
    pred = np.concatenate([blobs(seed + 50, 20), np.roll(true[:10], rng.integers(-2, 3, 2), (1, 2))])
    scores = rng.integers(0, 8, len(pred)) / 8  # with ties
    for thresholds in ([0.5], [0.75], list(metrics.COCO_THRESHOLDS)):
        ours = metrics.average_precision(pred, scores, true, thresholds)
        assert ours == pytest.approx(coco_precision(pred, scores, true, thresholds), abs=1e-12)
    assert 0 < metrics.average_precision(pred, scores, true) < 1


def test_coco_thresholds() -> None:
    assert pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]) == metrics.COCO_THRESHOLDS


def test_average_precision_by_hand() -> None:
    true = np.zeros((2, 4, 8), bool)
    true[0, :2, :2] = true[1, :2, 4:6] = True
    miss = np.roll(true[0], 2, 0)
    # hit, miss, hit: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1; 51 of the 101 recalls are at most 1/2
    value = metrics.average_precision([true[0], miss, true[1]], [0.9, 0.8, 0.7], true)
    assert value == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert metrics.average_precision(true, [0.1, 0.2], true, metrics.COCO_THRESHOLDS) == 1
    # a duplicate of a found object is a false positive, below which nothing is left to find
    assert metrics.average_precision([*true, true[0]], [0.9, 0.8, 0.7], true) == 1
    assert metrics.average_precision([true[0], true[0], true[1]], [0.9, 0.8, 0.7], true) == pytest.approx(value)


def test_average_precision_of_empties() -> None:
    none, some = np.zeros((0, 8, 8), bool), ONE[None] > 0
    assert metrics.average_precision(none, [], none) == 1
    assert metrics.average_precision([], [], EMPTY) == 1
    assert metrics.average_precision(some, [0.5], none) == 0
    assert metrics.average_precision(none, [], some) == 0


def test_average_precision_takes_a_label_image_for_its_masks() -> None:
    labels = label_image(3)
    true = np.stack([labels == i for i in np.unique(labels)[1:]])
    pred, scores = blobs(4, 12), np.linspace(0, 1, 12)
    assert np.array_equal(metrics.mask_iou_matrix(pred, labels), metrics.mask_iou_matrix(pred, true))
    assert metrics.average_precision(pred, scores, labels) == metrics.average_precision(pred, scores, true)


def test_mask_iou_matrix_agrees_with_pycocotools() -> None:
    pred, true = blobs(0, 9), blobs(1, 11)
    encode = [[coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks] for masks in (pred, true)]
    assert np.allclose(metrics.mask_iou_matrix(pred, true), coco_mask.iou(*encode, [0] * len(true)))


def test_average_precision_refuses_wrong_input() -> None:
    masks = blobs(0, 3)
    with pytest.raises(ValueError, match="one finite score a mask"):
        metrics.average_precision(masks, [0.5], masks)
    with pytest.raises(ValueError, match="one finite score a mask"):
        metrics.average_precision(masks, [0.5, np.nan, 0.1], masks)
    with pytest.raises(ValueError, match="differ in size"):
        metrics.average_precision(masks, [0.5] * 3, masks[:, :8])
    with pytest.raises(ValueError, match="of one size"):
        metrics.mask_iou_matrix([masks[0], masks[1, :8]], masks)


# ------------------------------------------------------------------------------------------------- painting


def test_paint_puts_the_better_mask_on_top() -> None:
    masks = np.zeros((3, 2, 4), bool)
    masks[0, :, :3] = masks[1, :, 1:] = masks[2, 0, 1] = True
    assert metrics.paint(masks, [0.2, 0.9, 0.5], (2, 4)).tolist() == [[1, 2, 2, 2], [1, 2, 2, 2]]
    assert metrics.paint(masks, [0.9, 0.2, 0.95], (2, 4)).tolist() == [[1, 3, 1, 2], [1, 1, 1, 2]]
    assert metrics.paint(masks[:2], [0.5, 0.5], (2, 4)).tolist() == [[1, 2, 2, 2], [1, 2, 2, 2]]
    empty = metrics.paint([], [], (2, 4))
    assert empty.dtype == np.int32 and empty.shape == (2, 4) and not empty.any()


def test_paint_refuses_wrong_input() -> None:
    with pytest.raises(ValueError, match="one score a mask"):
        metrics.paint(blobs(0, 2), [0.5], (32, 40))
    with pytest.raises(ValueError, match="resize"):
        metrics.paint(blobs(0, 1), [0.5], (16, 40))


# ------------------------------------------------------------------------------------------------- label images


@given(LABELS, LABELS)
def test_overlaps_agree_with_scikit_image(pred: np.ndarray, true: np.ndarray) -> None:
    overlap, pred_area, true_area = metrics.contingency(pred, true)
    table = contingency_table(pred, true, sparse_type="array").toarray()
    ids = [np.unique(labels[labels > 0]) for labels in (pred, true)]
    assert np.array_equal(overlap, table[np.ix_(*ids)])
    assert np.array_equal(pred_area, table.sum(1)[ids[0]])
    assert np.array_equal(true_area, table.sum(0)[ids[1]])


@given(LABELS, LABELS, st.sampled_from([0.2, 0.5, 0.75]))
def test_f1_is_the_best_assignment(pred: np.ndarray, true: np.ndarray, threshold: float) -> None:
    ids = [np.unique(labels[labels > 0]) for labels in (pred, true)]
    overlaps = np.array([[metrics.iou(pred == i, true == j) for j in ids[1]] for i in ids[0]]).reshape(*map(len, ids))
    rows, columns = optimize.linear_sum_assignment(overlaps >= threshold, maximize=True)
    total = sum(map(len, ids))
    expected = 2 * np.sum(overlaps[rows, columns] >= threshold) / total if total else 1
    assert metrics.f1(pred, true, threshold) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_quality_agrees_with_torchmetrics(seed: int) -> None:
    true = label_image(seed)
    pred = np.roll(true, np.random.default_rng(seed).integers(0, 3), 1) * (label_image(seed + 1) != 1)

    def panoptic(labels: np.ndarray) -> torch.Tensor:  # H W -> 1 H W (category, instance)
        return torch.as_tensor(np.stack([labels > 0, labels], -1)[None].astype(int))

    expected = tm_panoptic_quality(panoptic(pred), panoptic(true), things={1}, stuffs={0}, return_per_class=True)
    assert 0 < metrics.panoptic_quality(pred, true) < 1
    assert metrics.panoptic_quality(pred, true) == pytest.approx(expected[0, 0].item(), abs=1e-6)


def test_instance_metrics_by_hand() -> None:
    true = np.array([[1, 1, 1, 1, 0, 2, 2, 2], [1, 1, 1, 1, 0, 2, 2, 2]])
    pred = np.array([[5, 5, 5, 0, 0, 0, 0, 7], [5, 5, 5, 0, 0, 0, 0, 7]])  # IoU 3/4 and 1/3
    assert metrics.f1(pred, true) == 2 * 1 / 4
    assert metrics.f1(pred, true, 0.3) == 1
    assert metrics.f1(pred, true, 0.8) == 0
    assert metrics.panoptic_quality(pred, true) == pytest.approx(0.75 / (1 + 0.5 + 0.5))


def test_merges_and_splits_by_hand() -> None:
    true = np.array([[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 0, 0]])
    both = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]])  # covers 1 and 2 wholly
    half = np.array([[0, 0, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0]])  # half of 1 and half of 2
    less = np.array([[0, 0, 0, 4, 4, 0, 0, 0, 0, 0, 0, 0]])  # a quarter of 1
    halves = np.array([[0, 0, 0, 0, 0, 0, 8, 8, 9, 9, 9, 0]])  # 8 and most of 9 in 3
    outside = np.array([[0, 0, 0, 0, 0, 0, 8, 8, 8, 9, 9, 9]])  # two thirds of 9 outside 3
    expected = {"both": (1, 0), "half": (1, 0), "less": (0, 0), "halves": (0, 1), "outside": (0, 0), "true": (0, 0)}
    found = {name: metrics.merges_and_splits(labels, true) for name, labels in locals().items() if name in expected}
    assert found == expected


def test_label_metrics_of_empties() -> None:
    for metric in (metrics.f1, metrics.panoptic_quality):
        assert metric(EMPTY, EMPTY) == 1
        assert metric(ONE, EMPTY) == metric(EMPTY, ONE) == 0
    assert metrics.merges_and_splits(EMPTY, EMPTY) == metrics.merges_and_splits(ONE, EMPTY) == (0, 0)


@given(LABELS, LABELS)
def test_label_metrics_are_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    for metric in (metrics.f1, metrics.panoptic_quality):
        assert metric(a, b) == pytest.approx(metric(b, a))
        assert 0 <= metric(a, b) <= 1
        assert metric(a, a) == 1
    assert metrics.panoptic_quality(a, b) <= metrics.f1(a, b) + 1e-12
    assert metrics.merges_and_splits(a, b) == metrics.merges_and_splits(b, a)[::-1]
    assert metrics.merges_and_splits(a, a) == (0, 0)


@given(LABELS, LABELS, st.permutations(range(1, 5)), st.sampled_from([1, 1000, 2**28]))
@settings(deadline=None)
def test_label_metrics_ignore_the_ids(a: np.ndarray, b: np.ndarray, order: list[int], factor: int) -> None:
    renamed = np.array([0, *order], np.int64)[a] * factor
    for metric in (metrics.f1, metrics.panoptic_quality, metrics.merges_and_splits):
        assert metric(renamed, b) == pytest.approx(metric(a, b))
        assert metric(b, renamed) == pytest.approx(metric(b, a))


def test_label_metrics_refuse_wrong_input() -> None:
    with pytest.raises(ValueError, match="integers"):
        metrics.f1(EMPTY.astype(float), EMPTY)
    with pytest.raises(ValueError, match="label -1"):
        metrics.panoptic_quality(EMPTY - 1, EMPTY)
    with pytest.raises(ValueError, match="same"):
        metrics.merges_and_splits(EMPTY, EMPTY[:4])
    with pytest.raises(ValueError, match="IoU above 0"):
        metrics.f1(EMPTY, EMPTY, 0)


# ------------------------------------------------------------------------------------------------- intervals


def test_bootstrap_interval_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 120)
    values = rng.normal(0.8, 0.05, 120) + 0.1 * rng.random(30)[groups]
    mean, low, high = bootstrap_interval(values, groups, n=5000)
    sums = np.array([values[groups == g].sum() for g in np.unique(groups)])
    counts = np.array(list(Counter(groups.tolist())[g] for g in np.unique(groups)))
    expected = stats.bootstrap(
        (sums, counts), lambda s, c, axis: s.sum(axis) / c.sum(axis), paired=True, n_resamples=5000,
        method="percentile", random_state=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert mean == pytest.approx(values.mean())
    assert [low, high] == pytest.approx([expected.low, expected.high], abs=0.1 * (high - low))
    assert bootstrap_interval(values, groups, level=0.5)[2] < high


def test_bootstrap_interval_is_seeded_and_resamples_groups() -> None:
    values, groups = np.r_[np.zeros(50), np.ones(50)], ["a"] * 50 + ["b"] * 50
    assert bootstrap_interval(values, groups, seed=3) == bootstrap_interval(values, groups, seed=3)
    assert bootstrap_interval(values, groups) == (0.5, 0, 1)  # two groups: both, or one of them twice
    _, low, high = bootstrap_interval(values, np.arange(100))
    assert 0.35 < low < high < 0.65


def test_bootstrap_interval_of_too_little() -> None:
    assert bootstrap_interval([0.4, 0.6], ["a", "a"]) == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)
    assert np.isnan(bootstrap_interval([], [])).all()
    assert np.isnan(bootstrap_interval([np.nan], ["a"])).all()
    assert bootstrap_interval([0.25, np.nan, 0.75], ["a", "b", "c"])[0] == 0.5
    with pytest.raises(ValueError, match="one group a value"):
        bootstrap_interval([0.5], ["a", "b"])
