"""Labels of other tools: each format is found by what it holds, read as its tool means it, or refused in a sentence."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
import roifile
from PIL import Image
from pycocotools import mask as coco_mask

from lorasam_core.commands.check import contact_sheet
from lorasam_core.data.check import check_folder
from lorasam_core.data.folders import list_folder, list_images
from lorasam_core.data.readers import read_record
from lorasam_core.data.sample import DataError

SHAPE = (40, 50)
SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20]]
WANTED = np.zeros(SHAPE, np.int32)  # what every format says below
WANTED[10:20, 10:20], WANTED[25:30, 30:45] = 1, 2
CORNERS = [SQUARE, [[30, 25], [45, 25], [45, 30], [30, 30]]]
FLAT = [[v for point in corners for v in point] for corners in CORNERS]


@pytest.fixture
def folder(tmp_path):
    """Two images, a and b."""
    for k, i in enumerate("ab"):
        picture(tmp_path / "powder" / "images" / f"{i}.png", np.random.default_rng(k).integers(0, 200, SHAPE))
    return tmp_path / "powder"


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
        {"shape_attributes": {"name": "rect", "x": 30, "y": 25, "width": 15, "height": 5}, "region_attributes": {}},
        {"shape_attributes": {"name": "point", "cx": 3, "cy": 5}, "region_attributes": {}},
    ]
    return {f"{name}.png123": {"filename": f"{name}.png", "size": 123, "regions": regions, "file_attributes": {}}}


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
        f / "labels" / f"{i}.json", labelme(shape(SQUARE), shape([[45, 30], [30, 25]], "rectangle"), shape([[1, 1]], "point"))
    ))),
    "CVAT": ("CVAT", lambda f: put(f / "annotations.xml", cvat(CVAT))),
    "YOLO": ("YOLO", per_image(lambda f, i: put(f / "labels" / f"{i}.txt", "\n".join(map(yolo, CORNERS))))),
    "ROIs in a file": ("ImageJ", per_image(lambda f, i: write_rois(f / "labels" / f"{i}_RoiSet.zip", rois()))),
    "ROIs in a folder": ("ImageJ", per_image(lambda f, i: [
        write_rois(f / "labels" / i / f"{k}.roi", roi) for k, roi in enumerate(rois())
    ])),
    "a mask a particle": ("one mask a particle", per_image(lambda f, i: [
        picture(f / "masks" / i / f"{k}.png", (WANTED == k) * 255) for k in (1, 2)
    ])),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_found_and_read(folder, name):
    kind, write = FORMATS[name]
    write(folder)
    records, notes = list_folder(folder)
    assert [r.id for r in records] == ["a", "b"]
    for record in records:
        sample, binary = read_record(record)
        np.testing.assert_array_equal(sample.labels, WANTED)
        assert not binary and sample.labels.dtype == np.int32
    assert notes[0].startswith(f"Labels are read as {kind} from ")
    others = [n for n in notes[1:] if "no area" not in n]
    assert others == (["Left out, for their images are missing: c.png in via.csv."] if name == "VIA's table" else [])
    assert ("no area" in " ".join(notes)) == (kind in ("VIA", "CVAT", "ImageJ") or name == "labelme among labels")
    checked = check_folder(folder)
    assert checked.table["particles"].tolist() == [2, 2] and (checked.table["read_as"] == "instances").all()
    assert not [f for f in checked.findings if f.severity == "error"]
    assert any(f.severity == "note" and f.text.startswith("Labels are read as") for f in checked.findings)
    contact_sheet(checked)


def read(folder, i="a"):
    return read_record(next(r for r in list_folder(folder, labelled_only=True)[0] if r.id == i))[0].labels


def test_parts_holes_and_crowds_of_coco(folder):
    inner = [12, 12, 18, 12, 18, 18, 12, 18]
    crowd = {"id": 9, "image_id": 0, "iscrowd": 1, "segmentation": {"size": [40, 50], "counts": [0, 2000]}}
    ring = (WANTED == 1).copy()
    ring[12:18, 12:18] = False
    made = coco([[FLAT[0], inner, FLAT[1]]])
    put(folder / "coco.json", made | {"annotations": [*made["annotations"], crowd]})
    assert (read(folder) == (WANTED > 0)).all()  # two parts are one object, and one inside another is no hole
    assert "Left out, as crowds: 1 of coco.json." in list_folder(folder)[1]
    put(folder / "coco.json", coco([packed(ring)]))
    assert (read(folder) == ring).all()
    put(folder / "coco.json", coco([FLAT[:1]], annotations=[]))
    assert not read(folder).any()  # an image that is listed, without objects


def test_polygons_of_coco_are_those_of_its_own_library_but_for_their_rim(folder):
    corners = [3.2, 4.1, 44.7, 6.3, 38.8, 35.9, 21.4, 18.2, 5.5, 33.3]
    put(folder / "coco.json", coco([[corners]]))
    theirs = coco_mask.decode(coco_mask.frPyObjects([corners], *SHAPE))[..., 0].astype(bool)
    ours = read(folder) > 0
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95


def test_shapes_of_labelme(folder):
    mask = np.array([[1, 1, 1], [1, 0, 1]], np.uint8)
    file = io.BytesIO()
    Image.fromarray(mask * 255).save(file, "PNG")
    shapes = [
        shape([[40, 5], [42, 6]], "mask", mask=base64.b64encode(file.getvalue()).decode()),
        shape([[20, 20], [25, 20]], "circle"),
        shape([[1, 1], [4, 1], [4, 4], [1, 4]], group_id=7), shape([[6, 1], [9, 1], [9, 4], [6, 4]], group_id=7),
        shape([[1, 30], [9, 30], [9, 39], [1, 39]], label="q", group_id=7),
    ]  # fmt: skip
    put(folder / "images" / "a.json", labelme(*shapes))
    labels = read(folder)
    assert (labels[5:7, 40:43] == mask).all() and np.bincount(labels.ravel())[1:].tolist() == [5, 80, 18, 72]
    y, x = np.mgrid[:40, :50] + 0.5
    assert ((labels == 2) == (np.hypot(x - 20, y - 20) < 5)).all()


def test_shapes_of_cvat(folder):
    shapes = (
        '<ellipse cx="20" cy="20" rx="8" ry="4" rotation="90"/>'
        '<box xtl="2" ytl="2" xbr="6" ybr="4"/><box xtl="40" ytl="10" xbr="48" ybr="12" rotation="90"/>'
        '<polygon group_id="3" points="1,30;4,30;4,33;1,33"/><polygon group_id="3" points="6,30;9,30;9,33;6,33"/>'
    )
    put(folder / "annotations.xml", cvat(shapes))
    labels = read(folder)
    y, x = np.mgrid[:40, :50] + 0.5
    assert ((labels == 1) == (((x - 20) / 4) ** 2 + ((y - 20) / 8) ** 2 < 1)).all()
    assert (labels[2:4, 2:6] == 2).all() and (labels[7:15, 43:45] == 3).all() and (labels == 4).sum() == 18
    assert [(labels == k).sum() for k in (2, 3)] == [8, 16]


def test_rois_of_other_kinds(folder):
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=5, top=10, right=25, bottom=20)
    fine = roifile.ImagejRoi.frompoints(np.array([[30.5, 5.5], [40.5, 5.5], [40.5, 10.5], [30.5, 10.5]]))
    path = [0, 30, 20, 1, 40, 20, 1, 40, 30, 1, 30, 30, 4, 0, 33, 23, 1, 33, 26, 1, 36, 26, 1, 36, 23, 4]
    composite = roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT, left=30, top=20, right=40, bottom=30, shape_roi_size=len(path),
        multi_coordinates=np.array(path, np.float32),
    )  # fmt: skip
    write_rois(folder / "labels" / "a.zip", [oval, fine, composite])
    write_rois(folder / "labels" / "b.roi", rois()[0])
    labels = read(folder)
    y, x = np.mgrid[:40, :50] + 0.5
    assert ((labels == 1) == (((x - 15) / 10) ** 2 + ((y - 15) / 5) ** 2 < 1)).all()
    assert [(labels == k).sum() for k in (2, 3)] == [50, 91] and (labels[23:26, 33:36] == 0).all()
    assert (read(folder, "b") == (WANTED == 1)).all()


def test_images_in_folders(tmp_path):
    for i in ("x/a", "x/b", "y/a", "c"):
        picture(tmp_path / "images" / f"{i}.png", np.random.default_rng(len(i)).integers(0, 200, SHAPE))
        picture(tmp_path / "labels" / f"{i}.png", WANTED)
    (tmp_path / "images" / ".cache").mkdir()
    picture(tmp_path / "images" / ".cache" / "d.png", WANTED)
    assert list(list_images([tmp_path])[0]) == ["c", "x/a", "x/b", "y/a"]
    (tmp_path / "pixel_size.csv").write_text("id,pixel_size\nx/a.png,2\ny/a,3\n")
    records, notes = list_folder(tmp_path)
    assert {r.id: r.pixel_size for r in records} == {"c": None, "x/a": 2, "x/b": None, "y/a": 3} and notes == []
    assert all((read_record(r)[0].labels == WANTED).all() for r in records)
    (tmp_path / "labels").rename(tmp_path / "old")
    names = ["images/x/a.png", "b.png", "y\\a.png", "data/c.png"]
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    put(tmp_path / "coco.json", {"images": images, "annotations": [
        {"image_id": k, "segmentation": [FLAT[0]]} for k in range(4)
    ]})  # fmt: skip
    assert [(read_record(r)[0].labels > 0).sum() for r in list_folder(tmp_path)[0]] == [100] * 4
    images[1]["file_name"] = "a.png"  # of x or of y
    put(tmp_path / "coco.json", {"images": images, "annotations": []})
    with pytest.raises(DataError, match=r"b\.png has no labels in .*coco\.json; label it"):
        list_folder(tmp_path)


def changed(**changes):
    return lambda f: put(f / "coco.json", coco([FLAT[:1]], **changes))


def segmentation(value):
    return lambda f: put(f / "coco.json", coco([value]))


def text(name, content):
    return lambda f: put(f / name, content)


def both(*names):
    return lambda f: [FORMATS[name][1](f) for name in names]


def archive(f):
    put(f / "labels" / "a.zip", b"")
    with zipfile.ZipFile(f / "labels" / "a.zip", "w") as file:
        file.writestr("one.roi", b"Iout" + bytes(20))


def cut_roi(f):
    data = rois()[0].tobytes()
    put(f / "labels" / "a.roi", data[:66])


IN_COCO = r"coco\.json, a\.png: object 1 "
BAD = {
    "no JSON": (text("coco.json", '{"images": [}'), r"coco\.json cannot be read as COCO, labelme or VIA \(.*; export"),
    "nested too deep": (text("coco.json", "[" * 10**5), r"coco\.json cannot be read"),
    "other JSON": (text("labels/x.json", "[1, 2]"), r"x\.json is not COCO, labelme or VIA; export"),
    "an image without name": (changed(images=[{"id": 0}, {"id": 1}]), r"coco\.json cannot be read .*'file_name' is missing"),
    "an image that is not listed": (changed(images=[]), r"annotation 1 is of an image that is not listed"),
    "one id twice": (changed(images=[{"id": 0, "file_name": n} for n in "ab"], annotations=[]), "two images have one id"),
    "a negative size": (changed(images=[{"id": k, "file_name": "a.png", "height": -4, "width": 2} for k in (0, 1)]), "2x-4"),
    "names of other images": (changed(images=[{"id": k, "file_name": f"q{k}"} for k in (0, 1)]), r"names none .*\(q0\);"),
    "an image twice": (
        changed(images=[{"id": k, "file_name": n} for k, n in enumerate(("a.png", "a.jpg"))]), "describes a twice; keep"
    ),
    "another size": (
        changed(images=[{"id": k, "file_name": f"{i}.png", "height": 4, "width": 5} for k, i in enumerate("ab")]),
        r"coco\.json, a\.png is of 5x4 pixels and its image of 50x40; give",
    ),
    "two points": (segmentation([[1, 2, 3, 4]]), IN_COCO + r"cannot be read \(an outline has at least three"),
    "an odd number": (segmentation([[1, 2, 3, 4, 5, 6, 7]]), IN_COCO + "cannot be read"),
    "NaN": (segmentation([[1, 2, float("nan"), 4, 5, 6]]), IN_COCO + r"cannot be read \(a coordinate is no number"),
    "words": (segmentation([["a", 2, 3, 4, 5, 6]]), IN_COCO + "cannot be read"),
    "a box alone": (segmentation([]), IN_COCO + r"cannot be read \(it has no segmentation, and a box"),
    "outside": (segmentation([[100, 100, 120, 100, 110, 120]]), IN_COCO + "covers no pixel of the image; correct"),
    "run lengths too short": (segmentation({"size": [40, 50], "counts": [3, 5]}), IN_COCO + ".*do not sum up to 2000"),
    "run lengths of another size": (segmentation({"size": [4, 5], "counts": [20]}), IN_COCO + ".*of another size"),
    "packed run lengths": (segmentation({"size": [40, 50], "counts": "~~~~"}), IN_COCO + ".*no string of COCO"),
    "labelme without points": (text("labels/a.json", labelme({"label": "p"})), r"a\.json: object 1 cannot be read"),
    "labelme's shapes": (text("labels/a.json", labelme() | {"shapes": 7}), r"a\.json cannot be read as COCO, labelme"),
    "labelme's mask": (text("labels/a.json", labelme(shape([[1, 1], [2, 2]], "mask", mask="!!"))), "object 1 cannot be"),
    "a rectangle of no area": (text("labels/a.json", labelme(shape([[1, 1], [1, 5]], "rectangle"))), "width and a height"),
    "VIA": (text("via.json", {"a": {"filename": "a.png", "regions": [{}]}}), "'shape_attributes' is missing"),
    "VIA's table": (text("via.csv", via_csv().replace('""name""', "name")), r"via\.csv cannot be read as VIA"),
    "XML": (text("a.xml", cvat("<polygon")), r"a\.xml cannot be read as CVAT for images 1\.1"),
    "entities": (
        text("a.xml", '<!DOCTYPE x [<!ENTITY e "ha">]>' + cvat("").partition("\n")[2]), "declares a document type or ent"
    ),
    "entities in UTF-16": (
        text("a.xml", b"<annotations/>" + '<!DOCTYPE x [<!ENTITY e "ha">]>'.encode("utf-16")), "cannot be read"
    ),
    "a video of CVAT": (text("a.xml", "<annotations><track/></annotations>"), "is CVAT for video, not CVAT for images"),
    "points of CVAT": (text("a.xml", cvat('<polygon points="1,2;3"/>')), r"a\.xml, sub/a\.png: object 1 .*no pairs of numbers"),
    "boxes of YOLO": (text("labels/a.txt", "0 0.5 0.5 0.1 0.1\n"), r"a\.txt cannot be read .*box is no outline"),
    "pixels in YOLO": (text("labels/a.txt", "0 10 10 20 10 20 20\n"), "no shares of the sides"),
    "a short line of YOLO": (text("labels/a.txt", yolo(SQUARE) + "\n0 0.5 0.5 0.1\n"), "line 2 is no class with three"),
    "no archive": (text("labels/a.zip", b"PK nothing"), r"a\.zip cannot be read as ROIs of ImageJ"),
    "a ROI in an archive": (archive, "is no ROI of ImageJ, or was cut"),
    "a ROI": (cut_roi, r"a\.roi: object 1 cannot be read"),
    "masks of many values": (lambda f: picture(f / "masks" / "a" / "1.png", WANTED), r"1\.png is no mask of one particle"),
    "masks of another size": (lambda f: picture(f / "masks" / "a" / "1.png", WANTED[:9]), r"1\.png is 50x9 and its image"),
    "two formats": (both("VIA", "CVAT"), r"annotations\.xml and .*via\.json give a different labels; keep one of them"),
    "two files": (
        lambda f: [put(f / "one.json", coco(FLAT[:1])), put(f / "two.json", coco(FLAT[1:]))],
        r"one\.json and .*two\.json give a different labels; keep one of them",
    ),
    "label images too": (
        lambda f: [picture(f / "labels" / "a.png", WANTED), FORMATS["VIA"][1](f)],
        r"a\.png and .*via\.json \(VIA\) are both labels of a; keep one of them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_sentence_with_file_and_remedy(folder, case):
    spoil, says = BAD[case]
    spoil(folder)
    with pytest.raises(DataError, match=says) as error:
        read(folder)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and ";" in message


def test_what_says_the_same_twice_is_no_conflict_and_other_files_do_not_matter(folder):
    for name in ("train", "all"):
        put(folder / "annotations" / f"{name}.json", coco([FLAT[:1]]))
    others = {"images/a.txt": "$CM_FULL_SIZE 50 40", "images/a.xml": "<metadata/>", "labels/readme.txt": "by hand"}
    for name, content in {**others, "run.json": "{}", "images/b.csv": "x,y\n1,2"}.items():
        put(folder / name, content)
    assert (read(folder) == (WANTED == 1)).all()
    assert list_folder(folder)[1] == ["Labels are read as COCO from annotations/all.json."]


def test_without_the_package_rois_say_what_to_install(folder, monkeypatch):
    FORMATS["ROIs in a file"][1](folder)
    monkeypatch.setitem(__import__("sys").modules, "roifile", None)
    with pytest.raises(DataError, match=r'need the package roifile; pip install "lorasam\[formats\]"\.'):
        read(folder)
