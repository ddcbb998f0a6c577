"""What the compact model can and cannot do, measured: the numbers of its model card.

The same questions on three kinds of image: generated scenes that training never used, generated particles, EMPS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam
from tqdm import tqdm

from lorasam_core.data import load_dataset
from lorasam_core.masks.generator import Autocast, MaskGenerator, Predictor, evaluating
from lorasam_core.measure import metrics
from lorasam_core.measure.prompted import score_prompts
from lorasam_core.stats import bootstrap_interval
from lorasam_core.training.prompts import jittered_boxes, points_inside, whole_image_box
from pretrain.scenes import generate_scene

HELD_OUT_SEED = 2  # of the scenes measured here; training never draws from it
SCENE_SIDE = 512  # pixels: the model's input
SCENES = 1000
IMAGES = 24  # of each data set: evenly spaced, but for scenes, of which prompts are asked on all
OBJECTS = 8  # an image, drawn from all that are visible
DATA = ("scenes", "synthetic", "emps")
CORRECTIONS = 2
PROMPT_MEASURES = ("point_best_iou", "point_rated_iou", "corrected_iou", "box_iou", "iou_error")
CANDIDATE_MEASURES = ("recall", "f1_perfect", "ap50")
EVERYTHING: dict[str, Any] = {  # 256 points, three masks each, nothing filtered or suppressed
    "points_per_side": 16, "points_per_batch": 8, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0, "min_mask_region_area": 0,
}  # fmt: skip
LARGEST = 0.9  # of the image: a larger mask is dropped
OVERLAP = 0.5  # of the smaller of two masks: with more of it inside a better one a mask is dropped
MOST = 300  # masks an image
THRESHOLDS = tuple(round(0.1 + 0.05 * k, 2) for k in range(13))  # of the score: predicted IoU x stability
FOUND = 0.5  # IoU


class Picture(NamedTuple):
    """An image, its true masks bool (N, H, W), which may overlap, its id and its group."""

    image: np.ndarray
    masks: np.ndarray
    id: str
    group: str


class Scenes(Sequence[Picture]):
    """The first `length` held-out scenes, with all their nested masks."""

    def __init__(self, length: int = SCENES, side: int | None = None) -> None:
        self.length, self.side = length, side or SCENE_SIDE

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        scene = generate_scene(HELD_OUT_SEED, index, self.side)
        return Picture(scene.image, scene.masks, f"scene-{index}", f"scene-{index}")


class Particles(Sequence[Picture]):
    """`count` evenly spaced images of a part of a data set that `load_dataset` knows, an instance a mask."""

    def __init__(self, source: str, part: str = "test", count: int = IMAGES) -> None:
        self.samples = load_dataset(source, part)
        last = len(self.samples) - 1
        self.chosen = np.unique(np.linspace(0, last, min(count, last + 1)).astype(int))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[int(self.chosen[index])]
        ids = np.unique(sample.labels)
        return Picture(sample.image, sample.labels == ids[ids > 0][:, None, None], sample.id, sample.group)


def measure_prompts(
    sam: Sam, pictures: Sequence[Picture], *, autocast: Autocast = nullcontext, seed: int = 0
) -> pd.DataFrame:
    """One row an object, at most OBJECTS an image: the model's answers to a point in it and a jittered box around it.

    Columns: id, group, side (square root of the mask's area over that of the image), point_best_iou (best of three
    masks), point_rated_iou (the one that the model rates best), box_iou (single mask), iou_error (mean absolute error
    of the predicted IoU: the mean of that of the point's three masks and of the box's one), corrected_iou (single mask
    after CORRECTIONS more points, each where the mask so far is wrong, beside that mask), and the image's
    foreground_dice: the mask for the whole image's box against the union of all masks.
    """
    predictor, tables = Predictor(sam, autocast), []
    with evaluating(sam):
        for number, picture in enumerate(tqdm(pictures, "prompts", unit="image")):
            rng = np.random.default_rng((seed, number))
            chosen = rng.permutation(len(picture.masks))[:OBJECTS]
            masks = picture.masks[chosen]
            predictor.set_image(picture.image)
            one: np.ndarray = np.array([1])
            frames = [mask.astype(np.int32) for mask in masks]
            points = np.concatenate([points_inside(frame, one, rng) for frame in frames])
            boxes = np.concatenate([jittered_boxes(frame, one, rng) for frame in frames])
            by_point = score_prompts(predictor, masks, points=points)
            by_box = score_prompts(predictor, masks, boxes=boxes)
            whole = predictor.predict(box=whole_image_box(predictor.original_size)[0], multimask_output=False)[0][0]
            tables.append(
                pd.DataFrame(
                    {
                        "id": picture.id, "group": picture.group, "side": np.sqrt(masks.mean((1, 2))),
                        "point_best_iou": by_point["iou_best"], "point_rated_iou": by_point["iou_rated"],
                        "box_iou": by_box["iou_best"],
                        "iou_error": (by_point["iou_error"] + by_box["iou_error"]) / 2,
                        "corrected_iou": _corrected(predictor, masks, points, rng),
                        "foreground_dice": metrics.dice(whole, picture.masks.any(0)),
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _corrected(predictor: Predictor, masks: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """IoU (K,) of the mask that begins as the best rated one for a point, after CORRECTIONS."""
    coords, labels, rows = points[:, None], np.ones((len(points), 1), int), np.arange(len(points))
    found, rated, low = _answers(predictor, coords, labels, None)
    best = rated.argmax(1)
    guess, previous = found[rows, best], low[rows, best][:, None]
    for _ in range(CORRECTIONS):
        clicks: np.ndarray = coords[:, -1].copy()  # where nothing is wrong the last point is given again
        for row, wrong in enumerate(guess != masks):
            if wrong.any():
                clicks[row] = divmod(rng.choice(np.flatnonzero(wrong)), wrong.shape[1])[::-1]  # row, column to X, Y
        x, y = clicks.astype(int).T
        coords = np.concatenate([coords, clicks[:, None]], axis=1)
        labels = np.concatenate([labels, masks[rows, y, x][:, None].astype(int)], axis=1)
        found, _, previous = _answers(predictor, coords, labels, previous)
        guess = found[:, 0]
    return np.array([metrics.iou(a, b) for a, b in zip(guess, masks, strict=True)])


def _answers(
    predictor: Predictor, coords: np.ndarray, labels: np.ndarray, previous: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks, ratings and logits for points (K, n, 2) of the image: three masks each, or one beside a mask before."""
    inside = predictor.transform.apply_coords(coords, predictor.original_size)
    answers = predictor.predict_torch(
        torch.as_tensor(inside, dtype=torch.float32, device=predictor.device),
        torch.as_tensor(labels, device=predictor.device),
        mask_input=None if previous is None else torch.as_tensor(previous, device=predictor.device),
        multimask_output=previous is None,
    )
    masks, rated, low = (answer.cpu().numpy() for answer in answers)
    return masks, rated, low


def measure_candidates(
    sam: Sam, pictures: Sequence[Picture], *, autocast: Autocast = nullcontext
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The masks for a grid of 16 x 16 points, before any is filtered: (images, candidates).

    images, a row each: id, group, n_true, n_candidates, recall (share of the true masks that some candidate finds at
    IoU 0.5), f1_perfect (F1 were the choice among them perfect: 2 recall / (1 + recall)), ap50 of what `choose` keeps,
    and f1_<t> of the same from each threshold t of the score on. candidates, a row each: id, predicted_iou, stability,
    iou (with the true mask that fits best).
    """
    generator, images, tables = MaskGenerator(sam, autocast=autocast, **EVERYTHING), [], []
    for picture in tqdm(pictures, "candidates", unit="image"):
        found = [a for a in generator.generate(picture.image) if 0 < a["area"] <= LARGEST * picture.masks[0].size]
        masks, n_true = [a["segmentation"] for a in found], len(picture.masks)
        iou = metrics.mask_iou_matrix(masks, picture.masks).reshape(len(masks), n_true)
        columns = {name: np.nan_to_num([a[name] for a in found]) for name in ("predicted_iou", "stability_score")}
        score = columns["predicted_iou"] * columns["stability_score"]
        kept = choose(masks, score)
        recall = float((iou.max(axis=0, initial=0.0) >= FOUND).mean())
        row = {"id": picture.id, "group": picture.group, "n_true": n_true, "n_candidates": len(found), "recall": recall}
        row |= {"f1_perfect": 2 * recall / (1 + recall)}
        row |= {"ap50": metrics.average_precision([masks[i] for i in kept], score[kept], picture.masks)}
        row |= {f"f1_{t:g}": _f1(iou[[i for i in kept if score[i] >= t]]) for t in THRESHOLDS}
        images.append(row)
        tables.append(pd.DataFrame({"id": picture.id, **columns, "iou": iou.max(axis=1, initial=0.0)}))
    return pd.DataFrame(images), pd.concat(tables, ignore_index=True)


def choose(masks: Sequence[np.ndarray], score: np.ndarray, threshold: float = THRESHOLDS[0]) -> list[int]:
    """Rows of at most MOST masks, in descending score from the threshold on, none of which lies by more than OVERLAP
    (of the smaller area) in one before it, on every second row and column. A higher threshold keeps the beginning of
    the same list.
    """
    order = [int(i) for i in np.argsort(-score, kind="stable") if score[i] >= threshold]
    if not order:
        return []
    # every second row and column: hundreds of masks that overlap are much to multiply
    flat = np.stack([masks[i][::2, ::2].ravel() for i in order]).astype(np.float32)
    area = np.maximum(flat.sum(axis=1), 1)
    inside = flat @ flat.T / np.minimum(area[:, None], area[None, :])
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) < MOST and not (inside[i, kept] > OVERLAP + 1e-9).any():
            kept.append(i)
    return [order[i] for i in kept]


def _f1(iou: np.ndarray) -> float:
    """F1 at IoU 0.5 of masks, the rows of (N, M), each of which takes the free true mask that fits it best."""
    free, hits = np.ones(iou.shape[1]), 0
    for row in iou * 1.0:
        fits = row * free
        if fits.max() >= FOUND:
            free[fits.argmax()] = 0
            hits += 1
    return 2 * hits / sum(iou.shape)


def best_f1(images: pd.DataFrame) -> tuple[float, str]:
    """The threshold of the score whose F1, the mean over images, is best, and the name of its column."""
    best = max(THRESHOLDS, key=lambda t: float(images[f"f1_{t:g}"].mean()))  # of equal ones the lowest
    return best, f"f1_{best:g}"


def measure(
    sam: Sam, out: Path, *, data: Sequence[str] = DATA, part: str = "test", scenes: int = SCENES,
    autocast: Autocast = nullcontext,
) -> dict[str, Any]:  # fmt: skip
    """The card's numbers, {data: {measure: {mean, low, high, n}}}; a data set that cannot be had is left out.

    What is finished is kept under `out` as CSV and read again. Means over objects (of candidates and of the foreground:
    over images) with 95 % bootstrap intervals over scenes, specimens or papers. `correlation` is Pearson's, of the
    predicted with the true IoU over all candidates, its interval over images; f1 is that of the best threshold, named
    beside it.
    """
    out.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = {}
    for name in data:
        try:
            pictures: Sequence[Picture] = Scenes(scenes) if name == "scenes" else Particles(name, part)
        except (OSError, ValueError) as error:
            print(f"{name} is left out: {error}")
            continue
        few: Sequence[Picture] = Scenes(min(scenes, IMAGES)) if name == "scenes" else pictures
        stem = f"{name}_{part}_{len(pictures)}"
        (prompts,) = _kept(out, [f"{stem}_prompts"], partial(_prompts, sam, pictures, autocast))
        asked = partial(measure_candidates, sam, few, autocast=autocast)
        images, candidates = _kept(out, [f"{stem}_images", f"{stem}_candidates"], asked)
        threshold, column = best_f1(images)
        card[name] = {measure: _mean(prompts, measure) for measure in PROMPT_MEASURES}
        card[name] |= {measure: _mean(images, measure) for measure in CANDIDATE_MEASURES}
        card[name] |= {"f1": _mean(images, column), "threshold": threshold}
        card[name]["correlation"] = _correlation(candidates)
        card[name]["foreground_dice"] = _mean(prompts.drop_duplicates("id"), "foreground_dice")
        card[name]["by_size"] = by_size(prompts).to_dict("list")
    return card


def by_size(prompts: pd.DataFrame) -> pd.DataFrame:
    """Means of the measures of prompts in bins of size: side (lower edge, share of the image's side), n, measures."""
    edges = np.array([0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1])
    bins = edges[np.digitize(prompts["side"], edges[1:-1])]
    table = prompts.groupby(bins)[["point_best_iou", "point_rated_iou", "box_iou"]].mean()
    table.insert(0, "n", prompts.groupby(bins).size())
    return table.rename_axis("side").reset_index()


def _prompts(sam: Sam, pictures: Sequence[Picture], autocast: Autocast) -> list[pd.DataFrame]:
    return [measure_prompts(sam, pictures, autocast=autocast)]


def _kept(out: Path, names: Sequence[str], make: Callable[[], Sequence[pd.DataFrame]]) -> list[pd.DataFrame]:
    paths = [out / f"{name}.csv" for name in names]
    if not all(path.exists() for path in paths):
        for path, table in zip(paths, make(), strict=True):
            part = path.with_suffix(".part")
            table.to_csv(part, index=False)
            part.replace(path)
    # a group may be called NA
    return [pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in paths]


def _correlation(candidates: pd.DataFrame, resamples: int = 2000) -> dict[str, float]:
    """Pearson's correlation of predicted and true IoU over all candidates, with its bootstrap interval over images."""
    x, y = candidates["predicted_iou"], candidates["iou"]
    moments = pd.DataFrame({"n": 1.0, "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}).groupby(candidates["id"])
    images = moments.sum().to_numpy()
    drawn = np.random.default_rng(0).multinomial(len(images), np.full(len(images), 1 / len(images)), resamples)
    n, x, y, xx, yy, xy = (np.concatenate([np.ones((1, len(images))), drawn]) @ images).T
    spread = np.sqrt((n * xx - x * x) * (n * yy - y * y))
    r = np.divide(n * xy - x * y, spread, out=np.zeros_like(spread), where=spread > 0)
    low, high = np.quantile(r[1:], [0.025, 0.975])
    return {"mean": round(r[0], 4), "low": round(low, 4), "high": round(high, 4), "n": len(candidates)}


def _mean(table: pd.DataFrame, measure: str) -> dict[str, float]:
    mean, low, high = bootstrap_interval(table[measure].to_numpy(float), table["group"].to_numpy())
    return {
        "mean": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": int(table[measure].notna().sum()),
    }
