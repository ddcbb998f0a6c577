"""Labels of two particles in two images, as each tool of annotation writes them."""

import json

import numpy as np
import roifile
from PIL import Image
from pycocotools import mask as coco_mask

from lorasam_core.data.folders import list_folder
from lorasam_core.data.readers import read_record

SHAPE = (40, 50)
SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20]]
WANTED = np.zeros(SHAPE, np.int32)  # what every format says below
WANTED[10:20, 10:20], WANTED[25:30, 30:45] = 1, 2
CORNERS = [SQUARE, [[30, 25], [45, 25], [45, 30], [30, 30]]]
FLAT = [[v for point in corners for v in point] for corners in CORNERS]


def two_images(folder):
    """Two images, a and b."""
    for k, i in enumerate("ab"):
        picture(folder / "images" / f"{i}.png", np.random.default_rng(k).integers(0, 200, SHAPE))
    return folder


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array).astype(np.uint8)).save(path)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )


def coco(objects, **changes):
    images = [{"id": k, "file_name": f"{i}.png", "height": 40, "width": 50} for k, i in enumerate("ab")]
    found = [
        {"id": n, "image_id": k, "category_id": n % 3, "segmentation": s, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
        for k in range(2) for n, s in enumerate(objects)
    ]  # fmt: skip
    return {"images": images, "annotations": found, "categories": []} | changes


def packed(mask):
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def shape(points, kind="polygon", **more):
    return {"label": "p", "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def labelme(*shapes, **changes):
    return {
        "version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "..\\images\\a.png", "imageData": None,
        "imageHeight": 40, "imageWidth": 50,
    } | changes  # fmt: skip


def via(name="a"):
    regions = [
        {"shape_attributes": {"name": "polygon", "all_points_x": [10, 20, 20, 10], "all_points_y": [10, 10, 20, 20]}},
        {"shape_attributes": {"name": "polygon", "all_points_x": [30, 45, 45, 30], "all_points_y": [25, 25, 30, 30]}},
        {"shape_attributes": {"name": "point", "cx": 3, "cy": 5}, "region_attributes": {}},
    ]
    return {f"{name}.png123": {"filename": f"{name}.png", "size": 123, "regions": regions, "file_attributes": {}}}


def via_box():
    """A polygon and a box."""
    made = via()
    made["a.png123"]["regions"][1]["shape_attributes"] = {"name": "rect", "x": 30, "y": 25, "width": 15, "height": 5}
    return made


def via_csv():
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    rows = [head]
    for i in "ab":
        for k, region in enumerate(via()["a.png123"]["regions"]):
            attributes = json.dumps(region["shape_attributes"]).replace('"', '""')
            rows.append(f'{i}.png,123,"{{}}",3,{k},"{attributes}","{{}}"')
    return "\n".join([*rows, 'c.png,99,"{}",0,0,"{}","{}"'])


def cvat(shapes):
    images = "".join(
        f'<image id="{k}" name="sub/{i}.png" width="50" height="40">{shapes}</image>' for k, i in enumerate("ab")
    )
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta/>{images}</annotations>'


CVAT = (
    '<polygon label="p" occluded="0" points="10.00,10.00;20.00,10.00;20.00,20.00;10.00,20.00" z_order="0"/>'
    '<mask label="p" rle="0, 75" left="30" top="25" width="15" height="5" z_order="0"/>'
    '<points label="p" points="1,2"/><tag label="sharp"/>'
)


def rois():
    """As ImageJ writes them: a traced outline, and a rectangle."""
    first = roifile.ImagejRoi.frompoints(np.array(SQUARE), name="one")
    first.roitype = roifile.ROI_TYPE.TRACED
    second = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=30, top=25, right=45, bottom=30, name="two")
    point = roifile.ImagejRoi.frompoints(np.array([[1, 2]]))
    point.roitype = roifile.ROI_TYPE.POINT
    return [first, second, point]


def write_rois(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    roifile.roiwrite(path, found)


def per_image(write):
    return lambda folder: [write(folder, i) for i in "ab"]


def yolo(corners):
    return f"0 {' '.join(f'{x / 50:.8f} {y / 40:.8f}' for x, y in corners)}"


FORMATS = {
    "COCO polygons": ("COCO", lambda f: put(f / "annotations" / "instances.json", coco([[flat] for flat in FLAT]))),
    "COCO in the folder": ("COCO", lambda f: put(f / "coco.json", coco([[flat] for flat in FLAT]))),
    "COCO run lengths": (
        "COCO", lambda f: put(f / "labels" / "x.json", coco([packed(WANTED == 1), packed(WANTED == 2)])),
    ),
    "COCO in several files": ("COCO", per_image(lambda f, i: put(f / "annotations" / f"{i}.json", coco(
        [[flat] for flat in FLAT], images=[{"id": "ab".index(i), "file_name": f"{i}.png"}],
        annotations=[a for a in coco([[flat] for flat in FLAT])["annotations"] if a["image_id"] == "ab".index(i)],
    )))),
    "VIA": ("VIA", lambda f: put(f / "via.json", via("a") | via("b"))),
    "a project of VIA": ("VIA", lambda f: put(f / "via.json", {"_via_img_metadata": via("a") | via("b")})),
    "VIA's table": ("VIA", lambda f: put(f / "via.csv", via_csv())),
    "labelme beside the images": (
        "labelme", per_image(lambda f, i: put(f / "images" / f"{i}.json", labelme(*map(shape, CORNERS)))),
    ),
    "labelme among labels": ("labelme", per_image(lambda f, i: put(
        f / "labels" / f"{i}.json",
        labelme(*map(shape, CORNERS), shape([[1, 1]], "point")),
    ))),
    "CVAT": ("CVAT", lambda f: put(f / "annotations.xml", cvat(CVAT))),
    "YOLO": ("YOLO", per_image(lambda f, i: put(f / "labels" / f"{i}.txt", "\n".join(map(yolo, CORNERS))))),
    "ROIs in a file": ("ImageJ", per_image(lambda f, i: write_rois(f / "labels" / f"{i}_RoiSet.zip", rois()))),
    "ROIs in a folder": ("ImageJ", per_image(lambda f, i: [
        write_rois(f / "labels" / i / f"{k}.roi", roi) for k, roi in enumerate(rois())
    ])),
    "a mask a particle": ("one mask a particle", per_image(lambda f, i: [
        picture(f / "masks" / i / f"{k}.png", (k == WANTED) * 255) for k in (1, 2)
    ])),
}  # fmt: skip


def read(folder, i="a"):
    return read_record(next(r for r in list_folder(folder, labelled_only=True)[0] if r.id == i))[0].labels
