"""Sizes against discs, ellipses and rectangles of known size."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk, ellipse
from skimage.measure import label

from lorasam_core.measure.sizes import COLUMNS, measure, readable_sizes, size_distribution


def discs(radii, gap=6):
    """Label image with one disc for each radius, side by side, none at the border."""
    height = 2 * max(radii) + 2 * gap
    labels = np.zeros((height, sum(2 * r + gap for r in radii) + gap), np.int32)
    x = gap
    for i, r in enumerate(radii, start=1):
        labels[disk((height // 2, x + r), r + 0.5)] = i
        x += 2 * r + gap
    return labels


def test_disc_of_known_size():
    row = measure(discs([40])).iloc[0]
    assert row["area"] == pytest.approx(np.pi * 40.5**2, rel=0.01)
    assert row["equivalent_diameter"] == pytest.approx(81, rel=0.005)
    assert row["feret_max"] == pytest.approx(81, abs=2)
    assert row["aspect_ratio"] == pytest.approx(1, abs=0.01)
    assert row["circularity"] > 0.97 and row["solidity"] > 0.97
    assert not row["touches_border"] and row["unit"] == "px"


def test_ellipse_of_known_axes():
    labels = np.zeros((120, 200), np.int32)
    labels[ellipse(60, 100, 25, 75, rotation=0.3)] = 4
    row = measure(labels).iloc[0]
    assert row["label"] == 4
    assert row["major_axis"] == pytest.approx(150, rel=0.02) and row["minor_axis"] == pytest.approx(50, rel=0.03)
    assert row["aspect_ratio"] == pytest.approx(3, rel=0.04)
    assert row["feret_max"] == pytest.approx(150, rel=0.02)
    assert row["circularity"] == pytest.approx(
        4 * np.pi * np.pi * 75 * 25 / 334.6**2, rel=0.06
    )  # Ramanujan's perimeter
    assert (row["y"], row["x"]) == (pytest.approx(60, abs=0.1), pytest.approx(100, abs=0.1))


def test_concave_shape_is_less_solid():
    cross = np.zeros((60, 60), np.int32)
    cross[25:35, 5:55] = cross[5:55, 25:35] = 1
    row = measure(cross).iloc[0]
    assert row["area"] == 2 * 10 * 50 - 100
    assert row["solidity"] == pytest.approx(900 / 1700, rel=0.03)  # its hull is an octagon of 1700 pixels


@settings(max_examples=25, deadline=None)
@given(pixel_size=st.floats(0.01, 1e4), radii=st.lists(st.integers(4, 15), min_size=1, max_size=5))
def test_scale_turns_pixels_into_nm(pixel_size, radii):
    px, nm = measure(discs(radii)), measure(discs(radii), pixel_size)
    for name in ("equivalent_diameter", "feret_max", "major_axis", "minor_axis"):
        np.testing.assert_allclose(nm[name], px[name] * pixel_size)
    np.testing.assert_allclose(nm["area"], px["area"] * pixel_size**2)
    for name in ("aspect_ratio", "circularity", "solidity", "y", "x"):
        np.testing.assert_array_equal(nm[name], px[name])
    assert set(nm["unit"]) == {"nm"} and set(px["unit"]) == {"px"}
    assert size_distribution(nm)["D50"] == pytest.approx(size_distribution(px)["D50"] * pixel_size)


def test_border_flag_and_its_exclusion():
    labels = discs([10, 12, 14])
    cut = labels[:, 8:]  # the first disc loses its left side
    table = measure(cut)
    assert table["touches_border"].tolist() == [True, False, False]
    assert size_distribution(table)["count"] == 2
    assert size_distribution(table, exclude_border=False)["count"] == 3
    for edge in (np.s_[0, 3], np.s_[-1, 3], np.s_[3, 0], np.s_[3, -1]):
        one = np.zeros((9, 9), np.int32)
        one[edge] = 1
        assert measure(one)["touches_border"].all()


def test_distribution_is_the_percentiles_of_the_sizes():
    radii = list(range(5, 26))
    result = size_distribution(measure(discs(radii), pixel_size=2.0))
    diameters = 2.0 * (2 * np.array(radii) + 1)
    assert result["count"] == 21 and result["unit"] == "nm"
    assert result["D10"] == pytest.approx(np.percentile(diameters, 10), rel=0.03)
    assert result["D50"] == pytest.approx(np.percentile(diameters, 50), rel=0.03)
    assert result["D90"] == pytest.approx(np.percentile(diameters, 90), rel=0.03)
    assert result["mean"] == pytest.approx(diameters.mean(), rel=0.03)
    other = size_distribution(measure(discs(radii)), column="feret_max")
    assert other["D50"] > result["D50"] / 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_label_image_gives_sane_rows(seed):
    rng = np.random.default_rng(seed)
    labels = label(rng.random((24, 24)) < 0.4).astype(np.int32)
    table = measure(labels)
    assert tuple(table.columns) == COLUMNS
    assert table["label"].tolist() == np.unique(labels[labels > 0]).tolist()
    assert table["area"].sum() == (labels > 0).sum()
    assert (table["aspect_ratio"] >= 1 - 1e-9).all()
    assert table["circularity"].between(0, 1).all() and table["solidity"].between(0, 1).all()
    assert (
        table["feret_max"] >= table["equivalent_diameter"] * 0.88
    ).all()  # a disc has the smallest feret for its area
    result = size_distribution(table, exclude_border=False)
    assert result["D10"] <= result["D50"] <= result["D90"]


def test_no_particle():
    table = measure(np.zeros((20, 30), np.uint16), pixel_size=3.0)
    assert tuple(table.columns) == COLUMNS and len(table) == 0
    result = size_distribution(table)
    assert result["count"] == 0 and np.isnan(result["D50"]) and result["unit"] == "nm"


@pytest.mark.parametrize("pixel_size", [0, -1.0, float("nan"), float("inf")])
def test_pixel_size_must_be_above_zero(pixel_size):
    with pytest.raises(ValueError, match="pixel_size is"):
        measure(discs([5]), pixel_size)


@pytest.mark.parametrize("labels", [np.zeros((4, 4)), np.zeros((2, 4, 4), int), np.zeros((4, 4), bool)])
def test_only_label_images(labels):
    with pytest.raises(ValueError, match="give whole numbers"):
        measure(labels)


def test_negative_ids_and_foreign_tables():
    with pytest.raises(ValueError, match="holds -1"):
        measure(np.full((3, 3), -1))
    with pytest.raises(ValueError, match="made by measure"):
        size_distribution(pd.DataFrame({"area": [1.0]}))
    mixed = pd.concat([measure(discs([5])), measure(discs([5]), 2.0)])
    with pytest.raises(ValueError, match="mixes units"):
        size_distribution(mixed)


def test_a_powder_is_shown_in_micrometres():
    summary = pd.DataFrame([
        {"count": 3, "mean": 31000.0, "D10": 900.0, "D50": 30000.0, "D90": 60000.0, "unit": "nm"},
        {"count": 3, "mean": 1100.0, "D10": 100.0, "D50": 999.0, "D90": 2000.0, "unit": "nm"},
        {"count": 3, "mean": 1100.0, "D10": 500.0, "D50": 1200.0, "D90": 2000.0, "unit": "px"},
        {"count": 0, "mean": np.nan, "D10": np.nan, "D50": np.nan, "D90": np.nan, "unit": "nm"},
    ])  # fmt: skip
    shown = readable_sizes(summary)
    assert shown.loc[0].to_dict() == {"count": 3, "mean": 31.0, "D10": 0.9, "D50": 30.0, "D90": 60.0, "unit": "µm"}
    pd.testing.assert_frame_equal(shown.loc[1:], summary.loc[1:])
