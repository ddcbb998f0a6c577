"""Adapter files: what they hold, what they fit, and that a file which does not fit or is damaged changes nothing."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from lorasam_core.models import lora
from lorasam_core.models.lora import LoRAConfig, LoRALinear, add_lora, load_adapter, merge, save_adapter, unmerge
from tests.tiny_sam import randomise, same, snapshot, tiny_sam


@pytest.fixture
def trained():
    sam = add_lora(tiny_sam(), LoRAConfig(4, alpha=8.0, targets=("q", "v", "lin1")))
    randomise(lora.lora_parameters(sam))
    return sam


@pytest.fixture(scope="module")
def smallest():
    sam = add_lora(tiny_sam(), LoRAConfig(1, blocks=(0,), targets=("q",)))
    sam.base_hash = "0" * 64
    return sam


@pytest.mark.parametrize("merged", [False, True])
def test_adapter_file_holds_a_and_b_and_says_what_it_fits(trained, tmp_path, merged):
    if merged:
        merge(trained)
    path = tmp_path / "new" / "adapter.safetensors"
    save_adapter(trained, path, run_id="0123", split_hash="abc", metrics={"dice": np.float64(0.5)}, best_step=7)
    assert os.listdir(path.parent) == [path.name]  # no temporary file is left
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {
            f"image_encoder.blocks.{block}.{layer}.{end}_{name}"
            for block in (0, 1)
            for layer, name in (("attn.qkv", "q"), ("attn.qkv", "v"), ("mlp.lin1", "lin1"))
            for end in "AB"
        }
        raw = file.metadata()
    assert raw["base_hash"] == lora.hash_base(trained) and raw["scaling"] == "alpha/r" and raw["split_hash"] == "abc"
    assert json.loads(raw["metrics"]) == {"dice": 0.5} and json.loads(raw["targets"]) == ["q", "v", "lin1"]
    plain = tiny_sam()
    metadata = load_adapter(plain, path)
    assert metadata["run_id"] == "0123" and metadata["best_step"] == 7 and metadata["metrics"] == {"dice": 0.5}
    assert metadata["rank"] == 4 and metadata["alpha"] == 8 and metadata["blocks"] == [0, 1]
    assert metadata["image_size"] == 64 and metadata["pixel_mean"] == [123.675, 116.28, 103.53]
    unmerge(trained)
    assert same(plain.state_dict(), trained.state_dict())
    assert {n for n, p in plain.named_parameters() if p.requires_grad} == lora.adapter_state(plain).keys()
    randomise(lora.lora_parameters(plain), seed=4)
    load_adapter(plain, path)  # again, over LoRA that is there
    assert same(plain.state_dict(), trained.state_dict())


VALUES = (
    st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["1e5", "null", "[1]", "12", '"x"'])  # strings that read as JSON
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
    | st.lists(st.integers())
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.from_regex("x_[a-z]{1,5}", fullmatch=True), VALUES))
def test_metadata_comes_back_as_it_was(tmp_path_factory, smallest, metadata):
    path = tmp_path_factory.getbasetemp() / "metadata.safetensors"
    save_adapter(smallest, path, **metadata)
    found = lora.read_adapter(path)[0]
    assert {key: found[key] for key in metadata} == metadata


def test_a_failed_write_leaves_the_older_file(trained, tmp_path, monkeypatch):
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained, path)
    before = path.read_bytes()
    randomise(lora.lora_parameters(trained), seed=6)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for write, name in ((save_adapter, path), (lora.export_checkpoint, tmp_path / "model.pth")):
        with pytest.raises(OSError, match=r"could not be written .*No space left.*free some space"):
            write(trained, name)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: tiny_sam(seed=1), "base_hash [0-9a-f]{64}, the model has [0-9a-f]{64}"),
        (lambda: add_lora(tiny_sam(), LoRAConfig(8, 8.0, targets=("q", "v", "lin1"))), "rank 4, the model has 8"),
        (lambda: add_lora(tiny_sam(), LoRAConfig(4, 4.0, targets=("q", "v", "lin1"))), "alpha 8.0, the model has 4.0"),
        (lambda: add_lora(tiny_sam(), LoRAConfig(4, 8.0)), r"targets \['q', 'v', 'lin1'\], the model has \['q', 'v'\]"),
        (lambda: add_lora(tiny_sam(), LoRAConfig(4, 8.0, "none", ("q", "v", "lin1"))), "scaling alpha/r"),
        (lambda: add_lora(tiny_sam(), LoRAConfig(4, 8.0, targets=("q", "v", "lin1"), blocks=(1,))), r"blocks \[0, 1\]"),
    ],
    ids=["base", "rank", "alpha", "targets", "scaling", "blocks"],
)
def test_an_adapter_that_does_not_fit_is_refused(trained, tmp_path, model, words):
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained, path)
    wrong = model()
    before = snapshot(wrong)
    with pytest.raises(ValueError, match=f"adapter.safetensors is for {words}"):
        load_adapter(wrong, path)
    assert same(before, wrong.state_dict())


def test_another_input_size_normalisation_or_state_is_refused(trained, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained, path)
    plain = tiny_sam()
    plain.image_encoder.img_size = 128
    with pytest.raises(ValueError, match="image_size 64, the model has 128"):
        load_adapter(plain, path)
    plain = tiny_sam()
    plain.pixel_mean -= 1
    with pytest.raises(ValueError, match="pixel_mean"):
        load_adapter(plain, path)
    with pytest.raises(ValueError, match="call unmerge first"):
        load_adapter(merge(trained), path)
    with pytest.raises(ValueError, match="metadata holds 'rank'"):
        save_adapter(trained, path, rank=3)


def test_other_keys_or_shapes_are_refused(trained, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = lora.read_adapter(path)[1]
    name = "image_encoder.blocks.0.attn.qkv.B_v"
    for change in ({name: torch.zeros(32, 3)}, {"extra": torch.zeros(1)}, {name: None}):
        changed = {key: t for key, t in (tensors | change).items() if t is not None}
        save_file(changed, path, metadata)
        plain = tiny_sam()
        with pytest.raises(ValueError, match=f"holds {next(iter(change))} as"):
            load_adapter(plain, path)
        assert not any(isinstance(m, LoRALinear) for m in plain.modules())


def test_a_damaged_or_foreign_file_is_refused(trained, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained, path)
    sam, whole = tiny_sam(), path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"not a tensor in sight"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"adapter.safetensors cannot be read .*; copy it again"):
            load_adapter(sam, path)
    with pytest.raises(ValueError, match=r"nowhere.safetensors cannot be read"):
        load_adapter(sam, tmp_path / "nowhere.safetensors")
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not an adapter of this package"):
        load_adapter(sam, path)
