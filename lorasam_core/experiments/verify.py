"""Whether an adapter file is whole, fits the base at hand, and still gives the picture that it was made to give."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorasam_core.masks.picture import LEAST_IOU, MOST_CHANGE, agreement, picture
from lorasam_core.models.lora import load_adapter, read_adapter
from lorasam_core.models.lora.files import CONTENT, content_hash, read_strings
from lorasam_core.models.sam import load_sam


class Check(NamedTuple):
    """What was looked at, what was found, and whether it is as it should be; None where the file says nothing."""

    name: str
    found: str
    holds: bool | None = True


def verify_adapter(path: str | Path, checkpoint: str | None = None, device: str = "cpu") -> Iterator[Check]:
    """Checks of an adapter file, each as soon as it is done; those that need the base end where it does not fit.

    checkpoint: a local file of the base's weights. Raises no error for what is wrong with the file: a check says it.
    """
    path = Path(path)
    try:
        strings, tensors = read_strings(path)
        metadata = read_adapter(path)[0]
    except ValueError as error:
        yield Check("file", str(error), False)
        return
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    yield Check("file", f"{metadata['format']}, {path.stat().st_size:,} bytes, SHA-256 {digest}")
    stated = strings.get(CONTENT)
    if stated is None:
        yield Check("content", "states no hash of its content", None)
    elif stated == content_hash(strings, tensors):
        yield Check("content", "as it was written")
    else:
        yield Check("content", "is not what was written; copy the file again", False)
    yield _tensors(metadata, tensors)
    yield from _use(metadata)
    try:
        sam = load_sam(str(metadata["base_name"]), checkpoint, metadata["image_size"], device)
        load_adapter(sam, path)
    except (ValueError, TypeError) as error:
        yield Check("base", str(error), False)
        return
    yield Check("base", f"{metadata['base_name']}, {sam.base_hash}{_file(metadata)}")
    yield _picture(metadata.get("picture"), sam)


def _tensors(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Check:
    """All finite, in pairs A (rank, in) and B (out, rank)."""
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        return Check("tensors", f"{broken[0]} holds values that are no numbers; train the adapter anew", False)
    rank = metadata["rank"]
    for name, tensor in tensors.items():
        head, _, leaf = name.rpartition(".")
        other = f"{head}.{'B' if leaf.startswith('A_') else 'A'}{leaf[1:]}"
        if other not in tensors or tensor.ndim != 2 or tensor.shape[0 if leaf.startswith("A_") else 1] != rank:
            found = tuple(tensor.shape)
            return Check(
                "tensors", f"{name} is {found}, not one of a pair of rank {rank}; train the adapter anew", False
            )
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return Check("tensors", f"{len(tensors)} of rank {rank}, {numbers:,} finite numbers", bool(tensors))


def _use(metadata: Mapping[str, Any]) -> Iterator[Check]:
    """How the adapter says that it is to be used, and where it comes from."""
    segment: Any = metadata.get("segment")
    card: Any = metadata.get("card")
    try:
        side, threshold = segment["crop_size"], segment["guided"]["score_thresh"]
        yield Check("use", f"tiles of {side:d} pixels, score threshold {threshold:g}", 0 <= threshold <= 1)
    except (KeyError, TypeError, ValueError):
        yield Check("use", "says no thresholds" if segment is None else "thresholds cannot be read", _absent(segment))
    try:
        yield Check("card", f"{card['images']:,} images, {card['particles']:,} particles, {card['date']}")
    except (KeyError, TypeError, ValueError):
        yield Check("card", "has no card" if card is None else "the card cannot be read", _absent(card))


def _absent(entry: Any) -> bool | None:
    return None if entry is None else False


def _file(metadata: Mapping[str, Any]) -> str:
    """The local file that the base came from when the adapter was made."""
    given = metadata.get("base_checkpoint")
    return f"; from {given['file']}, SHA-256 {given['sha256']}" if isinstance(given, dict) else ""


def _picture(kept: Any, sam: Any) -> Check:
    if kept is None:
        return Check("picture", "holds none", None)
    now = picture(sam)
    if not isinstance(kept, dict) or kept.get("generator") != now["generator"]:
        return Check("picture", "was made of a micrograph that this version does not generate", None)
    try:
        iou, change = agreement(kept, now), abs(float(kept["rated"]) - now["rated"])
    except (KeyError, TypeError, ValueError) as error:
        return Check("picture", f"cannot be read ({error})", False)
    says = f"IoU {iou:.4f} (at least {LEAST_IOU}), rating {change:.4f} apart (at most {MOST_CHANGE})"
    return Check("picture", says, iou >= LEAST_IOU and not math.isnan(change) and change <= MOST_CHANGE)
