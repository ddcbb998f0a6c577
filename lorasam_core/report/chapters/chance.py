"""What seeds alone do to a result, in words. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lorasam_core.experiments.records import Record
from lorasam_core.experiments.study import STUDY, equivalent
from lorasam_core.report.chapters.comparisons import seed_noise
from lorasam_core.report.phrases import listed
from lorasam_core.report.tables import SETTING_NAMES, by_value, interval, setting, training_of


def grey_clause(seeds: Sequence[Record], measures: Sequence[str] = ("predictor_dice",)) -> str:
    """What the grey of `comparison_plots.paired_chart` is, for its caption; an empty text where none is drawn."""
    found = [int(seed_noise(seeds, measure)["n"]) for measure in measures]
    if not found or max(found) < 2:
        return ""
    return f" Grey: what other seeds alone may do in 19 of 20 cases, estimated from {max(found)} seeds."


def noise_sentence(seeds: Sequence[Record], sweep: Sequence[Record] = (), field: str = "") -> str:
    """Standard deviation and range of the predictor's Dice over seeds; which steps of a sweep are no larger than that.

    seeds: runs of one configuration; sweep: runs of several values of `field`.
    """
    found = seed_noise(seeds)
    if found["n"] < 2:
        return "What noise alone does is not known here: it takes two seeds of one configuration or more."
    text = [
        f"Trained from {found['n']} seeds, one configuration has a predictor Dice with a standard deviation of "
        f"{found['std']:.2f} points and a range of {found['range']:.2f}. The deviation itself is known from these "
        f"{found['n']} alone, so that a difference of two single runs counts from {found['least']:.1f} points on "
        f"(Student's t; degrees of freedom: {found['n'] - 1:.0f})."
    ]
    name = SETTING_NAMES.get(field, field)
    if sweep:
        dice = {v: 100 * interval(runs, "predictor", "dice")["mean"] for v, runs in by_value(sweep, field).items()}
        text.append(_steps_within(dice, name, found["least"]))
        same = [record for record in sweep if training_of(record) == training_of(seeds[0])]
        if len(same) == 1:
            one, every = (100 * interval(runs, "predictor", "dice")["mean"] for runs in (same, seeds))
            text.append(
                f"In a table of one run a value, the row of *{same[0].config.name}* is one of these seeds, at "
                f"{one:.1f} %; where its seeds are put together it is {every:.1f} %."
            )
    if sweep and len(equivalent(field)) > 1:
        text.append(
            "What noise the study's values have is not known: it gives one a setting, from one split with a tenth of "
            f"{STUDY['images']} images in the test part, where differences of a point and more may be those images'."
        )
    return " ".join(filter(None, text))


def _steps_within(values: Mapping[Any, float], name: str, least: float) -> str:
    """Which steps between neighbouring values are no larger than the noise; an empty text for fewer than two values."""
    known = sorted((value, level) for value, level in values.items() if math.isfinite(level))
    steps = [(a, b, to - level) for (a, level), (b, to) in pairwise(known)]
    if not steps:
        return ""
    within = [f"{setting(a)} to {setting(b)} ({step:+.1f})" for a, b, step in steps if abs(step) <= least]
    if not within:
        return f"Every step between neighbouring values of the {name} is larger than that."
    return f"Of the steps between neighbouring values of the {name} these are no larger than that: {listed(within)}."
