"""The mask generator without its filters: every pair of thresholds against a generator that was made with it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from segment_anything.modeling import Sam

from lorasam_core.config import RunConfig
from lorasam_core.data.particles import generate
from lorasam_core.experiments import filters, runs
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator
from lorasam_core.masks.guided import GUIDED_SETTINGS, GuidedGenerator
from lorasam_core.masks.thresholds import THRESHOLDS
from lorasam_core.measure import evaluation, metrics
from lorasam_core.measure.metrics import iou
from lorasam_core.models.lite import build_lite
from lorasam_core.models.sam import load_sam
from tests.disc_set import disc_sample, disc_set
from tests.tiny_sam import tiny_sam

FEW = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.7, "min_mask_region_area": 25}
ALL = {"box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}  # no mask gives way to another


@pytest.fixture(scope="module")
def sam() -> Sam:
    sam = tiny_sam(5)
    with torch.no_grad():  # ratings around a half rather than around zero, and masks of many sizes with sharp edges
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
        for head in sam.mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 100
            head.layers[-1].bias *= 0
    return sam


def generated(sam: Sam, image: np.ndarray, pair: tuple[float, float], **settings: object) -> list[dict]:
    """What a generator returns that was made with these thresholds."""
    chosen = dict(zip(filters.CHOSEN, pair, strict=True))
    return MaskGenerator(sam, **(FEW | settings | chosen)).generate(image)


def biting(sam: Sam, image: np.ndarray) -> list[tuple[float, float]]:
    """No filter, each filter, both, and one that nothing passes; by the quantiles of what the model returns."""
    every = generated(sam, image, (0.0, 0.0), **ALL)
    iou = float(np.quantile([a["predicted_iou"] for a in every], 0.4))
    stability = float(np.nanquantile([a["stability_score"] for a in every], 0.4))
    return [(0.0, 0.0), (iou, 0.0), (0.0, stability), (iou, stability), (1.0, 1.0)]


@pytest.mark.parametrize("settings", [{}, ALL, ALL | {"crop_n_layers": 1}])
def test_every_pair_gives_what_its_own_generator_gives(sam: Sam, settings: dict) -> None:
    image = disc_sample(1).image
    pairs = biting(sam, image)
    assert 0 < pairs[3][0] < 1 and 0 < pairs[3][1] < 1
    sweep = filters.ThresholdSweep(sam, **(FEW | settings))
    counts = []
    for _ in range(2):  # a second image starts anew
        for pair, found in zip(pairs, sweep.sweep(image, pairs), strict=True):
            expected = generated(sam, image, pair, **settings)
            counts.append(len(found))
            assert len(found) == len(expected)
            for a, b in zip(found, expected, strict=True):
                assert np.array_equal(a["segmentation"], b["segmentation"])
                assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-5)
                assert a["stability_score"] == pytest.approx(b["stability_score"], abs=1e-6, nan_ok=True)
                assert a["bbox"] == b["bbox"] and a["crop_box"] == b["crop_box"] and a["area"] == b["area"]
        image = disc_sample(2).image
    assert counts[4] == 0 and (settings == {} or len(set(counts[:5])) > 3)


def test_an_image_is_encoded_once_for_all_pairs(sam: Sam) -> None:
    seen = []
    hook = sam.image_encoder.register_forward_hook(lambda *_: seen.append(1))
    try:
        list(filters.ThresholdSweep(sam, **FEW).sweep(disc_sample(1).image, [(0.0, 0.0), (0.2, 0.1), (0.9, 0.9)]))
    finally:
        hook.remove()
    assert len(seen) == 1


def test_sweep_keeps_every_mask_and_scores_every_pair(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [disc_sample(1), disc_sample(2, (64, 70, 3))]
    pairs = tuple(biting(sam, samples[0].image))
    monkeypatch.setattr(filters, "PAIRS", pairs)
    masks, scores = filters.sweep(sam, samples, FEW)
    expected = [
        row for s in samples for row in evaluation.annotation_rows(generated(sam, s.image, (0.0, 0.0)), s)
    ]  # fmt: skip
    pd.testing.assert_frame_equal(masks, pd.DataFrame(expected), atol=1e-5)
    assert len(scores) == len(samples) * len(pairs)
    assert list(scores.columns) == ["id", "group", *filters.CHOSEN, "dice", "ap50", "f1", "n_pred"]
    row = scores.set_index(["id", *filters.CHOSEN]).loc[("image2", *pairs[3])]
    by_hand = evaluation.score_annotations(generated(sam, samples[1].image, pairs[3]), samples[1].labels)
    assert {name: row[name] for name in filters.SCORES} == pytest.approx({n: by_hand[n] for n in filters.SCORES})


def test_the_grid_holds_the_thresholds_of_the_study_and_of_the_runs() -> None:
    for settings in (STUDY_SETTINGS, QUICK_SETTINGS):
        assert tuple(settings[name] for name in filters.CHOSEN) in filters.PAIRS
    assert filters.PAIRS[0] == (0.0, 0.0) and len(set(filters.PAIRS)) == len(filters.PAIRS)


def test_images_are_spread_evenly() -> None:
    samples = [disc_sample(i, (32, 32), n=1) for i in range(9)]
    assert [s.id for s in filters.spread(samples, 3)] == ["image0", "image4", "image8"]
    assert [s.id for s in filters.spread(samples, 20)] == [s.id for s in samples]
    with pytest.raises(ValueError, match="no validation image"):
        filters.spread([], 3)


def test_the_best_thresholds_by_hand() -> None:
    rows = [(0.0, 0.0, 0.1), (0.0, 0.0, 0.9), (0.5, 0.7, 0.75), (0.5, 0.7, 0.5), (0.5, 0.9, 0.5), (0.5, 0.9, 0.75)]
    scores = pd.DataFrame(rows, columns=[*filters.CHOSEN, "f1"])  # the last two are equal
    usual = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.8, "points_per_side": 16}
    assert filters.best_thresholds(scores, usual) == {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.7}
    for nothing in (0.0, float("nan")):
        kept = filters.best_thresholds(scores.assign(f1=nothing), usual)
        assert kept == {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.8}
    assert filters.best_thresholds(scores.assign(f1=0.0), {}) == {}


def test_measure_tunes_on_validation_and_judges_on_test(sam: Sam, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    data = disc_set(train=2, val=3)
    pairs = tuple(biting(sam, data.subset("val")[0].image))
    monkeypatch.setattr(filters, "PAIRS", pairs)
    monkeypatch.setattr(filters, "QUICK_SETTINGS", FEW)
    judge = evaluation.score_annotations  # a model without training matches nothing: here fewer masks are better
    monkeypatch.setattr(evaluation, "score_annotations", lambda a, b: judge(a, b) | {"f1": 1 / (1 + len(a))})
    config = RunConfig(method="frozen", filters=2, precision="32-true", device="cpu")
    found, rows = filters.measure(sam, data.subset("val"), data.subset("test"), config, "cpu", tmp_path)
    masks, scores = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("calibration", "thresholds"))
    first, _, last = data.subset("val").ids
    assert set(masks["id"]) == set(scores["id"]) == {first, last}
    means = scores.groupby(filters.CHOSEN)["f1"].mean()
    assert means[tuple(found["tuned"][name] for name in filters.CHOSEN)] == pytest.approx(means.max(), abs=1e-4)
    assert means.max() > means.min()
    details: dict[str, list[dict]] = {}
    evaluation.evaluate_generator(sam, data.subset("test"), FEW | found["tuned"], details=details)
    kept = pd.read_csv(tmp_path / "tuned_particles.csv", dtype={"source": str})
    expected = pd.DataFrame(details["particles"])
    assert kept["diameter"].tolist() == pytest.approx(expected["diameter"].tolist(), abs=1e-4) and len(kept)
    assert kept["source"].tolist() == expected["source"].tolist()
    assert found["tuned"]["min_mask_region_area"] == found["own"]["min_mask_region_area"] == 25
    assert found["study"] == {n: STUDY_SETTINGS[n] for n in filters.FILTERS} and found["points_per_side"] == 4
    for key, evaluator, chosen in (
        ("study_thresholds", "generator_study", found["study"]),
        ("tuned_test", "generator_tuned", found["tuned"]),
    ):
        part = rows[rows["evaluator"] == evaluator]
        expected = evaluation.evaluate_generator(sam, data.subset("test"), FEW | chosen)
        pd.testing.assert_frame_equal(part.drop(columns="evaluator").reset_index(drop=True), expected)
        assert found[key]["ap50"]["mean"] == pytest.approx(expected["ap50"].mean()) and found[key]["ap50"]["n"] == 1


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base") / "random.pth"
    torch.save(build_lite().state_dict(), path)
    yield RunConfig(
        checkpoint=str(path), image_size=64, limit=10, method="frozen", evaluate=("predictor",), filters=12,
        device="cpu", precision="32-true", test_limit=1,
    )  # fmt: skip
    runs.base_sam.cache_clear()


def test_a_run_with_filters_keeps_its_tables(settings: RunConfig, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUICK_SETTINGS, "points_per_side", 2)
    monkeypatch.setattr(filters, "PAIRS", ((0.0, 0.0), (0.9, 0.92)))
    record = runs.run_one(settings, tmp_path)
    validation = set(runs.dataset("synthetic", 0, 10).subset("val").ids)
    assert set(record.table("calibration")["id"]) == set(record.table("thresholds")["id"]) == validation
    assert set(record.per_image["evaluator"]) == {"predictor", "generator_study", "generator_tuned"}
    assert record.per_image.columns[0] == "evaluator" and set(record.metrics["test"]) == {"predictor"}
    tuned = record.per_image.query("evaluator == 'generator_tuned'")["ap50"]
    assert record.metrics["filters"]["tuned_test"]["ap50"]["mean"] == pytest.approx(tuned.mean())


def test_what_has_no_ratings_has_no_filters(settings: RunConfig, tmp_path) -> None:
    record = runs.run_one(settings.replace(method="otsu"), tmp_path)
    assert "filters" not in record.metrics and not (record.path / "calibration.csv").exists()
    assert set(record.per_image["evaluator"]) == {"predictor"}


def test_the_guided_threshold_comes_from_validation_and_judges_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GUIDED_SETTINGS, "points_per_side", 12)
    sam, val = load_sam("lite", image_size=128), [generate(seed=1, index=i, size=(128, 128)) for i in range(3)]
    test = [generate(seed=2, index=i, size=(128, 160)) for i in range(2)]
    details: dict[str, list[dict]] = {}
    found, rows = filters.guided(sam, val, test, details=details)

    def answered(sample, threshold: float) -> list[dict]:
        return GuidedGenerator(sam, score_thresh=threshold).generate(sample.image)

    def painted(annotations: list[dict], sample) -> np.ndarray:
        return metrics.paint([a["segmentation"] for a in annotations], [a["score"] for a in annotations], sample.shape)

    f1 = {t: np.mean([metrics.f1(painted(answered(s, t), s), s.labels) for s in val]) for t in THRESHOLDS}
    assert f1[found["score_thresh"]] == pytest.approx(max(f1.values())) and max(f1.values()) > min(f1.values())
    assert list(rows["id"]) == [s.id for s in test]
    for row, sample in zip(rows.to_dict("records"), test, strict=True):
        kept = painted(answered(sample, found["score_thresh"]), sample)
        by_hand = evaluation.score_labels(kept, sample.labels)
        for name in ("dice", "f1", "pq", "n_pred", "n_true", "d50_error"):
            assert row[name] == pytest.approx(by_hand[name]), name
        every = answered(sample, THRESHOLDS[0])
        ious = np.array(
            [[iou(a["segmentation"], sample.labels == k) for k in np.unique(sample.labels)[1:]] for a in every]
        )
        assert row["recall"] == pytest.approx((ious.max(0) >= 0.5).mean())
        assert row["rating_correlation"] == pytest.approx(spearmanr([a["score"] for a in every], ious.max(1))[0])
        scores = [a["score"] for a in every]
        ap = metrics.average_precision([a["segmentation"] for a in every], scores, sample.labels)
        assert row["ap50"] == pytest.approx(ap)
    assert {row["id"] for row in details["guided_particles"]} == {s.id for s in test}
