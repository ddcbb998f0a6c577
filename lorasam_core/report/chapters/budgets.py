"""What runs were given: training images, steps, minutes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from lorasam_core.experiments.records import Record
from lorasam_core.report.phrases import listed


def steps_note(records: Sequence[Record]) -> str:
    """The budget of what is compared, how long it took, and which runs were still improving when it ended."""
    runs = [record for record in {r.run_id: r for r in records}.values() if record.metrics.get("steps")]
    if not runs:
        return ""
    steps, images = ([r.metrics[key] for r in runs] for key in ("steps", "images_seen"))
    minutes = [r.metrics["seconds"] / 60 for r in runs]
    count = "The one trained run" if len(runs) == 1 else f"Each of the {len(runs)} trained runs"
    time = "less than a minute" if max(minutes) < 1 else f"{_span(minutes)} minutes"
    text = f"{count} took {_span(steps)} steps and saw {_span(images)} images, in {time} of wall time."
    last = [f"*{r.config.name}*" for r in runs if r.metrics.get("best_step") == r.metrics["steps"]]
    if not last:
        which = "It was not" if len(runs) == 1 else "Not one of them was"
        return f"{text} {which} at its best in its last validation."
    which = "all of them" if len(last) == len(runs) > 1 else listed(last)
    return (
        f"{text} The last validation was the best for {which}. The learning rate has fallen to zero there, so that "
        "this alone does not say whether a longer run would gain."
    )


def _span(values: Sequence[float]) -> str:
    low, high = format(min(values), ",.0f"), format(max(values), ",.0f")
    return low if low == high else f"{low} to {high}"
