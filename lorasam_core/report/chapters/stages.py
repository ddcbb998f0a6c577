"""What happens inside SAM and its mask generator, kept for pictures: the cost of each part, and the masks that are
left after each filter, computed with segment-anything's own functions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import (
    MaskData,
    batch_iterator,
    batched_mask_to_box,
    calculate_stability_score,
    mask_to_rle_pytorch,
    rle_to_mask,
)
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS
from lorasam_core.masks.predictor import as_rgb, evaluating
from lorasam_core.measure.metrics import mask_iou_matrix
from lorasam_core.models.sam import preprocess

PARTS = ("image encoder", "prompt encoder", "mask decoder")
THRESHOLDS = ("pred_iou_thresh", "stability_score_thresh", "min_mask_region_area")
SAME = 0.99  # IoU from which two masks are one and the same up to rounding


# ------------------------------------------------------------------------------------------------- parts of SAM
def part_costs(sam: Sam, image: NDArray[Any], repeats: int = 5) -> pd.DataFrame:
    """Parameters of SAM's three parts, and the seconds that each takes for one image (H, W[, 3]) and one point.

    One row a part: part, parameters, seconds (median of `repeats`, after one run that is not counted).
    """
    runs = []
    with evaluating(sam):
        inputs, (height, width) = preprocess(sam, image)
        point = torch.tensor([[[width / 2, height / 2]]], device=sam.device)
        label = torch.ones(1, 1, device=sam.device)
        for _ in range(repeats + 1):
            marks = [_now(sam)]
            features = sam.image_encoder(inputs)
            marks.append(_now(sam))
            sparse, dense = sam.prompt_encoder((point, label), None, None)
            marks.append(_now(sam))
            sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
            runs.append(np.diff([*marks, _now(sam)]))
    modules = (sam.image_encoder, sam.prompt_encoder, sam.mask_decoder)
    counts = [sum(p.numel() for p in module.parameters()) for module in modules]
    return pd.DataFrame({"part": PARTS, "parameters": counts, "seconds": np.median(runs[1:], axis=0)})


def _now(sam: Sam) -> float:
    if sam.device.type == "cuda":
        torch.cuda.synchronize(sam.device)
    return time.perf_counter()


def cost_shares(costs: pd.DataFrame) -> pd.DataFrame:
    """`part_costs` in per cent of the whole, in long form: part, measure (parameters or time), share."""
    shares = costs.assign(
        parameters=100 * costs["parameters"] / costs["parameters"].sum(),
        time=100 * costs["seconds"] / costs["seconds"].sum(),
    )
    return shares.melt("part", ["parameters", "time"], "measure", "share")


# ------------------------------------------------------------------------------------------------- mask generator
@dataclass(frozen=True)
class Answers:
    """Masks of one image, a row each, on the CPU."""

    masks: Tensor  # bool (M, H, W)
    rated: Tensor  # float32 (M,), predicted IoU
    stable: Tensor  # float32 (M,), stability score; NaN where no logit is above the lower threshold
    boxes: Tensor  # int64 (M, 4), X0, Y0, X1, Y1
    points: Tensor  # float64 (M, 2), X and Y of the point that was asked
    number: Tensor  # int64 (M,), among all masks: 3 times the point's number, plus 0, 1 or 2

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, rows: Tensor) -> Answers:
        """Some of the masks: bool (M,), or indices in the order wanted."""
        return Answers(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class Stage(NamedTuple):
    """The masks that are left, and the rule that left them there."""

    name: str
    rule: str
    answers: Answers


def lesson_settings(generator: str) -> dict[str, Any]:
    """The quick settings (256 points, no crops) with the thresholds of an edition's generator, `quick` or `study`."""
    settings = dict(QUICK_SETTINGS)
    if generator == "study":
        settings |= {name: STUDY_SETTINGS[name] for name in THRESHOLDS}
    return settings


def ask(generator: SamAutomaticMaskGenerator, image: NDArray[Any]) -> Answers:
    """All three masks of every point of the grid on a uint8 image, (H, W) or (H, W, 3); none is dropped."""
    predictor, picture = generator.predictor, as_rgb(image)
    sam, size = predictor.model, picture.shape[:2]
    parts = []
    with evaluating(sam):
        predictor.set_image(picture)
        grid = generator.point_grids[0] * np.array(size)[None, ::-1]
        for (points,) in batch_iterator(generator.points_per_batch, grid):
            coords = torch.as_tensor(
                predictor.transform.apply_coords(points, size), dtype=torch.float32, device=predictor.device
            )
            inside = torch.ones(len(points), 1, dtype=torch.int, device=predictor.device)
            logits, rated, _ = predictor.predict_torch(coords[:, None], inside, None, None, True, return_logits=True)
            logits, rated = logits.flatten(0, 1), rated.flatten(0, 1)  # B 3 H W -> B*3 H W
            stable = calculate_stability_score(logits, sam.mask_threshold, generator.stability_score_offset)
            masks = logits > sam.mask_threshold
            parts.append((masks.cpu(), rated.cpu(), stable.cpu(), batched_mask_to_box(masks).cpu()))
        predictor.reset_image()
    masks, rated, stable, boxes = (torch.cat(part) for part in zip(*parts, strict=True))
    each = len(masks) // len(grid)
    return Answers(masks, rated, stable, boxes, torch.as_tensor(grid.repeat(each, axis=0)), torch.arange(len(masks)))


def stages(generator: SamAutomaticMaskGenerator, image: NDArray[Any]) -> list[Stage]:
    """The mask generator's five stages on a uint8 image, (H, W) or (H, W, 3): asked, rated, stable, distinct, clean.

    The masks of the last stage are those of `generator.generate(image)`. Raises ValueError for a generator with crops:
    the filter by a crop's edge and the second box NMS would be missing here.
    """
    if generator.crop_n_layers:
        raise ValueError(f"crop_n_layers is {generator.crop_n_layers}; give a generator without crops.")
    rated_from, stable_from = generator.pred_iou_thresh, generator.stability_score_thresh
    asked = ask(generator, image)
    rated = asked.take(asked.rated > rated_from) if rated_from > 0 else asked
    stable = rated.take(rated.stable >= stable_from) if stable_from > 0 else rated
    no_class = torch.zeros(len(stable))
    distinct = stable.take(batched_nms(stable.boxes.float(), stable.rated, no_class, generator.box_nms_thresh))
    overlap, smallest = max(generator.box_nms_thresh, generator.crop_nms_thresh), generator.min_mask_region_area
    return [
        Stage("asked", "three masks a point", asked),
        Stage("rated", f"predicted IoU above {rated_from:g}", rated),
        Stage("stable", f"stability score of {stable_from:g} or more", stable),
        Stage("distinct", f"no better mask whose box overlaps by more than {generator.box_nms_thresh:g}", distinct),
        Stage("clean", f"holes and islands under {smallest:g} pixels gone", _clean(distinct, smallest, overlap)),
    ]


def _clean(answers: Answers, smallest: float, overlap: float) -> Answers:
    """Holes filled and islands removed, then the duplicates that this makes dropped."""
    if smallest <= 0 or not len(answers):
        return answers
    data = MaskData(
        rles=mask_to_rle_pytorch(answers.masks), boxes=answers.boxes.numpy().copy(), rows=np.arange(len(answers))
    )
    data = SamAutomaticMaskGenerator.postprocess_small_regions(data, smallest, overlap)
    masks = torch.stack([torch.from_numpy(rle_to_mask(rle).copy()) for rle in data["rles"]])
    kept = answers.take(torch.from_numpy(data["rows"]))
    return replace(kept, masks=masks, boxes=torch.from_numpy(data["boxes"]))


def funnel(passed: Sequence[Stage], labels: NDArray[Any]) -> pd.DataFrame:
    """What each stage leaves, one row a stage.

    labels: int (H, W), the true particles. Columns: stage, rule, masks, points (with a mask left), right (share of the
    masks that have an IoU of at least 0.5 with a particle; NaN without masks), found (particles that have such a mask).
    """
    rows = []
    for name, rule, answers in passed:
        match = mask_iou_matrix(answers.masks.numpy(), labels) >= 0.5
        right = match.any(axis=1).mean() if len(match) else float("nan")
        points = len(torch.unique(answers.number // 3))
        rows.append((name, rule, len(answers), points, right, int(match.any(axis=0).sum())))
    return pd.DataFrame(rows, columns=["stage", "rule", "masks", "points", "right", "found"])


def shown_funnel(table: pd.DataFrame) -> pd.DataFrame:
    """`funnel` as text for readers."""
    return pd.DataFrame({
        "stage": table["stage"],
        "what is left": table["rule"],
        "masks": table["masks"].map("{:,}".format),
        "points with a mask": table["points"].map("{:,}".format),
        "masks of a particle, %": table["right"].map(lambda r: "–" if np.isnan(r) else f"{100 * r:.0f}"),
        "particles with a mask": table["found"].map(str),
    })  # fmt: skip


def funnel_sentence(table: pd.DataFrame, particles: int) -> str:
    """What the filters cost and what they are good for, from `funnel`; particles: true ones in the image."""
    first, last = table.to_dict("records")[0], table.to_dict("records")[-1]
    fallen = -np.diff(table["masks"])
    step = 1 + int(fallen.argmax())
    text = (
        f"Of {first['masks']:,} masks {last['masks']:,} are left; most fall at the stage "
        f"*{table['stage'].iloc[step]}* ({fallen.max():,}). Of the {particles} particles {first['found']} had a mask "
        f"at first, and {last['found']} have one in the end"
    )
    if not last["masks"]:
        return f"{text}: nothing passes these thresholds."
    return f"{text}; the share of masks that are of a particle goes from {_share(first)} to {_share(last)}."


def _share(row: Mapping[Any, Any]) -> str:
    return f"{100 * row['right']:.0f} %"


def thresholds_sentence(right: NDArray[np.bool_], passes: NDArray[np.bool_]) -> str:
    """How well the two thresholds tell masks of a particle (`right`, bool (M,)) from others; `passes`: both of them."""
    if right.all():
        return f"All of the {len(right)} masks are of a particle."
    if not right.any():
        return f"Not one of the {len(right)} masks is of a particle."
    return (
        f"{right.sum()} of {len(right)} masks are of a particle. Of these {100 * passes[right].mean():.0f} % pass both "
        f"thresholds, of all others {100 * passes[~right].mean():.0f} %."
    )


# ------------------------------------------------------------------------------------------------- comparisons
def largest_error(guess: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[tuple[int, int], int]:
    """The point (X, Y) deepest inside what is wrong with a mask bool (H, W), and 1 (missing) or 0 (too much) there.

    Of two equal masks it is the first pixel.
    """
    depth = ndimage.distance_transform_edt(np.pad(guess != true, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (int(column), int(row)), int(true[row, column])


def duplicates(before: Answers, after: Answers, overlap: float) -> tuple[Tensor, int]:
    """The largest group of masks that became one: rows of `before` whose box overlaps, by an IoU above `overlap`, that
    of one mask of `after`, and the row of that mask in `after`. Raises ValueError where `after` holds no mask.
    """
    if not len(after):
        raise ValueError("No mask has passed, so none has duplicates; give lower thresholds.")
    same = box_iou(before.boxes.float(), after.boxes.float()) > overlap
    winner = int(same.sum(0).argmax())
    return same[:, winner].nonzero()[:, 0], winner


def changes(before: Answers, after: Answers) -> pd.DataFrame:
    """Masks of `after` that differ from their own in `before`, the most changed first: number, pixels."""
    rows = {int(n): i for i, n in enumerate(before.number)}
    pixels = [int((before.masks[rows[int(n)]] ^ mask).sum()) for n, mask in zip(after.number, after.masks, strict=True)]
    table = pd.DataFrame({"number": after.number.numpy(), "pixels": np.array(pixels, dtype=int)})
    return table[table["pixels"] > 0].sort_values("pixels", ascending=False, ignore_index=True)


def agreement(answers: Answers, annotations: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Masks on either side that have none on the other with an IoU of 0.99, and pixels in which the others differ.

    annotations: of the mask generator, with `segmentation` bool (H, W).
    """
    ours = answers.masks.numpy()
    theirs = np.array([a["segmentation"] for a in annotations], dtype=bool).reshape(-1, *ours.shape[1:])
    match = mask_iou_matrix(ours, theirs)
    paired = match.max(axis=1, initial=0) >= SAME
    alone = int((~paired).sum() + (match.max(axis=0, initial=0) < SAME).sum())
    pixels = sum(int((ours[i] ^ theirs[match[i].argmax()]).sum()) for i in np.flatnonzero(paired))
    return alone, pixels
