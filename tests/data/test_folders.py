"""Folders of micrographs: what is listed, and what is refused before any work."""

import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data import load_dataset
from lorasam_core.data.folders import list_folder, list_images
from lorasam_core.data.sample import DataError

IDS = np.zeros((24, 32), np.uint16)
IDS[2:8, 2:8], IDS[10:20, 12:30] = 300, 7


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path):
    """Four images with instance ids, PNG and TIFF, 8 and 16 bit."""
    rng = np.random.default_rng(0)
    for k in range(4):
        name, dtype = f"p{k}" + (".tif" if k % 2 else ".png"), np.uint8 if k < 2 else np.uint16
        save(tmp_path / "powder" / "images" / name, rng.integers(0, 200, IDS.shape).astype(dtype))
        save(tmp_path / "powder" / "labels" / f"p{k}.png", IDS)
    return tmp_path / "powder"


def test_samples_of_a_folder(folder):
    data = load_dataset(folder)
    assert (data.name, data.source, data.notes) == ("powder", str(folder), [])
    assert [s.id for s in data] == ["p0", "p1", "p2", "p3"] == [s.group for s in data]
    for sample in data:
        np.testing.assert_array_equal(sample.labels, IDS)
    assert sorted(len(p) for p in data.split.parts().values()) == [1, 1, 2]


def test_other_files_do_not_matter(folder):
    (folder / "images" / "Thumbs.db").write_text("x")
    (folder / "images" / "._p0.png").write_text("x")
    save(folder / "labels" / "unused.png", IDS)
    data = load_dataset(folder)
    assert len(data) == 4 and data.notes == ["Left out, for their images are missing: unused.png in labels/."]
    for k in range(9):
        save(folder / "labels" / f"unused{k}.png", IDS)
    save(folder / "images" / "p0_mask.png", IDS)
    missing, beside = load_dataset(folder).notes
    assert missing.endswith("unused.png, unused0.png, unused1.png and 7 more in labels/.")
    assert beside == "Left out, as labels of other images: p0_mask.png."


def test_binary_masks_are_noted(folder):
    (folder / "labels").rename(folder / "masks")
    for k in range(4):
        save(folder / "masks" / f"p{k}.png", ((IDS > 0) * 255).astype(np.uint8))
    data = load_dataset(folder)
    assert all(list(np.unique(s.labels)) == [0, 1, 2] for s in data)
    assert len(data.notes) == 1 and data.notes[0].startswith("Instances are connected components of binary masks")
    save(folder / "masks" / "p0.png", IDS)
    assert load_dataset(folder).notes[0].startswith("In 3 of 4 images instances are connected components")


def test_groups_and_pixel_sizes(folder):
    (folder / "groups.csv").write_text("id,group\np0,a\np1.tif,b\np2,a\np3,c\nother,z\n")
    (folder / "pixel_size.csv").write_text("id,pixel_size\np0,2.5\np3,\n")
    data = load_dataset(folder)
    assert data.groups == {"p0": "a", "p1": "b", "p2": "a", "p3": "c"}
    assert [s.pixel_size for s in data] == [2.5, None, None, None]
    assert data.subset("train").ids == ("p0", "p2") or len(data.subset("train")) == 2
    (folder / "pixel_size.csv").unlink()
    (folder / "groups.csv").write_text("id,group,pixel_size\n" + "".join(f"p{k},g{k},{k + 1}\n" for k in range(4)))
    assert [s.pixel_size for s in load_dataset(folder)] == [1, 2, 3, 4]


@pytest.mark.parametrize(("mark", "point"), [(";", ","), (";", "."), ("\t", ","), (",", ".")])
def test_tables_as_spreadsheets_write_them(folder, mark, point):
    rows = [("id", "pixel_size"), ("p0", "2.5"), ("p1", "1e1"), ("p2", " 0.75 "), ("p3", "")]
    text = "\n".join(mark.join(row).replace(".", point) for row in rows)
    (folder / "pixel_size.csv").write_text(text, encoding="utf-8-sig")
    assert [s.pixel_size for s in load_dataset(folder)] == [2.5, 10, 0.75, None]


def test_names_are_one_however_their_letters_are_stored(folder):
    composed, parts = (unicodedata.normalize(form, "Körner") for form in ("NFC", "NFD"))
    for place in ("images", "labels"):
        next((folder / place).glob("p0.*")).rename(folder / place / f"{composed if place == 'images' else parts}.png")
    (folder / "groups.csv").write_text(f"id,group\n{parts},a\np1,b\np2,c\np3,d\n")
    (folder / "pixel_size.csv").write_text(f"id,pixel_size\n{parts}.png,3\n")
    data = load_dataset(folder)
    assert data.groups[composed] == "a" and data[data.ids.index(composed)].pixel_size == 3
    save(folder / "images" / f"{parts}.tif", IDS)
    with pytest.raises(DataError, match="have one id"):
        load_dataset(folder)


@pytest.mark.parametrize("ending", ["_mask.png", "_label.tif", "_labels.png", "_seg.png", "-mask.png", "_cp_masks.tif"])
@pytest.mark.parametrize("place", ["labels", "masks", "images", "."])
def test_labels_may_be_named_for_what_they_are(folder, place, ending):
    for k in range(4):
        (folder / "labels" / f"p{k}.png").unlink()
        save(folder / ("images" if place == "." else place) / f"p{k}{ending}", IDS)
    if place != "labels":
        (folder / "labels").rmdir()
    if place == ".":
        for path in [*(folder / "images").iterdir()]:
            path.rename(folder / path.name)
        (folder / "images").rmdir()
    data = load_dataset(folder)
    assert data.ids == ("p0", "p1", "p2", "p3") and data.notes == []
    assert all((s.labels == IDS).all() for s in data)
    next(p for p in folder.rglob("p3*") if p.name == f"p3{ending}").unlink()
    with pytest.raises(
        DataError, match=rf"p3\.tif has no mask; add .*p3{'_mask' * (place in ('images', '.'))}\.png, or"
    ):
        load_dataset(folder)


def test_images_without_labels_are_left_out_where_that_is_asked(folder):
    (folder / "labels" / "p1.png").unlink()
    with pytest.raises(DataError, match=r"p1\.tif has no mask"):
        list_folder(folder)
    records, notes = list_folder(folder, labelled_only=True, pixel_size=2.5)
    assert [(r.id, r.pixel_size) for r in records] == [("p0", 2.5), ("p2", 2.5), ("p3", 2.5)]
    assert notes == ["Left out, without labels: p1.tif."]


def test_the_folder_with_label_images_is_taken(folder):
    (folder / "labels").rename(folder / "masks")
    (folder / "labels").mkdir()
    for k in range(4):
        (folder / "labels" / f"p{k}.json").write_text("{}")
    assert all((s.labels == IDS).all() for s in load_dataset(folder))
    for k in range(4):
        Image.fromarray(IDS.astype(np.uint8)).save(folder / "labels" / f"p{k}.jpg")  # pictures to look at
    assert load_dataset(folder).notes == []
    for k in range(4):
        save(folder / "labels" / f"p{k}.png", IDS * 2)
        (folder / "labels" / f"p{k}.jpg").unlink()
    data = load_dataset(folder)
    assert data[0].labels.max() == 600 and data.notes == ["Labels are read from labels/, and masks/ is left out."]


def test_images_without_labels_are_listed_in_natural_order(tmp_path):
    for name in ("p10.png", "p9.tif", "P1_mask.png", "p9_mask.png", "q_seg.png", ".hidden.png"):
        save(tmp_path / "a" / name, IDS)
    for name in ("notes.docx", "p9.txt", "pixel_size.csv", "scan.dm4"):
        (tmp_path / "a" / name).write_text("")
    save(tmp_path / "a" / "old" / "p3.png", IDS)
    save(tmp_path / "b" / "images" / "b.png", IDS)
    save(tmp_path / "b" / "c.png", IDS)
    images, notes = list_images([tmp_path / "a"])
    assert [p.name for p in images.values()] == ["P1_mask.png", "p9.tif", "p10.png", "q_seg.png", "scan.dm4"]
    assert list(images) == ["P1_mask", "p9", "p10", "q_seg", "scan"]
    assert notes == ["Left out, as labels of other images: p9_mask.png.", "Left out, as no images: notes.docx."]
    files = [tmp_path / "a" / "p10.png", str(tmp_path / "b"), tmp_path / "b" / "c.png", tmp_path / "b" / "c.png"]
    assert list_images(files) == ({"b": tmp_path / "b" / "images" / "b.png", "c": files[2], "p10": files[0]}, [])


def test_images_that_cannot_be_listed(tmp_path):
    save(tmp_path / "a" / "p1.png", IDS)
    save(tmp_path / "b" / "p1.tif", IDS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.docx").write_text("")
    for places, says in (
        (["a", "b"], r"a.p1\.png and .*b.p1\.tif have one id; rename or remove one of them"),
        (["empty"], r"empty has no images; give a folder with PNG or TIFF files"),
        (["notes.docx"], r"notes\.docx is no image; give a folder, or files of \.png, "),
        (["a/p2.png"], r"p2\.png is missing; give"),
        (["gone"], r"gone is no image; give a folder"),
    ):
        with pytest.raises(DataError, match=says):
            list_images([tmp_path / place for place in places])


def replace_labels(array):
    return lambda folder: save(folder / "labels" / "p2.png", array)


def truncate(name):
    def do(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return do


def jpeg_mask(folder):
    (folder / "labels" / "p2.png").unlink()
    Image.fromarray(IDS.astype(np.uint8)).save(folder / "labels" / "p2.jpg")


def float_with_nan(folder):
    array = np.ones(IDS.shape, np.float32)
    array[0, 0] = np.nan
    save(folder / "images" / "p1.tif", array)


def groups_csv(text):
    return lambda folder: (folder / "groups.csv").write_text(text)


def empty(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


BAD = {
    "an empty folder": (empty, r"powder has no images; put PNG or TIFF files in images/"),
    "no label folder": (lambda f: (f / "labels").rename(f / "notes"), r"powder has no labels; put a mask"),
    "an image without mask": (lambda f: (f / "labels" / "p2.png").unlink(), r"p2\.png has no mask; add .*p2\.png"),
    "a mask of another size": (replace_labels(IDS[:10]), r"p2\.png is 32x10 and its image 32x24 pixels; give both"),
    "a truncated image": (truncate("images/p2.png"), r"images.p2\.png cannot be read .*export it again"),
    "a truncated TIFF": (truncate("images/p1.tif"), r"p1\.tif cannot be read .*export it again"),
    "a truncated mask": (truncate("labels/p2.png"), r"labels.p2\.png cannot be read .*export it again"),
    "no picture": (lambda f: (f / "images" / "p0.png").write_text("hello"), r"p0\.png cannot be read"),
    "NaN": (float_with_nan, r"p1\.tif holds NaN or infinite values; replace them"),
    "an image too thin": (
        lambda f: save(f / "images" / "p2.png", np.zeros((300, 12), np.uint8)),
        r"p2\.png is 12x300 pixels; give at least 16",
    ),
    "two images with one id": (lambda f: save(f / "images" / "p2.tif", IDS), r"images.p2\.png and p2\.tif have one id"),
    "two masks with one id": (lambda f: save(f / "labels" / "p2.tif", IDS), r"labels.p2\.png and p2\.tif have one id"),
    "a JPEG mask": (jpeg_mask, r"p2\.jpg is a JPEG, whose compression changes ids; save the mask as PNG"),
    "a coloured picture": (
        replace_labels(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)),
        r"p2\.png has 768 colours, .*; save the instance ids in one channel",
    ),
    "two masks of one image": (
        lambda f: save(f / "labels" / "p2_mask.tif", IDS),
        r"p2\.png and p2_mask\.tif are labels of one image; rename",
    ),
    "a broken link": (lambda f: (f / "groups.csv").symlink_to("gone.csv"), r"groups\.csv is a broken link; mend it"),
    "another broken link": (lambda f: (f / "pixel_size.csv").symlink_to("gone"), r"pixel_size\.csv is a broken link;"),
    "two images": (
        lambda f: [p.unlink() for k in (0, 1) for p in (f / "images").glob(f"p{k}.*")],
        r"are only 2 groups .*; add images .* that tells them apart, or run `lorasam adapt` with --validation FOLDER",
    ),
    "Latin letters": (lambda f: (f / "groups.csv").write_bytes("id,group\np0,Körner\n".encode("cp1252")), "in UTF-8"),
    "a single group": (
        groups_csv("id,group\n" + "".join(f"p{k},steel\n" for k in range(4))),
        r"powder: there is only the group 'steel' and a split by group needs at least 3; add images of other specimens",
    ),
    "a group that is missing": (groups_csv("id,group\np0,a\n"), r"groups\.csv names no group for p1; add"),
    "groups without column": (groups_csv("p0,a\n"), r"groups\.csv has no column 'id'; name"),
    "a group twice": (groups_csv("id,group\np0,a\np0,b\n"), r"groups\.csv lists p0 twice; keep one line"),
    "an empty table": (groups_csv(""), r"groups\.csv cannot be read as a table"),
    "a wrong pixel size": (
        lambda f: (f / "pixel_size.csv").write_text("id,pixel_size\np0,5 nm\n"), r"gives '5 nm' for p0; give nm a pixel"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_with_file_and_remedy(folder, case):
    spoil, says = BAD[case]
    spoil(folder)
    with pytest.raises(DataError, match=says) as error:
        load_dataset(folder)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and ";" in message
    assert ". " not in message.replace("e.g. ", "")


def test_a_single_image_is_a_single_group(folder):
    for k in range(1, 4):
        next((folder / "images").glob(f"p{k}.*")).unlink()
    with pytest.raises(DataError, match="only the group 'p0'"):
        load_dataset(folder)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="is not a folder; give one"):
        list_folder(tmp_path / "missing")


def test_the_scale_is_the_images_own_where_no_table_has_it(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    image, labels = np.full((32, 40), 90, np.uint8), np.zeros((32, 40), np.uint8)
    labels[4:9, 4:9] = 1
    for name in ("a", "b"):
        tag = {"imagej": True, "resolution": (1 / 2.5, 1 / 2.5), "metadata": {"unit": "nm"}}
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image, **tag)
        tifffile.imwrite(tmp_path / "labels" / f"{name}.tif", labels)
    (tmp_path / "pixel_size.csv").write_text("id,pixel_size\na,7\n")
    records, _ = list_folder(tmp_path)
    assert {record.id: record.pixel_size for record in records} == {"a": 7.0, "b": pytest.approx(2.5)}
