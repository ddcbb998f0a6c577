"""Finished runs and editions, read from their folders; imports no torch, so that pages and reports start fast.

A local edition is a folder of runs, each a folder of files; a published one is packed: records.json.xz, and one table
of every kind for all runs. Both are read alike, run by run or as tidy tables:

    edition = load("emps")
    runs, scores = edition.runs, edition.scores
    dice = scores[scores.measure == "predictor dice"].merge(runs[runs.experiment == "rank"], on="run")
    stats.mean_interval(dice, "rank")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.config import RunConfig
from lorasam_core.errors import brief
from lorasam_core.experiments.files import AGAIN, read_json, read_table

METRICS = "metrics.json"  # written last: a run folder that holds it is finished
EDITION = "edition.json"
PACKED = "records.json.xz"  # of a published edition: run id -> PARTS
PARTS = ("config", "metrics", "environment")
COSTS = (
    "seconds", "processor_seconds", "steps", "images_seen", "trainable_parameters", "training_memory_mb",
    "peak_memory_mb",
)  # fmt: skip


def root() -> Path:
    """The folder with book/ and notebooks/: the current folder if it has notebooks/profiles, else the package's."""
    here = Path.cwd()
    return here if (here / "notebooks" / "profiles").is_dir() else Path(__file__).resolve().parents[2]


@lru_cache(maxsize=32)
def _packed_table(folder: Path, name: str, changed: float) -> dict[str, pd.DataFrame]:
    """A table of a packed edition by run; `changed`: the edition's time of writing."""
    whole = read_table(folder, name)
    if whole.empty:
        return {}
    parts = whole.groupby("run", sort=False)
    return {str(run): part.drop(columns="run").dropna(axis=1, how="all").reset_index(drop=True) for run, part in parts}


@dataclass(frozen=True)
class Record:
    """One finished run. path: its folder; of a published run, which has none of its own, the edition's."""

    path: Path
    run_id: str
    config: RunConfig
    metrics: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    packed: bool = False

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row a log step; empty for a frozen model. Published runs but the main ones keep validations alone."""
        return self.table("history")

    @cached_property
    def per_image(self) -> pd.DataFrame:
        """One row an evaluator and test image; the column `evaluator` comes first."""
        return self.table("per_image")

    def table(self, name: str) -> pd.DataFrame:
        """The table <name> of the run; empty where there is none."""
        if not self.packed:
            return read_table(self.path, name)
        changed = (self.path / PACKED).stat().st_mtime
        return _packed_table(self.path, name, changed).get(self.run_id, pd.DataFrame()).copy()

    @property
    def adapter(self) -> Path | None:
        """The adapter's file, or None where there is none: a frozen model, or a published record without weights."""
        path = self.path / (f"{self.run_id}.safetensors" if self.packed else "adapter.safetensors")
        return path if path.is_file() else None

    def named(self, name: str) -> Record:
        """The same run under another name: one run can stand in several tables."""
        return replace(self, config=self.config.replace(name=name))


def is_finished(path: Path) -> bool:
    """Whether a folder is a finished run (and not one that is being written, failed or was moved aside)."""
    return "." not in path.name and (path / METRICS).is_file()


def read_record(path: str | Path) -> Record:
    """Read a run's folder; raises ValueError when it is not a finished run or a file in it is damaged."""
    path = Path(path)
    if not is_finished(path):
        raise ValueError(f"{path} is not a finished run (it has no {METRICS}); run the experiments to make it.")
    environment = path / "environment.json"
    found = read_json(environment) if environment.is_file() else {}
    return _record(path, path.name, read_json(path / "config.json"), read_json(path / METRICS), found)


def _record(
    path: Path, run_id: str, config: dict[str, Any], metrics: dict[str, Any], environment: dict[str, Any],
    packed: bool = False,
) -> Record:  # fmt: skip
    file = path / (PACKED if packed else "config.json")
    if not isinstance(metrics.get("test", {}), dict):
        raise ValueError(f"{file if packed else path / METRICS} holds no measures of {run_id}; {AGAIN}.")
    if config.get("filters") is False:  # a switch in the first records, all of which have it off
        config["filters"] = 0
    try:
        return Record(path, run_id, RunConfig.from_dict(config), metrics, environment, packed)
    except ValueError as error:
        raise ValueError(f"{file} holds settings that cannot be ({brief(error)}); {AGAIN}.") from error


@dataclass(frozen=True)
class Edition:
    """A set of runs rendered as the book: its records and its edition.json (`info`)."""

    name: str
    path: Path
    records: tuple[Record, ...]
    info: dict[str, Any] = field(repr=False)

    @property
    def published(self) -> bool:
        """Whether it is one of the committed ones."""
        return is_published(self.path)

    @property
    def experiments(self) -> dict[str, list[dict[str, str]]]:
        """Experiment -> its runs in the profile's order, each {"name", "run_id"}."""
        return self.info.get("experiments", {})

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row an experiment and run in it: run (its id), experiment, name, every setting (fields of RunConfig),
        factor (what B A is multiplied by), COSTS and device.
        """
        by_id, rows = {r.run_id: r for r in self.records}, []
        for experiment, listed in self.experiments.items():
            for row in listed:
                if (record := by_id.get(row["run_id"])) is None:
                    continue
                settings = record.config.to_dict() | {"name": row["name"], "factor": record.config.factor}
                costs = {cost: record.metrics.get(cost) for cost in COSTS}
                device = record.environment.get("device_name")
                rows.append({"run": record.run_id, "experiment": experiment} | settings | costs | {"device": device})
        return pd.DataFrame(rows)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row a run, test image and measure: run, id, group, measure, value. A measure is named by what was asked and
        what was measured: "predictor dice", "point iou_rated", "generator f1", "generator_tuned f1".
        """
        names, table = ["run", "evaluator", "id", "group"], self.table("per_image")
        tall = table.reindex(columns=[*names, *table.columns.drop(names, errors="ignore")])
        tall = tall.melt(names, var_name="measure").dropna()
        tall["measure"] = tall["evaluator"] + " " + tall["measure"]
        return tall.drop(columns="evaluator").reset_index(drop=True)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row a run and log step: run, and the columns of the runs' histories."""
        return self.table("history")

    def table(self, name: str) -> pd.DataFrame:
        """The table <name> (calibration, particles, thresholds, transfer ...) of all runs that have it, with the run's
        id in the column run.
        """
        tables = {record.run_id: record.table(name) for record in self.records}
        parts = [table.assign(run=run) for run, table in tables.items() if len(table)]
        if not parts:
            return pd.DataFrame({"run": []})
        whole = pd.concat(parts, ignore_index=True)
        return whole[["run", *(column for column in whole if column != "run")]]

    def experiment(self, name: str) -> list[Record]:
        """The finished runs of one experiment in the profile's order, under the names they have there."""
        if name not in self.experiments:
            known = ", ".join(self.experiments) or "none"
            raise ValueError(f"the edition {self.name} has no experiment {name!r}; it has {known}.")
        by_id = {r.run_id: r for r in self.records}
        rows = self.experiments[name]
        return [by_id[row["run_id"]].named(row["name"]) for row in rows if row["run_id"] in by_id]

    def with_run(self, record: Record, experiment: str) -> Edition:
        """The edition and one more run, which is an experiment of its own."""
        rows = {**self.experiments, experiment: [{"name": record.config.name, "run_id": record.run_id}]}
        return replace(self, records=(*self.records, record), info={**self.info, "experiments": rows})

    def environments(self, key: str) -> dict[str, int]:
        """What the runs state about their environment's `key` (device_name, commit), each with the number of runs, most
        first. An edition grows run by run, on whatever machine there is; edition.json knows the last one alone.
        """
        stated = Counter(str(r.environment[key]) for r in self.records if r.environment.get(key))
        return dict(stated.most_common())

    def devices(self, counted: bool = False) -> str:
        """The names of the devices that made the runs, most runs first; counted: each with its number of runs."""
        names = self.environments("device_name")
        if len(names) > 1 and counted:
            return "; ".join(f"{name} ({runs} {'runs' if runs > 1 else 'run'})" for name, runs in names.items())
        return "; ".join(names) or str(self.info.get("device_name", self.info.get("device", "–")))

    def missing(self, name: str | None = None) -> list[str]:
        """Names of the runs that are listed and not finished, of one experiment or of all."""
        done = {r.run_id for r in self.records}
        lists = [self.experiments.get(name, [])] if name else list(self.experiments.values())
        return list(dict.fromkeys(row["name"] for rows in lists for row in rows if row["run_id"] not in done))


def is_published(path: str | Path) -> bool:
    """Whether an edition's folder is one of the committed ones under book/results."""
    return Path(path).resolve().parent.parts[-2:] == ("book", "results")


def read_edition(path: str | Path) -> Edition:
    """Read an edition: the runs that its edition.json lists, in that order; without one, every finished run."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder of runs; run the experiments to make one: lorasam experiments.")
    info = read_json(path / EDITION) if (path / EDITION).is_file() else {}
    if not _is_listing(info.get("experiments", {})) or not isinstance(info.get("name", ""), str):
        raise ValueError(f"{path / EDITION} does not list the runs of each experiment; {AGAIN}.")
    if (path / PACKED).is_file():
        packed = read_json(path / PACKED)
        if not all(isinstance(v, dict) and all(isinstance(v.get(key), dict) for key in PARTS) for v in packed.values()):
            raise ValueError(f"{path / PACKED} lacks the {', '.join(PARTS)} of a run; {AGAIN}.")
        known = {run_id: {key: values[key] for key in PARTS} for run_id, values in packed.items()}
        records = tuple(_record(path, run_id, **values, packed=True) for run_id, values in known.items())
    else:
        listed = [row["run_id"] for rows in info.get("experiments", {}).values() for row in rows]
        ids = list(dict.fromkeys(listed)) if "experiments" in info else sorted(p.name for p in path.iterdir())
        records = tuple(read_record(path / i) for i in ids if is_finished(path / i))
    return Edition(name=info.get("name", path.name), path=path, records=records, info=info)


def _is_listing(experiments: Any) -> bool:
    """Whether it is a dictionary of lists of {"name": text, "run_id": text}."""
    if not isinstance(experiments, dict) or not all(isinstance(rows, list) for rows in experiments.values()):
        return False
    rows = [row for rows in experiments.values() for row in rows]
    return all(isinstance(r, dict) and all(isinstance(r.get(k), str) for k in ("name", "run_id")) for r in rows)


def local_editions(runs: str | Path = "runs") -> list[Edition]:
    """Finished editions in a folder of runs, the newest first."""
    folders = [p.parent for p in Path(runs).glob(f"*/{EDITION}") if "." not in p.parent.name]
    editions = [read_edition(p) for p in folders]
    editions = [e for e in editions if e.records and not e.missing()]
    return sorted(editions, key=lambda e: str(e.info.get("updated", "")), reverse=True)


def published_editions() -> list[Edition]:
    """Committed editions under book/results, the newest first."""
    folders = [p.parent for p in (root() / "book" / "results").glob(f"*/{EDITION}") if "." not in p.parent.name]
    editions = [read_edition(p) for p in folders]
    return sorted(editions, key=lambda e: str(e.info.get("created", "")), reverse=True)


def published_edition(name: str) -> Edition:
    """The committed edition of this name; raises ValueError that names those there are."""
    return _named(published_editions(), name, "published")


def _named(editions: Sequence[Edition], name: str, kind: str) -> Edition:
    """The first edition of this name or folder, "" for any; raises ValueError that names those there are."""
    for edition in editions:
        if name in ("", edition.name, edition.path.name):
            return edition
    known = ", ".join(dict.fromkeys(e.name for e in editions)) or "none"
    raise ValueError(f"there is no {kind} edition {name!r}; there are {known}.")


def load(name: str = "", runs: str | Path = "runs", unfinished: bool = False) -> Edition:
    """An edition by folder or name; "" is the newest finished local one, else the newest published one.

    unfinished: a local edition of this name that lacks runs will do as well. Raises ValueError where there is none.
    """
    if name and (Path(name) / EDITION).is_file():
        return read_edition(name)
    if name and unfinished and (Path(runs) / name / EDITION).is_file():
        return read_edition(Path(runs) / name)
    editions = [*local_editions(runs), *published_editions()]
    if not editions:
        raise ValueError(f"{runs} holds no finished edition; run the experiments first: lorasam experiments.")
    return _named(editions, name, "finished")
