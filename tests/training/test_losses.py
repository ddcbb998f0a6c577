"""Losses against MONAI, torchmetrics, and cases with a known answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_jaccard_index

from lorasam_core.training.losses import dice_ce_loss, iou_head_loss, mask_iou, minimum_mask_loss, per_mask_dice_ce


def random_masks(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator)
    target = (torch.rand(shape[0], *shape[-2:], generator=generator) > 0.6).float()
    return logits, target


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 17), st.integers(1, 17))
def test_dice_ce_is_monais_in_value_and_gradient(seed, batch, height, width):
    from monai.losses import DiceCELoss  # here: not in every process that collects the tests

    logits, target = random_masks(seed, batch, height, width)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = dice_ce_loss(ours, target)
    reference = DiceCELoss(sigmoid=True)(theirs[:, None], target[:, None])
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-6)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 11))
def test_padding_is_as_if_cut_away(seed, height, width):
    logits, target = random_masks(seed, 2, 9, 11)
    valid = torch.zeros(2, 9, 11, dtype=torch.bool)
    valid[:, :height, :width] = True
    logits[~valid] = torch.inf
    logits.requires_grad_()
    loss = per_mask_dice_ce(logits, target, valid)
    torch.testing.assert_close(loss, per_mask_dice_ce(logits[:, :height, :width], target[:, :height, :width]))
    loss.sum().backward()
    assert (logits.grad[~valid] == 0).all() and logits.grad.isfinite().all()
    cut = mask_iou(logits[:, :height, :width], target[:, :height, :width])
    torch.testing.assert_close(mask_iou(logits, target, valid), cut)


def test_valid_differs_from_image_to_image():
    logits, target = random_masks(3, 2, 8, 8)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[1, 5:] = False
    expected = [per_mask_dice_ce(logits[:1], target[:1]), per_mask_dice_ce(logits[1:, :5], target[1:, :5])]
    torch.testing.assert_close(per_mask_dice_ce(logits, target, valid), torch.cat(expected))
    assert per_mask_dice_ce(logits, target, torch.zeros(2, 8, 8, dtype=torch.bool)).tolist() == [0, 0]


def test_known_values():
    target = torch.zeros(1, 4, 4)
    target[:, :2] = 1
    sure = 40 * (target - 0.5)
    assert dice_ce_loss(sure, target) < 1e-6
    assert dice_ce_loss(torch.full((1, 4, 4), -40.0), torch.zeros(1, 4, 4)) < 1e-6  # empty, and found empty
    # nothing known: p = 0.5, so Dice = 2 * 4 / (8 + 8) and the cross-entropy is log 2
    torch.testing.assert_close(dice_ce_loss(torch.zeros(1, 4, 4), target), 0.5 + torch.tensor(2.0).log())


def test_minimum_mask_is_the_best_and_alone_gets_a_gradient():
    logits, target = random_masks(5, 3, 4, 8, 8)
    best = torch.tensor([2, 0, 3])
    for image, mask in enumerate(best):
        logits[image, mask] = 4 * (target[image] - 0.5)
    logits.requires_grad_()
    loss, index = minimum_mask_loss(logits, target)
    each = torch.stack([per_mask_dice_ce(logits[:, m], target) for m in range(4)], 1)
    assert index.tolist() == best.tolist()
    torch.testing.assert_close(loss, each.min(1).values)
    loss.sum().backward()
    moved = logits.grad.abs().sum((-2, -1)) > 0
    assert moved.nonzero().tolist() == [[0, 2], [1, 0], [2, 3]]


def test_mask_iou_against_torchmetrics_and_by_hand():
    logits, target = random_masks(7, 3, 2, 12, 9)
    ours = mask_iou(logits, target)
    for image in range(3):
        for mask in range(2):
            reference = binary_jaccard_index(logits[image, mask].sigmoid(), target[image].int())
            torch.testing.assert_close(ours[image, mask], reference)
    empty = torch.zeros(1, 4, 4)
    half = torch.full((1, 4, 4), -1.0)
    half[:, :2] = 1
    assert mask_iou(half - 2, empty).item() == 1  # both empty
    assert mask_iou(half, empty).item() == 0
    assert mask_iou(half, torch.ones(1, 4, 4)).item() == 0.5


def test_iou_head_loss_is_the_square_error_to_the_true_iou():
    logits, target = random_masks(8, 2, 3, 8, 8)
    logits.requires_grad_()
    predicted = torch.rand(2, 3, requires_grad=True)
    loss = iou_head_loss(predicted, logits, target)
    torch.testing.assert_close(loss, F.mse_loss(predicted, mask_iou(logits, target)))
    loss.backward()
    assert logits.grad is None and predicted.grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32():
    logits, target = random_masks(9, 2, 64, 64)
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = dice_ce_loss(half, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, dice_ce_loss(half.float(), target))
    assert minimum_mask_loss(half[:, None], target)[0].dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 8, 8\) do not fit a target of shape \(2, 4, 8\)"):
        dice_ce_loss(torch.zeros(2, 8, 8), torch.zeros(2, 4, 8))
    with pytest.raises(ValueError, match="do not fit"):
        minimum_mask_loss(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"give \(B, M\)"):
        iou_head_loss(torch.zeros(2, 1), torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8))
