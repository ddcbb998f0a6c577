"""Labels: every file against the ids that were written, and what cannot be known is asked for."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data.label_files import read_labels
from lorasam_core.data.particles import generate
from lorasam_core.data.readers import read_image
from lorasam_core.data.sample import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), np.uint8)
IDS = RNG.integers(0, 900, (20, 30)).astype(np.uint16)


def write(path, array, **options):
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, **options)
    else:
        Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_instance_ids_are_kept(tmp_path, suffix):
    labels, binary = read_labels(write(tmp_path / f"a{suffix}", IDS))
    assert labels.dtype == np.int32 and not binary
    np.testing.assert_array_equal(labels, IDS)


def test_ids_in_equal_channels(tmp_path):
    three = np.repeat((GREY // 8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_labels(write(tmp_path / "a.png", three), instances=True)[0], GREY // 8)
    with pytest.raises(
        DataError, match=r"b\.png has \d+ colours, most of them in few pixels.*; save the instance ids in"
    ):
        read_labels(write(tmp_path / "b.png", COLOUR))


@pytest.mark.parametrize(("background", "particle"), [(0, 255), (0, 1), (False, True), (0, 65535)])
def test_a_binary_mask_becomes_components(tmp_path, background, particle):
    mask = np.full((12, 20), background, bool if particle is True else np.min_scalar_type(particle))
    mask[1:4, 1:4] = mask[6:10, 12:19] = particle
    labels, binary = read_labels(write(tmp_path / "a.png", mask))
    assert binary and list(np.unique(labels)) == [0, 1, 2]
    assert (labels[1:4, 1:4] == 1).all() and (labels[6:10, 12:19] == 2).all() and (labels > 0).sum() == 9 + 28


def test_a_single_instance_stays_one_where_ids_are_known(tmp_path):
    mask = np.zeros((12, 20), np.uint16)
    mask[1:4, 1:4] = mask[6:10, 12:19] = 7  # one particle behind another's edge
    labels, binary = read_labels(write(tmp_path / "a.png", mask), instances=True)
    assert not binary and list(np.unique(labels)) == [0, 7]


def discs(count=5, radius=6, step=18):
    """count**2 separate discs: ids int32 (H, W), 0 background."""
    centres = [(step * (i + 0.5), step * (j + 0.5)) for i in range(count) for j in range(count)]
    y, x = np.mgrid[: step * count, : step * count]
    inside = [np.hypot(y - cy, x - cx) < radius for cy, cx in centres]
    return sum(k * mask for k, mask in enumerate(inside, start=1)).astype(np.int32)


def test_anti_aliased_masks_and_masks_of_classes_are_refused(tmp_path):
    ids = discs()
    fine = cv2.resize((ids > 0).astype(np.uint8) * 255, None, fx=0.55, fy=0.55, interpolation=cv2.INTER_AREA)
    assert len(np.unique(fine)) > 3
    classes = np.where(ids % 3 == 1, 1, (ids > 0) * 2).astype(np.uint8)
    for name, mask in (("rims.png", fine), ("classes.tif", classes)):
        with pytest.raises(DataError, match=rf"{name} has \d+ values in \d+ .*; save it as 0 and 255, or give every"):
            read_labels(write(tmp_path / name, mask))
        assert not read_labels(tmp_path / name, instances=True)[1]


def test_instances_that_others_divide_are_no_classes(tmp_path):
    """Every disc in two pieces, behind bars of one id; and particles as they are generated."""
    divided = discs()
    divided[8::18] = 26
    for name, ids in (("divided.png", divided), ("made.png", generate(0, 3).labels)):
        read, binary = read_labels(write(tmp_path / name, ids.astype(np.uint16)))
        np.testing.assert_array_equal(read, ids)
        assert not binary and len(np.unique(ids)) > 3


def test_large_ids_are_renumbered(tmp_path):
    big = np.array([[0, 70_000, 5, 2**31]], np.uint32)
    np.testing.assert_array_equal(read_labels(write(tmp_path / "a.tif", big))[0], [[0, 2, 1, 3]])


def test_labels_that_are_no_ids(tmp_path):
    whole = write(tmp_path / "a.tif", IDS.astype(np.float32))
    np.testing.assert_array_equal(read_labels(whole)[0], IDS)
    for name, array, says in (
        ("b", IDS + 0.5, "no whole numbers"),
        ("c", np.full((4, 4), np.nan), "no whole numbers"),
        ("d", -IDS.astype(np.int32) - 1, "negative"),
    ):
        with pytest.raises(DataError, match=says):
            read_labels(write(tmp_path / f"{name}.tif", array.astype(np.float32)))


def test_jpeg_masks_are_refused_by_name_and_by_content(tmp_path):
    write(tmp_path / "a.jpg", GREY)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.jpg").read_bytes())
    for name in ("a.jpg", "b.png"):
        with pytest.raises(DataError, match=r"is a JPEG, .*save the mask as PNG or TIFF"):
            read_labels(tmp_path / name)
    assert read_image(tmp_path / "a.jpg").shape == GREY.shape
    Image.fromarray(GREY).save(tmp_path / "c.tif", compression="jpeg")
    with pytest.raises(DataError, match=r"c\.tif is a JPEG"):
        read_labels(tmp_path / "c.tif")


def framed(background, particle, size=40):
    """Two particles on a background that reaches all sides."""
    mask = np.full((size, size), background, np.uint8)
    mask[5:15, 5:15] = mask[20:34, 22:30] = particle
    return mask


HALVES = np.repeat([[1, 2]], 20, axis=1).repeat(30, axis=0).astype(np.uint8)
TOUCHING = np.pad(HALVES, 3)


@pytest.mark.parametrize(
    "mask",
    [
        framed(255, 0),  # as ImageJ draws without "black background"
        framed(1, 0),
        framed(0, 1) + 1,  # as ilastik exports
        framed(1, 2)[:30, :30],
        framed(1, 2)[:, :20],
        framed(100, 200),
        framed(255, 255),
    ],
    ids=["0 on 255", "0 on 1", "2 on 1", "cut", "one", "200 on 100", "255"],
)
def test_two_values_of_which_either_may_be_particle(tmp_path, mask):
    path = write(tmp_path / "a.png", mask)
    with pytest.raises(
        DataError, match=r"a\.png holds only .* give --mask bright where \d+ is particle, or --mask dark"
    ):
        read_labels(path)
    for name, particles in (("bright", mask > (mask.min() if np.ptp(mask) else 0)), ("dark", mask < mask.max())):
        labels, binary = read_labels(path, mask=name)
        np.testing.assert_array_equal(labels > 0, particles)
        assert binary == particles.any() and labels.max() == cv2.connectedComponents(particles.astype(np.uint8))[0] - 1
    assert not read_labels(path, instances=True)[1]
    with pytest.raises(ValueError, match="mask is 'white'; choose one of auto, bright, dark"):
        read_labels(path, mask="white")


def test_a_mask_as_imagej_stores_it(tmp_path):
    """An inverted lookup table, in TIFF and as a palette in PNG: black on white, and 255 is particle."""
    mask = framed(0, 255)
    picture = Image.fromarray(mask)
    picture.putpalette([v for k in range(256) for v in (255 - k,) * 3])
    picture.save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="miniswhite")
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), 255 - mask)
        np.testing.assert_array_equal(read_labels(tmp_path / name)[0] > 0, mask > 0)


def test_large_particles_are_still_particles(tmp_path):
    """More than half of the image, in pieces, or short of one side; or at all sides, and less than half."""
    mask = np.full((40, 40), 255, np.uint8)
    mask[19:21] = 0
    assert read_labels(write(tmp_path / "a.png", mask))[0].max() == 2
    mask = np.pad(np.full((36, 40), 255, np.uint8), ((4, 0), (0, 0)))
    assert read_labels(write(tmp_path / "b.png", mask))[0].max() == 1
    mask = np.zeros((40, 40), np.uint8)
    mask[18:22] = mask[:, 18:22] = 255
    assert read_labels(write(tmp_path / "c.png", mask))[0].max() == 1


def test_two_grains_that_fill_the_image(tmp_path):
    labels, binary = read_labels(write(tmp_path / "a.png", HALVES))
    np.testing.assert_array_equal(labels, HALVES)
    assert not binary
    assert not read_labels(write(tmp_path / "b.png", TOUCHING))[1]


def many(count, step=7):
    """So many squares of 4 pixels: int (H, W)."""
    side = int(np.ceil(np.sqrt(count)))
    ids = np.zeros((side * step, side * step), int)
    for k in range(count):
        y, x = step * (k // side), step * (k % side)
        ids[y + 1 : y + 5, x + 1 : x + 5] = k + 1
    return ids


@pytest.mark.parametrize("overflow", [lambda ids: np.minimum(ids, 255), lambda ids: ids % 256], ids=["cut", "wrapped"])
@pytest.mark.parametrize("count", [258, 300, 700])
def test_more_particles_than_8_bits_can_number(tmp_path, overflow, count):
    ids = overflow(many(count)).astype(np.uint8)
    with pytest.raises(DataError, match=r"a\.png has more particles than 8 bits can number; save .* with 16 bits"):
        read_labels(write(tmp_path / "a.png", ids))
    for n, kind in ((255, np.uint8), (count, np.uint16)):
        np.testing.assert_array_equal(read_labels(write(tmp_path / "b.png", many(n).astype(kind)))[0], many(n))


@pytest.mark.parametrize("count", [1, 3, 25])
def test_outlines_of_255_are_asked_for(tmp_path, count):
    """As Pascal VOC draws them, five pixels wide, and with a contour inside."""
    ids = cv2.resize(discs(5).astype(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    ids[ids > count] = 0
    kernel = np.ones((5, 5), np.uint8)
    rims = cv2.dilate(ids, kernel) != cv2.erode(ids, kernel)
    path = write(tmp_path / "a.png", np.where(rims, 255, ids).astype(np.uint8))
    with pytest.raises(DataError, match=r"a\.png outlines its particles with 255; give --ignore 255 to make"):
        read_labels(path)
    labels, binary = read_labels(path, ignore=255)
    np.testing.assert_array_equal(labels, np.where(rims, 0, ids))
    assert binary == (count == 1)


def test_a_particle_of_number_255_is_no_outline(tmp_path):
    """Neither a large one that touches another nor a thin one that touches none."""
    large, thin = np.zeros((40, 60), np.uint8), discs(5).astype(np.uint8)
    large[5:30, 5:20], large[5:30, 20:50] = 1, 255
    thin[17:19, 3:80] = 255
    for ids in (large, thin):
        np.testing.assert_array_equal(read_labels(write(tmp_path / "a.png", ids))[0], ids)


def test_a_background_with_a_number_of_its_own_is_asked_for(tmp_path):
    """As a watershed leaves it: 1, and -1 between."""
    ids = discs() + 1
    path = write(tmp_path / "a.tif", ids.astype(np.int16))
    with pytest.raises(DataError, match=r"a\.tif has no background 0; give --ignore 1, which covers most of the image"):
        read_labels(path)
    np.testing.assert_array_equal(read_labels(path, ignore=1)[0], ids * (ids > 1))
    ids[0] = -1
    with pytest.raises(DataError, match=r"holds negative values; use 0 .*, or give --ignore -1"):
        read_labels(write(path, ids.astype(np.int16)))


def test_a_binary_mask_with_pixels_to_ignore_is_told_of_the_option(tmp_path):
    mask = (discs() > 0).astype(np.uint8)
    mask[:20, :20] = 255
    path = write(tmp_path / "a.png", mask)
    with pytest.raises(DataError, match="or give --ignore 255 where that marks what is not to count"):
        read_labels(path)
    assert read_labels(path, ignore=255)[1]


PALETTE = np.random.default_rng(3).integers(40, 256, (26, 3)).astype(np.uint8)


@pytest.mark.parametrize("scale", [1, 257], ids=["8 bits", "16 bits"])
def test_each_colour_is_an_instance(tmp_path, scale):
    palette = PALETTE.copy()
    palette[0] = 0
    ids = discs()
    tifffile.imwrite(tmp_path / "a.tif", palette[ids] * np.min_scalar_type(scale).type(scale), photometric="rgb")
    labels, binary = read_labels(tmp_path / "a.tif")
    pairs = np.unique(np.stack([labels, ids]).reshape(2, -1), axis=1).T
    assert not binary and len(pairs) == 26 and [0, 0] in pairs.tolist()  # one to one, black the background


def test_two_colours_are_a_binary_mask(tmp_path):
    labels, binary = read_labels(write(tmp_path / "a.png", np.dstack([framed(0, 255), framed(0, 0), framed(0, 0)])))
    assert binary and labels.max() == 2


def test_colours_that_are_no_instances_are_refused(tmp_path):
    palette = PALETTE.copy()
    palette[0] = 0
    picture = palette[discs()]
    fine = cv2.resize(picture, None, fx=0.55, fy=0.55, interpolation=cv2.INTER_AREA)
    classes = palette[discs() % 3]
    white = np.where(discs()[..., None] > 0, picture, 255).astype(np.uint8)
    for name, array, says in (
        ("fine", fine, r"fine\.png has \d+ colours, most of them in few pixels"),
        ("classes", classes, r"classes\.png has 2 values in \d+ separate regions"),
        ("white", white, r"white\.png has a coloured background; make it black, or give --ignore 255"),
        (
            "two",
            np.where(white < 255, (9, 0, 0), 255).astype(np.uint8),
            "has a coloured background; make it black",
        ),
    ):
        with pytest.raises(DataError, match=says):
            read_labels(write(tmp_path / f"{name}.png", array))
    np.testing.assert_array_equal(read_labels(tmp_path / "white.png", ignore=255)[0] > 0, discs() > 0)
    with pytest.raises(DataError, match="save the instance ids in one channel"):
        read_labels(write(tmp_path / "float.tif", picture.astype(np.float32), photometric="rgb"))
