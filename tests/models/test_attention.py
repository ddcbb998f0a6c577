"""Fast attention against segment-anything's own, output and gradients, over shapes, tables, precisions and wrappers."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling.image_encoder import Attention, Block
from torch import Tensor

from lorasam_core.models import attention
from lorasam_core.models.attention import FastAttention, use_fast_attention
from lorasam_core.models.lora import LoRAConfig, add_lora, merge
from tests.tiny_sam import outputs, same, snapshot, tiny_sam


@pytest.fixture(scope="module", autouse=True, params=["a CPU's way", "a GPU's way"])
def never_the_original(request: pytest.FixtureRequest) -> Iterator[None]:
    """These layers are small: without this, a CPU would take segment-anything's own path, or one chunk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "FEW_TOKENS", 0)
        patch.setattr(attention, "CACHE", 200)
        if request.param == "a GPU's way":
            patch.setattr(attention, "IN_CHUNKS", ())
        yield


def layer(heads: int, channels: int, table: tuple[int, int] | None, bias: bool = True, seed: int = 0) -> Attention:
    """segment-anything's attention, every parameter random; table: grid that its position tables are for."""
    torch.manual_seed(seed)
    made = Attention(heads * channels, heads, bias, use_rel_pos=table is not None, input_size=table)
    for name, parameter in made.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return made


def fast(original: Attention) -> FastAttention:
    made = copy.deepcopy(original)
    made.__class__ = FastAttention
    return made


def output_and_gradients(module: Attention, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = module(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *module.parameters()])]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Relative to each tensor's largest entry, or a tenth of that of all, because some gradients cancel to nothing."""
    found, expected = [a.detach() for a in found], [b.detach() for b in expected]
    largest = max(float(b.abs().max()) for b in expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(float(b.abs().max()), 0.1 * largest)
        assert float((a - b).abs().max()) <= tolerance * scale


grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3), grid=grids, heads=st.integers(1, 3), channels=st.sampled_from([4, 7, 16]),
    bias=st.booleans(), seed=st.integers(0, 3),
)  # fmt: skip
def test_equals_the_original_on_its_own_grid(batch, grid, heads, channels, bias, seed):
    original = layer(heads, channels, grid, bias, seed)
    x = torch.randn(batch, *grid, heads * channels)
    assert_close(output_and_gradients(fast(original), x), output_and_gradients(original, x), 3e-6)


@settings(max_examples=30, deadline=None)
@given(grid=grids, table=grids, heads=st.integers(1, 2))
def test_equals_the_original_where_tables_are_resized(grid, table, heads):
    original = layer(heads, 8, table)
    x = torch.randn(2, *grid, heads * 8)
    assert_close(output_and_gradients(fast(original), x), output_and_gradients(original, x), 3e-6)


def test_equals_the_original_without_relative_positions():
    original = layer(2, 8, None)
    x = torch.randn(2, 4, 3, 16)
    assert_close(output_and_gradients(fast(original), x), output_and_gradients(original, x), 3e-6)


def test_equals_the_original_at_the_sizes_of_vit_b():
    original = layer(12, 64, (14, 14))
    x = torch.randn(2, 14, 14, 768)
    with torch.no_grad():
        assert_close([fast(original)(x)], [original(x)], 1e-5)


def test_double_precision_is_equal_to_its_own_rounding():
    original = layer(2, 8, (5, 4)).double()
    x = torch.randn(2, 5, 4, 16, dtype=torch.float64)
    assert_close(output_and_gradients(fast(original), x), output_and_gradients(original, x), 1e-13)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_as_close_to_exact_as_the_original(autocast):
    original = layer(2, 16, (6, 4))
    x = torch.randn(3, 6, 4, 32)
    exact = original(x)
    kind = torch.float32 if autocast else torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain, quick = original.to(kind)(x.to(kind)), fast(original).to(kind)(x.to(kind))
    assert quick.dtype == plain.dtype == torch.bfloat16
    error_plain, error_quick = ((y.float() - exact).abs().max() / exact.abs().max() for y in (plain, quick))
    assert error_quick < max(2 * error_plain, 0.01) and error_quick < 0.03


def test_gradients_in_bfloat16_point_the_same_way():
    original = layer(2, 16, (6, 4))
    x = torch.randn(3, 6, 4, 32)
    exact = output_and_gradients(original, x)
    with torch.autocast("cpu", torch.bfloat16):
        quick = output_and_gradients(fast(original), x)
    for a, b in zip(quick[1:], exact[1:], strict=True):
        if float(b.abs().max()) > 1e-3:  # a bias of the keys changes nothing: its gradient is rounding alone
            assert torch.cosine_similarity(a.float().flatten(), b.flatten(), 0) > 0.995


@pytest.mark.parametrize("image_size", [64, 40])
def test_a_whole_encoder_keeps_its_parameters_and_its_output(image_size):
    sam = tiny_sam(image_size=image_size)  # 8 x 8 tokens in windows of 3: the last ones are padded
    before, expected = snapshot(sam), outputs(sam)
    kinds = {type(block.attn) for block in use_fast_attention(sam.image_encoder).blocks}
    assert kinds == {FastAttention} and same(snapshot(sam), before)
    assert_close(outputs(sam), expected, 1e-5)


@settings(max_examples=15, deadline=None)
@given(window=st.integers(1, 9), height=st.integers(1, 9), width=st.integers(1, 9))
def test_windows_and_padding_on_any_grid(window, height, width):
    torch.manual_seed(window)
    block = Block(16, 2, use_rel_pos=True, window_size=window, input_size=(height, width))
    for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
        torch.nn.init.normal_(table)
    x = torch.randn(2, height, width, 16)
    with torch.no_grad():
        expected = block(x)
        assert_close([use_fast_attention(block)(x)], [expected], 3e-6)


@pytest.mark.parametrize("targets", [("q", "v"), ("proj",), ("q", "k", "v", "proj", "lin1", "lin2")])
def test_every_layer_that_lora_can_replace_may_be_replaced(targets):
    plain, quick = (add_lora(tiny_sam(), LoRAConfig(2, targets=targets)) for _ in range(2))
    use_fast_attention(quick.image_encoder)
    with torch.no_grad():
        assert_close(outputs(quick), outputs(plain), 1e-5)
        assert_close(outputs(merge(quick)), outputs(plain), 1e-5)


def test_tables_computed_in_inference_mode_serve_training():
    attention._relative_index.cache_clear()
    attention._one_hot_positions.cache_clear()
    module = fast(layer(2, 8, (3, 4)))
    x = torch.randn(1, 3, 4, 16)
    with torch.inference_mode():
        expected = module(x)
    found = output_and_gradients(module, x)[0]  # saves the cached index for its backward pass
    assert torch.equal(found, expected)


def test_few_tokens_take_the_original_path_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [], Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda self, x: calls.append(1) or original(self, x))
    made = fast(layer(2, 8, (4, 4)))
    monkeypatch.setattr(attention, "FEW_TOKENS", 15)
    made(torch.randn(1, 4, 4, 16))
    assert not calls
    monkeypatch.setattr(attention, "FEW_TOKENS", 16)
    made(torch.randn(1, 4, 4, 16))
    assert calls
