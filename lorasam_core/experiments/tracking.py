"""Where a run's curves go besides history.csv: a JSON-lines file always, Weights & Biases when asked.

A tracker is a callback of training: `on_log(step, row)` for every row of the history, `on_end(metrics)` once, when
the run's metrics are complete.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

MODES = ("disabled", "offline", "online")

WANDB_NAMES = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "train_miou": "train/mIoU",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
    "val_miou": "val/mIoU",
    "val_dice": "val/Dice",
    "val_score": "val/score",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "images_seen": "images_seen",
    "images_per_s": "images_per_s",
}  # columns of the history: what the study logs (losses, accuracies, mIoUs), the learning rate and the pace


class JSONLTracker:
    """Appends one JSON object a line: {"event": "log", "step", ...} for a row, {"event": "end", "metrics"} at the end.

    Every line is on disk when the call returns. NaN and infinity become null, so that every line is standard JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_log(self, step: int, row: Mapping[str, Any]) -> None:
        """Append one row of the history."""
        self._append({"event": "log", **row, "step": step})

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Append the run's metrics."""
        self._append({"event": "end", "metrics": metrics})

    def _append(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(record), allow_nan=False) + "\n")


class WandbTracker:
    """Logs to Weights & Biases what the study logs: losses, accuracy and mIoU of both sets, and the learning rate.

    mode "offline" writes `<dir>/wandb/offline-run-*` with no network and no account (`wandb sync` uploads it later);
    "online" needs an account; "disabled" does nothing, and does not import wandb. config: a RunConfig or dictionary.
    Raises ValueError for another mode, when wandb is not installed, or when it cannot start.
    """

    def __init__(
        self, mode: str = "offline", project: str = "lorasam", config: Any = None, dir: str | Path = "."
    ) -> None:
        _check_mode(mode)
        self.run: Any = None
        if mode == "disabled":
            return
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it looks up a host to report its own errors
        try:
            import wandb
        except ImportError as error:
            raise ValueError("wandb is not installed; install it (pip install wandb) or choose disabled.") from error
        Path(dir).mkdir(parents=True, exist_ok=True)  # wandb would fall back to a temporary folder
        if wandb.run is not None:
            wandb.run.finish(exit_code=1)  # left open by a run that failed
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
        options: dict[str, Any] = {"mode": mode, "project": project, "dir": str(dir), "name": values.get("name")}
        try:
            quiet = wandb.Settings(silent=True, console="off")
            self.run = wandb.init(config=_plain(values), settings=quiet, **options)
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"wandb could not start ({reason}); run wandb login, or choose offline.") from error

    def on_log(self, step: int, row: Mapping[str, Any]) -> None:
        """Log one row of the history, without what it leaves empty."""
        if self.run is not None:
            values = {name: _plain(row.get(column)) for column, name in WANDB_NAMES.items()}
            self.run.log({name: value for name, value in values.items() if value not in (None, "")}, step=step)

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Put every number of the metrics into the run's summary, named by its path such as test/box/n, and finish."""
        if self.run is not None:
            self.run.summary.update(dict(_numbers(metrics)))
            self.finish()

    def finish(self) -> None:
        """Close the run; a second call does nothing."""
        if self.run is not None:
            self.run.finish()
            self.run = None


def make_trackers(config: Any, run_dir: str | Path, wandb: str = "disabled") -> list[Any]:
    """The trackers of a run: log.jsonl in its folder, and Weights & Biases in the mode asked for.

    Raises ValueError for a mode other than disabled, offline and online.
    """
    _check_mode(wandb)
    trackers: list[Any] = [JSONLTracker(Path(run_dir) / "log.jsonl")]
    if wandb != "disabled":
        trackers.append(WandbTracker(wandb, config=config, dir=run_dir))
    return trackers


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"wandb is {mode!r}; choose one of {', '.join(MODES)}.")


def _plain(value: Any) -> Any:
    """The value in JSON's own types; numbers that JSON lacks become None, other objects their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        else:
            plain = _plain(value)
            if isinstance(plain, int | float):
                yield f"{prefix}{key}", plain
