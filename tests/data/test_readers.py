"""Files to arrays: every format against the array that was written."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data.particles import generate
from lorasam_core.data.readers import Record, read_image, read_labels, read_record
from lorasam_core.data.sample import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), np.uint8)
DEEP = RNG.integers(500, 4000, (20, 30)).astype(np.uint16)  # a 12-bit camera
IDS = RNG.integers(0, 900, (20, 30)).astype(np.uint16)


def write(path, array, **options):
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array, **options)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def stretched(array):
    """The documented rule, written anew."""
    flat = np.sort(array.ravel().astype(float))
    at = lambda q: np.interp(q * (len(flat) - 1), np.arange(len(flat)), flat)  # noqa: E731
    low, high = at(0.001), at(0.999)
    return np.round(np.clip((array - low) / (high - low), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["grey", "colour"])
def test_8_bit_images_are_taken_as_they_are(tmp_path, suffix, array):
    np.testing.assert_array_equal(read_image(write(tmp_path / f"a{suffix}", array)), array)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_16_bit_images_are_stretched(tmp_path, suffix):
    image = read_image(write(tmp_path / f"a{suffix}", DEEP))
    assert image.dtype == np.uint8 and image.min() == 0 and image.max() == 255
    np.testing.assert_array_equal(image, stretched(DEEP))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint32])
def test_other_types_are_stretched(tmp_path, dtype):
    path = write(tmp_path / "a.tif", DEEP.astype(dtype))
    np.testing.assert_array_equal(read_image(path), stretched(DEEP))


def test_a_hot_pixel_does_not_darken_the_image(tmp_path):
    image = np.full((100, 100), 1000, np.uint16)
    image[:, 50:] = 2000
    image[3, 3] = 65535
    read = read_image(write(tmp_path / "a.tif", image))
    assert read[0, 0] == 0 and read[0, 99] == 255


def test_a_constant_16_bit_image_is_black(tmp_path):
    assert not read_image(write(tmp_path / "a.png", np.full((5, 5), 700, np.uint16))).any()


def test_16_bit_colour_png(tmp_path):
    deep = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), stretched(deep))


def test_equal_channels_become_grey_and_alpha_goes(tmp_path):
    rgb = np.repeat(GREY[..., None], 3, axis=2)
    rgba = np.dstack([rgb, RNG.integers(0, 256, GREY.shape, np.uint8)])
    for k, array in enumerate((rgb, rgba, np.dstack([GREY, GREY]))):
        np.testing.assert_array_equal(read_image(write(tmp_path / f"{k}.png", array)), GREY)
    np.testing.assert_array_equal(read_image(write(tmp_path / "c.png", np.dstack([COLOUR, GREY]))), COLOUR)


def test_one_bit_images(tmp_path):
    Image.fromarray(GREY > 99).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), (GREY > 99) * 255)


def test_palettes_are_applied_to_images_and_kept_in_labels(tmp_path):
    picture = Image.fromarray(GREY % 4).convert("P")
    picture.putpalette([0, 0, 0, 90, 90, 90, 180, 180, 180, 255, 0, 0])
    picture.save(tmp_path / "a.png")
    colours = np.array([[0, 0, 0], [90, 90, 90], [180, 180, 180], [255, 0, 0]], np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours[GREY % 4])
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png", instances=True)[0], GREY % 4)
    ramp = np.tile(np.arange(255, -1, -1, dtype=np.uint16) * 257, (3, 1))
    write(tmp_path / "b.tif", GREY, photometric="palette", colormap=ramp)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), 255 - GREY)


def test_tiff_layouts(tmp_path):
    write(tmp_path / "planes.tif", np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "planes.tif"), COLOUR)
    write(tmp_path / "white.tif", GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif"), 255 - GREY)


@pytest.mark.parametrize("array", [GREY, COLOUR, IDS, COLOUR * np.uint16(257)], ids=["grey", "colour", "ids", "deep"])
def test_compressed_tiff(tmp_path, array):
    """LZW is what many microscopes write."""
    path = str(tmp_path / "a.tif")
    cv2.imwrite(path, array[..., ::-1] if array.ndim == 3 else array, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    if array is IDS:
        np.testing.assert_array_equal(read_labels(path)[0], IDS)
    else:
        np.testing.assert_array_equal(read_image(path), stretched(array) if array.dtype == np.uint16 else array)


def test_several_pages_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match=r"a\.tif holds 2 pages; save one image a file"):
        read_image(tmp_path / "a.tif")
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "b.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"b\.png holds 2 images"):
        read_image(tmp_path / "b.png")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused(tmp_path, bad):
    array = DEEP.astype(np.float32)
    array[3, 4] = bad
    with pytest.raises(DataError, match=r"a\.tif holds NaN or infinite values; replace"):
        read_image(write(tmp_path / "a.tif", array))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jpg"])
@pytest.mark.parametrize("kept", [0, 0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = write(tmp_path / f"a{suffix}", RNG.integers(0, 256, (64, 64), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataError, match=rf"a{suffix} cannot be read .*export it again"):
        read_image(path)


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d[:9000] + b"\xff" * 2000 + d[11000:]])
def test_damaged_compressed_tiff_is_refused(tmp_path, damage):
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), RNG.integers(0, 256, (200, 200), np.uint8), [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="cannot be read"):
        read_image(path)


def test_other_things_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "missing.png", "missing.tif"):
        with pytest.raises(DataError, match=name.replace(".", r"\.") + " cannot be read"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="one grey or RGB image"):
        read_image(write(tmp_path / "five.tif", RNG.integers(0, 256, (5, 20, 30), np.uint8), planarconfig="separate"))


def test_a_packed_image_too_large_for_pillow_can_be_saved_as_plain_tiff(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREY.size // 3)
    cv2.imwrite(str(tmp_path / "lzw.tif"), GREY, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    for path in (write(tmp_path / "a.png", GREY), tmp_path / "lzw.tif"):
        with pytest.raises(DataError, match=r"is too large to be unpacked; cut it into tiles, or .* uncompressed TIFF"):
            read_image(path)
    np.testing.assert_array_equal(read_image(write(tmp_path / "plain.tif", GREY)), GREY)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_instance_ids_are_kept(tmp_path, suffix):
    labels, binary = read_labels(write(tmp_path / f"a{suffix}", IDS))
    assert labels.dtype == np.int32 and not binary
    np.testing.assert_array_equal(labels, IDS)


def test_ids_in_equal_channels(tmp_path):
    three = np.repeat((GREY // 8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_labels(write(tmp_path / "a.png", three), instances=True)[0], GREY // 8)
    with pytest.raises(DataError, match="is coloured; save the instance ids in one channel"):
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


def test_a_record(tmp_path):
    image, labels = write(tmp_path / "a.png", GREY), write(tmp_path / "ids.png", IDS)
    sample, binary = read_record(Record("a", image, labels, "steel", 2.5))
    assert (sample.id, sample.group, sample.pixel_size, binary) == ("a", "steel", 2.5, False)
    with pytest.raises(DataError, match=r"small\.png is 10x20 and its image 30x20 pixels; give both the same size"):
        read_record(Record("a", image, write(tmp_path / "small.png", IDS[:, :10]), "steel"))
    with pytest.raises(DataError, match=r"none\.png has no particle; label one, or remove"):
        read_record(Record("a", image, write(tmp_path / "none.png", IDS * 0), "steel"))
