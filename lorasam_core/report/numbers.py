"""Numbers in sentences: a person writes the sentence and names the number, the records give it. Imports no torch.

    {{ rank / rank 32 / predictor dice }}              72.4: the mean over test images, in %
    {{ main / main* / predictor dice }}                a pattern: the mean over several seeds
    {{ rank / rank 256 - rank 32 / predictor dice }}   -0.1 [-0.9, +0.6]: paired, in points, with its 95 % interval
    {{ rank / rank 32 / steps }}                       600: a column of the edition's table of runs

Experiment, run and measure are those of `records.Edition.runs` and `scores`.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import Any

import pandas as pd

from lorasam_core import stats
from lorasam_core.experiments.records import Edition

PLACE = re.compile(r"\{\{([^{}/]+)/([^{}/]+)/([^{}/]+)\}\}")


def fill(text: str, edition: Edition) -> str:
    """The text with every place filled; raises ValueError, which names the place, for a number that no record has."""
    return PLACE.sub(lambda found: number(edition, *(" ".join(part.split()) for part in found.groups())), text)


def number(edition: Edition, experiment: str, runs: str, measure: str) -> str:
    """One number as it stands in a sentence; see the module. Raises ValueError where no record has it."""
    place = f"{{{{ {experiment} / {runs} / {measure} }}}}"
    names = runs.split(" - ")
    if measure in edition.runs:
        values = [_named(edition.runs[edition.runs["experiment"] == experiment], name)[measure] for name in names]
        if len(values) == 1 and values[0].nunique() == 1:
            return _plain(values[0].iloc[0])
        raise ValueError(f"{place} is not one number in the edition {edition.name}; name runs that share it.")
    scores = edition.scores[edition.scores["measure"] == measure].merge(
        edition.runs.loc[edition.runs["experiment"] == experiment, ["run", "name"]], on="run"
    )
    parts = [_named(scores, name).assign(side=name) for name in names]
    if any(part.empty for part in parts):
        raise ValueError(f"{place} has no record in the edition {edition.name}; correct it, or leave the sentence out.")
    if len(parts) == 1:
        return f"{100 * stats.mean_interval(parts[0], 'side')['mean'].iloc[0]:.1f}"
    row = stats.paired(pd.concat(parts), "side", names[1]).iloc[0]
    return stats.shown(row["difference"], row["low"], row["high"], sign=True)


def _named(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """Rows whose name fits the pattern."""
    return table[[fnmatch(name, pattern) for name in table["name"]]]


def _plain(value: Any) -> str:
    """A setting in a sentence: 147,456; 0.001; a text as it is."""
    if isinstance(value, str):
        return value
    number = float(value)
    return f"{int(number):,}" if number.is_integer() else f"{number:.10f}".rstrip("0")
