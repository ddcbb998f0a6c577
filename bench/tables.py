"""The bench's record as tables, sentences and curves for the book. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any

import pandas as pd

from bench.cases import GROUPS, MERGED, cases
from lorasam_core.experiments.records import read_json
from lorasam_core.report.figures import Page
from lorasam_core.report.pages import bench_records

Record = Mapping[str, Any]
KINDS = {"cpu": "CPU", "cuda": "GPU"}
SIDES = {"ours": "lorasam", "reference": "segment-anything"}


def read_records() -> dict[str, Record]:
    """Kind of device in words: its record, local or else published."""
    return {KINDS.get(path.stem, path.stem): read_json(path) for path in bench_records()}


def machine(record: Record) -> str:
    """A sentence on where and when a record was made."""
    about = record["environment"]
    kept = any(row["allocator"].values() for row in record["rows"])
    allocator = "our side with the allocator settings of `noxfile.py`" if kept else "both sides with the same allocator"
    commits = sorted({str(row["commit"]) for row in record["rows"]})
    return (
        f"Measured on {about['device_name']}, {about['threads']} threads, torch {about['packages']['torch']}, "
        f"{allocator}; {record['date']}, commit {', '.join(commits)}."
    )


def comparison(record: Record, group: str) -> pd.DataFrame:
    """One row a case of a group: both medians, the ratio with its spread over pairs of runs, the aim, peak memory."""
    rows = []
    for row in _rows(record, group):
        ours, reference = row["ours"], row["reference"]
        rows.append({
            "what": row["case"]["title"],
            "lorasam": duration(median(ours["seconds"])),
            "reference": duration(median(reference["seconds"])),
            "ratio": f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]",
            "aim": _aim(row["case"]),
            "runs": len(ours["seconds"]),
            "peak memory, GB": f"{median(ours['peak_mb']) / 1024:.2f} / {median(reference['peak_mb']) / 1024:.2f}",
            "same answer?": "–" if group == MERGED else answer(row["answers"]),  # an adapter is there to change it
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs.update(made_by="bench.tables.comparison")
    return table


def numbers(record: Record, groups: Iterable[str] = GROUPS) -> pd.DataFrame:
    """The same as numbers, one row a side and run: case, group, side, run, seconds, idle_mb, peak_mb."""
    rows = [
        {"case": row["case"]["name"], "group": group, "side": SIDES[side], "run": run + 1}
        | {key: row[side][key][run] for key in ("seconds", "idle_mb", "peak_mb")}
        for group in groups
        for row in _rows(record, group)
        for side in SIDES
        for run in range(len(row[side]["seconds"]))
    ]
    return pd.DataFrame(rows)


def growth(record: Record, axis: str) -> pd.DataFrame:
    """Points of one growth figure, long: x, side, seconds, memory (MB beyond what the process held before)."""
    rows = [
        {
            "x": row["case"]["axes"][axis], "side": name, "seconds": median(row[side]["seconds"]),
            "memory": max(1.0, median(row[side]["peak_mb"]) - median(row[side]["idle_mb"])),
        }
        for row in record["rows"]
        if axis in row["case"]["axes"]
        for side, name in SIDES.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["x", "side", "seconds", "memory"]).sort_values("x")
    table.attrs.update(made_by="bench.tables.growth")
    return table


def growths(records: Mapping[str, Record]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(kind of device, axis, its `growth`) of every growth figure that has a point."""
    for kind, record in records.items():
        for axis in dict.fromkeys(axis for row in record["rows"] for axis in row["case"]["axes"]):
            yield kind, axis, growth(record, axis)


def show(page: Page, records: Mapping[str, Record], group: str, caption: str) -> None:
    """The `comparison` of a group as a table of the page, one a kind of device."""
    for kind, record in records.items():
        table, behind = comparison(record, group), numbers(record, [group])
        behind.attrs.update(table.attrs)
        page.table(table, f"speed-{group}-{kind.lower()}", f"{kind}. {caption}", data=behind)


def answer(found: Mapping[str, float]) -> str:
    """How far two answers are apart, in words."""
    if "relative_error" in found:
        return f"relative error {found['relative_error']:.0e}"
    if "same_pixels" not in found:
        matched = f"matched IoU {100 * found['matched_iou']:.1f} %"
        return f"other masks: {found['ours']:.0f} for {found['reference']:.0f}, {matched}"
    if found["pixels_far"] or found["unmatched"] > found["unmatched_at_threshold"] or found["boxes_differ"]:
        return f"no: {found['pixels_far']:.0f} pixels, {found['unmatched']:.0f} masks"
    at = f", {found['pixels_differing']:.0f} pixels at a threshold" if found["pixels_differing"] else ""
    other = f", {found['unmatched']:.0f} masks at one" if found["unmatched"] else ""
    return f"yes: {found['matched']:.0f} mask{'s' if found['matched'] != 1 else ''}{at}{other}"


def missed(record: Record) -> list[str]:
    """A sentence for each row that misses its aim."""
    return [
        f"{row['case']['title']}: {row['ratio']:.2f} against an aim of {_aim(row['case'])}."
        for row in record["rows"]
        if not (row["case"]["at_least"] or 0) <= row["ratio"] <= (row["case"]["at_most"] or float("inf"))
    ]


def unmeasured(record: Record) -> list[str]:
    """Titles of the cases that the record of a device lacks."""
    there = {row["case"]["name"] for row in record["rows"]}
    kind = str(record["environment"]["device"]).split(":")[0]
    return [case.title for case in cases(kind) if case.name not in there]


def duration(seconds: float) -> str:
    """Seconds or milliseconds, to three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _rows(record: Record, group: str) -> list[Mapping[str, Any]]:
    return [row for row in record["rows"] if row["case"]["group"] == group]


def _aim(case: Mapping[str, Any]) -> str:
    low, high = case["at_least"], case["at_most"]
    if low is None:
        return "–"
    return f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"
