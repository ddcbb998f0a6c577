"""Generated scenes of describable objects with exact nested masks: what the compact SAM is trained on.

A scene is a few to two dozen coloured or grey objects (outlines, vehicles, faces, letters, windows, mosaics ...) on a
plain or structured ground, lit, shaded, shadowed and occluding each other. They are on purpose unlike micrographs of
particles: few objects of many shapes, sizes from 8 to 200 pixels (of 256) in one image, parts within wholes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from lorasam_core.data.outlines import Part, Rng, outline
from lorasam_core.data.shapes import Object, composed, touching

SCENES_VERSION = 1  # part of every fingerprint: raise it whenever a scene of the same seed and index changes
MIN_AREA = 12  # visible pixels of a mask
MAX_MASKS = 25
MIN_MASKS = 3
_REFERENCE = 256  # the sizes in pixels below are for this image side
_MIN_VISIBLE = 0.12  # share of a mask's own area that must be visible for it to be describable
_MAX_SHARE = 0.92  # a part that is more of its parent than this says the same as its parent
_FINE = 4  # supersampling of every outline


@dataclass(frozen=True)
class Scene:
    """One generated image and its masks.

    `image` uint8 (S, S, 3) RGB; `masks` bool (N, S, S), what is visible of each object; `levels` int8 (N,), 0 whole,
    1 part, 2 sub-part; `parents` int32 (N,), index of the mask that holds it, -1 for a whole. A parent precedes its
    children and contains them; masks of which neither is an ancestor of the other share no pixel.
    """

    image: np.ndarray
    masks: np.ndarray
    levels: np.ndarray
    parents: np.ndarray


@dataclass(frozen=True)
class _Look:
    """What the objects of one scene share."""

    light: np.ndarray  # (2,) unit vector XY towards which things darken
    shading: float
    shadow: float
    palette: np.ndarray  # (P, 3) RGB
    scale: float  # image side over the reference side


def _colours(rng: Rng, n: int) -> np.ndarray:
    """(n, 3) RGB in 0..255 of varied hue, saturation and value."""
    hsv = np.stack([rng.integers(0, 180, n), 255 * rng.random(n) ** 0.7, rng.uniform(15, 255, n)], axis=1)
    return cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32)


def _smooth_noise(rng: Rng, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Float32 field in 0..1 whose features are about `cell` pixels wide."""
    coarse = [int(side / cell) + 2 for side in shape]
    return cv2.resize(rng.random(coarse, dtype=np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


def _texture(rng: Rng, shape: tuple[int, int], period: float) -> np.ndarray | None:
    """Float32 field (h, w) in 0..1 that mixes two colours, or None for a flat region."""
    kind = rng.choice(["flat", "gradient", "stripes", "checks", "dots", "cloud", "grain", "grain"], p=_TEXTURE_ODDS)
    if kind == "flat":
        return None
    if kind == "cloud":
        return _smooth_noise(rng, shape, period)
    if kind == "grain":
        return rng.random(shape, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    y = np.arange(shape[0], dtype=np.float32)[:, None] - shape[0] / 2
    x = np.arange(shape[1], dtype=np.float32)[None] - shape[1] / 2
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = c * x + s * y
    if kind == "gradient":
        return np.clip(u / (max(shape) + 1) + 0.5, 0, 1)
    u *= np.float32(np.pi / period)
    if kind == "stripes":
        hard = rng.random() < 0.5
        u = np.sin(u)
        return (u > 0).astype(np.float32) if hard else u * 0.5 + 0.5
    v = np.float32(np.pi / period) * (c * y - s * x)
    wave = np.sin(u) * np.sin(v)
    return (wave > (0 if kind == "checks" else 0.4)).astype(np.float32)


_TEXTURE_ODDS = (0.34, 0.18, 0.14, 0.07, 0.06, 0.11, 0.05, 0.05)


def _fill(rng: Rng, shape: tuple[int, int], colour: np.ndarray, palette: np.ndarray, scale: float) -> np.ndarray:
    """Colours (h, w, 3) or (1, 1, 3) float32 of one region: a texture between its colour and a second one."""
    texture = _texture(rng, shape, max(2.5, scale * float(np.exp(rng.uniform(np.log(5), np.log(40))))))
    if texture is None:
        return colour[None, None]
    other = palette[rng.integers(len(palette))]
    amount = np.float32(rng.uniform(0.1, 0.9) ** 1.5)
    return colour + (texture * amount)[..., None] * (other - colour)


def _background(rng: Rng, size: int, look: _Look) -> np.ndarray:
    """Float32 (S, S, 3): plain, textured, split by a horizon, or crossed by lines that belong to no object."""
    base = look.palette[0]
    canvas = np.empty((size, size, 3), dtype=np.float32)
    canvas[:] = _fill(rng, (size, size), base, look.palette, 2 * look.scale)
    structure = rng.random()
    if structure < 0.2:
        row = int(rng.uniform(0.3, 0.8) * size)
        canvas[row:] = _fill(rng, (size - row, size), look.palette[1], look.palette, 2 * look.scale)
    elif structure < 0.4:
        for _ in range(int(rng.integers(2, 9))):
            a, b = rng.integers(0, size, (2, 2))
            colour = look.palette[rng.integers(len(look.palette))] * 0.4 + base * 0.6
            cv2.line(canvas, a.tolist(), b.tolist(), colour.tolist(), 1, cv2.LINE_AA)
    elif structure < 0.6:
        canvas += (_smooth_noise(rng, (size, size), size / 4)[..., None] - 0.5) * rng.uniform(20, 90)
    return canvas


def _place(rng: Rng, group: list[Object], size: int, diameter: float) -> list[Object]:
    """Turn, stretch and move a group so that its longer side is `diameter` pixels."""
    turn = rng.normal(0, 0.2) if len(group[0]) > 1 else rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    stretch = np.diag([rng.choice([-1, 1]), 1]) * np.exp(rng.normal(0, 0.15, 2))
    matrix = stretch @ np.array([[1, rng.normal(0, 0.1)], [0, 1]]) @ np.array([[c, s], [-s, c]])
    points = np.concatenate([p for item in group for part in _outer(item) for p in part.contours]) @ matrix
    low, high = points.min(axis=0), points.max(axis=0)
    factor = diameter / max(float((high - low).max()), 1e-6)
    offset = rng.uniform(0.04, 0.96, 2) * size - (low + high) / 2 * factor
    move = lambda polygons: tuple(p @ matrix * factor + offset for p in polygons)  # noqa: E731
    return [[Part(part.parent, move(part.contours), move(part.holes)) for part in item] for item in group]


def _outer(item: Object) -> list[Part]:
    """The parts that span an object: its whole, or the children of a whole that is their union."""
    return item[:1] if item[0].contours else [part for part in item if part.parent == 0]


def _cover(part: Part, size: int) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """Uint8 coverage 0..255 of a part within its window of the image; None where it lies outside."""
    points = np.concatenate(part.contours)
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, size)
    if (high - low < 1).any():
        return None
    w, h = (int(v) for v in high - low)
    fine = np.zeros((h * _FINE, w * _FINE), dtype=np.uint8)
    for value, polygons in ((255, part.contours), (0, part.holes)):
        for p in polygons:
            cv2.fillPoly(fine, [np.round((p - low) * _FINE - 0.5).astype(np.int32)], value)
    return cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA), (slice(low[1], high[1]), slice(low[0], high[0]))


def _covers(item: Object, size: int) -> list[tuple[np.ndarray, tuple[slice, slice]] | None]:
    """Coverage of every part, cut to its parent's, over the window it needs; a union takes the whole image."""
    whole = np.zeros((size, size), dtype=np.uint8)
    full: list[np.ndarray] = []
    covers: list[tuple[np.ndarray, tuple[slice, slice]] | None] = []
    union = not item[0].contours
    for part in item:
        cover = _cover(part, size) if part.contours else None
        if cover is not None:
            alpha, window = cover
            if part.parent > 0 or (part.parent == 0 and not union):
                np.minimum(alpha, full[part.parent][window], out=alpha)
            elif union:
                np.maximum(whole[window], alpha, out=whole[window])
        page = np.zeros((size, size), dtype=np.uint8) if len(item) > 1 else whole
        if cover is not None:
            page[cover[1]] = cover[0]
        full.append(page)
        covers.append(cover)
    if union and whole.any():
        x, y, w, h = cv2.boundingRect(whole)
        window = (slice(y, y + h), slice(x, x + w))
        covers[0] = whole[window], window
    return covers


def _shadow(canvas: np.ndarray, alpha: np.ndarray, window: tuple[slice, slice], look: _Look) -> None:
    """Darken the ground beside a silhouette, on the side away from the light."""
    size = len(canvas)
    reach = int(2 + 0.1 * min(alpha.shape))
    dx, dy = (int(round(v * reach)) for v in look.light)
    pad = 2 * reach
    soft = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    soft = cv2.blur(soft, (reach | 1, reach | 1))
    y, x = window[0].start - pad + dy, window[1].start - pad + dx
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + soft.shape[0], size), min(x + soft.shape[1], size)
    if y1 > y0 and x1 > x0:
        canvas[y0:y1, x0:x1] *= 1 - np.float32(look.shadow / 255) * soft[y0 - y : y1 - y, x0 - x : x1 - x, None]


def _paint(rng: Rng, canvas: np.ndarray, alpha: np.ndarray, window: tuple[slice, slice], look: _Look) -> None:
    """Blend one region into the canvas: colour or near-background colour, texture, lighting, sometimes a contour line."""
    ground = canvas[window]
    colour = look.palette[rng.integers(len(look.palette))]
    if rng.random() < 0.3:  # like what is behind it: only edges, texture and shade tell
        colour = ground[alpha.shape[0] // 2, alpha.shape[1] // 2] + rng.normal(0, 22, 3).astype(np.float32)
    else:
        colour = colour + rng.normal(0, 18, 3).astype(np.float32)
    surface = _fill(rng, alpha.shape, colour, look.palette, look.scale)
    if look.shading > 0.05:
        h, w = alpha.shape
        ramp = look.light[1] * np.linspace(-1, 1, h)[:, None] + look.light[0] * np.linspace(-1, 1, w)[None]
        surface = surface * (1 - look.shading * ramp.astype(np.float32))[..., None]
    if rng.random() < 0.25 and min(alpha.shape) > 12:
        inner = cv2.erode(alpha, np.ones((3, 3), np.uint8))
        line = (alpha - inner)[..., None] * np.float32(rng.uniform(0.3, 0.9) / 255)
        surface = surface * (1 - line) + line * np.float32(rng.choice([10, 245]))
    ground += (surface - ground) * (alpha[..., None] * np.float32(1 / 255))


def _draw(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compose a scene: canvas (S, S, 3) float32, owner (S, S) uint8 (0: ground), parents (K,), own areas (K,)."""
    angle = rng.uniform(0, 2 * np.pi)
    look = _Look(
        light=np.array([np.cos(angle), np.sin(angle)]),
        shading=rng.uniform(0, 0.4) * rng.integers(2),
        shadow=rng.uniform(0.2, 0.7) * (rng.random() < 0.5),
        palette=_colours(rng, int(rng.integers(5, 13))),
        scale=size / _REFERENCE,
    )
    canvas = _background(rng, size, look)
    owner = np.zeros((size, size), dtype=np.uint8)
    parents: list[int] = []
    areas: list[int] = []
    wanted = int(rng.integers(4, 14))
    diameters = np.exp(rng.uniform(np.log(8), np.log(200), wanted)) * look.scale
    order = np.argsort(-diameters * np.exp(rng.normal(0, 0.4, wanted)))  # small things mostly lie in front
    for diameter in diameters[order]:
        kind = rng.random()
        simple = kind < 0.4 or diameter < 16 * look.scale
        group = [[outline(rng)]] if simple else [composed(rng)] if kind < 0.88 else touching(rng)
        if len(parents) + sum(map(len, group)) > MAX_MASKS:
            continue
        for item in _place(rng, group, size, diameter):
            first = len(parents)
            covers = _covers(item, size)
            if look.shadow and covers[0] is not None and len(group) == 1:
                _shadow(canvas, *covers[0], look)
            for part, cover in zip(item, covers, strict=True):
                parents.append(part.parent + first if part.parent >= 0 else -1)
                areas.append(0)
                if cover is None:
                    continue
                alpha, window = cover
                hard = alpha >= 128
                areas[-1] = int(np.count_nonzero(hard))
                if part.contours:
                    owner[window][hard] = len(parents)
                    _paint(rng, canvas, alpha, window, look)
    return canvas, owner, np.array(parents, dtype=np.int32), np.array(areas)


def _masks(owner: np.ndarray, parents: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visible masks, levels and parents of the regions that are large, visible and distinct enough."""
    n = len(parents)
    holds = np.zeros((n, 256), dtype=np.uint8)  # region -> the owner values within it
    for i in range(n):
        j = i
        while j >= 0:
            holds[j, i + 1] = 1
            j = parents[j]
    visible = holds @ np.bincount(owner.ravel(), minlength=256)
    new_index, levels, new_parents = np.full(n, -1), [], []
    for i, parent in enumerate(parents):
        good = visible[i] >= max(MIN_AREA, _MIN_VISIBLE * areas[i])
        if parent >= 0:
            good &= new_index[parent] >= 0 and visible[i] <= _MAX_SHARE * visible[parent]
        if good:
            new_index[i] = len(levels)
            new_parents.append(new_index[parent] if parent >= 0 else -1)
            levels.append(levels[new_parents[-1]] + 1 if parent >= 0 else 0)
    kept = np.flatnonzero(new_index >= 0)
    masks = np.empty((len(kept), *owner.shape), dtype=np.uint8)
    for mask, i in zip(masks, kept, strict=True):
        cv2.LUT(owner, holds[i], dst=mask)
    return masks.view(bool), np.array(levels, dtype=np.int8), np.array(new_parents, dtype=np.int32)


def _finish(rng: Rng, canvas: np.ndarray, scale: float) -> np.ndarray:
    """The camera: light across the image, contrast, blur, noise and, for three images in ten, grey. uint8 (S, S, 3)."""
    size = len(canvas)
    if rng.random() < 0.3:
        weights = rng.dirichlet([3, 6, 2]).astype(np.float32)
        canvas = (canvas.reshape(-1, 3) @ weights).reshape(size, size, 1)
    ramp = np.linspace(-1, 1, size, dtype=np.float32) * np.float32(rng.uniform(-0.25, 0.25))
    canvas = canvas * (1 + (ramp if rng.random() < 0.5 else ramp[:, None]))[..., None]
    contrast = np.float32(np.exp(rng.uniform(np.log(0.25), 0))) if rng.random() < 0.35 else np.float32(1)
    middle = np.float32(rng.uniform(70, 190))
    canvas = np.clip(canvas, 0, 255) * contrast + (1 - contrast) * middle
    if rng.random() < 0.4:
        sigma = rng.uniform(0.3, 1.4) * max(scale, 0.5)
        canvas = cv2.GaussianBlur(canvas, (0, 0), sigma).reshape(size, size, -1)
    if rng.random() < 0.5:
        amount = np.float32(rng.uniform(1, 12)) * contrast
        canvas = canvas + amount * rng.standard_normal(canvas.shape, dtype=np.float32)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (size, size, 3)))


def generate_scene(seed: int, index: int, size: int = 256) -> Scene:
    """Scene `index` of the series `seed`, `size` pixels a side: a pure function of its arguments.

    Objects are 8 to 200 pixels long at a side of 256 (in proportion elsewhere); 3 to 25 masks of at least 12 visible
    pixels. Raises ValueError for a negative seed or index, or a side under 64 pixels.
    """
    if seed < 0 or index < 0 or size < 64:
        raise ValueError(f"seed {seed}, index {index}, size {size}: give a seed and an index from 0 and a side of 64 or more")
    rng = np.random.default_rng((SCENES_VERSION, seed, index, size))
    while True:
        canvas, owner, parents, areas = _draw(rng, size)
        masks, levels, new_parents = _masks(owner, parents, areas)
        if len(masks) >= MIN_MASKS:
            return Scene(_finish(rng, canvas, size / _REFERENCE), masks, levels, new_parents)


def scene_batch(seed: int, indices: Iterable[int], size: int = 256) -> list[Scene]:
    """The scenes of these indices, in order."""
    return [generate_scene(seed, int(index), size) for index in indices]
