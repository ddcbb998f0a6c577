"""What a training step asks for: prompts and targets, the decoder over many images, and the losses, against loops."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from segment_anything import SamPredictor
from skimage.draw import disk
from torch.nn import functional as F
from torch.utils.data import BatchSampler
from torchmetrics.functional.classification import binary_accuracy, multiclass_jaccard_index

from lorasam_core.config import RunConfig
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters
from lorasam_core.training import objectives
from lorasam_core.training.items import (
    TrainingItems,
    collate,
    endless,
    on_grid,
    orders,
    points_outside,
    prompts_for,
    shrink,
)
from lorasam_core.training.losses import per_mask_dice_ce
from lorasam_core.training.objectives import Objective, agreement, decode
from tests.disc_set import disc_sample
from tests.tiny_sam import randomise, tiny_sam

SIDE, MASK = 64, 32  # of the tiny model


def items(seed: int = 0, k: int = 4, size: int = 8, crop: int = 64) -> TrainingItems:
    samples = [disc_sample(0), disc_sample(1, (96, 70, 3)), disc_sample(2)]
    return TrainingItems(VirtualSet(samples, size, seed, crop), SIDE, MASK, k)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


@pytest.fixture(scope="module")
def sam():
    sam = add_lora(tiny_sam(), LoRAConfig(4, targets=("q", "v", "lin1")))
    randomise(lora_parameters(sam), scale=0.2)
    return sam


@pytest.fixture(scope="module")
def batch():
    """Three images with 4, 2 and 4 instances: the same share of points and boxes in the whole and in each."""
    found = [items(k=k)[i] for i, k in ((0, 4), (1, 2), (2, 4))]
    assert [len(item["targets"]) for item in found] == [4, 2, 4]
    return collate(found)


# ------------------------------------------------------------------------------------------------- items
@pytest.mark.parametrize("order", [range(8), range(7, -1, -1), [3, 3, 0, 7, 1, 2, 6, 5, 4]])
def test_item_i_depends_on_seed_and_i_alone(order):
    expected = {i: items()[i] for i in range(8)}
    stream, copied = items(), pickle.loads(pickle.dumps(items()))
    for i in order:
        assert equal(stream[i], expected[i]) and equal(copied[i], expected[i])
        assert not equal(items(seed=1)[i], expected[i])
    assert len({expected[i]["image"].numpy().tobytes() for i in range(8)}) == 8


def test_an_item_is_the_models_input():
    for i in range(6):
        item = items()[i]
        assert item["image"].shape == (3, SIDE, SIDE) and item["image"].dtype == torch.uint8
        assert item["semantic"].shape == (MASK, MASK) and item["semantic"].dtype == torch.bool
        k = len(item["targets"])
        assert 1 <= k <= 4 and item["targets"].shape == (k, MASK, MASK) and item["targets"].dtype == torch.bool
        assert item["points"].shape == (k, 2) and item["boxes"].shape == (k, 4)
        assert item["points"].dtype == item["boxes"].dtype == torch.float32
        assert item["id"] == f"image{i % 3}#{i}"


def test_points_and_boxes_belong_to_their_targets():
    for seed, i in itertools.product(range(3), range(8)):
        item = items(seed=seed, size=48)[i]  # with views enough for every window, in order
        assert not (item["targets"] & ~item["semantic"]).any()
        shared = (item["targets"].sum(0) > 1).sum()  # pixels that two instances halve
        assert shared <= 0.05 * item["targets"].sum()
        for target, (x, y), box in zip(
            item["targets"].numpy(), item["points"].numpy(), item["boxes"].numpy(), strict=True
        ):
            near = binary_dilation(target, np.ones((3, 3)))  # a pixel of the edge may be under half covered
            assert near[int(y) * MASK // SIDE, int(x) * MASK // SIDE]
            ys, xs = np.nonzero(target)
            tight = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) * SIDE / MASK
            assert np.abs(box - tight).max() <= 4 + 0.25 * max(tight[2:] - tight[:2])


class OneImage:
    """In the place of the virtual set: the image as it is."""

    seed = 0

    def __init__(self, labels: np.ndarray) -> None:
        self.labels, self.samples = labels, [SimpleNamespace(id="hand")]

    def __len__(self) -> int:
        return 1

    def parent(self, i: int) -> int:
        return 0

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.labels.shape, np.uint8), self.labels


def test_the_semantic_target_of_a_case_made_by_hand():
    labels = np.array(
        [
            [1, 1, 0, 0, 0, 2, 0, 0],
            [1, 1, 0, 3, 0, 2, 0, 0],
            [0, 0, 4, 4, 0, 0, 0, 0],
            [0, 5, 0, 4, 0, 0, 0, 0],
            *[[0] * 8] * 2,
            *[[0] * 4 + [6] * 4] * 2,
        ],
        np.int32,
    )
    expected = [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]  # at least half of the four pixels
    item = TrainingItems(OneImage(labels), 32, 4, 8)[0]
    assert item["semantic"].int().tolist() == expected
    masks = {tuple(map(tuple, np.argwhere(t))) for t in item["targets"].numpy()}
    assert masks == {((0, 0),), ((0, 2),), ((1, 1),), ((3, 2), (3, 3))}  # 3 and 5 cover a quarter: left out
    for (x, y), target in zip(item["points"].long().tolist(), item["targets"], strict=True):
        assert target[shrink(labels == labels[y // 4, x // 4], 4, 4)].all()  # the point's instance is the target


def test_an_image_without_particles_has_no_instances():
    item = TrainingItems(OneImage(np.zeros((20, 20), np.int32)), 32, 8, 4)[0]
    assert item["targets"].shape == (0, 8, 8) and item["points"].shape == (0, 2) and item["boxes"].shape == (0, 4)
    assert not item["semantic"].any()


@settings(max_examples=25, deadline=None)
@given(height=st.integers(8, 60), width=st.integers(8, 60), k=st.integers(1, 6), seed=st.integers(0, 20))
def test_prompts_never_have_an_empty_target(height, width, k, seed):
    labels = np.random.default_rng(seed).integers(0, 9, (height // 3 + 1, width // 3 + 1)).astype(np.int32)
    labels = np.kron(labels, np.ones((3, 3), np.int32))[:height, :width]
    targets, points, boxes = prompts_for(labels, (40, 30), (10, 8), k, np.random.default_rng(seed))
    assert len(targets) == len(points) == len(boxes) <= k and targets.any((1, 2)).all()
    assert (
        (points >= 0).all() and (points <= [29, 39]).all() and (boxes >= 0).all() and (boxes <= [29, 39, 29, 39]).all()
    )


@settings(max_examples=25, deadline=None)
@given(factor=st.integers(1, 5), rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 99))
def test_shrinking_is_the_majority_of_each_block(factor, rows, columns, seed):
    mask = np.random.default_rng(seed).random((rows * factor, columns * factor)) < 0.5
    share = mask.reshape(rows, factor, columns, factor).mean((1, 3))
    found, unsure = shrink(mask, rows, columns), np.isclose(share, 0.5)  # a mean in float32 may miss a half
    assert (found == (share >= 0.5))[~unsure].all() and (factor % 2 == 0 or not unsure.any())


# ------------------------------------------------------------------------------------------------- batches
def test_collate_puts_instances_in_a_row_and_names_their_image(batch):
    single = [items(k=k)[i] for i, k in ((0, 4), (1, 2), (2, 4))]
    assert batch["image"].shape == (3, 3, SIDE, SIDE) and batch["semantic"].shape == (3, MASK, MASK)
    assert batch["owner"].tolist() == [0] * 4 + [1] * 2 + [2] * 4
    assert batch["ids"] == ["image0#0", "image1#1", "image2#2"] and batch["size"] == 3
    for number, item in enumerate(single):
        for key in ("targets", "points", "boxes"):
            assert torch.equal(batch[key][batch["owner"] == number], item[key])


def test_collate_takes_images_without_particles():
    empty = TrainingItems(OneImage(np.zeros((20, 20), np.int32)), SIDE, MASK, 4)[0]
    assert collate([empty, empty])["owner"].tolist() == []
    assert collate([empty, items()[0]])["owner"].tolist() == [1] * len(items()[0]["targets"])


def names(config: RunConfig, count: int, size: int = 8, device: str = "cpu") -> list[list[str]]:
    stream = endless(items(size=size), config, torch.device(device))
    return [next(stream)["ids"] for _ in range(count)]


def test_every_epoch_is_an_order_of_its_own_that_the_seed_decides():
    found = names(RunConfig(batch_size=4), 6)
    epochs = [found[i] + found[i + 1] for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 8 for epoch in epochs) and len({tuple(e) for e in epochs}) == 3
    assert names(RunConfig(batch_size=4), 6) == found != names(RunConfig(batch_size=4, seed=1), 6)


def test_a_batch_may_be_larger_than_the_set():
    found = names(RunConfig(batch_size=7), 2, size=3)
    assert [len(ids) for ids in found] == [7, 7] and len(set(found[0])) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches_start_once_and_end(workers):
    device, others = torch.device("cpu"), set(multiprocessing.active_children())
    plain, parallel = (endless(items(), RunConfig(batch_size=3, workers=w), device) for w in (0, workers))
    seen = set()
    for _ in range(7):  # of two an epoch
        assert equal(next(plain), next(parallel))
        seen |= set(multiprocessing.active_children()) - others
    assert len(seen) == workers and all(process.is_alive() for process in seen)
    parallel.close()
    assert not any(process.is_alive() for process in seen)


def test_an_error_in_a_worker_is_raised_and_ends_it():
    broken = items()
    broken.virtual.samples = []
    others = set(multiprocessing.active_children())
    stream = endless(broken, RunConfig(batch_size=3, workers=1), torch.device("cpu"))
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert set(multiprocessing.active_children()) <= others


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 20), size=st.integers(1, 25), seed=st.integers(0, 9))
def test_the_order_is_that_of_a_loader_for_each_epoch(count, size, seed):
    expected, epoch = [], 0
    while len(expected) < 6:
        order = []
        while len(order) < max(count, size):
            order += np.random.default_rng((seed, epoch)).permutation(count).tolist()
            epoch += 1
        expected += BatchSampler(order, size, drop_last=True)
    assert list(itertools.islice(orders(count, size, seed), 6)) == expected[:6]


# ------------------------------------------------------------------------------------------------- decoder
@pytest.mark.parametrize("chunk", [16, 2, 1])
@torch.no_grad()
def test_decode_is_segment_anythings_decoder_image_by_image(sam, batch, monkeypatch, chunk):
    embeddings = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(objectives, "CPU_TOKEN_BYTES", chunk * embeddings[0].nbytes)
    owner = torch.tensor([2, 0, 0, 1, 2, 0, 1])
    boxes, earlier = batch["boxes"][:7], torch.randn(7, 1, MASK, MASK)
    sparse, dense = sam.prompt_encoder(None, boxes, earlier)
    calls = []
    hook = sam.mask_decoder.transformer.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    masks, scores = decode(sam, embeddings, owner, sparse, dense)
    hook.remove()
    assert max(calls) == min(chunk, 7) and sum(calls) == 7
    assert masks.shape == (7, 4, MASK, MASK) and scores.shape == (7, 4)
    position = sam.prompt_encoder.get_dense_pe()
    for image in range(3):
        mine = owner == image
        for several, tokens in ((False, slice(0, 1)), (True, slice(1, None))):
            low, rated = sam.mask_decoder(embeddings[image : image + 1], position, sparse[mine], dense[mine], several)
            torch.testing.assert_close(masks[mine, tokens], low, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(scores[mine, tokens], rated, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(80, 80), (64, 64, 3), (40, 100), (90, 50, 3)])
@torch.no_grad()
def test_the_foreground_is_the_predictors_mask_for_the_box_of_the_whole_image(sam, shape):
    image = disc_sample(7, shape).image
    predictor = SamPredictor(sam)
    predictor.set_image(image if image.ndim == 3 else np.stack([image] * 3, axis=2))
    box = np.array([0, 0, shape[1], shape[0]])
    _, _, expected = predictor.predict(box=box, multimask_output=False)
    found = Objective(sam, "semantic").foreground(predictor.features, [predictor.input_size])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------- losses
def gradients(sam, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, lora_parameters(sam)))


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def part(batch: dict, image: int) -> dict:
    """One image of a batch, as a batch."""
    mine = batch["owner"] == image
    found = {key: batch[key][image : image + 1] for key in ("image", "semantic")}
    found |= {key: batch[key][mine] for key in ("targets", "points", "boxes", "by_point")}
    nowhere = batch["empty_owner"] == image
    found |= {"extents": [batch["extents"][image]], "empty": batch["empty"][nowhere]}
    zeros = {name: torch.zeros(int(rows.sum()), dtype=torch.long) for name, rows in
             (("owner", mine), ("empty_owner", nowhere))}  # fmt: skip
    return found | zeros


def test_the_semantic_loss_is_the_predictors_mask_against_the_union(sam, batch):
    objective = Objective(sam, "semantic")
    loss, measures = objective(batch, 0)
    expected = []
    for picture, target in zip(batch["image"], batch["semantic"], strict=True):
        embedding = sam.image_encoder(sam.preprocess(picture[None]))  # segment-anything's own normalisation
        sparse, dense = sam.prompt_encoder(None, torch.tensor([[0.0, 0.0, SIDE, SIDE]]), None)
        logits, _ = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
        expected.append(per_mask_dice_ce(logits[:, 0], target[None]).mean())
    mean = torch.stack(expected).mean()
    assert loss.item() == pytest.approx(mean.item(), rel=1e-5)
    close(gradients(sam, loss), gradients(sam, mean))
    assert 0 <= measures["miou"] <= measures["accuracy"] <= 1


def test_the_instance_losss_gradient_is_that_of_a_loop_over_images(sam, batch):
    objective = Objective(sam, "instance")
    loss, _ = objective(batch, 0)
    counts = [4 + 1, 2 + 1, 4 + 1]  # instances and a point where nothing is
    parts = [count / 13 * objective(part(batch, image), 0)[0] for image, count in enumerate(counts)]
    assert loss.item() == pytest.approx(sum(parts).item(), rel=1e-5)
    close(gradients(sam, loss), gradients(sam, sum(parts)))


def test_the_instance_loss_is_that_of_a_loop_over_prompts(sam, batch):
    loss, measures = Objective(sam, "instance")(batch, 0)
    expected, trained = [], []
    for n, (image, target) in enumerate(zip(batch["owner"], batch["targets"], strict=True)):
        embedding = sam.image_encoder(sam.preprocess(batch["image"][image][None]))
        by_point = n % 2 == 0
        point = (batch["points"][n][None, None], torch.ones(1, 1)) if by_point else None
        sparse, dense = sam.prompt_encoder(point, None if by_point else batch["boxes"][n : n + 1], None)
        logits, rated = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, by_point)
        overlap = ((logits[0] > 0) & target).sum((1, 2)) / ((logits[0] > 0) | target).sum((1, 2))
        each = torch.stack([per_mask_dice_ce(mask[None], target[None])[0] for mask in logits[0]])
        expected.append(each.min() + 3 * F.mse_loss(rated[0], overlap))
        trained.append(logits[0, each.argmin()])
    for image, nowhere in zip(batch["empty_owner"], batch["empty"], strict=True):
        embedding = sam.image_encoder(sam.preprocess(batch["image"][image][None]))
        sparse, dense = sam.prompt_encoder((nowhere[None, None], torch.ones(1, 1)), None, None)
        _, rated = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
        expected.append(3 * F.mse_loss(rated[0], torch.zeros(3)))
    assert len(expected) == 10 + 3
    mean = torch.stack(expected).mean()
    for name, value in agreement(torch.stack(trained), batch["targets"]).items():
        assert measures[name].item() == pytest.approx(value.item(), rel=1e-5)
    assert loss.item() == pytest.approx(mean.item(), rel=1e-5)
    close(gradients(sam, loss), gradients(sam, mean))


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_only_a_and_b_get_a_gradient(batch, kind):
    sam = add_lora(tiny_sam(), LoRAConfig(4, targets=("q", "v", "lin1")))
    randomise(lora_parameters(sam), scale=0.2)
    wanted = {id(p) for p in lora_parameters(sam)}
    assert {id(p) for p in sam.parameters() if p.requires_grad} == wanted
    Objective(sam, kind)(batch, 0)[0].backward()
    assert {id(p) for p in sam.parameters() if p.grad is not None} == wanted


def prompts_of(sam, monkeypatch, batch: dict) -> list[torch.Tensor]:
    """Everything that the prompt encoder is given in a semantic step."""
    given = []
    encode = sam.prompt_encoder.forward

    def record(points, boxes, masks):
        assert points is None and masks is None
        given.append(boxes.clone())
        return encode(points, boxes, masks)

    with monkeypatch.context() as patch:
        patch.setattr(sam.prompt_encoder, "forward", record)
        Objective(sam, "semantic")(batch, 0)
    return given


def test_no_ground_truth_is_in_the_prompt_of_the_whole_image(sam, batch, monkeypatch):
    other = batch | {"semantic": ~batch["semantic"], "targets": ~batch["targets"], "points": batch["points"] * 0}
    first, second = (prompts_of(sam, monkeypatch, b)[0] for b in (batch, other))
    assert torch.equal(first, second)
    assert first.tolist() == [[0, 0, SIDE, SIDE]] * 3


def test_mixed_alternates_and_instance_without_instances_is_semantic(sam, batch):
    values = {kind: Objective(sam, kind)(batch, 0)[0].item() for kind in ("semantic", "instance")}
    mixed = Objective(sam, "mixed")
    assert [mixed(batch, step)[0].item() for step in range(4)] == [values["semantic"], values["instance"]] * 2
    instances = ("targets", "points", "boxes", "owner", "by_point")
    nowhere = ("empty", "empty_owner")
    none = batch | {key: batch[key][:0] for key in (*instances, *nowhere)}
    assert Objective(sam, "instance")(none, 1)[0].item() == values["semantic"]
    for n in (0, 1):  # a point and no box, a box and no point
        one = {key: batch[key][n : n + 1] for key in instances}
        assert torch.isfinite(Objective(sam, "instance")(batch | one, 0)[0])


def test_points_where_nothing_is_are_rated_0_and_their_masks_are_not_trained(sam, batch, monkeypatch):
    only = batch | {key: batch[key][:0] for key in ("targets", "points", "boxes", "owner", "by_point")}
    loss, measures = Objective(sam, "instance")(only, 0)
    assert loss.item() > 0 and measures == {"accuracy": 1, "miou": 1}
    answers, plain = [], objectives.decode

    def watched(*args, **kwargs):
        answers.append(plain(*args, **kwargs))
        return answers[-1]

    monkeypatch.setattr(objectives, "decode", watched)
    loss, _ = Objective(sam, "instance")(only, 0)
    ((masks, rated),) = answers
    assert loss.item() == pytest.approx(3 * rated[:, 1:].square().mean().item(), rel=1e-5)
    by_mask, by_rating = torch.autograd.grad(loss, [masks, rated], allow_unused=True)
    assert by_mask is None and (by_rating[:, 1:] * rated[:, 1:] > 0).all() and not by_rating[:, 0].any()


@settings(max_examples=20, deadline=None)
@given(labelled=st.floats(0, 1), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_points_outside_have_no_label(labelled, count, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((12, 9)) < labelled).astype(np.int32)
    found = points_outside(labels, (12, 9), count, rng)
    assert found.shape == ((count, 2) if (labels == 0).any() else (0, 2)) and found.dtype == np.float32
    assert all(labels[int(y), int(x)] == 0 for x, y in found)


def test_prompts_and_decoder_stay_in_float32_under_autocast(sam, batch):
    kinds = []
    hook = sam.mask_decoder.transformer.register_forward_hook(lambda m, args, out: kinds.append(out[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = Objective(sam, "instance")(batch, 0)
    hook.remove()
    assert set(kinds) == {torch.float32} and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(Objective(sam, "instance")(batch, 0)[0].item(), rel=0.05)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), padded=st.booleans())
def test_agreement_against_torchmetrics(seed, padded):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 6, 5, generator=generator)
    target = torch.rand(3, 6, 5, generator=generator) < 0.5
    valid = torch.ones(3, 6, 5, dtype=torch.bool)
    if padded:
        valid[:, :, 4:] = False
    found = agreement(logits, target, valid if padded else None)
    guess = logits > 0
    assert found["accuracy"].item() == pytest.approx(binary_accuracy(guess[valid].int(), target[valid].int()).item())
    per_image = [
        multiclass_jaccard_index(guess[i][valid[i]].int(), target[i][valid[i]].int(), num_classes=2, average="macro")
        for i in range(3)
    ]
    assert found["miou"].item() == pytest.approx(torch.stack(per_image).mean().item(), rel=1e-5)


def test_a_disc_is_seen_at_both_sizes():
    labels = np.zeros((128, 128), np.int32)
    labels[disk((40, 90), 20)] = 7
    (target,), (point,), (box,) = prompts_for(labels, (64, 64), (32, 32), 3, np.random.default_rng(0))
    assert target.sum() == pytest.approx(np.pi * 5**2, rel=0.05)
    assert np.hypot(*(point - [45, 20])) <= 10.5
    assert np.abs(box - [35, 10, 55, 30]).max() < 5


def test_an_oblong_crop_is_what_the_predictor_makes_of_it(sam):
    """Cut crops reach the encoder as SamPredictor would send them; padding holds no target and counts for nothing."""
    made = TrainingItems(items().virtual, SIDE, MASK, 4, oblong=1.0)
    extents = {made[i]["extent"] for i in range(8)}
    assert len(extents) > 4 and all(max(extent) == SIDE for extent in extents)
    item = next(item for item in map(made.__getitem__, range(8)) if item["extent"][0] < 0.8 * SIDE)
    h, w = item["extent"]
    rows = on_grid((h, w), SIDE, MASK)[0]
    assert not item["image"][:, h:].any() and not item["semantic"][rows:].any() and not item["targets"][:, rows:].any()

    seen = []
    hook = sam.image_encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = collate([item])
    loss, _ = Objective(sam, "semantic")(batch, 0)
    hook.remove()
    assert torch.allclose(seen[0], sam.preprocess(item["image"][None, :, :h, :w].float()), atol=1e-6)
    spoilt = batch | {"semantic": batch["semantic"].clone()}
    spoilt["semantic"][:, rows:] = True
    assert torch.equal(loss, Objective(sam, "semantic")(spoilt, 0)[0])
