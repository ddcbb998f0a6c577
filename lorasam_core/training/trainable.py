"""What a method trains of a SAM, and the file that holds it: a LoRA adapter, or all that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import nn

from lorasam_core.config import RunConfig
from lorasam_core.models.lora import LoRAConfig, add_lora, load_adapter, lora_parameters, save_adapter

SAM_METHODS = ("lora", "decoder", "lora_decoder", "full")


def lora_config(config: RunConfig) -> LoRAConfig:
    """The adapter part of a run's settings."""
    return LoRAConfig(
        rank=config.rank, alpha=config.alpha, scaling=config.scaling, targets=config.targets, blocks=config.blocks,
        dropout=config.dropout,
    )  # fmt: skip


def select(sam: Sam, config: RunConfig) -> Sam:
    """Make trainable what config.method trains, in place: lora (A and B are added), decoder, both, or full.

    Raises ValueError for another method.
    """
    if config.method not in SAM_METHODS:
        raise ValueError(f"method is {config.method!r}, which trains no part of SAM; choose {', '.join(SAM_METHODS)}.")
    sam.requires_grad_(config.method == "full")
    if config.method in ("lora", "lora_decoder"):
        add_lora(sam, lora_config(config))
    if config.method != "lora":
        sam.mask_decoder.requires_grad_(True)
    return sam


def parameters(sam: Sam) -> list[nn.Parameter]:
    """A and B where they alone are trained, else every parameter that requires a gradient."""
    return lora_parameters(sam) if is_adapter(sam) else [p for p in sam.parameters() if p.requires_grad]


def is_adapter(sam: Sam) -> bool:
    """Whether what is trained is an adapter and nothing beside it."""
    return "_lora" in sam.__dict__ and not any(p.requires_grad for p in sam.mask_decoder.parameters())


def file(sam: Sam) -> str:
    """The name of the file of `save`."""
    return "adapter.safetensors" if is_adapter(sam) else "weights.safetensors"


def save(sam: Sam, path: Path, **metadata: Any) -> None:
    """Write what is trained as safetensors: an adapter, or the trained weights under their own names, float32."""
    if is_adapter(sam):
        save_adapter(sam, path, **metadata)
        return
    tensors = {
        name: p.detach().to("cpu", torch.float32).contiguous() for name, p in sam.named_parameters() if p.requires_grad
    }
    save_file(tensors, path, {key: json.dumps(value) for key, value in metadata.items()})


def load(sam: Sam, path: Path) -> None:
    """Read a file of `save` into the model, in place; raises ValueError for tensors that it does not have."""
    if is_adapter(sam):
        load_adapter(sam, path)
        return
    found = sam.load_state_dict(load_file(path), strict=False)
    if found.unexpected_keys:
        raise ValueError(f"{path} holds {found.unexpected_keys[0]}, which the model has not; load the model it fits.")
