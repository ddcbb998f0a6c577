"""Real pictures: archives of the two repositories' layouts, made by hand, and written as training reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pooch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from pretrain.real import LEAST, LONGEST, find_real, smaller, write
from pretrain.windows import RealPictures

CASE = "00ae65c1c6631ae6f2be1a449902976e6eb8483bf6b0740d00530220832c6d3e"  # of the nuclei, 64 characters


def store(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def nuclei_of(folder: Path) -> np.ndarray:
    """One case of two nuclei, and one without any: the labels of the first."""
    case = folder / "fixes-main" / "stage1_train" / CASE
    masks = np.zeros((2, 30, 40), np.uint8)
    masks[0, 2:10, 3:12] = masks[1, 8:20, 20:30] = 255
    image = np.zeros((30, 40, 4), np.uint8)  # they are stored with an opaque alpha
    image[..., 0], image[..., 2], image[..., 3] = 200, masks.max(0) // 2, 255
    store(case / "images" / f"{CASE}.png", image)
    for name, mask in zip(("b", "a"), masks, strict=True):
        store(case / "masks" / f"{name}.png", mask)
    store(case.with_name("1" * 64) / "images" / "empty.png", image)
    store(folder / "fixes-main" / "stage1_test" / "0" / "images" / "0.png", image)
    return masks[0] // 255 * 2 + masks[1] // 255  # in the order of their names


def clothes_of(folder: Path) -> None:
    """A large photograph with two pieces of one class apart, one of another that touches the first, and a speck."""
    root, classes = folder / "clothing-main", np.zeros((900, 600), np.uint8)
    classes[100:200, 100:200], classes[100:200, 300:400], classes[200:300, 100:200] = 7, 7, 12
    classes[700:710, 500:510] = 31  # of fewer than LEAST pixels
    photo = np.full((900, 600, 3), 128, np.uint8)
    photo[:, :300] = (250, 20, 20)  # blue, as OpenCV orders colours
    store(root / "photos" / "0001.jpg", photo)
    store(root / "photos" / "0002.jpg", photo)  # without annotations
    (root / "annotations" / "pixel-level").mkdir(parents=True)
    savemat(root / "annotations" / "pixel-level" / "0001.mat", {"groundtruth": classes})


@pytest.fixture
def unpacked(tmp_path):
    nuclei_of(tmp_path / "unpacked" / "dsb")
    clothes_of(tmp_path / "unpacked" / "ccp")
    return tmp_path / "unpacked"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Neither a folder of data nor one in the cache."""
    monkeypatch.delenv("LORASAM_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "lorasam"


def test_both_layouts_are_written_as_training_reads_them(unpacked, tmp_path):
    write(unpacked, tmp_path / "out")
    real = RealPictures(tmp_path / "out")
    assert [path.name for path in real.paths] == ["ccp_0001.png", f"dsb_{CASE[:10]}.png"]
    person, nuclei = real
    assert np.array_equal(nuclei.labels, nuclei_of(tmp_path / "again")) and nuclei.empty
    assert (nuclei.image[..., 2] == 200).all() and (nuclei.image[..., 0] == (nuclei.labels > 0) * 127).all()
    assert not person.empty and person.labels.shape == (512, 341)  # the longer side is LONGEST
    assert (np.abs(person.image[:, :150].astype(int) - (20, 20, 250)) < 20).all()
    numbers, areas = np.unique(person.labels, return_counts=True)
    assert numbers.tolist() == [0, 1, 2, 3]  # pieces of one class apart and of two classes touching, without the speck
    assert areas[1:] == pytest.approx(100**2 * (LONGEST / 900) ** 2, rel=0.05)
    assert 10 * 10 < LEAST < 100**2


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 900), width=st.integers(1, 900), seed=st.integers(0, 9), ground=st.booleans())
def test_pictures_are_made_smaller_and_labels_counted_without_gaps(height, width, seed, ground):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0 if ground else 1, 5, (4, 4)) * 7
    labels = np.kron(coarse, np.ones((height // 4 + 1, width // 4 + 1), int))[:height, :width]
    image, found = smaller(np.zeros((height, width, 3), np.uint8), labels)
    assert image.shape[:2] == found.shape and max(found.shape) == min(LONGEST, max(height, width))
    assert abs(found.shape[0] * width - found.shape[1] * height) <= max(height, width)  # of the same aspect
    assert set(np.unique(found)) - {0} == set(range(1, found.max() + 1))
    if max(height, width) <= LONGEST:
        assert len(set(zip(found.ravel(), labels.ravel()))) == len(np.unique(labels))
        assert ((found == 0) == (labels == 0)).all()


def test_a_folder_of_ones_own_is_taken_and_another_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", lambda *args, **kwargs: pytest.fail("nothing needs to be downloaded"))
    with pytest.raises(ValueError, match=r"holds no images/ and labels/; name the folder of real pictures"):
        find_real(tmp_path)
    for name in ("images", "labels"):
        with pytest.raises(ValueError, match="holds no images/ and labels/"):
            find_real(tmp_path)
        (tmp_path / name).mkdir()
    assert find_real(tmp_path) == tmp_path


def test_the_folder_of_data_is_looked_into_first(nowhere, tmp_path, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", lambda *args, **kwargs: pytest.fail("nothing needs to be downloaded"))
    (tmp_path / "data" / "real" / "images").mkdir(parents=True)
    monkeypatch.setenv("LORASAM_DATA", str(tmp_path / "data"))
    assert find_real() == tmp_path / "data" / "real"


def test_pictures_are_downloaded_once_and_kept(unpacked, nowhere, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path, downloader):
        asked.append(url)
        kind = "dsb" if "dsbowl" in url else "ccp"
        made = shutil.make_archive(str(unpacked.parent / kind), "zip", unpacked / kind)
        return shutil.move(made, Path(path) / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    found = find_real()
    assert found == nowhere / "real" and len(RealPictures(found)) == 2
    assert sorted(path.name for path in found.iterdir()) == ["images", "labels"]
    assert [path.name for path in nowhere.iterdir()] == ["real"]  # no archive is left
    assert len(asked) == 2 and all(url.startswith("https://codeload.github.com/") for url in asked)
    assert find_real() == found and len(asked) == 2


@pytest.mark.parametrize("error", [OSError("no route\nto host"), ValueError("404 Client Error")])
def test_without_network_there_are_none_and_it_is_said(nowhere, monkeypatch, capsys, error):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(pooch, "retrieve", fails)
    assert find_real() is None
    said = capsys.readouterr().out
    assert said.startswith("The real pictures could not be downloaded (") and said.count("\n") == 1
    assert list(nowhere.iterdir()) == []  # the next try begins anew


def test_an_archive_that_is_none_is_no_picture(nowhere, monkeypatch, capsys):
    def retrieve(url, known_hash, fname, path, downloader):
        (Path(path) / fname).write_text("a page that says: too many requests")
        return str(Path(path) / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert find_real() is None and "could not be downloaded" in capsys.readouterr().out
    assert list(nowhere.iterdir()) == []
