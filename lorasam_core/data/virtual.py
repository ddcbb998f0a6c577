"""The virtual set: N augmented images that exist only while they are looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorasam_core.data.augment import KINDS, augment
from lorasam_core.data.sample import Sample
from lorasam_core.data.windows import sliding_windows

VARIANTS = 24  # views of each training image, where no size is given


class VirtualSet:
    """A map-style data set of augmented crops; item i is a pure function of (seed, i).

    samples: the training images, split off before: every crop comes from one of them.
    size: number of items; None: 24 for each image. The study trained on 5,820 = 83 x 20 + 160 x 26 augmented images, a
        fixed number of variants for each of its two image sizes (83 of 1024x768 and 160 of 768x666); pass size=5820
        for as many. Item i shows image i mod n, so every image gets the same number of views to within one.
    crop_size: side of the square crop in pixels of the original image; c = min(crop_size, H, W).
    augmentation: "study", or "wide", which also enlarges and shrinks (see `augment.WIDE`).

    Item i: image i mod n; its sliding window number i div n, cyclically (windows of side c at a quarter overlap; of an
    image with more windows than views, each view shows one of as many equal runs of windows, drawn at random); the
    window's centre is where `augment` rotates and crops; the study's keeps the scale. Items of images with one size all
    have one shape; those of smaller images are smaller. Returns (image uint8 (c, c) or (c, c, 3), labels int32 (c, c)).
    Order, worker and process do not matter: item i draws all from np.random.default_rng((seed, i)).
    Raises ValueError for no samples, a size below 1 or another augmentation, IndexError beyond the end.
    """

    def __init__(
        self, samples: Sequence[Sample], size: int | None = None, seed: int = 0, crop_size: int = 512,
        augmentation: str = "study",
    ) -> None:  # fmt: skip
        if not len(samples):
            raise ValueError("There is no training image to augment; give at least one sample.")
        if size is not None and size < 1:
            raise ValueError(f"The virtual set's size is {size}; give a whole number of at least 1.")
        if crop_size < 1:
            raise ValueError(f"crop_size is {crop_size}; give a whole number of pixels of at least 1.")
        if seed < 0:
            raise ValueError(f"seed is {seed}; give a whole number of at least 0.")
        if augmentation not in KINDS:
            raise ValueError(f"augmentation is {augmentation!r}; choose one of {', '.join(KINDS)}.")
        self.augmentation = augmentation
        self.samples = samples
        self.size = VARIANTS * len(samples) if size is None else size
        self.seed = seed
        self.crop_size = crop_size

    def __len__(self) -> int:
        return self.size

    def parent(self, i: int) -> int:
        """Position in `samples` of the image that item i shows."""
        return i % len(self.samples)

    def window(self, i: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Sliding window (y, x, h, w) that item i shows of its image, which has this shape."""
        view = i // len(self.samples)
        windows = sliding_windows(shape, min(self.crop_size, *shape))
        views = len(range(self.parent(i), self.size, len(self.samples)))
        if len(windows) <= views:
            return windows[view % len(windows)]
        # drawn, for an even step could fall on the same few columns in every row of windows
        first, after = (k * len(windows) // views for k in (view, view + 1))
        return windows[np.random.default_rng((self.seed, i, 1)).integers(first, after)]

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= i < self.size:
            raise IndexError(f"Item {i} of a virtual set of {self.size}.")
        sample = self.samples[self.parent(i)]
        y, x, h, w = self.window(i, sample.shape)
        rng = np.random.default_rng((self.seed, i))
        center = (x + (w - 1) / 2, y + (h - 1) / 2)
        return augment(sample.image, sample.labels, rng, h, center=center, **KINDS[self.augmentation])
