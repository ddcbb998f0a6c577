"""Many binary masks at once: run lengths, boxes, stability, small regions; each as segment-anything defines it."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor


def encode(masks: Tensor) -> list[dict[str, Any]]:
    """bool (M, H, W) to uncompressed run lengths, column by column, zeros first: {"size": [H, W], "counts": [...]}."""
    count, height, width = masks.shape
    flat = masks.transpose(1, 2).flatten(1)  # M H W -> M W*H
    rows, at = (flat[:, 1:] ^ flat[:, :-1]).nonzero(as_tuple=True)
    ends = np.cumsum(np.bincount(rows.cpu().numpy(), minlength=count))
    changes = np.split(at.cpu().numpy() + 1, ends)[:count]
    out = []
    for begins, change in zip(flat[:, 0].tolist(), changes, strict=True):
        counts = np.diff(change, prepend=0, append=height * width).tolist()
        out.append({"size": [height, width], "counts": [0, *counts] if begins else counts})
    return out


def decode(run_lengths: dict[str, Any]) -> np.ndarray:
    """Uncompressed run lengths to a mask, bool (H, W)."""
    height, width = run_lengths["size"]
    counts = np.asarray(run_lengths["counts"], dtype=np.int64)
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    mask: np.ndarray = flat.reshape(width, height).T
    return mask


def boxes(masks: Tensor) -> Tensor:
    """bool (M, H, W) to int64 (M, 4): first and last column and row as X0, Y0, X1, Y1; zeros for an empty mask."""
    edges = []
    for dim in (1, 2):  # columns, then rows
        seen = masks.any(dim).to(torch.uint8)
        edges.append((seen.argmax(1), seen.shape[1] - 1 - seen.flip(1).argmax(1), seen.any(1)))
    (left, right, some), (top, bottom, _) = edges
    return torch.stack([left, top, right, bottom], dim=1) * some[:, None]


def stability(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """(M, H, W) to (M,): pixels above threshold + offset over those above threshold - offset; NaN where none are."""
    inner, outer = ((logits > limit).flatten(1).sum(1) for limit in (threshold + offset, threshold - offset))
    return inner / outer


def without_small_regions(mask: np.ndarray, min_area: float) -> tuple[np.ndarray, bool]:
    """A bool mask (H, W) with holes under min_area pixels filled, then islands under it removed (the largest stays
    where all are small), 8-connected; and whether it changed.
    """
    if not mask.any():  # one hole, as large as the image
        return (mask, False) if mask.size >= min_area else (~mask, True)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    # a region of the background that reaches this frame's edge inside the image is as long as min_area at least
    margin = math.ceil(min_area)
    frame = tuple(slice(max(0, a[0] - margin), a[-1] + 1 + margin) for a in (rows, columns))
    part, filled = _relabel(~mask[frame], min_area)
    out = np.zeros_like(mask)
    out[frame] = ~part
    kept, removed = _relabel(out[frame], min_area)
    if kept.any():
        out[frame] = kept
    else:  # of islands of one size the first label's stays, and labels depend on where the image begins
        out, removed = _relabel(out, min_area, keep_largest=True)
    return (out, True) if filled or removed else (mask, False)


def _relabel(mask: np.ndarray, min_area: float, keep_largest: bool = False) -> tuple[np.ndarray, bool]:
    """The mask without its regions under min_area, and whether there were any."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA]
    kept = sizes >= min_area
    kept[0] = True  # the background is not a region
    if kept.all():
        return mask, False
    kept[0] = False
    if keep_largest and not kept.any():
        kept[1 + sizes[1:].argmax()] = True
    return kept[regions], True
