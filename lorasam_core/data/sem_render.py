"""From particles to a micrograph: height map, labels of what is visible, and the signal of a secondary electron detector.

Heights are in pixels and point to the beam. Every particle is star-shaped: a smooth body (an ellipsoid or a convex
polyhedron) whose radius is scaled by a skin, 1 + texture. The yield follows the secant law of the secondary electron
edge effect (Reimer, Scanning Electron Microscopy, 2nd ed., section 4.3), shadows follow the unsharp mask of the depth
buffer (Luft, Colditz and Deussen, SIGGRAPH 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.signal import lfilter

TILE = 256  # side of the periodic texture tiles, pixels


@dataclass(frozen=True)
class Body:
    """One particle: centre (pixels), radius, and either the matrix of an ellipsoid or the faces of a polyhedron."""

    x: float
    y: float
    z: float
    radius: float
    quadric: np.ndarray | None  # (3, 3): x'Qx = 1 on the surface
    faces: np.ndarray | None  # (F, 4): nx, ny, nz, distance in pixels
    skin: tuple[int, int]  # where it reads the texture tiles
    brightness: float = 1.0


@dataclass(frozen=True)
class Skin:
    """Textures shared by a specimen's particles: tiles (TILE, TILE) float32 in about -1..1, and their amplitudes."""

    fine: np.ndarray
    fine_amplitude: float  # of the radius of a particle of 40 pixels; constant in pixels
    coarse: np.ndarray
    coarse_amplitude: float  # of the radius


@dataclass(frozen=True)
class Optics:
    """Detector and beam. Everything that turns a height map into grey values, shared by the images of a specimen."""

    edge: float  # strength of the bright rims
    secant: float  # exponent of the yield's rise with tilt
    cap: float  # largest secant counted
    direction: float  # angle of the detector, radians
    lateral: float  # strength of the shading away from the detector
    depth: float  # darkening of what lies deep
    albedo: float  # strength of the fine texture as grey value
    substrate: float  # grey value of a flat substrate, particles being about 1
    blur: float  # pixels
    astigmatism: float  # ratio of the two axes of the probe
    dose: float  # electrons a pixel for a signal of 1
    row_jitter: float
    charging: float
    gamma: float
    black: float  # grey values, 0..255, of the darkest and the brightest part
    white: float
    focus: float = 0.0  # blur of what lies deep, 0..1


def _wrap(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _skin_scale(skin: Skin, body: Body, x: np.ndarray, y: np.ndarray, stretch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factor on the radius and the fine texture, both over the window."""
    u, v = x * stretch, y * stretch
    ou, ov = body.skin
    fine = _wrap(skin.fine, (u + ou) % TILE, (v + ov) % TILE)
    k = np.float32(TILE / 5 / body.radius)  # five radii a tile: about two lobes across a particle
    coarse = _wrap(skin.coarse, (u * k + ov) % TILE, (v * k + ou) % TILE)
    fine_amplitude = min(skin.fine_amplitude * 40 / body.radius, 0.12)
    return 1 + fine_amplitude * fine + skin.coarse_amplitude * coarse, fine


def _ellipsoid(body: Body, skin: Skin, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q = body.quadric.astype(np.float32)  # type: ignore[union-attr]
    f = q[0, 0] * x * x + 2 * q[0, 1] * x * y + q[1, 1] * y * y
    b = q[0, 2] * x + q[1, 2] * y
    inside = b * b - q[2, 2] * f
    t = np.clip(-inside / q[2, 2], 0, 1)  # 0 in the middle, 1 at the outline
    scale, fine = _skin_scale(skin, body, x, y, 1 + t * (1 / 6 + t * (0.075 + t * (0.045 + t * 0.15))))
    root = inside + q[2, 2] * scale * scale
    height = (np.sqrt(np.maximum(root, 0)) - b) / q[2, 2]
    height[root <= 0] = -np.inf
    return height, fine


def _polyhedron(body: Body, skin: Skin, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale, fine = _skin_scale(skin, body, x, y, np.ones_like(x + y))
    top = np.full(fine.shape, np.inf, np.float32)
    bottom = np.full(fine.shape, -np.inf, np.float32)
    for nx, ny, nz, d in body.faces.astype(np.float32):  # type: ignore[union-attr]
        nz = nz if abs(nz) > 2e-3 else np.float32(2e-3)
        plane = (d * scale - (nx * x + ny * y)) / nz
        if nz > 0:
            np.minimum(top, plane, out=top)
        else:
            np.maximum(bottom, plane, out=bottom)
    top[top <= bottom] = -np.inf
    return top, fine


def depth_buffer(
    bodies: list[Body], skin: Skin, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw all bodies over a floor (H, W): height float32, index of the body seen int32 (0: floor), fine texture."""
    height, owner = floor.copy(), np.zeros(floor.shape, np.int32)
    texture = np.zeros(floor.shape, np.float32)
    rows, cols = floor.shape
    for index in sorted(range(len(bodies)), key=lambda i: -bodies[i].z - bodies[i].radius):
        body = bodies[index]
        reach = body.radius * 1.35 + 1
        x0, x1 = max(int(body.x - reach), 0), min(int(body.x + reach) + 1, cols)
        y0, y1 = max(int(body.y - reach), 0), min(int(body.y + reach) + 1, rows)
        if x0 >= x1 or y0 >= y1:
            continue
        window = (slice(y0, y1), slice(x0, x1))
        if height[window].min() > body.z + reach:
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


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; wide ones on a reduced image."""
    step = 1
    while sigma / step > 4:
        step *= 2
    if step == 1:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    small = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def exposure(height: np.ndarray, scale: float, optics: Optics) -> np.ndarray:
    """How freely electrons leave each point, 0..1: darker between and beneath particles. `scale` is a radius, pixels."""
    dx, dy = np.cos(optics.direction), np.sin(optics.direction)
    lost = np.zeros_like(height)
    for sigma, weight in ((scale * 0.25, 0.9), (scale * 0.8, 0.8)):
        around = _smooth(height, sigma)
        shift = np.array([[1, 0, -dx * sigma * 0.5], [0, 1, -dy * sigma * 0.5]])  # the detector's side casts the shadow
        around = cv2.warpAffine(around, shift, height.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        lost += weight * np.maximum(around - height, 0) / scale
    return np.exp(-optics.depth * lost)


def _probe(optics: Optics, angle: float) -> np.ndarray:
    """The beam's kernel: a Gaussian with two axes, normalised."""
    a, b = optics.blur * optics.astigmatism**0.5, optics.blur / optics.astigmatism**0.5
    n = max(1, int(np.ceil(2.5 * max(a, b))))
    y, x = np.mgrid[-n : n + 1, -n : n + 1].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((u / a) ** 2 + (v / b) ** 2))
    return kernel / kernel.sum()


def micrograph(
    height: np.ndarray, owner: np.ndarray, texture: np.ndarray, brightness: np.ndarray, free: np.ndarray,
    scale: float, optics: Optics, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The image uint8 (H, W) of a height map; `brightness` (bodies + 1,) is each body's grey value, `free` the exposure."""
    rows, cols = height.shape
    gx, gy = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    secant = np.sqrt(1 + gx * gx + gy * gy)
    lit = -(gx * np.float32(np.cos(optics.direction)) + gy * np.float32(np.sin(optics.direction))) / secant
    signal = np.minimum(secant, optics.cap) ** optics.secant * (1 + optics.lateral * lit)
    rim = np.clip(height - cv2.GaussianBlur(height, (0, 0), 1.6), 0, 3)
    signal += optics.edge * rim
    signal *= brightness.astype(np.float32)[owner] * (1 + optics.albedo * texture)
    signal *= free
    if optics.focus > 0:
        deep = np.clip((np.percentile(height[::8, ::8], 90) - height) / (4 * scale), 0, 1) * optics.focus
        signal += deep * (cv2.GaussianBlur(signal, (0, 0), 2.0) - signal)

    drift = cv2.resize(rng.standard_normal((3, 3)).astype(np.float32), (cols, rows), interpolation=cv2.INTER_CUBIC)
    signal *= 1 + 0.06 * drift
    if optics.charging > 0:  # a bright particle leaves a dark tail along the fast scan, and some lines flare
        tail = lfilter([0.03], [1, -0.97], np.maximum(signal - 1.2, 0), axis=1).astype(np.float32)
        signal -= optics.charging * tail
        flare = rng.standard_normal(rows) * (rng.random(rows) < 0.03)
        signal += (0.1 * optics.charging * flare[:, None]).astype(np.float32)
    signal = cv2.filter2D(signal, -1, _probe(optics, rng.uniform(0, np.pi)), borderType=cv2.BORDER_REFLECT)

    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal = np.maximum(signal, 0)
    signal += np.sqrt((signal + 0.08) / optics.dose) * noise
    signal *= (1 + optics.row_jitter * rng.standard_normal((rows, 1))).astype(np.float32)
    low, high = np.percentile(cv2.blur(signal, (3, 3))[::4, ::4], (1, 99.3))
    signal = np.clip((signal - low) / max(high - low, 1e-3), -0.3, 1.4)
    signal = np.sign(signal) * np.abs(signal) ** np.float32(optics.gamma)
    return np.clip(optics.black + signal * (optics.white - optics.black) + 0.5, 0, 255).astype(np.uint8)
