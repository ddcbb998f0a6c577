"""A training run: what moves, what is written, which adapter is kept, and how it stops."""

from __future__ import annotations

import json
import math
import multiprocessing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from segment_anything import SamPredictor

from lorasam_core.config import RunConfig
from lorasam_core.measure import metrics
from lorasam_core.models.lora import LoRAConfig, adapter_state, add_lora, hash_base, read_adapter
from lorasam_core.training import loop as training
from lorasam_core.training.fit import NonFiniteLoss
from lorasam_core.training.items import prompts_for, shrink
from lorasam_core.training.loop import COLUMNS, Validation, train
from lorasam_core.training.objectives import Objective
from tests.disc_set import disc_set
from tests.tiny_sam import randomise, same, snapshot, tiny_sam

TIMES = ["seconds", "images_per_s"]
SETTINGS = RunConfig(
    objective="mixed", steps=4, batch_size=2, virtual_size=8, crop_size=64, learning_rate=1e-2, prompts_per_image=3,
    validate_every=2, precision="32-true", device="cpu", rank=4,
)  # fmt: skip


def adapted(rank: int = 4, seed: int = 0, **options):
    sam = tiny_sam()
    torch.manual_seed(seed)
    return add_lora(sam, LoRAConfig(rank, **options))


def run(folder, sam=None, data=None, callbacks=(), **changes):
    data = data or disc_set()
    sam = sam or adapted()
    found = train(sam, data.subset("train"), data.subset("val"), SETTINGS.replace(**changes), folder, callbacks)
    return found, pd.read_csv(folder / "history.csv"), sam


def weights(sam):
    return {name: p.detach().clone() for name, p in adapter_state(sam).items()}


class Recorder:
    """A callback that keeps rows and the weights that they belong to."""

    def __init__(self, sam):
        self.sam, self.rows, self.weights = sam, [], {}

    def on_log(self, step, row):
        assert step == row["step"]
        self.rows.append(dict(row))
        self.weights[step] = weights(self.sam)


@pytest.fixture
def scores(monkeypatch):
    """Validation that gives the listed scores, one after the other."""
    listed: list[float] = []

    def measure(self):
        return {"loss": 1.0, "accuracy": 0.5, "miou": 0.5, "dice": 0.5, "instance_iou": 0.5, "score": listed.pop(0)}

    monkeypatch.setattr(Validation, "measure", measure)
    return listed


# ------------------------------------------------------------------------------------------------- what moves
@pytest.mark.parametrize("objective", ["semantic", "instance", "mixed"])
def test_only_a_and_b_move(tmp_path, objective):
    sam = adapted(targets=("q", "v", "lin2"))
    before, first, base = snapshot(sam), weights(sam), hash_base(sam)
    run(tmp_path, sam, objective=objective)
    after = snapshot(sam)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(first) and hash_base(sam) == base
    assert not sam.training and not any(p.grad is not None for p in sam.parameters() if not p.requires_grad)


def test_the_loss_falls_on_one_image(tmp_path):
    sam, data = tiny_sam(), disc_set(train=1, val=1, shapes=[(64, 64)])
    decoder = sam.mask_decoder
    with torch.no_grad():  # at random a decoder hardly looks at the image
        for part in (decoder.output_upscaling, decoder.output_hypernetworks_mlps):
            for parameter in part.parameters():
                parameter *= 2
    add_lora(sam, LoRAConfig(8, targets=("q", "v", "proj", "lin1", "lin2")))
    settings = {"objective": "semantic", "steps": 25, "virtual_size": 1, "batch_size": 1, "learning_rate": 0.03}
    _, history, _ = run(tmp_path, sam, data, validate_every=25, **settings)
    first, last = history.iloc[0], history.iloc[-5:].mean()
    assert last["train_loss"] < 0.85 * first["train_loss"] and last["train_miou"] > first["train_miou"] + 0.03


# ------------------------------------------------------------------------------------------------- what is written
def test_a_run_writes_its_files_and_returns_what_it_did(tmp_path):
    found, history, sam = run(tmp_path, steps=None, epochs=2, virtual_size=6, accumulate=2, batch_size=2)
    files = {"config.json", "history.csv", "adapter.safetensors", "checkpoint.pt"}
    assert {p.name for p in tmp_path.iterdir()} == files
    config = RunConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    assert config == SETTINGS.replace(steps=None, epochs=2, virtual_size=6, accumulate=2, batch_size=2)
    assert found.keys() == {
        "val", "steps", "best_step", "images_seen", "seconds", "images_per_s", "waiting_share", "peak_memory_mb",
        "processor_seconds", "earlier_seconds",
    }  # fmt: skip
    assert found["steps"] == 4 and found["images_seen"] == 16  # 2 epochs of ceil(6 / 4) steps of 4 images
    assert found["images_per_s"] == pytest.approx(16 / found["seconds"]) and 0 < found["waiting_share"] < 1
    assert found["processor_seconds"] > 0
    assert tuple(history.columns) == COLUMNS
    assert history["step"].tolist() == [2, 4] and history["images_seen"].tolist() == [8, 16]
    assert history["epoch"].tolist() == [1.0, 2.0] and history["val_score"].notna().all()
    best = history.set_index("step").loc[found["best_step"]]
    assert found["val"] == pytest.approx({k.removeprefix("val_"): best[k] for k in COLUMNS if k.startswith("val_")})
    metadata, tensors = read_adapter(tmp_path / "adapter.safetensors")
    assert metadata["step"] == found["best_step"] and metadata["val"] == pytest.approx(found["val"])
    assert same(tensors, weights(sam))


def test_the_learning_rate_is_written_as_it_was_used(tmp_path):
    _, history, _ = run(tmp_path, objective="semantic", steps=10, warmup=0.2, validate_every=10)
    expected = [0.5, 1, *(0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8))]
    np.testing.assert_allclose(history["learning_rate"], 1e-2 * np.array(expected), rtol=1e-9)


@pytest.mark.parametrize(("objective", "steps", "rows"), [("mixed", 7, [2, 4, 6, 7]), ("semantic", 3, [1, 2, 3])])
def test_a_row_is_the_mean_of_the_steps_since_the_last(tmp_path, monkeypatch, objective, steps, rows):
    losses = []
    forward = Objective.forward

    def record(self, batch, step):
        loss, measures = forward(self, batch, step)
        losses.append((loss.item(), measures["miou"].item()))
        return loss, measures

    monkeypatch.setattr(Objective, "forward", record)
    _, history, _ = run(tmp_path, objective=objective, steps=steps, validate_every=steps)
    assert history["step"].tolist() == rows
    for start, end, loss, miou in zip([0, *rows], rows, history["train_loss"], history["train_miou"], strict=False):
        assert (loss, miou) == pytest.approx(tuple(np.mean(losses[start:end], axis=0)))


def test_callbacks_see_every_row(tmp_path):
    sam = adapted()
    recorder = Recorder(sam)
    _, history, _ = run(tmp_path, sam, callbacks=[object(), recorder])
    pd.testing.assert_frame_equal(pd.DataFrame(recorder.rows, columns=COLUMNS), history, check_dtype=False)


# ------------------------------------------------------------------------------------------------- the same again
@pytest.mark.parametrize("objective", ["semantic", "mixed"])
def test_the_same_seed_gives_the_same_history(tmp_path, objective):
    histories, trained = [], []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sam = adapted(dropout=0.1)
        torch.rand(7 * len(histories))  # what happened before in the process does not matter
        histories.append(run(tmp_path / name, sam, objective=objective, seed=seed)[1].drop(columns=TIMES))
        trained.append(weights(sam))
    pd.testing.assert_frame_equal(histories[0], histories[1], check_exact=True)
    assert same(trained[0], trained[1]) and not same(trained[0], trained[2])
    assert not histories[0]["train_loss"].equals(histories[2]["train_loss"])


@pytest.mark.parametrize("changes", [{"checkpointing": True}, {"workers": 1}, {"workers": 2, "virtual_size": 3}])
def test_what_saves_memory_or_time_changes_no_result(tmp_path, changes):
    others = set(multiprocessing.active_children())
    plain, changed = (
        run(tmp_path / name, adapted(dropout=0.1), steps=6, **{"virtual_size": 8, **changes, **options})
        for name, options in (("plain", {"checkpointing": False, "workers": 0}), ("changed", {}))
    )
    pd.testing.assert_frame_equal(plain[1].drop(columns=TIMES), changed[1].drop(columns=TIMES), rtol=1e-6)
    for name, tensor in weights(plain[2]).items():
        torch.testing.assert_close(tensor, weights(changed[2])[name], rtol=1e-5, atol=1e-6)
    assert set(multiprocessing.active_children()) <= others  # no loader is left


# ------------------------------------------------------------------------------------------------- best and stop
def test_the_adapter_that_validated_best_is_kept_and_loaded(tmp_path, scores):
    scores += [0.2, 0.6, 0.5, 0.6]
    sam = adapted()
    recorder = Recorder(sam)
    found, history, _ = run(tmp_path, sam, callbacks=[recorder], validate_every=1)
    assert found["best_step"] == 2 and found["val"]["score"] == 0.6  # the first of two equal ones
    assert same(weights(sam), recorder.weights[2]) and not same(weights(sam), recorder.weights[4])
    assert same(read_adapter(tmp_path / "adapter.safetensors")[1], recorder.weights[2])
    assert history["val_score"].tolist() == [0.2, 0.6, 0.5, 0.6]


@pytest.mark.parametrize(
    ("patience", "listed", "last"),
    [(2, [0.5, 0.4, 0.45, 0.9], 3), (2, [0.5, 0.4, 0.6, 0.5, 0.6, 0.9], 5), (None, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 6)],
)
def test_early_stopping_counts_validations_without_improvement(tmp_path, scores, patience, listed, last):
    scores += listed
    found, history, _ = run(tmp_path, steps=6, validate_every=1, patience=patience)
    assert found["steps"] == last and history["step"].iloc[-1] == last
    assert found["images_seen"] == 2 * last and found["best_step"] == int(np.argmax(listed[:last])) + 1


def test_a_run_validates_ten_times_and_at_its_end(tmp_path, scores):
    scores += [0.1] * 13
    _, history, _ = run(tmp_path, objective="semantic", steps=25, validate_every=None, batch_size=1)
    assert history.loc[history["val_score"].notna(), "step"].tolist() == [*range(2, 25, 2), 25]


@pytest.mark.parametrize("objective", ["semantic", "mixed"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch, objective):
    sam = adapted()
    recorder, forward = Recorder(sam), Objective.forward

    def poisoned(self, batch, step):
        if step == 3:
            batch = batch | {"image": batch["image"] * float("nan")}
        return forward(self, batch, step)

    monkeypatch.setattr(Objective, "forward", poisoned)
    pattern = r"^The loss is nan at step 4, images image\d#\d, image\d#\d; .* The state before it is in last_good"
    with pytest.raises(NonFiniteLoss, match=pattern):
        run(tmp_path, sam, callbacks=[recorder], objective=objective, validate_every=1, steps=9)
    last = recorder.weights[3]
    assert same(read_adapter(tmp_path / "last_good.safetensors")[1], last) and same(weights(sam), last)
    assert all(torch.isfinite(p).all() for p in last.values())
    assert pd.read_csv(tmp_path / "history.csv")["step"].tolist() == [1, 2, 3] and not sam.training


# ------------------------------------------------------------------------------------------------- validation
@pytest.fixture(scope="module")
def validated():
    """A model with a random adapter, its validation, and the samples."""
    sam = adapted(targets=("q", "v", "lin1"))
    randomise(list(adapter_state(sam).values()), scale=0.3)
    data = disc_set(val=3, shapes=[(80, 96), (96, 50, 3), (64, 64)]).subset("val")
    return sam, Validation(sam, Objective(sam, "mixed"), data, SETTINGS), data


@torch.no_grad()
def test_validation_is_what_the_predictor_gives_at_the_masks_size(validated):
    sam, validation, data = validated
    expected = []
    for number, sample in enumerate(data):
        predictor = SamPredictor(sam)
        predictor.set_image(sample.image if sample.image.ndim == 3 else np.stack([sample.image] * 3, 2))
        height, width = predictor.input_size
        rows, columns = round(height / 2), round(width / 2)  # the mask has half the input's side
        _, _, low = predictor.predict(box=np.array([0, 0, *sample.image.shape[1::-1]]), multimask_output=False)
        guess, true = low[0, :rows, :columns] > 0, shrink(sample.labels > 0, rows, columns)
        row = {"dice": metrics.dice(guess, true), "accuracy": float((guess == true).mean())}
        row["miou"] = (metrics.iou(guess, true) + metrics.iou(~guess, ~true)) / 2
        rng = np.random.default_rng((0, number))
        targets, points, _ = prompts_for(sample.labels, (height, width), (rows, columns), 3, rng)
        best = []
        for target, point in zip(targets, torch.from_numpy(points), strict=True):
            _, _, masks = predictor.predict_torch(point[None, None], torch.ones(1, 1), multimask_output=True)
            best.append(max(metrics.iou(m[:rows, :columns].numpy() > 0, target) for m in masks[0]))
        expected.append(row | {"instance_iou": np.mean(best)})
    means = {key: float(np.mean([row[key] for row in expected])) for key in expected[0]}
    found = validation.measure()
    assert {key: found[key] for key in means} == pytest.approx(means, abs=1e-5)
    assert found["score"] == pytest.approx((means["dice"] + means["instance_iou"]) / 2, abs=1e-5)


def test_the_score_is_that_of_the_objective(validated):
    sam, _, data = validated
    for kind, part in (("semantic", "dice"), ("instance", "instance_iou")):
        found = Validation(sam, Objective(sam, kind), data, SETTINGS.replace(objective=kind)).measure()
        assert found["score"] == found[part]


def test_validation_changes_neither_mode_nor_weights_and_repeats(validated):
    sam, validation, _ = validated
    before = snapshot(sam)
    sam.train()
    first = validation.measure()
    assert sam.training and same(before, snapshot(sam)) and validation.measure() == first
    sam.eval()


def test_padding_does_not_count_in_validation(validated):
    sam, validation, _ = validated
    spoilt = Validation(sam, validation.objective, disc_set(val=3, shapes=[(40, 96)]).subset("val"), SETTINGS)
    first = spoilt.measure()
    spoilt.items = [(i, s, masks | ~valid, valid, p) for i, s, masks, valid, p in spoilt.items]
    assert spoilt.measure() == first


def test_images_without_particles_are_scored_by_their_foreground(validated):
    sam, validation, data = validated
    bare = [replace(sample, labels=np.zeros_like(sample.labels)) for sample in data]
    found = Validation(sam, validation.objective, bare, SETTINGS).measure()
    assert math.isnan(found["instance_iou"]) and found["score"] == found["dice"]


def test_training_without_a_validation_image_is_refused(tmp_path):
    data = disc_set()
    with pytest.raises(ValueError, match=r"^There is no image to validate with; give at least one, .*\.$"):
        train(adapted(), data.subset("train"), [], SETTINGS, tmp_path)


def test_a_model_without_lora_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the model has no LoRA layers; call add_lora"):
        run(tmp_path, tiny_sam())


# ------------------------------------------------------------------------------------------------- precision
@pytest.mark.parametrize("precision", ["bf16-mixed", "auto"])
def test_a_run_in_bf16_trains_float32_weights(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(training, "resolve_precision", lambda asked, device: "bf16-mixed")
    kinds, sam = set(), adapted()
    sam.image_encoder.blocks[0].attn.register_forward_hook(lambda m, args, out: kinds.add((m.training, out.dtype)))
    _, history, _ = run(tmp_path, sam, precision=precision, steps=2)
    assert kinds == {(True, torch.bfloat16), (False, torch.bfloat16)}  # in training and in validation
    assert all(p.dtype == torch.float32 for p in sam.parameters()) and np.isfinite(history["train_loss"]).all()
