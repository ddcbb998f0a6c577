"""SIGKILL at random moments, again and again: resumed, results are to the bit those of work that nothing stopped.

The work is done by a fork of this process, which has imported everything, so that a kill costs no start.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from lorasam_core import cli
from lorasam_core.experiments import runs
from lorasam_core.experiments.executor import execute
from lorasam_core.experiments.records import is_finished, read_record
from lorasam_core.training import loop
from tests.disc_set import disc_sample
from tests.experiments.test_runs import settings  # noqa: F401, a fixture
from tests.made_labels import picture
from tests.tiny_sam import same
from tests.training.test_resume import METHODS, assert_equal, go

pytestmark = [pytest.mark.chaos, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
KILLS = 20


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A fork has no threads but one, and waits for those of OpenMP forever."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    yield
    torch.set_num_threads(threads)


def forked(work: Callable[[], object]) -> int:
    """The id of a process that does the work and ends, with status 0 unless it fails."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def killed(work: Callable[[Path], object], folder: Path, seed: int, check: Callable[[Path], object]) -> list[Path]:
    """Do the work in folders, one after another, killed KILLS times in all and begun again; the folders.

    check: looks at a folder after every kill.
    """
    rng, kills, begun = np.random.default_rng(seed), 0, time.monotonic()
    os.waitpid(forked(lambda: work(folder / "timed")), 0)
    length, folders = time.monotonic() - begun, [folder / "0"]
    while True:
        pid = forked(lambda: work(folders[-1]))
        if kills < KILLS:
            time.sleep(rng.uniform(0, length / 3))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        check(folders[-1])
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        assert status == 0, "the work failed"
        if kills == KILLS:
            return [folder / "timed", *folders]
        folders.append(folder / str(len(folders)))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training(tmp_path, method):
    config = METHODS[method].replace(workers=0)
    go(tmp_path / "whole", config)

    def check(folder):
        for path in folder.glob("*.safetensors"):
            load_file(path)
        if (folder / "checkpoint.pt").exists():
            assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] > 0

    for folder in killed(lambda folder: go(folder, config), tmp_path, 1, check):
        assert_equal(folder, tmp_path / "whole")
        assert not [path.name for path in folder.iterdir() if path.suffix in (".tmp", ".part")]


def test_segment(tmp_path):
    for i in range(5):
        picture(tmp_path / "in" / f"{i}.png", disc_sample(i, (96, 112)).image)
    arguments = ["--tile", "64", "--points", "6", "--pixel-size", "2", "--crop-bottom", "none", "--device", "cpu"]
    done = dict[Path, bytes]()

    def work(folder):
        cli.main(["segment", str(tmp_path / "in"), "--out", str(folder), *arguments])

    def check(folder):
        """What is done has all its files, whole, and they stay as they are."""
        for state in sorted(folder.glob("state/[0-9].json")):
            json.loads(state.read_text())
            labels, overlay = folder / "labels" / f"{state.stem}.tif", folder / "overlays" / f"{state.stem}.png"
            assert tifffile.imread(labels).shape == (96, 112) and overlay.is_file()
            for path in (state, labels, overlay):
                assert done.setdefault(path, path.read_bytes()) == path.read_bytes()

    work(tmp_path / "whole")
    names = [f"labels/{i}.tif" for i in range(5)] + [f"overlays/{i}.png" for i in range(5)] + ["particles.csv"]
    for folder in killed(work, tmp_path / "out", 2, check):
        assert all((folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
        assert pd.read_csv(folder / "summary.csv")["problem"].isna().all()
        assert not [path for path in folder.rglob("*") if path.name.startswith(".part-")]


def test_a_sweep_on_workers(settings, tmp_path):  # noqa: F811
    """Workers are killed, each at a random moment of its work; a run that four have died of is begun again."""
    pytest.importorskip("distributed")
    changes = {"steps": 40, "validate_every": 2, "dropout": 0.1, "learning_rate": 1e-2, "evaluate": ("predictor",)}
    configs = [settings.replace(name=str(seed), seed=seed, **changes) for seed in range(3)]
    ids, rng, kills, over = [runs.prepare(config).run_id for config in configs], np.random.default_rng(3), [], []
    finished, changed = dict[str, bytes](), list[str]()

    def busy():
        """Workers that hold the lock of a run."""
        for process in psutil.Process().children(recursive=True):
            try:
                if any(file.path.endswith(".lock") for file in process.open_files()):
                    yield process
            except psutil.Error:
                pass

    def kill():
        while not over and len(kills) < KILLS:
            time.sleep(rng.uniform(0, 3))
            for process in list(busy())[:1]:
                process.kill()
                kills.append(process.pid)
            for path in (tmp_path / "swept").iterdir():
                if is_finished(path):
                    content = (path / "metrics.json").read_bytes()
                    if finished.setdefault(path.name, content) != content:
                        changed.append(path.name)

    jobs = [(config.name, (config, tmp_path / "swept")) for config in configs]
    (tmp_path / "swept").mkdir()
    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    for _ in range(KILLS):
        results, errors = execute(runs.run_one, jobs, workers=2)
        if not errors:
            break
    over.append(True)
    watch.join()
    assert kills and not errors and not changed
    assert sorted(p.name for p in (tmp_path / "swept").iterdir()) == sorted(ids)
    for config, run_id in zip(configs, ids, strict=True):
        record, expected = read_record(tmp_path / "swept" / run_id), runs.run_one(config, tmp_path / "alone")
        assert json.dumps([record.metrics[k] for k in ("val", "test")]) == json.dumps(
            [expected.metrics[k] for k in ("val", "test")]
        )
        assert same(load_file(record.adapter), load_file(expected.adapter))
        assert {p.name for p in record.path.iterdir()} == {p.name for p in expected.path.iterdir()}
