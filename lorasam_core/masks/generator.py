"""Masks for a whole image: segment-anything's mask generator, in less time and for grey micrographs too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import (
    MaskData,
    area_from_rle,
    box_xyxy_to_xywh,
    coco_encode_rle,
    generate_crop_boxes,
    is_box_near_crop_edge,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)
from torchvision.ops import batched_nms
from torchvision.ops.boxes import box_area
from tqdm import tqdm

from lorasam_core.masks import operations as masks
from lorasam_core.masks.predictor import Autocast, Predictor, as_rgb, evaluating
from lorasam_core.models.prompt_decoder import PromptDecoder

__all__ = ["QUICK_SETTINGS", "STUDY_SETTINGS", "Autocast", "MaskGenerator", "Predictor", "as_rgb", "evaluating"]

STUDY_SETTINGS: dict[str, Any] = {
    "points_per_side": 100,
    "pred_iou_thresh": 0.90,
    "stability_score_thresh": 0.92,
    "crop_n_layers": 1,
    "crop_n_points_downscale_factor": 2,
    "min_mask_region_area": 100,
}  # the study's, the same for every experiment: 10,000 points on the image and 2,500 on each of 4 crops

QUICK_SETTINGS: dict[str, Any] = {
    "points_per_side": 16,
    "points_per_batch": 8,
    "pred_iou_thresh": 0.50,
    "stability_score_thresh": 0.80,
    "crop_n_layers": 0,
    "min_mask_region_area": 25,
}  # 256 points, no crops, and the thresholds of the compact model's best F1 on 40 validation images of EMPS

MOST_POINTS, MOST_LAYERS = 1000, 5  # along a side, and of crops, of which layer 5 alone has 1,024
CPU_CACHE = 30 * 2**20  # bytes of image tokens worked on at once on a CPU; glibc hands 32 MiB back after every use
CPU_MASKS = 8  # enlarged at once on a CPU
CPU_CROPS = 1  # encoded at once
CUDA_CROPS = 4


class MaskGenerator(SamAutomaticMaskGenerator):
    """segment-anything's SamAutomaticMaskGenerator: its arguments, annotations and masks, in less time.

    What all points of an image share is computed once, points are filtered by their predicted IoU before any mask is
    made; on a CPU masks are enlarged a few at a time. Results are the original's up to rounding: a pixel whose logit,
    or a mask whose rating or stability, lies that close to a threshold may fall on its other side, as it does in the
    original when its batch size changes.

    Beyond the original: grey images; evaluation mode while it runs, so that the same image gives the same masks; an
    empty list where the original fails because no crop holds a mask; a progress bar, on request; ValueError, with the
    remedy, for settings and images on which the original fails. points_per_batch is an upper limit: on a CPU points are
    taken as many at once as its cache likes. For other masks in a fraction of the time see `guided`.
    """

    def __init__(self, sam: Sam, *, autocast: Autocast = nullcontext, progress: bool = False, **settings: Any) -> None:
        check_settings(settings)
        super().__init__(sam, **settings)
        self.predictor = Predictor(sam, autocast)
        self.progress = progress

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Annotations of a uint8 image, (H, W) or (H, W, 3), at least 16 pixels a side.

        Each is a dictionary: segmentation bool (H, W), or a run-length encoding if `output_mode` asks for one; area
        in pixels; bbox and crop_box X, Y, width, height; predicted_iou; stability_score; point_coords [[X, Y]].
        Raises ValueError for another dtype or shape.
        """
        image = as_rgb(image)
        with evaluating(self.predictor.model):
            data = self._generate_masks(image)
        if self.min_mask_region_area > 0 and len(data["rles"]):
            self._clean(data)
        return [self._annotation(data, row) for row in range(len(data["rles"]))]

    def _annotation(self, data: MaskData, row: int) -> dict[str, Any]:
        rle = data["rles"][row]
        form = {"binary_mask": masks.decode, "coco_rle": coco_encode_rle}.get(self.output_mode)
        return {
            "segmentation": form(rle) if form else rle,
            "area": area_from_rle(rle),
            "bbox": box_xyxy_to_xywh(data["boxes"][row]).tolist(),
            "predicted_iou": data["iou_preds"][row].item(),
            "point_coords": [data["points"][row].tolist()],
            "stability_score": data["stability_score"][row].item(),
            "crop_box": box_xyxy_to_xywh(data["crop_boxes"][row]).tolist(),
        }

    def _generate_masks(self, image: np.ndarray) -> MaskData:
        """Masks of all crops, as the original's method of this name returns them."""
        size = image.shape[:2]
        crop_boxes, layers = generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        data = MaskData()
        for crop_box, layer in zip(self._encoded(image, crop_boxes), layers, strict=True):
            data.cat(self._masks_of_crop(crop_box, layer, size))
        if len(crop_boxes) > 1:
            scores = 1 / box_area(data["crop_boxes"])  # masks of smaller crops are preferred
            data.filter(_suppressed(data["boxes"], scores, self.crop_nms_thresh))
        data.to_numpy()
        return data

    def _encoded(self, image: np.ndarray, crop_boxes: list[list[int]]) -> Iterator[list[int]]:
        """Each crop box while the predictor holds that crop; several crops are encoded in one call."""
        at_once = CUDA_CROPS if self.predictor.device.type == "cuda" else CPU_CROPS
        for start in range(0, len(crop_boxes), at_once):
            group = crop_boxes[start : start + at_once]
            embeddings = self.predictor.encode([image[y0:y1, x0:x1] for x0, y0, x1, y1 in group])
            for crop_box in group:
                self.predictor.use(embeddings.pop(0))  # no other reference: they go before the next group comes
                yield crop_box
                self.predictor.reset_image()

    def _masks_of_crop(self, crop_box: list[int], layer: int, orig_size: tuple[int, ...]) -> MaskData:
        """Masks of the crop that the predictor holds, in pixels of the image."""
        device = self.predictor.device
        data = MaskData(
            iou_preds=torch.empty(0, device=device),
            points=torch.empty(0, 2, dtype=torch.float64),
            stability_score=torch.empty(0, device=device),
            boxes=torch.empty(0, 4, dtype=torch.int64, device=device),
            rles=[],
        )
        with torch.autocast(self.predictor.device.type, enabled=False):
            for part in self._survivors(self.point_grids[layer], crop_box, orig_size):
                data.cat(part)
        data.filter(_suppressed(data["boxes"], data["iou_preds"], self.box_nms_thresh))
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"])).reshape(-1, 4).long()
        return data

    def _survivors(self, grid: np.ndarray, crop_box: list[int], orig_size: tuple[int, ...]) -> Iterator[MaskData]:
        """What passes the filters, from points (P, 2) in 0..1 of the crop that the predictor holds."""
        predictor = self.predictor
        height, width = predictor.original_size
        points = grid * np.array([[width, height]])
        decoder, sparse = predictor.point_decoder(points)
        at_once = self.points_per_batch
        if predictor.device.type == "cpu":
            at_once = max(1, min(at_once, CPU_CACHE // (decoder.keys.numel() * decoder.keys.element_size())))
        with tqdm(total=len(points), desc="masks", unit="point", leave=False, disable=not self.progress) as bar:
            for few in torch.arange(len(points)).split(at_once):
                for low, rated, owner in self._rated(decoder, sparse[few]):
                    data = self._filter(low, rated, torch.as_tensor(points[few])[owner], crop_box, orig_size)
                    data["rles"] = masks.encode(uncrop_masks(data["masks"], crop_box, *orig_size))
                    del data["masks"]
                    yield data
                bar.update(len(few))

    def _rated(
        self, decoder: PromptDecoder, sparse: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Of prompts (B, n, C) the masks of high predicted IoU, a few at a time: logits (M, 4h, 4w), predicted IoU (M,)
        and the number of the prompt (M,), on the CPU.
        """
        rated, tokens, keys = decoder.rate(sparse)
        chosen = rated > self.pred_iou_thresh if self.pred_iou_thresh > 0 else torch.ones_like(rated).bool()
        chosen[:, 0] = False  # the single mask: for boxes, and several points
        owner, number = chosen.nonzero(as_tuple=True)
        if len(owner):
            low = decoder.masks(tokens, keys, chosen)
            enlarged = CPU_MASKS if low.device.type == "cpu" else len(low)
            yield from zip(
                low.split(enlarged), rated[owner, number].split(enlarged), owner.cpu().split(enlarged), strict=True
            )

    def _filter(
        self, low: torch.Tensor, rated: torch.Tensor, points: torch.Tensor, crop_box: list[int],
        orig_size: tuple[int, ...],
    ) -> MaskData:  # fmt: skip
        """Logits (M, m, m) as masks of the crop's size: those that are stable and away from the crop's edges."""
        sam, (height, width) = self.predictor.model, orig_size
        logits = sam.postprocess_masks(low[:, None], self.predictor.input_size, self.predictor.original_size)[:, 0]
        stable = masks.stability(logits, sam.mask_threshold, self.stability_score_offset)
        data = MaskData(iou_preds=rated, points=points, stability_score=stable, masks=logits > sam.mask_threshold)
        if self.stability_score_thresh > 0:
            data.filter(stable >= self.stability_score_thresh)
        data["boxes"] = masks.boxes(data["masks"])
        data.filter(~is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, width, height]))
        return data

    def _clean(self, data: MaskData) -> None:
        """The original's `postprocess_small_regions`: without small regions, and without the duplicates this makes."""
        around = torch.from_numpy(data["boxes"]).clone()
        unchanged = torch.ones(len(around))
        for row, rle in enumerate(data["rles"]):
            mask, changed = masks.without_small_regions(masks.decode(rle), self.min_mask_region_area)
            if changed:
                cleaned = torch.from_numpy(np.ascontiguousarray(mask))[None]
                data["rles"][row], around[row] = masks.encode(cleaned)[0], masks.boxes(cleaned)[0]
                unchanged[row] = 0.0
        kept = _suppressed(around, unchanged, max(self.box_nms_thresh, self.crop_nms_thresh))
        data["boxes"] = around.numpy()
        data.filter(kept)


def _suppressed(boxes: torch.Tensor, scores: torch.Tensor, limit: float) -> torch.Tensor:
    """Rows of the boxes (N, 4) that non-maximum suppression keeps, all of one kind, on the boxes' device."""
    kinds = torch.zeros(len(boxes), device=boxes.device)  # indexed on the device, where there are many boxes
    return batched_nms(boxes.float(), scores.to(boxes.device), kinds, limit)


def check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for a setting that would fail deep inside the original, or be ignored there."""
    for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
        value = settings.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; give a whole number of at least 1.")
    for name, most in (("points_per_side", MOST_POINTS), ("crop_n_layers", MOST_LAYERS)):
        if (settings.get(name) or 0) > most:
            raise ValueError(f"{name} is {settings[name]}; give at most {most}.")
    if settings.get("points_per_side", 32) is None and settings.get("point_grids") is None:
        raise ValueError("points_per_side is None; give it, or point_grids.")
    for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
        value = settings.get(name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; give a number from 0 to 1.")
    for name in ("crop_n_layers", "min_mask_region_area"):
        value = settings.get(name)
        if value is not None and value < 0:
            raise ValueError(f"{name} is {value!r}; give 0 or more.")
    points, factor = settings.get("points_per_side", 32), settings.get("crop_n_points_downscale_factor", 1)
    layers = settings.get("crop_n_layers", 0)
    if points is not None and points < factor**layers:
        raise ValueError(
            f"points_per_side is {points}, which leaves no point on the crops of layer {layers}; give at least "
            f"{factor**layers}, or fewer layers."
        )
