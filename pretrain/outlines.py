"""Outlines of single regions, as polygons in a unit frame: XY with Y down, roughly within [-1, 1]."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

Points = np.ndarray  # (K, 2) float, XY


@dataclass(frozen=True)
class Part:
    """One region: the union of `contours` less the `holes`, cut to its parent's region.

    `parent` is an index into the object's list, -1 for the whole. A part without contours is the union of its children,
    which are then not cut: a car is its body and its wheels.
    """

    parent: int
    contours: tuple[Points, ...] = ()
    holes: tuple[Points, ...] = ()

    def map(self, move: Callable[[Points], Points]) -> "Part":
        """The same part with every polygon moved."""
        return Part(self.parent, tuple(map(move, self.contours)), tuple(map(move, self.holes)))


Outline = tuple[tuple[Points, ...], tuple[Points, ...]]  # contours, holes
Rng = np.random.Generator


@cache
def _circle(n: int) -> Points:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def ellipse(x: float = 0.0, y: float = 0.0, rx: float = 1.0, ry: float | None = None, n: int = 32) -> Points:
    """Polygon (n, 2) on an ellipse; a circle where `ry` is None."""
    return _circle(n) * (rx, rx if ry is None else ry) + (x, y)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """The four corners of an upright rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)


def polar(radii: np.ndarray) -> Points:
    """Polygon with these radii at evenly spaced angles."""
    return _circle(len(radii)) * radii[:, None]


def stroke(points: np.ndarray, width: float) -> tuple[Points, ...]:
    """A polyline of that width with round joints, as a union of quadrilaterals and discs."""
    points = np.asarray(points, dtype=float)
    pieces = [ellipse(x, y, width / 2, n=8) for x, y in points]
    for a, b in pairwise(points):
        d = (b - a) / max(float(np.hypot(*(b - a))), 1e-9) * width / 2
        normal = np.array([-d[1], d[0]])
        pieces.append(np.stack([a + normal, b + normal, b - normal, a - normal]))
    return tuple(pieces)


def shifted(part: Part, parent: int, scale: float, x: float, y: float) -> Part:
    """The same region, scaled and moved, under another parent."""
    moved = part.map(lambda p: p * scale + (x, y))
    return Part(parent, moved.contours, moved.holes)


# Outlines: each draws one closed region.


def _polygon(rng: Rng) -> Outline:
    n = int(rng.integers(3, 9))
    return (polar(np.ones(n) * (1 + rng.uniform(-0.3, 0.3, n) * rng.integers(2))),), ()


def _blob(rng: Rng) -> Outline:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    k = np.arange(2, 7)[:, None]
    waves = rng.normal(0, 0.35, (5, 1)) / k * np.cos(k * t + rng.uniform(0, 6.3, (5, 1)))
    return (polar(np.maximum(1 + waves.sum(axis=0), 0.2)),), ()


def _star(rng: Rng) -> Outline:
    n = int(rng.integers(4, 10))
    radii = np.ones(2 * n)
    radii[1::2] = rng.uniform(0.3, 0.7)
    return (polar(radii),), ()


def _gear(rng: Rng) -> Outline:
    teeth = int(rng.integers(7, 13))
    radii = np.tile([1.0, 1.0, 0.78, 0.78], teeth)
    return (polar(radii),), (ellipse(rx=rng.uniform(0.15, 0.45)),) if rng.random() < 0.7 else ()


def _ellipse(rng: Rng) -> Outline:
    return (ellipse(ry=rng.uniform(0.4, 1.0)),), ()


def _rounded(rng: Rng) -> Outline:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power = rng.uniform(0.15, 0.6)
    x, y = (np.sign(f(t)) * np.abs(f(t)) ** power for f in (np.cos, np.sin))
    return (np.stack([x, y * rng.uniform(0.3, 1.0)], axis=1),), ()


def _crescent(rng: Rng) -> Outline:
    return (ellipse(),), (ellipse(rng.uniform(0.35, 0.6), rng.uniform(-0.2, 0.2), rng.uniform(0.75, 0.95)),)


def _ring(rng: Rng) -> Outline:
    ry = rng.uniform(0.6, 1.0)
    inner = rng.uniform(0.4, 0.85)
    return (ellipse(ry=ry),), (ellipse(rx=inner, ry=ry * inner),)


def _frame(rng: Rng) -> Outline:
    w, n, m = rng.uniform(0.08, 0.2), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    xs, ys = np.linspace(-1, 1 + w, n + 1), np.linspace(-1, 1 + w, m + 1)
    holes = [box(xs[i] + w, ys[j] + w, xs[i + 1] - w, ys[j + 1] - w) for i in range(n) for j in range(m)]
    return (box(-1, -1, 1, 1),), tuple(holes)


def _bar(rng: Rng) -> Outline:
    return (box(-1, -1, 1, -1 + 2 * rng.uniform(0.05, 0.2)),), ()


def _curve(rng: Rng) -> Outline:
    t = np.linspace(-1, 1, 16)
    y = rng.uniform(0.2, 0.6) * np.sin(rng.uniform(1.5, 5) * t + rng.uniform(0, 6.3))
    return stroke(np.stack([t, y], axis=1), rng.uniform(0.08, 0.25)), ()


_LETTERS: dict[str, list[list[tuple[float, float]]]] = {  # strokes on a grid of 2 x 4
    "A": [[(0, 4), (1, 0), (2, 4)], [(0.5, 2.4), (1.5, 2.4)]],
    "E": [[(2, 0), (0, 0), (0, 4), (2, 4)], [(0, 2), (1.6, 2)]],
    "F": [[(2, 0), (0, 0), (0, 4)], [(0, 2), (1.6, 2)]],
    "H": [[(0, 0), (0, 4)], [(2, 0), (2, 4)], [(0, 2), (2, 2)]],
    "K": [[(0, 0), (0, 4)], [(2, 0), (0, 2), (2, 4)]],
    "N": [[(0, 4), (0, 0), (2, 4), (2, 0)]],
    "P": [[(0, 4), (0, 0), (1.6, 0), (2, 0.5), (2, 1.6), (1.6, 2.1), (0, 2.1)]],
    "R": [[(0, 4), (0, 0), (1.6, 0), (2, 0.5), (2, 1.6), (1.6, 2.1), (0, 2.1)], [(0.9, 2.1), (2, 4)]],
    "T": [[(0, 0), (2, 0)], [(1, 0), (1, 4)]],
    "U": [[(0, 0), (0, 3.4), (0.5, 4), (1.5, 4), (2, 3.4), (2, 0)]],
    "X": [[(0, 0), (2, 4)], [(2, 0), (0, 4)]],
    "Y": [[(0, 0), (1, 2), (2, 0)], [(1, 2), (1, 4)]],
    "Z": [[(0, 0), (2, 0), (0, 4), (2, 4)]],
    "4": [[(1.6, 4), (1.6, 0), (0, 2.8), (2, 2.8)]],
    "7": [[(0, 0), (2, 0), (0.7, 4)]],
}


def _letter(rng: Rng) -> Outline:
    lines = _LETTERS[list(_LETTERS)[rng.integers(len(_LETTERS))]]
    width = rng.uniform(0.4, 0.9)
    return tuple(p / 2 - (0.5, 1) for line in lines for p in stroke(np.array(line), width)), ()


def _leaf(rng: Rng) -> Outline:
    t = np.linspace(0, 1, 16)
    half = rng.uniform(0.2, 0.5) * np.sin(np.pi * t ** rng.uniform(0.6, 1.6))
    bend = rng.uniform(-0.4, 0.4) * t**2
    upper, lower = np.stack([2 * t - 1, bend + half], axis=1), np.stack([2 * t - 1, bend - half], axis=1)
    return (np.concatenate([upper, lower[::-1]]),), ()


def _arrow(rng: Rng) -> Outline:
    w, neck, head = rng.uniform(0.1, 0.35), rng.uniform(-0.2, 0.5), rng.uniform(0.5, 0.9)
    points = [(-1, -w), (neck, -w), (neck, -head), (1, 0), (neck, head), (neck, w), (-1, w)]
    return (np.array(points),), ()


def _cross(rng: Rng) -> Outline:
    w = rng.uniform(0.12, 0.4)
    return (box(-w, -1, w, 1), box(-rng.uniform(0.6, 1), -w, rng.uniform(0.6, 1), w)), ()


def _heart(rng: Rng) -> Outline:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return (np.stack([np.sin(t) ** 3, y], axis=1),), ()


_SOLID: tuple[Callable[[Rng], Outline], ...] = (_polygon, _blob, _star, _ellipse, _rounded, _leaf, _heart, _cross)
_OPEN: tuple[Callable[[Rng], Outline], ...] = (_gear, _crescent, _ring, _frame, _bar, _curve, _letter, _arrow)


def outline(rng: Rng, solid: bool = False) -> Part:
    """A random single region; with `solid`, one without holes or thin limbs."""
    kinds = _SOLID if solid else _SOLID + _OPEN
    return Part(-1, *kinds[rng.integers(len(kinds))](rng))
