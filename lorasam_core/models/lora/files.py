"""Adapter files, which hold A and B alone and say what they fit; and merged checkpoints in the official layout."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from segment_anything.modeling import Sam
from torch import Tensor

from lorasam_core.errors import brief

from .layer import LoRAConfig
from .model import adapter_of, adapter_state, attach, base_state, build, hash_base, layers_of, named_parameters

FORMAT = "lorasam adapter 1"
SHIPPED = Path(__file__).parents[2] / "weights" / "adapters"
CONTENT = "content_sha256"  # the entry of the metadata that states `content_hash`
NEEDED = ("base_name", "base_hash", "image_size", *LoRAConfig.__dataclass_fields__)
LARGEST_INPUT = 8192  # pixels a side of a model's input; position tables for more take gigabytes


def _description(sam: Sam, config: LoRAConfig) -> dict[str, Any]:
    """What an adapter file states and the model that it is loaded into must share."""
    return {
        "base_hash": getattr(sam, "base_hash", None) or hash_base(sam),
        **{key: getattr(config, key) for key in ("rank", "alpha", "scaling")},
        "targets": list(config.targets),
        "blocks": list(config.blocks or range(len(sam.image_encoder.blocks))),
        "image_size": sam.image_encoder.img_size,
        "pixel_mean": [round(value, 4) for value in sam.pixel_mean.flatten().tolist()],
        "pixel_std": [round(value, 4) for value in sam.pixel_std.flatten().tolist()],
    }


def write_whole(path: Path, writer: Callable[[Path], object]) -> None:
    """Write under a temporary name and rename: a file under the final name is always whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a process that was killed
            owner = left.suffixes[-2][1:]
            if owner.isdecimal() and not psutil.pid_exists(int(owner)):
                left.unlink(missing_ok=True)
        writer(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save wraps a full disk in RuntimeError
        raise OSError(f"{path} could not be written ({error}); free some space or choose another folder.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _encode(value: Any) -> str:
    """A string as it is, all else as JSON; a string that reads as JSON is quoted, so that `_decode` is the inverse."""
    if isinstance(value, str) and _decode(value) == value:
        return value
    return json.dumps(value, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x))


def content_hash(strings: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of an adapter's metadata, but for the entry that states it, and of its float32 tensors.

    It finds what changed by accident; who changes a file on purpose can state another.
    """
    digest = hashlib.sha256()
    for key, text in sorted(strings.items()):
        if key != CONTENT:
            digest.update(json.dumps([key, text]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_adapter(sam: Sam, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write A and B as one float32 safetensors file that states its base, configuration, input size and normalisation.

    A base from a local file is named with the file's hash (`base_checkpoint`); `content_sha256` is `content_hash`.
    `metadata` (run_id, split_hash, metrics, ...) is kept beside these: strings as they are, other values as JSON.

    Raises:
        ValueError: the model has no LoRA, or `metadata` names one of the adapter's own entries.
        OSError: the file cannot be written; an older file of this name is left as it was.
    """
    config = adapter_of(sam).config
    own = {"format": FORMAT, "base_name": getattr(sam, "base_name", "sam"), "dropout": config.dropout}
    own |= _description(sam, config)
    if given := getattr(sam, "base_checkpoint", None):
        own["base_checkpoint"] = given
    if clash := sorted((own.keys() | {CONTENT}) & metadata.keys()):
        raise ValueError(f"metadata holds {clash[0]!r}, which the adapter states itself; use another name.")
    tensors = {name: p.detach().to("cpu", torch.float32).contiguous() for name, p in adapter_state(sam).items()}
    write_adapter(path, {key: _encode(value) for key, value in (own | metadata).items()}, tensors)


def write_adapter(path: str | os.PathLike[str], strings: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Write metadata, as the strings of a file, and float32 tensors, with their hash; OSError as `save_adapter`."""
    content = to_safetensors(dict(tensors), {**strings, CONTENT: content_hash(strings, tensors)})
    write_whole(Path(path), lambda temporary: temporary.write_bytes(content))


def adapter_path(name: str | os.PathLike[str]) -> Path:
    """The file of an adapter that ships with the package, by its name, or of a path; ValueError where there is none."""
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}
    path = shipped.get(str(name), Path(name))
    if not path.is_file():
        raise ValueError(f"{name} is no adapter; give a file, or one of those that ship: {', '.join(shipped)}.")
    return path


def read_strings(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata, as the strings of the file, and tensors; raises ValueError as `read_adapter` does."""
    try:
        with safe_open(path, framework="pt") as file:
            strings = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"adapter {path} cannot be read ({brief(error)}); copy it again or train it anew.") from error
    if strings.get("format") != FORMAT:
        raise ValueError(f"{path} is not an adapter of this package; give a file that save_adapter wrote.")
    if missing := [key for key in NEEDED if key not in strings]:
        raise ValueError(f"adapter {path} does not state its {missing[0]}; copy it again or train it anew.")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(f"adapter {path} holds {name} as {tensor.dtype}; copy it again or train it anew.")
    return strings, tensors


def read_adapter(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata, decoded, and tensors of an adapter file; raises ValueError for a damaged file or another kind."""
    strings, tensors = read_strings(path)
    metadata = {key: _decode(text) for key, text in strings.items()}
    try:
        _require_usable(metadata, tensors)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"adapter {path} states what cannot be ({brief(error)}); copy it again or train it anew."
        ) from error
    return metadata, tensors


def _require_usable(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise for entries that no adapter has, before anything is made as large as they say."""
    config = config_of(metadata)
    side, given = metadata["image_size"], metadata.get("base_checkpoint", {})
    if type(side) is not int or not 0 < side <= LARGEST_INPUT:
        raise ValueError(f"image_size is {side!r}")
    for name in ("base_name", "base_hash"):
        if not isinstance(metadata[name], str):
            raise ValueError(f"{name} is {metadata[name]!r}")
    if not isinstance(given, dict) or (given and not all(isinstance(given.get(k), str) for k in ("file", "sha256"))):
        raise ValueError(f"base_checkpoint is {given!r}")
    if not any(config.rank in tensor.shape for tensor in tensors.values() if tensor.numel()):
        raise ValueError(f"rank is {config.rank}, and that of its matrices another")


def config_of(metadata: Mapping[str, Any]) -> LoRAConfig:
    """The LoRA that an adapter's metadata describes."""
    return LoRAConfig(**{key: metadata[key] for key in LoRAConfig.__dataclass_fields__})


def load_adapter(sam: Sam, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load A and B, in place, adding LoRA as the file states where the model is plain; returns the file's metadata.

    Raises:
        ValueError: the file is damaged, was made for another base, input size or normalisation, differs from the
            model's LoRA, holds other keys or shapes, or the model is merged. Its weights are then as they were.
    """
    metadata, tensors = read_adapter(path)
    adapter = adapter_of(sam) if "_lora" in sam.__dict__ else None
    if adapter and adapter.merged:
        raise ValueError(f"the model's LoRA is merged, so {path} cannot be loaded; call unmerge first.")
    config = adapter.config if adapter else config_of(metadata)
    for key, value in _description(sam, config).items():
        if metadata.get(key) != value:
            stated = brief(metadata.get(key))
            raise ValueError(f"{path} is for {key} {stated}, the model has {value}; load the model it fits.")
    try:
        layers = layers_of(sam) if adapter else build(sam, config)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the model: {error}") from error
    parameters = named_parameters(layers)
    for name in sorted(tensors.keys() | parameters):
        found, expected = (tuple(d[name].shape) if name in d else None for d in (tensors, parameters))
        if found != expected:
            raise ValueError(f"{path} holds {brief(name)} as {found}, the model as {expected}; train the adapter anew.")
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{path} holds {name} with values that are no numbers; train the adapter anew.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    if not adapter:
        attach(sam, config, layers)
    return metadata


def export_checkpoint(sam: Sam, path: str | os.PathLike[str]) -> None:
    """Write the adapted model, merged, as a plain float32 checkpoint with exactly the base's keys (a .pth file).

    segment-anything's own builders load it for vit_b, vit_l and vit_h, whose position tables are the checkpoint's own
    even where `load_sam` resized them; lite loads with `load_sam`. The model itself does not change.

    Raises:
        ValueError: the model has no LoRA, or the path does not end in .pth.
        OSError: the file cannot be written; an older file of this name is left as it was.
    """
    adapter_of(sam)
    if Path(path).suffix != ".pth":
        raise ValueError(f"{path} is not a name for a checkpoint; give one that ends in .pth.")
    state = {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in base_state(sam, merged=True).items()}
    write_whole(Path(path), lambda temporary: torch.save(state, temporary))
