"""Points and boxes from instance labels: the prompts of training and evaluation (numpy only).

Coordinates are in pixels of the label image, X before Y, as segment-anything's prompts are.
"""

from __future__ import annotations

import numpy as np


def choose_instances(labels: np.ndarray, k: int, rng: np.random.Generator, min_area: int = 16) -> np.ndarray:
    """At most k instance ids, drawn without replacement; every instance has the same chance.

    labels: int (H, W), 0 background. Instances under min_area pixels are passed over, unless all are that small.
    Returns int64 (k',), k' = min(k, number of eligible ones), in the order drawn; empty where nothing is labelled.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1 instance.")
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    large = ids[areas >= min_area]
    eligible = large if len(large) else ids
    return rng.permutation(eligible)[:k].astype(np.int64)


def points_inside(labels: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One pixel of each instance, drawn uniformly: float32 (K, 2), X and Y. An id not in labels raises ValueError."""
    points: np.ndarray = np.empty((len(ids), 2), np.float32)
    for row, instance in enumerate(ids):
        ys, xs = _pixels(labels, instance)
        pick = rng.integers(len(ys))
        points[row] = xs[pick], ys[pick]
    return points


def jittered_boxes(labels: np.ndarray, ids: np.ndarray, rng: np.random.Generator, jitter: float = 0.05) -> np.ndarray:
    """A box around each instance, float32 (K, 4) as X0, Y0, X1, Y1 (last pixel included, as SAM's own boxes are).

    Each coordinate moves by a normal deviate with jitter times the box's length along that axis as its standard
    deviation, by at most 20 pixels and never out of the image: SAM's own training (Kirillov et al. 2023, appendix A,
    with 10 %). jitter 0 gives the tight box. Raises ValueError for an id not in labels or a negative jitter.
    """
    if jitter < 0:
        raise ValueError(f"jitter is {jitter}; give 0 or more.")
    height, width = labels.shape
    boxes: np.ndarray = np.empty((len(ids), 4), np.float32)
    for row, instance in enumerate(ids):
        ys, xs = _pixels(labels, instance)
        tight = np.array([xs.min(), ys.min(), xs.max(), ys.max()], float)
        side = np.tile(tight[2:] - tight[:2] + 1, 2)
        box = tight + np.clip(rng.normal(size=4) * jitter * side, -20, 20)
        box = np.clip(box, 0, [width - 1, height - 1, width - 1, height - 1])
        boxes[row] = np.sort(box.reshape(2, 2), axis=0).ravel()  # a large jitter may have swapped two sides
    return boxes


def whole_image_box(shape: tuple[int, ...]) -> np.ndarray:
    """The box of the whole image: float32 (1, 4) as X0, Y0, X1, Y1 = 0, 0, W, H. It holds no ground truth."""
    height, width = shape[:2]
    return np.array([[0, 0, width, height]], np.float32)


def _pixels(labels: np.ndarray, instance: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of one instance."""
    ys, xs = np.nonzero(labels == instance)
    if not len(ys):
        raise ValueError(f"Instance {instance} is not in the labels; choose ids with choose_instances.")
    return ys, xs
