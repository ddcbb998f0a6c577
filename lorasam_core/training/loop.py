"""Train what a method trains: the objective, the loop, validation by the split's own part, and the best state kept."""

from __future__ import annotations

import json
import logging
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
from torch import Tensor, nn
from torch.utils.data import Dataset

from lorasam_core.config import NOT_RESULTS, RunConfig
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models.devices import peak_memory_mb, reset_peak_memory, resolve_device, resolve_precision
from lorasam_core.models.lora import lora_parameters
from lorasam_core.training import checkpoint, processes, trainable
from lorasam_core.training.blocks import check_compile, training_blocks
from lorasam_core.training.fit import NonFiniteLoss, Timed, fit, make_fabric, undivided, warmup_cosine
from lorasam_core.training.items import TrainingItems, endless
from lorasam_core.training.objectives import Objective
from lorasam_core.training.validation import Validation

COLUMNS = (
    "step", "epoch", "images_seen", "learning_rate", "train_loss", "train_accuracy", "train_miou", "val_loss",
    "val_accuracy", "val_miou", "val_dice", "val_instance_iou", "val_score", "seconds", "images_per_s",
)  # fmt: skip
OBLONG = 0.5  # share of training crops that are cut to a random aspect and padded
VALIDATIONS = 10  # a run, where validate_every is not given
SAVE_SECONDS = 60.0  # of training at most between two checkpoints; each validation writes one too

logger = logging.getLogger(__name__)


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
    "waiting_share", "processor_seconds", "peak_memory_mb", "earlier_seconds"}; waiting_share: part of the seconds in
    which the model waited for a batch; processor_seconds: of all cores, whatever else they did meanwhile;
    earlier_seconds: those that processes before this one took. Raises ValueError where config.compile asks
    for what does not work here, and NonFiniteLoss, which names the batch, with the state before it in
    last_good.safetensors.

    Every now and then it writes checkpoint.pt. Where run_dir has one of these settings, training goes on from it, to
    the same bits on a CPU, and callbacks are told the rows before it again; that of a finished training is kept, so
    that nothing is trained twice, until the caller deletes it.

    Within `processes.together` each process trains on its own images of every batch, all end with the same model, and
    the first alone writes, and tells callbacks.
    """
    device = str(sam.device) if config.device == "auto" else resolve_device(config.device)
    if config.compile:
        check_compile(device)
    precision = resolve_precision(config.precision, device)
    objective = Objective(sam.to(device), config.objective)
    virtual = VirtualSet(train_set, config.virtual_size, config.seed, config.crop_size, config.augmentation)
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
    if processes.rank() == 0:
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
        self.first = processes.rank() == 0  # who writes
        torch.manual_seed(config.seed + 1_000_003 * processes.rank())  # each drops out numbers of its own
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
        # seconds, those of the processor, and memory of processes before this one
        self.earlier = self.earlier_processor = self.peak_mb = 0.0

    def run(self) -> dict[str, Any]:
        """The whole run; see `train`."""
        config, task = self.config, self.task
        self.begun, self.processor_begun = time.perf_counter(), time.process_time()
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
        self.optimizer = kind(task.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        objective, optimizer = self.fabric.setup(task.objective, self.optimizer)
        rate = warmup_cosine(self.steps, config.learning_rate, config.warmup)
        start, waited = self._resume()
        processes.spread(self._weights().values())
        self.batches = Timed(endless(task.items, config, self.fabric.device, start * config.accumulate))
        self.batches.seconds, self.saved = waited, time.perf_counter()
        task.model.train()
        try:
            last = start if self.exhausted else fit(
                self.fabric, objective, optimizer, self.batches, self.steps, rate, start=start,
                accumulate=config.accumulate, pieces=task.pieces, clip_norm=config.clip_norm,
                after_step=self.after_step, label=config.name,
            )  # fmt: skip
        except NonFiniteLoss as error:
            kept = self.run_dir / "last_good.safetensors"
            if self.first:
                task.save(kept, run=config.name)
            raise NonFiniteLoss(f"{error} The state before it is in {kept.name}.") from error
        finally:
            self.batches.close()
            task.model.eval()
            if self.first:
                pd.DataFrame(self.rows, columns=COLUMNS).to_csv(self.run_dir / "history.csv", index=False)
        if self.first:
            task.load(self.run_dir / task.file)
        processes.spread(self._weights().values())
        seconds, seen = self.seconds, last * config.batch_size * config.accumulate
        return {
            "val": self.best, "steps": last, "best_step": self.best_step, "images_seen": seen, "seconds": seconds,
            "images_per_s": seen / seconds, "waiting_share": self.batches.seconds / seconds,
            "processor_seconds": self._processor_seconds(), "peak_memory_mb": self._peak(),
            "earlier_seconds": self.earlier,
        }  # fmt: skip

    @property
    def seconds(self) -> float:
        """Time of training so far, of all its processes."""
        return self.earlier + time.perf_counter() - self.begun

    @property
    def exhausted(self) -> bool:
        """Whether validation no longer improves."""
        return self.config.patience is not None and self.stale >= self.config.patience

    def after_step(self, step: int, row: dict[str, float]) -> bool:
        """Log, validate when due, keep the best state and a checkpoint; True when validation no longer improves."""
        self.recent.append(row)
        due = step % self.validate_every == 0 or step == self.steps
        if due or step % self.log_every == 0:
            self._log(step, row["learning_rate"], due)
        if due or processes.gather(time.perf_counter() - self.saved > SAVE_SECONDS)[0]:
            self._save(step)
        return due and self.exhausted

    def _log(self, step: int, rate: float, due: bool) -> None:
        images, seconds = step * self.config.batch_size * self.config.accumulate, self.seconds
        record: dict[str, Any] = {
            "step": step,
            "epoch": step / self.steps_an_epoch,
            "images_seen": images,
            **{f"train_{key}": float(np.mean([r[key] for r in self.recent])) for key in ("loss", "accuracy", "miou")},
            **{"learning_rate": rate, "seconds": seconds, "images_per_s": images / seconds},
        }
        self.recent.clear()
        if due:
            measures = self.task.validation.measure()
            record |= {f"val_{key}": value for key, value in measures.items()}
            self._keep_best(step, measures)
        self.rows.append(record)
        self._tell(record)

    def _tell(self, record: dict[str, Any]) -> None:
        for callback in self.callbacks if self.first else ():
            if hasattr(callback, "on_log"):
                callback.on_log(record["step"], record)

    def _keep_best(self, step: int, measures: dict[str, float]) -> None:
        if self.best and measures["score"] <= self.best["score"]:
            self.stale += 1
            return
        self.best, self.best_step, self.stale = measures, step, 0
        if not self.first:
            return
        part = self.run_dir / f"{self.task.file}.part"  # renamed: a checkpoint relies on a whole file
        self.task.save(part, step=step, val=measures)
        part.replace(self.run_dir / self.task.file)

    def _processor_seconds(self) -> float:
        """Processor time of training so far, of all its processes."""
        return sum(processes.gather(self.earlier_processor + time.process_time() - self.processor_begun))

    def _peak(self) -> float:
        """That of the process which needs most."""
        return max(processes.gather(max(self.peak_mb, peak_memory_mb(str(self.fabric.device)))))

    def _weights(self) -> dict[str, Tensor]:
        """What training changes: what requires a gradient, and statistics that layers keep."""
        fixed = {name for name, p in self.task.model.named_parameters() if not p.requires_grad}
        return {name: t for name, t in self.task.model.state_dict().items() if name not in fixed}

    def _settings(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to fit."""
        results = {key: value for key, value in self.config.to_dict().items() if key not in NOT_RESULTS}
        shapes = {name: list(tensor.shape) for name, tensor in self._weights().items()}
        return {"config": results, "steps": self.steps, "images": len(self.task.items), "shapes": shapes}

    def _state(self, step: int, waited: float, random: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        return {
            "settings": self._settings(), "step": step, "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(), "random": random[0],
            "others": list(random[1:]), "rows": self.rows, "recent": self.recent,
            "best": self.best, "best_step": self.best_step,
            "stale": self.stale, "seconds": self.seconds, "waited": waited, "peak_mb": self._peak(),
            "processor_seconds": self._processor_seconds(),
        }  # fmt: skip

    def _save(self, step: int) -> None:
        random = processes.gather(checkpoint.random_states(self.fabric.device))
        state = self._state(step, self.batches.seconds, random)
        if self.first:
            checkpoint.write(self.run_dir, state)
        self.saved = time.perf_counter()

    def _resume(self) -> tuple[int, float]:
        """Take up the checkpoint, where there is one that fits: the steps done, and seconds waited for batches."""
        now = self._state(0, 0.0, [checkpoint.random_states(self.fabric.device)])  # which all processes make
        state = checkpoint.read(self.run_dir, now) if self.first else None
        if state and state["best"] and not (self.run_dir / self.task.file).is_file():
            state = None
        state = processes.first(state)
        if state is None:
            return 0, 0.0
        self.task.model.load_state_dict(state["weights"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        randoms = [state["random"], *state.get("others", [])][processes.rank() :][:1]
        for random in randoms:  # there is none for a process that the training before had not
            checkpoint.set_random_states(random, self.fabric.device)
        for name in ("rows", "recent", "best", "best_step", "stale", "peak_mb"):
            setattr(self, name, state[name])
        self.earlier, self.earlier_processor = state["seconds"], state["processor_seconds"] if self.first else 0.0
        for record in self.rows:
            self._tell(record)
        logger.info("goes on from its checkpoint after step %d of %d", state["step"], self.steps)
        return state["step"], state["waited"]
