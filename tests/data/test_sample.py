"""The contract of a sample, and instances from binary masks."""

import numpy as np
import pytest
from scipy import ndimage

from lorasam_core.data.sample import DataError, Sample, labels_from_mask

IMAGE, LABELS = np.zeros((4, 5), np.uint8), np.ones((4, 5), np.int32)


def test_a_valid_sample():
    sample = Sample(np.zeros((4, 5, 3), np.uint8), LABELS, "a", "g", 2.5)
    assert sample.shape == (4, 5) and sample.foreground.all() and sample.pixel_size == 2.5
    with pytest.raises(AttributeError):
        sample.id = "b"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": IMAGE.astype(float)}, "convert it to uint8"),
        ({"image": np.zeros((4, 5, 4), np.uint8)}, "shape"),
        ({"image": np.zeros((0, 5), np.uint8)}, "no pixels"),
        ({"labels": LABELS.astype(np.int64)}, "convert them to int32"),
        ({"labels": LABELS.T}, "same height"),
        ({"labels": -LABELS}, "negative"),
        ({"pixel_size": 0.0}, "pixel size"),
        ({"pixel_size": float("nan")}, "pixel size"),
    ],
)
def test_each_broken_field_is_named(change, says):
    with pytest.raises(DataError, match=says) as error:
        Sample(**{"image": IMAGE, "labels": LABELS, "id": "powder_7", "group": "g"} | change)
    assert "powder_7" in str(error.value)


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (False, True), (0, 65535)])
def test_binary_masks_become_components(values):
    mask = np.random.default_rng(0).random((40, 50)) > 0.6
    labels = labels_from_mask(np.where(mask, values[1], values[0]))
    expected, count = ndimage.label(mask, structure=np.ones((3, 3)))
    assert labels.dtype == np.int32 and labels.max() == count
    np.testing.assert_array_equal(labels > 0, expected > 0)
    assert len(np.unique(np.stack([labels, expected]).reshape(2, -1), axis=1).T) == count + 1  # one to one


def test_masks_without_background_or_particle():
    assert (labels_from_mask(np.full((3, 3), 7)) == 1).all()
    assert not labels_from_mask(np.zeros((3, 3))).any()
    np.testing.assert_array_equal(labels_from_mask(np.array([[1, 2]])), [[0, 1]])


def test_more_values_are_no_binary_mask():
    with pytest.raises(DataError, match="3 distinct values"):
        labels_from_mask(np.array([[0, 1, 2]]))
