"""Exact fast attention for SAM's image encoder.

SAM adds a decomposed relative position to every logit: scale * q.k + q.Rh[row] + q.Rw[column]. That sum is one inner
product of longer vectors, q' = [scale * q, Rh.q, Rw.q] and k' = [k, onehot(row), onehot(column)], so PyTorch's fused
attention kernels apply with no mask and no logit matrix in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn


@lru_cache(maxsize=64)
def _relative_index(size: int, device: torch.device) -> Tensor:
    """(size, size) index of the relative position query - key into a table of 2 * size - 1 rows."""
    with torch.inference_mode(False):  # what is kept must do for training too
        at = torch.arange(size, device=device)
        return at[:, None] - at[None, :] + size - 1


@lru_cache(maxsize=64)
def _one_hot_positions(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(height * width, height + width): each key's row and column as one-hot vectors."""
    with torch.inference_mode(False):
        at = torch.arange(height * width, device=device)
        hot = torch.cat([F.one_hot(at // width, height), F.one_hot(at % width, width)], dim=1)
        return hot.to(dtype)


def _position_rows(table: Tensor, size: int) -> Tensor:
    """(size, size, C) rows of a relative-position table, resized linearly as segment-anything does."""
    if table.shape[0] != 2 * size - 1:
        table = F.interpolate(table.T[None].float(), size=2 * size - 1, mode="linear")[0].T.to(table.dtype)
    return table[_relative_index(size, table.device)]


FEW_TOKENS = 1024  # up to here the logits fit a CPU's cache, and the plain products are faster than the fused kernel


class FastAttention(Attention):
    """segment-anything's encoder attention, computed by `scaled_dot_product_attention`; same parameters, same result.

    The bias is the decomposed relative position of MViTv2 (Li et al. 2022, eq. 4).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) tokens to (B, H, W, C); any floating dtype, under autocast too."""
        batch, height, width, _ = x.shape
        heads, tokens = self.num_heads, height * width
        if x.device.type == "cpu" and tokens <= FEW_TOKENS:
            original: Tensor = super().forward(x)
            return original
        # B N 3*heads*C -> 3 B heads N C
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.use_rel_pos:
            channels = v.shape[-1]
            q, k, v = self._with_positions(q, k, v, height, width)
            out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :channels]
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        # B heads N C -> B H W heads*C
        out = out.transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj(out)

    def _with_positions(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Sequence[Tensor]:
        batch, heads, tokens, _ = q.shape
        grid = q.reshape(batch, heads, height, width, -1)
        rows = _position_rows(self.rel_pos_h, height).to(q.dtype)
        columns = _position_rows(self.rel_pos_w, width).to(q.dtype)
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).reshape(batch, heads, tokens, height)
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).reshape(batch, heads, tokens, width)
        hot = _one_hot_positions(height, width, q.device, q.dtype).expand(batch, heads, -1, -1)
        # the fused kernels want one width for all three
        return (
            torch.cat([q * self.scale, bias_h.to(q.dtype), bias_w.to(q.dtype)], dim=-1),
            torch.cat([k, hot], dim=-1),
            F.pad(v, (0, height + width)),
        )


def use_fast_attention(encoder: nn.Module) -> nn.Module:
    """Make every attention layer of a SAM image encoder fast, in place; parameters and their names stay as they are."""
    for module in encoder.modules():
        if type(module) is Attention:
            module.__class__ = FastAttention
    return encoder
