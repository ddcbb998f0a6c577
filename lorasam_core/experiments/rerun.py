"""A run done again from its record, and the two held against each other: `lorasam experiments --run ID`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.experiments.records import Record, published_editions, read_edition
from lorasam_core.experiments.sweeps import move_aside, run_one

# how far the mean of a metric (0 to 1) may lie from the record's when a run is done again: rounding that differs
# between machines and numbers of threads is amplified over hundreds of steps
TOLERANCE = 0.02
COUNTS = ("n", "n_pred", "n_true", "merges", "splits")  # an image; no shares


def rerun(run_id: str, runs: str | Path = "runs", wandb: str = "disabled") -> pd.DataFrame:
    """Do one run again from its record, local or published, in runs/<edition>-rerun; returns old and new metrics.

    Columns as `compare` gives them. Raises ValueError when no edition has the run.
    """
    from lorasam_core.experiments.runs import prepare
    from lorasam_core.models.sam import REPLACED

    places = [p for p in Path(runs).glob("*") if "." not in p.name and not p.name.endswith("-rerun") and p.is_dir()]
    editions = [*map(read_edition, places), *published_editions()]
    found = [(edition, r) for edition in editions for r in edition.records if r.run_id == run_id]
    if not found:
        raise ValueError(f"no finished run {run_id!r} is in {runs} or published; list them with --dry-run.")
    edition, old = found[0]
    if old.config.model in REPLACED:
        raise ValueError(
            f"run {run_id} was made on {old.config.model}, a base that {REPLACED[old.config.model]} has replaced: its "
            "record can be read, and not made again."
        )
    folder = Path(runs) / f"{edition.path.name}-rerun"
    prepared = prepare(old.config)
    if prepared.run_id != run_id:
        print(f"the run id is now {prepared.run_id}: base, data, split, precision or code are not those of {run_id}")
    if (folder / prepared.run_id).is_dir():
        move_aside(folder, {"": [prepared]}, whole=False)
    return compare(old, run_one(old.config, folder, wandb))


def compare(old: Record, new: Record) -> pd.DataFrame:
    """Test metrics of two runs side by side: metric, old, new, difference, within (TOLERANCE; of what is a share, and
    was measured in one of the runs at least: AP needs scores, which not every method has).
    """
    rows, found = [], _judged(new)
    for evaluator, summary in _judged(old).items():
        for metric, values in summary.items():
            again = found.get(evaluator, {}).get(metric, {}).get("mean", float("nan"))
            change = again - values["mean"]
            nowhere = math.isnan(values["mean"]) and math.isnan(again)
            within = "–" if metric in COUNTS or nowhere else "yes" if abs(change) <= TOLERANCE else "no"
            rows.append((f"{evaluator} {metric}", values["mean"], again, change, within))
    return pd.DataFrame(rows, columns=["metric", "old", "new", "difference", "within"])


def _judged(record: Record) -> dict[str, Any]:
    """Evaluator -> summary of the test images, that of thresholds by validation too."""
    tuned = record.metrics.get("filters", {}).get("tuned_test")
    return record.metrics["test"] | ({"generator_tuned": tuned} if tuned else {})
