"""Augmentation of one training image with its labels: rotation and crop, flips, contrast, gamma; and a wider one."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from skimage.measure import label

# what the study does not do: micrographs of other magnifications, in dark on bright (TEM), blurred and noisy
WIDE: dict[str, Any] = {"scale": (0.5, 2.0), "invert": 0.25, "blur": (0.0, 1.5), "noise": (0.0, 10.0)}
KINDS: dict[str, dict[str, Any]] = {"study": {}, "wide": WIDE}


def augment(
    image: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    crop_size: int | tuple[int, int],
    *,
    angle: tuple[float, float] = (0.0, 90.0),
    shift: float = 0.1,
    flip: float = 0.5,
    contrast: tuple[float, float] = (0.7, 1.3),
    gamma: tuple[float, float] = (0.7, 1.4),
    scale: tuple[float, float] = (1.0, 1.0),
    invert: float = 0.0,
    blur: tuple[float, float] = (0.0, 0.0),
    noise: tuple[float, float] = (0.0, 0.0),
    center: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One augmented view; every random number comes from rng.

    image: uint8 (H, W) or (H, W, 3); labels: int32 (H, W), ids kept as they are.
    crop_size: side of the square, or (h, w), of the result in pixels.
    angle: range of the rotation in degrees. The study writes "random crop (0-90)"; it is read as a rotation of 0 to 90
        degrees, then a crop.
    shift: the crop's centre moves by up to this fraction of its size from `center` (X, Y; default: the image's centre).
    flip: chance of a horizontal and, independently, of a vertical flip.
    contrast: range of the factor about the view's own mean; gamma: range of the exponent (drawn on a log scale).
    scale: range of the enlargement (drawn on a log scale); below 1 the image is smoothed first, so that nothing
        aliases. invert: chance that bright and dark change places. blur, noise: ranges of the standard deviations, in
        pixels of the view and in grey values, of a Gaussian filter and of Gaussian noise. By default none of the four.

    Where the rotated crop leaves the image it is filled by reflection. Image: bilinear; labels: nearest, by the same
    geometry, so the two stay aligned. A mirror image that does not touch its particle is another particle, with an id
    above all those of `labels`. Returns image uint8 (h, w[, 3]) and labels int32 (h, w).
    Raises ValueError when image and labels differ in height or width.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"The image is {image.shape[:2]} and its labels {labels.shape}; give both the same size.")
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    matrix = _view_matrix(labels.shape, height, width, rng, angle, shift, center)
    step = 1.0  # pixels of the image to one of the view
    if scale != (1.0, 1.0):
        step = float(np.exp(-rng.uniform(*np.log(scale))))
        middle = ((width - 1) / 2, (height - 1) / 2, 1.0)
        at, matrix = matrix @ middle, step * matrix
        matrix[:, 2] += at - matrix @ middle  # the view's centre stays where it is
    largest = int(labels.max(initial=0))
    image, labels, matrix = _neighbourhood(image, labels, matrix, (width, height), step)
    if step > 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(step**2 - 1) + 1e-3)
    image = _warp(image, matrix, (width, height), cv2.INTER_LINEAR)
    labels = _name_mirror_images(_warp_labels(labels, matrix, (width, height)), matrix, labels.shape, largest)
    for axis in (1, 0):  # horizontal, then vertical
        if rng.random() < flip:
            image, labels = np.flip(image, axis), np.flip(labels, axis)
    table = tone_table(float(image.mean()), rng.uniform(*contrast), float(np.exp(rng.uniform(*np.log(gamma)))))
    if invert and rng.random() < invert:
        table = 255 - table
    image = cv2.LUT(np.ascontiguousarray(image), table)
    if any(blur):
        image = cv2.GaussianBlur(image, (0, 0), max(1e-3, rng.uniform(*blur)))
    if any(noise):
        image = np.clip(np.round(image + rng.normal(0, rng.uniform(*noise), image.shape)), 0, 255).astype(np.uint8)
    return image, np.ascontiguousarray(labels)


def tone_table(mean: float, contrast: float, gamma: float) -> np.ndarray:
    """Grey value to grey value, uint8 (256,): contrast about the mean, clipped, then gamma on the range 0 to 1."""
    values = np.clip(mean + contrast * (np.arange(256) - mean), 0, 255) / 255
    return np.round(255 * values**gamma).astype(np.uint8)


def _view_matrix(
    shape: tuple[int, ...],
    height: int,
    width: int,
    rng: np.random.Generator,
    angle: tuple[float, float],
    shift: float,
    center: tuple[float, float] | None,
) -> np.ndarray:
    """Affine map, float64 (2, 3), from the pixels of the result to those of the image."""
    theta = np.deg2rad(rng.uniform(*angle))
    cx, cy = center if center is not None else ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    cx, cy = cx + rng.uniform(-shift, shift) * width, cy + rng.uniform(-shift, shift) * height
    cos, sin = np.cos(theta), np.sin(theta)
    u, v = (width - 1) / 2, (height - 1) / 2
    return np.array([[cos, -sin, cx - cos * u + sin * v], [sin, cos, cy - sin * u - cos * v]])


def _neighbourhood(
    image: np.ndarray, labels: np.ndarray, matrix: np.ndarray, size: tuple[int, int], step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of a large image that the view can touch, reflections included, so that the cost depends on the view."""
    cx, cy = matrix @ ((size[0] - 1) / 2, (size[1] - 1) / 2, 1.0)
    radius = step * np.hypot(*size) / 2 + 2
    left, top = (max(0, int(c - radius)) for c in (cx, cy))
    part = np.s_[top : int(cy + radius) + 1, left : int(cx + radius) + 1]
    return image[part], labels[part], matrix - [[0, 0, left], [0, 0, top]]


def _warp(array: np.ndarray, matrix: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """Sample the array at the result's pixels, reflecting at the borders (the border pixel itself is not repeated)."""
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(array, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _warp_labels(labels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour on ids. warpAffine takes no int32, so ids go as 16 bit, or as float32 where they are larger."""
    largest = int(labels.max(initial=0))
    if largest >= 2**24:  # float32 is exact up to here
        raise ValueError(f"The labels hold the id {largest}; renumber them below 16,777,216.")
    carrier = np.uint16 if largest < 2**16 else np.float32
    return _warp(labels.astype(carrier), matrix, size, cv2.INTER_NEAREST).astype(np.int32)


def _name_mirror_images(labels: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], largest: int) -> np.ndarray:
    """Give each connected piece of an id that lies wholly in reflections an id of its own, above `largest`.

    matrix: from the pixels of labels (h, w) to those of an image of `shape`.
    """
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    real = cv2.warpAffine(np.ones(shape, np.uint8), matrix, labels.shape[::-1], flags=flags) > 0  # zeros outside
    if real.all():
        return labels
    pieces, count = label(labels, background=0, connectivity=1, return_num=True)
    mirrored = np.ones(count + 1, bool)
    mirrored[np.unique(pieces[real])] = mirrored[0] = False
    names = np.zeros(count + 1, np.int32)
    names[mirrored] = largest + 1 + np.arange(mirrored.sum())
    return np.where(mirrored[pieces], names[pieces], labels)
