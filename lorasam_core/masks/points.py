"""In which order the points of a grid are asked, and which need not be: those inside masks that were found."""

from __future__ import annotations

import math

import numpy as np
import torch
from segment_anything.utils.amg import build_point_grid

LARGEST_COVER = 0.25  # of a crop's area: a larger mask may be the background, with objects of its own inside


def coarse_to_fine(grid: np.ndarray) -> np.ndarray:
    """An order, int (P,), of points (P, 2): of segment-anything's grid every 4th row and column first, then every 2nd,
    then the rest; of other points a random one, the same every time.
    """
    side = math.isqrt(len(grid))
    if len(grid) != side**2 or not np.allclose(grid, build_point_grid(side)):
        return np.random.default_rng(0).permutation(len(grid))
    row, column = np.divmod(np.arange(len(grid)), side)
    level = sum(((row % step > 0) | (column % step > 0)).astype(int) for step in (4, 2))
    return np.argsort(level, kind="stable")


class PointQueue:
    """The points of a crop, given out a few at a time, without those that lie in a mask that `cover` was shown.

    points: (P, 2), X and Y in pixels of the crop; order: int (P,); size: of the crop, (height, width).
    """

    def __init__(self, points: np.ndarray, order: np.ndarray, size: tuple[int, int]) -> None:
        height, width = size
        self.columns, self.rows = np.minimum(points, (width - 1, height - 1)).astype(int).T
        self.covered = np.zeros(size, dtype=bool)
        self.waiting, self.skipped = order, 0

    def take(self, count: int) -> np.ndarray:
        """Indices of the next points, int (at most count,); empty when none is left."""
        covered = self.covered[self.rows[self.waiting], self.columns[self.waiting]]
        self.skipped += int(covered.sum())
        left = self.waiting[~covered]
        taken, self.waiting = left[:count], left[count:]
        return taken

    def cover(self, found: torch.Tensor) -> None:
        """Masks, bool (M, height, width), whose points need not be asked; too large ones do not count."""
        small = found.flatten(1).sum(1) <= LARGEST_COVER * self.covered.size
        self.covered |= found[small].any(0).cpu().numpy()
