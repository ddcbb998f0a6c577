"""What the compact model can and cannot do, measured: the numbers of its model card.

The same questions on three kinds of image: generated scenes that training never used, generated particles, EMPS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam
from tqdm import tqdm

from lorasam_core import metrics
from lorasam_core.data import load_dataset
from lorasam_core.data.scenes import generate_scene
from lorasam_core.evaluation import score_prompts
from lorasam_core.mask_generator import QUICK_SETTINGS, Autocast, MaskGenerator, Predictor, evaluating
from lorasam_core.prompts import jittered_boxes, points_inside, whole_image_box

HELD_OUT_SEED = 2  # of the scenes measured here; training never draws from it
SCENE_SIDE = 384  # pixels: the model's input
SCENES = 1000
OBJECTS = 8  # an image, drawn from all that are visible
LARGE = 1 / 16  # of the image's side: 16 pixels of the 256 in which scenes are described
GENERATOR = QUICK_SETTINGS | {"points_per_side": 32, "points_per_batch": 64, "min_mask_region_area": 0}
DATA = ("scenes", "synthetic", "emps")
GENERATOR_IMAGES = {"scenes": 50, "synthetic": 12, "emps": 16}  # a thousand points an image take a while
CORRECTIONS = 2
PROMPT_MEASURES = ("point_best_iou", "point_rated_iou", "corrected_iou", "box_iou", "iou_error")


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
    """The test images of a data set that `load_dataset` knows, an instance a mask."""

    def __init__(self, source: str) -> None:
        self.samples = load_dataset(source, "test")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[index]
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


def measure_generator(
    sam: Sam, pictures: Iterable[Picture], count: int, *, autocast: Autocast = nullcontext
) -> pd.DataFrame:
    """One row an image, of the first `count`: AP50 of the mask generator (GENERATOR) over objects whose side (as in
    `measure_prompts`) is at least LARGE, and over all; n_pred and n_true, masks returned and large objects.
    """
    generator, rows = MaskGenerator(sam, autocast=autocast, **GENERATOR), []
    for picture in tqdm(islice(pictures, count), "mask generator", unit="image", total=count):
        found = generator.generate(picture.image)
        masks = [a["segmentation"] for a in found]
        scores: np.ndarray = np.array([a["predicted_iou"] for a in found])
        least = LARGE**2 * picture.image.shape[0] * picture.image.shape[1]
        large = int((picture.masks.sum((1, 2)) >= least).sum())
        rows.append(
            {
                "id": picture.id, "group": picture.group, "n_pred": len(found),
                "ap50": metrics.average_precision(masks, scores, picture.masks, min_area=least) if large else np.nan,
                "ap50_all": metrics.average_precision(masks, scores, picture.masks),
                "n_true": large,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def measure(
    sam: Sam, out: Path, *, data: Sequence[str] = DATA, scenes: int = SCENES,
    autocast: Autocast = nullcontext,
) -> dict[str, Any]:  # fmt: skip
    """The card's numbers, {data: {measure: {mean, low, high, n}}}; a data set that cannot be had is left out.

    What is finished is kept under `out` as CSV, a file for each table and number of images, and read again. Means
    over objects (AP50, Dice: over images) with 95 % bootstrap intervals over scenes, specimens or papers; "large"
    repeats the measures of prompts on objects whose side is at least LARGE of the image's.
    """
    out.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = {}
    for name in data:
        try:
            pictures: Sequence[Picture] = Scenes(scenes) if name == "scenes" else Particles(name)
        except (OSError, ValueError) as error:
            print(f"{name} is left out: {error}")
            continue
        count = min(GENERATOR_IMAGES[name], len(pictures))
        prompts = _kept(
            out / f"{name}_{len(pictures)}_prompts.csv", partial(measure_prompts, sam, pictures, autocast=autocast)
        )
        make = partial(measure_generator, sam, pictures, count, autocast=autocast)
        generated = _kept(out / f"{name}_{count}_generator.csv", make)
        large = prompts[prompts["side"] >= LARGE]
        card[name] = {measure: _mean(prompts, measure) for measure in PROMPT_MEASURES}
        card[name] |= {f"large_{measure}": _mean(large, measure) for measure in PROMPT_MEASURES}
        card[name] |= {measure: _mean(generated, measure) for measure in ("ap50", "ap50_all")}
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


def _kept(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    if not path.exists():
        part = path.with_suffix(".part")
        make().to_csv(part, index=False)
        part.replace(path)
    return pd.read_csv(path, keep_default_na=False, na_values=[""])  # a group may be called NA


def _mean(table: pd.DataFrame, measure: str) -> dict[str, float]:
    mean, low, high = metrics.bootstrap_interval(table[measure].to_numpy(float), table["group"].to_numpy())
    return {
        "mean": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": int(table[measure].notna().sum()),
    }
