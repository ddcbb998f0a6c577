"""Build and load SAM models; the only file that knows checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from lorasam_core.models.attention import use_fast_attention
from lorasam_core.models.devices import resolve_device
from lorasam_core.models.lite import MULTIPLE, STRIDE, LiteEncoder, build_lite
from lorasam_core.models.lora import hash_base

WEIGHTS = Path(__file__).parents[1] / "weights" / "lite.safetensors"
WEIGHTS_SHA256 = "cc6ff63a1ac96bf91d02cc40371c9de5ad1e409abb5909465b83c76ebc67b6d7"
SOURCE = "https://dl.fbaipublicfiles.com/segment_anything/"
CHECKPOINTS = {  # name: (file, hash as pooch writes it)
    "vit_b": ("sam_vit_b_01ec64.pth", "sha256:ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "vit_l": ("sam_vit_l_0b3195.pth", "sha256:3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "vit_h": ("sam_vit_h_4b8939.pth", "sha256:a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}
TIMEOUT = 60  # seconds without a byte
MODELS = ("lite", *CHECKPOINTS)
REPLACED = {"vit_t": "lite"}  # bases of published records that no longer exist, and what took their place


def load_sam(
    name: str = "lite", checkpoint: str | Path | None = None, image_size: int | None = None, device: str = "cpu"
) -> Sam:
    """Load a SAM in evaluation mode, with exact fast attention.

    name: lite (weights in this package) or vit_b, vit_l, vit_h (official checkpoints: downloaded once, checked by
    hash). checkpoint: a local file instead, in SAM's layout or that of micro-sam's training; the model then carries its
    name and SHA-256 (`base_checkpoint`). image_size: side of the square input in pixels, a multiple of the patch
    (lite: of 32); position tables are resized to it and the originals kept in `sam.original_tables`. The model carries
    `base_name` and `base_hash` (SHA-256 of its weights before any resizing). device: auto, or one that the machine has.
    Raises ValueError for an unknown name, a missing, truncated or tampered file, or one of another architecture.
    """
    if name in REPLACED:
        raise ValueError(
            f"model is {name!r}, this project's first base, which no longer exists; choose {REPLACED[name]}."
        )
    if name not in MODELS:
        raise ValueError(f"model is {name!r}; choose one of {', '.join(MODELS)}.")
    path = Path(checkpoint) if checkpoint is not None else _default_checkpoint(name)
    state = _read_state(path, name)
    sam = build_lite() if name == "lite" else sam_model_registry[name]()
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not hold a {name} model ({_brief(error)}); "
            "name the model that it holds, or give another checkpoint."
        ) from error
    use_fast_attention(sam.image_encoder)
    sam.base_name = name
    sam.base_hash = hash_base(sam)
    sam.base_checkpoint = None if checkpoint is None else {"file": path.name, "sha256": _file_hash(path, "sha256")}
    sam.original_tables = {}
    if image_size is not None:
        resize_input(sam, image_size)
    return sam.eval().to(resolve_device(device))


def _default_checkpoint(name: str) -> Path:
    if name == "lite":
        if not WEIGHTS.exists():
            raise ValueError(f"{WEIGHTS.name} is missing from the package; reinstall it, or run: nox -s pretrain.")
        return WEIGHTS
    import pooch

    file, known_hash = CHECKPOINTS[name]
    try:
        cache = pooch.os_cache("lorasam")
        download = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
        return Path(pooch.retrieve(SOURCE + file, known_hash, fname=file, path=cache, downloader=download))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} could not be downloaded ({_brief(error)}); go online, or give a local file as checkpoint."
        ) from error


def _read_state(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors or .pth file, as float32."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the path of a {name} checkpoint.")
    expected = {file: known for file, known in CHECKPOINTS.values()}
    if path == WEIGHTS:
        expected = {WEIGHTS.name: f"sha256:{WEIGHTS_SHA256}"}
    if path.name in expected:
        kind, known = expected[path.name].split(":")
        found = _file_hash(path, kind)
        if found != known:
            raise ValueError(f"{path} has {kind} {found[:12]}..., not {known[:12]}...; delete it and fetch it again.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own for a broken file
        if "Unsupported global" in str(error):
            raise ValueError(
                f"{path} is not a readable checkpoint, for it holds objects that could run code; write its weights "
                "alone to a file, as micro_sam.util.export_custom_sam_model does."
            ) from error
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}: {_brief(error)}); fetch it again."
        ) from error
    return _weights(state, path)


def _weights(state: Any, path: Path) -> dict[str, Tensor]:
    """The weights by SAM's own names, float32, of a state dict, or of what micro-sam's training keeps in a file."""
    inner = state.get("model_state", state) if isinstance(state, Mapping) else None
    if not isinstance(inner, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) and not value.is_complex() for key, value in inner.items()
    ):
        raise ValueError(
            f"{path} is not a readable checkpoint, for it does not hold named weights alone; fetch another."
        )
    if inner is not state:  # micro-sam trains a model that holds the SAM, inside another one on several GPUs
        inner = {key.removeprefix("module.").removeprefix("sam."): value for key, value in inner.items()}
    return {key: value.float() for key, value in inner.items()}


def _file_hash(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def _brief(error: Exception) -> str:
    """The start of a library's own message, on one line and without an end."""
    text = " ".join(str(error).split()).removeprefix("Error(s) in loading state_dict for Sam:").strip()
    return text.split(". ")[0][:120].rstrip(".")


def save_weights(sam: Sam, path: Path, metadata: dict[str, str]) -> str:
    """Write all weights as fp16 safetensors; returns the file's SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in sam.state_dict().items()}
    save_file(tensors, path, metadata)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def resize_input(sam: Sam, image_size: int) -> Sam:
    """Give the encoder another square input, in place: absolute and global relative position tables are resized.

    image_size: pixels, a multiple of the patch size, of 32 for lite (ValueError otherwise), which has no tables.
    Absolute ones (1, h, w, C) are resized bicubically, relative ones (2h - 1, C) linearly, as ViTDet does (Li et al.
    2022).
    """
    encoder, prompts = sam.image_encoder, sam.prompt_encoder
    lite = isinstance(encoder, LiteEncoder)
    patch = STRIDE if lite else encoder.patch_embed.proj.kernel_size[0]
    least = MULTIPLE if lite else patch
    if image_size < least or image_size % least:
        raise ValueError(f"image_size is {image_size}; give a multiple of {least} pixels, which the model needs.")
    new = image_size // patch
    if not lite and new != encoder.pos_embed.shape[1]:
        originals = {"image_encoder.pos_embed": encoder.pos_embed.detach().clone()}
        # 1 h w C -> 1 C h w and back
        table = F.interpolate(encoder.pos_embed.permute(0, 3, 1, 2), (new, new), mode="bicubic", antialias=True)
        trained = encoder.pos_embed.requires_grad
        encoder.pos_embed = nn.Parameter(table.permute(0, 2, 3, 1).contiguous().detach(), trained)
        for index, block in enumerate(encoder.blocks):
            if block.window_size:
                continue
            for axis in ("rel_pos_h", "rel_pos_w"):
                kept = getattr(block.attn, axis)
                originals[f"image_encoder.blocks.{index}.attn.{axis}"] = kept.detach().clone()
                resized = F.interpolate(kept.detach().T[None], 2 * new - 1, mode="linear")[0].T.contiguous()
                setattr(block.attn, axis, nn.Parameter(resized, kept.requires_grad))
        sam.original_tables = {**originals, **getattr(sam, "original_tables", {})}
    encoder.img_size = image_size
    prompts.input_image_size = (image_size, image_size)
    prompts.image_embedding_size = (new, new)
    prompts.mask_input_size = (4 * new, 4 * new)
    return sam


def preprocess(sam: Sam, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
    """The predictor's own transform: longest side to the input size, normalised, padded below and to the right.

    image: uint8 (H, W) grey or (H, W, 3). Returns float32 (1, 3, S, S) on the model's device and the size (h, w) of
    the part that is not padding.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    tensor = torch.as_tensor(resized, device=sam.device).permute(2, 0, 1)[None].float()  # H W C -> 1 C H W
    return sam.preprocess(tensor), (resized.shape[0], resized.shape[1])
