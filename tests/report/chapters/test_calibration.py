"""Ratings and thresholds: tables against hand-made masks and scipy, sentences against what the numbers allow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Rectangle
from scipy.stats import spearmanr

from lorasam_core import plots
from lorasam_core.config import RunConfig
from lorasam_core.experiments.records import Record, read_record
from lorasam_core.report.chapters import calibration, filter_plots, thresholds
from lorasam_core.stats import bootstrap_interval

OWN = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.7, "min_mask_region_area": 25}
STUDY = {"pred_iou_thresh": 0.9, "stability_score_thresh": 0.92, "min_mask_region_area": 100}
LEVELS = {"generator": 0.0, "generator_study": -0.3, "generator_tuned": 0.05}


def ratings(predicted: list[float], iou: list[float]) -> pd.DataFrame:
    """Masks of as many papers as masks, stability in the order of the IoU."""
    names = [f"{i:03}" for i in range(len(iou))]
    stability = np.argsort(np.argsort(iou)) / len(iou)
    return pd.DataFrame({
        "id": names, "group": names, "iou": iou, "predicted_iou": predicted, "stability_score": stability, "area": 9.0,
    })  # fmt: skip


def write(
    folder: Path, level: float = 0.5, tuned: float = 0.5, table: pd.DataFrame | None = None, **kept: str
) -> Record:
    """A finished run that has compared filters; `table` goes to a file of the given name."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(3).normal(0, 0.05, (12, len(LEVELS)))
    rows = [
        {"evaluator": name, "id": f"im{i}", "group": f"g{i // 2}", "dice": 0.8, "n_pred": 7.0 + k, "ap50": level / 2,
         "f1": level + shift + noise[i, k]}
        for k, (name, shift) in enumerate(LEVELS.items()) for i in range(12)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "per_image.csv", index=False)
    grid = [(p, s, i) for p in (0.0, tuned, 0.9) for s in (0.0, 0.85, 0.95) for i in range(2)]
    sweep = [
        {"id": f"v{i}", "group": f"v{i}", "pred_iou_thresh": p, "stability_score_thresh": s, "ap50": 0.1, "dice": 0.2,
         "n_pred": 3, "f1": level + 0.1 * (p == tuned) + 0.05 * (s == 0.85) + 0.02 * i}
        for p, s, i in grid
    ]  # fmt: skip
    pd.DataFrame(sweep).to_csv(folder / "thresholds.csv", index=False)
    best = OWN | {"pred_iou_thresh": tuned, "stability_score_thresh": 0.85}
    metrics = {"run_id": folder.name, "test": {}, "filters": {"own": OWN, "study": STUDY, "tuned": best}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.json").write_text(json.dumps(RunConfig().to_dict()))
    if table is not None:
        table.to_csv(folder / f"{kept.get('name', 'calibration')}.csv", index=False)
    return read_record(folder)


def test_masks_are_sorted_into_bins_by_hand(tmp_path: Path) -> None:
    record = write(tmp_path / "a", table=ratings([-0.2, 0.05, 0.95, 1.2, 0.55], [0.1, 0.3, 0.9, 0.5, 0.55]))
    table = calibration.calibration_table({"frozen": [record]})
    assert table["bin"].tolist() == [0.0, 0.5, 0.9] and table["masks"].tolist() == [2, 1, 2]
    assert table["predicted"].tolist() == pytest.approx([-0.075, 0.55, 1.075])
    assert table["iou"].tolist() == pytest.approx([0.2, 0.55, 0.7]) and table["share"].sum() == pytest.approx(1)
    row = calibration.ratings_table({"frozen": [record]}).iloc[0]
    assert row["error"] == pytest.approx((2 * 0.275 + 0 + 2 * 0.375) / 5)
    assert row["excess"] == pytest.approx((-0.3 - 0.25 + 0.05 + 0.7 + 0) / 5)
    assert (row["masks"], row["images"], row["groups"]) == (5, 5, 5)
    assert table.attrs["runs"] == ["a"] and table.attrs["made_by"].endswith(".calibration_table")


def test_correlations_are_scipys_within_an_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [ratings(rng.random(40).round(1).tolist(), rng.random(40).tolist()) for _ in range(3)]
    frame = pd.concat([part.assign(id=f"im{k}", group=f"g{k}") for k, part in enumerate(images)])
    few = ratings([0.1, 0.9, 0.5], [0.9, 0.1, 0.5]).assign(id="few", group="few")  # perfectly wrong, of three masks
    record = write(tmp_path / "a", table=pd.concat([frame, few]))
    row = calibration.ratings_table({"frozen": [record]}).iloc[0]
    expected = [spearmanr(part["predicted_iou"], part["iou"]).statistic for part in images]
    assert row["rank_iou"] == pytest.approx(np.mean(expected))
    assert row["rank_stability"] == pytest.approx(1) and row["rank_stability_low"] == pytest.approx(1)
    assert row["rank_iou_low"] < row["rank_iou"] < row["rank_iou_high"]


def test_an_easy_image_is_no_good_order(tmp_path: Path) -> None:
    """Ratings that only tell an easy image from a hard one sort nothing where the generator sorts."""
    easy, hard = np.linspace(0.8, 0.9, 6), np.linspace(0.1, 0.2, 6)
    told = [ratings((0.9 - x / 100).tolist(), x.tolist()) for x in (easy, hard)]
    frozen = pd.concat([part.assign(id=str(k), group=str(k)) for k, part in enumerate(told)])
    frozen["predicted_iou"] += np.repeat([0.0, -0.5], 6)
    assert spearmanr(frozen["predicted_iou"], frozen["iou"]).statistic > 0
    adapted = frozen.assign(predicted_iou=frozen["iou"])
    series = {key: [write(tmp_path / key, table=frame)] for key, frame in (("frozen", frozen), ("adapted", adapted))}
    table = calibration.ratings_table(series).set_index("series")
    assert table["rank_iou"].to_dict() == pytest.approx({"frozen": -1.0, "adapted": 1.0})
    assert "rank correlation of the predicted IoU by +2.00 [+2.00,\u00a0+2.00]" in calibration.order_sentence(series)
    assert calibration.order_sentence({"frozen": [], "adapted": series["adapted"]}) == ""


def edited(record, evaluator: str, **columns):
    """The record with other values for one evaluator's rows."""
    rows = pd.read_csv(record.path / "per_image.csv")
    rows.loc[rows["evaluator"] == evaluator, list(columns)] = list(columns.values())
    rows.to_csv(record.path / "per_image.csv", index=False)
    return read_record(record.path)


def test_filters_that_pass_nothing_are_not_compared(tmp_path: Path) -> None:
    nothing = {"n_pred": 0.0, "f1": 0.0, "ap50": 0.0, "dice": 0.0}
    runs = [
        edited(write(tmp_path / name, level), "generator_study", **nothing) for name, level in (("f", 0.4), ("a", 0.6))
    ]
    text = thresholds.thresholds_sentence({"frozen": runs[:1], "adapted": runs[1:]})
    assert text.count("the study's not one;") == 2 and "(filters: the study's)" not in text
    assert "a loss of the frozen model" not in text
    every = [edited(run, name, **nothing) for run in runs for name in LEVELS]
    text = thresholds.thresholds_sentence({"frozen": every[2:3], "adapted": every[5:]})
    assert "Adapting changes" not in text


def test_a_gain_that_is_the_other_models_loss_is_called_so(tmp_path: Path) -> None:
    frozen = edited(write(tmp_path / "f", 0.4), "generator_tuned", ap50=0.1)  # 0.2 under its own filters
    text = thresholds.thresholds_sentence({"frozen": [frozen], "adapted": [write(tmp_path / "a", 0.6)]})
    assert "change that of the frozen model by -10.0 points and that of the adapted one by +0.0." in text


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.floats(-0.5, 0.5))
def test_a_constant_error_is_found(ious: list[float], shift: float) -> None:
    class Held:  # as a record
        run_id = "a"

        def table(self, name: str) -> pd.DataFrame:
            return ratings([iou + shift for iou in ious], ious)

    row = calibration.ratings_table({"adapted": [Held()]}).iloc[0]
    assert row["excess"] == pytest.approx(shift, abs=1e-9) and row["error"] == pytest.approx(abs(shift), abs=1e-9)
    assert row["low"] == pytest.approx(shift, abs=1e-9) and row["high"] == pytest.approx(shift, abs=1e-9)


def test_masks_come_from_where_every_series_has_them(tmp_path: Path) -> None:
    frame = ratings([0.5, 0.6], [0.5, 0.6])
    whole = write(tmp_path / "a", table=frame)
    filtered = write(tmp_path / "b", table=frame, name="annotations")
    frame.to_csv(tmp_path / "a" / "annotations.csv", index=False)
    assert calibration.source({"frozen": [whole], "adapted": [whole]}) == "calibration"
    assert calibration.source({"frozen": [], "adapted": [whole]}) == "calibration"
    assert calibration.missing_sentence({"frozen": [whole], "adapted": [whole]}) == ""
    mixed = {"frozen": [whole], "adapted": [filtered]}
    assert calibration.source(mixed) == "annotations" and len(calibration.calibration_table(mixed, "annotations")) == 4
    assert calibration.missing_sentence(mixed).startswith("No adapted run") and "passed" in (
        calibration.missing_sentence(mixed)
    )
    nothing = {"frozen": [], "adapted": [write(tmp_path / "c")]}
    assert calibration.source(nothing) == "" and "No frozen or adapted run" in calibration.missing_sentence(nothing)


def test_an_edition_without_filters_gives_empty_tables_and_no_claim(tmp_path: Path) -> None:
    record = write(tmp_path / "a")
    (record.path / "thresholds.csv").unlink()
    del record.metrics["filters"]
    series = {"frozen": [], "adapted": [record]}
    assert calibration.calibration_table(series, "").empty and calibration.ratings_table(series, "").empty
    assert thresholds.threshold_table([record]).empty and thresholds.filters_rows(series).empty
    assert thresholds.filters_table(series).empty
    assert calibration.calibration_sentence(calibration.ratings_table(series, "")) == ""
    assert thresholds.sweep_sentence(series).startswith("No other thresholds")
    assert thresholds.thresholds_sentence(series).startswith("No other filters")


def test_ratings_in_words(tmp_path: Path) -> None:
    high, low = ratings([0.9] * 9, [0.5] * 9), ratings([0.2] * 9, [0.5] * 9)
    right = ratings([0.5] * 10, [0.4, 0.6] * 5)
    series = {name: [write(tmp_path / name, table=t)] for name, t in (("frozen", high), ("adapted", low), ("o", right))}
    text = calibration.calibration_sentence(calibration.ratings_table(series))
    assert "frozen model's predicted IoU is too high on average (+40.0 [+40.0,\u00a0+40.0] points" in text
    assert "adapted model's predicted IoU is too low on average (-30.0" in text
    assert "o model's predicted IoU is right on average, as far as these images tell (+0.0" in text
    one = calibration.ratings_table({"frozen": [write(tmp_path / "one", table=right.assign(group="g"))]})
    alone = calibration.calibration_sentence(one)
    assert "predicted IoU is off by " in alone and "0.0 points on average, on too few groups for an interval;" in alone
    shown = calibration.ratings_display(one).iloc[0]
    assert (
        shown["mean true IoU, %"] == "50.0"
        and shown["masks (runs)"] == "10 (1)"
        and shown["images (groups)"] == "10 (1)"
    )


def test_errors_that_cancel_do_not_make_a_rating_right(tmp_path: Path) -> None:
    half = ratings([0.7, 0.4] * 8, [0.5, 0.6] * 8)
    text = calibration.calibration_sentence(calibration.ratings_table({"adapted": [write(tmp_path / "a", table=half)]}))
    assert "is right on average, as far as these images tell (" in text and "cannot be told" not in text
    assert "calibration error is 20.0 points" in text


def test_only_the_seeds_that_were_asked_are_shown(tmp_path: Path) -> None:
    frame = ratings([0.5, 0.6], [0.5, 0.6])
    frozen, first, other = (write(tmp_path / name, table=frame) for name in ("f", "a", "b"))
    silent = write(tmp_path / "c")
    series = {"frozen": [frozen], "adapted": [first, silent, silent]}
    chosen = calibration.asked(series)
    assert {name: [run.run_id for run in runs] for name, runs in chosen.items()} == {"frozen": ["f"], "adapted": ["a"]}
    assert calibration.ratings_table(chosen).attrs["runs"] == ["f", "a"]
    text = calibration.missing_sentence(series)
    assert text.startswith("Only 1 of the 3 seeds of the main configuration was asked") and "shows it alone" in text
    more = calibration.missing_sentence({"frozen": [frozen], "adapted": [first, other, silent]})
    assert "Only 2 of the 3 seeds of the main configuration were asked" in more and "shows them alone" in more
    assert calibration.missing_sentence(chosen) == ""
    assert calibration.asked({"frozen": [], "adapted": [silent]}) == {"frozen": [], "adapted": [silent]}


def test_thresholds_are_means_over_images_and_runs(tmp_path: Path) -> None:
    runs = [write(tmp_path / "a", 0.5), write(tmp_path / "b", 0.6)]
    table = thresholds.threshold_table(runs).set_index(thresholds.PAIR)
    assert len(table) == 9 and table.loc[(0.5, 0.85), "f1"] == pytest.approx(55 + 10 + 5 + 1)
    assert table.loc[(0.0, 0.0), ["f1", "dice", "n_pred"]].tolist() == pytest.approx([56, 20, 3])
    text = thresholds.sweep_sentence({"adapted": runs})
    assert (
        "greatest (71.0 %) with predicted IoU 0.5 and stability 0.85;" in text
        and "The AP50 is 10.0 % there, 10.0 % at most." in text
    )
    edge = thresholds.sweep_sentence({"adapted": [write(tmp_path / "c", tuned=0.95)]})
    assert "the highest predicted IoU that was tried" in edge
    long = thresholds.sweep_rows({"frozen": thresholds.threshold_table(runs), "adapted": table.reset_index()})
    assert long.columns[0] == "series" and len(long) == 18


def test_three_sets_of_filters_on_the_test_images(tmp_path: Path) -> None:
    series = {"frozen": [write(tmp_path / "f", 0.4)], "adapted": [write(tmp_path / "a", 0.6, tuned=0.7)]}
    rows = thresholds.filters_rows(series).set_index(["filters", "series"])
    record = series["adapted"][0]
    part = record.per_image.query("evaluator == 'generator_study'")
    mean, low, high = bootstrap_interval(part["f1"].to_numpy(), part["group"].to_numpy())
    found = rows.loc[("the study's", "adapted"), ["f1", "f1_low", "f1_high"]]
    assert found.tolist() == pytest.approx([100 * mean, 100 * low, 100 * high])
    assert rows.loc[("the study's", "frozen"), "n_pred"] == 8
    table = thresholds.filters_table(series).set_index("filters")
    values = table["predicted IoU / stability / area"]
    assert values["the runs' own"] == "0.3 / 0.7 / 25" and values["the study's"] == "0.9 / 0.92 / 100"
    assert values["by validation"] == "frozen 0.5 / 0.85 / 25, adapted 0.7 / 0.85 / 25"
    assert table.loc["the study's", "F1, %: adapted"].startswith(f"{100 * mean:.1f} [")
    assert list(table.columns[1:]) == [
        "F1, %: frozen", "F1, %: adapted", "AP50, %: frozen", "AP50, %: adapted", "Dice, %: frozen", "Dice, %: adapted",
    ]  # fmt: skip


def test_filters_in_words_claim_what_the_intervals_show(tmp_path: Path) -> None:
    series = {"frozen": [write(tmp_path / "f", 0.4)], "adapted": [write(tmp_path / "a", 0.6)]}
    moved = thresholds.change(series["adapted"], "generator_study")
    wide = series["adapted"][0].per_image.pivot(index=["id", "group"], columns="evaluator", values="f1").reset_index()
    gap = (wide["generator_study"] - wide["generator"]).to_numpy()
    assert moved == pytest.approx(bootstrap_interval(gap, wide["group"].to_numpy()))
    text = thresholds.thresholds_sentence(series)
    assert (
        f"own filters keep 7.0 a test image; the study's 8.0, which changes the F1 by {100 * moved[0]:+.1f} [" in text
    )
    assert "Adapting changes the F1 by +20.0 [+20.0,\u00a0+20.0] points (filters: the runs' own); by +20.0" in text
    assert "changes the AP50 by +10.0 [+10.0,\u00a0+10.0] points (filters: the runs' own); by" in text
    same = {"frozen": series["frozen"], "adapted": [write(tmp_path / "s", 0.4)]}
    assert thresholds.thresholds_sentence(same).count("by nothing") == 13
    assert "Adapting" not in thresholds.thresholds_sentence({"frozen": [], "adapted": series["adapted"]})


def test_filters_that_are_the_runs_own_change_nothing(tmp_path: Path) -> None:
    series = {name: [write(tmp_path / name, level)] for name, level in (("frozen", 0.4), ("adapted", 0.6))}
    for runs in series.values():
        runs[0].metrics["filters"]["tuned"] = dict(OWN)
    text = thresholds.thresholds_sentence(series)
    assert text.count("; those by validation are the same.") == 2 and text.count("the study's 8.0, which changes") == 2
    assert "(filters: the study's)." in text and "by validation)" not in text
    series["frozen"][0].metrics["filters"]["tuned"] = OWN | {"pred_iou_thresh": 0.5}
    assert "(filters: by validation)." in thresholds.thresholds_sentence(series)


def test_a_choice_that_does_worse_on_the_test_images_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "What was best on the validation images is worse on the test images."
    assert said not in thresholds.thresholds_sentence({"adapted": [write(tmp_path / "a")]})
    monkeypatch.setitem(LEVELS, "generator_tuned", -0.2)
    assert said in thresholds.thresholds_sentence({"adapted": [write(tmp_path / "b")]})


def test_one_group_gives_no_interval_and_no_claim_of_a_change(tmp_path: Path) -> None:
    record = write(tmp_path / "a")
    rows = record.per_image.assign(group="g")
    rows.to_csv(record.path / "per_image.csv", index=False)
    record = read_record(record.path)
    gap = 100 * thresholds.change([record], "generator_study")[0]
    text = thresholds.thresholds_sentence({"frozen": [], "adapted": [record]})
    assert f"changes the F1 by {gap:+.1f} points, on too few groups for an interval and" in text


def test_what_was_trained_follows_the_objective(tmp_path: Path) -> None:
    record = write(tmp_path / "a")
    assert "objective `mixed`" in calibration.training_sentence(record)
    config = record.config.replace(objective="semantic")
    plain = Record(record.path, "b", config, record.metrics, {})
    assert "neither the mask tokens" in calibration.training_sentence(plain)


def test_calibration_chart_has_a_line_a_series_and_the_diagonal(tmp_path: Path) -> None:
    frame = ratings([0.15, 0.25, 0.85], [0.2, 0.2, 0.9])
    series = {"frozen": [write(tmp_path / "f", table=frame)], "adapted": [write(tmp_path / "a", table=frame[:2])]}
    figure = filter_plots.calibration_chart(calibration.calibration_table(series))
    axes, strip = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["as rated", "frozen", "adapted"]
    assert [c.lines[0].get_color() for c in axes.containers] == [plots.FROZEN, plots.ADAPTED]
    assert sorted(bar.get_height() for bar in strip.patches) == pytest.approx([100 / 3] * 3 + [50] * 2)
    assert figure.made_by == "lorasam_core.report.chapters.filter_plots.calibration_chart"


def test_heatmaps_share_their_colours_and_frame_the_best(tmp_path: Path) -> None:
    tables = {
        "frozen": thresholds.threshold_table([write(tmp_path / "f", 0.3)]),
        "adapted": thresholds.threshold_table([write(tmp_path / "a", 0.6, tuned=0.7)]),
    }
    figure = filter_plots.threshold_heatmap(tables)
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == ["frozen", "adapted"]
    limits = {axes.collections[0].get_clim() for axes in panels}
    assert len(limits) == 1 and limits.pop() == pytest.approx((31, 76))
    for axes in panels:
        (frame,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert frame.get_xy() == (1, 1)  # the middle of three thresholds, both ways
        assert len(axes.texts) == 9
    assert max(float(text.get_text()) for text in panels[1].texts) == pytest.approx(76)
    assert figure.made_by == "lorasam_core.report.chapters.filter_plots.threshold_heatmap"
