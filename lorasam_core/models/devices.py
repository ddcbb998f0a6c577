"""What the machine has: device, precision, threads, memory, versions."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("torch", "torchvision", "segment-anything", "numpy", "scikit-image", "lightning-fabric", "safetensors")


def resolve_device(device: str = "auto") -> str:
    """The device's name; "auto" becomes cuda, mps or cpu. Raises ValueError for one that the machine does not have."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise ValueError(f"device is {device!r}, which this machine does not have; use auto or cpu.")
    return device


def resolve_precision(precision: str, device: str) -> str:
    """The precision's name; "auto" becomes bf16-mixed where the machine multiplies bf16 natively, else 32-true.

    Natively: CUDA from Ampere on, CPUs with AMX or AVX512-BF16.
    """
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if device == "cpu" and has_bf16() else "32-true"


def has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices natively, by AMX or AVX512-BF16."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)


def loader_processes(device: str) -> int:
    """Data-loading processes that the device likes: none beside a model on the CPU, else up to four.

    Measured with lite on two cores: without one the model waits for a tenth of the time, but one takes a core from the
    model's threads, and where these spin while they wait (OpenMP's default) nothing is gained.
    """
    return 0 if device.startswith("cpu") else max(1, min(4, torch.get_num_threads()))


def autocast(precision: str, device: str) -> torch.autocast:
    """The autocast context in which a run of this precision computes."""
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=precision == "bf16-mixed")


def reset_peak_memory(device: str = "cpu") -> None:
    """Let `peak_memory_mb` count from here on, where the platform can: on CUDA, once in use, and on Linux."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError, AttributeError, TypeError):  # Windows, or another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed would count as in use
    with suppress(OSError):  # no Linux, or not permitted
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc_pid_clear_refs


def peak_memory_mb(device: str = "cpu") -> float:
    """Peak memory, MB: allocated on a CUDA device, else the process's resident set; see `reset_peak_memory`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**10
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def device_name(device: str) -> str:
    """The device in words, for records and captions."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} cores" + (" with bf16" if has_bf16() else "")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, commit, device and threads of this process, JSON-ready."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with + where files differ from it; None outside a checkout."""
    here = Path(__file__).parents[1]
    try:
        head, dirty = (
            # without locks: one that is killed would leave the checkout locked
            subprocess.run(["git", "--no-optional-locks", *arguments.split()], cwd=here, capture_output=True, text=True)
            for arguments in ("rev-parse --short HEAD", "status --porcelain --untracked-files=no -- .")
        )
    except OSError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
