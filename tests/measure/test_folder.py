"""Labels of a folder with every layout and source of scale that a user has; the unit is one for all of them."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.draw import disk
from skimage.io import imsave

from lorasam_core.data.databar import data_bar
from lorasam_core.data.sample import DataError
from lorasam_core.measure.folder import distributions, measure_folder
from lorasam_core.measure.sizes import FIGURES, size_distribution


def discs(*radii):
    labels = np.zeros((60, 60 * len(radii)), np.uint16)
    for k, radius in enumerate(radii):
        labels[disk((30, 60 * k + 30), radius)] = k + 1
    return labels


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, **options)
    else:
        imsave(path, array, check_contrast=False)


@pytest.fixture
def run(tmp_path):
    """What `lorasam segment` leaves: b has one particle, whose number is no mask's, over a data bar; a has two."""
    save(tmp_path / "labels" / "a.tif", discs(9, 14))
    alone = 7 * discs(10)
    alone[35:] = 0  # the bar of 25 rows begins where the disc is cut
    save(tmp_path / "labels" / "b.tif", alone)
    rows = [("a", 2.0, 0), ("b", 2.0, 25), ("broken", "", "")]
    pd.DataFrame(rows, columns=["image", "pixel_size", "data_bar"]).to_csv(tmp_path / "summary.csv", index=False)
    return tmp_path


def test_a_segmented_folder_may_be_called_masks(run, tmp_path_factory):
    copy = shutil.copytree(run, tmp_path_factory.mktemp("mine") / "masks")
    for i, table in measure_folder(run).items():
        pd.testing.assert_frame_equal(measure_folder(copy)[i], table)
    assert list(measure_folder(copy / "labels")) == ["a", "b"]


def test_a_segmented_folder(run):
    tables = measure_folder(run)
    assert list(tables) == ["a", "b"] and {t["unit"].unique().item() for t in tables.values()} == {"nm"}
    np.testing.assert_allclose(tables["a"]["area"], 4 * np.bincount(discs(9, 14).ravel())[1:])
    assert tables["b"]["label"].item() == 7 and tables["b"]["touches_border"].item()
    assert not tables["a"]["touches_border"].any()
    only = measure_folder(run / "labels" / "a.tif")
    pd.testing.assert_frame_equal(only["a"], tables["a"])
    pd.testing.assert_frame_equal(measure_folder(run / "labels")["b"], tables["b"])


def test_what_is_given_wins_over_the_table_and_that_over_the_run(run):
    (run / "pixel_size.csv").write_text("id,pixel_size\na,5\n")
    tables = measure_folder(run)
    pixels = np.bincount(discs(9, 14).ravel())[1:]
    np.testing.assert_allclose(tables["a"]["area"], 25 * pixels)
    assert tables["b"]["area"].item() == 4 * (discs(10)[:35] > 0).sum()
    np.testing.assert_allclose(measure_folder(run, 3.0)["a"]["area"], 9 * pixels)
    with pytest.raises(DataError, match="--pixel-size is -1"):
        measure_folder(run, -1.0)


def test_the_scale_of_the_images_and_their_grey(tmp_path):
    image = np.where(discs(9, 14) > 0, 200, 50).astype(np.uint8)
    scale = {"imagej": True, "resolution": (1 / 2.5, 1 / 2.5), "metadata": {"unit": "nm"}}
    save(tmp_path / "images" / "x.tif", image, **scale)
    save(tmp_path / "masks" / "x_mask.png", np.where(discs(9, 14) > 0, 255, 0).astype(np.uint8))
    table = measure_folder(tmp_path)["x_mask"]
    np.testing.assert_allclose(sorted(table["area"]), 6.25 * np.bincount(discs(9, 14).ravel())[1:])
    assert set(table["unit"]) == {"nm"} and set(table["mean_grey"]) == {200}
    save(tmp_path / "images" / "x.tif", image[:50], **scale)
    with pytest.raises(DataError, match="same size"):
        measure_folder(tmp_path)


def test_a_data_bar_cuts_particles(tmp_path):
    image = np.random.default_rng(0).integers(60, 160, (260, 300), np.uint8)
    labels = np.zeros((260, 300), np.uint16)
    labels[100:120, 40:60], labels[200:220, 90:110] = 1, 2
    image[220:] = 0
    cv2.putText(image, "10.0 kV  x 2,000  5 um  SEM  2024-05-01", (4, 246), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 255, 1)
    save(tmp_path / "images" / "x.png", image)
    save(tmp_path / "labels" / "x.tif", labels)
    assert data_bar(image) == 40
    assert measure_folder(tmp_path)["x"]["touches_border"].tolist() == [False, True]
    labels[230:240, 5:15] = 3  # what is labelled there is no bar
    save(tmp_path / "labels" / "x.tif", labels)
    assert not measure_folder(tmp_path)["x"]["touches_border"].any()


def test_labels_alone_and_labels_beside_images_are_in_pixels(tmp_path):
    save(tmp_path / "alone" / "p.tif", discs(9, 14))
    save(tmp_path / "alone" / "q.png", discs(5, 6, 7))
    tables = measure_folder(tmp_path / "alone")
    assert {i: len(t) for i, t in tables.items()} == {"p": 2, "q": 3} and set(tables["q"]["unit"]) == {"px"}
    save(tmp_path / "beside" / "x.png", np.full((60, 120), 90, np.uint8))
    save(tmp_path / "beside" / "x_label.tif", discs(9, 14))
    beside = measure_folder(tmp_path / "beside")
    assert list(beside) == ["x_label"] and set(beside["x_label"]["mean_grey"]) == {90}


def test_a_scale_for_some_images_alone_is_refused(run):
    save(run / "labels" / "c.tif", discs(4, 5))
    with pytest.raises(DataError, match=r"scale for 2 of 3 images, and none for c\.tif; give --pixel-size"):
        measure_folder(run)
    assert set(measure_folder(run, 1.5)["c"]["unit"]) == {"nm"}


def test_nothing_to_measure_is_said(tmp_path):
    with pytest.raises(DataError, match="is missing"):
        measure_folder(tmp_path / "nowhere")
    save(tmp_path / "images" / "x.png", np.zeros((20, 20), np.uint8))
    with pytest.raises(DataError, match="has no labels; put them in"):
        measure_folder(tmp_path)
    save(tmp_path / "photo" / "x.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    with pytest.raises(DataError, match=r"x\.png"):
        measure_folder(tmp_path / "photo")


def test_a_row_an_image_and_one_for_all(run):
    tables = measure_folder(run)
    rows = distributions(tables, "volume", border_correction=True)
    assert rows["image"].tolist() == ["a", "b", "all"] and rows["count"].tolist() == [2, 0, 2]
    assert rows["cut"].tolist() == [0, 1, 1] and set(rows["unit"]) == {"nm"}
    expected = size_distribution(pd.concat(tables.values()), weight="volume", border_correction=True)
    last = rows.iloc[-1]
    assert {name: last[name] for name in FIGURES} == {name: expected[name] for name in FIGURES}
    assert rows.iloc[1][list(FIGURES)].isna().all()
    assert all(last[f"{name}_low"] <= last[name] <= last[f"{name}_high"] for name in ("mean", "D10", "D50", "D90"))


def test_a_folder_without_any_particle(tmp_path):
    save(tmp_path / "x.tif", np.zeros((30, 30), np.uint8))
    rows = distributions(measure_folder(tmp_path, 2.0))
    assert rows["count"].tolist() == [0, 0] and rows["D50"].isna().all() and set(rows["unit"]) == {"nm"}
