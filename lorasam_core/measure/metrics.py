"""Segmentation metrics as plain functions: numpy arrays in, floats out.

Three kinds of input: binary masks (H, W); stacks of binary masks (N, H, W), which may overlap; and label images
(H, W) of non-negative integers, 0 for background, in which instances cannot overlap.

Empty inputs, everywhere: nothing to find and nothing found is 1; nothing to find and something found, or something
to find and nothing found, is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Masks: TypeAlias = NDArray[Any] | Sequence[NDArray[Any]]

COCO_THRESHOLDS: tuple[float, ...] = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
_RECALLS = np.linspace(0.0, 1.0, 101)


# ------------------------------------------------------------------------------------------------- binary masks


def dice(pred: ArrayLike, true: ArrayLike) -> float:
    """Dice coefficient 2|A n B| / (|A| + |B|) of two binary masks (H, W), from 0 to 1; both empty is 1.

    Masks are boolean or integer, non-zero is foreground. Raises ValueError for another dtype or unequal shapes.
    """
    a, b = _binary_pair(pred, true)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2.0 * np.count_nonzero(a & b) / total if total else 1.0


def iou(pred: ArrayLike, true: ArrayLike) -> float:
    """Intersection over union |A n B| / |A u B| of two binary masks (H, W), from 0 to 1; both empty is 1.

    Masks are boolean or integer, non-zero is foreground. Raises ValueError for another dtype or unequal shapes.
    """
    a, b = _binary_pair(pred, true)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def accuracy(pred: ArrayLike, true: ArrayLike) -> float:
    """Fraction of the pixels at which two binary masks (H, W) agree, foreground or background; both empty is 1.

    Masks are boolean or integer, non-zero is foreground. Raises ValueError for another dtype or unequal shapes.
    """
    a, b = _binary_pair(pred, true)
    return np.count_nonzero(a == b) / a.size


def _binary_pair(pred: ArrayLike, true: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(pred), np.asarray(true)
    for name, mask in (("pred", a), ("true", b)):
        if mask.dtype.kind not in "biu":
            raise ValueError(f"{name} has dtype {mask.dtype}; threshold it to a boolean mask first.")
    _check_shapes(a, b)
    return a != 0, b != 0


def _check_shapes(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"pred has shape {a.shape} and true {b.shape}; give two masks of the same, non-empty shape.")


# ------------------------------------------------------------------------------- instances that may overlap (COCO)


def mask_iou_matrix(pred_masks: Masks, true_masks: Masks) -> NDArray[np.float64]:
    """IoU of every predicted with every true mask, (N, M) float64; two empty masks have IoU 0, as in COCO.

    Each argument is a stack or sequence of binary masks (N, H, W), or a label image (H, W) whose instances are the
    masks, in ascending id. One product of sparse matrices (N, HW) x (HW, M): the work grows with the overlaps.
    Raises ValueError where the sizes of the masks differ.
    """
    a, b = _sparse_masks(pred_masks), _sparse_masks(true_masks)
    if a.shape[0] == 0 or b.shape[0] == 0:
        return np.zeros((a.shape[0], b.shape[0]))
    if a.shape[1] != b.shape[1]:
        raise ValueError("The predicted and the true masks differ in size; resize the predictions to the image's size.")
    intersection = (a @ b.T).toarray()
    union = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)


def _sparse_masks(masks: Masks) -> sparse.csr_array:
    """Masks as the rows of a sparse matrix (N, H * W) of int32 ones."""
    if isinstance(masks, np.ndarray) and masks.ndim == 2 and masks.dtype.kind in "iu":
        pixels = np.flatnonzero(masks)  # ascending, so that a stable sort by id keeps each row's columns sorted
        ids, rows = np.unique(masks.ravel()[pixels], return_inverse=True)
        return sparse.csr_array(
            (np.ones(pixels.size, np.int32), (rows, pixels)), shape=(ids.size, masks.size), dtype=np.int32
        )
    stack = [np.asarray(mask) for mask in masks]
    if any(mask.ndim != 2 or mask.shape != stack[0].shape for mask in stack):
        raise ValueError("Masks must be two-dimensional and of one size; give an array (N, H, W).")
    columns = [np.flatnonzero(mask) for mask in stack]
    starts = np.cumsum([0, *(c.size for c in columns)])
    indices = np.concatenate([np.empty(0, np.int64), *columns])
    width = stack[0].size if stack else 0
    return sparse.csr_array((np.ones(indices.size, np.int32), indices, starts), shape=(len(stack), width))


def average_precision(
    pred_masks: Masks, scores: ArrayLike, true_masks: Masks, thresholds: Iterable[float] = (0.5,), min_area: float = 0
) -> float:
    """COCO's average precision of one image, class-agnostic, averaged over IoU thresholds; from 0 to 1.

    Predictions (N, H, W) in descending score (N,) each take the free true mask (M, H, W) with which their IoU is
    highest, if that is at least the threshold; precision is made monotone and averaged over 101 recalls. This is
    pycocotools' COCOeval with areaRng "all" and no limit on detections (Lin et al. 2014, Microsoft COCO). Masks may
    overlap; a label image (H, W) stands for the masks of its instances.

    min_area, in pixels: as with COCO's area ranges, smaller true masks are not asked for, and a prediction that finds
    one of them, or is itself smaller and finds nothing, counts neither for nor against.

    Neither true nor predicted masks: 1, where COCO leaves the image out. Only one of the two: 0.
    Raises ValueError when there is not one finite score a mask.
    """
    matrix = mask_iou_matrix(pred_masks, true_masks)
    ranks = np.asarray(scores, dtype=np.float64)
    if ranks.shape != matrix.shape[:1] or not np.isfinite(ranks).all():
        raise ValueError(f"scores has shape {ranks.shape} for {len(matrix)} masks; give one finite score a mask.")
    small_pred, small_true = _areas(pred_masks) < min_area, _areas(true_masks) < min_area
    n_true = int(np.count_nonzero(~small_true))
    if matrix.size == 0:  # nothing on one side, or on both
        return float(n_true == 0 and small_pred.all())
    limits = np.array([min(t, 1 - 1e-10) for t in thresholds])
    order = np.argsort(-ranks, kind="stable")
    hits, passed_over = _greedy_hits(matrix[order], limits, small_pred[order], small_true)
    if n_true == 0:  # right where nothing is left to be counted against
        return float(passed_over.all(axis=1).mean())
    return float(
        np.mean([_interpolated_precision(row[~out], n_true) for row, out in zip(hits, passed_over, strict=True)])
    )


def _areas(masks: Masks) -> NDArray[Any]:
    areas: NDArray[Any] = np.asarray(_sparse_masks(masks).sum(axis=1))
    return areas


def _greedy_hits(
    matrix: NDArray[np.float64], limits: NDArray[np.float64], small_pred: NDArray[Any], small_true: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each prediction, in the order of the rows, finds a free true mask that is asked for, and whether it is
    passed over; both (thresholds, N).
    """
    n_pred, n_true = matrix.shape
    free = np.ones((limits.size, n_true), bool)
    hits = np.zeros((limits.size, n_pred), bool)
    passed_over = np.zeros((limits.size, n_pred), bool)
    levels = np.arange(limits.size)
    for i, row in enumerate(matrix):
        candidates = np.where(free, row, -1.0)
        # those that are asked for come first, however small the IoU with them
        candidates[:, small_true] -= 2 * (candidates[:, ~small_true].max(axis=1, initial=-1) >= limits)[:, None]
        best = n_true - 1 - np.argmax(candidates[:, ::-1], axis=1)  # of equal ones the last, as pycocotools
        found = candidates[levels, best] >= limits
        hits[:, i] = found & ~small_true[best]
        passed_over[:, i] = np.where(found, small_true[best], small_pred[i])
        free[levels[found], best[found]] = False
    return hits, passed_over


def _interpolated_precision(hits: NDArray[np.bool_], n_true: int) -> float:
    if not hits.size:
        return 0.0
    found = np.cumsum(hits)
    precision = found / np.arange(1, hits.size + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    positions = np.searchsorted(found / n_true, _RECALLS, side="left")
    return float(np.append(envelope, 0.0)[positions].mean())  # a recall never reached counts 0


def paint(masks: Masks, scores: ArrayLike, shape: tuple[int, int]) -> NDArray[np.int32]:
    """One label image (H, W) int32 from overlapping masks (N, H, W), in ascending score, so that the best is on top.

    Mask i gets the label i + 1 (a mask wholly covered by better ones disappears); of equal scores the later is on
    top. Raises ValueError when a mask is not of the given shape (H, W), or there is not one score a mask.
    """
    labels: NDArray[np.int32] = np.zeros(shape, np.int32)
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    if order.shape != (len(masks),):
        raise ValueError(f"scores has shape {order.shape} for {len(masks)} masks; give one score a mask.")
    for i in order:
        mask = np.asarray(masks[i])
        if mask.shape != labels.shape:
            raise ValueError(f"Mask {i} has shape {mask.shape}; the image has {labels.shape}: resize the mask to it.")
        labels[mask != 0] = i + 1
    return labels


# ------------------------------------------------------------------------------------------------- label images


def f1(pred: ArrayLike, true: ArrayLike, threshold: float = 0.5) -> float:
    """F1 of the instances of two label images (H, W): 2 TP / (n_pred + n_true), from 0 to 1; both empty is 1.

    TP is the size of the largest one-to-one matching of instances whose IoU is at least `threshold` (above 0).
    Raises ValueError for labels that are no integers, negative, or of unequal shapes.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; give an IoU above 0 and at most 1.")
    matrix = _label_ious(pred, true)
    total = sum(matrix.shape)
    if total == 0:
        return 1.0
    matched = sparse.csgraph.maximum_bipartite_matching(sparse.csr_array(matrix >= threshold))
    return 2.0 * np.count_nonzero(matched >= 0) / total


def panoptic_quality(pred: ArrayLike, true: ArrayLike) -> float:
    """Panoptic quality of the instances of two label images (H, W), from 0 to 1; both empty is 1.

    Sum of the IoUs of matched pairs / (TP + FP/2 + FN/2), where a pair matches if its IoU is above 0.5, which makes
    the match unique (Kirillov et al. 2019, Panoptic Segmentation, equation 1). Background is no segment.
    Raises ValueError for labels that are no integers, negative, or of unequal shapes.
    """
    matrix = _label_ious(pred, true)
    total = sum(matrix.shape)
    return float(2.0 * matrix[matrix > 0.5].sum() / total) if total else 1.0  # TP + FP/2 + FN/2 = total / 2


def merges_and_splits(pred: ArrayLike, true: ArrayLike) -> tuple[int, int]:
    """Numbers of merges and of splits between two label images (H, W); (0, 0) where either is empty.

    A merge is a predicted instance that covers at least half of each of two or more true ones. A split is a true
    instance in which two or more predicted ones lie, each with at least half of its own area. So the merges of
    (a, b) are the splits of (b, a). Raises ValueError for labels that are no integers, negative, or of unequal shapes.
    """
    overlap, pred_area, true_area = contingency(pred, true)
    merges = (2 * overlap >= true_area[None, :]).sum(axis=1) >= 2
    splits = (2 * overlap >= pred_area[:, None]).sum(axis=0) >= 2
    return int(merges.sum()), int(splits.sum())


def _label_ious(pred: ArrayLike, true: ArrayLike) -> NDArray[np.float64]:
    overlap, pred_area, true_area = contingency(pred, true)
    return overlap / (pred_area[:, None] + true_area[None, :] - overlap)


def contingency(pred: ArrayLike, true: ArrayLike) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Overlaps (P, T), areas (P,) and areas (T,), in pixels, of the instances that two label images hold."""
    a, b = np.asarray(pred), np.asarray(true)
    _check_shapes(a, b)
    a, b = _compact(a, "pred"), _compact(b, "true")
    ones = np.ones(a.size, np.int64)
    table = sparse.csr_array((ones, (a.ravel(), b.ravel())), shape=(a.max() + 1, b.max() + 1)).toarray()
    return table[1:, 1:], table[1:].sum(axis=1), table[:, 1:].sum(axis=0)


def _compact(labels: NDArray[Any], name: str) -> NDArray[np.int64]:
    """The same instances with the labels 1 to N."""
    if labels.dtype.kind not in "biu":
        raise ValueError(f"{name} has dtype {labels.dtype}; give a label image of integers.")
    if labels.min() < 0:
        raise ValueError(f"{name} holds the label {labels.min()}; give labels of 0 (background) and above.")
    largest = int(labels.max())
    if largest > labels.size:  # too large for a look-up table
        ids, inverse = np.unique(labels, return_inverse=True)
        return inverse.reshape(labels.shape) + int(ids[0] != 0)
    present: NDArray[np.bool_] = np.zeros(largest + 1, bool)
    present[labels.ravel().astype(np.int64)] = True
    present[0] = False
    return np.cumsum(present)[labels.astype(np.int64)] * (labels != 0)
