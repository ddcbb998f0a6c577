"""Notebooks to executed pages through papermill, each once for its sources and records; `build` makes the book."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from lorasam_core.experiments.executor import environment, execute
from lorasam_core.experiments.profiles import Profile, load_profile
from lorasam_core.experiments.records import Edition, load, published_editions, root
from lorasam_core.report.numbers import fill

KEY = "lorasam_key"  # in an executed notebook's metadata: what it was made from
PROJECT = ("lorasam_core", "pretrain", "bench")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}


@dataclass(frozen=True)
class Page:
    """A notebook to be executed with parameters: the page `name` of an experiment."""

    experiment: str
    notebook: Path
    name: str
    parameters: dict[str, Any]


def read_notebook(path: Path) -> Any:
    """A py:percent file as a notebook of the kernel python3."""
    import jupytext

    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata["kernelspec"] = KERNEL
    return notebook


def filled(notebook: Any) -> Any:
    """A notebook whose text has its numbers: those of the published edition, of which a person wrote the sentences."""
    published = published_editions()
    for cell in notebook.cells if published else ():
        if cell.cell_type == "markdown":
            cell.source = fill(cell.source, published[0])
    return notebook


def notebook_name(path: Path) -> str:
    """The name of a notebook: its path below notebooks/ without the suffix, such as results/rank."""
    return path.relative_to(root() / "notebooks").with_suffix("").as_posix()


def declared(notebook: Path) -> dict[str, dict[str, Any]]:
    """Parameters that a notebook's own `parameters` cell declares: {name: {inferred_type_name, default, help}}."""
    import papermill

    return papermill.inspect_notebook(read_notebook(notebook))


def page_list(profile: Profile, folder: str | Path, data: str = "", only: str | None = None) -> list[Page]:
    """The pages of a profile, or of one experiment, for the edition in `folder`.

    Raises ValueError, before anything is executed, for a notebook that does not exist, a parameter that it does not
    declare or that is of another type, and two pages of one name.
    """
    pages: list[Page] = []
    place = Path(folder).resolve()
    if place.is_relative_to(root()):  # kernels start there
        place = place.relative_to(root())
    common = {"profile": profile.label, "edition": place.as_posix(), "data": data}
    for experiment in [profile.experiment(only)] if only else profile.experiments:
        if not experiment["notebook"]:
            continue
        notebook = root() / "notebooks" / f"{experiment['notebook']}.py"
        if not notebook.is_file():
            known = ", ".join(sorted(map(notebook_name, (root() / "notebooks").rglob("*.py"))))
            raise ValueError(f"{experiment['name']} names the notebook {experiment['notebook']!r}; there are {known}.")
        known_parameters = declared(notebook)
        for key, value in experiment["parameters"].items():
            _check_parameter(notebook, known_parameters, key, value)
        given = {key: value for key, value in common.items() if key in known_parameters}
        pages.append(Page(experiment["name"], notebook, experiment["page"], {**given, **experiment["parameters"]}))
    names = [page.name for page in pages]
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two experiments of {profile.name} make the page {double[0]!r}; give each its own.")
    return pages


def _check_parameter(notebook: Path, known: dict[str, dict[str, Any]], key: str, value: Any) -> None:
    if key not in known:
        names = ", ".join(known) or "none: it has no cell tagged parameters"
        raise ValueError(f"{notebook.name} has no parameter {key!r}; it has {names}.")
    kind = known[key]["inferred_type_name"]
    if kind in TYPES and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool")):
        raise ValueError(f"{notebook.name} declares {key} as {kind}, and is given {value!r}.")


def page_key(page: Page, edition: Edition) -> str:
    """SHA-256 of all that a page depends on: notebook, what it imports of this project (its code, not its comments and
    docstrings), parameters, bench, runs and their metrics.
    """
    digest, found = hashlib.sha256(page.notebook.read_bytes()), dict[Path, str]()
    wanted = {page.notebook}
    while wanted:
        path = wanted.pop()
        found[path], imported = _code(path, path.read_text(encoding="utf-8"))
        wanted |= imported - found.keys()
    for path in sorted(found.keys() - {page.notebook}):
        digest.update(found[path].encode())
    for adapter in sorted((Path(__file__).parents[1] / "weights" / "adapters").glob("*.safetensors")):
        digest.update(adapter.read_bytes())
    for published in published_editions()[:1]:  # whose numbers stand in the text
        digest.update(json.dumps(published.info, sort_keys=True).encode())
    for record in bench_records():
        digest.update(record.read_bytes())
    runs = {record.run_id: record.metrics for record in edition.records}
    digest.update(json.dumps([page.parameters, edition.experiments, runs], sort_keys=True, default=str).encode())
    return digest.hexdigest()


@cache
def _code(path: Path, source: str) -> tuple[str, frozenset[Path]]:
    """A module's code without comments and docstrings, and this project's modules that it imports."""
    tree, names, here = ast.parse(source), set[str](), Path(__file__).parents[2]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(here).parts[: -node.level] if node.level else ()
            place = ".".join([*above, *filter(None, [node.module])])
            names |= {place} | {f"{place}.{name.name}" for name in node.names}
        elif (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    names |= {name.rsplit(".", number)[0] for name in names for number in range(1, name.count(".") + 1)}  # packages run
    paths = [here.joinpath(*name.split(".")) for name in names if name.split(".")[0] in PROJECT]
    files = {path.with_suffix(".py") for path in paths} | {path / "__init__.py" for path in paths}
    return ast.unparse(tree), frozenset(file for file in files if file.is_file())


def bench_records() -> list[Path]:
    """The files of `nox -s bench`, one a kind of device (cpu, cuda): the local one, else the published one."""
    places = (root() / "runs" / "bench", root() / "book" / "bench")
    found = {path.name: path for place in reversed(places) for path in sorted(place.glob("*.json"))}
    return [found[name] for name in sorted(found)]


def pages_folder(edition: Edition, runs: str | Path = "runs") -> Path:
    """Where the executed pages of an edition lie: those of a published one beside local runs, not in its records."""
    return Path(runs) / f"published-{edition.name}" / "pages" if edition.published else edition.path / "pages"


def _is_current(path: Path, key: str) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["metadata"].get(KEY) == key)
    except (OSError, ValueError, KeyError):
        return False


def execute_pages(
    pages: Sequence[Page], edition: Edition, workers: int = 1, runs: str | Path = "runs", scheduler: str = ""
) -> tuple[list[Path], list[str]]:
    """Execute the pages that are not current; returns the files of those that are now, and a sentence a failed page.

    A page whose runs are not all finished is not executed: no page does one of an edition. The
    notebook of a failed page stays as <name>.failed.ipynb; the others go on.
    """
    folder = pages_folder(edition, runs)
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob("*.part-*.ipynb"):  # of processes that are gone
        if not psutil.pid_exists(int(part.stem.rsplit("-", 1)[1])):
            part.unlink()
    failures, jobs, current = [], [], []
    for page in pages:
        target, key = folder / f"{page.name}.ipynb", page_key(page, edition)
        if missing := edition.missing(page.experiment):
            failures.append(f"the page {page.name} is not made: its run {missing[0]!r} is missing.")
        elif _is_current(target, key):
            current.append(target)
        else:
            jobs.append((page.name, (page, target, key)))
    done, errors = execute(execute_page, jobs, workers, scheduler, unit="page")
    for name, error in errors.items():
        failed = folder / f"{name}.failed.ipynb"
        reason = " ".join(f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}".split())
        failures.append(f"the page {name} failed ({reason[:300]}); see {failed}.")
    return sorted([*current, *done.values()]), failures


def execute_page(page: Page, target: Path, key: str) -> Path:
    """Execute one notebook in a kernel of this Python, from the repository's root, and write it to `target` at once.

    Its runs are read, never done (`LORASAM_RECORDS_ONLY`); what it shows beside them it may compute, as the
    lesson on training and `adapt` train a few steps. Raises what the kernel raised, as papermill wraps it.
    """
    import nbformat
    import papermill

    part = target.with_name(f"{target.stem}.part-{os.getpid()}.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    for old in (target, failed, *_outputs(target.parent.parent, notebook_name(page.notebook))):
        old.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]))
    settings = {
        "PYTHONPATH": path, "JUPYTER_PREFER_ENV_PATH": "1", "TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "LORASAM_RECORDS_ONLY": "1", "PYTHONWARNINGS": "ignore:IProgress not found",
    }  # fmt: skip
    try:
        with environment(**settings):
            notebook = papermill.execute_notebook(
                filled(read_notebook(page.notebook)), part, page.parameters, kernel_name="python3", cwd=root(),
                progress_bar=False, extra_arguments=["--log-level=ERROR"],
            )  # fmt: skip
    except BaseException:
        if part.is_file():
            part.replace(failed)
        raise
    notebook.metadata.pop("papermill", None)  # paths of this machine
    notebook.metadata[KEY] = key
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")
    nbformat.write(notebook, part)
    part.replace(target)
    return target


def _outputs(folder: Path, notebook: str) -> list[Path]:
    """Figures and tables that a notebook has saved in an edition's folder, each with its provenance."""
    found = []
    for record in [*folder.glob("figures/*.json"), *folder.glob("tables/*.json")]:
        values = json.loads(record.read_text(encoding="utf-8"))
        if values.get("notebook") == notebook:
            found += [record, *(record.parent / name for name in values.get("files", []))]
    return found


def edition_pages(edition: Edition) -> list[Page]:
    """All pages of an edition, by the profile that it names."""
    info = edition.info
    if "profile" not in info:
        raise ValueError(f"{edition.path} has no edition.json that names its profile; run the experiments again.")
    profile = load_profile(info["profile"])
    return page_list(profile, edition.path, "" if info.get("data") == profile.data else info.get("data", ""))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `lorasam book`."""
    from lorasam_core.report import book

    command = argparse.ArgumentParser(prog="lorasam book", description=__doc__)
    command.add_argument("--edition", default="", help="name or folder; default: newest local one, else published")
    command.add_argument("--workers", type=int, default=1, help="pages executed at once")
    command.add_argument("--runs", default="runs", help="folder of all editions")
    command.add_argument("--book", default="", help="folder of the book's sources")
    args = command.parse_args(arguments)
    try:
        book.build(load(args.edition, args.runs), args.book, args.workers, args.runs)
    except (ValueError, book.BookError) as error:
        sys.exit(f"error: {error}")
