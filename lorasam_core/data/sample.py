"""The contract of the data: one micrograph with its instance labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from skimage.measure import label


class DataError(ValueError):
    """Data that cannot be used; the message is one sentence that names the file and the remedy."""


@dataclass(frozen=True)
class Sample:
    """One micrograph.

    image: uint8 (H, W) grey or (H, W, 3) RGB.
    labels: int32 (H, W), one id for each particle, 0 is background.
    id: unique in its data set.
    group: specimen, paper or file stem: what must not straddle a split.
    pixel_size: nm a pixel, or None where the scale is unknown.

    Raises DataError when one of these does not hold.
    """

    image: np.ndarray
    labels: np.ndarray
    id: str
    group: str
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        image, labels = self.image, self.labels
        if image.dtype != np.uint8:
            raise DataError(f"The image of {self.id} is {image.dtype}; convert it to uint8.")
        if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
            raise DataError(f"The image of {self.id} has shape {image.shape}; give (H, W) or (H, W, 3).")
        if image.size == 0:
            raise DataError(f"The image of {self.id} has no pixels; remove it from the data set.")
        if labels.dtype != np.int32:
            raise DataError(f"The labels of {self.id} are {labels.dtype}; convert them to int32.")
        if labels.shape != image.shape[:2]:
            raise DataError(
                f"The labels of {self.id} have shape {labels.shape} and its image {image.shape[:2]}; "
                "give both the same height and width."
            )
        if labels.size and labels.min() < 0:
            raise DataError(f"The labels of {self.id} hold a negative id; use 0 for background and ids above it.")
        if self.pixel_size is not None and not 0 < self.pixel_size < float("inf"):
            raise DataError(f"The pixel size of {self.id} is {self.pixel_size}; give nm a pixel above 0, or none.")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def foreground(self) -> np.ndarray:
        """The union of the particles, bool (H, W)."""
        return self.labels > 0


def labels_from_mask(mask: np.ndarray) -> np.ndarray:
    """Instances of a binary mask: its 8-connected components.

    mask: (H, W) with at most two distinct values; the larger one is particle, and 0 is never particle.
    Returns int32 (H, W), ids from 1. Touching particles become one instance: a binary mask cannot tell them apart.
    Raises DataError for more than two values.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise DataError(f"A mask has shape {mask.shape}; give (H, W).")
    values = np.unique(mask)
    if len(values) > 2:
        raise DataError(f"A binary mask holds {len(values)} distinct values; give two, such as 0 and 255.")
    if len(values) == 0 or not values[-1]:
        return np.zeros(mask.shape, np.int32)
    return label(mask == values[-1], connectivity=mask.ndim).astype(np.int32)


def content_hash(sample: Sample) -> str:
    """SHA-256 hex of the decoded pixels of image (uint8) and labels (int32, little-endian) with their shapes."""
    digest = hashlib.sha256(f"{sample.image.shape} {sample.labels.shape} ".encode())
    digest.update(np.ascontiguousarray(sample.image).tobytes())
    digest.update(np.ascontiguousarray(sample.labels.astype("<i4")).tobytes())
    return digest.hexdigest()
