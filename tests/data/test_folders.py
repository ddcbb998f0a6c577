"""Folders of micrographs: what is listed, and what is refused before any work."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data import load_dataset
from lorasam_core.data.folders import list_folder
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
    assert len(data) == 4 and data.notes == ["1 masks in labels/ have no image and are left out."]


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
    "a mask with no particle": (replace_labels(IDS * 0), r"p2\.png has no particle; label one, or remove it"),
    "two images with one id": (lambda f: save(f / "images" / "p2.tif", IDS), r"images.p2\.png and p2\.tif have one id"),
    "two masks with one id": (lambda f: save(f / "labels" / "p2.tif", IDS), r"labels.p2\.png and p2\.tif have one id"),
    "a JPEG mask": (jpeg_mask, r"p2\.jpg is a JPEG, whose compression changes ids; save the mask as PNG"),
    "a coloured mask": (replace_labels(np.dstack([IDS, IDS // 2, IDS]).astype(np.uint8)), r"p2\.png is coloured; save"),
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
