"""Read CVAT's XML, YOLO's text, ImageJ's ROIs, and folders with one mask a particle.

Boxes of CVAT and YOLO are refused, as in formats_json. A rectangle of ImageJ is an area, as all of its selections are:
ImageJ itself turns an outline that is a rectangle into one.
"""

from __future__ import annotations

import importlib
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lorasam_core.data import runs
from lorasam_core.data.annotations import A_BOX, Annotations, grouped, size, without_area
from lorasam_core.data.decode import decode
from lorasam_core.data.formats_json import Indexed
from lorasam_core.data.outlines import Part, box, cropped, ellipse, ring
from lorasam_core.data.sample import DataError

HEAD = 4096  # bytes in which the root of an XML file is looked for
LARGEST_ROI = 2**26  # bytes
ROI_ENDING = re.compile(r"[-_. ](roi ?sets?|rois?)$", re.IGNORECASE)
ROI_AREAS = {0: "polygon", 1: "rectangle", 2: "oval", 7: "freehand", 8: "traced"}  # byte 6 of a ROI
ROI_OTHERS = {3: "line", 4: "freeline", 5: "polyline", 6: "none", 9: "angle", 10: "point"}
ROI_LABELS = {1: "text", 2: "arrow", 4: "image"}  # of bytes 48 and 49: drawn, no selection


def index_xml(path: Path) -> Indexed | None:
    """What CVAT for images 1.1 says of each image, and notes; None for other XML.

    Raises ValueError for CVAT for video, for a document type or entities, which can make a small file huge, and for
    a damaged file.
    """
    data = path.read_bytes()
    if b"<annotations" not in data[:HEAD]:
        return None
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("it declares a document type or entities")
    try:
        root = ElementTree.fromstring(data.decode("utf-8-sig"))  # another encoding could hide a declaration
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    if root.find("track") is not None:
        raise ValueError("it is CVAT for video, not CVAT for images 1.1")
    listed, others = [], []
    for image in root.findall("image"):
        shapes = []
        for shape in image:
            if shape.tag in ("polygon", "box", "ellipse", "mask"):
                group = shape.get("group_id", "0")
                shapes.append((None if group == "0" else group, {"tag": shape.tag} | shape.attrib))
            elif shape.tag != "tag":
                others.append(shape.tag)
        stated = size(image.get("height"), image.get("width"))
        listed.append(Annotations(path, "CVAT", (image.attrib["name"],), grouped(shapes), cvat_parts, stated))
    return listed, without_area(path, others)


def cvat_parts(shapes: Sequence[dict[str, str]], shape: tuple[int, int]) -> list[Part]:
    """Polygons, ellipses with their rotation, and masks; those of one group are one object. ValueError for a box."""
    return [_cvat_part(found, shape) for found in shapes]


def _cvat_part(found: dict[str, str], shape: tuple[int, int]) -> Part:
    def numbers(*names: str) -> list[float]:
        return [float(found[name]) for name in names]

    degrees = float(found.get("rotation", 0))
    if found["tag"] == "polygon":
        return [ring([[float(value) for value in point.split(",")] for point in found["points"].split(";")])]
    if found["tag"] == "box":
        raise ValueError(A_BOX)
    if found["tag"] == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        return ellipse(x, y, rx, ry, degrees)
    counts = [int(run) for run in found["rle"].split(",")]
    top, left, height, width = (int(value) for value in numbers("top", "left", "height", "width"))
    if height > shape[0] or width > shape[1]:
        raise ValueError("its mask is larger than the image")
    return runs.decode_rows(counts, top, left, height, width)


def index_txt(path: Path, stem: str, own: bool) -> Indexed | None:
    """YOLO's segments of one image: a line an object, a class and x, y as shares of the sides. stem: names the image.

    own: the file is among labels, and raises ValueError where it holds boxes or anything else. Beside an image, where
    microscopes write text too, that is None.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    try:
        rows = [tuple(map(float, line.split())) for line in lines if line.strip()]
        if rows and all(len(row) == 5 for row in rows):
            raise ValueError("it holds boxes, and a box is no outline")
        for number, row in enumerate(rows, 1):
            if len(row) < 7 or len(row) % 2 == 0:
                raise ValueError(f"line {number} is no class with three points or more")
            if not all(-0.01 <= share <= 1.01 for share in row[1:]):
                raise ValueError(f"the coordinates of line {number} are no shares of the sides")
    except ValueError:
        if own:
            raise
        return None
    if not rows and not own:
        return None
    return [Annotations(path, "YOLO", (stem,), tuple(row[1:] for row in rows), yolo_parts)], []


def yolo_parts(shares: Sequence[float], shape: tuple[int, int]) -> list[Part]:
    """A polygon; YOLO joins the parts of an object by thin bridges, which are filled as they run."""
    return [[ring(np.reshape(shares, (-1, 2)) * shape[::-1])]]


def index_rois(path: Path, stem: str, files: Sequence[Path] = ()) -> Indexed | None:
    """ImageJ's ROIs of one image: a file .roi, a .zip of them, or `files` of the folder `path`. stem: names the image.

    None for a .zip of other files. Raises ValueError for a damaged file.
    """
    if path.suffix.lower() == ".zip" and not files:
        try:
            with zipfile.ZipFile(path) as archive:
                inside = [entry for entry in archive.infolist() if not entry.is_dir()]
                if not all(entry.filename.lower().endswith(".roi") for entry in inside):
                    return None
                if any(entry.file_size > LARGEST_ROI for entry in inside):
                    raise ValueError("a ROI in it is too large")
                rois = [archive.read(entry) for entry in inside]
        except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
            raise ValueError(str(error)) from error
    else:
        rois = [file.read_bytes() for file in files or (path,)]
    areas, others = [], []
    for data in rois:
        if len(data) < 64 or data[:4] != b"Iout":
            raise ValueError("it is no ROI of ImageJ, or was cut")
        kind, drawn = data[6], int.from_bytes(data[48:50], "big")
        if kind not in ROI_AREAS or drawn in ROI_LABELS:
            others.append(ROI_LABELS.get(drawn) or ROI_OTHERS.get(kind, f"type {kind}"))
        else:
            areas.append(data)
    names = tuple(dict.fromkeys((stem, ROI_ENDING.sub("", stem))))
    return [Annotations(path, "ImageJ", names, tuple(areas), roi_parts)], without_area(path, others)


def roi_parts(data: bytes, shape: tuple[int, int]) -> list[Part]:
    """A polygon, traced or freehand outline, rectangle or oval; a composite one is filled together: it keeps holes.

    Raises DataError where the package roifile is missing.
    """
    roifile = require_roifile()
    try:
        roi = roifile.ImagejRoi.frombytes(data)
        if roi.composite:
            return [[ring(corners) for corners in roi.coordinates(multi=True) if len(corners) > 2]]
    except (AssertionError, RuntimeError, struct.error) as error:
        raise ValueError(str(error)) from error
    if roi.roitype in (roifile.ROI_TYPE.RECT, roifile.ROI_TYPE.OVAL):
        left, top, width, height = roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top
        if roi.subpixelrect:
            left, top, width, height = roi.xd, roi.yd, roi.widthd, roi.heightd
        if roi.roitype == roifile.ROI_TYPE.RECT:
            return [box(left, top, width, height)]
        return [ellipse(left + width / 2, top + height / 2, width / 2, height / 2)]
    return [[ring(roi.coordinates())]]


def require_roifile() -> Any:
    """The package roifile; DataError where it is missing."""
    try:
        return importlib.import_module("roifile")
    except ImportError as error:
        raise DataError('ImageJ\'s ROIs need the package roifile; pip install "lorasam[formats]".') from error


def index_masks(path: Path, stem: str, files: Sequence[Path]) -> Indexed:
    """A folder of masks, `files`, of one image, each of one particle."""
    return [Annotations(path, "one mask a particle", (stem,), tuple(files), mask_parts)], []


def mask_parts(path: Path, shape: tuple[int, int]) -> list[Part]:
    """What is not 0 is the particle, holes and all. DataError for more than two values, and for another size."""
    array = decode(path, labels=True)
    values = np.unique(array)
    if array.ndim != 2 or len(values) > 2:
        raise DataError(f"{path} is no mask of one particle; save it with two values, 0 and 255.")
    if array.shape != shape:
        height, width = array.shape
        raise DataError(
            f"{path} is {width}x{height} and its image {shape[1]}x{shape[0]} pixels; give both the same size."
        )
    return [cropped(array > 0)]
