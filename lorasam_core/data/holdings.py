"""What the parts of a data set hold, for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lorasam_core.data.sample import Sample


def holdings(parts: Mapping[str, Sequence[Sample]]) -> pd.DataFrame:
    """One row a part, as text: labelled particles in all; of its images the median, least and most particles, share of
    pixels in particles (%) and longer side (pixels); and how many images have a scale. Every image is read.
    """
    rows = []
    for part, samples in parts.items():
        found = pd.DataFrame([_of(sample) for sample in samples])
        rows.append({
            "part": part, "particles": f"{found['particles'].sum():,}",
            "particles an image": _spread(found["particles"]), "covered by them, %": _spread(found["covered"]),
            "longer side, pixels": _spread(found["side"]), "images with a scale": str(found["scale"].sum()),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs["made_by"] = "lorasam_core.data.holdings.holdings"
    return table


def _of(sample: Sample) -> dict[str, float]:
    count = int(np.count_nonzero(np.unique(sample.labels)))
    share = 100 * float(sample.foreground.mean())
    return {"particles": count, "covered": share, "side": max(sample.shape), "scale": sample.pixel_size is not None}


def _spread(values: pd.Series) -> str:
    return f"{values.median():.0f} ({values.min():.0f} to {values.max():.0f})"
