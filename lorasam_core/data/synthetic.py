"""Generated scanning electron micrographs of powders, with exact instance labels.

Particles are dropped as spheres onto a substrate or a pile (the lowest of several candidate places wins), given their
shapes, drawn into a depth buffer and imaged by `sem_render`. A specimen, three images, shares material, detector and
magnification. Everything is a function of (seed, index).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .sample import Sample
from .sem_render import TILE, Body, Optics, Skin, depth_buffer, exposure, micrograph

GENERATOR_VERSION = 1  # raised whenever the images change
IMAGES_PER_SPECIMEN = 3
MIN_AREA = 40  # pixels; smaller visible parts of a particle are not labelled
MIN_EXPOSURE = 0.3  # mean exposure; parts in deeper shadow are not labelled

ARRANGEMENTS = ("dispersed", "monolayer", "packed", "clusters")
FAMILIES = ("sphere", "ellipsoid", "secondary", "crystal", "irregular", "rod")
TEXTURES = ("smooth", "grain", "crystallites", "pits", "striae")
_CUBE = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
_OCTA = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]], float) / 3**0.5
_HEX = np.array([[np.cos(a), np.sin(a), 0] for a in (0, np.pi / 3, 2 * np.pi / 3)])


@dataclass(frozen=True)
class Specimen:
    """What the images of one specimen share. Lengths in pixels of a 512-pixel image."""

    arrangement: str
    family: str
    habit: int  # which crystal
    radius: float  # median
    spread: float  # standard deviation of the logarithm of the radius
    fines: float  # fraction of particles of a third of the size
    elongation: float
    coverage: float  # projected area of all particles over the image's
    texture: str
    grain: float  # size of the texture's features
    skin: Skin
    roughness: float  # of the substrate
    optics: Optics
    pixel_size: float  # nm


def _noise(rng: np.random.Generator, sigma: float, size: int = TILE) -> np.ndarray:
    """Periodic smooth noise, zero mean and unit deviation, float32."""
    pad = min(size, int(4 * sigma) + 1)
    field = np.pad(rng.standard_normal((size, size), dtype=np.float32), pad, mode="wrap")
    field = cv2.GaussianBlur(field, (0, 0), sigma)[pad:-pad, pad:-pad]
    return (field - field.mean()) / field.std()


def _cells(rng: np.random.Generator, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Periodic random cells: distance to the nearest seed in units of the spacing, and a random value for each cell."""
    n = max(8, int((TILE / spacing) ** 2))
    seeds = np.ones((TILE, TILE), np.uint8)
    seeds[rng.integers(0, TILE, n), rng.integers(0, TILE, n)] = 0
    pad = int(3 * spacing) + 1
    distance, index = cv2.distanceTransformWithLabels(
        np.pad(seeds, pad, mode="wrap"), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = rng.random(index.max() + 1, dtype=np.float32)
    inner = (slice(pad, -pad), slice(pad, -pad))
    return (distance / spacing)[inner], values[index][inner]


def _texture(rng: np.random.Generator, kind: str, grain: float) -> np.ndarray:
    """A periodic tile (TILE, TILE), float32, about -1..1; `grain` is the size of its features in pixels."""
    if kind == "smooth":
        tile = 0.5 * _noise(rng, grain)
    elif kind == "grain":
        tile = 0.6 * _noise(rng, grain * 0.35) + 0.4 * _noise(rng, grain * 1.5)
    elif kind == "crystallites":
        distance, value = _cells(rng, grain)
        tile = 1.2 * (value - 0.5) - 1.6 * distance**2 + 0.3 + 0.15 * _noise(rng, 1.0)
    elif kind == "pits":
        tile = 0.4 - 1.8 * np.clip(_noise(rng, grain * 0.5) - 1.0, 0, 1.2) + 0.15 * _noise(rng, 1.0)
    else:
        tile = cv2.blur(np.tile(_noise(rng, 1.2), (1, 3)), (int(3 * grain) | 1, 1))[:, TILE : 2 * TILE]
        tile = 0.6 * tile / tile.std()
    return np.clip(tile, -1.5, 1.5).astype(np.float32)


def _specimen(seed: int, number: int) -> Specimen:
    rng = np.random.default_rng([seed, 1, number])
    arrangement = ARRANGEMENTS[rng.choice(4, p=(0.25, 0.22, 0.33, 0.2))]
    family = FAMILIES[rng.choice(6, p=(0.24, 0.14, 0.2, 0.22, 0.14, 0.06))]
    visible = np.exp(rng.uniform(np.log(12), np.log(120)))
    coverage = {"dispersed": rng.uniform(0.12, 0.4), "monolayer": rng.uniform(0.6, 0.95),
                "packed": rng.uniform(2.0, 2.8), "clusters": rng.uniform(0.4, 1.0)}[arrangement]  # fmt: skip
    if arrangement == "clusters":
        visible = max(visible, 40.0)
    radius = float(np.clip(512 * (min(coverage, 0.9) / (np.pi * visible)) ** 0.5, 7, 75))
    kinds = {"sphere": (0.45, 0.3, 0.1, 0.15, 0), "ellipsoid": (0.4, 0.4, 0.1, 0.1, 0), "secondary": (0, 0.1, 0.9, 0, 0),
             "crystal": (0.5, 0.15, 0, 0.1, 0.25), "irregular": (0.1, 0.4, 0.2, 0.2, 0.1), "rod": (0.4, 0.3, 0, 0, 0.3)}
    texture = TEXTURES[rng.choice(5, p=kinds[family])]
    grain = float(np.clip(radius * rng.uniform(0.1, 0.28), 2.5, 14))
    fine = {"smooth": 0.015, "grain": 0.02, "crystallites": 0.05, "pits": 0.04, "striae": 0.012}[texture]
    fine *= rng.uniform(0.5, 1.4) * min(1.0, grain / 6) 
    coarse = {"irregular": 0.12, "ellipsoid": 0.04, "secondary": 0.05, "crystal": 0.0}.get(family, 0.015)
    skin = Skin(_texture(rng, texture, grain), fine, np.clip(_noise(rng, TILE / 12), -1.5, 1.5), coarse * rng.uniform(0.5, 1.3))
    optics = Optics(
        edge=rng.uniform(0.05, 0.35), secant=rng.uniform(0.3, 0.9), cap=rng.uniform(2.5, 5),
        direction=rng.uniform(0, 2 * np.pi), lateral=rng.uniform(0.0, 0.4), depth=rng.uniform(1.2, 2.6),
        albedo=rng.uniform(0.0, 0.12), substrate=float(np.exp(rng.uniform(np.log(0.25), np.log(0.95)))),
        blur=rng.uniform(0.6, 1.4), astigmatism=rng.uniform(1.0, 1.5), dose=float(np.exp(rng.uniform(np.log(25), np.log(400)))),
        row_jitter=rng.uniform(0.0, 0.015), charging=rng.uniform(0.3, 1.2) * (rng.random() < 0.3),
        gamma=rng.uniform(0.75, 1.15), black=rng.uniform(5, 45), white=rng.uniform(170, 245),
        focus=rng.uniform(0, 0.8) * (arrangement == "packed"),
    )  # fmt: skip
    diameter = np.exp(rng.uniform(np.log(80), np.log(40_000)))  # nm
    return Specimen(
        arrangement, family, int(rng.integers(5)), radius, rng.choice([0.06, 0.2, 0.35, 0.45]), rng.uniform(0, 0.5) * (rng.random() < 0.3),
        rng.uniform(1.15, 1.9), coverage, texture, grain, skin, rng.uniform(0, 1), optics, float(diameter / (2 * radius)),
    )  # fmt: skip


def _drop(rng: np.random.Generator, radii: np.ndarray, shape: tuple[int, int], arrangement: str) -> np.ndarray:
    """Centres (N, 3) of spheres dropped one after the other; each takes the lowest of its candidate places."""
    margin = float(np.median(radii)) * 1.2
    low, high = np.array([-margin, -margin]), np.array([shape[1] + margin, shape[0] + margin])
    tries = {"dispersed": 2, "monolayer": 40, "packed": 14, "clusters": 6}[arrangement]
    hubs = rng.uniform(low, high, (int(rng.integers(2, 7)), 2))
    width = rng.uniform(0.08, 0.16) * max(shape)
    placed = np.empty((len(radii), 3))
    for i, r in enumerate(radii):
        if arrangement == "clusters" and rng.random() < 0.93:
            xy = hubs[rng.integers(len(hubs))] + rng.normal(0, width, (tries, 2))
        else:
            xy = rng.uniform(low, high, (tries, 2))
        rest = np.full(tries, r)
        if i:
            gap = (radii[:i] + r) ** 2 - ((xy[:, None] - placed[None, :i, :2]) ** 2).sum(-1)  # tries, placed
            rest = np.maximum(rest, np.where(gap > 0, placed[None, :i, 2] + np.sqrt(np.maximum(gap, 0)), 0).max(1))
        best = int(rest.argmin())
        placed[i] = *xy[best], rest[best]
    return placed


def _shape(rng: np.random.Generator, specimen: Specimen, r: float) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The quadric or the faces of one particle of radius `r` pixels, randomly turned."""
    flat = specimen.arrangement in ("dispersed", "monolayer") and rng.random() < 0.7
    spin = Rotation.from_euler("z", rng.uniform(0, 2 * np.pi))
    turn = (spin * Rotation.from_rotvec(rng.normal(0, 0.06, 3)) if flat else Rotation.random(random_state=rng)).as_matrix()
    family, k = specimen.family, specimen.elongation
    if family in ("crystal", "irregular"):
        if family == "irregular":
            normals = rng.normal(size=(9, 3))
            normals = np.vstack([normals, -normals]) / np.linalg.norm(np.vstack([normals, normals]), axis=1)[:, None]
            distance = r * rng.uniform(0.68, 1.0, len(normals))
        else:
            normals, distance = _crystal(rng, specimen.habit, r, k)
        return None, np.column_stack([normals @ turn.T, distance])
    axes = np.array([1.0, 1.0, 1.0])
    if family == "ellipsoid":
        axes = np.array([k**0.6, rng.uniform(0.8, 1.1), k**-0.5])
    elif family == "rod":
        axes = np.array([1.35, 0.55, 0.55])
    elif family == "secondary":
        axes = rng.uniform(0.88, 1.08, 3)
    axes = axes * r
    return turn @ np.diag(axes**-2.0) @ turn.T, None


def _crystal(rng: np.random.Generator, habit: int, r: float, k: float) -> tuple[np.ndarray, np.ndarray]:
    """Outward normals (F, 3) and distances (F,) of a crystal: cube, octahedron, truncated, hexagonal plate or prism."""
    j = lambda n: rng.uniform(0.92, 1.08, n)  # noqa: E731
    if habit == 0:
        normals, distance = _CUBE, 0.68 * r * j(3)
    elif habit == 1:
        normals, distance = _OCTA, 0.62 * r * j(4)
    elif habit == 2:
        normals, distance = np.vstack([_CUBE, _OCTA]), r * np.concatenate([0.78 * j(3), 0.78 * j(4)])
    elif habit == 3:
        normals, distance = np.vstack([_HEX, _CUBE[2:]]), r * np.concatenate([0.85 * j(3), 0.35 * j(1)])
    else:
        normals, distance = np.vstack([_HEX, _CUBE[2:]]), r * np.concatenate([0.55 * j(3), 0.5 * k * j(1)])
    return np.vstack([normals, -normals]), np.concatenate([distance, distance])


def _bodies(rng: np.random.Generator, specimen: Specimen, shape: tuple[int, int], unit: float) -> list[Body]:
    median = max(specimen.radius * unit, 4.0)
    margin = 1.2 * median
    wanted = specimen.coverage * (shape[0] + 2 * margin) * (shape[1] + 2 * margin)
    radii = median * np.exp(np.clip(specimen.spread * rng.standard_normal(600), -1.1, 1.0))
    radii *= np.where(rng.random(600) < specimen.fines, 0.38, 1.0)
    count = int(np.searchsorted(np.cumsum(np.pi * radii**2), wanted)) + 1
    radii = np.maximum(radii[:count], 3.5)
    if specimen.arrangement != "packed":  # the largest first: small ones find the gaps
        radii = np.sort(radii)[::-1]
    places = _drop(rng, radii * 0.97, shape, specimen.arrangement)
    bodies = []
    for (x, y, z), r in zip(places, radii, strict=True):
        quadric, faces = _shape(rng, specimen, r)
        offset = tuple(int(v) for v in rng.integers(0, TILE, 2))
        bodies.append(Body(x, y, z, float(r), quadric, faces, offset, float(np.exp(rng.normal(0, 0.06)))))  # type: ignore[arg-type]
    return bodies


def _visible(owner: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Labels int32 of the visible regions that are large and lit enough; each is one connected region."""
    regions = np.zeros_like(owner)
    count = 0
    for index, box in enumerate(ndimage.find_objects(owner), start=1):
        if box is None:
            continue
        _, parts, stats, _ = cv2.connectedComponentsWithStats((owner[box] == index).astype(np.uint8), connectivity=4)
        for part in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= MIN_AREA) + 1:
            inside = parts == part
            if free[box][inside].mean() >= MIN_EXPOSURE:
                count += 1
                regions[box][inside] = count
    return regions


def generate(seed: int, index: int, size: tuple[int, int] = (512, 512)) -> Sample:
    """Image `index` of the endless set `seed`: grey uint8 (H, W), labels int32 (H, W), pixel_size in nm.

    The field of view does not depend on `size` (H, W). Each label is one connected visible region of at least
    MIN_AREA pixels, numbered from 1; what lies in deep shadow is background. Raises ValueError for a negative
    seed or index and for a side under 64 pixels.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed} and index {index} must not be negative; give whole numbers from 0.")
    if min(size) < 64:
        raise ValueError(f"size {tuple(size)} is too small for particles; give at least 64 x 64 pixels.")
    rows, cols = size
    unit = (rows * cols) ** 0.5 / 512
    number = index // IMAGES_PER_SPECIMEN
    specimen = _specimen(seed, number)
    optics = specimen.optics
    rng = np.random.default_rng([seed, 2, index])
    radius = max(specimen.radius * unit, 4.0)
    rough = cv2.resize(_noise(rng, 4.0, 128), (cols, rows), interpolation=cv2.INTER_CUBIC)
    floor = rough * np.float32(0.8 * specimen.roughness)
    for attempt in range(8):
        bodies = _bodies(rng, specimen, (rows, cols), unit)
        height, owner, texture = depth_buffer(bodies, specimen.skin, floor)
        free = exposure(height, radius, optics)
        labels = _visible(owner, free)
        if labels.any():
            break
    brightness = np.array([optics.substrate] + [b.brightness for b in bodies])
    image = micrograph(height, owner, texture, brightness, free, radius, optics, rng)
    return Sample(image, labels, f"sem-{index:05d}", f"specimen-{number:04d}", specimen.pixel_size / unit)
