"""The compact SAM's loss: prompted masks, their rated IoU, points where nothing is, and likeness of pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from lorasam_core.models.lite import EMBEDDING, STRIDE
from lorasam_core.training.items import inside
from pretrain.windows import BOXES, EMPTY, MASK, POINTS

RATING = 3.0  # weight of the squared error of the predicted IoU
LIKENESS = 0.3  # weight of the dense loss: the pixels of an object resemble the pixel that a point names
OTHERS = 0.05  # weight of the two masks that are not the best for a point, so that none is never trained
CORRECT_EVERY, ROUNDS = 4, 2  # steps from one round of corrections to the next; corrective points, one after another
READ = 32  # channels in which pixels are compared


def mask_loss(logits: Tensor, target: Tensor, valid: Tensor, balance: float) -> Tensor:
    """Dice plus cross-entropy of each mask: (N, M, H, W) logits, (N, H, W) target and valid -> (N, M).

    A share `balance` of the cross-entropy weighs object and background alike. Balanced at first, because from random
    weights the plain loss collapses to empty masks.
    """
    truth, counts = target.float()[:, None], valid.float()[:, None]
    entropy = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none") * counts
    on = truth.sum((2, 3)).clamp(min=1)
    off = ((1 - truth) * counts).sum((2, 3)).clamp(min=1)
    inner = (entropy * truth).sum((2, 3))
    outer = entropy.sum((2, 3)) - inner
    probability = logits.sigmoid() * counts
    dice = 1 - (2 * (probability * truth).sum((2, 3)) + 1) / (probability.sum((2, 3)) + on + 1)
    return balance * (inner / on + outer / off) / 2 + (1 - balance) * (inner + outer) / (on + off) + dice


def hard_iou(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """IoU of thresholded masks: (N, M, H, W), (N, H, W) and (N, H, W) -> (N, M)."""
    guess, truth = (logits > 0) & valid[:, None], target[:, None]
    return (guess & truth).sum((2, 3)) / (guess | truth).sum((2, 3)).clamp(min=1)


def error_points(logits: Tensor, target: Tensor, valid: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A pixel where each mask is wrong, in the window's pixels (N, 1, 2), and 1 (missing) or 0 (spurious), (N, 1)."""
    wrong = (((logits > 0) != target) & valid).flatten(1).float() + 1e-6 * valid.flatten(1)
    generator = torch.Generator(target.device).manual_seed(seed)  # a resumed run draws the same
    at = torch.multinomial(wrong, 1, generator=generator)
    width = target.shape[-1]
    where = torch.stack([at % width, at // width], dim=-1).float() * MASK + MASK / 2
    return where, target.flatten(1).gather(1, at).float()


class PromptedObjective(nn.Module):
    """The loss of a batch of `windows.Windows`, and what is read out beside the model to compute it.

    even_until: the step at which the balanced share of the cross-entropy has fallen from 1 to 0.3; correct_from: the
    step from which on corrections are asked for.
    """

    def __init__(self, sam: Sam, even_until: int, correct_from: int) -> None:
        super().__init__()
        self.sam, self.even_until, self.correct_from = sam, even_until, correct_from
        self.read = nn.ConvTranspose2d(EMBEDDING, READ, STRIDE // MASK, stride=STRIDE // MASK)
        self.temperature = nn.Parameter(torch.tensor([8.0, -4.0]))  # scale and bias of the cosine

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """batch as the loader stacks the items -> (scalar loss, scalars to log)."""
        sam, side = self.sam, batch["image"].shape[-1]
        seen = inside(batch["extent"].tolist(), side, batch["image"].device)
        images = (batch["image"].float() - sam.pixel_mean) / sam.pixel_std * seen[:, None]
        embeddings = sam.image_encoder(images)
        valid = seen[:, ::MASK, ::MASK]
        loss, measures = self.prompted(embeddings, batch, valid, step)
        with torch.autocast(embeddings.device.type, enabled=False):
            return loss + LIKENESS * self.likeness(embeddings[:, :EMBEDDING].float(), batch, valid), measures

    def likeness(self, embeddings: Tensor, batch: dict[str, Any], valid: Tensor) -> Tensor:
        """The pixels of each target's smallest object against the pixel at its point: embeddings (B, C, h, w)."""
        features = F.normalize(self.read(embeddings), dim=1)  # B C h w
        at, regions = batch["at"], batch["regions"]
        rows = torch.arange(len(at), device=at.device)[:, None]
        queries = features[rows, :, at[..., 1], at[..., 0]]  # B K C
        logits = torch.einsum("bkc,bchw->bkhw", queries, features) * self.temperature[0] + self.temperature[1]
        target = regions[:, None] == regions[rows, at[..., 1], at[..., 0]][..., None, None]
        target = target & valid[:, None]
        shown = valid[:, None].expand_as(target).flatten(0, 1)
        return mask_loss(logits.flatten(0, 1)[:, None], target.flatten(0, 1), shown, 1.0).mean()

    def prompted(
        self, embeddings: Tensor, batch: dict[str, Any], valid: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Points in objects (best of three masks), boxes (single mask), points where nothing is (rated 0)."""
        balance = 1.0 - 0.7 * min(1.0, step / self.even_until)
        masks, scores = self.decode(embeddings, batch)
        target, shown = batch["targets"], valid[:, None].expand_as(batch["targets"])
        # in order: of each image its points, its boxes, its empty points
        point, box, empty = (part.flatten(0, 1) for part in masks.split([POINTS, BOXES, EMPTY], dim=1))
        rated = [part.flatten(0, 1) for part in scores.split([POINTS, BOXES, EMPTY], dim=1)]
        wanted, boxed = target[:, :POINTS].flatten(0, 1), target[:, POINTS:].flatten(0, 1)
        seen, framed = shown[:, :POINTS].flatten(0, 1), shown[:, POINTS:].flatten(0, 1)
        several, single = mask_loss(point[:, 1:], wanted, seen, balance), mask_loss(box[:, :1], boxed, framed, balance)
        best = several.min(1).values
        loss = (best.sum() + single.sum()) / (len(best) + len(single)) + OTHERS * several.mean()
        iou, box_iou = hard_iou(point[:, 1:], wanted, seen), hard_iou(box[:, :1], boxed, framed)
        known = batch["known"].repeat_interleave(EMPTY).float()[:, None]
        nothing = (rated[2][:, 1:].square() * known).sum() / 3
        error = len(best) * F.mse_loss(rated[0][:, 1:], iou) + len(single) * F.mse_loss(rated[1][:, :1], box_iou)
        error = (error + nothing) / (len(best) + len(single) + known.sum())
        loss = loss + RATING * error
        top = rated[0][:, 1:].argmax(1, keepdim=True)
        measures = {
            "iou_point": iou.max(1).values.mean(), "iou_rated": iou.gather(1, top).mean(), "iou_box": box_iou.mean(),
            "iou_error": (rated[0][:, 1:] - iou).abs().mean(),
            "rated_object": rated[0][:, 1:].max(1).values.mean(),
            "rated_empty": (rated[2][:, 1:].max(1).values * known[:, 0]).sum() / known.sum().clamp(min=1),
        }  # fmt: skip
        if step >= self.correct_from and step % CORRECT_EVERY == CORRECT_EVERY - 1:
            first = several.argmin(1) + 1
            rows = torch.arange(len(first), device=first.device)
            loss = loss + self.corrected(embeddings, batch, point[rows, first], box[:, 0], valid, step, balance)
        return loss, measures

    def corrected(
        self, embeddings: Tensor, batch: dict[str, Any], point: Tensor, box: Tensor, valid: Tensor, step: int,
        balance: float,
    ) -> Tensor:  # fmt: skip
        """The single mask after each corrective point beside the mask so far, on every second image."""
        count = len(embeddings)
        half = {key: batch[key][::2] for key in ("points", "boxes", "empty", "place")}
        by_image = torch.cat([point.unflatten(0, (count, POINTS)), box.unflatten(0, (count, BOXES))], dim=1)[::2]
        target = batch["targets"][::2].flatten(0, 1)
        shown = valid[::2, None].expand_as(batch["targets"][::2]).flatten(0, 1)
        previous, loss, clicks = by_image.detach().flatten(0, 1), embeddings.new_zeros(()), []
        for turn in range(ROUNDS):
            where, sign = error_points(previous, target, shown, step * ROUNDS + turn)
            where = where + half["place"].repeat_interleave(POINTS + BOXES, 0)[:, None]
            clicks.append((where, sign))
            masks, scores = self.decode(embeddings[::2], half, previous, clicks)
            masks, scores = masks.flatten(0, 1)[:, :1], scores.flatten(0, 1)[:, :1]
            loss = loss + mask_loss(masks, target, shown, balance).mean() / ROUNDS
            loss = loss + RATING * F.mse_loss(scores, hard_iou(masks, target, shown)) / ROUNDS
            previous = masks[:, 0].detach()
        return loss

    def decode(
        self, embeddings: Tensor, batch: dict[str, Any], previous: Tensor | None = None,
        clicks: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Masks (B, K, 4, h, w) and IoU predictions (B, K, 4): K is POINTS + BOXES + EMPTY, or without EMPTY where
        masks (B * K, h, w) are corrected by clicks: points (B * K, 1, 2) in the frame and labels (B * K, 1), one a
        round.
        """
        sam, count, (rows, columns) = self.sam, len(embeddings), embeddings.shape[-2:]
        points = batch["points"] if previous is not None else torch.cat([batch["points"], batch["empty"]], dim=1)
        each = points.shape[1]
        points = points.flatten(0, 1)[:, None]
        labels = torch.ones(points.shape[:2], device=points.device)
        boxes, extra, masks = batch["boxes"].flatten(0, 1), None, (None, None)
        if previous is not None and clicks:
            where, signs = torch.cat([w for w, _ in clicks], 1), torch.cat([s for _, s in clicks], 1)
            parts = [
                [part.flatten(0, 1) for part in x.unflatten(0, (count, -1)).split([POINTS, BOXES], dim=1)]
                for x in (where, signs, previous[:, None])
            ]
            points, labels = torch.cat([points, parts[0][0]], 1), torch.cat([labels, parts[1][0]], 1)
            extra, masks = (parts[0][1], parts[1][1]), (parts[2][0], parts[2][1])
        encode = sam.prompt_encoder
        with torch.autocast(embeddings.device.type, enabled=False):  # bf16 would round positions to whole pixels
            by_point, by_box = encode((points, labels), None, masks[0]), encode(extra, boxes, masks[1])
            code = encode.get_dense_pe()[0]
        at = (batch["place"] // STRIDE).tolist()
        position = torch.stack([code[:, y : y + rows, x : x + columns] for x, y in at])
        answers = []
        for (sparse, dense), k, mask in ((by_point, each, masks[0]), (by_box, BOXES, masks[1])):
            if mask is None:  # what says so is the same everywhere, and comes at the frame's size
                dense = encode.no_mask_embed.weight[..., None, None].expand(len(sparse), -1, rows, columns)
            found = sam.mask_decoder.predict_masks(embeddings, position, sparse, dense)
            answers.append([part.float().unflatten(0, (count, k)) for part in found])
        (point, rated), (box, box_rated) = answers
        # points, boxes, empty points
        order = [torch.cat([a[:, :POINTS], b, a[:, POINTS:]], dim=1) for a, b in ((point, box), (rated, box_rated))]
        return order[0], order[1]
