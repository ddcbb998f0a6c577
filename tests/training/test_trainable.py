"""What each method trains, and that its file brings it back."""

from __future__ import annotations

import pytest
import torch

from lorasam_core.config import RunConfig
from lorasam_core.training import trainable
from tests.tiny_sam import outputs, randomise, snapshot, tiny_sam


def selected(method: str):
    return trainable.select(tiny_sam(), RunConfig(method=method, rank=2))


@pytest.mark.parametrize(
    ("method", "prefixes", "file"),
    [
        ("lora", ("image_encoder.blocks.",), "adapter.safetensors"),
        ("decoder", ("mask_decoder.",), "weights.safetensors"),
        ("lora_decoder", ("image_encoder.blocks.", "mask_decoder."), "weights.safetensors"),
        ("full", ("image_encoder.", "prompt_encoder.", "mask_decoder."), "weights.safetensors"),
    ],
)
def test_each_method_trains_its_part_and_nothing_else(method, prefixes, file):
    sam = selected(method)
    trained = {name for name, p in sam.named_parameters() if p.requires_grad}
    assert {next(prefix for prefix in prefixes if name.startswith(prefix)) for name in trained} == set(prefixes)
    assert len(trainable.parameters(sam)) == len(trained) and trainable.file(sam) == file
    whole = {name for name, _ in sam.named_parameters() if name.startswith(prefixes)}
    thin = {name for name in whole if ".A_" in name or ".B_" in name}
    if method == "lora_decoder":
        thin |= {name for name in whole if name.startswith("mask_decoder.")}
    assert trained == (thin if "lora" in method else whole)


@pytest.mark.parametrize("method", trainable.SAM_METHODS)
def test_what_was_trained_comes_back_from_its_file(method, tmp_path):
    sam = selected(method)
    randomise(trainable.parameters(sam))
    expected, kept = outputs(sam), snapshot(sam)
    trainable.save(sam, tmp_path / "kept", step=3)
    with torch.no_grad():
        for parameter in trainable.parameters(sam):
            parameter.add_(1.0)
    assert not torch.equal(outputs(sam)[1], expected[1])
    trainable.load(sam, tmp_path / "kept")
    assert all(torch.equal(a, b) for a, b in zip(outputs(sam), expected, strict=True))
    assert all(torch.equal(value, kept[name]) for name, value in sam.state_dict().items())


def test_other_methods_and_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unet"):
        trainable.select(tiny_sam(), RunConfig(method="unet"))
    trainable.save(selected("full"), tmp_path / "kept")
    small = tiny_sam(depth=1)
    with pytest.raises(ValueError, match=r"blocks\.1"):
        trainable.load(small, tmp_path / "kept")
