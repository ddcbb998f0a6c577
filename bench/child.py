"""One side of one case, in a process of its own: `python -m bench.child JSON` prints what it measured."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from bench.work import WORK
from lorasam_core.models import devices

AT_LEAST, AT_MOST = 2.0, 50  # seconds of short work that are timed in one process, and repetitions


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """order: work, ours, device, settings, keep (a file for the result, or null).

    Returns seconds (of one call, the median where one takes under two seconds and is repeated), idle_mb before the
    work, peak_mb of the process (CUDA: allocated on the device) and the work's facts.
    """
    device = order["device"]
    job = WORK[order["work"]](order["ours"], device, **order["settings"])
    idle = psutil.Process().memory_info().rss / 2**20
    job.warm()
    seconds, result = _timed(job.run, device)
    times = [seconds]
    while sum(times) < AT_LEAST and len(times) < AT_MOST:
        times.append(_timed(job.run, device)[0])
    peak = devices.peak_memory_mb(device)
    if order["keep"]:
        torch.save(_plain(result), Path(order["keep"]))
    return {"seconds": statistics.median(times), "idle_mb": idle, "peak_mb": peak, "facts": job.facts}


def _plain(result: Any) -> Any:
    """Arrays as tensors and numpy's numbers as Python's: what is read again without a pickle."""
    if isinstance(result, np.ndarray):
        return torch.from_numpy(result)
    if isinstance(result, np.generic):
        return result.item()
    if isinstance(result, dict):
        return {key: _plain(value) for key, value in result.items()}
    return [_plain(value) for value in result] if isinstance(result, list | tuple) else result


def _timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    _wait(device)
    begun = time.perf_counter()
    result = run()
    _wait(device)
    return time.perf_counter() - begun, result


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
