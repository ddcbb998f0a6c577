"""What went wrong with each particle: two label images -> the kind of error of every particle and instance.

A labelled particle is of the first kind that fits:

- *found*: matched one to one with an instance at an IoU of 0.5 or more, in the largest matching, as in `metrics.f1`;
- *merged*: at least half of it lies under an instance that covers at least half of another particle too;
- *split*: two instances or more lie in it, each with at least half of its own area;
- *missed*: less than half of it lies under any instance;
- *outline off*: covered, and yet not matched.

An instance is *invented* where it is not matched, lies outside all particles with more than half of its area, and
covers no particle by half. Merges and splits are those of `metrics.merges_and_splits`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from lorasam_core.measure.metrics import contingency

PARTICLES = ("found", "merged", "split", "missed", "outline off")
KINDS = (*PARTICLES, "invented")


def kinds(found: NDArray[Any], true: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The kind of every labelled particle (one of PARTICLES) and of every instance ("found", "invented" or ""), each
    an array of str in ascending id.

    found, true: label images, int (H, W), 0 is background. Raises ValueError as `metrics.contingency` does.
    """
    shared, found_area, true_area = contingency(found, true)
    partner = np.full(len(true_area), -1)  # of every particle, the instance that it is matched with
    if shared.size:
        iou = shared / (found_area[:, None] + true_area[None, :] - shared)
        partner = sparse.csgraph.maximum_bipartite_matching(sparse.csr_array(iou >= 0.5), perm_type="row")
    covers, lies = 2 * shared >= true_area[None, :], 2 * shared >= found_area[:, None]
    cases = {
        "found": partner >= 0,
        "merged": covers[covers.sum(axis=1) >= 2].any(axis=0),
        "split": lies.sum(axis=0) >= 2,
        "missed": 2 * shared.sum(axis=0) < true_area,
    }
    of_true = np.select(list(cases.values()), list(cases), "outline off")
    matched = np.isin(np.arange(len(found_area)), partner)
    outside = (2 * shared.sum(axis=1) < found_area) & ~covers.any(axis=1)
    return of_true, np.select([matched, outside], ["found", "invented"], "")


def kind_map(found: NDArray[Any], true: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture of `kinds`, uint8 (H, W): 1 + the place in KINDS, 0 for the ground and where two particles touch.

    Particles lie over invented instances; other instances are not drawn.
    """
    out = np.zeros(true.shape, np.uint8)
    of_true, of_found = kinds(found, true)
    for labels, names in ((found, np.where(of_found == "invented", of_found, "")), (true, of_true)):
        for value, name in zip(np.unique(labels[labels > 0]), names, strict=True):
            if name:
                out[labels == value] = 1 + KINDS.index(name)
    out[(true > 0) & (ndimage.maximum_filter(true, 3) > true)] = 0
    return out
