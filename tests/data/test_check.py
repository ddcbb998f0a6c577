"""What is seen in a folder, against what was put there."""

import weakref

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from lorasam_core.data import check, load_dataset, readers
from lorasam_core.data.check import check_folder, touching
from lorasam_core.data.sample import DataError

RNG = np.random.default_rng(0)
LABELS = np.zeros((128, 256), np.uint16)
LABELS[10:20, 10:20], LABELS[20:30, 20:30] = 1, 2  # they meet at a corner
LABELS[60:62, 60:62] = 3  # 2.26 pixels across, 4.5 of the model's
DISC = np.sqrt(400 / np.pi)  # of 100 pixels


def grey(seed=0):
    return np.random.default_rng(seed).integers(20, 220, LABELS.shape).astype(np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, **options)
    else:
        Image.fromarray(array).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Three images with labels: PNG, JPEG in colour, 16-bit TIFF with a scale."""
    images, labels = tmp_path / "powder" / "images", tmp_path / "powder" / "labels"
    save(images / "a.png", grey(0))
    save(images / "b.jpg", RNG.integers(0, 255, (*LABELS.shape, 3)).astype(np.uint8))
    save(images / "c.tif", grey(2).astype(np.uint16) * 9, imagej=True, resolution=(2, 2), metadata={"unit": "nm"})
    for name in "abc":
        save(labels / f"{name}.png", LABELS)
    return tmp_path / "powder"


def row(checked, i):
    return checked.table.set_index("id").loc[i]


def found(checked, text):
    """Severity, text and remedy of the only finding with this text."""
    (finding,) = [f for f in checked.findings if text in f.text]
    assert finding.remedy
    return finding


def test_files(folder):
    table = check_folder(folder).table
    assert table["id"].tolist() == ["a", "b", "c"]
    assert table[["format", "width", "height", "bits", "channels"]].values.tolist() == [
        ["PNG", 256, 128, 8, 1], ["JPEG", 256, 128, 8, 3], ["TIFF", 256, 128, 16, 1],
    ]  # fmt: skip
    assert (table["problem"] == "").all()


@pytest.mark.parametrize(
    "mode, bits, channels", [("1", 1, 1), ("L", 8, 1), ("P", 8, 1), ("RGBA", 8, 4), ("I;16", 16, 1)]
)
def test_bits_and_channels_are_those_of_the_file(tmp_path, mode, bits, channels):
    picture = Image.fromarray(grey().astype(np.uint16)) if mode == "I;16" else Image.fromarray(grey()).convert(mode)
    picture.save(tmp_path / "a.png")
    assert check_folder(tmp_path).table.loc[0, ["bits", "channels"]].tolist() == [bits, channels]


def test_particles(folder):
    seen = row(check_folder(folder), "a")
    assert (seen["particles"], seen["read_as"]) == (3, "instances")
    assert seen["median_diameter"] == pytest.approx(DISC)
    assert seen["diameter_in_model"] == pytest.approx(2 * DISC)  # 256 pixels become 512
    assert seen["small"] == pytest.approx(1 / 3) and seen["touching"] == pytest.approx(2 / 3)


def test_contrast_and_saturation(tmp_path):
    image = np.repeat(np.uint8([0, 50, 150, 255]), 64 * 25).reshape(64, 100)
    save(tmp_path / "a.png", np.repeat(np.uint8([100, 120]), 3200).reshape(64, 100))
    save(tmp_path / "b.png", image)
    checked = check_folder(tmp_path)
    assert row(checked, "a")["contrast"] == pytest.approx(20 / 255) and row(checked, "a")["saturated"] == 0
    assert row(checked, "b")["contrast"] == 1 and row(checked, "b")["saturated"] == 0.5
    assert found(checked, "Grey values").text.endswith("range: a")


@settings(max_examples=40, deadline=None)
@given(arrays(np.int32, (9, 11), elements=st.sampled_from([0, 0, 0, 1, 2, 5])))
def test_touching(labels):
    """Against the dilation of each particle."""
    expected = []
    for i in np.unique(labels[labels > 0]):
        around = labels[ndimage.binary_dilation(labels == i, np.ones((3, 3)))]
        if np.any((around != 0) & (around != i)):
            expected.append(i)
    assert touching(labels).tolist() == expected


def test_one_that_is_broken_does_not_stop_the_others(folder):
    (folder / "images" / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    checked = check_folder(folder)
    assert "b.jpg cannot be read" in row(checked, "b")["problem"]
    assert (checked.table["problem"] != "").sum() == 1 and checked.table["contrast"].notna().sum() == 2
    assert checked.findings[0].severity == "error" and checked.findings[0].remedy.startswith("export it again")


def test_labels_that_cannot_be_used(folder):
    save(folder / "labels" / "a.png", LABELS[:100])
    save(folder / "labels" / "c.png", LABELS)
    (folder / "labels" / "b.png").write_bytes(b"nothing")
    checked = check_folder(folder)
    assert "a.png is 256x100 and its image 256x128 pixels" in row(checked, "a")["problem"]
    assert [row(checked, i)["read_as"] for i in "abc"] == ["none", "none", "instances"]
    assert [f.severity for f in checked.findings].count("error") == 2
    assert row(checked, "a")["contrast"] > 0.5


def test_kinds_of_labels(folder):
    save(folder / "labels" / "a.png", ((LABELS > 0) * 255).astype(np.uint8))
    save(folder / "labels" / "b.png", np.where(LABELS == 2, 9, LABELS))
    save(folder / "labels" / "c.png", np.zeros_like(LABELS))
    checked = check_folder(folder)
    assert [row(checked, i)["read_as"] for i in "ab"] == ["binary mask", "instances"]
    assert row(checked, "a")["particles"] == 2  # those that meet are one
    assert row(checked, "c")["particles"] == 0 and np.isnan(row(checked, "c")["median_diameter"])
    assert found(checked, "Binary masks").text.endswith(": a")
    assert found(checked, "Ids that are not 1 to n").text.endswith(": b")
    assert found(checked, "without a particle").text.endswith(": c")
    assert not any(f.severity == "error" for f in checked.findings)


def test_labels_that_are_missing_or_spare(folder):
    (folder / "labels" / "b.png").rename(folder / "labels" / "d.png")
    checked = check_folder(folder)
    assert found(checked, "No labels").severity == "warning" and found(checked, "No labels").text.endswith(": b")
    assert "d.png" in found(checked, "images are missing").text
    assert row(checked, "b")["labels"] == ""


def test_bare_images(folder):
    (folder / "labels").rename(folder.parent / "labels")
    for place in (folder, folder / "images"):
        checked = check_folder(place)
        assert checked.table["particles"].isna().all() and (checked.table["read_as"] == "none").all()
        assert found(checked, "No labels").severity == "note"


def test_equal_images(folder):
    save(folder / "images" / "a copy.tif", grey(0))
    save(folder / "images" / "e.png", grey(1))
    finding = found(check_folder(folder), "Equal images")
    assert finding.severity == "warning" and finding.text.endswith(": a, a copy")


def test_particles_too_small_for_the_whole_image(folder):
    small = np.zeros((128, 2560), np.uint16)
    small[10:20, 10:20], small[50:60, 50:60] = 1, 2  # 2.26 pixels across where 2,560 become 512
    save(folder / "images" / "a.png", np.tile(grey(), 10))
    save(folder / "labels" / "a.png", small)
    checked = check_folder(folder)
    assert row(checked, "a")["diameter_in_model"] == pytest.approx(DISC / 5) and row(checked, "a")["small"] == 1
    assert found(checked, "under 8 pixels").text.endswith(": a") and "tiles" in found(checked, "under 8 pixels").remedy
    assert found(checked, "sizes").text == "Images of 2 sizes"


def test_scales(folder):
    checked = check_folder(folder)
    assert row(checked, "c")["pixel_size"] == pytest.approx(0.5) and row(checked, "c")["pixel_size_from"] == "ImageJ"
    assert found(checked, "No pixel size").severity == "warning" and found(checked, "No pixel size").text.endswith(
        "a, b"
    )
    (folder / "pixel_size.csv").write_text("id,pixel_size\na,3\nb,4\nc,0.505\n")
    checked = check_folder(folder)
    assert checked.table["pixel_size"].tolist() == [3, 4, 0.505]
    assert set(checked.table["pixel_size_from"]) == {"pixel_size.csv"} and checked.findings == []
    (folder / "pixel_size.csv").write_text("id,pixel_size\na,3\nb,4\nc,0.6\n")
    assert found(check_folder(folder), "another pixel size").text.endswith(": c")


def test_one_scale_for_all(folder):
    checked = check_folder(folder, pixel_size=7)
    assert set(checked.table["pixel_size"]) == {7} and set(checked.table["pixel_size_from"]) == {"--pixel-size"}
    with pytest.raises(DataError, match="give nm a pixel above 0"):
        check_folder(folder, pixel_size=0)


def test_scale_that_cannot_be_used(folder):
    save(folder / "images" / "c.tif", grey(2), imagej=True, resolution=(2, 3), metadata={"unit": "nm"})
    assert "--pixel-size" in row(check_folder(folder), "c")["problem"]
    (folder / "pixel_size.csv").write_text("id,pixel_size\nc,2\n")
    assert row(check_folder(folder), "c")["problem"] == ""


def test_table_that_cannot_be_used(folder):
    (folder / "pixel_size.csv").write_text("id,pixel_size\na,-3\n")
    checked = check_folder(folder)
    assert found(checked, "gives '-3' for a").severity == "error" and len(checked.table) == 3


def test_reading(folder):
    save(folder / "labels" / "a.png", np.where(LABELS > 0, 0, 255).astype(np.uint8))
    save(folder / "labels" / "b.png", np.where(LABELS == 3, 77, LABELS))
    assert row(check_folder(folder, mask="dark"), "a")["particles"] == 2
    assert row(check_folder(folder, ignore=77), "b")["particles"] == 2
    save(folder / "images" / "a.tif", np.stack([grey(5), grey(6)]))
    (folder / "images" / "a.png").unlink()
    assert "--page" in row(check_folder(folder, mask="dark"), "a")["problem"]
    assert row(check_folder(folder, mask="dark", page=2), "a")["problem"] == ""


def test_nothing_to_look_at(tmp_path):
    with pytest.raises(DataError, match="no images"):
        check_folder(tmp_path)


def test_one_image_is_in_memory(folder, monkeypatch):
    images = []

    def read(path, page):
        assert all(image() is None for image in images)
        image = readers.read_image(path, page)
        images.append(weakref.ref(image))
        return image

    monkeypatch.setattr(check, "read_image", read)
    assert len(check_folder(folder).table) == len(images) == 3


def test_what_is_usable_can_be_loaded(folder):
    assert not any(f.severity == "error" for f in check_folder(folder).findings)
    assert [len(np.unique(s.labels)) - 1 for s in load_dataset(folder)] == [3, 3, 3]
