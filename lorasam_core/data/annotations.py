"""What a file of annotations says of one image: objects that become labels once the size of the image is known."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorasam_core.data.outlines import Part, paint
from lorasam_core.data.sample import DataError

A_BOX = "it is a box, and a box is no outline of a particle"
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True, eq=False)
class Annotations:
    """The objects of one image, as a file has them.

    path: the file, or a folder of files; kind: the format; names: what the image may be called, the best first;
    parse: an object and the size (H, W) to its parts; size: the (H, W) that the file states.
    """

    path: Path
    kind: str
    names: tuple[str, ...]
    objects: tuple[Any, ...]
    parse: Callable[[Any, tuple[int, int]], list[Part]]
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self.path)

    def read(self, shape: tuple[int, int]) -> NDArray[np.int32]:
        """Labels int32 (H, W), as `outlines.paint` makes them.

        Raises DataError for an image of another size, a damaged object, and one of which no pixel would be seen.
        """
        own = self.path.name.startswith(Path(self.names[0]).name)  # the file is of this image alone
        place = str(self.path) if own else f"{self.path}, {self.names[0]}"
        if self.size not in (None, shape):
            (h, w), (height, width) = self.size or shape, shape
            raise DataError(f"{place} is of {w}x{h} pixels and its image of {width}x{height}; give both the same size.")
        objects = []
        for number, found in enumerate(self.objects, 1):
            try:
                objects.append(self.parse(found, shape))
            except DataError:
                raise
            except (*DAMAGED, OSError) as error:
                raise DataError(
                    f"{place}: object {number} cannot be read ({reason(error)}); correct it, or remove it."
                ) from error
        return paint(objects, shape, place)


def reason(error: BaseException) -> str:
    """What is wrong, in a few words."""
    text = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{text} is missing" if isinstance(error, KeyError) else text


def size(height: Any, width: Any) -> tuple[int, int] | None:
    """A size as a file states it, None where it states none; ValueError for one that is none."""
    if height is None and width is None:
        return None
    found = int(height), int(width)
    if min(found) < 1:
        raise ValueError(f"its image is of {width}x{height} pixels")
    return found


def grouped(shapes: Iterable[tuple[Hashable, Any]]) -> tuple[tuple[Any, ...], ...]:
    """Shapes of one key, which is not None, together; each of the others alone."""
    groups: dict[Hashable, list[Any]] = {}
    for number, (key, shape) in enumerate(shapes):
        groups.setdefault(("alone", number) if key is None else ("group", key), []).append(shape)
    return tuple(map(tuple, groups.values()))


def without_area(path: Path, kinds: Iterable[str]) -> list[str]:
    """The note on shapes of these kinds that were left out."""
    names = list(kinds)
    if not names:
        return []
    return [f"Left out, for they have no area: {len(names)} of {path.name} ({', '.join(sorted(set(names)))})."]
