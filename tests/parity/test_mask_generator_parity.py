"""The mask generator against segment-anything's: every filter, small and flat images, lite and an adapted ViT-B."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.amg import remove_small_regions

from bench.parity import TOLERANCE, compare, matched_iou, reference_logits
from lorasam_core.data import load_dataset
from lorasam_core.masks import operations as masks
from lorasam_core.masks.generator import MaskGenerator, as_rgb
from lorasam_core.models.attention import use_fast_attention
from lorasam_core.models.lite import build_lite
from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters, merge
from lorasam_core.models.sam import load_sam, resize_input
from tests.tiny_sam import randomise, tiny_sam

ALL_MASKS = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


def rated_about_a_half(sam: Sam) -> Sam:
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
    return sam


@pytest.fixture(scope="module")
def tiny() -> tuple[Sam, Sam]:
    """Ours, with fast attention, and the original."""
    sam = rated_about_a_half(tiny_sam())
    ours = deepcopy(sam)
    use_fast_attention(ours.image_encoder)
    return ours, sam


@pytest.fixture(scope="module")
def lite() -> tuple[Sam, Sam]:
    ours, original = load_sam("lite"), build_lite()
    original.load_state_dict(ours.state_dict())
    return ours, original


@pytest.fixture(scope="module")
def adapted_vit_b() -> tuple[Sam, Sam]:
    """ViT-B of 256 pixels with random weights, adapted and merged."""
    torch.manual_seed(0)
    sam = rated_about_a_half(resize_input(sam_model_registry["vit_b"](), 256))
    with torch.no_grad():
        sam.image_encoder.pos_embed.normal_()
    add_lora(sam, LoRAConfig(4))
    randomise(lora_parameters(sam), scale=0.1)
    merge(sam).eval()
    ours = deepcopy(sam)
    use_fast_attention(ours.image_encoder)
    return ours, sam


def picture(height: int = 48, width: int = 80, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def both(models: tuple[Sam, Sam], image: np.ndarray, **settings) -> tuple[list[dict], list[dict]]:
    ours, original = models
    expected = SamAutomaticMaskGenerator(original, **settings).generate(as_rgb(image))
    return MaskGenerator(ours, **settings).generate(image), expected


def assert_identical(models: tuple[Sam, Sam], image: np.ndarray, **settings) -> list[dict]:
    """As the acceptance of the mask generator says; returns the original's annotations."""
    found, expected = both(models, image, **settings)
    report = compare(found, expected, reference_logits(models[1], image), settings, models[1].mask_threshold)
    assert report["pixels_far"] == report["boxes_differ"] == 0, report
    assert report["unmatched"] == report["unmatched_at_threshold"], report
    assert max(report["iou_error"], report["stability_error"]) <= TOLERANCE, report
    assert report["matched"] + report["unmatched"] >= len(expected)
    return expected


def quantile(annotations: list[dict], name: str, share: float = 0.5) -> float:
    return float(np.nanquantile([annotation[name] for annotation in annotations], share))


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize(
    "filters", [(), ("rated",), ("stable",), ("distinct",), ("large",), ("rated", "stable", "distinct", "large")]
)
def test_each_filter(tiny, layers: int, filters: tuple[str, ...]) -> None:
    everything = ALL_MASKS | {"crop_n_layers": layers, "crop_nms_thresh": 1.0, "stability_score_offset": 0.05}
    every = assert_identical(tiny, picture(), **everything)
    values = {
        "rated": {"pred_iou_thresh": quantile(every, "predicted_iou")},
        "stable": {"stability_score_thresh": quantile(every, "stability_score")},
        "distinct": {"box_nms_thresh": 0.7, "crop_nms_thresh": 0.7},
        "large": {"min_mask_region_area": 100},
    }
    chosen = {name: value for key in filters for name, value in values[key].items()}
    kept = assert_identical(tiny, picture(), **everything | chosen)
    assert 0 < len(kept) <= len(every)
    if {"rated", "stable", "distinct"} & set(filters):
        assert len(kept) < len(every)
    elif filters:  # cleaned masks
        assert [a["area"] for a in kept] != [a["area"] for a in every]


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (20, 300), (300, 20)])
def test_tiny_and_flat_images(tiny, size: tuple[int, int], layers: int) -> None:
    assert assert_identical(tiny, picture(*size), **ALL_MASKS, crop_n_layers=layers, crop_nms_thresh=1.0)
    assert_identical(tiny, picture(*size), **ALL_MASKS, min_mask_region_area=400)  # more than 16 x 16 pixels


def test_an_image_too_flat_for_the_original_is_refused_with_the_remedy(tiny) -> None:
    flat = picture(16, 4000)
    with pytest.raises(ValueError):
        SamAutomaticMaskGenerator(tiny[1], points_per_side=2).generate(flat)
    with pytest.raises(ValueError, match=r"too long and thin .* cut it into shorter pieces"):
        MaskGenerator(tiny[0], points_per_side=2).generate(flat)


@pytest.mark.parametrize("filtered", [{"pred_iou_thresh": 1.0}, {"stability_score_thresh": 1.0}])
def test_all_masks_filtered_away(tiny, filtered: dict) -> None:
    assert both(tiny, picture(), **ALL_MASKS | filtered | {"stability_score_offset": 99.0}) == ([], [])


@pytest.mark.parametrize("area", [0, 100])
def test_output_modes_hold_the_same_masks(tiny, area: int) -> None:
    forms = {}
    for mode in ("binary_mask", "uncompressed_rle", "coco_rle"):
        found, expected = both(tiny, picture(), **ALL_MASKS, output_mode=mode, min_mask_region_area=area)
        assert len(found) == len(expected) > 4
        assert all(type(a["segmentation"]) is type(b["segmentation"]) for a, b in zip(found, expected))
        forms[mode] = [[a["segmentation"] for a in side] for side in (found, expected)]
    decoders = {"binary_mask": np.asarray, "uncompressed_rle": masks.decode, "coco_rle": coco_mask.decode}
    for side in (0, 1):
        decoded = [[decoders[mode](s) for s in sides[side]] for mode, sides in forms.items()]
        assert np.array_equal(decoded[0], decoded[1]) and np.array_equal(decoded[0], decoded[2])
    assert_identical(tiny, picture(), **ALL_MASKS, output_mode="uncompressed_rle", min_mask_region_area=area)


@pytest.mark.parametrize("area", [0, 100])
def test_lite_on_a_micrograph(lite, area: int) -> None:
    image = load_dataset("synthetic", limit=3)[0].image[:160, :224]
    chosen = {"points_per_side": 8, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.3, "box_nms_thresh": 0.9}
    assert len(assert_identical(lite, image, **chosen, min_mask_region_area=area)) > 50


def test_adapted_and_merged_vit_b(adapted_vit_b) -> None:
    image = picture(64, 96)
    chosen = ALL_MASKS | {"points_per_side": 3}
    every = MaskGenerator(adapted_vit_b[0], **chosen).generate(image)
    chosen |= {"pred_iou_thresh": quantile(every, "predicted_iou"), "crop_n_layers": 1, "crop_nms_thresh": 1.0}
    kept = assert_identical(adapted_vit_b, image, **chosen)
    assert 5 < len(kept) < 5 * len(every)


def test_an_empty_mask_in_an_image_smaller_than_the_least_area_is_filled() -> None:
    empty = np.zeros((5, 6), bool)
    for area in (30, 31):
        filled, holes = remove_small_regions(empty, area, "holes")
        expected, islands = remove_small_regions(filled, area, "islands")
        found, changed = masks.without_small_regions(empty, area)
        assert np.array_equal(found, expected) and changed == (holes or islands)


LOGITS = np.linspace(-3, 3, 48, dtype=np.float32).reshape(6, 8) + 0.01  # none at a threshold
LOGITS[2, 7], LOGITS[3, 0] = -5e-5, 5e-5  # but these


def annotation(mask: np.ndarray | None = None, **fields) -> dict:
    mask = LOGITS > 0 if mask is None else mask
    box = [*masks.boxes(torch.from_numpy(mask)[None])[0].tolist()]
    return {
        "segmentation": mask, "area": int(mask.sum()), "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        "predicted_iou": 0.9, "stability_score": np.sum(LOGITS > 1) / np.sum(LOGITS > -1),
        "point_coords": [[4.0, 4.0]], "crop_box": [0, 0, 8, 6],
    } | fields  # fmt: skip


def report_of(ours: list[dict], reference: list[dict], **settings) -> dict[str, float]:
    return compare(ours, reference, lambda asked: LOGITS, {"stability_score_thresh": 0.0, **settings})


def test_equal_annotations_differ_in_nothing() -> None:
    both = [annotation(), annotation(LOGITS > 2, predicted_iou=0.8), annotation(stability_score=float("nan"))]
    both[2]["point_coords"] = [[5.0, 4.0]]
    report = report_of(both[::-1], both)
    assert (report.pop("reference"), report.pop("ours"), report.pop("matched"), report.pop("same_pixels")) == (3,) * 4
    assert set(report.values()) == {0}
    assert matched_iou(both, both) == 1.0


@given(st.integers(0, 47), st.sampled_from([0, 3]))
@settings(max_examples=60, deadline=None)
def test_a_flipped_pixel_is_far_unless_its_logit_is_at_the_threshold(pixel: int, area: int) -> None:
    mask = LOGITS > 0
    mask.flat[pixel] ^= True
    report = report_of([annotation(mask)], [annotation()], min_mask_region_area=area)
    assert (report["matched"], report["same_pixels"], report["pixels_differing"]) == (1, 0, 1)
    assert report["pixels_far"] == (pixel not in (23, 24))


@pytest.mark.parametrize("ours_lacks_it", [True, False])
@pytest.mark.parametrize(
    ("fields", "excused"),
    [({}, 0), ({"predicted_iou": 0.88009}, 1), ({"predicted_iou": 0.8802}, 0), ({"point_coords": [[5.0, 4.0]]}, 0)],
)
def test_a_missing_annotation_is_excused_at_a_threshold_alone(ours_lacks_it: bool, fields: dict, excused: int) -> None:
    sides = [[annotation(LOGITS > 2)], [annotation(LOGITS > 2), annotation(**fields)]]
    report = report_of(*(sides if ours_lacks_it else sides[::-1]))
    assert (report["matched"], report["unmatched"], report["unmatched_at_threshold"]) == (1, 1, excused)


def test_a_missing_annotation_at_the_threshold_of_stability_is_excused() -> None:
    stable = annotation()["stability_score"]
    excused = [report_of([], [annotation()], stability_score_thresh=stable + shift)["unmatched_at_threshold"]
               for shift in (-2e-4, -5e-5, 0, 5e-5, 2e-4)]  # fmt: skip
    assert excused == [0, 1, 1, 1, 0]


@given(st.floats(2e-4, 0.05), st.sampled_from(["predicted_iou", "stability_score"]), st.sampled_from([1, -1]))
def test_a_shifted_rating_is_reported(shift: float, name: str, sign: int) -> None:
    shifted = annotation()[name] + sign * shift
    report = report_of([annotation(**{name: shifted})], [annotation()])
    errors = {"predicted_iou": report["iou_error"], "stability_score": report["stability_error"]}
    assert errors.pop(name) == pytest.approx(shift) and list(errors.values()) == [0.0]
    assert report["stability_undecided"] == 0


def test_stability_that_a_pixel_at_its_own_threshold_explains() -> None:
    logits = LOGITS.copy()
    logits[5, 0] = 1 + 5e-5
    stable = [np.sum(logits > 1 + shift) / np.sum(logits > -1) for shift in (0, 1e-4)]
    ours, reference = (annotation(logits > 0, stability_score=value) for value in stable)
    report = compare([ours], [reference], lambda asked: logits, {})
    assert stable[0] - stable[1] > TOLERANCE
    assert (report["stability_error"], report["stability_undecided"]) == (0.0, 1)


def test_another_box_area_and_nan_are_reported() -> None:
    assert report_of([annotation(bbox=[0, 0, 1, 1])], [annotation()])["boxes_differ"] == 1
    assert report_of([annotation(area=1)], [annotation()])["boxes_differ"] == 1
    assert report_of([annotation(predicted_iou=float("nan"))], [annotation()])["iou_error"] == float("inf")


def test_matched_iou_is_the_mean_of_the_best() -> None:
    top, left = np.zeros((2, 6, 8), bool)
    top[:3], left[:, :4] = True, True
    assert matched_iou([annotation(top)], [annotation(top), annotation(left)]) == pytest.approx((1 + 12 / 36) / 2)
    assert matched_iou([], [annotation(top)]) == 0.0
    assert np.isnan(matched_iou([annotation(top)], []))
