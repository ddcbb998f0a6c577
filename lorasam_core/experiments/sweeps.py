"""Profiles to finished runs, pages and book: `lorasam experiments`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lorasam_core.config import RESULT_VERSION, RunConfig
from lorasam_core.experiments.executor import RunError, check, execute
from lorasam_core.experiments.files import read_json, write_json
from lorasam_core.experiments.profiles import Profile, configs, edition_name, load_profile
from lorasam_core.experiments.records import (
    EDITION,
    Edition,
    Record,
    is_finished,
    is_published,
    published_edition,
    read_edition,
    read_record,
    root,
)
from lorasam_core.experiments.tracking import MODES

if TYPE_CHECKING:  # imports torch: only where something is run
    from lorasam_core.experiments.runs import Prepared

__all__ = [
    "Edition", "Profile", "Record", "RunConfig", "RunError", "configs", "edition_name", "load_profile", "main", "plan",
    "read_edition", "read_record", "run_one", "sweep",
]  # fmt: skip

Plan = dict[str, list["Prepared"]]


def run_one(config: RunConfig, edition_dir: str | Path, wandb: str = "disabled") -> Record:
    """`lorasam_core.experiments.runs.run_one`: one run, skipped when it is finished."""
    from lorasam_core.experiments import runs

    return runs.run_one(config, edition_dir, wandb)


def plan(profile: Profile, data: str = "", only: str | None = None) -> Plan:
    """Experiment -> its runs, each with its id; raises ValueError when data, checkpoint or device do not do."""
    from lorasam_core.experiments.runs import prepare

    return {name: [prepare(c) for c in runs] for name, runs in configs(profile, only, data).items()}


def _unique(planned: Plan) -> dict[str, Prepared]:
    """Run id -> run: one that stands in several experiments is one run, under its first name."""
    unique: dict[str, Prepared] = {}
    for runs in planned.values():
        for run in runs:
            unique.setdefault(run.run_id, run)
    return unique


def sweep(
    profile: str | Path | Profile, experiment: str, edition: str | Path = "", data: str = "", workers: int = 1,
    wandb: str = "disabled", scheduler: str = "",
) -> list[Record]:  # fmt: skip
    """The runs of one experiment in the profile's order: finished ones are read, missing ones are done first.

    edition: the folder of runs; "" is runs/<edition>. data: overrides the profile's own. workers, scheduler: as
    `executor.execute` takes them. In a published edition, and with LORASAM_RECORDS_ONLY set, nothing is run: a missing
    run raises ValueError. Raises RunError naming every run that failed, after the others have finished.
    """
    if edition and (is_published(edition) or os.environ.get("LORASAM_RECORDS_ONLY")):
        kept = read_edition(edition)
        table = profile if isinstance(profile, Profile) else load_profile(profile)
        if experiment not in kept.experiments and not table.experiment(experiment)["runs"]:
            return []  # a page that is younger than the edition, and shows no run of its own
        if missing := kept.missing(experiment):
            raise ValueError(f"the edition {kept.name} lacks the run {missing[0]!r} of {experiment}; run it first.")
        return kept.experiment(experiment)
    profile = profile if isinstance(profile, Profile) else load_profile(profile)
    folder = Path(edition) if edition else root() / "runs" / edition_name(profile, data)
    planned = plan(profile, data, only=experiment)
    errors = _execute(planned, folder, workers, wandb, scheduler)
    if errors:
        raise RunError(" ".join(str(error) for error in errors.values()))
    known = read_json(folder / EDITION).get("experiments", {}) if (folder / EDITION).is_file() else {}
    if known.get(experiment) != _rows(planned)[experiment]:
        _write_edition(folder, profile, data, plan(profile, data))
    return [read_record(folder / run.run_id).named(run.config.name) for run in planned[experiment]]


def _execute(planned: Plan, folder: Path, workers: int, wandb: str, scheduler: str) -> dict[str, Exception]:
    """Do every run that is not finished in `folder`; returns the errors by run name."""
    from lorasam_core.experiments.runs import check_disk

    missing = [r for r in _unique(planned).values() if not is_finished(folder / r.run_id)]
    if not missing:
        return {}
    check_disk(folder, sum(r.bytes_needed for r in missing))
    jobs = [(f"{r.config.name} {r.run_id}", (r.config, folder, wandb)) for r in missing]
    return execute(run_one, jobs, workers, scheduler)[1]


def _rows(planned: Plan) -> dict[str, list[dict[str, str]]]:
    return {name: [{"name": r.config.name, "run_id": r.run_id} for r in runs] for name, runs in planned.items()}


def _write_edition(folder: Path, profile: Profile, data: str, planned: Plan, taken: str = "") -> None:
    """Write edition.json: what the edition shows, which runs belong to it, and what was taken from elsewhere."""
    from lorasam_core.experiments.runs import describe

    now = datetime.now(UTC).isoformat(timespec="seconds")
    old = read_json(folder / EDITION) if (folder / EDITION).is_file() else {}
    info: dict[str, Any] = {
        "name": folder.name,
        "profile": profile.label,
        "data": data or profile.data,
        "created": old.get("created", now),
        "updated": now,
        "taken": taken or old.get("taken", ""),
        "result_version": RESULT_VERSION,
    }
    for run in list(_unique(planned).values())[:1]:
        info |= {"model": run.config.model, **describe(run)}
    info["experiments"] = _rows(planned)
    info["pages"] = {e["name"]: e["page"] for e in profile.experiments if e["page"]}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / EDITION, info)


def listing(planned: Plan, folder: Path, published: Iterable[str] = ()) -> pd.DataFrame:
    """One row an experiment and run: experiment, run, id, done; published: ids of the runs that would be taken."""
    state = dict.fromkeys(published, "taken") | {i: "yes" for i in _unique(planned) if is_finished(folder / i)}
    rows = [(name, r.config.name, r.run_id, state.get(r.run_id, "no")) for name, runs in planned.items() for r in runs]
    return pd.DataFrame(rows, columns=["experiment", "run", "id", "done"])


def move_aside(folder: Path, planned: Plan, whole: bool) -> Path | None:
    """Move the edition (`whole`) or the planned runs to <edition>.old-<time>; returns it, or None if none was there."""
    aside = folder.with_name(f"{folder.name}.old-{datetime.now():%Y%m%d-%H%M%S-%f}")
    if whole:
        return folder.rename(aside) if folder.is_dir() else None
    there = [folder / i for i in _unique(planned) if (folder / i).is_dir()]
    for path in there:
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
    return aside if there else None


def run(
    profile: str = "quick", data: str = "", only: str | None = None, dry_run: bool = False, fresh: bool = False,
    workers: int = 1, wandb: str = "disabled", make_book: bool = True, runs: str | Path = "runs",
    book_dir: str | Path = "", from_published: bool = False, scheduler: str = "",
) -> list[str]:  # fmt: skip
    """All checks, then the runs that are missing, then the pages, then the book; returns what failed, in words.

    from_published: runs of the published edition of this name are taken as they are, and only what it lacks is done.
    Raises ValueError, before anything is run or moved, for a profile, parameter, data set, checkpoint, scheduler or
    disk space that does not do.
    """
    from lorasam_core.experiments.publish import restore
    from lorasam_core.experiments.runs import check_disk
    from lorasam_core.report import book, pages

    if fresh and from_published:
        raise ValueError("--fresh does every run again and --from-published none that is published; give one of them.")
    check(workers, scheduler)
    table = load_profile(profile)
    folder = Path(runs) / edition_name(table, data)
    page_list = pages.page_list(table, folder, data, only)
    everything = plan(table, data)
    planned = {only: everything[only]} if only else everything
    published = published_edition(folder.name) if from_published else None
    if dry_run:
        ids = [record.run_id for record in published.records] if published else []
        print(listing(planned, folder, ids).to_string(index=False))
        return []
    taken = ""
    if published:
        if count := restore(published, folder, _unique(everything)):
            date, devices = published.info.get("updated", "")[:10], published.devices()
            taken = f"{count} runs of the published edition of {date}, made on {devices}"
        print(f"{count} runs are taken from the published edition, as they are")
    done = [i for i in _unique(planned) if is_finished(folder / i)]
    check_disk(folder, sum(r.bytes_needed for i, r in _unique(planned).items() if fresh or i not in done))
    if fresh and (aside := move_aside(folder, planned, whole=only is None)):
        print(f"old runs are in {aside}")
    _write_edition(folder, table, data, everything, taken)
    print(f"{folder}: {len(_unique(planned))} runs, {0 if fresh else len(done)} finished before")
    failures = [
        str(error) if isinstance(error, RunError) else f"the run {name} failed ({type(error).__name__}: {error})"
        for name, error in _execute(planned, folder, workers, wandb, scheduler).items()
    ]
    edition = read_edition(folder)
    if make_book and not failures and not edition.missing():
        try:
            book.build(edition, book_dir, workers, runs, scheduler)  # executes the pages first
        except book.BookError as error:
            failures.append(str(error))
        return failures
    failures += pages.execute_pages(page_list, edition, workers, runs, scheduler)[1]
    if make_book:
        print(f"the book is not built: it lacks the runs {', '.join(edition.missing())}; call again without --only.")
    return failures


def parser() -> argparse.ArgumentParser:
    """The options of `lorasam experiments`."""
    command = argparse.ArgumentParser(prog="lorasam experiments", description=__doc__)
    command.add_argument("--profile", default="quick", help="a table in notebooks/profiles, or a YAML file")
    command.add_argument("--data", default="", help="synthetic, emps or a folder, in place of the profile's own")
    command.add_argument("--only", metavar="NAME", help="one experiment")
    command.add_argument("--dry-run", action="store_true", help="list the runs and say which are done")
    command.add_argument("--fresh", action="store_true", help="move old runs aside and do them again")
    command.add_argument("--workers", type=int, default=1, help="processes that share the cores")
    command.add_argument("--scheduler", metavar="ADDRESS", default="", help="a Dask cluster in place of --workers")
    command.add_argument("--wandb", default="disabled", choices=MODES)
    command.add_argument(
        "--from-published", action="store_true", help="take the published edition's runs, and do what it lacks"
    )
    command.add_argument("--run", metavar="ID", help="do one run again from its record, and compare")
    command.add_argument("--no-book", action="store_true", help="runs and pages only")
    command.add_argument("--runs", default="runs", help="folder of all editions")
    command.add_argument("--book", default="", help="folder of the book's sources")
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with status 1 when a check refuses or something failed.

    Of the processes that torchrun started the first does all of it, and the others train with it.
    """
    args = parser().parse_args(arguments)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _main(args)
        return
    if args.workers > 1 or args.scheduler:
        sys.exit("error: torchrun's processes share one run, and --workers and --scheduler share out runs; give one.")
    from lorasam_core.experiments.runs import take_part
    from lorasam_core.training import processes

    if processes.start():
        take_part()
        return
    try:
        _main(args)
    finally:
        processes.tell()


def _main(args: argparse.Namespace) -> None:
    try:
        if args.run is not None:
            from lorasam_core.experiments.rerun import TOLERANCE, rerun  # it does its run with this module

            table = rerun(args.run, args.runs, args.wandb)
            print(table.to_string(index=False))
            if (table["within"] == "no").any():
                sys.exit(f"error: a metric lies more than {TOLERANCE} from the record's.")
            print(f"every metric lies within {TOLERANCE} of the record's")
            return
        failures = run(
            args.profile, args.data, args.only, args.dry_run, args.fresh, args.workers, args.wandb,
            not args.no_book, args.runs, args.book, args.from_published,
            args.scheduler,
        )  # fmt: skip
    except (ValueError, RunError) as error:
        sys.exit(f"error: {error}")
    if failures:
        sys.exit("\n".join(f"error: {failure}" for failure in failures))
