"""Colours and surfaces of generated scenes, as planar float32 arrays in 0..255 (channel first blends faster)."""

import cv2
import numpy as np

from pretrain.outlines import Rng

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_KINDS = ("flat", "gradient", "stripes", "checks", "dots", "cloud", "grain")
_ODDS = np.cumsum([0.34, 0.18, 0.15, 0.07, 0.06, 0.12])  # the rest is the last kind


def colours(rng: Rng, n: int) -> np.ndarray:
    """(n, 3) RGB of varied hue, saturation and value."""
    hsv = np.stack([rng.integers(0, 180, n), 255 * rng.random(n) ** 0.7, rng.uniform(20, 255, n)], axis=1)
    return cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32)


def apart(colour: np.ndarray, ground: np.ndarray, least: float) -> np.ndarray:
    """`colour` (3,), made lighter or darker until its luma differs from the ground's by `least`."""
    level, difference = float(LUMA @ ground), float(LUMA @ (colour - ground))
    if abs(difference) >= least:
        return colour
    up = difference > 0 if 50 < level < 205 else level < 128
    return colour + np.float32((least if up else -least) - difference)


def smooth_noise(rng: Rng, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Field (h, w) in 0..1 whose features are about `cell` pixels wide."""
    coarse = [int(side / cell) + 2 for side in shape]
    return cv2.resize(rng.random(coarse, dtype=np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


def slope(shape: tuple[int, int], direction: np.ndarray) -> np.ndarray:
    """Field (h, w) that rises linearly along `direction` (x, y), from about -1 to 1 over each side."""
    y = np.arange(1 - shape[0], shape[0], 2, dtype=np.float32) * np.float32(direction[1] / shape[0])
    x = np.arange(1 - shape[1], shape[1], 2, dtype=np.float32) * np.float32(direction[0] / shape[1])
    return y[:, None] + x


def texture(rng: Rng, shape: tuple[int, int], period: float) -> np.ndarray | None:
    """Field (h, w) in 0..1 that mixes two colours, or None for a flat region."""
    kind = _KINDS[int(np.searchsorted(_ODDS, rng.random()))]
    if kind == "flat":
        return None
    if kind == "cloud":
        return smooth_noise(rng, shape, period)
    if kind == "grain":
        return rng.random(shape, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    if kind == "gradient":
        return slope(shape, np.array([c, s])) * np.float32(0.35) + np.float32(0.5)
    turns = np.pi / period / 2
    u = slope(shape, np.array([c * shape[1], s * shape[0]]) * turns)
    if kind == "stripes":
        wave = np.sin(u)
        return (wave > 0).astype(np.float32) if rng.random() < 0.5 else wave * np.float32(0.5) + np.float32(0.5)
    wave = np.sin(u) * np.sin(slope(shape, np.array([-s * shape[1], c * shape[0]]) * turns))
    return (wave > (0 if kind == "checks" else 0.4)).astype(np.float32)


def surface(rng: Rng, shape: tuple[int, int], colour: np.ndarray, palette: np.ndarray, scale: float) -> np.ndarray:
    """(3, h, w), or (3, 1, 1) where flat: a texture between `colour` and a second one; `scale` widens its period."""
    field = texture(rng, shape, max(2.5, scale * float(np.exp(rng.uniform(np.log(5), np.log(40))))))
    if field is None:
        return colour[:, None, None]
    amount = np.float32(rng.uniform(0.1, 0.9) ** 1.5)
    step = (palette[rng.integers(len(palette))] - colour) * amount
    return colour[:, None, None] + field * step[:, None, None]
