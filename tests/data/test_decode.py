"""What a file's own words say about its pixels: pages, orientation, inversion, size; and formats of microscopes."""

import sys
import tracemalloc
from types import ModuleType

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data import decode, readers
from lorasam_core.data.readers import read_image, read_labels
from lorasam_core.data.sample import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)


def stack(path):
    tifffile.imwrite(path, np.stack([GREY, 255 - GREY]), photometric="minisblack")


def packed(path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(path, save_all=True, append_images=frames[1:], compression="tiff_lzw")


def animated(path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(("write", "name"), [(stack, "a.tif"), (packed, "b.tif"), (animated, "c.png")])
def test_one_of_several_pages_is_chosen_or_asked_for(tmp_path, write, name):
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=rf"{name} holds 2 pages; save one image a file, or give --page 1\.$"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, page=1), GREY)
    np.testing.assert_array_equal(read_image(path, page=2), 255 - GREY)
    np.testing.assert_array_equal(read_labels(path, True, page=2)[0], 255 - GREY)
    for page in (0, 3):
        with pytest.raises(DataError, match=f"holds 2 pages and no page {page}; give --page 1 to --page 2"):
            read_image(path, page=page)


def test_pages_of_deep_colour_and_a_single_page(tmp_path):
    cv2.imwritemulti(str(tmp_path / "a.tif"), [DEEP[..., ::-1], 65535 - DEEP[..., ::-1]])
    np.testing.assert_array_equal(decode.decode(tmp_path / "a.tif", page=2), 65535 - DEEP)
    tifffile.imwrite(tmp_path / "b.tif", GREY)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif", page=2), GREY)  # one of the other kind among many


@pytest.mark.parametrize("preview_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"subfiletype": 1}])
def test_previews_are_no_pages(tmp_path, preview_first, options):
    small = GREY[::2, ::2] if not options else GREY[:, ::-1]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for array, kind in sorted([(GREY, {}), (small, options)], key=lambda p: (p[0] is GREY) == preview_first):
            file.write(array, photometric="minisblack", **kind)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 2
    for page in (None, 2):
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page=page), GREY)


def test_the_preview_in_a_photograph(tmp_path):
    whole = Image.fromarray(GREY.repeat(4, 0).repeat(4, 1))
    whole.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[whole.resize((30, 20))], quality=95)
    assert Image.open(tmp_path / "a.jpg").n_frames == 2 and read_image(tmp_path / "a.jpg").shape == (80, 120)
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is a JPEG"):
        read_labels(tmp_path / "a.png")


def test_a_stack_in_one_directory(tmp_path):
    """ImageJ writes one directory for all images where a file is large; the first alone would be a part."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, 20, 20), np.uint8), imagej=True)
    with tifffile.TiffFile(path) as file:
        end = file.pages[0].offset + 2 + 12 * len(file.pages[0].tags)
    data = bytearray(path.read_bytes())
    data[end : end + 4] = bytes(4)  # no further directory
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tif holds a stack of 3 images; save one image a file"):
        read_image(path)


SEEN = dict(zip(range(2, 9), ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270",
                              "TRANSVERSE", "ROTATE_90")))  # fmt: skip


def as_seen(array, orientation):
    """(H, W) turned by Pillow, as EXIF 2.32 describes the eight."""
    picture = Image.fromarray(array)
    return np.asarray(picture if orientation == 1 else picture.transpose(Image.Transpose[SEEN[orientation]]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_to_images_and_labels(tmp_path, orientation):
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    picture, tags = Image.fromarray(GREY), [(decode.ORIENTATION, 3, 1, orientation, True)]
    picture.save(tmp_path / "a.png", exif=exif)
    picture.save(tmp_path / "packed.tif", compression="tiff_lzw", tiffinfo={decode.ORIENTATION: orientation})
    tifffile.imwrite(tmp_path / "plain.tif", GREY, extratags=tags)
    expected = as_seen(GREY, orientation)
    for name in ("a.png", "packed.tif", "plain.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), expected, name)
        np.testing.assert_array_equal(read_labels(tmp_path / name, instances=True)[0], expected, name)
    picture.save(tmp_path / "a.jpg", exif=exif)
    picture.save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), as_seen(read_image(tmp_path / "b.jpg"), orientation))
    tifffile.imwrite(tmp_path / "deep.tif", DEEP, photometric="rgb", extratags=tags)
    np.testing.assert_array_equal(decode.decode(tmp_path / "deep.tif")[..., 1], as_seen(DEEP[..., 1], orientation))


@pytest.mark.parametrize("packing", [None, "zlib", "lzw"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, bool])
def test_white_is_zero(tmp_path, packing, kind):
    """Images as they are seen; masks of 8 bits as ImageJ stores them, particles 255 and seen black on white."""
    stored = GREY > 99 if kind is bool else GREY.astype(kind) * kind(1 + 200 * (kind is np.uint16))
    path = tmp_path / "a.tif"
    if packing != "lzw":
        tifffile.imwrite(path, stored, photometric="miniswhite", compression=packing)
    elif kind is bool:
        Image.fromarray(~stored).save(path, compression="tiff_lzw", tiffinfo={262: 0})
    else:  # Pillow takes 8 bits as they are seen, and 16 as they are stored
        seen = ~stored if kind is np.uint8 else stored
        Image.fromarray(seen).save(path, compression="tiff_lzw", tiffinfo={262: 0})
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    np.testing.assert_array_equal(decode.decode(path), ~stored)
    np.testing.assert_array_equal(decode.decode(path, labels=True), ~stored if kind is bool else stored)


def test_large_micrographs_are_read_and_bombs_are_not(tmp_path, monkeypatch):
    wide = tmp_path / "wide.png"
    Image.new("1", (20_000, 9_000)).save(wide)  # more than Pillow would read, in a few kB
    assert decode.decode(wide).shape == (9_000, 20_000)
    monkeypatch.setattr(decode, "MOST_PIXELS", GREY.size - 1)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "lzw.tif"), GREY, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    tifffile.imwrite(tmp_path / "zlib.tif", GREY, compression="zlib")
    for name in ("a.png", "lzw.tif", "zlib.tif"):
        with pytest.raises(DataError, match=rf"{name} is too large to be unpacked; cut it .* uncompressed TIFF"):
            read_image(tmp_path / name)
    tifffile.imwrite(tmp_path / "plain.tif", GREY)
    np.testing.assert_array_equal(read_image(tmp_path / "plain.tif"), GREY)


def test_an_image_takes_less_than_three_times_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "SAMPLED", 2**16)
    monkeypatch.setattr(readers, "BLOCK", 2**16)
    array = RNG.normal(size=(2000, 1500)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", array)
    tracemalloc.start()
    read_image(tmp_path / "a.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.nbytes < peak < 3 * array.nbytes


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.dm3", r"is a DigitalMicrograph file; pip install rosettasciio \(GPL-3\.0\), or export it as TIFF\.$"),
        ("a.emd", r'is an EMD file; pip install "rosettasciio\[hdf5\]" \(GPL-3\.0\), or export it'),
        ("a.MRC", "is an MRC file; pip install rosettasciio"),
    ],
)
def test_formats_of_microscopes_name_what_reads_them(tmp_path, monkeypatch, name, says):
    monkeypatch.setitem(sys.modules, "rsciio", None)  # even where it is installed
    with pytest.raises(DataError, match=says):
        read_image(tmp_path / name)


def test_formats_of_microscopes_are_read_through_rosettasciio(tmp_path, monkeypatch):
    axes = [{"navigate": n} for n in (True, False, False)]
    spectra = {"data": np.zeros((20, 30, 1024)), "axes": [{"navigate": n} for n in (True, True, False)]}
    signals = [spectra, {"data": GREY, "axes": axes[1:]}]
    module = ModuleType("rsciio.tia")
    module.file_reader = lambda path: signals if path == str(tmp_path / "a.ser") else None
    monkeypatch.setitem(sys.modules, "rsciio", ModuleType("rsciio"))
    monkeypatch.setitem(sys.modules, "rsciio.tia", module)
    np.testing.assert_array_equal(read_image(tmp_path / "a.ser"), GREY)
    signals[1] = {"data": np.stack([GREY, 255 - GREY]), "axes": axes}
    np.testing.assert_array_equal(read_image(tmp_path / "a.ser", page=2), 255 - GREY)
    with pytest.raises(DataError, match=r"a\.ser holds 2 pages; save"):
        read_image(tmp_path / "a.ser")
    del signals[1]
    with pytest.raises(DataError, match=r"a\.ser holds no image; export"):
        read_image(tmp_path / "a.ser")
