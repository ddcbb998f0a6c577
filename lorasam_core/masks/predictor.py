"""segment-anything's predictor, for grey micrographs too, under autocast, and for several images in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from lorasam_core.data.readers import MIN_SIDE
from lorasam_core.models.prompt_decoder import PromptDecoder

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]


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


class Embedding(NamedTuple):
    """What a predictor knows of an image."""

    features: torch.Tensor  # float32 (1, C, h, w)
    input_size: tuple[int, int]  # rows and columns of the encoder's input that are not padding
    original_size: tuple[int, int]  # of the image, in pixels


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
        super().set_image(self._checked(image), image_format)

    def set_torch_image(self, transformed_image: torch.Tensor, original_image_size: tuple[int, ...]) -> None:
        """Encode a (1, 3, h, w) image already transformed, as SamPredictor does."""
        with self.autocast():
            super().set_torch_image(transformed_image, original_image_size)
        self.features = self.features.float()

    def predict_torch(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks for a batch of prompts, as SamPredictor's, in float32 even under autocast."""
        with torch.autocast(self.device.type, enabled=False):
            return super().predict_torch(*args, **kwargs)

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        """What `set_image` would find of each of some RGB images, of any sizes, from one call of the encoder."""
        resized = [self.transform.apply_image(self._checked(image)) for image in images]
        inputs = [torch.as_tensor(part, device=self.device).permute(2, 0, 1) for part in resized]  # H W C -> C H W
        with torch.no_grad(), self.autocast():
            features = self.model.image_encoder(torch.stack([self.model.preprocess(part) for part in inputs]))
        # B C h w -> B of 1 C h w
        return [
            Embedding(feature, part.shape[:2], image.shape[:2])
            for feature, part, image in zip(features.float().split(1), resized, images, strict=True)
        ]

    def use(self, embedding: Embedding) -> None:
        """Take an image that `encode` has seen, as `set_image` would."""
        self.reset_image()
        self.features, self.input_size, self.original_size = embedding
        self.is_image_set = True

    def point_decoder(self, points: np.ndarray) -> tuple[PromptDecoder, torch.Tensor]:
        """The mask decoder prepared for the image that is held, and the embeddings (P, 2, C) of points (P, 2), X and Y
        in its pixels, each a foreground prompt of its own.
        """
        # mps has no float64. The prompt encoder adds half a pixel: rounded after that sum, they are the original's
        centres = self.transform.apply_coords(points, self.original_size) + 0.5
        coords = torch.as_tensor(centres, dtype=torch.float32, device=self.device) - 0.5
        labels = torch.ones(len(points), 1, dtype=torch.int, device=self.device)
        encoder = self.model.prompt_encoder
        sparse, _ = encoder((coords[:, None], labels), None, None)
        _, dense = encoder((coords[:1, None], labels[:1]), None, None)
        return PromptDecoder(self.model.mask_decoder, self.features, dense, encoder.get_dense_pe()), sparse

    def _checked(self, image: np.ndarray) -> np.ndarray:
        image = as_rgb(image, min_side=1)
        side = self.transform.target_length
        if min(self.transform.get_preprocess_shape(*image.shape[:2], side)) < 1:
            raise ValueError(
                f"The image has {image.shape[0]} x {image.shape[1]} pixels, too long and thin for a model of {side} "
                "pixels; cut it into shorter pieces."
            )
        return image
