"""Label files of a folder -> a table of particles an image, in one unit, and the distributions of them all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.data.databar import unlabelled_bar
from lorasam_core.data.folders import IMAGES, LABEL_ENDING, LABEL_FOLDERS, by_stem, few, pixel_sizes, read_table
from lorasam_core.data.label_files import read_labels
from lorasam_core.data.readers import Record, read_record
from lorasam_core.data.sample import DataError
from lorasam_core.data.scale import scale_of
from lorasam_core.measure import sizes

RUN = "summary.csv"  # of `lorasam segment`, beside its labels/
LONGEST = 1e6  # nm a pixel, or rows of a data bar


def measure_folder(place: str | Path, pixel_size: float | None = None, **reading: Any) -> dict[str, pd.DataFrame]:
    """The tables of `sizes.measure`, with a column `image`, by the stem of the label file: all in nm, or all in pixels.

    place: what `lorasam segment` wrote, a folder with labels/ or masks/, one of label files, or a file. pixel_size: nm;
    None: from pixel_size.csv, else the segment run, else the images. reading: mask, ignore and page, as `read_labels`
    has them. Grey means are there where the images are beside the labels. A data bar without labels, which the segment
    run or `data_bar` found, is no part of an image: its upper edge cuts particles.
    Raises DataError for a place without labels, files that cannot be read, and a scale for some of the images.
    """
    place = Path(place)
    folder, labels, images = _files(place)
    given = scale_of(place, pixel_size) if pixel_size is not None else None
    run = read_table(folder / RUN, ("image",)).set_index("image") if (folder / RUN).is_file() else pd.DataFrame()
    known = _scales(folder, labels, images, run) if given is None else dict.fromkeys(labels, given.nm)
    if known and (without := [path.name for i, path in labels.items() if i not in known]):
        raise DataError(
            f"{place} has a scale for {len(known)} of {len(labels)} images, and none for {few(without)}; "
            "give --pixel-size, or all of them in pixel_size.csv."
        )
    tables = {}
    for i, path in labels.items():
        if i in images:
            sample, _ = read_record(Record(i, images[i], path, i, instances=not run.empty, **reading))
            y, image = sample.labels, sample.image
        else:
            y, image = read_labels(path, not run.empty, **reading)[0], None
        bar = int(_stated(folder, run, "data_bar", i))
        end = len(y) - (bar or (0 if image is None else unlabelled_bar(image, y)))
        tables[i] = sizes.measure(y[:end], known.get(i), None if image is None else image[:end])
        tables[i].insert(0, "image", i)
    return tables


def distributions(
    tables: Mapping[str, pd.DataFrame], weight: str = "number", border_correction: bool = False
) -> pd.DataFrame:
    """A row an image and a last one, "all": the figures of `size_distribution` with their intervals.

    Columns: image, count (whole particles), cut (by the edge), weight, border_correction; mean, mean_low, mean_high,
    and so for D10, D50, D90 and span; unit. Errors as in `size_distribution`.
    """
    rows = []
    for image, table in (*tables.items(), ("all", pd.concat(tables.values(), ignore_index=True))):
        found = sizes.size_distribution(table, weight=weight, border_correction=border_correction)
        bounds = sizes.size_intervals(table, weight, border_correction)
        row = {"image": image, "count": found["count"], "cut": int(table["touches_border"].sum()), "weight": weight,
               "border_correction": border_correction}  # fmt: skip
        for name, (low, high) in bounds.items():
            row |= {name: found[name], f"{name}_low": low, f"{name}_high": high}
        rows.append(row | {"unit": found["unit"]})
    return pd.DataFrame(rows)


def _files(place: Path) -> tuple[Path, dict[str, Path], dict[str, Path]]:
    """The folder of the tables; label files, and the images that some have, by the stems of the former."""
    if not place.exists():
        raise DataError(f"{place} is missing; give a folder or a label file that exists.")
    inside = place if place.is_dir() else place.parent
    holds = any((inside / name).is_dir() for name in LABEL_FOLDERS)  # then its own name, masks perhaps, says nothing
    folder = inside.parent if inside.name in LABEL_FOLDERS and not holds else inside
    images = by_stem(folder / "images", IMAGES, deep=True)
    if place.is_file():
        labels = {place.stem: place}
    elif place != folder:
        labels = by_stem(place)
    else:
        named = (by_stem(folder / name, deep=True) for name in LABEL_FOLDERS)
        labels = next((files for files in named if files), {})
        if not labels and not images:  # labels alone, or x_mask beside x
            images = by_stem(folder, IMAGES)
            labels = {i: path for i, path in images.items() if LABEL_ENDING.sub("", i) in images.keys() - {i}} or images
    if not labels:
        raise DataError(f"{place} has no labels; put them in {folder / 'labels'}, or make them by lorasam segment.")
    pairs = {i: images.get(LABEL_ENDING.sub("", i)) for i in labels}
    return folder, labels, {i: image for i, image in pairs.items() if image not in (None, labels[i])}


def _scales(
    folder: Path, labels: Mapping[str, Path], images: Mapping[str, Path], run: pd.DataFrame
) -> dict[str, float]:
    """nm a pixel of each image that has a scale."""
    listed, found = pixel_sizes(folder, labels), {}
    for i in labels:
        nm = listed.get(i) or listed.get(LABEL_ENDING.sub("", i)) or _stated(folder, run, "pixel_size", i)
        if not nm and i in images:
            scale = scale_of(images[i])
            nm = scale.nm if scale else 0
        if nm:
            found[i] = nm
    return found


def _stated(folder: Path, run: pd.DataFrame, name: str, i: str) -> float:
    """What the summary of a segment run says of an image, 0 for nothing; DataError for what is no length."""
    value = run[name].get(i) if name in run else None
    try:
        number = float(value or 0)
    except (TypeError, ValueError):  # an image that is listed twice has several
        number = -1.0
    if not 0 <= number <= LONGEST:
        raise DataError(f"{folder / RUN} gives {str(value)[:40]!r} as {name} of {i}; run lorasam segment again.")
    return number
