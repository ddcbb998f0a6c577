"""Composed objects and groups of touching objects, made of outlines in a unit frame.

An object is a list of `Part`s in drawing order, the whole first; a part is painted over its parent. Nothing here knows
pixels or colours: `scenes` places, paints and labels.
"""

from collections.abc import Callable

import numpy as np

from pretrain.outlines import Part, Points, Rng, box, ellipse, outline, shifted, stroke

Object = list[Part]


def _decorated(rng: Rng) -> Object:
    parts = [outline(rng, solid=True)]
    slots = rng.permutation([(-0.4, -0.3), (0.4, -0.3), (0, 0.4), (0, 0)])[: rng.integers(1, 4)]
    for x, y in slots:
        scale = rng.uniform(0.15, 0.32) * (2 if len(slots) == 1 else 1)
        parts.append(shifted(outline(rng), 0, scale, x, y))
        if rng.random() < 0.6:
            parts.append(shifted(outline(rng, solid=True), len(parts) - 1, scale * rng.uniform(0.3, 0.6), x, y))
    return parts


def _concentric(rng: Rng) -> Object:
    base = outline(rng, solid=True)
    a, b = rng.uniform(0.5, 0.75), rng.uniform(0.2, 0.4)
    other = base if rng.random() < 0.6 else outline(rng, solid=True)
    return [base, shifted(other, 0, a, *rng.uniform(-0.1, 0.1, 2)), shifted(other, 1, b, *rng.uniform(-0.1, 0.1, 2))]


def split_convex(rng: Rng, polygon: Points, n: int) -> list[Points]:
    """Cut a convex polygon by straight lines into `n` touching convex cells, the largest first each time."""
    cells = [polygon]
    area = lambda p: abs(float(np.sum(p[:, 0] * np.roll(p[:, 1], 1) - p[:, 1] * np.roll(p[:, 0], 1))))  # noqa: E731
    while len(cells) < n:
        cell = cells.pop(int(np.argmax([area(c) for c in cells])))
        angle = rng.uniform(0, np.pi)
        d = (cell - cell.mean(axis=0)) @ (np.cos(angle), np.sin(angle))
        sides: tuple[list[Points], list[Points]] = ([], [])
        for i in range(len(cell)):
            j = (i + 1) % len(cell)
            sides[int(d[i] > 0)].append(cell[i])
            if (d[i] > 0) != (d[j] > 0):
                crossing = cell[i] + (cell[j] - cell[i]) * d[i] / (d[i] - d[j])
                sides[0].append(crossing)
                sides[1].append(crossing)
        cells += [np.array(side) for side in sides]
    return cells


def _patchwork(rng: Rng) -> Object:
    cells = split_convex(rng, box(-2, -2, 2, 2), int(rng.integers(3, 7)))
    parts = [outline(rng, solid=True), *(Part(0, (cell,)) for cell in cells)]
    if rng.random() < 0.5:
        parts.insert(2, shifted(outline(rng, solid=True), 1, 0.3, *cells[0].mean(axis=0) / 2))
    return parts


def _car(rng: Rng) -> Object:
    roof, nose, r = rng.uniform(-0.6, -0.3), rng.uniform(0.4, 0.8), rng.uniform(0.16, 0.28)
    back, front = (
        [(-1, 0.35), (-1, -0.05), (-0.7, -0.1), (-0.5, roof)],
        [(0.3, roof), (nose, -0.05), (1, 0.05), (1, 0.35)],
    )
    body = np.array(back + front)
    parts = [Part(-1), Part(0, (body,))]
    for x0, x1 in ((-0.5, -0.15), (-0.05, 0.3)):
        parts.append(Part(1, (box(x0, roof * 0.8, x1, -0.08),)))
    for x in np.linspace(-0.6, 0.6, int(rng.integers(2, 4))):
        parts += [Part(0, (ellipse(x, 0.38, r),)), Part(len(parts), (ellipse(x, 0.38, r * 0.45),))]
    return parts


def _face(rng: Rng) -> Object:
    ry, r, x = rng.uniform(0.8, 1.2), rng.uniform(0.13, 0.26), rng.uniform(0.3, 0.42)
    parts = [Part(-1, (ellipse(ry=ry),))]
    for side in (-x, x):
        parts += [Part(0, (ellipse(side, -0.2, r),)), Part(len(parts), (ellipse(side, -0.2, r * 0.5),))]
    t = np.linspace(-1, 1, 8)
    bend, y = rng.uniform(-0.2, 0.2), rng.uniform(0.35, 0.5)
    parts.append(Part(0, stroke(np.stack([0.45 * t, y - bend * t**2], axis=1), rng.uniform(0.1, 0.22))))
    if rng.random() < 0.5:
        parts.append(Part(0, (box(-1.2, -1.5, 1.2, -ry * rng.uniform(0.45, 0.7)),)))
    return parts


def _house(rng: Rng) -> Object:
    parts = [Part(-1), Part(0, (box(-0.8, -0.3, 0.8, 1),))]
    n, m = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    for x in np.linspace(-0.5, 0.5, n) if n > 1 else [0.0]:
        for y in np.linspace(-0.05, 0.5, m) if m > 1 else [0.1]:
            parts.append(Part(1, (box(x - 0.16, y - 0.16, x + 0.16, y + 0.16),)))
    parts.append(Part(0, (np.array([(-1, -0.3), (0, -1), (1, -0.3)]),)))
    if rng.random() < 0.6:
        parts.append(Part(len(parts) - 1, (ellipse(0, -0.55, 0.15),)))
    return parts


def _window(rng: Rng) -> Object:
    n, m, w = int(rng.integers(1, 4)), int(rng.integers(1, 3)), 0.12
    xs, ys = np.linspace(-1, 1 + w, n + 1), np.linspace(-1, 1 + w, m + 1)
    parts = [Part(-1, (box(-1 - w, -1 - w, 1 + w, 1 + w),))]
    for i in range(n):
        for j in range(m):
            parts.append(Part(0, (box(xs[i], ys[j], xs[i + 1] - w, ys[j + 1] - w),)))
            if rng.random() < 0.4:
                centre = (xs[i] + xs[i + 1]) / 2, (ys[j] + ys[j + 1]) / 2
                parts.append(shifted(outline(rng, solid=True), len(parts) - 1, 0.6 / max(n, m), *centre))
    return parts


def _flower(rng: Rng) -> Object:
    n, parts = int(rng.integers(4, 8)), [Part(-1)]
    if rng.random() < 0.5:
        parts.append(Part(0, stroke(np.array([(0, 0), (rng.uniform(-0.3, 0.3), 1), (0, 2)]), rng.uniform(0.1, 0.2))))
    length, width = rng.uniform(0.35, 0.5), rng.uniform(0.2, 0.4)
    for t in np.arange(n) * 2 * np.pi / n:
        turn = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
        parts.append(Part(0, (ellipse(0.55, 0, length, width) @ turn,)))
    parts += [Part(0, (ellipse(rx=0.33),)), Part(len(parts), (ellipse(rx=0.15),))]
    return parts


def _tree(rng: Rng) -> Object:
    crown, trunk = outline(rng, solid=True), rng.uniform(0.1, 0.2)
    parts = [Part(-1), Part(0, (box(-trunk, 0, trunk, 1.6),)), shifted(crown, 0, 0.9, 0, -0.3)]
    for _ in range(int(rng.integers(0, 4))):
        parts.append(Part(2, (ellipse(rng.uniform(-0.5, 0.5), rng.uniform(-0.8, 0.2), rng.uniform(0.08, 0.16)),)))
    return parts


def _vessel(rng: Rng) -> Object:
    y = np.linspace(-1, 1, 9)
    half = np.interp(np.linspace(0, 8, 9), [0, 2, 4, 6, 8], rng.uniform(0.2, 0.75, 5))
    body = np.concatenate([np.stack([half, y], axis=1), np.stack([-half, y], axis=1)[::-1]])
    parts = [Part(-1)]
    if rng.random() < 0.6:
        x, r = float(half[4]), rng.uniform(0.3, 0.5)
        parts.append(Part(0, (ellipse(x, 0, r),), (ellipse(x, 0, r * 0.65),)))
    parts.append(Part(0, (body,)))
    label = len(parts)
    parts.append(Part(label - 1, (box(-1, rng.uniform(-0.6, -0.1), 1, rng.uniform(0.1, 0.6)),)))
    parts.append(Part(0, (box(-half[0] - 0.08, -1.2, half[0] + 0.08, -0.95),)))
    return parts


def _fish(rng: Rng) -> Object:
    h = rng.uniform(0.3, 0.6)
    tail = np.array([(0.55, 0), (1.1, -h), (0.95, 0), (1.1, h)])
    parts = [Part(-1), Part(0, (tail,)), Part(0, (ellipse(-0.1, 0, 0.8, h),))]
    parts += [Part(2, (ellipse(-0.6, -h * 0.25, 0.1),)), Part(2, (np.array([(-0.1, 0), (0.3, -0.15), (0.3, 0.2)]),))]
    return parts


def _furniture(rng: Rng) -> Object:
    legs = np.linspace(-0.9, 0.9, int(rng.integers(2, 4)))
    w, top = rng.uniform(0.05, 0.1), rng.uniform(-0.6, 0)
    parts = [Part(-1), *(Part(0, (box(x - w, top, x + w, 1),)) for x in legs)]
    parts.append(Part(0, (box(-1.1, top - 0.12, 1.1, top + 0.1),)))
    if rng.random() < 0.6:
        parts.append(Part(0, (box(-1.1, -1.4, -0.9 + rng.uniform(0, 0.4), top),)))
    return parts


def _caterpillar(rng: Rng) -> Object:
    n = int(rng.integers(3, 7))
    y = rng.uniform(0, 0.3) * np.sin(np.arange(n) * rng.uniform(0.5, 2))
    parts = [Part(-1), *(Part(0, (ellipse(i * 0.5, y[i], 0.32),)) for i in range(n))]
    parts.append(Part(n, (ellipse((n - 1) * 0.5 + 0.1, y[-1] - 0.08, 0.09),)))
    return parts


def _ladder(rng: Rng) -> Object:
    w, n = rng.uniform(0.05, 0.12), int(rng.integers(3, 6))
    rungs = [Part(0, (box(-0.4, y - w, 0.4, y + w),)) for y in np.linspace(-0.8, 0.8, n)]
    rails = [Part(0, (box(x - w, -1.1, x + w, 1.1),)) for x in (-0.4, 0.4)]
    return [Part(-1), *rungs, *rails]


_COMPOSED: tuple[Callable[[Rng], Object], ...] = (
    _decorated, _decorated, _concentric, _patchwork, _car, _face, _house, _window, _flower, _tree, _vessel, _fish,
    _furniture, _caterpillar, _ladder,
)  # fmt: skip


def composed(rng: Rng) -> Object:
    """A random object with parts and, mostly, sub-parts."""
    return _COMPOSED[rng.integers(len(_COMPOSED))](rng)


def touching(rng: Rng) -> list[Object]:
    """A group of touching objects: the cells of a mosaic, or shapes side by side; some of them carry a part."""
    n = int(rng.integers(3, 8))
    if rng.random() < 0.5:
        group = [[Part(-1, (cell,))] for cell in split_convex(rng, ellipse(n=int(rng.integers(4, 9))), n)]
    else:
        columns = int(rng.integers(1, 4))
        group = [[shifted(outline(rng, solid=True), -1, 0.55, i % columns, i // columns)] for i in range(n)]
    for item in group:
        if rng.random() < 0.35:
            centre = item[0].contours[0].mean(axis=0)
            item.append(shifted(outline(rng, solid=True), 0, 0.2, *centre))
    return group
