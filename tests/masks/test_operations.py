"""Run lengths, boxes, stability and small regions against segment-anything's functions and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask
from segment_anything.utils import amg

from lorasam_core.masks import operations as masks

STACKS = arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))


@given(STACKS)
def test_run_lengths_are_those_of_segment_anything_and_come_back(stack):
    found = masks.encode(torch.from_numpy(stack))
    assert found == amg.mask_to_rle_pytorch(torch.from_numpy(stack))
    for mask, rle in zip(stack, found, strict=True):
        assert np.array_equal(masks.decode(rle), mask)
        assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(rle, *mask.shape)), mask)


def test_run_lengths_of_no_mask():
    assert masks.encode(torch.zeros(0, 4, 5).bool()) == []


@given(STACKS)
def test_boxes_are_those_of_segment_anything(stack):
    found = masks.boxes(torch.from_numpy(stack))
    assert torch.equal(found, amg.batched_mask_to_box(torch.from_numpy(stack))) and found.dtype == torch.int64


@given(st.integers(0, 999), st.sampled_from([0.0, 0.5, 30.0]))
def test_stability_is_that_of_segment_anything(seed, offset):
    logits = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(seed))
    logits[0] = -99.0
    found = masks.stability(logits, 0.1, offset)
    torch.testing.assert_close(found, amg.calculate_stability_score(logits, 0.1, offset), equal_nan=True)
    assert found[0].isnan()


def expected_without_small_regions(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, bool]:
    filled, holes = amg.remove_small_regions(mask, min_area, "holes")
    cleaned, islands = amg.remove_small_regions(filled, min_area, "islands")
    return cleaned, holes or islands


@settings(max_examples=300, deadline=None)
@given(arrays(np.bool_, (12, 14), elements=st.booleans()), st.integers(1, 30))
def test_small_regions_go_as_segment_anything_has_them_go(mask, min_area):
    found, changed = masks.without_small_regions(mask, min_area)
    if not mask.any():  # the original would look for the largest of no islands
        assert not found.any() and not changed
        return
    expected, was_changed = expected_without_small_regions(mask, min_area)
    assert np.array_equal(found, expected) and changed == was_changed


@pytest.mark.parametrize(("first", "second"), [((9, 2), (10, 0)), ((8, 2), (9, 0)), ((3, 7), (3, 9))])
def test_of_small_islands_of_one_size_the_same_one_stays(first, second):
    mask = np.zeros((12, 14), bool)
    mask[first] = mask[second] = True
    found, changed = masks.without_small_regions(mask, 2)
    assert np.array_equal(found, expected_without_small_regions(mask, 2)[0]) and changed and found.sum() == 1


@pytest.mark.parametrize("seed", range(40))
def test_small_regions_of_masks_that_fill_a_corner_of_a_large_image(seed):
    """Regions of the background that the image's edge and the mask enclose, and ones that reach far beyond it."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((90, 120), bool)
    y, x = rng.integers(0, 60, 2)
    h, w = rng.integers(5, 60, 2)
    mask[y : y + h, x : x + w] = rng.random((min(h, 90 - y), min(w, 120 - x))) > rng.uniform(0.2, 0.8)
    if seed % 2:
        mask[rng.integers(90)] = True  # a line across: what lies beyond it is a region of its own
    for min_area in (3, 20, 200):
        found, changed = masks.without_small_regions(mask, min_area)
        expected, was_changed = expected_without_small_regions(mask, min_area)
        assert np.array_equal(found, expected) and changed == was_changed
