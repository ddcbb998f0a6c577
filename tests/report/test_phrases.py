"""Differences in words claim a side only where the interval lies on it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasam_core.report.phrases import UNCLEAR, difference, few_groups, listed


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.05, 0.02, 0.08), "a gain of 5.0 [2.0,\u00a08.0] points"),
        ((-0.05, -0.08, -0.02), "a loss of 5.0 [2.0,\u00a08.0] points"),
        ((0.05, -0.01, 0.1), f"a difference of +5.0 [-1.0,\u00a0+10.0] points, {UNCLEAR}"),
        ((0.05, float("nan"), float("nan")), "a difference of +5.0 points, on too few groups for an interval"),
        ((0.0001, 0.00005, 0.0002), "a difference of less than a tenth of a point"),
    ],
)
def test_by_hand(values, expected):
    assert difference(*values) == expected


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_side_is_claimed_only_beyond_zero(change, below, above):
    text = difference(change, change - below, change + above, up="UP", down="DOWN")
    assert change - below > 0 or "UP" not in text
    assert change + above < 0 or "DOWN" not in text


def test_lists_in_words():
    assert [listed("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_few_groups_are_a_warning():
    assert [few_groups(n) for n in (6, 7, 40)] == ["", "", ""]
    assert "only 4 groups" in few_groups(4) and "a hint, not a finding" in few_groups(2)
    assert "no interval" in few_groups(1) == few_groups(0)
    # the case it warns of: four group means share a sign in one of eight draws, and then no bootstrap mean crosses zero
    signs = np.sign(np.random.default_rng(0).normal(size=(20000, 4)))
    assert np.mean(np.abs(signs.sum(axis=1)) == 4) == pytest.approx(1 / 8, abs=0.01)
