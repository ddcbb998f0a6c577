"""What tests of the compact model share: a lite of random weights, a random file of its stem, and the stem computed
plainly, without folding a batch norm.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from lorasam_core.models.lite import build_lite

# EfficientNet-B0's own description of its blocks (repeats, kernel, stride, expansion, input, output); Lite0's is the
# same without squeeze-and-excitation
DESCRIPTION = (
    "r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40", "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112", "r4_k5_s22_e6_i112_o192", "r1_k3_s11_e6_i192_o320",
)  # fmt: skip
READ_AFTER = {4: 3, 8: 5, 16: 11, 32: 16}  # stride of a feature: blocks before it


def stem_blocks() -> list[dict[str, int]]:
    """Each block of EfficientNet-Lite0: k, s, e, i, o as in its description."""
    blocks = []
    for text in DESCRIPTION:
        row = {part[0]: int(part[1:]) for part in text.split("_")} | {"s": int(text.split("_s")[1][0])}  # s22: 2
        for n in range(row.pop("r")):
            blocks.append(row if n == 0 else row | {"s": 1, "i": row["o"]})
    return blocks


def random_stem_state(seed: int = 0) -> dict[str, Tensor]:
    """A state dict with the names and shapes of the package's file, of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int) -> None:
        scale = math.sqrt(2 / (inputs * kernel**2))
        state[f"{name}.weight"] = scale * torch.randn(outputs, inputs, kernel, kernel, generator=generator)

    def norm(name: str, channels: int) -> None:
        draw = torch.rand(4, channels, generator=generator)
        state[f"{name}.weight"], state[f"{name}.bias"] = 0.5 + draw[0], draw[1] - 0.3
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = draw[2] - 0.5, 0.2 + draw[3]
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for number, block in enumerate(stem_blocks()):
        prefix, inner = f"_blocks.{number}.", block["i"] * block["e"]
        if block["e"] > 1:
            conv(prefix + "_expand_conv", inner, block["i"], 1)
            norm(prefix + "_bn0", inner)
        conv(prefix + "_depthwise_conv", inner, 1, block["k"])
        norm(prefix + "_bn1", inner)
        conv(prefix + "_project_conv", block["o"], inner, 1)
        norm(prefix + "_bn2", block["o"])
    return state


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: how many zeros before and after, so that ceil(side / stride) outputs come."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def plain_features(state: dict[str, Tensor], x: Tensor) -> dict[int, Tensor]:
    """The stem's features, by stride, from its file as it is: convolution, batch norm, activation, one by one."""

    def step(name: str, norm: str, x: Tensor, stride: int, groups: int) -> Tensor:
        weight = state[f"{name}.weight"]
        above, below = same_padding(x.shape[2], weight.shape[2], stride)
        left, right = same_padding(x.shape[3], weight.shape[3], stride)
        x = F.conv2d(F.pad(x, (left, right, above, below)), weight, None, stride, groups=groups)
        moments = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(x, *moments, state[f"{norm}.weight"], state[f"{norm}.bias"], False, 0.0, 1e-3)

    x, features = F.relu6(step("_conv_stem", "_bn0", x, 2, 1)), {}
    for number, block in enumerate(stem_blocks()):
        prefix, before = f"_blocks.{number}.", x
        if block["e"] > 1:
            x = F.relu6(step(prefix + "_expand_conv", prefix + "_bn0", x, 1, 1))
        x = F.relu6(step(prefix + "_depthwise_conv", prefix + "_bn1", x, block["s"], x.shape[1]))
        x = step(prefix + "_project_conv", prefix + "_bn2", x, 1, 1)
        if block["s"] == 1 and block["i"] == block["o"]:
            x = x + before
        features |= {stride: x for stride, count in READ_AFTER.items() if count == number + 1}
    return features


def random_lite(seed: int = 0, image_size: int = 64) -> Sam:
    """Lite with every part at work: the stem's signal does not fade, and no bias or place convolution is zero."""
    torch.manual_seed(seed)
    sam = build_lite(image_size)
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "stem" in name and parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter)
            elif parameter.ndim == 1 or "place" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return sam
