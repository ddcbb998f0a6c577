"""Tiles against the whole image, with segmenters that answer by threshold, and others that err as a model does."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import ellipse, line
from skimage.measure import label

from lorasam_core.masks.tiles import Found, segment_tiled, tile_boxes


def by_threshold(tile: np.ndarray) -> Found:
    """8-connected regions brighter than 127, rated by their grey value."""
    grey = tile if tile.ndim == 2 else tile[..., 1]
    labels = label(grey > 127, connectivity=2).astype(np.int32)
    brightest = np.asarray(ndimage.maximum(grey, labels, np.arange(1, labels.max() + 1)), dtype=float)
    return Found(labels, np.stack([brightest, -brightest], axis=1))


def painted(mask: np.ndarray) -> np.ndarray:
    """An image whose regions have a grey value each, from 128 on, on a background of 7."""
    labels = label(mask, connectivity=2)
    return np.where(mask, 128 + labels * 37 % 128, 7).astype(np.uint8)


def assert_as_untiled(image: np.ndarray, side: int, overlap: int, offset: int = 0) -> None:
    whole, tiled = by_threshold(image), segment_tiled(by_threshold, image, side, overlap, offset)
    assert tiled.labels.dtype == np.int32
    assert np.array_equal(tiled.labels, whole.labels)  # skimage numbers in reading order, too
    assert np.array_equal(tiled.scores, whole.scores)


def spiral(side: int, pitch: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    radius = np.hypot(y, x) - pitch * np.arctan2(y, x) / (2 * np.pi)
    return (radius % pitch < width) & (np.hypot(y, x) < side / 2 - pitch)


def ring(side: int, radius: float, width: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return abs(np.hypot(y, x) - radius) < width


def fibres(shape: tuple[int, int], count: int) -> np.ndarray:
    rng, mask = np.random.default_rng(0), np.zeros(shape, dtype=bool)
    for _ in range(count):
        (y0, y1), (x0, x1) = rng.integers(0, shape[0], 2), rng.integers(0, shape[1], 2)
        mask[line(y0, x0, y1, x1)] = True
    return mask


def grid_of_disks(side: int, pitch: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] % pitch - pitch // 2
    return y**2 + x**2 <= radius**2


@settings(deadline=None)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(32, 200), part=st.floats(0, 0.9),
    offset=st.integers(0, 300),
)  # fmt: skip
def test_tiles_cover_the_image_and_overlap(height: int, width: int, side: int, part: float, offset: int) -> None:
    overlap = 1 + round(part * (side - 2))
    boxes = tile_boxes((height, width), side, overlap, offset)
    assert len(set(boxes)) == len(boxes)
    assert {(y1 - y0, x1 - x0) for y0, x0, y1, x1 in boxes} == {(min(side, height), min(side, width))}
    for length, axis in ((height, 0), (width, 1)):
        spans = sorted({(box[axis], box[axis + 2]) for box in boxes})
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(end - start >= overlap for (_, end), (start, _) in pairwise(spans))


def test_tiles_of_a_hand_made_case() -> None:
    assert tile_boxes((40, 130), 50, 10) == [(0, 0, 40, 50), (0, 40, 40, 90), (0, 80, 40, 130)]
    assert tile_boxes((40, 130), 50, 10, 20) == [(0, 0, 40, 50), (0, 20, 40, 70), (0, 60, 40, 110), (0, 80, 40, 130)]
    assert tile_boxes((50, 50), 50, 10, 20) == [(0, 0, 50, 50)]
    assert len(tile_boxes((4096, 4096), 512, 128)) == 121


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6), height=st.integers(1, 130), width=st.integers(1, 130), blur=st.sampled_from([0, 1, 3]),
    share=st.floats(0.1, 0.7), side=st.integers(32, 90), part=st.floats(0, 0.7), offset=st.integers(0, 90),
)  # fmt: skip
def test_random_regions_are_those_of_the_whole_image(
    seed: int, height: int, width: int, blur: float, share: float, side: int, part: float, offset: int
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), blur)
    assert_as_untiled(painted(noise > np.quantile(noise, 1 - share)), side, 1 + int(part * side), offset)


@pytest.mark.parametrize(("side", "overlap", "offset"), [(64, 1, 0), (64, 20, 32), (65, 36, 11), (500, 100, 9)])
@pytest.mark.parametrize(
    "mask",
    [
        spiral(171, 10, 3), ring(151, 60, 2), ring(151, 60, 0.8), fibres((110, 190), 6), fibres((41, 330), 4),
        fibres((330, 20), 4), grid_of_disks(130, 24, 9), grid_of_disks(170, 64, 30), np.ones((120, 120), dtype=bool),
        np.zeros((90, 100), dtype=bool), spiral(30, 6, 2),
    ],
)  # fmt: skip
def test_long_and_large_objects_are_those_of_the_whole_image(
    mask: np.ndarray, side: int, overlap: int, offset: int
) -> None:
    assert_as_untiled(painted(mask), side, overlap, offset)


@pytest.mark.parametrize("size", [15, 16, 17])
def test_an_object_about_as_large_as_the_overlap_where_four_tiles_meet(size: int) -> None:
    for first in range(45, 52):
        mask = np.zeros((112, 112), dtype=bool)  # tiles of 64 meet in 48..64
        mask[48 : 48 + size, first : first + size] = mask[:5, 46:66] = mask[90:, 50:62] = True
        assert_as_untiled(painted(mask), 64, 16)


def test_colour_images() -> None:
    grey = painted(fibres((100, 130), 5))
    assert_as_untiled(np.stack([0 * grey, grey, 0 * grey], axis=2), 48, 12)


class Jittery:
    """By threshold, but each region grows or shrinks by a pixel at random, and so does its rating."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, tile: np.ndarray) -> Found:
        exact, out, scores = by_threshold(tile).labels, np.zeros(tile.shape, dtype=np.int32), []
        for number in range(1, exact.max() + 1):
            change = self.rng.choice(["binary_erosion", "binary_dilation", "binary_opening"])
            changed = getattr(ndimage, change)(exact == number) & (out == 0)
            if changed.any():
                scores.append([self.rng.random()])
                out[changed] = len(scores)
        return Found(out, np.array(scores).reshape(-1, 1))


@pytest.mark.parametrize("seed", range(6))
def test_a_segmenter_that_varies_still_gives_one_instance_an_object(seed: int) -> None:
    rng, mask = np.random.default_rng(seed), np.zeros((240, 330), dtype=bool)
    for _ in range(40):
        one, length = np.zeros_like(mask), rng.uniform(6, 50)
        centre, width, turn = rng.integers(0, mask.shape), rng.uniform(6, length + 1), rng.uniform(0, 3)
        one[ellipse(*centre, length, width, mask.shape, turn)] = True
        if one.sum() > 80 and not (ndimage.binary_dilation(one, iterations=5) & mask).any():
            mask |= one
    image = painted(mask)
    found = segment_tiled(Jittery(seed), image, 128, 20 + 8 * seed, offset=7 * seed)
    truth = by_threshold(image).labels
    assert len(found.scores) == truth.max()
    for number in range(1, truth.max() + 1):
        inside = np.bincount(found.labels[truth == number], minlength=2)
        best = inside[1:].argmax() + 1
        assert inside[best] / ((truth == number) | (found.labels == best)).sum() > 0.5


def scripted(*tiles: list[tuple[tuple[int, int, int, int], float]]) -> Callable[[np.ndarray], Found]:
    """A segmenter that finds in the first tile, the second ... what it is told: boxes y0, x0, y1, x1 and ratings."""
    answers = iter(tiles)

    def segment(tile: np.ndarray) -> Found:
        labels, boxes = np.zeros(tile.shape, dtype=np.int32), next(answers)
        for number, ((y0, x0, y1, x1), _) in enumerate(boxes, start=1):
            labels[y0:y1, x0:x1] = number
        return Found(labels, np.array([score for _, score in boxes], dtype=float).reshape(-1, 1))

    return segment


STRIP = np.zeros((40, 104), dtype=np.uint8)  # two tiles of 64 that share columns 40 to 64 (0 to 24 of the second)


def boxes_of(found: Found) -> list[tuple[int, int, int, int]]:
    """y0, x0, y1, x1 of each instance, which must fill its box."""
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(found.labels)]
    for number, (y0, x0, y1, x1) in enumerate(boxes, start=1):
        assert (found.labels[y0:y1, x0:x1] == number).all()
    return boxes


def in_strip(*tiles: list[tuple[tuple[int, int, int, int], float]]) -> tuple[list[tuple[int, ...]], list[float]]:
    found = segment_tiled(scripted(*tiles), STRIP, 64, 24)
    return boxes_of(found), found.scores[:, 0].tolist()


def test_the_whole_view_is_kept_whatever_the_cut_one_looks_like_and_is_rated() -> None:
    for cut in ((8, 50, 22, 64), (9, 35, 20, 64)):  # the second reaches beyond what the other tile sees
        assert in_strip([(cut, 0.9)], [((10, 2, 20, 30), 0.3)]) == ([(10, 42, 20, 70)], [0.3])


def test_of_two_whole_views_the_better_is_kept_the_smaller_or_the_larger() -> None:
    small, large = (10, 46, 20, 54), (8, 44, 24, 60)
    in_second = {box: (box[0], box[1] - 40, box[2], box[3] - 40) for box in (small, large)}
    assert in_strip([(small, 0.9)], [(in_second[large], 0.5)]) == ([small], [0.9])
    assert in_strip([(small, 0.5)], [(in_second[large], 0.9)]) == ([large], [0.9])


def test_a_copy_that_went_takes_no_other_view_with_it() -> None:
    left, right = ((10, 42, 20, 50), 0.9), ((10, 52, 20, 60), 0.7)
    assert in_strip([left, right], [((10, 2, 20, 20), 0.8)]) == ([left[0], right[0]], [0.9, 0.7])


def test_a_fragment_at_the_edge_goes_if_the_neighbour_saw_nothing_there() -> None:
    for first_column in (55, 40):
        assert in_strip([((10, first_column, 20, 64), 0.9)], []) == ([], [])


def test_a_cut_object_that_only_one_tile_saw_is_kept() -> None:
    assert in_strip([((10, 5, 20, 64), 0.9)], []) == ([(10, 5, 20, 64)], [0.9])
    assert in_strip([], [((10, 0, 20, 60), 0.9)]) == ([(10, 40, 20, 100)], [0.9])


def test_an_object_within_one_tile_only_is_kept_though_another_misses_it() -> None:
    assert in_strip([((10, 44, 20, 60), 0.9)], []) == ([(10, 44, 20, 60)], [0.9])


@pytest.mark.parametrize(("left", "right"), [(0.2, 0.9), (0.9, 0.2)])
def test_parts_are_joined_and_the_largest_rates_them(left: float, right: float) -> None:
    assert in_strip([((10, 2, 20, 64), left)], [((10, 0, 20, 40), right)]) == ([(10, 2, 20, 80)], [left])


def test_a_fibre_is_followed_though_one_tile_sees_it_five_times_as_thick() -> None:
    found = segment_tiled(scripted([((10, 2, 20, 64), 0.5)], [((14, 0, 16, 60), 0.9)]), STRIP, 64, 24)
    assert len(found.scores) == 1 and (found.labels > 0).sum() == 10 * 62 + 2 * 36


def test_particles_that_one_tile_took_for_one_stay_apart() -> None:
    larger, smaller = ((10, 0, 18, 60), 0.8), ((18, 0, 23, 60), 0.7)
    found = segment_tiled(scripted([((10, 2, 23, 64), 0.6)], [larger, smaller]), STRIP, 64, 24)
    assert found.scores.tolist() == [[0.6], [0.7]]  # the larger is joined to what the first tile saw
    assert (found.labels == 2).sum() == 5 * 60 and (found.labels[10:18, 2:100] == 1).all()


def test_the_better_of_two_that_overlap_takes_the_pixels() -> None:
    first, second = ((10, 30, 20, 50), 0.4), ((10, 3, 20, 23), 0.6)  # columns 30 to 50, and 43 to 63
    assert in_strip([first], [second]) == ([(10, 30, 20, 43), (10, 43, 20, 63)], [0.4, 0.6])
    assert in_strip([(first[0], 0.8)], [second]) == ([(10, 30, 20, 50), (10, 50, 20, 63)], [0.8, 0.6])


def test_what_is_mostly_covered_goes() -> None:
    pieces = [((10, 3, 20, 10), 0.9), ((10, 11, 20, 18), 0.8), ((10, 19, 20, 22), 0.8)]  # of 43 to 62
    boxes, scores = in_strip([((10, 43, 20, 62), 0.5)], pieces)
    assert boxes == [(10, 43, 20, 50), (10, 51, 20, 58), (10, 59, 20, 62)] and scores == [0.9, 0.8, 0.8]


def test_an_id_without_pixels_is_no_instance() -> None:
    assert in_strip([((0, 0, 0, 0), 0.9), ((10, 5, 20, 15), 0.5)], [((0, 0, 0, 0), 0.9)]) == ([(10, 5, 20, 15)], [0.5])


def test_memory_does_not_grow_with_the_number_of_masks() -> None:
    peaks, counts = [], []
    for pitch in (8, 80):
        image = painted(grid_of_disks(800, pitch, 0.4 * pitch))
        tracemalloc.start()
        found = segment_tiled(by_threshold, image, 200, 40)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
        counts.append(len(found.scores))
    assert counts == [10_000, 100]
    assert max(peaks) < 48  # MiB: labels and tiles take 5, the table to number them 24; masks would take 6,000
    assert peaks[0] - peaks[1] < 8


@pytest.mark.parametrize(
    ("image", "side", "overlap", "remedy"),
    [
        (STRIP, 64, 64, "give 1 to 63"),
        (STRIP, 64, 0, "give 1 to 63"),
        (STRIP, 31, 8, "give at least 32"),
        (STRIP.astype(np.uint16), 64, 8, "uint16 .* give uint8"),
        (np.zeros((40, 40, 4), dtype=np.uint8), 64, 8, r"give uint8 of shape \(H, W\) or \(H, W, 3\)"),
        (np.zeros((0, 40), dtype=np.uint8), 64, 8, "not empty"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(image: np.ndarray, side: int, overlap: int, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        segment_tiled(by_threshold, image, side, overlap)


@pytest.mark.parametrize("labels", [np.zeros((40, 63), dtype=np.int32), np.full((40, 64), 3, dtype=np.int32)])
def test_a_segmenter_whose_labels_do_not_fit_is_named(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="segmenter gave labels of shape"):
        segment_tiled(lambda tile: Found(labels, np.zeros((2, 1))), STRIP, 64, 24)
