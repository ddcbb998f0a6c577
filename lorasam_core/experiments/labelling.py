"""A labelling in a folder of its own: saved, opened, gone on with, and handed to training.

The folder holds log.jsonl (an action a line, the draft first), labels.tif and overlay.png. The log is the labelling;
the other two are made from it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skimage.io import imsave

from lorasam_core import plots
from lorasam_core.data.readers import read_image
from lorasam_core.data.sample import DataError
from lorasam_core.experiments.outputs import alone, replace, write_labels
from lorasam_core.masks.clicks import Ask
from lorasam_core.masks.edit import Labelling

LOG, LABELS, OVERLAY = "log.jsonl", "labels.tif", "overlay.png"
TRAINING = "labelled"  # the folder, among the labellings, of what was accepted


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The log of a labelling; empty where there is none. Raises DataError for a damaged one."""
    path = Path(folder) / LOG
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            entries.append({"action": ""} | json.loads(line.decode("utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged in line {number}; take an earlier copy, or move it away.") from error
    return entries


def save(labelling: Labelling, folder: str | Path) -> Path:
    """Write a labelling, the log first; returns the folder. A save that is killed leaves the log before or after it.

    Raises ValueError where another process writes there, or the folder holds work that this labelling does not: another
    person's, or what was saved since it was opened.
    """
    folder = Path(folder)
    with alone(folder):
        there = read_log(folder)
        if len(there) > 1 and there != _plain(labelling.log[: len(there)]):
            raise ValueError(f"{folder} holds other work; load it and go on from there, or save into another folder.")
        write(labelling, folder)
    return folder


def write(labelling: Labelling, folder: Path) -> None:
    """`save` for a caller that has looked at what is there, and keeps others out."""

    def lines(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in labelling.log)
            file.flush()
            os.fsync(file.fileno())

    replace(folder / LOG, lines)
    draw(labelling, folder)


def draw(labelling: Labelling, folder: Path) -> None:
    """Write labels.tif, and overlay.png with every particle's number."""
    write_labels(folder / LABELS, labelling.labels)
    picture = plots.outlines(labelling.image, labelling.labels, numbers=True)
    replace(folder / OVERLAY, lambda to: imsave(to, picture, check_contrast=False))


def load(folder: str | Path, image: np.ndarray | None = None, ask: Ask | None = None) -> Labelling:
    """The labelling that was saved in a folder, to go on with; labels.tif plays no part.

    image: uint8 (H, W) or (H, W, 3); None: read from the file that the log names. ask: the model, such as
    `Clicks(segmenter)`. Raises DataError for a folder without a labelling, a damaged log and an image that has changed.
    """
    log = read_log(folder)
    if not log:
        raise DataError(f"{folder} holds no labelling; make one with `lorasam draft`, or save one there.")
    if image is None:
        if not isinstance(log[0].get("file"), str):
            raise DataError(f"{Path(folder) / LOG} names no image; give the image.")
        image = read_image(log[0]["file"], page=page_of(log[0]))
    try:
        return Labelling.replay(image, log, ask)
    except DataError as error:
        raise DataError(f"{Path(folder) / LOG}: {error}") from error


def page_of(first: Mapping[str, Any]) -> int | None:
    """The page of its image that a log names."""
    page = first.get("page")
    return page if type(page) is int else None


def training_folder(
    out: str | Path, images: Mapping[str, Path] | None = None, without: Collection[str] = ()
) -> tuple[Path, int]:
    """What was accepted of the labellings in `out` as `lorasam adapt` reads it; the folder, and the number of images.

    Writes `out`/labelled: images/ (copies of the files), labels/, groups.csv, and pixel_size.csv where every image has
    a scale. An image whose labels are no longer accepted goes. images: where files lie now, by id, if not where the log
    says; without: ids to leave out. Raises DataError as `load` does.
    """
    out = Path(out)
    place, rows = out / TRAINING, list[dict[str, Any]]()
    for kind in ("images", "labels"):
        (place / kind).mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in out.rglob(LOG)):
        i, log = folder.relative_to(out).as_posix(), read_log(folder)  # an id may hold the folders of its image
        if i in without or not log or log[-1]["action"] != "accept" or not isinstance(log[0].get("file"), str):
            continue
        file = Path((images or {}).get(i, log[0]["file"]))
        labelling = load(folder, read_image(file, page=page_of(log[0])))
        labels, copy = place / "labels" / f"{i}.tif", place / "images" / f"{i}{file.suffix.lower()}"
        for path in (labels, copy):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(labels, labelling.labels)
        replace(copy, partial(shutil.copyfile, file))
        rows.append({"id": i, "group": log[0].get("group", i), "pixel_size": log[0].get("pixel_size")})
    kept = {row["id"] for row in rows}
    for kind in ("images", "labels"):
        for path in [path for path in (place / kind).rglob("*") if path.is_file()]:
            if path.relative_to(place / kind).with_suffix("").as_posix() not in kept:
                path.unlink()
    table = pd.DataFrame(rows, columns=["id", "group", "pixel_size"])
    replace(place / "groups.csv", lambda to: table[["id", "group"]].to_csv(to, index=False))
    (place / "pixel_size.csv").unlink(missing_ok=True)
    if len(table) and table["pixel_size"].notna().all():
        replace(place / "pixel_size.csv", lambda to: table[["id", "pixel_size"]].to_csv(to, index=False))
    return place, len(rows)


def _plain(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(entry)) for entry in log]
