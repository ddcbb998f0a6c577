"""Records -> sentences. What a page says about its numbers is computed from them, and claims no more than they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core.phrases import difference, listed
from lorasam_core.records import Edition, Record
from lorasam_core.study import REPORTED, STUDY, reported
from lorasam_core.tables import SETTING_NAMES, adapted_runs, by_value, frozen_runs, interval, paired, shown, test_rows

SUBJECTS = (
    ("predictor", "dice", "Prompted with the whole image as a box, the predictor marks the particles with a Dice"),
    ("generator", "ap50", "The mask generator, prompting a grid of points, finds single particles with an AP50"),
    ("point", "iou_rated", "Given one point inside a particle, the mask that the model rates best has an IoU"),
)
LOSSES = {"train_loss": "train loss", "val_loss": "validation loss", "val_miou": "validation mIoU"}


def findings(edition: Edition, adapted: Sequence[Record] | None = None) -> list[str]:
    """Sentences on frozen against adapted, from the records: predictor, prompted instances, mask generator."""
    frozen, adapted = frozen_runs(edition), adapted or adapted_runs(edition)
    out = []
    for evaluator, metric, subject in SUBJECTS:
        before, after = interval(frozen, evaluator, metric), interval(adapted, evaluator, metric)
        if not np.isfinite(after["mean"]):
            continue
        if not np.isfinite(before["mean"]):
            out.append(f"{subject} of {shown(after['mean'], after['low'], after['high'])} % after adapting.")
            continue
        change, low, high = paired(frozen, adapted, evaluator, metric)
        out.append(
            f"{subject} of {shown(before['mean'], before['low'], before['high'])} % frozen and "
            f"{shown(after['mean'], after['low'], after['high'])} % adapted: {difference(change, low, high)}."
        )
    return out


def curves_sentence(record: Record) -> str:
    """How a run went: steps, best validation step, last losses, time."""
    history, metrics = record.history, record.metrics
    there = [c for c in LOSSES if c in history and history[c].notna().any()]
    numbers = listed(f"{LOSSES[c]} {history[c].dropna().iloc[-1]:.3f}" for c in there)
    return (
        f"Run {record.run_id} took {metrics['steps']:,} steps over {metrics['images_seen']:,} images in "
        f"{metrics['seconds'] / 60:.1f} minutes ({metrics['images_per_s']:.1f} images a second); it ends at {numbers}. "
        f"The adapter that is kept is the one of step {metrics['best_step']:,}, the best by validation."
    )


def ablation_sentence(records: Sequence[Record], field: str, seeds: Sequence[Record] = ()) -> str:
    """What the sweep shows, and what noise alone does: the best value, those that cannot be told from it, the spread.

    seeds: runs of one configuration under several seeds, whose spread is named as the noise of training.
    """
    groups = by_value(records, field)
    dice = {value: interval(runs, "predictor", "dice")["mean"] for value, runs in groups.items()}
    dice = {value: d for value, d in dice.items() if np.isfinite(d)}
    name = SETTING_NAMES.get(field, field)
    if len(dice) < 2:
        return f"Fewer than two values of the {name} have been run in this edition: there is nothing to compare."
    best, worst = max(dice, key=dice.__getitem__), min(dice, key=dice.__getitem__)
    gaps = {v: paired(groups[v], groups[best], "predictor", "dice") for v in dice if v != best}
    tied = [v for v, (_, low, _) in gaps.items() if not low > 0]
    text = [
        f"The best {name} is {_value(best)}, with a test Dice of {100 * dice[best]:.1f} %; the worst is "
        f"{_value(worst)}, with {100 * dice[worst]:.1f} %: {_points(dice[best] - dice[worst])} apart."
    ]
    n, g = _count(groups[best])
    where = f"On these {n} test images from {g} group{'s' * (g != 1)}"
    if not all(np.isfinite(low) for _, low, _ in gaps.values()):
        text.append(f"{where} no interval can be drawn: nothing says which of these differences is noise.")
    elif tied:
        text.append(
            f"{where} {listed(map(_value, tied))} cannot be told from the best (the paired 95 % interval of the "
            "difference includes zero)."
        )
    else:
        text.append(f"{where} the best leads every other value by more than the paired 95 % interval.")
    text.append(_seed_noise(seeds) or "One seed a value: what another seed would change is not in the intervals.")
    numbers = [reported(field, v, groups[v][0].config.model)[0] for v in dice]
    known = [d for d in numbers if d is not None]
    if len(known) > 1:
        text.append(
            f"Over the same settings the Dice {REPORTED} spans {max(known) - min(known):.1f} points, "
            "with another model on other data."
        )
    return " ".join(text)


def cases_sentence(cases: pd.DataFrame) -> str:
    """What the shown test cases say, and that the study's are other images."""
    gains = cases["adapted"] - cases["frozen"]
    better = int((gains > 0).sum())
    theirs = STUDY["test_cases"].values()
    return (
        f"The adapted model's Dice is higher than the frozen one's in {better} of the {len(cases)} cases; the change "
        f"runs from {gains.min():+.1f} to {gains.max():+.1f} points. {REPORTED.capitalize()}: from "
        f"{min(b - a for a, b in theirs):+.1f} to {max(b - a for a, b in theirs):+.1f} points, on four other images."
    )


def left_out_sentence(edition: Edition, experiment: str) -> str:
    """Which runs of an experiment this edition does not have; an empty text where it has them all."""
    if names := edition.left_out(experiment):
        return f"Not run for this edition: {listed(names)}."
    if not edition.experiments.get(experiment):
        return "This edition has no runs of this experiment; the profile `emps` lists them."
    return ""


def _seed_noise(seeds: Sequence[Record]) -> str:
    means = [interval([r], "predictor", "dice")["mean"] for r in seeds]
    means = [m for m in means if np.isfinite(m)]
    if len(means) < 2:
        return ""
    spread = _points(max(means) - min(means))
    return f"Seeds alone move the Dice too: {len(means)} seeds of the main configuration lie {spread} apart."


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _points(change: float) -> str:
    return f"{100 * change:.1f} points"


def _count(records: Sequence[Record]) -> tuple[int, int]:
    rows = test_rows(records, "predictor", "dice")
    return len(rows), rows["group"].nunique()
