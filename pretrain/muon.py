"""Muon for the matrices of a network's linear layers, AdamW for all its other parameters, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MuonAdamW:
    """What `loop.fit` asks of an optimizer, over two: Muon (Jordan et al. 2024) orthogonalises the momentum of each
    hidden matrix; embeddings, convolutions, norms and biases keep AdamW (Loshchilov & Hutter 2019).

    muon: Muon's learning rate over AdamW's; slow: parameters that AdamW takes at `slowed` times its rate. The learning
    rate that is set on the first of `param_groups` is AdamW's; the others follow in proportion at the next step.
    """

    def __init__(self, model: nn.Module, rate: float, muon: float, slow: Iterable[nn.Parameter], slowed: float) -> None:
        hidden = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
        late = [p for p in slow if p.requires_grad]
        taken = {id(p) for p in (*hidden, *late)}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": late}]
        self.adamw = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=rate, weight_decay=0.05, betas=(0.9, 0.98)
        )
        self.muon = torch.optim.Muon(hidden, lr=muon * rate, weight_decay=0.01)
        self.scales = [*(1.0, slowed)[: len(self.adamw.param_groups)], muon]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Both optimizers' groups, AdamW's first."""
        return self.adamw.param_groups + self.muon.param_groups

    def step(self) -> None:
        """One step of both, each group at its share of the first group's learning rate."""
        rate = self.adamw.param_groups[0]["lr"]
        for group, scale in zip(self.param_groups, self.scales, strict=True):
            group["lr"] = rate * scale
        self.adamw.step()
        self.muon.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        self.adamw.zero_grad(set_to_none)
        self.muon.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Both states, by name."""
        return {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.adamw.load_state_dict(state["adamw"])
        self.muon.load_state_dict(state["muon"])
