"""One visual language for the report: frozen and adapted always in the same two colours, readable when colour-blind.

Every function that returns a figure marks it with `made_by`, its own dotted name, which report.Page writes beside the
picture. Nothing here reads records or models: arrays and tables in, figures out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from lorasam_core.measure.metrics import paint

FROZEN, ADAPTED, STUDY, LABELS = "#0072B2", "#D55E00", "#000000", "#666666"  # Okabe and Ito's palette, and a grey
TRAIN, VALIDATION = "#009E73", "#CC79A7"
COLORS = {
    "frozen": FROZEN, "adapted": ADAPTED, "reported by the study": STUDY, "labels": LABELS,
    "train": TRAIN, "validation": VALIDATION,
}  # fmt: skip
OTHER = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442")
OUTLINES = ("#E69F00", "#56B4E9", "#F0E442", "#D55E00")  # those of the palette that no eye takes for grey
MOST_NUMBERS = 60  # instances, with more the numbers hide the particles
MASK_BLUE = (30, 110, 255)
POINT = (213, 94, 0)
INSET_RED = "#E8112D"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#E6E6E6", "grid.linewidth": 0.6, "axes.axisbelow": True, "figure.facecolor": "white",
    "figure.constrained_layout.use": True, "svg.hashsalt": "lorasam", "savefig.dpi": 160, "lines.linewidth": 1.6,
}  # fmt: skip

Inset = tuple[int, int, int, int]  # y, x, height, width in pixels


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw inside STYLE, and mark the figure with the function that made it."""

    @functools.wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            figure = function(*args, **kwargs)
        figure.made_by = f"{function.__module__}.{function.__name__}"
        return figure

    return draw


def save(figure: Figure, path: str | Path) -> Path:
    """Write SVG or PNG, by the suffix; the same figure gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


# ------------------------------------------------------------------------------------------------ pictures
def rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey or RGB uint8 (H, W[, 3]) -> RGB uint8 (H, W, 3)."""
    return np.ascontiguousarray(np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]).astype(np.uint8)


def overlay(
    image: NDArray[Any], mask: NDArray[Any], color: tuple[int, int, int] = MASK_BLUE, alpha: float = 0.55
) -> NDArray[np.uint8]:
    """One mask (H, W) in one colour over the image, its edge drawn solid -> RGB uint8 (H, W, 3)."""
    inside = np.asarray(mask) > 0
    if inside.shape != image.shape[:2]:
        raise ValueError(f"The mask is {inside.shape}, the image {image.shape[:2]}; give a mask of the image's size.")
    out = rgb(image).astype(float)
    out[inside] = (1 - alpha) * out[inside] + alpha * np.array(color)
    out[inside & ~ndimage.binary_erosion(inside)] = color
    return out.round().astype(np.uint8)


def mark_point(
    image: NDArray[Any], point: NDArray[Any], radius: int = 5, color: tuple[int, int, int] = POINT
) -> NDArray[np.uint8]:
    """A point (X, Y) as a square with a white rim over the image -> RGB uint8 (H, W, 3)."""
    out = rgb(image).copy()
    x, y = (int(value) for value in point)
    for reach, shade in ((radius + 2, (255, 255, 255)), (radius, color)):
        out[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = shade
    return out


def mark_box(
    image: NDArray[Any], box: NDArray[Any], width: int = 3, color: tuple[int, int, int] = POINT
) -> NDArray[np.uint8]:
    """The frame of a box (X0, Y0, X1, Y1, last pixel included), `width` pixels inwards -> RGB uint8 (H, W, 3)."""
    out = rgb(image).copy()
    x0, y0, x1, y1 = (int(value) for value in box)
    frame = np.zeros(out.shape[:2], dtype=bool)
    frame[y0 : y1 + 1, x0 : x1 + 1] = True
    frame[y0 + width : y1 + 1 - width, x0 + width : x1 + 1 - width] = False
    out[frame] = color
    return out


def instance_mosaic(
    image: NDArray[Any], labels_or_annotations: NDArray[Any] | Sequence[Mapping[str, Any]], seed: int = 0
) -> NDArray[np.uint8]:
    """Each instance in a random but seeded colour on black -> RGB uint8 (H, W, 3).

    Takes an int label image (H, W), or the mask generator's annotations, painted in ascending predicted IoU.
    """
    if isinstance(labels_or_annotations, np.ndarray):
        labels: NDArray[Any] = labels_or_annotations.astype(np.int64)
    else:
        masks = np.array([a["segmentation"] for a in labels_or_annotations], dtype=bool).reshape(-1, *image.shape[:2])
        scores = np.array([a["predicted_iou"] for a in labels_or_annotations], dtype=float)
        labels = paint(masks, scores, image.shape[:2])
    draws = np.random.default_rng(seed).random((int(labels.max(initial=0)), 3))  # row by row: id i keeps its colour
    colors = mpl.colors.hsv_to_rgb(draws * [1.0, 0.45, 0.3] + [0.0, 0.45, 0.7])
    table = np.vstack([np.zeros((1, 3)), colors.reshape(-1, 3)])
    return (table[labels] * 255).round().astype(np.uint8)


def _outline_colors(labels: NDArray[Any], highest: NDArray[Any]) -> NDArray[np.intp]:
    """Index into OUTLINES for each id, by the id, but unlike its neighbours' of lower id while colours last.

    highest: (H, W), the highest id near each pixel.
    """
    size, count = int(labels.max(initial=0)) + 1, len(OUTLINES)
    colors = np.arange(size) % count
    meet = (highest > labels) & (labels > 0)
    lower: dict[int, list[int]] = {}
    for pair in np.unique(highest[meet].astype(np.int64) * size + labels[meet]):
        lower.setdefault(int(pair // size), []).append(int(pair % size))
    for i, neighbours in lower.items():  # in ascending order: the neighbours' colours are settled
        free = [c for c in np.roll(np.arange(count), -i) if c not in colors[neighbours]]
        colors[i] = free[0] if free else colors[i]
    return colors


def _write_number(picture: NDArray[np.uint8], number: int, inside: NDArray[Any], corner: tuple[int, int]) -> None:
    """The number at the most interior point of a mask (h, w) whose upper left pixel is `corner` (y, x)."""
    distance = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    text, font, unit = str(number), cv2.FONT_HERSHEY_SIMPLEX, max(1.0, max(picture.shape) / 1000)
    across = float(np.hypot(*cv2.getTextSize(text, font, 1.0, 1)[0]))
    scale = float(np.clip(2 * distance.max() / across, 0.4 * unit**0.5, 0.9 * unit))
    (w, h), _ = cv2.getTextSize(text, font, scale, 1)
    height, width = picture.shape[:2]
    left = max(min(corner[1] + x - w // 2, width - w - 2), 2)
    base = max(min(corner[0] + y + h // 2, height - 2), h + 2)
    line = max(1, round(1.5 * scale))
    rim = line + 2 * max(1, round(scale))  # dark, so that the number is legible on any ground
    for thickness, shade in ((rim, (0, 0, 0)), (line, (255, 255, 255))):
        cv2.putText(picture, text, (int(left), int(base)), font, scale, shade, thickness, cv2.LINE_AA)


def outlines(
    image: NDArray[Any], labels: NDArray[Any], numbers: bool | None = None, width: int | None = None
) -> NDArray[np.uint8]:
    """Each instance's inner boundary, and its id inside, on the micrograph -> RGB uint8 (H, W, 3).

    image: uint8 (H, W) or (H, W, 3); labels: int (H, W), ids under 2**24, 0 background. numbers None: where there are
    at most MOST_NUMBERS instances. width: of the lines in pixels; None: one for 700 of the longest side.
    Raises ValueError where the labels have another size than the image.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"The labels are {labels.shape}, the image {image.shape[:2]}; give labels of its size.")
    out = rgb(image).copy()
    width = width or max(1, round(max(labels.shape) / 700))
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    ids = labels.astype(np.float32)  # cv2 has no morphology of int32
    highest = cv2.dilate(ids, near)
    edge = (highest != cv2.erode(ids, near)) & (labels > 0)
    palette = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in OUTLINES], np.uint8)
    out[edge] = palette[_outline_colors(labels, highest)[labels[edge]]]
    boxes = [(i, box) for i, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None]
    if numbers or (numbers is None and len(boxes) <= MOST_NUMBERS):
        for i, box in boxes:
            _write_number(out, i, labels[box] == i, (box[0].start, box[1].start))
    return out


def pick_inset(first: NDArray[Any], second: NDArray[Any], fraction: float = 0.2) -> Inset:
    """The square (y, x, side, side), `fraction` of the short side wide, in which two masks (H, W) differ most."""
    height, width = first.shape
    side = max(4, round(min(height, width) * fraction))
    differ = ((np.asarray(first) > 0) != (np.asarray(second) > 0)).astype(float)
    edges = np.pad(differ.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = edges[side:, side:] - edges[:-side, side:] - edges[side:, :-side] + edges[:-side, :-side]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x), side, side


def _draw_inset(axes: Axes, picture: NDArray[Any], inset: Inset) -> None:
    """A red box around the region, and the region enlarged in the corner farthest from it."""
    y, x, h, w = inset
    height, width = picture.shape[:2]
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=INSET_RED, linewidth=1.4))
    share = 0.4 * min(height, width)  # side of the enlarged square in image pixels: clear of a box across the middle
    left = 0.0 if x + w / 2 > width / 2 else 1 - share / width
    bottom = 0.0 if y + h / 2 < height / 2 else 1 - share / height
    zoom = axes.inset_axes((left, bottom, share / width, share / height))
    zoom.imshow(picture[y : y + h, x : x + w], cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    zoom.set(xticks=[], yticks=[])
    for spine in zoom.spines.values():
        spine.set(visible=True, color=INSET_RED, linewidth=1.8)


def image_grid(pictures: Iterable[NDArray[Any]], columns: int, width: float) -> tuple[Figure, list[Axes]]:
    """A figure `width` inches wide with bare axes in rows of at most `columns`, high enough for the tallest picture."""
    shapes = [picture.shape for picture in pictures]
    columns = min(columns, len(shapes))
    rows = -(-len(shapes) // columns)
    tallest = max(height / across for height, across, *_ in shapes)
    figure = Figure(figsize=(width, rows * (width / columns * tallest + 0.25)))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    return figure, grid


@styled
def panels(
    pictures: Mapping[str, NDArray[Any]],
    inset: Inset | None = None,
    columns: int | None = None,
    width: float = 8.0,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Titled pictures, uint8 (H, W[, 3]), in rows of `columns` (None: one row), each with the inset enlarged."""
    figure, grid = image_grid(pictures.values(), columns or len(pictures), width)
    for axes, (title, picture) in zip(grid, pictures.items(), strict=False):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        axes.set_title(title, color=(colors or {}).get(title, "black"))
        axes.set_anchor("N")  # titles of a row at one height, whatever the pictures' shapes
        if inset is not None:
            _draw_inset(axes, picture, inset)
    return figure


@styled
def comparison(
    image: NDArray[Any],
    frozen: Any,
    adapted: Any,
    inset: Inset | None = None,
    titles: tuple[str, str, str] = ("input", "frozen", "adapted"),
) -> Figure:
    """Input, frozen, adapted in a row, as the study shows them.

    Boolean masks are laid over the image in blue (the predictor); label images or annotations become instance mosaics.
    """
    drawn = [
        overlay(image, x) if isinstance(x, np.ndarray) and x.dtype == bool else instance_mosaic(image, x)
        for x in (frozen, adapted)
    ]
    pictures = dict(zip(titles, [rgb(image), *drawn], strict=True))
    return panels(pictures, inset, colors={titles[1]: FROZEN, titles[2]: ADAPTED})


def setting(value: Any) -> str:
    """A setting's value as profiles and the study write it: 0.00001, where :g would give 1e-05."""
    return np.format_float_positional(value, trim="-") if isinstance(value, (float, np.floating)) else str(value)
