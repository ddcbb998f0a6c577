"""Data: micrographs with instance labels, from files or generated, split by group."""

from __future__ import annotations

import hashlib
import json
import os
from functools import partial
from pathlib import Path

from lorasam_core.data import emps
from lorasam_core.data.folders import few, list_folder
from lorasam_core.data.readers import Record, read_record
from lorasam_core.data.sample import DataError, Sample, labels_from_mask
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.splits import Split, check_groups, split_by_group, thin

__all__ = [
    "DataError", "Sample", "SampleSet", "Split", "check_groups", "labels_from_mask", "load_dataset", "split_by_group"
]  # fmt: skip

SYNTHETIC_IMAGES = 120
FEWEST_SPECIMENS = 10  # of a small generated set, so that it can be split by specimen


def load_dataset(
    source: str | Path,
    split: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    *,
    mask: str = "auto",
    ignore: int | None = None,
    page: int | None = None,
) -> SampleSet:
    """A data set, read through once and checked, split 7:2:1 by group.

    source: "synthetic" (generated micrographs, 120 in 40 specimens); "emps" (the folder emps/ in $LORASAM_DATA, else
        downloaded to pooch's cache and verified); the path of a folder with images/ and labels/ or masks/, or of one
        laid out as EMPS is; or the name of such a folder in $LORASAM_DATA.
    split: None for all, or "train", "val", "test" for that part.
    seed: of the split, and of the generated images.
    limit: at most this many images in all, taken before the split: one of each group in turn (EMPS: its official test
        set is thinned in proportion); for generated images their number.
    mask, ignore, page: how the files of a folder are read, as `read_labels` says; EMPS is read as it is.

    Raises DataError, one sentence that names file and remedy, for data that cannot be used, and ValueError for an
    unknown part or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give a whole number of at least 1.")
    if split not in (None, "train", "val", "test"):
        raise ValueError(f"{split!r} is no part of a split; choose one of train, val, test.")
    name = str(source)
    if name == "synthetic":
        whole = _synthetic(seed, SYNTHETIC_IMAGES if limit is None else limit)
    else:
        folder = emps.find_emps() if name == "emps" else _find_folder(name)
        if name == "emps" or emps.is_emps_layout(folder):
            whole = _emps(folder, name, seed, limit)
        else:
            records, notes = list_folder(folder, mask=mask, ignore=ignore, page=page)
            whole = _folder(folder, name, seed, limit, records, notes)
    return whole if split is None else whole.subset(split)


def _synthetic(seed: int, count: int) -> SampleSet:
    """The first images of as many specimens as `count` needs, but of ten at least."""
    from lorasam_core.data.particles import GENERATOR_VERSION, IMAGES_PER_SPECIMEN  # takes a second

    specimens = max(-(-count // IMAGES_PER_SPECIMEN), min(count, FEWEST_SPECIMENS))
    indices = sorted(k % specimens * IMAGES_PER_SPECIMEN + k // specimens for k in range(count))
    by_id = {f"sem-{i:05d}": i for i in indices}
    groups = {i: f"specimen-{index // IMAGES_PER_SPECIMEN:04d}" for i, index in by_id.items()}
    key = json.dumps({"generator": GENERATOR_VERSION, "seed": seed, "indices": indices})
    fingerprint = hashlib.sha256(key.encode()).hexdigest()
    load = partial(_generate, seed, by_id)
    return SampleSet("synthetic", "synthetic", groups, load, split_by_group(groups, seed=seed), fingerprint=fingerprint)


def _generate(seed: int, by_id: dict[str, int], i: str) -> tuple[Sample, bool]:
    from lorasam_core.data.particles import generate

    return generate(seed, by_id[i]), False


def _emps(folder: Path, source: str, seed: int, limit: int | None) -> SampleSet:
    records, official_test = emps.list_emps(folder)
    groups = {r.id: r.group for r in records}
    if limit is not None and limit < len(groups):
        chosen = set(emps.thin_emps(groups, official_test, limit, seed))
        groups = {i: g for i, g in groups.items() if i in chosen}
    split = emps.split_emps(groups, official_test, seed)
    name = "emps" if source == "emps" else folder.resolve().name  # not that of a folder in the cache
    whole = SampleSet(name, source, groups, _Reader(records), split).check()
    complete = source == "emps" and len(groups) == len(records)
    if complete and emps.content_sha256(records, official_test, whole.digests()) != emps.CONTENT_SHA256:
        whole.add_note(f"{folder} differs from EMPS at {emps.COMMIT[:7]}.")
    return whole


def _folder(
    folder: Path, source: str, seed: int, limit: int | None, records: list[Record], notes: list[str]
) -> SampleSet:
    groups = {r.id: r.group for r in records}
    if limit is not None and limit < len(groups):
        groups = {i: groups[i] for i in thin(groups, limit, seed)}
    try:
        split = split_by_group(groups, seed=seed)
    except DataError as error:
        remedy = str(error).removesuffix(".")
        raise DataError(f"{folder}: {remedy}, or run `lorasam adapt` with --validation FOLDER.") from error
    reader = _Reader(records)
    whole = SampleSet(folder.resolve().name, source, groups, reader, split, notes).check()
    if len(reader.empty) == len(whole):
        raise DataError(f"{folder} has no particle in any of its masks; label some, in one image at least.")
    if reader.empty:
        whole.add_note(
            f"In {len(reader.empty)} of {len(whole)} images no particle is labelled: {few(sorted(reader.empty))}."
        )
    return whole


class _Reader:
    """Reads samples by id from their files. empty: ids of those in which no particle is labelled."""

    def __init__(self, records: list[Record]) -> None:
        self.records = {r.id: r for r in records}
        self.empty: set[str] = set()

    def __call__(self, i: str) -> tuple[Sample, bool]:
        sample, binary = read_record(self.records[i])
        if not sample.labels.any():
            self.empty.add(i)
        return sample, binary


def _find_folder(name: str) -> Path:
    """The folder of that path, or of that name in $LORASAM_DATA."""
    if name and Path(name).is_dir():
        return Path(name)
    local = os.environ.get("LORASAM_DATA")
    if name and local and (Path(local) / name).is_dir():
        return Path(local) / name
    raise DataError(
        f"{name!r} is no data set; give synthetic, emps, the path of a folder, or the name of one in LORASAM_DATA."
    )
