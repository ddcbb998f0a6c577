"""lorasam export, as it is called: files, cards, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re

import onnx
import pytest
import torch
from segment_anything import sam_model_registry

from lorasam_core.cli import main
from lorasam_core.models import sam as module
from lorasam_core.models.lora import (
    LoRAConfig,
    add_lora,
    load_adapter,
    lora_parameters,
    merge,
    read_adapter,
    save_adapter,
)
from lorasam_core.models.lora.files import SHIPPED
from lorasam_core.models.sam import load_sam
from tests.tiny_sam import outputs, randomise, tiny_sam

EMPS = SHIPPED / "emps.safetensors"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def others(tmp_path, monkeypatch):
    """A base of somebody else in ViT-B's place, and an adapter of it."""
    monkeypatch.setitem(module.sam_model_registry, "vit_b", lambda checkpoint=None: loaded(checkpoint))
    base = tmp_path / "vit_b_em_organelles.pt"
    torch.save(tiny_sam().state_dict(), base)
    sam = add_lora(load_sam("vit_b", base), LoRAConfig(4))
    randomise(lora_parameters(sam), scale=0.2)
    save_adapter(sam, tmp_path / "own.safetensors")
    return base, tmp_path / "own.safetensors"


def loaded(checkpoint):
    sam = tiny_sam(seed=9)
    if checkpoint is not None:
        sam.load_state_dict(torch.load(checkpoint, weights_only=True))
    return sam


@torch.no_grad()
def test_segment_anything_loads_the_checkpoint_as_the_card_says(tmp_path, others, capsys):
    base, adapter = others
    out = tmp_path / "new" / "out"
    main(["export", str(adapter), "--to", "checkpoint", "--out", str(out), "--checkpoint", str(base)])
    assert sorted(path.name for path in out.iterdir()) == ["card.md", "own.pth"]
    card = (out / "card.md").read_text(encoding="utf-8")
    code = 'sam_model_registry["vit_b"](checkpoint="own.pth")'
    assert code in card and code in capsys.readouterr().out
    assert f"vit_b_em_organelles.pt, SHA-256 {sha256(base)}" in card and sha256(out / "own.pth") in card
    adapted = load_sam("vit_b", base)
    load_adapter(adapted, adapter)
    for found, expected in zip(
        outputs(sam_model_registry["vit_b"](checkpoint=out / "own.pth")), outputs(merge(adapted))
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_checkpoint_of_lite_is_called_no_stock_one(tmp_path, capsys):
    main(["export", "emps", "--to", "checkpoint", "--out", str(tmp_path)])
    assert "No stock SAM checkpoint" in capsys.readouterr().out
    adapted = load_sam("lite")
    load_adapter(adapted, EMPS)
    found, expected = load_sam("lite", tmp_path / "emps.pth").state_dict(), merge(adapted).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_onnx_has_both_files_and_says_which_adapter(tmp_path):
    main(["export", "emps", "--to", "onnx", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "decoder.onnx", "encoder.onnx"]
    for name in ("encoder.onnx", "decoder.onnx"):
        stated = {p.key: p.value for p in onnx.load(tmp_path / name).metadata_props}
        assert (stated["adapter"], stated["adapter_sha256"]) == ("emps.safetensors", sha256(EMPS))


def test_the_adapter_comes_with_what_its_metadata_say(tmp_path):
    main(["export", "emps", "--to", "adapter", "--out", str(tmp_path)])
    assert (tmp_path / "emps.safetensors").read_bytes() == EMPS.read_bytes()
    card, metadata = (tmp_path / "card.md").read_text(encoding="utf-8"), read_adapter(EMPS)[0]
    told = json.loads(re.search(r"```json\n(.*)```", card, re.DOTALL)[1])
    assert told == {"segment": metadata["segment"], "card": metadata["card"]}
    assert card.count(sha256(EMPS)) == 2 and metadata["base_hash"] in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "checkpoint"], "no adapter for --to checkpoint; name one"),
        (["nowhere", "--to", "onnx"], "nowhere is no adapter"),
        (["emps", "--to", "onnx", "--model", "vit_b"], "--model is vit_b, and .* was made for lite; leave --model out"),
    ],
)
def test_what_does_not_fit_ends_in_one_sentence(tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        main(["export", *options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["card.md", "decoder.onnx"])
def test_nothing_is_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit, match=f"{name} exists; choose another folder, or delete it"):
        main(["export", "emps", "--to", "onnx", "--out", str(tmp_path)])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
