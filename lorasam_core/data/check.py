"""Look at a folder before work begins: a row an image, and findings with their remedies. One image is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lorasam_core.data.annotations import Annotations
from lorasam_core.data.decode import TIFF
from lorasam_core.data.folders import few, find_labels, list_images, pixel_sizes, read_groups
from lorasam_core.data.formats import READ_AS
from lorasam_core.data.readers import labels_of, read_image, read_labels
from lorasam_core.data.sample import DataError
from lorasam_core.data.scale import read_scale, scale_of

COLUMNS = {
    "id": "str", "file": "str", "format": "str", "width": "Int64", "height": "Int64", "bits": "Int64",
    "channels": "Int64", "contrast": "float", "saturated": "float", "pixel_size": "float", "pixel_size_from": "str",
    "labels": "str", "read_as": "str", "particles": "Int64", "median_diameter": "float", "diameter_in_model": "float",
    "small": "float", "touching": "float", "problem": "str",
}  # fmt: skip
MODEL_SIDE = 512  # pixels of the compact model's input, to which an image's longest side is brought
SMALL = 8  # of these pixels: half a token, under which a particle leaves hardly a trace
LOW_CONTRAST = 0.2  # the lowest of 93 micrographs of EMPS has 0.31


_Row = dict[str, Any]


class Finding(NamedTuple):
    """severity: "error" (cannot be used), "warning" or "note"; what was found; what to do about it."""

    severity: str
    text: str
    remedy: str


@dataclass(frozen=True)
class Checked:
    """table: a row an image, as `check_folder` describes; findings: errors first, then warnings, then notes; labels:
    by the id of an image, where it has some.
    """

    table: pd.DataFrame
    findings: list[Finding]
    labels: Mapping[str, Path | Annotations] = field(default_factory=dict)


def check_folder(
    folder: str | Path, *, mask: str = "auto", ignore: int | None = None, page: int | None = None,
    pixel_size: float | None = None,
) -> Checked:  # fmt: skip
    """Read every image of a folder, with its labels and its scale where it has them; one that is unusable is named.

    mask, ignore, page: how the files are read, as `read_labels` says; pixel_size: nm a pixel of all images.

    Columns of the table, missing values where a thing does not apply:
    id, file, format; width, height in pixels; bits a channel and channels of the file;
    contrast: from the 1st to the 99th percentile of the image as it is read (8 bits), as a share of 255;
    saturated: share of its values that are 0 or 255;
    pixel_size (nm) and pixel_size_from; labels: their file, or ""; read_as: "instances", "binary mask" or "none";
    particles: their number; median_diameter: of the disc of equal area, in pixels of the image;
    diameter_in_model: the same where the model is shown the whole image; small: share of particles under 8 such pixels;
    touching: share of particles of which a pixel is next to one of another, diagonals included;
    problem: "" or the sentence that says why image, labels or scale cannot be used.

    Raises DataError for a folder without images, for two images with one id, and for a pixel_size that is none.
    """
    errors = list[DataError]()
    if pixel_size is not None:
        scale_of(folder, pixel_size)  # one that is no size is refused once, not for each image
    images, left_out = list_images([folder])
    labels, spare = _try(errors, lambda: find_labels(Path(folder), images)) or (
        dict[str, Path | Annotations](), list[str]()
    )  # fmt: skip
    sizes = _try(errors, lambda: pixel_sizes(Path(folder), images)) or {}
    _try(errors, lambda: read_groups(Path(folder), labels))
    bar = tqdm(images.items(), "checking", unit="image", delay=5, disable=None)
    reading = {"mask": mask, "ignore": ignore, "page": page}
    rows = [_look(i, path, labels.get(i), pixel_size, sizes, reading) for i, path in bar]
    seen = pd.DataFrame(rows, columns=[*COLUMNS, "digest", "gaps", "disagrees"]).astype(COLUMNS)
    findings = [_of_error(error) for error in sum((row["errors"] for row in rows), errors)]
    read_as = [n for n in spare if n.startswith(READ_AS)]
    findings += [Finding("note", n.rstrip("."), "see that the contact sheet shows them in place") for n in read_as]
    findings += [
        Finding("warning", n.rstrip("."), "keep one folder of labels, with one for each image")
        for n in spare if n not in read_as
    ]  # fmt: skip
    findings += [Finding("note", n.rstrip("."), "if one is an image, save it as PNG or TIFF") for n in left_out]
    findings += _findings(seen)
    findings.sort(key=lambda f: ("error", "warning", "note").index(f.severity))
    return Checked(seen[list(COLUMNS)], findings, labels)


def _try(errors: list[DataError], read: Callable[[], Any]) -> Any:
    """What `read` returns; None where it raises DataError, which joins `errors`."""
    try:
        return read()
    except DataError as error:
        errors.append(error)
        return None


def _of_error(error: DataError) -> Finding:
    """A DataError's sentence says what is wrong, and after a semicolon what to do."""
    return Finding("error", *str(error).rstrip(".").rpartition("; ")[::2])


def _look(
    i: str, path: Path, labels: Path | Annotations | None, given: float | None, sizes: Mapping[str, float],
    reading: dict[str, Any],
) -> _Row:  # fmt: skip
    """A row of the table, and what the findings need besides."""
    errors = list[DataError]()
    row: _Row = {"id": i, "file": str(path), "labels": str(labels or ""), "read_as": "none", "pixel_size_from": ""}
    grey = _try(errors, lambda: _grey_values(read_image(path, reading["page"]))) or {}
    row |= _header(path, reading["page"]) | grey
    if labels:
        row |= _try(errors, lambda: _particles(labels, reading, grey.get("shape"))) or {}
    if scale := _try(errors, lambda: scale_of(path, given, sizes, i)):
        stated = _try([], lambda: read_scale(path)) if given is not None or i in sizes else scale
        row |= {"pixel_size": scale.nm, "pixel_size_from": scale.source, "disagrees": not scale.agrees(stated or scale)}
    return row | {"errors": errors, "problem": str(errors[0]) if errors else ""}


def _header(path: Path, page: int | None) -> _Row:
    """Format, bits a channel and channels as the file has them; the format alone where they cannot be told."""
    try:
        if path.suffix.lower() in TIFF:
            with tifffile.TiffFile(path) as tiff:
                first = tiff.pages[(page or 1) - 1]
                return {"format": "TIFF", "bits": first.bitspersample, "channels": first.samplesperpixel}
        with Image.open(path) as picture:
            deep = ";16" in f"{picture.mode} {picture.tile}"  # Pillow calls 16 bits a colour RGB all the same
            bits = 16 if deep else {"1": 1, "I": 32, "F": 32}.get(picture.mode, 8)
            return {"format": picture.format, "bits": bits, "channels": len(picture.getbands())}
    except Exception:  # a broken file, or a format of a microscope
        return {"format": path.suffix[1:].upper()}


def _grey_values(image: NDArray[np.uint8]) -> _Row:
    """Size, contrast, saturation and hash of uint8 (H, W[, 3])."""
    counts = np.array(Image.fromarray(image).histogram()).reshape(-1, 256).sum(axis=0)
    low, high = np.searchsorted(counts.cumsum(), np.array([0.01, 0.99]) * image.size)
    digest = hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()
    (height, width), saturated = image.shape[:2], (counts[0] + counts[255]) / image.size
    return {"shape": (height, width), "height": height, "width": width, "contrast": (high - low) / 255,
            "saturated": saturated, "digest": digest}  # fmt: skip


def _particles(source: Path | Annotations, reading: dict[str, Any], shape: tuple[int, int] | None) -> _Row:
    """Number, sizes and contacts of the particles of labels; `shape`: that of their image, if that can be read."""
    if shape:
        labels, binary = labels_of(source, shape, **reading)
    elif isinstance(source, Annotations):
        return {}
    else:
        labels, binary = read_labels(source, **reading)
    height, width = labels.shape
    areas = np.bincount(labels.ravel())[1:]
    ids = np.flatnonzero(areas) + 1
    row = {"read_as": "binary mask" if binary else "instances", "particles": len(ids), "gaps": len(ids) < len(areas)}
    if not len(ids):
        return row
    diameters = np.sqrt(4 / np.pi * areas[ids - 1])
    in_model = diameters * MODEL_SIDE / max(height, width)
    return row | {
        "median_diameter": np.median(diameters), "diameter_in_model": np.median(in_model),
        "small": (in_model < SMALL).mean(), "touching": len(touching(labels)) / len(ids),
    }  # fmt: skip


def touching(labels: NDArray[np.int32]) -> NDArray[np.intp]:
    """Ids of int32 (H, W) that touch another one: two of their pixels are neighbours, diagonals included."""
    found = np.zeros(labels.max(initial=0) + 1, bool)
    left, right, above, below = labels[:, :-1], labels[:, 1:], labels[:-1], labels[1:]
    for one, other in ((left, right), (above, below), (above[:, :-1], below[:, 1:]), (above[:, 1:], below[:, :-1])):
        meet = (one != other) & (one > 0) & (other > 0)
        found[one[meet]] = found[other[meet]] = True
    return np.flatnonzero(found)


def _findings(seen: pd.DataFrame) -> Iterator[Finding]:
    """What the rows say together."""
    for _, equal in seen.groupby("digest")["id"]:
        if len(equal) > 1:
            yield Finding(
                "warning", f"Equal images: {few(equal)}", "keep one; else it counts twice, and may be tested on"
            )
    labelled, scaled = seen["labels"] != "", seen["pixel_size"].notna()
    kinds = [
        ("warning", seen["contrast"] < LOW_CONTRAST, f"Grey values cover less than {LOW_CONTRAST:.0%} of their range",
         "export with more contrast, or with 16 bits, which are stretched when they are read"),
        ("warning", seen["diameter_in_model"] < SMALL,
         f"Half of the particles or more are under {SMALL} pixels when the model is shown the whole image",
         "segment in tiles, as lorasam segment does, or crop the images"),
        ("warning", seen["disagrees"].eq(True), "The file states another pixel size than what was given, which holds",
         "correct pixel_size.csv or --pixel-size, or leave it out"),
        ("warning" if labelled.any() else "note", ~labelled, "No labels", "add them to adapt; segmentation needs none"),
        ("warning" if scaled.any() else "note", ~scaled, "No pixel size",
         "list it in pixel_size.csv, or give --pixel-size; without it sizes are in pixels"),
        ("note", (seen["read_as"] == "binary mask") & (seen["particles"] > 0),
         "Binary masks, in which particles that touch count as one", "give each of these a number of its own"),
        ("note", seen["particles"] == 0, "Labels without a particle", "label what is there; else it counts as empty"),
        ("note", seen["gaps"].eq(True), "Ids that are not 1 to n", "see that no particle was erased; gaps do no harm"),
    ]  # fmt: skip
    for severity, where, text, remedy in kinds:
        if len(ids := seen.loc[where.fillna(False).astype(bool), "id"]):
            yield Finding(severity, f"{text}: {few(ids)}", remedy)
    if (number := len(seen[["width", "height"]].dropna().drop_duplicates())) > 1:
        yield Finding("note", f"Images of {number} sizes", "give each its own pixel size, where they were resized")
