"""Publish an edition: its small records go to book/results, its main table into the README."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from lorasam_core import report
from lorasam_core.records import EDITION, Edition, find_edition, read_edition, root

FILES = ("config.json", "metrics.json", "history.csv", "per_image.csv", "split.json", "environment.json")
LIMIT = 2 * 2**20  # bytes of an edition in the repository
MAIN = "main"  # the experiment whose adapters are published


def publish(edition: Edition, results: Path) -> Edition:
    """Copy an edition's records into results/<name>, in place of what is there, with the main runs' adapters alone.

    Raises ValueError for an edition that lacks a run, or whose records would exceed 2 MB.
    """
    if missing := edition.missing():
        raise ValueError(f"the edition {edition.name} lacks the run {missing[0]!r}; run its experiments first.")
    main = {row["run_id"] for row in edition.experiments.get(MAIN, [])}
    part = results / f"{edition.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    for record in edition.records:
        folder = part / record.run_id
        folder.mkdir(parents=True)
        names = [*FILES, "adapter.safetensors"] if record.run_id in main else FILES
        for name in names:
            if (record.path / name).is_file():
                shutil.copyfile(record.path / name, folder / name)
    shutil.copyfile(edition.path / EDITION, part / EDITION)
    size = sum(p.stat().st_size for p in part.rglob("*") if p.is_file())
    if size > LIMIT:
        shutil.rmtree(part)
        raise ValueError(f"the records of {edition.name} are {size / 2**20:.1f} MB; the repository takes 2 MB.")
    shutil.rmtree(results / edition.name, ignore_errors=True)
    part.rename(results / edition.name)
    return read_edition(results / edition.name)


def main() -> None:
    """Entry point of `python -m lorasam_core.publish`."""
    parser = argparse.ArgumentParser(prog="python -m lorasam_core.publish", description=__doc__)
    parser.add_argument("--edition", default="", help="name or folder; default: the newest local one")
    parser.add_argument("--runs", default="runs", help="folder of all editions")
    args = parser.parse_args()
    try:
        published = publish(find_edition(args.edition, args.runs), root() / "book" / "results")
        report.update_readme(published, root() / "README.md")
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{published.path}: {len(published.records)} runs")


if __name__ == "__main__":
    main()
