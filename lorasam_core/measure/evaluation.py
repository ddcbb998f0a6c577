"""The predictor, prompted instances and the mask generator over a data set: one row an image.

Metrics are taken at the image's own resolution, and a whole image goes through segment-anything's own transform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from segment_anything.modeling import Sam
from tqdm import tqdm

from lorasam_core.data.sample import Sample
from lorasam_core.masks.generator import QUICK_SETTINGS, Autocast, MaskGenerator, Predictor, evaluating
from lorasam_core.measure import metrics
from lorasam_core.measure import sizes as particles
from lorasam_core.measure.prompted import PROMPTS, score_instances
from lorasam_core.stats import bootstrap_interval
from lorasam_core.training import prompts

DETAILS = {  # columns of annotation_rows and of particle_rows
    "annotations": ["id", "group", "iou", "predicted_iou", "stability_score", "area"],
    "particles": ["id", "group", "source", "diameter", "unit", "touches_border"],
}
DETAILS["guided_particles"] = DETAILS["particles"]


def predict_foreground(sam: Sam, image: np.ndarray, *, autocast: Autocast = nullcontext) -> np.ndarray:
    """What the model takes for the object when the prompt is the box of the whole image: bool (H, W).

    image: uint8 (H, W) or (H, W, 3). The single mask, our reading of the study; no ground truth enters the prompt.
    Raises ValueError for an image that the predictor cannot take.
    """
    with evaluating(sam):
        predictor = Predictor(sam, autocast)
        predictor.set_image(image)
        return _foreground(predictor)


def evaluate_generator(
    sam: Sam, samples: Iterable[Sample], settings: Mapping[str, Any] | None = None, **options: Any
) -> pd.DataFrame:
    """The mask generator's annotations against the true instances.

    Columns id, group and those of `score_annotations`; one row an image. Options and errors as in `evaluate`.
    """
    return evaluate(sam, samples, ("generator",), settings, **options)["generator"]


def evaluate(
    sam: Sam,
    samples: Iterable[Sample],
    evaluators: Sequence[str] = ("predictor", "point", "box", "generator"),
    settings: Mapping[str, Any] | None = None,
    k: int = 8,
    seed: int = 0,
    *,
    autocast: Autocast = nullcontext,
    progress: bool = True,
    details: dict[str, list[dict[str, Any]]] | None = None,
) -> dict[str, pd.DataFrame]:
    """Several evaluators over one pass of the data: {evaluator: one row an image}.

    evaluators: any of predictor, PROMPTS, generator; all but the last share one embedding of the image. Columns: id,
    group, and of the predictor's foreground against the union of the true instances dice, iou and accuracy; of prompts
    those of `score_instances`; of the generator those of `score_annotations`. settings: the mask generator's,
    QUICK_SETTINGS by default. k, seed: instances an image for PROMPTS, and their draw. autocast: makes the context
    under which the image encoder runs. The model's training mode is restored. details: gets the generator's
    `annotation_rows` under "annotations" and `particle_rows` under "particles".
    Raises ValueError for an unknown evaluator, a wrong setting, or no image.
    """
    samples = samples if isinstance(samples, Sequence) else list(samples)
    if not len(samples):
        raise ValueError("There is no image to evaluate; give at least one.")
    predictor = Predictor(sam, autocast)
    scorers: dict[str, Callable[[Predictor, Sample], dict[str, float]]] = {"predictor": _score_predictor}
    scorers |= {name: partial(score_instances, prompt=name, k=k, seed=seed) for name in PROMPTS}
    for name in evaluators:
        if name not in scorers and name != "generator":
            raise ValueError(f"{name!r} is no evaluator; choose from {', '.join(scorers)}, generator.")
    prompted = [name for name in scorers if name in evaluators]
    generator = None
    if "generator" in evaluators:
        generator = MaskGenerator(sam, autocast=autocast, **(QUICK_SETTINGS if settings is None else settings))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in evaluators}
    with evaluating(sam):
        for sample in tqdm(samples, "evaluate", leave=False, disable=None if progress else True, delay=1):
            key = {"id": sample.id, "group": sample.group}
            if prompted:
                predictor.set_image(sample.image)
            for name in prompted:
                rows[name].append(key | scorers[name](predictor, sample))
            if generator is not None:
                annotations = generator.generate(sample.image)
                rows["generator"].append(key | score_annotations(annotations, sample.labels))
                if details is not None:
                    describe(annotations, sample, details)
    return {name: pd.DataFrame(rows[name]) for name in rows}


def score_annotations(annotations: Sequence[Mapping[str, Any]], labels: np.ndarray) -> dict[str, float]:
    """Metrics of one image's annotations (with binary masks) against its labels, int (H, W).

    dice, iou: union of the masks against union of the instances. ap50, ap: average precision at IoU 0.5 and over
    COCO's ten thresholds, scored by predicted IoU. f1 (at IoU 0.5), pq, merges, splits, d50_error: of the masks painted
    in ascending predicted IoU. n_pred, n_true: annotations and true instances. Empties as in `metrics`.
    """
    masks = [annotation["segmentation"] for annotation in annotations]
    scores = [annotation["predicted_iou"] for annotation in annotations]
    painted = metrics.paint(masks, scores, (labels.shape[0], labels.shape[1]))
    return score_labels(painted, labels) | {
        "ap50": metrics.average_precision(masks, scores, labels),
        "ap": metrics.average_precision(masks, scores, labels, metrics.COCO_THRESHOLDS),
        "n_pred": len(masks),
    }


def score_labels(found: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """As `score_annotations`, of an instance image int (H, W), whose instances have no scores: AP is NaN.

    d50_error: how far D50 by number (`sizes.median_diameter`) lies from the labels', as a share of theirs.
    """
    merges, splits = metrics.merges_and_splits(found, labels)
    return {
        "dice": metrics.dice(found, labels), "iou": metrics.iou(found, labels), "ap50": float("nan"),
        "ap": float("nan"), "f1": metrics.f1(found, labels), "pq": metrics.panoptic_quality(found, labels),
        "merges": merges, "splits": splits, "n_pred": int(np.count_nonzero(np.unique(found))),
        "n_true": int(np.count_nonzero(np.unique(labels))),
        "d50_error": abs(particles.median_diameter(found) / particles.median_diameter(labels) - 1),
    }  # fmt: skip


def evaluate_segmenter(
    segment: Callable[[np.ndarray], np.ndarray], samples: Sequence[Sample],
    details: dict[str, list[dict[str, Any]]] | None = None,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """What makes an instance image of an image, under the evaluators that ask the same: predictor (the foreground),
    generator and guided (the instances). details as in `evaluate`; ValueError for no image.
    """
    if not len(samples):
        raise ValueError("There is no image to evaluate; give at least one.")
    rows: dict[str, list[dict[str, Any]]] = {"predictor": [], "generator": []}
    for sample in tqdm(samples, "evaluate", leave=False, disable=None, delay=1):
        found, key = segment(sample.image), {"id": sample.id, "group": sample.group}
        rows["predictor"].append(key | _score_foreground(found > 0, sample.labels > 0))
        rows["generator"].append(key | score_labels(found, sample.labels))
        if details is not None:
            details.setdefault("particles", []).extend(particle_rows(found, sample))
    rows["guided"] = rows["generator"]
    return {name: pd.DataFrame(values) for name, values in rows.items()}


def describe(
    annotations: Sequence[Mapping[str, Any]], sample: Sample, details: dict[str, list[dict[str, Any]]]
) -> None:
    """Add the `annotation_rows` and `particle_rows` of one image's annotations to `details`."""
    details.setdefault("annotations", []).extend(annotation_rows(annotations, sample))
    masks = [annotation["segmentation"] for annotation in annotations]
    scores = [annotation["predicted_iou"] for annotation in annotations]
    painted = metrics.paint(masks, scores, (sample.labels.shape[0], sample.labels.shape[1]))
    details.setdefault("particles", []).extend(particle_rows(painted, sample))


def annotation_rows(annotations: Sequence[Mapping[str, Any]], sample: Sample) -> list[dict[str, Any]]:
    """One row an annotation: id, group, predicted_iou, stability_score, area (pixels), iou with the instance that it
    fits best (0 where there is none).
    """
    overlaps = metrics.mask_iou_matrix([a["segmentation"] for a in annotations], sample.labels)
    best = overlaps.max(axis=1, initial=0.0)
    return [
        {"id": sample.id, "group": sample.group, "iou": float(iou)}
        | {key: float(annotation[key]) for key in ("predicted_iou", "stability_score", "area")}
        for annotation, iou in zip(annotations, best, strict=True)
    ]


def particle_rows(found: np.ndarray, sample: Sample) -> list[dict[str, Any]]:
    """One row a particle of the instance image `found` and of the true one: id, group, source (predicted, true),
    diameter (of the disc of equal area), unit (nm where the scale is known, else px), touches_border.
    """
    rows = []
    for source, labels in (("predicted", found), ("true", sample.labels)):
        table = particles.measure(labels, sample.pixel_size)
        for diameter, unit, border in zip(table["equivalent_diameter"], table["unit"], table["touches_border"]):
            row = {"id": sample.id, "group": sample.group, "source": source, "diameter": float(diameter)}
            rows.append(row | {"unit": unit, "touches_border": bool(border)})
    return rows


def summarize(rows: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, float]]:
    """Every numeric column's mean over images, with a 95 % bootstrap interval over groups.

    rows: a table of this module, with columns id and group. Returns {metric: {mean, low, high, n, groups}}; n counts
    the images that have a value, groups the groups these come from. With fewer than two groups low and high are NaN.
    """
    summary = {}
    for metric in rows.columns.drop(["id", "group"]):
        valid = rows[rows[metric].notna()]
        mean, low, high = bootstrap_interval(valid[metric].to_numpy(float), valid["group"].to_numpy(), seed=seed)
        counts = {"n": len(valid), "groups": int(valid["group"].nunique())}
        summary[metric] = {"mean": mean, "low": low, "high": high} | counts
    return summary


def _foreground(predictor: Predictor) -> np.ndarray:
    """One mask, bool (H, W), for the box of the whole image that the predictor holds."""
    box = prompts.whole_image_box(predictor.original_size)
    masks, _, _ = predictor.predict(box=box[0], multimask_output=False)
    return masks[0]


def _score_predictor(predictor: Predictor, sample: Sample) -> dict[str, float]:
    return _score_foreground(_foreground(predictor), sample.labels > 0)


def _score_foreground(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {
        "dice": metrics.dice(predicted, true),
        "iou": metrics.iou(predicted, true),
        "accuracy": metrics.accuracy(predicted, true),
    }
