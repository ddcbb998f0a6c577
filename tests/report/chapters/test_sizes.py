"""Sizes, predicted against true: against numpy, scipy and cases counted by hand."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lorasam_core import plots
from lorasam_core.report.chapters import size_plots, size_sentences, sizes
from tests.made_records import make_record, per_image

TRUE = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
SIZES = st.lists(st.floats(0.5, 500), min_size=1, max_size=30).map(np.array)


def particles(true, predicted, i="a", group="g", unit="px", cut=()):
    """Rows of one image; cut: diameters of particles at the edge, on both sides."""
    found = {"true": [*true, *cut], "predicted": [*predicted, *cut]}
    rows = [
        {"id": i, "group": group, "source": source, "diameter": d, "unit": unit, "touches_border": d in cut}
        for source, diameters in found.items()
        for d in diameters
    ]
    return pd.DataFrame(rows)


def record(folder, run_id, *images, **settings):
    rows = [per_image("generator", ["g"], dice=[0.5])]
    return make_record(folder, run_id, rows, {"particles": pd.concat(images)} if images else None, **settings)


def test_one_image_by_hand():
    row = sizes.compare(particles(TRUE, 1.1 * TRUE, cut=(999.0,)))
    for name, percent in (("D10", 10), ("D50", 50), ("D90", 90)):
        assert row[f"{name}_true"] == pytest.approx(np.percentile(TRUE, percent))
        assert row[f"{name}_predicted"] == pytest.approx(1.1 * np.percentile(TRUE, percent))
    assert (row["count_true"], row["count_predicted"], row["unit"]) == (5, 5, "px")  # the cut one is left out
    assert (row["mean_true"], row["mean_predicted"]) == pytest.approx((30, 33))
    assert row["wasserstein"] == pytest.approx(0.1)  # each diameter moves by a tenth of itself
    assert row["ks"] == pytest.approx(0.2)  # 11 22 33 44 55 is behind by one of five steps


def test_units_are_never_mixed():
    rows = pd.concat([particles(TRUE, TRUE, unit="nm"), particles(TRUE, TRUE, unit="px")])
    with pytest.raises(ValueError, match="mixes units"):
        sizes.compare(rows)


@given(SIZES, SIZES, st.floats(0.01, 100))
def test_distances_are_scipys_and_have_no_unit(predicted, true, scale):
    found = sizes.distances(predicted, true)
    assert found["wasserstein"] == pytest.approx(stats.wasserstein_distance(predicted, true) / np.mean(true))
    with warnings.catch_warnings():  # its p-value of few particles
        warnings.simplefilter("ignore", RuntimeWarning)
        assert found["ks"] == pytest.approx(stats.ks_2samp(predicted, true).statistic)
    assert sizes.distances(scale * predicted, scale * true)["wasserstein"] == pytest.approx(found["wasserstein"])
    assert sizes.distances(true, true) == {"wasserstein": 0, "ks": 0}


def test_errors_are_relative_and_seeds_are_averaged(tmp_path):
    first = record(tmp_path, "a", particles(TRUE, 1.2 * TRUE), particles(7 * TRUE, 7 * TRUE, "b", "h", "nm"))
    second = record(tmp_path, "b", particles(TRUE, 0.6 * TRUE), particles(7 * TRUE, 7 * TRUE, "b", "h", "nm"), seed=1)
    table = sizes.image_errors([first, second]).set_index(["id", "quantity"])
    assert table.loc[("a", "D50"), ["error", "size"]].tolist() == pytest.approx([-0.1, 0.3])  # +20 % and -40 %
    assert table.loc[("b", "D50"), ["error", "size"]].tolist() == pytest.approx([0, 0])
    assert np.isnan(table.loc[("a", "ks"), "error"]) and table.loc[("a", "wasserstein"), "size"] == pytest.approx(0.3)


def test_a_run_that_finds_nothing_keeps_its_labels(tmp_path):
    run = record(tmp_path, "a", particles(TRUE, []), particles(TRUE, [], "b", "h"))  # its sources all read "true"
    table = sizes.image_errors([run]).set_index(["quantity", "id"])["error"]
    assert table.to_dict() == {("count", "a"): -1.0, ("count", "b"): -1.0}


def test_an_image_in_which_nothing_is_found_counts_for_the_number_alone(tmp_path):
    run = record(tmp_path, "a", particles(TRUE, []), particles([], TRUE, "b"), particles(TRUE, TRUE[:4], "c", "h"))
    table = sizes.image_errors([run]).set_index(["quantity", "id"])["error"]
    assert table["count"].to_dict() == pytest.approx({"a": -1.0, "c": -0.2})
    assert list(table["D50"].index) == ["c"]
    errors = sizes.size_errors({"adapted": [run]}).set_index("quantity")
    assert (errors.loc["count", "n"], errors.loc["D50", "n"]) == (2, 1)
    assert errors.loc["count", "size"] == pytest.approx(0.6)


@pytest.fixture
def series(tmp_path):
    """The frozen model reads 40 % too high, the adapted one 10 %; half as many particles, then all of them."""
    groups = {i: f"g{k // 2}" for k, i in enumerate("abcdef")}
    scales = dict(zip(groups, (1, 2, 3, 5, 8, 13)))
    images = [(k * TRUE, i, g, "nm" if i in "ab" else "px") for (i, g), k in zip(groups.items(), scales.values())]
    frozen = record(tmp_path, "f", *(particles(t, 1.4 * t[::2], i, g, u) for t, i, g, u in images), method="frozen")
    adapted = record(tmp_path, "m", *(particles(t, 1.1 * t, i, g, u) for t, i, g, u in images))
    return {"frozen": [frozen], "adapted": [adapted]}


def test_size_errors_of_known_series(series):
    table = sizes.size_errors(series).set_index(["quantity", "series"])
    assert table.loc[("D50", "frozen"), ["error", "error_low", "error_high"]].tolist() == pytest.approx([0.4] * 3)
    assert table.loc[("D50", "adapted"), ["size", "half"]].tolist() == pytest.approx([0.1, 0.1])
    assert table.loc[("D50", "adapted"), ["change", "change_low", "change_high"]].tolist() == pytest.approx([-0.3] * 3)
    assert table.loc[("count", "frozen"), "error"] == pytest.approx(-0.4)
    assert np.isnan(table.loc[("wasserstein", "adapted"), "error"])
    shown = sizes.error_table(sizes.size_errors(series))
    row = shown[(shown["quantity"] == "D50") & (shown["model"] == "adapted")].iloc[0]
    assert row["mean error, %"] == "+10.0 [+10.0,\u00a0+10.0]" and row["half of the images within, %"] == "10.0"
    assert row["change of the absolute error, points"] == "-30.0 [-30.0,\u00a0-30.0]" and row["images"] == "6"
    assert row["images of the change"] == "6" and set(shown["images of the change"]) == {"–", "6"}


def test_chosen_filters_have_particles_of_their_own(tmp_path):
    """Under the run's own filters a speck for every particle, none under chosen ones; a watershed has no filters."""
    rows = [per_image("generator", ["g"], dice=[0.5], n_pred=[10.0], n_true=[5.0])]
    own, chosen = particles(TRUE, [*TRUE, *[1.0] * 5]), particles(TRUE, TRUE)
    pair = {"own": {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.7}}
    tables = {"particles": own, "tuned_particles": chosen}
    adapted = make_record(tmp_path, "m", rows, tables, {"filters": pair})
    without = make_record(tmp_path, "w", rows, {"particles": own}, seed=1)
    divided = make_record(tmp_path, "o", rows, {"particles": particles(TRUE, 2 * TRUE)}, method="watershed")
    assert sizes.measured([adapted, without]) == [adapted, without]
    assert sizes.measured([adapted, without, divided], tuned=True) == [adapted, divided]
    series = {"adapted": [adapted], "watershed": [divided]}
    for tuned, error in ((False, 1.0), (True, 0.0)):
        table = sizes.size_errors(series, tuned).set_index(["quantity", "series"])
        assert table.loc[("count", "adapted"), "error"] == pytest.approx(error)
        assert table.loc[("D50", "watershed"), "error"] == pytest.approx(1.0)
    said = size_sentences.filters_sentence({"frozen": [], "adapted": [adapted]})
    assert "predicted IoU above 0.3 and a stability of at least 0.7" in said
    assert "10.0 of the adapted model in the mean, and 5.0 labelled" in said
    assert "setting `quick`" in size_sentences.filters_sentence({"adapted": [without]})
    assert size_sentences.filters_sentence({"adapted": []}) == ""
    beside = size_sentences.beside_sentence(sizes.size_errors(series, True), ["watershed", "nobody"])
    assert "*watershed* is 100.0 % in the D50 and 0.0 % in the number of particles" in beside
    assert size_sentences.beside_sentence(sizes.size_errors(series, True), ["nobody"]) == ""


def test_pooling_does_not_see_the_magnification(series):
    found = sizes.pooled(series)
    np.testing.assert_allclose(np.unique(found["labels"].round(9)), TRUE / 30, rtol=1e-6)
    assert {name: len(values) for name, values in found.items()} == {"labels": 30, "frozen": 18, "adapted": 30}
    rows = sizes.pooled_rows(series).set_index("series")
    assert rows.loc["labels", "D50"] == pytest.approx(1) and rows.loc["adapted", "D50"] == pytest.approx(1.1)
    assert rows.loc["adapted", "wasserstein"] == pytest.approx(0.1) and rows.loc["labels", "count"] == 30
    doubled = {"adapted": [*series["adapted"], *series["adapted"]]}
    assert sizes.pooled_rows(doubled).set_index("series").loc["adapted", "count"] == 30  # a run
    curves = sizes.percentiles(series)
    middle = curves[(curves["series"] == "adapted") & (curves["percent"] == 50)]["diameter"].item()
    assert middle == pytest.approx(1.1)


def test_sentences_claim_a_bias_only_beyond_the_interval(series, tmp_path):
    text = size_sentences.size_sentence(sizes.size_errors(series))
    assert "D50 is off by 10.0 [10.0,\u00a010.0] % in the mean over 6 test images" in text
    assert "above zero for D10, D50, D90 and mean diameter" in text and "below" not in text
    assert "the absolute error of the D50 falls by 30.0 [30.0,\u00a030.0] percentage points (on the 6 images in" in text
    up_and_down = [particles(TRUE, (1 + e) * TRUE, i, f"g{i}") for i, e in zip("abcd", (0.3, -0.3, 0.2, -0.2))]
    even = record(tmp_path, "e", *up_and_down)
    assert "None of its mean errors differs detectably from zero" in size_sentences.size_sentence(
        sizes.size_errors({"adapted": [even]})
    )
    pooled = size_sentences.pooled_sentence(sizes.pooled_rows(series))
    assert "lies 10.0 % of a mean diameter" in pooled and "D50 by +10.0 %" in pooled
    close = {"adapted": [record(tmp_path, "c", particles(TRUE, TRUE))]}
    assert "D10 by +0.0 %" in size_sentences.pooled_sentence(sizes.pooled_rows(close))


def test_a_change_rests_on_the_images_that_both_can_be_measured_in(tmp_path):
    groups = {"a": "g", "b": "h", "c": "i", "d": "j"}
    before = [particles(TRUE, [] if i == "a" else 1.4 * TRUE, i, g) for i, g in groups.items()]
    after = [particles(TRUE, [] if i == "b" else 1.1 * TRUE, i, g) for i, g in groups.items()]
    frozen = record(tmp_path, "f", *before, method="frozen")
    errors = sizes.size_errors({"frozen": [frozen], "adapted": [record(tmp_path, "m", *after)]})
    rows = errors.set_index(["quantity", "series"])
    assert rows.loc[("D50", "adapted"), ["n", "change_n"]].tolist() == [3, 2]
    assert rows.loc[("count", "adapted"), ["n", "change_n"]].tolist() == [4, 4]
    text = size_sentences.size_sentence(errors)
    assert "in the mean over 3 test images" in text and "points (on the 2 images in which both models find" in text
    assert "(on the 4 images with whole labelled particles)" in text


def test_one_group_gives_no_interval_and_no_word_on_bias(tmp_path):
    alone = {"adapted": [record(tmp_path, "m", particles(TRUE, 1.5 * TRUE))]}
    text = size_sentences.size_sentence(sizes.size_errors(alone))
    assert "differs detectably from zero" not in text and "above zero" not in text
    assert "too few groups for an interval of its mean error in D10, D50, D90, mean diameter and number" in text


def test_images_of_few_particles_are_counted(series, tmp_path):
    assert "labelled particles is 5 an image, in the 6 test images that have any. In 6 of these there are fewer" in (
        size_sentences.few_sentence(series)
    )
    many = np.arange(1.0, 12.0)
    images = [particles(many, [], "a"), particles(TRUE, TRUE, "b", cut=tuple(range(90, 99))), particles([], TRUE, "c")]
    text = size_sentences.few_sentence({"frozen": [], "adapted": [record(tmp_path, "few", *images)]})
    assert "is 8 an image, in the 2 test images" in text and "In 1 of these there are fewer than 10" in text
    enough = size_sentences.few_sentence({"adapted": [record(tmp_path, "n", particles(many, many))]})
    assert enough.endswith("that have any.")


def test_specks_are_counted_in_pixels_of_area(tmp_path):
    disc = [float(np.sqrt(4 * area / np.pi)) for area in (24, 25, 26, 300)]
    frozen = record(tmp_path, "f", particles(disc[1:], disc), particles(TRUE / 100, TRUE / 100, "n", unit="nm"))
    text = size_sentences.speck_sentence({"frozen": [frozen], "adapted": []})
    assert "0.0 % of the whole labelled particles and 25.0 % of the frozen model's are under 25 pixels of area" in text
    nm = record(tmp_path, "n", particles(TRUE / 100, TRUE / 100, unit="nm"))
    assert size_sentences.speck_sentence({"adapted": [nm]}) == ""


def test_runs_without_particles_say_so(tmp_path):
    series = {"frozen": [], "adapted": [record(tmp_path, "old")]}
    errors = sizes.size_errors(series)
    assert errors.empty and size_sentences.size_sentence(errors) == size_sentences.NONE
    assert sizes.agreement(series).empty and sizes.percentiles(series).empty and sizes.pooled_rows(series).empty
    assert sizes.error_table(errors).empty
    assert size_sentences.few_sentence(series) == size_sentences.speck_sentence(series) == ""


def test_charts_draw_a_panel_a_unit_and_the_fixed_colours(series, tmp_path):
    table = sizes.agreement(series)
    assert len(table) == 12
    figure = size_plots.agreement_chart(table)
    assert [a.get_xlabel() for a in figure.axes] == ["true D50, nm", "true D50, px"]
    drawn = {line.get_label(): line for line in figure.axes[1].lines}
    np.testing.assert_allclose(drawn["adapted"].get_ydata() / drawn["adapted"].get_xdata(), 1.1)
    assert drawn["adapted"].get_color() == plots.ADAPTED and drawn["frozen"].get_color() == plots.FROZEN
    assert list(drawn["equal"].get_xdata()) == list(drawn["equal"].get_ydata())
    curves = size_plots.distribution_chart(sizes.percentiles(series))
    assert [t.get_text() for t in curves.axes[0].get_legend().get_texts()] == ["labels", "frozen", "adapted"]
    assert plots.save(curves, tmp_path / "c.svg").stat().st_size < 100_000
