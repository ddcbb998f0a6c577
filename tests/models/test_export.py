"""ONNX files in onnxruntime against the model in segment-anything's own predictor: masks, ratings, metadata."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from segment_anything import SamPredictor, build_sam_vit_h
from segment_anything.utils.transforms import ResizeLongestSide

from lorasam_core.data.particles import generate
from lorasam_core.models.attention import FastAttention, use_fast_attention
from lorasam_core.models.export import export_onnx
from lorasam_core.models.lora import LoRAConfig, add_lora, hash_base, load_adapter, lora_parameters, merge
from lorasam_core.models.lora.files import SHIPPED
from lorasam_core.models.sam import load_sam
from tests.tiny_sam import outputs, randomise, same, snapshot, tiny_sam

LEAST_AREA = 50  # pixels; smaller masks are compared by their logits alone


class Onnx:
    """The two files as a tool without this package uses them: resize, encode, decode."""

    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
            for name in ("encoder", "decoder")
        )
        self.side = int(self.encoder.get_modelmeta().custom_metadata_map["image_size"])
        self.mask_side = self.decoder.get_inputs()[3].shape[-1]

    def set_image(self, image):
        self.shape = image.shape[:2]
        resized = ResizeLongestSide(self.side).apply_image(np.repeat(image[..., None], 3, axis=2))
        (self.embedding,) = self.encoder.run(None, {"input_image": resized.astype(np.float32)})

    def predict(self, points, labels, mask=None):
        """Points (N, 2), X and Y in pixels of the image, with SAM's labels -> logits (4, H, W), ratings, low logits."""
        coords = np.asarray(points, np.float64) * (np.array(self._resized()) / self.shape)[::-1]
        if mask is None:
            mask, has = np.zeros((1, self.mask_side, self.mask_side)), 0
        else:
            has = 1
        masks, rated, low = self.decoder.run(
            None,
            {
                "image_embeddings": self.embedding,
                "point_coords": coords[None].astype(np.float32),
                "point_labels": np.array([labels], np.float32),
                "mask_input": mask[None].astype(np.float32),
                "has_mask_input": np.array([has], np.float32),
                "orig_im_size": np.array(self.shape, np.float32),
            },
        )
        return masks[0], rated[0], low[0]

    def _resized(self):
        scale = self.side / max(self.shape)
        return [int(side * scale + 0.5) for side in self.shape]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def compare(sam, files, image, rng, count):
    """IoU of every mask above LEAST_AREA for `count` points and `count` boxes, and the greatest change of a rating."""
    predictor = SamPredictor(sam)
    predictor.set_image(np.repeat(image[..., None], 3, axis=2))
    files.set_image(image)
    height, width = image.shape
    found, changes = [], []
    for number in range(2 * count):
        corners = np.sort(rng.uniform((0, 0), (width, height), (2, 2)), axis=0)
        if number % 2:
            expected, rated, _ = predictor.predict(box=corners.ravel(), multimask_output=False)
            masks, quality, _ = (part[:1] for part in files.predict(corners, [2, 3]))
        else:
            expected, rated, _ = predictor.predict(corners[:1], np.array([1]))
            masks, quality, _ = (part[1:] for part in files.predict([corners[0], (0, 0)], [1, -1]))
        assert masks.shape == expected.shape
        found += [iou(a, b > 0) for a, b in zip(expected, masks) if a.sum() > LEAST_AREA]
        changes.append(np.abs(rated - quality).max())
    return found, max(changes)


@pytest.fixture(scope="module")
def adapted():
    sam = load_sam("lite")
    load_adapter(sam, SHIPPED / "emps.safetensors")
    return sam


@pytest.fixture(scope="module")
def files(adapted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    before = snapshot(adapted)
    export_onnx(adapted, folder, adapter="emps.safetensors", adapter_sha256="0" * 64)
    assert same(before, adapted.state_dict())
    return folder


@pytest.mark.slow
def test_lite_gives_the_masks_of_a_hundred_prompts(adapted, files):
    rng, sessions = np.random.default_rng(0), Onnx(files)
    found, changes = [], []
    for index, shape in enumerate(((192, 256), (320, 200))):  # neither ratio is that of the image of the export
        ious, change = compare(adapted, sessions, generate(4, 3 * index, shape).image, rng, 25)
        found += ious
        changes.append(change)
    assert len(found) > 100 and min(found) >= 0.99
    assert max(changes) < 1e-3


def test_what_is_exported_is_the_adapter_not_the_base(files):
    image, sessions = generate(4, 0, (192, 256)).image, Onnx(files)
    sessions.set_image(image)
    base = SamPredictor(load_sam("lite"))
    base.set_image(np.repeat(image[..., None], 3, axis=2))
    expected, _, _ = base.predict(box=np.array([0, 0, 256, 192]), multimask_output=False)
    masks, _, _ = sessions.predict([(0, 0), (256, 192)], [2, 3])
    assert iou(expected[0], masks[0] > 0) < 0.98


def test_several_points_and_a_mask_are_taken(adapted, files):
    image, sessions = generate(4, 0, (192, 256)).image, Onnx(files)
    predictor = SamPredictor(adapted)
    predictor.set_image(np.repeat(image[..., None], 3, axis=2))
    sessions.set_image(image)
    points, labels = np.array([[100, 60], [180, 150], [30, 30]]), np.array([1, 1, 0])
    _, _, first = predictor.predict(points[:1], labels[:1], multimask_output=False)
    expected, rated, low = predictor.predict(
        points, labels, mask_input=first, multimask_output=False, return_logits=True
    )
    masks, quality, again = sessions.predict([*points, (0, 0)], [*labels, -1], mask=first)
    np.testing.assert_allclose(masks[:1], expected, atol=2e-3, rtol=1e-3)
    np.testing.assert_allclose(again[:1], low, atol=2e-3, rtol=1e-3)
    np.testing.assert_allclose(quality[:1], rated, atol=1e-4)


def test_names_are_those_that_tools_for_segment_anything_ask_for(files):
    sessions = Onnx(files)
    assert [i.name for i in sessions.decoder.get_inputs()] == [
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
    ]  # fmt: skip
    assert [o.name for o in sessions.decoder.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]
    (image,), (embedding,) = sessions.encoder.get_inputs(), sessions.encoder.get_outputs()
    assert (image.name, image.shape[2], image.type, embedding.name) == (
        "input_image", 3, "tensor(float)", "image_embeddings",
    )  # fmt: skip


def test_the_files_say_what_they_are(adapted, files):
    for name in ("encoder", "decoder"):
        stated = {p.key: p.value for p in onnx.load(files / f"{name}.onnx").metadata_props}
        assert stated == {
            "base_name": "lite", "base_hash": hash_base(load_sam("lite")), "image_size": "512", "mask_threshold": "0.0",
            "pixel_mean": "[127.0, 127.0, 127.0]", "pixel_std": "[128.0, 128.0, 128.0]",
            "adapter": "emps.safetensors", "adapter_sha256": "0" * 64,
        }  # fmt: skip


@pytest.mark.parametrize("merged", [False, True])
def test_segment_anythings_vit_with_fast_attention(tmp_path, merged):
    sam = add_lora(tiny_sam(image_size=64), LoRAConfig(4, targets=("q", "v", "lin1")))
    randomise(lora_parameters(sam), scale=0.2)
    use_fast_attention(sam.image_encoder)
    before, given = [part.detach() for part in outputs(sam)], snapshot(merge(sam) if merged else sam)
    export_onnx(sam, tmp_path)
    assert same(given, sam.state_dict()) and any(isinstance(m, FastAttention) for m in sam.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(sam))) or merged
    sessions, image = Onnx(tmp_path), np.random.default_rng(1).integers(0, 256, (72, 96), dtype=np.uint8)
    found, change = compare(sam, sessions, image, np.random.default_rng(0), 50)
    assert len(found) > 50 and min(found) >= 0.99 and change < 1e-3


def test_what_one_file_cannot_hold_is_refused(tmp_path):
    with torch.device("meta"):
        sam = build_sam_vit_h()
    with pytest.raises(ValueError, match=r"has 2.4 GiB, and an ONNX file holds 2; export a checkpoint"):
        export_onnx(sam, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"package onnx is missing; install it with: pip install onnx"):
        export_onnx(tiny_sam(), tmp_path)
