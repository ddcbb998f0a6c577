"""Labels of other tools: each format is found by what it holds, and read as its tool means it."""

import base64
import io

import numpy as np
import pytest
import roifile
from PIL import Image
from pycocotools import mask as coco_mask

from lorasam_core.commands.check import contact_sheet
from lorasam_core.data import load_dataset
from lorasam_core.data.check import check_folder
from lorasam_core.data.folders import list_folder, list_images
from lorasam_core.data.readers import read_record
from lorasam_core.data.sample import DataError
from tests.made_labels import (
    FLAT,
    FORMATS,
    SHAPE,
    SQUARE,
    WANTED,
    coco,
    cvat,
    labelme,
    packed,
    picture,
    put,
    read,
    rois,
    shape,
    two_images,
    write_rois,
    yolo,
)


@pytest.fixture
def folder(tmp_path):
    return two_images(tmp_path / "powder")


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
        '<polygon group_id="3" points="1,30;4,30;4,33;1,33"/><polygon group_id="3" points="6,30;9,30;9,33;6,33"/>'
    )
    put(folder / "annotations.xml", cvat(shapes))
    labels = read(folder)
    y, x = np.mgrid[:40, :50] + 0.5
    assert ((labels == 1) == (((x - 20) / 4) ** 2 + ((y - 20) / 8) ** 2 < 1)).all()
    assert (labels == 2).sum() == 18


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


def test_annotations_are_a_data_set(folder):
    for k in range(2):
        picture(folder / "images" / f"{'cd'[k]}.png", np.random.default_rng(9 + k).integers(0, 200, SHAPE))
    images = [{"id": k, "file_name": f"{i}.png"} for k, i in enumerate("abcd")]
    found = [{"image_id": k, "segmentation": [FLAT[k % 2]]} for k in range(3)]
    put(folder / "coco.json", {"images": images, "annotations": found})
    data = load_dataset(folder)
    assert [(s.id, int((s.labels > 0).sum())) for s in data] == [("a", 100), ("b", 75), ("c", 100), ("d", 0)]
    assert data.notes == ["Labels are read as COCO from coco.json.", "In 1 of 4 images no particle is labelled: d."]


def test_yolo_in_parts_and_beside_images(folder):
    for k, i in enumerate(("train/a", "val/b")):
        picture(folder / "parts" / "images" / f"{i}.png", np.full(SHAPE, 90 + k))
        put(folder / "parts" / "labels" / f"{i}.txt", yolo(SQUARE) if k else "")
    records, _ = list_folder(folder / "parts")
    assert [(r.id, read_record(r)[0].labels.max()) for r in records] == [("train/a", 0), ("val/b", 1)]
    put(folder / "images" / "a.txt", yolo(SQUARE))
    put(folder / "images" / "b.txt", "0 0.5 0.5 0.1 0.1")
    assert (read(folder) == (WANTED == 1)).all() and "Left out, without labels: b.png." in list_folder(
        folder, labelled_only=True
    )[1]


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
