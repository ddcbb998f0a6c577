"""The test images that go worst, and what goes wrong in them. Imports no torch.

Every labelled particle gets one of five kinds, the first that fits: *found*, matched one to one with an instance at an
IoU of half; *merged*, at least half of it under an instance that covers at least half of another one too; *split*, with
two or more instances that lie in it by at least half of their own area; *missed*, less than half of it under any
instance; *outline off*, covered and yet not matched. An instance that is not matched, lies on no particle by more than
half of its area, and covers none by half, is *spurious*. Merges and splits are those of `metrics.merges_and_splits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from skimage.segmentation import relabel_sequential

from lorasam_core.experiments.records import Record
from lorasam_core.plots import COLORS, LABELS, OTHER, instance_mosaic, panels, rgb, styled
from lorasam_core.report.phrases import listed

OF_PARTICLES = ("found", "missed", "merged", "split", "outline off")
ERRORS = (*OF_PARTICLES[1:], "spurious")
KIND_COLORS = {
    "found": LABELS, "missed": OTHER[0], "merged": OTHER[3], "split": OTHER[1], "outline off": OTHER[2],
    "spurious": OTHER[4],
}  # fmt: skip
SHOWN = ("dice", "ap50", "merges", "splits", "n_pred", "n_true")
MEASURES = {"ap50": "AP50", "dice": "Dice"}


# ------------------------------------------------------------------------------------------------- which images
def worst_images(record: Record, count: int = 10) -> pd.DataFrame:
    """Test images among the `count` with the lowest AP50, or the lowest Dice, of the mask generator.

    Columns: id, group, SHOWN, rank_ap50 and rank_dice (1 is the worst; ties by the other measure, then by id), the
    worst AP50 first. Empty where the run was not judged by the mask generator.
    """
    rows = record.per_image
    rows = rows[rows["evaluator"] == "generator"]
    if rows.empty:
        return pd.DataFrame(columns=["id", "group", *SHOWN, "rank_ap50", "rank_dice"])
    rows = rows[["id", "group", *SHOWN]].reset_index(drop=True)
    for first, second in (("dice", "ap50"), ("ap50", "dice")):
        rows = rows.sort_values([first, second, "id"], ignore_index=True)
        rows[f"rank_{first}"] = range(1, len(rows) + 1)
    table = rows[rows[["rank_ap50", "rank_dice"]].min(axis=1) <= count].reset_index(drop=True)
    table.attrs.update(made_by="lorasam_core.report.chapters.failures.worst_images", runs=[record.run_id])
    return table


def overlap_sentence(record: Record, worst: pd.DataFrame, count: int = 10) -> str:
    """How many test images are among the `count` worst by both measures; nothing where there are too
    few test images for the two lists to differ.
    """
    tested = int((record.per_image["evaluator"] == "generator").sum())
    if worst.empty or tested <= 2 * count:
        return ""
    both = int((worst[["rank_ap50", "rank_dice"]].max(axis=1) <= count).sum())
    return f"Of {tested} test images {both} {'is' if both == 1 else 'are'} among the {count} worst by both measures."


def worst_table(worst: pd.DataFrame) -> pd.DataFrame:
    """`worst_images` as the reader sees them."""
    table = pd.DataFrame({
        "test image": worst["id"],
        "rank by AP50, by Dice": [f"{a}, {d}" for a, d in zip(worst["rank_ap50"], worst["rank_dice"])],
        "AP50, %": [f"{100 * v:.1f}" for v in worst["ap50"]],
        "Dice, %": [f"{100 * v:.1f}" for v in worst["dice"]],
        "merges": [f"{v:.0f}" for v in worst["merges"]], "splits": [f"{v:.0f}" for v in worst["splits"]],
        "instances": [f"{v:.0f}" for v in worst["n_pred"]], "particles": [f"{v:.0f}" for v in worst["n_true"]],
    })  # fmt: skip
    table.attrs.update(worst.attrs | {"made_by": "lorasam_core.report.chapters.failures.worst_table"})
    return table


def gallery(samples: Sequence[Any], worst: pd.DataFrame, each: int = 3) -> list[tuple[str, Any]]:
    """(What it is, Sample) of the images to show: the `each` worst by AP50, then by Dice the `each` worst of the rest.

    Of samples that stand in for images that are not here, the first `each`.
    """
    there = {sample.id: sample for sample in samples}
    shown: dict[str, str] = {}
    for measure, label in MEASURES.items():
        ids = [i for i in worst.sort_values(f"rank_{measure}")["id"] if i in there and i not in shown][:each]
        ranks = worst.set_index("id")[f"rank_{measure}"]
        shown |= {i: f"Rank {ranks[i]} by {label}" for i in ids}
    if not shown:
        return [("Stand-in", sample) for sample in samples[:each]]
    return [(title, there[i]) for i, title in shown.items()]


# ------------------------------------------------------------------------------------------------- what is wrong
def kinds(found: NDArray[Any], true: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The kind of every labelled particle, and of every instance (found, spurious or nothing), in ascending id.

    found, true: label images, int (H, W), 0 background; two arrays of str. Raises ValueError for unequal shapes.
    """
    if found.shape != true.shape:
        raise ValueError(f"found has shape {found.shape} and true {true.shape}; give two label images of one size.")
    shared = _overlaps(found, true)
    inner, found_area, true_area = shared[1:, 1:], shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    iou = inner / (found_area[:, None] + true_area[None, :] - inner)
    partner = np.full(len(true_area), -1)  # of every particle, the instance that it is matched with
    if iou.size:
        partner = sparse.csgraph.maximum_bipartite_matching(sparse.csr_array(iou >= 0.5), perm_type="row")
    covers, lies = 2 * inner >= true_area[None, :], 2 * inner >= found_area[:, None]
    cases = {
        "found": partner >= 0,
        "merged": covers[covers.sum(axis=1) >= 2].any(axis=0),
        "split": lies.sum(axis=0) >= 2,
        "missed": 2 * inner.sum(axis=0) < true_area,
    }
    of_true = np.select(list(cases.values()), list(cases), "outline off")
    matched = np.isin(np.arange(len(found_area)), partner)
    off = (2 * shared[1:, 0] > found_area) & ~covers.any(axis=1)
    of_found = np.select([matched, off], ["found", "spurious"], "")
    return of_true, of_found


def diagnose(found: NDArray[Any], true: NDArray[Any]) -> dict[str, float]:
    """What went wrong in one image, from its label images int (H, W).

    particles, instances: how many there are; each of OF_PARTICLES and spurious: how many of that kind; coverage: the
    share of the particles' area under any instance; excess: the share of the instances' area on no particle;
    found_diameter, missed_diameter: median equivalent diameter in pixels of such particles. NaN where there is none.
    """
    of_true, of_found = kinds(found, true)
    areas = _overlaps(found, true).sum(axis=0)[1:]
    diameters = np.sqrt(4 * areas / np.pi)
    counts = {"particles": float(len(of_true)), "instances": float(len(of_found))}
    counts |= {kind: float((of_true == kind).sum()) for kind in OF_PARTICLES}
    counts["spurious"] = float((of_found == "spurious").sum())
    inside, covered = np.count_nonzero(true), np.count_nonzero(found)
    both = np.count_nonzero((found > 0) & (true > 0))
    counts["coverage"] = both / inside if inside else float("nan")
    counts["excess"] = 1 - both / covered if covered else float("nan")
    for kind in ("found", "missed"):
        chosen = diameters[of_true == kind]
        counts[f"{kind}_diameter"] = float(np.median(chosen)) if len(chosen) else float("nan")
    return counts


def dominant(counts: Mapping[str, float] | pd.Series) -> list[str]:
    """The kinds of error with the highest count, in the order of ERRORS; none where nothing is wrong."""
    most = max(counts[kind] for kind in ERRORS)
    return [kind for kind in ERRORS if counts[kind] == most > 0]


def _overlaps(found: NDArray[Any], true: NDArray[Any]) -> NDArray[np.int64]:
    """Pixels that instances and particles share (P + 1, T + 1), in ascending id; row and column 0 are background."""
    a, b = (relabel_sequential(labels.astype(np.int64))[0].ravel() for labels in (found, true))
    ones = np.ones(a.size, np.int64)
    table: NDArray[np.int64] = sparse.csr_array((ones, (a, b)), shape=(a.max() + 1, b.max() + 1)).toarray()
    return table


# ------------------------------------------------------------------------------------------------- pictures
def error_map(found: NDArray[Any], true: NDArray[Any]) -> NDArray[np.uint8]:
    """Every labelled particle in the colour of its kind (KIND_COLORS), spurious instances beside them, on black;
    a black line parts those that touch. int (H, W) each -> RGB uint8 (H, W, 3).
    """
    out = np.zeros((*true.shape, 3), np.uint8)
    of_true, of_found = kinds(found, true)
    for labels, found_kinds in ((found, of_found), (true, of_true)):  # labels last: they are on top
        ids = np.unique(labels[labels > 0])
        for kind in KIND_COLORS:
            if labels is true or kind == "spurious":
                out[np.isin(labels, ids[found_kinds == kind])] = _rgb(kind)
    out[(true > 0) & (ndimage.maximum_filter(true, 3) > true)] = 0  # where two touch, one of them
    return out


def _rgb(kind: str) -> NDArray[np.uint8]:
    return np.round(255 * np.array(mpl.colors.to_rgb(KIND_COLORS[kind]))).astype(np.uint8)


@styled
def failure(image: NDArray[Any], true: NDArray[Any], found: NDArray[Any]) -> Figure:
    """Input, labels, adapted instances and the error map in a row, with the colours of the kinds below."""
    pictures = {
        "input": rgb(image), "labels": instance_mosaic(image, true),
        "adapted": instance_mosaic(image, found), "errors": error_map(found, true),
    }  # fmt: skip
    figure = panels(pictures, colors={"adapted": COLORS["adapted"]})
    height = figure.get_figheight() + 0.3
    figure.set_figheight(height)
    handles = [Patch(color=KIND_COLORS[kind], label=kind) for kind in ("found", *ERRORS)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


# ------------------------------------------------------------------------------------------------- words
def diagnosis_sentence(name: str, counts: Mapping[str, float]) -> str:
    """What went wrong in one image, from `diagnose`."""
    wrong = [f"{counts[kind]:.0f} {kind}" for kind in OF_PARTICLES[1:] if counts[kind]]
    verb = "is" if counts["found"] == 1 else "are"
    text = f"{name}: of {counts['particles']:.0f} labelled particles {counts['found']:.0f} {verb} found"
    text += f", {listed(wrong)}" if wrong else ""
    if counts["spurious"]:
        text += f"; of {counts['instances']:.0f} instances {counts['spurious']:.0f} "
        text += "is spurious" if counts["spurious"] == 1 else "are spurious"
    text += "."
    if np.isfinite(counts["coverage"]):
        text += f" The instances cover {100 * counts['coverage']:.0f} % of the particles' area"
        off = np.isfinite(counts["excess"])
        text += f", and {100 * counts['excess']:.0f} % of their own lies on no particle." if off else "."
    if np.isfinite([counts["found_diameter"], counts["missed_diameter"]]).all():
        text += (
            f" Median diameter of the missed particles: {counts['missed_diameter']:.0f} pixels, of the found ones "
            f"{counts['found_diameter']:.0f}."
        )
    return f"{text} {_most(counts)}"


def _most(counts: Mapping[str, float]) -> str:
    names = dominant(counts)
    return f"Most frequent: {listed(names)}." if names else "Nothing is wrong by these rules."


def error_table(diagnoses: Mapping[str, Mapping[str, float]], lists: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Sums of `diagnose` over the images of each list: group, images, particles, OF_PARTICLES, spurious, dominant, and
    dominant_in: in how many of the images one of these is the most frequent too.

    diagnoses: by image id; lists: the ids of every group. Groups without a diagnosed image are left out.
    """
    rows = []
    for name, ids in lists.items():
        found = [diagnoses[i] for i in ids if i in diagnoses]
        if found:
            sums = {kind: sum(counts[kind] for counts in found) for kind in ("particles", *OF_PARTICLES, "spurious")}
            about = {"group": name, "images": len(found)} | {k: int(v) for k, v in sums.items()}
            most = dominant(sums)
            there = sum(bool({*most} & {*dominant(counts)}) for counts in found)
            rows.append(about | {"dominant": listed(most) or "none", "dominant_in": there})
    columns = ["group", "images", "particles", *OF_PARTICLES, "spurious", "dominant", "dominant_in"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(made_by="lorasam_core.report.chapters.failures.error_table")
    return table


def groups_of(samples: Sequence[Any], worst: pd.DataFrame, count: int = 10) -> dict[str, list[str]]:
    """Lists of ids for `error_table`: the `count` worst by each measure, then every specimen or paper of the samples.

    Samples that stand in for images that are not here are in no list of the worst.
    """
    there = [sample.id for sample in samples]
    lists = {
        f"worst by {label}": list(worst.loc[worst[f"rank_{measure}"] <= count, "id"])
        for measure, label in MEASURES.items()
    }
    lists = {name: ids for name, ids in lists.items() if set(ids) & set(there)}
    for sample in samples:
        lists.setdefault(sample.group, []).append(sample.id)
    return lists


def summary_sentence(table: pd.DataFrame) -> str:
    """Which kind of error dominates, in the lists of the worst images and over specimens or papers."""
    if table.empty:
        return "No image could be diagnosed."
    lists = table["group"].str.startswith("worst by ")
    text = [
        f"Among the images {row['group']} the most frequent error is: {row['dominant']} "
        f"(the most frequent in {row['dominant_in']} of {row['images']} images; {row['particles'] - row['found']} of "
        f"{row['particles']} particles are not found, {row['spurious']} instances are spurious)."
        for _, row in table[lists].iterrows()
    ]
    counts = Counter(kind for _, row in table[~lists].iterrows() for kind in dominant(row))
    groups = listed(f"{kind} in {n}" for kind, n in counts.most_common())
    text.append(
        f"The most frequent error by specimen or paper, of {int((~lists).sum())}: {groups} (ties count for each)."
        if groups
        else "By these rules nothing is wrong in any specimen or paper."
    )
    return " ".join(text)
