"""Runs side by side: every number against the made-up records that it must come from, and what may be claimed of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core.config import RunConfig
from lorasam_core.experiments.records import Record, read_edition
from lorasam_core.report.chapters import budgets, chance, comparisons
from lorasam_core.report.phrases import listed
from lorasam_core.stats import bootstrap_interval
from tests.made_up import EVERY, write_run

SEEDS = (0.80, 0.82, 0.81)


def record(name="-", **config):
    return Record(Path(), name, RunConfig(name=name, **config), {}, {})


@pytest.fixture
def runs(tmp_path):
    """Records by run id: the reference with three seeds, of which one was transferred, and other places of LoRA."""
    for seed, level in enumerate(SEEDS):
        write_run(tmp_path, f"m{seed}", level, EVERY, name=f"main {seed}", seed=seed, transfer=("x",) * (seed == 0))
    write_run(tmp_path, "up", 0.90, EVERY, name="all, of them", targets=("q", "k", "v"))
    write_run(tmp_path, "down", 0.60, EVERY, name="last", blocks=(5,))
    write_run(tmp_path, "same", 0.81, EVERY, scatter=0.02, name="q", targets=("q",), rank=8)
    write_run(tmp_path, "net", 0.70, ("predictor", "generator"), name="net", method="unet")
    return {r.run_id: r for r in read_edition(tmp_path).records}


@pytest.fixture
def table(runs):
    order = ["up", "m0", "down", "same", "net", "m1", "m2"]
    return comparisons.comparison_table([runs[i] for i in order], "main 0").set_index("name", drop=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([4, 8, 16]), st.booleans()), max_size=12))
def test_groups_gather_seeds_and_nothing_else(asked):
    records = [
        record(f"{i}", seed=seed, rank=rank, transfer=("x",) * moved, truncate=(1,) * moved)
        for i, (seed, rank, moved) in enumerate(asked)
    ]
    found = comparisons.groups(records)
    assert [runs[0].config.rank for runs in found] == list(dict.fromkeys(rank for _, rank, _ in asked))
    for runs in found:
        seeds = [seed for seed, rank, _ in asked if rank == runs[0].config.rank]
        assert [r.config.seed for r in runs] == list(dict.fromkeys(seeds))


def test_seeds_come_from_the_pool_and_the_reference_from_another_experiment():
    main, other, seed = record("main"), record("rank 8", rank=8), record("seed 1", seed=1)
    assert comparisons.with_seeds([main], [other, seed, main]) == [main, seed, main]
    assert comparisons.groups(comparisons.with_seeds([main], [other, seed, main])) == [[main, seed]]
    assert comparisons.shared_name([other, main], [seed]) == "main"
    assert comparisons.shared_name([other], [seed]) is None


def test_table_averages_seeds_and_pairs_images(table, runs):
    assert list(table["name"]) == ["all, of them", "main 0", "last", "q", "net"]
    assert table["runs"].tolist() == [1, 3, 1, 1, 1] and table.index[table["reference"]].tolist() == ["main 0"]
    means = [r.per_image.query("evaluator == 'predictor'")["dice"].mean() for r in (runs[f"m{i}"] for i in range(3))]
    assert table.loc["main 0", "predictor_dice"] == pytest.approx(100 * np.mean(means))
    assert table.loc["main 0", "predictor_dice_std"] == pytest.approx(np.std([80, 82, 81], ddof=1))
    assert np.isnan(table.loc["q", "predictor_dice_std"]) and np.isnan(table.loc["main 0", "predictor_dice_gain"])
    # every image gains the same
    ends = ["predictor_dice_gain", "predictor_dice_gain_low", "predictor_dice_gain_high"]
    assert np.allclose(table.loc["all, of them", ends].astype(float), 9) and table.loc["last", "pq_gain"] < -20
    ours = runs["same"].per_image.query("evaluator == 'box'")["iou_rated"].to_numpy()
    theirs = np.mean([runs[f"m{i}"].per_image.query("evaluator == 'box'")["iou_rated"] for i in range(3)], axis=0)
    expected = bootstrap_interval(ours - theirs, [f"g{i // 2}" for i in range(12)])
    found = table.loc["q", ["box_iou_gain", "box_iou_gain_low", "box_iou_gain_high"]].astype(float)
    assert np.allclose(found, 100 * np.array(expected))
    assert table.loc["q", "trainable"] == 4608 * 8 and (table["minutes"] == 1).all() and (table["steps"] == 100).all()


def test_what_was_not_measured_is_missing_and_not_zero(table, runs):
    assert table["ap50"].isna().tolist() == [False] * 4 + [True] and np.isnan(table.loc["net", "point_iou_gain"])
    alone = comparisons.comparison_table([runs["net"]])
    assert not {"ap50", "point_iou"} & set(alone.columns) and {"f1", "predictor_dice"} <= set(alone.columns)
    assert comparisons.comparison_table([runs["up"], runs["m0"]], "gone")["reference"].tolist() == [True, False]
    assert len(comparisons.comparison_table([])) == 0


def test_display_shows_what_there_is(table, runs):
    shown = comparisons.comparison_display(table, ("predictor_dice", "ap50")).set_index("run")
    assert list(shown.columns) == [
        "seeds (standard deviation)", "predictor Dice, %", 'difference to "main 0", points', "AP50, %",
    ]  # fmt: skip
    assert shown.loc["main 0", "seeds (standard deviation)"] == "3 (± 1.0)"
    assert shown.loc["main 0", 'difference to "main 0", points'] == "–" == shown.loc["net", "AP50, %"]
    assert shown.loc["all, of them", 'difference to "main 0", points'] == "+9.0 [+9.0,\u00a0+9.0]"
    level = runs["up"].metrics["test"]["predictor"]["dice"]
    assert shown.loc["all, of them", "predictor Dice, %"].startswith(f"{100 * level['mean']:.1f} [")
    assert shown.attrs["runs"] == ["up", "m0", "down", "same", "net", "m1", "m2"]
    single = comparisons.comparison_display(comparisons.comparison_table([runs["up"]]))
    assert "seeds" not in " ".join(single.columns) and len(single) == 1
    cost = comparisons.cost_display(table.assign(steps=[100, 0, 2000, 1, 1])).set_index("run")
    assert cost.loc["q", "trainable parameters"] == "36,864" and cost["steps"].tolist()[:3] == ["100", "–", "2,000"]
    assert "peak memory, MB" in cost and "no measure of training alone" in comparisons.cost_note(table)
    trained = table.assign(training_memory_mb=[1200.4, 800.0, 1e3, 0, 7], trainable=[1, 1, 1, 0, 1])
    memory = comparisons.cost_display(trained)["peak memory of training, MB"]
    assert memory.tolist() == ["1,200", "800", "1,000", "–", "7"]
    assert "of training, validations included" in comparisons.cost_note(trained)
    assert "peak memory, MB" in comparisons.cost_display(trained.assign(trainable=1))  # one of them does not state it
    minutes = comparisons.cost_display(table.assign(minutes=[0.0, 0.4, 1.4, 12.6, 2000.0]))["minutes"]
    assert minutes.tolist() == ["–", "under 1", "1", "13", "2,000"]


def test_sentence_claims_what_intervals_and_seeds_allow(table):
    text = comparisons.comparison_sentence(table)
    assert "in points, it is higher for *all, of them* (+9.0 [+9.0,\u00a0+9.0]), and lower for *last* (" in text
    assert "*net* (-" in text
    assert "No detectable difference on these test images: *q*." in text and "another seed would change is not" in text
    # the reference has three seeds: 9 points are more than 10 * sqrt((1 + 1/3) / 2) = 8.2, and no more than 9.8
    assert "higher for *all, of them*" in comparisons.comparison_sentence(table, noise=10.0)
    noisy = comparisons.comparison_sentence(table, noise=12.0)
    assert "higher" not in noisy and "lower for *last*" in noisy
    assert "No more than other images and other seeds may do together: *all, of them* (+9.0 [" in noisy
    assert "nothing to compare" in comparisons.comparison_sentence(table.query("name == 'main 0'"))
    assert "nothing to compare" in comparisons.comparison_sentence(table[["name", "reference"]])
    assert "nothing to compare" in comparisons.comparison_sentence(comparisons.comparison_table([]))


def test_what_has_no_seed_is_held_against_the_seeds_of_the_reference_alone(table):
    limits = comparisons.seed_limits(table.assign(steps=[100, 100, 0, 100, 100]), 6.0)
    means = [6 * (2 / 3) ** 0.5, 6 * (1 / 3) ** 0.5, 6 * (1 / 6) ** 0.5]
    assert limits == pytest.approx([means[0], means[1], means[2], means[0], means[0]])
    assert comparisons.verdicts(table, "predictor_dice", 6.0)[0] == "higher"
    single = table.assign(runs=1)  # two single runs: 9 points are less than 10
    assert comparisons.verdicts(single, "predictor_dice", 10.0)[0] == "noisy"


def test_images_and_seeds_are_added(table):
    # images allow 3 points, seeds 4 (of a mean of three and a single run), both together 5
    ends = {"predictor_dice_gain": 4.9, "predictor_dice_gain_low": 1.9, "predictor_dice_gain_high": 7.9}
    row = table.loc[["main 0", "q"]].copy()
    row.loc["q", list(ends)] = list(ends.values())
    text = comparisons.comparison_sentence(row, noise=4 * 1.5**0.5)
    assert "higher" not in text and "may do together: *q* (+4.9 [+1.9,\u00a0+7.9])." in text
    assert "higher for *q*" in comparisons.comparison_sentence(row, noise=3 * 1.5**0.5)


def test_grey_is_explained_where_it_is_drawn(runs):
    seeds = [runs[f"m{i}"] for i in range(3)]
    assert chance.grey_clause(seeds).endswith("estimated from 3 seeds.")
    assert chance.grey_clause(seeds[:1]) == chance.grey_clause([]) == ""


def test_groups_too_few_for_an_interval_are_said_to_be(tmp_path):
    for run_id, rank, level in (("a", 32, 0.7), ("b", 64, 0.8)):
        write_run(tmp_path, run_id, level, name=run_id, rank=rank)
        path = tmp_path / run_id / "per_image.csv"
        pd.read_csv(path).assign(group="g").to_csv(path, index=False)
    table = comparisons.comparison_table(read_edition(tmp_path).records)
    assert "too few groups to draw an interval for *b*." in comparisons.comparison_sentence(table)


def test_the_smallest_that_keeps_up(table):
    sentence = comparisons.smallest_sentence(table)
    assert sentence.startswith("*q*, with 36,864 trained numbers in place of 147,456")
    few = table[table["name"] != "q"]
    assert comparisons.smallest_sentence(few) == ""  # no row has fewer
    ends = ["predictor_dice_gain_low", "predictor_dice_gain_high"]
    below = table.assign(trainable=[9, 9, 1, 2, 3]).drop(index="q")
    assert comparisons.smallest_sentence(below).startswith("No row with fewer trained numbers")
    kept = comparisons.smallest_sentence(below, noise=60.0)
    assert kept.startswith("*last*, with 1 trained numbers") and "it lies -" in kept
    gain = below.set_index("name").loc["last", ["predictor_dice_gain", "predictor_dice_gain_low"]]
    loss = -gain.iloc[0] + np.hypot(gain.iloc[0] - gain.iloc[1], 60.0 * np.sqrt((1 / 3 + 1) / 2))  # 3 seeds and 1
    assert f"With other images and seeds a loss of up to {loss:.1f} points is not excluded" in kept
    assert comparisons.smallest_sentence(below.assign(**dict.fromkeys(ends, np.nan))) == ""  # no interval, no claim
    assert comparisons.smallest_sentence(comparisons.comparison_table([])) == ""


def test_noise_of_seeds_is_students(runs):
    seeds = [runs[f"m{i}"] for i in range(3)]
    found = comparisons.seed_noise(seeds)
    assert found["n"] == 3 and found["std"] == pytest.approx(1) and found["range"] == pytest.approx(2)
    assert found["least"] == pytest.approx(4.3027 * 2**0.5, rel=1e-4)  # t(0.975) for two degrees, from a printed table
    assert np.isnan(comparisons.seed_noise(seeds[:1])["std"]) and np.isnan(comparisons.seed_noise([])["least"])


def test_noise_of_seeds_in_words(tmp_path):
    for seed, level in enumerate((0.8, 0.8 + 1 / 300, 0.8 + 2 / 300)):  # a standard deviation of a third of a point
        write_run(tmp_path, f"s{seed}", level, name=f"seed {seed}", seed=seed)
    seeds = list(read_edition(tmp_path).records)
    text = chance.noise_sentence(seeds)
    assert "a standard deviation of 0.33 points and a range of 0.67" in text and "counts from 2.0 points on" in text
    assert "not known" in chance.noise_sentence(seeds[:1])


def test_the_budget_stands_beside_the_studys():
    runs = [Record(Path(), "a", RunConfig(), {"images_seen": n}, {}) for n in (4800, 1200, 0)]
    text = budgets.budget_sentence(runs)
    assert text.startswith("A run here saw 1,200 to 4,800 training images")
    assert "40 epochs of 5,820 images that were made before, 232,800 in all, or 162,960 if" in text
    assert budgets.budget_sentence(runs[2:]) == ""


def test_steps_note_states_the_budget_and_what_had_not_converged(tmp_path):
    write_run(tmp_path, "a", 0.8, name="a")
    write_run(tmp_path, "b", 0.8, name="b", rank=4, measured={"steps": 2400, "best_step": 2400, "seconds": 90.0})
    write_run(tmp_path, "f", 0.8, name="f", method="frozen", measured={"steps": 0, "best_step": 0})
    a, b, f = read_edition(tmp_path).records
    text = budgets.steps_note([a, b, f, a])
    assert text.startswith(
        "Each of the 2 trained runs took 100 to 2,400 steps and saw 800 images, in 1 to 2 minutes of wall time."
    )
    assert "The last validation was the best for *b*." in text and "not converged" not in text
    assert text.endswith("this alone does not say whether a longer run would gain.")
    assert budgets.steps_note([a]).endswith("It was not at its best in its last validation.")
    assert budgets.steps_note([f]) == budgets.steps_note([]) == ""


def test_lists_in_words():
    assert [listed(""), listed("a"), listed("ab"), listed("abc")] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_no_torch_is_imported():
    modules = "comparisons, label_counts, comparison_plots"
    code = f"import sys; from lorasam_core.report.chapters import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
