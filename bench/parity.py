"""How far annotations are from those of segment-anything's mask generator, for one image and the same settings.

segment-anything differs from itself when its batch size changes: a pixel whose logit is next to a threshold falls on
either side of it. So annotations count as identical where `compare` returns pixels_far 0, unmatched equal to
unmatched_at_threshold, boxes_differ 0, and iou_error and stability_error of at most TOLERANCE.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from lorasam_core.masks import operations as masks
from lorasam_core.masks.predictor import as_rgb, evaluating
from lorasam_core.measure.metrics import iou

Annotation: TypeAlias = dict[str, Any]
Pair: TypeAlias = tuple[Annotation, Annotation]
Logits: TypeAlias = Callable[[Annotation], np.ndarray]
TOLERANCE = 1e-4  # of logits, predicted IoU and stability
DEFAULTS = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95, "stability_score_offset": 1.0}  # the original's


def compare(
    ours: Sequence[Annotation], reference: Sequence[Annotation], logits_of: Logits, settings: Mapping[str, Any],
    mask_threshold: float = 0.0,
) -> dict[str, float]:  # fmt: skip
    """What differs between two lists of annotations, in output_mode binary_mask or uncompressed_rle.

    logits_of: see `reference_logits`; called only where something differs. settings: the mask generator's. Returns the
    numbers of annotations: reference, ours, matched, unmatched, unmatched_at_threshold (a filter's, by at most
    TOLERANCE), same_pixels, boxes_differ (box or area, of equal masks), stability_undecided (of equal masks: pixels
    near stability's own thresholds explain the difference); of pixels: pixels_differing, pixels_far (decided by more
    than TOLERANCE, also after small regions are removed); and the greatest iou_error and, where masks are equal and
    nothing explains it, stability_error.
    """
    settings = {**DEFAULTS, **settings}
    offset, min_area = settings["stability_score_offset"], settings.get("min_mask_region_area", 0)
    pairs, alone = match(ours, reference)
    out: dict[str, float] = {"reference": len(reference), "ours": len(ours), "matched": len(pairs)}
    out |= {"unmatched": len(alone), "unmatched_at_threshold": 0}
    out |= dict.fromkeys(("same_pixels", "boxes_differ", "stability_undecided", "pixels_differing", "pixels_far"), 0)
    out |= {"iou_error": 0.0, "stability_error": 0.0}
    for one in alone:
        rated, stable = settings["pred_iou_thresh"], settings["stability_score_thresh"]  # 0 switches a filter off
        low, high = _stability_bounds(logits_of(one), mask_threshold, offset)
        at_threshold = rated > 0 and abs(one["predicted_iou"] - rated) <= TOLERANCE
        out["unmatched_at_threshold"] += at_threshold or (stable > 0 and low <= stable <= high)
    for found, expected in pairs:
        out["iou_error"] = max(out["iou_error"], _apart(found["predicted_iou"], expected["predicted_iou"]))
        differing = _mask(found) != _mask(expected)
        if differing.any():
            least, greatest = _bounds(logits_of(expected), mask_threshold)
            least, greatest = (masks.without_small_regions(mask, min_area)[0] for mask in (least, greatest))
            out["pixels_differing"] += int(differing.sum())
            out["pixels_far"] += int((differing & (least == greatest)).sum())
            continue
        out["same_pixels"] += 1
        out["boxes_differ"] += found["bbox"] != expected["bbox"] or found["area"] != expected["area"]
        error = _apart(found["stability_score"], expected["stability_score"])
        if error > TOLERANCE:
            low, high = _stability_bounds(logits_of(expected), mask_threshold, offset)
            error = 0.0 if low <= found["stability_score"] <= high else error
            out["stability_undecided"] += error == 0
        out["stability_error"] = max(out["stability_error"], error)
    return out


def match(ours: Sequence[Annotation], reference: Sequence[Annotation]) -> tuple[list[Pair], list[Annotation]]:
    """Pairs of the same point and crop, nearest in mask and predicted IoU, and annotations without a partner."""
    groups: dict[tuple[float, ...], tuple[list[Annotation], ...]] = defaultdict(lambda: ([], []))
    for side, listed in enumerate((ours, reference)):
        for a in listed:
            groups[(*a["point_coords"][0], *a["crop_box"])][side].append(a)
    pairs, alone = [], []
    for found, expected in groups.values():
        cost = [
            min(_apart(a["predicted_iou"], b["predicted_iou"]), 1.0) - iou(_mask(a), _mask(b))
            for a in found
            for b in expected
        ]
        rows, columns = linear_sum_assignment(np.reshape(cost, (len(found), len(expected))))
        pairs += [(found[row], expected[column]) for row, column in zip(rows, columns, strict=True)]
        alone += [a for row, a in enumerate(found) if row not in rows]
        alone += [b for column, b in enumerate(expected) if column not in columns]
    return pairs, alone


def reference_logits(sam: Sam, image: np.ndarray) -> Logits:
    """A function from an annotation of the image, uint8 (H, W) or (H, W, 3), to its mask's logits, float32 (H, W), as
    segment-anything's predictor gives them for its point on its crop; -inf outside the crop.
    """
    predictor, image = SamPredictor(sam), as_rgb(image)
    held: list[Any] = []  # the crop that is encoded

    def logits_of(annotation: Annotation) -> np.ndarray:
        x, y, width, height = map(int, annotation["crop_box"])
        crop = slice(y, y + height), slice(x, x + width)
        with evaluating(sam):
            if held != [crop]:
                predictor.set_image(image[crop])
                held[:] = [crop]
            point = predictor.transform.apply_coords(np.array(annotation["point_coords"]) - (x, y), (height, width))
            coords = torch.as_tensor(point[None], dtype=torch.float32, device=sam.device)
            label = torch.ones(1, 1, device=sam.device)
            answers, rated, _ = predictor.predict_torch(coords, label, return_logits=True)
        logits = np.full(image.shape[:2], -np.inf, dtype=np.float32)
        logits[crop] = answers[0, (rated[0] - annotation["predicted_iou"]).abs().argmin()].cpu().numpy()
        return logits

    return logits_of


def matched_iou(ours: Sequence[Annotation], reference: Sequence[Annotation]) -> float:
    """Mean over the reference's masks of the greatest IoU with any of ours, 0..1; NaN where the reference has none."""
    flat, best = [_mask(a).ravel() for a in ours], []
    areas = np.array([mask.sum() for mask in flat])
    for expected in map(_mask, reference):
        pixels = np.flatnonzero(expected)
        shared = np.array([mask[pixels].sum() for mask in flat])
        best.append(max(shared / np.maximum(areas + len(pixels) - shared, 1), default=0.0))
    return float(np.mean(best)) if best else float("nan")


def _mask(annotation: Annotation) -> np.ndarray:
    mask = annotation["segmentation"]
    return mask if isinstance(mask, np.ndarray) else masks.decode(mask)


def _bounds(logits: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest mask that rounding allows."""
    return logits > threshold + TOLERANCE, logits > threshold - TOLERANCE


def _stability_bounds(logits: np.ndarray, threshold: float, offset: float) -> tuple[float, float]:
    """The least and the greatest stability that rounding allows, widened by TOLERANCE."""
    inner, outer = ([int(mask.sum()) for mask in _bounds(logits, threshold + sign)] for sign in (offset, -offset))
    return inner[0] / max(outer[1], 1) - TOLERANCE, inner[1] / max(outer[0], 1) + TOLERANCE


def _apart(a: float, b: float) -> float:
    """|a - b|; two NaN agree, and one is infinitely far from any number."""
    return 0.0 if np.array_equal(a, b, equal_nan=True) else float(np.nan_to_num(abs(a - b), nan=np.inf))
