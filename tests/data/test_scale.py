"""Scales: files as each program and vendor writes them, against the size that was written."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data.sample import DataError
from lorasam_core.data.scale import Scale, read_scale, scale_of

PIXELS = np.zeros((48, 64), np.uint8)


def imagej(path, per_pixel, unit, **kwargs):
    x, y = per_pixel if isinstance(per_pixel, tuple) else (per_pixel, per_pixel)
    tifffile.imwrite(path, PIXELS, imagej=True, resolution=(1 / x, 1 / y), metadata={"unit": unit}, **kwargs)
    return path


def tagged(path, code, text, pixels=PIXELS, **kwargs):
    data = text.encode("cp1252")
    tifffile.imwrite(path, pixels, extratags=[(code, "s", len(data) + 1, data, True)], metadata=None, **kwargs)
    return path


def beside(path, text, encoding="utf-8", suffix=".txt"):
    Image.fromarray(PIXELS).save(path)
    path.with_suffix(suffix).write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "per_pixel, unit, nm",
    [(2.5, "nm", 2.5), (0.0125, "um", 12.5), (0.0125, "micron", 12.5), (0.0125, r"\u00B5m", 12.5), (2e-6, "mm", 2.0)],
)
def test_imagej(tmp_path, per_pixel, unit, nm):
    scale = read_scale(imagej(tmp_path / "a.tif", per_pixel, unit))
    assert scale.nm == pytest.approx(nm, rel=1e-4) and scale.source == "ImageJ"


@pytest.mark.parametrize("unit", ["pixel", "inch", "cm", ""])
def test_imagej_without_a_length_or_with_the_printing_resolution_it_took_over(tmp_path, unit):
    assert read_scale(imagej(tmp_path / "a.tif", 1 / 300, unit)) is None


@pytest.mark.parametrize(
    "size, unit, nm", [(12.5, "nm", 12.5), (0.0125, "µm", 12.5), (25.0, "Å", 2.5), (0.5, None, 500)]
)
def test_ome(tmp_path, size, unit, nm):
    metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, ome=True, metadata=metadata)
    assert read_scale(tmp_path / "a.ome.tif") == Scale(pytest.approx(nm), "OME")


def test_ome_from_a_printing_resolution_is_too_coarse(tmp_path):
    """300 dpi, as a converter writes it."""
    metadata = {"axes": "YX", "PhysicalSizeX": 84.667, "PhysicalSizeY": 84.667}
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, ome=True, metadata=metadata)
    assert read_scale(tmp_path / "a.ome.tif") is None


FEI = "[User]\r\nUser=x\r\n\r\n[Beam]\r\nBeam=EBeam\r\nScan=EScan\r\n\r\n[{}]\r\nPixelWidth={}\r\nPixelHeight={}\r\n"


@pytest.mark.parametrize("section", ["Scan", "EScan"])
@pytest.mark.parametrize("code", [34680, 34682])
def test_fei(tmp_path, code, section):
    path = tagged(tmp_path / "a.tif", code, FEI.format(section, "2.0345e-009", "2.0345e-009"))
    assert read_scale(path) == Scale(pytest.approx(2.0345), "FEI")


@pytest.mark.parametrize(
    "lines, nm",
    [
        ("AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 35.94 nm\r\n", 35.94),
        ("AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 1.117 µm\r\n", 1117),
        ("AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 558.2 pm\r\n", 0.5582),
        ("AP_PIXEL_SIZE\r\nPixel Size = 20 nm\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 10 nm\r\n", 10),
        ("AP_PIXEL_SIZE\r\nPixel Size = 20 nm\r\n", 10),  # of the display's 1,024 pixels, and 2,048 are stored
    ],
)
def test_zeiss(tmp_path, lines, nm):
    text = "\r\n0\r\n0\r\nAP_WD\r\nWD =  4.1 mm\r\n" + lines + "DP_ZOOM\r\nZoom = Off\r\n"
    path = tagged(tmp_path / "a.tif", 34118, text, np.zeros((4, 2048), np.uint8))
    assert read_scale(path) == Scale(pytest.approx(nm), "Zeiss")


JEOL = "$CM_FORMAT JEOL/SEM\r\n$CM_MAG 5000\r\n$CM_FULL_SIZE 64 40\r\n$$SM_MICRON_BAR {}\r\n$$SM_MICRON_MARKER {}\r\n"


@pytest.mark.parametrize(
    "bar, marker, nm", [(50, "5um", 100), (125, "100nm", 0.8), (40, "0.5µm", 12.5), (100, "1mm", 1e4)]
)
@pytest.mark.parametrize("name", ["a.tif", "a.bmp", "a.jpg"])
def test_jeol(tmp_path, name, bar, marker, nm):
    path = beside(tmp_path / name, JEOL.format(bar, marker))
    assert read_scale(path) == Scale(pytest.approx(nm), "JEOL (a.txt)")


HITACHI = "[SemImageFile]\r\nInstructName=SU8230\r\nImageName=a.tif\r\nDataSize=64x48\r\nPixelSize={}\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("value", ["9.921875", "9,921875"])
def test_hitachi(tmp_path, encoding, value):
    text = HITACHI.format(value) + "SampleName=Erz für Ofen 2\r\n"
    assert read_scale(beside(tmp_path / "a.tif", text, encoding)) == Scale(9.921875, "Hitachi (a.txt)")


TESCAN = "[MAIN]\r\nDevice=VEGA3\r\nPixelSizeX={x}\r\nPixelSizeY={y}\r\n[SEM]\r\nHV=20000\r\n"


@pytest.mark.parametrize("name", ["a-tif.hdr", "a.hdr"])
def test_tescan_beside_the_image_or_in_its_tag(tmp_path, name):
    path, text = tmp_path / "a.tif", TESCAN.format(x="1.25e-8", y="1.25e-8")
    Image.fromarray(PIXELS).save(path)
    assert read_scale(path) is None
    (tmp_path / name).write_bytes(text.encode())
    assert read_scale(path) == Scale(pytest.approx(12.5), f"TESCAN ({name})")
    for written, found in (("1,25e-8", Scale(pytest.approx(12.5), f"TESCAN ({name})")), ("n/a", None), ("", None)):
        (tmp_path / name).write_text(TESCAN.format(x=written, y=written))
        assert read_scale(path) == found
    data = b"\xff\xd8 a picture \x00\xff\xd9\r\n" + TESCAN.format(x="5e-9", y="5e-9").encode()
    tifffile.imwrite(path, PIXELS, extratags=[(50431, "B", len(data), data, True)], metadata=None)
    assert read_scale(path) == Scale(pytest.approx(5), "TESCAN")


def test_text_in_capitals(tmp_path):
    assert read_scale(beside(tmp_path / "A.TIF", HITACHI.format(5), suffix=".TXT")).nm == 5


def test_the_tag_is_asked_before_the_text(tmp_path):
    for name, unit, width, nm in (("a", "nm", 64, 2.5), ("b", "pixel", 64, 5), ("resized", "nm", 128, 2.5)):
        path = imagej(tmp_path / f"{name}.tif", 2.5, unit)
        path.with_suffix(".txt").write_text(HITACHI.format(5).replace("64", str(width)))
        assert read_scale(path).nm == pytest.approx(nm)


@pytest.mark.parametrize("text", ["", "PixelSize=5\n", "[SemImageFile]\n", JEOL.format(0, "5um"), JEOL.format(50, "5")])
def test_other_text(tmp_path, text):
    assert read_scale(beside(tmp_path / "a.tif", text)) is None


@pytest.mark.parametrize(
    "text", [HITACHI.format(5).replace("64x", "128x"), JEOL.format(50, "5um").replace("64", "128")]
)
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_text_of_an_image_that_was_resized_or_cropped(tmp_path, name, text):
    path = beside(tmp_path / name, text)
    with pytest.raises(DataError, match=r"a\.txt is of an image 128 pixels wide, .* has 64; give --pixel-size"):
        read_scale(path)
    assert scale_of(path, given=3.0).nm == 3


@pytest.mark.parametrize("dpi", [72, 96, 300])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_printing_resolution(tmp_path, name, dpi):
    Image.fromarray(PIXELS).save(tmp_path / name, dpi=(dpi, dpi))
    assert read_scale(tmp_path / name) is None


@pytest.mark.parametrize("width", ["0", "-2e-9", "nan", "inf", "", "unknown"])
def test_values_that_are_no_size(tmp_path, width):
    assert read_scale(tagged(tmp_path / "a.tif", 34682, FEI.format("Scan", width, width))) is None


def test_pixels_that_are_not_square(tmp_path):
    assert read_scale(imagej(tmp_path / "a.tif", (2.0, 2.018), "nm")).nm == pytest.approx(2.009, rel=1e-3)
    path = imagej(tmp_path / "b.tif", (2.0, 2.1), "nm")
    with pytest.raises(DataError, match=r"b\.tif has pixels of 2 x 2\.1 nm .*resample .*--pixel-size"):
        read_scale(path)


def test_a_broken_file_has_no_scale(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0 and nothing more")
    (tmp_path / "b.dm3").write_bytes(b"\0\0\0\3")
    assert read_scale(tmp_path / "a.tif") is None and read_scale(tmp_path / "b.dm3") is None


def test_rosettasciio(tmp_path, monkeypatch):
    """The axes of a reader's answer; the library itself is optional."""
    energy = {"name": "energy", "scale": 5.0, "units": "nm", "navigate": False}
    axes = [
        {"name": "frame", "scale": 7.0, "units": "nm", "navigate": True},
        {"name": "y", "scale": 0.25, "units": "µm", "navigate": False},
        {"name": "x", "scale": 0.25, "units": "µm", "navigate": False},
    ]
    reader = SimpleNamespace(file_reader=lambda path: [{"axes": [energy]}, {"axes": axes}])
    monkeypatch.setitem(sys.modules, "rsciio", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", reader)
    assert read_scale(tmp_path / "a.dm4") == Scale(250.0, "RosettaSciIO (DM4)")
    axes[2]["units"] = "1/nm"  # a diffraction pattern
    assert read_scale(tmp_path / "a.dm4") is None


def test_mrc_through_rosettasciio(tmp_path):
    pytest.importorskip("rsciio.mrc")
    header = np.zeros(256, "<i4")
    header[[0, 1, 2, 3, 7, 8, 9]] = 8, 6, 1, 1, 8, 6, 1
    header.view("<f4")[10:13] = 8 * 2.5, 6 * 2.5, 1  # the cell in ångström
    header[16:19] = 1, 2, 3
    (tmp_path / "a.mrc").write_bytes(header.tobytes() + np.zeros((6, 8), "<i2").tobytes())
    assert read_scale(tmp_path / "a.mrc").nm == pytest.approx(0.25)


def test_what_is_given_holds(tmp_path):
    path = imagej(tmp_path / "a.tif", 2.5, "nm")
    table = {"a": 4.0}
    assert scale_of(path) == Scale(pytest.approx(2.5), "ImageJ")
    assert scale_of(path, table=table) == Scale(4.0, "pixel_size.csv")
    assert scale_of(path, table={"b": 4.0}).source == "ImageJ"
    assert scale_of(path, 5.0, table) == Scale(5.0, "--pixel-size")
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="--pixel-size"):
            scale_of(path, wrong)


def test_agreement():
    assert Scale(100, "").agrees(Scale(101.9, "")) and not Scale(100, "").agrees(Scale(102.1, ""))
