"""List a folder of micrographs, with labels or without.

It holds `images/` and, by the same stem or one that ends in _mask, _label, _seg or the like, `labels/` or `masks/`, or
such label files beside the images, or the annotations that `formats` reads; optionally `groups.csv` (id, group) and
`pixel_size.csv` (id, pixel_size in nm; the column may stand in groups.csv instead), else the scale is the image's own.
Without groups.csv each file is its own group. images/ may hold folders, which become a part of the id: sub/name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lorasam_core.data.annotations import Annotations
from lorasam_core.data.decode import LOSSLESS, LOSSY, MICROSCOPE, require_lossless
from lorasam_core.data.formats import few, find_annotations, plain
from lorasam_core.data.readers import Record
from lorasam_core.data.sample import DataError
from lorasam_core.data.scale import scale_of
from lorasam_core.errors import brief

LABEL_FOLDERS = ("labels", "masks")
LABEL_ENDING = re.compile(r"[-_. ](cp_masks?|masks?|labels?|seg|segmentation|instances?)$", re.IGNORECASE)
PICTURES = (*LOSSLESS, *LOSSY)
IMAGES = (*PICTURES, *MICROSCOPE)
TABLES = (".csv", ".txt")  # beside images: pixel sizes, and what microscopes write
LEFT_OUT = "Left out, as labels of other images: "
SHEET = "lorasam-check.png"  # what `lorasam check` draws, by default where it is called


def list_folder(
    folder: str | Path, *, mask: str = "auto", ignore: int | None = None, page: int | None = None,
    pixel_size: float | None = None, labelled_only: bool = False,
) -> tuple[list[Record], list[str]]:  # fmt: skip
    """Records of a folder by id, and notes on what was left out.

    mask, ignore, page: how the files are read, as `read_labels` says; pixel_size: nm a pixel of all images, in place of
    each one's own; labelled_only: leave images without mask out.
    Raises DataError for a folder without images or labels, an image without mask, two files with one id, a JPEG mask,
    and tables that cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give one that holds images/ and labels/ or masks/.")
    files = _image_files(folder)
    images = _without_labels(files)
    if not images:
        raise DataError(f"{folder} has no images; put PNG or TIFF files in images/ and masks in labels/ or masks/.")
    labels, notes = find_labels(folder, images)
    if not labels:
        raise DataError(f"{folder} has no labels; put a mask of the same name for each image in labels/ or masks/.")
    used = {*images.values(), *labels.values()}
    if labelled_only and (bare := [path.name for i, path in images.items() if i not in labels]):
        notes.append(f"Left out, without labels: {few(bare)}.")
        images = {i: path for i, path in images.items() if i in labels}
    for i, path in images.items():
        if i not in labels:
            first = next(iter(labels.values()))
            if isinstance(first, Annotations):
                raise DataError(f"{path} has no labels in {first}; label it, or remove the image.")
            place = first.parent
            name = f"{i}_mask.png" if place == path.parent else f"{i}.png"
            raise DataError(f"{path} has no mask; add {place / name}, or remove the image.")
        if isinstance(found := labels[i], Path):
            require_lossless(found)
    if spare := [path.name for path in files.values() if path not in used]:
        notes.append(f"{LEFT_OUT}{few(spare)}.")
    groups, sizes, records = read_groups(folder, images), pixel_sizes(folder, images), []
    for i, path in images.items():
        scale = scale_of(path, pixel_size, sizes, i)
        nm = None if scale is None else scale.nm
        records.append(Record(i, path, labels[i], groups[i], nm, mask=mask, ignore=ignore, page=page))
    return records, notes


def list_images(places: Sequence[str | Path]) -> tuple[dict[str, Path], list[str]]:
    """Image files by id, in natural order, and notes on what was left out.

    places: folders (their images/ with its folders if they have one; not what is in other subfolders) and files. Labels
    beside an image of the same name are left out.
    Raises DataError for a place that is neither, a file of another kind, two files with one id, and where nothing is.
    """
    found, others = dict[str, Path](), list[str]()
    for place in map(Path, places):
        if place.is_dir():
            files = _image_files(place)
            others += [p.name for p in _visible(_image_folder(place)) if p.suffix.lower() not in (*IMAGES, *TABLES)]
        elif place.suffix.lower() not in IMAGES:
            raise DataError(f"{place} is no image; give a folder, or files of {', '.join(IMAGES)}.")
        elif not place.is_file():
            raise DataError(f"{place} is missing; give a folder or a file that exists.")
        else:
            files = {plain(place.stem): place}
        for i, path in files.items():
            if i in found and found[i].resolve() != path.resolve():
                raise DataError(f"{found[i]} and {path} have one id; rename or remove one of them.")
            found[i] = path
    images = _without_labels(found)
    if not images:
        raise DataError(f"{', '.join(map(str, places))} has no images; give a folder with PNG or TIFF files.")
    labels, notes = [found[i].name for i in found if i not in images], list[str]()
    if labels:
        notes.append(f"{LEFT_OUT}{few(labels)}.")
    if others:
        notes.append(f"Left out, as no images: {few(others)}.")
    return {i: images[i] for i in sorted(images, key=_natural)}, notes


def find_labels(folder: Path, images: Mapping[str, Path]) -> tuple[dict[str, Path | Annotations], list[str]]:
    """The labels of each image (id to path) that has some, and notes on what they are and what was left out.

    Label images are in labels/, else in masks/, whichever holds PNG, TIFF or BMP files, else beside the images. Others
    are what `find_annotations` finds.
    Raises DataError for two files with one id, and for an image with labels of two kinds.
    """
    pictures, notes = _label_images(folder, images)
    labels: dict[str, Path | Annotations] = {i: p for i, p in pictures.items() if p.suffix.lower() in LOSSLESS}
    found, said = find_annotations(folder, images, needed=not labels)
    if twice := [i for i in found if i in labels]:
        one, other = labels[twice[0]], found[twice[0]]
        raise DataError(f"{one} and {other} ({other.kind}) are both labels of {twice[0]}; keep one of them.")
    return {**pictures, **labels, **found}, notes + said


def _label_images(folder: Path, images: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """The label image of each image that has one, and notes."""
    deep = any("/" in i for i in images)
    places = {name: by_stem(folder / name, deep=deep, without=images) for name in LABEL_FOLDERS}
    readable = [n for n, files in places.items() if any(p.suffix.lower() in LOSSLESS for p in files.values())]
    chosen = next((n for n in (*readable, *places) if places[n]), None)
    files = places[chosen] if chosen else _image_files(folder, PICTURES)
    labels, spare, known = dict[str, Path](), list[str](), set(images.values())
    for i, path in files.items():
        image = i if i in images else LABEL_ENDING.sub("", i)
        if path in known:
            continue
        if image not in images:
            spare.append(path.name)
        elif image in labels:
            raise DataError(f"{labels[image]} and {path.name} are labels of one image; rename or remove one of them.")
        else:
            labels[image] = path
    notes = [f"Left out, for their images are missing: {few(spare)} in {chosen}/."] if chosen and spare else []
    if len(readable) == 2:
        notes.append(f"Labels are read from {readable[0]}/, and {readable[1]}/ is left out.")
    return labels, notes


def by_stem(
    folder: Path, suffixes: Collection[str] = PICTURES, *, deep: bool = False, without: Collection[str] = ()
) -> dict[str, Path]:
    """Files with these suffixes by id, sorted. Raises DataError for two files with one id.

    deep: those of its folders as well, but for hidden ones and those of these ids (`without`), as sub/name.
    """
    files: dict[str, Path] = {}
    found = [p for p in sorted(folder.rglob("*")) if _is_visible(p, folder)] if deep else _visible(folder)
    for path in found:
        place = plain(path.relative_to(folder).parent.as_posix())
        if path.suffix.lower() not in suffixes or place in without:
            continue
        i = plain(path.stem) if place == "." else f"{place}/{plain(path.stem)}"
        if i in files:
            raise DataError(f"{files[i]} and {path.name} have one id; rename or remove one of them.")
        files[i] = path
    return files


def read_table(path: Path, columns: Iterable[str] | None) -> pd.DataFrame:
    """A table separated by commas, semicolons or tabs as text, with the given columns at least (None: no header).

    Raises DataError.
    """
    try:
        header = None if columns is None else 0
        table = pd.read_csv(path, sep=_separator(path), dtype=str, keep_default_na=False, header=header)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table ({brief(error)}); save it as CSV in UTF-8.") from error
    missing = [c for c in columns or () if c not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; name its columns {', '.join(columns or ())}.")
    return table


def column(path: Path, name: str, ids: Iterable[str]) -> dict[str, str]:
    """Id to value from the columns `id` and `name`; the ids may be file names. Raises DataError for an id twice."""
    table, known = read_table(path, ("id", name)), set(ids)
    keys = [i if i in known else _without_suffix(i, known) for i in map(plain, table["id"].str.strip())]
    values = dict(zip(keys, table[name].str.strip(), strict=True))
    if len(values) < len(keys):
        raise DataError(f"{path} lists {next(k for k in keys if keys.count(k) > 1)} twice; keep one line.")
    return values


def _without_suffix(name: str, known: Collection[str]) -> str:
    """Of a file its id: the name with its folders, if that is one, else without."""
    whole = name.removesuffix(Path(name).suffix)
    return whole if whole in known else Path(name).stem


def pixel_sizes(folder: Path, ids: Iterable[str]) -> dict[str, float]:
    """Id to nm a pixel, where pixel_size.csv or the column of groups.csv says it. Raises DataError for other values."""
    path = _table(folder, "pixel_size.csv") or _table(folder, "groups.csv")
    if path is None or (path.name == "groups.csv" and "pixel_size" not in read_table(path, ("id",)).columns):
        return {}
    point = "." if _separator(path) == "," else ","
    sizes = {}
    for i, value in column(path, "pixel_size", ids).items():
        try:
            sizes[i] = float(value.replace(point, ".") or "nan")
        except ValueError:
            sizes[i] = -1.0
        if sizes[i] <= 0 or np.isinf(sizes[i]):
            raise DataError(f"{path} gives {value!r} for {i}; give nm a pixel above 0, or leave it empty.")
    return {i: size for i, size in sizes.items() if not np.isnan(size)}


def read_groups(folder: Path, ids: Iterable[str]) -> dict[str, str]:
    """Id to group: from groups.csv where there is one, else each file is a group."""
    path = _table(folder, "groups.csv")
    if path is None:
        return {i: i for i in ids}
    groups = column(path, "group", ids)
    for i in ids:
        if not groups.get(i):
            raise DataError(f"{path} names no group for {i}; add a line for it.")
    return groups


def _table(folder: Path, name: str) -> Path | None:
    """The path of a table, where there is one."""
    path = folder / name
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a broken link; mend it, or remove it.")
    return path if path.exists() else None


def _separator(path: Path) -> str:
    """What parts the columns of a table, by its first line."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    return next((mark for mark in (";", "\t") if mark in first), ",")


def _image_folder(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


def _image_files(folder: Path, suffixes: Collection[str] = IMAGES) -> dict[str, Path]:
    """Files by id: those of images/ with its folders, else those of the folder alone."""
    place = _image_folder(folder)
    return by_stem(place, suffixes, deep=place != folder)


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without its folders and hidden files; nothing where there is no folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in files if _is_visible(p, folder))


def _is_visible(path: Path, folder: Path) -> bool:
    """Whether it is a file, not hidden, of `folder` or of one in it that is not hidden either."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.name != SHEET and not path.is_dir()


def _without_labels(files: Mapping[str, Path]) -> dict[str, Path]:
    """Those that are not the labels (x_mask) of another one (x)."""
    return {i: p for i, p in files.items() if (base := LABEL_ENDING.sub("", i)) == i or base not in files}


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts 2 before 10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]
