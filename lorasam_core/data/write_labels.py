"""Write labels: as label TIFF, COCO, ROIs of ImageJ, and labelme. What was written is read back as it was."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from lorasam_core.data import runs
from lorasam_core.data.formats_other import require_roifile
from lorasam_core.data.outlines import Rings, components
from lorasam_core.data.sample import DataError

LARGEST_16 = 65535
LARGEST_ROI_SIDE = 32767  # pixels, of a coordinate in a ROI of ImageJ
PARTICLE = "particle"  # the one category
LABELME = "5.5.0"  # the version of labelme whose files these are


def write_label_tiff(path: Path, labels: NDArray[np.integer]) -> None:
    """Ids (H, W) as uint16, from 65,536 on uint32."""
    dtype = np.uint16 if labels.max(initial=0) <= LARGEST_16 else np.uint32
    tifffile.imwrite(path, labels.astype(dtype), compression="zlib")


def write_coco(path: Path, images: Iterable[tuple[str, NDArray[np.int32]]]) -> None:
    """One file for images, each with its file name and its labels int32 (H, W), as run lengths: exact, holes and all.

    The objects of an image are in the order of their ids. The run lengths are numbers, which COCO's own tools read.
    """
    document: dict[str, Any] = {
        "info": {"description": f"lorasam {version('lorasam')}"}, "images": [], "annotations": [],
        "categories": [{"id": 1, "name": PARTICLE}],
    }  # fmt: skip
    for number, (name, labels) in enumerate(images, 1):
        height, width = labels.shape
        document["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for _, (top, left, mask), _ in components(labels):
            whole = np.zeros((height, mask.shape[1]), bool)
            whole[top : top + mask.shape[0]] = mask
            counts = runs.encode(whole)
            counts[0] += height * left
            after = height * (width - left - mask.shape[1])
            if len(counts) % 2:  # the last run is background
                counts[-1] += after
            elif after:
                counts.append(after)
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                "area": int(mask.sum()), "bbox": [left, top, mask.shape[1], mask.shape[0]],
                "segmentation": {"size": [height, width], "counts": counts},
            })  # fmt: skip
    path.write_text(json.dumps(document), encoding="utf-8")


def write_imagej_rois(path: Path, labels: NDArray[np.int32]) -> None:
    """A .zip of ROIs for ImageJ's ROI Manager, an object each, named by its id; exact, holes and all.

    An object in one piece without holes is a traced outline, others are composite. Raises DataError where the package
    roifile is missing, and for an image that is too large for ImageJ's coordinates.
    """
    roifile = require_roifile()
    if max(labels.shape) > LARGEST_ROI_SIDE:
        raise DataError(f"{path} cannot hold coordinates above {LARGEST_ROI_SIDE}; write COCO or label images.")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, _, pieces in components(labels):
            name = f"{number:05d}"
            rings = [corners for piece in pieces for corners in piece]
            if len(rings) == 1:
                roi = roifile.ImagejRoi.frompoints(rings[0].astype(np.int32), name=name)
                roi.roitype = roifile.ROI_TYPE.TRACED
            else:
                roi = _composite(roifile, rings, name)
            archive.writestr(f"{name}.roi", roi.tobytes())


def _composite(roifile: Any, rings: Rings, name: str) -> Any:
    """A ROI of several outlines: a path of steps, each 0 (move to) or 1 (line to) with x and y, or 4 (close)."""
    path = [
        value
        for corners in rings
        for k, (x, y) in enumerate(corners.tolist())
        for value in (float(k > 0), x, y, *([4.0] if k == len(corners) - 1 else []))
    ]
    every = np.concatenate(rings).astype(int)
    (left, top), (right, bottom) = every.min(axis=0).tolist(), every.max(axis=0).tolist()
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT, name=name, left=left, top=top, right=right, bottom=bottom,
        shape_roi_size=len(path), multi_coordinates=np.array(path, np.float32),
    )  # fmt: skip


def write_labelme(path: Path, labels: NDArray[np.int32], image_path: str) -> None:
    """A file of labelme for one image, which it names relative to itself; labels int32 (H, W).

    Outlines run along the edges of pixels, and are exact. The pieces of an object share a group_id. One with a hole,
    which a polygon cannot have, is a mask, which labelme knows from version 5.2 on.
    """
    shapes = []
    for number, (top, left, mask), pieces in components(labels):
        group = number if len(pieces) > 1 else None
        if any(len(piece) > 1 for piece in pieces):
            height, width = mask.shape
            with io.BytesIO() as file:
                Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(file, "PNG")
                packed = base64.b64encode(file.getvalue()).decode("ascii")
            corners = [[left, top], [left + width - 1, top + height - 1]]
            shapes.append(_labelme_shape("mask", corners, None, packed))
        else:
            shapes += [_labelme_shape("polygon", piece[0].tolist(), group, None) for piece in pieces]
    document = {
        "version": LABELME, "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": None,
        "imageHeight": labels.shape[0], "imageWidth": labels.shape[1],
    }  # fmt: skip
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _labelme_shape(kind: str, points: list[list[float]], group: int | None, mask: str | None) -> dict[str, Any]:
    return {
        "label": PARTICLE, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": {},
        "mask": mask,
    }  # fmt: skip
