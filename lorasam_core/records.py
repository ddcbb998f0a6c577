"""Finished runs and editions, read from their folders; imports no torch, so that pages and reports start fast."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.config import RunConfig

METRICS = "metrics.json"  # written last: a run folder that holds it is finished
EDITION = "edition.json"
NAMES = ("id", "group", "data", "source")  # columns of a run's tables; a source that is all "true" is no bool


def root() -> Path:
    """The folder with book/ and notebooks/: the current folder if it has notebooks/profiles, else the package's."""
    here = Path.cwd()
    return here if (here / "notebooks" / "profiles").is_dir() else Path(__file__).resolve().parents[1]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises ValueError that names the file and the remedy."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); run the experiments again.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON; delete its folder and run the experiments again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not hold a JSON object; delete its folder and run the experiments again.")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write through a neighbouring file and rename, so that no reader sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")
    part.replace(path)


@dataclass(frozen=True)
class Record:
    """One finished run: its folder, and what is in it. The tables are read when they are first asked for."""

    path: Path
    run_id: str
    config: RunConfig
    metrics: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row a log step (history.csv); empty for a frozen model. Published runs that are not main ones keep the
        rows of validations alone.
        """
        return self.table("history")

    @cached_property
    def per_image(self) -> pd.DataFrame:
        """One row an evaluator and test image (per_image.csv); the column `evaluator` comes first."""
        return self.table("per_image")

    def table_file(self, name: str) -> Path | None:
        """The file of the table <name>, .csv or packed as .csv.xz; None where there is none."""
        files = (self.path / f"{name}.csv", self.path / f"{name}.csv.xz")
        return next((path for path in files if path.is_file()), None)

    def table(self, name: str) -> pd.DataFrame:
        """The table <name> of the run, ids, groups and names of data sets as text, whatever they spell (NA, None);
        empty where there is none.
        """
        path = self.table_file(name)
        if path is None:
            return pd.DataFrame()
        # only an empty cell is a missing value; by default a group called NA would be one, even as text
        return pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])

    @property
    def adapter(self) -> Path | None:
        """The adapter's file, or None where there is none: a frozen model, or a published record without weights."""
        path = self.path / "adapter.safetensors"
        return path if path.is_file() else None

    def named(self, name: str) -> Record:
        """The same run under another name: one run can stand in several tables."""
        return Record(self.path, self.run_id, self.config.replace(name=name), self.metrics, self.environment)


def is_finished(path: Path) -> bool:
    """Whether a folder is a finished run (and not one that is being written, failed or was moved aside)."""
    return "." not in path.name and (path / METRICS).is_file()


def read_record(path: str | Path) -> Record:
    """Read a run's folder; raises ValueError when it is not a finished run or a file in it is damaged."""
    path = Path(path)
    if not is_finished(path):
        raise ValueError(f"{path} is not a finished run (it has no {METRICS}); run the experiments to make it.")
    environment, config = path / "environment.json", read_json(path / "config.json")
    config["filters"] = int(config.get("filters", 0))  # a switch in the first records, all of which have it off
    return Record(
        path=path,
        run_id=path.name,
        config=RunConfig.from_dict(config),
        metrics=read_json(path / METRICS),
        environment=read_json(environment) if environment.is_file() else {},
    )


@dataclass(frozen=True)
class Edition:
    """A set of runs rendered as the book: a folder of records and its edition.json (`info`)."""

    name: str
    path: Path
    records: tuple[Record, ...]
    info: dict[str, Any] = field(repr=False)

    @property
    def published(self) -> bool:
        return is_published(self.path)

    @property
    def experiments(self) -> dict[str, list[dict[str, str]]]:
        """Experiment -> its runs in the profile's order, each {"name", "run_id"}."""
        return self.info.get("experiments", {})

    def experiment(self, name: str) -> list[Record]:
        """The finished runs of one experiment in the profile's order, under the names they have there."""
        if name not in self.experiments:
            known = ", ".join(self.experiments) or "none"
            raise ValueError(f"the edition {self.name} has no experiment {name!r}; it has {known}.")
        by_id = {r.run_id: r for r in self.records}
        rows = self.experiments[name]
        return [by_id[row["run_id"]].named(row["name"]) for row in rows if row["run_id"] in by_id]

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

    def left_out(self, name: str) -> list[str]:
        """Names of the runs that the profile lists for an experiment and that this edition was published without."""
        return list(self.info.get("left_out", {}).get(name, []))

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
        raise ValueError(f"{path} is not a folder of runs; run `python -m lorasam_core.experiments run` to make one.")
    info = read_json(path / EDITION) if (path / EDITION).is_file() else {}
    if "experiments" in info:
        ids = list(dict.fromkeys(row["run_id"] for rows in info["experiments"].values() for row in rows))
    else:
        ids = sorted(p.name for p in path.iterdir())
    records = tuple(read_record(path / i) for i in ids if is_finished(path / i))
    return Edition(name=info.get("name", path.name), path=path, records=records, info=info)


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


def find_edition(name: str = "", runs: str | Path = "runs", unfinished: bool = False) -> Edition:
    """An edition by folder or name; "" is the newest finished local one, else the newest published one.

    unfinished: a local edition of this name that lacks runs will do as well.
    """
    if name and (Path(name) / EDITION).is_file():
        return read_edition(name)
    if name and unfinished and (Path(runs) / name / EDITION).is_file():
        return read_edition(Path(runs) / name)
    editions = [*local_editions(runs), *published_editions()]
    if not editions:
        raise ValueError(f"{runs} holds no finished edition; run `python -m lorasam_core.experiments run` first.")
    return _named(editions, name, "finished")


def bench_records() -> list[Path]:
    """The files of `nox -s bench`, one a kind of device (cpu, cuda): the local one, else the published one."""
    places = (root() / "runs" / "bench", root() / "book" / "bench")
    found = {path.name: path for place in reversed(places) for path in sorted(place.glob("*.json"))}
    return [found[name] for name in sorted(found)]
