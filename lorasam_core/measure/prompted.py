"""What the model answers to a point or a box of a true instance, and how well it rates its answers."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from lorasam_core.data.sample import Sample
from lorasam_core.masks.predictor import Predictor
from lorasam_core.training import prompts

PROMPTS = ("point", "box", "exact_box")  # the evaluators whose prompt is made from the true instances
PROMPTED_METRICS = ("iou_best", "iou_rated", "iou_error")


def score_instances(predictor: Predictor, sample: Sample, prompt: str, k: int, seed: int) -> dict[str, float]:
    """n, and the means of `score_prompts` over up to k instances; which, and their prompts, hang on seed and id alone.

    prompt: one of PROMPTS. The predictor holds the sample's image. NaN for an image without instances.
    """
    rng = np.random.default_rng([seed, zlib.crc32(sample.id.encode())])  # the same whatever other images there are
    ids = prompts.choose_instances(sample.labels, k, rng)
    if not len(ids):
        return {"n": 0} | dict.fromkeys(PROMPTED_METRICS, float("nan"))
    true = sample.labels[None] == ids[:, None, None]
    if prompt == "point":
        scores = score_prompts(predictor, true, points=prompts.points_inside(sample.labels, ids, rng))
    elif prompt == "box":
        scores = score_prompts(predictor, true, boxes=prompts.jittered_boxes(sample.labels, ids, rng))
    else:
        scores = score_prompts(predictor, true, boxes=prompts.jittered_boxes(sample.labels, ids, rng, jitter=0))
    return {"n": len(ids)} | {name: float(scores[name].mean()) for name in PROMPTED_METRICS}


def score_prompts(
    predictor: Predictor, true: np.ndarray, *, points: np.ndarray | None = None, boxes: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the model answers to a point (three masks) or a box (one) for each of K true masks bool (K, H, W).

    points: (K, 2) X, Y; or boxes: (K, 4); in pixels of the image that the predictor holds. Returns float (K,) each:
    iou_best, the IoU of the best mask; iou_rated, of the one that the model rates best; iou_error, the mean absolute
    error of the predicted IoU over the masks returned.
    """
    if points is not None:
        masks, rated = _prompt_points(predictor, points)
    else:
        masks, rated = _prompt_boxes(predictor, np.asarray(boxes))
    truth = torch.as_tensor(true, device=masks.device)[:, None]
    union = (masks | truth).sum((-2, -1))  # K M; never 0: every true mask has pixels
    ious = ((masks & truth).sum((-2, -1)) / union).cpu().numpy()
    chosen = ious[np.arange(len(true)), rated.argmax(axis=1)]
    return dict(zip(PROMPTED_METRICS, (ious.max(axis=1), chosen, np.abs(rated - ious).mean(axis=1)), strict=True))


def _prompt_points(predictor: Predictor, points: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Points (K, 2) to masks bool (K, 3, H, W) and the model's rating of them (K, 3)."""
    coords = torch.as_tensor(
        predictor.transform.apply_coords(points, predictor.original_size), dtype=torch.float32, device=predictor.device
    )
    foreground = torch.ones(len(points), 1, dtype=torch.int, device=predictor.device)
    masks, rated, _ = predictor.predict_torch(coords[:, None], foreground, multimask_output=True)
    return masks, rated.cpu().numpy()


def _prompt_boxes(predictor: Predictor, boxes: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Boxes (K, 4) to masks bool (K, 1, H, W) and the model's rating of them (K, 1)."""
    corners = torch.as_tensor(
        predictor.transform.apply_boxes(boxes, predictor.original_size), dtype=torch.float32, device=predictor.device
    )
    masks, rated, _ = predictor.predict_torch(None, None, boxes=corners, multimask_output=False)
    return masks, rated.cpu().numpy()
