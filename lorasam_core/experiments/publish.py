"""Publish an edition: its records go to book/results as a few packed tables, its main table into the README."""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.config import DIVIDED
from lorasam_core.experiments.files import read_json, write_json
from lorasam_core.experiments.records import EDITION, PACKED, Edition, Record, is_finished, load, read_edition, root

TABLES = ("per_image", "transfer", "history")  # of every run; of the history of others than main, validations alone
MAIN_TABLES = ("annotations", "particles", "tuned_particles", "guided_particles", "calibration", "thresholds")
SPLITS = ("split.json", "train_split.json")
KEPT_SPLITS = "*split-*.json"  # as they are named where runs share them
LIMIT = 2_000_000  # bytes of an edition in the repository
MAIN = "main"  # the experiment whose tables are published whole, and the adapter of its first run that has one


def publish(edition: Edition, results: Path, partial: bool = False) -> Edition:
    """Pack an edition's records into results/<name>, in place of what is there; a split that runs share is kept once.

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
    pack(edition, part)
    size = sum(p.stat().st_size for p in part.rglob("*") if p.is_file())
    if size > LIMIT:
        shutil.rmtree(part)
        raise ValueError(f"the records of {edition.name} are {size / 1e6:.1f} MB; the repository takes 2 MB.")
    shutil.rmtree(results / edition.name, ignore_errors=True)
    part.rename(results / edition.name)
    return read_edition(results / edition.name)


def pack(edition: Edition, folder: Path) -> None:
    """Write edition.json, records.json.xz, a table of every kind, the splits and the main adapter into a folder."""
    main = {row["run_id"] for row in edition.experiments.get(MAIN, [])}
    whole = [record for record in edition.records if record.run_id in main]
    tables: dict[str, list[pd.DataFrame]] = {}
    for record in edition.records:
        for name in _published(record, whole):
            if len(table := record.table(name)):
                if name == "history" and record not in whole and "val_score" in table:
                    table = table.dropna(subset=["val_score"])
                tables.setdefault(name, []).append(table.assign(run=record.run_id))
    for name, parts in tables.items():
        table = pd.concat(parts, ignore_index=True)
        text = table[["run", *(c for c in table if c != "run")]].to_csv(index=False, float_format="%.7g")
        (folder / f"{name}.csv.xz").write_bytes(lzma.compress(text.encode(), preset=lzma.PRESET_EXTREME))
    records = {r.run_id: {"config": r.config.to_dict(), "metrics": r.metrics, "environment": r.environment}
               for r in edition.records}  # fmt: skip
    write_json(folder / PACKED, records)
    if first := next((record for record in whole if record.adapter is not None), None):
        assert first.adapter is not None
        shutil.copyfile(first.adapter, folder / f"{first.run_id}.safetensors")
    for split in edition.path.glob(KEPT_SPLITS):  # of runs that were restored
        shutil.copyfile(split, folder / split.name)
    for record in edition.records:
        for name in SPLITS:
            if not record.packed and (record.path / name).is_file():
                kept = f"{Path(name).stem}-{str(read_json(record.path / name)['hash'])[:12]}.json"
                shutil.copyfile(record.path / name, folder / kept)
    write_json(folder / EDITION, _info(edition))


def _published(record: Record, whole: list[Record]) -> tuple[str, ...]:
    """The tables of a run that are published."""
    if record not in whole:
        return (*TABLES, "particles") if record.config.method in DIVIDED else TABLES  # sizes are compared with its own
    # ratings are compared on the masks of "calibration"; those of "annotations" stand in where a run has none
    rated = all(len(r.table("calibration")) for r in whole)
    return (*TABLES, *(name for name in MAIN_TABLES if name != "annotations" or not rated))


def restore(edition: Edition, folder: Path, run_ids: Iterable[str]) -> int:
    """Write those of a published edition's runs that a local edition's folder lacks into it: there they are finished.

    Returns how many. What publishing leaves out (adapters but the first main one, logs, most of the curves) stays out.
    """
    asked = set(run_ids)
    wanted = [r for r in edition.records if r.run_id in asked and not is_finished(folder / r.run_id)]
    folder.mkdir(parents=True, exist_ok=True)
    for record in wanted:
        part = folder / f"{record.run_id}.part-{os.getpid()}"
        part.mkdir()
        for name in (*TABLES, *MAIN_TABLES):
            if len(table := record.table(name)):
                table.to_csv(part / f"{name}.csv", index=False)
        write_json(part / "config.json", record.config.to_dict())
        write_json(part / "environment.json", record.environment)
        write_json(part / "metrics.json", record.metrics)
        if record.adapter is not None:
            shutil.copyfile(record.adapter, part / "adapter.safetensors")
        part.rename(folder / record.run_id)
    for split in edition.path.glob(KEPT_SPLITS) if wanted else ():
        shutil.copyfile(split, folder / split.name)
    return len(wanted)


def _info(edition: Edition) -> dict[str, Any]:
    """edition.json without the runs that are not finished; their names under left_out."""
    done = {record.run_id for record in edition.records}
    there = {name: [row for row in rows if row["run_id"] in done] for name, rows in edition.experiments.items()}
    left_out = {name: edition.missing(name) for name in edition.experiments if edition.missing(name)}
    return edition.info | {"experiments": there} | ({"left_out": left_out} if left_out else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `lorasam publish`."""
    from lorasam_core.report import page as report

    parser = argparse.ArgumentParser(prog="lorasam publish", description=__doc__)
    parser.add_argument("--edition", default="", help="name or folder; default: the newest local one")
    parser.add_argument(
        "--partial", action="store_true", help="without the runs that are not finished, which are named"
    )
    parser.add_argument("--runs", default="runs", help="folder of all editions")
    args = parser.parse_args(arguments)
    try:
        published = publish(load(args.edition, args.runs, args.partial), root() / "book" / "results", args.partial)
        report.update_readme(published, root() / "README.md")
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{published.path}: {len(published.records)} runs")
