"""Segmentation without learning: Otsu's threshold, and a watershed that divides what touches, in its foreground or in
that of a network (scikit-image).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2gray
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.segmentation import watershed
from tqdm import tqdm

from lorasam_core.data.sample import Sample
from lorasam_core.measure import metrics

Segmenter: TypeAlias = Callable[[np.ndarray], np.ndarray]  # uint8 (H, W) or (H, W, 3) -> int32 labels (H, W)

DISTANCES = (3, 5, 8, 12, 20, 30)  # pixels between two particles' centres, tried on validation images
AREAS = (16, 50, 150)  # pixels of the smallest instance, tried on validation images; the generators keep 16
SMOOTHING = 1.0  # standard deviation, pixels: before the threshold, and of the distances


def foreground(image: np.ndarray) -> np.ndarray:
    """Otsu's threshold (Otsu 1979) of a uint8 image (H, W) or (H, W, 3): bool (H, W).

    Particles may be the bright or the dark class: the ground is the one that holds most of the image's edge. An image
    of one grey value has no foreground.
    """
    grey = gaussian(rgb2gray(image) if image.ndim == 3 else image / 255.0, SMOOTHING)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, bool)
    bright: np.ndarray = grey > threshold_otsu(grey)
    edge = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return ~bright if edge.mean() > 0.5 else bright


def divide(particles: np.ndarray, distance: int) -> np.ndarray:
    """A foreground, bool (H, W), divided by a watershed on the distance to the ground: int32 (H, W).

    Each particle grows from a place that is farthest from the ground; two such places lie at least `distance` pixels
    apart. Raises ValueError for a distance below 1.
    """
    if distance < 1:
        raise ValueError(f"distance is {distance}; give a whole number of pixels of at least 1.")
    depth = gaussian(distance_transform_edt(particles), SMOOTHING)
    peaks = peak_local_max(depth, min_distance=distance, labels=label(particles, connectivity=2), exclude_border=False)
    markers = np.zeros(particles.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    found = watershed(-depth, markers, mask=particles)
    left = label(particles & (found == 0), connectivity=2)  # specks without a place of their own
    return np.where(left > 0, left + found.max(), found).astype(np.int32)


def components(particles: np.ndarray, setting: Any = None) -> np.ndarray:
    """Connected components of a foreground, bool (H, W), 8-connected: int32 (H, W). `setting` is not looked at."""
    return label(particles, connectivity=2).astype(np.int32)


def without_specks(labels: np.ndarray, area: int) -> np.ndarray:
    """Labels (H, W) without instances under `area` pixels."""
    kept = np.bincount(labels.ravel()) >= area
    kept[0] = False
    return np.where(kept[labels], labels, 0)


def tuned(
    samples: Iterable[Sample], prepare: Callable[[np.ndarray], Any], divide: Callable[[Any, Any], np.ndarray],
    settings: Sequence[Any] = (None,), areas: Sequence[int] = AREAS,
) -> tuple[Segmenter, dict[str, Any]]:  # fmt: skip
    """The segmenter without_specks(divide(prepare(image), setting), area) with the setting and area of the greatest
    mean F1 (IoU 0.5) on samples, and {"setting", "min_area"}.

    Raises ValueError for no samples.
    """
    samples = list(samples)
    if not samples:
        raise ValueError("There is no validation image to choose a rival's settings on; give at least one.")
    scores = np.zeros((len(settings), len(areas)))
    for sample in tqdm(samples, "choose settings", leave=False, disable=None, delay=1):
        prepared = prepare(sample.image)
        for row, setting in enumerate(settings):
            found = divide(prepared, setting)
            scores[row] += [metrics.f1(without_specks(found, area), sample.labels) for area in areas]
    best, smallest = divmod(int(scores.argmax()), len(areas))
    setting, area = settings[best], areas[smallest]
    return lambda image: without_specks(divide(prepare(image), setting), area), {"setting": setting, "min_area": area}
