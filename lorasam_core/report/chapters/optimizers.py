"""What the optimiser's weight decay does to an adapter: the same runs under AdamW and under Adam.

Imports no torch. Dice is the predictor's on the test images, in %, with bootstrap 95 % intervals over groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from lorasam_core.experiments.records import Record
from lorasam_core.report.chapters.comparisons import pivoted, seed_noise
from lorasam_core.report.phrases import listed, seed_limit, verdict
from lorasam_core.report.tables import by_value, paired, setting, shown

TITLES = {"adamw": "AdamW", "adam": "Adam"}  # in Adam the decay is part of the gradient
LOST = 0.01  # an update with less than this share of the norm that it has under AdamW is called lost
Series = Mapping[str, Sequence[Record]]


def by_optimizer(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Optimiser (in the words of TITLES, AdamW first) -> its runs; one that has no run is left out."""
    found = {title: [r for r in records if r.config.optimizer == name] for name, title in TITLES.items()}
    return {title: runs for title, runs in found.items() if runs}


def optimizer_display(table: pd.DataFrame, series: Series) -> pd.DataFrame:
    """A comparisons.series_table over learning rates as the reader sees it: a row a rate, Dice under each optimiser,
    and where both were run the paired difference; `series` are the runs of the table.
    """
    numbers = zip(*(table[column] for column in ("mean", "low", "high", "runs")), strict=True)
    text = [
        shown(mean / 100, low / 100, high / 100) + (f", {runs} seeds" if runs > 1 else "")
        for mean, low, high, runs in numbers
    ]
    rows = table.assign(text=text, series=[f"{title}: Dice, %" for title in table["series"]])
    out = pivoted(rows, "learning_rate", "series").sort_values("learning_rate", ascending=False, ignore_index=True)
    if shared := _shared(series):
        gains = {rate: paired(adam, adamw, "predictor", "dice") for rate, (adamw, adam) in shared.items()}
        said = {rate: shown(*gain, sign=True) for rate, gain in gains.items()}
        out["AdamW - Adam, points"] = [said.get(rate, "–") for rate in out["learning_rate"]]
    rates = [setting(rate) for rate in out["learning_rate"]]
    return out.assign(learning_rate=rates).rename(columns={"learning_rate": "learning rate"})


def seeds_noise(series: Series) -> float:
    """Points by which two single runs of one configuration may differ, where seeds differ most; NaN: not known."""
    found = [
        seed_noise(runs)["least"] for records in series.values() for runs in by_value(records, "learning_rate").values()
    ]
    return max(filter(math.isfinite, found), default=float("nan"))


def optimizer_sentence(series: Series, noise: float = float("nan")) -> str:
    """Paired differences AdamW - Adam at each learning rate that both have; says so where there is none.

    noise: points by which two single runs of one configuration may differ; NaN: not known.
    """
    kinds: dict[str, list[str]] = {"higher": [], "lower": [], "noisy": [], "tied": [], "open": []}
    for rate, (adamw, adam) in _shared(series).items():
        gain, low, high = paired(adam, adamw, "predictor", "dice")
        kind = verdict(100 * gain, 100 * low, 100 * high, seed_limit(noise, len(adam), len(adamw)))
        kinds[kind].append(f"{setting(rate)} ({shown(gain, low, high, sign=True)})")
    if not any(kinds.values()):
        return "No learning rate was run under both: there is nothing to compare."
    clear = [f"{kind} at {listed(kinds[kind])}" for kind in ("higher", "lower") if kinds[kind]]
    text = []
    if clear:
        text.append(
            "By learning rate, and by paired differences in points, the Dice under AdamW, measured against that under "
            f"Adam, is {', and '.join(clear)}."
        )
    if rest := [*kinds["tied"], *kinds["open"]]:
        text.append(f"The two cannot be told apart at {listed(rest)}.")
    if kinds["noisy"]:
        text.append(f"No more than other images and other seeds may do together: at {listed(kinds['noisy'])}.")
    return " ".join(text)


def at_shared_rate(series: Series) -> list[Record]:
    """Of each optimiser the run with the first seed, named after it, at the shared learning rate with most runs."""
    shared = _shared(series)
    if not shared:
        return []
    adamw, adam = max(shared.values(), key=lambda runs: sum(map(len, runs)))
    first = {title: min(runs, key=lambda r: r.config.seed) for title, runs in (("AdamW", adamw), ("Adam", adam))}
    return [record.named(title) for title, record in first.items()]


def norm_sentence(spectrum: pd.DataFrame) -> str:
    """How many updates Adam has lost beside AdamW; `spectrum`: a spectra.spectrum_table of runs named by TITLES.

    An empty text where one of the two has no spectrum.
    """
    norms = spectrum.pivot(index="matrix", columns="run", values="norm") if len(spectrum) else pd.DataFrame()
    if not {"Adam", "AdamW"} <= set(norms.columns):
        return ""
    both = norms.dropna()
    lost = int((both["Adam"] < LOST * both["AdamW"]).sum())
    return (
        f"The median norm is {both['Adam'].median():.2g} under Adam and {both['AdamW'].median():.2g} under AdamW. "
        f"Under Adam {lost} of the {len(both)} updates have less than a hundredth of their norm under AdamW."
    )


def _shared(series: Series) -> dict[float, tuple[list[Record], list[Record]]]:
    """Learning rate -> the runs under AdamW and under Adam, where there are both, the highest rate first."""
    if not set(TITLES.values()) <= set(series):
        return {}
    adamw, adam = (by_value(series[title], "learning_rate") for title in TITLES.values())
    return {rate: (adamw[rate], adam[rate]) for rate in sorted(set(adamw) & set(adam), reverse=True)}
