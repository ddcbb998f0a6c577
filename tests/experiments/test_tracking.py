"""Trackers: what they write, and that W&B offline asks nothing of the network."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lorasam_core.config import RunConfig
from lorasam_core.experiments.tracking import JSONLTracker, WandbTracker, make_trackers

ROW = {
    "step": 3, "epoch": 0.5, "train_loss": np.float32(0.25), "train_accuracy": 0.75, "train_miou": 0.5,
    "val_loss": float("nan"), "val_miou": "", "learning_rate": 1e-4, "seconds": 2.5,
}  # fmt: skip
METRICS = {"run_id": "ab12", "test": {"box": {"iou_best": {"mean": np.float64(0.5), "low": float("nan"), "n": 4}}}}


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


def test_jsonl_is_one_standard_object_a_line(tmp_path: Path) -> None:
    tracker = JSONLTracker(tmp_path / "new" / "log.jsonl")
    tracker.on_log(3, ROW)
    assert len(tracker.path.read_text().splitlines()) == 1  # on disk before the next call
    tracker.on_end(METRICS)
    JSONLTracker(tracker.path).on_log(4, {"path": Path("x"), "values": np.arange(2)})  # appends
    lines = [json.loads(line, parse_constant=pytest.fail) for line in tracker.path.read_text().splitlines()]
    assert lines[0]["event"] == "log"
    assert (lines[0]["step"], lines[0]["train_loss"], lines[0]["val_loss"]) == (3, 0.25, None)
    assert lines[1]["metrics"]["test"]["box"]["iou_best"] == {"mean": 0.5, "low": None, "n": 4}
    assert lines[2] == {"event": "log", "path": "x", "values": [0, 1], "step": 4}


def test_wandb_gets_what_the_study_logs() -> None:
    tracker = WandbTracker("disabled")
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
    assert run.summary == {"test/box/iou_best/mean": 0.5, "test/box/iou_best/n": 4}
    tracker.on_end(METRICS)
    tracker.on_log(5, ROW)
    assert (run.finished, len(run.logged)) == (1, 2)  # nothing more after the end


def test_wandb_offline_writes_a_run_with_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(host: str, *rest: object, **options: object) -> None:
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # as the tracker sets it, but restored
    trackers = make_trackers(RunConfig(rank=7), tmp_path / "run", "offline")
    for tracker in trackers:
        tracker.on_log(1, ROW)
        tracker.on_end(METRICS)
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("run-*.wandb")
    expected = (b"train/mIoU", b"learning_rate", b"test/box/iou_best/mean", b"lorasam")
    deadline = time.monotonic() + 20  # W&B's own process writes the last lines after finish has returned
    while not all(text in record.read_bytes() for text in expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [text for text in expected if text not in record.read_bytes()] == []
    assert (tmp_path / "run" / "log.jsonl").exists()
    assert asked == []


def test_disabled_does_not_import_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    (tracker,) = make_trackers(RunConfig(), tmp_path)
    assert isinstance(tracker, JSONLTracker)
    silent = WandbTracker("disabled", dir=tmp_path)
    silent.on_log(1, ROW)
    silent.on_end(METRICS)
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="choose one of disabled, offline, online"):
        make_trackers(RunConfig(), tmp_path, "on")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        WandbTracker("offline", dir=tmp_path)
