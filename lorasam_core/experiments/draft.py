"""Drafts of labels for a folder of micrographs, each to be corrected by a person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lorasam_core.data.databar import cropped
from lorasam_core.data.formats import few
from lorasam_core.data.readers import read_image
from lorasam_core.data.sample import DataError
from lorasam_core.data.scale import scale_of
from lorasam_core.errors import out_of_memory
from lorasam_core.experiments import labelling as files
from lorasam_core.experiments.outputs import alone, replace, sha256
from lorasam_core.experiments.segment import READING, Reading
from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.segmenter import Segmenter

DRAFTS = "drafts.csv"
COLUMNS = ["image", "file", "particles", "state", "problem"]
DRAFTED, WORKED, ACCEPTED = "draft", "worked on", "accepted"


def draft_folder(
    images: Mapping[str, Path], out: str | Path, segmenter: Segmenter, reading: Reading = READING,
    groups: Mapping[str, str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Draft images by id, one after another; returns drafts.csv, a row an image.

    Writes into `out`/ID: log.jsonl, labels.tif and overlay.png, as `labelling.save` does; rows of a data bar are empty.
    state: "draft"; "worked on", where a person did anything, which is left as it is, whatever model is given; or
    "accepted". A draft that nobody touched is made again where its image, its model or how it is read has changed.
    An image that cannot be used is named in the column `problem`. groups: id to specimen, for training.
    Raises ValueError where another process writes there.
    """
    out = Path(out)
    if files.TRAINING in images:
        raise DataError(f"{images[files.TRAINING]} has the name of a folder that is made here; rename it.")
    with alone(out):
        rows = []
        for i, path in (bar := tqdm(images.items(), "draft", unit="image", disable=None)):
            bar.set_postfix_str(i, refresh=False)
            row = dict.fromkeys(COLUMNS, "") | {"image": i, "file": str(path)}
            try:
                row |= _one(i, Path(path), out / i, segmenter, reading, (groups or {}).get(i, i))
            except ValueError as error:
                row["problem"] = str(error)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                row["problem"] = f"{path} needs more memory than there is; give a smaller --tile, or --device cpu."
            rows.append(row)
        table = pd.DataFrame(rows, columns=COLUMNS)
        replace(out / DRAFTS, lambda to: table.to_csv(to, index=False))
    return table


def _one(i: str, path: Path, folder: Path, segmenter: Segmenter, reading: Reading, group: str) -> dict[str, Any]:
    scale = scale_of(path, reading.pixel_size, reading.pixel_sizes, id=i)
    stated: dict[str, Any] = {
        "id": i, "file": str(path.resolve()), "sha256": sha256(path), "group": group,
        "pixel_size": scale and scale.nm, "page": reading.page, "crop_bottom": reading.crop_bottom,
        "model": segmenter.described,
    }  # fmt: skip
    if (log := files.read_log(folder)) and (len(log) > 1 or _same(log[0], stated)):
        if log[0].get("sha256", stated["sha256"]) != stated["sha256"]:
            raise DataError(f"{path} has changed since it was labelled; put it back, or move {folder} away.")
        return _left(folder, read_image(path, page=files.page_of(log[0])))
    image = read_image(path, page=reading.page)
    try:
        part, bottom = cropped(image, reading.crop_bottom)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    labels = np.pad(segmenter(part).labels, ((0, bottom), (0, 0)))
    made = Labelling(image, labels, **stated)
    with alone(folder):
        if len(files.read_log(folder)) > 1:  # someone saved meanwhile
            return _left(folder, image)
        files.write(made, folder)
    return _row(made)


def accept(out: str | Path, names: Sequence[str], images: Mapping[str, Path]) -> pd.DataFrame:
    """Call the labellings of these images in `out` right, as `Labelling.accept` does; returns the new drafts.csv.

    images: the files, by id. One that is accepted already stays as it is. Raises DataError for a folder without drafts
    and, before anything is written, for a name without one; ValueError where another process writes there.
    """
    out = Path(out)
    if not (out / DRAFTS).exists():
        raise DataError(f"{out} holds no drafts; make them first, by the same command without --accept.")
    for i in names:
        if not files.read_log(out / i):
            there = sorted(path.parent.relative_to(out).as_posix() for path in out.rglob(files.LOG))
            raise DataError(f"{out} holds no draft of {i}; give names of those that it holds: {few(there) or 'none'}.")
    with alone(out):
        for i in tqdm(names, "accept", unit="image", disable=None):
            log = files.read_log(out / i)
            work = files.load(out / i, read_image(images.get(i, log[0].get("file", "")), page=log[0].get("page")))
            if not work.accepted:
                work.accept()
                files.save(work, out / i)
        table = pd.read_csv(out / DRAFTS, dtype=str, keep_default_na=False)
        table.loc[table["image"].isin(names), "state"] = ACCEPTED
        replace(out / DRAFTS, lambda to: table.to_csv(to, index=False))
    return table


def _same(entry: Mapping[str, Any], stated: Mapping[str, Any]) -> bool:
    """Whether a draft would be made again as it is; where the file lies plays no part."""
    as_read = json.loads(json.dumps(stated))
    return all(entry.get(name) == value for name, value in as_read.items() if name != "file")


def _left(folder: Path, image: np.ndarray) -> dict[str, Any]:
    """The row of a labelling that stays; its pictures are made again where a save was killed before them."""
    there = files.load(folder, image)
    log, *made = (folder / name for name in (files.LOG, files.LABELS, files.OVERLAY))
    if not all(path.exists() and path.stat().st_mtime_ns >= log.stat().st_mtime_ns for path in made):
        files.draw(there, folder)
    return _row(there)


def _row(labelling: Labelling) -> dict[str, Any]:
    state = ACCEPTED if labelling.accepted else WORKED if labelling.touched else DRAFTED
    return {"particles": len(labelling.ids), "state": state}
