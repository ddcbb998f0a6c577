"""Train a LoRA adapter: the objective, the loop, validation by the split's own part, and the best adapter kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from lorasam_core.blocks import check_compile, training_blocks
from lorasam_core.config import RunConfig
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.devices import peak_memory_mb, reset_peak_memory, resolve_device, resolve_precision
from lorasam_core.loop import NonFiniteLoss, Timed, fit, make_fabric, warmup_cosine
from lorasam_core.lora import load_adapter, lora_parameters, save_adapter
from lorasam_core.losses import mask_iou
from lorasam_core.objectives import Objective, TrainingItems, decode, endless, prompts_for, shrink
from lorasam_core.sam import preprocess

COLUMNS = (
    "step", "epoch", "images_seen", "learning_rate", "train_loss", "train_accuracy", "train_miou", "val_loss",
    "val_accuracy", "val_miou", "val_dice", "val_instance_iou", "val_score", "seconds", "images_per_s",
)  # fmt: skip
OBLONG = 0.5  # share of training crops that are cut to a random aspect and padded
VALIDATIONS = 10  # a run, where validate_every is not given


def train(
    sam: Sam, train_set: SampleSet, val_set: SampleSet, config: RunConfig, run_dir: str | Path,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Train the LoRA parameters of `sam` and leave the adapter that validated best in it.

    sam: with LoRA added, on its device. Writes config.json, history.csv and adapter.safetensors into run_dir. Each
    callback may have on_log(step, row). Returns {"val", "steps", "best_step", "images_seen", "seconds", "images_per_s",
    "waiting_share", "peak_memory_mb"}; waiting_share: part of the seconds in which the model waited for a batch.
    Raises ValueError where config.compile asks for what does not work here, and NonFiniteLoss, which names the batch,
    with the state before it in last_good.safetensors.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    return Trainer(sam, train_set, val_set, config, run_dir, callbacks).run()


class Trainer:
    """The state of one run between steps."""

    def __init__(
        self, sam: Sam, train_set: SampleSet, val_set: SampleSet, config: RunConfig, run_dir: Path,
        callbacks: Sequence[Any],
    ) -> None:  # fmt: skip
        self.sam, self.config, self.run_dir, self.callbacks = sam, config, run_dir, callbacks
        device = str(sam.device) if config.device == "auto" else resolve_device(config.device)
        if config.compile:
            check_compile(device)
        precision = resolve_precision(config.precision, device)
        self.fabric = make_fabric(device, precision)
        sam.to(self.fabric.device)
        reset_peak_memory(device)
        torch.manual_seed(config.seed)
        virtual = VirtualSet(train_set, config.virtual_size, config.seed, config.crop_size)
        mask_size = sam.prompt_encoder.mask_input_size[0]
        self.items = TrainingItems(virtual, sam.image_encoder.img_size, mask_size, config.prompts_per_image, OBLONG)
        images_a_step = config.batch_size * config.accumulate
        self.steps_an_epoch = max(1, math.ceil(len(virtual) / images_a_step))
        self.steps = config.steps or config.epochs * self.steps_an_epoch
        self.validate_every = config.validate_every or max(1, self.steps // VALIDATIONS)
        # a row of a mixed run shows both objectives
        self.log_every = max(2 if config.objective == "mixed" else 1, self.steps // 200)
        self.objective = Objective(sam, config.objective)
        self.validation = Validation(sam, self.objective, val_set, config, precision == "bf16-mixed")
        self.rows: list[dict[str, Any]] = []
        self.recent: list[dict[str, float]] = []  # steps since the last row
        self.best: dict[str, float] = {}
        self.best_step = self.stale = 0

    def run(self) -> dict[str, Any]:
        """The whole run; see `train`."""
        config, begun = self.config, time.perf_counter()
        optimizer = torch.optim.Adam(
            lora_parameters(self.sam), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        objective, optimizer = self.fabric.setup(self.objective, optimizer)
        rate = warmup_cosine(self.steps, config.learning_rate, config.warmup)
        batches = Timed(endless(self.items, config, self.fabric.device))
        self.sam.train()
        try:
            with training_blocks(self.sam.image_encoder, config.checkpointing, config.compile):
                last = fit(
                    self.fabric, objective, optimizer, batches, self.steps, rate, accumulate=config.accumulate,
                    clip_norm=config.clip_norm, after_step=self.after_step, label=config.name,
                )  # fmt: skip
        except NonFiniteLoss as error:
            kept = self.run_dir / "last_good.safetensors"
            save_adapter(self.sam, kept, run=config.name)
            raise NonFiniteLoss(f"{error} The state before it is in {kept.name}.") from error
        finally:
            batches.close()
            self.sam.eval()
            pd.DataFrame(self.rows, columns=COLUMNS).to_csv(self.run_dir / "history.csv", index=False)
        load_adapter(self.sam, self.run_dir / "adapter.safetensors")
        seconds, seen = time.perf_counter() - begun, last * config.batch_size * config.accumulate
        return {
            "val": self.best, "steps": last, "best_step": self.best_step, "images_seen": seen, "seconds": seconds,
            "images_per_s": seen / seconds, "waiting_share": batches.seconds / seconds,
            "peak_memory_mb": peak_memory_mb(str(self.fabric.device)),
        }  # fmt: skip

    def after_step(self, step: int, row: dict[str, float]) -> bool:
        """Log, validate when due, keep the best adapter; True when validation no longer improves."""
        self.recent.append(row)
        due = step % self.validate_every == 0 or step == self.steps
        if not due and step % self.log_every:
            return False
        images = self.config.batch_size * self.config.accumulate
        record: dict[str, Any] = {
            "step": step,
            "epoch": step / self.steps_an_epoch,
            "images_seen": step * images,
            **{f"train_{key}": float(np.mean([r[key] for r in self.recent])) for key in ("loss", "accuracy", "miou")},
            **{key: row[key] for key in ("learning_rate", "seconds", "images_per_s")},
        }
        self.recent.clear()
        if due:
            measures = self.validation.measure()
            record |= {f"val_{key}": value for key, value in measures.items()}
            self._keep_best(step, measures)
        self.rows.append(record)
        for callback in self.callbacks:
            if hasattr(callback, "on_log"):
                callback.on_log(step, record)
        return due and self.config.patience is not None and self.stale >= self.config.patience

    def _keep_best(self, step: int, measures: dict[str, float]) -> None:
        if self.best and measures["score"] <= self.best["score"]:
            self.stale += 1
            return
        self.best, self.best_step, self.stale = measures, step, 0
        save_adapter(self.sam, self.run_dir / "adapter.safetensors", step=step, val=measures)


class Validation:
    """Whole images through the predictor's transform, compared at mask resolution without the padding.

    score, by which the best adapter is chosen: the foreground's Dice (semantic), the instances' IoU for a point
    (instance), or the mean of both (mixed).
    """

    def __init__(
        self, sam: Sam, objective: Objective, val_set: SampleSet, config: RunConfig, autocast: bool = False
    ) -> None:
        """autocast: whether the image encoder computes in bf16. Raises ValueError for an empty val_set."""
        if not len(val_set):
            raise ValueError("There is no image to validate with; give at least one, in a group of its own.")
        self.sam, self.objective, self.kind, self.autocast = sam, objective, config.objective, autocast
        side, grid = sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size[0]
        self.items = []
        for number, sample in enumerate(val_set):
            image, (height, width) = preprocess(sam, sample.image)
            rows, columns = max(1, round(height * grid / side)), max(1, round(width * grid / side))
            valid = np.zeros((grid, grid), bool)
            valid[:rows, :columns] = True
            targets, points, _ = prompts_for(
                sample.labels, (height, width), (rows, columns), config.prompts_per_image,
                np.random.default_rng((0, number)),
            )  # fmt: skip
            masks = np.zeros((1 + len(targets), grid, grid), bool)
            masks[0, :rows, :columns] = shrink(sample.labels > 0, rows, columns)
            masks[1:, :rows, :columns] = targets
            tensors = torch.from_numpy(masks), torch.from_numpy(valid), torch.from_numpy(points)
            self.items.append((image.cpu(), (height, width), *tensors))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """loss, accuracy, miou, dice, instance_iou and score: means over the validation images."""
        training = self.sam.training
        self.sam.eval()
        rows = pd.DataFrame([self._image(*item) for item in self.items])
        self.sam.train(training)
        means: dict[str, float] = {str(k): float(v) for k, v in rows.mean().items()}
        parts = {"semantic": ["dice"], "instance": ["instance_iou"], "mixed": ["dice", "instance_iou"]}[self.kind]
        known = [means[part] for part in parts if not math.isnan(means[part])] or [means["dice"]]
        return means | {"score": float(np.mean(known))}

    def _image(
        self, image: Tensor, size: tuple[int, int], masks: Tensor, valid: Tensor, points: Tensor
    ) -> dict[str, float]:
        device = self.sam.device
        masks, valid, points = masks.to(device), valid.to(device)[None], points.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            embedding = self.sam.image_encoder(image.to(device)).float()
        loss, measures = self.objective.semantic(embedding, masks[:1], valid, [size])
        overlap = mask_iou(self.objective.foreground(embedding, [size]), masks[:1], valid)
        row = {"loss": float(loss), **{k: float(v) for k, v in measures.items()}}
        row["dice"] = float((2 * overlap / (1 + overlap)).mean())
        row["instance_iou"] = math.nan
        if self.kind != "semantic" and len(points):
            named = torch.ones(len(points), 1, device=device)
            sparse, dense = self.sam.prompt_encoder((points[:, None], named), None, None)
            owner = torch.zeros(len(points), dtype=torch.long, device=device)
            logits, _ = decode(self.sam, embedding, owner, sparse, dense)
            best = mask_iou(logits[:, 1:], masks[1:], valid.expand(len(points), -1, -1)).max(1).values
            row["instance_iou"] = float(best.mean())
        return row
