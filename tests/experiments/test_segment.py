"""A folder in, masks and tables out: with a segmenter by threshold, whose answers are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.draw import disk
from skimage.io import imread, imsave
from skimage.measure import label

from lorasam_core.experiments.outputs import write_labels
from lorasam_core.experiments.segment import Filters, Reading, segment_folder
from lorasam_core.masks.tiles import Found
from lorasam_core.measure.folder import measure_folder

DISKS = ((30, 90, 14), (30, 30, 8), (80, 40, 20), (119, 110, 10))  # row, column, radius; the last is cut by the edge
ROOT = Path(__file__).parents[2]
DESCRIBED = {"model": "threshold", "tile": 512}


def by_threshold(image: np.ndarray) -> Found:
    labels = label(image > 128).astype(np.int32)
    ratings = np.linspace(0.9, 0.5, labels.max()) if labels.max() else np.zeros(0)
    return Found(labels, np.stack([ratings, ratings, ratings], axis=1))


def micrograph(disks=DISKS, shape=(120, 140)) -> np.ndarray:
    image = np.full(shape, 40, np.uint8)
    for y, x, radius in disks:
        image[disk((y, x), radius + 0.5, shape=shape)] = 200
    return image


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, disks in (("a", DISKS), ("b", DISKS[:2]), ("c", ())):
        imsave(folder / f"{name}.png", micrograph(disks), check_contrast=False)
    return {path.stem: path for path in sorted(folder.iterdir())}


def segment(files, out, reading=None, filters=None, by=by_threshold):
    reading, filters = reading or Reading(crop_bottom="none"), filters or Filters()
    return segment_folder(files, out, by, DESCRIBED, reading, filters)


def test_images_in_folders_have_their_masks_in_folders(files, tmp_path):
    within = {"a": files["a"], "x/a": files["b"], "x/y/c": files["c"]}
    out, asked = tmp_path / "out", []

    def counted(image):
        asked.append(image)
        return by_threshold(image)

    segment(within, out, by=counted)
    summary = segment(within, out, by=counted).set_index("image")  # goes on: nothing is left to do
    assert summary["particles"].to_dict() == {"a": 4, "x/a": 2, "x/y/c": 0} and len(asked) == 3
    assert {p.relative_to(out / "labels").as_posix() for p in (out / "labels").rglob("*.tif")} == {
        "a.tif", "x/a.tif", "x/y/c.tif"
    }  # fmt: skip
    assert {i: len(table) for i, table in measure_folder(out).items()} == {"a": 4, "x/a": 2, "x/y/c": 0}
    with pytest.raises(ValueError, match=r"holds results of other images \(x/a\)"):
        segment({"a": files["a"]}, out)


def test_masks_and_tables_are_those_of_the_disks(files, tmp_path):
    out = tmp_path / "out"
    summary = segment(files, out).set_index("image")
    assert summary["particles"].to_dict() == {"a": 4, "b": 2, "c": 0}
    labels = tifffile.imread(out / "labels" / "a.tif")
    assert labels.dtype == np.uint16 and np.array_equal(labels > 0, micrograph() > 128)
    assert tifffile.imread(out / "labels" / "c.tif").max() == 0
    assert imread(out / "overlays" / "a.png").shape == (120, 140, 3)
    particles = pd.read_csv(out / "particles.csv")
    first = particles[particles["image"] == "a"]
    for (y, x, radius), (_, row) in zip(DISKS[:3], first.iterrows()):
        assert labels[y, x] == row["label"] and (row["y"], row["x"]) == pytest.approx((y, x))
        assert row["equivalent_diameter"] == pytest.approx(2 * radius + 1, rel=0.02)
    assert first["touches_border"].tolist() == [False, False, False, True]
    assert set(particles["unit"]) == {"px"}
    assert first["predicted_iou"].tolist() == pytest.approx([0.9, 0.767, 0.633, 0.5], abs=1e-3)
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["model"] == DESCRIBED and [i["image"] for i in run["images"]] == ["a", "b", "c"]


def test_a_scale_turns_every_length_into_nm(files, tmp_path):
    in_pixels, in_nm = tmp_path / "px", tmp_path / "nm"
    segment(files, in_pixels)
    segment(files, in_nm, Reading("none", pixel_size=2.5))
    a, b = (pd.read_csv(out / "particles.csv") for out in (in_pixels, in_nm))
    assert set(b["unit"]) == {"nm"} and set(b["pixel_size"]) == {2.5}
    for name, power in (("area", 2), ("equivalent_diameter", 1), ("feret_max", 1), ("major_axis", 1)):
        assert b[name].tolist() == pytest.approx((a[name] * 2.5**power).tolist())
    for name in ("circularity", "y", "aspect_ratio", "score"):
        assert b[name].tolist() == a[name].tolist()


def test_where_one_image_has_no_scale_all_stay_in_pixels(files, tmp_path):
    segment(files, tmp_path / "out", Reading("none", pixel_sizes={"a": 2.0}))
    particles = pd.read_csv(tmp_path / "out" / "particles.csv")
    assert set(particles["unit"]) == {"px"}
    assert particles.groupby("image")["pixel_size"].first().dropna().to_dict() == {"a": 2.0}


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        (Filters(border=False), [29, 17, 41]),
        (Filters(min_diameter=20), [29, 41]),
        (Filters(min_diameter=20, max_diameter=35), [29]),
        (Filters(largest_share=0.05), [29, 17, 15.4]),
        (Filters(min_circularity=0.95), [29, 17, 41]),
    ],
)
def test_filters_keep_what_they_say(files, tmp_path, filters, kept):
    segment(files, tmp_path / "out", filters=filters)
    particles = pd.read_csv(tmp_path / "out" / "particles.csv").query("image == 'a'")
    assert particles["equivalent_diameter"].tolist() == pytest.approx(kept, rel=0.05)
    assert sorted(np.unique(tifffile.imread(tmp_path / "out" / "labels" / "a.tif"))) == list(range(len(kept) + 1))


def test_diameters_in_nm_need_a_scale(files, tmp_path):
    nm = Filters(min_diameter=50, nm=True)
    summary = segment(files, tmp_path / "none", filters=nm)
    assert summary["problem"].str.contains("no scale, which diameters in nm need; give --pixel-size").all()
    segment(files, tmp_path / "some", Reading("none", pixel_size=2.0), nm)
    assert len(pd.read_csv(tmp_path / "some" / "particles.csv").query("image == 'a'")) == 2  # 58 and 82 nm


def test_a_damaged_image_is_named_and_the_others_are_done(files, tmp_path):
    files["b"].write_bytes(files["b"].read_bytes()[:60])
    summary = segment(files, tmp_path / "out").set_index("image")
    assert str(files["b"]) in summary.loc["b", "problem"] and summary.loc[["a", "c"], "problem"].eq("").all()
    imsave(files["b"], micrograph(DISKS[:2]), check_contrast=False)  # mended: it is done, the others are not again
    seen = []
    summary = segment(files, tmp_path / "out", by=lambda image: seen.append(image) or by_threshold(image))
    assert len(seen) == 1 and summary.set_index("image")["particles"].to_dict() == {"a": 4, "b": 2, "c": 0}


def test_rows_of_a_data_bar_are_cut_off_and_empty_in_the_labels(files, tmp_path):
    image = micrograph()
    image[100:] = 255
    imsave(files["a"], image, check_contrast=False)
    summary = segment({"a": files["a"]}, tmp_path / "out", Reading(crop_bottom=20))
    labels = tifffile.imread(tmp_path / "out" / "labels" / "a.tif")
    assert labels.shape == image.shape and not labels[100:].any() and labels[:100].max() == 3
    assert summary["data_bar"].tolist() == [20]


@pytest.mark.parametrize(("most", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_more_than_65_535_particles_need_32_bits(tmp_path, most, dtype):
    labels = np.arange(most - 5, most + 1).reshape(2, 3)
    write_labels(tmp_path / "many.tif", labels)
    written = tifffile.imread(tmp_path / "many.tif")
    assert written.dtype == dtype and np.array_equal(written, labels)


def test_a_folder_with_other_results_is_refused(files, tmp_path):
    out = tmp_path / "out"
    segment(files, out)
    with pytest.raises(ValueError, match=r"holds results with min_circularity 0\.0, not 0\.5; choose another"):
        segment(files, out, filters=Filters(min_circularity=0.5))
    with pytest.raises(ValueError, match=r"results of other images \(c\); choose another"):
        segment({"a": files["a"], "b": files["b"]}, out)


def test_killed_and_called_again_it_goes_on(files, tmp_path):
    out, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
        "from tests.experiments.test_segment import DESCRIBED, Reading, by_threshold, segment_folder\n"
        "files = {p.stem: p for p in sorted(Path(sys.argv[1]).iterdir())}\n"
        "count = 0\n"
        "def once(image):\n"
        "    global count\n    count += 1\n"
        "    return by_threshold(image) if count < 2 else os.kill(os.getpid(), 9)\n"
        "segment_folder(files, sys.argv[2], once, DESCRIBED, Reading('none'))\n"
    )
    folder = str(next(iter(files.values())).parent)
    done = [subprocess.run([sys.executable, program, folder, str(out)]).returncode for _ in range(3)]
    assert done == [-9, -9, 0]  # an image a call
    again = tmp_path / "again"
    segment(files, again)
    for name in ("particles.csv", "labels/a.tif", "labels/b.tif"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
