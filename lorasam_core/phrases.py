"""Differences in words: what a computed sentence may claim of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lorasam_core.tables import shown

UNCLEAR = "which these images cannot tell from none"


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
