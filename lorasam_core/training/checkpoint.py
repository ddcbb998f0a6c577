"""The state of a run between two steps, as a file from which another process goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from lorasam_core.errors import typed
from lorasam_core.models.lora.files import write_whole

FILE = "checkpoint.pt"

logger = logging.getLogger(__name__)


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write under another name and rename: a file of the final name is always whole. Raises OSError as that does."""
    write_whole(folder / FILE, lambda part: torch.save(state, part))


def read(folder: Path, now: dict[str, Any]) -> dict[str, Any] | None:
    """The state on the CPU; None, and a line in the log, where the file is damaged or its "settings" are not those of
    the state `now`, or it is built otherwise than that.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] != now["settings"]:
            logger.warning("%s is of other settings; training starts anew.", path)
        elif not _alike(state, now):
            logger.warning("%s is damaged, or of another version; training starts anew.", path)
        else:
            return state
    except Exception as error:  # a damaged file raises almost anything
        logger.warning("%s cannot be read (%s); training starts anew.", path, typed(error))
    return None


def _alike(state: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether entries have the types of the state `now`, weights its shapes, and the optimiser's numbers theirs."""
    groups, expected = ([{**g, "lr": None} for g in s["optimizer"]["param_groups"]] for s in (state, now))
    shapes, fresh = ({name: t.shape for name, t in s["weights"].items()} for s in (state, now))
    kept = [
        value.shape
        for one in state["optimizer"]["state"].values()
        for name in ("step", "exp_avg", "exp_avg_sq")
        for value in (one[name],)
    ]
    rows = all(isinstance(v, int | float) for name in ("rows", "recent") for row in state[name] for v in row.values())
    sums = all(key in row for row in state["recent"] for key in ("loss", "accuracy", "miou"))
    alike = all(isinstance(state[name], float if type(now[name]) is float else type(now[name])) for name in now)
    numbers = all(t.isfinite().all() for t in state["weights"].values())
    known = {torch.Size(), *shapes.values()}
    return groups == expected and shapes == fresh and {*kept} <= known and rows and sums and alike and numbers


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators by kind of device."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put back what `random_states` gave, as far as it was of this kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
