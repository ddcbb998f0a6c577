"""What the machine has, and what is said about what it has not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lorasam_core.models import devices


def machine(monkeypatch, cuda: bool = False, mps: bool = False, bf16: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(devices, "has_bf16", lambda: bf16)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_the_fastest_device(monkeypatch, cuda, mps, expected):
    machine(monkeypatch, cuda, mps)
    assert devices.resolve_device() == devices.resolve_device("auto") == expected
    assert devices.resolve_device("cpu") == "cpu"


def test_a_device_with_a_number_is_kept(monkeypatch):
    machine(monkeypatch, cuda=True)
    assert devices.resolve_device("cuda:1") == "cuda:1"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", "gpu", ""])
def test_a_device_that_is_missing_is_refused(monkeypatch, device):
    machine(monkeypatch)
    with pytest.raises(
        ValueError, match=rf"^device is '{device}', which this machine does not have; use auto or cpu\.$"
    ):
        devices.resolve_device(device)


@pytest.mark.parametrize(
    ("device", "bf16", "expected"),
    [
        ("cpu", False, "32-true"),
        ("cpu", True, "bf16-mixed"),
        ("cuda", False, "32-true"),
        ("cuda:1", True, "bf16-mixed"),
        ("mps", True, "32-true"),
    ],
)
def test_auto_precision_is_bf16_only_where_the_machine_multiplies_it(monkeypatch, device, bf16, expected):
    machine(monkeypatch, bf16=bf16)
    assert devices.resolve_precision("auto", device) == expected
    assert devices.resolve_precision("32-true", device) == "32-true"
    assert devices.resolve_precision("bf16-mixed", device) == "bf16-mixed"


def test_batches_are_loaded_beside_a_gpu_and_not_beside_a_model_on_the_cpu(monkeypatch):
    for threads, expected in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert [devices.loader_processes(device) for device in ("cpu", "cuda:0", "mps")] == [0, expected, expected]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_autocast_computes_in_the_precision_of_the_run(precision, dtype):
    x = torch.ones(2, 2)
    with devices.autocast(precision, "cpu"):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def test_peak_memory_is_the_kernels_own_count():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert peak and devices.peak_memory_mb() == pytest.approx(int(peak[1]) / 1024, rel=0.02)


def test_peak_memory_counts_from_the_reset_on():
    if sys.platform != "linux" or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the kernel's count cannot be set back here")
    devices.reset_peak_memory()
    before = devices.peak_memory_mb()
    held = np.ones(2**28, np.uint8)
    assert devices.peak_memory_mb() > before + 250
    del held
    assert devices.peak_memory_mb() > before + 250
    devices.reset_peak_memory()
    assert devices.peak_memory_mb() < before + 100


def test_peak_memory_does_without_proc(monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError("no /proc here")

    expected = devices.peak_memory_mb()
    monkeypatch.setattr(Path, "read_text", refused)
    monkeypatch.setattr(Path, "write_text", refused)
    devices.reset_peak_memory()
    assert devices.peak_memory_mb() == pytest.approx(expected, rel=0.5)


def test_peak_memory_of_a_cuda_device_is_what_torch_allocated(monkeypatch):
    kept = {"cuda:0": 5 * 2**20}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: kept.update({device: 3 * 2**20}))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", kept.__getitem__)
    assert devices.peak_memory_mb("cuda:0") == 5.0
    devices.reset_peak_memory("cuda:0")
    assert devices.peak_memory_mb("cuda:0") == 3.0


def test_environment_can_be_written_and_names_versions():
    found = json.loads(json.dumps(devices.environment("cpu")))
    assert found["device"] == "cpu" and "cores" in found["device_name"]
    assert found["threads"] == torch.get_num_threads()
    assert (
        found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"] in torch.__version__
    )
    assert set(found["packages"]) == set(devices.PACKAGES) and all(found["packages"].values())
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_missing_package_and_a_missing_git_are_none(monkeypatch):
    assert devices._version("no-such-package-here") is None

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert devices.environment()["commit"] is None


@pytest.mark.parametrize(("changed", "expected"), [("", "abc1234"), (" M lorasam_core/sam.py\n", "abc1234+")])
def test_the_commit_says_whether_files_differ_from_it(monkeypatch, changed, expected):
    def git(command, **kwargs):
        return subprocess.CompletedProcess(command, 0, "abc1234\n" if "rev-parse" in command else changed, "")

    monkeypatch.setattr(subprocess, "run", git)
    assert devices.environment()["commit"] == expected


def test_no_commit_outside_a_checkout(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda command, **kwargs: subprocess.CompletedProcess(command, 128, "", "no")
    )
    assert devices.environment()["commit"] is None
