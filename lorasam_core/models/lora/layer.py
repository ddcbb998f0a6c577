"""The LoRA layer: its configuration, and a frozen Linear with low-rank updates (Hu et al. 2021, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = {"attn.qkv": ("q", "k", "v"), "attn.proj": ("proj",), "mlp.lin1": ("lin1",), "mlp.lin2": ("lin2",)}
TARGETS = tuple(target for slices in LAYERS.values() for target in slices)
SCALINGS = {"alpha/r": lambda a, r: a / r, "alpha/sqrt(r)": lambda a, r: a / math.sqrt(r), "none": lambda a, r: 1.0}


@dataclass(frozen=True)
class LoRAConfig:
    """What is adapted and how: W x becomes W x + factor * B A dropout(x), with A (rank, in) and B (out, rank).

    The factor is alpha / r, alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023) or, with scaling "none", 1 whatever alpha is.
    `alpha` None is the rank; `targets` are any of q, k, v, proj, lin1, lin2; `blocks` None is every block.
    Raises ValueError for a value out of range.
    """

    rank: int
    alpha: float | None = None
    scaling: str = "alpha/r"
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ValueError(f"rank is {self.rank!r}; give a whole number of at least 1.")
        alpha = float(self.rank if self.alpha is None else self.alpha)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha!r}; give a number above 0, or None for alpha = rank.")
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling is {self.scaling!r}; choose one of {', '.join(SCALINGS)}.")
        asked = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        if not asked or set(asked) - set(TARGETS):
            raise ValueError(f"targets is {self.targets!r}; choose from {', '.join(TARGETS)}.")
        if self.blocks is not None and not (self.blocks and all(isinstance(b, int) and b >= 0 for b in self.blocks)):
            raise ValueError(f"blocks is {self.blocks!r}; give block numbers from 0, or None for all.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; give a number from 0 to below 1.")
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "targets", tuple(target for target in TARGETS if target in asked))
        object.__setattr__(self, "blocks", None if self.blocks is None else tuple(sorted(set(self.blocks))))

    @property
    def factor(self) -> float:
        """What B A is multiplied by."""
        return SCALINGS[self.scaling](self.alpha, self.rank)


class LoRALinear(nn.Module):
    """A frozen Linear with low-rank updates of some slices of its output.

    `slices` names the equal parts of the output: "q", "k", "v", or one name for the whole. Each adapted one has the
    parameters `A_<name>` (rank, in) and `B_<name>` (out / number of slices, rank). B is zero at first: nothing changes.
    """

    def __init__(self, base: nn.Linear, slices: tuple[str, ...], config: LoRAConfig) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.slices, self.adapted = slices, tuple(name for name in slices if name in config.targets)
        self.rank, self.factor = config.rank, config.factor
        self.dropout = nn.Dropout(config.dropout)
        # a token's multiply-adds in a training step: 3 for each entry of A and B, which also copy the output several
        # times (measured: another 2), against one for each entry of the matrix, whose gradient is then computed whole
        ends = base.in_features + base.out_features // len(slices)
        self.on_matrix = 5 * config.rank * ends * len(self.adapted) >= base.in_features * base.out_features
        for name in self.adapted:
            # drawn on the CPU, so that a seed gives the same adapter on every device
            a = torch.empty(config.rank, base.in_features, device="meta" if base.weight.is_meta else "cpu")
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))  # as loralib and PEFT do
            b = base.weight.new_zeros(base.out_features // len(slices), config.rank)
            self.register_parameter(f"A_{name}", nn.Parameter(a.to(base.weight)))
            self.register_parameter(f"B_{name}", nn.Parameter(b))
        self.train(base.training)

    def weight(self) -> Tensor:
        """The adapted matrix W + factor * B A, (out, in), computed in float32 or better, even under autocast."""
        parts = list(self.base.weight.chunk(len(self.slices)))
        exact = torch.promote_types(self.base.weight.dtype, torch.float32)
        kind = "cpu" if self.base.weight.is_meta else self.base.weight.device.type  # there is no autocast on meta
        with torch.autocast(kind, enabled=False):
            for name in self.adapted:
                i, a, b = self.slices.index(name), self.get_parameter(f"A_{name}"), self.get_parameter(f"B_{name}")
                update = torch.addmm(parts[i].to(exact), b.to(exact), a.to(exact), alpha=self.factor)
                parts[i] = update.to(parts[i])
        return torch.cat(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype that the base gives.

        The update is added to the matrix, or applied to the tokens where that is cheaper (a small rank, in training) or
        where the input is dropped out.
        """
        drops = self.training and self.dropout.p > 0
        if not drops and (self.on_matrix or not torch.is_grad_enabled()):
            return F.linear(x, self.weight(), self.base.bias)
        parts = list(self.base(x).chunk(len(self.slices), -1))
        # one product for all slices, which share a dropout mask: (..., in) -> (..., adapted * rank)
        low = F.linear(self.dropout(x), torch.cat([self.get_parameter(f"A_{name}") for name in self.adapted]))
        for name, part in zip(self.adapted, low.chunk(len(self.adapted), -1), strict=True):
            i, b = self.slices.index(name), self.get_parameter(f"B_{name}")
            parts[i] = parts[i] + F.linear(part, self.factor * b)
        return torch.cat(parts, -1)

    @property
    def width(self) -> int:
        """The largest rank that B A can have."""
        return min(self.base.in_features, self.base.out_features // len(self.slices))

    def extra_repr(self) -> str:
        return f"adapted={self.adapted}, rank={self.rank}, factor={self.factor:g}"


def lora_parameter_count(width: int, depth: int, rank: int, targets: tuple[str, ...], mlp_ratio: float = 4) -> int:
    """Trainable scalars by formula: inputs + outputs for each target and block, times the rank."""
    wide = {"lin1", "lin2"}
    return depth * rank * sum(width + (int(width * mlp_ratio) if t in wide else width) for t in set(targets))
