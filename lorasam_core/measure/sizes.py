"""Instance labels -> a table of particle sizes, and the distribution's usual figures (ISO 9276: D10, D50, D90)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from skimage.measure import regionprops_table

COLUMNS = (
    "label", "area", "equivalent_diameter", "feret_max", "major_axis", "minor_axis", "aspect_ratio", "circularity",
    "solidity", "y", "x", "touches_border", "unit",
)  # fmt: skip


def measure(labels: np.ndarray, pixel_size: float | None = None) -> pd.DataFrame:
    """One row a particle of an int label image (H, W); 0 is background.

    Lengths are in nm and areas in nm^2 where `pixel_size` (nm) is given, else in pixels; the column `unit` says which.
    `equivalent_diameter` is that of a disc of equal area; `feret_max` the largest distance between two points of the
    outline; `aspect_ratio` the major over the minor axis of the ellipse with equal second moments (1 or more);
    `circularity` 4 pi area / perimeter^2 with Crofton's perimeter, at most 1; `solidity` the area over its convex
    hull's; `y`, `x` the centroid in pixels; `touches_border` marks particles cut by the image's edge. No particle
    gives an empty table. Raises ValueError for an array that is not a 2-D label image and for a pixel size
    that is not above 0.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels is {labels.dtype} of shape {labels.shape}; give whole numbers of shape (H, W).")
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels holds {labels.min()}; give instance ids from 1, and 0 for background.")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size is {pixel_size}; give nm a pixel above 0, or None to stay in pixels.")
    nm = 1.0 if pixel_size is None else float(pixel_size)
    props = regionprops_table(
        labels.astype(np.int32, copy=False),
        properties=("label", "area", "equivalent_diameter_area", "feret_diameter_max", "axis_major_length",
                    "axis_minor_length", "perimeter_crofton", "solidity", "centroid", "bbox"),
    )  # fmt: skip
    area, major, minor = props["area"].astype(float), props["axis_major_length"], props["axis_minor_length"]
    perimeter = props["perimeter_crofton"]
    with np.errstate(divide="ignore", invalid="ignore"):  # a line of pixels has no minor axis
        aspect = np.where(minor > 0, major / minor, np.where(major > 0, np.inf, 1.0))
        circularity = np.where(perimeter > 0, np.minimum(4 * np.pi * area / perimeter**2, 1.0), 1.0)
    height, width = labels.shape
    border = (props["bbox-0"] == 0) | (props["bbox-1"] == 0) | (props["bbox-2"] == height) | (props["bbox-3"] == width)
    table = pd.DataFrame({
        "label": props["label"], "area": area * nm**2, "equivalent_diameter": props["equivalent_diameter_area"] * nm,
        "feret_max": props["feret_diameter_max"] * nm, "major_axis": major * nm, "minor_axis": minor * nm,
        "aspect_ratio": aspect, "circularity": circularity, "solidity": props["solidity"],
        "y": props["centroid-0"], "x": props["centroid-1"], "touches_border": border.astype(bool),
    })  # fmt: skip
    table["unit"] = table.attrs["unit"] = "px" if pixel_size is None else "nm"  # the attribute outlives an empty table
    return table


def size_distribution(
    table: pd.DataFrame, exclude_border: bool = True, column: str = "equivalent_diameter"
) -> dict[str, float | int | str]:
    """Number-weighted figures of a table of `measure`: count, mean, D10, D50, D90 and their unit.

    Particles cut by the image's edge are left out by default, since their size is not known. Without any
    particle the figures are NaN. Raises ValueError for a missing column and for tables of different units put together.
    """
    for name in (column, "touches_border", "unit"):
        if name not in table:
            raise ValueError(f"the table has no column {name!r}; give a table made by measure().")
    units = table["unit"].unique()
    if len(units) > 1:
        raise ValueError(f"the table mixes units ({', '.join(map(str, units))}); give every image its pixel size.")
    kept = table[~table["touches_border"].astype(bool)] if exclude_border else table
    sizes = kept[column].to_numpy(float)
    d10, d50, d90 = np.percentile(sizes, (10, 50, 90)) if len(sizes) else (np.nan,) * 3
    return {
        "count": len(sizes), "mean": float(sizes.mean()) if len(sizes) else float("nan"), "D10": float(d10),
        "D50": float(d50), "D90": float(d90), "unit": str(units[0]) if len(units) else table.attrs.get("unit", "px"),
    }  # fmt: skip


def readable_unit(median: float, unit: str) -> tuple[float, str]:
    """For readers of sizes: what they are divided by, and the unit then; µm where the median is 1000 nm or more."""
    return (1000.0, "µm") if unit == "nm" and median >= 1000 else (1.0, unit)


def readable_sizes(summary: pd.DataFrame) -> pd.DataFrame:
    """For readers: rows of `size_distribution`, each in its `readable_unit`."""
    units = [readable_unit(d50, unit) for d50, unit in zip(summary["D50"], summary["unit"], strict=True)]
    shown = summary.assign(unit=[unit for _, unit in units])
    lengths = ["mean", "D10", "D50", "D90"]
    shown[lengths] = summary[lengths].div([by for by, _ in units], axis=0)
    return shown
