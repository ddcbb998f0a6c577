"""Exact fast attention for SAM's image encoder.

SAM adds a decomposed relative position to every logit: scale * q.k + q.Rh[row] + q.Rw[column]. Two ways to compute it
with no matrix of logits in memory:

- On a GPU that sum is one inner product of longer vectors, q' = [scale * q, Rh.q, Rw.q] and k' = [k, onehot(row),
  onehot(column)], so PyTorch's fused attention kernels apply with no mask.
- On a CPU longer vectors mean as much more arithmetic. There the queries are taken a few rows of the grid at a time, so
  that logits and bias stay in the cache; the backward pass makes them again.

Few tokens go segment-anything's way on a CPU: with positions as long as their logits stay in the cache, without
positions where gradients are wanted and torch's fused backward pass would take longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


FEW_TOKENS = 1024  # up to here the logits fit a CPU's cache whole
FEW_TRAINED = 64  # without positions, up to here: torch's fused backward on a CPU takes longer than plain products
IN_CHUNKS = ("cpu",)  # devices whose fused kernel is bound by arithmetic, not by memory
CACHE = 16 * 2**20  # bytes of float32 logits that a thread works on at once


def _chunks(heads: int, height: int, width: int) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of the heads of all images, one a thread; with each, slices of the queries: whole rows of the grid."""
    together = torch.get_num_threads()
    queries = width * max(1, CACHE // (4 * width * height * width))
    parts = [slice(start, start + queries) for start in range(0, height * width, queries)]
    for first in range(0, heads, together):
        yield slice(first, first + together), parts


def _logits(q: Tensor, k: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> Tensor:
    """scale * q.k + bias_h[row] + bias_w[column], (G, n, N), of queries (G, n, C): one product, rounded once."""
    bias = (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2)
    return torch.baddbmm(bias, q, k.transpose(-1, -2), alpha=scale)


class _ChunkedAttention(torch.autograd.Function):
    """softmax(scale * q.k + bias_h[row] + bias_w[column]) v: q, k, v (G, N, C), bias_h (G, N, h), bias_w (G, N, w)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float
    ) -> Tensor:  # fmt: skip
        height, width = bias_h.shape[-1], bias_w.shape[-1]
        out = torch.empty_like(q)
        with torch.autocast(q.device.type, enabled=False):  # it would make the weights float32 and back
            for g, parts in _chunks(len(q), height, width):
                for n in parts:
                    out[g, n] = _logits(q[g, n], k[g], bias_h[g, n], bias_w[g, n], scale).softmax(-1) @ v[g]
        ctx.save_for_backward(q, k, v, bias_h, bias_w)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias_h, bias_w = ctx.saved_tensors
        height, width, exact = bias_h.shape[-1], bias_w.shape[-1], torch.promote_types(q.dtype, torch.float32)
        dq, dh, dw = (torch.empty_like(x) for x in (q, bias_h, bias_w))
        dk, dv = (torch.zeros_like(x, dtype=exact) for x in (k, v))
        for g, parts in _chunks(len(q), height, width):
            for n in parts:
                weights = _logits(q[g, n], k[g], bias_h[g, n], bias_w[g, n], ctx.scale).softmax(-1)
                dv[g] += weights.transpose(-1, -2) @ grad[g, n]
                change = torch._softmax_backward_data(
                    grad[g, n] @ v[g].transpose(-1, -2), weights, -1, weights.dtype
                )  # of the logits
                at = change.unflatten(-1, (height, width))
                dh[g, n], dw[g, n] = at.sum(-1), at.sum(-2)
                dq[g, n] = change @ k[g] * ctx.scale
                dk[g] += change.transpose(-1, -2) @ q[g, n] * ctx.scale
        return dq, dk.to(k.dtype), dv.to(v.dtype), dh, dw, None


class FastAttention(Attention):
    """segment-anything's encoder attention, computed without its whole matrix of logits, of many tokens;
    same parameters, same result.

    The bias is the decomposed relative position of MViTv2 (Li et al. 2022, eq. 4).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) tokens to (B, H, W, C); any floating dtype, under autocast too."""
        batch, height, width, _ = x.shape
        heads, tokens = self.num_heads, height * width
        few = FEW_TOKENS if self.use_rel_pos else FEW_TRAINED if torch.is_grad_enabled() else 0
        if x.device.type == "cpu" and tokens <= few:
            original: Tensor = super().forward(x)
            return original
        # B N 3*heads*C -> 3 B heads N C
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if not self.use_rel_pos:
            out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        elif x.device.type in IN_CHUNKS:
            out = self._in_chunks(q, k, v, *self._biases(q, height, width))
        else:
            channels = v.shape[-1]
            q, k, v = self._with_positions(q, k, v, *self._biases(q, height, width))
            out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :channels]
        # B heads N C -> B H W heads*C
        out = out.transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj(out)

    def _biases(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Of each query (B, heads, N, C) with every row (B, heads, N, height) and every column (B, heads, N, width)."""
        grid = q.unflatten(2, (height, width))
        rows = _position_rows(self.rel_pos_h, height).to(q.dtype)
        columns = _position_rows(self.rel_pos_w, width).to(q.dtype)
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", grid, rows)
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", grid, columns)
        return bias_h.flatten(2, 3).to(q.dtype), bias_w.flatten(2, 3).to(q.dtype)

    @torch.compiler.disable
    def _in_chunks(self, q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
        flat = [x.flatten(0, 1) for x in (q, k, v, bias_h, bias_w)]
        out: Tensor = _ChunkedAttention.apply(*flat, self.scale)
        return out.unflatten(0, q.shape[:2])

    def _with_positions(self, q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values of one width: their inner products are the logits with their biases."""
        height, width = bias_h.shape[-1], bias_w.shape[-1]
        hot = _one_hot_positions(height, width, q.device, q.dtype).expand(*q.shape[:2], -1, -1)
        # the fused kernels want one width for all three
        return (
            torch.cat([q * self.scale, bias_h, bias_w], dim=-1),
            torch.cat([k, hot], dim=-1),
            F.pad(v, (0, height + width)),
        )


def use_fast_attention(encoder: nn.Module) -> nn.Module:
    """Make every attention layer of a SAM image encoder fast, in place; parameters and their names stay as they are."""
    for module in encoder.modules():
        if type(module) is Attention:
            module.__class__ = FastAttention
    return encoder
