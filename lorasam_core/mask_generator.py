"""Masks for a whole image: segment-anything's predictor and mask generator, for grey micrographs too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.amg import (
    MaskData,
    area_from_rle,
    box_xyxy_to_xywh,
    coco_encode_rle,
    is_box_near_crop_edge,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)
from torchvision.ops import batched_nms
from tqdm import tqdm

from lorasam_core import masks
from lorasam_core.prompt_decoder import PromptDecoder

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]

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
    "pred_iou_thresh": 0.30,
    "stability_score_thresh": 0.70,
    "crop_n_layers": 0,
    "min_mask_region_area": 25,
}  # 256 points, no crops, and thresholds that suit the compact model on describable scenes (particles had no say)

MIN_SIDE = 16  # pixels
CPU_CACHE = 8 * 2**20  # bytes of image tokens that are worked on at once on a CPU
CPU_MASKS = 8  # enlarged at once on a CPU


def as_rgb(image: np.ndarray, min_side: int = MIN_SIDE) -> np.ndarray:
    """The image as uint8 (H, W, 3): grey (H, W) is repeated three times, RGB stays as it is.

    Raises ValueError for another dtype or shape, or a side under min_side pixels.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ValueError(f"The image is {image.dtype}; scale its grey values to 0..255 and convert it to uint8.")
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f"The image has shape {image.shape}; give grey (H, W) or RGB (H, W, 3) without alpha.")
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        raise ValueError(f"The image has {height} x {width} pixels; give at least {min_side} pixels a side.")
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


@contextmanager
def evaluating(sam: Sam) -> Iterator[None]:
    """Evaluation mode and no gradients; on leaving, every module gets back the mode that it had."""
    modes = [(module, module.training) for module in sam.modules()]
    sam.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


class Predictor(SamPredictor):
    """segment-anything's SamPredictor that takes grey images and is safe under autocast.

    The image encoder runs under the autocast that surrounds it, or that `autocast` makes. Its embedding is returned
    to float32, and prompts and masks are always computed in float32: bfloat16 holds 8 bits, too few for coordinates
    of pixels and for masks that are compared with thresholds.
    """

    features: Any  # (1, C, h, w) embedding of the current image, or None

    def __init__(self, sam: Sam, autocast: Autocast = nullcontext) -> None:
        super().__init__(sam)
        self.autocast = autocast

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Encode a uint8 image, (H, W) or (H, W, 3); ValueError for another, or one too thin for the model."""
        image = as_rgb(image, min_side=1)
        side = self.transform.target_length
        if min(self.transform.get_preprocess_shape(*image.shape[:2], side)) < 1:
            raise ValueError(
                f"The image has {image.shape[0]} x {image.shape[1]} pixels, too long and thin for a model of {side} "
                "pixels; cut it into shorter pieces."
            )
        super().set_image(image, image_format)

    def set_torch_image(self, transformed_image: torch.Tensor, original_image_size: tuple[int, ...]) -> None:
        """Encode a (1, 3, h, w) image already transformed, as SamPredictor does."""
        with self.autocast():
            super().set_torch_image(transformed_image, original_image_size)
        self.features = self.features.float()

    def predict_torch(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks for a batch of prompts, as SamPredictor's, in float32 even under autocast."""
        with torch.autocast(self.device.type, enabled=False):
            return super().predict_torch(*args, **kwargs)


class MaskGenerator(SamAutomaticMaskGenerator):
    """segment-anything's SamAutomaticMaskGenerator: its arguments, annotations and masks, in less time.

    What all points of an image share is computed once, points are filtered by their predicted IoU before any mask is
    made; on a CPU masks are enlarged a few at a time. Results are the original's up to rounding: a pixel whose logit,
    or a mask whose rating or stability, lies that close to a threshold may fall on its other side, as it does in the
    original when its batch size changes.

    Beyond the original: grey images; evaluation mode while it runs, so that the same image gives the same masks; an
    empty list where the original fails because no crop holds a mask; a progress bar, on request; ValueError, with the
    remedy, for settings and images on which the original fails. points_per_batch is an upper limit: on a CPU points are
    taken as many at once as its cache likes.
    """

    def __init__(self, sam: Sam, *, autocast: Autocast = nullcontext, progress: bool = False, **settings: Any) -> None:
        _check_settings(settings)
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

    def _process_crop(
        self, image: np.ndarray, crop_box: list[int], crop_layer_idx: int, orig_size: tuple[int, ...]
    ) -> MaskData:
        """Masks of one crop, as the original's method of this name returns them."""
        x0, y0, x1, y1 = crop_box
        self.predictor.set_image(image[y0:y1, x0:x1])
        points = self.point_grids[crop_layer_idx] * np.array([[x1 - x0, y1 - y0]])
        device = self.predictor.device
        data = MaskData(
            iou_preds=torch.empty(0, device=device),
            points=torch.empty(0, 2, dtype=torch.float64),
            stability_score=torch.empty(0, device=device),
            boxes=torch.empty(0, 4, dtype=torch.int64, device=device),
            rles=[],
        )
        with torch.autocast(self.predictor.device.type, enabled=False):
            for part in self._survivors(points, crop_box, orig_size):
                data.cat(part)
        self.predictor.reset_image()
        kept = batched_nms(
            data["boxes"].float(), data["iou_preds"], torch.zeros(len(data["boxes"])), self.box_nms_thresh
        )
        data.filter(kept)
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"])).reshape(-1, 4).long()
        return data

    def _survivors(self, points: np.ndarray, crop_box: list[int], orig_size: tuple[int, ...]) -> Iterator[MaskData]:
        """What passes the filters, from points (P, 2) in pixels of the crop that the predictor holds."""
        predictor, sam = self.predictor, self.predictor.model
        coords = torch.as_tensor(
            predictor.transform.apply_coords(points, predictor.original_size), device=predictor.device
        )
        labels = torch.ones(len(points), 1, dtype=torch.int, device=predictor.device)
        sparse, _ = sam.prompt_encoder((coords[:, None], labels), None, None)
        _, dense = sam.prompt_encoder((coords[:1, None], labels[:1]), None, None)
        decoder = PromptDecoder(sam.mask_decoder, predictor.features + dense, sam.prompt_encoder.get_dense_pe())
        at_once = self.points_per_batch
        if predictor.device.type == "cpu":
            at_once = max(1, min(at_once, CPU_CACHE // (decoder.keys.numel() * decoder.keys.element_size())))
        with tqdm(total=len(points), desc="masks", unit="point", leave=False, disable=not self.progress) as bar:
            for start in range(0, len(points), at_once):
                few = slice(start, start + at_once)
                rated, tokens, keys = decoder.rate(sparse[few])
                chosen = rated > self.pred_iou_thresh if self.pred_iou_thresh > 0 else torch.ones_like(rated).bool()
                chosen[:, 0] = False  # the single mask: for boxes, and several points
                owner, number = chosen.nonzero(as_tuple=True)
                if len(owner):
                    low = decoder.masks(tokens, keys, chosen)
                    rows = torch.as_tensor(points[few])[owner.cpu()]
                    enlarged = CPU_MASKS if predictor.device.type == "cpu" else len(low)
                    for part in torch.arange(len(low)).split(enlarged):
                        yield self._filter(low[part], rated[owner, number][part], rows[part], crop_box, orig_size)
                bar.update(len(points[few]))

    def _filter(
        self, low: torch.Tensor, rated: torch.Tensor, points: torch.Tensor, crop_box: list[int],
        orig_size: tuple[int, ...],
    ) -> MaskData:  # fmt: skip
        """Logits (M, m, m) at the crop's size: those that are stable and away from the crop's edges, as run lengths."""
        sam, (height, width) = self.predictor.model, orig_size
        logits = sam.postprocess_masks(low[:, None], self.predictor.input_size, self.predictor.original_size)[:, 0]
        stable = masks.stability(logits, sam.mask_threshold, self.stability_score_offset)
        data = MaskData(iou_preds=rated, points=points, stability_score=stable, masks=logits > sam.mask_threshold)
        if self.stability_score_thresh > 0:
            data.filter(stable >= self.stability_score_thresh)
        data["boxes"] = masks.boxes(data["masks"])
        data.filter(~is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, width, height]))
        data["rles"] = masks.encode(uncrop_masks(data["masks"], crop_box, height, width))
        del data["masks"]
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
        kept = batched_nms(
            around.float(), unchanged, torch.zeros(len(around)),
            max(self.box_nms_thresh, self.crop_nms_thresh),
        )  # fmt: skip
        data["boxes"] = around.numpy()
        data.filter(kept)


def _check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for a setting that would fail deep inside the original, or be ignored there."""
    for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
        value = settings.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; give a whole number of at least 1.")
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
