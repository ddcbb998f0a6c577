"""What a sweep over one setting shows: its highest value, and which others can be told from it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lorasam_core.experiments.records import Record
from lorasam_core.experiments.study import REPORTED, reported
from lorasam_core.report.findings import seed_noise
from lorasam_core.report.phrases import listed, seed_limit, verdict
from lorasam_core.report.tables import SETTING_NAMES, by_value, interval, paired, setting, test_rows, training_of


def against_best(
    records: Sequence[Record], field: str, least: float = math.nan
) -> tuple[dict[Any, float], dict[Any, str]]:
    """The predictor's test Dice (0 to 1) by value of a setting, where it was measured; and for each value but that of
    the highest Dice the `phrases.verdict` of the highest less it.

    least: points by which two single runs of one configuration may differ; NaN: not known.
    """
    groups = by_value(records, field)
    dice = {value: interval(runs, "predictor", "dice")["mean"] for value, runs in groups.items()}
    dice = {value: level for value, level in dice.items() if math.isfinite(level)}
    best = max(dice, key=dice.__getitem__, default=None)
    kinds = {}
    for value in dice:
        if value != best:
            gain, low, high = (100 * x for x in paired(groups[value], groups[best], "predictor", "dice"))
            kinds[value] = verdict(gain, low, high, seed_limit(least, len(groups[value]), len(groups[best])))
    return dice, kinds


def ablation_sentence(records: Sequence[Record], field: str, seeds: Sequence[Record] = ()) -> str:
    """What the sweep shows, and what noise alone does: the highest value, those not told from it, the spread.

    seeds: runs of one configuration under several seeds, whose spread is named; where it is one of the sweep's, their
    noise is added to the intervals.
    """
    groups = by_value(records, field)
    own = bool(seeds) and training_of(seeds[0]) in {training_of(record) for record in records}
    dice, kinds = against_best(records, field, seed_noise(seeds)["least"] if own else math.nan)
    name = SETTING_NAMES.get(field, field)
    if len(dice) < 2:
        return f"Fewer than two values of the {name} have been run in this edition: there is nothing to compare."
    best, worst = max(dice, key=dice.__getitem__), min(dice, key=dice.__getitem__)
    text = [
        f"The highest test Dice, {100 * dice[best]:.1f} %, belongs to the {name} {setting(best)}, the lowest, "
        f"{100 * dice[worst]:.1f} %, to {setting(worst)}: {_points(dice[best] - dice[worst])} apart."
    ]
    text += [_told_apart(kinds, *_count(groups[best])), _seeds_apart(seeds, own)]
    numbers = [reported(field, v, groups[v][0].config.model)[0] for v in dice]
    known = [d for d in numbers if d is not None]
    if len(known) > 1:
        text.append(
            f"Over the same settings the Dice {REPORTED} spans {max(known) - min(known):.1f} points, "
            "with another model on other data."
        )
    return " ".join(text)


def _told_apart(kinds: dict[Any, str], images: int, groups: int) -> str:
    """Which values cannot be told from the highest; kinds: verdict of the highest less each."""
    where = f"On these {images} test images from {groups} group{'s' * (groups != 1)}"
    tied, noisy = ([setting(v) for v, kind in kinds.items() if kind == k] for k in ("tied", "noisy"))
    if "open" in kinds.values():
        return f"{where} no interval can be drawn: nothing says which of these differences is noise."
    if not tied and not noisy:
        return (
            f"{where} its paired 95 % interval excludes zero against every other value; it was picked on these same "
            "images, which favours it."
        )
    text = []
    if tied:
        text.append(
            f"{where} {listed(tied)} cannot be told from it (the paired 95 % interval of the difference includes zero)."
        )
    if noisy:
        text.append(f"With the noise of seeds added, {listed(noisy)} cannot be told from it.")
    return " ".join(text)


def _seeds_apart(seeds: Sequence[Record], own: bool) -> str:
    """How far seeds of one configuration lie apart; own: whether it is one of those that are compared."""
    found = seed_noise(seeds)
    if found["n"] < 2:
        return "One seed a value: what another seed would change is not in the intervals."
    which, rest = ("one of these", "") if own else ("another configuration", ", and the noise of these is not known")
    return (
        f"Seeds alone move the Dice too: {found['n']} seeds of {which} (*{seeds[0].config.name}*) lie "
        f"{found['range']:.1f} points apart{rest}."
    )


def _points(change: float) -> str:
    return f"{100 * change:.1f} points"


def _count(records: Sequence[Record]) -> tuple[int, int]:
    rows = test_rows(records, "predictor", "dice")
    return len(rows), rows["group"].nunique()
