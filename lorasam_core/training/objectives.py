"""What a training step asks of SAM: the whole image (semantic) or its particles (instance)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from lorasam_core.training.items import inside, on_grid, part
from lorasam_core.training.losses import iou_head_loss, mask_iou, minimum_mask_loss, per_mask_dice_ce
from lorasam_core.training.prompts import whole_image_box

# bytes of the image tokens in one decoder call on a CPU: below it calls themselves cost, above it memory bounds them
# (forward and backward, 32 to 128 prompts of 0.3 MB each, and 2 to 4 of vit_b, 4 MB each, are the fastest)
CPU_TOKEN_BYTES = 2**24
# numbers of image tokens that go through the encoder at once on a CPU: of a compact model dozens of images, whose
# steps are faster together; of vit_b at 1024 pixels one: eight take an eighth less time one by one, and a quarter of
# the memory
CPU_ENCODER_NUMBERS = 2**22
RATING = 3.0  # weight of the squared error of the predicted IoU


def images_at_once(sam: Sam) -> int:
    """Images in one forward and backward pass of the encoder: a GPU takes whole batches, a CPU what is fastest."""
    if sam.device.type != "cpu":
        return sys.maxsize
    rows, columns = sam.prompt_encoder.image_embedding_size
    return max(1, CPU_ENCODER_NUMBERS // (rows * columns * sam.image_encoder.blocks[0].norm1.normalized_shape[0]))


def decode(
    sam: Sam, embeddings: Tensor, owner: Tensor, sparse: Tensor, dense: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """All masks (N, 4, m, m) and IoU predictions (N, 4) of N prompts on the images that `owner` (N,) names.

    embeddings: (B, C, h, w); sparse: (N, n, C); dense: (N, C, h, w); chunk: prompts a call, by default what the device
    likes. SAM's decoder takes one image a call and adds the dense embeddings to it; here the image itself travels in
    that sum, so that one call serves prompts on many images.
    """
    nothing = torch.zeros_like(embeddings[:1])
    position = sam.prompt_encoder.get_dense_pe()
    further = (0, 0, 0, 0, 0, embeddings.shape[1] - dense.shape[1])  # channels of details, where the model has them
    if chunk is None:
        fitting = CPU_TOKEN_BYTES // (embeddings[0].numel() * embeddings.element_size())
        chunk = max(1, fitting if embeddings.device.type == "cpu" else len(owner))
    parts = [
        sam.mask_decoder.predict_masks(
            nothing, position, sparse[rows], embeddings[owner[rows]] + F.pad(dense[rows], further)
        )
        for rows in torch.arange(len(owner), device=owner.device).split(chunk)
    ]
    return torch.cat([masks for masks, _ in parts]), torch.cat([scores for _, scores in parts])


class Objective(nn.Module):
    """The loss of a batch. semantic: Dice + cross-entropy of the single mask for the whole-image box. instance: the
    best of three masks for a point, the single mask for a box, and RATING times the IoU head's square error, which for
    a point where nothing is asks for 0 and leaves the masks alone. mixed alternates them.
    """

    def __init__(self, sam: Sam, kind: str) -> None:
        super().__init__()
        self.sam, self.kind = sam, kind

    def pieces(self, batch: dict[str, Any], step: int) -> list[tuple[float, dict[str, Any]]]:
        """A batch cut into (share, batch), each of as many images as the device likes at once: the sum of share * loss
        over them is the loss of the whole batch, and its gradient that of the whole. Where other processes have further
        images of the batch, it is the sum over all of them.
        """
        images, size = images_at_once(self.sam), batch["size"]
        whole, prompts = batch.get("whole") or (size, prompts_in(batch))
        if whole == size <= images:
            return [(1.0, batch)]
        asked = prompts if self.is_instance(step) else 0
        found = []
        for first in range(0, size, images):
            piece = part(batch, first, min(first + images, size))
            share = prompts_in(piece) / asked if asked else piece["size"] / whole
            if share:
                found.append((share, piece))
        return found

    def is_instance(self, step: int) -> bool:
        """Whether a step asks for single particles."""
        return self.kind == "instance" or (self.kind == "mixed" and step % 2 == 1)

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """batch as `collate` makes it -> (scalar loss, {"accuracy", "miou"} of the masks that were trained)."""
        side, grid = self.sam.image_encoder.img_size, self.sam.prompt_encoder.mask_input_size[0]
        extents, device = batch["extents"], batch["image"].device
        # as the predictor does: first normalised, then padded with zeros
        images = (batch["image"].float() - self.sam.pixel_mean) / self.sam.pixel_std
        images = images * inside(extents, side, device)[:, None]
        embeddings = self.sam.image_encoder(images)
        # coordinates in bf16 would be rounded to whole pixels, so prompts and decoder stay in float32
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.is_instance(step) and prompts_in(batch):
                return self.instance(embeddings.float(), batch)
            valid = inside([on_grid(extent, side, grid) for extent in extents], grid, device)
            return self.semantic(embeddings.float(), batch["semantic"], valid, extents)

    def semantic(
        self, embeddings: Tensor, target: Tensor, valid: Tensor | None = None, sizes: Sequence[tuple[int, int]] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """embeddings (B, C, h, w), target and valid (B, m, m); sizes: (h, w) of each image without its padding."""
        logits = self.foreground(embeddings, sizes)
        return per_mask_dice_ce(logits, target, valid).mean(), agreement(logits, target, valid)

    def foreground(self, embeddings: Tensor, sizes: Sequence[tuple[int, int]] = ()) -> Tensor:
        """Logits (B, m, m) of the single mask for the whole-image box."""
        side = self.sam.image_encoder.img_size
        boxes = np.concatenate([whole_image_box(size) for size in sizes or [(side, side)] * len(embeddings)])
        sparse, dense = self.sam.prompt_encoder(None, torch.from_numpy(boxes).to(embeddings.device), None)
        masks, _ = decode(self.sam, embeddings, torch.arange(len(embeddings), device=embeddings.device), sparse, dense)
        return masks[:, 0]

    def instance(self, embeddings: Tensor, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Each instance by a point, or by its box where `by_point` (N,) is False; and the points where nothing is."""
        target, owner, by_point = batch["targets"], batch["owner"], batch["by_point"]
        points, boxes, empty = batch["points"][by_point, None], batch["boxes"][~by_point], batch["empty"][:, None]
        encode = self.sam.prompt_encoder
        losses, errors, measures = [embeddings.new_zeros(0)], [], []
        if len(points):
            sparse, dense = encode((points, torch.ones(points.shape[:2], device=points.device)), None, None)
            masks, scores = decode(self.sam, embeddings, owner[by_point], sparse, dense)
            best, index = minimum_mask_loss(masks[:, 1:], target[by_point])
            losses.append(best)
            errors.append(len(points) * iou_head_loss(scores[:, 1:], masks[:, 1:], target[by_point]))
            measures.append(masks[torch.arange(len(index), device=index.device), index + 1])
        if len(boxes):
            sparse, dense = encode(None, boxes, None)
            masks, scores = decode(self.sam, embeddings, owner[~by_point], sparse, dense)
            losses.append(per_mask_dice_ce(masks[:, 0], target[~by_point]))
            errors.append(len(boxes) * iou_head_loss(scores[:, :1], masks[:, :1], target[~by_point]))
            measures.append(masks[:, 0])
        if len(empty):
            sparse, dense = encode((empty, torch.ones(empty.shape[:2], device=empty.device)), None, None)
            _, scores = decode(self.sam, embeddings, batch["empty_owner"], sparse, dense)
            errors.append(scores[:, 1:].square().mean(1).sum())
        loss = (torch.cat(losses).sum() + RATING * torch.stack(errors).sum()) / prompts_in(batch)
        if not measures:  # nothing to find
            return loss, dict.fromkeys(("accuracy", "miou"), torch.ones_like(loss))
        return loss, agreement(torch.cat(measures), torch.cat([target[by_point], target[~by_point]]))


def prompts_in(batch: dict[str, Any]) -> int:
    """Instances and empty points of a batch."""
    return len(batch["targets"]) + len(batch["empty"])


@torch.no_grad()
def agreement(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Pixel accuracy and mIoU (mean of foreground's and background's IoU), as the study logs: (B, m, m) -> scalars."""
    inside = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
    right = ((logits > 0) == target) & inside
    miou = (mask_iou(logits, target, valid) + mask_iou(-logits, ~target, valid)) / 2
    return {"accuracy": right.sum() / inside.sum(), "miou": miou.mean()}
