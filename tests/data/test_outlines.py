"""Outlines and run lengths to pixels and back, against formulas and COCO's own library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask
from scipy.spatial import Delaunay

from lorasam_core.data import runs
from lorasam_core.data.outlines import Patch, box, components, ellipse, fill, paint, ring, trace, union
from lorasam_core.data.sample import DataError

SHAPE = (40, 50)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5  # centres of pixels
MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


def whole(patch, shape=SHAPE):
    image = np.zeros(shape, bool)
    image[patch.top : patch.top + patch.mask.shape[0], patch.left : patch.left + patch.mask.shape[1]] = patch.mask
    return image


def filled(*rings, shape=SHAPE):
    return whole(fill([ring(corners) for corners in rings], shape), shape)


def test_a_pixel_belongs_to_the_outline_in_which_its_centre_lies():
    assert filled([(0, 0), (3, 0), (3, 2), (0, 2)]).nonzero()[0].tolist() == [0, 0, 0, 1, 1, 1]
    a, b, c = np.array([(3.3, 2.2), (44.1, 9.7), (17.9, 37.4)])

    def beside(p, q):
        return (q[0] - p[0]) * (Y - p[1]) - (q[1] - p[1]) * (X - p[0]) > 0

    triangle = beside(a, b) & beside(b, c) & beside(c, a)
    assert (filled([a, b, c]) == triangle).all() and (filled([c, b, a]) == triangle).all()
    turned = union([ellipse(25, 20, 12, 6, 30)], SHAPE)
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    u, v = cos * (X - 25) + sin * (Y - 20), cos * (Y - 20) - sin * (X - 25)
    assert (whole(turned) != ((u / 12) ** 2 + (v / 6) ** 2 < 1)).sum() <= 2  # a polygon of 256 corners
    assert (whole(union([box(10, 10, 8, 4)], SHAPE)) == filled([(10, 10), (18, 10), (18, 14), (10, 14)])).all()


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 80)), min_size=1, max_size=30, unique=True))
def test_areas_that_share_edges_share_no_pixel_and_leave_none_out(points):
    """Corners at half numbers, so that many centres lie on edges and on corners."""
    corners = np.array([(0, 0), (100, 0), (0, 80), (100, 80), *points]) / 2
    covered = sum(filled(corners[triangle]).astype(int) for triangle in Delaunay(corners).simplices)
    area = sum(abs(np.linalg.det(np.diff(corners[t], axis=0))) / 2 for t in Delaunay(corners).simplices)
    assert covered.max() <= 1 and (area < 2000 - 1e-6 or covered.all())


def test_what_lies_outside_is_cut_off():
    assert (filled([(-30, -9), (70, -9), (70, 99), (-30, 99)])).all()
    for x, y in ((-30, 0), (60, 0), (0, -30), (0, 45)):
        assert not fill([ring([(x, y), (x + 5, y), (x, y + 5)])], SHAPE).mask.any()
    ones = np.ones((5, 6), bool)
    assert whole(union([Patch(-2, 47, ones)], SHAPE)).sum() == 3 * 3
    assert not union([Patch(90, 90, ones)], SHAPE).mask.any()


def test_parts_are_joined_and_outlines_of_one_part_make_holes():
    outer, inner = [(2, 2), (12, 2), (12, 12), (2, 12)], [(5, 5), (8, 5), (8, 8), (5, 8)]
    assert filled(outer, inner).sum() == 91
    assert whole(union([[ring(outer)], [ring(inner)]], SHAPE)).sum() == 100
    star = [(20 + 15 * np.sin(k * 0.8 * np.pi), 20 - 15 * np.cos(k * 0.8 * np.pi)) for k in range(5)]
    assert not filled(star)[20, 20]  # crossed twice: outside, by the even-odd rule


NONE = [[], [(0, 0), (1, 1)], [(0, 0), (1, 1), (np.nan, 2)], [(0, 0), (1, 1), (1e300, 2)], [1, 2, 3], [(1, 2, 3)] * 3]


@pytest.mark.parametrize("points", NONE)
def test_what_is_no_outline(points):
    with pytest.raises(ValueError):
        ring(points)


def test_sizes_that_are_none():
    for make in (lambda: box(0, 0, -3, 2), lambda: box(0, 0, 3, 0), lambda: ellipse(5, 5, float("nan"), 1)):
        with pytest.raises(ValueError, match="above 0"):
            make()


def square(x, y, side):
    return [box(x, y, side, side)]


def test_the_smaller_object_is_on_top():
    labels = paint([square(10, 10, 4), square(5, 5, 20), square(22, 5, 20)], SHAPE, "a")
    assert [(labels == k).sum() for k in (1, 2, 3)] == [16, 400 - 16 - 3 * 20, 400]
    assert labels[12, 12] == 1 and labels[10, 23] == 3  # of two of one size, the later
    twice = paint([square(1, 1, 4), square(1, 1, 4), square(9, 9, 2)], SHAPE, "a")
    assert np.unique(twice).tolist() == [0, 1, 2] and twice.dtype == np.int32
    assert not paint([], SHAPE, "a").any()


def test_an_object_that_would_vanish_is_named():
    with pytest.raises(DataError, match=r"^a\.json: object 1 is covered by others; remove it, or what lies on it\.$"):
        paint([square(0, 0, 4), [box(0, 0, 4, 2)], [box(0, 2, 4, 2)]], SHAPE, "a.json")
    for gone in (square(90, 90, 4), square(3.6, 3.6, 0.8)):
        with pytest.raises(DataError, match="object 2 covers no pixel of the image; correct it"):
            paint([square(0, 0, 4), gone], SHAPE, "a.json")


@given(MASKS)
def test_outlines_along_the_edges_of_pixels_are_exact(mask):
    again = np.zeros(mask.shape, int)
    for _, patch, pieces in components(mask.astype(np.int32)):
        assert (whole(patch, mask.shape) == mask).all()
        for rings in pieces:
            again += filled(*rings, shape=mask.shape)
            if len(rings) == 1:  # COCO's own library draws the same pixels
                found = coco_mask.decode(coco_mask.frPyObjects([rings[0].ravel().tolist()], *mask.shape))[..., 0]
                assert (found == filled(rings[0], shape=mask.shape)).all()
    assert (again == mask).all()


def test_outlines_of_a_ring_and_of_pixels_that_meet_at_a_corner():
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    outer, hole = trace(mask)
    assert outer.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]] and sorted(hole.tolist()) == [
        [1, 1],
        [1, 2],
        [2, 1],
        [2, 2],
    ]
    pieces = next(components(np.eye(2, dtype=np.int32)))[2]
    assert [len(rings) for rings in pieces] == [1, 1]
    mask[0, 0] = False  # what was a hole is open to a corner, and outside
    assert len(trace(mask)) == 1


@given(MASKS)
def test_run_lengths_are_those_of_coco(mask):
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = runs.encode(mask)
    assert runs.unpack(theirs["counts"].decode()) == counts
    assert (coco_mask.decode(coco_mask.frPyObjects({"size": mask.shape, "counts": counts}, *mask.shape)) == mask).all()
    for given_counts in (counts, theirs["counts"].decode()):
        assert (whole(runs.decode(given_counts, *mask.shape), mask.shape) == mask).all()


@settings(max_examples=30)
@given(st.integers(200, 3000), st.integers(1, 4), st.data())
def test_packed_run_lengths_may_be_long(height, width, data):
    starts = data.draw(st.lists(st.integers(0, height - 1), min_size=1, max_size=6))
    mask = np.zeros((height, width), bool)
    for start in starts:
        mask[start : start + 90] ^= True
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert runs.unpack(packed) == runs.encode(mask)


def test_run_lengths_that_cannot_be():
    for counts in ([3, 4], [3, -1, 10], [12.0], "~~~", "1", "\x01", [True] * 13):
        with pytest.raises(ValueError, match="run lengths"):
            runs.decode(counts, 3, 4)
    with pytest.raises(ValueError, match="end in the middle"):
        runs.unpack("P")
    with pytest.raises(ValueError, match="above 0"):
        runs.decode_rows([0], 0, 0, -1, -1)
    joined = runs.decode([1, 2, 0, 3, 6], 3, 4)  # a run of 0: its neighbours are one
    assert (whole(joined, (3, 4)).ravel(order="F") == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]).all()


def test_run_lengths_of_cvat_go_row_by_row():
    patch = runs.decode_rows([1, 2, 0, 2, 1], 4, 7, 2, 3)
    assert (patch.top, patch.left) == (4, 7) and patch.mask.astype(int).tolist() == [[0, 1, 1], [1, 1, 0]]
