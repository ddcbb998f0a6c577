"""Generated scenes of describable objects with exact nested masks: what the compact SAM is trained on.

A scene is a few to two dozen coloured or grey objects (outlines, vehicles, faces, letters, windows, mosaics ...) on a
plain or structured ground, lit, shaded, shadowed and occluding each other. They are on purpose unlike micrographs of
particles: few objects of many shapes, sizes from 8 to 200 pixels (of 256) in one image, parts within wholes.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pretrain.outlines import Part, Rng, outline
from pretrain.shapes import Object, composed, touching
from pretrain.textures import apart, colours, slope, smooth_noise, surface

SCENES_VERSION = 1  # part of every fingerprint: raise it whenever a scene of the same seed and index changes
MIN_AREA = 12  # visible pixels of a mask
MAX_MASKS = 25
MIN_MASKS = 3
_REFERENCE = 256  # the sizes in pixels below are for this image side
_MIN_VISIBLE = 0.12  # share of a mask's own area that must be visible for it to be describable
_MAX_SHARE = 0.92  # a part that is more of its parent than this says the same as its parent
_FINE = 4  # supersampling of every outline
_NEIGHBOURS: np.ndarray = np.ones((3, 3), np.uint8)

Window = tuple[slice, slice]  # rows, columns
Cover = tuple[np.ndarray, Window]  # uint8 coverage 0..255, and where it lies


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
class Look:
    """What the objects of one scene share."""

    light: np.ndarray  # (2,) unit vector XY towards which things darken
    shading: float
    shadow: float
    palette: np.ndarray  # (P, 3) RGB
    scale: float  # image side over the reference side


def background(rng: Rng, size: int, look: Look) -> np.ndarray:
    """Float32 (3, S, S): plain, textured, split by a horizon, or crossed by lines that belong to no object."""
    base = look.palette[0]
    canvas: np.ndarray = np.empty((3, size, size), dtype=np.float32)
    canvas[:] = surface(rng, (size, size), base, look.palette, 2 * look.scale)
    structure = rng.random()
    if structure < 0.2:
        row = int(rng.uniform(0.3, 0.8) * size)
        canvas[:, row:] = surface(rng, (size - row, size), look.palette[1], look.palette, 2 * look.scale)
    elif structure < 0.4:
        for _ in range(int(rng.integers(2, 9))):
            a, b = rng.integers(0, size, (2, 2)).tolist()
            colour = look.palette[rng.integers(len(look.palette))] * 0.4 + base * 0.6
            for plane, value in zip(canvas, colour, strict=True):
                cv2.line(plane, a, b, float(value), 1)
    elif structure < 0.6:
        canvas += (smooth_noise(rng, (size, size), size / 4) - np.float32(0.5)) * np.float32(rng.uniform(20, 90))
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
    return [[part.map(lambda p: p @ (matrix * factor) + offset) for part in item] for item in group]


def _outer(item: Object) -> list[Part]:
    """The parts that span an object: its whole, or the children of a whole that is their union."""
    return item[:1] if item[0].contours else [part for part in item if part.parent == 0]


def coverage(part: Part, size: int) -> Cover | None:
    """Uint8 coverage 0..255 of a part within its window of the image; None where it lies outside or is too small."""
    points = np.concatenate(part.contours)
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, size)
    w, h = (int(v) for v in high - low)
    if min(w, h) < 1 or w * h < MIN_AREA:
        return None
    fine: np.ndarray = np.zeros((h * _FINE, w * _FINE), dtype=np.uint8)
    for value, polygons in ((255, part.contours), (0, part.holes)):
        for p in polygons:
            cv2.fillPoly(fine, [np.round((p - low) * _FINE - 0.5).astype(np.int32)], value)
    return cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA), (slice(low[1], high[1]), slice(low[0], high[0]))


def _covers(item: Object, size: int) -> list[Cover | None]:
    """Coverage of every part, cut to its parent's, over the window it needs; a union takes the whole image."""
    whole: np.ndarray = np.zeros((size, size), dtype=np.uint8)
    full: list[np.ndarray] = []
    covers: list[Cover | None] = []
    union = not item[0].contours
    for part in item:
        cover = coverage(part, size) if part.contours else None
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


def shadow(canvas: np.ndarray, alpha: np.ndarray, window: Window, look: Look) -> None:
    """Darken the ground beside a silhouette, on the side away from the light."""
    size = canvas.shape[1]
    reach = int(2 + 0.1 * min(alpha.shape))
    dx, dy = (round(v * reach) for v in look.light)
    pad = 2 * reach
    soft = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    soft = cv2.blur(soft, (reach | 1, reach | 1))
    y, x = window[0].start - pad + dy, window[1].start - pad + dx
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + soft.shape[0], size), min(x + soft.shape[1], size)
    if y1 > y0 and x1 > x0:
        canvas[:, y0:y1, x0:x1] *= 1 - np.float32(look.shadow / 255) * soft[y0 - y : y1 - y, x0 - x : x1 - x]


def paint(rng: Rng, canvas: np.ndarray, alpha: np.ndarray, window: Window, look: Look) -> None:
    """Blend one region into the canvas: colour or near-ground colour, texture, lighting, sometimes a contour line."""
    ground = canvas[:, window[0], window[1]]
    weight = alpha * np.float32(1 / 255)
    behind = np.einsum("chw,hw->c", ground, weight) / max(float(weight.sum()), 1e-3)
    if rng.random() < 0.3:  # like what is behind it: only edges, texture and shade tell
        colour = behind + rng.normal(0, 22, 3)
    else:
        colour = look.palette[rng.integers(len(look.palette))] + rng.normal(0, 18, 3)
    paint = surface(rng, alpha.shape, apart(colour.astype(np.float32), behind, 18), look.palette, look.scale)
    if look.shading:
        paint = paint * (1 - np.float32(look.shading) * slope(alpha.shape, look.light))
    if rng.random() < 0.25 and min(alpha.shape) > 12:
        line = (alpha - cv2.erode(alpha, _NEIGHBOURS)) * np.float32(rng.uniform(0.3, 0.9) / 255)
        paint = paint + line * (np.float32(10 if rng.random() < 0.5 else 245) - paint)
    ground += (paint - ground) * weight


def _draw(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compose a scene: canvas (3, S, S) float32, owner (S, S) uint8 (0: ground), parents (K,), own areas (K,)."""
    angle = rng.uniform(0, 2 * np.pi)
    look = Look(
        light=np.array([np.cos(angle), np.sin(angle)]),
        shading=rng.uniform(0, 0.4) * rng.integers(2),
        shadow=rng.uniform(0.2, 0.7) * (rng.random() < 0.5),
        palette=colours(rng, int(rng.integers(5, 13))),
        scale=size / _REFERENCE,
    )
    canvas = background(rng, size, look)
    owner: np.ndarray = np.zeros((size, size), dtype=np.uint8)
    parents: list[int] = []
    areas: list[int] = []
    wanted = int(rng.integers(4, 14))
    diameters = np.exp(rng.uniform(np.log(max(8 * look.scale, 6)), np.log(200 * look.scale), wanted))
    order = np.argsort(-diameters * np.exp(rng.normal(0, 0.4, wanted)))  # small things mostly lie in front
    for diameter in diameters[order]:
        kind = rng.random()
        simple = kind < 0.4 or diameter < 18
        group = [[outline(rng)]] if simple else [composed(rng)] if kind < 0.88 else touching(rng)
        if len(parents) + sum(map(len, group)) > MAX_MASKS:
            continue
        for item in _place(rng, group, size, diameter):
            first = len(parents)
            covers = _covers(item, size)
            if look.shadow and covers[0] is not None and len(group) == 1:
                shadow(canvas, *covers[0], look)
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
                    paint(rng, canvas, alpha, window, look)
    return canvas, owner, np.array(parents, dtype=np.int32), np.array(areas)


def _masks(owner: np.ndarray, parents: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visible masks, levels and parents of the regions that are large, visible and distinct enough."""
    n = len(parents)
    holds: np.ndarray = np.zeros((n, 256), dtype=np.uint8)  # region -> the owner values within it
    for i in range(n):
        j = i
        while j >= 0:
            holds[j, i + 1] = 1
            j = int(parents[j])
    visible = holds @ np.bincount(owner.ravel(), minlength=256)
    new_index, levels, new_parents = [-1] * n, list[int](), list[int]()
    for i, parent in enumerate(parents):
        good = visible[i] >= max(MIN_AREA, _MIN_VISIBLE * areas[i])
        if parent >= 0:
            good &= new_index[parent] >= 0 and visible[i] <= _MAX_SHARE * visible[parent]
        if good:
            new_index[i] = len(levels)
            new_parents.append(new_index[parent] if parent >= 0 else -1)
            levels.append(levels[new_parents[-1]] + 1 if parent >= 0 else 0)
    kept = [i for i in range(n) if new_index[i] >= 0]
    masks = np.empty((len(kept), *owner.shape), dtype=np.uint8)
    for mask, row in zip(masks, holds[kept], strict=True):
        cv2.LUT(owner, row, dst=mask)
    return masks.view(bool), np.array(levels, dtype=np.int8), np.array(new_parents, dtype=np.int32)


def finish(rng: Rng, canvas: np.ndarray, scale: float) -> np.ndarray:
    """The camera: light across the image, contrast, blur, noise; three images in ten are grey. uint8 (S, S, 3)."""
    size = canvas.shape[1]
    np.clip(canvas, 0, 255, out=canvas)
    if rng.random() < 0.3:
        canvas = np.einsum("chw,c->hw", canvas, rng.dirichlet([3, 6, 2]).astype(np.float32))[None]
    angle = rng.uniform(0, 2 * np.pi)
    contrast = float(np.exp(rng.uniform(np.log(0.3), 0))) if rng.random() < 0.35 else 1.0
    lit: np.ndarray = slope((size, size), rng.uniform(0, 0.2) * np.array([np.cos(angle), np.sin(angle)])) + 1
    canvas = canvas * (lit * np.float32(contrast)) + np.float32((1 - contrast) * rng.uniform(70, 190))
    if rng.random() < 0.4:
        sigma = rng.uniform(0.3, 1.4) * max(scale, 0.5)
        canvas = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in canvas])
    if rng.random() < 0.5:
        noise = rng.standard_normal(canvas.shape, dtype=np.float32)
        canvas = canvas + np.float32(rng.uniform(1, 12) * contrast) * noise
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return cv2.merge([image[0], image[min(1, len(image) - 1)], image[-1]])  # C H W -> H W C


def generate_scene(seed: int, index: int, size: int = 256) -> Scene:
    """Scene `index` of the series `seed`, `size` pixels a side: a pure function of its arguments.

    Objects are 8 to 200 pixels long at a side of 256 (in proportion elsewhere, but 6 at least); 3 to 25 masks of at
    least 12 visible pixels. Raises ValueError for a negative seed or index, or a side under 64 pixels.
    """
    if seed < 0 or index < 0 or size < 64:
        raise ValueError(f"seed {seed}, index {index}, size {size}: seed and index start at 0, the side at 64 pixels")
    rng = np.random.default_rng((SCENES_VERSION, seed, index, size))
    while True:
        canvas, owner, parents, areas = _draw(rng, size)
        masks, levels, new_parents = _masks(owner, parents, areas)
        if len(masks) >= MIN_MASKS:
            return Scene(finish(rng, canvas, size / _REFERENCE), masks, levels, new_parents)
