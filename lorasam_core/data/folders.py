"""List a folder of micrographs with labels.

It holds `images/` and, by the same stem, `labels/` or `masks/`; optionally `groups.csv` (id, group) and
`pixel_size.csv` (id, pixel_size in nm; the column may stand in groups.csv instead). Without groups.csv each file is
its own group.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lorasam_core.data.readers import LOSSLESS, LOSSY, Record, require_lossless
from lorasam_core.data.sample import DataError

LABEL_FOLDERS = ("labels", "masks")


def list_folder(folder: str | Path) -> tuple[list[Record], list[str]]:
    """Records of a folder by id, and notes on what was left out.

    Raises DataError for a folder without images or labels, an image without mask, two files with one id, a JPEG mask,
    and tables that cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give one that holds images/ and labels/ or masks/.")
    images = by_stem(folder / "images")
    if not images:
        raise DataError(f"{folder} has no images; put PNG or TIFF files in images/ and masks in labels/ or masks/.")
    place = next((folder / name for name in LABEL_FOLDERS if (folder / name).is_dir()), None)
    if place is None:
        raise DataError(f"{folder} has no labels; put a mask of the same name for each image in labels/ or masks/.")
    labels = by_stem(place)
    for i, path in images.items():
        if i not in labels:
            raise DataError(f"{path} has no mask; add {place / i}.png, or remove the image.")
        require_lossless(labels[i])
    groups, sizes = _groups(folder, images), _pixel_sizes(folder, images)
    records = [Record(i, path, labels[i], groups[i], sizes.get(i)) for i, path in images.items()]
    spare = len(labels.keys() - images.keys())
    return records, [f"{spare} masks in {place.name}/ have no image and are left out."] if spare else []


def by_stem(folder: Path) -> dict[str, Path]:
    """Image files by id, sorted. Raises DataError for two files with one id."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in (*LOSSLESS, *LOSSY) or path.name.startswith("."):
            continue
        if path.stem in files:
            raise DataError(f"{files[path.stem]} and {path.name} have one id; rename or remove one of them.")
        files[path.stem] = path
    return files


def read_table(path: Path, columns: Iterable[str] | None) -> pd.DataFrame:
    """A CSV file as text, with the given columns at least (None: without a header). Raises DataError."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, header=None if columns is None else 0)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table ({str(error)[:100]}); save it as CSV.") from error
    missing = [c for c in columns or () if c not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; name its columns {', '.join(columns or ())}.")
    return table


def column(path: Path, name: str, ids: Iterable[str]) -> dict[str, str]:
    """Id to value from the columns `id` and `name`; the ids may be file names. Raises DataError for an id twice."""
    table, known = read_table(path, ("id", name)), set(ids)
    keys = [i if i in known else Path(i).stem for i in table["id"].str.strip()]
    values = dict(zip(keys, table[name].str.strip(), strict=True))
    if len(values) < len(keys):
        raise DataError(f"{path} lists {next(k for k in keys if keys.count(k) > 1)} twice; keep one line.")
    return values


def _groups(folder: Path, ids: Iterable[str]) -> dict[str, str]:
    """Id to group: from groups.csv where there is one, else each file is a group."""
    path = folder / "groups.csv"
    if not path.exists():
        return {i: i for i in ids}
    groups = column(path, "group", ids)
    for i in ids:
        if not groups.get(i):
            raise DataError(f"{path} names no group for {i}; add a line for it.")
    return groups


def _pixel_sizes(folder: Path, ids: Iterable[str]) -> dict[str, float]:
    """Id to nm a pixel, where pixel_size.csv or the column of groups.csv says it."""
    path = next((p for p in (folder / "pixel_size.csv", folder / "groups.csv") if p.exists()), None)
    if path is None or (path.name == "groups.csv" and "pixel_size" not in read_table(path, ("id",)).columns):
        return {}
    sizes = {}
    for i, value in column(path, "pixel_size", ids).items():
        try:
            sizes[i] = float(value or "nan")
        except ValueError:
            sizes[i] = -1.0
        if sizes[i] <= 0 or np.isinf(sizes[i]):
            raise DataError(f"{path} gives {value!r} for {i}; give nm a pixel above 0, or leave it empty.")
    return {i: size for i, size in sizes.items() if not np.isnan(size)}
