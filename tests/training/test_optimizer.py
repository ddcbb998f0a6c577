"""The two optimisers: what their weight decay does where the loss asks nothing."""

from __future__ import annotations

import torch

from lorasam_core.training.objectives import Objective
from tests.training.test_loop import adapted, run, weights


def norms(sam):
    return {name: float(value.norm()) for name, value in weights(sam).items() if ".A_" in name}


def test_adamw_spares_what_the_loss_asks_nothing_of_and_adam_takes_it_to_zero(tmp_path, monkeypatch):
    """Without a gradient AdamW multiplies by 1 - rate * decay a step (Loshchilov and Hutter 2019, algorithm 2); Adam
    goes a whole step of the learning rate towards zero.
    """
    monkeypatch.setattr(Objective, "forward", lambda self, batch, step: nothing(self))
    settings = {"steps": 4, "validate_every": 4, "warmup": 0.0, "weight_decay": 0.01, "learning_rate": 1e-2}
    start = norms(adapted())
    sums = {kind: norms(run(tmp_path / kind, optimizer=kind, **settings)[2]) for kind in ("adamw", "adam")}
    for name, norm in start.items():
        assert 1 - 4 * 1e-4 <= sums["adamw"][name] / norm < 1
        assert sums["adam"][name] < 0.9 * norm


def nothing(objective):
    loss = sum(0.0 * p.sum() for p in objective.sam.parameters() if p.requires_grad)
    return loss, {"accuracy": torch.tensor(0.5), "miou": torch.tensor(0.5)}
