"""LoRA for the image encoder of any `Sam` of segment-anything; this package imports nothing else of the project.

The encoder's blocks hold `attn.qkv` (one Linear for query, key and value), `attn.proj`, `mlp.lin1` and `mlp.lin2`. A
`LoRALinear` takes the place of those that are adapted; nothing else of the model changes, and nothing else is trained.
"""

from .files import adapter_path, export_checkpoint, load_adapter, read_adapter, save_adapter
from .layer import LoRAConfig, LoRALinear, lora_parameter_count
from .model import (
    adapter_state,
    add_lora,
    count_trainable,
    hash_base,
    lora_parameters,
    merge,
    unmerge,
)

__all__ = [
    "LoRAConfig",
    "LoRALinear",
    "adapter_path",
    "adapter_state",
    "add_lora",
    "count_trainable",
    "export_checkpoint",
    "hash_base",
    "load_adapter",
    "lora_parameter_count",
    "lora_parameters",
    "merge",
    "read_adapter",
    "save_adapter",
    "unmerge",
]
