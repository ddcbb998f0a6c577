"""Labels of other tools that are damaged, of another kind, or there twice: refused in one sentence."""

import zipfile

import numpy as np
import pytest

from lorasam_core.data.folders import list_folder
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
    picture,
    put,
    read,
    rois,
    shape,
    two_images,
    via_box,
    via_csv,
    yolo,
)


@pytest.fixture
def folder(tmp_path):
    return two_images(tmp_path / "powder")


def named(k, name, **more):
    return {"id": k, "file_name": name} | more


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


def others(f):
    put(f / "labels" / "a.zip", b"")
    with zipfile.ZipFile(f / "labels" / "a.zip", "w") as file:
        file.writestr("a.png", b"")


def cut_roi(f):
    data = rois()[0].tobytes()
    put(f / "labels" / "a.roi", data[:66])


A_BOX = r"cannot be read \(it is a box, and a box is no outline of a particle\); correct it, or remove it\."
IN_COCO = r"coco\.json, a\.png: object 1 "
BAD = {
    "no JSON": (text("coco.json", '{"images": [}'), r"coco\.json cannot be read as COCO, labelme or VIA \(.*; export"),
    "nested too deep": (text("coco.json", "[" * 10**5), r"coco\.json cannot be read"),
    "other JSON": (text("labels/x.json", "[1, 2]"), r"x\.json is not COCO, labelme or VIA; export"),
    "an image without name": (changed(images=[{"id": 0}, {"id": 1}]), "read .*'file_name' is missing"),
    "an image that is not listed": (changed(images=[]), r"annotation 1 is of an image that is not listed"),
    "one id twice": (changed(images=[{"id": 0, "file_name": n} for n in "ab"], annotations=[]), "images have one id"),
    "a negative size": (changed(images=[named(k, "a.png", height=-4, width=2) for k in (0, 1)]), "2x-4"),
    "names of other images": (changed(images=[named(k, f"q{k}") for k in (0, 1)]), r"names none .*\(q0\);"),
    "an image twice": (
        changed(images=[named(k, n) for k, n in enumerate(("a.png", "a.jpg"))]), "describes a twice; keep"
    ),
    "another size": (
        changed(images=[named(k, f"{i}.png", height=4, width=5) for k, i in enumerate("ab")]),
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
    "labelme's mask": (text("labels/a.json", labelme(shape([[1, 1], [2, 2]], "mask", mask="!!"))), "object 1 cannot"),
    "labelme's picture": (text("labels/a.json", labelme(shape([[1, 1], [2, 2]], "mask", mask="aGFsbG8="))), "no PNG"),
    "a large mask of CVAT": (text("a.xml", cvat('<mask rle="9" top="0" left="0" width="9" height="99"/>')), "larger"),
    "a box of VIA": (text("via.json", via_box()), r"via\.json, a\.png: object 2 " + A_BOX),
    "a box in VIA's table": (
        text("via.csv", via_csv().replace('""polygon""', '""rect""')), r"via\.csv, a\.png: object 1 " + A_BOX
    ),
    "a box of labelme": (
        text("labels/a.json", labelme(shape(SQUARE), shape([[1, 1], [9, 5]], "rectangle"))), "object 2 " + A_BOX
    ),
    "a turned box of labelme": (text("labels/a.json", labelme(shape(SQUARE, "rotation"))), "object 1 " + A_BOX),
    "a box of CVAT": (text("a.xml", cvat('<box xtl="2" ytl="2" xbr="6" ybr="4"/>')), "object 1 " + A_BOX),
    "VIA": (text("via.json", {"a": {"filename": "a.png", "regions": [{}]}}), "'shape_attributes' is missing"),
    "VIA's table": (text("via.csv", via_csv().replace('""name""', "name")), r"via\.csv cannot be read as VIA"),
    "XML": (text("a.xml", cvat("<polygon")), r"a\.xml cannot be read as CVAT for images 1\.1"),
    "entities": (
        text("a.xml", '<!DOCTYPE x [<!ENTITY e "ha">]>' + cvat("").partition("\n")[2]), "declares a document type or"
    ),
    "entities in UTF-16": (
        text("a.xml", b"<annotations/>" + '<!DOCTYPE x [<!ENTITY e "ha">]>'.encode("utf-16")), "cannot be read"
    ),
    "a video of CVAT": (text("a.xml", "<annotations><track/></annotations>"), "is CVAT for video, not CVAT for images"),
    "points of CVAT": (text("a.xml", cvat('<polygon points="1,2;3"/>')), r"a\.xml, sub/a\.png: object 1 .*no pairs of"),
    "boxes of YOLO": (text("labels/a.txt", "0 0.5 0.5 0.1 0.1\n"), r"a\.txt cannot be read .*box is no outline"),
    "pixels in YOLO": (text("labels/a.txt", "0 10 10 20 10 20 20\n"), "of line 1 are no shares of the sides"),
    "words in YOLO": (text("labels/a.txt", "a particle\n"), r"a\.txt cannot be read as YOLO segments"),
    "a short line of YOLO": (text("labels/a.txt", yolo(SQUARE) + "\n0 0.5 0.5 0.1\n"), "line 2 is no class with three"),
    "an empty folder": (lambda f: (f / "labels" / "a").mkdir(parents=True), "labels.a is not masks or ROIs of one"),
    "an archive of others": (others, r"a\.zip is not ROIs of ImageJ; export the labels as COCO"),
    "no archive": (text("labels/a.zip", b"PK nothing"), r"a\.zip cannot be read as ROIs of ImageJ"),
    "a ROI in an archive": (archive, "is no ROI of ImageJ, or was cut"),
    "a ROI": (cut_roi, r"a\.roi: object 1 cannot be read"),
    "masks of many values": (lambda f: picture(f / "masks" / "a" / "1.png", WANTED), r"1\.png is no mask of one"),
    "masks of another size": (lambda f: picture(f / "masks" / "a" / "1.png", WANTED[:9]), r"1\.png is 50x9 and its"),
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


@pytest.mark.parametrize("name", FORMATS)
def test_any_damage_is_an_error_with_a_sentence_or_none(folder, name):
    """Bytes changed, cut and doubled at random: never another exception, and never labels of another size."""
    FORMATS[name][1](folder)
    files = sorted(p for p in folder.rglob("*") if (p.is_file() and p.parent.name != "images") or p.suffix == ".json")
    whole, rng, refused = {path: path.read_bytes() for path in files}, np.random.default_rng(0), 0
    for _ in range(60):
        path = files[rng.integers(len(files))]
        data = bytearray(whole[path])
        start, end = sorted(rng.integers(0, len(data), 2))
        match rng.integers(4):
            case 0:
                data = data[:start]
            case 1:
                del data[start : min(end, start + 9)]
            case 2:
                data[start:start] = data[start : start + 9]
            case _:
                for k in rng.integers(0, len(data), 3):
                    data[k] = rng.choice([*b'0123456789-.,:;"[]{}<>nNaefI', 0, 255])
        path.write_bytes(data)
        try:
            for record in list_folder(folder, labelled_only=True)[0]:
                assert read_record(record)[0].labels.shape == SHAPE
        except DataError as error:
            assert str(error).endswith(".") and ";" in str(error)
            refused += 1
        path.write_bytes(whole[path])
    assert refused > 5


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_sentence_with_file_and_remedy(folder, case):
    spoil, says = BAD[case]
    spoil(folder)
    with pytest.raises(DataError, match=says) as error:
        read(folder)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and ";" in message
