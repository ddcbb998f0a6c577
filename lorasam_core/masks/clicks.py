"""What the model answers to a person's clicks on an image of any size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np

from lorasam_core.masks import operations
from lorasam_core.masks.guided import STABILITY_OFFSET
from lorasam_core.masks.patches import Piece, cut, placed
from lorasam_core.masks.predictor import Embedding, Predictor, evaluating
from lorasam_core.masks.segmenter import SPECK, TILE_SHARE, WHOLE, Segmenter
from lorasam_core.training.prompts import whole_image_box

KEPT = 16  # windows whose embeddings stay in memory, about a megabyte each
NEAR = 7  # diameters that a window smaller than a tile shows at least; by dense validation images of EMPS
LEAST_WINDOW = 64  # pixels
LEAST_SHARE = 0.01  # in the foreground, which may miss the particle that a person sees
LOGIT = 6.9  # of a pixel that a mask, given as a prompt, holds with a probability of 0.999

Point: TypeAlias = tuple[float, float]  # x, y in pixels of the image
Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1, last pixel included


class Prompt(NamedTuple):
    """One question: points inside and outside the particle that is meant, a box around it, what it was until now.

    usual: the diameter of the particles of this image in pixels, 0: not known.
    """

    inside: tuple[Point, ...] = ()
    outside: tuple[Point, ...] = ()
    box: Box | None = None
    mask: Piece | None = None
    usual: float = 0.0


Ask: TypeAlias = Callable[[np.ndarray, Prompt], Piece]  # image, prompt -> the mask, which may be empty


class Clicks:
    """The model of a `Segmenter`, asked for one particle at a time.

    Images that the segmenter takes at once are seen as a whole, others in windows of its tile's size that lie every
    half of it; a prompt is asked of the window around it, which is doubled until it is twice as long as the prompt.
    Small particles are enlarged: the window is halved as long as it shows NEAR times the prompt and the usual diameter;
    a mask that it may have cut, longer than a quarter of it, or none, is asked for once more in one of twice the side.
    So what is answered hangs on image and prompt alone, and a second click nearby finds the window encoded.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.side, self.described = segmenter.side, segmenter.described
        self.predictor = Predictor(segmenter.sam, segmenter.autocast)
        self._image: np.ndarray | None = None
        self._seen: OrderedDict[tuple[int, int, int], tuple[Embedding, np.ndarray]] = OrderedDict()

    def __call__(self, image: np.ndarray, prompt: Prompt) -> Piece:
        """The mask, without specks, of an image uint8 (H, W) or (H, W, 3); ValueError for another image.

        One point: of the model's three masks the one of the greatest rating x stability x share that lies in the
        foreground it sees. More points: its one mask, given that of the first. A box, or a mask: its one mask.
        """
        least, widest = LEAST_WINDOW, min(self.side, max(image.shape[:2]))
        while True:
            y, x, side = self._window(image.shape[:2], prompt, least)
            with evaluating(self.predictor.model):
                foreground = self._use(image, image[y : y + side, x : x + side], (y, x, side))
                found = self._asked(prompt, y, x, foreground)
            if found.any():
                found = operations.without_small_regions(found, SPECK * int(found.sum()))[0]
            piece, least = cut(found, y, x), 2 * side
            if side >= widest or 0 < max(piece.mask.shape) <= side / 4:  # the prompt lies this far inside
                return piece

    def _window(self, shape: tuple[int, ...], prompt: Prompt, least: int) -> tuple[int, int, int]:
        """Row, column and side of the window that is asked; its side is no smaller than `least`."""
        points = np.array([*prompt.inside, *prompt.outside], float).reshape(-1, 2)
        boxes = [box for box in (prompt.box, prompt.mask and prompt.mask.box) if box]
        points = np.concatenate([points, np.array(boxes, float).reshape(-1, 2)])
        low, high = points.min(0), points.max(0)
        side, long = self.side, float((high - low).max())
        shown = NEAR * max(long, prompt.usual)
        while shown and side // 2 >= max(shown, least):
            side //= 2
        if side == self.side and max(shape) <= WHOLE * side:
            return 0, 0, max(shape)
        while side < 2 * long and side < max(shape):
            side *= 2
        starts = np.round(((low + high) / 2 - side / 2) / (side / 2)) * (side / 2)
        x, y = (max(0, min(int(start), length - side)) for start, length in zip(starts, shape[::-1], strict=True))
        return y, x, side

    def _use(self, image: np.ndarray, part: np.ndarray, window: tuple[int, int, int]) -> np.ndarray:
        """Let the predictor hold a part of the image; returns its foreground, bool (h, w)."""
        if image is not self._image:
            self._seen.clear()
            self._image = image
        predictor = self.predictor
        if window in self._seen:
            self._seen.move_to_end(window)
            embedding, foreground = self._seen[window]
            predictor.use(embedding)
            return foreground
        predictor.set_image(part)
        embedding = Embedding(predictor.features, predictor.input_size, predictor.original_size)
        masks, _, _ = predictor.predict(box=whole_image_box(part.shape)[0], multimask_output=False)
        self._seen[window] = (embedding, masks[0])
        if len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        return masks[0]

    def _asked(self, prompt: Prompt, y: int, x: int, foreground: np.ndarray) -> np.ndarray:
        """The mask, bool (h, w), of a prompt in pixels of the image, in the window at (y, x)."""
        predictor, (inside, outside, box, mask, _) = self.predictor, prompt
        points = np.array([*inside, *outside], float).reshape(-1, 2) - (x, y)
        labels = np.repeat([1, 0], [len(inside), len(outside)])
        corner = None if box is None else np.array(box, float) - (x, y, x, y)
        low = None if mask is None else self._as_prompt(mask, y, x, foreground.shape)
        if box is None and mask is None:
            best, low = self._best(points[:1], foreground)
            if len(points) == 1:
                return best
        given = {"point_coords": points, "point_labels": labels} if len(points) else {}
        found, _, _ = predictor.predict(**given, box=corner, mask_input=low, multimask_output=False)
        return np.asarray(found[0])

    def _best(self, point: np.ndarray, foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the three masks for a point (1, 2) the best, bool (h, w), and its logits (1, m, m), which are a prompt."""
        predictor, threshold = self.predictor, self.predictor.model.mask_threshold
        logits, rated, low = predictor.predict(point, np.ones(1), return_logits=True)
        masks = logits > threshold
        area = masks.sum((1, 2))
        inner, outer = ((logits > threshold + by).sum((1, 2)) for by in (STABILITY_OFFSET, -STABILITY_OFFSET))
        share = (masks & foreground).sum((1, 2)) / np.maximum(area, 1)
        score = (
            rated.clip(0, 1)
            * inner
            / np.maximum(outer, 1)
            * np.maximum(share, 0.01)
            * (area <= TILE_SHARE * foreground.size)
        )
        best = int(score.argmax())
        return masks[best], low[best : best + 1]

    def _as_prompt(self, patch: Piece, y: int, x: int, shape: tuple[int, ...]) -> np.ndarray:
        """A mask as logits (1, m, m) at the prompt encoder's size."""
        frame = Piece(y, x, np.zeros(shape, bool))
        whole = placed(patch, frame).astype(np.uint8) * np.uint8(255)
        resized = self.predictor.transform.apply_image(whole)
        side = self.predictor.transform.target_length
        square = np.zeros((side, side), np.float32)
        square[: resized.shape[0], : resized.shape[1]] = resized / 255
        size = self.predictor.model.prompt_encoder.mask_input_size
        return ((2 * cv2.resize(square, size[::-1], interpolation=cv2.INTER_AREA) - 1) * LOGIT)[None]


def pixel_at(point: Point, shape: tuple[int, ...]) -> tuple[int, int]:
    """Column and row of the pixel that holds a point; ValueError for what is no point of an image of this shape."""
    height, width = shape[:2]
    try:
        x, y = (float(value) for value in point)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{point!r} is no point; give x and y in pixels.") from error
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f"the point ({x:g}, {y:g}) lies outside the image; give x under {width} and y under {height}, from 0."
        )
    return int(x), int(y)


def checked_box(box: Box, shape: tuple[int, ...]) -> Box:
    """The box as numbers; ValueError for what is no box in an image of this shape."""
    try:
        x0, y0, x1, y1 = (float(side) for side in box)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{box!r} is no box; give x0, y0, x1, y1 in pixels.") from error
    pixel_at((x0, y0), shape)
    pixel_at((x1, y1), shape)
    if not (x0 <= x1 and y0 <= y1):
        raise ValueError(f"the box {tuple(box)} has no inside; give x0, y0, x1, y1 with x0 <= x1 and y0 <= y1.")
    return x0, y0, x1, y1
