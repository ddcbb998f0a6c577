"""Run lengths: COCO's, column by column, as numbers or packed into a string; CVAT's, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorasam_core.data.outlines import Patch, cropped


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths of bool (H, W), column by column; the first run is background, and may be 0."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def decode(counts: Sequence[int] | str, height: int, width: int) -> Patch:
    """The pixels of COCO's run lengths, cropped to what they cover; ValueError where they do not fill (H, W)."""
    runs = _whole(unpack(counts) if isinstance(counts, str) else counts, height * width)
    starts = np.cumsum(runs) - runs
    first, length = starts[1::2], runs[1::2]
    first, length = first[length > 0], length[length > 0]
    if not len(first):
        return Patch(0, 0, np.zeros((0, 0), bool))
    left, right = int(first[0]) // height, int(first[-1] + length[-1] - 1) // height + 1
    change = np.zeros((right - left) * height + 1, np.int8)
    change[first - left * height] = 1
    change[first + length - left * height] -= 1  # a run of 0 between two of the object: they join
    mask = np.cumsum(change[:-1], dtype=np.int8).astype(bool).reshape(right - left, height).T
    return cropped(mask, 0, left)


def decode_rows(counts: Sequence[int], top: int, left: int, height: int, width: int) -> Patch:
    """The pixels of CVAT's run lengths, row by row in their own box; ValueError where they do not fill it."""
    if height < 1 or width < 1:
        raise ValueError("a mask has a width and a height above 0")
    runs = _whole(counts, height * width)
    return Patch(top, left, np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width))


def unpack(packed: str) -> list[int]:
    """The run lengths of COCO's string: groups of five bits, low ones first; from the third run on, what each has more
    than the one before its neighbour. ValueError for other characters, and for a string that was cut.
    """
    runs, value, shift = list[int](), 0, 0
    for code in packed.encode():
        group = code - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("the run lengths are no string of COCO")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run lengths end in the middle of a number")
    return runs


def _whole(counts: Sequence[Any], pixels: int) -> NDArray[np.int64]:
    if not all(isinstance(run, int) and 0 <= run <= pixels for run in counts) or sum(counts) != pixels:
        raise ValueError(f"the run lengths do not sum up to {pixels} pixels")
    return np.array(counts, np.int64)
