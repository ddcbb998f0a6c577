"""Labels that a person corrects, action by action; the model is asked where an action needs it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from lorasam_core.data.sample import DataError
from lorasam_core.masks.clicks import Ask, Box, Clicks, Point, Prompt, checked_box, pixel_at
from lorasam_core.masks.patches import (
    Piece,
    cut,
    deepest,
    divided,
    largest_piece,
    pack,
    pack_labels,
    piece_at,
    placed,
    unpack,
    unpack_labels,
    usual_diameter,
)  # fmt: skip
from lorasam_core.masks.predictor import as_rgb
from lorasam_core.masks.segmenter import Segmenter

Painted = list[tuple[int, Piece]]  # ids and the pixels that get them, in this order


class _Change(NamedTuple):
    """What an action did to a window of the labels."""

    window: tuple[slice, slice]
    before: np.ndarray
    after: np.ndarray


class Labelling:
    """An image, its labels, and a log of all that was done to them.

    image: uint8 (H, W) or (H, W, 3). labels: int32 (H, W), 0 background. An id stays with its particle; one that was
    removed is never used again, and a new particle gets the next number. log: JSON-ready dictionaries, the draft first,
    then an action each: its name, its arguments, the time, and the pixels that it painted wherever a model chose them,
    so that `replay` needs no model and gives the same labels.

    A front end needs no more than this: `at` says which particle was clicked, every action is a method, and
    `plots.outlines(labelling.image, labelling.labels, numbers=True)` is the picture. An action that cannot be done
    raises a ValueError of one sentence, and changes nothing.
    """

    def __init__(
        self, image: np.ndarray, labels: np.ndarray | None = None, ask: Ask | None = None, **stated: Any
    ) -> None:
        """labels: the draft, int (H, W), None: nothing; ask: the model, such as `Clicks(segmenter)`; stated: what made
        the draft, JSON-ready. Raises ValueError for an image or labels of another dtype or shape.
        """
        as_rgb(image, min_side=1)
        draft: np.ndarray = np.zeros(image.shape[:2], np.int32) if labels is None else np.asarray(labels)
        if draft.dtype.kind not in "iu" or draft.shape != image.shape[:2] or draft.min(initial=0) < 0:
            raise ValueError(
                f"The labels are {draft.dtype} of shape {draft.shape}, the image {image.shape[:2]}; "
                "give ids from 0 of the image's size."
            )
        self.image, self.ask = image, ask
        self.labels = draft.astype(np.int32)
        self._highest = int(self.labels.max(initial=0))
        self._done: list[_Change] = []
        self._undone: list[_Change] = []
        height, width = self.labels.shape
        self.log: list[dict[str, Any]] = [
            {"action": "draft", "time": _now(), **stated, "image_sha256": _sha256(image), "height": height,
             "width": width, "labels": pack_labels(self.labels)}
        ]  # fmt: skip

    @classmethod
    def draft(cls, image: np.ndarray, segmenter: Segmenter, **stated: Any) -> Labelling:
        """What a segmenter finds, to be corrected with the same model; `stated` is logged beside its settings."""
        return cls(image, segmenter(image).labels, Clicks(segmenter), model=segmenter.described, **stated)

    @classmethod
    def replay(cls, image: np.ndarray, log: Sequence[Mapping[str, Any]], ask: Ask | None = None) -> Labelling:
        """The labelling of a log, bit for bit; no model is asked. Undo and redo go on where they were.

        Raises DataError for a log that does not begin with a draft of this image, or holds what cannot be done.
        """
        try:
            first = log[0]
            if first["action"] != "draft" or first["image_sha256"] != _sha256(image):
                raise DataError("the log is of another image; give the one that was labelled, unchanged.")
            labelling = cls(image, unpack_labels(first["labels"], image.shape[:2]), ask)
            labelling.log = [dict(first)]
            for entry in log[1:]:
                labelling._again(entry)
        except DataError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error) as error:
            raise DataError(f"the log is damaged ({str(error)[:99]}); take an earlier copy, or begin again.") from error
        return labelling

    def _again(self, entry: Mapping[str, Any]) -> None:
        action = entry["action"]
        if action in ("undo", "redo"):
            getattr(self, action)(entry["count"])
        elif action == "accept":
            self.accept()
        elif action in ("remove", "merge"):
            getattr(self, action)(*entry["ids"])
        else:
            self._paint([(made["id"], unpack(made, self.labels.shape)) for made in entry["made"]])
            self.log.append({})
        self.log[-1] = dict(entry)

    # ------------------------------------------------------------------------------------------------ what there is
    @property
    def ids(self) -> list[int]:
        """The ids of the particles, ascending."""
        return [int(i) for i in np.unique(self.labels) if i > 0]

    @property
    def touched(self) -> bool:
        """Whether a person did anything after the draft."""
        return len(self.log) > 1

    @property
    def accepted(self) -> bool:
        """Whether a person called the labels right, and changed nothing since."""
        return bool(self.log[-1]["action"] == "accept")

    def at(self, x: float, y: float) -> int:
        """The id of the particle at a point, 0 for background."""
        column, row = self._pixel((x, y))
        return int(self.labels[row, column])

    # ------------------------------------------------------------------------------------------------ actions
    def remove(self, *ids: int) -> None:
        """Particles become background."""
        self._do("remove", {"ids": self._known(ids)}, [(0, self._patch(i)) for i in ids])

    def merge(self, *ids: int) -> int:
        """Two particles or more become the first of them; returns its id."""
        first, *others = self._known(ids)
        if not others:
            raise ValueError(f"merge was given only particle {first}; give two or more.")
        self._do("merge", {"ids": [first, *others]}, [(first, self._patch(i)) for i in others])
        return first

    def split(self, i: int, *points: Point) -> list[int]:
        """A particle becomes one for each point in it; returns their ids, the first of which is its own.

        The model is asked for each point with the others outside. What it gives to one point alone, in one piece with
        the point, is that part's; a mask that holds another's point counts where no better one lies. Each other pixel
        of the particle goes to the part that is nearest.
        """
        (i,) = self._known([i])
        pixels = [self._pixel(point) for point in points]
        for x, y in pixels:
            if self.labels[y, x] != i:
                raise ValueError(f"the point ({x}, {y}) does not lie on particle {i}; give points on it.")
        if len(set(pixels)) < max(2, len(pixels)):
            raise ValueError(f"split needs two points or more in different pixels of particle {i}, one for each part.")
        whole = self._patch(i)
        claims: list[np.ndarray] = []
        for point in points:
            others = tuple(other for other in points if other is not point)
            claims.append(placed(self._asked(Prompt((point,), others)), whole) & whole.mask)
        parts = divided(whole.mask, np.array(claims), [(x - whole.x, y - whole.y) for x, y in pixels])
        ids = [i, *range(self._highest + 1, self._highest + len(points))]
        made = [(n, cut(whole.mask & (parts == k), whole.y, whole.x)) for k, n in enumerate(ids)]
        self._do("split", {"id": i, "points": _plain(points)}, made, by_model=True)
        return ids

    def add(
        self, point: Point | None = None, *, box: Box | None = None, outside: Iterable[Point] = (), over: bool = False
    ) -> int:
        """A particle that is missing: the model's mask for a point in it (x, y), or for a box around it (x0, y0, x1,
        y1, last pixel included); returns its id.

        outside: points that are not of it. It takes pixels that are free; with `over` those of other particles, too.
        """
        if (point is None) == (box is None):
            raise ValueError("add needs either a point in the particle or a box around it; give one of them.")
        outside = tuple(outside)
        inside = () if point is None else (point,)
        pixels = [self._pixel(p) for p in (*inside, *outside)]
        if point is not None and not over and (there := self.at(*point)):
            raise ValueError(f"particle {there} lies at the point {pixels[0]}; remove it first, or give over=True.")
        found = self._asked(Prompt(inside, outside, None if box is None else checked_box(box, self.labels.shape)))
        mask = found.mask if over else found.mask & (self.labels[found.window] == 0)
        if point is not None and mask.any():
            (x, y), there = pixels[0], found.has(*pixels[0])
            mask = piece_at(mask, x - found.x, y - found.y) if there else largest_piece(mask)
        elif mask.any():
            mask = largest_piece(mask)
        if not mask.any():
            raise ValueError("the model finds nothing there that is free; give another point, a box, or over=True.")
        arguments = {"point": point and _plain([point])[0], "box": box and [float(side) for side in box],
                     "outside": _plain(outside), "over": bool(over)}  # fmt: skip
        new = self._highest + 1
        self._do("add", arguments, [(new, cut(mask, found.y, found.x))], by_model=True)
        return new

    def refine(self, i: int, inside: Iterable[Point] = (), outside: Iterable[Point] = ()) -> None:
        """A particle's mask again, by points that are of it and points that are not; it takes pixels that are free.

        The model gets the mask as it is and, beside these points, the one deepest in it.
        """
        (i,) = self._known([i])
        inside, outside = tuple(inside), tuple(outside)
        if not inside and not outside:
            raise ValueError(f"refine was given no point; give points inside or outside of particle {i}.")
        now, wrong = self._patch(i), [self._pixel(point) for point in (*inside, *outside)][len(inside) :]
        sure = now.mask.copy()
        for x, y in wrong:
            if now.has(x, y):
                sure[y - now.y, x - now.x] = False
        x, y = deepest(sure)
        anchor = ((float(now.x + x), float(now.y + y)),) if sure.any() else ()
        found = self._asked(Prompt((*anchor, *inside), outside, mask=now))
        mask = found.mask & np.isin(self.labels[found.window], (0, i))
        if not mask.any():
            raise ValueError(f"the model finds nothing there; remove particle {i} and add it by a point or a box.")
        made = [(0, now), (i, cut(largest_piece(mask), found.y, found.x))]
        self._do("refine", {"id": i, "inside": _plain(inside), "outside": _plain(outside)}, made, by_model=True)

    def accept(self) -> None:
        """The labels are right as they are, which the log says."""
        self.log.append({"action": "accept", "time": _now()})

    def undo(self, count: int = 1) -> None:
        """Take the last actions back; the log keeps them, and the undoing."""
        self._back("undo", self._done, self._undone, count)

    def redo(self, count: int = 1) -> None:
        """Do again what was undone last, as long as nothing else was done since."""
        self._back("redo", self._undone, self._done, count)

    # ------------------------------------------------------------------------------------------------ inside
    def _back(self, action: str, taken: list[_Change], given: list[_Change], count: int) -> None:
        if not 1 <= count <= len(taken):
            raise ValueError(f"{action} was asked for {count} actions, of {len(taken)}; give a number from 1 to that.")
        for _ in range(count):
            change = taken.pop()
            self.labels[change.window] = change.before if action == "undo" else change.after
            given.append(change)
        self.log.append({"action": action, "time": _now(), "count": int(count)})

    def _do(self, action: str, arguments: Mapping[str, Any], painted: Painted, by_model: bool = False) -> None:
        entry = {"action": action, "time": _now(), **arguments}
        if by_model:
            entry["made"] = [{"id": i} | pack(patch) for i, patch in painted]
        self._paint(painted)
        self.log.append(entry)

    def _paint(self, painted: Painted) -> None:
        windows = [patch.window for _, patch in painted]
        window = tuple(
            slice(min(w[axis].start for w in windows), max(w[axis].stop for w in windows)) for axis in (0, 1)
        )
        before = self.labels[window].copy()
        for i, patch in painted:
            self.labels[patch.window][patch.mask] = i
        self._highest = max(self._highest, *(i for i, _ in painted))
        self._done.append(_Change((window[0], window[1]), before, self.labels[window].copy()))
        self._undone.clear()

    def _known(self, ids: Sequence[int]) -> list[int]:
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int | np.integer) or i < 1 or not (self.labels == i).any():
                raise ValueError(f"there is no particle {i}; give numbers that stand on the image.")
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(f"the particles are {', '.join(map(str, ids)) or 'none'}; give each of them once.")
        return [int(i) for i in ids]

    def _pixel(self, point: Point) -> tuple[int, int]:
        return pixel_at(point, self.labels.shape)

    def _patch(self, i: int) -> Piece:
        return cut(self.labels == i)

    def _asked(self, prompt: Prompt) -> Piece:
        if self.ask is None:
            raise ValueError("there is no model to ask; give one, as Labelling(image, labels, Clicks(segmenter)).")
        return self.ask(self.image, prompt._replace(usual=usual_diameter(self.labels)))


def _plain(points: Iterable[Point]) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in points]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _sha256(image: np.ndarray) -> str:
    return hashlib.sha256(f"{image.shape} ".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
