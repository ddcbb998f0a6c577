"""Generators under many thresholds, for the price of asking their points once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import MaskData

from lorasam_core.masks.generator import MaskGenerator
from lorasam_core.masks.predictor import Autocast

CHOSEN = ["pred_iou_thresh", "stability_score_thresh"]
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the guided generator's score


class ThresholdSweep(MaskGenerator):
    """A MaskGenerator that asks its points once an image, and then filters for any number of pairs of thresholds.

    settings: as a MaskGenerator's; their own two thresholds have no effect. What follows the filters (suppression of
    duplicates, small regions) depends on what passes, and is done anew for every pair.
    """

    def __init__(self, sam: Sam, *, autocast: Autocast = nullcontext, **settings: Any) -> None:
        super().__init__(sam, autocast=autocast, **(settings | dict.fromkeys(CHOSEN, 0.0)))
        self.pair = (0.0, 0.0)
        self.candidates: dict[tuple[int, ...], list[MaskData]] = {}  # of each crop, by its box

    def sweep(self, image: np.ndarray, pairs: Sequence[tuple[float, float]]) -> Iterator[list[dict[str, Any]]]:
        """What `MaskGenerator.generate` returns with each pair (pred_iou_thresh, stability_score_thresh), up to
        rounding. image: uint8 (H, W) or (H, W, 3); errors as there.
        """
        self.candidates = {}
        for pair in pairs:
            self.pair = pair
            yield self.generate(image)

    def _encoded(self, image: np.ndarray, crop_boxes: list[list[int]]) -> Iterator[list[int]]:
        yield from crop_boxes if self.candidates else super()._encoded(image, crop_boxes)

    def _survivors(self, grid: np.ndarray, crop_box: list[int], orig_size: tuple[int, ...]) -> Iterator[MaskData]:
        if tuple(crop_box) not in self.candidates:
            self.candidates[tuple(crop_box)] = list(super()._survivors(grid, crop_box, orig_size))
        pred_iou, stability = self.pair
        for candidates in self.candidates[tuple(crop_box)]:
            kept = torch.ones_like(candidates["iou_preds"]).bool()
            if pred_iou > 0:  # as in the generator, 0 lets pass what compares with no number, too
                kept &= candidates["iou_preds"] > pred_iou
            if stability > 0:
                kept &= candidates["stability_score"] >= stability
            passed = MaskData(**dict(candidates.items()))
            passed.filter(kept.cpu())
            yield passed


def kept(labels: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Labels (H, W) whose id i has scores[i - 1], without those under the threshold.

    Of one tile this is what the guided generator gives with that score_thresh, for it keeps masks in descending score;
    across tiles it may differ where a mask of a low score joined two.
    """
    return np.append(0, np.arange(1, len(scores) + 1) * (scores >= threshold))[labels]


def best_threshold(f1: pd.DataFrame, usual: float, without: str | None = None) -> float:
    """The threshold of the greatest mean F1, of equal ones the lowest; `usual` where nothing matches a particle.

    f1: a row an image, columns group and one for each threshold. without: a group that has no say.
    """
    means = f1[f1["group"] != without].drop(columns="group").mean()
    return float(means.index[int(means.to_numpy().argmax())]) if means.max() > 0 else usual
