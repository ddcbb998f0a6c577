"""LoRA in a whole model: add it to the image encoder, merge it into the weights and take it out again."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from .layer import LAYERS, LoRAConfig, LoRALinear


@dataclass
class Adapter:
    """Kept on the model outside its module tree; `merged` holds the layers taken out of the tree by `merge`."""

    config: LoRAConfig
    merged: dict[str, LoRALinear] = field(default_factory=dict)


def adapter_of(sam: Sam) -> Adapter:
    if "_lora" not in sam.__dict__:
        raise ValueError("the model has no LoRA layers; call add_lora or load_adapter first.")
    return sam.__dict__["_lora"]


def layers_of(sam: Sam) -> dict[str, LoRALinear]:
    """Every LoRA layer by its path, merged or not."""
    return adapter_of(sam).merged or {path: m for path, m in sam.named_modules() if isinstance(m, LoRALinear)}


def named_parameters(layers: dict[str, LoRALinear]) -> dict[str, nn.Parameter]:
    return {f"{path}.{name}": p for path, m in layers.items() for name, p in m.named_parameters(recurse=False)}


def build(sam: Sam, config: LoRAConfig) -> dict[str, LoRALinear]:
    """New LoRA layers by their path, not yet in the model; raises ValueError for a missing block or target."""
    blocks = getattr(getattr(sam, "image_encoder", None), "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"{type(sam).__name__} has no image_encoder.blocks; give a Sam of segment-anything.")
    chosen = config.blocks or range(len(blocks))
    if chosen[-1] >= len(blocks):
        raise ValueError(f"blocks holds {chosen[-1]}; the encoder has the blocks 0 to {len(blocks) - 1}.")
    layers = {}
    for number in chosen:
        for layer, slices in LAYERS.items():
            if wanted := [name for name in slices if name in config.targets]:
                parent, child = layer.split(".")
                linear = getattr(getattr(blocks[number], parent, None), child, None)
                if not isinstance(linear, nn.Linear) or linear.out_features % len(slices):
                    raise ValueError(f"target {wanted[0]!r} matches nothing: block {number} has no Linear {layer}.")
                layers[f"image_encoder.blocks.{number}.{layer}"] = LoRALinear(linear, slices, config)
    return layers


def attach(sam: Sam, config: LoRAConfig, layers: dict[str, LoRALinear]) -> None:
    sam.requires_grad_(False)
    for path, layer in layers.items():
        sam.set_submodule(path, layer)
    sam.__dict__["_lora"] = Adapter(config)


def add_lora(sam: Sam, config: LoRAConfig) -> Sam:
    """Put LoRA into the image encoder, in place, and freeze every other parameter.

    Returns the same model, with bit-identical outputs still. A rank above a layer's width is allowed, with a warning.

    Raises:
        ValueError: the model has LoRA already, a block is out of range, or a target matches nothing.
    """
    if "_lora" in sam.__dict__:
        raise ValueError("the model has LoRA layers already; load a fresh one with load_sam to adapt it anew.")
    layers = build(sam, config)
    width = min(layer.width for layer in layers.values())
    if config.rank > width:
        warnings.warn(f"rank {config.rank} is above {width}, the full rank of an adapted matrix.", stacklevel=2)
    attach(sam, config, layers)
    return sam


@torch.no_grad()
def merge(sam: Sam) -> Sam:
    """Put W + factor * B A in plain Linear modules under the base's own keys, in place; twice is the same as once.

    The LoRA layers, with W, A and B, wait outside the module tree for `unmerge`. Raises ValueError without LoRA.
    """
    layers = layers_of(sam)
    if not adapter_of(sam).merged:
        for path, layer in layers.items():
            plain = nn.Linear(layer.base.in_features, layer.base.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(layer.weight(), requires_grad=False)
            plain.bias = layer.base.bias
            sam.set_submodule(path, plain.train(layer.training))
        adapter_of(sam).merged = layers
    return sam


def unmerge(sam: Sam) -> Sam:
    """Put the LoRA layers back, W, A and B exactly as they were; nothing happens where nothing is merged.

    Raises ValueError without LoRA.
    """
    for path, layer in adapter_of(sam).merged.items():
        plain = sam.get_submodule(path)
        sam.set_submodule(path, layer.to(plain.weight.device).train(plain.training))  # it may have moved meanwhile
    adapter_of(sam).merged = {}
    return sam


def adapter_state(sam: Sam) -> dict[str, Tensor]:
    """A and B by name (image_encoder.blocks.0.attn.qkv.A_q), merged or not, no copies; ValueError without LoRA."""
    return dict(named_parameters(layers_of(sam)))


def lora_parameters(sam: Sam) -> list[nn.Parameter]:
    """A and B in the order of `adapter_state`, for the optimiser; raises ValueError without LoRA."""
    return list(named_parameters(layers_of(sam)).values())


def count_trainable(model: nn.Module) -> int:
    """Number of scalars that training would change (0 while LoRA is merged)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def base_state(sam: Sam, merged: bool = False) -> dict[str, Tensor]:
    """State dict under the base's own keys, without LoRA or with it merged in; position tables as in the checkpoint."""
    layers = layers_of(sam) if "_lora" in sam.__dict__ else {}
    wrapped = {f"{path}.{name}" for path, layer in layers.items() for name in layer.state_dict()}
    state = {name: tensor for name, tensor in sam.state_dict().items() if name not in wrapped}
    for path, layer in layers.items():
        state[f"{path}.weight"] = layer.weight() if merged else layer.base.weight
        if layer.base.bias is not None:
            state[f"{path}.bias"] = layer.base.bias
    return state | getattr(sam, "original_tables", {})  # set by load_sam where it resized them


def hash_base(sam: Sam) -> str:
    """SHA-256 (hex) over the sorted names and float32 bytes of the base's parameters and persistent buffers.

    It stays the same when LoRA is added, trained or merged, and when `load_sam` resizes the position tables.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(base_state(sam).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
