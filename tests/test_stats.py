"""Means, paired differences, the noise of seeds and verdicts, against formulas, scipy and cases made by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, t

from lorasam_core.stats import (
    NEITHER,
    OPEN,
    as_text,
    compared,
    judge,
    mean_interval,
    paired,
    seed_limit,
    seed_noise,
    verdict,
)  # fmt: skip


def scores(**runs: list[float]) -> pd.DataFrame:
    """A row an image of each run; images come in twos of one group."""
    parts = [
        pd.DataFrame({"run": run, "rank": int(run[1:].split("_")[0]), "value": values}).assign(
            id=[f"i{k}" for k in range(len(values))], group=[f"g{k // 2}" for k in range(len(values))]
        )
        for run, values in runs.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_a_mean_over_seeds_counts_an_image_once():
    found = mean_interval(scores(r4_0=[0.0, 1.0], r4_1=[1.0, 1.0], r8_0=[0.5, 0.5]), "rank").set_index("rank")
    assert found["mean"].tolist() == [0.75, 0.5]
    assert (
        found["images"].tolist() == [2, 2] and found["runs"].tolist() == [2, 1] and found["groups"].tolist() == [1, 1]
    )
    assert found[["low", "high"]].isna().all(axis=None)  # one group has no interval


def test_the_interval_is_scipys_where_every_image_is_a_group():
    values = np.random.default_rng(0).normal(0.7, 0.1, 40)
    table = pd.DataFrame({"run": "a", "id": range(40), "group": range(40), "value": values, "all": 1})
    found = mean_interval(table, "all").iloc[0]
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=9999, random_state=1).confidence_interval
    assert found["mean"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_images_without_a_value_are_left_out():
    table = scores(r1_0=[0.2, math.nan, 0.4, 0.6])
    assert mean_interval(table, "rank").loc[0, "images"] == 3
    assert mean_interval(table, "rank").loc[0, "mean"] == pytest.approx(0.4)


def test_a_difference_is_paired_on_the_images_that_both_have():
    table = scores(r4_0=[0.1, 0.2, 0.3, 0.4], r8_0=[0.2, 0.3, 0.4, 0.5, 0.9, 0.9])
    found = paired(table, "rank", 4)
    assert found["rank"].tolist() == [8] and found.loc[0, "images"] == 4 and found.loc[0, "groups"] == 2
    assert found.loc[0, ["difference", "low", "high"]].tolist() == pytest.approx([0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="no row has rank 16; there are 4, 8"):
        paired(table, "rank", 16)


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-0.3, 0.3), seed=st.integers(0, 99))
def test_a_shift_of_every_image_is_the_difference_and_turns_with_the_reference(shift, seed):
    values = np.random.default_rng(seed).uniform(0.3, 0.7, 12)
    table = scores(r1_0=list(values), r2_0=list(values + shift))
    forth, back = (paired(table, "rank", reference).iloc[0] for reference in (1, 2))
    assert forth["difference"] == pytest.approx(shift, abs=1e-9) == pytest.approx(-back["difference"], abs=1e-9)
    assert forth["low"] - 1e-9 <= forth["difference"] <= forth["high"] + 1e-9


def test_the_noise_of_seeds_is_a_prediction_interval_of_two_runs():
    table = scores(r1_0=[0.70, 0.70], r1_1=[0.72, 0.72], r1_2=[0.71, 0.73])
    expected = t.ppf(0.975, 2) * math.sqrt(2) * np.std([0.70, 0.72, 0.72], ddof=1)
    assert seed_noise(table) == pytest.approx(expected)
    assert math.isnan(seed_noise(scores(r1_0=[0.7, 0.8])))


@pytest.mark.parametrize(
    ("gain", "low", "high", "noise", "kind"),
    [
        (2, 1, 3, math.nan, "higher"), (-2, -3, -1, 1.5, "lower"), (2, -1, 3, 0, "tied"), (2, 1, 3, 2, "noisy"),
        (2, math.nan, math.nan, 0, "open"),
        # images allow +-3, seeds +-4, both together +-5
        (4.9, 1.9, 7.9, 4, "noisy"), (-4.9, -7.9, -1.9, 4, "noisy"), (5.1, 2.1, 8.1, 4, "higher"),
        (-5.1, -9, -2.1, 4, "lower"),
    ],
)  # fmt: skip
def test_a_single_difference_is_judged(gain, low, high, noise, kind):
    assert judge(gain, low, high, noise) == kind


def test_seed_limits_are_students_of_the_difference():
    student, std = t.ppf(0.975, 2), 0.7
    least = student * math.sqrt(2) * std
    assert seed_limit(least, 1, 1) == pytest.approx(least)
    assert seed_limit(least, 3, 1) == pytest.approx(student * std * math.sqrt(1 + 1 / 3))
    assert seed_limit(least, 3, 0) == seed_limit(least, 0, 3) == pytest.approx(student * std * math.sqrt(1 / 3))
    assert math.isnan(seed_limit(math.nan, 3, 1)) and seed_limit(least, 0, 0) == 0


def row(difference: float, low: float, high: float, runs: int = 1, reference_runs: int = 1) -> pd.DataFrame:
    columns = {"rank": 8, "reference": 4, "difference": difference, "low": low, "high": high, "images": 9, "groups": 9}
    return pd.DataFrame([columns | {"runs": runs, "reference_runs": reference_runs}])


@pytest.mark.parametrize(
    ("table", "noise", "untrained", "expected"),
    [
        (row(0.05, 0.02, 0.08), math.nan, (), "higher"),
        (row(-0.05, -0.08, -0.02), math.nan, (), "lower"),
        (row(0.05, -0.01, 0.11), math.nan, (), NEITHER),
        (row(0.05, math.nan, math.nan), math.nan, (), OPEN),
        (row(0.05, 0.02, 0.08), 0.03, (), "higher"),  # hypot(0.03, 0.03) = 0.042
        (row(0.05, 0.02, 0.08), 0.045, (), NEITHER),  # hypot(0.03, 0.045) = 0.054
        (row(0.05, 0.02, 0.08), 0.045, (4,), "higher"),  # one side alone is trained: 0.045 / sqrt(2)
        (row(0.05, 0.02, 0.08, 3, 3), 0.045, (), "higher"),  # three seeds each: 0.045 / sqrt(3)
        (row(0.05, 0.02, 0.08), 9.0, (4, 8), "higher"),  # nothing is trained: seeds do nothing
    ],
)
def test_a_verdict_needs_more_than_images_and_seeds_may_do(table, noise, untrained, expected):
    assert verdict(table, noise, untrained)["verdict"].tolist() == [expected]


def test_a_verdict_states_what_seeds_alone_may_do():
    table = pd.concat([row(0.05, 0.02, 0.08, 1, 3), row(0.05, 0.02, 0.08, 1, 3).assign(rank=16)])
    assert verdict(table, 0.03, (16,))["seeds"].tolist() == pytest.approx([0.03 * (2 / 3) ** 0.5, 0.03 / 6**0.5])
    assert verdict(table)["seeds"].isna().all()


def test_means_stand_beside_what_is_claimed_of_their_differences():
    rng = np.random.default_rng(1)
    base = rng.uniform(0.2, 0.8, 40)
    table = scores(r4_0=list(base), r8_0=list(base + 0.05), r8_1=list(base + 0.07), r16_0=list(base + 0.001))
    found = compared(table, "rank", 4, seeds=8, untrained=[4]).set_index("rank")
    assert found["mean"].tolist() == pytest.approx([base.mean(), base.mean() + 0.06, base.mean() + 0.001])
    assert found.loc[8, "mean, %"].startswith(f"{100 * (base.mean() + 0.06):.1f} [")
    assert found["difference, points"].str[:4].tolist() == ["–", "+6.0", "+0.1"]
    # two seeds 2 points apart: 12.7 * sqrt(2) * 1.4 points for two single runs, of which a mean of two has a half
    limit = t.ppf(0.975, 1) * np.sqrt(2) * np.std([0.05, 0.07], ddof=1) / 2
    assert limit > 0.06 and found["verdict"].tolist() == ["–", NEITHER, NEITHER]
    assert compared(table, "rank", 4, seeds=4).set_index("rank").loc[8, "verdict"] == "higher"  # seeds are not known
    alone = compared(table, "rank", 99, seeds=8)
    assert alone[["difference, points", "verdict"]].eq("–").all(axis=None) and alone["mean"].tolist() == pytest.approx(
        found["mean"].tolist()
    )


def test_a_table_is_shown_in_percent_by_its_mean_or_by_its_difference():
    means = pd.DataFrame({"mean": [0.5, math.nan], "low": [0.25, math.nan], "high": [0.75, math.nan]}, [3, 7])
    assert as_text(means).to_dict() == {3: "50.0 [25.0,\u00a075.0]", 7: "–"}
    both = means.assign(difference=0.1)  # the mean's interval stands beside it
    assert as_text(both).tolist() == as_text(means).tolist()
    assert as_text(row(0.05, -0.02, 0.08), sign=True).tolist() == ["+5.0 [-2.0,\u00a0+8.0]"]
