"""Files to arrays: every format against the array that was written."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data import readers
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


def micrograph(low, high, shape=(96, 128)):
    """Grey values that fill the range evenly, without an order."""
    return np.random.default_rng(1).permutation(np.linspace(low, high, shape[0] * shape[1])).reshape(shape).round()


def white_bar(image):
    """A tenth of the rows white, with black letters and grey rims."""
    image[-10:] = 65535
    image[-7:-3, 10:50:4], image[-7:-3, 11:50:4], image[-7:-3, 9:50:4] = 0, 22_000, 51_000
    return np.s_[:-10]


def black_bar(image):
    image[-10:] = 0
    image[-7:-3, 10:50:3], image[-7:-3, 11:50:3] = 65535, 31_000
    return np.s_[:-10]


def burned_in(image):
    image[80:83, 90:120] = 65535
    return np.s_[:80]


def padded(image):
    image[:, :15] = 0
    return np.s_[:, 15:]


@pytest.mark.parametrize("low", [0, 20_000])
@pytest.mark.parametrize("spoil", [white_bar, black_bar, burned_in, padded])
def test_a_data_bar_does_not_darken_the_image(tmp_path, spoil, low):
    """12 bits in 16, or a part of these: what the image was before still fills the range."""
    clean = micrograph(low, low + 4095).astype(np.uint16)
    image = clean.copy()
    part = spoil(image)
    read = read_image(write(tmp_path / "a.tif", image))
    if low or spoil not in (black_bar, padded):  # else 0 is in the image's own range
        assert np.abs(read[part].astype(int) - stretched(clean)[part]).max() <= 1
    assert read[part].std() > 65 and (read[image == 65535] == 255).all()


def test_saturated_particles_stay_as_they_were(tmp_path):
    """12 bits: on dark, noisy ground discs of 4,095 with a rim of a pixel or two."""
    y, x = np.mgrid[:200, :200] % 40 - 19.5
    discs = cv2.GaussianBlur((np.hypot(y, x) < 6) * 8000.0, (0, 0), 1)
    image = np.clip(discs + np.random.default_rng(0).normal(100, 30, discs.shape), 1, 4095).astype(np.uint16)
    assert 0.02 < (image == 4095).mean() < 0.2
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.tif", image)), stretched(image))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("turned", [False, True])
def test_an_image_of_two_values_is_no_data_bar(tmp_path, share, turned):
    image = np.full((100, 100), 1000, np.uint16)
    image[: int(100 * share)] = 2000
    read = read_image(write(tmp_path / "a.tif", image.T if turned else image))
    np.testing.assert_array_equal(read == 255, (image == 2000).T if turned else image == 2000)
    assert set(np.unique(read)) == {0, 255}


def test_large_images_are_stretched_by_a_sample_in_blocks(tmp_path, monkeypatch):
    image = cv2.GaussianBlur(np.random.default_rng(2).normal(size=(300, 400)).astype(np.float32), (0, 0), 4)
    path = write(tmp_path / "a.tif", image)
    whole = read_image(path).astype(int)
    monkeypatch.setattr(readers, "BLOCK", 1000)
    np.testing.assert_array_equal(read_image(path), whole)
    monkeypatch.setattr(readers, "SAMPLED", image.size // 10)
    assert 0 < np.abs(read_image(path) - whole).max() < 20


def test_images_too_thin_for_the_model_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.png is 300x12 pixels; give at least 16 pixels a side"):
        read_image(write(tmp_path / "a.png", np.zeros((12, 300), np.uint8)))
    assert read_image(write(tmp_path / "b.png", np.zeros((16, 300), np.uint8))).shape == (16, 300)


def test_a_constant_16_bit_image_is_black(tmp_path):
    assert not read_image(write(tmp_path / "a.png", np.full((16, 16), 700, np.uint16))).any()


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


@pytest.mark.parametrize("array", [GREY, COLOUR, IDS, COLOUR * np.uint16(257)], ids=["grey", "colour", "ids", "deep"])
def test_compressed_tiff(tmp_path, array):
    """LZW is what many microscopes write."""
    path = str(tmp_path / "a.tif")
    cv2.imwrite(path, array[..., ::-1] if array.ndim == 3 else array, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    if array is IDS:
        np.testing.assert_array_equal(read_labels(path)[0], IDS)
    else:
        np.testing.assert_array_equal(read_image(path), stretched(array) if array.dtype == np.uint16 else array)


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


def test_a_record(tmp_path):
    image, labels = write(tmp_path / "a.png", GREY), write(tmp_path / "ids.png", IDS)
    sample, binary = read_record(Record("a", image, labels, "steel", 2.5))
    assert (sample.id, sample.group, sample.pixel_size, binary) == ("a", "steel", 2.5, False)
    with pytest.raises(DataError, match=r"small\.png is 10x20 and its image 30x20 pixels; give both the same size"):
        read_record(Record("a", image, write(tmp_path / "small.png", IDS[:, :10]), "steel"))
    empty, binary = read_record(Record("a", image, write(tmp_path / "none.png", IDS * 0), "steel"))
    assert not empty.labels.any() and not binary  # a valid negative
