"""The tight box as a prompt: against segment-anything's predictor, and beside the jittered box and the point."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from skimage.draw import disk
from skimage.measure import regionprops

from lorasam_core.config import RunConfig
from lorasam_core.data.sample import Sample
from lorasam_core.measure import evaluation, metrics, prompted
from lorasam_core.training import prompts
from tests.tiny_sam import tiny_sam


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    return tiny_sam()


@pytest.fixture(scope="module")
def item() -> Sample:
    """Five discs, one of them cut by the edge."""
    rng = np.random.default_rng(4)
    labels = np.zeros((48, 72), np.int32)
    for k, place in enumerate([(10, 12), (12, 40), (34, 20), (30, 50), (24, 71)]):
        labels[disk(place, 7, shape=labels.shape)] = k + 1
    return Sample((rng.integers(0, 60, labels.shape) + 120 * (labels > 0)).astype(np.uint8), labels, "a", "g")


def test_exact_box_rows_are_those_of_tight_boxes_one_by_one(sam: Sam, item: Sample) -> None:
    row = evaluation.evaluate(sam, [item], ("exact_box",), k=4, seed=5)["exact_box"].iloc[0]
    ids = prompts.choose_instances(item.labels, 4, np.random.default_rng([5, zlib.crc32(item.id.encode())]))
    tight = {p.label: p.bbox for p in regionprops(item.labels)}  # rows before columns, the last pixel not included
    predictor, expected = SamPredictor(sam), []
    predictor.set_image(item.image[:, :, None].repeat(3, 2))
    for i in ids:
        top, left, bottom, right = tight[i]
        masks, rated, _ = predictor.predict(box=np.array([left, top, right - 1, bottom - 1]), multimask_output=False)
        assert len(masks) == 1
        iou = metrics.iou(masks[0], item.labels == i)
        expected.append((iou, iou, abs(rated[0] - iou)))
    assert row["n"] == 4
    assert (row["iou_best"], row["iou_rated"], row["iou_error"]) == pytest.approx(np.mean(expected, axis=0), abs=1e-3)


def test_every_prompt_is_for_the_same_instances(sam: Sam, item: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[np.ndarray] = []
    score = prompted.score_prompts
    monkeypatch.setattr(prompted, "score_prompts", lambda p, true, **kw: asked.append(true) or score(p, true, **kw))
    rows = evaluation.evaluate(sam, [item], ("exact_box", "point", "box"), k=3, seed=1)
    assert list(rows) == ["exact_box", "point", "box"]
    assert len(asked) == 3 and all(np.array_equal(asked[0], other) for other in asked)


def test_a_run_may_ask_for_it_and_runs_that_do_not_keep_their_id() -> None:
    config = RunConfig(evaluate=("exact_box", "box", "predictor"), precision="32-true")
    assert config.evaluate == ("predictor", "box", "exact_box")
    before = RunConfig(evaluate=("predictor", "point", "box", "generator"), precision="32-true")
    assert before.to_dict()["evaluate"] == ["predictor", "point", "box", "generator"]
    assert config.run_id("b", "f", "s") != config.replace(evaluate=("predictor", "box")).run_id("b", "f", "s")
