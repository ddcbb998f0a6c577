"""Training items of the compact SAM: windows of the 512-pixel frame, from generated and from real pictures.

What the encoder sees is a window; prompts, the decoder's position code and the box of the whole image are those of the
frame in which the window lies, so that a position means in training what it means at full size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.measure import label as connected
from torch import Tensor
from torch.utils.data import Dataset

from lorasam_core.models.lite import IMAGE_SIZE, STRIDE
from lorasam_core.training.items import pad
from lorasam_core.training.prompts import jittered_boxes, points_inside
from pretrain.heaps import generate_heap
from pretrain.scenes import generate_scene

MASK = 4  # pixels of the input to one of the decoder's masks
MIN_AREA = 40  # visible pixels of an object that is asked for; an 8-pixel disc has 50
LARGER = 0.25  # an object is drawn in proportion to its area to this power: even draws are mostly of specks
POINTS, BOXES, EMPTY = 5, 4, 2  # prompts a window: points in objects, boxes, points where nothing is
WHOLE = 0.35  # share of pictures of which one box is that of the whole image
OBLONG = 0.4  # share of frames that are not filled: padded with zeros, as the predictor pads
REAL, HEAPS = 0.5, 0.2  # shares of real pictures and of heaps; the rest are scenes, in this ratio to heaps always
SCALES = {"real": (0.5, 2.5), "heap": (0.7, 1.4), "scene": (0.5, 1.4)}  # pixels of the frame to one of the picture


@dataclass(frozen=True)
class Picture:
    """image uint8 (H, W, 3); labels int32 (H, W), the smallest object at each pixel, 0 for none; parents (N + 1,), the
    object that holds object i, 0 for none; empty: whether nothing is where no label is.
    """

    image: np.ndarray
    labels: np.ndarray
    parents: np.ndarray
    empty: bool

    def within(self, number: int) -> np.ndarray:
        """Bool (N + 1,): the object and all that it holds."""
        held = np.arange(len(self.parents)) == number
        for child, parent in enumerate(self.parents):  # a parent precedes its children
            held[child] |= parent > 0 and held[parent]
        return held


class RealPictures(Sequence[Picture]):
    """The pictures of a folder with images/ and labels/ of one name: nuclei (dsb_*) and clothed people (ccp_*)."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted((folder / "images").iterdir())
        self.folder = folder
        if not self.paths:
            raise ValueError(f"{folder / 'images'} holds no picture.")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        path = self.paths[index]
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        labels = cv2.imread(str(self.folder / "labels" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        if image is None or labels is None or labels.shape != image.shape[:2]:
            raise ValueError(f"{path} and its label image are not two readable images of one size.")
        flat: np.ndarray = np.zeros(int(labels.max()) + 1, np.int32)
        # of clothed people only the clothes are labelled: other things stand in the background
        return Picture(image[..., ::-1], labels.astype(np.int32), flat, path.name.startswith("dsb_"))


def scene(seed: int, index: int, size: int = IMAGE_SIZE) -> Picture:
    """A generated scene as a picture."""
    made = generate_scene(seed, index, size)
    labels: np.ndarray = np.zeros(made.masks.shape[1:], np.int32)
    for number, mask in enumerate(made.masks, 1):  # children follow their parents
        labels[mask] = number
    return Picture(made.image, labels, np.concatenate([[0], made.parents + 1]), True)


def heap(seed: int, index: int, size: int = IMAGE_SIZE) -> Picture:
    """A generated heap as a picture."""
    image, labels = generate_heap(seed, index, size)
    return Picture(image, labels, np.zeros(labels.max() + 1, np.int32), True)


def cut(picture: Picture, rng: np.random.Generator, side: int, scale: float) -> Picture:
    """A square window of `side` pixels of the picture enlarged by `scale`; what is beyond the picture is its mirror
    image. Of the four windows drawn the fullest is taken. Parts of one object that fall apart become objects.
    """
    reach = max(8, round(side / scale))
    room: np.ndarray = np.maximum(np.array(picture.labels.shape) - reach, 0)
    corners = rng.integers(0, room + 1, (4, 2)).tolist()
    y, x = max(corners, key=lambda at: np.count_nonzero(picture.labels[at[0] : at[0] + reach, at[1] : at[1] + reach]))
    image, labels = (array[y : y + reach, x : x + reach] for array in (picture.image, picture.labels))
    below, right = (reach - part for part in labels.shape)
    if below or right:
        image, labels = (
            np.pad(array, ((0, below), (0, right)) + ((0, 0),) * (array.ndim - 2), "symmetric")
            for array in (image, labels)
        )
    method = cv2.INTER_AREA if reach > side else cv2.INTER_LINEAR
    image = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=method)
    labels = cv2.resize(
        np.ascontiguousarray(labels.astype(np.float32)), (side, side), interpolation=cv2.INTER_NEAREST_EXACT
    )
    labels = labels.astype(np.int32)
    if picture.parents.any():
        return Picture(image, labels, picture.parents, picture.empty)
    parted = connected(labels, background=0, connectivity=1).astype(np.int32)
    return Picture(image, parted, np.zeros(parted.max() + 1, np.int32), picture.empty)


def turned(picture: Picture, rng: np.random.Generator) -> Picture:
    """One of the eight ways to lay a square."""
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    image, labels = (
        np.rot90(array[:, ::-1] if mirrored else array, turns) for array in (picture.image, picture.labels)
    )
    return Picture(image, labels, picture.parents, picture.empty)


def developed(image: np.ndarray, rng: np.random.Generator, real: bool) -> np.ndarray:
    """Another exposure of uint8 (H, W, 3): grey, inverted, contrast, gamma, blur, noise, now and then each."""
    out: np.ndarray = image.astype(np.float32)
    if rng.random() < 0.5:
        out = np.repeat((out @ rng.dirichlet([3, 6, 2]).astype(np.float32))[..., None], 3, axis=2)
    if rng.random() < 0.25:
        out = 255 - out
    if real:
        if rng.random() < 0.5:
            out = 255 * (np.clip(out, 0, 255) / 255) ** np.float32(np.exp(rng.normal(0, 0.4)))
        if rng.random() < 0.5:
            contrast = np.exp(rng.uniform(np.log(0.35), np.log(1.5)))
            out = out * np.float32(contrast) + np.float32((1 - contrast) * rng.uniform(60, 200))
        if rng.random() < 0.25:
            out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.8))
        if rng.random() < 0.5:
            grain = rng.standard_normal(out.shape[:2], dtype=np.float32)
            out = out + (np.float32(rng.uniform(1, 20)) * grain)[..., None]
    return np.clip(out, 0, 255).astype(np.uint8)


class Windows(Dataset[dict[str, Tensor]]):
    """Item i, a pure function of (seed, i), as tensors: image uint8 (3, S, S), zero outside its extent (h, w); place
    (x, y) of the window in the frame; points (POINTS, 2) in objects, boxes (BOXES, 4) and
    empty (EMPTY, 2), points where nothing is, all in the frame's pixels; known, whether the latter are; targets
    (POINTS + BOXES, S/4, S/4) bool; at (POINTS + BOXES, 2), a point of each target in the masks' pixels; regions
    (S/4, S/4), a number for the smallest object at each pixel, 0 for none.
    """

    def __init__(self, seed: int, side: int, length: int, real: Sequence[Picture] | None, share: float = REAL) -> None:
        self.seed, self.side, self.length, self.real = seed, side, length, real
        self.share = share if real is not None and len(real) else 0.0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index, 7))
        kind = "real" if rng.random() < self.share else "heap" if rng.random() < HEAPS / (1 - REAL) else "scene"
        while True:
            low, high = np.log(SCALES[kind])
            if kind == "scene":  # a larger window would show an object and its mirror image under one name
                low = max(low, np.log(self.side / IMAGE_SIZE))
            picture = cut(self._picture(kind, index, rng), rng, self.side, float(np.exp(rng.uniform(low, high))))
            numbers, areas = np.unique(picture.labels[picture.labels > 0], return_counts=True)
            if (areas >= MIN_AREA).any():
                break
        picture = turned(picture, rng)
        return self._item(picture, developed(picture.image, rng, kind == "real"), rng)

    def _picture(self, kind: str, index: int, rng: np.random.Generator) -> Picture:
        if kind == "real":
            assert self.real is not None
            return self.real[int(rng.integers(len(self.real)))]
        number = int(rng.integers(2**31))
        return scene(self.seed, number) if kind == "scene" else heap(self.seed, number)

    def _item(self, picture: Picture, image: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        side, room = self.side, (IMAGE_SIZE - self.side) // STRIDE
        place = rng.integers(0, room + 1, 2) * STRIDE  # x, y
        frame: np.ndarray = np.array([IMAGE_SIZE, IMAGE_SIZE])
        if rng.random() < OBLONG:
            axis = int(rng.integers(2))
            least = max(IMAGE_SIZE // 2, int(place[axis]) + side // 2)
            frame[axis] = int(rng.integers(least, IMAGE_SIZE + 1)) // MASK * MASK
        width, height = np.minimum(frame - place, side).tolist()
        seen = Picture(image[:height, :width], picture.labels[:height, :width], picture.parents, picture.empty)
        if not seen.labels.any():
            width = height = side
            frame = np.array([IMAGE_SIZE, IMAGE_SIZE])
            seen = Picture(image, picture.labels, picture.parents, picture.empty)
        masks = self._chosen(seen, rng)
        one: np.ndarray = np.array([1])
        flat = [mask.astype(np.int32) for mask in masks]
        at = np.concatenate([points_inside(mask, one, rng) for mask in flat])
        boxes = np.concatenate([jittered_boxes(mask, one, rng) for mask in flat[POINTS:]]) + np.tile(place, 2)
        if seen.empty and rng.random() < WHOLE:
            boxes[-1], masks[-1] = (0, 0, *frame), seen.labels > 0
        small = torch.nn.functional.interpolate(
            torch.from_numpy(masks).float()[None], scale_factor=1 / MASK, mode="area"
        )
        regions = seen.labels[MASK // 2 :: MASK, MASK // 2 :: MASK].astype(np.int64)
        ground = np.argwhere(seen.labels == 0) if seen.empty else np.empty((0, 2), int)
        known = len(ground) > 0
        empty = ground[rng.integers(len(ground), size=EMPTY)][:, ::-1] + place if known else np.zeros((EMPTY, 2))
        return {
            "image": pad(torch.from_numpy(np.ascontiguousarray(seen.image)).permute(2, 0, 1), side),  # H W C -> C H W
            "extent": torch.tensor([height, width]),
            "place": torch.from_numpy(place),
            "points": torch.from_numpy(at[:POINTS] + place).float(),
            "boxes": torch.from_numpy(boxes).float(),
            "empty": torch.from_numpy(np.asarray(empty)).float(),
            "known": torch.tensor(known),
            "targets": pad(small[0] >= 0.5, side // MASK),
            "at": torch.from_numpy(at // MASK).long(),
            "regions": pad(torch.from_numpy(np.ascontiguousarray(regions)), side // MASK),
        }

    def _chosen(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        """Masks, bool (POINTS + BOXES, h, w), of objects drawn by area to the power LARGER; wholes count with parts."""
        counts = np.bincount(picture.labels.ravel(), minlength=len(picture.parents))
        counts[0] = 0
        areas = counts.copy()
        for child in range(len(areas) - 1, 0, -1):  # children follow their parents
            if picture.parents[child]:
                areas[picture.parents[child]] += areas[child]
        eligible = np.flatnonzero(areas >= min(MIN_AREA, areas.max()))
        count, weights = POINTS + BOXES, areas[eligible].astype(float) ** LARGER
        # a large heap is drawn from without repetition, a lone object gives all of its prompts
        numbers = rng.choice(eligible, count, replace=len(eligible) < count, p=weights / weights.sum())
        return np.stack([picture.within(int(number))[picture.labels] for number in numbers])
