"""The state of a run between two steps, as a file from which another process goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

FILE = "checkpoint.pt"

logger = logging.getLogger(__name__)


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write under another name and rename: a file of the final name is always whole."""
    part = folder / f"{FILE}.part"
    torch.save(state, part)
    part.replace(folder / FILE)


def read(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The state on the CPU; None, and a line in the log, where the file is damaged or its "settings" are others."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] == settings:
            return state
        logger.warning("%s is of other settings; training starts anew.", path)
    except Exception as error:  # a damaged file raises almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        logger.warning("%s cannot be read (%s); training starts anew.", path, reason)
    return None


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators by kind of device."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put back what `random_states` gave, as far as it was of this kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
