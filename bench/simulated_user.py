"""A person who corrects labels, simulated: clicks from the ground truth, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.patches import cut, deepest
from lorasam_core.measure.metrics import f1

LEAST_AREA = 16  # pixels; nobody is asked for smaller particles
MATCH = 0.5  # IoU
ROUNDS = 3  # times that the whole image is looked at


@dataclass
class Effort:
    """Actions of each kind, and what came of them. One that the model could not answer counts as well.

    remove: particles that went; merge, split: calls; add: points, and box: boxes for missing particles; refine: points
    for what an added one has wrong; undo: what was added, where it is wrong still. clicks: one for a particle, a point
    or an undo, two for a box. given_up: particles that no action found. f1 at IoU 0.5 of all labels, before and after.
    """

    remove: int = 0
    merge: int = 0
    split: int = 0
    add: int = 0
    box: int = 0
    refine: int = 0
    undo: int = 0
    clicks: int = 0
    given_up: int = 0
    f1_before: float = 0.0
    f1: float = 0.0

    @property
    def actions(self) -> int:
        """All of them."""
        return self.remove + self.merge + self.split + self.add + self.box + self.refine + self.undo

    @property
    def corrections(self) -> int:
        """Those that mend what is there already: all but points and boxes of missing particles."""
        return self.remove + self.merge + self.split + self.refine + self.undo

    def row(self) -> dict[str, float]:
        """For a table."""
        return asdict(self) | {"actions": self.actions, "corrections": self.corrections}


def simulate(labelling: Labelling, true: np.ndarray, cap: int | None = None) -> Effort:
    """Correct a labelling until every true particle from LEAST_AREA pixels on is matched at an IoU of MATCH.

    true: int (H, W), 0 background; cap: stop after this many actions; None: four for each particle, drafted or true.
    Each round: split what holds two particles by half or more, at the deepest point of each; merge pieces of one
    particle; remove what matches none; add each that is missing, from the largest on: by a point where it is deepest,
    and one more point where that mask is most wrong; where it is wrong still, that is undone and a box given. A
    particle that even its box does not find is given up.
    Nothing is random: the same labelling and model give the same effort. Raises ValueError for another size.
    """
    if true.shape != labelling.labels.shape:
        raise ValueError(f"The truth is {true.shape}, the image {labelling.labels.shape}; give labels of its size.")
    user = _User(labelling, true.astype(np.int32), cap)
    user.effort.f1_before = float(f1(labelling.labels, user.true, MATCH))
    for _ in range(ROUNDS):
        before = user.effort.actions
        for turn in (user.split, user.merge, user.remove, user.add):
            turn()
        if user.effort.actions == before:
            break
    user.effort.given_up = len(user.missing(even_given_up=True))
    user.effort.f1 = float(f1(labelling.labels, user.true, MATCH))
    return user.effort


class _Seen(NamedTuple):
    """What a person sees at once: ids (N,) and true ids (M,), their areas, and the pixels they share (N, M)."""

    ids: np.ndarray
    area: np.ndarray
    true: np.ndarray
    true_area: np.ndarray
    shared: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """bool (N, M)"""
        union = self.area[:, None] + self.true_area[None] - self.shared
        return np.asarray(self.shared >= MATCH * union) & (self.shared > 0)


class _User:
    def __init__(self, labelling: Labelling, true: np.ndarray, cap: int | None) -> None:
        self.work, self.true, self.effort = labelling, true, Effort()
        particles = len(labelling.ids) + np.count_nonzero(np.bincount(true.ravel())[1:])
        self.cap = 4 * particles if cap is None else cap
        self.lost: set[int] = set()

    def look(self) -> _Seen:
        labels, true = self.work.labels, self.true
        ids, rows = np.unique(labels, return_inverse=True)
        true_ids, columns = np.unique(true, return_inverse=True)
        pairs = np.bincount(rows.ravel() * len(true_ids) + columns.ravel(), minlength=len(ids) * len(true_ids))
        table = pairs.reshape(len(ids), len(true_ids))
        a, b = ids > 0, true_ids > 0
        return _Seen(ids[a], table.sum(1)[a], true_ids[b], table.sum(0)[b], table[a][:, b])

    def missing(self, even_given_up: bool = False) -> list[int]:
        """True particles that are asked for and matched by none, from the largest on."""
        seen = self.look()
        wanted = (seen.true_area >= LEAST_AREA) & ~seen.matched.any(0)
        order = np.argsort(-seen.true_area, kind="stable")
        found = [int(seen.true[k]) for k in order if wanted[k]]
        return found if even_given_up else [t for t in found if t not in self.lost]

    def split(self) -> None:
        seen = self.look()
        wanted = (seen.true_area >= LEAST_AREA) & (seen.shared >= 0.5 * seen.true_area) & (seen.shared > 0)
        for i, held, shared, area in zip(seen.ids, wanted, seen.shared, seen.area, strict=True):
            if held.sum() < 2 or shared[held].sum() < MATCH * area:  # rather background than two particles
                continue
            points = [self._deepest((self.work.labels == i) & (self.true == t)) for t in seen.true[held]]
            self._do("split", len(points), self.work.split, int(i), *points)

    def merge(self) -> None:
        seen = self.look()
        inside = 2 * seen.shared > seen.area[:, None]
        for k, area in enumerate(seen.true_area):
            pieces = np.flatnonzero(inside[:, k])
            union = area + seen.area[pieces].sum() - seen.shared[pieces, k].sum()
            if len(pieces) > 1 and seen.shared[pieces, k].sum() >= MATCH * union:
                pieces = pieces[np.argsort(-seen.area[pieces], kind="stable")]
                ids = [int(i) for i in seen.ids[pieces]]
                self._do("merge", len(ids), self.work.merge, *ids)

    def remove(self) -> None:
        seen = self.look()
        for i in seen.ids[~seen.matched.any(1)]:
            self._do("remove", 1, self.work.remove, int(i))

    def add(self) -> None:
        for t in self.missing():
            particle = self.true == t
            free = particle & (self.work.labels == 0)
            over = 2 * free.sum() < particle.sum()
            point = self._deepest(particle if over else free)
            begun = len(self.work.log)
            if self._do("add", 1, self.work.add, point, over=bool(over)) and self._wrong(t):
                i = max(self.work.ids)  # the new one
                missed, much = particle & (self.work.labels != i), ~particle & (self.work.labels == i)
                inside = missed.sum() >= much.sum()
                where = [self._deepest(missed if inside else much)]
                self._do("refine", 1, self.work.refine, i, **{"inside" if inside else "outside": where})
            if self._wrong(t):
                self._take_back(begun)
                self._by_box(t, particle)

    def _by_box(self, t: int, particle: np.ndarray) -> None:
        begun, (x0, y0, x1, y1) = len(self.work.log), cut(particle).box
        self._do("box", 2, self.work.add, box=(x0, y0, x1, y1), over=True)
        if self._wrong(t):
            self.lost.add(t)
            self._take_back(begun)

    def _take_back(self, begun: int) -> None:
        if count := len(self.work.log) - begun:
            self._do("undo", 1, self.work.undo, count)

    def _wrong(self, t: int) -> bool:
        return t in self.missing()

    def _do(self, kind: str, clicks: int, action: Callable[..., object], *given: Any, **named: Any) -> bool:
        """Whether the action could be done; one beyond the cap is not tried, and one that fails is counted."""
        if self.effort.actions >= self.cap:
            return False
        setattr(self.effort, kind, getattr(self.effort, kind) + 1)
        self.effort.clicks += clicks
        try:
            action(*given, **named)
        except ValueError:
            return False
        return True

    @staticmethod
    def _deepest(mask: np.ndarray) -> tuple[int, int]:
        patch = cut(mask)
        x, y = deepest(patch.mask)
        return patch.x + x, patch.y + y
