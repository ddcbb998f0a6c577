"""Time every case, each side in processes of its own by turns: `python -m bench.run` (nox -s bench).

A row is written as soon as it is measured; what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.cases import Case, cases
from lorasam_core.experiments.files import read_json, write_json
from lorasam_core.experiments.records import root
from lorasam_core.models import devices

RUNS, LONG_RUNS, LONG = 5, 3, 60.0  # of each side; fewer where one call takes longer than this many seconds
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
PUBLISHED = Path("book") / "bench"


class BenchError(RuntimeError):
    """A side failed; the message holds the end of what it printed."""


def bench(device: str, out: Path, only: str = "", fresh: bool = False) -> Path:
    """Measure the cases whose name holds `only` and write `out`/<kind of device>.json; returns that file.

    Rows lie in `out`/<kind>/<case>.json as they are finished. Raises ValueError for an unknown device or name, and
    BenchError when a side fails; rows made before stay.
    """
    device = devices.resolve_device(device)
    kind = device.split(":")[0]
    everything = cases(kind)
    chosen = [case for case in everything if only in case.name]
    if not chosen:
        raise ValueError(f"no case is called {only!r}; the cases are {', '.join(case.name for case in everything)}.")
    rows = out / kind
    if fresh:
        for case in chosen:
            (rows / f"{case.name}.json").unlink(missing_ok=True)
    rows.mkdir(parents=True, exist_ok=True)
    with tqdm(chosen, unit="case") as bar:
        for case in bar:
            bar.set_postfix_str(case.name)
            path = rows / f"{case.name}.json"
            if not _measured(path, case):
                write_json(path, compare(case, device))
    record = out / f"{kind}.json"
    write_json(record, assemble(everything, rows, device))
    return record


def assemble(everything: Sequence[Case], rows: Path, device: str) -> dict[str, Any]:
    """The record that the book renders: machine, date, and the rows that are there, in the order of the cases."""
    found = [read_json(path) for case in everything if _measured(path := rows / f"{case.name}.json", case)]
    return {"environment": devices.environment(device), "date": date.today().isoformat(), "rows": found}


def _measured(path: Path, case: Case) -> bool:
    """Whether a row is there, and of the case as it is now."""
    return path.is_file() and bool(read_json(path)["case"] == _plain(case))


def compare(case: Case, device: str) -> dict[str, Any]:
    """Run both sides by turns, ours first; compare their first results; a row of the record."""
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "reference": []}
    settings = case.settings | threshold(case, device)
    with tempfile.TemporaryDirectory() as folder:
        kept = {side: Path(folder) / f"{side}.pt" for side in sides}
        runs = RUNS
        while len(sides["reference"]) < runs:
            for side, done in sides.items():
                order = {
                    "work": case.work, "ours": side == "ours", "device": device,
                    "settings": settings | getattr(case, side), "keep": None if done else str(kept[side]),
                }  # fmt: skip
                done.append(child(order, system_allocator=side == "reference" and not case.against_ours))
                if done[-1]["seconds"] > LONG:
                    runs = LONG_RUNS
        order = {"settings": settings, "device": device, "other_masks": case.work == "generate" and bool(case.ours)}
        order |= {side: str(path) for side, path in kept.items()}
        answers = _call("answers", order)
    row: dict[str, Any] = {"case": _plain(case), "commit": devices.environment(device)["commit"], "answers": answers}
    row["facts"] = sides["ours"][0]["facts"]
    for side, done in sides.items():
        row[side] = {key: [round(run[key], 5) for run in done] for key in ("seconds", "idle_mb", "peak_mb")}
    row["allocator"] = {name: os.environ.get(name) for name in ALLOCATOR}
    row["ratio"] = statistics.median(row["reference"]["seconds"]) / statistics.median(row["ours"]["seconds"])
    pairs = [b / a for a, b in zip(row["ours"]["seconds"], row["reference"]["seconds"], strict=True)]
    return row | {"ratio_low": min(pairs), "ratio_high": max(pairs)}


def threshold(case: Case, device: str) -> dict[str, float]:
    """The predicted IoU that the share `passing` of a case's masks exceeds; nothing where the case asks for none."""
    if not 0 < case.settings.get("passing", 0) < 1:
        return {}
    return _call("answers", {"settings": case.settings, "device": device})


def child(order: dict[str, Any], system_allocator: bool) -> dict[str, Any]:
    """One side once, in a new process; `system_allocator`: with the allocator as the system has it."""
    return _call("child", order, system_allocator)


def _call(module: str, order: dict[str, Any], system_allocator: bool = False) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if not (system_allocator and k in ALLOCATOR)}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", f"bench.{module}", json.dumps(order)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{module} of {order.get('work', order)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _plain(case: Case) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(case.to_dict()))
    return plain


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.run`."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--device", default="auto", help="cpu or cuda; the record of each is kept apart")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the record")
    parser.add_argument("--publish", action="store_true", help="copy the record to book/bench, for everybody")
    args = parser.parse_args(arguments)
    try:
        if args.list:
            print("\n".join(case.name for case in cases(devices.resolve_device(args.device).split(":")[0])))
            return
        record = bench(args.device, args.out, args.only, args.fresh)
    except (ValueError, BenchError) as error:
        sys.exit(f"error: {error}")
    if args.publish:
        target = root() / PUBLISHED
        target.mkdir(parents=True, exist_ok=True)
        record = Path(shutil.copyfile(record, target / record.name))
    print(record)


if __name__ == "__main__":
    main()
