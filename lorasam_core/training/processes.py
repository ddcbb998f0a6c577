"""Several processes, started by torchrun, train one model, each on its own images of every batch.

The first does all the rest: it holds locks, evaluates and writes, and the others wait for what it asks of them. Their
messages go through the CPU (gloo), where waiting costs nothing; gradients go as the device likes (gloo or NCCL).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lorasam_core.errors import brief
from lorasam_core.models.devices import resolve_device

if TYPE_CHECKING:  # a second, for what only names runs
    from lightning_fabric import Fabric

PATIENCE = timedelta(days=30)  # for which a process waits while the first one evaluates; one that dies is seen at once
Value = TypeVar("Value")

_started, _joined = 1, False  # processes, and whether they train together now


class OtherFailed(RuntimeError):
    """Another process failed in what all do together; the message is its error's."""


def fabric(kind: str, precision: Any) -> Fabric:
    """Fabric over all processes, on one device each, of a kind as torch names it (cpu, cuda)."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    class Summed(DDPStrategy):
        """Its processes and devices without its wrapper, which would want every process to use every parameter."""

        def setup_module(self, module: nn.Module) -> nn.Module:
            return module  # `sum_gradients` is called once a step

    here = int(os.environ["LOCAL_WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    strategy = Summed(process_group_backend=backend, timeout=PATIENCE)
    nodes = int(os.environ["WORLD_SIZE"]) // here
    made = Fabric(accelerator=kind, devices=here, num_nodes=nodes, strategy=strategy, precision=precision)
    made.launch()
    return made


def start() -> int:
    """Join the processes that torchrun started, where it did; returns the number of this one."""
    global _started
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return 0
    fabric("cuda" if resolve_device() == "cuda" else "cpu", "32-true")
    _started = dist.get_world_size()
    return dist.get_rank()


def started() -> int:
    """Processes that `start` found; 1 without it."""
    return _started


@contextmanager
def together() -> Iterator[None]:
    """Meanwhile all processes train one model; without others nothing changes.

    An exception in one of them ends the block in all: the others raise OtherFailed where they next hear of one another.
    """
    global _joined
    if _started == 1:
        yield
        return
    _joined = True
    try:
        yield
        gather(None)
    except OtherFailed:
        raise
    except Exception as error:
        _exchange(None, f"{type(error).__name__}: {error}")
        raise
    finally:
        _joined = False


def count() -> int:
    """Processes that train one model now."""
    return _started if _joined else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if count() > 1 else 0


def gather(value: Value) -> list[Value]:
    """What each process gives, in their order, small and not on a GPU; raises OtherFailed where one has failed."""
    if count() == 1:
        return [value]
    told = _exchange(value)
    for number, (_, failed) in enumerate(told):
        if failed:
            raise OtherFailed(f"process {number} failed: {failed}")
    return [given for given, _ in told]


def in_turn(values: Sequence[Value]) -> list[Value]:
    """The values of all processes, where each has those of every `count`-th item from its `rank` on."""
    return [v for together in zip_longest(*gather(values)) for v in together if v is not None]


def tell(value: Any = None) -> Any:
    """What the first process gives here, in every process; meant for between what they do together."""
    return _exchange(value)[0][0] if _started > 1 else value


def first(value: Value) -> Value:
    """What the first process gives, in every process."""
    if count() == 1:
        return value
    gather(None)
    box = [value]
    with _others_alive():
        dist.broadcast_object_list(box, 0)
    return box[0]


def spread(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, in place, by those of the first process."""
    if count() == 1:
        return
    gather(None)
    with _others_alive():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_gradients(parameters: Sequence[nn.Parameter], told: Value) -> list[Value]:
    """Sum the gradients of all processes, in each; returns what each tells, as `gather` does.

    A parameter without a gradient in any process stays without, and the optimiser leaves it alone.
    """
    if count() == 1:
        return [told]
    present = [p.new_tensor(float(p.grad is not None)) for p in parameters]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([t.detach().flatten() for t in (*present, *gradients)])
    found = gather(told)  # before the sum, so that who failed is waited for by none
    with _others_alive():
        dist.all_reduce(flat)
    parts = flat[len(parameters) :].split([p.numel() for p in parameters])
    for parameter, some, part in zip(parameters, flat.tolist()[: len(parameters)], parts, strict=True):
        parameter.grad = part.view_as(parameter) if some else None
    return found


def _exchange(value: Any, failed: str | None = None) -> list[tuple[Any, str | None]]:
    told: list[Any] = [None] * _started
    with _others_alive():
        dist.all_gather_object(told, (value, failed))
    return told


@contextmanager
def _others_alive() -> Iterator[None]:
    """Leave, with the checkpoint as it is, where a process is gone: no other error would be this run's own."""
    try:
        yield
    except RuntimeError as error:
        raise SystemExit(f"error: another process is gone ({brief(error)}); call again, and it goes on.") from error
