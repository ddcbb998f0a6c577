"""W&B: what it is told, and that offline it asks nothing of the network."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lorasam_core.config import RunConfig
from lorasam_core.experiments.tracking import WandbTracker, trackers
from lorasam_core.models import devices

ROW = {
    "step": 3, "epoch": 0.5, "train_loss": np.float32(0.25), "train_accuracy": 0.75, "train_miou": 0.5,
    "val_miou": "", "learning_rate": 1e-4, "seconds": 2.5,
}  # fmt: skip
KEY = "0123456789abcdef" * 2 + "01234567"  # as W&B's are, 40 digits
METRICS = {"run_id": "ab12", "test": {"box": {"iou_best": {"mean": 0.5, "low": float("nan"), "n": 4}}}}


class Recorder:
    """Stands for a W&B run."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict]] = []
        self.summary: dict = {}
        self.finished = 0

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_what_the_study_logs() -> None:
    tracker = object.__new__(WandbTracker)
    tracker.run = run = Recorder()
    tracker.on_log(3, ROW)
    tracker.on_log(4, dict.fromkeys(("train_loss", "train_accuracy", "train_miou", "learning_rate"), 1.0)
                   | dict.fromkeys(("val_loss", "val_accuracy", "val_miou"), 2.0))  # fmt: skip
    assert run.logged[0] == (
        3, {"train/loss": 0.25, "train/accuracy": 0.75, "train/mIoU": 0.5, "learning_rate": 1e-4, "epoch": 0.5},
    )  # fmt: skip
    assert set(run.logged[1][1]) == {
        "train/loss", "train/accuracy", "train/mIoU", "val/loss", "val/accuracy", "val/mIoU", "learning_rate",
    }  # fmt: skip
    tracker.on_end(METRICS)
    assert run.summary["test"]["box"]["iou_best"]["mean"] == 0.5 and run.finished == 1


def test_wandb_offline_writes_a_run_with_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(host: str, *rest: object, **options: object) -> None:
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # as the tracker sets it, but restored
    (tracker,) = trackers("offline", RunConfig(rank=7), tmp_path / "run")
    tracker.on_log(1, ROW)
    tracker.on_end(METRICS)
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("run-*.wandb")
    expected = (b"train/mIoU", b"learning_rate", b"iou_best", b"lorasam")
    deadline = time.monotonic() + 20  # W&B's own process writes the last lines after finish has returned
    while not all(text in record.read_bytes() for text in expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [text for text in expected if text not in record.read_bytes()] == []
    assert asked == []
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in json.dumps(devices.environment())


def test_disabled_does_not_import_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    assert trackers("disabled", RunConfig(), tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="choose one of disabled, offline, online"):
        trackers("on", RunConfig(), tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        trackers("offline", RunConfig(), tmp_path)
