"""Augmentation: image and labels stay aligned, nothing but rng decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk
from skimage.measure import label

from lorasam_core.data.augment import KINDS, augment, tone_table

GEOMETRY_ONLY = {"contrast": (1.0, 1.0), "gamma": (1.0, 1.0)}


def discs(height: int, width: int, colour: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Flat discs on black: the image shows the label image exactly, 20 grey levels an id."""
    labels = np.zeros((height, width), np.int32)
    rng = np.random.default_rng(7)
    for k in range(1, 11):
        labels[disk((rng.integers(height), rng.integers(width)), 12, shape=labels.shape)] = k
    image = (labels * 20).astype(np.uint8)
    return (np.repeat(image[..., None], 3, axis=2) if colour else image), labels


def broken(view: np.ndarray, ids: np.ndarray) -> int:
    """Pixels that cannot come from one geometry, for labels 0 and not 0 shown as 0 and 255.

    The nearest pixel has a weight of at least 1/4 in the bilinear mean (0.22 on cv2's grid of 1/32 pixel).
    """
    grey = view if view.ndim == 2 else view[..., 0]
    return int((ids > 0)[grey < 0.2 * 255].sum() + (ids == 0)[grey > 0.8 * 255].sum())


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(20, 150), width=st.integers(20, 150), crop=st.integers(8, 96),
    seed=st.integers(0, 2**32 - 1), colour=st.booleans(),
)  # fmt: skip
def test_image_and_labels_stay_aligned(height, width, crop, seed, colour):
    labels = np.random.default_rng(seed).integers(0, 2, (height, width)).astype(np.int32)  # noise: no shift goes unseen
    image = (labels * 255).astype(np.uint8)
    image = np.repeat(image[..., None], 3, axis=2) if colour else image
    view, ids = augment(image, labels, np.random.default_rng(seed), crop, **GEOMETRY_ONLY)
    assert view.shape[:2] == ids.shape == (crop, crop) and view.ndim == image.ndim
    assert view.dtype == np.uint8 and ids.dtype == np.int32
    assert broken(view, ids) == 0


def test_misalignment_by_one_pixel_would_be_seen():
    labels = discs(120, 140)[1].clip(max=1)
    view, ids = augment((labels * 255).astype(np.uint8), labels, np.random.default_rng(3), 96, **GEOMETRY_ONLY)
    assert broken(view, ids) == 0
    assert broken(np.roll(view, 1, axis=1), ids) > 0 and broken(view[::-1], ids) > 0


@pytest.mark.parametrize("degrees", [0, 90])
def test_right_angles_agree_with_numpy(degrees):
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 256, (40, 40), np.uint8), rng.integers(0, 300, (40, 40)).astype(np.int32)
    view, ids = augment(image, labels, rng, 40, angle=(degrees, degrees), shift=0, flip=0, **GEOMETRY_ONLY)
    turns = {0: 0, 90: 1}[degrees]
    np.testing.assert_array_equal(view, np.rot90(image, turns))
    np.testing.assert_array_equal(ids, np.rot90(labels, turns))


def test_always_flipping_turns_by_half():
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 256, (30, 30, 3), np.uint8), rng.integers(0, 9, (30, 30)).astype(np.int32)
    view, ids = augment(image, labels, rng, 30, angle=(0, 0), shift=0, flip=1, **GEOMETRY_ONLY)
    np.testing.assert_array_equal(view, image[::-1, ::-1])
    np.testing.assert_array_equal(ids, labels[::-1, ::-1])


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_scale_enlarges_about_the_middle_of_the_view(factor):
    labels = np.zeros((300, 300), np.int32)
    labels[disk((149.5, 149.5), 20, shape=labels.shape)] = 1
    image = (labels * 200).astype(np.uint8)
    view, ids = augment(image, labels, np.random.default_rng(0), 120, shift=0, scale=(factor, factor), **GEOMETRY_ONLY)
    assert (ids > 0).sum() == pytest.approx((labels > 0).sum() * factor**2, rel=0.03)
    rows, columns = np.nonzero(ids)
    assert rows.mean() == pytest.approx(59.5, abs=0.6) and columns.mean() == pytest.approx(59.5, abs=0.6)
    assert ((view > 100) == (ids > 0)).mean() > 0.99


def test_a_fine_pattern_that_is_shrunk_does_not_alias():
    image = np.tile(np.array([0, 255], np.uint8), (128, 64))  # stripes of one pixel
    labels = np.ones((128, 128), np.int32)
    view, _ = augment(
        image, labels, np.random.default_rng(0), 48, angle=(7, 7), scale=(0.5, 0.5), shift=0, **GEOMETRY_ONLY
    )
    assert view[4:-4, 4:-4].std() < 25 < image.std()


def test_inversion_blur_and_noise_leave_labels_alone():
    image, labels = discs(96, 96)
    plain = {"angle": (0, 0), "shift": 0, "flip": 0, **GEOMETRY_ONLY}
    view, ids = augment(image, labels, np.random.default_rng(0), 96, invert=1.0, **plain)
    np.testing.assert_array_equal(view, 255 - image)
    np.testing.assert_array_equal(ids, labels)
    soft, ids = augment(image, labels, np.random.default_rng(0), 96, blur=(2.0, 2.0), **plain)
    np.testing.assert_array_equal(ids, labels)
    np.testing.assert_allclose(soft.mean(), image.mean(), atol=1.5)
    assert np.abs(np.diff(soft.astype(int))).max() < 0.5 * np.abs(np.diff(image.astype(int))).max()
    rough, ids = augment(np.full_like(image, 128), labels, np.random.default_rng(0), 96, noise=(8.0, 8.0), **plain)
    assert rough.std() == pytest.approx(8, rel=0.1)
    np.testing.assert_array_equal(ids, labels)


def test_outside_is_reflected():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    view, ids = augment(
        image, image.astype(np.int32), np.random.default_rng(0), 8, angle=(0, 0), shift=0, flip=0, **GEOMETRY_ONLY
    )
    expected = np.pad(image, 2, mode="reflect")
    np.testing.assert_array_equal(view, expected)
    np.testing.assert_array_equal(ids[2:-2, 2:-2], image)
    np.testing.assert_array_equal(ids > 0, expected > 0)


def test_a_mirror_image_is_another_particle_unless_it_touches():
    labels = np.zeros((20, 20), np.int32)
    labels[4:8, 4:8] = 7  # 4 pixels from the left border and as many from the upper one
    labels[12:16, :5] = 9  # cut by the left border
    plain = {"angle": (0, 0), "shift": 0, "flip": 0, **GEOMETRY_ONLY}
    _, ids = augment(labels.astype(np.uint8), labels, np.random.default_rng(0), 36, **plain)
    big = np.pad(labels, 8, mode="reflect")
    np.testing.assert_array_equal(ids > 0, big > 0)
    np.testing.assert_array_equal(ids[8:28, 8:28], labels)
    assert (ids[20:24, 4:13] == 9).all()  # the cut particle and its mirror image are seen as one
    seven = np.unique(ids[big == 7])
    assert len(seven) == 4 and (seven != 9).all()  # itself, mirrored to the left, upwards, and both
    for name in seven:
        ys, xs = np.nonzero(ids == name)
        assert len(ys) == 16 and np.ptp(ys) == np.ptp(xs) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_holds_no_id_in_two_pieces(kind):
    labels = np.zeros((96, 96), np.int32)
    for number, center in enumerate([(8, 30), (40, 40), (75, 12), (60, 90), (95, 95)], 1):
        labels[disk(center, 12, shape=labels.shape)] = number
    for seed in range(20):
        _, ids = augment(labels.astype(np.uint8), labels, np.random.default_rng(seed), 96, **KINDS[kind])
        for name in np.unique(ids[ids > 0]):
            sizes = np.bincount(label(ids == name, connectivity=1).ravel())[1:]
            assert np.sort(sizes)[:-1].sum() <= 2, "a rotated rim may lose a pixel, no more"


def test_view_of_a_part_equals_view_of_the_whole():
    """Cutting the neighbourhood out of a large image does not change what is seen, borders included."""
    image, labels = discs(300, 200)
    for seed, center in enumerate([(10, 10), (100, 150), (195, 290)]):
        view, ids = augment(image, labels, np.random.default_rng(seed), 64, center=center, **GEOMETRY_ONLY)
        big = np.pad(labels, 100, mode="reflect")
        _, again = augment(
            (big * 20).astype(np.uint8), big, np.random.default_rng(seed), 64,
            center=(center[0] + 100, center[1] + 100), **GEOMETRY_ONLY,
        )  # fmt: skip
        assert (ids != again).mean() < 0.001


def test_large_ids_survive():
    labels = np.full((16, 16), 2**20 + 1, np.int32)
    _, ids = augment(np.zeros((16, 16), np.uint8), labels, np.random.default_rng(0), 16)
    assert (ids == 2**20 + 1).all()
    with pytest.raises(ValueError, match="renumber"):
        augment(np.zeros((16, 16), np.uint8), np.full((16, 16), 2**25, np.int32), np.random.default_rng(0), 16)


def test_same_generator_state_same_view():
    image, labels = discs(90, 90)
    first, second = (augment(image, labels, np.random.default_rng(5), 64) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_inputs_are_not_changed():
    image, labels = discs(64, 64)
    before = image.copy(), labels.copy()
    augment(image, labels, np.random.default_rng(5), 64)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_tone_table_by_formula():
    np.testing.assert_array_equal(tone_table(100, 1, 1), np.arange(256))
    assert tone_table(100, 0.5, 1)[200] == 150 and tone_table(100, 2, 1)[200] == 255
    assert tone_table(0, 1, 2)[128] == round(255 * (128 / 255) ** 2)
    assert (np.diff(tone_table(90, 1.3, 0.7).astype(int)) >= 0).all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="same size"):
        augment(np.zeros((5, 6), np.uint8), np.zeros((6, 5), np.int32), np.random.default_rng(0), 4)
