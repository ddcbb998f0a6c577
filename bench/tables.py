"""The bench's records as one table for the book. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import pandas as pd

from lorasam_core.experiments.files import read_json
from lorasam_core.report.pages import bench_records

KINDS = {"cpu": "CPU", "cuda": "GPU"}
ABOUT = ("device_name", "threads")


def read() -> pd.DataFrame:
    """Every row of every record, local or else published; see `rows`."""
    return pd.concat([rows(read_json(path)) for path in bench_records()], ignore_index=True)


def rows(record: Mapping[str, Any]) -> pd.DataFrame:
    """A row a case. What was compared: device (CPU or GPU), device_name, threads, torch, date, commit, group, title,
    and the axes of the growth figures (`image size`, ... with NaN elsewhere). What was found: seconds and reference
    (medians), ratio with its least and greatest over pairs of runs (ratio_low, ratio_high), the aim (at_least,
    at_most), runs, the whole process's peak memory in MB (memory, reference_memory), that beyond what it held before
    (growth, reference_growth), and answer, how far the two answers are apart.
    """
    about, found = record["environment"], []
    for row in record["rows"]:
        case, sides = row["case"], {"": row["ours"], "reference_": row["reference"]}
        values = {"device": KINDS.get(about["device"].split(":")[0], about["device"])}
        values |= {key: about[key] for key in ABOUT} | {"torch": about["packages"]["torch"], "date": record["date"]}
        values |= {"commit": row["commit"], **{key: case[key] for key in ("group", "title", "at_least", "at_most")}}
        values |= {"seconds": median(row["ours"]["seconds"]), "reference": median(row["reference"]["seconds"])}
        values |= {key: row[key] for key in ("ratio", "ratio_low", "ratio_high")}
        for prefix, side in sides.items():
            peak = median(side["peak_mb"])
            values |= {f"{prefix}memory": peak, f"{prefix}growth": max(1.0, peak - median(side["idle_mb"]))}
        values |= {"runs": len(row["ours"]["seconds"]), "answer": answer(row["answers"]), **case["axes"]}
        found.append(values)
    return pd.DataFrame(found)


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
