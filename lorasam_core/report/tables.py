"""Records -> tables; every number is read from a record or stands as "reported by the study".

Imports no torch. Dice and the like are shown in %, with the bootstrap's 95 % interval over groups in brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core import stats
from lorasam_core.config import UNRATED, RunConfig
from lorasam_core.experiments.records import Edition, Record
from lorasam_core.stats import bootstrap_interval

METRICS = (  # label, evaluator, column of per_image.csv
    ("predictor: Dice", "predictor", "dice"),
    ("predictor: IoU", "predictor", "iou"),
    ("predictor: pixel accuracy", "predictor", "accuracy"),
    ("point prompt: IoU, mask the model rates best", "point", "iou_rated"),
    ("point prompt: IoU, best of three masks", "point", "iou_best"),
    ("box prompt: IoU", "box", "iou_rated"),
    ("exact box prompt: IoU", "exact_box", "iou_rated"),
    ("mask generator: Dice of the union", "generator", "dice"),
    ("mask generator: AP50", "generator", "ap50"),
    ("mask generator: AP", "generator", "ap"),
    ("mask generator: F1 at IoU 0.5", "generator", "f1"),
    ("mask generator: PQ", "generator", "pq"),
    ("mask generator, thresholds by validation: F1 at IoU 0.5", "generator_tuned", "f1"),
)
HEADLINE = {  # label: measure of the table of scores
    "predictor: Dice": "predictor dice",
    "box prompt: IoU": "box iou_rated",
    "point prompt: IoU of the mask rated best": "point iou_rated",
    "mask generator: AP50": "generator ap50",
    "mask generator: F1 at IoU 0.5": "generator f1",
    "mask generator, thresholds by validation: F1 at IoU 0.5": "generator_tuned f1",
}
# what is measured beside the result, or where and how a run is done: no difference between seeds
ASIDE: dict[str, Any] = {
    "name": "-", "seed": 0, "evaluate": ("predictor",), "truncate": (), "transfer": (), "filters": 0,
    "device": "auto", "workers": None, "checkpointing": False, "compile": False,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- runs
def adapted_runs(edition: Edition, experiment: str = "main") -> list[Record]:
    """The main configuration's adapted runs, one a seed; without such an experiment, the adapted run tested most."""
    if experiment in edition.experiments:
        runs = [r for r in edition.experiment(experiment) if r.config.method == "lora"]
        if runs:
            return [r for r in runs if training_of(r) == training_of(runs[0])]
    lora = [r for r in edition.records if r.config.method == "lora"]
    if not lora:
        raise ValueError(f"the edition {edition.name} has no adapted run; run its experiments first.")
    return [max(lora, key=lambda r: len(r.config.evaluate))]


def training_of(record: Record) -> RunConfig:
    """What was trained: equal for the seeds of one configuration, whatever else was measured of some of them."""
    return record.config.replace(**ASIDE)


def frozen_runs(edition: Edition) -> list[Record]:
    """The frozen model's run on the data and the test images of the main configuration (an empty list: none)."""
    wanted = adapted_runs(edition)[0].config
    same = ("data", "limit", "split_seed", "model", "image_size", "test_limit", "generator")
    runs = [r for r in edition.records if r.config.method == "frozen"]
    runs = [r for r in runs if all(getattr(r.config, f) == getattr(wanted, f) for f in same)]
    return sorted(runs, key=lambda r: -len(r.config.evaluate))[:1]


# ------------------------------------------------------------------------------------------------- numbers
def test_rows(records: Sequence[Record], evaluator: str, metric: str) -> pd.DataFrame:
    """id, group and the metric of every test image, the mean over the runs (seeds) where there are several; no row
    unless all of them were measured.

    What has no mask generator has no thresholds for it: by thresholds chosen on validation images it is what it is.
    """
    tables = []
    for record in records:
        rows, asked = record.per_image, evaluator
        if evaluator == "generator_tuned" and record.config.method in UNRATED:
            asked = "generator"
        if metric in rows:
            tables.append(rows.loc[rows["evaluator"] == asked, ["id", "group", metric]])
    if not tables or len(tables) < len(records) or not all(map(len, tables)):
        return pd.DataFrame({"id": [], "group": [], metric: []}).astype({"id": str, "group": str})
    return pd.concat(tables).groupby(["id", "group"])[[metric]].mean().reset_index()


def interval(records: Sequence[Record], evaluator: str, metric: str) -> dict[str, float]:
    """Mean, low, high (0 to 1), n and groups of one test metric; NaN where it was not measured.

    One run: as its record says. Several seeds: images averaged over the seeds, then the same bootstrap over groups.
    """
    if len(records) == 1:
        found = records[0].metrics.get("test", {}).get(evaluator, {}).get(metric)
        if found:
            return {key: float("nan") if value is None else value for key, value in found.items()}
    rows = test_rows(records, evaluator, metric)
    mean, low, high = bootstrap_interval(rows[metric].to_numpy(float), rows["group"].to_numpy())
    return {"mean": mean, "low": low, "high": high, "n": len(rows), "groups": rows["group"].nunique()}


def paired(
    before: Sequence[Record], after: Sequence[Record], evaluator: str, metric: str
) -> tuple[float, float, float]:
    """Mean difference after - before on the same test images, with its interval over groups (0 to 1)."""
    rows = test_rows(before, evaluator, metric).merge(test_rows(after, evaluator, metric), on=["id", "group"])
    change = rows[f"{metric}_y"] - rows[f"{metric}_x"]
    return bootstrap_interval(change.to_numpy(float), rows["group"].to_numpy())


def run_ids(*groups: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(r.run_id for runs in groups for r in runs))


# ------------------------------------------------------------------------------------------------- main table
def main_rows(edition: Edition) -> pd.DataFrame:
    """Long table of what was measured: metric, series (frozen or adapted), mean, low, high in %, n, groups."""
    series = {"frozen": frozen_runs(edition), "adapted": adapted_runs(edition)}
    rows = []
    for label, evaluator, metric in METRICS:
        for name, runs in series.items():
            found = interval(runs, evaluator, metric)
            if np.isfinite(found["mean"]):
                percent = {key: 100 * found[key] for key in ("mean", "low", "high")}
                rows.append({"metric": label, "series": name, **percent, "n": found["n"], "groups": found["groups"]})
    table = pd.DataFrame(rows, columns=["metric", "series", "mean", "low", "high", "n", "groups"])
    table.attrs.update(made_by="lorasam_core.report.tables.main_rows", runs=run_ids(*series.values()))
    return table


def main_table(edition: Edition) -> pd.DataFrame:
    """Frozen against adapted, a row a measure of HEADLINE: %, the paired gain on the same test images, the verdict."""
    frozen, adapted = frozen_runs(edition), adapted_runs(edition)
    sides = dict.fromkeys(run_ids(frozen), "frozen") | dict.fromkeys(run_ids(adapted), "adapted")
    scores, rows = edition.scores[edition.scores["run"].isin(sides)], []
    scores = scores.assign(side=scores["run"].map(sides))
    for label, measure in HEADLINE.items():
        part = scores[scores["measure"] == measure]
        if part["side"].nunique() < 2:
            continue
        means = stats.mean_interval(part, "side").set_index("side")
        noise = stats.seed_noise(part[part["side"] == "adapted"])
        gain = stats.verdict(stats.paired(part, "side", "frozen"), noise, untrained=["frozen"])
        values = dict(zip(means.index, stats.as_text(means), strict=True))
        change = {"gain, points": stats.as_text(gain, sign=True).iloc[0], "verdict": gain["verdict"].iloc[0]}
        rows.append({"metric, %": label, "frozen": values["frozen"], "adapted": values["adapted"]} | change)
    return pd.DataFrame(rows, columns=["metric, %", "frozen", "adapted", "gain, points", "verdict"])


def run_table(edition: Edition) -> pd.DataFrame:
    """Every run of the edition: id, name, what it adapts, steps, seconds, images a second, peak memory."""
    names: dict[str, list[str]] = {}
    for experiment, rows in edition.experiments.items():
        for row in rows:
            names.setdefault(row["run_id"], []).append(f"{experiment}: {row['name']}")
    rows = [
        {
            "run": r.run_id,
            "in": "; ".join(names.get(r.run_id, [r.config.name])),
            "steps": f"{r.metrics.get('steps') or 0:,}",
            "seconds": f"{r.metrics.get('seconds') or 0:,.0f}",
            "images a second": f"{r.metrics.get('images_per_s') or 0:.1f}",
            "peak memory, MB": f"{r.metrics.get('peak_memory_mb') or 0:,.0f}",
        }
        for r in edition.records
    ]
    table = pd.DataFrame(rows, columns=["run", "in", "steps", "seconds", "images a second", "peak memory, MB"])
    table.attrs.update(made_by="lorasam_core.report.tables.run_table", runs=run_ids(edition.records))
    return table
