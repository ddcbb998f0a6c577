"""Numbers in the tables of the built book, and the numbers of the records that should stand there.

Nothing here uses the code that makes the tables: a cell is traced to its runs by the words of its row and its column,
and means over seeds, gains and their intervals are computed again from per_image.csv.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup

from lorasam_core.experiments.records import Edition, Record
from lorasam_core.experiments.study import STUDY
from lorasam_core.stats import bootstrap_interval

NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
REPORTED = ", reported by the study"
MEASURES = {
    "predictor: Dice": ("predictor", "dice"),
    "predictor: IoU": ("predictor", "iou"),
    "predictor: pixel accuracy": ("predictor", "accuracy"),
    "point prompt: IoU, mask the model rates best": ("point", "iou_rated"),
    "point prompt: IoU, best of three masks": ("point", "iou_best"),
    "box prompt: IoU": ("box", "iou_rated"),
    "mask generator: Dice of the union": ("generator", "dice"),
    "mask generator: AP50": ("generator", "ap50"),
    "mask generator: AP": ("generator", "ap"),
    "mask generator: F1 at IoU 0.5": ("generator", "f1"),
    "mask generator: PQ": ("generator", "pq"),
    "mask generator, thresholds by validation: F1 at IoU 0.5": ("generator_tuned", "f1"),
}
WORDS = {  # measures in tables of comparisons
    "Dice": ("predictor", "dice"), "IoU from one point": ("point", "iou_rated"),
    "F1, thresholds by validation": ("generator_tuned", "f1"),
    "predictor Dice": ("predictor", "dice"), "point IoU": ("point", "iou_rated"), "box IoU": ("box", "iou_rated"),
    "mask generator Dice": ("generator", "dice"), "AP50": ("generator", "ap50"), "F1": ("generator", "f1"),
    "PQ": ("generator", "pq"), "F1 with thresholds by validation": ("generator_tuned", "f1"),
}  # fmt: skip
PROMPTS = {  # rows of the table of prompts
    "whole image": ("predictor", "dice"), "mask generator, union": ("generator", "dice"),
    "mask generator, AP50": ("generator", "ap50"), "point": ("point", "iou_rated"),
    "point, best mask": ("point", "iou_best"),
    "jittered box": ("box", "iou_rated"), "exact box": ("exact_box", "iou_rated"),
}  # fmt: skip
SERIES = {"adapted": "lora", "U-Net": "unet"}  # of the table of labels, and their method
SWEEPS = {"rank": int, "learning rate": float, "batch size": int}  # first column of an ablation, and its values
COUNTS = {  # column -> number in metrics.json
    "trainable parameters": "trainable_parameters", "steps": "steps", "images seen": "images_seen",
    "seconds": "seconds", "images per s": "images_per_s", "images a second": "images_per_s",
    "peak memory, MB": "peak_memory_mb", "peak memory of training, MB": "training_memory_mb",
}  # fmt: skip

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: the page, the table's label without "tab-", its row (header: text) and its column."""

    page: str
    table: str
    row: Mapping[str, str]
    column: str

    @property
    def numbers(self) -> list[str]:
        """The numbers in it, as they are shown."""
        return NUMBER.findall(self.row[self.column])

    def __str__(self) -> str:
        return f"{self.page}, {self.table}, {next(iter(self.row.values()))}, {self.column}: {self.row[self.column]}"


def cells(soups: Mapping[str, BeautifulSoup]) -> Iterator[Cell]:
    """Every cell with a number, of every table that has a label."""
    for page, soup in soups.items():
        for table in soup.select("table[id^=tab-]"):
            names = [head.get_text(" ", strip=True) for head in table.select("thead th")]
            for line in table.select("tbody tr"):
                row = dict(zip(names, (cell.get_text(" ", strip=True) for cell in line("td"))))
                found = (Cell(page, str(table["id"]).removeprefix("tab-"), row, name) for name in names)
                yield from (cell for cell in found if cell.numbers)


def agree(shown: Sequence[str], values: Numbers) -> bool:
    """Whether numbers, as they are shown, are these values, rounded to the digits that are shown."""
    return len(shown) == len(values) and all(map(_agrees, shown, values))


def changed(number: str) -> str:
    """Another number of as many digits: three more in its last place."""
    digits = _digits(number)
    return f"{float(number.replace(',', '')) + 3 * 10.0**-digits:.{digits}f}"


def behind(cell: Cell, edition: Edition) -> list[Numbers]:
    """What may stand in a cell by the records or by the study; nothing for a cell that no rule here traces."""
    if cell.column.endswith(REPORTED):
        return _study(cell)
    rule = RULES.get(cell.table)
    return [values for values in rule(cell, edition) if values] if rule else []


def _digits(number: str) -> int:
    return len(number.partition(".")[2])


def _agrees(shown: str, value: float) -> bool:
    return abs(float(shown.replace(",", "")) - value) <= 0.5 * 10.0 ** -_digits(shown) + 1e-9


# ------------------------------------------------------------------------------------------------ records
def _seeds(edition: Edition) -> list[Record]:
    """The main configuration's runs, one a seed."""
    runs = [record for record in _runs(edition, "main") if record.config.method == "lora"]
    return [r for r in runs if r.config.replace(name="", seed=0) == runs[0].config.replace(name="", seed=0)]


def _frozen(edition: Edition) -> list[Record]:
    return [record for record in edition.records if record.config.method == "frozen"][:1]


def _runs(edition: Edition, experiment: str) -> list[Record]:
    ids = [row["run_id"] for row in edition.info["experiments"].get(experiment, [])]
    return [record for record in edition.records if record.run_id in ids]


def _named(edition: Edition, name: str) -> list[list[Record]]:
    """Runs that stand under a name: each alone, and together with its other seeds."""
    ids = {row["run_id"] for rows in edition.info["experiments"].values() for row in rows if row["name"] == name}
    return _groups(edition, [record for record in edition.records if record.run_id in ids])


def _groups(edition: Edition, runs: Sequence[Record]) -> list[list[Record]]:
    return [[r] for r in runs] + [[r for r in edition.records if _settings(r) == _settings(run)] for run in runs]


def _settings(run: Record) -> dict[str, Any]:
    """What decides a run's training, without its seed."""
    aside = ("name", "seed", "transfer", "truncate")
    return {key: value for key, value in run.config.to_dict().items() if key not in aside}


def _images(runs: Sequence[Record], evaluator: str, metric: str) -> pd.DataFrame:
    """The metric of each test image, in %, with its group; a mean over the runs where there are several."""
    tables = []
    for run in runs:
        rows = pd.read_csv(next(run.path.glob("per_image.csv*")), dtype={"id": str, "group": str})
        own = evaluator == "generator_tuned" and run.config.method in ("unet", "unet_watershed", "otsu", "watershed")
        tables.append(rows[rows["evaluator"] == ("generator" if own else evaluator)])
    rows = pd.concat(tables)
    return 100 * rows.groupby(["id", "group"])[[metric]].mean()


def _with_interval(values: pd.Series) -> Numbers:
    mean, low, high = bootstrap_interval(values.to_numpy(), values.index.get_level_values("group").to_numpy())
    return (mean, low, high) if np.isfinite(low) else (mean,)


def _summary(runs: Sequence[Record], evaluator: str, metric: str) -> Numbers:
    """Mean with interval, in %, as one record has it, or of the images' means over several; without runs, nothing."""
    if evaluator == "generator_tuned":  # of which the record has a summary elsewhere
        values = _images(runs, evaluator, metric)[metric] if runs else pd.Series(dtype=float)
        return _with_interval(values) if len(values) else ()
    if not runs or not all(metric in run.metrics["test"].get(evaluator, {}) for run in runs):
        return ()
    if len(runs) > 1:
        return _with_interval(_images(runs, evaluator, metric)[metric])
    found = runs[0].metrics["test"][evaluator][metric]
    values = [100 * found[key] for key in ("mean", "low", "high") if found[key] is not None]
    return tuple(values) if np.isfinite(values).all() else (values[0],)


def _gain(before: Sequence[Record], after: Sequence[Record], evaluator: str, metric: str) -> Numbers:
    """Mean difference on the same images with its interval, in points."""
    gain = _images(after, evaluator, metric) - _images(before, evaluator, metric)
    return _with_interval(gain[metric].dropna())


# ------------------------------------------------------------------------------------------------ tables
def _frozen_and_adapted(cell: Cell, edition: Edition) -> list[Numbers]:
    row = next(iter(cell.row.values()))
    if row not in MEASURES | PROMPTS:
        return []
    evaluator, metric = (MEASURES | PROMPTS)[row]
    before, after = _frozen(edition), _seeds(edition)
    match cell.column.removesuffix(", %"):
        case "frozen":
            return [_summary(before, evaluator, metric)]
        case "adapted":
            return [_summary(after, evaluator, metric)]
        case "gain, points":
            return [_gain(before, after, evaluator, metric)]
        case "test images":
            return [(_images(after, evaluator, metric)[metric].notna().sum(),)]
    return []


def _ablation(cell: Cell, edition: Edition) -> list[Numbers]:
    field = next(iter(cell.row))
    if field not in SWEEPS or cell.column == field:
        return []
    name, value = field.replace(" ", "_"), SWEEPS[field](cell.row[field])
    runs = [run for run in _runs(edition, name) if _is(run, name, value)]
    if cell.column.startswith("test Dice"):
        return [_summary(runs, "predictor", "dice")]
    return [_count(run, cell.column) for run in [*runs, *_runs(edition, f"{name}_steps")] if _is(run, name, value)]


def _is(run: Record, field: str, value: float) -> bool:
    return bool(getattr(run.config, field) == value)


def _labels(cell: Cell, edition: Edition) -> list[Numbers]:
    words, _, series = cell.column.partition(", %: ")
    if words not in WORDS:
        return []
    total, count = edition.info["images"]["train"], int(cell.row["labelled images"])
    runs = [run for name in ("main", "rivals", "labels") for run in _runs(edition, name)]
    runs = [r for r in runs if r.config.method == SERIES[series] and min(r.config.train_limit or total, total) == count]
    return [_summary(some, *WORDS[words]) for some in _groups(edition, runs)]


def _comparison(cell: Cell, edition: Edition) -> list[Numbers]:
    name = next(cell.row[head] for head in ("method", "adapted", "objective") if head in cell.row)
    runs, measure = _named(edition, name), WORDS[cell.row.get("measure", "Dice")]
    if cell.column in ("test Dice, %", "test value, %"):
        return [_summary(some, *measure) for some in runs]
    if match := re.match(r"difference to (.*), points", cell.column):
        return [_gain(base, some, *measure) for base in _named(edition, match[1]) for some in runs]
    return [_count(run, cell.column) for some in runs for run in some]


def _longer(cell: Cell, edition: Edition) -> list[Numbers]:
    measure, before, after = MEASURES[cell.row["metric"]], _seeds(edition), _runs(edition, "longer")
    if cell.column == "difference, points":
        return [_gain(before, after, *measure)]
    runs = {"main, %": before, "more steps, %": after}.get(cell.column)
    return [_summary(runs, *measure)] if runs else []


def _cases(cell: Cell, edition: Edition) -> list[Numbers]:
    runs = {"Dice, %: frozen": _frozen(edition), "adapted": _seeds(edition)[:1]}.get(cell.column)
    if not runs:
        return []
    dice = _images(runs, "generator", "dice")["dice"]
    return [tuple(dice[dice.index.get_level_values("id") == cell.row["test image"]])]


def _run(cell: Cell, edition: Edition) -> list[Numbers]:
    return [_count(run, cell.column) for run in edition.records if run.run_id == cell.row["run"]]


def _count(run: Record, column: str) -> Numbers:
    value = run.metrics.get(COUNTS.get(column, ""))
    return () if value is None else (float(value),)


def _study(cell: Cell) -> list[Numbers]:
    """What the study reports at the setting of the row."""
    if cell.table == "cases":
        pair = sorted(STUDY["test_cases"].values(), key=lambda pair: pair[1])[int(cell.row["case"]) - 1]
        return [(pair[cell.column.startswith("adapted")],)]
    field = next(iter(cell.row))
    if field not in SWEEPS:
        return []
    value = cell.row[f"rank of 768{REPORTED}" if field == "rank" else field]
    dice, millions = STUDY[field.replace(" ", "_")][SWEEPS[field](value)]
    known: dict[str, Any] = {"test Dice, %": dice, "trainable parameters": millions, "rank of 768": float(value)}
    return [(known[cell.column.removesuffix(REPORTED)],)]


RULES: dict[str, Callable[[Cell, Edition], list[Numbers]]] = {
    "landing": _frozen_and_adapted, "main": _frozen_and_adapted, "rank": _ablation, "learning-rate": _ablation,
    "batch-size": _ablation, "batch-size-cost": _ablation, "cases": _cases, "edition-runs": _run,
    "objective": _comparison, "longer": _longer, "where": _comparison, "labels": _labels,
    "prompts": _frozen_and_adapted, "rivals-cost": _comparison, "rivals-foreground": _comparison,
    "rivals-instances": _comparison,
}  # fmt: skip
