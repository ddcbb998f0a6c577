"""Finished runs and editions with made-up numbers, for tests of tables, sentences, charts and pages."""

import json
import zlib

import numpy as np
import pandas as pd

from lorasam_core.config import UNRATED, RunConfig
from lorasam_core.experiments.records import read_edition
from lorasam_core.stats import bootstrap_interval

COLUMNS = {
    "predictor": ["dice", "iou", "accuracy"], "point": ["iou_best", "iou_rated"], "box": ["iou_best", "iou_rated"],
    "exact_box": ["iou_best", "iou_rated"], "generator": ["dice", "ap50", "ap", "f1", "pq"],
    "guided": ["dice", "ap50", "ap", "f1", "pq", "recall", "d50_error"],
}  # fmt: skip
EVERY = tuple(name for name in COLUMNS if name != "guided")


def write_run(folder, run_id, level, evaluators=("predictor",), scatter=0.0, measured=None, **settings):
    """A finished run whose metrics scatter around `level`.

    scatter: standard deviation of what is this run's alone, beside what makes the same images hard for every run;
    measured: entries of metrics.json in place of the made-up ones.
    """
    path = folder / run_id
    path.mkdir(parents=True)
    config = RunConfig(**settings, evaluate=evaluators)
    noise = np.random.default_rng(7).normal(0, 0.02, 12)  # the same images are hard for every run
    noise += np.random.default_rng(zlib.crc32(run_id.encode())).normal(0, scatter, 12)
    rows = []
    test = {}
    for evaluator in evaluators:
        for i in range(12):
            values = {c: level + noise[i] for c in COLUMNS[evaluator]}
            if config.method in UNRATED:
                values |= {c: float("nan") for c in ("ap50", "ap") if c in values}  # instances without scores
            rows.append({"evaluator": evaluator, "id": f"im{i}", "group": f"g{i // 2}", **values})
        table = pd.DataFrame(rows)
        table = table[table["evaluator"] == evaluator]
        test[evaluator] = {}
        for column in COLUMNS[evaluator]:
            mean, low, high = bootstrap_interval(table[column].to_numpy(), table["group"].to_numpy())
            test[evaluator][column] = {"mean": mean, "low": low, "high": high, "n": 12, "groups": 6}
    if config.filters:  # the mask generator with other thresholds, of which metrics.json has no entry under `test`
        generated = [row for row in rows if row["evaluator"] == "generator"]
        rows += [row | {"evaluator": "generator_tuned", "f1": row["f1"] + 0.1} for row in generated]
    pd.DataFrame(rows).to_csv(path / "per_image.csv", index=False)
    metrics = {
        "run_id": run_id, "val": {}, "test": test, "trainable_parameters": 4608 * config.rank, "seconds": 60.0,
        "processor_seconds": 55.0, "images_per_s": 5.0, "peak_memory_mb": 900.0, "steps": 100, "images_seen": 800,
        "best_step": 90,
        **(measured or {}),
    }  # fmt: skip
    if config.transfer:  # the same images under other names, five points lower
        elsewhere = pd.DataFrame(rows).assign(group=lambda table: "x" + table["group"])
        elsewhere.loc[:, "dice":] -= 0.05
        pd.concat(elsewhere.assign(data=name) for name in config.transfer).to_csv(path / "transfer.csv", index=False)
    history = pd.DataFrame({
        "step": [50, 100], "train_loss": [0.5, 0.4], "train_accuracy": [0.8, 0.9], "train_miou": [0.5, 0.6],
        "val_loss": [0.6, 0.45], "val_accuracy": [0.8, 0.9], "val_miou": [0.5, 0.6],
    })  # fmt: skip
    history.to_csv(path / "history.csv", index=False)
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    (path / "metrics.json").write_text(json.dumps(metrics))


def write_edition(folder, experiments, **info):
    """An edition of runs that are there: {experiment: {name: run id}}."""
    lists = {key: [{"name": name, "run_id": i} for name, i in runs.items()] for key, runs in experiments.items()}
    (folder / "edition.json").write_text(json.dumps({"name": folder.name, "experiments": lists, **info}))
    return read_edition(folder)


def spectrum(effective_rank, blocks=2, targets=("q", "v")):
    """The entry `spectrum` of metrics.json, every further matrix with one direction more than the one before."""
    matrices = [f"image_encoder.blocks.{block}.attn.qkv.{target}" for block in range(blocks) for target in targets]
    return [
        {"matrix": name, "norm": 2.0, "effective_rank": effective_rank + k, "rank_90": k + 1, "rank_99": k + 3}
        for k, name in enumerate(matrices)
    ]
