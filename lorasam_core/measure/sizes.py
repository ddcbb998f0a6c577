"""Instance labels -> a table of particle sizes, and the distribution's usual figures (ISO 9276: D10, D50, D90)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from scipy.special import ndtri
from skimage.measure import regionprops_table

from lorasam_core.stats import LEVEL, RESAMPLES

COLUMNS = (
    "label", "area", "equivalent_diameter", "feret_max", "feret_min", "major_axis", "minor_axis", "aspect_ratio",
    "orientation", "circularity", "solidity", "y", "x", "touches_border", "border_weight", "unit",
)  # fmt: skip
SIDES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])  # x, y of a pixel's four edge midpoints, in half pixels
LENGTHS = ["equivalent_diameter", "feret_max", "feret_min", "major_axis", "minor_axis"]
FIGURES = ("mean", "D10", "D50", "D90", "span")
POWERS = {"number": 0, "volume": 3}  # of the diameter: what a particle counts for
FEW_IMAGES = 5  # a bootstrap over fewer images knows too few of their combinations
CHUNK = 2_000_000  # resamples x particles at once, 16 MB an array


def measure(labels: np.ndarray, pixel_size: float | None = None, image: np.ndarray | None = None) -> pd.DataFrame:
    """One row a particle of an int label image (H, W); 0 is background.

    Lengths are in nm and areas in nm^2 where `pixel_size` (nm) is given, else in pixels; the column `unit` says which.
    `equivalent_diameter` is that of a disc of equal area; `feret_max` and `feret_min` the largest distance and the
    smallest width of the outline's convex hull, through the midpoints of pixel edges; `aspect_ratio` the major over the
    minor axis of the ellipse with equal second moments (1 or more); `orientation` the angle of its major axis to the
    image's rows, in degrees counter-clockwise from 0 to 180; `circularity` 4 pi area / perimeter^2 with Crofton's
    perimeter, at most 1; `solidity` the area over its convex hull's, both in pixels; `y`, `x` the centroid in pixels.
    `touches_border` marks particles cut by the image's edge; `border_weight` is the Miles-Lantuéjoul weight of the
    others: W H / ((W - w - 1)(H - h - 1)) for a box of w x h pixels, which can lie in so many places of a W x H image
    without touching its edge (Miles 1978, J. Microsc. 113, 257; ISO 13322-1). With `image`, uint8 (H, W) or (H, W, 3),
    `mean_grey` is its mean over the particle.

    No particle gives an empty table. Raises ValueError for an array that is not a 2-D label image, for a pixel size
    that is not above 0, and for an image of another size.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels is {labels.dtype} of shape {labels.shape}; give whole numbers of shape (H, W).")
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels holds {labels.min()}; give instance ids from 1, and 0 for background.")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size is {pixel_size}; give nm a pixel above 0, or None to stay in pixels.")
    if image is not None and image.shape[:2] != labels.shape:
        raise ValueError(f"the image has shape {image.shape} and labels {labels.shape}; give both the same size.")
    names = ("label", "area", "equivalent_diameter_area", "axis_major_length",
             "axis_minor_length", "orientation", "perimeter_crofton", "solidity", "centroid", "bbox")  # fmt: skip
    props = regionprops_table(labels.astype(np.int32, copy=False), properties=names)
    area, perimeter = props["area"].astype(float), props["perimeter_crofton"]
    major, minor = props["axis_major_length"], props["axis_minor_length"]
    top, left, bottom, right = (props[f"bbox-{k}"] for k in range(4))
    places = [np.s_[box] for box in zip(map(slice, top, bottom), map(slice, left, right))]
    ferets = [_ferets(labels[place] == k) for k, place in zip(props["label"], places)]
    largest, smallest = np.array(ferets, float).reshape(-1, 2).T
    with np.errstate(divide="ignore", invalid="ignore"):  # a line of pixels has no minor axis
        aspect = np.where(minor > 0, major / minor, np.where(major > 0, np.inf, 1.0))
        circularity = np.where(perimeter > 0, np.minimum(4 * np.pi * area / perimeter**2, 1.0), 1.0)
    height, width = labels.shape
    border = (top == 0) | (left == 0) | (bottom == height) | (right == width)
    free = np.where(border, np.nan, (width - (right - left) - 1.0) * (height - (bottom - top) - 1.0))
    angle = (np.degrees(props["orientation"]) + 90) % 180 % 180  # theirs is to the columns; a hair under 0 gives 180
    table = pd.DataFrame({
        "label": props["label"], "area": area, "equivalent_diameter": props["equivalent_diameter_area"],
        "feret_max": largest, "feret_min": smallest, "major_axis": major,
        "minor_axis": minor, "aspect_ratio": aspect, "orientation": angle, "circularity": circularity,
        "solidity": props["solidity"], "y": props["centroid-0"], "x": props["centroid-1"],
        "touches_border": border.astype(bool), "border_weight": width * height / free,
    })  # fmt: skip
    if image is not None:
        table["mean_grey"] = [image[p][labels[p] == k].mean() for k, p in zip(props["label"], places)]
    table["unit"] = table.attrs["unit"] = "px"  # the attribute outlives an empty table
    return table if pixel_size is None else in_nm(table, pixel_size)


def in_nm(table: pd.DataFrame, pixel_size: float) -> pd.DataFrame:
    """A table of `measure` in pixels, of nm `pixel_size`, with lengths in nm and areas in nm^2."""
    table = table.assign(**table[LENGTHS] * pixel_size, area=table["area"] * pixel_size**2, unit="nm")
    table.attrs["unit"] = "nm"
    return table


def _ferets(region: np.ndarray) -> tuple[float, float]:
    """Largest distance and smallest width of bool (h, w): of the convex hull of the midpoints of its pixels' edges.

    regionprops has the largest alone, of a hull half a pixel larger, which is more than a disc's.
    """
    rows = np.flatnonzero(region.any(axis=1))  # the hull of a region is that of its rows' first and last pixels
    ends = np.concatenate([region[rows].argmax(axis=1), region.shape[1] - 1 - region[rows, ::-1].argmax(axis=1)])
    points = 2 * np.stack([ends, np.tile(rows, 2)], axis=1)[:, None] + SIDES
    hull = cv2.convexHull(points.reshape(-1, 1, 2).astype(np.int32))[:, 0].astype(np.int64)
    normals = (hull - np.roll(hull, -1, axis=0))[:, ::-1].T * [[-1], [1]]
    widths = np.ptp(hull @ normals, axis=0) / np.hypot(*normals)  # the smallest is across some edge
    return float(np.hypot(*(hull[:, None] - hull).T).max() / 2), float(widths.min() / 2)


def size_distribution(
    table: pd.DataFrame, exclude_border: bool = True, column: str = "equivalent_diameter", weight: str = "number",
    border_correction: bool = False,
) -> dict[str, float | int | str]:  # fmt: skip
    """Figures of a table of `measure`: count, mean, D10, D50, D90, span (D90 - D10) / D50, and their unit.

    weight: "number" counts every particle once, "volume" by the cube of its equivalent diameter (the mean is then the
    De Brouckere diameter). Particles cut by the image's edge are left out by default, since their size is not known;
    that favours the small, and border_correction counts those that are left by their `border_weight`. By number and
    uncorrected, Dq is numpy's percentile, linear between neighbours; with weights it is the smallest size up to which
    particles hold q % of all weight. Without any particle the figures are NaN. Raises ValueError for a missing column,
    tables of different units put together, an unknown weight, and a correction while cut particles are kept.
    """
    if border_correction and not exclude_border:
        raise ValueError("border_correction weights the particles that the edge leaves whole; keep exclude_border.")
    unit = _unit(table, (column, "touches_border"))
    kept = table[~table["touches_border"].astype(bool)] if exclude_border else table
    sizes = kept[column].to_numpy(float)
    if not len(sizes):
        figures = np.full(len(FIGURES), np.nan)
    elif weight == "number" and not border_correction:
        d10, d50, d90 = np.percentile(sizes, (10, 50, 90))
        figures = np.array([sizes.mean(), d10, d50, d90, (d90 - d10) / d50])
    else:
        order = np.argsort(sizes)
        figures = _figures(sizes[order], size_weights(kept, weight, border_correction)[None, order])[0]
    return {"count": len(sizes)} | dict(zip(FIGURES, figures.tolist())) | {"unit": unit}


def median_diameter(labels: np.ndarray) -> float:
    """D50 by number, in pixels, of an int label image (H, W): what `size_distribution` gives of its `measure`, without
    measuring anything else. NaN where no particle lies clear of the edge.
    """
    ids, areas = np.unique(labels, return_counts=True)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    areas = areas[(ids > 0) & ~np.isin(ids, edge)]
    return float(np.median(np.sqrt(4 / np.pi * areas))) if len(areas) else float("nan")


def size_weights(table: pd.DataFrame, weight: str = "number", border_correction: bool = False) -> np.ndarray:
    """What each particle of a table counts for in `size_distribution`: (N,), NaN for a cut one that is corrected."""
    if weight not in POWERS:
        raise ValueError(f"weight is {weight!r}; choose from {', '.join(POWERS)}.")
    border = table["border_weight"].to_numpy(float) if border_correction else 1.0
    return table["equivalent_diameter"].to_numpy(float) ** POWERS[weight] * border


def size_intervals(
    table: pd.DataFrame, weight: str = "number", border_correction: bool = False, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of the figures of `size_distribution`: {mean: (low, high), D10: ...}.

    Images (column `image`) are resampled where there are 5 or more, since their particles are not independent; else
    particles. Cut particles are left out. Fewer than two particles: NaN. Errors as in `size_distribution`.
    """
    _unit(table)
    draws = _resampled(table, weight, border_correction, np.random.default_rng(seed))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).tolist()
    return dict(zip(FIGURES, zip(low, high)))


def compare_sizes(
    first: pd.DataFrame, second: pd.DataFrame, weight: str = "number", border_correction: bool = False, seed: int = 0
) -> dict[str, float | str]:
    """Second minus first: difference of D50 with a bootstrap interval (low, high), ks and p, and the unit.

    ks, p: the two-sample Kolmogorov-Smirnov test of the equivalent diameters by number, uncorrected; it takes particles
    for independent. Intervals as in `size_intervals`. Raises ValueError where the units differ or a sample has no whole
    particle.
    """
    from scipy.stats import ks_2samp  # takes half a second

    tables, rng = (first, second), np.random.default_rng(seed)
    whole = [t.loc[~t["touches_border"].astype(bool), "equivalent_diameter"] for t in tables]
    if not all(map(len, whole)):
        raise ValueError("a sample has no particle that the edge leaves whole; there is nothing to compare.")
    unit = _unit(pd.concat(tables))
    d50 = [float(size_distribution(t, weight=weight, border_correction=border_correction)["D50"]) for t in tables]
    draws = [_resampled(t, weight, border_correction, rng)[:, FIGURES.index("D50")] for t in tables]
    low, high = np.quantile(draws[1] - draws[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    test = ks_2samp(*whole)
    return {
        "difference": d50[1] - d50[0], "low": low, "high": high, "ks": float(test.statistic), "p": float(test.pvalue),
        "unit": unit,
    }  # fmt: skip


def particles_needed(deviation: float, precision: float, weight: str = "number") -> int:
    """Particles for D50 within a share `precision` (0.05: 5 %) of the truth in 95 of 100 samples, if it is log-normal.

    deviation: the geometric standard deviation by number. n = (z / precision)^2 (s^2 + 2 p^2 s^4) with s = ln deviation
    and p = 0 by number, 3 by volume: the variance of ln D50 = m + p s^2, where m and s^2 are estimated from the
    logarithms of n diameters (Hatch and Choate's D50; Mori and Suganuma 1975, Kagaku Kogaku Ronbunshu 1, 197). ISO
    13322-1, annex A, counts particles with the same variance. Raises ValueError for a deviation under 1, a precision
    that is not above 0 and an unknown weight.
    """
    if weight not in POWERS or not (deviation >= 1 and precision > 0):
        raise ValueError(f"no number of particles for {deviation=}, {precision=}, {weight=}; give 1 or more, above 0.")
    variance = np.log(deviation) ** 2
    variance += 2 * (POWERS[weight] * variance) ** 2
    return max(1, int(np.ceil((ndtri((1 + LEVEL) / 2) / precision) ** 2 * variance)))


def geometric_deviation(table: pd.DataFrame, border_correction: bool = False) -> float:
    """Geometric standard deviation of the equivalent diameters of whole particles, by number; NaN for none."""
    whole = table[~table["touches_border"].astype(bool)]
    if whole.empty:
        return float("nan")
    logs, weights = np.log(whole["equivalent_diameter"]), size_weights(whole, "number", border_correction)
    return float(np.exp(np.sqrt(np.average((logs - np.average(logs, weights=weights)) ** 2, weights=weights))))


def _unit(table: pd.DataFrame, columns: Sequence[str] = ("equivalent_diameter", "touches_border")) -> str:
    for name in (*columns, "unit"):
        if name not in table:
            raise ValueError(f"the table has no column {name!r}; give a table made by measure().")
    units = table["unit"].unique()
    if len(units) > 1:
        raise ValueError(f"the table mixes units ({', '.join(map(str, units))}); give every image its pixel size.")
    return str(units[0]) if len(units) else table.attrs.get("unit", "px")


def _figures(sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """FIGURES (n, 5) of ascending sizes (N,) under n sets of weights (n, N)."""
    total = np.cumsum(weights, axis=1)
    enough = total[:, -1:] * (1 - 1e-12)  # a sum that reaches its share but for rounding does reach it
    d10, d50, d90 = (sizes[(total < share * enough).sum(axis=1)] for share in (0.1, 0.5, 0.9))
    return np.stack([weights @ sizes / total[:, -1], d10, d50, d90, (d90 - d10) / d50], axis=1)


def _resampled(table: pd.DataFrame, weight: str, border_correction: bool, rng: np.random.Generator) -> np.ndarray:
    """FIGURES (RESAMPLES, 5) of resampled whole particles, as `size_intervals` says; NaN for fewer than two."""
    table = table[~table["touches_border"].astype(bool)].sort_values("equivalent_diameter", kind="stable")
    if len(table) < 2:
        return np.full((RESAMPLES, len(FIGURES)), np.nan)
    sizes, weights = table["equivalent_diameter"].to_numpy(float), size_weights(table, weight, border_correction)
    drawn_from = np.arange(len(table))
    if "image" in table and table["image"].nunique() >= FEW_IMAGES:
        drawn_from = np.unique(table["image"], return_inverse=True)[1]
    count, step, rows = drawn_from.max() + 1, max(1, CHUNK // len(table)), []
    for start in range(0, RESAMPLES, step):
        times = rng.multinomial(count, np.full(count, 1 / count), size=min(step, RESAMPLES - start))
        rows.append(_figures(sizes, weights * times[:, drawn_from]))
    return np.concatenate(rows)


def readable_unit(median: float, unit: str) -> tuple[float, str]:
    """For readers of sizes: what they are divided by, and the unit then; µm where the median is 1000 nm or more."""
    return (1000.0, "µm") if unit == "nm" and median >= 1000 else (1.0, unit)
