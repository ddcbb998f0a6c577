"""The compact SAM's recipe: from random weights to promptable, on generated scenes, by the loop that trains adapters.

Phases after Kirillov et al. 2023 (Segment Anything, appendix A), scaled down: a dense warm-up of the encoder, then
point and box prompts with the minimum loss over three masks, the IoU head, and a corrective point with the mask so far
as a prompt. Each phase starts from the averaged weights of the one before.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric, seed_everything
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from lorasam_core.attention import use_fast_attention
from lorasam_core.data.scenes import SCENES_VERSION, Scene, generate_scene
from lorasam_core.devices import device_name, resolve_device, resolve_precision
from lorasam_core.loop import fit, warmup_cosine
from lorasam_core.prompts import jittered_boxes, points_inside
from lorasam_core.sam import WEIGHTS, build_vit_t, resize_input, save_weights

TRAIN_SEED, HELD_OUT_SEED = 1, 2  # scenes of the second seed are never trained on
STRIDE = 4  # pixels of the input to one of the mask decoder's output, with patches of 16
FULL_SIZE = 384  # pixels of a scene; smaller inputs are windows of it, so that objects keep their scale
MIN_AREA = 400  # pixels; smaller objects are less than two patches
PROMPTS = 8  # objects an image: half by a point, half by a box
CORRECT_EVERY = 4  # steps from one corrective round to the next
WHOLE_IMAGE = 0.25  # share of images with the whole-image box among their prompts; its target is every object


@dataclass(frozen=True)
class Phase:
    """One stage of the recipe: what is trained, at which size (pixels), for how long."""

    name: str
    kind: str  # dense | prompted
    size: int
    batch: int
    steps: int
    rate: float


PHASES = (
    Phase("dense", "dense", 256, 16, 300, 1.5e-3),
    Phase("prompted", "prompted", 256, 12, 1100, 8e-4),
    Phase("full-size", "prompted", 384, 8, 100, 2e-4),
)


class ScenePrompts(Dataset[dict[str, Tensor]]):
    """Scene i as tensors: image (3, S, S) float32 0-255, points (K, 2), boxes (K, 4), targets (K, S/4, S/4) bool and
    regions (S/4, S/4): the index of the smallest object at each pixel. A pure function of (seed, i).
    """

    def __init__(self, seed: int, size: int, length: int) -> None:
        self.seed, self.size, self.length = seed, size, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index, 7))
        scene = generate_scene(self.seed, index, FULL_SIZE)
        if self.size < FULL_SIZE:
            scene = _crop(scene, rng, self.size)
        areas = scene.masks.sum((1, 2))
        eligible = np.flatnonzero(areas >= min(MIN_AREA, areas.max()))
        chosen = rng.choice(eligible, PROMPTS, replace=len(eligible) < PROMPTS)
        prompts = [_prompts_of(scene.masks[i], rng) for i in chosen]
        targets = scene.masks[chosen].copy()
        boxes = np.concatenate([box for _, box in prompts])
        if rng.random() < WHOLE_IMAGE:
            boxes[-1] = (0, 0, self.size, self.size)
            targets[-1] = scene.masks[scene.levels == 0].any(axis=0)
        return {
            "image": torch.from_numpy(scene.image).permute(2, 0, 1).float(),  # H W C -> C H W
            "points": torch.from_numpy(np.concatenate([point for point, _ in prompts])),
            "boxes": torch.from_numpy(boxes),
            "targets": F.avg_pool2d(torch.from_numpy(targets).float()[None], STRIDE)[0] >= 0.5,
            "regions": torch.from_numpy(_regions(scene)[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].astype(np.int64)),
        }


def _prompts_of(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels: np.ndarray = mask.astype(np.int32)
    one: np.ndarray = np.array([1])
    return points_inside(labels, one, rng), jittered_boxes(labels, one, rng, jitter=0.05)


def _crop(scene: Scene, rng: np.random.Generator, size: int) -> Scene:
    """The fullest of four random windows, with the masks that are seen in it."""
    union = np.logical_or.reduce(scene.masks)
    corners = rng.integers(0, scene.masks.shape[1] - size + 1, (4, 2)).tolist()
    y, x = max(corners, key=lambda at: int(union[at[0] : at[0] + size, at[1] : at[1] + size].sum()))
    masks = scene.masks[:, y : y + size, x : x + size]
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    return replace(
        scene, image=scene.image[y : y + size, x : x + size], masks=masks[seen], levels=scene.levels[seen],
        parents=np.full(len(seen), -1, np.int32),
    )  # fmt: skip


def _regions(scene: Scene) -> np.ndarray:
    regions = np.zeros(scene.masks.shape[1:], np.int32)
    for index in np.argsort(-scene.masks.sum((1, 2))):  # smaller ones over larger ones
        regions[scene.masks[index]] = index + 1
    return regions


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


def mask_loss(logits: Tensor, target: Tensor, balance: float) -> Tensor:
    """Dice plus cross-entropy of each mask: (N, M, H, W) logits and (N, H, W) target -> (N, M).

    A share `balance` of the cross-entropy weighs object and background alike. Balanced at first, because from random
    weights the plain loss collapses to empty masks.
    """
    logits, truth = logits.float(), target.float()[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    on, off = truth.sum((2, 3)).clamp(min=1), (1 - truth).sum((2, 3)).clamp(min=1)
    even = ((entropy * truth).sum((2, 3)) / on + (entropy * (1 - truth)).sum((2, 3)) / off) / 2
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * truth).sum((2, 3)) + 1) / (probability.sum((2, 3)) + on + 1)
    return balance * even + (1 - balance) * entropy.mean((2, 3)) + dice


def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks: (N, M, H, W) and (N, H, W) -> (N, M)."""
    guess, truth = logits > 0, target[:, None]
    return (guess & truth).sum((2, 3)) / (guess | truth).sum((2, 3)).clamp(min=1)


class DenseObjective(nn.Module):
    """Encoder warm-up: the pixels of an object resemble the pixel that a point names."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        width = sam.image_encoder.neck[0].out_channels
        self.read = nn.ConvTranspose2d(width, 32, STRIDE, stride=STRIDE)  # linear, and left behind after the warm-up
        self.temperature = nn.Parameter(torch.tensor([8.0, -4.0]))  # scale and bias of the cosine

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = self.sam.image_encoder(normalise(self.sam, batch["image"]))
        features = F.normalize(self.read(embeddings), dim=1)  # B C h w
        at = (batch["points"] / STRIDE).long().clamp(0, features.shape[-1] - 1)  # B K 2, x then y
        rows = torch.arange(len(at), device=at.device)[:, None]
        queries = features[rows, :, at[..., 1], at[..., 0]]  # B K C
        logits = torch.einsum("bkc,bchw->bkhw", queries, features) * self.temperature[0] + self.temperature[1]
        regions = batch["regions"]
        target = regions[:, None] == regions[rows, at[..., 1], at[..., 0]][..., None, None]
        logits, target = logits.flatten(0, 1)[:, None], target.flatten(0, 1)
        return mask_loss(logits, target, 1.0).mean(), {"iou_point": hard_iou(logits, target).mean()}


class PromptedObjective(nn.Module):
    """Points (best of three masks), boxes (single mask), the IoU head, and now and then a corrective round."""

    def __init__(self, sam: Sam, steps: int) -> None:
        super().__init__()
        self.sam, self.steps = sam, steps

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        share = 1.0 - 0.7 * min(1.0, 2 * step / self.steps)  # of the balanced cross-entropy, down in the first half
        embeddings = self.sam.image_encoder(normalise(self.sam, batch["image"]))
        target = batch["targets"].flatten(0, 1)
        # positions of prompts need float32: bf16 would round them to whole pixels
        decode = torch.autocast(embeddings.device.type, enabled=False)(self.decode)
        masks, scores = decode(embeddings.float(), batch)
        by_point = (torch.arange(len(target), device=target.device) % PROMPTS) < PROMPTS // 2
        losses, true_iou = mask_loss(masks, target, share), hard_iou(masks, target)
        best = losses[:, 1:].argmin(1) + 1
        used = torch.where(by_point, best, 0)
        rows = torch.arange(len(target), device=target.device)
        loss = losses[rows, used].mean()
        trusted = torch.where(by_point[:, None], torch.tensor([0, 1, 1, 1], device=target.device), 0)
        trusted = trusted + F.one_hot(used, 4) * ~by_point[:, None]
        loss = loss + (((scores - true_iou) ** 2) * trusted).sum() / trusted.sum()
        measures = {
            "iou_point": true_iou[by_point, 1:].max(1).values.mean(),
            "iou_box": true_iou[~by_point, 0].mean(),
            "iou_error": ((scores - true_iou).abs() * trusted).sum() / trusted.sum(),
        }
        if step % CORRECT_EVERY == CORRECT_EVERY - 1:
            previous = masks[rows, used].detach()
            masks, scores = decode(embeddings.float(), batch, previous, target)
            true_iou = hard_iou(masks[:, :1], target)
            loss = loss + mask_loss(masks[:, :1], target, share).mean() + F.mse_loss(scores[:, :1], true_iou)
        return loss, measures

    def decode(
        self, embeddings: Tensor, batch: dict[str, Any], previous: Tensor | None = None, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """All four masks (B * K, 4, h, w) and IoU predictions (B * K, 4), an image at a time as SAM's decoder wants."""
        half, outputs = PROMPTS // 2, []
        encode, decode = self.sam.prompt_encoder, self.sam.mask_decoder.predict_masks
        position = encode.get_dense_pe()
        for index in range(len(embeddings)):
            points, boxes = batch["points"][index, :half, None], batch["boxes"][index, half:]
            named = torch.ones(half, 1, device=points.device)
            extra: tuple[Tensor, Tensor] | None = None
            mask = None
            if previous is not None and target is not None:
                mine = slice(index * PROMPTS, (index + 1) * PROMPTS)
                mask = previous[mine, None]
                where, sign = _error_points(previous[mine], target[mine])
                points, named = torch.cat([points, where[:half]], 1), torch.cat([named, sign[:half]], 1)
                extra = (where[half:], sign[half:])
            sparse_points, dense = encode((points, named), None, None if mask is None else mask[:half])
            sparse_boxes, dense_boxes = encode(extra, boxes, None if mask is None else mask[half:])
            outputs.append(
                decode(
                    embeddings[index : index + 1],
                    position,
                    torch.cat([sparse_points, sparse_boxes]),
                    torch.cat([dense, dense_boxes]),
                )
            )
        return torch.cat([m for m, _ in outputs]), torch.cat([s for _, s in outputs])


def _error_points(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """A pixel where each mask is wrong, in image coordinates (K, 1, 2), and 1 (missing) or 0 (spurious), (K, 1)."""
    wrong = ((logits > 0) != target).flatten(1).float() + 1e-6
    at = torch.multinomial(wrong, 1)
    width = target.shape[-1]
    where = torch.stack([at % width, at // width], dim=-1).float() * STRIDE + STRIDE / 2
    return where, target.flatten(1).gather(1, at).float()


def normalise(sam: Sam, images: Tensor) -> Tensor:
    """(B, 3, S, S) of 0-255 to the model's input."""
    return (images - sam.pixel_mean) / sam.pixel_std


@torch.inference_mode()
def measure(sam: Sam, count: int = 200, batch: int = 8) -> dict[str, float]:
    """Mean over objects of held-out scenes: IoU by a point (best of three, best rated), by a box; IoU head's error."""
    device = sam.device
    objective = PromptedObjective(sam, 1).eval()
    rows = []
    for items in DataLoader(ScenePrompts(HELD_OUT_SEED, sam.image_encoder.img_size, count), batch_size=batch):
        items = {key: value.to(device) for key, value in items.items()}
        items["boxes"] = items["boxes"].float()
        masks, scores = objective.decode(sam.image_encoder(normalise(sam, items["image"])), items)
        true_iou = hard_iou(masks, items["targets"].flatten(0, 1))
        by_point = (torch.arange(len(true_iou), device=device) % PROMPTS) < PROMPTS // 2
        rated = true_iou[:, 1:].gather(1, scores[:, 1:].argmax(1, keepdim=True))[:, 0]
        error = (scores - true_iou).abs()
        rows.append(
            torch.stack(
                [
                    true_iou[by_point, 1:].max(1).values, rated[by_point], true_iou[~by_point, 0],
                    (error[by_point, 1:].mean(1) + error[~by_point, 0]) / 2,
                ]
            ).mean(1)
        )  # fmt: skip
    names = ("point_best_iou", "point_rated_iou", "box_iou", "iou_error")
    return dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True))


def pretrain(
    out: Path, device: str = "auto", phases: tuple[Phase, ...] = PHASES, seed: int = 0, workers: int = 1
) -> Sam:
    """Run the recipe, resumed from `out`/state.pt where one is; log in `out`/history.csv; return the averaged model."""
    out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(device)
    fabric = Fabric(accelerator=device, devices=1, precision=resolve_precision("auto", device))
    seed_everything(seed, verbose=False)
    state = torch.load(out / "state.pt", weights_only=False) if (out / "state.pt").exists() else None
    sam = build_vit_t(phases[0].size)
    place_tokens(sam)
    tie_cross_attention(sam)
    use_fast_attention(sam.image_encoder)
    rows: list[dict[str, Any]] = state["rows"] if state else []
    for number, phase in enumerate(phases):
        resize_input(sam, phase.size)
        if state and number < state["phase"]:
            continue
        mine = state if state and number == state["phase"] else None
        sam = _run_phase(fabric, sam, phase, number, mine, rows, out, workers)
        state = None
    return sam.eval()


def _run_phase(
    fabric: Fabric, sam: Sam, phase: Phase, number: int, state: dict[str, Any] | None, rows: list[dict[str, Any]],
    out: Path, workers: int,
) -> Sam:  # fmt: skip
    objective: nn.Module = DenseObjective(sam) if phase.kind == "dense" else PromptedObjective(sam, phase.steps)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=phase.rate, weight_decay=0.05, betas=(0.9, 0.98))
    average = AveragedModel(sam, multi_avg_fn=get_ema_multi_avg_fn(0.995), use_buffers=True)
    start = 0
    if state:
        objective.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        start = state["step"]
    elif rows:  # the average was loaded into sam by the phase before
        average.update_parameters(sam)
    model, optimizer = fabric.setup(objective, optimizer)
    average = average.to(fabric.device)
    first = (number * 10**7) + start * phase.batch  # distinct scenes in every phase
    data = ScenePrompts(TRAIN_SEED, phase.size, (number + 1) * 10**7)
    loader = DataLoader(
        data, batch_size=phase.batch, sampler=range(first, number * 10**7 + phase.steps * phase.batch),
        num_workers=workers, prefetch_factor=4 if workers else None,
    )  # fmt: skip

    def batches() -> Any:
        for items in loader:
            moved = {key: value.to(fabric.device) for key, value in items.items()}
            yield moved | {"ids": [f"scenes of phase {phase.name}"], "size": phase.batch}

    def after_step(step: int, row: dict[str, float]) -> None:
        average.update_parameters(sam)
        if step % 10 == 0:
            rows.append({"phase": phase.name, "step": step, **row})
        if step % 100 == 0 or step == phase.steps:
            pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
            torch.save(
                {
                    "phase": number, "step": step, "rows": rows, "model": objective.state_dict(),
                    "optimizer": optimizer.state_dict(), "average": average.state_dict(),
                },
                out / "state.part",
            )  # fmt: skip
            (out / "state.part").replace(out / "state.pt")

    model.train()
    rate = warmup_cosine(phase.steps, phase.rate, 0.06, floor=0.05)
    fit(fabric, model, optimizer, batches(), phase.steps, rate, start=start, after_step=after_step, label=phase.name)
    sam.load_state_dict(average.module.state_dict())
    return sam


def main() -> None:
    """nox -s pretrain: train (or resume), measure on held-out scenes, write the weights and print their hash."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"), help="state and log; resumed when there")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the weights go")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="of every phase's steps; below 1 for a quick try")
    parser.add_argument("--workers", type=int, default=1, help="processes that generate scenes")
    args = parser.parse_args()
    phases = tuple(Phase(**{**asdict(p), "steps": max(2, round(p.steps * args.scale))}) for p in PHASES)
    sam = pretrain(args.out, args.device, phases, workers=args.workers)
    measures = measure(sam)
    recipe = {
        "phases": [asdict(p) for p in phases], "scenes_version": SCENES_VERSION, "seed": 0,
        "device": device_name(resolve_device(args.device)), "date": date.today().isoformat(), "measures": measures,
    }  # fmt: skip
    digest = save_weights(sam, args.weights, {key: json.dumps(value) for key, value in recipe.items()})
    print(json.dumps(measures, indent=1))
    print(f"{args.weights}: SHA-256 {digest}; write it into WEIGHTS_SHA256 of lorasam_core/sam.py.")


if __name__ == "__main__":
    main()
