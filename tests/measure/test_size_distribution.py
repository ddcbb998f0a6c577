"""Distributions against hand calculation, repeated particles, and simulated samples."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk

from lorasam_core.measure.sizes import (
    compare_sizes,
    geometric_deviation,
    measure,
    particles_needed,
    size_distribution,
    size_intervals,
)
from lorasam_core.stats import bootstrap_interval


def as_table(diameters, unit="nm", **columns):
    base = {"equivalent_diameter": np.asarray(diameters, float), "touches_border": False, "border_weight": 1.0}
    return pd.DataFrame(base | {"unit": unit} | columns)


def test_border_correction_against_simulated_truth():
    """Discs of two sizes, as many of each, seen through windows that cut the large ones more often."""
    rng, cell, side = np.random.default_rng(1), 36, 120
    plane = np.zeros((40 * cell, 40 * cell), np.int32)
    for k, radius in enumerate(rng.permutation(np.repeat([4, 15], 800))):
        centre = np.array(divmod(k, 40)) * cell + rng.uniform(radius + 1, cell - radius - 1, 2)
        plane[disk(centre, radius)] = k + 1
    truth = np.sqrt(4 / np.pi * np.bincount(plane.ravel())[1:]).mean()
    corners = rng.integers(0, len(plane) - side, (150, 2))
    table = pd.concat([measure(plane[y : y + side, x : x + side]) for y, x in corners])
    assert size_distribution(table, border_correction=True)["mean"] == pytest.approx(truth, rel=0.03)
    assert size_distribution(table)["mean"] < 0.93 * truth
    whole = table[~table["touches_border"]]
    large = whole["equivalent_diameter"] > 20
    assert whole["border_weight"][large].sum() / whole["border_weight"].sum() == pytest.approx(0.5, abs=0.03)
    assert large.mean() < 0.44


def test_defaults_are_numpys_percentiles():
    sizes = np.random.default_rng(0).lognormal(3, 0.5, 137)
    found = size_distribution(as_table(sizes))
    assert [found[name] for name in ("D10", "D50", "D90")] == np.percentile(sizes, (10, 50, 90)).tolist()
    assert (found["count"], found["mean"]) == (137, sizes.mean())
    assert found["span"] == pytest.approx((found["D90"] - found["D10"]) / found["D50"])


def test_volume_weights_by_hand():
    found = size_distribution(as_table([4, 1, 3, 2]), weight="volume")  # cubes 1, 8, 27, 64 sum up to 100
    assert (found["D10"], found["D50"], found["D90"]) == (3, 4, 4)
    assert found["mean"] == pytest.approx((1 + 16 + 81 + 256) / 100)
    cut = as_table([4, 1, 3, 2, 50], touches_border=[False] * 4 + [True])
    assert size_distribution(cut, weight="volume") == found
    wide = size_distribution(
        as_table([4, 1, 3, 2], border_weight=[1, 64, 1, 8]), weight="volume", border_correction=True
    )
    assert (wide["D10"], wide["D50"], wide["D90"]) == (1, 2, 4)  # 64, 64, 27, 64


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 6)), min_size=1, max_size=25))
def test_weights_are_particles_said_once(pairs):
    sizes, times = np.array(pairs).T
    found = size_distribution(as_table(sizes, border_weight=times.astype(float)), border_correction=True)
    repeated = np.repeat(sizes, times)
    expected = [np.percentile(repeated, q, method="inverted_cdf") for q in (10, 50, 90)]
    assert [found["D10"], found["D50"], found["D90"]] == expected
    assert found["mean"] == pytest.approx(repeated.mean()) and found["count"] == len(sizes)


def test_wrong_distributions_are_refused():
    table = as_table([1, 2])
    with pytest.raises(ValueError, match="choose from number, volume"):
        size_distribution(table, weight="mass")
    with pytest.raises(ValueError, match="keep exclude_border"):
        size_distribution(table, exclude_border=False, border_correction=True)
    for function in (size_distribution, size_intervals):
        with pytest.raises(ValueError, match="mixes units"):
            function(pd.concat([table, as_table([1], "px")]))
    with pytest.raises(ValueError, match="mixes units"):
        compare_sizes(table, as_table([1, 2], "px"))


def test_intervals_over_particles_are_those_of_theory():
    sizes = np.random.default_rng(0).normal(100, 10, 400)
    found = size_intervals(as_table(sizes))
    assert np.diff(found["mean"]).item() == pytest.approx(2 * 1.96 * 10 / 20, rel=0.12)
    assert np.diff(found["D50"]).item() == pytest.approx(2 * 1.96 * 12.53 / 20, rel=0.35)
    assert all(low <= size_distribution(as_table(sizes))[name] <= high for name, (low, high) in found.items())


def test_intervals_over_images_are_those_of_a_group_bootstrap():
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(9), rng.integers(3, 30, 9))
    sizes = rng.normal(50, 2, len(image)) + rng.normal(0, 8, 9)[image]
    low, high = size_intervals(as_table(sizes, image=image))["mean"]
    _, expected_low, expected_high = bootstrap_interval(sizes, image)
    assert (low, high) == (pytest.approx(expected_low, abs=1), pytest.approx(expected_high, abs=1))
    low, high = size_intervals(as_table(sizes))["mean"]
    assert high - low < (expected_high - expected_low) / 2  # as if particles of an image told nothing of each other
    few = as_table(sizes, image=image)[image < 4]
    assert size_intervals(few) == size_intervals(few.drop(columns="image"))


def test_no_interval_of_one_particle():
    assert np.isnan(size_intervals(as_table([3.0]))["D50"]).all()
    assert np.isnan(size_intervals(as_table([3.0, 4.0], touches_border=True))["mean"]).all()


def test_two_samples_are_compared():
    rng = np.random.default_rng(0)
    small, large = as_table(rng.normal(50, 5, 300)), as_table(rng.normal(53, 5, 200))
    found = compare_sizes(small, large)
    assert found["difference"] == pytest.approx(3, abs=1.2) and found["low"] < found["difference"] < found["high"]
    assert found["low"] > 0 and found["p"] < 1e-4 and found["unit"] == "nm"
    turned = compare_sizes(large, small)
    assert turned["difference"] == -found["difference"] and turned["ks"] == found["ks"]
    same = compare_sizes(small, small)
    assert same["difference"] == 0 and same["p"] == pytest.approx(1) and same["low"] < 0 < same["high"]
    assert compare_sizes(as_table([1, 2]), as_table([8, 9]))["ks"] == 1
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_sizes(small, as_table([1], touches_border=True))


@pytest.mark.parametrize(("weight", "power"), [("number", 0), ("volume", 3)])
def test_so_many_particles_are_that_precise(weight, power):
    n = particles_needed(1.5, 0.1, weight)
    logs = np.random.default_rng(0).normal(2, np.log(1.5), (4000, n))
    d50 = np.exp(logs.mean(axis=1) + power * logs.var(axis=1, ddof=1))
    truth = np.exp(2 + power * np.log(1.5) ** 2)
    assert np.mean(abs(d50 / truth - 1) <= 0.1) == pytest.approx(0.95, abs=0.015)


def test_numbers_of_particles_are_the_standards():
    """ISO 13322-1:2004, scope: at least 61 000 for a deviation of 1,6. Its annex has mean D^6 to 5 %, as D to 5/6 %."""
    assert particles_needed(1.6, 0.05 / 6, "volume") == pytest.approx(61_000, rel=0.005)
    assert particles_needed(1.0, 0.05) == 1
    for wrong in ((0.9, 0.05), (float("nan"), 0.05), (1.5, 0.0)):
        with pytest.raises(ValueError, match="no number"):
            particles_needed(*wrong)


def test_geometric_deviation():
    sizes = np.exp(np.random.default_rng(0).normal(3, np.log(1.7), 20_000))
    assert geometric_deviation(as_table(sizes)) == pytest.approx(1.7, rel=0.02)
    table = as_table([1, np.e**2, 5], touches_border=[False, False, True], border_weight=[3.0, 1.0, np.nan])
    assert geometric_deviation(table) == pytest.approx(np.e)
    assert geometric_deviation(table, border_correction=True) == pytest.approx(np.exp(np.sqrt(0.75)))
    assert np.isnan(geometric_deviation(as_table([])))
