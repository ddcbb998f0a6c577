"""The one optimisation loop: knows no model, no notebook and no tracker."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from lorasam_core.training import processes

if TYPE_CHECKING:  # a second, for what only names runs
    from lightning_fabric import Fabric


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite; the message names the step and the batch."""


def make_fabric(device: str, precision: Any) -> Fabric:
    """Lightning Fabric on one device, by its name as torch writes it (cpu, cuda, cuda:1, mps).

    Of several processes that train together each has the device of its number, and only the kind counts.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else it states the precision, on every page
    kind, _, index = device.partition(":")
    if processes.count() > 1:
        return processes.fabric(kind, precision)
    return Fabric(accelerator=kind, devices=[int(index)] if kind == "cuda" and index else 1, precision=precision)


def warmup_cosine(steps: int, peak: float, warmup: float, floor: float = 0.0) -> Callable[[int], float]:
    """Learning rate of a step: linear warm-up over a fraction of the steps, then a cosine down to floor * peak."""
    warm = max(1, round(warmup * steps))

    def rate(step: int) -> float:
        if step < warm:
            return peak * (step + 1) / warm
        progress = min(1.0, (step - warm) / max(1, steps - warm))
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))

    return rate


class Timed(Iterator[Any]):
    """A generator of batches; seconds: how long `next` has waited for them in all."""

    def __init__(self, batches: Generator[Any]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __next__(self) -> Any:
        begun = time.perf_counter()
        try:
            return next(self.batches)
        finally:
            self.seconds += time.perf_counter() - begun

    def close(self) -> None:
        """End the generator."""
        self.batches.close()


def undivided(batch: Any, step: int) -> Iterable[tuple[float, Any]]:
    """A batch in one piece, which is the whole of it."""
    return [(1.0, batch)]


def fit(
    fabric: Fabric,
    objective: Any,
    optimizer: Any,
    batches: Iterator[Any],
    steps: int,
    rate: Callable[[int], float],
    *,
    start: int = 0,
    accumulate: int = 1,
    pieces: Callable[[Any, int], Iterable[tuple[float, Any]]] = undivided,
    clip_norm: float = 1.0,
    after_step: Callable[[int, dict[str, float]], bool | None] = lambda step, row: None,
    label: str = "train",
) -> int:
    """Take optimiser steps start..steps and return the number of the last.

    objective(batch, step) -> (scalar loss, dict of scalars), set up by Fabric; the optimizer may be (no gradient is
    scaled). batches yields dictionaries with "ids" (what an error names) and "size" (images). pieces(batch, step) cuts
    one into (share, batch) that go forward and backward one after the other, where all at once would need more memory;
    the loss is the sum of share * loss. after_step(step, row) may return True to stop. Raises NonFiniteLoss before the
    step that would spoil the weights. Of several processes each is given its part of every batch, with shares of the
    whole; gradients, losses and measures are summed, and all raise the same NonFiniteLoss.
    """
    begun = time.perf_counter()
    images = 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    quiet: dict[str, Any] = {"disable": True} if processes.rank() else {}
    with tqdm(total=steps, initial=start, desc=label, unit="step", mininterval=1.0, **quiet) as bar:
        for step in range(start, steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            own: dict[str, float] = {}
            seen: list[Any] = []
            size, problem = 0, ""
            for _ in range(accumulate):
                batch = next(batches)
                seen += batch["ids"]
                size += batch["size"]
                for share, piece in [] if problem else pieces(batch, step):
                    loss, measures = objective(piece, step)
                    if not torch.isfinite(loss):
                        problem = (
                            f"The loss is {loss.item()} at step {step + 1}, images {', '.join(map(str, piece['ids']))};"
                            " lower the learning rate, or look at these images."
                        )
                        break
                    fabric.backward(loss * (share / accumulate))
                    for name, value in ({"loss": loss} | measures).items():
                        own[name] = own.get(name, 0.0) + _number(value) * share / accumulate
            told = processes.sum_gradients(parameters, (own, seen, size, problem))
            rows, ids, sizes, problems = zip(*told, strict=True)
            if any(problems):
                raise NonFiniteLoss(next(filter(None, problems)))
            row = {name: sum(part.get(name, 0.0) for part in rows) for name in dict.fromkeys(chain(*rows))}
            images += sum(sizes)
            try:
                fabric.clip_gradients(objective, optimizer, max_norm=clip_norm)
            except RuntimeError as error:
                if "non-finite" not in str(error):  # torch's words
                    raise
                raise NonFiniteLoss(
                    f"The gradient is not finite at step {step + 1}, images {', '.join(map(str, chain(*ids)))}; "
                    "lower the learning rate, or look at these images."
                ) from error
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds = time.perf_counter() - begun
            row |= {"learning_rate": rate(step), "seconds": seconds, "images_per_s": images / seconds}
            bar.set_postfix(loss=f"{row['loss']:.3f}", img_s=f"{row['images_per_s']:.1f}", refresh=False)
            bar.update()
            if after_step(step + 1, row):
                return step + 1
    return steps


def _number(value: float | Tensor) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)
