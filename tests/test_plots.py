"""Pictures and charts: pixels against hand-made cases, colours and marks by what the figure holds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import find_boundaries

from lorasam_core import charts, plots


def image(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def two_squares(height=40, width=60):
    labels = np.zeros((height, width), np.int32)
    labels[5:15, 5:15], labels[20:35, 30:50] = 1, 7
    return labels


def lightness(color):
    """CIE L* of an sRGB hex colour, by the formula of the standard."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * y ** (1 / 3) - 16


def test_overlay_leaves_the_background_and_mixes_inside():
    grey, mask = image(), np.zeros((40, 60), bool)
    mask[10:20, 10:20] = True
    out = plots.overlay(grey, mask, color=(0, 0, 255), alpha=0.5)
    assert out.shape == (40, 60, 3) and out.dtype == np.uint8
    assert np.array_equal(out[~mask], np.stack([grey] * 3, -1)[~mask])
    assert out[10, 10].tolist() == [0, 0, 255]  # the edge is solid
    half = grey[15, 15] / 2
    assert np.abs(out[15, 15] - np.array([half, half, half + 127.5])).max() <= 0.5


def test_overlay_refuses_a_mask_of_another_size():
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        plots.overlay(image(), np.zeros((3, 3), bool))


def test_mosaic_is_black_outside_and_one_colour_an_instance():
    labels = two_squares()
    out = plots.instance_mosaic(image(), labels)
    assert not out[labels == 0].any()
    first, second = (np.unique(out[labels == i], axis=0) for i in (1, 7))
    assert len(first) == len(second) == 1 and first.max() > 150 and not np.array_equal(first, second)
    assert np.array_equal(out, plots.instance_mosaic(image(), labels))
    assert not np.array_equal(out, plots.instance_mosaic(image(), labels, seed=1))
    fewer = np.where(labels == 7, 0, labels)
    assert np.array_equal(plots.instance_mosaic(image(), fewer)[labels == 1], out[labels == 1])


def test_mosaic_of_annotations_paints_the_best_on_top():
    low, high = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    low[0:20], high[10:30] = True, True
    notes = [{"segmentation": high, "predicted_iou": 0.9}, {"segmentation": low, "predicted_iou": 0.5}]
    out = plots.instance_mosaic(image(), notes)
    assert np.array_equal(out[15, 0], out[29, 0]) and not np.array_equal(out[15, 0], out[5, 0])
    assert not plots.instance_mosaic(image(), []).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 60), st.integers(20, 60))
def test_inset_lies_inside_and_holds_most_of_the_difference(seed, height, width):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, height, width)) > 0.7
    y, x, h, w = plots.pick_inset(a, b)
    assert h == w and 0 <= y <= height - h and 0 <= x <= width - w
    most = np.lib.stride_tricks.sliding_window_view(a != b, (h, w)).sum((2, 3)).max()
    assert (a != b)[y : y + h, x : x + w].sum() == most


def test_comparison_shows_the_same_enlarged_region_in_every_panel(tmp_path):
    labels = two_squares()
    figure = plots.comparison(image(), labels > 0, labels, inset=(5, 5, 10, 10))
    assert [a.get_title() for a in figure.axes] == ["input", "frozen", "adapted"]
    insets = [a.child_axes[0] for a in figure.axes]
    for axes, inset in zip(figure.axes, insets):
        shown, whole = inset.images[0].get_array(), axes.images[0].get_array()
        assert np.array_equal(shown, whole[5:15, 5:15])
    assert figure.axes[1].title.get_color() == plots.FROZEN and figure.axes[2].title.get_color() == plots.ADAPTED
    assert figure.made_by == "lorasam_core.plots.comparison"
    path = plots.save(figure, tmp_path / "new" / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_panels_stand_in_rows_and_what_is_left_over_is_bare():
    figure = plots.panels({f"s{i}": image(seed=i) for i in range(5)}, columns=3)
    assert [a.get_title() for a in figure.axes if a.images] == ["s0", "s1", "s2", "s3", "s4"]
    assert len(figure.axes) == 6 and not figure.axes[5].axison


def ablation():
    nan = float("nan")
    return pd.DataFrame({
        "rank": [32, 64, 128], "mean": [0.8, nan, 0.9], "low": [0.78, nan, nan], "high": [0.82, nan, nan],
        "reported": [82.39, 89.56, nan],
    })  # fmt: skip


def test_ablation_chart_marks_measured_and_reported_apart(tmp_path):
    figure = charts.ablation_chart(ablation(), "rank", pd.DataFrame([{"mean": 0.6, "low": 0.55, "high": 0.65}]))
    axes = figure.axes[0]
    measured, frozen = axes.containers[0].lines[0], next(line for line in axes.lines if line.get_linestyle() == "--")
    assert measured.get_ydata() == pytest.approx([80, 90]) and frozen.get_ydata() == pytest.approx([60, 60])
    words = " ".join(t.get_text() for t in axes.get_legend().get_texts())
    assert "measured" in words and "reported by the study" in words
    reported = [line for line in axes.lines if line.get_marker() == "D"]
    assert [list(line.get_ydata()) for line in reported] == [[82.39, 89.56]]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["32", "64", "128"]
    files = [plots.save(charts.ablation_chart(ablation(), "rank"), tmp_path / f"{i}.svg") for i in "ab"]
    assert files[0].read_text() == files[1].read_text() and "<svg" in files[0].read_text()


def test_curves_leave_out_what_was_not_logged():
    nan = float("nan")
    history = pd.DataFrame({"step": [1, 2, 3, 4]})
    for name in ("loss", "accuracy", "miou"):
        history[f"train_{name}"], history[f"val_{name}"] = [0.4, 0.3, 0.2, 0.1], [nan, 0.5, nan, 0.3]
    figure = charts.curves(history, reported={"val_loss": 0.052})
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["validation"].get_xdata()) == [2, 4]
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.4, 0.3, 0.2, 0.1]
    assert np.allclose(lines["train, mean of 2"].get_ydata(), [nan, 0.35, 0.25, 0.15], equal_nan=True)


def test_interval_chart_and_sizes_use_the_fixed_colours():
    rows = [("Dice", s, m, m - 5, m + 5) for s, m in (("frozen", 40), ("adapted", 80))]
    table = pd.DataFrame(rows, columns=["metric", "series", "mean", "low", "high"])
    colors = {c.get_label(): c.lines[0].get_color() for c in charts.interval_chart(table).axes[0].containers}
    assert colors == {"frozen": plots.FROZEN, "adapted": plots.ADAPTED}
    sizes = charts.size_plot({"labels": np.arange(1.0, 101.0), "adapted": np.array([])}, "nm").axes[0]
    assert "nm" in sizes.get_xlabel()
    marks = [line for line in sizes.lines if line.get_marker() == "o"]
    assert np.allclose(marks[0].get_xdata(), [10, 50, 90]) and marks[0].get_color() == plots.LABELS
    powder = charts.size_plot({"labels": np.full(3, 30_000.0), "adapted": np.array([])}, "nm").axes[0]
    assert powder.get_xlabel() == "equivalent diameter, µm" and np.allclose(powder.lines[-1].get_xdata(), 30)


def test_difference_chart_has_a_panel_a_measure_and_a_colour_a_verdict(tmp_path):
    nan, columns = float("nan"), ["method", "measure", "difference", "low", "high", "seeds", "verdict"]
    rows = [
        ("q", "Dice", 0.01, -0.01, 0.02, 0.015, "no detectable difference"),
        ("frozen", "Dice", -0.2, nan, nan, nan, "lower"),
        ("frozen", "F1", 0.1, 0.11, 0.12, nan, "higher"),  # a bootstrap interval need not hold its mean
    ]
    figure = charts.difference_chart(pd.DataFrame(rows, columns=columns), "method")
    dice, f1 = figure.axes
    assert [dice.get_title(), f1.get_title()] == ["Dice", "F1"]
    assert [t.get_text() for t in dice.get_yticklabels()] == ["q", "frozen"]
    marks = {bars.get_label(): bars.lines[0] for bars in dice.containers if hasattr(bars, "lines")}
    hollow, lower = marks["no detectable difference"], marks["lower"]
    assert hollow.get_xdata() == pytest.approx([1]) and hollow.get_markerfacecolor() == "white"
    assert lower.get_xdata() == pytest.approx([-20]) and lower.get_color() == charts.VERDICTS["lower"]
    assert [(bar.get_x(), bar.get_width()) for bar in dice.patches[:1]] == [(-1.5, 3.0)]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {row[-1] for row in rows}
    assert plots.save(figure, tmp_path / "a.svg").read_text().count("<svg") == 1


def test_line_chart_has_a_line_a_value_and_ticks_where_points_are():
    table = pd.DataFrame({"rank": [8, 16, 8, 16], "norm": [1.0, 2.0, 3.0, 4.0], "scaling": ["a", "a", "b", "b"]})
    axes = charts.line_chart(table, "rank", "norm", "scaling", log="x", ylabel="norm").axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["8", "16"] and axes.get_xscale() == "log"
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[1.0, 2.0], [3.0, 4.0]]


def test_lines_with_intervals_have_a_panel_a_measure_and_a_band_for_what_has_no_x():
    rows = [(m, "frozen", 0) for m in ("Dice", "F1")] + [(m, "adapted", n) for n in (4, 1) for m in ("Dice", "F1")]
    table = pd.DataFrame(rows, columns=["measure", "series", "images"])
    table = table.assign(mean=0.1 + table["images"] / 10, low=0.05, high=0.6)
    dice, f1 = charts.interval_lines(table, "images", xlabel="images").axes
    assert [dice.get_title(), f1.get_title()] == ["Dice, %", "F1, %"]
    assert [tick.get_text() for tick in dice.get_xticklabels()] == ["1", "4"]
    assert list(dice.containers[0].lines[0].get_xdata()) == [1, 4]  # in order
    assert np.allclose(dice.containers[0].lines[0].get_ydata(), [20, 50])
    assert [patch.get_extents().transformed(dice.transData.inverted()).y0 for patch in dice.patches] == pytest.approx(
        [5]
    )


def test_frozen_and_adapted_differ_for_every_eye():
    assert plots.FROZEN != plots.ADAPTED
    assert abs(lightness(plots.FROZEN) - lightness(plots.ADAPTED)) > 5
    assert lightness(plots.STUDY) < 1


def test_a_point_is_marked_in_a_copy_of_the_image():
    image = np.full((20, 30), 40, np.uint8)
    found = plots.mark_point(image, np.array([3.0, 12.0]), radius=2)
    assert found.shape == (20, 30, 3) and (image == 40).all()
    assert tuple(found[12, 3]) == tuple(found[10, 1]) == plots.POINT and tuple(found[8, 3]) == (255, 255, 255)
    assert (found != 40).any(2).sum() == 9 * 8  # cut at the left edge


def test_a_box_is_framed_in_a_copy_of_the_image():
    image = np.full((20, 30), 40, np.uint8)
    found = plots.mark_box(image, np.array([2.0, 3.0, 11.0, 9.0]), width=2)
    assert (image == 40).all() and tuple(found[3, 2]) == tuple(found[9, 11]) == plots.POINT
    assert (found != 40).any(2).sum() == 10 * 7 - 6 * 3 and (found[5:8, 4:10] == 40).all()


@pytest.mark.parametrize("shape", [(120, 160), (120, 160, 3)], ids=["grey", "colour"])
def test_outlines_are_the_inner_boundaries_and_leave_all_else(shape):
    picture = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    labels = np.zeros((120, 160), np.int32)
    labels[10:40, 10:50], labels[10:40, 50:90], labels[60:120, 100:160] = 1, 2, 900
    before = picture.copy()
    out = plots.outlines(picture, labels, numbers=False)
    assert out.shape == (120, 160, 3) and out.dtype == np.uint8 and np.array_equal(picture, before)
    edge = find_boundaries(labels, connectivity=1, mode="inner")
    plain = picture if picture.ndim == 3 else np.stack([picture] * 3, -1)
    assert np.array_equal(out[~edge], plain[~edge])
    colors = [np.unique(out[edge & (labels == i)], axis=0) for i in (1, 2, 900)]
    assert [len(color) for color in colors] == [1, 1, 1] and not np.array_equal(colors[0], colors[1])
    assert np.array_equal(out[119, 110:150], plain[119, 110:150])  # where the image ends, the particle may go on


def test_lines_are_wider_on_larger_images_and_stay_inside():
    labels = np.zeros((100, 2100), np.int32)
    labels[20:80, 100:2000] = 5
    for width, rows in ((None, [20, 21, 22, 77, 78, 79]), (1, [20, 79])):
        out = plots.outlines(np.zeros(labels.shape, np.uint8), labels, numbers=False, width=width)
        assert out.any(2)[:, 1000].nonzero()[0].tolist() == rows


def test_touching_instances_have_different_outlines():
    """Ids as far apart as there are colours, side by side, and three that meet."""
    labels = np.zeros((30, 80), np.int32)
    step = len(plots.OUTLINES)
    for k in range(4):
        labels[:15, 20 * k : 20 * k + 20] = 1 + step * k
        labels[15:, 20 * k + 10 : 20 * k + 30] = 1 + step * (k + 4)
    out = plots.outlines(np.full((30, 80), 128, np.uint8), labels, numbers=False)
    edge = find_boundaries(labels, connectivity=1, mode="inner")
    color = {i: tuple(out[edge & (labels == i)][0]) for i in np.unique(labels[labels > 0])}
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        meet = (a != b) & (a > 0) & (b > 0)
        assert meet.any() and all(color[i] != color[j] for i, j in zip(a[meet], b[meet]))


def test_no_instances_give_the_image():
    picture = image()
    out = plots.outlines(picture, np.zeros(picture.shape, np.int32))
    assert np.array_equal(out, np.stack([picture] * 3, -1))
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        plots.outlines(picture, np.zeros((3, 3), np.int32))


def grid_of_squares(rows, columns, side=40):
    labels = np.zeros((rows * side, columns * side), np.int32)
    for i in range(rows * columns):
        y, x = divmod(i, columns)
        labels[y * side + 4 : (y + 1) * side - 4, x * side + 4 : (x + 1) * side - 4] = i + 1
    return labels


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_numbers_are_written_inside_and_legible_on_any_ground(ground):
    labels = grid_of_squares(3, 4)
    picture = np.full(labels.shape, ground, np.uint8)
    edge = find_boundaries(labels, connectivity=1, mode="inner")
    out = plots.outlines(picture, labels)
    written = (out != ground).any(2) & ~edge
    assert not written[labels == 0].any()
    for i in range(1, 13):
        inside = out[(labels == i) & ~edge]
        assert inside.min() < 30 and inside.max() > 225
        y, x = np.argwhere(written & (labels == i)).mean(0) - np.argwhere(labels == i).mean(0)
        assert np.hypot(y, x) < 4


def test_only_few_instances_are_numbered_unless_asked():
    for rows, by_itself in ((10, True), (11, False)):  # 60 and 66 squares
        labels = grid_of_squares(rows, 6)
        picture = np.full(labels.shape, 90, np.uint8)
        bare, numbered, default = (plots.outlines(picture, labels, numbers=n) for n in (False, True, None))
        assert not np.array_equal(bare, numbered)
        assert np.array_equal(default, numbered if by_itself else bare)


def test_a_number_lies_inside_a_ring_and_at_the_border():
    """A ring's centroid is not its own; a sliver at the corner has its number in the image."""
    y, x = np.mgrid[:300, :300]
    radius = np.hypot(y - 150, x - 150)
    labels = ((radius > 70) & (radius < 130)).astype(np.int32)
    labels[:4, :30] = 2
    picture = np.full((300, 300), 90, np.uint8)
    new = (plots.outlines(picture, labels, True) != plots.outlines(picture, labels, False)).any(2)
    ring = new & (radius > 40)
    ring[:40, :60] = False
    assert ring.any() and (labels[ring] == 1).all() and new[:40, :60].any()
