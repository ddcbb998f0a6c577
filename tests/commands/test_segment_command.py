"""lorasam segment, as it is called: options, places, scales, exit statuses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.draw import disk
from skimage.io import imsave

from lorasam_core.cli import main
from lorasam_core.commands.segment import diameters

FEW = ["--points", "4", "--device", "cpu", "--crop-bottom", "none"]


def micrograph(folder, name, shape=(96, 128)):
    image = np.random.default_rng(0).normal(80, 6, shape)
    image[disk((48, 60), 22, shape=shape)] = 190
    imsave(folder / name, image.clip(0, 255).astype(np.uint8), check_contrast=False)


@pytest.mark.parametrize(
    ("texts", "numbers", "nm"),
    [
        ((None, None), [None, None], False),
        (("20", "40px"), [20, 40], False),
        (("20nm", "0.5um"), [20, 500], True),
        ((".5 µm", None), [500, None], True),
    ],
)
def test_diameters_have_a_unit(texts, numbers, nm):
    found, in_nm = diameters(*texts)
    assert found == pytest.approx(numbers) and bool(in_nm) == nm


@pytest.mark.parametrize("texts", [("20", "1um"), ("twenty", None), ("-3", None), ("5 inch", None)])
def test_other_diameters_are_refused(texts):
    with pytest.raises(ValueError, match=r"in one unit|is no diameter"):
        diameters(*texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pred-iou", "0.5"], "--pred-iou is no option of the guided generator"),
        (["--generator", "exact", "--score", "0.5"], "--score is no option of the exact generator"),
        (["--crop-bottom", "most"], "auto, none or a number of pixels"),
        (["--min-diameter", "big"], "is no diameter"),
    ],
)
def test_wrong_options_end_in_one_sentence(tmp_path, options, message):
    micrograph(tmp_path, "a.png")
    with pytest.raises(SystemExit, match=message):
        main(["segment", str(tmp_path), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_a_folder_is_segmented_and_one_bad_image_named(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    micrograph(tmp_path / "images", "a.png")
    micrograph(tmp_path / "images", "b.png")
    (tmp_path / "images" / "c.png").write_bytes(b"no picture")
    (tmp_path / "pixel_size.csv").write_text("id,pixel_size\na,2\nb,2\n")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["segment", str(tmp_path), "--out", str(out), *FEW])
    assert ended.value.code == 1 and "c.png" in capsys.readouterr().err
    particles, summary = pd.read_csv(out / "particles.csv"), pd.read_csv(out / "summary.csv").set_index("image")
    assert summary["problem"].notna().tolist() == [False, False, True]
    labels = tifffile.imread(out / "labels" / "a.tif")
    assert labels.shape == (96, 128) and set(particles["unit"]) <= {"nm"}
    assert not (out / "labels" / "c.tif").exists() and (out / "overlays" / "b.png").exists()
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["model"]["settings"]["points_per_side"] == 4
    assert [image["pixel_size"] for image in run["images"]] == [2, 2, None]

    (tmp_path / "images" / "c.png").unlink()  # as the sentence says: what was done stays, and a new scale counts
    (tmp_path / "pixel_size.csv").write_text("id,pixel_size\na,3\nb,2\n")
    main(["segment", str(tmp_path / "images"), "--out", str(out), *FEW])
    summary = pd.read_csv(out / "summary.csv").set_index("image")
    assert summary["pixel_size"].to_dict() == {"a": 3, "b": 2} and summary["problem"].isna().all()


def test_files_of_a_folder_have_its_scale(tmp_path):
    micrograph(tmp_path, "a.png")
    (tmp_path / "pixel_size.csv").write_text("id,pixel_size\na,4\n")
    out = tmp_path / "out"
    main(["segment", str(tmp_path / "a.png"), "--out", str(out), *FEW, "--generator", "exact", "--no-border"])
    assert pd.read_csv(out / "summary.csv")["pixel_size"].tolist() == [4]
    assert not pd.read_csv(out / "particles.csv")["touches_border"].any()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        micrograph(images, name, (96, 120 + 8 * ord(name[0]) % 32))
    (images / "d.png").write_bytes(b"no image")
    for out, more in (("one", []), ("two", ["--workers", "2"])):
        with pytest.raises(SystemExit):  # the damaged one is named, and the others are done
            main(["segment", str(images), "--out", str(tmp_path / out), *FEW, *more])
        assert "d.png" in capsys.readouterr().err
    names = sorted(p.relative_to(tmp_path / "one") for p in tmp_path.glob("one/labels/*"))
    assert len(names) == 3
    for name in [*names, "particles.csv"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = (pd.read_csv(tmp_path / out / "summary.csv").drop(columns="seconds") for out in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


def test_workers_are_checked_before_any_work(tmp_path):
    micrograph(tmp_path, "a.png")
    with pytest.raises(SystemExit, match="workers is 0; give a whole number"):
        main(["segment", str(tmp_path), "--out", str(tmp_path / "out"), *FEW, "--workers", "0"])
    assert not (tmp_path / "out").exists()
