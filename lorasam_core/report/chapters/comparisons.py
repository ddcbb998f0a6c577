"""Runs that are seeds of one configuration, and the measures of comparisons. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorasam_core.config import RunConfig
from lorasam_core.experiments.records import Record
from lorasam_core.report import findings
from lorasam_core.report.tables import training_of

MEASURES = {  # column: evaluator, column of per_image.csv, words
    "predictor_dice": ("predictor", "dice", "predictor Dice"),
    "point_iou": ("point", "iou_rated", "point IoU"),
    "box_iou": ("box", "iou_rated", "box IoU"),
    "generator_dice": ("generator", "dice", "mask generator Dice"),
    "ap50": ("generator", "ap50", "AP50"),
    "f1": ("generator", "f1", "F1"),
    "pq": ("generator", "pq", "PQ"),
    "tuned_f1": ("generator_tuned", "f1", "F1 with thresholds by validation"),
}


def groups(records: Iterable[Record]) -> list[list[Record]]:
    """Runs that differ in nothing but seed and name, one list each, in order; a seed that stands twice counts once."""
    found: dict[RunConfig, dict[int, Record]] = {}
    for record in records:
        found.setdefault(training_of(record), {}).setdefault(record.config.seed, record)
    return [list(runs.values()) for runs in found.values()]


def with_seeds(records: Sequence[Record], pool: Iterable[Record]) -> list[Record]:
    """The records, and after them those of `pool` that are other seeds of one of them."""
    known = {training_of(record) for record in records}
    return [*records, *(record for record in pool if training_of(record) in known)]


def seed_noise(seeds: Sequence[Record], measure: str = "predictor_dice") -> dict[str, float]:
    """`findings.seed_noise` of one of MEASURES: n and least, in points."""
    return findings.seed_noise(seeds, *MEASURES[measure][:2])
