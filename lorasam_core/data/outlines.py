"""Outlines and runs of pixels to labels, and labels to outlines.

Coordinates are x, y in pixels from the upper left corner of the image: the first pixel spans (0, 0) to (1, 1). COCO,
labelme, VIA, CVAT, YOLO and the areas of ImageJ have them so. A pixel belongs to an outline if its centre, at half
numbers, lies inside. A centre on the outline belongs to what is right of it or below it: areas that share an edge
share no pixel, and leave none out.

An object is the union of its parts: an outline inside another one of the same object makes no hole, as in COCO. Holes
are kept where a part is made of pixels (run lengths, masks), or of several outlines that are filled together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.measure import label, regionprops
from skimage.segmentation import relabel_sequential

from lorasam_core.data.sample import DataError

FARTHEST = 1e6  # pixels; what lies further out is no coordinate
CORNERS = 256  # of an ellipse


class Patch(NamedTuple):
    """Pixels of an object: bool (h, w), with its upper left corner in the image."""

    top: int
    left: int
    mask: NDArray[np.bool_]


Rings = list[NDArray[np.float64]]  # outlines (N, 2) of x, y, filled together by the even-odd rule
Part = Patch | Rings


def ring(points: ArrayLike) -> NDArray[np.float64]:
    """An outline (N, 2) of x, y; ValueError for fewer than three points, and for what is no coordinate."""
    try:
        corners = np.asarray(points, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("its points are no pairs of numbers") from error
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError("an outline has at least three points of x and y")
    if not (np.abs(corners) <= FARTHEST).all():
        raise ValueError("a coordinate is no number of pixels")
    return corners


def box(x: float, y: float, width: float, height: float) -> Part:
    """A rectangle by its upper left corner; ValueError for no area."""
    if not (width > 0 and height > 0):
        raise ValueError("a rectangle has a width and a height above 0")
    return [ring([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])]


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Part:
    """An ellipse by its centre and half axes, turned clockwise, as a polygon; ValueError for no area."""
    if not (rx > 0 and ry > 0):
        raise ValueError("an ellipse has axes above 0")
    angles = np.arange(CORNERS) * 2 * np.pi / CORNERS
    return [_turned(np.stack([rx * np.cos(angles), ry * np.sin(angles)], axis=1), x, y, degrees)]


def _turned(points: NDArray[np.float64], x: float, y: float, degrees: float) -> NDArray[np.float64]:
    if not degrees:
        return ring(points + np.array([x, y]))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return ring(points @ np.array([(cos, sin), (-sin, cos)]) + np.array([x, y]))


def fill(rings: Rings, shape: tuple[int, int]) -> Patch:
    """The pixels of an image (H, W) that lie inside, by the even-odd rule; none where all of it is outside."""
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(corners, -1, axis=0) for corners in rings])
    limits = np.array(shape[::-1])
    left, top = np.clip(np.floor(start.min(axis=0)), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(start.max(axis=0)), 0, limits).astype(int)
    down = (start[:, 1] <= end[:, 1])[:, None]  # an edge that two outlines share is computed in one direction
    (x0, y0), (x1, y1) = np.where(down, start, end).T, np.where(down, end, start).T
    first, last = (np.clip(np.ceil(y - 0.5), top, bottom).astype(int) for y in (y0, y1))
    rows = last - first
    edge = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(edge)) - (np.cumsum(rows) - rows)[edge] + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
    column = np.clip(np.ceil(x - 0.5), left, right).astype(int)
    crossed = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.bitwise_xor.at(crossed, (row - top, column - left), 1)
    return Patch(top, left, np.bitwise_xor.accumulate(crossed[:, :-1], axis=1).astype(bool))


def union(parts: Sequence[Part], shape: tuple[int, int]) -> Patch:
    """The pixels of an object in an image (H, W)."""
    patches = [_inside(p, shape) if isinstance(p, Patch) else fill(p, shape) for p in parts]
    patches = [p for p in patches if p.mask.any()]
    if len(patches) < 2:
        return patches[0] if patches else Patch(0, 0, np.zeros((0, 0), bool))
    top, left = min(p.top for p in patches), min(p.left for p in patches)
    bottom, right = (max(start + p.mask.shape[axis] for p in patches for start in (p[axis],)) for axis in (0, 1))
    mask = np.zeros((bottom - top, right - left), bool)
    for p in patches:
        mask[_window(Patch(p.top - top, p.left - left, p.mask))] |= p.mask
    return Patch(top, left, mask)


def _inside(patch: Patch, shape: tuple[int, int]) -> Patch:
    """What of a patch lies in the image."""
    top, left, mask = patch
    mask = mask[max(-top, 0) : max(shape[0] - top, 0), max(-left, 0) : max(shape[1] - left, 0)]
    return Patch(max(top, 0), max(left, 0), mask)


def _window(patch: Patch) -> tuple[slice, slice]:
    height, width = patch.mask.shape
    return slice(patch.top, patch.top + height), slice(patch.left, patch.left + width)


def cropped(mask: NDArray[np.bool_], top: int = 0, left: int = 0) -> Patch:
    """Bool (H, W), with its upper left corner in the image, cut down to what it covers: many are held at once."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Patch(0, 0, np.zeros((0, 0), bool))
    first, start = int(rows[0]), int(columns[0])
    return Patch(top + first, left + start, mask[first : rows[-1] + 1, start : columns[-1] + 1].copy())


def paint(objects: Sequence[Sequence[Part]], shape: tuple[int, int], source: str) -> NDArray[np.int32]:
    """Labels int32 (H, W) of objects, numbered from 1 in their order.

    Where objects overlap, the smaller one is on top; of two of one size, the later. An object that is there twice
    counts once. source: begins the sentence of an error.
    Raises DataError for an object that covers no pixel, and for one that others cover entirely.
    """
    patches = [union(parts, shape) for parts in objects]
    for number, patch in enumerate(patches, 1):
        if not patch.mask.size:
            raise DataError(f"{source}: object {number} covers no pixel of the image; correct it, or remove it.")
    areas = [int(patch.mask.sum()) for patch in patches]
    labels = np.zeros(shape, np.int32)
    for k in sorted(range(len(patches)), key=lambda k: -areas[k]):
        labels[_window(patches[k])][patches[k].mask] = k + 1
    seen = np.bincount(labels.ravel(), minlength=len(patches) + 1)[1:]
    for k in np.flatnonzero(seen == 0).tolist():
        over = np.unique(labels[_window(patches[k])][patches[k].mask])
        if len(over) > 1 or areas[over[0] - 1] != areas[k]:
            raise DataError(f"{source}: object {k + 1} is covered by others; remove it, or what lies on it.")
    return labels if seen.all() else relabel_sequential(labels)[0].astype(np.int32)


def components(labels: NDArray[np.int32]) -> Iterator[tuple[int, Patch, list[Rings]]]:
    """Ids in order, with the pixels of each and the outlines of its 4-connected components.

    Outlines run along the edges of pixels, int corners x, y in the image, and are exact: filled together they are the
    component again. The first of each is the outer one, the others are holes.
    """
    for region in regionprops(labels):
        top, left = region.bbox[:2]
        mask = region.image
        numbered = label(mask, connectivity=1)
        pieces = (trace(numbered == n) for n in range(1, numbered.max() + 1))
        placed = [[corners + np.array([left, top]) for corners in rings] for rings in pieces]
        yield int(region.label), Patch(top, left, mask), placed


STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up


def trace(mask: NDArray[np.bool_]) -> Rings:
    """Outlines of a 4-connected component, bool (H, W), along the edges of its pixels, the outer one first."""
    inside = np.pad(mask, 1)
    around = (inside[:-2, 1:-1], inside[1:-1, 2:], inside[2:, 1:-1], inside[1:-1, :-2])  # above, right, below, left
    edges = set[tuple[int, int, int]]()  # where an edge begins, and which way it runs: the object is at its right
    for way, (beside, (x, y)) in enumerate(zip(around, ((0, 0), (1, 0), (1, 1), (0, 1)), strict=True)):
        ys, xs = np.nonzero(mask & ~beside)
        edges |= {(a, b, way) for a, b in zip((xs + x).tolist(), (ys + y).tolist(), strict=True)}
    rings, left = [], set(edges)
    for start in sorted(edges):
        if start not in left:
            continue
        x, y, way = start
        corners, last = list[tuple[int, int]](), None
        while (x, y, way) in left:
            left.remove((x, y, way))
            if way != last:
                corners.append((x, y))
            last = way
            x, y = x + STEPS[way][0], y + STEPS[way][1]
            # the right turn first: pixels that meet at a corner alone stay apart
            way = next(turn % 4 for turn in (way + 1, way, way + 3) if (x, y, turn % 4) in edges)
        if last == start[2]:  # it began in the middle of a side
            corners.pop(0)
        rings.append(np.array(corners, float))
    return sorted(rings, key=_area, reverse=True)


def _area(corners: NDArray[np.float64]) -> float:
    """Of an outline, positive if it runs clockwise: that of a hole is negative."""
    (x, y), (next_x, next_y) = corners.T, np.roll(corners, -1, axis=0).T
    return float((x * next_y - next_x * y).sum() / 2)
