"""Which rank an adapter uses: the singular values of factor * B A, and the adapter cut down to fewer of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .model import layers_of

Pair = tuple[str, nn.Parameter, nn.Parameter, float]


def _pairs(layers: dict) -> Iterator[Pair]:
    """Path and name of each adapted matrix, its A (rank, in), its B (out, rank) and the factor of their product."""
    for path, layer in layers.items():
        for name in layer.adapted:
            yield f"{path}.{name}", layer.get_parameter(f"A_{name}"), layer.get_parameter(f"B_{name}"), layer.factor


def _svd(a: Tensor, b: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, k), values (k,) descending and V (k, in) of factor * B A in float64, without forming it; on the CPU, for
    not every device has float64.
    """
    left, core_b = torch.linalg.qr(factor * b.cpu().double())
    right, core_a = torch.linalg.qr(a.cpu().double().T)
    u, values, v = torch.linalg.svd(core_b @ core_a.T, full_matrices=False)
    return left @ u, values, v @ right.T


@torch.no_grad()
def singular_values(sam: nn.Module) -> dict[str, Tensor]:
    """Of the update factor * B A of every adapted matrix: {"image_encoder.blocks.0.attn.qkv.q": float64 (k,), ...},
    descending, k the smaller of the rank and the matrix's sides. Raises ValueError without LoRA.
    """
    return {name: _svd(a, b, factor)[1] for name, a, b, factor in _pairs(layers_of(sam))}


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of the singular values' shares (Roy and Vetterli 2007): 1 for one value, k for k equal ones;
    0 where all are 0.
    """
    total = values.sum()
    if total <= 0:
        return 0.0
    share = values[values > 0] / total
    return float(torch.exp(-(share * share.log()).sum()))


def rank_of_energy(values: Tensor, share: float = 0.99) -> int:
    """How many of the largest singular values hold `share` of the sum of their squares; 0 where all are 0."""
    energy = values.double().square().cumsum(0)
    if not len(energy) or energy[-1] <= 0:
        return 0
    return int(torch.searchsorted(energy, share * energy[-1]).clamp(max=len(energy) - 1)) + 1


@torch.no_grad()
def truncate(sam: nn.Module, rank: int) -> nn.Module:
    """Keep the `rank` largest singular values of every update, in place: the nearest matrix of that rank (Eckart and
    Young 1936). A and B keep their shapes; what is beyond the rank is zero.

    Raises ValueError for a rank below 1, and without LoRA.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; give a whole number of at least 1.")
    for _, a, b, factor in _pairs(layers_of(sam)):
        u, values, v = _svd(a, b, factor)
        root = (values[:rank] / factor).sqrt()
        kept = len(root)
        a.zero_()[:kept] = (root[:, None] * v[:rank]).to(a)
        b.zero_()[:, :kept] = (u[:, :rank] * root).to(b)
    return sam


def norm(values: Tensor) -> float:
    """The Frobenius norm of the update, from its singular values."""
    return math.sqrt(float(values.double().square().sum()))
