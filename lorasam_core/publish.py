"""Publish an edition: its small records go to book/results, its main table into the README."""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from lorasam_core import report
from lorasam_core.config import DIVIDED
from lorasam_core.records import (
    EDITION,
    Edition,
    Record,
    find_edition,
    is_finished,
    read_edition,
    read_json,
    root,
    write_json,
)  # fmt: skip

FILES = ("config.json", "metrics.json", "environment.json")
PACKED = ("per_image", "transfer")
# of the main experiment's runs; of the history of others, the rows of validations
MAIN_PACKED = ("history", "annotations", "particles", "tuned_particles", "calibration", "thresholds")
SPLITS = ("split.json", "train_split.json")
KEPT_SPLITS = "*split-*.json"  # as they are named where runs share them
LIMIT = 2_000_000  # bytes of an edition in the repository
MAIN = "main"  # the experiment whose tables are published whole, and the adapter of its first run that has one


def publish(edition: Edition, results: Path, partial: bool = False) -> Edition:
    """Copy an edition's records into results/<name>, in place of what is there; a split that runs share is kept once.

    partial: publish without the runs that are not finished, and name them under `left_out`. Raises ValueError for an
    edition that lacks a run (with `partial`, one of its main runs), or whose records would exceed 2 MB.
    """
    if edition.published:
        raise ValueError(f"{edition.path} is published already; name a local edition, with its runs.")
    missing = edition.missing(MAIN if partial else None)
    if missing or not edition.records:
        what = f"the run {missing[0]!r}" if missing else "every run"
        raise ValueError(f"the edition {edition.name} lacks {what}; run its experiments first.")
    part = results / f"{edition.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    main_ids = [row["run_id"] for row in edition.experiments.get(MAIN, [])]
    whole = [record for record in edition.records if record.run_id in main_ids]
    # ratings are compared on the masks of "calibration"; those of "annotations" stand in where a run has none
    kept = [t for t in MAIN_PACKED if t != "annotations" or not all(r.table_file("calibration") for r in whole)]
    for record in edition.records:
        _copy(record, part, kept if record.run_id in main_ids else ())
    for record in edition.records:
        if record.run_id in main_ids and record.adapter is not None:
            shutil.copyfile(record.adapter, part / record.run_id / record.adapter.name)
            break
    for split in edition.path.glob(KEPT_SPLITS):  # of runs that were restored
        shutil.copyfile(split, part / split.name)
    write_json(part / EDITION, _info(edition))
    size = sum(p.stat().st_size for p in part.rglob("*") if p.is_file())
    if size > LIMIT:
        shutil.rmtree(part)
        raise ValueError(f"the records of {edition.name} are {size / 1e6:.1f} MB; the repository takes 2 MB.")
    shutil.rmtree(results / edition.name, ignore_errors=True)
    part.rename(results / edition.name)
    return read_edition(results / edition.name)


def restore(edition: Edition, folder: Path, run_ids: Iterable[str]) -> int:
    """Copy those of a published edition's runs into a local edition's folder that it lacks: there they are finished.

    Returns how many. What publishing leaves out (adapters but the first main one, logs, most of the curves) stays out.
    """
    asked = set(run_ids)
    wanted = [r for r in edition.records if r.run_id in asked and not is_finished(folder / r.run_id)]
    folder.mkdir(parents=True, exist_ok=True)
    for record in wanted:
        part = folder / f"{record.run_id}.part-{os.getpid()}"
        shutil.copytree(record.path, part)
        part.rename(folder / record.run_id)
    for split in edition.path.glob(KEPT_SPLITS) if wanted else ():
        shutil.copyfile(split, folder / split.name)
    return len(wanted)


def _copy(record: Record, edition: Path, tables: Collection[str]) -> None:
    """One run's small files into the published edition, with more of its tables where any are named."""
    folder = edition / record.run_id
    folder.mkdir()
    for name in FILES:
        if (record.path / name).is_file():
            shutil.copyfile(record.path / name, folder / name)
    if "history" not in tables and "val_score" in record.history:
        record.history.dropna(subset=["val_score"]).to_csv(folder / "history.csv", index=False)
    beside = ("particles",) if record.config.method in DIVIDED else ()  # sizes are compared with its own
    for name in (*PACKED, *(tables or beside)):
        if record.table_file(name):
            text = record.table(name).to_csv(index=False, float_format="%.7g")
            (folder / f"{name}.csv.xz").write_bytes(lzma.compress(text.encode(), preset=lzma.PRESET_EXTREME))
    for name in SPLITS:
        if (record.path / name).is_file():
            kept = f"{Path(name).stem}-{str(read_json(record.path / name)['hash'])[:12]}.json"
            shutil.copyfile(record.path / name, edition / kept)


def _info(edition: Edition) -> dict[str, Any]:
    """edition.json without the runs that are not finished; their names under left_out."""
    done = {record.run_id for record in edition.records}
    there = {name: [row for row in rows if row["run_id"] in done] for name, rows in edition.experiments.items()}
    left_out = {name: edition.missing(name) for name in edition.experiments if edition.missing(name)}
    return edition.info | {"experiments": there} | ({"left_out": left_out} if left_out else {})


def main() -> None:
    """Entry point of `python -m lorasam_core.publish`."""
    parser = argparse.ArgumentParser(prog="python -m lorasam_core.publish", description=__doc__)
    parser.add_argument("--edition", default="", help="name or folder; default: the newest local one")
    parser.add_argument(
        "--partial", action="store_true", help="without the runs that are not finished, which are named"
    )
    parser.add_argument("--runs", default="runs", help="folder of all editions")
    args = parser.parse_args()
    try:
        edition = find_edition(args.edition, args.runs, unfinished=args.partial)
        published = publish(edition, root() / "book" / "results", args.partial)
        report.update_readme(published, root() / "README.md")
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{published.path}: {len(published.records)} runs")


if __name__ == "__main__":
    main()
