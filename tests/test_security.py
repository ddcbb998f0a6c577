"""What a file that was made to do harm can do: nothing is run, nothing is written elsewhere, no name becomes a tag."""

from __future__ import annotations

import ast
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from lorasam_core.data import DataError, emps
from lorasam_core.data.check import check_folder
from lorasam_core.data.folders import list_folder, list_images
from lorasam_core.data.readers import read_record
from lorasam_core.experiments.adapt import _labels as read_answer
from lorasam_core.models.sam import load_sam
from lorasam_core.report.figures import figure_markdown, table_markdown
from lorasam_core.training import checkpoint
from tests.damage import TRAP, Trap
from tests.data.test_emps import write_emps
from tests.experiments.test_segment import micrograph, segment
from tests.made_labels import picture, put, rois, two_images
from tests.tiny_sam import tiny_sam

ROOT = Path(__file__).parents[1]
TAG = "<img src=x onerror=alert(1)>"
OWN = sorted(
    p for place in ("lorasam_core", "pretrain", "bench", "notebooks", "book") for p in (ROOT / place).rglob("*.py")
)


# ------------------------------------------------------------------------------------------------------ pickles
def harmful(call: ast.Call) -> bool:
    """Whether a call reads pickles, or runs text as code."""
    name, options = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
    if name == "torch.load":
        return options.get("weights_only") != "True"
    if name == "np.load":
        return "allow_pickle" in options
    readers = ("pickle.load", "pickle.loads", "pd.read_pickle", "joblib.load", "yaml.load", "yaml.unsafe_load")
    return name in (*readers, "eval", "exec", "os.system", "os.popen") or options.get("shell") == "True"


@pytest.mark.parametrize("code", ["torch.load(p)", "pickle.load(f)", "np.load(p, allow_pickle=True)", "eval(x)"])
def test_a_harmful_call_would_be_found(code):
    assert harmful(ast.parse(code, mode="eval").body)


def test_no_code_reads_a_pickle_or_runs_text():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in OWN
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and harmful(node)
    ]
    assert len(OWN) > 100 and found == []


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """What makes a folder where a pickle is run; the test looks for it in the end."""
    monkeypatch.chdir(tmp_path)
    yield Trap(TRAP)
    assert not (tmp_path / TRAP).exists()


def test_the_trap_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap(TRAP)))
    assert (tmp_path / TRAP).is_dir()


@pytest.mark.parametrize("name", ["base.pth", "base.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda x, to: Path(to).write_bytes(pickle.dumps(x, 2))])
@pytest.mark.parametrize("hide", [lambda t: t, lambda t: {**tiny_sam().state_dict(), "more": t}])
def test_a_pickle_in_a_checkpoint_is_refused(trap, tmp_path, name, write, hide):
    write(hide(trap), tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is not a readable checkpoint") as error:
        load_sam("lite", tmp_path / name)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_pickle_in_the_checkpoint_of_a_training_is_not_read(trap, tmp_path, caplog):
    torch.save({"settings": {}, "more": trap}, tmp_path / checkpoint.FILE)
    assert checkpoint.read(tmp_path, {"settings": {}}) is None and "cannot be read" in caplog.text


def test_a_pickle_among_the_answers_of_a_model_is_refused(trap, tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.array([trap], object), scores=np.array([trap], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_answer(tmp_path / "a.npz", 0.5)


# ------------------------------------------------------------------------------------------------------ archives
def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path, monkeypatch):
    write_emps(tmp_path / "src" / "emps")
    with zipfile.ZipFile(tmp_path / "emps.zip", "w") as archive:
        for path in sorted((tmp_path / "src").rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "src"))
        for name in ("../outside.txt", "../../outside.txt", f"{tmp_path}/outside.txt", "emps/../../outside.txt"):
            archive.writestr(name, "escaped")
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: str(tmp_path / "emps.zip"))
    before = {p for p in tmp_path.rglob("*")}
    part = tmp_path / "cache" / "part"
    assert emps._download(part) == part / "unpacked" / "emps"
    outside = {p for p in tmp_path.rglob("*") if part not in (p, *p.parents)} - before
    assert outside <= {tmp_path / "cache"} and not list(tmp_path.rglob("outside.txt"))


def test_names_in_an_archive_of_rois_are_not_paths(tmp_path):
    folder = two_images(tmp_path / "powder")
    put(folder / "labels" / "a.zip", b"")
    with zipfile.ZipFile(folder / "labels" / "a.zip", "w") as archive:
        archive.writestr("../../outside.roi", rois()[0].tobytes())
    (record,) = list_folder(folder, labelled_only=True)[0]
    assert read_record(record)[0].labels.max() == 1 and not list(tmp_path.rglob("outside*"))


def test_a_huge_roi_in_a_small_archive_is_refused(tmp_path):
    folder = two_images(tmp_path / "powder")
    put(folder / "labels" / "a.zip", b"")
    with zipfile.ZipFile(folder / "labels" / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.roi", b"Iout" + bytes(2**26))
    with pytest.raises(DataError, match=r"a\.zip cannot be read as ROIs of ImageJ .*too large"):
        list_folder(folder, labelled_only=True)


# ------------------------------------------------------------------------------------------------------ names
def test_a_name_is_no_tag_in_the_book():
    table = pd.DataFrame({"test image": [TAG, f"a|{TAG}"], TAG: ["1 < 2", "</td><script>alert(1)</script>"]})
    text = table_markdown(table, "", "") + "\n\n" + figure_markdown("a.png", "fig-a", TAG, f"Image {TAG}.")
    soup = BeautifulSoup(MarkdownIt("commonmark", {"html": True}).enable("table").render(text), "html.parser")
    assert not soup(["img", "script"]) and TAG in soup.text and "1 < 2" in soup.text


def test_a_name_stays_a_name_in_what_check_and_segment_write(tmp_path):
    picture(tmp_path / "in" / f"{TAG}.png", micrograph())
    files, _ = list_images([tmp_path / "in"])
    summary = segment(files, tmp_path / "out")
    assert summary["image"].tolist() == [TAG] and (tmp_path / "out" / "labels" / f"{TAG}.tif").is_file()
    assert "<img" not in summary.to_html() and "<img" not in summary._repr_html_()
    assert check_folder(tmp_path / "in").table["id"].tolist() == [TAG] and not list(tmp_path.rglob("*.htm*"))
