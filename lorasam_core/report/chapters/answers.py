"""What an edition answers of the questions that the study leaves open, a line each. Imports no torch.

An answer is made from the records by the sentences of the chapter that it names, and claims no more than these. A
question to which the edition has no runs has no answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lorasam_core.experiments.records import Edition, Record
from lorasam_core.report import ablations as sweeps
from lorasam_core.report import findings
from lorasam_core.report.chapters import (
    comparisons,
    label_counts,
    optimizers,
    size_sentences,
    sizes,
    spectra,
    transfer_tables,
)
from lorasam_core.report.page import records_of
from lorasam_core.report.phrases import listed
from lorasam_core.report.tables import SETTING_NAMES, adapted_runs, frozen_runs, interval, paired, setting, shown

SWEEPS = {"learning_rate": "learning_rate", "batch_size": "batch_size"}  # field, and experiment: its page


def answers(edition: Edition) -> list[str]:
    """Lines of Markdown, a bold question each with its answer and the page that has the whole of it; none for an
    edition without an adapted run.
    """
    if not any(record.config.method == "lora" for record in edition.records):
        return []
    questions: tuple[tuple[str, Callable[[Edition], str], str], ...] = (
        ("Does the mask generator improve with the predictor?", _generator, "train"),
        ("Is it the rank, or the size of the step?", _rank, "rank"),
        *((f"Does the {SETTING_NAMES[field]} matter?", _sweep(field), page) for field, page in SWEEPS.items()),
        ("Which Adam?", _optimizer, "weight_decay"),
        ("Is what is trained also what is used?", _objective, "where"),
        ("Does it tell touching particles apart?", _touching, "train"),
        ("Are sizes read more truly?", _sizes, "sizes"),
        ("Would other test images or another seed give the same?", _seeds, "train"),
        ("Is LoRA needed?", findings.rivals_sentence, "rivals"),
        ("How many labelled images does it need?", _labels, "labels"),
        ("Does an adapter carry over to other material?", _transfer, "other_material"),
    )
    said = ((question, answer(edition), page) for question, answer, page in questions)
    return [f"**{question}** {text} See {{doc}}`/_generated/{page}`." for question, text, page in said if text]


def write(edition: Edition, path: Path) -> None:
    """The answers as paragraphs of a file for the book to include."""
    said = answers(edition) or ["This edition has no runs that answer any of them."]
    path.write_text("\n\n".join(said) + "\n", encoding="utf-8")


def _noise(runs: Sequence[Record], measure: str = "predictor_dice") -> float:
    return comparisons.seed_noise(runs, measure)["least"]


def _generator(edition: Edition) -> str:
    frozen, adapted = frozen_runs(edition), adapted_runs(edition)
    parts = []
    for evaluator, metric, what in (
        ("predictor", "dice", "the predictor's Dice shows"),
        ("generator", "dice", "the Dice of the mask generator's union"),
        ("generator", "f1", "the F1 of its masks"),
        ("generator_tuned", "f1", "the same with thresholds chosen for each model on validation images"),
    ):
        if math.isfinite(paired(frozen, adapted, evaluator, metric)[0]):
            clause = findings.gain_clause(frozen, adapted, evaluator, metric, spread=False)
            parts.append(f"{what} {clause.rstrip('.')}")
    return f"By adapting, {'; '.join(parts)}." if len(parts) > 1 else ""


def _spread(records: Sequence[Record], field: str, seeds: Sequence[Record], of: str = "From") -> str:
    """Range of the Dice over the values of a setting, and which of them are told from the highest."""
    noise = _noise(seeds)
    levels, kinds = sweeps.against_best(records, field, noise)
    if len(levels) < 2:
        return ""
    dice = {value: 100 * level for value, level in levels.items()}
    best = max(dice, key=dice.__getitem__)
    lower = [value for value, kind in kinds.items() if kind == "higher"]
    below = [f"{setting(value)} (by {dice[best] - dice[value]:.1f} points)" for value in lower]
    chance = "other images and seeds" if math.isfinite(noise) else "other images"
    if "open" in kinds.values():
        told = "there are too few groups to say what of it is chance"
    elif below:
        told = f"below it, by more than {chance} may do, lie {listed(below)}"
    else:
        told = f"no value is below it by more than {chance} may do"
    return (
        f"{of} {setting(min(dice))} to {setting(max(dice))} the predictor's Dice lies between "
        f"{min(dice.values()):.1f} and {max(dice.values()):.1f} %, highest at {setting(best)}; {told}."
    )


def _sweep(field: str) -> Callable[[Edition], str]:
    return lambda edition: _spread(records_of(edition, field), field, records_of(edition, "noise"))


def _rank(edition: Edition) -> str:
    ranks, seeds = records_of(edition, "rank"), records_of(edition, "noise")
    text = [_spread(ranks, "rank", seeds, "From rank")]
    for rule, runs in spectra.by_rule(ranks, records_of(edition, "scaling")).items():
        top = max(runs, key=lambda record: record.config.rank, default=None)
        same = [record for record in ranks if top and record.config.rank == top.config.rank]
        if rule != spectra.UNDIVIDED and top and same:
            kind, words = spectra.change(same[0], top, _noise(seeds))
            doubt = "" if kind in spectra.TOLD else ", which is not told from none"
            how = f"the Dice of an update {spectra.RULES[rule]} differs by {words} points{doubt}"
            text.append(f"At rank {top.config.rank} {how}.")
    lower = spectra.low_rate_sentence(records_of(edition, "scaling_low_rate"), _noise(seeds))
    return " ".join(filter(None, [*text, lower]))


def _optimizer(edition: Edition) -> str:
    series = optimizers.by_optimizer(records_of(edition, "optimizer"))
    return optimizers.optimizer_sentence(series, optimizers.seeds_noise(series)) if len(series) > 1 else ""


def _objective(edition: Edition) -> str:
    main, objectives = adapted_runs(edition), records_of(edition, "objective")
    records = comparisons.with_seeds([*objectives, *main], edition.records)
    table = comparisons.comparison_table(records, comparisons.shared_name(records, main))
    if len(table) < 2:
        return ""
    measures = comparisons.measured(table, ("predictor_dice", "ap50"))
    return " ".join(comparisons.comparison_sentence(table, measure, _noise(main, measure)) for measure in measures)


def _touching(edition: Edition) -> str:
    kinds = ("merges", "splits")
    return " ".join(filter(None, (findings.counts_sentence(edition, adapted_runs(edition), kind) for kind in kinds)))


def _seeds(edition: Edition) -> str:
    runs, text = adapted_runs(edition), []
    for evaluator, metric, what in (
        ("predictor", "dice", "the predictor's Dice"),
        ("generator_tuned", "f1", "the F1 of single particles, with thresholds chosen for each,"),
    ):
        found, images = findings.seed_noise(runs, evaluator, metric), interval(runs, evaluator, metric)
        if found["n"] > 1 and math.isfinite(images["mean"]):
            level = shown(images["mean"], images["low"], images["high"])
            text.append(
                f"Over {found['n']} seeds {what} has a standard deviation of {found['std']:.2f} points and a range of "
                f"{found['range']:.2f}; the mean is {level} %, with its interval over test images."
            )
    return " ".join(text)


def _sizes(edition: Edition) -> str:
    """The errors of sizes, with chosen thresholds where these particles were kept."""
    series = {"frozen": frozen_runs(edition), "adapted": adapted_runs(edition)}
    tuned = all(sizes.measured(runs, tuned=True) for runs in series.values())
    kept = {name: sizes.measured(runs, tuned) for name, runs in series.items()}
    if not kept["adapted"]:
        return ""
    which = "with thresholds chosen for each model" if tuned else "under the runs' own filters"
    return f"Masks are those {which}. {size_sentences.size_sentence(sizes.size_errors(kept, tuned))}"


def _labels(edition: Edition) -> str:
    fewer, total = records_of(edition, "labels"), int((edition.info.get("images") or {}).get("train", 0))
    if not fewer or not total:
        return ""
    main = adapted_runs(edition)
    unets = [record for record in records_of(edition, "rivals") if record.config.method == "unet"]
    records, noise = [*fewer, *main, *unets], _noise(main)
    enough = label_counts.enough_sentence(records, total, frozen_runs(edition), noise=noise)
    return f"{enough} {label_counts.catch_up_sentence(records, total, noise=noise)}"


def _transfer(edition: Edition) -> str:
    text = transfer_tables.transfer_sentence(transfer_tables.transfer_rows(edition))
    return "" if text == transfer_tables.NO_TRANSFER else text
