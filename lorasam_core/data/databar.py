"""The data bar of a microscope: the strip with scale bar and settings that it writes under the micrograph.

Left in, its letters become particles. What is called a bar must pass every test below: to miss one costs a crop by
hand, to invent one costs a part of the micrograph, unseen.
"""

from __future__ import annotations

import cv2
import numpy as np

MIN_BAR, MAX_SHARE = 12, 0.25  # rows; share of the image's height
MIN_IMAGE = 16  # rows that a crop must leave
TOLERANCES = (2, 5, 10)  # grey levels about the ground: as written, then after JPEG or resampling
RIM = 4  # rows of rim line, or blurred or ringing, between the micrograph and the even ground
PARTS = 16  # of the width, each of which must change and be even below
CONTRAST = 60  # grey levels between text and ground


def _top(grey: np.ndarray, row: int, ground: np.ndarray) -> int:
    """The bar's first row, at most RIM rows over its first even one: those unlike the micrograph above them."""
    micrograph = grey[row - 8 : row - RIM].mean(0)
    unlike = np.abs(grey[row - 12 : row] - micrograph).mean(1)
    limit = (unlike[:4].mean() + np.abs(ground - micrograph).mean()) / 2
    rows = unlike[-RIM:] > limit
    return row - int(np.argmin(np.append(rows[::-1], False)))


def _is_bar(grey: np.ndarray, row: int, ground: np.ndarray, tolerance: int) -> bool:
    """Whether the rows from `row` on are mostly ground (W,) with text on it, and those above are not."""
    off = np.abs(grey[row:] - ground)
    text = off >= CONTRAST
    even, letters = (off <= tolerance).mean(), text.mean()
    strokes = (text[:, 1:] != text[:, :-1]).sum(1).mean() / 2  # a row
    above = (np.abs(grey[row - 8 : row - RIM] - ground) <= tolerance).mean()
    blurred = 1 - even - letters  # the rims of letters, or a sky with something in it
    return bool(even >= 0.5 and 0.01 <= letters <= 0.4 and blurred <= 4 * letters and strokes >= 2 and above <= 0.15)


def data_bar(image: np.ndarray) -> int:
    """Rows at the bottom of a micrograph that are the microscope's data bar; 0 where there is none.

    image: uint8 (H, W) or (H, W, 3). A bar reaches across the full width, takes at least 12 rows and at most a
    quarter of the height, and holds text of strong contrast on an even ground, which may differ between boxes side by
    side. At its upper edge nearly the whole width changes at once. Text written onto the micrograph itself is no bar.
    """
    height, width = image.shape[:2]
    lowest = int(height * MAX_SHARE)
    if lowest < MIN_BAR or width < 4 * PARTS:
        return 0
    grey = (image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[-lowest - 12 :].astype(np.int16)
    rows = np.arange(12, len(grey) - MIN_BAR + RIM + 1)
    along = np.abs(np.diff(grey[rows], axis=1))
    down = np.abs(grey[rows + 1] - grey[rows])
    step = np.abs((grey[rows - 5] + grey[rows - 4] + grey[rows - 3]) / np.float32(3) - grey[rows])
    starts = np.linspace(0, width - 1, PARTS, endpoint=False).astype(int)
    widths = np.diff(starts, append=width - 1)
    for tolerance in TOLERANCES:
        changed = np.add.reduceat(step[:, 1:] > tolerance, starts, axis=1, dtype=int) / widths
        level = np.add.reduceat(along <= tolerance, starts, axis=1, dtype=int) / widths
        edge = (changed.mean(1) >= 0.9) & (changed.min(1) >= 0.6) & (level.mean(1) >= 0.8) & (level.min(1) >= 0.5)
        edge &= (down <= tolerance).mean(1) >= 0.8
        for row in rows[edge & ~np.append(False, edge[:-1])]:
            ground = np.median(grey[row : row + 3], axis=0).astype(np.int16)
            if _is_bar(grey, row, ground, tolerance):
                bar = len(grey) - _top(grey, int(row), ground)
                return bar if MIN_BAR <= bar <= lowest else 0
    return 0


def cropped(image: np.ndarray, bottom: str | int) -> tuple[np.ndarray, int]:
    """The image without its lowest rows, a view, and the number of rows cut off.

    image: uint8 (H, W) or (H, W, 3). bottom: "auto" (the data bar, if there is one), "none", or rows in pixels.
    Raises ValueError for anything else, and for a number that leaves fewer than 16 rows.
    """
    if bottom in ("auto", "none"):
        rows = data_bar(image) if bottom == "auto" else 0
    else:
        try:
            rows = int(bottom)
        except ValueError:
            raise ValueError(f"The bottom to crop is {bottom!r}; give auto, none or a number of pixels.") from None
        most = max(len(image) - MIN_IMAGE, 0)
        if rows < 0 or rows > most:
            raise ValueError(f"Cropping {rows} of {len(image)} rows is impossible; give 0 to {most} pixels.")
    return image[: len(image) - rows], rows


def unlabelled_bar(image: np.ndarray, labels: np.ndarray | None) -> int:
    """Rows of the data bar of an image; 0 where labels, int (H, W), lie in them."""
    bar = data_bar(image)
    return 0 if bar and labels is not None and labels[-bar:].any() else bar
