"""lorasam verify on whole files, on tampered ones, and on runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lorasam_core.cli import main
from lorasam_core.experiments import rerun
from lorasam_core.experiments.executor import RunError
from lorasam_core.masks.picture import agreement, kept_mask
from lorasam_core.models import sam as module
from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters, read_adapter, save_adapter
from lorasam_core.models.lora.files import SHIPPED, write_adapter
from lorasam_core.models.sam import load_sam
from tests.tiny_sam import randomise, tiny_sam

EMPS = SHIPPED / "emps.safetensors"
CHECKS = ["file", "content", "tensors", "use", "card", "base", "picture"]


def lines(text):
    """name -> (mark, what was found), in order."""
    return {row[8:17].strip(): (row[:8].strip(), row[17:]) for row in text.splitlines()}


def verify(capsys, *arguments):
    """The checks, and the exit status."""
    status = 0
    try:
        main(["verify", *map(str, arguments)])
    except SystemExit as ended:
        assert ended.code == 1, ended.code
        status = 1
    return lines(capsys.readouterr().out), status


def parts():
    with safe_open(EMPS, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def differing(checks):
    return [name for name, (mark, _) in checks.items() if mark == "DIFFERS"]


def test_the_adapter_that_ships_holds(capsys):
    checks, status = verify(capsys, "emps")
    assert list(checks) == CHECKS and {mark for mark, _ in checks.values()} == {"ok"} and status == 0
    assert "IoU 1.0000" in checks["picture"][1] or "IoU 0.99" in checks["picture"][1]


@pytest.mark.parametrize("place", [-1, -5000, -300_000])
def test_a_flipped_bit_of_a_tensor_is_found(tmp_path, capsys, place):
    path = tmp_path / "emps.safetensors"
    content = bytearray(EMPS.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    checks, status = verify(capsys, path)
    assert status == 1 and "content" in differing(checks)


def test_a_changed_digit_of_the_metadata_is_found(tmp_path, capsys):
    path = tmp_path / "emps.safetensors"
    content = EMPS.read_bytes()
    assert content.count(b'\\"score_thresh\\": 0.35') == 1
    path.write_bytes(content.replace(b'\\"score_thresh\\": 0.35', b'\\"score_thresh\\": 0.85'))
    checks, status = verify(capsys, path)
    assert status == 1 and differing(checks) == ["content"]


def test_half_a_file_and_another_kind_are_named(tmp_path, capsys):
    path = tmp_path / "half.safetensors"
    path.write_bytes(EMPS.read_bytes()[:1000])
    checks, status = verify(capsys, path)
    assert status == 1 and list(checks) == ["file"] and "cannot be read" in checks["file"][1]
    save_file({"weight": torch.zeros(2)}, path)
    checks, status = verify(capsys, path)
    assert status == 1 and "is not an adapter of this package" in checks["file"][1]


@pytest.mark.parametrize("key", ["rank", "base_hash", "scaling"])
def test_missing_metadata_are_named(tmp_path, capsys, key):
    strings, tensors = parts()
    del strings[key]
    write_adapter(tmp_path / "a.safetensors", strings, tensors)
    checks, status = verify(capsys, tmp_path / "a.safetensors")
    assert status == 1 and f"does not state its {key}" in checks["file"][1]


@pytest.mark.parametrize(
    ("key", "text", "check", "says"),
    [
        ("base_hash", "0" * 64, "base", "is for base_hash 000"),
        ("image_size", "1000", "base", "give a multiple of 32"),
        ("segment", "[1]", "use", "cannot be read"),
        ("segment", '{"crop_size": 512, "guided": {"score_thresh": 7}}', "use", "score threshold 7"),
        ("card", "{}", "card", "cannot be read"),
        ("picture", '{"generator": 1, "mask": "ff", "rated": 1}', "picture", "no mask of 64 x 64 bits"),
    ],
)
def test_metadata_that_do_not_fit_are_named(tmp_path, capsys, key, text, check, says):
    strings, tensors = parts()
    write_adapter(tmp_path / "a.safetensors", strings | {key: text}, tensors)
    checks, status = verify(capsys, tmp_path / "a.safetensors")
    assert status == 1 and check in differing(checks) and says in checks[check][1]
    assert checks["content"][0] == "ok"  # it was written like this


def test_a_matrix_of_another_rank_is_named(tmp_path, capsys):
    strings, tensors = parts()
    name = next(name for name in sorted(tensors) if ".A_" in name)
    tensors[name] = tensors[name][:1].clone()
    write_adapter(tmp_path / "a.safetensors", strings, tensors)
    checks, status = verify(capsys, tmp_path / "a.safetensors")
    assert status == 1 and "tensors" in differing(checks)
    assert checks["tensors"][1].startswith(f"{name} is (1, ") and "not one of a pair of rank" in checks["tensors"][1]


def test_a_rank_that_no_matrix_has_is_refused(tmp_path, capsys):
    strings, tensors = parts()
    write_adapter(tmp_path / "a.safetensors", strings | {"rank": "16"}, tensors)
    checks, status = verify(capsys, tmp_path / "a.safetensors")
    assert status == 1 and differing(checks) == ["file"]
    assert "a.safetensors states what cannot be (rank is 16, and that of its matrices another)" in checks["file"][1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_found(tmp_path, capsys, value):
    strings, tensors = parts()
    name = sorted(tensors)[3]
    tensors[name][0, 0] = value
    write_adapter(tmp_path / "a.safetensors", strings, tensors)
    checks, status = verify(capsys, tmp_path / "a.safetensors")
    assert status == 1 and f"{name} holds values that are no numbers" in checks["tensors"][1]


def test_other_weights_give_another_picture(tmp_path, capsys):
    strings, tensors = parts()
    halves = {name: tensor / 2 for name, tensor in tensors.items()}
    write_adapter(tmp_path / "a.safetensors", strings, halves)
    checks, status = verify(capsys, tmp_path / "a.safetensors")
    assert status == 1 and differing(checks) == ["picture"]


def test_an_older_file_states_less_and_that_is_no_failure(tmp_path, capsys):
    strings, tensors = parts()
    for key in ("picture", "segment", "card", "content_sha256"):
        del strings[key]
    save_file(tensors, tmp_path / "a.safetensors", strings)
    checks, status = verify(capsys, tmp_path / "a.safetensors")
    assert status == 0 and [name for name, (mark, _) in checks.items() if mark == "-"] == [
        "content", "use", "card", "picture",
    ]  # fmt: skip


def test_a_base_from_a_file_is_named_and_has_to_be_given(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(module.sam_model_registry, "vit_b", lambda: tiny_sam(seed=9))
    bases = [tmp_path / "vit_b_lm.pt", tmp_path / "other.pt"]
    for seed, base in enumerate(bases):
        torch.save(tiny_sam(seed).state_dict(), base)
    sam = add_lora(load_sam("vit_b", bases[0]), LoRAConfig(4))
    randomise(lora_parameters(sam))
    save_adapter(sam, tmp_path / "own.safetensors")
    checks, status = verify(capsys, tmp_path / "own.safetensors", "--checkpoint", bases[0])
    assert status == 0 and "from vit_b_lm.pt, SHA-256" in checks["base"][1]
    checks, status = verify(capsys, tmp_path / "own.safetensors", "--checkpoint", bases[1])
    assert status == 1 and differing(checks) == ["base"]


def test_the_agreement_of_pictures_is_an_iou():
    picture = read_adapter(EMPS)[0]["picture"]
    mask = kept_mask(picture)
    assert mask.shape == (64, 64) and 0.1 < mask.mean() < 0.9
    bits = "".join(f"{int(digit, 16):04b}" for digit in picture["mask"])
    assert "".join(map(str, mask.ravel().astype(int))) == bits
    left, right = (f"{'f' * n}{'0' * (1024 - n)}" for n in (512, 256))
    assert agreement({"mask": left}, {"mask": right}) == 0.5
    assert agreement({"mask": "0" * 1024}, {"mask": "0" * 1024}) == 1


TABLE = pd.DataFrame(
    [("generator f1", 0.51, 0.50, -0.01, "yes"), ("generator n", 5.0, 6.0, 1.0, "–")],
    columns=["metric", "old", "new", "difference", "within"],
)


@pytest.mark.parametrize("form", ["id", "folder"])
def test_a_run_is_done_again_and_what_differs_is_named(tmp_path, capsys, monkeypatch, form):
    asked = []
    monkeypatch.setattr(rerun, "rerun", lambda run_id, runs: asked.append((run_id, str(runs))) or TABLE)
    folder = tmp_path / "runs" / "emps" / "0123abcd"
    folder.mkdir(parents=True)
    given = ["0123abcd", "--runs", str(tmp_path / "runs")] if form == "id" else [str(folder)]
    main(["verify", *given])
    assert asked == [("0123abcd", str(tmp_path / "runs"))]
    shown = capsys.readouterr().out
    assert "generator f1" in shown and "every metric lies within 0.02" in shown
    monkeypatch.setattr(rerun, "rerun", lambda *_: TABLE.assign(new=[0.6, 6], within=["no", "–"]))
    with pytest.raises(SystemExit) as ended:
        main(["verify", *given])
    assert ended.value.code == 1 and "DIFFERS generator f1: 0.6000, and 0.5100 in the record" in capsys.readouterr().out


def test_a_run_that_fails_says_so(tmp_path, monkeypatch):
    def fails(*_):
        raise RunError("run 0123abcd failed; see its log.")

    monkeypatch.setattr(rerun, "rerun", fails)
    with pytest.raises(SystemExit, match="error: run 0123abcd failed; see its log"):
        main(["verify", "0123abcd", "--runs", str(tmp_path)])


@pytest.mark.parametrize(
    ("what", "message"),
    [("nowhere.safetensors", "does not exist; give an adapter's file"), ("0123abcd", "no finished run '0123abcd'")],
)
def test_what_there_is_not_is_named(tmp_path, monkeypatch, what, message):
    monkeypatch.setattr(rerun, "published_editions", list)
    with pytest.raises(SystemExit, match=message):
        main(["verify", what, "--runs", str(tmp_path)])
