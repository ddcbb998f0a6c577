"""Differences in words: what a computed sentence may claim of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lorasam_core.report.tables import shown

UNCLEAR = "no detectable difference"
FEW = 6  # with fewer groups than this a percentile bootstrap is plainly too narrow


def few_groups(groups: int) -> str:
    """A warning that intervals over so few groups are too narrow; an empty text from six groups on."""
    if groups >= FEW:
        return ""
    if groups < 2:
        return "The test part has fewer than two groups: no interval can be drawn, and no difference is a finding."
    return (
        f"The test part has only {groups} groups: intervals over so few are too narrow, and a difference beyond them "
        "is a hint, not a finding."
    )


def difference(
    change: float, low: float, high: float, up: str = "a gain of", down: str = "a loss of",
    neither: str = "a difference of",
) -> str:  # fmt: skip
    """A difference (0 to 1) with its interval, in points; `up` or `down` only where the interval excludes zero."""
    if not np.isfinite(low):
        return f"{neither} {shown(change, sign=True)} points, on too few groups for an interval"
    if max(abs(change), abs(low), abs(high)) < 0.0005:
        return f"{neither} less than a tenth of a point"
    if low > 0:
        return f"{up} {shown(change, low, high)} points"
    if high < 0:
        return f"{down} {shown(-change, -high, -low)} points"
    return f"{neither} {shown(change, low, high, sign=True)} points, {UNCLEAR}"


def listed(items: Iterable[str]) -> str:
    """a, b, c -> "a, b and c"; nothing for none."""
    words = list(items)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
