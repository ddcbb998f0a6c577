"""The compact model's recipe: its scenes, its losses, and a run that may be stopped and taken up again."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from lorasam_core import pretraining, scene_objectives
from lorasam_core.attention import FastAttention
from pretrain.measure import HELD_OUT_SEED
from pretrain.scenes import Scene, generate_scene
from lorasam_core.lora import hash_base
from lorasam_core.pretraining import (
    TRAIN_SEED,
    Phase,
    place_tokens,
    pretrain,
    tie_cross_attention,
)
from lorasam_core.scene_objectives import DenseObjective, PromptedObjective, ScenePrompts, hard_iou, mask_loss
from tests.tiny_sam import same, snapshot, tiny_sam

FULL, SMALL = 96, 64
PHASES = (
    Phase("dense", "dense", SMALL, 2, 3, 1e-3),
    Phase("prompted", "prompted", SMALL, 2, 5, 1e-3),
    Phase("full-size", "prompted", FULL, 2, 2, 1e-3),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Scenes of 96 pixels, a very small model, a log and a saved state at every other step."""
    monkeypatch.setattr(scene_objectives, "FULL_SIZE", FULL)
    monkeypatch.setattr(scene_objectives, "MIN_AREA", 64)
    monkeypatch.setattr(pretraining, "build_vit_t", lambda size: tiny_sam(image_size=size, patch=16))
    monkeypatch.setattr(pretraining, "resolve_precision", lambda precision, device: "32-true")
    monkeypatch.setattr(pretraining, "LOG_EVERY", 1)
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 2)


@pytest.fixture
def sam():
    return tiny_sam(image_size=FULL, patch=16)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def as_the_predictor_does(sam, image, extent) -> torch.Tensor:
    """The model's input (1, 3, S, S) of an image that fills (h, w) of its square."""
    h, w = extent.tolist()
    return sam.preprocess(image[None, :, :h, :w])


def batch_of(indices, size=FULL, seed=TRAIN_SEED) -> dict:
    items = [ScenePrompts(seed, size, 100)[i] for i in indices]
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


# ------------------------------------------------------------------------------------------------- scenes
@pytest.mark.parametrize("size", [SMALL, FULL])
def test_scene_i_depends_on_seed_and_i_alone(size):
    forward = [ScenePrompts(1, size, 10)[i] for i in range(6)]
    backward = [ScenePrompts(1, size, 99)[i] for i in reversed(range(6))][::-1]
    assert all(equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not equal(forward[0], ScenePrompts(2, size, 10)[0]) and len(ScenePrompts(1, size, 10)) == 10


def test_held_out_scenes_are_never_trained_on(tmp_path, monkeypatch):
    asked = []
    getitem = ScenePrompts.__getitem__
    monkeypatch.setattr(
        ScenePrompts, "__getitem__", lambda self, i: asked.append((self.seed, self.size, i)) or getitem(self, i)
    )
    pretrain(tmp_path, "cpu", tuple(replace(phase, steps=1) for phase in PHASES), workers=0)
    assert {seed for seed, *_ in asked} == {TRAIN_SEED} and TRAIN_SEED != HELD_OUT_SEED
    numbers = [i for _, _, i in asked]
    assert len(set(numbers)) == len(numbers) == 2 * 3  # no scene twice, whatever the phase
    pictures = [
        {generate_scene(seed, i, 64).image.tobytes() for i in range(12)} for seed in (TRAIN_SEED, HELD_OUT_SEED)
    ]
    assert not pictures[0] & pictures[1]


@pytest.mark.parametrize("size", [SMALL, FULL])
def test_a_scene_is_the_models_input(size):
    item = ScenePrompts(1, size, 10)[3]
    small = size // 4
    assert {key: (tuple(t.shape), t.dtype) for key, t in item.items()} == {
        "image": ((3, size, size), torch.uint8),
        "extent": ((2,), torch.int64),
        "points": ((8, 2), torch.float32),
        "boxes": ((8, 4), torch.float32),
        "targets": ((8, small, small), torch.bool),
        "regions": ((small, small), torch.int64),
    }
    assert item["image"].min() >= 0 and 100 < item["image"].max() <= 255


def square_items(count: int):
    """The first scenes that are shown whole."""
    items = ((i, ScenePrompts(1, FULL, 100)[i]) for i in itertools.count())
    return itertools.islice(((i, item) for i, item in items if item["extent"].tolist() == [FULL, FULL]), count)


def test_prompts_lie_on_their_objects_and_targets_are_their_masks():
    whole = 0
    for i, item in square_items(24):
        scene = generate_scene(1, i, FULL)
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), scene.image)
        blocks = scene.masks.reshape(len(scene.masks), FULL // 4, 4, FULL // 4, 4).mean((2, 4)) >= 0.5
        for k, ((x, y), box, target) in enumerate(
            zip(item["points"], item["boxes"], item["targets"].numpy(), strict=True)
        ):
            if k == 7 and box.tolist() == [0, 0, FULL, FULL]:
                union = scene.masks[scene.levels == 0].any(0)
                expected = union.reshape(FULL // 4, 4, FULL // 4, 4).mean((1, 3)) >= 0.5
                assert np.array_equal(target, expected)
                whole += 1
                continue
            here = [n for n in np.flatnonzero(scene.masks[:, int(y), int(x)]) if np.array_equal(blocks[n], target)]
            assert here  # one of the objects under the point has this target
            ys, xs = np.nonzero(scene.masks[here[0]])
            tight = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
            assert (
                len(here) > 1
                or np.abs(box.numpy() - tight).max() <= 0.3 * np.ptp(tight.reshape(2, 2), axis=0).max() + 1
            )
    assert 2 <= whole <= 15  # a quarter of the images


@pytest.mark.parametrize("size", [SMALL, FULL])
def test_some_inputs_are_padded_as_the_predictor_pads(size, sam):
    oblong = 0
    for i in range(30):
        item = ScenePrompts(1, size, 100)[i]
        h, w = item["extent"].tolist()
        assert max(h, w) == size and min(h, w) >= size / 2
        oblong += min(h, w) < size
        seen = item["image"][:, :h, :w].permute(1, 2, 0).numpy()
        scene = generate_scene(1, i, FULL).image
        windows = np.lib.stride_tricks.sliding_window_view(scene, (h, w, 3))[:, :, 0]
        assert (windows == seen).all((2, 3, 4)).any()
        for outside in (item["image"][:, h:], item["image"][:, :, w:]):
            assert not outside.any()
        for masks in (item["targets"], item["regions"][None]):
            assert not masks[:, h // 4 :].any() and not masks[:, :, w // 4 :].any()
            assert masks.flatten(1).any(1).all()
        assert (item["points"] >= 0).all() and (item["points"] < torch.tensor([w, h])).all()
        assert (item["boxes"] >= 0).all() and (item["boxes"] <= torch.tensor([w, h, w, h])).all()
        if size == FULL:
            found = scene_objectives.normalise(sam, item["image"][None], item["extent"][None])
            torch.testing.assert_close(found, as_the_predictor_does(sam, item["image"], item["extent"]))
    assert 5 <= oblong <= 20  # two in five


def test_larger_objects_are_drawn_more_often():
    areas = {True: [], False: []}
    for i, item in square_items(40):
        masks = generate_scene(1, i, FULL).masks
        visible = masks.sum((1, 2))
        areas[False] += visible[visible >= scene_objectives.MIN_AREA].tolist()
        areas[True] += (16 * item["targets"][:7].flatten(1).sum(1)).tolist()
    assert np.median(areas[True]) > 1.2 * np.median(areas[False])


def test_regions_name_the_smallest_object_at_each_pixel():
    index, item = next(square_items(1))
    scene, regions = generate_scene(1, index, FULL), item["regions"].numpy()
    areas = scene.masks.sum((1, 2))
    for row, column in itertools.product(range(0, FULL // 4, 3), repeat=2):
        there = np.flatnonzero(scene.masks[:, 4 * row + 2, 4 * column + 2])
        expected = 0 if not len(there) else min(there, key=lambda n: areas[n]) + 1
        assert regions[row, column] == expected or areas[regions[row, column] - 1] == areas[expected - 1]


@settings(max_examples=40, deadline=None)
@given(
    y=st.integers(0, 90),
    x=st.integers(0, 90),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_a_window_shows_an_object_even_where_there_is_but_a_small_one(y, x, height, width, seed):
    masks = np.zeros((2, FULL, FULL), bool)
    masks[0, y : y + height, x : x + width] = True
    masks[1, y, x] = True
    image = np.arange(FULL**2 * 3).reshape(FULL, FULL, 3)
    scene = Scene(image, masks, np.array([0, 1], np.int8), np.array([-1, 0], np.int32))
    found = scene_objectives._crop(scene, np.random.default_rng(seed), 40, 24)
    assert found.image.shape == (40, 24, 3) and found.masks.any((1, 2)).all() and len(found.masks)
    top, left = divmod(int(found.image[0, 0, 0]) // 3, FULL)
    window = slice(top, top + 40), slice(left, left + 24)
    assert np.array_equal(found.image, image[window])
    seen = masks[(slice(None), *window)]
    assert np.array_equal(found.masks, seen[seen.any((1, 2))])
    assert np.array_equal(found.levels, scene.levels[seen.any((1, 2))])


# ------------------------------------------------------------------------------------------------- losses
@settings(max_examples=30, deadline=None)
@given(balance=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99), filled=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_mask_loss_against_the_formula(balance, seed, filled):
    rng = np.random.default_rng(seed)
    z, t = rng.normal(0, 2, (2, 3, 5, 4)), rng.random((2, 5, 4)) < filled
    found = mask_loss(torch.tensor(z), torch.tensor(t), balance).numpy()
    for n, m in itertools.product(range(2), range(3)):
        p, y = 1 / (1 + np.exp(-z[n, m])), t[n].astype(float)
        entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
        on, off = max(y.sum(), 1), max((1 - y).sum(), 1)
        even = (entropy[t[n]].sum() / on + entropy[~t[n]].sum() / off) / 2
        dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + on + 1)
        assert found[n, m] == pytest.approx(balance * even + (1 - balance) * entropy.mean() + dice, rel=1e-4)


def test_hard_iou_of_a_case_made_by_hand():
    target = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    logits = torch.tensor([[[[1.0, -1], [2, 0]], [[1, 1], [-1, -1]]], [[[-1.0, -1], [-1, 0]], [[1, 1], [1, 1]]]])
    assert hard_iou(logits, target).tolist() == [[pytest.approx(1 / 3), 1], [0, 0]]


def test_the_warm_up_asks_for_the_region_under_each_point(sam):
    batch = batch_of([0, 1, 2])
    objective = DenseObjective(sam)
    regions = batch["regions"]
    named = F.one_hot(regions, int(regions.max()) + 1).permute(0, 3, 1, 2).float()
    perfect = objective.read.register_forward_hook(lambda module, args, out: named)
    loss, measures = objective(batch, 0)
    perfect.remove()
    assert measures["iou_point"] == 1  # pixels of one region alike, and unlike all others
    assert loss.item() < 0.4
    objective.read.register_forward_hook(lambda module, args, out: torch.ones_like(out))
    assert objective(batch, 0)[1]["iou_point"] < 0.5


def test_the_warm_up_trains_the_encoder(sam):
    torch.manual_seed(0)
    objective, batch = DenseObjective(sam), batch_of([0, 1])
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        loss, _ = objective(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in sam.image_encoder.parameters())
    assert losses[-1] < 0.8 * losses[0]


def expected_loss(sam, batch: dict, share: float, rating: float = 1.0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """By segment-anything's decoder, prompt by prompt."""
    masks_loss, errors, used, others = [], [], [], []
    for image, k in itertools.product(range(len(batch["image"])), range(8)):
        embedding = sam.image_encoder(as_the_predictor_does(sam, batch["image"][image], batch["extent"][image]))
        point = (batch["points"][image, k][None, None], torch.ones(1, 1)) if k < 4 else None
        box = None if k < 4 else batch["boxes"][image, k][None]
        sparse, dense = sam.prompt_encoder(point, box, None)
        logits, rated = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, k < 4)
        target = batch["targets"][image, k]
        each = mask_loss(logits, target[None], share)[0]
        overlap = ((logits[0] > 0) & target).sum((1, 2)) / ((logits[0] > 0) | target).sum((1, 2)).clamp(min=1)
        masks_loss.append(each.min())
        others += [each.mean()] if k < 4 else []
        errors += list((rated[0] - overlap) ** 2)
        used.append(logits[0, each.argmin()])
    every = scene_objectives.OTHERS * torch.stack(others).mean()  # no mask of a point is left untrained
    return torch.stack(masks_loss).mean() + every + rating * torch.stack(errors).mean(), used


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (5, 0.65), (10, 0.3), (18, 0.3)])
@torch.no_grad()
def test_the_prompted_loss_is_that_of_a_loop_over_prompts(sam, step, share):
    batch = batch_of([0, 1])
    loss, measures = PromptedObjective(sam, 20)(batch, step)
    assert loss.item() == pytest.approx(expected_loss(sam, batch, share)[0].item(), rel=1e-4)
    assert all(0 <= value <= 1.5 for value in measures.values())


@torch.no_grad()
def test_a_phase_may_weight_the_iou_head(sam):
    batch = batch_of([0, 1])
    loss, _ = PromptedObjective(sam, 20, rating=3.0)(batch, 0)
    assert loss.item() == pytest.approx(expected_loss(sam, batch, 1.0, rating=3.0)[0].item(), rel=1e-4)


@torch.no_grad()
def test_every_fourth_step_adds_rounds_of_corrections(sam):
    batch, steps = batch_of([0, 1]), 20
    objective = PromptedObjective(sam, steps)
    assert objective(batch, 3)[0].item() == pytest.approx(expected_loss(sam, batch, 0.79)[0].item(), rel=1e-4)
    found = objective(batch, 7)[0].item()  # the first third is over
    share = 1 - 0.7 * 2 * 7 / steps
    expected, used = expected_loss(sam, batch, share)
    embedding = sam.image_encoder(as_the_predictor_does(sam, batch["image"][0], batch["extent"][0]))
    target, previous = batch["targets"][0], torch.stack(used[:8])  # of every second image, the first
    generator = torch.Generator().manual_seed(7)
    where, signs = [], []
    for _ in range(2):
        points, labels = scene_objectives._error_points(previous, target, generator)
        where.append(points)
        signs.append(labels)
        masks, errors = [], []
        for k in range(8):
            at, sign = torch.cat(where, 1)[k], torch.cat(signs, 1)[k]
            if k < 4:
                at, sign = torch.cat([batch["points"][0, k][None], at]), torch.cat([torch.ones(1), sign])
            sparse, dense = sam.prompt_encoder(
                (at[None], sign[None]), None if k < 4 else batch["boxes"][0, k][None], previous[k][None, None]
            )
            logits, rated = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
            overlap = ((logits[0, 0] > 0) & target[k]).sum() / ((logits[0, 0] > 0) | target[k]).sum().clamp(min=1)
            masks.append(logits[0, 0])
            errors.append((rated[0, 0] - overlap) ** 2)
        previous = torch.stack(masks)
        each = mask_loss(previous[:, None], target, share).mean() + torch.stack(errors).mean()
        expected = expected + each / 2
    assert found == pytest.approx(expected.item(), rel=1e-4)


def test_a_correction_is_where_the_mask_is_wrong():
    target = torch.zeros(2, 6, 5, dtype=torch.bool)
    target[0, 4, 1] = True
    logits = torch.full((2, 6, 5), -1.0)
    logits[1, 2, 3] = 1.0
    for seed in range(5):
        where, sign = scene_objectives._error_points(logits, target, torch.Generator().manual_seed(seed))
        assert where.tolist() == [[[6.0, 18.0]], [[14.0, 10.0]]]  # X, Y: the centres of pixels of 4
        assert sign.tolist() == [[1.0], [0.0]]


# ------------------------------------------------------------------------------------------------- beginnings
def test_cross_attention_starts_with_query_and_key_alike(sam):
    self_attention = sam.mask_decoder.transformer.layers[0].self_attn
    before = self_attention.q_proj.weight.clone()
    tie_cross_attention(sam, scale=1.5)
    transformer = sam.mask_decoder.transformer
    crossed = [transformer.final_attn_token_to_image]
    crossed += [
        getattr(b, f"cross_attn_{way}") for b in transformer.layers for way in ("token_to_image", "image_to_token")
    ]
    for layer in crossed:
        q, k = layer.q_proj.weight, layer.k_proj.weight
        assert torch.equal(q, k) and q is not k and q.data_ptr() != k.data_ptr()
        torch.testing.assert_close(q @ q.T, 1.5**2 * torch.eye(len(q)), atol=1e-4, rtol=0)
    assert torch.equal(self_attention.q_proj.weight, before)


def test_tokens_start_at_places_that_differ(sam):
    mlp = sam.image_encoder.blocks[0].mlp.lin2.weight.clone()
    place_tokens(sam)
    table = sam.image_encoder.pos_embed.detach()[0]
    grid = len(table)
    distance = torch.cdist(table.flatten(0, 1), table.flatten(0, 1)).reshape(grid, grid, grid, grid)
    assert (distance.flatten(0, 1).flatten(1) + 9 * torch.eye(grid**2)).min() > 0.1
    centre = distance[2, 2]
    assert centre[2, 3] < centre[2, 4] and centre[3, 2] < centre[4, 2]  # neighbours are alike
    assert torch.equal(sam.image_encoder.blocks[0].mlp.lin2.weight, 0.2 * mlp)


# ------------------------------------------------------------------------------------------------- a whole run
class Killed(Exception):
    pass


def history(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns=["seconds", "images_per_s"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("whole")}


@pytest.fixture
def whole(uninterrupted, small):
    """A run from beginning to end, done once."""
    if "weights" not in uninterrupted:
        uninterrupted["weights"] = snapshot(pretrain(uninterrupted["folder"], "cpu", PHASES, workers=0))
    return uninterrupted["folder"], uninterrupted["weights"]


def test_a_run_goes_through_its_phases(whole):
    folder, weights = whole
    table = history(folder)
    steps = {phase: rows["step"].tolist() for phase, rows in table.groupby("phase")}
    assert steps == {"dense": [1, 2, 3], "prompted": [1, 2, 3, 4, 5], "full-size": [1, 2]}
    assert {"loss", "iou_point", "iou_box", "iou_error", "learning_rate"} <= set(table.columns)
    assert weights["image_encoder.pos_embed"].shape == (1, 6, 6, 32)  # the last phase's size
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert sorted(p.name for p in folder.iterdir()) == ["history.csv", "state.pt"]


@pytest.mark.parametrize("kill_at", [2, 6, 9])  # of 10 steps; states are kept after 2, 3 | 5, 7, 8 | 10
def test_a_run_that_is_killed_and_taken_up_ends_as_one_that_is_not(whole, tmp_path, monkeypatch, kill_at):
    folder, weights = whole
    count = itertools.count()
    with monkeypatch.context() as patch:
        for kind in (DenseObjective, PromptedObjective):

            def dies(self, batch, step, forward=kind.forward):
                if next(count) == kill_at:
                    raise Killed
                return forward(self, batch, step)

            patch.setattr(kind, "forward", dies)
        with pytest.raises(Killed):
            pretrain(tmp_path, "cpu", PHASES, workers=0)
    assert (tmp_path / "state.pt").exists()
    torch.rand(3)
    found = snapshot(pretrain(tmp_path, "cpu", PHASES, workers=0))
    pd.testing.assert_frame_equal(history(tmp_path), history(folder), check_exact=True)
    assert same(found, weights)


def test_phases_shorter_than_the_logs_interval_have_a_row_each(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "LOG_EVERY", 10)
    pretrain(tmp_path, "cpu", tuple(replace(phase, steps=2) for phase in PHASES), workers=0)
    assert history(tmp_path)[["phase", "step"]].values.tolist() == [[phase.name, 2] for phase in PHASES]


def test_a_finished_run_is_read_again(whole, monkeypatch):
    folder, weights = whole
    monkeypatch.setattr(ScenePrompts, "__getitem__", lambda self, i: pytest.fail("nothing is left to train"))
    sam = pretrain(folder, "cpu", PHASES, workers=0)
    assert same(snapshot(sam), weights) and not sam.training
    assert {type(block.attn) for block in sam.image_encoder.blocks} == {FastAttention}


def test_a_state_of_another_recipe_is_refused(whole):
    folder, _ = whole
    with pytest.raises(
        ValueError, match=r"state.pt is of a run with other phases; delete it, or choose another folder\.$"
    ):
        pretrain(folder, "cpu", PHASES[:2], workers=0)


def test_the_average_is_what_is_returned(tmp_path, monkeypatch):
    """With the same weights at every step the average is those weights; with others it is not the last ones."""
    still = tuple(Phase(p.name, p.kind, p.size, p.batch, p.steps, 1e-12) for p in PHASES[:2])
    sam = pretraining.build_vit_t(SMALL)
    place_tokens(sam)
    found = pretrain(tmp_path / "still", "cpu", still, workers=0)
    name = "image_encoder.patch_embed.proj.weight"
    torch.testing.assert_close(found.state_dict()[name], sam.state_dict()[name], atol=1e-6, rtol=0)
    averaged = torch.load(tmp_path / "still" / "state.pt")["average"]["n_averaged"]
    assert averaged == 1 + 5  # the average of the phase before, and five steps
    pretrain(tmp_path / "moved", "cpu", PHASES[:1], workers=0)
    state = torch.load(tmp_path / "moved" / "state.pt")
    last, averaged = state["model"][f"sam.{name}"], state["average"][f"module.{name}"]
    assert not torch.equal(last, averaged) and state["average"]["n_averaged"] == 3


def test_the_command_trains_measures_and_writes_weights_with_their_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretraining, "PHASES", PHASES)
    asked = {}

    def measures(sam, out, **options):
        asked.update(options, out=out, weights=snapshot(sam))
        return {"scenes": {"point_best_iou": {"mean": 0.5}}}

    monkeypatch.setattr(pretraining.base_measures, "measure", measures)
    weights = tmp_path / "weights" / "tiny.safetensors"
    call = ["pretraining", "--out", str(tmp_path / "run"), "--weights", str(weights), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", [*call, "--scale", "0.4", "--workers", "0", "--scenes", "3", "--data", "scenes"])
    pretraining.main()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"SHA-256 {digest}; write it into WEIGHTS_SHA256" in capsys.readouterr().out
    assert asked["scenes"] == 3 and asked["data"] == ["scenes"] and asked["out"].parent == tmp_path / "run"
    stored = load_file(weights)
    assert same({name: tensor.float() for name, tensor in stored.items()}, asked["weights"])  # measured as stored
    with safe_open(weights, "pt") as file:
        recipe = {key: json.loads(value) for key, value in file.metadata().items()}
    assert [phase["steps"] for phase in recipe["phases"]] == [2, 2, 2] and recipe["scenes_version"] >= 1
    assert recipe["steps"] == 6 and recipe["seconds"] >= 0 and recipe["measures"]["scenes"]["point_best_iou"]
    card = json.loads(weights.with_suffix(".json").read_text())
    sam = tiny_sam(image_size=FULL, patch=16)
    sam.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    assert card.pop("base_hash") == hash_base(sam)
    assert card == {"weights_sha256": digest} | recipe
    curve = pd.read_csv(weights.with_suffix(".csv"))
    assert curve["phase"].unique().tolist() == ["dense", "prompted", "full-size"] and len(curve) == 6


def test_time_is_counted_over_phases_and_interruptions():
    assert pretraining._elapsed(pd.Series([2.0, 5.0, 1.0, 4.0, 3.0])) == 5 + 4 + 3
