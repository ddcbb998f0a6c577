"""What seeds alone do to a result, in words. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from lorasam_core.experiments.records import Record
from lorasam_core.report.chapters.comparisons import seed_noise


def grey_clause(seeds: Sequence[Record], measures: Sequence[str] = ("predictor_dice",)) -> str:
    """What the grey of `comparison_plots.paired_chart` is, for its caption; an empty text where none is drawn."""
    found = [int(seed_noise(seeds, measure)["n"]) for measure in measures]
    if not found or max(found) < 2:
        return ""
    return f" Grey: what other seeds alone may do in 19 of 20 cases, estimated from {max(found)} seeds."


def noise_sentence(seeds: Sequence[Record]) -> str:
    """Standard deviation and range of the predictor's Dice over the seeds of one configuration."""
    found = seed_noise(seeds)
    if found["n"] < 2:
        return "What noise alone does is not known here: it takes two seeds of one configuration or more."
    return (
        f"Trained from {found['n']} seeds, one configuration has a predictor Dice with a standard deviation of "
        f"{found['std']:.2f} points and a range of {found['range']:.2f}. The deviation itself is known from these "
        f"{found['n']} alone, so that a difference of two single runs counts from {found['least']:.1f} points on "
        f"(Student's t; degrees of freedom: {found['n'] - 1:.0f})."
    )
