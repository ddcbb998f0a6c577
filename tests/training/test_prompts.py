"""Prompts from labels: inside, around, and by rng alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from lorasam_core.training.prompts import choose_instances, jittered_boxes, points_inside, whole_image_box


def random_labels(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros((60, 80), np.int32)
    for k in rng.permutation(np.arange(1, 30, 3)):
        y, x, h, w = rng.integers((0, 0, 2, 2), (55, 75, 20, 20))
        labels[y : y + h, x : x + w] = k
    return labels


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12))
def test_points_lie_in_their_instances(seed, k):
    labels, rng = random_labels(seed), np.random.default_rng(seed)
    ids = choose_instances(labels, k, rng)
    assert len(ids) == len(set(ids)) <= k and 0 not in ids
    points = points_inside(labels, ids, rng)
    assert points.shape == (len(ids), 2) and points.dtype == np.float32
    np.testing.assert_array_equal(labels[points[:, 1].astype(int), points[:, 0].astype(int)], ids)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), jitter=st.floats(0, 1))
def test_boxes_stay_in_the_image_and_near_the_tight_box(seed, jitter):
    labels, rng = random_labels(seed), np.random.default_rng(seed)
    ids = np.unique(labels[labels > 0])
    boxes = jittered_boxes(labels, ids, rng, jitter)
    assert boxes.shape == (len(ids), 4) and boxes.dtype == np.float32
    assert (boxes[:, :2] <= boxes[:, 2:]).all() and (boxes >= 0).all() and (boxes <= [79, 59, 79, 59]).all()
    tight = {r.label: np.array([r.bbox[1], r.bbox[0], r.bbox[3] - 1, r.bbox[2] - 1]) for r in regionprops(labels)}
    if jitter == 0:
        np.testing.assert_array_equal(boxes, [tight[i] for i in ids])
    elif jitter < 0.05:
        assert np.abs(boxes - [tight[i] for i in ids]).max() < 6 * jitter * 21 + 1e-4


def test_jitter_has_the_stated_spread():
    labels = np.zeros((400, 400), np.int32)
    labels[100:200, 100:300] = 1  # 200 wide, 100 high
    boxes = jittered_boxes(labels, np.ones(1500, int), np.random.default_rng(0), 0.05)
    np.testing.assert_allclose(boxes.mean(0), [100, 100, 299, 199], atol=0.6)
    np.testing.assert_allclose(boxes[:, 1].std(), 5, rtol=0.08)
    assert np.abs(boxes - [100, 100, 299, 199]).max() <= 20


def test_every_instance_has_the_same_chance():
    labels = np.zeros((40, 40), np.int32)
    labels[:30], labels[30:] = 5, 9
    first = [choose_instances(labels, 1, np.random.default_rng(s))[0] for s in range(400)]
    assert 150 < first.count(5) < 250


def test_small_instances_are_passed_over_unless_alone():
    labels = np.zeros((20, 20), np.int32)
    labels[0, :3] = 1
    rng = np.random.default_rng(0)
    assert list(choose_instances(labels, 5, rng)) == [1]
    labels[10:16, 10:16] = 2
    assert list(choose_instances(labels, 5, rng)) == [2]
    assert sorted(choose_instances(labels, 5, rng, min_area=1)) == [1, 2]


def test_nothing_labelled_gives_nothing():
    ids = choose_instances(np.zeros((5, 5), np.int32), 3, np.random.default_rng(0))
    assert ids.shape == (0,)
    assert points_inside(np.zeros((5, 5), np.int32), ids, np.random.default_rng(0)).shape == (0, 2)
    assert jittered_boxes(np.zeros((5, 5), np.int32), ids, np.random.default_rng(0)).shape == (0, 4)


def test_whole_image_box():
    np.testing.assert_array_equal(whole_image_box((30, 50)), [[0, 0, 50, 30]])
    assert whole_image_box((30, 50, 3)).dtype == np.float32


def test_bad_values():
    labels, rng = random_labels(0), np.random.default_rng(0)
    with pytest.raises(ValueError, match="k is 0"):
        choose_instances(labels, 0, rng)
    with pytest.raises(ValueError, match="99 is not in the labels"):
        points_inside(labels, np.array([99]), rng)
    with pytest.raises(ValueError, match="jitter"):
        jittered_boxes(labels, np.array([1]), rng, -0.1)
