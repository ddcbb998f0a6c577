"""Blocks that are recomputed or compiled in training: the same gradients, less kept, and a model left as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lorasam_core.models import attention
from lorasam_core.models.attention import use_fast_attention
from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters, merge
from lorasam_core.training.blocks import check_compile, training_blocks
from tests.tiny_sam import outputs, randomise, same, snapshot, tiny_sam


def adapted(dropout: float = 0.0, fast: bool = True, depth: int = 4):
    """In training mode, with random A and B."""
    sam = tiny_sam(depth=depth)
    if fast:
        use_fast_attention(sam.image_encoder)
    add_lora(sam, LoRAConfig(4, targets=("q", "v", "lin1"), dropout=dropout))
    randomise(lora_parameters(sam), scale=0.2)
    return sam.train()


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def step(sam, autocast: bool = False, count: int = 2, **options) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """The loss, the gradients of A and B, and the bytes of other tensors than parameters kept for the backward pass."""
    kept: dict[int, int] = {}
    known = {p.untyped_storage().data_ptr() for p in sam.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with training_blocks(sam.image_encoder, **options):
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = sam.image_encoder(images(count)).float().square().mean()
        found = torch.autograd.grad(loss, lora_parameters(sam))
    return loss, list(found), sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_checkpointed_gradients_are_the_same_and_less_is_kept(monkeypatch, dropout, autocast, fast):
    monkeypatch.setattr(attention, "FEW_TOKENS", 0)  # the fused kernel also for the tiny model
    sam = adapted(dropout, fast)
    loss, gradients, kept = step(sam, autocast)
    again, recomputed, kept_less = step(sam, autocast, checkpointing=True)
    assert torch.equal(loss, again) and all(g.abs().max() > 0 for g in gradients)
    assert all(torch.equal(a, b) for a, b in zip(gradients, recomputed, strict=True))
    assert kept_less < 0.3 * kept


def test_the_model_is_left_as_it_was_and_so_is_evaluation():
    sam = adapted().eval()
    before, names, expected = snapshot(sam), [name for name, _ in sam.named_modules()], outputs(sam)
    with pytest.raises(KeyError), training_blocks(sam.image_encoder, checkpointing=True):
        assert same(before, snapshot(sam)) and names == [name for name, _ in sam.named_modules()]
        assert all(torch.equal(a, b) for a, b in zip(expected, outputs(sam), strict=True))
        raise KeyError
    assert not any("forward" in block.__dict__ for block in sam.image_encoder.blocks)
    merge(copy.deepcopy(sam))


def test_nothing_is_wrapped_unless_asked():
    sam = adapted()
    with training_blocks(sam.image_encoder):
        assert not any("forward" in block.__dict__ for block in sam.image_encoder.blocks)


@pytest.fixture(scope="module")
def compiler():
    """A compiler that works, in this process alone: kernels of a CPU do not use the pool of processes beside it."""
    with torch._inductor.config.patch(compile_threads=1):
        try:
            check_compile("cpu")
        except ValueError as error:
            pytest.skip(str(error))
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "autocast"), [(False, False), (True, True)])
def test_compiled_gradients_agree(compiler, autocast, checkpointing):
    sam = adapted()
    before = snapshot(sam)
    loss, gradients, _ = step(sam, autocast)
    again, compiled, _ = step(sam, autocast, compiled=True, checkpointing=checkpointing)
    tolerance = 0.05 if autocast else 1e-4
    assert again.item() == pytest.approx(loss.item(), rel=tolerance)
    for a, b in zip(compiled, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))
    assert same(before, snapshot(sam))


@pytest.mark.slow
def test_neither_evaluation_nor_depth_compiles_again(compiler):
    sam = adapted(depth=6)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with training_blocks(sam.image_encoder, compiled=True):
        sam.image_encoder(images()).mean().backward()
        graphs = counters["stats"]["unique_graphs"]
        for _ in range(2):
            with torch.no_grad():
                sam.eval().image_encoder(images(1))
            sam.train().image_encoder(images()).mean().backward()
    assert counters["stats"]["unique_graphs"] == graphs == 2  # windowed blocks and global ones
