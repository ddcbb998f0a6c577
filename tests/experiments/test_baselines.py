"""Otsu and watershed on images whose particles are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk

from lorasam_core.data.sample import Sample
from lorasam_core.experiments import baselines
from lorasam_core.measure import metrics

CENTRES = ((25, 30), (25, 58), (80, 40), (90, 110))  # the first two touch


def discs(ground: int = 40, particle: int = 200, radius: int = 15) -> Sample:
    image, labels = np.full((120, 140), ground, np.uint8), np.zeros((120, 140), np.int32)
    for number, centre in enumerate(CENTRES, 1):
        rows, columns = disk(centre, radius, shape=image.shape)
        image[rows, columns], labels[rows, columns] = particle, number
    return Sample(image=image, labels=labels, id="discs", group="discs")


@pytest.mark.parametrize(("ground", "particle"), [(40, 200), (200, 40)])
def test_otsu_finds_bright_and_dark_particles(ground, particle):
    sample = discs(ground, particle)
    found = baselines.components(baselines.foreground(sample.image))
    assert found.dtype == np.int32 and found.max() == 3  # two of four are one component
    assert metrics.dice(found > 0, sample.labels > 0) > 0.97
    assert metrics.merges_and_splits(found, sample.labels) == (1, 0)


def test_the_watershed_divides_what_touches():
    sample = discs()
    found = baselines.divide(baselines.foreground(sample.image), 8)
    assert found.max() == 4 and metrics.f1(found, sample.labels) == 1.0
    assert np.array_equal(found > 0, baselines.foreground(sample.image))


def test_settings_are_chosen_on_the_samples_that_are_given():
    sample = discs()
    sample.image[2:5, 60:63] = 200  # a speck of nine pixels
    segment, chosen = baselines.tuned([sample], baselines.foreground, baselines.divide, (60, 8), (1, 16, 900))
    assert chosen == {"setting": 8, "min_area": 16}  # the discs have about 700 pixels
    divided = baselines.divide(baselines.foreground(sample.image), 8)
    assert divided.max() == 5 and metrics.f1(segment(sample.image), sample.labels) == 1.0
    segment, chosen = baselines.tuned([discs()], baselines.foreground, baselines.components)
    assert chosen == {"setting": None, "min_area": 16} and segment(discs().image).max() == 3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 30))
def test_specks_go_and_nothing_else_changes(seed, area):
    labels = np.random.default_rng(seed).integers(0, 9, (7, 9)).astype(np.int32)
    found = baselines.without_specks(labels, area)
    for k in range(9):
        stays = k > 0 and (labels == k).sum() >= area
        assert np.array_equal(found == k, labels == k) if stays else k == 0 or not (found == k).any()


def test_the_watershed_divides_any_foreground():
    """Two of the three parts alone, as a network may find them: only those are divided."""

    def left_half(image):
        return baselines.foreground(image) & (np.arange(image.shape[1]) < 75)

    segment, _ = baselines.tuned([discs()], left_half, baselines.divide, (8,))
    found = segment(discs().image)
    assert np.array_equal(found > 0, left_half(discs().image)) and found.max() == 3


def test_colour_is_seen_as_grey():
    grey = discs().image
    assert np.array_equal(baselines.foreground(np.repeat(grey[..., None], 3, axis=2)), baselines.foreground(grey))


@pytest.mark.parametrize("divide", [baselines.components, baselines.divide])
def test_an_even_image_holds_nothing(divide):
    assert not divide(baselines.foreground(np.full((30, 40), 7, np.uint8)), 5).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9))
def test_divided_particles_cover_the_foreground_and_nothing_else(seed, distance):
    particles = np.random.default_rng(seed).random((24, 31)) < 0.6
    assert np.array_equal(baselines.divide(particles, distance) > 0, particles)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="distance is 0"):
        baselines.divide(discs().labels > 0, 0)
    with pytest.raises(ValueError, match="no validation image"):
        baselines.tuned([], baselines.foreground, baselines.components)
