"""What goes wrong in an image: hand-made label images, and the metrics that count the same things in another way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core.measure import errors, metrics


def squares(*places, shape=(40, 120)):
    """A label image with a rectangle a place (y, x, height, width), labelled 3, 6, 9 ..."""
    labels = np.zeros(shape, np.int32)
    for k, (y, x, h, w) in enumerate(places, start=1):
        labels[y : y + h, x : x + w] = 3 * k
    return labels


# a pair that touches, a large one, one alone, one that nobody finds, one whose outline is off
TRUE = squares((0, 0, 10, 10), (0, 10, 10, 10), (0, 30, 20, 20), (0, 60, 10, 10), (25, 0, 10, 10), (25, 40, 10, 10))
# over the pair, two halves of the large one, the one alone, the last and more beside it, and two on nothing
FOUND = squares(
    (0, 0, 10, 20), (0, 30, 9, 20), (9, 30, 11, 18), (0, 60, 10, 9), (25, 40, 10, 25), (25, 80, 5, 5), (25, 100, 5, 5)
)  # fmt: skip
# IoU of the second half is 198 / 400: just not found


def test_every_kind_by_hand():
    of_true, of_found = errors.kinds(FOUND, TRUE)
    # both of the pair have an IoU of exactly a half with the one instance, and one of them is matched with it
    assert sorted(of_true[:2]) == ["found", "merged"]
    assert of_true[2:].tolist() == ["split", "found", "missed", "outline off"]
    assert of_found.tolist() == ["found", "", "", "found", "", "invented", "invented"]


def random_labels(seed, count):
    rng = np.random.default_rng(seed)
    labels = np.zeros((24, 30), np.int32)
    for k in range(count):
        y, x = rng.integers(0, [20, 26])
        h, w = rng.integers(2, 10, 2)
        labels[y : y + h, x : x + w] = rng.integers(1, 50) if k % 4 else k + 50
    return labels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 8), st.integers(0, 8))
def test_kinds_agree_with_the_metrics(seed, n_found, n_true):
    found, true = random_labels(seed, n_found), random_labels(seed + 1, n_true)
    of_true, of_found = errors.kinds(found, true)
    total = len(of_true) + len(of_found)
    assert (of_true == "found").sum() == (of_found == "found").sum()
    assert metrics.f1(found, true) == pytest.approx(2 * (of_true == "found").sum() / total if total else 1.0)
    merges, splits = metrics.merges_and_splits(found, true)
    assert (merges or "merged" not in of_true) and (of_true == "split").sum() <= splits
    assert set(errors.kinds(true, true)[0]) <= {"found"}


def test_nothing_found_and_nothing_there():
    empty = np.zeros_like(TRUE)
    assert errors.kinds(empty, TRUE)[0].tolist() == ["missed"] * 6
    assert errors.kinds(TRUE, empty)[1].tolist() == ["invented"] * 6
    assert [len(part) for part in errors.kinds(empty, empty)] == [0, 0]
    with pytest.raises(ValueError, match="shape"):
        errors.kinds(empty, empty[:5])


def test_the_map_shows_every_kind():
    out = errors.kind_map(FOUND, TRUE)
    assert out.shape == TRUE.shape and out.dtype == np.uint8
    places = {"missed": (30, 5), "split": (10, 40), "outline off": (30, 45), "found": (5, 65), "invented": (27, 82)}
    assert {kind: errors.KINDS[out[place] - 1] for kind, place in places.items()} == {kind: kind for kind in places}
    assert {errors.KINDS[out[5, 5] - 1], errors.KINDS[out[5, 15] - 1]} == {"found", "merged"}
    assert not out[38, 100] and not out[30, 60]  # on no particle, and in an instance that is not invented
    assert not out[5, 9] and out[5, 10]  # where two particles touch
