"""What people use today: segment-anything's own modules, adapted by LoRA and trained as common scripts do it.

One image a call in float32, eager attention, low-rank products beside the frozen projection of query, key and value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters
from lorasam_core.models.lora.layer import LoRALinear
from lorasam_core.training.losses import per_mask_dice_ce
from lorasam_core.training.prompts import whole_image_box


class PlainLoRA(nn.Module):
    """qkv with low-rank products added to query and value, each computed for itself."""

    def __init__(self, layer: LoRALinear) -> None:
        super().__init__()
        self.qkv, self.width, self.factor = layer.base, layer.base.in_features, layer.factor
        self.A_q, self.B_q, self.A_v, self.B_v = (layer.get_parameter(n) for n in ("A_q", "B_q", "A_v", "B_v"))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 3 C)."""
        out: Tensor = self.qkv(x)
        out[..., : self.width] += self.factor * (x @ self.A_q.T @ self.B_q.T)
        out[..., -self.width :] += self.factor * (x @ self.A_v.T @ self.B_v.T)
        return out


def add_plain_lora(sam: Sam, rank: int) -> list[nn.Parameter]:
    """LoRA on q and v of every block, with the draws of `add_lora`; returns A and B in its order."""
    parameters = lora_parameters(add_lora(sam, LoRAConfig(rank)))
    for block in sam.image_encoder.blocks:
        block.attn.qkv = PlainLoRA(block.attn.qkv)
    return parameters


class PlainLoop:
    """One optimiser step: a loop over images, the gradient of the mean loss added up, clipped, then Adam."""

    def __init__(self, sam: Sam, parameters: Sequence[nn.Parameter], precision: str) -> None:
        self.sam, self.parameters, self.autocast = sam, parameters, precision == "bf16-mixed"
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=0.01)

    def step(self, batch: dict[str, Any]) -> float:
        """batch as `objectives.collate` makes it; returns the mean loss."""
        self.sam.train()
        total = 0.0
        for image, target, extent in zip(batch["image"], batch["semantic"], batch["extents"], strict=True):
            with torch.autocast(image.device.type, torch.bfloat16, enabled=self.autocast):
                loss = self._loss(image, target, extent) / batch["size"]
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _loss(self, image: Tensor, target: Tensor, extent: Sequence[int]) -> Tensor:
        sam, (height, width) = self.sam, extent
        embedding = sam.image_encoder(sam.preprocess(image[None, :, :height, :width].float()))
        box = torch.as_tensor(np.asarray(whole_image_box((height, width))), device=image.device)
        sparse, dense = sam.prompt_encoder(points=None, boxes=box, masks=None)
        logits, _ = sam.mask_decoder(
            image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        loss: Tensor = per_mask_dice_ce(logits[:, 0].float(), target[None]).mean()
        return loss
