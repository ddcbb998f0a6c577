"""Weights & Biases, when asked: what the study logs (losses, accuracy and mIoU of both sets, the learning rate).

A tracker is a callback of training: `on_log(step, row)` for every row of history.csv, `on_end(metrics)` once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasam_core.config import RunConfig

MODES = ("disabled", "offline", "online")
NAMES = {
    "train_loss": "train/loss", "train_accuracy": "train/accuracy", "train_miou": "train/mIoU", "val_loss": "val/loss",
    "val_accuracy": "val/accuracy", "val_miou": "val/mIoU", "val_dice": "val/Dice", "val_score": "val/score",
    "learning_rate": "learning_rate", "epoch": "epoch", "images_seen": "images_seen", "images_per_s": "images_per_s",
}  # columns of the history  # fmt: skip


class WandbTracker:
    """A run of the project lorasam with the settings of `config`; it ends with the run's metrics as its summary.

    mode "offline" writes `<folder>/wandb/offline-run-*` with no network and no account (`wandb sync` uploads it later);
    "online" needs an account. Raises ValueError when wandb is not installed, or cannot start.
    """

    def __init__(self, mode: str, config: RunConfig, folder: Path) -> None:
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it looks up a host to report its own errors
        try:
            import wandb
        except ImportError as error:
            raise ValueError("wandb is not installed; install it (pip install wandb) or choose disabled.") from error
        folder.mkdir(parents=True, exist_ok=True)  # wandb would fall back to a temporary folder
        if wandb.run is not None:
            wandb.run.finish(exit_code=1)  # left open by a run that failed
        options: dict[str, Any] = {"mode": mode, "project": "lorasam", "dir": str(folder), "name": config.name}
        try:
            quiet = wandb.Settings(silent=True, console="off")
            self.run = wandb.init(config=config.to_dict(), settings=quiet, **options)
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"wandb could not start ({reason}); run wandb login, or choose offline.") from error

    def on_log(self, step: int, row: Mapping[str, Any]) -> None:
        """Log one row of the history, without what it leaves empty."""
        values = {name: row.get(column) for column, name in NAMES.items()}
        self.run.log({name: value for name, value in values.items() if value not in (None, "")}, step=step)

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Make the metrics the run's summary, such as test.box.iou_best.mean, and close it."""
        self.run.summary.update(dict(metrics))
        self.run.finish()


def trackers(mode: str, config: RunConfig, folder: Path) -> list[WandbTracker]:
    """None or one; raises ValueError for a mode other than disabled, offline and online."""
    if mode not in MODES:
        raise ValueError(f"wandb is {mode!r}; choose one of {', '.join(MODES)}.")
    return [] if mode == "disabled" else [WandbTracker(mode, config, folder)]
