"""From a height map to a micrograph: the signal of a secondary electron detector, its probe and its noise.

The yield follows the secant law of the secondary electron edge effect (Reimer, Scanning Electron Microscopy, 2nd ed.,
section 4.3); shadows follow the unsharp mask of the depth buffer (Luft, Colditz and Deussen, SIGGRAPH 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.signal import lfilter


@dataclass(frozen=True)
class Optics:
    """Detector and beam: everything that turns a height map into grey values."""

    edge: float  # strength of the bright rims
    secant: float  # exponent of the yield's rise with tilt
    cap: float  # largest secant counted
    direction: float  # angle of the detector, radians
    lateral: float  # strength of the shading away from the detector
    shadow: float  # darkening beside and beneath neighbours
    well: float  # darkening of what lies deeper than the top layer
    albedo: float  # strength of the fine texture as grey value
    substrate: float  # grey value of a flat substrate, particles being about 1
    blur: float  # probe, pixels
    astigmatism: float  # ratio of the probe's two axes
    dose: float  # electrons a pixel for a signal of 1
    row_jitter: float  # relative deviation of a scan line's gain
    charging: float
    gamma: float
    black: float  # grey values, 0..255, of the darkest and the brightest parts
    white: float
    focus: float  # blur of what lies deep, 0..1


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
    """How freely electrons leave each point, 0..1, float32 (H, W); `scale` is a typical radius in pixels."""
    dx, dy = np.cos(optics.direction), np.sin(optics.direction)
    size = height.shape[::-1]
    lost = np.zeros_like(height)
    for sigma, weight in ((scale * 0.25, 0.9), (scale * 0.8, 0.8)):
        shift = np.array([[1, 0, -dx * sigma * 0.5], [0, 1, -dy * sigma * 0.5]])  # shadows fall away from the detector
        around = cv2.warpAffine(_smooth(height, sigma), shift, size, borderMode=cv2.BORDER_REPLICATE)
        lost += np.float32(weight * optics.shadow / scale) * np.maximum(around - height, 0)
    step = max(1, int(scale / 4))
    top = cv2.resize(height, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    top = cv2.GaussianBlur(cv2.dilate(top, np.ones((9, 9), np.uint8)), (0, 0), 3)
    top = cv2.resize(top, size, interpolation=cv2.INTER_LINEAR)
    lost += np.float32(optics.well / scale) * np.clip(top - height - 1.5 * scale, 0, 3 * scale)
    return np.exp(-lost)


def _probe(optics: Optics, angle: float) -> np.ndarray:
    """The beam's kernel: a Gaussian with two axes, normalised."""
    a, b = optics.blur * optics.astigmatism**0.5, optics.blur / optics.astigmatism**0.5
    n = max(1, int(np.ceil(2.5 * max(a, b))))
    y, x = np.mgrid[-n : n + 1, -n : n + 1].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((u / a) ** 2 + (v / b) ** 2))
    return kernel / kernel.sum()


def _yield(height: np.ndarray, optics: Optics) -> np.ndarray:
    """Signal of an even material: the secant law, shading by the detector's side, and rims."""
    gx, gy = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    secant = np.sqrt(1 + gx * gx + gy * gy)
    lit = -(gx * np.float32(np.cos(optics.direction)) + gy * np.float32(np.sin(optics.direction))) / secant
    signal = np.minimum(secant, optics.cap) ** np.float32(optics.secant) * (1 + np.float32(optics.lateral) * lit)
    rim = np.clip(height - cv2.GaussianBlur(height, (0, 0), 1.6), -1, 3)  # ridges shine, crevices are dark
    return np.maximum(signal + np.float32(optics.edge) * rim, 0.05)


def _detect(signal: np.ndarray, optics: Optics, rng: np.random.Generator) -> np.ndarray:
    """Charging, probe, shot noise and the gain of each scan line."""
    rows = len(signal)
    if optics.charging > 0:  # a bright particle leaves a dark tail along the fast scan, and some lines flare
        tail = lfilter([0.03], [1, -0.97], np.maximum(signal - 1.2, 0), axis=1).astype(np.float32)
        flare = 0.1 * rng.standard_normal((rows, 1)) * (rng.random((rows, 1)) < 0.03)
        signal = signal + np.float32(optics.charging) * (flare.astype(np.float32) - tail)
    signal = cv2.filter2D(signal, -1, _probe(optics, rng.uniform(0, np.pi)), borderType=cv2.BORDER_REFLECT)
    signal = np.maximum(signal, 0)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal += np.sqrt((signal + 0.08) / np.float32(optics.dose)) * noise  # Poisson's, for the many electrons of a pixel
    return signal * (1 + optics.row_jitter * rng.standard_normal((rows, 1))).astype(np.float32)


def micrograph(
    height: np.ndarray, owner: np.ndarray, texture: np.ndarray, brightness: np.ndarray, free: np.ndarray,
    scale: float, optics: Optics, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The image uint8 (H, W) of a height map.

    height, owner, texture: of `depth_buffer`; brightness: (bodies + 1,) grey value of the substrate and of each body;
    free: of `exposure`; scale: a typical radius in pixels.
    """
    signal = _yield(height, optics)
    signal *= brightness.astype(np.float32)[owner] * (1 + np.float32(optics.albedo) * texture)
    signal *= free
    if optics.focus > 0:
        level = np.percentile(height[::8, ::8], 90)
        deep = np.clip((level - height) * np.float32(0.25 / scale), 0, 1) * np.float32(optics.focus)
        signal += deep * (cv2.GaussianBlur(signal, (0, 0), 2.0) - signal)
    drift = rng.standard_normal((3, 3)).astype(np.float32)
    signal *= 1 + 0.06 * cv2.resize(drift, height.shape[::-1], interpolation=cv2.INTER_CUBIC)
    signal = _detect(signal, optics, rng)
    low, high = np.percentile(cv2.blur(signal, (3, 3))[::4, ::4], (1, 99.3))  # the operator's brightness and contrast
    signal = np.clip((signal - low) / max(high - low, 1e-3), -0.3, 1.4)
    signal = np.sign(signal) * np.abs(signal) ** np.float32(optics.gamma)
    return np.clip(optics.black + signal * (optics.white - optics.black) + 0.5, 0, 255).astype(np.uint8)
