"""Evaluation against segment-anything's own predictor and generator, and cases made by hand, on a tiny random SAM."""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from skimage.draw import disk

from lorasam_core.data.sample import Sample
from lorasam_core.measure import evaluation, metrics, prompted
from lorasam_core.stats import bootstrap_interval
from lorasam_core.training import prompts

EVERY_MASK = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


def answers(sam: Sam, samples: list[Sample], prompt: str = "point", **options: int) -> pd.DataFrame:
    return evaluation.evaluate(sam, samples, (prompt,), **options)[prompt]


@pytest.fixture(scope="module")
def sam() -> Sam:
    """A SAM of 64 pixels, two blocks of width 32, whose random masks vary with the image."""
    torch.manual_seed(0)
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, out_chans=32, norm_layer=norm, use_rel_pos=True,
        window_size=4, global_attn_indexes=(1,),
    )  # fmt: skip
    prompt_encoder = PromptEncoder(32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64)
    sam = Sam(encoder, prompt_encoder, MaskDecoder(transformer_dim=32, transformer=transformer))
    with torch.no_grad():  # ratings around a half rather than around zero
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
    return sam.eval()


def sample(i: int = 0, n: int = 6, shape: tuple[int, ...] = (48, 72)) -> Sample:
    """n bright discs on a dark ground."""
    rng = np.random.default_rng(i)
    labels = np.zeros(shape[:2], np.int32)
    for k in range(n):
        labels[disk(rng.integers(4, [shape[0] - 4, shape[1] - 4]), rng.integers(4, 8), shape=shape[:2])] = k + 1
    picture = rng.integers(0, 60, shape) + (120 * (labels > 0)).reshape(*labels.shape, *[1] * (len(shape) - 2))
    return Sample(picture.astype(np.uint8), labels, f"image{i}", f"specimen{i // 2}")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample(0), sample(1), sample(2, shape=(64, 40, 3))]


def original(sam: Sam, item: Sample) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(item.image if item.image.ndim == 3 else item.image[:, :, None].repeat(3, 2))
    return predictor


# ------------------------------------------------------------------------------------------------- predictor


def test_predictor_rows_are_those_of_the_whole_image_box(sam: Sam, samples: list[Sample]) -> None:
    rows = evaluation.evaluate(sam, samples, ("predictor",))["predictor"]
    assert list(rows.columns) == ["id", "group", "dice", "iou", "accuracy"]
    assert list(rows["id"]) == ["image0", "image1", "image2"]
    assert list(rows["group"]) == ["specimen0", "specimen0", "specimen1"]
    for item, row in zip(samples, rows.itertuples()):
        height, width = item.labels.shape
        box = np.array([0, 0, width, height])
        mask = original(sam, item).predict(box=box, multimask_output=False)[0][0]
        true = item.labels > 0
        assert np.array_equal(evaluation.predict_foreground(sam, item.image), mask)
        assert row.dice == pytest.approx(2 * (mask & true).sum() / (mask.sum() + true.sum()))
        assert row.iou == pytest.approx((mask & true).sum() / (mask | true).sum())
        assert row.accuracy == pytest.approx((mask == true).mean())


# ------------------------------------------------------------------------------------------------- prompted


@pytest.mark.parametrize("prompt", ["point", "box"])
def test_prompted_rows_are_those_of_prompts_one_by_one(sam: Sam, samples: list[Sample], prompt: str) -> None:
    rows = answers(sam, samples, prompt, k=4, seed=5)
    assert list(rows.columns) == ["id", "group", "n", "iou_best", "iou_rated", "iou_error"]
    for item, row in zip(samples, rows.itertuples()):
        rng = np.random.default_rng([5, zlib.crc32(item.id.encode())])
        ids = prompts.choose_instances(item.labels, 4, rng)
        draw = prompts.points_inside if prompt == "point" else prompts.jittered_boxes
        predictor, expected = original(sam, item), []
        for i, place in zip(ids, draw(item.labels, ids, rng)):
            if prompt == "point":
                masks, rated, _ = predictor.predict(place[None], np.ones(1))
                assert len(masks) == 3
            else:
                masks, rated, _ = predictor.predict(box=place, multimask_output=False)
                assert len(masks) == 1
            ious = np.array([metrics.iou(mask, item.labels == i) for mask in masks])
            expected.append((ious.max(), ious[rated.argmax()], np.abs(rated - ious).mean()))
        assert row.n == len(ids) == 4
        assert (row.iou_best, row.iou_rated, row.iou_error) == pytest.approx(np.mean(expected, axis=0), abs=1e-3)


def test_prompted_by_hand(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((32, 32), np.int32)
    labels[:8, :8] = 3
    masks = torch.zeros(1, 3, 32, 32, dtype=torch.bool)
    masks[0, 0, :8, :8] = True  # IoU 1
    masks[0, 1, :8, :4] = True  # IoU 1/2
    monkeypatch.setattr(prompted, "_prompt_points", lambda *_: (masks, np.array([[0.2, 0.9, 0.1]])))
    row = answers(sam, [Sample(np.zeros((32, 32), np.uint8), labels, "a", "g")]).iloc[0]
    assert (row["n"], row["iou_best"], row["iou_rated"]) == (1, 1, 0.5)
    assert row["iou_error"] == pytest.approx((0.8 + 0.4 + 0.1) / 3)


def test_prompts_depend_on_the_seed_and_the_image_alone(sam: Sam, samples: list[Sample]) -> None:
    everything = answers(sam, samples)
    last = answers(sam, samples[2:])
    pd.testing.assert_frame_equal(everything[2:].reset_index(drop=True), last)
    assert not answers(sam, samples, seed=1).equals(everything)
    pd.testing.assert_frame_equal(answers(sam, samples[::-1])[::-1].reset_index(drop=True), everything)


def test_an_image_without_instances(sam: Sam) -> None:
    rows = evaluation.evaluate(sam, [sample(7, n=0), sample(8)], settings=EVERY_MASK)
    assert rows["point"]["n"].tolist() == [0, 6]
    assert rows["point"].loc[0, ["iou_best", "iou_rated", "iou_error"]].isna().all()
    assert rows["predictor"].loc[0, "dice"] == 0  # nothing to find, something found
    assert evaluation.summarize(rows["box"])["iou_best"]["n"] == 1
    assert rows["generator"].loc[0, "n_true"] == 0


# ------------------------------------------------------------------------------------------------- generator


def test_generator_rows_are_those_of_segment_anything(sam: Sam, samples: list[Sample]) -> None:
    rows = evaluation.evaluate_generator(sam, samples[2:], EVERY_MASK)
    annotations = SamAutomaticMaskGenerator(sam, **EVERY_MASK).generate(samples[2].image)
    expected = evaluation.score_annotations(annotations, samples[2].labels)
    row = rows.iloc[0].to_dict()
    assert (row.pop("id"), row.pop("group")) == ("image2", "specimen1")
    assert row == pytest.approx(expected, abs=0, nan_ok=True)
    assert list(rows.columns) == [
        "id", "group", "dice", "iou", "ap50", "ap", "f1", "pq", "merges", "splits", "n_pred", "n_true", "d50_error",
    ]  # fmt: skip
    union = np.any([annotation["segmentation"] for annotation in annotations], axis=0)
    assert expected["dice"] == metrics.dice(union, samples[2].labels > 0)
    assert expected["n_pred"] == len(annotations) > 0


def test_annotations_by_hand() -> None:
    labels = np.zeros((16, 32), np.int32)
    labels[1:9, 1:9], labels[1:9, 9:17], labels[1:9, 20:28] = 4, 5, 9
    perfect = [{"segmentation": labels == i, "predicted_iou": 0.5} for i in (4, 5, 9)]
    flawless = {"dice": 1, "iou": 1, "ap50": 1, "ap": 1, "f1": 1, "pq": 1, "merges": 0, "splits": 0, "d50_error": 0}
    assert evaluation.score_annotations(perfect, labels) == flawless | {"n_pred": 3, "n_true": 3}
    merged = [{"segmentation": (labels == 4) | (labels == 5), "predicted_iou": 0.9}, perfect[2], perfect[0]]
    row = evaluation.score_annotations(merged, labels)
    # the merged mask lies on the first particle's own when painted, which AP still sees; its IoU with it is 1/2
    assert (row["dice"], row["merges"], row["splits"]) == (1, 1, 0)
    assert row["f1"] == pytest.approx(2 * 2 / (2 + 3))
    assert row["pq"] == pytest.approx(1 / (1 + 0.5 * 1 + 0.5 * 2))
    assert row["n_pred"] == 3
    assert row["d50_error"] == pytest.approx((1 + 2**0.5) / 2 - 1)  # of a particle and one of twice its area


def test_annotations_of_empties() -> None:
    nothing, labels = np.zeros((8, 8), np.int32), np.eye(8, dtype=np.int32)
    scores = ["dice", "iou", "ap50", "ap", "f1", "pq"]
    assert [evaluation.score_annotations([], nothing)[name] for name in scores] == [1] * 6
    assert [evaluation.score_annotations([], labels)[name] for name in scores] == [0] * 6
    spurious = [{"segmentation": labels > 0, "predicted_iou": 0.9}]
    assert [evaluation.score_annotations(spurious, nothing)[name] for name in scores] == [0] * 6


# ------------------------------------------------------------------------------------------------- together


def test_one_pass_gives_what_each_gives_alone_and_encodes_an_image_once(sam: Sam, samples: list[Sample]) -> None:
    encoded: list[int] = []
    hook = sam.image_encoder.register_forward_hook(lambda *_: encoded.append(1))
    together = evaluation.evaluate(sam, samples, ("predictor", "point", "box"), k=3)
    hook.remove()
    assert len(encoded) == len(samples)
    assert list(together) == ["predictor", "point", "box"]
    pd.testing.assert_frame_equal(together["predictor"], evaluation.evaluate(sam, samples, ("predictor",))["predictor"])
    for prompt in ("point", "box"):
        pd.testing.assert_frame_equal(together[prompt], answers(sam, samples, prompt, k=3))


def test_any_iterable_and_autocast(sam: Sam, samples: list[Sample]) -> None:
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    rows = evaluation.evaluate(sam, iter(samples[:1]), settings=EVERY_MASK, autocast=half)
    assert {name: len(table) for name, table in rows.items()} == dict.fromkeys(rows, 1)
    with half():  # around everything, as a run in mixed precision does
        around = evaluation.evaluate(sam, samples[:1], settings=EVERY_MASK)
    for name in rows:
        pd.testing.assert_frame_equal(rows[name], around[name])


def test_the_model_keeps_its_mode_and_gets_no_gradient(sam: Sam, samples: list[Sample]) -> None:
    sam.train()
    sam.mask_decoder.eval()
    modes = [module.training for module in sam.modules()]
    evaluation.evaluate(sam, samples[:1], settings=EVERY_MASK)
    assert [module.training for module in sam.modules()] == modes
    assert all(parameter.grad is None for parameter in sam.parameters())
    sam.eval()


def test_bad_input(sam: Sam, samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="no image"):
        evaluation.evaluate(sam, [], ("predictor",))
    with pytest.raises(ValueError, match=r"'text' is no evaluator; .* predictor, point, box, exact_box, generator"):
        evaluation.evaluate(sam, samples, ("text",))
    with pytest.raises(ValueError, match="'generators' is no evaluator"):
        evaluation.evaluate(sam, samples, ("generators",))
    with pytest.raises(ValueError, match="points_per_side"):
        evaluation.evaluate_generator(sam, samples, {"points_per_side": 0})


# ------------------------------------------------------------------------------------------------- summary


def two_discs() -> Sample:
    labels = np.zeros((40, 60), np.int32)
    labels[disk((12, 12), 8)], labels[disk((25, 59), 8, shape=labels.shape)] = 1, 2  # the second is cut by the edge
    return Sample(np.full((40, 60), 9, np.uint8), labels, "two", "paper", 2.0)


def annotation(mask: np.ndarray, rated: float) -> dict:
    return {"segmentation": mask, "predicted_iou": rated, "stability_score": 0.5, "area": int(mask.sum())}


def test_labels_score_as_annotations_that_do_not_overlap() -> None:
    sample = two_discs()
    found = np.zeros_like(sample.labels)
    found[disk((13, 12), 7)], found[2:5, 40:50] = 4, 9
    scores = evaluation.score_labels(found, sample.labels)
    alike = evaluation.score_annotations([annotation(found == i, 0.5) for i in (4, 9)], sample.labels)
    assert scores.keys() == alike.keys()
    assert {k: v for k, v in scores.items() if not k.startswith("ap")} == {
        k: v for k, v in alike.items() if not k.startswith("ap")
    }
    assert np.isnan(scores["ap50"]) and np.isnan(scores["ap"])


def test_rows_of_annotations_and_of_particles_by_hand() -> None:
    sample = two_discs()
    first = sample.labels == 1
    half = first.copy()
    half[:12] = False
    nowhere = np.zeros_like(first)
    nowhere[30:36, 2:6] = True
    details: dict = {}
    evaluation.describe([annotation(half, 0.9), annotation(nowhere, 0.2)], sample, details)
    rows = pd.DataFrame(details["annotations"])
    assert rows["iou"].tolist() == [half.sum() / first.sum(), 0.0]
    assert rows["predicted_iou"].tolist() == [0.9, 0.2] and rows["area"].tolist() == [half.sum(), 24]
    sizes = pd.DataFrame(details["particles"])
    assert sizes["source"].tolist() == ["predicted", "predicted", "true", "true"]
    assert set(sizes["unit"]) == {"nm"} and sizes["touches_border"].tolist() == [False, False, False, True]
    true = sizes[sizes["source"] == "true"]["diameter"].to_numpy()
    np.testing.assert_allclose(true, [2 * np.sqrt(4 * (sample.labels == i).sum() / np.pi) for i in (1, 2)])
    details = {}
    evaluation.describe([], sample, details)
    assert details["annotations"] == [] and len(details["particles"]) == 2


def test_a_segmenter_is_judged_as_a_model_is() -> None:
    sample = two_discs()
    details: dict = {}
    tables = evaluation.evaluate_segmenter(lambda image: sample.labels, [sample], details)
    assert tables["predictor"]["dice"].tolist() == tables["generator"]["f1"].tolist() == [1.0]
    assert len(details["particles"]) == 4
    with pytest.raises(ValueError, match="no image"):
        evaluation.evaluate_segmenter(lambda image: image, [])


def test_summary_by_hand() -> None:
    rows = pd.DataFrame(
        {"id": list("abcd"), "group": list("xxyz"), "dice": [0.5, 0.7, np.nan, 0.9], "merges": [0, 1, 2, 3]}
    )
    summary = evaluation.summarize(rows)
    assert list(summary) == ["dice", "merges"]
    assert summary["dice"]["mean"] == pytest.approx(0.7)
    assert (summary["dice"]["n"], summary["dice"]["groups"]) == (3, 2)
    assert summary["dice"]["low"] == pytest.approx(0.6) and summary["dice"]["high"] == pytest.approx(0.9)
    assert (summary["merges"]["mean"], summary["merges"]["n"], summary["merges"]["groups"]) == (1.5, 4, 3)
    assert evaluation.summarize(rows) == summary
    low, high = bootstrap_interval(rows["merges"], rows["group"])[1:]
    assert (summary["merges"]["low"], summary["merges"]["high"]) == (low, high)


def test_summary_of_one_group_has_no_interval() -> None:
    summary = evaluation.summarize(pd.DataFrame({"id": ["a", "b"], "group": ["x", "x"], "dice": [0.5, 0.7]}))["dice"]
    assert summary["mean"] == pytest.approx(0.6)
    assert np.isnan([summary["low"], summary["high"]]).all()
