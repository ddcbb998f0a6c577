"""What the compact SAM learns from: prompts on generated scenes, and the losses of the two stages of its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.utils.data import Dataset

from lorasam_core.data.scenes import Scene, generate_scene
from lorasam_core.objectives import decode, inside, pad
from lorasam_core.prompts import jittered_boxes, points_inside

STRIDE = 4  # pixels of the input to one of the mask decoder's output, with patches of 16
FULL_SIZE = 384  # pixels of a scene; smaller inputs are windows of it, so that objects keep their scale
MIN_AREA = 100  # visible pixels; smaller objects are a handful of the decoder's pixels
LARGER = 0.25  # an object is drawn in proportion to its area to this power: even draws are mostly of specks
PROMPTS = 8  # objects an image: half by a point, half by a box
CORRECT_EVERY = 4  # steps from one round of corrections to the next, once the first third of the steps is done
ROUNDS = 2  # corrective points after the first prompt, each beside the mask so far
WHOLE_IMAGE = 0.25  # share of images with the whole-image box among their prompts; its target is every object
OBLONG = 0.4  # share of inputs that are not square: padded with zeros, as the predictor pads
OTHERS = 0.05  # weight of the two masks that are not the best for a point, so that none is never trained
CHUNK = 128  # prompts a decoder call


class ScenePrompts(Dataset[dict[str, Tensor]]):
    """Scene i as tensors: image uint8 (3, S, S), zero outside its extent (h, w); points (K, 2), boxes (K, 4), targets
    (K, S/4, S/4) bool and regions (S/4, S/4): a number for the smallest object at each pixel, 0 for none. A pure
    function of (seed, i).
    """

    def __init__(self, seed: int, size: int, length: int) -> None:
        self.seed, self.size, self.length = seed, size, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index, 7))
        extent = [self.size, self.size]
        if rng.random() < OBLONG:
            extent[rng.integers(2)] = max(STRIDE, round(rng.uniform(0.5, 1) * self.size / STRIDE) * STRIDE)
        scene = _crop(generate_scene(self.seed, index, FULL_SIZE), rng, extent[0], extent[1])
        areas = scene.masks.sum((1, 2))
        eligible = np.flatnonzero(areas >= min(MIN_AREA, areas.max()))
        weights = areas[eligible] ** LARGER
        chosen = rng.choice(eligible, PROMPTS, replace=len(eligible) < PROMPTS, p=weights / weights.sum())
        prompts = [_prompts_of(scene.masks[i], rng) for i in chosen]
        targets = scene.masks[chosen].copy()
        boxes = np.concatenate([box for _, box in prompts])
        if rng.random() < WHOLE_IMAGE:
            boxes[-1] = (0, 0, extent[1], extent[0])
            targets[-1] = scene.masks[scene.levels == 0].any(axis=0)
        regions = torch.from_numpy(_regions(scene)[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].astype(np.int64))
        small = F.avg_pool2d(torch.from_numpy(targets).float()[None], STRIDE)[0] >= 0.5
        return {
            "image": pad(torch.from_numpy(scene.image).permute(2, 0, 1), self.size),  # H W C -> C H W
            "extent": torch.tensor(extent),
            "points": torch.from_numpy(np.concatenate([point for point, _ in prompts])),
            "boxes": torch.from_numpy(boxes),
            "targets": pad(small, self.size // STRIDE),
            "regions": pad(regions, self.size // STRIDE),
        }


def _prompts_of(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels: np.ndarray = mask.astype(np.int32)
    one: np.ndarray = np.array([1])
    return points_inside(labels, one, rng), jittered_boxes(labels, one, rng, jitter=0.05)


def _crop(scene: Scene, rng: np.random.Generator, height: int, width: int) -> Scene:
    """The fullest of four random windows, with the masks that are seen in it."""
    union = np.logical_or.reduce(scene.masks)
    room: np.ndarray = np.array(union.shape) - (height, width)
    corners = rng.integers(0, room + 1, (4, 2)).tolist()
    y, x = max(corners, key=lambda at: int(union[at[0] : at[0] + height, at[1] : at[1] + width].sum()))
    if not union[y : y + height, x : x + width].any():  # the scene's objects are in a corner: look there
        pixel = np.argwhere(union)[0]
        y, x = np.clip(pixel - (height // 2, width // 2), 0, room).tolist()
    masks = scene.masks[:, y : y + height, x : x + width]
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    return replace(
        scene, image=scene.image[y : y + height, x : x + width], masks=masks[seen], levels=scene.levels[seen],
        parents=np.full(len(seen), -1, np.int32),
    )  # fmt: skip


def _regions(scene: Scene) -> np.ndarray:
    regions = np.zeros(scene.masks.shape[1:], np.int32)
    for index in np.argsort(-scene.masks.sum((1, 2))):  # smaller ones over larger ones
        regions[scene.masks[index]] = index + 1
    return regions


def mask_loss(logits: Tensor, target: Tensor, balance: float) -> Tensor:
    """Dice plus cross-entropy of each mask: (N, M, H, W) logits and (N, H, W) target -> (N, M).

    A share `balance` of the cross-entropy weighs object and background alike. Balanced at first, because from random
    weights the plain loss collapses to empty masks.
    """
    logits, truth = logits.float(), target.float()[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    on, off = truth.sum((2, 3)).clamp(min=1), (1 - truth).sum((2, 3)).clamp(min=1)
    even = ((entropy * truth).sum((2, 3)) / on + (entropy * (1 - truth)).sum((2, 3)) / off) / 2
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * truth).sum((2, 3)) + 1) / (probability.sum((2, 3)) + on + 1)
    return balance * even + (1 - balance) * entropy.mean((2, 3)) + dice


def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks: (N, M, H, W) and (N, H, W) -> (N, M)."""
    guess, truth = logits > 0, target[:, None]
    return (guess & truth).sum((2, 3)) / (guess | truth).sum((2, 3)).clamp(min=1)


class DenseObjective(nn.Module):
    """Encoder warm-up: the pixels of an object resemble the pixel that a point names."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        width = sam.image_encoder.neck[0].out_channels
        self.read = nn.ConvTranspose2d(width, 32, STRIDE, stride=STRIDE)  # linear, and left behind after the warm-up
        self.temperature = nn.Parameter(torch.tensor([8.0, -4.0]))  # scale and bias of the cosine

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = self.sam.image_encoder(normalise(self.sam, batch["image"], batch["extent"]))
        features = F.normalize(self.read(embeddings), dim=1)  # B C h w
        at = (batch["points"] / STRIDE).long().clamp(0, features.shape[-1] - 1)  # B K 2, x then y
        rows = torch.arange(len(at), device=at.device)[:, None]
        queries = features[rows, :, at[..., 1], at[..., 0]]  # B K C
        logits = torch.einsum("bkc,bchw->bkhw", queries, features) * self.temperature[0] + self.temperature[1]
        regions = batch["regions"]
        target = regions[:, None] == regions[rows, at[..., 1], at[..., 0]][..., None, None]
        logits, target = logits.flatten(0, 1)[:, None], target.flatten(0, 1)
        return mask_loss(logits, target, 1.0).mean(), {"iou_point": hard_iou(logits, target).mean()}


class PromptedObjective(nn.Module):
    """Points (best of three masks), boxes (single mask), the IoU head, and now and then rounds of corrections."""

    def __init__(self, sam: Sam, steps: int, rating: float = 1.0) -> None:
        super().__init__()
        self.sam, self.steps, self.rating = sam, steps, rating

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        share = 1.0 - 0.7 * min(1.0, 2 * step / self.steps)  # of the balanced cross-entropy, down in the first half
        embeddings = self.sam.image_encoder(normalise(self.sam, batch["image"], batch["extent"]))
        # positions of prompts need float32: bf16 would round them to whole pixels
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.prompted(embeddings.float(), batch, step, share)

    def prompted(
        self, embeddings: Tensor, batch: dict[str, Any], step: int, share: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all prompts on embeddings (B, C, h, w); share: of the balanced cross-entropy."""
        target = batch["targets"].flatten(0, 1)
        masks, scores = self.decode(embeddings, batch)
        by_point = (torch.arange(len(target), device=target.device) % PROMPTS) < PROMPTS // 2
        losses, true_iou = mask_loss(masks, target, share), hard_iou(masks, target)
        best = losses[:, 1:].argmin(1) + 1
        used = torch.where(by_point, best, 0)
        rows = torch.arange(len(target), device=target.device)
        loss = losses[rows, used].mean() + OTHERS * losses[by_point, 1:].mean()
        trusted = torch.where(by_point[:, None], torch.tensor([0, 1, 1, 1], device=target.device), 0)
        trusted = trusted + F.one_hot(used, 4) * ~by_point[:, None]
        loss = loss + self.rating * (((scores - true_iou) ** 2) * trusted).sum() / trusted.sum()
        measures = {
            "iou_point": true_iou[by_point, 1:].max(1).values.mean(),
            "iou_box": true_iou[~by_point, 0].mean(),
            "iou_error": ((scores - true_iou).abs() * trusted).sum() / trusted.sum(),
        }
        if step >= self.steps // 3 and step % CORRECT_EVERY == CORRECT_EVERY - 1:
            few = {"points": batch["points"][::2], "boxes": batch["boxes"][::2]}  # every second image: rounds are dear
            half = (rows // PROMPTS) % 2 == 0
            previous, wanted, clicks = masks[rows, used].detach()[half], target[half], []
            generator = torch.Generator(target.device).manual_seed(step)  # a resumed run draws the same
            for _ in range(ROUNDS):
                clicks.append(_error_points(previous, wanted, generator))
                masks, scores = self.decode(embeddings[::2], few, previous, clicks)
                true_iou = hard_iou(masks[:, :1], wanted)
                corrected = mask_loss(masks[:, :1], wanted, share).mean()
                corrected = corrected + self.rating * F.mse_loss(scores[:, :1], true_iou)
                loss = loss + corrected / ROUNDS
                previous = masks[:, 0].detach()
        return loss, measures

    def decode(
        self, embeddings: Tensor, batch: dict[str, Any], previous: Tensor | None = None,
        clicks: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """All four masks (B * K, 4, h, w) and IoU predictions (B * K, 4).

        previous: (B * K, h, w) masks to correct; clicks: points (B * K, 1, 2) and labels (B * K, 1), one a round.
        """
        count, half = len(embeddings), PROMPTS // 2
        points, boxes = batch["points"][:, :half].flatten(0, 1)[:, None], batch["boxes"][:, half:].flatten(0, 1)
        named = torch.ones(points.shape[:2], device=points.device)
        encode = self.sam.prompt_encoder
        masks = None if previous is None else previous.unflatten(0, (count, PROMPTS))[:, :, None]  # B K 1 h w
        at = [w.unflatten(0, (count, PROMPTS)) for w, _ in clicks]
        signs = [s.unflatten(0, (count, PROMPTS)) for _, s in clicks]

        def of(parts: list[Tensor], rows: slice) -> list[Tensor]:
            return [part[:, rows].flatten(0, 1) for part in parts]

        first, second = slice(half), slice(half, None)
        by_point = encode(
            (torch.cat([points, *of(at, first)], 1), torch.cat([named, *of(signs, first)], 1)), None,
            None if masks is None else masks[:, first].flatten(0, 1),
        )  # fmt: skip
        extra = (torch.cat(of(at, second), 1), torch.cat(of(signs, second), 1)) if clicks else None
        by_box = encode(extra, boxes, None if masks is None else masks[:, second].flatten(0, 1))
        sparse, dense = (
            torch.cat([a.unflatten(0, (count, half)), b.unflatten(0, (count, half))], 1).flatten(0, 1)
            for a, b in zip(by_point, by_box, strict=True)
        )
        owner = torch.arange(count, device=embeddings.device).repeat_interleave(PROMPTS)
        return decode(self.sam, embeddings, owner, sparse, dense, CHUNK)


def _error_points(logits: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A pixel where each mask is wrong, in image coordinates (K, 1, 2), and 1 (missing) or 0 (spurious), (K, 1)."""
    wrong = ((logits > 0) != target).flatten(1).float() + 1e-6
    at = torch.multinomial(wrong, 1, generator=generator)
    width = target.shape[-1]
    where = torch.stack([at % width, at // width], dim=-1).float() * STRIDE + STRIDE / 2
    return where, target.flatten(1).gather(1, at).float()


def normalise(sam: Sam, images: Tensor, extents: Tensor) -> Tensor:
    """(B, 3, S, S) of 0-255 to the model's input: normalised, then zero outside each extent (h, w)."""
    seen = inside(extents.tolist(), images.shape[-1], images.device)
    return (images - sam.pixel_mean) / sam.pixel_std * seen[:, None]
