"""Nanometres a pixel of a micrograph, as its file or the text beside it states it, and where that was found.

A resolution for printing (72, 96, 300 dpi) says nothing about the specimen and is never taken for a scale.
"""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard
from xml.etree import ElementTree

import tifffile
from PIL import Image

from lorasam_core.data.decode import MICROSCOPE, TIFF
from lorasam_core.data.sample import DataError

# no inch, no cm: ImageJ and Bio-Formats turn a file's printing resolution into these
NM = {"pm": 1e-3, "å": 0.1, "angstrom": 0.1, "nm": 1.0, "nanometer": 1.0, "um": 1e3, "micron": 1e3, "microns": 1e3,
      "micrometer": 1e3, "mm": 1e6, "m": 1e9}  # fmt: skip
COARSEST = 20_000.0  # nm; 10 times is the smallest magnification of an SEM, and 300 dpi would be 84,667 nm
TESCAN_TAG = 50431
UNEQUAL = 0.01  # x and y
DISAGREE = 0.02  # what is given and what the file says

Stated = tuple[float, float, str]  # nm a pixel in x and y, and the source


@dataclass(frozen=True)
class Scale:
    """Nanometres a pixel, and where they were found: "FEI", "ImageJ", "--pixel-size" and so on."""

    nm: float
    source: str

    def agrees(self, other: Scale) -> bool:
        """Whether both say the same within 2 %."""
        return abs(self.nm - other.nm) <= DISAGREE * self.nm


def scale_of(
    path: str | Path, given: float | None = None, table: Mapping[str, float] | None = None, id: str | None = None
) -> Scale | None:
    """The scale that holds for an image: `given`, else that of its id in the folder's table, else the file's own.

    given: nm a pixel, from --pixel-size; table: id to nm a pixel, from pixel_size.csv; id: None is the file's stem.
    Raises DataError for a `given` that is not above 0, and what `read_scale` raises.
    """
    if given is not None:
        if not 0 < given < math.inf:
            raise DataError(f"--pixel-size is {given}; give nm a pixel above 0.")
        return Scale(given, "--pixel-size")
    listed = (table or {}).get(Path(path).stem if id is None else id)
    return read_scale(path) if listed is None else Scale(listed, "pixel_size.csv")


def read_scale(path: str | Path) -> Scale | None:
    """The scale that a micrograph's file states; None where there is none, or where the file cannot be read.

    TIFF: OME-XML, ImageJ, and the tags of FEI/Thermo Fisher, Zeiss and TESCAN. The text file that JEOL, Hitachi and
    TESCAN write beside an image, for any format. DM3, DM4, EMD, MRC and SER where RosettaSciIO is installed.
    Values that are not above 0, or above 20 µm a pixel, count as absent. Raises DataError where x and y differ by more
    than 1 %, and for a text of JEOL or Hitachi of an image of another width.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        stated = _from_tiff(path) if suffix in TIFF else _from_microscope(path) if suffix in MICROSCOPE else None
    except Exception:  # decoders raise a dozen types for a broken file; reading the image names what is wrong
        stated = None
    if not _is_size(stated):
        stated = _from_text(path)
    if not _is_size(stated):
        return None
    x, y, source = stated
    if abs(x - y) > UNEQUAL * max(x, y):
        raise DataError(
            f"{path} has pixels of {x:.4g} x {y:.4g} nm ({source}); resample it to square ones, or give "
            "--pixel-size or pixel_size.csv."
        )
    return Scale(math.sqrt(x * y), source)


def _is_size(stated: Stated | None) -> TypeGuard[Stated]:
    return stated is not None and all(0 < nm <= COARSEST for nm in stated[:2])


def to_nm(value: float, unit: str) -> float:
    """A length in nm; nan for a unit that is none."""
    unit = unicodedata.normalize("NFKC", unit.replace("\\u00B5", "µ").strip()).casefold()  # µ has two code points
    return value * NM.get(unit.replace("μ", "u").replace("metre", "meter"), math.nan)


def _from_tiff(path: Path) -> Stated | None:
    with tifffile.TiffFile(path) as tiff:
        if tiff.is_ome and tiff.ome_metadata:
            pixels = next(e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if e.tag.endswith("}Pixels"))
            x, y = (
                to_nm(float(pixels.get(f"PhysicalSize{axis}", "nan")), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
                for axis in "XY"
            )
            return x, y, "OME"
        page = tiff.pages.first
        if tiff.is_imagej and "XResolution" in page.tags:
            unit = str((tiff.imagej_metadata or {}).get("unit", ""))
            x, y = (to_nm(d / n, unit) for n, d in (page.tags[f"{axis}Resolution"].value for axis in "XY"))
            return x, y, "ImageJ"
        if tiff.is_fei:
            fei = tiff.fei_metadata or {}
            names = ("Scan", fei.get("Beam", {}).get("Scan"))  # [Beam] names the section of the beam that scanned
            scan = next(fei[name] for name in names if "PixelWidth" in fei.get(name, {}))
            width = float(scan["PixelWidth"])
            return to_nm(width, "m"), to_nm(float(scan.get("PixelHeight", width)), "m"), "FEI"
        if tiff.is_sem:
            zeiss = tiff.sem_metadata or {}
            if "ap_image_pixel_size" in zeiss:
                _, value, unit = zeiss["ap_image_pixel_size"]
            else:  # this one is of the display, 1,024 pixels wide whatever was stored
                _, value, unit = zeiss["ap_pixel_size"]
                value *= 1024 / page.imagewidth
            return to_nm(value, unit), to_nm(value, unit), "Zeiss"
        if TESCAN_TAG in page.tags:  # an INI text among other bytes
            return _from_tescan(bytes(page.tags[TESCAN_TAG].value).decode("latin-1"))
    return None


def _from_tescan(text: str) -> Stated | None:
    """PixelSizeX and PixelSizeY, in m; the width of the image is not stated in a way that could be checked."""
    x, y = (re.search(rf"^PixelSize{axis}\s*=\s*(\S+)", text, re.MULTILINE) for axis in "XY")
    try:
        width, height = (to_nm(float(found[1].replace(",", ".")), "m") for found in (x, y) if found)
    except ValueError:  # one is missing, or no number
        return None
    return width, height, "TESCAN"


def _from_microscope(path: Path) -> Stated:
    """The axes y and x of the first image, through RosettaSciIO."""
    reader = importlib.import_module(f"rsciio.{MICROSCOPE[path.suffix.lower()][1]}")
    signals = ([axis for axis in signal["axes"] if not axis["navigate"]] for signal in reader.file_reader(str(path)))
    y, x = (
        to_nm(float(axis["scale"]), str(axis["units"])) for axis in next(axes for axes in signals if len(axes) == 2)
    )
    return x, y, f"RosettaSciIO ({path.suffix[1:].upper()})"


def _from_text(path: Path) -> Stated | None:
    """The text beside an image: JEOL's bar, in pixels and as the marker's length, Hitachi's PixelSize in nm, and what
    TESCAN calls x-tif.hdr or x.hdr beside x.tif.
    """
    for header in (path.with_name(f"{path.stem}-{path.suffix[1:]}.hdr"), path.with_suffix(".hdr")):
        if header.is_file():
            with open(header, "rb") as file:
                stated = _from_tescan(file.read(1 << 16).decode("latin-1"))
            if _is_size(stated):
                return *stated[:2], f"TESCAN ({header.name})"
    text_path = next((p for s in (".txt", ".TXT", ".Txt") if (p := path.with_suffix(s)).is_file()), None)
    if text_path is None:
        return None
    with open(text_path, "rb") as file:
        data = file.read(1 << 16)
    text = data.decode("utf-16" if b"\0" in data else "utf-8-sig", "replace")
    bar = re.search(r"^\$+SM_MICRON_BAR\s+([\d.]+)", text, re.MULTILINE)
    marker = re.search(r"^\$+SM_MICRON_MARKER\s+([\d.]+)\s*(\S+)", text, re.MULTILINE)
    hitachi = re.search(r"^PixelSize\s*=\s*([\d.,]+(?:[eE][-+]?\d+)?)", text, re.MULTILINE)
    try:
        if bar and marker:
            nm, source = to_nm(float(marker[1]), marker[2]) / float(bar[1]), "JEOL"
        elif hitachi and re.search(r"^\[[ST]emImageFile\]", text, re.MULTILINE):
            nm, source = float(hitachi[1].replace(",", ".")), "Hitachi"
        else:
            return None
    except (ValueError, ZeroDivisionError):
        return None
    _require_width(path, text_path, text)
    return nm, nm, f"{source} ({text_path.name})"


def _require_width(path: Path, text_path: Path, text: str) -> None:
    """Raise DataError for an image resized or cropped after the microscope wrote its text; a data bar is below it."""
    width = re.search(r"^(?:\$+CM_FULL_SIZE\s+|DataSize\s*=\s*)(\d+)", text, re.MULTILINE)
    try:
        if path.suffix.lower() in TIFF:
            with tifffile.TiffFile(path) as tiff:
                across = tiff.pages.first.imagewidth
        else:
            with Image.open(path) as picture:
                across = picture.width
    except Exception:  # broken: reading the image names what is wrong
        return
    if width and int(width[1]) != across:
        raise DataError(
            f"{text_path} is of an image {width[1]} pixels wide, and {path.name} has {across}; give --pixel-size or "
            "pixel_size.csv."
        )
