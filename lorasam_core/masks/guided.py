"""Masks for a whole image, guided by the foreground that the predictor sees: other masks than the exact generator's,
in a fraction of its time.

The study's claim, that a better predictor gives a better mask generator, turned into method; micro-sam's automatic
prompt generation (Archit and Pape 2026) also derives its prompts from a foreground that the model predicts.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_point_grid
from torch import Tensor

from lorasam_core.masks import operations
from lorasam_core.masks.generator import MOST_POINTS
from lorasam_core.masks.predictor import Autocast, Predictor, as_rgb, evaluating
from lorasam_core.models.prompt_decoder import PromptDecoder
from lorasam_core.training.prompts import whole_image_box

CPU_POINTS = 8  # asked at once on a CPU, whose cache holds what lies between image tokens and masks of no more
ENLARGED = 8  # masks at once
PASSES = (4, 2)  # steps of the grids that are asked before the full one
STABILITY_OFFSET = 1.0  # segment-anything's
RATED = ("score", "predicted_iou", "stability_score", "foreground_share")

GUIDED_SETTINGS: dict[str, Any] = {
    "points_per_side": 32, "sparse_every": 4, "score_thresh": 0.35, "overlap_thresh": 0.5, "largest_share": 0.5,
    "min_area": 16, "settled_thresh": 0.5,
}  # the score's threshold suits the compact model on validation images of EMPS  # fmt: skip


class GuidedGenerator:
    """Instances from prompts where the model's own whole-image mask says particle.

    1. The predictor's foreground: its mask for the box of the whole image.
    2. Points of a grid of points_per_side: all that lie in the foreground, and every `sparse_every`-th row and column
       elsewhere, for what the foreground misses (0: none). They are asked in passes, from a coarse grid to the full
       one, and a pass leaves out what lies in a mask that an earlier one scored settled_thresh or better (1: nothing is
       left out), for it would find that particle again.
    3. Of the three masks for a point the one of the greatest score: predicted IoU x stability x share of the mask that
       lies in the foreground. Those under score_thresh go, and those over largest_share of the image.
    4. Suppression, greedy in descending score: a mask goes if more than overlap_thresh of the smaller of the two areas
       lies in one that is kept, so that a duplicate and a part of a whole both go.
    5. What is left is enlarged to the image; masks under min_area pixels go.

    All but the last step happens at the decoder's resolution (a pixel for 4 of the model's input).
    """

    def __init__(self, sam: Sam, *, autocast: Autocast = nullcontext, **settings: Any) -> None:
        """settings: any of GUIDED_SETTINGS; ValueError for another, or for a value out of range."""
        check_settings(settings)
        self.settings = GUIDED_SETTINGS | settings
        self.predictor = Predictor(sam, autocast)
        self.points_asked = 0

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Annotations of a uint8 image, (H, W) or (H, W, 3), at least 16 pixels a side, in descending score.

        Each is a dictionary: segmentation bool (H, W), area in pixels, bbox X, Y, width, height, score, predicted_iou,
        stability_score, foreground_share, point_coords [[X, Y]]. Raises ValueError for another dtype or shape.
        """
        image, self.points_asked = as_rgb(image), 0
        with evaluating(self.predictor.model):
            self.predictor.set_image(image)
            with torch.autocast(self.predictor.device.type, enabled=False):
                found = self._candidates()
                passing = found["score"] >= self.settings["score_thresh"]
                found = {name: tensor[passing.to(tensor.device)] for name, tensor in found.items()}
                kept = self._suppressed(found)
                annotations = self._enlarged({name: tensor[kept] for name, tensor in found.items()})
            self.predictor.reset_image()
        return annotations

    def foreground(self) -> Tensor:
        """Logits (4h, 4w) of the mask for the box of the image that the predictor holds."""
        predictor = self.predictor
        box = predictor.transform.apply_boxes(whole_image_box(predictor.original_size), predictor.original_size)
        boxes = torch.as_tensor(box, dtype=torch.float32, device=predictor.device)
        low: Tensor = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)[2][0, 0]
        return low

    def _on_image(self, low: Tensor) -> Tensor:
        """Of logits (..., m, m) what lies on the image, not on the padding beside it: (..., h, w)."""
        scale = 4 * self.predictor.features.shape[-1] / self.predictor.model.image_encoder.img_size
        height, width = (math.ceil(side * scale) for side in self.predictor.input_size)
        return low[..., :height, :width]

    def _points(self, inside: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Points (P, 2), X and Y as shares of the image's sides, of those of the grid that may be asked, and the pass
        (P,) of each.
        """
        side, every = self.settings["points_per_side"], self.settings["sparse_every"]
        grid = build_point_grid(side)
        row, column = np.divmod(np.arange(len(grid)), side)
        wanted = _at(inside, grid)
        if every:
            wanted |= (row % every == every // 2) & (column % every == every // 2)
        turn = np.full(len(grid), len(PASSES))
        for number, step in reversed(list(enumerate(PASSES if self.settings["settled_thresh"] < 1 else ()))):
            turn[(row % step == step // 2) & (column % step == step // 2)] = number
        return grid[wanted], turn[wanted]

    def _candidates(self) -> dict[str, Tensor]:
        """The best mask of every point whose score passes score_thresh or settled_thresh: logits (P, m, m) at the
        decoder's resolution, score, predicted_iou, stability_score, foreground_share (P,), points (P, 2).
        """
        predictor, sam = self.predictor, self.predictor.model
        inside = self._on_image(self.foreground()) > sam.mask_threshold
        shares, turn = self._points(inside)
        height, width = predictor.original_size
        points = shares * (width, height)
        decoder, sparse = predictor.point_decoder(points)
        at_once = CPU_POINTS if predictor.device.type == "cpu" else 64
        settled = torch.zeros_like(inside)
        parts: list[dict[str, Tensor]] = []
        for number in range(len(PASSES) + 1):
            asked = np.flatnonzero((turn == number) & ~_at(settled, shares))
            found = [
                self._best(decoder, sparse[few], torch.as_tensor(points)[few], inside)
                for few in torch.from_numpy(asked).split(at_once)
            ]
            for part in found:
                sure = self._on_image(part["logits"][part["score"] >= self.settings["settled_thresh"]])
                settled |= (sure > sam.mask_threshold).any(0)
            self.points_asked += len(asked)
            parts += found
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _best(self, decoder: PromptDecoder, sparse: Tensor, points: Tensor, inside: Tensor) -> dict[str, Tensor]:
        """Of prompts (B, n, C) at points (B, 2) the mask of the greatest score each, as `_candidates` returns them."""
        rated, tokens, keys = decoder.rate(sparse)
        least = min(self.settings["score_thresh"], self.settings["settled_thresh"])
        chosen = rated >= least  # no score is above its predicted IoU
        chosen[:, 0] = False  # the single mask: for boxes, and several points
        owner, number = chosen.nonzero(as_tuple=True)
        low = (
            decoder.masks(tokens, keys, chosen)
            if len(owner)
            else decoder.keys.new_zeros((0, *[4 * n for n in decoder.grid]))
        )
        seen, threshold = self._on_image(low), self.predictor.model.mask_threshold
        masks = seen > threshold
        area = masks.flatten(1).sum(1)
        rating = rated[owner, number].clamp(max=1)
        stable = operations.stability(seen, threshold, STABILITY_OFFSET).nan_to_num()
        share = (masks & inside).flatten(1).sum(1) / area.clamp(min=1)
        score = rating * stable * share * (area <= self.settings["largest_share"] * inside.numel())
        best = torch.full(rated.shape, -1.0, device=rated.device)
        best[owner, number] = score
        kept = (best[owner].argmax(1) == number) & (score >= least) & (area > 0)
        named = {"logits": low, "score": score, "predicted_iou": rating, "stability_score": stable,
                 "foreground_share": share, "points": points[owner.cpu()]}  # fmt: skip
        return {name: tensor[kept.to(tensor.device)] for name, tensor in named.items()}

    def _suppressed(self, found: dict[str, Tensor]) -> Tensor:
        """Rows, in descending score, that greedy suppression keeps."""
        order = torch.argsort(found["score"], descending=True, stable=True)
        masks = (self._on_image(found["logits"][order]) > self.predictor.model.mask_threshold).flatten(1).float()
        area = masks.sum(1)
        smaller = torch.minimum(area[:, None], area[None])
        covers = (masks @ masks.T > self.settings["overlap_thresh"] * smaller).cpu()  # itself too
        free, kept = torch.ones(len(order), dtype=torch.bool), []
        for row in range(len(order)):
            if free[row]:
                kept.append(row)
                free &= ~covers[row]
        return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]

    def _enlarged(self, kept: dict[str, Tensor]) -> list[dict[str, Any]]:
        predictor, sam = self.predictor, self.predictor.model
        annotations = []
        for rows in torch.arange(len(kept["score"])).split(ENLARGED):
            low = kept["logits"][rows][:, None]
            logits = sam.postprocess_masks(low, predictor.input_size, predictor.original_size)[:, 0]
            masks = logits > sam.mask_threshold
            for row, mask, (x0, y0, x1, y1) in zip(rows, masks.cpu().numpy(), operations.boxes(masks).tolist()):
                area = int(np.count_nonzero(mask))
                if area >= max(1, self.settings["min_area"]):
                    annotations.append(
                        {"segmentation": mask, "area": area, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                        | {name: float(kept[name][row]) for name in RATED}
                        | {"point_coords": [kept["points"][row].tolist()]}
                    )
        return annotations


def _at(mask: Tensor, points: np.ndarray) -> np.ndarray:
    """Values, bool (P,), of a mask (h, w) at points (P, 2), X and Y as shares of its sides."""
    height, width = mask.shape
    columns, rows = (points * (width, height)).astype(int).T
    values: np.ndarray = mask.cpu().numpy()[rows, columns]
    return values


def check_settings(settings: dict[str, Any]) -> None:
    if unknown := sorted(settings.keys() - GUIDED_SETTINGS):
        raise ValueError(
            f"{unknown[0]!r} is no setting of the guided generator; choose from {', '.join(GUIDED_SETTINGS)}."
        )
    for name, value in settings.items():
        if name in ("points_per_side", "sparse_every", "min_area"):
            least = int(name == "points_per_side")
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}.")
            if name == "points_per_side" and value > MOST_POINTS:
                raise ValueError(f"{name} is {value}; give at most {MOST_POINTS}.")
        elif not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; give a number from 0 to 1.")
