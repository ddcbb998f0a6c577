"""Read COCO, labelme and VIA: JSON, and VIA's CSV. Categories are not looked at: every object is a particle.

A box is refused in all of these formats: it says where a particle is, as for a detector, and not what its outline is.
Left out, it would teach that the particle is background; filled, that particles are rectangular.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lorasam_core.data import runs
from lorasam_core.data.annotations import A_BOX, Annotations, grouped, size, without_area
from lorasam_core.data.outlines import Part, Patch, ellipse, ring

Indexed = tuple[list[Annotations], list[str]]
LABELME_BOXES = ("rectangle", "oriented_rectangle", "rotation")  # labelme's, and those of its relatives
VIA_COLUMNS = {"region_shape_attributes", "region_count"}


def index_json(path: Path, stem: str) -> Indexed | None:
    """What a JSON file says of each image, and notes; None where it is of another kind. stem: names its own image.

    Raises ValueError, KeyError and the like for a file that is damaged.
    """
    document = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(document, dict):
        return None
    if {"images", "annotations"} <= document.keys():
        return _coco(path, document)
    if "shapes" in document:
        return _labelme(path, stem, document)
    document = document.get("_via_img_metadata", document)
    if document and all(isinstance(v, dict) and {"filename", "regions"} <= v.keys() for v in document.values()):
        return _via(path, [(v["filename"], v["regions"]) for v in document.values()])
    return None


def _coco(path: Path, document: Mapping[str, Any]) -> Indexed:
    """Crowds are left out: a region of many objects is no particle."""
    objects: dict[Any, list[Any]] = {image["id"]: [] for image in document["images"]}
    crowds = 0
    for number, found in enumerate(document["annotations"], 1):
        if found["image_id"] not in objects:
            raise ValueError(f"annotation {number} is of an image that is not listed")
        if found.get("iscrowd"):
            crowds += 1
        else:
            objects[found["image_id"]].append(found.get("segmentation"))
    if len(objects) < len(document["images"]):
        raise ValueError("two images have one id")
    listed = []
    for image in document["images"]:
        stated, of_image = size(image.get("height"), image.get("width")), tuple(objects[image["id"]])
        listed.append(Annotations(path, "COCO", (str(image["file_name"]),), of_image, coco_parts, stated))
    return listed, [f"Left out, as crowds: {crowds} of {path.name}."] if crowds else []


def coco_parts(segmentation: Any, shape: tuple[int, int]) -> list[Part]:
    """Polygons are joined, and have no holes; run lengths, as numbers or packed, keep theirs."""
    if not segmentation:
        raise ValueError("it has no segmentation, and a box is no outline")
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != shape:
            raise ValueError("its run lengths are of an image of another size")
        return [runs.decode(segmentation["counts"], *shape)]
    return [[ring(np.asarray(polygon, np.float64).reshape(-1, 2))] for polygon in segmentation]


def _labelme(path: Path, stem: str, document: Mapping[str, Any]) -> Indexed:
    """Shapes of one label and one group_id are one object, as labelme itself has it."""
    shapes, others = [], []
    for shape in document["shapes"]:
        kind = shape.get("shape_type", "polygon")
        if kind not in ("polygon", "circle", "mask", *LABELME_BOXES):
            others.append(str(kind))
            continue
        group = shape.get("group_id")
        key = None if group is None else (str(shape.get("label")), str(group))
        content = {name: shape.get(name) for name in ("points", "mask")} | {"shape_type": kind}
        shapes.append((key, content))
    stated = size(document.get("imageHeight"), document.get("imageWidth"))
    names = (stem, str(document.get("imagePath") or stem))
    found = Annotations(path, "labelme", names, grouped(shapes), labelme_parts, stated)
    return [found], without_area(path, others)


def labelme_parts(shapes: tuple[Mapping[str, Any], ...], shape: tuple[int, int]) -> list[Part]:
    """Polygons, circles (centre and a point of the rim), and masks, which keep their holes; ValueError for a box."""
    return [_labelme_part(found, shape) for found in shapes]


def _labelme_part(found: Mapping[str, Any], shape: tuple[int, int]) -> Part:
    points, kind = found["points"], found["shape_type"]
    if kind in LABELME_BOXES:
        raise ValueError(A_BOX)
    if kind == "polygon":
        return [ring(points)]
    (x0, y0), (x1, y1) = points
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        return ellipse(x0, y0, radius, radius)
    left, top, width, height = int(x0), int(y0), int(x1) - int(x0) + 1, int(y1) - int(y0) + 1  # both corners are pixels
    packed = base64.b64decode(found["mask"], validate=True)
    try:
        with Image.open(io.BytesIO(packed), formats=["PNG"]) as picture:
            fits = picture.size == (width, height) and width <= shape[1] and height <= shape[0]
            mask = np.asarray(picture) > 0 if fits else np.zeros(0, bool)  # a small file can hold a huge picture
    except Exception as error:  # Pillow raises half a dozen types for a broken file
        raise ValueError("its mask is no PNG that can be read") from error
    if not fits or mask.ndim != 2:
        raise ValueError("its mask does not fit its corners")
    return Patch(top, left, mask)


def index_csv(path: Path) -> Indexed | None:
    """What VIA's CSV says of each image, and notes; None where it is another table. Raises as `index_json` does."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.readline()
    if not all(name in head for name in VIA_COLUMNS):
        return None
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    regions: dict[str, list[Any]] = {}
    for row in table.to_dict("records"):
        of_image = regions.setdefault(row["filename"] if "filename" in row else row["#filename"], [])
        attributes = json.loads(row["region_shape_attributes"] or "{}")
        if attributes:  # an image without regions has a row all the same
            of_image.append({"shape_attributes": attributes})
    return _via(path, list(regions.items()))


def _via(path: Path, images: list[tuple[Any, Any]]) -> Indexed:
    listed, others = [], []
    for name, regions in images:
        objects = []
        for region in regions.values() if isinstance(regions, dict) else regions:
            attributes = region["shape_attributes"]
            if attributes["name"] in ("polygon", "rect", "circle", "ellipse"):
                objects.append(attributes)
            else:
                others.append(str(attributes["name"]))
        listed.append(Annotations(path, "VIA", (str(name),), tuple(objects), via_parts))
    return listed, without_area(path, others)


def via_parts(attributes: Mapping[str, Any], shape: tuple[int, int]) -> list[Part]:
    """A polygon, circle or ellipse, whose angle is in radians, clockwise; ValueError for a box."""
    kind, a = attributes["name"], attributes
    if kind == "polygon":
        if len(a["all_points_x"]) != len(a["all_points_y"]):
            raise ValueError("its x and y are not equally many")
        return [[ring(list(zip(a["all_points_x"], a["all_points_y"], strict=True)))]]
    if kind == "rect":
        raise ValueError(A_BOX)
    if kind == "circle":
        return [ellipse(a["cx"], a["cy"], a["r"], a["r"])]
    return [ellipse(a["cx"], a["cy"], a["rx"], a["ry"], math.degrees(a.get("theta", 0)))]
