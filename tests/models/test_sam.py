"""SAM models from files: the same as segment-anything's own, at any input size, and clear about files that do not do.

Official checkpoints are stood in for by random ones of their layout; a small builder takes the place of ViT-B's.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from segment_anything import SamPredictor, build_sam_vit_b
from segment_anything.modeling.image_encoder import get_rel_pos

from lorasam_core.models import sam as module
from lorasam_core.models.attention import FastAttention, use_fast_attention
from lorasam_core.models.lite import build_lite
from lorasam_core.models.lora import (
    LoRAConfig,
    add_lora,
    hash_base,
    lora_parameters,
    merge,
    read_adapter,
    save_adapter,
    unmerge,
)
from lorasam_core.models.sam import load_sam, preprocess, resize_input, save_weights
from tests.tiny_sam import outputs, randomise, same, snapshot, tiny_sam


@pytest.fixture
def small_vit_b(monkeypatch):
    """A small builder in the place of ViT-B's."""
    monkeypatch.setitem(module.sam_model_registry, "vit_b", lambda: tiny_sam(seed=9))


@pytest.fixture
def checkpoint(tmp_path, small_vit_b):
    """A file of random weights in the layout of an official one."""
    path = tmp_path / "random_vit_b.pth"
    torch.save(tiny_sam().state_dict(), path)
    return path


def close(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------- loading
@torch.no_grad()
def test_a_checkpoint_gives_what_segment_anythings_builder_gives(checkpoint):
    sam, original = load_sam("vit_b", checkpoint), tiny_sam()
    assert same(snapshot(sam), snapshot(original))
    close(outputs(sam), outputs(original))
    assert {type(block.attn) for block in sam.image_encoder.blocks} == {FastAttention}
    assert not sam.training and sam.base_name == "vit_b" and sam.original_tables == {}


@pytest.mark.parametrize("prefix", ["", "sam.", "module.sam."])
@pytest.mark.parametrize("extra", [{}, {"decoder_state": {"out.weight": torch.ones(2)}, "iteration": 12, "best": 0.5}])
def test_weights_that_others_have_trained_are_named_and_hashed(tmp_path, small_vit_b, prefix, extra):
    """micro-sam publishes plain state dicts, and keeps those that it trains under `model_state`."""
    plain, trained = tmp_path / "vit_b_lm.pt", tmp_path / "best.pt"
    state = tiny_sam().state_dict()
    torch.save(state, plain)
    torch.save({"model_state": {prefix + name: tensor for name, tensor in state.items()}, **extra}, trained)
    for path in (plain, trained):
        sam = load_sam("vit_b", path)
        assert same(snapshot(sam), state) and sam.base_hash == hash_base(tiny_sam())
        assert sam.base_checkpoint == {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    adapter = tmp_path / "adapter.safetensors"
    save_adapter(add_lora(sam, LoRAConfig(2)), adapter)
    assert read_adapter(adapter)[0]["base_checkpoint"] == sam.base_checkpoint
    assert load_sam("lite").base_checkpoint is None


@torch.no_grad()
def test_safetensors_and_half_precision_are_read_as_float32(tmp_path, small_vit_b):
    path = tmp_path / "half.safetensors"
    save_weights(tiny_sam(), path, {})
    sam, half = load_sam("vit_b", path), tiny_sam().half()
    assert {p.dtype for p in sam.parameters()} == {torch.float32}
    assert all(torch.equal(a, half.state_dict()[name].float()) for name, a in sam.state_dict().items())


@torch.no_grad()
def test_lite_equals_itself_through_its_weights(tmp_path):
    torch.manual_seed(3)
    sam, path = build_lite(), tmp_path / "weights" / "lite.safetensors"
    digest = save_weights(sam, path, {"date": "today"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"date": "today"}
    loaded = load_sam("lite", path)
    for parameter in use_fast_attention(sam).parameters():
        parameter.copy_(parameter.half().float())
    sam.load_state_dict({name: tensor.half().float() for name, tensor in sam.state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(sam), strict=True))
    again = tmp_path / "again.safetensors"
    assert save_weights(loaded, again, {"date": "today"}) == digest
    assert load_sam("lite", again).base_hash == loaded.base_hash


def test_lite_is_compact():
    sam = build_lite()
    assert sum(p.numel() for p in sam.parameters()) < 8e6
    windows = [block.window_size for block in sam.image_encoder.blocks]
    assert 0 in windows and any(windows)


def test_the_shipped_weights_load_and_are_small():
    sam = load_sam()
    assert sam.base_name == "lite" and module.WEIGHTS.stat().st_size < 16e6
    assert all(torch.isfinite(p).all() for p in sam.parameters())


def test_the_packaged_weights_are_checked_by_hash(tmp_path, monkeypatch):
    path = tmp_path / "lite.safetensors"
    digest = save_weights(build_lite(), path, {})
    monkeypatch.setattr(module, "WEIGHTS", path)
    monkeypatch.setattr(module, "WEIGHTS_SHA256", digest)
    assert load_sam().base_name == "lite"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(f"lite.safetensors has sha256 .*, not {digest[:12]}...; delete it and fetch it again", "lite")
    path.unlink()
    refused("lite.safetensors is missing from the package; reinstall it, or run: nox -s pretrain", "lite")


@pytest.mark.slow
@torch.no_grad()
def test_a_random_file_of_the_official_vit_b_layout(tmp_path):
    torch.manual_seed(0)
    original, path = build_sam_vit_b(), tmp_path / "random_vit_b.pth"
    for name, parameter in original.named_parameters():
        if "pos" in name:
            parameter.normal_(std=0.1)
    torch.save(original.state_dict(), path)
    sam = load_sam("vit_b", path)
    assert same(snapshot(sam), snapshot(original)) and len(sam.base_hash) == 64
    image = torch.randn(1, 3, 1024, 1024)
    stems = [s.image_encoder.patch_embed(image) + s.image_encoder.pos_embed for s in (sam, original)]
    close(*([s.image_encoder.blocks[0](x[:, :28, :20])] for s, x in zip((sam, original), stems, strict=True)))
    tokens = torch.randn(1, 16, 12, 768)  # the global block on fewer tokens: its tables are resized by both
    close(*([s.image_encoder.neck(s.image_encoder.blocks[2](tokens).permute(0, 3, 1, 2))] for s in (sam, original)))
    smaller = resize_input(sam, 256)
    assert smaller.image_encoder(torch.randn(1, 3, 256, 256)).shape == (1, 256, 16, 16)


# ------------------------------------------------------------------------------------------------- input size
@pytest.mark.parametrize("image_size", [40, 96])
@torch.no_grad()
def test_another_input_size_resizes_global_tables_and_keeps_the_rest(checkpoint, image_size):
    plain, sam = load_sam("vit_b", checkpoint), load_sam("vit_b", checkpoint, image_size)
    before, after = snapshot(plain), snapshot(sam)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    tables = {f"image_encoder.blocks.1.attn.rel_pos_{axis}" for axis in "hw"} | {"image_encoder.pos_embed"}
    assert changed == tables  # block 0 attends in windows
    assert same(sam.original_tables, {name: before[name] for name in tables})
    assert sam.base_hash == plain.base_hash == hash_base(sam)
    grid = image_size // 8
    embedding, masks, _ = outputs(sam)
    assert embedding.shape == (1, 16, grid, grid) and masks.shape == (1, 3, 4 * grid, 4 * grid)


@pytest.mark.parametrize("image_size", [40, 96])
@torch.no_grad()
def test_resized_relative_tables_are_those_segment_anything_computes(checkpoint, image_size):
    table = load_sam("vit_b", checkpoint).image_encoder.blocks[1].attn.rel_pos_h
    resized = load_sam("vit_b", checkpoint, image_size).image_encoder.blocks[1].attn.rel_pos_h
    grid = image_size // 8
    close([get_rel_pos(grid, grid, resized)], [get_rel_pos(grid, grid, table)], 1e-6)


@pytest.mark.parametrize("image_size", [40, 96])
@torch.no_grad()
def test_the_resized_absolute_table_is_a_bicubic_picture_of_the_original(checkpoint, image_size):
    table = load_sam("vit_b", checkpoint).image_encoder.pos_embed[0].numpy()
    resized = load_sam("vit_b", checkpoint, image_size).image_encoder.pos_embed[0].numpy()
    grid = image_size // 8
    for channel in range(4):
        picture = Image.fromarray(table[..., channel]).resize((grid, grid), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(resized[..., channel], np.asarray(picture), atol=1e-5)


@torch.no_grad()
def test_a_resized_model_serves_segment_anythings_predictor(checkpoint):
    sam = load_sam("vit_b", checkpoint, 96)
    predictor = SamPredictor(sam)
    predictor.set_image(np.random.default_rng(0).integers(0, 255, (50, 30, 3), np.uint8))
    masks, _, low = predictor.predict(np.array([[10, 20]]), np.array([1]))
    assert masks.shape == (3, 50, 30) and low.shape == (3, 48, 48)
    again, _, _ = predictor.predict(np.array([[10, 20]]), np.array([1]), mask_input=low[:1], multimask_output=False)
    assert again.shape == (1, 50, 30)


def test_the_models_own_size_changes_nothing(checkpoint):
    plain, sam = load_sam("vit_b", checkpoint), load_sam("vit_b", checkpoint, 64)
    assert same(snapshot(plain), snapshot(sam)) and sam.original_tables == {}


def test_resizing_twice_keeps_the_files_tables_and_what_is_frozen(checkpoint):
    sam = load_sam("vit_b", checkpoint).requires_grad_(False)
    before = snapshot(sam)
    resize_input(resize_input(sam, 96), 40)
    assert sam.original_tables and all(torch.equal(table, before[name]) for name, table in sam.original_tables.items())
    assert not any(p.requires_grad for p in sam.parameters()) and hash_base(sam) == sam.base_hash


@pytest.mark.parametrize("image_size", [0, -8, 4, 60])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(checkpoint, image_size):
    refused(
        f"image_size is {image_size}; give a multiple of 8 pixels, which the model needs",
        "vit_b",
        checkpoint,
        image_size,
    )


# ------------------------------------------------------------------------------------------------- base hash
def test_the_base_hash_is_that_of_names_and_bytes(checkpoint):
    digest = hashlib.sha256()
    for name, tensor in sorted(torch.load(checkpoint).items()):
        digest.update(name.encode() + tensor.numpy().astype("<f4").tobytes())
    assert load_sam("vit_b", checkpoint).base_hash == digest.hexdigest()


@pytest.mark.parametrize("image_size", [None, 96])
def test_the_base_hash_survives_lora_and_copies(checkpoint, image_size):
    sam = load_sam("vit_b", checkpoint, image_size)
    add_lora(sam, LoRAConfig(2, targets=("q", "v", "proj", "lin1")))
    assert hash_base(sam) == sam.base_hash
    randomise(lora_parameters(sam))
    assert hash_base(sam) == hash_base(merge(sam)) == hash_base(unmerge(sam)) == sam.base_hash
    other = copy.deepcopy(sam)
    assert other.base_hash == hash_base(other) == sam.base_hash


@pytest.mark.parametrize("name", ["image_encoder.pos_embed", "mask_decoder.iou_token.weight"])
def test_other_weights_have_another_base_hash(checkpoint, tmp_path, name):
    state = torch.load(checkpoint)
    state[name].view(-1)[-1] += 1e-3
    torch.save(state, tmp_path / "other.pth")
    assert load_sam("vit_b", tmp_path / "other.pth").base_hash != load_sam("vit_b", checkpoint).base_hash


# ------------------------------------------------------------------------------------------------- preprocessing
@settings(max_examples=25, deadline=None)
@given(height=st.integers(5, 150), width=st.integers(5, 150), grey=st.booleans(), seed=st.integers(0, 9))
def test_preprocessing_is_the_predictors_own(height, width, grey, seed):
    sam, inputs = tiny_sam(), []
    image = np.random.default_rng(seed).integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
    sam.image_encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    predictor = SamPredictor(sam)
    predictor.set_image(np.stack([image] * 3, axis=2) if grey else image)
    found, size = preprocess(sam, image)
    assert torch.equal(found, inputs[0]) and size == predictor.input_size
    assert found.shape == (1, 3, 64, 64) and found.dtype == torch.float32
    assert not found[:, :, size[0] :].any() and not found[..., size[1] :].any()


# ------------------------------------------------------------------------------------------------- bad input
def refused(pattern: str, *arguments) -> None:
    with pytest.raises(ValueError, match=pattern) as error:
        load_sam(*arguments)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text and ";" in text  # one sentence, with a remedy


def test_an_unknown_model():
    refused("model is 'vit_x'; choose one of lite, vit_b, vit_l, vit_h", "vit_x")


def test_a_device_that_is_not_there(checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("device is 'cuda', which this machine does not have", "vit_b", checkpoint, None, "cuda")


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_missing_file(tmp_path, name):
    refused(f"{tmp_path / name} does not exist; give the path of a vit_b checkpoint", "vit_b", tmp_path / name)


def test_a_truncated_file(checkpoint, tmp_path):
    for path, content in (
        (tmp_path / "cut.pth", checkpoint.read_bytes()[:-500]),
        (tmp_path / "noise.pth", b"not a checkpoint at all"),
        (tmp_path / "empty.pth", b""),
        (tmp_path / "noise.safetensors", b"not a checkpoint at all"),
    ):
        path.write_bytes(content)
        refused(f"{path} is not a readable checkpoint .*; fetch it again", "vit_b", path)
    whole = tmp_path / "whole.safetensors"
    save_weights(tiny_sam(), whole, {})
    whole.write_bytes(whole.read_bytes()[:-100])
    refused(f"{whole} is not a readable checkpoint .*; fetch it again", "vit_b", whole)


def test_objects_that_could_run_code_are_not_read(tmp_path, small_vit_b):
    path = tmp_path / "best.pt"
    torch.save({"model_state": tiny_sam().state_dict(), "init": {"optimizer": Planted(tmp_path / "planted")}}, path)
    refused(f"{path} is not a readable checkpoint, for it holds objects .*export_custom_sam_model", "vit_b", path)
    assert not (tmp_path / "planted").exists()


class Planted:
    """What writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [{"model": {"a": torch.ones(1)}}, [torch.ones(2)], Path("a/b")])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(f"{path} is not a readable checkpoint", "vit_b", path)


@pytest.mark.parametrize(
    "other", [tiny_sam(width=16), tiny_sam(depth=3), tiny_sam(image_size=32), torch.nn.Linear(2, 2)]
)
def test_a_file_of_another_architecture(tmp_path, small_vit_b, other):
    path = tmp_path / "other.pth"
    torch.save(other.state_dict(), path)
    refused(f"{path} does not hold a vit_b model .*; name the model that it holds", "vit_b", path)


def test_a_file_with_an_official_name_and_other_contents(checkpoint):
    path = checkpoint.rename(checkpoint.with_name("sam_vit_b_01ec64.pth"))
    refused(f"{path} has sha256 .*, not ec2df6273261...; delete it and fetch it again", "vit_b", path)


@pytest.mark.parametrize(
    "failure",
    [
        requests.exceptions.ConnectionError("Max retries exceeded with url: /x (Caused by\n name resolution). No."),
        OSError(28, "No space left on device"),
        ValueError("SHA256 hash of downloaded file (x.pth) does not match the known hash."),
    ],
)
def test_a_download_that_fails(monkeypatch, failure):
    def retrieve(*args, **kwargs):
        raise failure

    monkeypatch.setattr("pooch.retrieve", retrieve)
    remedy = "go online, or give a local file as checkpoint"
    refused(rf"sam_vit_h_4b8939.pth could not be downloaded \(.+\); {remedy}", "vit_h")


def test_a_download_is_asked_for_by_hash_and_loaded(checkpoint, monkeypatch):
    file = checkpoint.rename(checkpoint.with_name("sam_vit_b_01ec64.pth"))
    known = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    asked = []
    monkeypatch.setitem(module.CHECKPOINTS, "vit_b", (file.name, known))
    monkeypatch.setattr(
        "pooch.retrieve", lambda url, known_hash, **options: asked.append((url, known_hash)) or str(file)
    )
    assert same(snapshot(load_sam("vit_b")), snapshot(tiny_sam()))
    assert asked == [("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth", known)]
