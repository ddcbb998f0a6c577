"""How the image encoder's blocks compute while they are trained: recomputed in the backward pass, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Forward = Callable[[Tensor], Tensor]


@contextmanager
def training_blocks(encoder: nn.Module, checkpointing: bool = False, compiled: bool = False) -> Iterator[None]:
    """Meanwhile each block of a SAM image encoder is checkpointed or compiled, or both, where it is in training mode.

    Activation checkpointing keeps a block's input alone and computes the rest again in the backward pass, with the
    random numbers of the first time. Modules, parameters and state dict stay as they are, and so does evaluation.
    """
    blocks = list(encoder.blocks) if checkpointing or compiled else []
    for block in blocks:
        block.forward = _in_training(block, checkpointing, compiled)  # hides the class's own
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _in_training(block: nn.Module, checkpointing: bool, compiled: bool) -> Forward:
    plain: Forward = block.forward
    # block by block: those of one kind share the code, so that depth hardly adds to the time of compiling
    inner: Forward = torch.compile(plain) if compiled else plain

    def forward(x: Tensor) -> Tensor:
        if not (block.training and torch.is_grad_enabled()):
            return plain(x)  # validation's batches of one would be compiled for themselves
        return checkpoint(inner, x, use_reentrant=False) if checkpointing else inner(x)

    return forward


@lru_cache
def check_compile(device: str) -> None:
    """Raise ValueError where torch.compile does not work on the device, for want of a compiler mostly."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"compile is True, and torch.compile does not work on {device} here ({reason}); "
            "install a C++ compiler, or set compile to false: the results are the same."
        ) from error
