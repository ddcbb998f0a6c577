"""Muon and AdamW as one optimizer, against torch's two and the formula."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pretrain.muon import MuonAdamW


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def step(model: nn.Module, *optimizers, seed: int) -> None:
    x = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    model(x).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def test_matrices_of_linear_layers_take_muon_and_the_rest_adamw():
    ours, theirs = network(), network()
    both = MuonAdamW(ours, 1e-3, 1e-2)
    hidden = [theirs[2].weight, theirs[4].weight]
    muon = torch.optim.Muon(hidden, lr=1e-2, weight_decay=0.01)
    others = [theirs[0].weight, theirs[0].bias, theirs[2].bias, theirs[3].weight, theirs[3].bias, theirs[4].bias]
    adamw = torch.optim.AdamW(others, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    for seed in range(4):
        scale = 1 / (seed + 1)
        for group in both.param_groups:
            group["lr"] = 1e-3 * scale  # what loop.fit sets: one learning rate for all
        muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = 1e-2 * scale, 1e-3 * scale
        step(ours, both, seed=seed)
        step(theirs, muon, adamw, seed=seed)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_of_a_matrix_is_nearly_orthogonal():
    model = network()
    before = model[4].weight.detach().clone()
    step(model, MuonAdamW(model, 1e-3, 1.0), seed=1)
    singular = torch.linalg.svdvals(model[4].weight.detach() - 0.99 * before)  # 0.99: weight decay
    assert (singular > 0.5).all() and (singular < 1.5).all()


def test_frozen_parameters_stay():
    model = network()
    model[2].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    step(model, MuonAdamW(model, 1e-3, 1e-2), seed=1)
    after = model.state_dict()
    assert {name for name in after if torch.equal(after[name], before[name])} == {"2.weight", "2.bias"}


def test_a_state_is_taken_up_where_it_was_left():
    ours, theirs = network(), network()
    one, other = MuonAdamW(ours, 1e-3, 1e-2), MuonAdamW(theirs, 1e-3, 1e-2)
    for seed in range(3):
        step(ours, one, seed=seed)
        step(theirs, other, seed=seed)
    fresh = MuonAdamW(theirs, 1e-3, 1e-2)
    fresh.load_state_dict(copy.deepcopy(other.state_dict()))
    step(ours, one, seed=9)
    step(theirs, fresh, seed=9)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
