"""Masks of a part of an image, and how they are written into a log."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy import ndimage


class Piece(NamedTuple):
    """Pixels of an image: mask bool (h, w), whose upper left pixel lies at row y and column x."""

    y: int
    x: int
    mask: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the mask covers."""
        return slice(self.y, self.y + self.mask.shape[0]), slice(self.x, self.x + self.mask.shape[1])

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1, last pixel included."""
        height, width = self.mask.shape
        return self.x, self.y, self.x + width - 1, self.y + height - 1

    def has(self, x: int, y: int) -> bool:
        """Whether a pixel of the image is in the mask."""
        height, width = self.mask.shape
        return 0 <= y - self.y < height and 0 <= x - self.x < width and bool(self.mask[y - self.y, x - self.x])


def cut(mask: np.ndarray, y: int = 0, x: int = 0) -> Piece:
    """The smallest patch of a bool mask (H, W) whose upper left pixel lies at (y, x); of an empty mask 0 x 0 pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return Piece(y, x, np.zeros((0, 0), bool))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Piece(y + int(rows[0]), x + int(columns[0]), np.ascontiguousarray(part))


def pack(patch: Piece) -> dict[str, Any]:
    """A patch as JSON holds it: its corner and size in pixels, and its bits, row by row, compressed."""
    bits = zlib.compress(np.packbits(patch.mask).tobytes(), 9)
    place = {"y": patch.y, "x": patch.x, "height": patch.mask.shape[0], "width": patch.mask.shape[1]}
    return place | {"bits": base64.b64encode(bits).decode()}


def unpack(packed: dict[str, Any], within: tuple[int, ...]) -> Piece:
    """The patch that `pack` packed; ValueError for one that does not lie in an image (H, W), has other bits, or an id
    that is none.
    """
    y, x, height, width = (int(packed[name]) for name in ("y", "x", "height", "width"))
    if min(y, x, height, width) < 0 or y + height > within[0] or x + width > within[1]:
        raise ValueError("a mask does not lie in the image")
    if type(packed.get("id", 0)) is not int or packed.get("id", 0) < 0:
        raise ValueError("an id is no whole number from 0")
    bits = np.frombuffer(_inflated(packed["bits"], -(-height * width // 8)), np.uint8)
    return Piece(y, x, np.unpackbits(bits, count=height * width).astype(bool).reshape(height, width))


def pack_labels(labels: np.ndarray) -> str:
    """int32 labels (H, W) as text; `unpack_labels` needs their shape."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(labels.astype("<i4")).tobytes(), 6)).decode()


def unpack_labels(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """int32 (H, W) that `pack_labels` packed; ValueError for what is not of that size."""
    data = _inflated(text, 4 * shape[0] * shape[1])
    return np.frombuffer(data, "<i4").astype(np.int32).reshape(shape)


def _inflated(text: str, size: int) -> bytes:
    """Bytes of base64 and zlib; ValueError unless there are `size`, of which no more are ever unpacked."""
    data = zlib.decompressobj().decompress(base64.b64decode(text), size + 1)
    if len(data) != size:
        raise ValueError("a mask has more or fewer pixels than its size")
    return data


def usual_diameter(labels: np.ndarray) -> float:
    """The diameter, in pixels, of the circle as large as the particle of median area; 0 where there is none."""
    areas = np.bincount(labels.ravel())[1:]
    return float(2 * np.sqrt(np.median(areas[areas > 0]) / np.pi)) if areas.any() else 0.0


def deepest(mask: np.ndarray) -> tuple[int, int]:
    """x and y of the pixel of a bool mask (h, w), not empty, that lies farthest from all outside; the first of many."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)


def piece_at(mask: np.ndarray, x: int, y: int) -> np.ndarray:
    """The 8-connected piece of a bool mask (h, w) that holds a pixel; empty where the pixel is not in the mask."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return np.asarray(mask & (pieces == pieces[y, x]))


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected piece of a bool mask (h, w), the first of equal ones."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (pieces == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()) if count > 2 else mask


def placed(patch: Piece, frame: Piece) -> np.ndarray:
    """What of a patch lies on the window of another, bool of that one's size."""
    out = np.zeros(frame.mask.shape, bool)
    top, left = patch.y - frame.y, patch.x - frame.x
    mask = patch.mask[max(0, -top) :, max(0, -left) :]
    part = out[max(0, top) :, max(0, left) :][: mask.shape[0], : mask.shape[1]]
    part[:] = mask[: part.shape[0], : part.shape[1]]
    return out


def divided(whole: np.ndarray, claims: np.ndarray, pixels: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which of K parts each pixel of a mask bool (h, w) belongs to, int (h, w).

    claims: bool (K, h, w), what each part may be; pixels: x and y of a pixel of each. A part has the piece around its
    pixel of what it alone claims; claims that hold another's pixel count only where no other lies. The rest of the mask
    goes to the nearest part.
    """
    x, y = np.array(pixels).T
    loose = claims[:, y, x].sum(1) > claims[np.arange(len(claims)), y, x]
    firm = claims & ~loose[:, None, None]
    vague = claims & loose[:, None, None] & ~firm.any(0)
    seeds = np.full(whole.shape, -1)
    for own in (vague, firm):
        sole = own & (own.sum(0) == 1)
        for k, at in enumerate(pixels):
            seeds[piece_at(sole[k], *at)] = k
    seeds[y, x] = np.arange(len(pixels))
    nearest = ndimage.distance_transform_edt(seeds < 0, return_distances=False, return_indices=True)
    return np.asarray(seeds[tuple(nearest)])
