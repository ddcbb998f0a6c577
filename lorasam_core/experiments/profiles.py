"""Profiles: tables of experiments, each with its runs, the notebook that shows it and the page it becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorasam_core.config import RunConfig
from lorasam_core.errors import brief
from lorasam_core.experiments.records import root

MOST_VALUES = 100_000  # of a profile, aliases written out
PROFILE_KEYS = ("description", "data", "defaults", "experiments")
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
EXPERIMENT_KEYS = ("name", "notebook", "page", "settings", "runs", "parameters")


@dataclass(frozen=True)
class Profile:
    """A table of experiments.

    defaults: settings (fields of RunConfig) of every run. experiments: dictionaries with the keys name, notebook (of a
    file below notebooks/, such as results/rank, or ""), page (stem of the executed page), runs (each the full settings
    of one RunConfig) and parameters (what the notebook gets beside profile, edition, data and workers).
    """

    name: str
    data: str
    defaults: dict[str, Any]
    experiments: list[dict[str, Any]]
    path: Path = field(repr=False, compare=False, default=Path())

    @property
    def label(self) -> str:
        """What `load_profile` takes to find it again: its name, or its path where it lies elsewhere."""
        return self.name if self.path.parent == profile_folder() else str(self.path)

    def experiment(self, name: str) -> dict[str, Any]:
        """One experiment by name; raises ValueError that lists those there are."""
        for experiment in self.experiments:
            if experiment["name"] == name:
                return experiment
        known = ", ".join(e["name"] for e in self.experiments)
        raise ValueError(f"the profile {self.name} has no experiment {name!r}; it has {known}.")


def profile_folder() -> Path:
    return root() / "notebooks" / "profiles"


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a profile by name or file; raises ValueError naming what is unknown, missing or out of range."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = profile_folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in profile_folder().glob("*.yaml"))) or "none"
        raise ValueError(f"there is no profile {str(name_or_path)!r}; there are {known}.")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        _require_small(table)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError(f"{path} is not valid YAML: {brief(error)}; correct it.") from error
    _check_keys(path, "the profile", table, PROFILE_KEYS, needed=("experiments",))
    defaults = table.get("defaults") or {}
    _check_keys(path, "defaults", defaults, None)
    data = table.get("data", "synthetic")
    if not isinstance(data, str):
        raise ValueError(f"{path}: data must be a name or a folder, and is {brief(repr(data))}; correct it.")
    experiments = [_experiment(path, e, defaults, data) for e in _list(path, "experiments", table["experiments"])]
    names = [e["name"] for e in experiments]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path} must list at least one experiment, each under its own name.")
    return Profile(name=path.stem, data=data, defaults=defaults, experiments=experiments, path=path)


def _require_small(table: Any) -> None:
    """Raise ValueError for what a few lines of YAML can hold and no profile does: aliases of aliases, huge numbers."""
    left, values = MOST_VALUES, [table]
    while values:
        value, left = values.pop(), left - 1
        values += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        if left < 0 or (isinstance(value, int) and abs(value) >= 2**63):
            raise ValueError("it holds more than a profile can")


def _experiment(path: Path, table: Any, defaults: dict[str, Any], data: str) -> dict[str, Any]:
    """One experiment with every run's settings written out and checked."""
    _check_keys(path, "an experiment", table, EXPERIMENT_KEYS, needed=("name",))
    settings, parameters = table.get("settings") or {}, table.get("parameters") or {}
    _check_keys(path, f"the settings of {table['name']}", settings, None)
    _check_keys(path, f"the parameters of {table['name']}", parameters, None)
    runs = []
    for run in _list(path, f"the runs of {table['name']}", table.get("runs")):
        where = f"a run of {table['name']}"
        _check_keys(path, where, run, None, needed=("name",))
        if "data" in run or "data" in settings:
            raise ValueError(f"{path}: {where} sets data; set it once, at the top of the profile or by --data.")
        values = {key: _number(value) for key, value in {**defaults, **settings, **run}.items()}
        try:
            runs.append(RunConfig.from_dict({**values, "name": str(run["name"]), "data": data}).to_dict())
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: run {brief(repr(run['name']))} of {brief(table['name'])}: {error}") from error
    names = [run["name"] for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two runs of {table['name']} have one name; give each its own.")
    notebook = str(table.get("notebook") or "")
    return {
        "name": str(table["name"]),
        "notebook": notebook,
        "page": str(table.get("page") or Path(notebook).name),
        "runs": runs,
        "parameters": parameters,
    }


def _number(value: Any) -> Any:
    """1e-4, which YAML 1.1 takes for text, as the number that was meant."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def _list(path: Path, what: str, value: Any) -> list[Any]:
    """The value, empty for none; raises ValueError unless it is a list."""
    if not isinstance(value, list | None):
        raise ValueError(f"{path}: {what} must be a list, and is {brief(repr(value))}; begin each entry with a dash.")
    return value or []


def _check_keys(path: Path, what: str, table: Any, known: tuple[str, ...] | None, needed: tuple[str, ...] = ()) -> None:
    """Raise ValueError unless `table` is a dictionary with only `known` keys (None: any) and all `needed` ones."""
    if not isinstance(table, dict):
        raise ValueError(f"{path}: {what} must be a table of keys and values, and is {brief(repr(table))}; correct it.")
    for key in table:
        if known is not None and key not in known:
            raise ValueError(f"{path}: {brief(repr(key))} is not a key of {what}; the keys are {', '.join(known)}.")
    for key in needed:
        if key not in table:
            raise ValueError(f"{path}: {what} has no {key!r}; add it.")


def configs(profile: Profile, only: str | None = None, data: str = "") -> dict[str, list[RunConfig]]:
    """Experiment -> its runs, of all experiments or of `only` one; `data` overrides the profile's own."""
    experiments = [profile.experiment(only)] if only else profile.experiments
    return {
        e["name"]: [RunConfig.from_dict({**run, "data": data or profile.data}) for run in e["runs"]]
        for e in experiments
    }


def edition_name(profile: Profile, data: str = "") -> str:
    """Name of the folder of runs: the profile's, and the data's where it is not the profile's own."""
    if data in ("", profile.data):
        return profile.name
    return f"{profile.name}-{Path(data).name.replace('.', '-') or 'data'}"
