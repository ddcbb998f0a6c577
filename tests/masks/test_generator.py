"""The mask generator against segment-anything's own, on a tiny random SAM."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from lorasam_core.masks import generator as mask_generator
from lorasam_core.masks.generator import (
    QUICK_SETTINGS,
    STUDY_SETTINGS,
    MaskGenerator,
    Predictor,
    as_rgb,
    evaluating,
)

ALL_MASKS = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def sam() -> Sam:
    """A SAM of 64 pixels, two blocks of width 32, whose random masks vary with the image."""
    torch.manual_seed(0)
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, out_chans=32, norm_layer=norm, use_rel_pos=True,
        window_size=4, global_attn_indexes=(1,),
    )  # fmt: skip
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64)
    sam = Sam(encoder, prompts, MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=32))
    with torch.no_grad():  # ratings around a half rather than around zero
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
    return sam.eval()


def image(shape: tuple[int, ...] = (48, 80), seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (shape[0] // 8, shape[1] // 8, *shape[2:]), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def assert_same(found: list[dict], expected: list[dict]) -> None:
    """The same annotations: what the model rates up to rounding, all else exactly."""
    rated = ("predicted_iou", "stability_score")
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert np.array_equal(a["segmentation"], b["segmentation"])
        assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-5)
        assert a["stability_score"] == pytest.approx(b["stability_score"], abs=1e-6, nan_ok=True)
        others = [{k: d[k] for k in d if k not in (*rated, "segmentation")} for d in (a, b)]
        assert others[0] == others[1]


def test_study_settings_are_the_study() -> None:
    assert STUDY_SETTINGS == {
        "points_per_side": 100, "pred_iou_thresh": 0.90, "stability_score_thresh": 0.92, "crop_n_layers": 1,
        "crop_n_points_downscale_factor": 2, "min_mask_region_area": 100,
    }  # fmt: skip


def test_study_settings_make_20_000_prompts(sam: Sam) -> None:
    grids = MaskGenerator(sam, **STUDY_SETTINGS).point_grids
    assert [len(grid) for grid in grids] == [10_000, 2_500]
    assert len(MaskGenerator(sam, **QUICK_SETTINGS).point_grids[0]) == 256


@pytest.mark.parametrize("extra", [{}, {"crop_n_layers": 1, "crop_nms_thresh": 1.0}, {"min_mask_region_area": 20}])
def test_masks_are_those_of_segment_anything(sam: Sam, extra: dict) -> None:
    picture = image((48, 80, 3))
    expected = SamAutomaticMaskGenerator(sam, **ALL_MASKS, **extra).generate(picture)
    assert len(expected) > 4
    assert_same(MaskGenerator(sam, **ALL_MASKS, **extra).generate(picture), expected)


def test_points_in_float32_give_the_embeddings_of_float64_bit_for_bit(sam: Sam, monkeypatch) -> None:
    embed, asked = sam.prompt_encoder.forward, []
    monkeypatch.setattr(sam.prompt_encoder, "forward", lambda p, *rest: asked.append(p) or embed(p, *rest))
    generator = MaskGenerator(sam, **ALL_MASKS | {"points_per_side": 17})
    generator.generate(image((56, 88)))
    exact = generator.predictor.transform.apply_coords(generator.point_grids[0] * (88, 56), (56, 88))
    coords, labels = asked[0]
    assert {points.dtype for points, _ in asked} == {torch.float32} and exact.dtype == np.float64
    found, expected = (embed((points, labels), None, None)[0] for points in (coords, torch.from_numpy(exact)[:, None]))
    assert torch.equal(found, expected)


def test_grey_is_the_same_as_its_repetition(sam: Sam) -> None:
    generator = MaskGenerator(sam, **ALL_MASKS)
    assert_same(generator.generate(image()), generator.generate(image()[:, :, None].repeat(3, 2)))


def test_a_model_left_in_training_mode_gives_the_same_masks_and_stays_in_it(sam: Sam) -> None:
    expected = MaskGenerator(sam, **ALL_MASKS).generate(image())
    sam.image_encoder.blocks[0].add_module("dropped", torch.nn.Dropout(0.5))
    hook = sam.image_encoder.blocks[0].register_forward_hook(lambda block, _, out: block.dropped(out))
    try:
        sam.train()
        sam.mask_decoder.eval()
        assert_same(MaskGenerator(sam, **ALL_MASKS).generate(image()), expected)
        assert sam.training and sam.image_encoder.training and not sam.mask_decoder.training
    finally:
        hook.remove()
        del sam.image_encoder.blocks[0].dropped
        sam.eval()


def test_no_mask_in_any_crop_is_an_empty_list(sam: Sam) -> None:
    settings = {"points_per_side": 4, "crop_n_layers": 1, "pred_iou_thresh": 1.0}
    with pytest.raises(IndexError):
        SamAutomaticMaskGenerator(sam, **settings).generate(as_rgb(image()))
    assert MaskGenerator(sam, **settings).generate(image()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((32, 32), np.float32), "float32"),
        (np.zeros((32, 32), np.uint16), "uint16"),
        (np.zeros((32, 32, 4), np.uint8), "without alpha"),
        (np.zeros((2, 32, 32, 3), np.uint8), "shape"),
        (np.zeros((15, 32), np.uint8), "at least 16"),
        (np.zeros((16, 4000), np.uint8), "shorter pieces"),
    ],
)
def test_images_that_it_cannot_take(sam: Sam, wrong: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskGenerator(sam, points_per_side=2).generate(wrong)


def test_the_smallest_image_and_its_smaller_crops(sam: Sam) -> None:
    found = MaskGenerator(sam, **ALL_MASKS, crop_n_layers=1, crop_nms_thresh=1.0).generate(image((16, 16)))
    assert {annotation["segmentation"].shape for annotation in found} == {(16, 16)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"points_per_side": 0}, "points_per_side"),
        ({"points_per_side": 2.5}, "points_per_side"),
        ({"points_per_side": None}, "point_grids"),
        ({"points_per_batch": 0}, "points_per_batch"),
        ({"pred_iou_thresh": 90}, "pred_iou_thresh"),
        ({"crop_n_layers": -1}, "crop_n_layers"),
        ({"points_per_side": 2, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2}, "no point on the crops"),
    ],
)
def test_settings_that_it_cannot_take(sam: Sam, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskGenerator(sam, **wrong)


def test_evaluating_restores_every_mode_after_an_error(sam: Sam) -> None:
    sam.train()
    sam.prompt_encoder.eval()
    modes = [module.training for module in sam.modules()]
    with pytest.raises(RuntimeError), evaluating(sam):
        assert not any(module.training for module in sam.modules())
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert [module.training for module in sam.modules()] == modes
    assert torch.is_grad_enabled()
    sam.eval()


def test_prompts_and_masks_are_float32_under_autocast(sam: Sam) -> None:
    predictor, seen = Predictor(sam), []
    hooks = [
        sam.image_encoder.blocks[0].mlp.lin1.register_forward_hook(lambda m, i, out: seen.append(out.dtype)),
        sam.mask_decoder.output_hypernetworks_mlps[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype)),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        predictor.set_image(image())
        masks, rated, _ = predictor.predict(np.array([[20, 20]]), np.array([1]), return_logits=True)
    for hook in hooks:
        hook.remove()
    assert seen == [torch.bfloat16, torch.float32]
    assert masks.dtype == rated.dtype == np.float32
    inside = Predictor(sam, lambda: torch.autocast("cpu", torch.bfloat16))  # the same, asked of the predictor
    inside.set_image(image())
    assert torch.equal(inside.features, predictor.features)


def test_the_predictor_is_that_of_segment_anything(sam: Sam) -> None:
    ours, original = Predictor(sam), SamPredictor(sam)
    ours.set_image(image())
    original.set_image(image()[:, :, None].repeat(3, 2))
    assert torch.equal(ours.features, original.features)
    for found, expected in zip(
        ours.predict(box=np.array([4, 4, 40, 30])), original.predict(box=np.array([4, 4, 40, 30]))
    ):
        assert np.array_equal(found, expected)


def test_crops_are_encoded_several_at_once_and_no_group_outlives_the_next(
    sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**ALL_MASKS, "crop_n_layers": 1, "crop_nms_thresh": 1.0}
    expected = SamAutomaticMaskGenerator(sam, **settings).generate(image((48, 80, 3)))
    monkeypatch.setattr(mask_generator, "CPU_CROPS", 3)
    seen, held = [], []

    def embeddings() -> int:
        return sum(type(x) is torch.Tensor and x.shape[1:] == (32, 8, 8) for x in gc.get_objects())

    def encoding(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        seen.append(len(args[0]))
        held.append(embeddings())

    idle = embeddings()
    hook = sam.image_encoder.register_forward_pre_hook(encoding)
    try:
        assert_same(MaskGenerator(sam, **settings).generate(image((48, 80, 3))), expected)
    finally:
        hook.remove()
    assert seen == [3, 2]  # the image and its four crops
    assert held == [idle, idle]


def test_an_encoded_image_is_that_of_set_image(sam: Sam) -> None:
    pictures = [as_rgb(image()), as_rgb(image((64, 24), seed=1))]
    one, several = Predictor(sam), Predictor(sam)
    for picture, embedding in zip(pictures, several.encode(pictures), strict=True):
        one.set_image(picture)
        several.use(embedding)
        assert (several.input_size, several.original_size) == (one.input_size, one.original_size)
        torch.testing.assert_close(several.features, one.features)
    with pytest.raises(ValueError, match="shorter pieces"):
        several.encode([pictures[0], as_rgb(image((16, 4000)))])
    with torch.autocast("cpu", torch.bfloat16):
        assert several.encode(pictures)[0].features.dtype == torch.float32
