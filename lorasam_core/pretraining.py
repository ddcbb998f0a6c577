"""The compact SAM's recipe: from random weights to promptable, on generated scenes, by the loop that trains adapters.

Phases after Kirillov et al. 2023 (Segment Anything, appendix A), scaled down: a dense warm-up of the encoder, then
point and box prompts with the minimum loss over three masks, the IoU head, and corrective points with the mask so far
as a prompt; at last whole scenes in place of windows. Each phase starts from the averaged weights of the one before.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric, seed_everything
from segment_anything.modeling import Sam
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lorasam_core import base_measures
from lorasam_core.attention import use_fast_attention
from lorasam_core.data.scenes import SCENES_VERSION
from lorasam_core.devices import device_name, resolve_device, resolve_precision
from lorasam_core.loop import fit, make_fabric, warmup_cosine
from lorasam_core.lora import hash_base
from lorasam_core.muon import MuonAdamW
from lorasam_core.sam import WEIGHTS, build_vit_t, resize_input, save_weights
from lorasam_core.scene_objectives import DenseObjective, PromptedObjective, ScenePrompts

TRAIN_SEED = 1  # base_measures.HELD_OUT_SEED is never trained on
SCENES_A_PHASE = 10**7  # numbers set aside for each phase, so that no scene is seen in two
LOG_EVERY, SAVE_EVERY = 10, 100  # steps


@dataclass(frozen=True)
class Phase:
    """One stage of the recipe: what is trained, at which size (pixels), how long; rating weighs the IoU head's loss."""

    name: str
    kind: str  # dense | prompted
    size: int
    batch: int
    steps: int
    rate: float
    rating: float = 1.0


PHASES = (
    Phase("dense", "dense", 256, 12, 400, 1.5e-3),
    Phase("prompted", "prompted", 256, 12, 2700, 1e-3),
    Phase("full-size", "prompted", 384, 8, 240, 5e-4, rating=4.0),
)
MUON = 14.0  # Muon's learning rate over AdamW's
AVERAGE = 0.997  # decay of the averaged weights


def place_tokens(sam: Sam, amplitude: float = 0.5) -> None:
    """Start the absolute position table with sines and cosines of row and column (Dosovitskiy et al. start at random).

    segment-anything leaves it at zero, for weights to be loaded; from there, position is found late.
    """
    table = sam.image_encoder.pos_embed
    grid, quarter = table.shape[1], table.shape[-1] // 4
    for block in sam.image_encoder.blocks:  # residual branches start small: a token starts as its own patch
        block.attn.proj.weight.data *= 0.2
        block.mlp.lin2.weight.data *= 0.2
    rates = torch.pi / 2 * torch.logspace(0, 1, quarter, base=grid / 2)
    angles = torch.linspace(-1, 1, grid)[:, None] * rates  # grid quarter
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    half = axis.shape[1]
    with torch.no_grad():
        table[0, :, :, :half] = amplitude * axis[:, None]
        table[0, :, :, half : 2 * half] = amplitude * axis[None, :]


def tie_cross_attention(sam: Sam, scale: float = 1.5) -> None:
    """Start each cross-attention with one orthogonal matrix for query and key: a prompt finds its own position."""
    transformer = sam.mask_decoder.transformer
    layers = [transformer.final_attn_token_to_image]
    for block in transformer.layers:
        layers += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
    for layer in layers:
        nn.init.orthogonal_(layer.q_proj.weight, gain=scale)
        layer.k_proj.weight.data.copy_(layer.q_proj.weight.data)


def pretrain(
    out: Path, device: str = "auto", phases: tuple[Phase, ...] = PHASES, seed: int = 0, workers: int = 1
) -> Sam:
    """Run the recipe, resumed from `out`/state.pt where one is; log in `out`/history.csv; return the averaged model.

    What is drawn depends on seed, phase and step alone: a resumed run ends as an uninterrupted one does. Raises
    ValueError where the state is that of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(device)
    fabric = make_fabric(device, resolve_precision("auto", device))
    seed_everything(seed, verbose=False)
    recipe, kept = [asdict(phase) for phase in phases], out / "state.pt"
    state = torch.load(kept, map_location="cpu", weights_only=True) if kept.exists() else None
    if state and state.get("recipe", recipe) != recipe:
        raise ValueError(f"{kept} is of a run with other phases; delete it, or choose another folder.")
    sam = build_vit_t(phases[0].size)
    place_tokens(sam)
    tie_cross_attention(sam)
    use_fast_attention(sam.image_encoder)
    sam.to(fabric.device)
    rows: list[dict[str, Any]] = state["rows"] if state else []
    for number, phase in enumerate(phases):
        resize_input(sam, phase.size)
        if state and number < state["phase"]:
            continue
        mine = state if state and number == state["phase"] else None
        torch.manual_seed(seed + number)
        sam = _run_phase(fabric, sam, phases, number, mine, rows, out, workers)
        state = None
    sam.original_tables = {}  # the last phase's tables are the model's own
    return sam.eval()


def _run_phase(
    fabric: Fabric, sam: Sam, phases: tuple[Phase, ...], number: int, state: dict[str, Any] | None,
    rows: list[dict[str, Any]], out: Path, workers: int,
) -> Sam:  # fmt: skip
    phase = phases[number]
    objective: nn.Module = (
        DenseObjective(sam) if phase.kind == "dense" else PromptedObjective(sam, phase.steps, phase.rating)
    )
    objective.to(fabric.device)
    optimizer = MuonAdamW(objective, phase.rate, MUON * phase.rate)
    average = AveragedModel(sam, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE), use_buffers=True)
    start = 0
    if state:
        objective.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        start = state["step"]
    elif number:  # the average was loaded into sam by the phase before
        average.update_parameters(sam)
    model = fabric.setup_module(objective)
    average = average.to(fabric.device)
    first = number * SCENES_A_PHASE
    data = ScenePrompts(TRAIN_SEED, phase.size, first + SCENES_A_PHASE)
    scenes = range(first + start * phase.batch, first + phase.steps * phase.batch)
    loader = DataLoader(
        data, batch_size=phase.batch, sampler=scenes, num_workers=workers, prefetch_factor=4 if workers else None,
    )  # fmt: skip

    def batches() -> Any:
        for items in loader:
            moved = {key: value.to(fabric.device) for key, value in items.items()}
            yield moved | {"ids": [f"scenes of phase {phase.name}"], "size": phase.batch}

    def after_step(step: int, row: dict[str, float]) -> None:
        average.update_parameters(sam)
        if step % LOG_EVERY == 0 or step == phase.steps:
            rows.append({"phase": phase.name, "step": step, **row})
        if step % SAVE_EVERY == 0 or step == phase.steps:
            pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
            now = {"recipe": [asdict(p) for p in phases], "phase": number, "step": step, "rows": rows}
            now |= {"model": objective.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(now | {"average": average.state_dict()}, out / "state.part")
            (out / "state.part").replace(out / "state.pt")

    model.train()
    rate = warmup_cosine(phase.steps, phase.rate, 0.06, floor=0.05)
    fit(fabric, model, optimizer, batches(), phase.steps, rate, start=start, after_step=after_step, label=phase.name)
    sam.load_state_dict(average.module.state_dict())
    return sam


def main() -> None:
    """nox -s pretrain: train (or resume), measure, write the weights, their card and curve, and print their hash."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"), help="state and log; resumed when there")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the weights go; the card lies beside them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="of every phase's steps; below 1 for a quick try")
    parser.add_argument("--workers", type=int, default=1, help="processes that generate scenes")
    parser.add_argument("--scenes", type=int, default=base_measures.SCENES, help="held-out scenes to measure on")
    parser.add_argument(
        "--data", nargs="*", default=list(base_measures.DATA), choices=base_measures.DATA, help="what to measure on"
    )
    args = parser.parse_args()
    phases = tuple(replace(p, steps=max(2, round(p.steps * args.scale))) for p in PHASES)
    sam = pretrain(args.out, args.device, phases, workers=args.workers)
    half = {name: tensor.half().float() for name, tensor in sam.state_dict().items()}  # as the file will hold them
    sam.load_state_dict(half)
    base_hash = hash_base(sam)
    measured = args.out / f"measured-{base_hash[:12]}"
    history = pd.read_csv(args.out / "history.csv")
    card: dict[str, Any] = {
        "phases": [asdict(p) for p in phases], "scenes_version": SCENES_VERSION, "seed": 0,
        "steps": sum(p.steps for p in phases), "seconds": round(_elapsed(history["seconds"])),
        "device": device_name(resolve_device(args.device)), "date": date.today().isoformat(),
        "measures": base_measures.measure(sam, measured, scenes=args.scenes, data=args.data),
    }  # fmt: skip
    digest = save_weights(sam, args.weights, {key: json.dumps(value) for key, value in card.items()})
    text = json.dumps({"weights_sha256": digest, "base_hash": base_hash} | card, indent=1)
    args.weights.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    history.drop(columns=["seconds", "images_per_s"]).round(5).to_csv(args.weights.with_suffix(".csv"), index=False)
    print(json.dumps({name: values["point_best_iou"] for name, values in card["measures"].items()}, indent=1))
    print(f"{args.weights}: SHA-256 {digest}; write it into WEIGHTS_SHA256 of lorasam_core/sam.py.")


def _elapsed(seconds: pd.Series) -> float:
    """Time of training, from a column that starts at zero with every phase and every time a run is taken up."""
    passed = seconds.diff()
    return float(passed.where(passed > 0, seconds).sum())


if __name__ == "__main__":
    main()
