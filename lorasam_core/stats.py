"""What results pages compute with: means and paired differences with intervals, what seeds do, what may be claimed.

All on tidy tables of scores (`records.load`): a row a run, image and measure, with columns run, id, group and value,
and whatever setting was merged in to group by. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL, RESAMPLES = 0.95, 2000
NEITHER, OPEN = "no detectable difference", "too few groups"


def bootstrap_interval(
    values: ArrayLike, groups: Sequence[Any] | NDArray[Any], level: float = LEVEL, n: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of per-image values with a percentile bootstrap interval over groups: (mean, low, high).

    Images of one specimen or paper are not independent, so whole groups are drawn with replacement, n times, and
    the mean is taken over all images in them (percentile intervals: Efron and Tibshirani 1993, chapter 13, whose draws
    are single values; here they are whole groups). `values` (N,) may hold NaN (nothing to measure on that image), which
    are left out. Fewer than two groups: low and high are NaN, and so is the mean when no value is left. Raises
    ValueError when there is not one group a value.
    """
    data = np.asarray(values, dtype=np.float64)
    names = np.asarray(groups)
    if data.ndim != 1 or names.shape != data.shape:
        raise ValueError(f"values has shape {data.shape} and groups {names.shape}; give one group a value.")
    data, names = data[~np.isnan(data)], names[~np.isnan(data)]
    if data.size == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(data.mean())
    index = np.unique(names, return_inverse=True)[1]
    counts = np.bincount(index)
    if counts.size < 2:
        return mean, float("nan"), float("nan")
    sums = np.bincount(index, weights=data)
    draws = np.random.default_rng(seed).integers(counts.size, size=(n, counts.size))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)


def mean_interval(scores: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """Mean value of each group of rows, with its bootstrap interval over specimens or papers.

    scores: a row a run and image; by: the columns whose values make a row of the result. Several runs of one row are
    its seeds: an image counts with its mean over them. Returns by, mean, low, high (as the values: 0 to 1 for Dice),
    images, groups, runs. Intervals reflect the sampling of images, not the variance of seeds.
    """
    keys = [by] if isinstance(by, str) else list(by)
    rows = []
    for values, part in scores.groupby(keys, sort=False, dropna=False):
        images = _by_image(part)
        mean, low, high = bootstrap_interval(images["value"], images["group"].to_numpy())
        counts = {"images": len(images), "groups": images["group"].nunique(), "runs": part["run"].nunique()}
        rows.append(dict(zip(keys, values, strict=True)) | {"mean": mean, "low": low, "high": high} | counts)
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "images", "groups", "runs"])


def paired(scores: pd.DataFrame, by: str, reference: Any) -> pd.DataFrame:
    """Mean difference of each value of `by` to `reference`, on the images that both have, with its bootstrap interval.

    Returns by, reference, difference, low, high, images, groups, and runs and reference_runs, the seeds behind either
    side; no row for the reference itself. Raises ValueError where no row has the reference.
    """
    base = scores[scores[by] == reference]
    if base.empty and len(scores):
        raise ValueError(f"no row has {by} {reference!r}; there are {', '.join(map(str, scores[by].unique()))}.")
    before, rows = _by_image(base), []
    for value, part in scores[scores[by] != reference].groupby(by, sort=False):
        both = _by_image(part).merge(before, on=["id", "group"], suffixes=("", "_before"))
        change, low, high = bootstrap_interval(both["value"] - both["value_before"], both["group"].to_numpy())
        row = {by: value, "reference": reference, "difference": change, "low": low, "high": high, "images": len(both)}
        row |= {"groups": both["group"].nunique(), "runs": part["run"].nunique()}
        rows.append(row | {"reference_runs": base["run"].nunique()})
    names = [by, "reference", "difference", "low", "high", "images", "groups", "runs", "reference_runs"]
    return pd.DataFrame(rows, columns=names)


def _by_image(scores: pd.DataFrame) -> pd.DataFrame:
    """id, group and value, the mean over runs; images with no value are left out."""
    return scores.dropna(subset=["value"]).groupby(["id", "group"], sort=False)["value"].mean().reset_index()


def seed_noise(scores: pd.DataFrame) -> float:
    """`least_difference` of the runs in a table of scores: rows of several seeds of one configuration."""
    return least_difference(scores.groupby("run")["value"].mean().dropna())


def least_difference(means: ArrayLike) -> float:
    """How far two single runs of one configuration may differ by seed alone, in 19 of 20 cases; NaN for one run.

    means: (n,), a run's mean each. t(0.975, n - 1) * sqrt(2) * s, half a 95 % prediction interval for the difference
    of two runs: s is the standard deviation of the n means, and Student's t allows for an s from few runs.
    """
    values = np.asarray(means, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(2) * float(values.std(ddof=1))


def seed_limit(least: float, before: int, after: int) -> float:
    """What seeds alone may do to a difference of means over `before` and `after` seeds; 0 seeds: nothing is trained.

    least: what they may do to that of two single runs (`least_difference`); NaN stays NaN.
    """
    shares = [1 / seeds for seeds in (before, after) if seeds]
    return least * math.sqrt(sum(shares) / 2)


def judge(change: float, low: float, high: float, noise: float = math.nan) -> str:
    """higher or lower; tied (the interval holds zero); open (no interval); noisy (clear of zero, until noise is added).

    noise: what seeds alone may do to this difference (`seed_limit`), added to the interval's half as the root of the
    sum of squares; NaN: not known, and left out.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return "open"
    if low <= 0 <= high:
        return "tied"
    half = change - low if change > 0 else high - change
    if math.isfinite(noise) and abs(change) <= math.hypot(half, noise):
        return "noisy"
    return "higher" if change > 0 else "lower"


def verdict(differences: pd.DataFrame, noise: float = math.nan, untrained: Sequence[Any] = ()) -> pd.DataFrame:
    """The table of `paired` with columns `verdict`, what may be claimed of each difference (`judge`), and `seeds`, what
    seeds alone may do to it.

    higher or lower: clear of zero by more than images and seeds together may do; otherwise "no detectable difference",
    which does not mean that there is none; "too few groups" without an interval. noise: `seed_noise`, for two single
    runs (NaN: not known, and left out); it falls with the seeds behind each side, and values in `untrained` (first
    column) have none.
    """
    words, by, kinds, limits = {"tied": NEITHER, "noisy": NEITHER, "open": OPEN}, differences.columns[0], [], []
    for row in differences.to_dict("records"):
        sides = ((row["reference"], row["reference_runs"]), (row[by], row["runs"]))
        before, after = (0 if value in untrained else int(runs) for value, runs in sides)
        limits.append(seed_limit(noise, before, after))
        kind = judge(row["difference"], row["low"], row["high"], limits[-1])
        kinds.append(words.get(kind, kind))
    return differences.assign(seeds=limits, verdict=kinds)


def compared(scores: pd.DataFrame, by: str, reference: Any, seeds: Any, untrained: Sequence[Any] = ()) -> pd.DataFrame:
    """`mean_interval` of each value of `by`, with its paired difference to `reference` and the `verdict` on it.

    seeds: the value whose runs say what seeds do (`seed_noise`). Adds the texts `mean, %`, `difference, points` and
    `verdict`; the latter two are "–" for the reference, and for all where no row has it.
    """
    table, change = mean_interval(scores, by), ["difference, points", "verdict"]
    table["mean, %"] = as_text(table)
    if reference not in set(scores[by]):
        return table.assign(**dict.fromkeys(change, "–"))
    found = verdict(paired(scores, by, reference), seed_noise(scores[scores[by] == seeds]), untrained)
    found["difference, points"] = as_text(found, sign=True)
    return table.merge(found[[by, *change]], how="left").fillna(dict.fromkeys(change, "–"))


def shown(mean: float, low: float = float("nan"), high: float = float("nan"), sign: bool = False) -> str:
    """0.8123, 0.79, 0.83 -> "81.2 [79.0, 83.0]", in %, unbroken in the brackets; "–" where nothing was measured."""
    plus = "+" if sign else ""
    style = f"{plus}.1f"
    if not np.isfinite(mean):
        return "–"
    around = f" [{100 * low:{style}},\u00a0{100 * high:{style}}]" if np.isfinite(low) and np.isfinite(high) else ""
    return format(100 * mean, f"{plus}z.1f") + around  # no -0.0; an end of the interval keeps its sign


def as_text(table: pd.DataFrame, sign: bool = False) -> pd.Series:
    """A column of text of a table of means (mean, low, high) or of differences (difference, low, high); `shown`."""
    name = "mean" if "mean" in table else "difference"
    rows = table[[name, "low", "high"]].to_numpy(float).tolist()
    return pd.Series([shown(mean, low, high, sign) for mean, low, high in rows], table.index, dtype=object)
