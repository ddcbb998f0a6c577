"""A small data set of bright discs on a dark ground, for tests of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.draw import disk

from lorasam_core.data.sample import Sample
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.splits import Split


def disc_sample(i: int, shape: tuple[int, ...] = (80, 96), n: int = 5) -> Sample:
    """Image i, with up to n discs of 8 to 12 pixels radius, each its own instance."""
    rng = np.random.default_rng((5, i))
    labels = np.zeros(shape[:2], np.int32)
    for k in range(n):
        center = rng.integers(12, [shape[0] - 12, shape[1] - 12])
        labels[disk(center, rng.integers(8, 13), shape=shape[:2])] = k + 1
    bright = 120 * (labels > 0).reshape(*labels.shape, *[1] * (len(shape) - 2))
    return Sample((rng.integers(0, 60, shape) + bright).astype(np.uint8), labels, f"image{i}", f"specimen{i}")


def disc_set(train: int = 4, val: int = 2, shapes: Sequence[tuple[int, ...]] = ((80, 96), (96, 70, 3))) -> SampleSet:
    """Images of the given shapes in turn, each a specimen of its own; one more is the test image."""
    ids = [f"image{i}" for i in range(train + val + 1)]
    split = Split(tuple(ids[:train]), tuple(ids[train : train + val]), tuple(ids[train + val :]))

    def load(name: str) -> tuple[Sample, bool]:
        i = int(name.removeprefix("image"))
        return disc_sample(i, shapes[i % len(shapes)]), False

    return SampleSet("discs", "discs", {name: f"specimen{name[5:]}" for name in ids}, load, split)
