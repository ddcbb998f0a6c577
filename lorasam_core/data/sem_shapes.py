"""Geometry of generated powders: textures, bodies, and the depth buffer that decides what the beam sees.

Heights are in pixels and point to the beam. Every particle is star-shaped: a smooth body (an ellipsoid or a convex
polyhedron) whose radius is scaled by a skin, 1 + texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

TILE = 256  # side of the periodic texture tiles, pixels
TEXTURES = ("smooth", "grain", "crystallites", "needles", "pits", "striae")
CRYSTALS = ("cube", "octahedron", "truncated", "plate", "prism", "bipyramid")


@dataclass(frozen=True)
class Body:
    """One particle: centre (pixels), radius, and either the matrix of an ellipsoid or the faces of a polyhedron."""

    x: float
    y: float
    z: float
    radius: float
    reach: float  # largest distance of its surface from the centre
    quadric: np.ndarray | None  # (3, 3): x'Qx = 1 on the surface
    faces: np.ndarray | None  # (F, 4): nx, ny, nz, distance in pixels
    skin: tuple[float, float, float]  # where it reads the texture tiles, and the angle
    brightness: float = 1.0


@dataclass(frozen=True)
class Skin:
    """Textures shared by a specimen's particles: tiles (TILE, TILE) float32 in about -1.5..1.5, and amplitudes."""

    fine: np.ndarray
    fine_height: float  # pixels
    coarse: np.ndarray
    coarse_amplitude: float  # of the radius
    rounding: float  # of a polyhedron's edges, of the radius


def _enlarge(tile: np.ndarray, fx: int, fy: int) -> np.ndarray:
    """Resize a tile by whole factors so that it still repeats."""
    padded = cv2.resize(np.pad(tile, 2, mode="wrap"), None, fx=fx, fy=fy, interpolation=cv2.INTER_CUBIC)
    return padded[2 * fy : -2 * fy, 2 * fx : -2 * fx]


def periodic_noise(rng: np.random.Generator, sigma: float, size: int = TILE) -> np.ndarray:
    """Smooth noise that repeats, (size, size) float32, zero mean and unit deviation."""
    if sigma > 6 and size % 4 == 0:  # smooth enough to be made on a quarter of the grid
        return _enlarge(periodic_noise(rng, sigma / 4, size // 4), 4, 4)
    pad = min(size, int(4 * sigma) + 1)
    field = np.pad(rng.standard_normal((size, size), dtype=np.float32), pad, mode="wrap")
    field = cv2.GaussianBlur(field, (0, 0), sigma)[pad:-pad, pad:-pad]
    return (field - field.mean()) / field.std()


def _cells(rng: np.random.Generator, spacing: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Random cells that repeat: distance to the nearest seed over the spacing, and a random value for each cell."""
    n = max(8, int(size[0] * size[1] / spacing**2))
    seeds: np.ndarray = np.zeros(size, np.float32)  # a seed's value where there is one
    seeds[rng.integers(0, size[0], n), rng.integers(0, size[1], n)] = rng.uniform(0.01, 1, n)
    pad = min(int(3 * spacing) + 1, *size)
    seeds = np.pad(seeds, pad, mode="wrap")
    distance, index = cv2.distanceTransformWithLabels(
        (seeds == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values: np.ndarray = np.zeros(index.max() + 1, np.float32)
    values[index[seeds > 0]] = seeds[seeds > 0]
    inner = (slice(pad, -pad), slice(pad, -pad))
    return (distance / spacing)[inner], values[index][inner]


def texture_tile(rng: np.random.Generator, kind: str, grain: float) -> np.ndarray:
    """A tile of one of TEXTURES, (TILE, TILE) float32; `grain` is the size of its features in pixels."""
    if kind == "smooth":
        tile = 0.5 * periodic_noise(rng, grain)
    elif kind == "grain":
        tile = 0.6 * periodic_noise(rng, grain * 0.35) + 0.4 * periodic_noise(rng, grain * 1.5)
    elif kind in ("crystallites", "needles"):
        width = TILE if kind == "crystallites" else TILE // 4
        distance, value = _cells(rng, grain if kind == "crystallites" else grain * 0.6, (TILE, width))
        tile = 1.2 * (value - 0.5) - 1.6 * distance**2 + 0.3
        if kind == "needles":
            tile = _enlarge(tile, 4, 1)
        tile = tile + 0.15 * periodic_noise(rng, 1.0)
    elif kind == "pits":
        tile = 0.4 - 1.8 * np.clip(periodic_noise(rng, grain * 0.5) - 1.0, 0, 1.2) + 0.15 * periodic_noise(rng, 1.0)
    elif kind == "striae":
        tile = cv2.blur(np.tile(periodic_noise(rng, 1.2), (1, 3)), (int(3 * grain) | 1, 1))[:, TILE : 2 * TILE]
        tile = 0.6 * tile / tile.std()
    else:
        raise ValueError(f"texture {kind!r} is unknown; choose one of {', '.join(TEXTURES)}.")
    return np.clip(tile, -1.5, 1.5).astype(np.float32)


def crystal(rng: np.random.Generator, habit: str, r: float, slender: float) -> tuple[np.ndarray, np.ndarray]:
    """Outward normals (F, 3) and distances (F,) of one of CRYSTALS, of radius about `r`, its faces grown unevenly."""
    cube = np.eye(3)
    octahedron = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]) / 3**0.5
    sides = np.array([[np.cos(a), np.sin(a), 0] for a in (0, np.pi / 3, 2 * np.pi / 3)])
    normals, distance = {
        "cube": (cube, [0.68] * 3),
        "octahedron": (octahedron, [0.62] * 4),
        "truncated": (np.vstack([cube, octahedron]), [0.78] * 7),
        "plate": (np.vstack([sides, cube[2:]]), [0.85] * 3 + [0.25]),
        "prism": (np.vstack([sides, cube[2:]]), [0.52] * 3 + [0.5 * slender]),
        "bipyramid": (np.vstack([sides * 0.9 + [0, 0, 0.436], sides * 0.9 - [0, 0, 0.436]]), [0.55] * 6),
    }[habit]
    grown = r * np.asarray(distance) * rng.uniform(0.92, 1.08, len(normals))
    return np.vstack([normals, -normals]), np.concatenate([grown, grown])


def fragment(rng: np.random.Generator, r: float) -> tuple[np.ndarray, np.ndarray]:
    """Normals and distances of an irregular convex fragment of radius about `r`, as milling makes them."""
    normals = rng.normal(size=(9, 3))
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    return np.vstack([normals, -normals]), r * rng.uniform(0.68, 1.0, 18)


def _scale(skin: Skin, body: Body, x: np.ndarray, y: np.ndarray, stretch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factor on the radius and the fine texture, both over the window; `stretch` undoes foreshortening."""
    ou, ov, angle = body.skin
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (c * x - s * y) * stretch, (s * x + c * y) * stretch
    fine = cv2.remap(skin.fine, u + np.float32(ou), v + np.float32(ov), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    factor = 1 + np.float32(min(skin.fine_height / body.radius, 0.1)) * fine
    if skin.coarse_amplitude > 0:
        k = np.float32(TILE / 5 / body.radius)  # five radii a tile: about two lobes across a particle
        u, v = u * k + np.float32(ov), v * k + np.float32(ou)
        factor += np.float32(skin.coarse_amplitude) * cv2.remap(
            skin.coarse, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
    return factor, fine


def _ellipsoid(body: Body, skin: Skin, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert body.quadric is not None
    q: np.ndarray = body.quadric.astype(np.float32)
    b = q[0, 2] * x + q[1, 2] * y
    inside = b * b - q[2, 2] * (q[0, 0] * x * x + (2 * q[0, 1] * x + q[1, 1] * y) * y)
    t = np.clip(-inside / q[2, 2], 0, 1)  # 0 in the middle, 1 at the outline
    scale, fine = _scale(skin, body, x, y, 1 + t * (1 / 6 + t * (0.075 + t * 0.195)))  # asin(s)/s, s*s = t
    root = inside + q[2, 2] * (scale * scale)
    height = (np.sqrt(np.maximum(root, 0)) - b) / q[2, 2]
    height[root <= 0] = -np.inf
    return height, fine


def _polyhedron(body: Body, skin: Skin, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert body.faces is not None
    scale, fine = _scale(skin, body, x, y, np.ones((len(y), x.shape[1]), np.float32))
    top = np.full(fine.shape, 1e4, np.float32)
    bottom = np.full(fine.shape, -1e4, np.float32)
    k = np.float32(max(skin.rounding * body.radius, 0.1))
    for nx, ny, nz, d in body.faces.astype(np.float32):
        nz = nz if abs(nz) > 2e-3 else np.float32(2e-3)
        plane = (d * scale - (nx * x + ny * y)) / nz
        if nz > 0:  # a smooth minimum rounds the edges
            blend = np.maximum(k - np.abs(top - plane), 0)
            top = np.minimum(top, plane) - blend * blend / (4 * k)
        else:
            np.maximum(bottom, plane, out=bottom)
    top[top <= bottom] = -np.inf
    return top, fine


def depth_buffer(bodies: list[Body], skin: Skin, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw bodies over a floor (H, W).

    Returns three arrays (H, W): height float32; the body seen, int32, its place in the list + 1, 0 for the floor;
    and the fine texture there, float32.
    """
    height: np.ndarray = floor.astype(np.float32)
    owner: np.ndarray = np.zeros(floor.shape, np.int32)
    texture: np.ndarray = np.zeros(floor.shape, np.float32)
    rows, cols = floor.shape
    for index in sorted(range(len(bodies)), key=lambda i: -bodies[i].z - bodies[i].reach):
        body = bodies[index]
        reach = body.reach + 1
        x0, x1 = max(int(body.x - reach), 0), min(int(body.x + reach) + 1, cols)
        y0, y1 = max(int(body.y - reach), 0), min(int(body.y + reach) + 1, rows)
        if x0 >= x1 or y0 >= y1:
            continue
        window = (slice(y0, y1), slice(x0, x1))
        if height[window].min() > body.z + reach:  # nearest first: this one is hidden
            continue
        x = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(body.x)
        y = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(body.y)
        surface, fine = (_ellipsoid if body.faces is None else _polyhedron)(body, skin, x, y)
        surface += np.float32(body.z)
        front = surface > height[window]
        np.copyto(height[window], surface, where=front)
        np.copyto(texture[window], fine, where=front)
        owner[window][front] = index + 1
    return height, owner, texture
