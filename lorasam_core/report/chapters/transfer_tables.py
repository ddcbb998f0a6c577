"""Trained on one material, tested on another: what transfers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lorasam_core.experiments.records import Edition, Record
from lorasam_core.report.phrases import FEW, difference, listed
from lorasam_core.report.tables import adapted_runs, frozen_runs, run_ids, shown, test_rows
from lorasam_core.stats import bootstrap_interval

EXPERIMENT = "other_material"
MATERIALS = {"emps": "EMPS", "synthetic": "generated particles", "ampis_powder": "AMPIS powder"}
MEASURES = (  # label, evaluator, column
    ("predictor: Dice", "predictor", "dice"),
    ("point prompt: IoU", "point", "iou_rated"),
    ("mask generator: AP50", "generator", "ap50"),
)
NOTHING = "frozen"
GAIN = ("gain", "gain_low", "gain_high")
NO_TRANSFER = "No model of this edition was tested on another material than its own test images."


def material(data: str) -> str:
    """The name of a data set as readers know it; of a folder, its last part."""
    return MATERIALS.get(data, data.rstrip("/").rpartition("/")[2])


def trainings(edition: Edition) -> dict[str, list[Record]]:
    """What a model was trained on: its runs; first the frozen one, then the main configuration, then others."""
    main = adapted_runs(edition)
    found = {NOTHING: frozen_runs(edition), f"trained on {material(main[0].config.data)}": main}
    others = edition.experiment(EXPERIMENT) if EXPERIMENT in edition.experiments else []
    for record in others:
        if record.config.method == "lora" and record.config.train_data is not None:
            found.setdefault(f"trained on {material(record.config.train_data)}", []).append(record)
    return found


def tested(edition: Edition) -> list[str]:
    """Data sets on which at least one model was judged: the edition's own test images first."""
    runs = [r for records in trainings(edition).values() for r in records]
    own = [runs[0].config.data] if runs else []
    there = [name for r in runs for name, found in r.metrics.get("transfer", {}).items() if isinstance(found, dict)]
    return list(dict.fromkeys([*own, *there]))


def rows_on(records: Sequence[Record], data: str, evaluator: str, metric: str) -> pd.DataFrame:
    """id, group and the metric of every image of a data set, the mean over the runs; empty where it was not judged."""
    own = [r for r in records if r.config.data == data]
    if own:
        return test_rows(own, evaluator, metric)
    tables = []
    for record in records:
        rows = record.table("transfer")
        if metric in rows:
            rows = rows[(rows["data"] == data) & (rows["evaluator"] == evaluator)]
            tables += [rows[["id", "group", metric]]] if len(rows) else []
    if not tables:
        return pd.DataFrame({"id": [], "group": [], metric: []})
    return pd.concat(tables).groupby(["id", "group"])[[metric]].mean().reset_index()


def transfer_rows(edition: Edition) -> pd.DataFrame:
    """Long table: test (material), metric, training, own (tested on what it was trained on), mean, low, high, gain,
    gain_low, gain_high (over the frozen model, paired on the same images), n, groups, seeds. Metrics are 0 to 1.
    """
    rows, runs = [], trainings(edition)
    for data in tested(edition):
        for label, evaluator, metric in MEASURES:
            before = rows_on(runs[NOTHING], data, evaluator, metric)
            for training, records in runs.items():
                found = rows_on(records, data, evaluator, metric)
                if found.empty:
                    continue
                row: dict[str, Any] = {"test": material(data), "metric": label, "training": training}
                row["seeds"] = sum(len(rows_on([r], data, evaluator, metric)) > 0 for r in records)
                row |= {"own": training == f"trained on {material(data)}", "n": len(found)}
                row |= _interval("mean", found[metric], found["group"]) | {"groups": found["group"].nunique()}
                if training != NOTHING and len(before):
                    both = before.merge(found, on=["id", "group"], suffixes=("_before", "_after"))
                    row |= _interval("gain", both[f"{metric}_after"] - both[f"{metric}_before"], both["group"])
                rows.append(row)
    columns = [
        "test", "metric", "training", "own", "mean", "low", "high", "gain", "gain_low", "gain_high", "n", "groups",
        "seeds",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(
        made_by="lorasam_core.report.chapters.transfer_tables.transfer_rows", runs=run_ids(*runs.values())
    )
    table.attrs["main"] = list(runs)[1]
    return table


def _interval(name: str, values: pd.Series, groups: pd.Series) -> dict[str, float]:
    names = (name, "low", "high") if name == "mean" else (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, bootstrap_interval(values.to_numpy(float), groups.to_numpy()), strict=True))


def transfer_table(rows: pd.DataFrame, gains: bool = False) -> pd.DataFrame:
    """`transfer_rows` as train x test: a row a test material and metric, a column a training, in % with intervals.

    gains: the paired gain over the frozen model in points, in place of the values.
    """
    columns = list(dict.fromkeys(rows["training"]))
    names = GAIN if gains else ("mean", "low", "high")
    table = []
    for (test, metric), found in rows.groupby(["test", "metric"], sort=False):
        there: dict[Any, Any] = found.set_index("training").to_dict("index")
        cells = {
            name: shown(*_numbers(there[name], names), sign=gains) if name in there else "–"
            for name in columns
            if not (gains and name == NOTHING)
        }
        count = f"{int(found['n'].max())} ({int(found['groups'].max())})"
        unit = "points" if gains else "%"
        table.append({"tested on": test, f"metric, {unit}": metric, **cells, "images (groups)": count})
    out = pd.DataFrame(table)
    out.attrs.update(rows.attrs | {"made_by": "lorasam_core.report.chapters.transfer_tables.transfer_table"})
    return out


def _numbers(row: Mapping[str, Any] | pd.Series, names: tuple[str, str, str]) -> tuple[float, float, float]:
    return float(row[names[0]]), float(row[names[1]]), float(row[names[2]])


def chart_rows(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`transfer_rows` of one metric for charts.interval_chart: metric (what is tested), series, mean, low, high in %.

    The main configuration is the series `adapted`, in whose colour it is drawn everywhere.
    """
    found = rows[rows["metric"] == metric]
    table = found.rename(columns={"metric": "measure", "test": "metric", "training": "series"}).reset_index(drop=True)
    table["series"] = table["series"].replace({rows.attrs["main"]: "adapted"})
    table[["mean", "low", "high"]] = 100 * table[["mean", "low", "high"]].astype(float)
    table = table[["metric", "series", "measure", "mean", "low", "high", "n", "groups"]]
    table.attrs.update(rows.attrs | {"made_by": "lorasam_core.report.chapters.transfer_tables.chart_rows"})
    return table


def transfer_sentence(rows: pd.DataFrame) -> str:
    """What every adapter does on the materials that it was not trained on, and how much of the home gain that is."""
    foreign = rows[(rows["training"] != NOTHING) & ~rows["own"].astype(bool) & rows["gain"].notna()]
    if foreign.empty:
        return NO_TRANSFER
    text = []
    for (training, test), found in foreign.groupby(["training", "test"], sort=False):
        parts = []
        for _, row in found.iterrows():
            few = 1 < row["groups"] < FEW  # no gain, no loss: the interval is too narrow to say so
            numbers = _numbers(row, GAIN)
            said = f"a difference of {shown(*numbers, sign=True)} points" if few else difference(*numbers)
            parts.append(f"in *{row['metric']}* {said}{_share(rows, row)}")
        start = f"The adapter {training} shows on {test}{_few(found['groups'])}, against the frozen model, "
        text.append(f"{start}{'; '.join(parts)}.")
    if any("% of what training" in said for said in text):
        text.append(
            "A share is given only where both gains are beyond doubt: the ratio of two uncertain numbers is none."
        )
    firm = foreign[foreign["groups"] >= FEW]
    start = f"Of these {len(foreign)} differences on a foreign material"
    if firm.empty:
        return " ".join([*text, f"{start} all rest on too few groups to count as gains or losses."])
    few = len(foreign) - len(firm)
    start += f" {few} rest on too few groups to count; of the other {len(firm)}," if few else ""
    gained, lost = int((firm["gain_low"] > 0).sum()), int((firm["gain_high"] < 0).sum())
    text.append(f"{start} {gained} are gains beyond their interval and {lost} losses.")
    return " ".join(text)


def _few(groups: pd.Series) -> str:
    count = int(groups.min())
    return f" ({count} groups: too few for these intervals to be trusted)" if 1 < count < FEW else ""


def _share(rows: pd.DataFrame, row: pd.Series) -> str:
    """How much of the gain of the adapter that was trained on this material, where both are gains beyond doubt: their
    intervals exclude zero and come from enough groups.
    """
    home = rows[(rows["test"] == row["test"]) & (rows["metric"] == row["metric"]) & rows["own"].astype(bool)]
    if home.empty or row["groups"] < FEW or not (row["gain_low"] > 0 and home["gain_low"].iloc[0] > 0):
        return ""
    return f" ({row['gain'] / home['gain'].iloc[0]:.0%} of what training on that material itself gains)"


def steps_sentence(edition: Edition) -> str:
    """How long each adapter was trained, from how many seeds, and how many of these were tested on other material."""
    parts = []
    for name, records in trainings(edition).items():
        if name != NOTHING and records:
            steps = listed(dict.fromkeys(f"{r.metrics.get('steps') or 0:,}" for r in records))
            judged = sum(any(isinstance(v, dict) for v in r.metrics.get("transfer", {}).values()) for r in records)
            seeds = f"{len(records)} seed{'s' if len(records) > 1 else ''}"
            seeds += f", {judged} of them tested on other material" if 0 < judged < len(records) else ""
            parts.append(f"The adapter {name} took {steps} steps ({seeds}).")
    return " ".join(parts)


def left_out_materials(edition: Edition) -> str:
    """Which data sets a model should have been tested on and was not, and why, without naming a place on a machine."""
    reasons: dict[str, str] = {}
    for records in trainings(edition).values():
        for record in records:
            for data, found in record.metrics.get("transfer", {}).items():
                if isinstance(found, str):
                    there = "is no data set" in found
                    why = "it was not on the machine that made the run" if there else "its files could not be used"
                    reasons.setdefault(data, why)
    return " ".join(f"The {material(data)} was left out: {why}." for data, why in reasons.items())
