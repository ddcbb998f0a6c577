"""Records -> sentences. What a page says about its numbers is computed from them, and claims no more than they show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lorasam_core.experiments.records import Edition, Record
from lorasam_core.report.phrases import difference, few_groups, listed
from lorasam_core.report.tables import (
    METRICS,
    adapted_runs,
    frozen_runs,
    interval,
    paired,
    shown,
    test_rows,
)
from lorasam_core.stats import judge, least_difference, seed_limit

SUBJECTS = (
    ("predictor", "dice", "Prompted with the whole image as a box, the predictor marks the particles with a Dice"),
    ("generator", "ap50", "The mask generator, prompting a grid of points, finds single particles with an AP50"),
    ("generator", "f1", "Painted into one image and matched one to one, its masks have an F1 at IoU 0.5"),
    (
        "generator_tuned",
        "f1",
        "With thresholds chosen on validation images, for each model and seed, its masks have an F1",
    ),
)
HEADLINE = (  # of the front page, a line each
    (("predictor", "dice"),),
    (("generator", "ap50"), ("generator", "f1"), ("generator_tuned", "f1")),
)
SHARED = ("generator", "f1", "F1 of single particles")
CHOSEN = (
    "generator_tuned",
    "f1",
    "F1 of single particles, with a mask generator's thresholds chosen on validation images,",
)
RIVALRY = (  # evaluator, metric, words
    ("predictor", "dice", "Dice of the foreground"),
    CHOSEN,
    SHARED,  # where no thresholds were chosen: under one pair for all it says most of whom the pair was chosen for
    ("generator", "ap50", "AP50 of single particles"),
)
UNDIVIDED = ("unet", "otsu")  # methods whose particles are the connected parts of a foreground
LOSSES = {"train_loss": "train loss", "val_loss": "validation loss", "val_miou": "validation mIoU"}


def seed_noise(seeds: Sequence[Record], evaluator: str = "predictor", metric: str = "dice") -> dict[str, float]:
    """What seeds alone do to a test metric: n, their number, and `least_difference`, in points."""
    means = np.array([100 * interval([record], evaluator, metric)["mean"] for record in seeds])
    means = means[np.isfinite(means)]
    return {"n": len(means), "least": least_difference(means)}


def headline(edition: Edition) -> list[str]:
    """The front page's findings, few enough to be read: the foreground, single particles, other methods; last, where it
    is so, that the groups are too few for intervals.
    """
    adapted = adapted_runs(edition)
    subjects = {(evaluator, metric): subject for evaluator, metric, subject in SUBJECTS}
    lines = [[_finding(edition, adapted, *key, subjects[key]) for key in keys] for keys in HEADLINE]
    said = [*(" ".join(filter(None, line)) for line in lines), rivals_sentence(edition)]
    return [*filter(None, said), *_too_few_groups(edition, adapted)]


def _finding(edition: Edition, adapted: Sequence[Record], evaluator: str, metric: str, subject: str) -> str:
    """One of SUBJECTS frozen and adapted, and the difference; an empty text where it was not measured."""
    frozen = frozen_runs(edition)
    before, after = interval(frozen, evaluator, metric), interval(adapted, evaluator, metric)
    if not np.isfinite(after["mean"]):
        return ""
    value = shown(after["mean"], after["low"], after["high"])
    if not np.isfinite(before["mean"]):
        return f"{subject} of {value} % after adapting."
    return (
        f"{subject} of {shown(before['mean'], before['low'], before['high'])} % frozen and {value} % adapted: "
        f"{gain_clause(frozen, adapted, evaluator, metric)}"
    )


def _too_few_groups(edition: Edition, adapted: Sequence[Record]) -> list[str]:
    """A warning where the test part has too few groups for its intervals, else nothing."""
    groups = max(test_rows(adapted, evaluator, metric)["group"].nunique() for evaluator, metric, _ in SUBJECTS)
    return list(filter(None, [few_groups(groups)] if groups else []))


def gain_clause(frozen: Sequence[Record], adapted: Sequence[Record], evaluator: str, metric: str) -> str:
    """The paired difference in words, held against other images and other seeds, and a full stop."""
    gain, noise = paired(frozen, adapted, evaluator, metric), seed_noise(adapted, evaluator, metric)
    text = difference(*gain)
    if _is_noisy(gain, noise):
        text += " on these images, no more than other images and other seeds may do together"
    return f"{text}."


def _is_noisy(gain: tuple[float, float, float], noise: dict[str, float]) -> bool:
    """Whether a `paired` difference from the frozen model is clear of zero, and within what `seed_noise` adds."""
    change, low, high = (100 * x for x in gain)
    return judge(change, low, high, seed_limit(noise["least"], 0, int(noise["n"]))) == "noisy"


def seeds_clause(adapted: Sequence[Record]) -> str:
    """For captions: how many seeds the adapted values are means of, and that intervals do not hold seeds."""
    what = "one seed" if len(adapted) == 1 else f"the mean of {len(adapted)} seeds"
    return f"Adapted: {what}; intervals reflect image sampling, not seed variance."


def outcomes_clause(edition: Edition) -> str:
    """For captions: which metrics to judge by, on how many images thresholds by validation were chosen, and which of
    the gains that are clear of zero are no more than seeds may add.
    """
    frozen, adapted = frozen_runs(edition), adapted_runs(edition)
    text = "The one to judge by is the predictor's Dice, our reading of the study's measure"
    chosen = max((record.config.filters for record in adapted), default=0)
    if not chosen:
        text += "; the others describe."
    else:
        text += (
            ", and of single particles the F1 with thresholds by validation; the others describe. Those thresholds "
            f"were chosen on up to {chosen} images, and no interval accounts for that choice."
        )
    noisy = [
        f"*{label}*"
        for label, *measure in METRICS
        if _is_noisy(paired(frozen, adapted, *measure), seed_noise(adapted, *measure))
    ]
    if noisy:
        text += f" Clear of zero, but no more than other images and other seeds may do together: {listed(noisy)}."
    return text


def rivals_sentence(edition: Edition) -> str:
    """How other methods, one run each, stand to the adapted model on the same images, by `stats.judge`; an empty
    text where there are none.
    """
    if "rivals" not in edition.experiments:
        return ""
    adapted = adapted_runs(edition)
    known = {record.run_id for record in (*adapted, *frozen_runs(edition))}
    rivals = [record for record in edition.experiment("rivals") if record.run_id not in known]
    said = []
    left_out = SHARED if math.isfinite(interval(adapted, *CHOSEN[:2])["mean"]) else CHOSEN
    for evaluator, metric, label in (asked for asked in RIVALRY if asked != left_out):
        least = seed_noise(adapted, evaluator, metric)["least"]
        kinds: dict[str, list[str]] = {"higher": [], "lower": []}
        for rival in rivals:
            gain, low, high = (100 * x for x in paired(adapted, [rival], evaluator, metric))
            kind = judge(gain, low, high, seed_limit(least, len(adapted), int(rival.metrics["steps"] > 0)))
            if kind in kinds:
                kinds[kind].append(f"*{rival.config.name}* ({gain:+.1f})")
            elif kind != "open":
                kinds.setdefault("not detectably different", []).append(f"*{rival.config.name}*")
        if parts := [f"{kind} for {listed(names)}" for kind, names in kinds.items() if names]:
            said.append(f"{label} is {'; '.join(parts)}.")
    if not said:
        return ""
    whole = [f"*{rival.config.name}*" for rival in rivals if rival.config.method in UNDIVIDED]
    if whole and any("particles" in words for words in said):
        said.append(
            f"Particles of {listed(whole)} are the connected parts of the foreground: those that touch are one."
        )
    return f"Other methods beside the adapted model, one run each, paired differences in points: {' '.join(said)}"


def curves_sentence(record: Record) -> str:
    """How a run went: steps, best validation step, last losses, time."""
    history, metrics = record.history, record.metrics
    there = [c for c in LOSSES if c in history and history[c].notna().any()]
    numbers = listed(f"{LOSSES[c]} {history[c].dropna().iloc[-1]:.3f}" for c in there)
    different = "" if record.config.objective == "semantic" else " The two losses ask for different things."
    return (
        f"Run {record.run_id} took {metrics['steps']:,} steps over {metrics['images_seen']:,} images in "
        f"{metrics['seconds'] / 60:.1f} minutes ({metrics['images_per_s']:.1f} images a second, validations included); "
        f"it ends at {numbers}. The adapter that is kept is the one of step {metrics['best_step']:,}, the best by "
        f"validation.{different}"
    )


def left_out_sentence(edition: Edition, experiment: str) -> str:
    """Which runs of an experiment this edition does not have; an empty text where it has them all."""
    if names := edition.left_out(experiment):
        return f"Not run for this edition: {listed([f'*{name}*' for name in names])}."
    if not edition.experiments.get(experiment):
        return "This edition has no runs of this experiment; the profile `emps` lists them."
    return ""


def in_part_sentence(edition: Edition) -> str:
    """How much of its experiments an edition was published without; an empty text where nothing is left out."""
    left = sum(len(edition.left_out(name)) for name in edition.experiments)
    if not left:
        return ""
    runs = left + len(edition.records)  # a run that stands in several experiments is one
    return f"Not finished: {left} of the {runs} runs that its profile lists have no result; each chapter names its own."
