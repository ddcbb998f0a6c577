"""Sliding windows cover every pixel and stay inside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core.data.windows import sliding_windows


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 100), overlap=st.floats(0, 0.95))
def test_cover_inside_and_overlap(height, width, size, overlap):
    seen = np.zeros((height, width), int)
    windows = sliding_windows((height, width), size, overlap)
    for y, x, h, w in windows:
        assert (h, w) == (min(size, height), min(size, width))
        assert 0 <= y <= height - h and 0 <= x <= width - w
        seen[y : y + h, x : x + w] += 1
    assert seen.min() >= 1 and len(set(windows)) == len(windows)
    for axis, side in ((0, min(size, height)), (1, min(size, width))):
        starts = sorted({window[axis] for window in windows})
        stride = max(1, int(side * (1 - overlap)))
        assert max(np.diff(starts), default=0) <= stride


def test_by_hand():
    assert sliding_windows((512, 512), 512) == [(0, 0, 512, 512)]
    assert sliding_windows((100, 250, 3), 100, 0.25) == [(0, 0, 100, 100), (0, 75, 100, 100), (0, 150, 100, 100)]
    assert len(sliding_windows((768, 1024), 512)) == 6


def test_bad_values():
    for bad in ((0, 0.2), (10, 1.0), (10, -0.1)):
        with pytest.raises(ValueError, match="give"):
            sliding_windows((20, 20), *bad)
