"""The worked metrics against pixels counted by hand, pycocotools and the book's own metrics; and their figures."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import stats

from lorasam_core.measure import metrics
from lorasam_core.report.chapters import lesson_plots, worked


def blobs(seed: int, n: int, shape: tuple[int, int] = (16, 20)) -> np.ndarray:
    """n overlapping rectangles, bool (n, H, W), on a coarse grid so that equal IoUs occur."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, *shape), bool)
    for mask in masks:
        y, x = rng.integers(0, [shape[0] - 8, shape[1] - 8]) // 4 * 4
        h, w = rng.integers(1, 3, 2) * 4
        mask[y : y + h, x : x + w] = True
    return masks


def coco_ap50(pred: np.ndarray, scores: np.ndarray, true: np.ndarray) -> float:
    def annotation(i: int, mask: np.ndarray) -> dict:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {
            "id": i + 1, "image_id": 1, "category_id": 1, "segmentation": rle, "area": float(mask.sum()), "iscrowd": 0,
        }  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "images": [{"id": 1, "height": true.shape[1], "width": true.shape[2]}],
            "categories": [{"id": 1}], "annotations": [annotation(i, mask) for i, mask in enumerate(true)],
        }  # fmt: skip
        truth.createIndex()
        found = truth.loadRes([annotation(i, m) | {"score": float(s)} for i, (m, s) in enumerate(zip(pred, scores))])
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, 0, 0, -1].mean())


def average(table: pd.DataFrame) -> float:
    return float(worked.at_recalls(table)["precision"].mean())


def test_the_example_has_the_counts_that_a_hand_finds() -> None:
    true, pred, scores = worked.example()
    assert np.bincount(true.ravel())[1:].tolist() == [20, 12, 12, 24, 12]
    assert np.bincount(pred.ravel())[1:].tolist() == [16, 28, 16, 8, 9]
    assert scores.tolist() == [0.95, 0.9, 0.8, 0.5, 0.6]
    assert metrics.dice(pred > 0, true > 0) == pytest.approx(2 * 64 / (77 + 80))
    assert metrics.iou(pred > 0, true > 0) == pytest.approx(64 / 93)
    assert metrics.f1(pred, true) == pytest.approx(4 / 10)
    assert metrics.panoptic_quality(pred, true) == pytest.approx((16 / 20 + 16 / 24) / 5)
    assert metrics.merges_and_splits(pred, true) == (1, 1)


def test_pairs_are_counted_pixel_by_pixel() -> None:
    true, pred, _ = worked.example()
    rows = worked.pair_table(pred, true)
    expected = [(1, 1, 16, 16, 20, 20), (2, 2, 12, 28, 12, 28), (2, 3, 12, 28, 12, 28), (3, 4, 16, 16, 24, 24),
                (4, 4, 8, 8, 24, 24)]  # fmt: skip
    assert [tuple(row[:-1]) for row in rows.itertuples(index=False)] == expected
    assert rows["iou"].tolist() == pytest.approx([16 / 20, 12 / 28, 12 / 28, 16 / 24, 8 / 24])
    assert worked.pair_table(np.zeros_like(pred), true).empty


def test_steps_of_the_example_are_those_made_by_hand() -> None:
    true, pred, scores = worked.example()
    steps = worked.precision_recall(worked.instances(pred), scores, worked.instances(true))
    assert steps["prediction"].tolist() == [1, 2, 3, 5, 4]
    assert steps["hit"].tolist() == [True, False, True, False, False]
    assert steps["precision"].tolist() == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4, 2 / 5])
    assert steps["recall"].tolist() == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.4])
    assert steps["envelope"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 2, 2 / 5])
    assert average(steps) == pytest.approx((21 * 1 + 20 * 2 / 3) / 101)
    assert worked.shown_steps(steps)["best free particle"].tolist() == ["1", "3", "4", "–", "–"]


def test_cutting_the_merge_changes_no_pixel_and_every_instance_metric() -> None:
    true, pred, scores = worked.example()
    _, cut, cut_scores = worked.example(cut=True)
    assert np.array_equal(cut > 0, pred > 0) and len(cut_scores) == cut.max() == 6
    assert metrics.average_precision(cut, cut_scores, true) > metrics.average_precision(pred, scores, true)
    assert metrics.f1(cut, true) == pytest.approx(2 * 4 / 11) and metrics.merges_and_splits(cut, true) == (0, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 9), st.sampled_from(metrics.COCO_THRESHOLDS))
def test_the_area_under_the_envelope_is_average_precision(seed: int, n: int, m: int, threshold: float) -> None:
    true, pred = blobs(seed, n), blobs(seed + 1, m)
    scores = np.random.default_rng(seed).integers(0, 5, m) / 5  # with ties
    steps = worked.precision_recall(pred, scores, true, threshold)
    assert average(steps) == pytest.approx(metrics.average_precision(pred, scores, true, [threshold]), abs=1e-12)
    assert steps["TP"].iloc[-1] <= min(n, m) and (steps["TP"] + steps["FP"]).tolist() == list(range(1, m + 1))


@pytest.mark.parametrize("seed", range(6))
def test_the_area_under_the_envelope_is_that_of_pycocotools(seed: int) -> None:
    true, pred = blobs(seed, 6), np.concatenate([blobs(seed, 4), blobs(seed + 50, 4)])
    scores = np.random.default_rng(seed).permutation(len(pred)) / 10
    assert average(worked.precision_recall(pred, scores, true)) == pytest.approx(coco_ap50(pred, scores, true))


def test_images_of_a_group_resemble_each_other_as_asked() -> None:
    table = worked.images_in_groups(np.random.default_rng(0), 400, 5, mean=0.5, between=0.1, within=0.02)
    groups = table.groupby("group")["value"]
    assert groups.size().tolist() == [5] * 400
    assert groups.std().mean() == pytest.approx(0.02 * 0.94, rel=0.05)  # c4(5) = 0.94
    assert groups.mean().std() == pytest.approx((0.1**2 + 0.02**2 / 5) ** 0.5, rel=0.1)


def test_single_images_hold_the_truth_as_seldom_as_theory_says() -> None:
    """The standard error of the mean of n images a group is sqrt(1 + (n - 1) rho) times that of independent ones."""
    table = worked.coverage(repeats=200, groups=20, images=8, between=0.1, within=0.02)
    rho = 0.1**2 / (0.1**2 + 0.02**2)
    ratio = (1 + 7 * rho) ** 0.5
    width = (table["high"] - table["low"]).groupby(table["drawn"]).mean()
    assert width[worked.WHOLE_GROUPS] / width[worked.SINGLE_IMAGES] == pytest.approx(ratio, rel=0.1)
    share = table.groupby("drawn")["holds"].mean()
    assert share[worked.SINGLE_IMAGES] == pytest.approx(2 * stats.norm.cdf(1.96 / ratio) - 1, abs=0.1)
    assert share[worked.WHOLE_GROUPS] == pytest.approx(0.95, abs=0.06)
    text = worked.coverage_sentence(table)
    assert "Of 200 such sets" in text and f"{100 * share[worked.SINGLE_IMAGES]:.0f} % where single images" in text


def test_the_grouping_sentence_claims_what_the_numbers_show() -> None:
    wide = worked.two_intervals([0.1, 0.1, 0.5, 0.5, 0.9, 0.9], list("aabbcc"))
    assert "makes it wider" in worked.grouping_sentence(wide, "the Dice")
    balanced = worked.two_intervals([0.1, 0.9] * 4, np.repeat(np.arange(4), 2))
    assert "do not make it wider" in worked.grouping_sentence(balanced, "the Dice")
    alone = worked.two_intervals([0.1, 0.5, 0.9], list("abc"))
    assert "every image is a group of its own" in worked.grouping_sentence(alone, "the Dice")
    one = worked.two_intervals([0.1, 0.2], ["a", "a"])
    assert "no interval" in worked.grouping_sentence(one, "the Dice")


# ------------------------------------------------------------------------------------------------- figures
def test_the_embedding_picture_keeps_regions_apart() -> None:
    """Three regions along three orthogonal directions, far apart in each: three flat colours."""
    regions = np.repeat(np.arange(4), 16).reshape(8, 8)
    features = np.eye(4)[regions].transpose(2, 0, 1) * np.array([4.0, 3.0, 2.0, 1.0])[:, None, None]
    picture = lesson_plots.pca_picture(features)
    assert picture.shape == (8, 8, 3) and picture.dtype == np.uint8
    colors = [np.unique(picture[regions == i], axis=0) for i in range(4)]
    assert all(len(c) == 1 for c in colors) and len({tuple(c[0]) for c in colors}) == 4


def test_likeness_is_the_cosine_to_one_place() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3, 4))
    centred = features - features.mean((1, 2), keepdims=True)
    a, b = centred[:, 1, 2], centred[:, 0, 3]
    found = lesson_plots.likeness(features, 1, 2)
    assert found[1, 2] == pytest.approx(1) and found[0, 3] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert lesson_plots.grey(np.array([[-1.0, 0.0, 1.0, 3.0]]), -1, 1).tolist() == [[0, 128, 255, 255]]


def test_outlines_colour_edges_alone() -> None:
    image = np.full((30, 30), 100, np.uint8)
    mask = np.zeros((1, 30, 30), bool)
    mask[0, 5:25, 5:25] = True
    out = lesson_plots.outlines(image, mask)
    assert out[15, 15].tolist() == out[0, 0].tolist() == [60, 60, 60] and out[5, 15].tolist() != [60, 60, 60]
    assert np.array_equal(lesson_plots.outlines(image, mask[:0]), np.full((30, 30, 3), 60))


def test_around_is_the_box_of_a_mask_and_its_margin() -> None:
    mask = np.zeros((50, 60), bool)
    mask[3:8, 30:41] = True
    rows, columns = lesson_plots.around(mask, margin=5)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 13, 25, 46)


def test_prompts_draw_a_mark_for_each_point_and_a_frame_for_a_box() -> None:
    image = np.zeros((20, 30), np.uint8)
    panels = {
        "points": lesson_plots.Prompted(image, image > 0, [(3, 4), (5, 6)], [1, 0]),
        "box": lesson_plots.Prompted(image, box=(2, 3, 12, 8)),
    }
    figure = lesson_plots.prompts(panels)
    points, box = figure.axes
    assert [line.get_marker() for line in points.lines] == ["*", "X"]
    assert box.patches[-1].get_bbox().bounds == (2, 3, 10, 5) and box.get_title() == "box"
    assert figure.made_by == "lorasam_core.report.chapters.lesson_plots.prompts"


def test_charts_hold_their_tables() -> None:
    true, pred, scores = worked.example()
    steps = worked.precision_recall(worked.instances(pred), scores, worked.instances(true))
    axes = lesson_plots.precision_recall_chart(steps, worked.at_recalls(steps)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3", "5", "4"]
    grids = lesson_plots.label_grids({"true": true, "predicted": pred}, {"predicted": {1: "one"}})
    assert [t.get_text() for t in grids.axes[1].texts] == ["one", "2", "3", "4", "5"] and len(grids.axes[0].texts) == 5
    funnel = lesson_plots.funnel_chart(pd.DataFrame({"stage": ["asked", "rated"], "masks": [768, 12]}))
    assert [bar.get_width() for bar in funnel.axes[0].patches] == [768, 12]
    shares = pd.DataFrame({"part": list("abab"), "measure": ["x", "x", "y", "y"], "share": [90, 10, 40, 60]})
    assert sum(bar.get_width() for bar in lesson_plots.share_chart(shares).axes[0].patches) == 200
    dots = pd.DataFrame({"rated": [0.1, 0.9], "stable": [0.2, np.nan], "right": [False, True]})
    assert len(lesson_plots.filter_chart(dots, 0.3, 0.7).axes[0].collections) == 2
    table = worked.coverage(repeats=5)
    drawn = [c for axes in lesson_plots.coverage_chart(table, 0.7).axes for c in axes.collections]
    assert sum(len(c.get_segments()) for c in drawn) == 10
    logits = np.linspace(-3, 3, 400).reshape(20, 20)
    pictures = lesson_plots.threshold_pictures(np.zeros((20, 20), np.uint8), {"a": logits, "flat": 0 * logits})
    assert len(pictures.axes) == 2
    image, points = np.zeros((9, 9), np.uint8), np.array([[1.0, 2.0], [3.0, 4.0]])
    grid = lesson_plots.point_map(image, points, np.array([0.1, 0.9]), "rating")
    assert np.array_equal(grid.axes[0].collections[0].get_offsets(), points)
