"""How well a model's masks for a grid of points hold the true particles, and how well its ratings tell which do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
from segment_anything.modeling import Sam
from tqdm import tqdm

from lorasam_core import metrics
from lorasam_core.data.sample import Sample
from lorasam_core.mask_generator import Autocast, MaskGenerator

EVERYTHING: dict[str, Any] = {  # 256 points, three masks each, nothing filtered or suppressed
    "points_per_side": 16, "points_per_batch": 8, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0, "min_mask_region_area": 0,
}  # fmt: skip
LARGEST = 0.9  # of the image: a larger mask is dropped
OVERLAP = 0.5  # of the smaller of two masks: more of it inside a better one, and the mask is dropped
MOST = 300  # masks an image
THRESHOLDS = tuple(np.round(np.arange(0.1, 0.71, 0.05), 2).tolist())  # of the score: predicted IoU x stability
FOUND = 0.5  # IoU


def measure_candidates(
    sam: Sam, samples: Sequence[Sample], *, autocast: Autocast = nullcontext, progress: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images, masks): a row an image and a row a candidate mask.

    images: id, group, n_true, n_candidates, recall (share of the true particles that some candidate finds at IoU 0.5),
    f1_perfect (F1 were the choice among the candidates perfect: 2 recall / (1 + recall)) and f1_<t> at each threshold t
    of the score. masks: id, predicted_iou, stability, iou (with the true particle that fits best).
    """
    generator, images, masks = MaskGenerator(sam, autocast=autocast, **EVERYTHING), [], []
    for sample in tqdm(samples, "candidates", unit="image", disable=None if progress else True):
        found = [a for a in generator.generate(sample.image) if 0 < a["area"] <= LARGEST * sample.labels.size]
        stack = [a["segmentation"] for a in found]
        iou = metrics.mask_iou_matrix(stack, sample.labels)  # candidates x true
        table = pd.DataFrame(
            {
                "id": sample.id, "predicted_iou": [a["predicted_iou"] for a in found],
                "stability": np.nan_to_num([a["stability_score"] for a in found]),
                "iou": iou.max(1) if iou.size else np.zeros(len(found)),
            }
        )  # fmt: skip
        n_true = iou.shape[1] if len(found) else len(np.unique(sample.labels[sample.labels > 0]))
        recall = float((iou.max(0) >= FOUND).mean()) if iou.size else 0.0
        row = {"id": sample.id, "group": sample.group, "n_true": n_true, "n_candidates": len(found), "recall": recall}
        score = (table["predicted_iou"] * table["stability"]).to_numpy()
        kept = chosen(stack, score, min(THRESHOLDS))
        for threshold in THRESHOLDS:
            picked = [i for i in kept if score[i] >= threshold]
            row[f"f1_{threshold:g}"] = _f1(iou[picked], n_true)
        images.append(row | {"f1_perfect": 2 * recall / (1 + recall)})
        masks.append(table)
    return pd.DataFrame(images), pd.concat(masks, ignore_index=True)


def chosen(stack: Sequence[np.ndarray], score: np.ndarray, threshold: float) -> list[int]:
    """Rows of at most MOST masks, in descending score from the threshold on, none of which lies by more than OVERLAP
    (of the smaller area) in one before it. A higher threshold keeps the beginning of the same list.
    """
    order = [i for i in np.argsort(-score, kind="stable") if score[i] >= threshold]
    if not order:
        return []
    rows = metrics._sparse_masks([stack[i] for i in order])
    shared, area = (rows @ rows.T).toarray(), np.asarray(rows.sum(axis=1)).ravel()
    inside = shared / np.minimum(area[:, None], area[None, :])
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) < MOST and not (inside[i, kept] > OVERLAP).any():
            kept.append(i)
    return [int(order[i]) for i in kept]


def _f1(iou: np.ndarray, n_true: int) -> float:
    """F1 at IoU 0.5 of masks in order of their score, each of which takes the free particle that fits it best."""
    free, hits = np.ones(n_true, bool), 0
    for row in iou:
        fits = np.where(free, row, 0.0)
        if fits.size and fits.max() >= FOUND:
            free[fits.argmax()] = False
            hits += 1
    return 2 * hits / (len(iou) + n_true) if len(iou) + n_true else 1.0


def summary(images: pd.DataFrame, masks: pd.DataFrame) -> dict[str, float]:
    """recall, f1_perfect, the best F1 over the thresholds and where it is, and the correlation of the predicted with the
    true IoU over all candidates; means over images.
    """
    by_threshold = {t: float(images[f"f1_{t:g}"].mean()) for t in THRESHOLDS}
    best = max(by_threshold, key=lambda t: by_threshold[t])
    return {
        "recall": float(images["recall"].mean()), "f1_perfect": float(images["f1_perfect"].mean()),
        "f1": by_threshold[best], "threshold": best,
        "correlation": float(masks["predicted_iou"].corr(masks["iou"])),
    }  # fmt: skip
