"""Generated scanning electron micrographs of powders, with exact instance labels.

Particles are dropped as spheres onto a substrate or a pile (the lowest of several candidate places wins), given their
shapes, drawn into a depth buffer (`sem_shapes`) and imaged (`sem_render`). A specimen, three images, shares material,
detector and magnification. Everything is a function of (seed, index).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .sample import Sample
from .sem_render import Optics, exposure, micrograph
from .sem_shapes import (
    CRYSTALS,
    TEXTURES,
    TILE,
    Body,
    Skin,
    crystal,
    depth_buffer,
    fragment,
    periodic_noise,
    texture_tile,
)

GENERATOR_VERSION = 1  # raised whenever the images change
IMAGES_PER_SPECIMEN = 3
MIN_AREA = 40  # pixels; smaller visible parts of a particle are not labelled
MIN_EXPOSURE = 0.1  # pixels in deeper shadow are not labelled, nor parts of twice this on average
SMALLEST = 9.0  # median radius, pixels: below it particles would be too small to be labelled
MOST = 800  # particles dropped for one image

ARRANGEMENTS = ("dispersed", "monolayer", "packed", "clusters")
FAMILIES = ("sphere", "ellipsoid", "secondary", "crystal", "irregular", "rod")
SUBSTRATES = ("flat", "wavy", "grainy", "pores")
TEXTURE_ODDS = {  # of TEXTURES, for each family
    "sphere": (0.45, 0.3, 0.1, 0, 0.15, 0), "ellipsoid": (0.4, 0.35, 0.1, 0.05, 0.1, 0),
    "secondary": (0, 0.1, 0.55, 0.35, 0, 0), "crystal": (0.55, 0.15, 0, 0, 0.1, 0.2),
    "irregular": (0.1, 0.4, 0.2, 0, 0.2, 0.1), "rod": (0.4, 0.3, 0, 0, 0, 0.3),
}  # fmt: skip
FINE_HEIGHT = {"smooth": 0.6, "grain": 0.9, "crystallites": 2.4, "needles": 1.8, "pits": 1.8, "striae": 0.6}  # pixels
COARSE = {"irregular": 0.12, "ellipsoid": 0.04, "secondary": 0.05, "crystal": 0.0}  # of the radius; others 0.015


@dataclass(frozen=True)
class Specimen:
    """What the images of one specimen share. Lengths in pixels of a 512-pixel image."""

    arrangement: str
    family: str
    habit: str  # of its crystals
    texture: str
    radius: float  # median
    spread: float  # standard deviation of the logarithm of the radius
    fines: float  # fraction of particles that are about three times smaller
    slender: float  # ratio of axes of ellipsoids and prisms
    coverage: float  # projected area of all particles over the image's
    floor: str
    skin: Skin
    optics: Optics
    pixel_size: float  # nm


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _optics(rng: np.random.Generator, arrangement: str) -> Optics:
    piled = arrangement in ("packed", "clusters")
    return Optics(
        edge=rng.uniform(0.03, 0.28), secant=rng.uniform(0.35, 1.0), cap=rng.uniform(2.5, 5),
        direction=rng.uniform(0, 2 * np.pi), lateral=rng.uniform(0.0, 0.4), shadow=rng.uniform(0.5, 1.15),
        well=rng.uniform(0.9, 1.5) if arrangement == "packed" else 0.15, albedo=rng.uniform(0.0, 0.2),
        substrate=_log_uniform(rng, 0.25, 1.3) * (0.5 if arrangement == "packed" else 1.0),
        blur=rng.uniform(0.6, 1.4), astigmatism=rng.uniform(1.0, 1.5), dose=_log_uniform(rng, 30, 1500),
        row_jitter=rng.uniform(0.0, 0.015), charging=rng.uniform(0.3, 1.2) * (rng.random() < 0.3),
        gamma=rng.uniform(0.55, 1.05), black=rng.uniform(5, 70), white=rng.uniform(170, 245),
        focus=rng.uniform(0, 0.8) * piled,
    )  # fmt: skip


@lru_cache(maxsize=4)
def specimen(seed: int, number: int) -> Specimen:
    """Specimen `number` of the set `seed`: what its three images have in common."""
    rng = np.random.default_rng([seed, 1, number])
    arrangement = ARRANGEMENTS[rng.choice(4, p=(0.25, 0.22, 0.33, 0.2))]
    family = FAMILIES[rng.choice(6, p=(0.24, 0.14, 0.2, 0.22, 0.14, 0.06))]
    low, high = {"dispersed": (0.12, 0.4), "monolayer": (0.6, 0.95), "packed": (2.8, 3.4), "clusters": (0.4, 1.0)}[
        arrangement
    ]
    coverage = rng.uniform(low, high)
    seen = _log_uniform(rng, 60 if arrangement == "clusters" else 12, 140)  # particles in view
    radius = float(np.clip(512 * (min(coverage, 0.9) / (np.pi * seen)) ** 0.5, SMALLEST, 75))
    texture = TEXTURES[rng.choice(6, p=TEXTURE_ODDS[family])]
    grain = float(np.clip(radius * rng.uniform(0.1, 0.28), 2.5, 14))
    skin = Skin(
        fine=texture_tile(rng, texture, grain),
        fine_height=FINE_HEIGHT[texture] * rng.uniform(0.5, 1.4) * min(1.0, grain / 6),
        coarse=np.clip(periodic_noise(rng, TILE / 12), -1.5, 1.5),
        coarse_amplitude=COARSE.get(family, 0.015) * rng.uniform(0.5, 1.3),
        rounding=rng.uniform(0.02, 0.25),
    )
    return Specimen(
        arrangement=arrangement, family=family, habit=CRYSTALS[rng.integers(len(CRYSTALS))], texture=texture,
        radius=radius, spread=float(rng.choice([0.06, 0.2, 0.35, 0.45])),
        fines=rng.uniform(0.1, 0.5) * (rng.random() < 0.35), slender=rng.uniform(1.15, 1.9), coverage=coverage,
        floor=SUBSTRATES[rng.choice(4, p=(0.35, 0.25, 0.25, 0.15))], skin=skin, optics=_optics(rng, arrangement),
        pixel_size=_log_uniform(rng, 80, 40_000) / (2 * radius),
    )  # fmt: skip


def _drop(rng: np.random.Generator, radii: np.ndarray, shape: tuple[int, int], arrangement: str) -> np.ndarray:
    """Centres (N, 3) of spheres dropped one after the other; each takes the lowest of its candidate places."""
    median = float(np.median(radii))
    low, high = np.full(2, -1.2 * median), np.array(shape[::-1]) + 1.2 * median
    tries = {"dispersed": 2, "monolayer": 40, "packed": 14, "clusters": 6}[arrangement]
    hubs = rng.uniform(low, high, (int(rng.integers(2, 8)), 2))
    width = rng.uniform(0.05, 0.16) * max(shape)
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
        stuck = r < 0.6 * median and rng.random() < 0.4  # fine ones also cling where they land first
        best = 0 if stuck else int(rest.argmin())
        placed[i] = *xy[best], rest[best]
    return placed


def _turns(rng: np.random.Generator, count: int, flat: bool) -> np.ndarray:
    """Rotation matrices (count, 3, 3): any direction; where `flat`, seven of ten lie on the substrate."""
    turn = Rotation.from_quat(rng.normal(size=(count, 4))).as_matrix()
    spin = Rotation.from_rotvec(rng.uniform(0, 2 * np.pi, (count, 1)) * [[0, 0, 1]])
    spin = spin * Rotation.from_rotvec(rng.normal(0, 0.06, (count, 3)))  # lies nearly flat
    lies = flat & (rng.random(count) < 0.7)
    return np.where(lies[:, None, None], spin.as_matrix(), turn)


def _shape(
    rng: np.random.Generator, material: Specimen, r: float, turn: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """The quadric or the faces of one particle of radius `r` pixels, and how far it reaches."""
    k = material.slender
    if material.family == "irregular":
        normals, distance = fragment(rng, r)
        return None, np.column_stack([normals @ turn.T, distance]), 1.5 * r
    if material.family == "crystal":
        normals, distance = crystal(rng, material.habit, r, k)
        return None, np.column_stack([normals @ turn.T, distance]), 1.4 * r
    axes = {
        "sphere": (1.0, 1.0, 1.0), "ellipsoid": (k**0.6, rng.uniform(0.8, 1.1), k**-0.5), "rod": (1.35, 0.55, 0.55),
        "secondary": tuple(rng.uniform(0.88, 1.08, 3)),
    }[material.family]  # fmt: skip
    quadric = (turn * (r * np.array(axes)) ** -2.0) @ turn.T
    return quadric, None, r * max(axes) * (1.05 + 1.5 * material.skin.coarse_amplitude) + 3


def _bodies(rng: np.random.Generator, material: Specimen, shape: tuple[int, int], median: float) -> list[Body]:
    """Particles of one image, dropped and shaped."""
    wanted = material.coverage * (shape[0] + 2.4 * median) * (shape[1] + 2.4 * median)
    radii = median * np.exp(np.clip(material.spread * rng.standard_normal(MOST), -1.1, 1.0))
    radii *= np.where(rng.random(MOST) < material.fines, 0.38, 1.0)
    count = min(int(np.searchsorted(np.cumsum(np.pi * radii**2), wanted)) + 1, MOST)
    radii = np.maximum(radii[:count], 3.5)
    if material.arrangement in ("dispersed", "monolayer"):  # the largest first: small ones find the gaps
        radii = np.sort(radii)[::-1]
    places = _drop(rng, radii * 0.97, shape, material.arrangement)
    if material.arrangement == "packed":  # a pile is not level
        places[:, 2] += median * np.sin(places[:, :2] @ rng.normal(0, 3 / max(shape), 2) + rng.uniform(0, 6))
    bodies = []
    turns = _turns(rng, count, material.arrangement in ("dispersed", "monolayer"))
    skins = rng.uniform(0, (TILE, TILE, 2 * np.pi), (count, 3))
    brightness = np.exp(rng.normal(0, 0.06, count))
    for i, (x, y, z) in enumerate(places):
        quadric, faces, reach = _shape(rng, material, radii[i], turns[i])
        bodies.append(Body(x, y, z, radii[i], reach, quadric, faces, tuple(skins[i]), brightness[i]))
    return bodies


def _floor(rng: np.random.Generator, material: Specimen, shape: tuple[int, int], median: float) -> np.ndarray:
    """Height of the substrate, float32 (H, W)."""
    fine, wide = periodic_noise(rng, 1.5), periodic_noise(rng, 12.0)
    if material.arrangement == "packed":
        floor = wide - 3 * median
    elif material.floor == "flat":
        floor = 0.15 * fine
    elif material.floor == "wavy":
        floor = 2.5 * wide
    elif material.floor == "grainy":
        floor = 0.5 * fine + 1.2 * periodic_noise(rng, 4.0)
    else:
        floor = 0.2 * fine - 14 * np.clip(3 * periodic_noise(rng, 5.0) - 4.5, 0, 1)
    return cv2.resize(floor, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _visible(owner: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Labels int32 of the visible regions that are large and lit enough; each is one connected region."""
    labels = np.zeros_like(owner)
    count = 0
    for index, box in enumerate(ndimage.find_objects(owner), start=1):
        if box is None:
            continue
        seen = (owner[box] == index) & (free[box] > MIN_EXPOSURE)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8), connectivity=4)
        for part, area in enumerate(stats[:, cv2.CC_STAT_AREA]):
            if part == 0 or area < MIN_AREA:
                continue
            inside = parts == part
            if free[box][inside].mean() >= 2 * MIN_EXPOSURE:
                count += 1
                labels[box][inside] = count
    return labels


def generate(seed: int, index: int, size: tuple[int, int] = (512, 512)) -> Sample:
    """Image `index` of the endless set `seed`: grey uint8 (H, W), labels int32 (H, W), pixel_size in nm.

    The field of view does not depend on `size` (H, W), but small images hold fewer particles: their median radius is
    at least SMALLEST pixels. Each label is one connected visible region of at least
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
    material = specimen(seed, number)
    rng = np.random.default_rng([seed, 2, index])
    shared = material.optics
    optics = replace(  # the operator sets focus, brightness and contrast anew
        shared, blur=shared.blur * rng.uniform(0.85, 1.2), black=shared.black * rng.uniform(0.7, 1.3),
        white=shared.white + rng.uniform(-10, 8),
    )  # fmt: skip
    median = max(material.radius * unit, SMALLEST)
    floor = _floor(rng, material, (rows, cols), median)
    labels: np.ndarray = np.zeros((rows, cols), np.int32)
    while not labels.any():
        bodies = _bodies(rng, material, (rows, cols), median)
        height, owner, texture = depth_buffer(bodies, material.skin, floor)
        free = exposure(height, median, optics)
        labels = _visible(owner, free)
    brightness = np.array([optics.substrate] + [b.brightness for b in bodies])
    image = micrograph(height, owner, texture, brightness, free, median, optics, rng)
    return Sample(image, labels, f"sem-{index:05d}", f"specimen-{number:04d}", material.pixel_size / unit)
