"""Train what a method trains: the objective, the loop, validation by the split's own part, and the best state kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.utils.data import Dataset

from lorasam_core.config import RunConfig
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models.devices import peak_memory_mb, reset_peak_memory, resolve_device, resolve_precision
from lorasam_core.models.lora import lora_parameters
from lorasam_core.training import trainable
from lorasam_core.training.blocks import check_compile, training_blocks
from lorasam_core.training.fit import NonFiniteLoss, Timed, fit, make_fabric, undivided, warmup_cosine
from lorasam_core.training.objectives import Objective, TrainingItems, endless
from lorasam_core.training.validation import Validation

COLUMNS = (
    "step", "epoch", "images_seen", "learning_rate", "train_loss", "train_accuracy", "train_miou", "val_loss",
    "val_accuracy", "val_miou", "val_dice", "val_instance_iou", "val_score", "seconds", "images_per_s",
)  # fmt: skip
OBLONG = 0.5  # share of training crops that are cut to a random aspect and padded
VALIDATIONS = 10  # a run, where validate_every is not given


class Measures(Protocol):
    """What judges a model on the validation images."""

    def measure(self) -> dict[str, float]:
        """Measures by name; `score` is the one by which the best state is chosen, the higher the better."""


@dataclass(frozen=True)
class Task:
    """What a run trains. model: whose mode is switched; objective(batch, step) -> (loss, measures), as `loop.fit` asks;
    items: the training set; file: where the best state goes, by `save(path, **metadata)`, and comes from, by `load`;
    pieces: how a batch is cut, as `loop.fit` asks.
    """

    model: nn.Module
    objective: nn.Module
    items: Dataset[dict[str, Any]]
    validation: Measures
    parameters: Sequence[nn.Parameter]
    file: str
    save: Callable[..., None]
    load: Callable[[Path], Any]
    pieces: Callable[[Any, int], Iterable[tuple[float, Any]]] = undivided


def train(
    sam: Sam, train_set: SampleSet, val_set: SampleSet, config: RunConfig, run_dir: str | Path,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Train what is trainable of `sam` and leave the state that validated best in it.

    sam: with LoRA added, or with whatever else `trainable.select` made trainable, on its device. Writes config.json,
    history.csv and the best state (adapter.safetensors for LoRA, else weights.safetensors) into run_dir. Each
    callback may have on_log(step, row). Returns {"val", "steps", "best_step", "images_seen", "seconds", "images_per_s",
    "waiting_share", "peak_memory_mb"}; waiting_share: part of the seconds in which the model waited for a batch.
    Raises ValueError where config.compile asks for what does not work here, and NonFiniteLoss, which names the batch,
    with the state before it in last_good.safetensors.
    """
    device = str(sam.device) if config.device == "auto" else resolve_device(config.device)
    if config.compile:
        check_compile(device)
    precision = resolve_precision(config.precision, device)
    objective = Objective(sam.to(device), config.objective)
    virtual = VirtualSet(train_set, config.virtual_size, config.seed, config.crop_size)
    mask_size = sam.prompt_encoder.mask_input_size[0]
    task = Task(
        model=sam, objective=objective,
        items=TrainingItems(virtual, sam.image_encoder.img_size, mask_size, config.prompts_per_image, OBLONG),
        validation=Validation(sam, objective, val_set, config, precision == "bf16-mixed"),
        parameters=lora_parameters(sam) if config.method == "lora" else trainable.parameters(sam),
        file=trainable.file(sam),
        save=lambda path, **metadata: trainable.save(sam, path, **metadata),
        load=lambda path: trainable.load(sam, path),
        pieces=objective.pieces,
    )  # fmt: skip
    with training_blocks(sam.image_encoder, config.checkpointing, config.compile):
        return run_task(task, config, run_dir, device, precision, callbacks)


def run_task(
    task: Task, config: RunConfig, run_dir: str | Path, device: str, precision: str, callbacks: Sequence[Any] = ()
) -> dict[str, Any]:
    """Train a task; files, result and errors as `train`'s."""
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    return Trainer(task, config, run_dir, device, precision, callbacks).run()


class Trainer:
    """The state of one run between steps."""

    def __init__(
        self, task: Task, config: RunConfig, run_dir: Path, device: str, precision: str, callbacks: Sequence[Any]
    ) -> None:
        self.task, self.config, self.run_dir, self.callbacks = task, config, run_dir, callbacks
        self.fabric = make_fabric(device, precision)
        task.model.to(self.fabric.device)
        reset_peak_memory(device)
        torch.manual_seed(config.seed)
        images_a_step = config.batch_size * config.accumulate
        self.steps_an_epoch = max(1, math.ceil(len(task.items) / images_a_step))
        self.steps = config.steps or config.epochs * self.steps_an_epoch
        self.validate_every = config.validate_every or max(1, self.steps // VALIDATIONS)
        # a row of a mixed run shows both objectives
        self.log_every = max(2 if config.objective == "mixed" else 1, self.steps // 200)
        self.rows: list[dict[str, Any]] = []
        self.recent: list[dict[str, float]] = []  # steps since the last row
        self.best: dict[str, float] = {}
        self.best_step = self.stale = 0

    def run(self) -> dict[str, Any]:
        """The whole run; see `train`."""
        config, task, begun = self.config, self.task, time.perf_counter()
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
        optimizer = kind(task.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        objective, optimizer = self.fabric.setup(task.objective, optimizer)
        rate = warmup_cosine(self.steps, config.learning_rate, config.warmup)
        batches = Timed(endless(task.items, config, self.fabric.device))
        task.model.train()
        try:
            last = fit(
                self.fabric, objective, optimizer, batches, self.steps, rate, accumulate=config.accumulate,
                pieces=task.pieces, clip_norm=config.clip_norm, after_step=self.after_step, label=config.name,
            )  # fmt: skip
        except NonFiniteLoss as error:
            kept = self.run_dir / "last_good.safetensors"
            task.save(kept, run=config.name)
            raise NonFiniteLoss(f"{error} The state before it is in {kept.name}.") from error
        finally:
            batches.close()
            task.model.eval()
            pd.DataFrame(self.rows, columns=COLUMNS).to_csv(self.run_dir / "history.csv", index=False)
        task.load(self.run_dir / task.file)
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
            measures = self.task.validation.measure()
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
        self.task.save(self.run_dir / self.task.file, step=step, val=measures)
