"""The compact model's loss against formulas, cases made by hand and segment-anything's decoder prompt by prompt."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pretrain import objective as module
from pretrain.objective import PromptedObjective, error_points, hard_iou, mask_loss
from pretrain.windows import BOXES, EMPTY, POINTS
from tests.pretrain.made_lite import random_lite

FRAME, SIDE = 128, 64  # pixels of the image, and of the window of it that is shown
TOKENS, MASK = SIDE // 16, SIDE // 4
OBJECTS = POINTS + BOXES


@pytest.fixture(scope="module")
def sam():
    return random_lite(image_size=FRAME)


def made_batch(count: int = 2, seed: int = 0, known: bool = True) -> dict[str, torch.Tensor]:
    """Windows of the frame with blobs to find, each of them padded at another place."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    place = torch.tensor([[16, 48], [64, 0], [0, 32], [32, 64]])[:count]
    extent = torch.tensor([[SIDE, SIDE], [SIDE, 40], [48, SIDE], [SIDE, SIDE]])[:count]
    image = (255 * draw(count, 3, SIDE, SIDE)).to(torch.uint8)
    coarse = draw(count, OBJECTS, 4, 4)
    targets = F.interpolate(coarse, (MASK, MASK), mode="bilinear") > 0.5
    regions = F.interpolate(4 * coarse[:, :1], (MASK, MASK), mode="nearest")[:, 0].long()
    for n, (h, w) in enumerate(extent.tolist()):
        image[n, :, h:], image[n, :, :, w:] = 0, 0
        targets[n, :, h // 4 :], targets[n, :, :, w // 4 :] = False, False
        regions[n, h // 4 :], regions[n, :, w // 4 :] = 0, 0
    size = extent.flip(1)[:, None]
    corner = place[:, None]
    points, empty = draw(count, POINTS, 2) * size + corner, draw(count, EMPTY, 2) * size + corner
    boxes = torch.cat([first := draw(count, BOXES, 2) * size, first + draw(count, BOXES, 2) * (size - first)], dim=2)
    return {
        "image": image, "extent": extent, "place": place, "points": points, "boxes": boxes + torch.cat([corner] * 2, 2),
        "empty": empty, "known": torch.full((count,), known), "targets": targets, "regions": regions,
        "at": (draw(count, OBJECTS, 2) * (size // 4)).long(),
    }  # fmt: skip


def valid_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    valid = torch.zeros(len(batch["extent"]), MASK, MASK, dtype=torch.bool)
    for n, (h, w) in enumerate(batch["extent"].tolist()):
        valid[n, : h // 4, : w // 4] = True
    return valid


def encoded(sam, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The images one by one, as the predictor normalises and pads them."""
    found = []
    for image, (h, w) in zip(batch["image"], batch["extent"].tolist(), strict=True):
        normalised = (image[:, :h, :w].float() - 127) / 128
        found.append(sam.image_encoder(F.pad(normalised, (0, SIDE - w, 0, SIDE - h))[None]))
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------- formulas
@settings(max_examples=30, deadline=None)
@given(balance=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99), filled=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_mask_loss_against_the_formula(balance, seed, filled):
    rng = np.random.default_rng(seed)
    z, v = rng.normal(0, 2, (2, 3, 5, 4)), rng.random((2, 5, 4)) < 0.8
    t = (rng.random((2, 5, 4)) < filled) & v
    found = mask_loss(torch.tensor(z), torch.tensor(t), torch.tensor(v), balance).numpy()
    for n, m in itertools.product(range(2), range(3)):
        p, y = (values[v[n]] for values in (1 / (1 + np.exp(-z[n, m])), t[n]))  # of the pixels that count
        entropy = -np.log(np.where(y, p, 1 - p))
        on, off = max(y.sum(), 1), max((~y).sum(), 1)
        even = (entropy[y].sum() / on + entropy[~y].sum() / off) / 2
        plain = entropy.sum() / (on + off)
        dice = 1 - (2 * p[y].sum() + 1) / (p.sum() + on + 1)
        assert found[n, m] == pytest.approx(balance * even + (1 - balance) * plain + dice, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_pixels_of_the_padding_count_nowhere(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, 2, 3, 6, 6, generator=generator)
    valid = torch.rand(2, 6, 6, generator=generator) < 0.7
    target = (torch.rand(2, 6, 6, generator=generator) < 0.5) & valid
    changed = torch.where(valid[:, None], logits, 5 * other)
    torch.testing.assert_close(mask_loss(changed, target, valid, 0.4), mask_loss(logits, target, valid, 0.4))
    assert torch.equal(hard_iou(changed, target, valid), hard_iou(logits, target, valid))
    for seed in range(5):
        where, sign = error_points(changed[:, 0], target, valid, seed)
        x, y = where[:, 0].div(4).long().T
        rows = torch.arange(2)
        assert (valid[rows, y, x] | ~valid.any((1, 2))).all() and torch.equal(target[rows, y, x].float(), sign[:, 0])


def test_hard_iou_of_a_case_made_by_hand():
    target = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    logits = torch.tensor([[[[1.0, -1], [2, 0]], [[1, 1], [-1, -1]]], [[[-1.0, -1], [-1, 0]], [[1, 1], [1, 1]]]])
    everywhere = torch.ones_like(target)
    assert hard_iou(logits, target, everywhere).tolist() == [[pytest.approx(1 / 3), 1], [0, 0]]
    everywhere[0, 1, 0] = False  # without the pixel that was too much
    assert hard_iou(logits, target, everywhere)[0, 0].item() == 0.5


def test_a_correction_is_where_the_mask_is_wrong():
    target = torch.zeros(3, 6, 5, dtype=torch.bool)
    target[0, 4, 1] = True
    logits = torch.full((3, 6, 5), -1.0)
    logits[1, 2, 3] = 1.0
    valid = torch.ones_like(target)
    chosen = set()
    for seed in range(20):
        where, sign = error_points(logits, target, valid, seed)
        assert where[:2].tolist() == [[[6.0, 18.0]], [[14.0, 10.0]]]  # X, Y: the centres of pixels of 4
        assert sign[:2].tolist() == [[1.0], [0.0]]
        assert torch.equal(where, error_points(logits, target, valid, seed)[0])
        chosen.add(tuple(where[2, 0].tolist()))
    assert len(chosen) > 5  # nothing is wrong: anywhere


# ------------------------------------------------------------------------------------------------- places in the frame
@torch.no_grad()
def test_a_windows_codes_are_those_of_the_frame(sam, monkeypatch):
    """The decoder's code at a token and that of a point at its centre are one: sines and cosines of the frame."""
    batch, asked = made_batch(4), []
    plain = sam.mask_decoder.predict_masks
    monkeypatch.setattr(sam.mask_decoder, "predict_masks", lambda *args: asked.append(args) or plain(*args))
    batch["points"][:, 0] = batch["place"] + torch.tensor([16 * 2 + 8.0, 16 * 1 + 8.0]) - 0.5  # its third, second token
    PromptedObjective(sam, 1, 99).decode(torch.randn(4, 512, TOKENS, TOKENS), batch)
    assert len(asked) == 2
    matrix = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    full = sam.prompt_encoder.get_dense_pe()
    for _, position, *_ in asked:
        for code, (x, y) in zip(position, batch["place"].tolist(), strict=True):
            assert torch.equal(code, full[0, :, y // 16 : y // 16 + TOKENS, x // 16 : x // 16 + TOKENS])
            for row, column in itertools.product(range(TOKENS), repeat=2):
                at = torch.tensor([x + 16 * column + 8.0, y + 16 * row + 8.0]) / FRAME
                angle = 2 * math.pi * (2 * at - 1) @ matrix
                torch.testing.assert_close(code[:, row, column], torch.cat([angle.sin(), angle.cos()]))
    sparse = asked[0][2].unflatten(0, (4, POINTS + EMPTY))
    kind = sam.prompt_encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(sparse[:, 0, 0] - kind, asked[0][1][:, :, 1, 2], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_frame_that_is_shown_whole_is_answered_as_segment_anything_answers(sam):
    batch = made_batch(2)
    batch["place"] = torch.zeros_like(batch["place"])
    embeddings = torch.randn(2, 512, FRAME // 16, FRAME // 16, generator=torch.Generator().manual_seed(0))
    masks, rated = PromptedObjective(sam, 1, 99).decode(embeddings, batch)
    assert masks.shape == (2, OBJECTS + EMPTY, 4, FRAME // 4, FRAME // 4) and rated.shape == masks.shape[:3]
    position = sam.prompt_encoder.get_dense_pe()
    for image in range(2):
        points = torch.cat([batch["points"][image], batch["empty"][image]])[:, None]
        by_point = sam.prompt_encoder((points, torch.ones(len(points), 1)), None, None)
        by_box = sam.prompt_encoder(None, batch["boxes"][image], None)
        order = [*range(POINTS), *range(OBJECTS, OBJECTS + EMPTY)]
        for prompts, rows in ((by_point, order), (by_box, range(POINTS, OBJECTS))):
            for several, chosen in ((True, slice(1, None)), (False, slice(0, 1))):
                expected = sam.mask_decoder(embeddings[image][None], position, *prompts, several)
                found = masks[image, rows][:, chosen], rated[image, rows][:, chosen]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_positions_stay_in_float32_under_autocast(sam, monkeypatch):
    batch, asked = made_batch(2), []
    plain = sam.mask_decoder.predict_masks
    monkeypatch.setattr(sam.mask_decoder, "predict_masks", lambda *args: asked.append(args) or plain(*args))
    objective = PromptedObjective(sam, 10, 99)
    exact = objective(batch, 0)[0].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(batch, 0)[0]
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=0.1)
    for plain_call, rounded_call in zip(asked[:2], asked[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain_call[1:3], rounded_call[1:3], strict=True))


# ------------------------------------------------------------------------------------------------- loops over prompts
def answer(sam, batch, embeddings, image: int, points=None, labels=None, box=None, mask=None) -> tuple:
    """Four masks and ratings of one prompt on one window, by the decoder with its code cut from the frame's."""
    x, y = (batch["place"][image] // 16).tolist()
    window = ..., slice(y, y + TOKENS), slice(x, x + TOKENS)
    asked = None if points is None else (points[None], labels[None])
    boxed = None if box is None else box[None]
    sparse, dense = sam.prompt_encoder(asked, boxed, None if mask is None else mask[None, None])
    dense = dense[window] if mask is None else dense
    position = sam.prompt_encoder.get_dense_pe()[window]
    masks, rated = sam.mask_decoder.predict_masks(embeddings[image][None], position, sparse, dense)
    return masks[0], rated[0]


def overlap(logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    guess = (logits > 0) & valid
    return (guess & target).sum((-2, -1)) / (guess | target).sum((-2, -1)).clamp(min=1)


def expected_loss(sam, batch, embeddings, balance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """By the decoder, prompt by prompt; and the mask of each object that was trained (B, OBJECTS, h, w)."""
    best, several, errors, used = [], [], [], []
    for image, valid in enumerate(valid_of(batch)):
        for k in range(OBJECTS + EMPTY):
            if POINTS <= k < OBJECTS:
                masks, rated = answer(sam, batch, embeddings, image, box=batch["boxes"][image, k - POINTS])
                masks, rated = masks[:1], rated[:1]
            else:
                point = batch["points"][image, k] if k < POINTS else batch["empty"][image, k - OBJECTS]
                masks, rated = answer(sam, batch, embeddings, image, point[None], torch.ones(1))
                masks, rated = masks[1:], rated[1:]
            if k >= OBJECTS:
                errors.append(rated.square().mean())
                continue
            target = batch["targets"][image, k]
            each = mask_loss(masks[None], target[None], valid[None], balance)[0]
            best.append(each.min())
            several += [each.mean()] if k < POINTS else []
            errors.append((rated - overlap(masks, target, valid)).square().mean())
            used.append(masks[each.argmin()])
    loss = torch.stack(best).mean() + module.OTHERS * torch.stack(several).mean()
    return loss + module.RATING * torch.stack(errors).mean(), torch.stack(used).unflatten(0, (-1, OBJECTS))


@pytest.mark.parametrize(("step", "balance"), [(0, 1.0), (5, 0.65), (10, 0.3), (18, 0.3)])
@torch.no_grad()
def test_the_prompted_loss_is_that_of_a_loop_over_prompts(sam, step, balance):
    batch = made_batch(2)
    embeddings = encoded(sam, batch)
    loss, measures = PromptedObjective(sam, 10, 99).prompted(embeddings, batch, valid_of(batch), step)
    assert loss.item() == pytest.approx(expected_loss(sam, batch, embeddings, balance)[0].item(), rel=1e-4)
    shares = ("iou_point", "iou_rated", "iou_box")
    assert all(0 <= measures[name] <= 1 for name in shares) and measures["iou_rated"] <= measures["iou_point"]


@torch.no_grad()
def test_a_step_encodes_images_as_the_predictor_does_and_adds_the_likeness_of_pixels(sam):
    batch = made_batch(3)
    objective = PromptedObjective(sam, 10, 99)
    embeddings, valid = encoded(sam, batch), valid_of(batch)
    found, measures = objective(batch, 2)
    prompted, same_measures = objective.prompted(embeddings, batch, valid, 2)
    like = objective.likeness(embeddings[:, :128], batch, valid)
    assert found.item() == pytest.approx((prompted + module.LIKENESS * like).item(), rel=1e-4)
    assert like > 0.1 and measures.keys() == same_measures.keys()


@torch.no_grad()
def test_corrections_are_those_of_a_loop_over_prompts(sam):
    """Of every second image the single mask, beside the mask so far, after one point and after two."""
    batch, step, balance = made_batch(3), 7, 1 - 0.7 * 7 / 20
    embeddings, valid = encoded(sam, batch), valid_of(batch)
    found = PromptedObjective(sam, 20, 5).prompted(embeddings, batch, valid, step)[0].item()
    expected, used = expected_loss(sam, batch, embeddings, balance)
    assert abs(found - expected.item()) > 0.1
    shown = [0, 2]
    target, inside = batch["targets"][shown].flatten(0, 1), valid[shown].repeat_interleave(OBJECTS, 0)
    previous, where, signs = used[shown].flatten(0, 1), [], []
    for turn in range(2):
        points, labels = error_points(previous, target, inside, step * 2 + turn)
        where.append(points + batch["place"][shown].repeat_interleave(OBJECTS, 0)[:, None])
        signs.append(labels)
        answers = []
        for row, (image, k) in enumerate(itertools.product(shown, range(OBJECTS))):
            at, sign = torch.cat(where, 1)[row], torch.cat(signs, 1)[row]
            box = None if k < POINTS else batch["boxes"][image, k - POINTS]
            if box is None:
                at, sign = torch.cat([batch["points"][image, k][None], at]), torch.cat([torch.ones(1), sign])
            masks, rated = answer(sam, batch, embeddings, image, at, sign, box, previous[row])
            answers.append((masks[0], rated[0]))
        previous, rated = (torch.stack(part) for part in zip(*answers, strict=True))
        masks = mask_loss(previous[:, None], target, inside, balance).mean()
        errors = (rated - overlap(previous, target, inside)).square().mean()
        expected = expected + (masks + module.RATING * errors) / 2
    assert found == pytest.approx(expected.item(), rel=1e-4)


@torch.no_grad()
def test_corrections_come_every_fourth_step_from_a_step_on(sam, monkeypatch):
    batch, asked = made_batch(1), []
    embeddings, valid = torch.randn(1, 512, TOKENS, TOKENS), valid_of(batch)
    objective = PromptedObjective(sam, 10, correct_from=6)

    def corrected(embeddings, batch, point, box, valid, step, balance):
        asked.append(step)
        return torch.tensor(1000.0)

    monkeypatch.setattr(objective, "corrected", corrected)
    losses = [objective.prompted(embeddings, batch, valid, step)[0].item() for step in range(18)]
    assert asked == [7, 11, 15] == [step for step, loss in enumerate(losses) if loss > 900]


# ------------------------------------------------------------------------------------------------- empty points
def answered(objective, batch, monkeypatch, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks and ratings that the objective will be given in the place of the decoder's, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(batch["place"]), OBJECTS + EMPTY, 4
    masks = torch.randn(*shape, MASK, MASK, generator=generator).requires_grad_()
    rated = torch.rand(shape, generator=generator).add(0.1).requires_grad_()
    monkeypatch.setattr(objective, "decode", lambda embeddings, batch: (masks, rated))
    return masks, rated


def test_points_where_nothing_is_are_rated_0_and_their_masks_are_not_trained(sam, monkeypatch):
    batch = made_batch(3)
    batch["known"] = torch.tensor([True, False, True])
    objective = PromptedObjective(sam, 10, 99)
    masks, rated = answered(objective, batch, monkeypatch)
    loss, _ = objective.prompted(torch.zeros(3, 512, TOKENS, TOKENS), batch, valid_of(batch), 0)
    by_mask, by_rating = torch.autograd.grad(loss, [masks, rated])
    assert not by_mask[:, OBJECTS:].any() and by_mask[:, :OBJECTS].flatten(2).any(2).all()
    asked = by_rating[:, OBJECTS:]
    assert not asked[1].any() and not asked[:, :, 0].any()  # unknown, and the mask that a point does not ask for
    assert (asked[[0, 2], :, 1:] > 0).all()  # all were rated above 0
    ratio = asked[[0, 2], :, 1:] / rated[[0, 2], OBJECTS:, 1:]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))  # of a square
    with torch.no_grad():
        masks[:, OBJECTS:] *= -3
        rated[1, OBJECTS:] += 5
        again, _ = objective.prompted(torch.zeros(3, 512, TOKENS, TOKENS), batch, valid_of(batch), 0)
        assert again.item() == pytest.approx(loss.item(), rel=1e-6)
        rated[0, OBJECTS:, 1:] = rated[2, OBJECTS:, 1:] = 0
        less, measures = objective.prompted(torch.zeros(3, 512, TOKENS, TOKENS), batch, valid_of(batch), 0)
        assert less < loss and measures["rated_empty"] == 0


@torch.no_grad()
def test_where_nothing_is_known_the_loss_is_finite_and_that_of_the_objects(sam, monkeypatch):
    batch = made_batch(2, known=False)
    objective = PromptedObjective(sam, 10, 99)
    _, rated = answered(objective, batch, monkeypatch)
    loss, measures = objective.prompted(torch.zeros(2, 512, TOKENS, TOKENS), batch, valid_of(batch), 0)
    rated[:, OBJECTS:] = 7
    again, _ = objective.prompted(torch.zeros(2, 512, TOKENS, TOKENS), batch, valid_of(batch), 0)
    assert torch.isfinite(loss) and again == loss and measures["rated_empty"] == 0


def test_a_boxs_single_mask_and_a_points_three_are_trained(sam, monkeypatch):
    batch = made_batch(2)
    objective = PromptedObjective(sam, 10, 99)
    masks, rated = answered(objective, batch, monkeypatch)
    loss, _ = objective.prompted(torch.zeros(2, 512, TOKENS, TOKENS), batch, valid_of(batch), 0)
    by_mask, by_rating = torch.autograd.grad(loss, [masks, rated])
    trained = by_mask.flatten(3).abs().sum(3)
    for part in (trained, by_rating.abs()):
        assert (part[:, :POINTS, 1:] > 0).all() and not part[:, :POINTS, 0].any()
        assert (part[:, POINTS:OBJECTS, 0] > 0).all() and not part[:, POINTS:OBJECTS, 1:].any()
    each = trained[:, :POINTS, 1:].sort(2).values
    assert (each[..., 2] > 5 * each[..., 1]).all()  # the best by far the most


# ------------------------------------------------------------------------------------------------- likeness
@torch.no_grad()
def test_likeness_is_small_where_pixels_of_a_region_are_alike_and_others_are_not(sam):
    batch = made_batch(3)
    objective, valid = PromptedObjective(sam, 10, 99), valid_of(batch)
    objective.temperature.copy_(torch.tensor([60.0, -30.0]))
    named = F.one_hot(batch["regions"], 32).permute(0, 3, 1, 2).float()
    answers = iter([named, torch.ones_like(named), named.flip(3)])
    objective.read.register_forward_hook(lambda module, args, out: next(answers))
    embeddings = torch.zeros(3, 128, TOKENS, TOKENS)
    perfect, none, mirrored = (objective.likeness(embeddings, batch, valid).item() for _ in range(3))
    assert perfect < 1e-3 and none > 1 and mirrored > 1


def test_everything_that_a_prompt_meets_is_trained(sam):
    """One step's gradient reaches the stem, the blocks, the details, the decoder and the prompts' kinds."""
    objective = PromptedObjective(sam, 10, 0)
    loss, _ = objective(made_batch(2), 3)
    loss.backward()
    silent = {name for name, p in objective.named_parameters() if p.grad is None or not p.grad.any()}
    for parameter in objective.parameters():
        parameter.grad = None
    assert not silent
