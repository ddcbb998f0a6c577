"""Labels that are written: read back as they were, and as the tools' own libraries read them."""

import json
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools.coco import COCO
from skimage.measure import label

from lorasam_core.data.folders import list_folder
from lorasam_core.data.readers import read_record
from lorasam_core.data.sample import DataError
from lorasam_core.data.write_labels import write_coco, write_imagej_rois, write_label_tiff, write_labelme

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=16, max_side=24)
BLOBS = SHAPES.flatmap(lambda shape: arrays(np.int32, shape, elements=st.integers(0, 3), fill=st.just(0)))
FILLED = SHAPES.flatmap(lambda shape: arrays(np.int32, shape, elements=st.integers(0, 2), fill=st.just(1)))
RING = np.zeros((30, 40), np.int32)  # a ring with an island of itself and another particle in it, and a pair of corners
RING[2:20, 2:20] = 5
RING[6:16, 6:16] = 0
RING[8:10, 8:10] = 5
RING[12:14, 12:14] = 2
RING[22:24, 30:33], RING[24:26, 33:36] = 9, 9
WRITERS = {
    "tiff": lambda place, labels: write_label_tiff(place / "a.tif", labels),
    "coco": lambda place, labels: write_coco(place / "coco.json", [("a.png", labels)]),
    "imagej": lambda place, labels: write_imagej_rois(place / "a.zip", labels),
    "labelme": lambda place, labels: write_labelme(place / "a.json", labels, "../images/a.png"),
}
fresh = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def again(base, to, labels):
    """What is read of labels that were written."""
    place = base / f"{to}-{len(list(base.iterdir()))}"
    for name in ("images", "labels"):
        (place / name).mkdir(parents=True)
    Image.fromarray(np.full(labels.shape, 90, np.uint8)).save(place / "images" / "a.png")
    WRITERS[to](place / "labels", labels)
    return read_record(list_folder(place)[0][0])[0].labels


def in_order(labels):
    """Ids from 1 in their order, as formats without ids have them."""
    return np.unique(np.append(0, labels), return_inverse=True)[1].ravel()[1:].reshape(labels.shape)


@pytest.mark.parametrize("to", ["coco", "imagej", "labelme"])
@pytest.mark.parametrize("labels", [BLOBS, FILLED], ids=["blobs", "filled"])
def test_any_labels_come_back_exactly(tmp_path, to, labels):
    @fresh
    @given(labels)
    def check(found):
        np.testing.assert_array_equal(again(tmp_path, to, found), in_order(found))

    check()


@pytest.mark.parametrize("to", WRITERS)
def test_holes_islands_and_corners_come_back(tmp_path, to):
    np.testing.assert_array_equal(again(tmp_path, to, RING), RING if to == "tiff" else in_order(RING))


@pytest.mark.parametrize("to", WRITERS)
def test_no_particle_comes_back(tmp_path, to):
    assert not again(tmp_path, to, RING * 0).any()


def test_ids_of_label_images_stay_and_take_the_bits_they_need(tmp_path):
    for largest, dtype in ((65535, np.uint16), (65536, np.uint32)):
        write_label_tiff(tmp_path / "a.tif", RING * 0 + largest)
        found = tifffile.imread(tmp_path / "a.tif")
        assert found.dtype == dtype and (found == largest).all()


def test_cocos_own_library_reads_what_was_written(tmp_path, capsys):
    write_coco(tmp_path / "coco.json", [("x/a.png", RING), ("b.png", RING[:20] * 0 + 1)])
    coco = COCO(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["x/a.png", "b.png"]
    for annotation, i in zip(coco.loadAnns(coco.getAnnIds([1])), (2, 5, 9), strict=True):
        mask = i == RING
        assert (coco.annToMask(annotation) == mask).all() and annotation["area"] == mask.sum()
        y, x = np.nonzero(mask)
        assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    (annotation,) = coco.loadAnns(coco.getAnnIds([2]))
    assert coco.annToMask(annotation).all() and annotation["category_id"] in coco.cats


def test_imagejs_own_format_reads_what_was_written(tmp_path):
    write_imagej_rois(tmp_path / "a.zip", RING)
    rois = roifile.roiread(tmp_path / "a.zip")
    assert [roi.name for roi in rois] == ["00002", "00005", "00009"]
    assert rois[0].roitype == roifile.ROI_TYPE.TRACED
    assert sorted(rois[0].coordinates().tolist()) == [[12, 12], [12, 14], [14, 12], [14, 14]]
    assert len(rois[1].coordinates(multi=True)) == 3 and rois[1].composite
    assert (rois[1].left, rois[1].top, rois[1].right, rois[1].bottom) == (2, 2, 20, 20)
    with pytest.raises(DataError, match=r"b\.zip cannot hold coordinates above 32767; write COCO"):
        write_imagej_rois(tmp_path / "b.zip", np.zeros((16, 40000), np.int32))


def test_labelmes_schema(tmp_path):
    write_labelme(tmp_path / "a.json", RING, "../images/a.png")
    document = json.loads((tmp_path / "a.json").read_text())
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == document.keys()
    assert (document["imageHeight"], document["imageWidth"], document["imagePath"]) == (30, 40, "../images/a.png")
    kinds = [(s["shape_type"], s["group_id"]) for s in document["shapes"]]
    assert kinds == [("polygon", None), ("mask", None), ("polygon", 9), ("polygon", 9)]
    for s in document["shapes"]:
        assert {"label", "points", "group_id", "shape_type", "flags", "description", "mask"} == s.keys()
    assert document["shapes"][1]["points"] == [[2, 2], [19, 19]]


def test_outlines_have_as_many_corners_as_they_turn(tmp_path):
    labels = np.zeros((20, 20), np.int32)
    labels[3:9, 4:16] = 1
    labels[9:12, 4:6] = 1
    write_labelme(tmp_path / "a.json", labels, "a.png")
    (found,) = json.loads((tmp_path / "a.json").read_text())["shapes"]
    assert len(found["points"]) == 6


def test_thousands_of_particles(tmp_path):
    labels = label(np.kron(np.indices((100, 100)).sum(axis=0) % 2, np.ones((6, 6), int)), connectivity=1).astype(
        np.int32
    )
    assert labels.max() == 5000
    np.testing.assert_array_equal(again(Path(tmp_path), "labelme", labels), labels)
