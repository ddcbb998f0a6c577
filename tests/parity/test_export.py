"""An exported checkpoint in segment-anything's own hands: its builder, its predictor, its mask generator."""

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, build_sam_vit_b
from segment_anything.build_sam import _build_sam
from segment_anything.modeling import Sam
from torch import nn

from lorasam_core.models.lora import LoRAConfig, add_lora, export_checkpoint, lora_parameters, merge, unmerge
from lorasam_core.models.lora.model import base_state
from tests.tiny_sam import randomise, tiny_sam


def official(checkpoint: str | None = None) -> Sam:
    """The official builder and layout (input 1024, patch 16, prompts 256 wide) with a small encoder."""
    torch.manual_seed(0)
    sam = _build_sam(32, 2, 2, [1], checkpoint)
    if checkpoint is None:
        with torch.no_grad():
            sam.image_encoder.pos_embed.normal_()
    return sam


@pytest.fixture(scope="module")
def adapted():
    sam = add_lora(official(), LoRAConfig(8, targets=("q", "v", "proj"), scaling="none"))
    randomise(lora_parameters(sam), scale=0.1)
    return sam


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (72, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(adapted, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "adapted.pth"
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    export_checkpoint(adapted, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())  # still unmerged
    return official(path)


def predictions(sam: Sam, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    return predictor.predict(np.array([[30, 40]]), np.array([1]), box=np.array([5, 8, 70, 60]))


def test_the_predictor_gives_the_same_masks(adapted, exported, image):
    masks, quality, logits = predictions(adapted, image)
    their_masks, their_quality, their_logits = predictions(exported, image)
    assert 0 < masks.mean() < 1
    np.testing.assert_array_equal(masks, their_masks)
    np.testing.assert_allclose(quality, their_quality, rtol=1e-5)
    np.testing.assert_allclose(logits, their_logits, rtol=1e-4, atol=1e-5)
    assert (predictions(official(), image)[0] != masks).any()  # which the base does not give


def test_the_mask_generator_gives_the_same_masks(adapted, exported, image):
    settings = {"points_per_side": 2, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    ours = SamAutomaticMaskGenerator(merge(adapted), **settings).generate(image)
    unmerge(adapted)
    theirs = SamAutomaticMaskGenerator(exported, **settings).generate(image)
    assert len(ours) == len(theirs) > 1
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a["segmentation"], b["segmentation"])
        assert a["bbox"] == b["bbox"] and a["point_coords"] == b["point_coords"]
        assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], rel=1e-5)


def test_names_and_shapes_are_those_of_vit_b():
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build_sam_vit_b().state_dict().items()}
        sam = add_lora(build_sam_vit_b(), LoRAConfig(16, targets=("q", "k", "v", "proj", "lin1", "lin2")))
    assert {name: tensor.shape for name, tensor in base_state(sam, merged=True).items()} == expected


def test_resized_position_tables_are_written_as_they_were(tmp_path):
    base = tiny_sam()
    sam = tiny_sam()
    name = "image_encoder.pos_embed"
    sam.original_tables = {name: sam.image_encoder.pos_embed.detach().clone()}
    sam.image_encoder.pos_embed = nn.Parameter(torch.zeros(1, 4, 4, 32))
    add_lora(sam, LoRAConfig(4))
    export_checkpoint(sam, tmp_path / "model.pth")  # B is zero: the base as it was
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    base.load_state_dict(state, strict=True)
    reference = tiny_sam().state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[key], reference[key]) for key in reference)


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no LoRA layers"):
        export_checkpoint(tiny_sam(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model.onnx is not a name for a checkpoint; give one that ends in .pth"):
        export_checkpoint(add_lora(tiny_sam(), LoRAConfig(2)), tmp_path / "model.onnx")
