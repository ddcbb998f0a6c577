"""Sizes against discs, ellipses and squares of known size."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk, ellipse
from skimage.measure import label, regionprops_table

from lorasam_core.measure.sizes import COLUMNS, measure, median_diameter, readable_unit, size_distribution


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
    for name in ("equivalent_diameter", "feret_max", "feret_min", "major_axis", "minor_axis"):
        np.testing.assert_allclose(nm[name], px[name] * pixel_size)
    np.testing.assert_allclose(nm["area"], px["area"] * pixel_size**2)
    for name in ("aspect_ratio", "circularity", "solidity", "orientation", "border_weight", "y", "x"):
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
@example(seed=2321)
def test_any_label_image_gives_sane_rows(seed):
    rng = np.random.default_rng(seed)
    labels = label(rng.random((24, 24)) < 0.4).astype(np.int32)
    table = measure(labels)
    assert tuple(table.columns) == COLUMNS
    assert table["label"].tolist() == np.unique(labels[labels > 0]).tolist()
    assert table["area"].sum() == (labels > 0).sum()
    assert (table["aspect_ratio"] >= 1 - 1e-9).all()
    assert table["circularity"].between(0, 1).all() and table["solidity"].between(0, 1).all()
    assert (table["feret_max"] >= table["equivalent_diameter"] * 0.88).all()  # smallest, for its area, is a disc's
    assert (table["feret_min"] <= table["feret_max"] + 1e-9).all() and (table["feret_min"] > 0.7).all()
    assert table["orientation"].between(0, 180, inclusive="left").all()
    assert (table["border_weight"].isna() == table["touches_border"]).all()
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


@pytest.mark.parametrize(
    ("median", "unit", "expected"),
    [
        (30000.0, "nm", (1000.0, "µm")),
        (999.0, "nm", (1.0, "nm")),
        (1200.0, "px", (1.0, "px")),
        (np.nan, "nm", (1.0, "nm")),
    ],
)
def test_a_powder_is_shown_in_micrometres(median, unit, expected):
    assert readable_unit(median, unit) == expected


def painted(inside, size, angle=0.0, seed=0):
    """One particle on pixels whose centres lie inside a shape, in its axes u, v; its centre is no pixel's."""
    cy, cx = size / 2 + np.random.default_rng(seed).random(2)
    y, x = np.mgrid[:size, :size]
    u = (x - cx) * np.cos(angle) - (y - cy) * np.sin(angle)  # counter-clockwise; y points down
    v = (x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
    return inside(u, v).astype(np.int32)


ANGLES = np.radians([0, 20, 45, 70, 110, 135, 175])


@pytest.mark.parametrize("diameter", [12, 40, 121])
def test_disc_within_a_pixel(diameter):
    rows = pd.concat(
        [measure(painted(lambda u, v: u**2 + v**2 <= diameter**2 / 4, diameter + 6, seed=k)) for k in range(8)]
    )
    np.testing.assert_allclose(rows["equivalent_diameter"], diameter, atol=0.3)
    np.testing.assert_allclose(rows[["feret_min", "feret_max"]], diameter, atol=1.2)
    np.testing.assert_allclose(rows[["major_axis", "minor_axis"]], diameter, atol=0.6)


@pytest.mark.parametrize("angle", ANGLES)
def test_ellipse_within_a_pixel_and_a_degree(angle):
    row = measure(painted(lambda u, v: (u / 45) ** 2 + (v / 18) ** 2 <= 1, 110, angle)).iloc[0]
    assert row["area"] == pytest.approx(np.pi * 45 * 18, rel=0.005)
    assert row["feret_max"] == pytest.approx(90, abs=1.2) and row["feret_min"] == pytest.approx(36, abs=1.2)
    assert row["aspect_ratio"] == pytest.approx(2.5, rel=0.02)
    assert (row["orientation"] - np.degrees(angle) + 90) % 180 == pytest.approx(90, abs=1)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("side", [15, 60])
def test_square_within_a_pixel_and_a_half(side, angle):
    row = measure(painted(lambda u, v: (abs(u) <= side / 2) & (abs(v) <= side / 2), 2 * side, angle)).iloc[0]
    assert row["equivalent_diameter"] == pytest.approx(side * np.sqrt(4 / np.pi), abs=0.6)
    assert row["feret_min"] == pytest.approx(side, abs=1.5)
    assert row["feret_max"] == pytest.approx(side * np.sqrt(2), abs=1.5)
    assert row["solidity"] > 0.9


def test_an_upright_rectangle_is_exact():
    labels = np.zeros((40, 60), np.int32)
    labels[5:17, 10:45] = 1
    row = measure(labels).iloc[0]
    assert (row["area"], row["feret_min"], row["solidity"], row["orientation"]) == (12 * 35, 12, 1, 0)
    assert row["feret_max"] == pytest.approx(np.hypot(12, 35), abs=0.7)  # from edge to edge midpoint


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.8))
def test_shapes_are_those_of_regionprops(seed, share):
    labels = label(np.random.default_rng(seed).random((24, 30)) < share, connectivity=2).astype(np.int32)
    names = ("solidity", "axis_major_length", "axis_minor_length", "orientation", "feret_diameter_max")
    table, props = measure(labels), regionprops_table(labels, properties=names)
    np.testing.assert_allclose(table["solidity"], props["solidity"], rtol=1e-12)
    np.testing.assert_allclose(table["major_axis"], props["axis_major_length"], atol=1e-6)
    np.testing.assert_allclose(table["minor_axis"], props["axis_minor_length"], atol=1e-6)
    turned = (table["orientation"] - np.degrees(props["orientation"])) % 180  # theirs is to the columns
    long = table["major_axis"] - table["minor_axis"] > 1e-6  # a round particle points nowhere
    np.testing.assert_allclose(turned[long], 90, atol=1e-6)
    short = props["feret_diameter_max"] - table["feret_max"]  # theirs goes round the hull's pixels
    assert short.between(-1e-9, 0.75).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_feret_minimum_is_the_smallest_of_all_directions(seed):
    region = np.random.default_rng(seed).random((9, 14)) < 0.3
    y, x = np.nonzero(np.pad(region, 1))
    outline = [(y - 0.5, x), (y + 0.5, x), (y, x - 0.5), (y, x + 0.5)]
    points = np.concatenate([np.stack(p) for p in outline], axis=1)
    angles = np.radians(np.arange(0, 180, 0.25))
    widths = np.ptp(np.stack([np.cos(angles), np.sin(angles)], axis=1) @ points, axis=1)
    assert measure(np.pad(region, 1).astype(np.int32))["feret_min"].item() == pytest.approx(widths.min(), abs=0.05)


def test_mean_grey_of_grey_and_colour():
    rng = np.random.default_rng(0)
    labels = discs([5, 9, 7])
    grey = rng.integers(0, 256, labels.shape, np.uint8)
    np.testing.assert_allclose(measure(labels, image=grey)["mean_grey"], ndimage.mean(grey, labels, [1, 2, 3]))
    colour = np.stack([grey, grey // 2, grey // 4], axis=2)
    expected = ndimage.mean(colour.mean(axis=2), labels, [1, 2, 3])
    np.testing.assert_allclose(measure(labels, image=colour)["mean_grey"], expected)
    with pytest.raises(ValueError, match="same size"):
        measure(labels, image=grey[1:])


def test_border_weights_count_every_place_once():
    """A shape at every place that meets the image: those that the edge leaves whole stand for all W x H of them."""
    shape = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]], np.int32)  # 3 x 4
    height, width, total = 11, 9, 0.0
    for y in range(-3, height):
        for x in range(-2, width):
            plane = np.zeros((height + 8, width + 8), np.int32)
            plane[4 + y : 8 + y, 4 + x : 7 + x] = shape
            total += measure(plane[4:-4, 4:-4])["border_weight"].sum()
    assert total == pytest.approx(height * width)


@given(st.integers(0, 999))
def test_the_median_diameter_is_that_of_the_whole_table(seed):
    labels = np.random.default_rng(seed).integers(0, 5, (9, 12)).astype(np.int32)
    labels[1:-1, 1:-1] += 5 * (labels[1:-1, 1:-1] > 2)  # some that do not touch the edge
    expected = size_distribution(measure(labels))["D50"]
    assert median_diameter(labels) == pytest.approx(expected, nan_ok=True)
