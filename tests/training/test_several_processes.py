"""Two processes with gloo train as one does: run by torchrun, this module is what each of them does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric

from lorasam_core.config import RunConfig
from lorasam_core.experiments.records import read_record
from lorasam_core.training import loop, objectives, processes, trainable
from lorasam_core.training.loop import train
from lorasam_core.training.objectives import Objective
from tests.disc_set import disc_set
from tests.tiny_sam import randomise, same, tiny_sam

CHECKOUT = Path(__file__).parents[2]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--local-addr=localhost",
    "--nproc-per-node=2",
]
ALONE = ["learning_rate", "seconds", "images_per_s"]  # columns of the history that the first process writes as its own
SETTINGS = RunConfig(
    objective="mixed", steps=3, batch_size=3, virtual_size=6, crop_size=64, learning_rate=1e-3, prompts_per_image=3,
    validate_every=3, precision="32-true", device="cpu", rank=4, warmup=0.3,
)  # fmt: skip
# those of one process: the whole batch at once, so that pieces are compared as well
CASES = {
    "uneven": SETTINGS.replace(accumulate=2),
    "one image": SETTINGS.replace(batch_size=1),
    "pieces": SETTINGS.replace(batch_size=5, objective="instance"),
    "decoder": SETTINGS.replace(method="lora_decoder", objective="semantic"),
}
LONG = SETTINGS.replace(steps=5, dropout=0.2, accumulate=2, validate_every=2, learning_rate=1e-2)


def go(folder: Path, config: RunConfig, told: list[int] | None = None) -> list[list[torch.Tensor]]:
    """Train from a model that is the same each time; the gradients of each step, before they are clipped."""
    data, sam, kept = disc_set(val=3), tiny_sam(), []
    torch.manual_seed(0)
    trainable.select(sam, config)
    parameters = trainable.parameters(sam)
    if config.method == "lora":  # with B at zero A would have no gradient
        randomise(parameters)

    def clip(self, module, optimizer, true=Fabric.clip_gradients, **options):
        kept.append([torch.zeros(0) if p.grad is None else p.grad.clone() for p in parameters])
        return true(self, module, optimizer, **options)

    class Tracker:
        def on_log(self, step, row):
            if told is not None:
                told.append(step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Fabric, "clip_gradients", clip)
        train(sam, data.subset("train"), data.subset("val"), config, folder, [Tracker()])
    return [*kept, [p.detach().clone() for p in parameters]]


# ------------------------------------------------------------------------------- what each of the two processes does
def every_case(folder: Path) -> None:
    for name, config in CASES.items():
        told: list[int] = []
        with pytest.MonkeyPatch.context() as patched, processes.together():
            if name == "pieces":
                patched.setattr(objectives, "CPU_ENCODER_NUMBERS", 1)
            found = go(folder / name / str(processes.rank()), config, told)
            torch.save({"steps": found, "told": told}, folder / f"{name}.{processes.rank()}.pt")
    go_wrong(folder)
    with processes.together():
        go(folder / "long" / str(processes.rank()), LONG)


def go_wrong(folder: Path) -> None:
    """Training that fails in the second process alone, then in all of them, each time before a training that works."""
    errors = {}
    for name in ("a bad loss", "an error"):

        def forward(self, batch, step, true=Objective.forward, name=name):
            loss, measures = true(self, batch, step)
            if step == 1 and processes.rank() == 1:
                if name == "an error":
                    raise KeyError("no such thing")
                loss = loss * float("nan")
            return loss, measures

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Objective, "forward", forward)
            try:
                with processes.together():
                    go(folder / name, SETTINGS.replace(accumulate=2))
            except Exception as error:
                errors[name] = f"{type(error).__name__}: {error}"
    (folder / f"errors.{torch.distributed.get_rank()}.json").write_text(json.dumps(errors))


def stopped(folder: Path, step: int) -> None:
    """A training in which the second process dies."""
    loop.SAVE_SECONDS = 0.0

    def forward(self, batch, number, true=Objective.forward):
        if number == step and processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return true(self, batch, number)

    Objective.forward = forward
    with processes.together():
        go(folder / str(processes.rank()), LONG)


def main(folder: str, step: str = "") -> None:
    torch.set_num_threads(1)
    processes.start()
    if step:
        stopped(Path(folder), int(step))
    else:
        every_case(Path(folder))


# ------------------------------------------------------------------------------------------------------------- tests
def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *map(str, arguments)]
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes did."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun("-m", "tests.training.test_several_processes", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[list[torch.Tensor]], list[int]]]:
    """Case -> folder, steps and rows of this process alone."""
    found = {}
    for name, config in CASES.items():
        folder, told = tmp_path_factory.mktemp("alone"), []
        found[name] = folder, go(folder, config, told), told
    return found


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns=ALONE)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_steps_of_one(two, alone, name):
    expected = alone[name][1]
    first, second = (torch.load(two / f"{name}.{rank}.pt") for rank in range(2))
    assert all(torch.equal(a, b) for one, other in zip(first["steps"], second["steps"], strict=True)
               for a, b in zip(one, other, strict=True))  # fmt: skip
    assert len(expected) == len(first["steps"]) == 4  # three gradients, and the weights
    for found, wanted in zip(first["steps"], expected, strict=True):
        largest = max(float(t.abs().max()) for t in wanted if len(t))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("name", CASES)
def test_the_first_process_writes_and_tells_what_one_would(two, alone, name):
    folder, _, told = alone[name]
    assert {p.name for p in (two / name).iterdir()} == {"0"}
    assert {p.name for p in (two / name / "0").iterdir()} == {p.name for p in folder.iterdir()}
    assert [torch.load(two / f"{name}.{rank}.pt")["told"] for rank in range(2)] == [told, []]
    found, expected = history(two / name / "0"), history(folder)
    # the accuracy of a part counts as much as its images, whatever its pixels
    averaged = ["train_accuracy", "train_miou"]
    pd.testing.assert_frame_equal(found.drop(columns=averaged), expected.drop(columns=averaged), rtol=1e-4)
    np.testing.assert_allclose(found[averaged], expected[averaged], atol=0.02)


def test_an_error_in_one_process_ends_the_training_in_all(two):
    first, second = (json.loads((two / f"errors.{rank}.json").read_text()) for rank in range(2))
    assert first["a bad loss"] == second["a bad loss"]
    assert first["a bad loss"].startswith("NonFiniteLoss: The loss is nan at step 2, images image")
    assert second["an error"] == "KeyError: 'no such thing'"
    assert first["an error"] == "OtherFailed: process 1 failed: KeyError: 'no such thing'"
    assert (two / "a bad loss" / "last_good.safetensors").is_file()


@pytest.mark.slow
def test_killed_two_processes_end_as_if_they_had_not_been(two, tmp_path):
    done = torchrun("-m", "tests.training.test_several_processes", tmp_path, 3)
    assert done.returncode != 0 and torch.load(tmp_path / "0" / "checkpoint.pt")["step"] == 3
    done = torchrun("-m", "tests.training.test_several_processes", tmp_path, 99)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(history(tmp_path / "0"), history(two / "long" / "0"), check_exact=True)
    weights = [torch.load(folder / "0" / "checkpoint.pt") for folder in (tmp_path, two / "long")]
    assert same(weights[0]["weights"], weights[1]["weights"]) and len(weights[0]["others"]) == 1


PROFILE = """
data: synthetic
defaults:
  {image_size: 128, limit: 20, test_limit: 2, rank: 4, batch_size: 3, crop_size: 128, prompts_per_image: 2,
   learning_rate: 0.001, precision: 32-true, device: cpu}
experiments:
- name: main
  runs:
  - {name: frozen, method: frozen}
  - {name: bad, steps: 2, learning_rate: 1.0e+30, weight_decay: 1.0e+30}
  - {name: main, steps: 2}
"""


@pytest.mark.slow
def test_an_edition_is_made_once(tmp_path):
    (tmp_path / "p.yaml").write_text(PROFILE)
    experiments = ["-m", "lorasam_core.cli", "experiments", "--profile", tmp_path / "p.yaml", "--no-book", "--runs"]
    done = torchrun(*experiments, tmp_path / "two", "--wandb", "offline")
    assert done.returncode == 1 and done.stderr.count("the run 'bad' failed (NonFiniteLoss") == 1
    alone = subprocess.run(
        [sys.executable, *map(str, experiments), str(tmp_path / "one")], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert alone.returncode == 1, alone.stderr
    there = [{p.name for p in (tmp_path / n / "p").iterdir()} for n in ("one", "two")]
    assert there[0] == there[1]
    names = [p.parent.name for p in (tmp_path / "one" / "p").glob("*/metrics.json")]
    assert len(names) == 2
    for name in names:
        one, two = (read_record(tmp_path / n / "p" / name) for n in ("one", "two"))
        assert two.environment["processes"] == 2 and "processes" not in one.environment
        dice = [r.metrics["test"]["predictor"]["dice"]["mean"] for r in (one, two)]
        assert dice[0] == pytest.approx(dice[1], abs=1e-3)
        assert len(list((two.path / "wandb").glob("offline-run-*"))) == 1


if __name__ == "__main__":
    main(*sys.argv[1:])
