"""Rank: whether it or the size of the step counts, how much of it an adapter used, and what cutting it down costs.

Imports no torch. Dice is the predictor's on the test images, in %, with bootstrap 95 % intervals over groups.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from lorasam_core.experiments.records import Record
from lorasam_core.experiments.study import width_of
from lorasam_core.report.chapters.comparisons import pivoted, series_table
from lorasam_core.report.phrases import listed, verdict
from lorasam_core.report.tables import interval, paired, run_ids, setting, shown

UNDIVIDED = "none"  # the rule of a rank sweep whose factor is the same at every rank
ROOT = "alpha/sqrt(r)"  # keeps the norm of a random step at every rank; alpha/r keeps its effect on the loss
RULES = {UNDIVIDED: "not divided", ROOT: "divided by √r", "alpha/r": "divided by r"}
TOLERANCE = 1.0  # points of Dice that a cut may cost and still be called free
TOLD = ("higher", "lower")  # verdicts that tell two runs apart
BLOCK = re.compile(r"blocks\.(\d+)\.")
Rules = Mapping[str, Sequence[Record]]


# ------------------------------------------------------------------------------------------------- rank or step
def by_rule(ranks: Sequence[Record], scaled: Sequence[Record]) -> dict[str, list[Record]]:
    """Scaling rule -> its runs: those of a sweep with one factor under "none", and of `scaled` under their own rules,
    each with the run of the sweep whose rank has the same factor under both.
    """
    rules = {UNDIVIDED: list(ranks)}
    for rule in dict.fromkeys(record.config.scaling for record in scaled):
        own = [record for record in scaled if record.config.scaling == rule]
        asked = {"scaling": rule, "alpha": own[0].config.alpha}
        same = [r for r in ranks if math.isclose(r.config.replace(**asked).factor, r.config.factor, rel_tol=1e-4)]
        rules[rule] = sorted([*same, *own], key=lambda record: record.config.rank)
    return rules


def factor_sentence(records: Sequence[Record]) -> str:
    """How the runs of a rank sweep scale the update; an empty text for none."""
    if not records:
        return ""
    config = records[0].config
    alpha = "alpha equal to the rank" if config.alpha is None else f"alpha = {config.alpha:g}"
    text = f"These runs scale the update by `{config.scaling}` with {alpha}"
    same = all(math.isclose(record.config.factor, 1) for record in records)
    return f"{text}: a factor of 1 at every rank, called *{RULES[UNDIVIDED]}* below." if same else f"{text}."


def scaling_table(rules: Rules) -> pd.DataFrame:
    """One row a rule and rank: rank, rule (in the words of RULES), mean, low, high (Dice, %), runs, factor."""
    rules = {RULES[rule]: records for rule, records in rules.items()}
    table = series_table(rules, "rank").rename(columns={"series": "rule"})
    factors = {(rule, r.config.rank): r.config.factor for rule, records in rules.items() for r in records}
    table["factor"] = [factors[key] for key in zip(table["rule"], table["rank"], strict=True)]
    table.attrs["made_by"] = "lorasam_core.report.chapters.spectra.scaling_table"
    return table


def scaling_display(table: pd.DataFrame) -> pd.DataFrame:
    """A scaling_table as the reader sees it: a row a rank, for each rule the factor and the Dice."""
    numbers = zip(*(table[column] for column in ("factor", "mean", "low", "high")), strict=True)
    text = [f"{by:.3g}: {shown(mean / 100, low / 100, high / 100)}" for by, mean, low, high in numbers]
    rules = [f"{rule}: factor and Dice, %" for rule in table["rule"]]
    return pivoted(table.assign(text=text, rule=rules), "rank", "rule")


def scaling_sentence(rules: Rules, noise: float = float("nan")) -> str:
    """Whether the rank or the size of the step changes the Dice, at the ranks that all rules share; an empty text where
    one rule alone was run.

    noise: points by which two single runs of one configuration may differ; NaN: not known, which is then said.
    """
    rules = {rule: runs for rule, runs in rules.items() if len({r.config.rank for r in runs}) > 1}
    if UNDIVIDED not in rules or len(rules) < 2:
        return ""
    runs_of = {rule: {r.config.rank: r for r in runs} for rule, runs in rules.items()}
    ranks = sorted(set.intersection(*map(set, runs_of.values())))
    if len(ranks) < 2:
        return "The rules were run at too few of the same ranks to say whether the rank or the step counts."
    first, top = ranks[0], ranks[-1]
    text: list[str] = []
    over_rank: dict[str, bool] = {}
    at_top: dict[str, bool] = {}
    for rule, runs in runs_of.items():
        steps = {rank: change(runs[first], runs[rank], noise) for rank in ranks[1:]}
        over_rank[rule] = any(kind in TOLD for kind, _ in steps.values())
        words = listed(f"{by} at rank {rank}" for rank, (_, by) in steps.items())
        text.append(
            f"*{RULES[rule].capitalize()}*, the Dice differs from that at rank {first} by these points: {words}."
        )
        if rule != UNDIVIDED:
            kind, words = change(runs_of[UNDIVIDED][top], runs[top], noise)
            at_top[rule] = kind in TOLD
            text.append(f"At rank {top} it lies {words} points from *{RULES[UNDIVIDED]}*.")
    if ROOT in rules:
        chance = "other images and another seed" if math.isfinite(noise) else "other images"
        nothing = f"Nothing of this is more than {chance} can do: at this rate neither the rank nor the factor shows."
        text.append(_rank_or_step(over_rank, any(at_top.values()), top) or nothing)
    if not math.isfinite(noise):
        text.append("What another seed would change is not known.")
    return " ".join(text)


def _rank_or_step(over_rank: Mapping[str, bool], at_top: bool, top: int) -> str:
    """The answer, from what can be told apart: under each rule over the ranks; between the rules at the top rank. An
    empty text where nothing can.
    """
    divided = {rule: told for rule, told in over_rank.items() if rule != UNDIVIDED}
    between = f"at rank {top} the division makes a difference"
    if not over_rank[ROOT] and at_top:
        return f"Divided by √r, no change with the rank can be told, and {between}: this speaks for the step size."
    if len(divided) > 1 and all(divided.values()):
        if at_top:
            return f"The Dice changes with the rank under both divisions, and {between}: both count."
        return (
            f"The Dice changes with the rank under both divisions, and at rank {top} no difference between the rules "
            "can be told: this speaks for the rank."
        )
    if over_rank[ROOT]:
        other = "no change was shown" if "alpha/r" in over_rank else "nothing was run"
        step = f"{between}, so that the step counts; whether the rank does" if at_top else "whether that is the rank"
        return (
            f"The Dice changes with the rank where the update is {RULES[ROOT]}, which keeps the norm of a random step, "
            f"though not its effect on the loss; {RULES['alpha/r']}, which keeps that, {other}. So {step} stays open."
        )
    if any(over_rank.values()):
        return (
            f"The Dice changes with the rank under one rule, but at rank {top} the rules cannot be told apart: whether "
            "it is the rank or the step stays open."
        )
    return ""


def low_rate_sentence(records: Sequence[Record], noise: float = float("nan")) -> str:
    """The same question at a rate where a larger step helps: a low rank, and a high one with and without a division; an
    empty text where these were not run.

    noise: points by which two single runs of one configuration may differ; NaN: not known, which is then said.
    """
    if len(records) < 2:
        return ""
    base, *others = sorted(records, key=lambda record: (record.config.rank, -record.config.factor))
    kinds: dict[bool, str] = {}  # whether the factor is that of the low rank: what is found
    parts = []
    for record in others:
        kind, words = change(base, record, noise)
        kinds[math.isclose(record.config.factor, base.config.factor)] = kind
        parts.append(f"{words} points at rank {record.config.rank} with a factor of {record.config.factor:.3g}")
    text = [
        f"At a learning rate of {setting(base.config.learning_rate)} the Dice differs from that of rank "
        f"{base.config.rank} with a factor of {base.config.factor:.3g} by {listed(parts)}."
    ]
    if len(kinds) == 2 and "open" not in kinds.values():
        whole, divided = (kinds[equal] if kinds[equal] in TOLD else "tied" for equal in (True, False))
        chance = "other images and another seed" if math.isfinite(noise) else "other images"
        if whole == divided:
            answer = (
                f"Neither the rank nor the factor shows by more than {chance} may do." if whole == "tied"
                else "It changes alike at either factor: this speaks for the rank, not the step alone."
            )  # fmt: skip
        elif divided == "tied":
            answer = "A higher rank shows only where it takes larger steps: this speaks for the step."
        else:
            answer = "With the rank the same, the factor changes the answer: the step counts."
        text.append(answer)
    if not math.isfinite(noise):
        text.append("What another seed would change is not known.")
    return " ".join(text)


def change(before: Record, after: Record, noise: float) -> tuple[str, str]:
    """`phrases.verdict` of the predictor's Dice of two runs, and the paired difference in words."""
    gain, low, high = paired([before], [after], "predictor", "dice")
    return verdict(100 * gain, 100 * low, 100 * high, noise), shown(gain, low, high, sign=True)


# ------------------------------------------------------------------------------------------------- the rank used
def spectrum_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run and adapted matrix: run, rank (trained), possible (directions that a matrix of the encoder's width
    has room for), block, target, norm, effective_rank, rank_90, rank_99, matrix (its path); empty for records without a
    spectrum.
    """
    rows = []
    for record in records:
        for matrix in record.metrics.get("spectrum", []):
            place = BLOCK.search(matrix["matrix"])
            block = int(place[1]) if place else -1
            possible = min(record.config.rank, width_of(record.config.model))
            row = {"run": record.config.name, "rank": record.config.rank, "possible": possible, "block": block}
            rows.append(row | {"target": matrix["matrix"].rsplit(".", 1)[-1], **matrix})
    columns = ["run", "rank", "possible", "block", "target", "norm", "effective_rank", "rank_90", "rank_99", "matrix"]
    table = pd.DataFrame(rows, columns=columns)
    runs = [record for record in records if record.metrics.get("spectrum")]
    table.attrs.update(made_by="lorasam_core.report.chapters.spectra.spectrum_table", runs=run_ids(runs))
    return table


def used_table(spectrum: pd.DataFrame) -> pd.DataFrame:
    """One row a run of a spectrum_table: run, rank, possible, matrices, norm (median), and over the matrices
    effective_rank (median), least, most, rank_90 and rank_99 (medians).
    """
    table = spectrum.groupby(["run", "rank", "possible"], sort=False, as_index=False).agg(
        matrices=("matrix", "size"), norm=("norm", "median"), effective_rank=("effective_rank", "median"),
        least=("effective_rank", "min"), most=("effective_rank", "max"), rank_90=("rank_90", "median"),
        rank_99=("rank_99", "median"),
    )  # fmt: skip
    table.attrs.update({**spectrum.attrs, "made_by": "lorasam_core.report.chapters.spectra.used_table"})
    return table


def used_display(table: pd.DataFrame) -> pd.DataFrame:
    """A used_table as the reader sees it."""
    span = zip(table["effective_rank"], table["least"], table["most"], strict=True)
    out = pd.DataFrame({
        "run": table["run"], "trained rank": [f"{rank}" for rank in table["rank"]],
        "matrices": [f"{n}" for n in table["matrices"]], "norm, median": [f"{norm:.3g}" for norm in table["norm"]],
        "effective rank, median (least to most)": [f"{mid:.1f} ({low:.1f} to {high:.1f})" for mid, low, high in span],
        "directions of 90 % of the energy, median": [f"{n:g}" for n in table["rank_90"]],
        "directions of 99 % of the energy, median": [f"{n:g}" for n in table["rank_99"]],
    })  # fmt: skip
    out.attrs.update(table.attrs)
    return out


def used_sentence(spectrum: pd.DataFrame) -> str:
    """How many directions the updates used, by trained rank and by target; an empty text for an empty table."""
    if not len(spectrum):
        return ""
    table = used_table(spectrum)
    top = table.iloc[int(table["rank"].argmax())]
    text = (
        f"The {top['matrices']} updates of *{top['run']}* have a median effective rank of {top['effective_rank']:.1f}, "
        f"from {top['least']:.1f} to {top['most']:.1f}; half of them hold 99 % of their energy in "
        f"{top['rank_99']:g} directions or fewer, of {top['possible']} that an update of rank {top['rank']} can have."
    )
    low = table.iloc[int(table["rank"].argmin())]
    if low["rank"] < top["rank"]:
        text += f" At rank {low['rank']} (*{low['run']}*) the median is {low['effective_rank']:.1f}."
    by_target = spectrum[spectrum["run"] == top["run"]].groupby("target")["effective_rank"].median().sort_values()
    if len(by_target) > 1:
        ends = [f"{by_target.iloc[k]:.1f} for {by_target.index[k]}" for k in (0, -1)]
        text += f" By target the median of *{top['run']}* goes from {ends[0]} to {ends[1]}."
    return text


# ------------------------------------------------------------------------------------------------- truncation
def truncation_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run and kept rank: run, rank (trained), kept, dice, low, high (%), the whole adapter (kept = rank)
    last; empty for records whose adapters were not cut down.
    """
    rows = []
    cut = [record for record in records if record.metrics.get("truncated")]
    for record in cut:
        found = {
            int(kept): value for kept, value in record.metrics["truncated"].items() if int(kept) < record.config.rank
        }
        for kept, value in [*sorted(found.items()), (record.config.rank, interval([record], "predictor", "dice"))]:
            row = {"run": record.config.name, "rank": record.config.rank, "kept": kept}
            rows.append(row | {"dice": 100 * value["mean"], "low": 100 * value["low"], "high": 100 * value["high"]})
    table = pd.DataFrame(rows, columns=["run", "rank", "kept", "dice", "low", "high"])
    table.attrs.update(made_by="lorasam_core.report.chapters.spectra.truncation_table", runs=run_ids(cut))
    return table


def truncation_sentence(table: pd.DataFrame) -> str:
    """What cutting each adapter down costs, and the smallest rank that costs little; an empty text for no row."""
    text = []
    for run, rows in table.groupby("run", sort=False):
        whole, cut = rows.iloc[-1], rows.iloc[:-1]
        if not len(cut):
            continue
        change = cut["dice"] - whole["dice"]
        steps = [f"{step:+.1f} with {kept}" for kept, step in zip(cut["kept"], change, strict=True)]
        text.append(
            f"Cut down to its largest singular values, without training, the adapter of *{run}* ({whole['dice']:.1f} % "
            f"with all {whole['rank']}) changes by these points of Dice: {listed(steps)} kept."
        )
        dear = cut[change < -TOLERANCE]["kept"].max() if (change < -TOLERANCE).any() else 0
        free = cut[cut["kept"] > dear]["kept"]
        smallest = f"{free.min()}" if len(free) else "none of these"
        text.append(f"The smallest rank from which on a cut costs no more than {TOLERANCE:g} point: {smallest}.")
    return " ".join(text)
