"""A folder of results that one process at a time writes, and goes on with where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lorasam_core.data.write_labels import write_label_tiff
from lorasam_core.experiments.files import read_json, replace, write_json

RUN = "run.json"
ANEW = "delete it, and call again"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Make the folder, and keep other processes out of it meanwhile; ValueError where one is in it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"another process writes into {out}; wait for it, or choose another folder.") from error


def begin(out: Path, settings: Mapping[str, Any], **stated: Any) -> None:
    """Write run.json: the settings, and what else is stated; ValueError where it is there with other settings."""
    now: Any = json.loads(json.dumps(settings))
    if not (out / RUN).exists():
        write_json(out / RUN, {"settings": now} | stated)
        return
    key, before = "settings", read_json(out / RUN, ANEW).get("settings")
    while isinstance(before, dict) and isinstance(now, dict) and before != now:
        key = next(key for key in now | before if now.get(key) != before.get(key))
        before, now = before.get(key), now.get(key)
    if before != now:
        old, new = (str(value)[:40] for value in (before, now))
        raise ValueError(f"{out} holds results with {key} {old}, not {new}; choose another folder.")


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Ids from 0 (H, W) as a TIFF: uint16, beyond 65,535 uint32."""
    replace(path, lambda to: write_label_tiff(to, labels))


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
