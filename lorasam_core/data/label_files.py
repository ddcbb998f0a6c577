"""Read labels (PNG, TIFF, BMP) as instance ids; what can be read in two ways is asked for, never guessed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from skimage.measure import label
from skimage.segmentation import relabel_sequential

from lorasam_core.data.decode import decode
from lorasam_core.data.sample import DataError, labels_from_mask

MASKS = ("auto", "bright", "dark")
LARGEST_ID = 65535  # ids above are renumbered
MOST_REGIONS = 3  # of one id, on average; particles in front divide some instances, few of them into more than two
FULL = 243  # ids of an 8-bit file that has hardly one left: 95 % of 255
RIM = 7  # pixels; outlines are thinner, 5 in Pascal VOC
FLAT = 4  # pixels of one colour at the median; rims of anti-aliased particles have a colour for each pixel or two


def read_labels(
    path: str | Path, instances: bool = False, *, mask: str = "auto", ignore: int | None = None, page: int | None = None
) -> tuple[np.ndarray, bool]:
    """Instance ids as int32 (H, W), 0 background, and whether they come from a binary mask.

    A file with two distinct values, one of them 0, is a binary mask, unless `instances` says otherwise: its instances
    are its connected components. One with nothing but 0 has no particle, and is not called a mask. 1 and 2 are two
    grains that fill the image. In a coloured file each colour is an instance, and black the background. Ids above
    65,535 are renumbered in order.

    mask: which of two values is particle: "bright", the larger; "dark", the smaller; "auto", the one that is not 0.
    ignore: a value that becomes background (in all channels of a coloured file), such as the 255 of outlines.
    page: from 1, of a file that holds several.

    Raises DataError for a JPEG, values that are no whole numbers from 0 and an unreadable file; unless `instances`,
    also for what may mean two things: two values without 0, or of which the larger surrounds the other; outlines of
    255; 8-bit ids that ran over; no background; and values or colours in many places each, as the rims of an
    anti-aliased mask and classes are. Raises ValueError for an unknown `mask`.
    """
    if mask not in MASKS:
        raise ValueError(f"mask is {mask!r}; choose one of {', '.join(MASKS)}.")
    path = Path(path)
    array = decode(path, labels=True, page=page)
    if ignore is not None:
        array = array.copy()
        array[array == ignore if array.ndim == 2 else (array == ignore).all(axis=2)] = 0
    if array.ndim != 2:
        array = _ids_of_colours(path, array)
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise DataError(f"{path} holds values that are no whole numbers; save instance ids as 8- or 16-bit integers.")
    if array.min() < 0:
        raise DataError(
            f"{path} holds negative values; use 0 for background and ids above it, "
            f"or give --ignore {int(array.min())} where that is background."
        )
    if not instances and ((array == array.min()) | (array == array.max())).all():
        particles = _particles(path, array, mask)
        if particles is not None:
            return labels_from_mask(particles), bool(particles.any())
    eight_bits = array.dtype.itemsize == 1
    if array.max() > LARGEST_ID:
        array = relabel_sequential(array.astype(np.int64))[0]
    labels = array.astype(np.int32)
    if not instances:
        _require_ids(path, labels, eight_bits)
    return labels, False


def _particles(path: Path, array: np.ndarray, mask: str) -> np.ndarray | None:
    """Where particles are, bool (H, W), in a file of at most two values; None where these are the ids of two grains."""
    low, high = array.min(), array.max()
    bright = array > (low if low < high else 0)
    if mask != "auto":
        return bright if mask == "bright" else ~bright
    if (low == 0 or low == high) and not _surrounds(bright):
        return bright
    frame = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    if (low, high) == (1, 2) == (frame.min(), frame.max()) and label(array, background=0).max() == 2:
        return None
    values = f"{low} and {high}" if low < high else high
    raise DataError(
        f"{path} holds only {values}, and it cannot be known which is background; "
        f"give --mask bright where {high} is particle, or --mask dark where it is background."
    )


def _surrounds(mask: np.ndarray) -> bool:
    """Whether one region of bool (H, W) covers more than half of it and reaches all four sides."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:]
    return any(area > mask.size / 2 and (height, width) == mask.shape for _, _, width, height, area in stats.tolist())


def _ids_of_colours(path: Path, array: np.ndarray) -> np.ndarray:
    """Colours (H, W, C) to ids int64 (H, W) from 1, black 0. Raises DataError for colours that are no instances."""
    if array.shape[2:] != (3,) or array.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path} has shape {array.shape} of {array.dtype}; save the instance ids in one channel.")
    red, green, blue = np.moveaxis(array.astype(np.int64), -1, 0)
    codes = red << 32 | green << 16 | blue
    colours, ids, areas = np.unique(codes, return_inverse=True, return_counts=True)
    ids = ids.reshape(codes.shape) + int(colours[0] != 0)
    if np.median(areas[colours > 0]) < FLAT:
        raise DataError(
            f"{path} has {len(colours)} colours, most of them in few pixels, as a picture or anti-aliased mask has; "
            "save the instance ids in one channel, as 8- or 16-bit PNG or TIFF."
        )
    if colours[0] and _surrounds(ids == 1 + areas.argmax()):
        raise DataError(f"{path} has a coloured background; make it black, or give --ignore 255 where it is white.")
    return ids


def _require_ids(path: Path, labels: np.ndarray, eight_bits: bool) -> None:
    """Raise DataError where the values of int32 (H, W) are not those of instances."""
    areas = np.bincount(labels.ravel())
    present = np.flatnonzero(areas[1:]) + 1
    if _has_rims(labels, present):
        raise DataError(
            f"{path} outlines its particles with 255; give --ignore 255 to make the outlines background, "
            "or give the particle 255 another number."
        )
    if labels.all() and _surrounds(labels == areas.argmax()):
        raise DataError(f"{path} has no background 0; give --ignore {areas.argmax()}, which covers most of the image.")
    if eight_bits and len(present) >= FULL and present[-1] == 255 and _regions(labels) > len(present):
        raise DataError(f"{path} has more particles than 8 bits can number; save the instance ids with 16 bits.")
    for step in (2, 1):  # every second pixel at a quarter of the time first: nearly all files pass
        part = labels[::step, ::step]
        ids, regions = np.count_nonzero(np.bincount(part.ravel())[1:]), _regions(part)
        if regions <= MOST_REGIONS * ids:
            return
    ignore = ", or give --ignore 255 where that marks what is not to count" if present[-1] == 255 else ""
    raise DataError(
        f"{path} has {ids} values in {regions} separate regions, as an anti-aliased mask has, or one of classes; "
        f"save it as 0 and 255, or give every particle a number of its own{ignore}."
    )


def _regions(labels: np.ndarray) -> int:
    """8-connected regions of one id each."""
    return int(label(labels, background=0, return_num=True, connectivity=2)[1])


def _has_rims(labels: np.ndarray, present: np.ndarray) -> bool:
    """Whether 255 is thin and next to at least half of the other ids, which are all below 200."""
    others = present[present != 255]
    if present[-1] != 255 or not len(others) or others[-1] >= 200:
        return False
    rims = (labels == 255).astype(np.uint8)
    if cv2.erode(rims, np.ones((RIM, RIM), np.uint8), borderValue=0).sum() > rims.sum() / 10:
        return False
    beside = np.setdiff1d(labels[cv2.dilate(rims, np.ones((3, 3), np.uint8)) > 0], (0, 255))
    return len(beside) >= len(others) / 2
