"""Instances of an image of any size by overlapping tiles: each object once, however many there are."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage, sparse
from skimage.measure import label
from tqdm import tqdm


@dataclass(frozen=True)
class Found:
    """Instances of an image or a tile.

    labels: int32 (H, W), ids 1..n, 0 for background. scores: float (n, k), row i rates id i + 1; the columns are the
    segmenter's own, and the first ranks (higher is better).
    """

    labels: np.ndarray
    scores: np.ndarray


Segment = Callable[[np.ndarray], Found]


def tile_boxes(size: tuple[int, int], side: int, overlap: int, offset: int = 0) -> list[tuple[int, int, int, int]]:
    """Boxes (y0, x0, y1, x1) of square tiles that cover an image of `size` (height, width), row by row, in pixels.

    Tiles are side x side, or as large as the image where it is smaller; neighbours overlap by `overlap` at least, and
    are spaced evenly. `offset`, modulo side - overlap, moves them towards the origin, as far as the image goes.
    Raises ValueError for a side under 32, an overlap under 1 (no seam could be closed) or not under `side`.
    """
    if side < 32:
        raise ValueError(f"The side of a tile is {side} pixels; give at least 32.")
    if not 0 < overlap < side:
        raise ValueError(f"The overlap of tiles is {overlap} pixels; give 1 to {side - 1}, less than their side.")
    rows, columns = (_starts(length, side, side - overlap, offset) for length in size)
    return [(y, x, min(y + side, size[0]), min(x + side, size[1])) for y in rows for x in columns]


def _starts(length: int, side: int, stride: int, offset: int) -> list[int]:
    last = max(0, length - side)
    steps = max(1, -(-last // stride))
    return sorted({max(0, last * step // steps - offset % stride) for step in range(steps + 1)} | {last})


def segment_tiled(segment: Segment, image: np.ndarray, side: int, overlap: int, offset: int = 0) -> Found:
    """Instances of an image, uint8 (H, W) or (H, W, 3), by `segment`, which is called with one tile after another.

    What a tile found is a view of an object. A view is *cut* if it comes within side / 64 pixels of a side of its tile
    that is no side of the image (masks of a model end a little short of it); otherwise it is *whole*. Two views are
    *alike* if, in the region that both tiles see, a connected piece of one lies by half or more in a piece of the
    other, and of what both tiles call particle in each piece half or more is shared. So a fibre is followed though one
    tile sees it thinner, and a view that merged two particles is like the larger. Each object becomes one instance:
    1. A cut view goes where another tile saw its place in full and has no cut view like it: that tile's answer stands,
       even if it is "nothing".
    2. Whole views are taken by score, best first. A view goes that lies by half inside one, or is whole and like it.
    3. Views that remain are joined, along any chain of tiles: cut ones that are alike, others where the pieces' IoU is
       0.5 or more. A joined instance has the scores of its largest view.
    4. The better score takes the pixels that instances share. One left with less than half of its largest view goes.

    A segmenter that treats each connected region alike gives exactly what it gives on the whole image. Ids follow the
    first pixel in reading order. Memory beyond the image: its labels, a few tiles, a small record for each view, and
    every tile's labels compressed. Raises ValueError for another image, for tiles that `tile_boxes` refuses, and for
    labels that do not fit the tile or their scores.
    """
    if image.dtype != np.uint8 or not image.size or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"The image is {image.dtype} of shape {image.shape}; give uint8 of shape (H, W) or (H, W, 3), not empty."
        )
    size = image.shape[:2]
    tiles = np.array(tile_boxes(size, side, overlap, offset))
    frames = tiles.copy()  # a view inside its tile's frame is whole
    frames[:, :2] += (tiles[:, :2] > 0) * (1 + side // 64)
    frames[:, 2:] -= (tiles[:, 2:] < size) * (1 + side // 64)
    packed: list[bytes] = []  # labels of each tile, each view by its number + 1
    parts: list[_Views] = []
    pairs, count = [np.zeros((4, 0), dtype=np.int64)], 0
    for number, tile in enumerate(tqdm(tiles, "tiles", unit="tile", leave=False, disable=None, delay=5)):
        found = segment(image[_window(tile)])
        parts.append(_views(found, tile, frames[number]))
        labels = np.where(found.labels > 0, found.labels + np.int32(count), 0)
        for other in np.flatnonzero((tiles[:number, :2] < tile[2:]).all(1) & (tiles[:number, 2:] > tile[:2]).all(1)):
            shared = np.concatenate([np.maximum(tile[:2], tiles[other, :2]), np.minimum(tile[2:], tiles[other, 2:])])
            here, there = (_window(shared - box[[0, 1, 0, 1]]) for box in (tile, tiles[other]))
            pairs.append(_meetings(_unpacked(packed[other], tiles[other])[there], labels[here]))
        packed.append(zlib.compress(labels.astype(np.int32).tobytes(), level=1))
        count += len(found.scores)

    views = _Views(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    met, owner = np.concatenate(pairs, axis=1), np.repeat(np.arange(len(tiles)), [len(part.area) for part in parts])
    remaining = np.flatnonzero(_without_copies(views, met, views.whole | ~_answered(views, met, owner, tiles)))
    instance, largest = _joined(views, met, remaining)
    worst_first = np.argsort(-views.scores[largest, 0], kind="stable")[::-1]
    rank = np.zeros(count + 1, dtype=np.int32)
    rank[remaining + 1] = np.argsort(worst_first)[instance] + 1
    labels = np.zeros(size, dtype=np.int32)
    for tile, data in zip(tiles, packed, strict=True):
        np.maximum(labels[_window(tile)], rank[_unpacked(data, tile)], out=labels[_window(tile)])
    return _numbered(labels, views, largest[worst_first])


class _Views(NamedTuple):
    """What the tiles found, a row a view. box: y0, x0, y1, x1 in the image; area in pixels; scores: the segmenter's."""

    box: np.ndarray
    area: np.ndarray
    whole: np.ndarray
    scores: np.ndarray


def _views(found: Found, tile: np.ndarray, frame: np.ndarray) -> _Views:
    count, shape = len(found.scores), tuple(tile[2:] - tile[:2])
    if found.labels.shape != shape or found.labels.max() > count:
        raise ValueError(
            f"The segmenter gave labels of shape {found.labels.shape} up to {found.labels.max()} with {count} rows of "
            f"scores; give labels of shape {shape} and a row for each."
        )
    boxes = [box or (slice(0, 0), slice(0, 0)) for box in ndimage.find_objects(found.labels, max_label=count)[:count]]
    box = np.array([(y.start, x.start, y.stop, x.stop) for y, x in boxes]).reshape(-1, 4) + tile[[0, 1, 0, 1]]
    area = np.bincount(found.labels.ravel(), minlength=count + 1)[1:]
    return _Views(box, area, _inside(box, frame), found.scores)


def _window(box: np.ndarray) -> tuple[slice, slice]:
    return slice(box[0], box[2]), slice(box[1], box[3])


def _unpacked(data: bytes, tile: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.decompress(data), dtype=np.int32).reshape(tile[2:] - tile[:2])


def _inside(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, :2] >= frame[:2]).all(1) & (boxes[:, 2:] <= frame[2:]).all(1))


def _meetings(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pieces that share pixels, of two tiles' labels of one region: int64 (4, pairs).

    Rows: view of the first, view of the second, pixels shared, and how alike: 2 for an IoU of 0.5 or more, 1 for alike.
    """
    pieces = [label(labels, connectivity=2).ravel() for labels in (first, second)]  # a view can have several
    both = np.flatnonzero((first.ravel() > 0) & (second.ravel() > 0))
    area = [np.bincount(piece) for piece in pieces]
    common = [np.bincount(piece[both]) for piece in pieces]
    key = pieces[0][both] * np.int64(len(area[1])) + pieces[1][both]
    pair, at, shared = np.unique(key, return_index=True, return_counts=True)
    p, q = np.divmod(pair, len(area[1]))
    mutual = 2 * shared >= np.maximum(common[0][p], common[1][q])
    alike = mutual & (2 * shared >= np.minimum(area[0][p], area[1][q]))
    agree = 3 * shared >= area[0][p] + area[1][q]
    numbers = [labels.ravel()[both[at]] - 1 for labels in (first, second)]
    return np.stack([*numbers, shared, alike.astype(int) + agree]).astype(np.int64)


def _answered(views: _Views, met: np.ndarray, owner: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Whether a tile other than its owner saw the place of a view in full and has no cut view like it, bool (N,)."""
    pairs = met[:2, (met[3] > 0) & ~views.whole[met[:2]].any(0)]
    view, like = np.concatenate([pairs, pairs[::-1]], axis=1)
    answered = np.zeros(len(owner), dtype=bool)
    for number, tile in enumerate(tiles):
        seen = _inside(views.box, tile) & (owner != number)
        seen[view[owner[like] == number]] = False
        answered |= seen
    return answered


def _without_copies(views: _Views, met: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of the kept views, bool (N,), those that neither lie by half in a better whole one nor, if whole, are like it."""
    area, whole, count = views.area, views.whole, len(kept)
    rank = np.argsort(np.lexsort((-views.scores[:, 0], ~whole)))
    a, b, shared, likeness = met
    copies = (likeness > 0) & whole[a] & whole[b] & (2 * shared >= np.minimum(area[a], area[b]))
    weight = np.where(copies, area[a] + area[b], shared)
    once = sparse.coo_array((weight, (a, b)), shape=(count, count)).tocsr()  # sums the pieces of a pair
    both = (once + once.T).tocoo()
    better, worse = both.row, both.col
    ruled_out = np.flatnonzero(whole[better] & (rank[better] < rank[worse]) & (2 * both.data >= area[worse]))
    kept = kept.copy()
    for pair in ruled_out[np.argsort(rank[better[ruled_out]])]:
        kept[worse[pair]] &= not kept[better[pair]]
    return kept


def _joined(views: _Views, met: np.ndarray, remaining: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The instance, 0..n-1, of each remaining view, and the largest view of each instance, int (n,)."""
    a, b, _, likeness = met[:, np.isin(met[:2], remaining).all(0)]
    same = likeness + ~(views.whole[a] | views.whole[b]) >= 2
    links = sparse.coo_array((same[same], (a[same], b[same])), shape=(len(views.area), len(views.area)))
    _, group = sparse.csgraph.connected_components(links, directed=False)
    _, instance = np.unique(group[remaining], return_inverse=True)
    by_area = np.argsort(views.area[remaining], kind="stable")
    largest = np.zeros(instance.max(initial=-1) + 1, dtype=int)
    largest[instance[by_area]] = remaining[by_area]  # the last one stays
    return instance, largest


def _numbered(labels: np.ndarray, views: _Views, largest: np.ndarray) -> Found:
    """Labels 1..n, whose id i has the largest view i - 1, in reading order and without what is mostly covered."""
    visible = np.zeros(len(largest) + 1, dtype=np.int64)
    for row in labels:  # counted or looked up at once, the whole image would take 64 bits a pixel
        visible += np.bincount(row, minlength=len(visible))
    shown = np.append(False, 2 * visible[1:] >= views.area[largest])
    order = pd.unique(labels.ravel())
    order = order[shown[order]]
    table = np.zeros(len(shown), dtype=np.int32)
    table[order] = np.arange(1, len(order) + 1)
    for row in labels:
        row[:] = table[row]
    return Found(labels, views.scores[largest[order - 1]])
