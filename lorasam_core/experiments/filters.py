"""The mask generators without their filters: what ratings are worth, and which thresholds suit a model.

Thresholds are chosen on validation images; test images are only asked with thresholds that are fixed by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from segment_anything.modeling import Sam
from tqdm import tqdm

from lorasam_core.config import RunConfig
from lorasam_core.data import SampleSet
from lorasam_core.data.sample import Sample
from lorasam_core.experiments.judging import test_images
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, Autocast
from lorasam_core.masks.guided import GUIDED_SETTINGS, GuidedGenerator
from lorasam_core.masks.thresholds import CHOSEN, THRESHOLDS, ThresholdSweep, best_threshold, kept
from lorasam_core.measure import evaluation, metrics
from lorasam_core.models import devices

# with the pairs of QUICK_SETTINGS and of the study; close together where the compact model's ratings lie
PRED_IOU = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STABILITY = (0.0, 0.6, 0.7, 0.8, 0.85, 0.92)
PAIRS = tuple(product(PRED_IOU, STABILITY))
FILTERS = (*CHOSEN, "min_mask_region_area")
SCORES = ("dice", "ap50", "f1", "n_pred")


def measure(
    sam: Sam, val: SampleSet, test: SampleSet, config: RunConfig, device: str, folder: Path
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Write calibration.csv and thresholds.csv (`sweep`) of the validation images; judge thresholds on the test images.

    Of the test images under the tuned thresholds tuned_particles.csv keeps the `evaluation.particle_rows`.
    Returns what metrics.json keeps: the filters of the run's generator (`own`), of the study (`study`) and those with
    the greatest mean F1 on the validation images (`tuned`: two thresholds, the minimum area is the run's own);
    points_per_side; and of the test images the summaries under the study's filters (`study_thresholds`) and under the
    tuned ones (`tuned_test`), both on the run's own grid of points: the study's grid has more of them. Then the rows of
    these test images, whose `evaluator` is generator_study or generator_tuned. ValueError without a validation image.
    """
    settings = STUDY_SETTINGS if config.generator == "study" else QUICK_SETTINGS
    autocast = partial(devices.autocast, config.precision, device)
    masks, scores = sweep(sam, spread(val, config.filters), settings, autocast)
    masks.round(3).to_csv(folder / "calibration.csv", index=False)
    scores.round(4).to_csv(folder / "thresholds.csv", index=False)
    own, study = ({name: given[name] for name in FILTERS} for given in (settings, STUDY_SETTINGS))
    tuned = own | best_thresholds(scores, own)
    found: dict[str, Any] = {"own": own, "study": study, "tuned": tuned, "points_per_side": settings["points_per_side"]}
    images, tables = test_images(test, config), []
    for key, evaluator, chosen in (
        ("study_thresholds", "generator_study", study),
        ("tuned_test", "generator_tuned", tuned),
    ):
        details: dict[str, list[dict[str, Any]]] = {}
        rows = evaluation.evaluate_generator(sam, images, settings | chosen, autocast=autocast, details=details)
        found[key] = evaluation.summarize(rows)
        tables.append(rows.assign(evaluator=evaluator))
        if evaluator == "generator_tuned":
            particles = pd.DataFrame(details["particles"], columns=evaluation.DETAILS["particles"])
            particles.round(4).to_csv(folder / "tuned_particles.csv", index=False)
    return found, pd.concat(tables, ignore_index=True)


def guided(
    sam: Sam, val: Sequence[Sample], images: Sequence[Sample], autocast: Autocast = nullcontext,
    details: dict[str, list[dict[str, Any]]] | None = None,
) -> tuple[dict[str, float], pd.DataFrame]:  # fmt: skip
    """The guided generator on `images`, with the score's threshold of the greatest mean F1 on `val`.

    Returns {"score_thresh"} and a row an image: id, group and the columns of `evaluation.score_labels` under that
    threshold; of what passes the lowest of THRESHOLDS ap50 and ap, by score, recall, the share of the labelled
    particles that some mask meets at IoU 0.5, and rating_correlation, Spearman's of the score with the IoU with the
    particle that a mask fits best. details: gets `evaluation.particle_rows` under "guided_particles".
    """
    generator = GuidedGenerator(sam, autocast=autocast, score_thresh=THRESHOLDS[0])
    found: list[tuple[Sample, np.ndarray, np.ndarray, dict[str, float]]] = []
    f1: list[dict[Any, Any]] = []
    for sample in tqdm([*val, *images], "guided", leave=False, disable=None, delay=1):
        annotations = generator.generate(sample.image)
        masks, scores = [a["segmentation"] for a in annotations], np.array([a["score"] for a in annotations])
        labels = metrics.paint(masks, scores, (sample.labels.shape[0], sample.labels.shape[1]))
        if len(f1) < len(val):
            row = {t: metrics.f1(kept(labels, scores, t), sample.labels) for t in THRESHOLDS}
            f1.append({"group": sample.group} | row)
            continue
        overlaps = metrics.mask_iou_matrix(masks, sample.labels)
        best = pd.Series(overlaps.max(axis=1, initial=0.0))
        ap = {"ap50": (0.5,), "ap": metrics.COCO_THRESHOLDS}
        found.append((sample, labels, scores, {
            name: metrics.average_precision(masks, scores, sample.labels, over) for name, over in ap.items()
        } | {
            "recall": float((overlaps.max(axis=0, initial=0.0) >= 0.5).mean()) if overlaps.shape[1] else float("nan"),
            "rating_correlation": best.corr(pd.Series(scores), "spearman"),
        }))  # fmt: skip
    threshold = best_threshold(pd.DataFrame(f1), GUIDED_SETTINGS["score_thresh"])
    rows = []
    for sample, labels, scores, ranked in found:
        labels = kept(labels, scores, threshold)
        key = {"id": sample.id, "group": sample.group}
        rows.append(key | {**evaluation.score_labels(labels, sample.labels), **ranked})
        if details is not None:
            details.setdefault("guided_particles", []).extend(evaluation.particle_rows(labels, sample))
    return {"score_thresh": threshold}, pd.DataFrame(rows)


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, spread evenly; raises ValueError where there is none."""
    if not len(samples):
        raise ValueError("There is no validation image to choose thresholds on; give at least one.")
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round()
    return [samples[int(place)] for place in places]


def sweep(
    sam: Sam, samples: Sequence[Sample], settings: dict[str, Any], autocast: Autocast = nullcontext
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every mask that the generator returns without its two filters, and what each of PAIRS gives.

    The first table has a row a mask and the columns of `evaluation.annotation_rows`; the second a row an image and
    pair: id, group, pred_iou_thresh, stability_score_thresh, dice, ap50, f1, n_pred (`evaluation.score_annotations`).
    """
    generator = ThresholdSweep(sam, autocast=autocast, **settings)
    masks: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for sample in tqdm(samples, "filters", leave=False, disable=None, delay=1):
        for pair, found in zip(PAIRS, generator.sweep(sample.image, PAIRS), strict=True):
            if not any(pair):
                masks.extend(evaluation.annotation_rows(found, sample))
            scores = evaluation.score_annotations(found, sample.labels)
            key = {"id": sample.id, "group": sample.group} | dict(zip(CHOSEN, pair, strict=True))
            rows.append(key | {name: scores[name] for name in SCORES})
    return pd.DataFrame(masks, columns=evaluation.DETAILS["annotations"]), pd.DataFrame(rows)


def best_thresholds(scores: pd.DataFrame, usual: dict[str, Any]) -> dict[str, float]:
    """pred_iou_thresh and stability_score_thresh of the greatest mean F1 (IoU 0.5); of equal ones the lowest; those of
    `usual`, as far as it has them, where no pair matches a particle.

    Not of the AP50, which hardly minds masks of a low rating, however many there are.
    """
    means = scores.groupby(CHOSEN)["f1"].mean().reset_index()
    if not means["f1"].max() > 0:
        return {name: float(usual[name]) for name in CHOSEN if name in usual}
    best = means.iloc[int(means["f1"].to_numpy().argmax())]
    return {name: float(best[name]) for name in CHOSEN}
