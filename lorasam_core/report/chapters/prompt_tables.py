"""One model asked in several ways: which prompts hold part of the answer, and how much that gives. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lorasam_core.experiments.records import Edition, Record
from lorasam_core.report.phrases import difference, listed
from lorasam_core.report.tables import adapted_runs, frozen_runs, interval, paired, run_ids, shown, test_rows
from lorasam_core.stats import bootstrap_interval

Question = tuple[str, str]  # evaluator and column of per_image.csv
RATED, BEST = ("point", "iou_rated"), ("point", "iou_best")
BOX, EXACT = ("box", "iou_rated"), ("exact_box", "iou_rated")
ONE = "IoU of one mask with the particle that was asked for"


class Prompt(NamedTuple):
    """A way to ask, and what is measured of what comes back."""

    label: str
    question: Question
    answer: str  # what of the answer the prompt holds
    measures: str


PROMPTS = (
    Prompt("whole image", ("predictor", "iou"), "no", "IoU of one mask with all particles together"),
    Prompt("mask generator, union", ("generator", "iou"), "no", "IoU of all its masks with all particles together"),
    Prompt("mask generator, AP50", ("generator", "ap50"), "no", "AP50: single particles found, IoU at least a half"),
    Prompt("point", RATED, "yes: a point drawn inside the particle", f"{ONE}; of three, the mask rated best"),
    Prompt("point, best mask", BEST, "yes: the point, and the mask is chosen by it", f"{ONE}; of three, the best mask"),
    Prompt("jittered box", BOX, "yes: the particle's box, each side moved at random", ONE),
    Prompt("exact box", EXACT, "yes: the particle's box, taken from its label", ONE),
)
LEADS: tuple[tuple[str, Question, Question], ...] = (  # what the answer adds, from, to
    ("the best mask of a point in place of the one rated best", RATED, BEST),
    ("a jittered box in place of a point", RATED, BOX),
    ("the exact box in place of a jittered one", BOX, EXACT),
)


def series_of(edition: Edition) -> dict[str, list[Record]]:
    """frozen and adapted: the runs of the main configuration."""
    return {"frozen": frozen_runs(edition), "adapted": adapted_runs(edition)}


def prompt_rows(edition: Edition) -> pd.DataFrame:
    """Long table: metric (the prompt), evaluator, column, uses_answer, series, mean, low, high in %, n, groups."""
    rows = []
    for prompt in PROMPTS:
        for name, runs in series_of(edition).items():
            found = interval(runs, *prompt.question)
            if np.isfinite(found["mean"]):
                percent = [100 * found[key] for key in ("mean", "low", "high")]
                about = (prompt.label, *prompt.question, prompt.answer != "no", name)
                rows.append((*about, *percent, found["n"], found["groups"]))
    columns = ["metric", "evaluator", "column", "uses_answer", "series", "mean", "low", "high", "n", "groups"]
    table = pd.DataFrame(rows, columns=columns)
    ids = run_ids(*series_of(edition).values())
    table.attrs.update(made_by="lorasam_core.report.chapters.prompt_tables.prompt_rows", runs=ids)
    return table


def prompt_table(edition: Edition) -> pd.DataFrame:
    """A row a prompt, as the reader sees it: does it use the answer, what is measured, frozen, adapted, paired gain.

    Prompts that the edition's runs were not asked by are left out.
    """
    frozen, adapted = series_of(edition).values()
    rows = []
    for prompt in PROMPTS:
        before, after = interval(frozen, *prompt.question), interval(adapted, *prompt.question)
        there = np.isfinite([before["mean"], after["mean"]])
        if there.any():
            gain = paired(frozen, adapted, *prompt.question) if there.all() else (float("nan"),) * 3
            rows.append({
                "prompt": prompt.label, "uses the answer": prompt.answer, "measures": prompt.measures,
                "frozen, %": shown(before["mean"], before["low"], before["high"]),
                "adapted, %": shown(after["mean"], after["low"], after["high"]),
                "gain, points": shown(*gain, sign=True),
            })  # fmt: skip
    columns = ["prompt", "uses the answer", "measures", "frozen, %", "adapted, %", "gain, points"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(made_by="lorasam_core.report.chapters.prompt_tables.prompt_table", runs=run_ids(frozen, adapted))
    return table


def lead_rows(records: Sequence[Record], less: Question, more: Question) -> pd.DataFrame:
    """id, group and `lead` of every test image: what `more` scores above `less` (0 to 1), the mean over the runs."""
    sides = []
    for name, (evaluator, metric) in (("less", less), ("more", more)):
        found = test_rows(records, evaluator, metric).astype({"id": object, "group": object})  # also where it is empty
        sides.append(found.rename(columns={metric: name}))
    rows = sides[0].merge(sides[1], on=["id", "group"])
    return rows.assign(lead=rows["more"].astype(float) - rows["less"].astype(float))[["id", "group", "lead"]].dropna()


def leads(edition: Edition) -> pd.DataFrame:
    """How much more of the answer gives: lead, series, mean, low, high (0 to 1), n, groups; paired on the same images.

    The series `adapting` is what adapting changes of the lead: that of the adapted model less that of the frozen one.
    """
    rows = []
    frozen, adapted = series_of(edition).values()
    for label, less, more in LEADS:
        before, after = lead_rows(frozen, less, more), lead_rows(adapted, less, more)
        both = before.merge(after, on=["id", "group"], suffixes=("_before", "_after"))
        changed = both.assign(lead=both["lead_after"] - both["lead_before"])
        for series, table in (("frozen", before), ("adapted", after), ("adapting", changed)):
            if len(table):
                mean, low, high = bootstrap_interval(table["lead"].to_numpy(float), table["group"].to_numpy())
                rows.append((label, series, mean, low, high, len(table), table["group"].nunique()))
    table = pd.DataFrame(rows, columns=["lead", "series", "mean", "low", "high", "n", "groups"])
    table.attrs.update(made_by="lorasam_core.report.chapters.prompt_tables.leads", runs=run_ids(frozen, adapted))
    return table


def lead_table(found: pd.DataFrame) -> pd.DataFrame:
    """`leads` as the reader sees them: a row a step towards the answer, in points of IoU with the interval."""
    rows = []
    for label in dict.fromkeys(found["lead"]):
        there = _intervals(found[found["lead"] == label].set_index("series"))
        cells = [shown(*there[s], sign=True) if s in there else "–" for s in ("frozen", "adapted", "adapting")]
        rows.append((label, *cells, str(found.loc[found["lead"] == label, "n"].max())))
    columns = ["more of the answer", "frozen, points", "adapted, points", "changed by adapting, points", "test images"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(found.attrs | {"made_by": "lorasam_core.report.chapters.prompt_tables.lead_table"})
    return table


def prompt_sentence(edition: Edition) -> str:
    """What the answer in a prompt is worth to the adapted model, whether adapting changes that, and what is missing."""
    found = _intervals(leads(edition).set_index(["lead", "series"]))
    worth = [
        f"{label} {difference(*found[(label, 'adapted')], 'is worth', 'costs', 'makes a difference of')}"
        for label, _, _ in LEADS
        if (label, "adapted") in found
    ]
    text = [f"In the adapted model's IoU, {'; '.join(worth)}."] if worth else []
    box = (LEADS[1][0], "adapting")
    if box in found:
        lead = "the lead of the box over the point by"
        said = difference(*found[box], f"widens {lead}", f"narrows {lead}", f"changes {lead}")
        frozen, adapted = series_of(edition).values()
        gained = paired(frozen, adapted, *RATED)[1] > 0
        more = ": the answer to the point gains more than that to the box"
        text.append(f"Adapting {said}{more if gained and found[box][2] < 0 else ''}.")
    measured = set(prompt_rows(edition)["metric"])
    if missing := [prompt.label for prompt in PROMPTS if prompt.label not in measured]:
        text.append(f"Not asked in this edition: {listed(missing)}.")
    return " ".join(text)


def _intervals(table: pd.DataFrame) -> dict[Any, tuple[float, float, float]]:
    """Index -> mean, low, high."""
    values = table[["mean", "low", "high"]].astype(float)
    return dict(zip(values.index, values.itertuples(index=False, name=None), strict=True))
