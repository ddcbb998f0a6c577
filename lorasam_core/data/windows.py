"""Sliding windows: overlapping tiles that cover every pixel of an image."""

from __future__ import annotations

import math


def sliding_windows(shape: tuple[int, ...], size: int, overlap: float = 0.25) -> list[tuple[int, int, int, int]]:
    """Windows (y, x, h, w) in row-major order, all of one shape: h = min(size, H), w = min(size, W).

    Along each axis there are as few windows as make neighbours share at least `overlap` of their length, evenly spread,
    the first at 0 and the last flush with the border: no window is padded and no pixel is left out.
    Raises ValueError for a size below 1, an empty image or an overlap outside [0, 1).
    """
    height, width = shape[:2]
    if size < 1 or height < 1 or width < 1:
        raise ValueError(f"A window of {size} on an image of {height}x{width}; give both at least 1 pixel.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}; give a number from 0 to below 1.")
    h, w = min(size, height), min(size, width)
    return [(y, x, h, w) for y in _starts(height, h, overlap) for x in _starts(width, w, overlap)]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """First pixels of the windows along one axis."""
    stride = max(1, int(size * (1 - overlap)))
    count = 1 + math.ceil((length - size) / stride)
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]
