"""Splits by group: no specimen, paper or parent image is on both sides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from lorasam_core.data.sample import DataError
from lorasam_core.errors import brief

DRAWS = 64  # random splits looked at, to come near the ratios in images where groups differ in size


@dataclass(frozen=True)
class Split:
    """Ids of the training, validation and test images. Raises DataError for an id in two parts or twice in one."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        ids: set[str] = set()
        for name, part in self.parts().items():
            object.__setattr__(self, name, tuple(part))
            for i in part:
                if i in ids:
                    raise DataError(f"The split lists {i} twice; keep it in one part.")
                ids.add(i)

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Part name to ids."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def hash(self) -> str:
        """SHA-256 hex of the three parts; the order within a part does not count."""
        return hashlib.sha256(json.dumps({k: sorted(v) for k, v in self.parts().items()}).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write JSON: train, val, test and hash."""
        Path(path).write_text(json.dumps({**asdict(self), "hash": self.hash}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Read what `save` wrote. Raises DataError for a file that is no split or was changed since."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            split, written = cls(*(tuple(values[f.name]) for f in fields(cls))), values["hash"]
            found = split.hash
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path} is not a saved split ({brief(repr(error))}); make it again with Split.save."
            ) from error
        if found != written:
            raise DataError(f"{path} does not agree with the hash in it; make it again with Split.save.")
        return split


def split_by_group(groups: Mapping[str, str], ratios: Sequence[float] = (7, 2, 1), seed: int = 0) -> Split:
    """Training, validation and test in the given ratios of groups, at random by seed.

    groups: id to group. A part with a ratio above 0 gets at least one group, a part with ratio 0 none. Of 64 random
    draws the one nearest to the ratios in images is taken, which matters only where groups differ in size. The order of
    `groups` does not change the split, it only orders the ids within each part.
    Raises DataError when there are fewer groups than parts, ValueError for ratios that are not three numbers from 0.
    """
    if len(ratios) != 3 or min(ratios) < 0 or not sum(ratios) > 0:
        raise ValueError(f"ratios are {tuple(ratios)}; give three numbers from 0, not all 0.")
    names = sorted(set(groups.values()))
    shares = np.asarray(ratios, float) / sum(ratios)
    needed = int((shares > 0).sum())
    if len(names) < needed:
        found = f"is only the group {names[0]!r}" if len(names) == 1 else f"are only {len(names)} groups"
        raise DataError(
            f"there {found} and a split by group needs at least {needed}; "
            "add images of other specimens, or a groups.csv that tells them apart."
        )
    cuts = np.cumsum(_counts(len(names), shares))[:-1]
    sizes = {name: 0 for name in names}
    for group in groups.values():
        sizes[group] += 1
    rng = np.random.default_rng(seed)
    best, best_distance = None, np.inf
    for _ in range(DRAWS):
        parts = np.split(rng.permutation(len(names)), cuts)
        images = np.array([sum(sizes[names[k]] for k in part) for part in parts])
        distance = float(np.abs(images / len(groups) - shares).sum())
        if distance < best_distance - 1e-9:
            best, best_distance = parts, distance
    assert best is not None
    part_of = {names[k]: number for number, part in enumerate(best) for k in part}
    return Split(*(tuple(i for i, group in groups.items() if part_of[group] == number) for number in range(3)))


def _counts(n: int, shares: np.ndarray) -> np.ndarray:
    """Groups for each part: largest remainder, and at least one where the share is not 0."""
    counts = np.floor(n * shares).astype(int)
    by_remainder = np.argsort(-(n * shares - counts), kind="stable")
    counts[by_remainder[: n - counts.sum()]] += 1
    for part in np.flatnonzero((shares > 0) & (counts == 0)):
        counts[counts.argmax()] -= 1
        counts[part] = 1
    return counts


def check_groups(split: Split, groups: Mapping[str, str]) -> None:
    """Raise DataError where two parts share a group, or where an id of the split has none."""
    part_of: dict[str, str] = {}
    for part, ids in split.parts().items():
        for i in ids:
            if i not in groups:
                raise DataError(f"The split lists {i}, which the data set does not have; split this data set anew.")
            other = part_of.setdefault(groups[i], part)
            if other != part:
                raise DataError(
                    f"The group {groups[i]!r} of {i} is in {other} and in {part}; move all of its images to one part."
                )


def thin(groups: Mapping[str, str], limit: int, seed: int = 0) -> list[str]:
    """At most `limit` ids, in the order of `groups`: one image of each group in turn, groups and images at random.

    A smaller limit with the same seed gives a subset of a larger one. Raises ValueError for a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; give a whole number of at least 1.")
    members: dict[str, list[str]] = {}
    for i, group in sorted(groups.items()):
        members.setdefault(group, []).append(i)
    rng = np.random.default_rng(seed)
    names = list(members)
    turns = [(turn, place, i)
             for place, k in enumerate(rng.permutation(len(names)))
             for turn, i in enumerate(rng.permutation(members[names[k]]))]  # fmt: skip
    chosen = {i for _, _, i in sorted(turns)[:limit]}
    return [i for i in groups if i in chosen]
