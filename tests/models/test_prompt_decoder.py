"""The prepared mask decoder against segment-anything's own, for random geometries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

from lorasam_core.models.prompt_decoder import PromptDecoder


def random_decoder(width: int, heads: int, depth: int, seed: int) -> MaskDecoder:
    torch.manual_seed(seed)
    transformer = TwoWayTransformer(depth=depth, embedding_dim=width, num_heads=heads, mlp_dim=2 * width)
    decoder = MaskDecoder(transformer_dim=width, transformer=transformer, iou_head_hidden_dim=width)
    with torch.no_grad():
        for parameter in decoder.parameters():  # biases and norms as if trained
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return decoder.double().eval()


@settings(max_examples=30, deadline=None)
@given(
    width=st.sampled_from([16, 32, 48]),
    heads=st.sampled_from([1, 2, 4]),
    depth=st.integers(1, 3),
    height=st.integers(1, 5),
    columns=st.integers(1, 6),
    prompts=st.integers(1, 5),
    tokens=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_ratings_and_masks_are_those_of_the_decoder(width, heads, depth, height, columns, prompts, tokens, seed):
    decoder = random_decoder(width, heads, depth, seed)
    image, position = torch.randn(2, 1, width, height, columns, dtype=torch.float64)
    sparse = 2 * torch.randn(prompts, tokens, width, dtype=torch.float64)
    nothing = torch.zeros(prompts, width, height, columns, dtype=torch.float64)
    masks, rated = decoder.predict_masks(image, position, sparse, nothing)
    prepared = PromptDecoder(decoder, image, torch.zeros_like(image), position)
    ours, mask_tokens, keys = prepared.rate(sparse)
    torch.testing.assert_close(ours, rated, rtol=1e-9, atol=1e-9)
    for chosen in (torch.ones(prompts, 4).bool(), torch.rand(prompts, 4) > 0.6):
        found = prepared.masks(mask_tokens, keys, chosen)
        torch.testing.assert_close(found, masks[chosen], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chosen", [[[False] * 4] * 3, [[True, False, False, False], [False] * 4, [False] * 4]])
@torch.no_grad()
def test_only_what_is_wanted_is_upscaled(chosen):
    decoder = random_decoder(16, 2, 2, 0)
    image, position = torch.randn(2, 1, 16, 4, 4, dtype=torch.float64)
    prepared = PromptDecoder(decoder, image, torch.zeros_like(image), position)
    upscaled = []
    decoder.output_upscaling.register_forward_hook(lambda module, args, out: upscaled.append(len(out)))
    _, tokens, keys = prepared.rate(torch.randn(3, 2, 16, dtype=torch.float64))
    assert not upscaled  # ratings need no masks
    wanted = torch.tensor(chosen)
    found = prepared.masks(tokens, keys, wanted)
    assert found.shape == (int(wanted.sum()), 16, 16) and sum(upscaled) == int(wanted.any(1).sum())
