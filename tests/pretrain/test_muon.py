"""Muon and AdamW as one optimizer, against torch's two and the formula."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pretrain.muon import MuonAdamW

RATE, MUON, SLOWED = 1e-3, 10.0, 0.25


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def step(model: nn.Module, *optimizers, seed: int) -> None:
    x = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    model(x).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def both_of(model: nn.Module, muon: float = MUON) -> MuonAdamW:
    """The convolution is slow."""
    return MuonAdamW(model, RATE, muon, model[0].parameters(), SLOWED)


def test_matrices_of_linear_layers_take_muon_and_the_rest_adamw_slowly_or_not():
    ours, theirs = network(), network()
    both = both_of(ours)
    muon = torch.optim.Muon([theirs[2].weight, theirs[4].weight], lr=MUON * RATE, weight_decay=0.01)
    plain = [theirs[2].bias, theirs[3].weight, theirs[3].bias, theirs[4].bias]
    options = {"weight_decay": 0.05, "betas": (0.9, 0.98)}
    adamw = torch.optim.AdamW(plain, lr=RATE, **options)
    slow = torch.optim.AdamW(theirs[0].parameters(), lr=SLOWED * RATE, **options)
    for seed in range(4):
        now = RATE / (seed + 1)
        for group in both.param_groups:
            group["lr"] = now  # what loop.fit sets: one learning rate for all
        for optimizer, share in ((muon, MUON), (adamw, 1), (slow, SLOWED)):
            optimizer.param_groups[0]["lr"] = share * now
        step(ours, both, seed=seed)
        step(theirs, muon, adamw, slow, seed=seed)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_every_trained_parameter_is_in_one_group():
    model = network()
    model[4].requires_grad_(False)
    found = [p for group in both_of(model).param_groups for p in group["params"]]
    assert len({id(p) for p in found}) == len(found)
    assert {id(p) for p in found} == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_step_of_a_matrix_is_nearly_orthogonal():
    model = network()
    before = model[4].weight.detach().clone()
    step(model, both_of(model, muon=1 / RATE), seed=1)  # a learning rate of 1
    singular = torch.linalg.svdvals(model[4].weight.detach() - 0.99 * before)  # 0.99: weight decay
    assert (singular > 0.5).all() and (singular < 1.5).all()


@pytest.mark.parametrize("frozen", [{2}, {0}, {0, 3}])  # of all slow parameters none may be left
def test_frozen_parameters_stay(frozen):
    model = network()
    for number in frozen:
        model[number].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    step(model, both_of(model), seed=1)
    after = model.state_dict()
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {f"{number}.{name}" for number in frozen for name in ("weight", "bias")}


def test_without_slow_parameters_the_rates_keep_their_proportion():
    model = network()
    model[0].requires_grad_(False)
    optimizer = both_of(model)
    optimizer.param_groups[0]["lr"] = 2e-4
    step(model, optimizer, seed=1)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-4, pytest.approx(MUON * 2e-4)]


def test_a_state_is_taken_up_where_it_was_left():
    ours, theirs = network(), network()
    one, other = both_of(ours), both_of(theirs)
    for seed in range(3):
        step(ours, one, seed=seed)
        step(theirs, other, seed=seed)
    fresh = both_of(theirs)
    fresh.load_state_dict(copy.deepcopy(other.state_dict()))
    step(ours, one, seed=9)
    step(theirs, fresh, seed=9)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
