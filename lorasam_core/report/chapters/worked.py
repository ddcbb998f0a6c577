"""The metrics worked by hand on a few particles, step by step, as tables and sentences. Imports no torch.

Pixels are counted in the plainest way, without `metrics`, so that a page can hold one against the other; of `metrics`
only the bootstrap is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lorasam_core.stats import bootstrap_interval

SHAPE = (12, 18)
# first and last row, first and last column of each particle and of each prediction
TRUE = ((1, 4, 1, 5), (1, 4, 8, 10), (1, 4, 12, 14), (7, 10, 1, 6), (7, 10, 9, 11))
PREDICTED = ((1, 4, 1, 4), (1, 4, 8, 14), (7, 10, 1, 4), (7, 10, 5, 6), (8, 10, 14, 16))
SCORES = (0.95, 0.90, 0.80, 0.50, 0.60)
CUT = ((1, 4, 8, 11), (1, 4, 12, 14))  # what the second prediction becomes where it is cut
CUT_SCORES = (0.90, 0.85)
WHOLE_GROUPS, SINGLE_IMAGES = "whole groups", "single images"


class Example(NamedTuple):
    """Label images int32 (12, 18), true and predicted, and the score float64 (N,) of each prediction."""

    true: NDArray[np.int32]
    pred: NDArray[np.int32]
    scores: NDArray[np.float64]


def example(cut: bool = False) -> Example:
    """Five particles: one found (1), two merged (2 and 3), one split (4), one missed (5); one prediction is spurious.

    cut: the merged prediction is cut in two, into the predictions 2 and 6, of the same pixels.
    """
    found, scores = list(PREDICTED), list(SCORES)
    if cut:
        found[1], scores[1] = CUT[0], CUT_SCORES[0]
        found.append(CUT[1])
        scores.append(CUT_SCORES[1])
    return Example(_labels(TRUE), _labels(tuple(found)), np.array(scores))


def _labels(rectangles: tuple[tuple[int, int, int, int], ...]) -> NDArray[np.int32]:
    labels: NDArray[np.int32] = np.zeros(SHAPE, np.int32)
    for number, (top, bottom, left, right) in enumerate(rectangles, start=1):
        labels[top : bottom + 1, left : right + 1] = number
    return labels


def instances(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """The masks bool (N, H, W) of a label image int (H, W), in ascending id."""
    ids = np.unique(labels[labels > 0])
    masks: NDArray[np.bool_] = labels[None] == ids[:, None, None]
    return masks


# ------------------------------------------------------------------------------------------------- instances
def pair_table(pred: NDArray[Any], true: NDArray[Any]) -> pd.DataFrame:
    """Every prediction and particle of two label images (H, W) that share a pixel, one row a pair.

    Columns: prediction and particle (ids), common (pixels), of prediction and of particle (their pixels), union, iou.
    """
    rows = []
    for p in np.unique(pred[pred > 0]):
        for t in np.unique(true[(pred == p) & (true > 0)]):
            common, both = int(((pred == p) & (true == t)).sum()), int(((pred == p) | (true == t)).sum())
            rows.append((int(p), int(t), common, int((pred == p).sum()), int((true == t).sum()), both, common / both))
    columns = ["prediction", "particle", "common", "of prediction", "of particle", "union", "iou"]
    return pd.DataFrame(rows, columns=columns).astype({c: int for c in columns[:-1]})


def precision_recall(pred: NDArray[Any], scores: ArrayLike, true: NDArray[Any], threshold: float = 0.5) -> pd.DataFrame:
    """COCO's matching, one row a prediction in descending score.

    pred (N, H, W), scores (N,), true (M, H, W): boolean masks, which may overlap; M at least 1. Columns: prediction
    (number from 1), score, particle (number of the free one with the highest IoU, 0 without any), iou with it, hit,
    TP and FP so far, precision TP / (TP + FP), recall TP / M, envelope (highest precision from this row on).
    """
    rows, free = [], set(range(len(true)))
    for i in np.argsort(-np.asarray(scores, dtype=float), kind="stable"):
        overlaps = {j: _iou(pred[i], true[j]) for j in sorted(free)}
        best = max(reversed(overlaps), key=overlaps.__getitem__, default=None)  # of equal ones the last, as COCO does
        value = 0.0 if best is None else overlaps[best]
        hit = best is not None and value >= threshold
        free -= {best} if hit else set()
        rows.append((int(i) + 1, np.asarray(scores)[i], best + 1 if best is not None and value else 0, value, hit))
    table = pd.DataFrame(rows, columns=["prediction", "score", "particle", "iou", "hit"])
    table["TP"] = table["hit"].astype(int).cumsum()
    table["FP"] = (~table["hit"].astype(bool)).cumsum()
    table["precision"] = table["TP"] / (table["TP"] + table["FP"])
    table["recall"] = table["TP"] / len(true)
    table["envelope"] = table["precision"][::-1].cummax()[::-1]
    return table


def _iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0


def at_recalls(table: pd.DataFrame) -> pd.DataFrame:
    """The envelope of `precision_recall` at COCO's 101 recalls: columns recall, precision (0 where never reached).

    Its mean precision is the average precision.
    """
    recalls = np.linspace(0, 1, 101)
    reached = [table.loc[table["recall"] >= r, "envelope"] for r in recalls]
    return pd.DataFrame({"recall": recalls, "precision": [float(e.iloc[0]) if len(e) else 0.0 for e in reached]})


def shown_steps(table: pd.DataFrame) -> pd.DataFrame:
    """`precision_recall` as text for readers."""
    return pd.DataFrame({
        "prediction": table["prediction"].astype(str),
        "score": table["score"].map("{:.2f}".format),
        "best free particle": table["particle"].map(lambda j: str(j) if j else "–"),
        "IoU": table["iou"].map("{:.2f}".format),
        "hit": table["hit"].map({True: "yes", False: "no"}),
        "TP": table["TP"].astype(str),
        "FP": table["FP"].astype(str),
        "precision": table["precision"].map("{:.2f}".format),
        "recall": table["recall"].map("{:.2f}".format),
        "envelope": table["envelope"].map("{:.2f}".format),
    })  # fmt: skip


# ------------------------------------------------------------------------------------------------- intervals
def images_in_groups(
    rng: np.random.Generator, groups: int = 12, images: int = 6, mean: float = 0.7, between: float = 0.08,
    within: float = 0.04,
) -> pd.DataFrame:  # fmt: skip
    """Values of images whose groups differ: columns group, value; one row an image.

    between, within: standard deviations of the groups' means, and of the images around that of their group.
    """
    centres = rng.normal(mean, between, groups)
    values = rng.normal(np.repeat(centres, images), within)
    return pd.DataFrame({"group": np.repeat(np.arange(groups), images), "value": values})


def two_intervals(values: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """The bootstrap interval drawn in two ways: by group, and as if every image were a group of its own.

    Columns: drawn, units (how many there are to draw), mean, low, high.
    """
    each = {WHOLE_GROUPS: np.asarray(groups), SINGLE_IMAGES: np.arange(len(np.asarray(values)))}
    rows = [(name, len(np.unique(names)), *bootstrap_interval(values, names)) for name, names in each.items()]
    return pd.DataFrame(rows, columns=["drawn", "units", "mean", "low", "high"])


def coverage(repeats: int = 200, seed: int = 0, mean: float = 0.7, **settings: Any) -> pd.DataFrame:
    """Both intervals of many sets of images, and whether each holds the true mean.

    settings: of `images_in_groups`. Columns: set (from 1), drawn, mean, low, high, holds.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(1, repeats + 1):
        images = images_in_groups(rng, mean=mean, **settings)
        parts.append(two_intervals(images["value"], images["group"]).assign(set=number))
    table = pd.concat(parts, ignore_index=True)
    table["holds"] = (table["low"] <= mean) & (mean <= table["high"])
    return table[["set", "drawn", "mean", "low", "high", "holds"]]


def coverage_sentence(table: pd.DataFrame) -> str:
    """How often each kind of interval of `coverage` holds the true mean, and how much narrower the wrong one is."""
    share = 100 * table.groupby("drawn")["holds"].mean()
    width = (table["high"] - table["low"]).groupby(table["drawn"]).mean()
    ratio = width[WHOLE_GROUPS] / width[SINGLE_IMAGES]
    return (
        f"Of {table['set'].nunique()} such sets the interval holds the true mean in {share[WHOLE_GROUPS]:.0f} % where "
        f"whole groups are drawn and in {share[SINGLE_IMAGES]:.0f} % where single images are; it claims 95 %. The "
        f"first is {ratio:.1f} times as wide on average."
        + (" With few groups even the right way claims too much." if share[WHOLE_GROUPS] < 92 else "")
    )


def grouping_sentence(table: pd.DataFrame, what: str) -> str:
    """The two intervals of one set (`two_intervals`, shares from 0 to 1) in words; what: is measured."""
    rows = table.set_index("drawn")
    if not np.isfinite(rows[["low", "high"]].to_numpy(float)).all():
        return f"For {what} no interval can be drawn: it takes two groups at least."
    if rows["units"].nunique() == 1:
        return f"For {what} the two are the same: every image is a group of its own here."
    widths = 100 * (rows["high"] - rows["low"])
    ends = {name: f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %" for name, row in rows.iterrows()}
    wider = widths[WHOLE_GROUPS] > widths[SINGLE_IMAGES]
    return (
        f"For {what}, {100 * rows['mean'].iloc[0]:.1f} %, the interval is {ends[WHOLE_GROUPS]} by groups and "
        f"{ends[SINGLE_IMAGES]} by single images: "
        + ("here too respecting the groups makes it wider." if wider else "here the groups do not make it wider.")
    )
