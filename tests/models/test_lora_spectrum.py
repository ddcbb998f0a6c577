"""Singular values and truncation of adapters against NumPy's decomposition of the whole update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters
from lorasam_core.models.lora.model import layers_of
from lorasam_core.models.lora.spectrum import effective_rank, norm, rank_of_energy, singular_values, truncate
from tests.tiny_sam import randomise, tiny_sam


def adapted(rank: int, scaling: str = "alpha/r", seed: int = 2, targets: tuple[str, ...] = ("q", "v")):
    sam = add_lora(tiny_sam(), LoRAConfig(rank, alpha=3.0, scaling=scaling, targets=targets))
    randomise(lora_parameters(sam), seed)
    return sam


def updates(sam) -> dict[str, np.ndarray]:
    """factor * B A of every adapted matrix, whole."""
    return {
        f"{path}.{name}": layer.factor
        * (layer.get_parameter(f"B_{name}") @ layer.get_parameter(f"A_{name}")).detach().double().numpy()
        for path, layer in layers_of(sam).items()
        for name in layer.adapted
    }


@pytest.mark.parametrize("rank", [1, 5, 32])
@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/sqrt(r)", "none"])
def test_singular_values_are_those_of_the_whole_update(rank, scaling):
    sam = adapted(rank, scaling, targets=("q", "v", "lin1"))
    found, whole = singular_values(sam), updates(sam)
    assert found.keys() == whole.keys() and len(found) == 6
    for name, matrix in whole.items():
        expected = np.linalg.svd(matrix, compute_uv=False)
        count = len(found[name])
        np.testing.assert_allclose(found[name], expected[:count], rtol=1e-5, atol=1e-8)
        assert np.allclose(expected[count:], 0, atol=1e-6)
        assert norm(found[name]) == pytest.approx(np.linalg.norm(matrix), rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(rank=st.integers(1, 8), kept=st.integers(1, 10), seed=st.integers(0, 9))
def test_the_truncated_update_is_the_nearest_of_its_rank(rank, kept, seed):
    sam = adapted(rank, seed=seed)
    before = updates(sam)
    shapes = [p.shape for p in lora_parameters(sam)]
    assert truncate(sam, kept) is sam and [p.shape for p in lora_parameters(sam)] == shapes
    for name, matrix in updates(sam).items():
        u, values, v = np.linalg.svd(before[name])
        values[kept:] = 0
        nearest = u @ np.diag(values) @ v
        np.testing.assert_allclose(matrix, nearest, atol=1e-5 * max(1e-3, np.abs(before[name]).max()) + 1e-7)
        assert np.linalg.matrix_rank(matrix, tol=1e-6) <= kept


def test_an_adapter_that_learnt_nothing_has_no_rank():
    sam = add_lora(tiny_sam(), LoRAConfig(4))  # B is zero
    for values in singular_values(sam).values():
        assert effective_rank(values) == 0.0 and rank_of_energy(values) == 0
    truncate(sam, 2)
    assert all(np.array_equal(matrix, np.zeros_like(matrix)) for matrix in updates(sam).values())


@given(st.integers(1, 20))
def test_equal_values_use_their_whole_rank(count):
    values = torch.full((count,), 3.0, dtype=torch.float64)
    assert effective_rank(values) == pytest.approx(count)
    assert rank_of_energy(values, 1.0) == count


def test_ranks_of_a_case_made_by_hand():
    values = torch.tensor([3.0, 4.0**0.5, 1.0, 0.0])  # squares 9, 4, 1: shares of 14
    assert [rank_of_energy(values, share) for share in (0.5, 0.64, 0.9, 0.99, 1.0)] == [1, 1, 2, 3, 3]
    share = np.array([3, 2, 1]) / 6
    assert effective_rank(values) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_bad_ranks_and_plain_models_are_refused():
    with pytest.raises(ValueError, match="rank is 0"):
        truncate(adapted(2), 0)
    for call in (singular_values, lambda sam: truncate(sam, 1)):
        with pytest.raises(ValueError, match="no LoRA"):
            call(tiny_sam())
