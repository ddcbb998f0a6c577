"""Records and editions made by hand, with the tables that a test needs."""

import json
from pathlib import Path

import pandas as pd

from lorasam_core.config import RunConfig
from lorasam_core.experiments.records import Edition, read_record
from lorasam_core.stats import bootstrap_interval


def per_image(evaluator, groups, **columns):
    """One row an image: ids a, b, c ...; `groups` and every column one value an image."""
    ids = [chr(ord("a") + k) for k in range(len(groups))]
    return pd.DataFrame({"evaluator": evaluator, "id": ids, "group": list(groups), **columns})


def make_record(folder: Path, run_id: str, rows, tables=None, metrics=None, **settings):
    """A finished run whose per_image.csv is `rows` (a list of per_image tables), and tables {name: DataFrame}."""
    path = folder / run_id
    path.mkdir(parents=True)
    table = pd.concat(rows, ignore_index=True)
    table.to_csv(path / "per_image.csv", index=False)
    for name, found in (tables or {}).items():
        found.to_csv(path / f"{name}.csv", index=False)
    test = {}
    for evaluator, found in table.groupby("evaluator"):
        test[evaluator] = {}
        for column in found.columns.drop(["evaluator", "id", "group"]):
            if found[column].notna().any():
                mean, low, high = bootstrap_interval(found[column], found["group"].to_numpy())
                summary = {"mean": mean, "low": low, "high": high, "n": len(found), "groups": found["group"].nunique()}
                test[evaluator][column] = summary
    evaluators = tuple(dict.fromkeys(table["evaluator"]))
    config = RunConfig(**{"name": run_id, "evaluate": evaluators, **settings})
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    (path / "metrics.json").write_text(json.dumps({"run_id": run_id, "test": test, "steps": 600, **(metrics or {})}))
    return read_record(path)


def make_edition(folder: Path, left_out=None, **experiments):
    """An edition whose experiments are lists of records."""
    records = {r.run_id: r for runs in experiments.values() for r in runs}
    rows = {name: [{"name": r.config.name, "run_id": r.run_id} for r in runs] for name, runs in experiments.items()}
    info = {"experiments": rows} | ({"left_out": left_out} if left_out else {})
    return Edition("made", folder, tuple(records.values()), info)
