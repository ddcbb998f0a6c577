"""A training that was stopped at any step goes on from its checkpoint to the bits of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lorasam_core.config import RunConfig
from lorasam_core.experiments.unet import UNetObjective, train_unet
from lorasam_core.training import loop, trainable
from lorasam_core.training.loop import train
from lorasam_core.training.objectives import Objective
from tests.disc_set import disc_set
from tests.tiny_sam import same, tiny_sam

CHECKOUT = Path(__file__).parents[2]
TIMES = ["seconds", "images_per_s"]
SETTINGS = RunConfig(
    objective="mixed", steps=7, batch_size=2, accumulate=2, virtual_size=6, crop_size=64, learning_rate=1e-2,
    prompts_per_image=3, validate_every=3, precision="32-true", device="cpu", rank=4, dropout=0.2, warmup=0.3,
)  # fmt: skip
METHODS = {
    "lora": SETTINGS,
    "full": SETTINGS.replace(method="full", objective="instance", learning_rate=1e-3),
    "unet": SETTINGS.replace(method="unet", objective="semantic", batch_size=3),
}


class Stopped(Exception):
    """What a test raises in the middle of training."""


def go(folder, config, callbacks=()):
    """Train as a run does, from a base that is the same each time; the result."""
    data, sam = disc_set(), tiny_sam()
    torch.manual_seed(config.seed)
    if config.method == "unet":
        pytest.importorskip("segmentation_models_pytorch")
        return train_unet(sam, data.subset("train"), data.subset("val"), config, folder, callbacks)[1]
    trainable.select(sam, config)
    return train(sam, data.subset("train"), data.subset("val"), config, folder, callbacks)


def outcome(folder):
    """History but for its times, and the best state."""
    (weights,) = [load_file(path) for path in folder.glob("*.safetensors")]
    return pd.read_csv(folder / "history.csv").drop(columns=TIMES), weights


def assert_equal(folder, reference):
    (history, weights), (expected, best) = outcome(folder), outcome(reference)
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert same(weights, best)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the result of a training of a method that nothing stopped, made once."""
    made = {}

    def reference(method, **changes):
        key = (method, *changes.items())
        if key not in made:
            folder = tmp_path_factory.mktemp(method)
            made[key] = folder, go(folder, METHODS[method].replace(**changes))
        return made[key]

    return reference


def stop_at(monkeypatch, step, raised=Stopped):
    """Let the forward pass of a step (from 0) raise; returns the steps that were begun."""
    begun = []
    for kind in (Objective, UNetObjective):

        def forward(self, batch, number, true=kind.forward):
            begun.append(number)
            if number == step:
                raise raised
            return true(self, batch, number)

        monkeypatch.setattr(kind, "forward", forward)
    return begun


@pytest.mark.parametrize(
    ("method", "step", "often"),
    [
        ("lora", 2, False),
        ("lora", 2, True),
        ("lora", 5, True),
        ("lora", 6, False),
        ("full", 5, True),
        ("unet", 5, False),
    ],
)
def test_stopped_by_an_exception_it_ends_as_if_it_had_not_been(tmp_path, monkeypatch, whole, method, step, often):
    config, (reference, expected) = METHODS[method], whole(method)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0 if often else 1e9)  # a checkpoint a step, or with validations alone
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        stop_at(patched, step)
        go(tmp_path, config)
    begun = stop_at(monkeypatch, None)
    found = go(tmp_path, config)
    assert min(begun) == (step if often else step // 3 * 3)  # no step before its checkpoint is done again
    assert_equal(tmp_path, reference)
    for key in ("val", "steps", "best_step", "images_seen"):
        assert found[key] == expected[key]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from lorasam_core.training import loop
from lorasam_core.training.objectives import Objective
from lorasam_core.experiments.unet import UNetObjective
from tests.training.test_resume import METHODS, go

def killed_at(step, folder, method, workers):
    for kind in (Objective, UNetObjective):
        def forward(self, batch, number, true=kind.forward):
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return true(self, batch, number)
        kind.forward = forward
    go(folder, METHODS[method].replace(workers=workers))

loop.SAVE_SECONDS = 0.0
for line in sys.stdin:  # a process for each, for the price of importing once; macOS cannot go on in a fork
    folder, method, step, workers = line.split()
    if not (child := 0 if sys.platform == "darwin" else os.fork()):
        killed_at(int(step), Path(folder), method, int(workers))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def kill():
    """Trains in a new process, which is killed at a step; its exit status."""
    started, pipes = [], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    def train_until(folder, method, step, workers):
        if not started or started[-1].poll() is not None:
            started.append(subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=CHECKOUT, **pipes))
        print(folder, method, step, workers, file=started[-1].stdin, flush=True)
        answer = started[-1].stdout.readline()
        return int(answer) if answer else started[-1].wait()

    yield train_until
    for process in started:
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps", "workers"), [("lora", (2, 5), 0), ("lora", (4,), 2), ("unet", (5,), 0)])
def test_killed_it_ends_as_if_it_had_not_been(tmp_path, whole, kill, method, steps, workers):
    if method == "unet":
        pytest.importorskip("segmentation_models_pytorch")
    for step in steps:
        assert kill(tmp_path, method, step, workers) == -signal.SIGKILL
        assert torch.load(tmp_path / "checkpoint.pt")["step"] == step
    go(tmp_path, METHODS[method])
    assert_equal(tmp_path, whole(method)[0])


def test_a_finished_training_is_not_done_again_and_tells_its_rows(tmp_path, monkeypatch):
    first = go(tmp_path, SETTINGS)
    begun, before = stop_at(monkeypatch, None), outcome(tmp_path)
    told = []
    again = go(tmp_path, SETTINGS, [SimpleNamespace(on_log=lambda step, row: told.append(step))])
    assert not begun and again["val"] == first["val"] and same(outcome(tmp_path)[1], before[1])
    assert again["earlier_seconds"] > 0.9 * first["seconds"] and first["earlier_seconds"] == 0.0
    assert again["processor_seconds"] > first["processor_seconds"] > 0
    assert again["seconds"] >= again["earlier_seconds"] and again["peak_memory_mb"] > 0
    assert told == before[0]["step"].tolist() == [2, 3, 4, 6, 7]


def test_one_that_stopped_early_stays_stopped(tmp_path, monkeypatch):
    config = SETTINGS.replace(steps=30, validate_every=1, patience=1, learning_rate=1e-9)
    monkeypatch.setattr(loop.Validation, "measure", lambda self: {"score": 0.5})
    first = go(tmp_path, config)
    begun = stop_at(monkeypatch, None)
    assert go(tmp_path, config)["steps"] == first["steps"] == 2 and not begun


@pytest.mark.parametrize("spoil", ["other settings", "half a file", "no file", "another object", "no best state"])
def test_a_checkpoint_that_does_not_fit_is_left_alone(tmp_path, monkeypatch, caplog, whole, spoil):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        stop_at(patched, 5)
        go(tmp_path, SETTINGS.replace(learning_rate=1e-3) if spoil == "other settings" else SETTINGS)
    path = tmp_path / "checkpoint.pt"
    if spoil == "half a file":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif spoil == "no file":
        path.unlink()
    elif spoil == "another object":
        torch.save([1, 2], path)
    elif spoil == "no best state":
        (tmp_path / "adapter.safetensors").unlink()
    begun = stop_at(monkeypatch, None)
    go(tmp_path, SETTINGS)
    assert min(begun) == 0
    assert_equal(tmp_path, whole("lora")[0])
    told = [record.getMessage() for record in caplog.records if "starts anew" in record.getMessage()]
    assert len(told) == (spoil in ("other settings", "half a file", "another object"))
    assert all(str(path) in line for line in told)
