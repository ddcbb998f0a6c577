"""The compact SAM in segment-anything's own hands, under LoRA, at other sizes, and against computations by hand."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import MaskDecoder
from torch.nn import functional as F

from bench.parity import TOLERANCE, compare, reference_logits
from lorasam_core.masks.generator import MaskGenerator
from lorasam_core.masks.predictor import Predictor
from lorasam_core.models.attention import use_fast_attention
from lorasam_core.models.lite import COARSE, EMBEDDING, FINE, LiteBlock, LiteDecoder, SameConv, build_lite
from lorasam_core.models.lora import (
    LoRAConfig,
    LoRALinear,
    add_lora,
    export_checkpoint,
    hash_base,
    load_adapter,
    lora_parameters,
    merge,
    save_adapter,
    unmerge,
)
from lorasam_core.models.prompt_decoder import PromptDecoder
from lorasam_core.models.sam import load_sam, resize_input
from lorasam_core.training.objectives import decode
from tests.pretrain.made_lite import random_lite, same_padding
from tests.tiny_sam import outputs, randomise, same, snapshot


@pytest.fixture(scope="module")
def sam():
    return random_lite()


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def random_prompts(count: int, grid: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Sparse (count, 3, C) and dense (count, C, grid, grid) prompt embeddings; a position code (1, C, grid, grid)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (count, 3, EMBEDDING), (count, EMBEDDING, grid, grid), (1, EMBEDDING, grid, grid)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


# ------------------------------------------------------------------------------------------------- sizes
def test_lite_has_fewer_than_eight_million_parameters():
    assert sum(parameter.numel() for parameter in build_lite().parameters()) < 8e6


@pytest.mark.parametrize("size", [32, 96, 160])
@torch.no_grad()
def test_any_multiple_of_32_gives_embeddings_and_masks_of_its_own_size(sam, size):
    resized = resize_input(deepcopy(sam), size)
    assert same(resized.state_dict(), sam.state_dict())  # no table depends on the size
    embedding, masks, rated = outputs(resized)
    assert embedding.shape == (1, 512, size // 16, size // 16)
    assert masks.shape == (1, 3, size // 4, size // 4) and rated.shape == (1, 3)
    predictor = SamPredictor(resized)
    predictor.set_image(np.zeros((40, 70, 3), np.uint8))
    assert predictor.predict(np.array([[5, 6]]), np.array([1]))[0].shape == (3, 40, 70)


@pytest.mark.parametrize("size", [0, 16, 48, 500])
def test_other_sizes_are_refused_with_the_multiple_that_will_do(sam, size):
    before = sam.image_encoder.img_size, sam.prompt_encoder.image_embedding_size
    with pytest.raises(ValueError, match=rf"image_size is {size}; give a multiple of 32 pixels"):
        resize_input(sam, size)
    assert (sam.image_encoder.img_size, sam.prompt_encoder.image_embedding_size) == before


def test_the_name_of_the_first_base_is_answered_with_lite():
    with pytest.raises(ValueError, match=r"vit_t.*choose lite\.$"):
        load_sam("vit_t")


# ------------------------------------------------------------------------------------------------- parts
@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 6), outputs=st.integers(1, 6), size=st.tuples(st.integers(1, 5), st.integers(1, 5)))
@torch.no_grad()
def test_a_pointwise_convolution_is_torchs(inputs, outputs, size):
    conv, x = SameConv(inputs, outputs, 1).double(), torch.randn(2, inputs, *size, dtype=torch.float64)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias))


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
    half=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    depthwise=st.booleans(),
)
@torch.no_grad()
def test_convolutions_are_padded_by_tensorflows_formula(kernel, stride, half, depthwise):
    groups = 4 if depthwise else 1
    conv = SameConv(4, 4, kernel, stride, groups).double()
    x = torch.randn(1, 4, 2 * half[0], 2 * half[1], dtype=torch.float64)
    (above, below), (left, right) = (same_padding(side, kernel, stride) for side in x.shape[2:])
    padded = F.pad(x, (left, right, above, below))
    torch.testing.assert_close(conv(x), F.conv2d(padded, conv.weight, conv.bias, stride, groups=groups))


@torch.no_grad()
def test_the_stem_computes_in_float32_under_autocast(sam):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = sam.image_encoder(x)[:, EMBEDDING:]
    with torch.autocast("cpu", torch.bfloat16):
        found = sam.image_encoder(x)
    assert exact.std() > 0.1
    # what is left is the rounding of the result itself
    torch.testing.assert_close(found[:, EMBEDDING:].float(), exact.bfloat16().float(), rtol=2**-7, atol=1e-5)


@torch.no_grad()
def test_a_block_is_segment_anythings_until_its_place_convolution_is_trained():
    torch.manual_seed(0)
    block, x = LiteBlock(8), torch.randn(2, 6, 5, 192)
    own = super(LiteBlock, block).forward
    assert torch.equal(block(x), own(x))
    block.place.weight[:, 0, 1, 2] = 1.0  # each token sees its right neighbour
    moved = torch.zeros_like(x)
    moved[:, :, :-1] = x[:, :, 1:]
    torch.testing.assert_close(block(x), own(x + moved))


# ------------------------------------------------------------------------------------------------- the decoder
@torch.no_grad()
def test_without_details_the_decoder_is_segment_anythings(sam):
    ours, original = sam.mask_decoder, deepcopy(sam.mask_decoder)
    original.__class__ = MaskDecoder
    sparse, dense, position = random_prompts(3, 4)
    plain = torch.randn(1, EMBEDDING, 4, 4, generator=torch.Generator().manual_seed(5))
    silent = torch.cat([plain, torch.zeros(1, 4 * COARSE + 16 * FINE, 4, 4)], dim=1)
    for found, expected in zip(
        ours.predict_masks(silent, position, sparse, dense),
        original.predict_masks(plain, position, sparse, dense),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_details_are_the_stems_features_added_between_the_steps_of_upscaling(sam):
    """By segment-anything's own layers, the projections of strides 8 and 4 added where the sizes are theirs."""
    encoder, decoder = sam.image_encoder, sam.mask_decoder
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    features, embedding = encoder.stem(x), encoder(x)
    coarse, fine = encoder.coarse(features[8]), encoder.fine(features[4])  # 8 x 8 and 16 x 16
    answers = []
    hook = decoder.transformer.register_forward_hook(lambda module, args, out: answers.append(out))
    sparse, dense, position = random_prompts(2, 4)
    masks, _ = decoder.predict_masks(embedding, position, sparse, dense)
    hook.remove()
    ((states, keys),) = answers
    up, norm, first, up_again, second = decoder.output_upscaling
    grown = first(norm(up(keys.transpose(1, 2).reshape(2, EMBEDDING, 4, 4)) + coarse))
    grown = second(up_again(grown) + fine)
    for number, mlp in enumerate(decoder.output_hypernetworks_mlps):
        expected = torch.einsum("nc,nchw->nhw", mlp(states[:, 1 + number]), grown)
        torch.testing.assert_close(masks[:, number], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_masks_change_with_the_details_and_ratings_do_not(sam):
    embedding = sam.image_encoder(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)))
    sparse, dense, position = random_prompts(2, 4)
    masks, rated = sam.mask_decoder.predict_masks(embedding, position, sparse, dense)
    for channels in (slice(EMBEDDING, EMBEDDING + 4 * COARSE), slice(EMBEDDING + 4 * COARSE, None)):
        less = embedding.clone()
        less[:, channels] = 0
        changed, rated_again = sam.mask_decoder.predict_masks(less, position, sparse, dense)
        assert (changed - masks).abs().amax((2, 3)).min() > 1e-2  # each of the masks, by coarse details and by fine
        assert torch.equal(rated_again, rated)


def one_by_one(decoder: LiteDecoder, embeddings, position, sparse, dense, owners) -> tuple[torch.Tensor, torch.Tensor]:
    """A call for each prompt, with its image alone: embeddings (B, C, h, w), position (B, C, h, w)."""
    answers = [
        decoder.predict_masks(embeddings[i][None], position[i][None], sparse[n][None], dense[n][None])
        for n, i in enumerate(owners)
    ]
    return torch.cat([masks for masks, _ in answers]), torch.cat([rated for _, rated in answers])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), chunk=st.integers(1, 4), owners=st.lists(st.integers(0, 2), min_size=1, max_size=6))
@torch.no_grad()
def test_prompts_of_several_images_are_answered_as_image_by_image(sam, seed, chunk, owners):
    """Where the image travels in the sum with the dense embeddings, its details travel too."""
    embeddings = torch.randn(3, 512, 4, 4, generator=torch.Generator().manual_seed(seed))
    sparse, dense, _ = random_prompts(len(owners), 4, seed)
    found = decode(sam, embeddings, torch.tensor(owners), sparse, dense, chunk)
    position = sam.prompt_encoder.get_dense_pe().expand(3, -1, -1, -1)
    expected = one_by_one(sam.mask_decoder, embeddings, position, sparse, dense, owners)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), images=st.integers(1, 3), each=st.integers(1, 3), one_code=st.booleans())
@torch.no_grad()
def test_each_of_several_images_has_the_next_prompts(sam, seed, images, each, one_code):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(images, 512, 4, 4, generator=generator)
    position = torch.randn(1 if one_code else images, EMBEDDING, 4, 4, generator=generator)
    sparse, dense, _ = random_prompts(images * each, 4, seed)
    found = sam.mask_decoder.predict_masks(embeddings, position, sparse, dense)
    owners = np.repeat(np.arange(images), each)
    position = position.expand(images, -1, -1, -1)
    expected = one_by_one(sam.mask_decoder, embeddings, position, sparse, dense, owners)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 4), grid=st.integers(1, 4))
@torch.no_grad()
def test_the_prepared_decoder_gives_the_ratings_and_masks_of_the_decoder(exact_decoder, seed, count, grid):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(1, 512, grid, grid, generator=generator, dtype=torch.float64)
    sparse, dense, position = random_prompts(count, grid, seed, torch.float64)
    masks, rated = exact_decoder.predict_masks(embedding, position, sparse, dense[:1].expand(count, -1, -1, -1))
    prepared = PromptDecoder(exact_decoder, embedding, dense[:1], position)
    ours, tokens, keys = prepared.rate(sparse)
    torch.testing.assert_close(ours, rated, rtol=1e-9, atol=1e-9)
    some = torch.rand(count, 4, generator=generator) > 0.6
    for chosen in (torch.ones_like(some), some, torch.zeros_like(some)):
        torch.testing.assert_close(prepared.masks(tokens, keys, chosen), masks[chosen], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def exact_decoder() -> LiteDecoder:
    return random_lite(seed=1).mask_decoder.double()


# ------------------------------------------------------------------------------------------------- segment-anything
@pytest.mark.parametrize("prompt", ["point", "points", "box", "mask"])
@torch.no_grad()
def test_segment_anythings_predictor_gives_the_masks_of_ours(sam, image, prompt):
    original, ours = SamPredictor(sam), Predictor(use_fast_attention_in_a_copy(sam))
    answers = []
    for predictor in (original, ours):
        predictor.set_image(image)
        asked = {
            "point": {"point_coords": np.array([[30, 20]]), "point_labels": np.array([1])},
            "points": {"point_coords": np.array([[30, 20], [5, 40]]), "point_labels": np.array([1, 0])},
            "box": {"box": np.array([10, 8, 60, 40]), "multimask_output": False},
        }
        asked["mask"] = asked["box"] | {"mask_input": np.linspace(-3, 3, 256, dtype=np.float32).reshape(1, 16, 16)}
        answers.append(predictor.predict(**asked[prompt], return_logits=True))
    (logits, rated, low), (our_logits, our_rated, our_low) = answers
    assert logits.shape[1:] == image.shape[:2] and 0 < (logits > 0).mean() < 1
    assert ((logits > 0) == (our_logits > 0))[np.abs(logits) > TOLERANCE].all()
    np.testing.assert_allclose(our_logits, logits, atol=TOLERANCE, rtol=1e-4)
    np.testing.assert_allclose(our_low, low, atol=TOLERANCE, rtol=1e-4)
    np.testing.assert_allclose(our_rated, rated, atol=1e-5, rtol=1e-4)


def use_fast_attention_in_a_copy(sam):
    copied = deepcopy(sam)
    use_fast_attention(copied.image_encoder)
    return copied


@pytest.mark.parametrize("chosen", [{}, {"crop_n_layers": 1}, {"box_nms_thresh": 0.7}, {"min_mask_region_area": 60}])
def test_segment_anythings_mask_generator_gives_the_masks_of_ours(sam, image, chosen):
    everything = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    settings = everything | {"crop_nms_thresh": 1.0} | chosen
    expected = SamAutomaticMaskGenerator(sam, **settings).generate(image)
    found = MaskGenerator(use_fast_attention_in_a_copy(sam), **settings).generate(image)
    report = compare(found, expected, reference_logits(sam, image), settings)
    assert len(expected) > 1 and 0 < expected[0]["area"] < image[..., 0].size
    assert report["pixels_far"] == report["boxes_differ"] == report["unmatched"] == 0, report
    assert max(report["iou_error"], report["stability_error"]) <= TOLERANCE, report
    assert report["matched"] == len(found) == len(expected)


# ------------------------------------------------------------------------------------------------- LoRA
@pytest.fixture
def adapted():
    sam = add_lora(random_lite(), LoRAConfig(4, targets=("q", "v")))
    randomise(lora_parameters(sam), scale=0.2)
    return sam


@torch.no_grad()
def test_lora_adapts_query_and_value_of_all_six_blocks_and_nothing_else(adapted):
    layers = {path for path, module in adapted.named_modules() if isinstance(module, LoRALinear)}
    assert layers == {f"image_encoder.blocks.{number}.attn.qkv" for number in range(6)}
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 6 * 2 * 4 * (192 + 192)
    base, width = random_lite(), 192
    for number in range(6):
        x = torch.randn(1, 2, 3, width)
        qkv, plain = (model.image_encoder.blocks[number].attn.qkv(x).split(width, -1) for model in (adapted, base))
        assert torch.equal(qkv[1], plain[1])  # keys are not asked for
        assert not torch.equal(qkv[0], plain[0]) and not torch.equal(qkv[2], plain[2])
    embedding, untouched = outputs(adapted)[0], outputs(base)[0]
    assert not torch.allclose(embedding[:, :EMBEDDING], untouched[:, :EMBEDDING], atol=1e-2)
    assert torch.equal(embedding[:, EMBEDDING:], untouched[:, EMBEDDING:])  # details come before the blocks


@torch.no_grad()
def test_merging_keeps_the_outputs_and_unmerging_every_bit(adapted):
    before, weights = outputs(adapted), snapshot(adapted)
    merge(adapted)
    assert snapshot(adapted).keys() == random_lite().state_dict().keys()
    assert all(torch.equal(found, expected) for found, expected in zip(outputs(adapted), before, strict=True))
    unmerge(adapted)
    assert same(snapshot(adapted), weights)


@torch.no_grad()
def test_an_adapter_is_saved_loaded_and_refused_by_another_base(adapted, tmp_path):
    path, fresh, other = tmp_path / "adapter.safetensors", random_lite(), random_lite(seed=1)
    save_adapter(adapted, path)
    load_adapter(fresh, path)
    assert all(torch.equal(a, b) for a, b in zip(outputs(fresh), outputs(adapted), strict=True))
    before = snapshot(other)
    with pytest.raises(ValueError, match=rf"for base_hash {hash_base(adapted)}, the model has {hash_base(other)}"):
        load_adapter(other, path)
    assert same(snapshot(other), before)


@torch.no_grad()
def test_an_exported_checkpoint_loads_as_lite_with_the_same_outputs(adapted, tmp_path):
    path = tmp_path / "adapted.pth"
    export_checkpoint(adapted, path)
    loaded = load_sam("lite", checkpoint=path, image_size=64)
    assert loaded.base_name == "lite" and not any(isinstance(m, LoRALinear) for m in loaded.modules())
    for found, expected in zip(outputs(loaded), outputs(adapted), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(outputs(loaded)[1], outputs(random_lite())[1], atol=1e-2)


def test_a_checkpoint_of_another_model_is_not_taken_for_lite(tmp_path):
    state = build_lite().state_dict()
    state.pop("image_encoder.fine.weight")
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"does not hold a lite model .*image_encoder\.fine\.weight"):
        load_sam("lite", checkpoint=tmp_path / "less.pth")
