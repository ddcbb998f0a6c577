"""Losses on mask logits: Dice plus cross-entropy, the best of several masks, and the IoU head's.

Every function reads logits of shape (B, ..., H, W) and a target of shape (B, H, W), which is broadcast over the masks
in between, and computes in float32 whatever the precision of its inputs. `valid` (bool, expandable to the target, True
where a pixel belongs to the image) leaves padding out: neither its value nor its gradient counts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1e-5  # keeps the Dice of an empty mask with an empty target at 1


def _aligned(logits: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """float32 logits (B, ..., H, W), float32 target and bool valid with 1 in the place of the mask dimensions."""
    if logits.shape[0] != target.shape[0] or logits.shape[-2:] != target.shape[-2:] or target.ndim != 3:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not fit a target of shape {tuple(target.shape)}; "
            "give (B, ..., H, W) and (B, H, W)."
        )
    inner = (1,) * (logits.ndim - 3)
    if valid is not None:
        valid = valid.bool().expand(target.shape)
        valid = valid.reshape(valid.shape[0], *inner, *valid.shape[1:])
    target = target.float().reshape(target.shape[0], *inner, *target.shape[1:])
    return logits.float(), target, valid


def per_mask_dice_ce(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Soft Dice loss plus binary cross-entropy, in equal parts, of each mask.

    Dice (Milletari et al. 2016, V-Net, section 3, without the squares) is 1 - (2 sum(p t) + s) / (sum p + sum t + s),
    p = sigmoid(logits), s = 1e-5; the cross-entropy is the mean over the valid pixels.

    Args:
        logits: (B, ..., H, W), any float type. target: (B, H, W), 0 or 1 (or a fraction). valid: bool, fits the target.

    Returns:
        float32 (B, ...), at least 0. An image without a valid pixel has the loss 0.

    Raises:
        ValueError: the shapes do not fit.
    """
    logits, target, valid = _aligned(logits, target, valid)
    if valid is None:
        probability = logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none").mean((-2, -1))
    else:
        logits = logits.masked_fill(~valid, 0.0)  # first, so that not even an infinite logit in the padding counts
        target = target.masked_fill(~valid, 0.0)
        probability = logits.sigmoid() * valid
        entropy = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none") * valid
        entropy = entropy.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)
    overlap = (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return 1 - (2 * overlap + SMOOTH) / (total + SMOOTH) + entropy


def dice_ce_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of `per_mask_dice_ce` over the batch: (B, H, W) logits and target -> float32 scalar."""
    return per_mask_dice_ce(logits, target, valid).mean()


def minimum_mask_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Loss of the best of several masks (Segment Anything, section 3: only the minimum loss is back-propagated).

    Args:
        logits: (B, M, H, W). target: (B, H, W). valid: bool, fits the target.

    Returns:
        Loss of the best mask, float32 (B,), and its index, int64 (B,). Only that mask receives a gradient.

    Raises:
        ValueError: the shapes do not fit.
    """
    with torch.no_grad():  # the other masks need no graph
        index = per_mask_dice_ce(logits, target, valid).argmin(1)
    best = logits[torch.arange(len(index), device=index.device), index]  # B M H W -> B H W
    return per_mask_dice_ce(best, target, valid), index


@torch.no_grad()
def mask_iou(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Intersection over union of the masks `logits > 0` and `target > 0.5`; both empty is 1.

    Args:
        logits: (B, ..., H, W). target: (B, H, W). valid: bool, fits the target.

    Returns:
        float32 (B, ...), from 0 to 1, without a gradient.

    Raises:
        ValueError: the shapes do not fit.
    """
    logits, target, valid = _aligned(logits, target, valid)
    pred, true = logits > 0, target > 0.5
    if valid is not None:
        pred, true = pred & valid, true & valid
    intersection, union = (pred & true).sum((-2, -1)), (pred | true).sum((-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def iou_head_loss(predicted: Tensor, logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean square error between the predicted and the true IoU of every mask (Segment Anything, appendix A).

    Args:
        predicted: (B, M), the IoU head's output. logits: (B, M, H, W). target: (B, H, W). valid: bool, fits the target.

    Returns:
        float32 scalar; its gradient reaches `predicted` alone.

    Raises:
        ValueError: the shapes do not fit.
    """
    true = mask_iou(logits, target, valid)
    if predicted.shape != true.shape:
        raise ValueError(f"predicted IoU is {tuple(predicted.shape)}, the masks are {tuple(true.shape)}; give (B, M).")
    return F.mse_loss(predicted.float(), true)
