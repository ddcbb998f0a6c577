"""The gradient of a training batch against a plain loop over segment-anything's own modules, losses written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models import attention
from lorasam_core.models.attention import use_fast_attention
from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters
from lorasam_core.training.items import TrainingItems, collate
from lorasam_core.training.objectives import Objective
from tests.disc_set import disc_sample
from tests.tiny_sam import randomise, tiny_sam

SIDE, MASK, SMOOTH = 64, 32, 1e-5


@pytest.fixture(scope="module")
def batch() -> dict:
    """Four images, two of them with padding, with up to five instances each."""
    samples = [disc_sample(0), disc_sample(1, (96, 70, 3)), disc_sample(2), disc_sample(3, (64, 64))]
    plain, oblong = (TrainingItems(VirtualSet(samples, 8, 0, 64), SIDE, MASK, 5, share) for share in (0.0, 1.0))
    made = collate([plain[0], oblong[1], plain[2], oblong[3]])
    assert [min(extent) < SIDE for extent in made["extents"]] == [False, True, False, True]
    assert len(made["owner"].bincount().unique()) > 1  # else a mean of means would do too
    return made


@pytest.fixture(scope="module")
def original():
    """segment-anything's modules, with LoRA and nothing else of ours."""
    sam = add_lora(tiny_sam(depth=3), LoRAConfig(4, targets=("q", "v", "proj", "lin2")))
    randomise(lora_parameters(sam), scale=0.2)
    return sam


@pytest.fixture
def ours(original, monkeypatch):
    """The same weights as training computes with them: fused attention, also for the tiny model's few tokens."""
    monkeypatch.setattr(attention, "FEW_TOKENS", 0)
    sam = copy.deepcopy(original)
    use_fast_attention(sam.image_encoder)
    return sam


def dice_and_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum(p t) + s) / (sum p + sum t + s), plus the mean of -t log p - (1 - t) log(1 - p): (h, w) -> scalar."""
    p, t = 1 / (1 + torch.exp(-logits)), target.to(logits.dtype)
    dice = (2 * (p * t).sum() + SMOOTH) / (p.sum() + t.sum() + SMOOTH)
    entropy = t * torch.log1p(torch.exp(-logits)) + (1 - t) * torch.log1p(torch.exp(logits))
    return 1 - dice + entropy.mean()


def overlap(logits: Tensor, target: Tensor) -> Tensor:
    """True IoU of a mask (h, w)."""
    mask = logits > 0
    return (mask & target).sum() / (mask | target).sum()


def embed(sam, batch: dict, image: int) -> Tensor:
    """One image as SamPredictor embeds it: without its padding, which preprocess adds."""
    h, w = batch["extents"][image]
    return sam.image_encoder(sam.preprocess(batch["image"][image : image + 1, :, :h, :w]))


def decode(sam, embedding: Tensor, several: bool, points=None, boxes=None) -> tuple[Tensor, Tensor]:
    """Masks (M, h, w) and IoU predictions (M,) for one prompt on one image."""
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    masks, rated = sam.mask_decoder(
        image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense, multimask_output=several,
    )  # fmt: skip
    return masks[0], rated[0]


def semantic_loop(sam, batch: dict) -> Tensor:
    losses = []
    for image, (h, w) in enumerate(batch["extents"]):
        box = torch.tensor([[0.0, 0.0, w, h]])
        masks, _ = decode(sam, embed(sam, batch, image), False, boxes=box)
        rows, columns = round(h * MASK / SIDE), round(w * MASK / SIDE)
        losses.append(dice_and_entropy(masks[0, :rows, :columns], batch["semantic"][image, :rows, :columns]))
    return sum(losses) / len(losses)


def instance_loop(sam, batch: dict) -> Tensor:
    losses = []
    for number, target in enumerate(batch["targets"]):
        embedding, by_point = embed(sam, batch, int(batch["owner"][number])), number % 2 == 0
        point = (batch["points"][number].reshape(1, 1, 2), torch.ones(1, 1))
        prompt = {"points": point} if by_point else {"boxes": batch["boxes"][number].reshape(1, 4)}
        masks, rated = decode(sam, embedding, by_point, **prompt)
        best = min((dice_and_entropy(mask, target) for mask in masks), key=Tensor.item)
        errors = [(rating - overlap(mask, target)) ** 2 for mask, rating in zip(masks, rated, strict=True)]
        losses.append(best + 3 * sum(errors) / len(errors))
    for image, nowhere in zip(batch["empty_owner"], batch["empty"], strict=True):
        _, rated = decode(sam, embed(sam, batch, int(image)), True, points=(nowhere.reshape(1, 1, 2), torch.ones(1, 1)))
        losses.append(3 * sum(rating**2 for rating in rated) / len(rated))
    return sum(losses) / len(losses)


def assert_equal(found: Tensor, expected: Tensor, ours, original) -> None:
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(expected, lora_parameters(original))
    for a, b in zip(torch.autograd.grad(found, lora_parameters(ours)), gradients, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


LOOPS = {"semantic": semantic_loop, "instance": instance_loop}


@pytest.mark.parametrize("kind", LOOPS)
def test_the_gradient_of_a_batch_is_that_of_a_loop(original, ours, batch, kind):
    assert_equal(Objective(ours, kind)(batch, 0)[0], LOOPS[kind](original, batch), ours, original)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kind", LOOPS)
def test_the_gradient_of_a_batch_in_pieces_is_that_of_a_loop(original, ours, batch, kind, images, monkeypatch):
    monkeypatch.setattr("lorasam_core.training.objectives.images_at_once", lambda sam: images)
    objective = Objective(ours, kind)
    pieces = objective.pieces(batch, 0)
    assert [piece["size"] for _, piece in pieces] == {1: [1, 1, 1, 1], 3: [3, 1]}[images]
    assert sum(share for share, _ in pieces) == pytest.approx(1)
    found = sum(share * objective(piece, 0)[0] for share, piece in pieces)
    assert_equal(found, LOOPS[kind](original, batch), ours, original)


def test_a_piece_without_prompts_is_left_out_where_instances_are_asked_for(ours, batch, monkeypatch):
    monkeypatch.setattr("lorasam_core.training.objectives.images_at_once", lambda sam: 1)
    mine, nowhere = batch["owner"] != 2, batch["empty_owner"] != 2
    rows = {key: batch[key][mine] for key in ("targets", "points", "boxes", "by_point", "owner")}
    rows |= {key: batch[key][nowhere] for key in ("empty", "empty_owner")}
    named = [piece["ids"] for _, piece in Objective(ours, "instance").pieces(batch | rows, 0)]
    assert named == [[batch["ids"][i]] for i in (0, 1, 3)]
    assert len(Objective(ours, "semantic").pieces(batch | rows, 0)) == 4
