"""Read micrographs (PNG, TIFF, BMP, JPEG, formats of microscopes) as 8-bit images, alone or with their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorasam_core.data.annotations import Annotations
from lorasam_core.data.decode import decode
from lorasam_core.data.label_files import read_labels
from lorasam_core.data.sample import DataError, Sample

MIN_SIDE = 16  # pixels; less is no image for the model
STRETCH = (0.1, 99.9)  # percentiles that become 0 and 255
BAR = 0.25  # of an image at most, a data bar is
SAMPLED = 2**22  # values from which the percentiles of a larger image are taken
BLOCK = 2**22  # values stretched at a time: in double precision a whole image can take gigabytes


@dataclass(frozen=True)
class Record:
    """Files of one sample. labels: an image of them, or what a file of annotations says.

    instances: the label image holds ids even where it has only two values. mask, ignore, page: how the files are read,
    as `read_labels` says.
    """

    id: str
    image: Path
    labels: Path | Annotations
    group: str
    pixel_size: float | None = None
    instances: bool = False
    mask: str = "auto"
    ignore: int | None = None
    page: int | None = None


def read_record(record: Record) -> tuple[Sample, bool]:
    """The sample, and whether its instances are connected components of a binary mask. It may have no particle.

    Raises DataError for a file that cannot be read and for sizes that differ.
    """
    image = read_image(record.image, record.page)
    reading = {"mask": record.mask, "ignore": record.ignore, "page": record.page}
    labels, binary = labels_of(record.labels, (image.shape[0], image.shape[1]), record.instances, **reading)
    return Sample(image, labels, record.id, record.group, record.pixel_size), binary


def labels_of(
    source: Path | Annotations, shape: tuple[int, int], instances: bool = False, **reading: Any
) -> tuple[NDArray[np.int32], bool]:
    """Labels int32 (H, W) for an image of that size, and whether they come from a binary mask.

    reading: of a label image, as `read_labels` has it. Raises DataError as that and `Annotations.read` do, and for
    another size.
    """
    if isinstance(source, Annotations):
        return source.read(shape), False
    labels, binary = read_labels(source, instances, **reading)
    if labels.shape != shape:
        (h, w), (height, width) = labels.shape, shape
        raise DataError(f"{source} is {w}x{h} and its image {width}x{height} pixels; give both the same size.")
    return labels, binary


def read_image(path: str | Path, page: int | None = None) -> np.ndarray:
    """A micrograph as uint8 (H, W), or (H, W, 3) where the channels differ.

    page: from 1, of a file that holds several.
    8-bit images are taken as they are. Others (16-bit, 32-bit, floating point) are stretched linearly: their 0.1 and
    99.9 percentiles become 0 and 255, and what lies beyond is clipped. A data bar does not count for the percentiles:
    rows that are mostly the smallest or the largest value, and either of these values where it is further from the
    rest than the rest spans, if that is at most a quarter of the image. Alpha is dropped; equal channels become one.
    Raises DataError for a file that cannot be read, one of several pages and none chosen, a side under 16 pixels, and
    NaN or infinite values.
    """
    array = decode(Path(path), page=page)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or array.dtype.kind not in "buif":
        raise DataError(f"{path} has shape {array.shape} of {array.dtype}; export it as one grey or RGB image.")
    if min(array.shape[:2]) < MIN_SIDE:
        height, width = array.shape[:2]
        raise DataError(f"{path} is {width}x{height} pixels; give at least {MIN_SIDE} pixels a side, or remove it.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path} holds NaN or infinite values; replace them, or export the image with 8 or 16 bits.")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    return _stretch(array)


def _stretch(array: np.ndarray) -> np.ndarray:
    """Any real (H, W, ...) to uint8, as `read_image` says."""
    step = math.ceil(math.sqrt(array.size / SAMPLED))
    low, high = _limits(array[::step, ::step].astype(np.float64))
    out = np.empty(array.shape, np.uint8)
    rows = max(1, BLOCK // array[0].size)
    for first in range(0, len(array), rows):
        block = array[first : first + rows].astype(np.float64)
        out[first : first + rows] = np.round(255 * np.clip((block - low) / ((high - low) or 1), 0, 1))
    return out


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The percentiles of float (H, ...) without a data bar, or of all where nothing else has any contrast."""
    rows = values.reshape(len(values), -1)
    bar = ((rows == rows.min()) | (rows == rows.max())).mean(axis=1) > 0.5
    kept = (rows[~bar] if bar.mean() <= BAR else rows).ravel()
    kept = -_without_far_top(-_without_far_top(kept))
    low, high = np.percentile(kept, STRETCH)
    if low == high:
        low, high = np.percentile(values, STRETCH)
    return float(low), float(high)


def _without_far_top(values: np.ndarray) -> np.ndarray:
    """Float (N,) without the largest value where it is further above the rest than the rest spans."""
    top = values.max()
    rest = values[values < top]
    if len(rest) < (1 - BAR) * len(values):
        return values
    low, high = np.percentile(rest, STRETCH)
    return rest if top - high > high - low else values
