"""Generated heaps of like things: pebbles, coins, leaves or tiles, strewn, touching and covering one another.

What the scenes lack: one image full of objects of one kind, side by side, whose edges are what tells them apart.
"""

from __future__ import annotations

import numpy as np

from pretrain.outlines import Part, Rng, outline
from pretrain.scenes import Look, background, coverage, finish, paint, shadow
from pretrain.textures import colours

HEAPS_VERSION = 1
REFERENCE = 512  # pixels: the side for which the sizes below are
DIAMETERS = (12.0, 130.0)  # pixels, of the mean object of a heap
SPREAD = (0.05, 0.5)  # standard deviation of the logarithm of the diameters within a heap
COVER = (0.15, 1.6)  # area of all objects over that of the image, were none covered
MOST = 250  # objects an image
KINDS = 0.75  # share of heaps whose objects have one outline, turned; the others' are each of their own


def _placed(rng: Rng, shape: Part, diameter: float, centre: np.ndarray) -> Part:
    """The outline, turned, stretched a little, moved to its centre."""
    angle, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.normal(0, 0.12, 2))
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.diag(stretch) @ np.array([[c, s], [-s, c]]) * (diameter / 2)
    return shape.map(lambda points: points @ matrix + centre)


def _centres(rng: Rng, count: int, size: int) -> np.ndarray:
    """(count, 2) XY: evenly strewn, or gathered in a few drifts."""
    if rng.random() < 0.6:
        return rng.uniform(0, size, (count, 2))
    drifts = rng.uniform(0.1, 0.9, (int(rng.integers(1, 5)), 2)) * size
    around = rng.normal(0, rng.uniform(0.08, 0.25) * size, (count, 2))
    return np.clip(drifts[rng.integers(len(drifts), size=count)] + around, 0, size - 1)


def generate_heap(seed: int, index: int, size: int = REFERENCE) -> tuple[np.ndarray, np.ndarray]:
    """Heap `index` of the series `seed`: uint8 (S, S, 3) RGB and int32 (S, S), a number for the topmost object at each
    pixel, 0 for the ground. A pure function of its arguments.
    """
    rng = np.random.default_rng((HEAPS_VERSION, seed, index, size, 11))
    scale = size / REFERENCE
    angle, palette = rng.uniform(0, 2 * np.pi), colours(rng, int(rng.integers(2, 6)))
    look = Look(
        light=np.array([np.cos(angle), np.sin(angle)]), shading=rng.uniform(0, 0.5), palette=palette, scale=2 * scale,
        shadow=rng.uniform(0.2, 0.8) * (rng.random() < 0.6),
    )  # fmt: skip
    canvas = background(rng, size, look)
    if rng.random() < 0.5:  # all of one or two colours
        look = Look(look.light, look.shading, look.shadow, palette[: rng.integers(1, 3)], look.scale)
    mean = float(np.exp(rng.uniform(*np.log(DIAMETERS)))) * scale
    spread, cover = rng.uniform(*SPREAD), rng.uniform(*COVER)
    count = int(np.clip(cover * size**2 / (0.7 * mean**2), 4, MOST))
    diameters = mean * np.exp(rng.normal(0, spread, count))
    if rng.random() < 0.5:
        diameters = -np.sort(-diameters)  # the small ones on top
    common = outline(rng, solid=rng.random() < 0.85) if rng.random() < KINDS else None
    labels: np.ndarray = np.zeros((size, size), np.int32)
    for number, (diameter, centre) in enumerate(zip(diameters, _centres(rng, count, size), strict=True), 1):
        shape = common or outline(rng, solid=True)
        found = coverage(_placed(rng, shape, diameter, centre), size)
        if found is None:
            continue
        alpha, window = found
        if look.shadow:
            shadow(canvas, alpha, window, look)
        paint(rng, canvas, alpha, window, look)
        labels[window][alpha >= 128] = number
    return finish(rng, canvas, scale), labels
