"""lorasam draft, as it is called: what is written, what is done again, and what a person's work is safe from."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.draw import disk
from skimage.io import imread, imsave

from lorasam_core.cli import main
from lorasam_core.data.folders import list_folder
from lorasam_core.data.readers import read_record
from lorasam_core.experiments.labelling import load, read_log, save

FEW = ["--points", "4", "--device", "cpu", "--crop-bottom", "none"]


def micrograph(path, shape=(96, 128)):
    image = np.random.default_rng(0).normal(80, 6, shape)
    image[disk((48, 60), 22, shape=shape)] = 190
    imsave(path, image.clip(0, 255).astype(np.uint8), check_contrast=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "images").mkdir(parents=True)
    for name in "ab":
        micrograph(tmp_path / "in" / "images" / f"{name}.png")
    (tmp_path / "in" / "groups.csv").write_text("id,group,pixel_size\na,powder,2\nb,powder,3\n")
    return tmp_path / "in"


def draft(folder, out, *options):
    main(["draft", str(folder), "--out", str(out), *FEW, *options])


def states(out):
    return pd.read_csv(out / "drafts.csv").set_index("image")["state"].to_dict()


def test_every_image_has_a_draft_to_go_on_with(folder, tmp_path, capsys):
    out = tmp_path / "out"
    draft(folder, out)
    assert states(out) == {"a": "draft", "b": "draft"} and "in the drafts of 2 images" in capsys.readouterr().out
    labels, work = tifffile.imread(out / "a" / "labels.tif"), load(out / "a")
    assert labels.dtype == np.uint16 and np.array_equal(labels, work.labels)
    assert work.labels[48, 60] and np.array_equal(work.image, imread(folder / "images" / "a.png"))
    assert imread(out / "a" / "overlay.png").shape == (96, 128, 3)
    (first,) = read_log(out / "a")
    assert first["model"]["settings"]["points_per_side"] == 4 and first["group"] == "powder"
    assert first["pixel_size"] == 2


def test_what_is_drafted_stays_and_another_model_drafts_anew(folder, tmp_path):
    out = tmp_path / "out"
    draft(folder, out)
    before = (out / "a" / "log.jsonl").read_bytes()
    (out / "a" / "overlay.png").unlink()  # as if killed after the log
    draft(folder, out)
    assert (out / "a" / "log.jsonl").read_bytes() == before and (out / "a" / "overlay.png").exists()
    draft(folder, out, "--adapter", "emps")
    assert read_log(out / "a")[0]["model"]["adapter"] == "emps.safetensors"


def test_work_is_never_overwritten_and_what_is_accepted_can_be_trained_on(folder, tmp_path, capsys):
    out = tmp_path / "out"
    draft(folder, out)
    work = load(out / "a")
    work.remove(*work.ids)
    save(work, out / "a")
    whole = load(out / "b")
    whole.accept()
    save(whole, out / "b")
    before = {i: (out / i / "log.jsonl").read_bytes() for i in "ab"}
    capsys.readouterr()
    draft(folder, out, "--adapter", "emps")
    said = capsys.readouterr().out
    assert "left as they are, worked on: a" in said and "left as they are, accepted: b" in said
    assert {i: (out / i / "log.jsonl").read_bytes() for i in "ab"} == before
    assert states(out) == {"a": "worked on", "b": "accepted"} and not load(out / "a").ids
    assert f"lorasam adapt {out / 'labelled'} --out" in said
    records, notes = list_folder(out / "labelled")
    (sample,) = (read_record(record)[0] for record in records)
    assert notes == [] and (sample.id, sample.group, sample.pixel_size) == ("b", "powder", 3)
    assert np.array_equal(sample.labels > 0, whole.labels > 0)

    work = load(out / "b")
    work.remove(work.ids[0])
    save(work, out / "b")
    draft(folder / "images" / "a.png", out)
    assert list((out / "labelled" / "labels").iterdir()) == []
    work.accept()
    save(work, out / "b")
    moved = folder.rename(tmp_path / "moved")
    draft(moved / "images" / "b.png", out)
    draft(moved / "images" / "b.png", out, "--tile", "64")
    assert [path.name for path in (out / "labelled" / "images").iterdir()] == ["b.png"]


def test_a_draft_that_is_right_is_accepted_by_name(folder, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="holds no drafts; make them first"):
        draft(folder, out, "--accept", "a")
    assert not out.exists()
    draft(folder, out)
    before = (out / "a" / "log.jsonl").read_bytes()
    with pytest.raises(SystemExit, match="holds no draft of c; give names of those that it holds: a, b"):
        draft(folder, out, "--accept", "a", "c")
    assert (out / "a" / "log.jsonl").read_bytes() == before
    work = load(out / "b")
    work.remove(work.ids[0])
    save(work, out / "b")
    moved = folder.rename(tmp_path / "moved")
    capsys.readouterr()
    for _ in range(2):  # once more changes nothing
        draft(moved, out, "--accept", "b", "--adapter", "emps")
        assert (
            f"accepted: 1 image; to adapt the model to them: lorasam adapt {out / 'labelled'}"
            in capsys.readouterr().out
        )
    assert states(out) == {"a": "draft", "b": "accepted"} and (out / "a" / "log.jsonl").read_bytes() == before
    assert [entry["action"] for entry in read_log(out / "b")] == ["draft", "remove", "accept"]
    (record,) = list_folder(out / "labelled")[0]
    assert record.id == "b" and np.array_equal(read_record(record)[0].labels > 0, work.labels > 0)


def test_images_in_folders_keep_their_places(tmp_path):
    """Two of one name, in two folders, are two labellings, and stay two when they are accepted."""
    for name in ("one", "two"):
        (tmp_path / "in" / "images" / name).mkdir(parents=True)
        micrograph(tmp_path / "in" / "images" / name / "a.png")
    out = tmp_path / "out"
    draft(tmp_path / "in", out)
    for name in ("one", "two"):
        work = load(out / name / "a")
        work.accept()
        save(work, out / name / "a")
    draft(tmp_path / "in", out)
    assert states(out) == {"one/a": "accepted", "two/a": "accepted"}
    records, _ = list_folder(out / "labelled")
    assert {record.id for record in records} == {"one/a", "two/a"}
    assert all(read_record(record)[0].labels.any() for record in records)


def test_an_image_that_changed_under_its_labels_is_named(folder, tmp_path, capsys):
    out = tmp_path / "out"
    draft(folder, out)
    work = load(out / "a")
    work.accept()
    save(work, out / "a")
    micrograph(folder / "images" / "a.png", (96, 120))
    micrograph(folder / "images" / "b.png", (96, 120))
    (folder / "images" / "c.png").write_bytes(b"no picture")
    (folder / "groups.csv").unlink()
    with pytest.raises(SystemExit) as ended:
        draft(folder, out)
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "a.png has changed since it was labelled; put it back, or move" in said
    assert "c.png" in said and read_log(out / "a")[-1]["action"] == "accept"
    assert tifffile.imread(out / "b" / "labels.tif").shape == (96, 120)  # nobody had touched it


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--crop-bottom", "most"], "auto, none or a number"), (["--adapter", "nowhere"], "nowhere is no adapter"),
     (["--score", "2"], "score_thresh is 2")],
)  # fmt: skip
def test_wrong_options_end_in_one_sentence(folder, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        draft(folder, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_every_line_of_a_log_is_json(folder, tmp_path):
    draft(folder, tmp_path / "out")
    for line in (tmp_path / "out" / "a" / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["action"]
