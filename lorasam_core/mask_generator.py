"""Masks for a whole image: segment-anything's predictor and mask generator, for grey micrographs too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.amg import MaskData

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
    "stability_score_thresh": 0.60,
    "crop_n_layers": 0,
    "min_mask_region_area": 25,
}  # 256 points, no crops, and thresholds that suit the compact model on describable scenes (particles had no say)

MIN_SIDE = 16  # pixels


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
    """segment-anything's SamAutomaticMaskGenerator, with its arguments and its annotations.

    Beyond the original: grey images; evaluation mode while it runs, so that the same image gives the same masks; an
    empty list where the original fails because no crop holds a mask; ValueError, with the remedy, for settings and
    images on which the original fails.
    """

    def __init__(self, sam: Sam, *, autocast: Autocast = nullcontext, **settings: Any) -> None:
        _check_settings(settings)
        super().__init__(sam, **settings)
        self.predictor = Predictor(sam, autocast)

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Annotations of a uint8 image, (H, W) or (H, W, 3), at least 16 pixels a side.

        Each is a dictionary: segmentation bool (H, W), or a run-length encoding if `output_mode` asks for one; area
        in pixels; bbox and crop_box X, Y, width, height; predicted_iou; stability_score; point_coords [[X, Y]].
        Raises ValueError for another dtype or shape.
        """
        image = as_rgb(image)
        with evaluating(self.predictor.model):
            return super().generate(image)

    def _process_crop(self, *args: Any, **kwargs: Any) -> MaskData:
        data = super()._process_crop(*args, **kwargs)
        data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4).long()  # without a mask the original has no columns
        return data


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
