"""EMPS: layout, official split, the download and what is verified; the real images where they are."""

import functools
import http.server
import os
import shutil
import threading

import numpy as np
import pooch
import pytest
from PIL import Image

from lorasam_core.data import DataError, emps, load_dataset
from lorasam_core.data.emps import list_emps, split_emps, thin_emps
from lorasam_core.data.readers import read_record
from lorasam_core.data.sample import content_hash

TRAIN, TEST = [f"t{k}" for k in range(12)], ["e0", "e1", "e2"]


def write_emps(folder, colour=False):
    """15 small images laid out as EMPS is; two images a paper in training."""
    rng = np.random.default_rng(0)
    for place in ("images", "segmaps"):
        (folder / place).mkdir(parents=True)
    for i in (*TRAIN, *TEST):
        image = rng.integers(0, 256, (16, 18), np.uint8)
        Image.fromarray(np.repeat(image[..., None], 3, 2) if colour else image).save(folder / "images" / f"{i}.png")
        ids = np.zeros((16, 18), np.uint16)
        ids[2:5, 2:5] = ids[7:9, 2:5] = 1  # one particle in two pieces
        Image.fromarray(ids).save(folder / "segmaps" / f"{i}.png")
    (folder / "train.csv").write_text("\n".join(TRAIN) + "\n")
    (folder / "test.csv").write_text("\n".join(TEST) + "\n")
    papers = {i: f"10.1/{k // 2}" for k, i in enumerate(TRAIN)} | {i: f"10.2/{i}" for i in TEST}
    lines = "".join(f"{i}.png,{doi},gr1\n" for i, doi in papers.items())
    (folder / "metadata.csv").write_text("filename,doi,locator\n" + lines)
    return folder


def sha256(folder):
    records, test = list_emps(folder)
    return emps.content_sha256(records, test, {r.id: content_hash(read_record(r)[0]) for r in records})


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A small EMPS in LORASAM_DATA."""
    monkeypatch.setenv("LORASAM_DATA", str(tmp_path / "data"))
    return write_emps(tmp_path / "data" / "emps")


def test_official_split_and_papers(copy, monkeypatch):
    monkeypatch.setattr(emps, "CONTENT_SHA256", sha256(copy))
    data = load_dataset("emps")
    assert (data.name, data.notes, len(data)) == ("emps", [], 15)
    assert data.split.test == tuple(TEST) and len(data.split.val) == 2 and len(data.split.train) == 10
    assert all(list(np.unique(s.labels)) == [0, 1] for s in data)  # ids are kept, not torn into components
    assert load_dataset("emps", "test").ids == tuple(TEST)
    assert load_dataset("emps", seed=3).split.hash != load_dataset("emps", seed=4).split.hash


def test_a_changed_copy_is_noted_and_read(copy):
    assert load_dataset("emps").notes == [f"{copy} differs from EMPS at dd8f86d."]


def test_a_folder_with_that_layout(copy):
    moved = copy.rename(copy.parent / "more")
    data = load_dataset(moved)
    assert (data.name, data.split.test, data.notes) == ("more", tuple(TEST), [])


@pytest.mark.parametrize("limit", [3, 6, 11])
def test_limit_thins_the_official_test(copy, limit):
    data = load_dataset("emps", limit=limit)
    assert len(data) == limit and set(data.split.test) <= set(TEST)
    assert len(data.split.test) == max(1, round(limit * 3 / 15)) and data.split.train and data.split.val


def test_a_limit_that_leaves_nothing(copy):
    for limit in (1, 2):
        with pytest.raises(DataError, match="at least"):
            load_dataset("emps", limit=limit)


def shared_paper(folder):
    (folder / "train.csv").write_text("t0\nt2\n")
    (folder / "test.csv").write_text("t1\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "train.csv").unlink(), r"train\.csv cannot be read as a table"),
        (lambda f: (f / "images" / "t3.png").unlink(), r"images.t3\.png is missing; copy it"),
        (lambda f: (f / "segmaps" / "t3.png").unlink(), r"segmaps.t3\.png is missing; copy it"),
        (lambda f: (f / "test.csv").write_text("e0\nt1\n"), r"lists t1 twice"),
        (shared_paper, r"'10\.1/0' of t1 is in train and in test"),
        (lambda f: (f / "metadata.csv").write_text("filename,doi\nt0.png,x\n"), r"names no paper for t1; add a line"),
    ],
)
def test_broken_copies(copy, spoil, says):
    spoil(copy)
    with pytest.raises(DataError, match=says):
        load_dataset("emps")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.asked.append(self.path)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A server on this machine with the archive of a small EMPS, and an empty cache."""
    write_emps(tmp_path / "src" / "emps-dd8f86d", colour=True)
    shutil.make_archive(str(tmp_path / "www" / "emps"), "zip", tmp_path / "src")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "www"))
    )
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("LORASAM_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(emps, "URL", f"http://127.0.0.1:{server.server_port}/emps.zip")
    monkeypatch.setattr(emps, "CONTENT_SHA256", sha256(write_emps(tmp_path / "grey")))
    yield server
    server.shutdown()
    server.server_close()


def test_downloaded_once_verified_and_kept(source, tmp_path):
    data = load_dataset("emps")
    assert (data.name, data.notes) == ("emps", []) and data.split.test == tuple(TEST)
    assert data.fingerprint == load_dataset(tmp_path / "grey").fingerprint  # equal channels are one grey channel
    assert all(s.image.ndim == 2 for s in data) and source.asked == ["/emps.zip"]
    load_dataset("emps")
    assert source.asked == ["/emps.zip"]
    assert os.listdir(tmp_path / "cache" / "lorasam") == ["emps-dd8f86d"]


def test_a_folder_given_is_preferred(source, tmp_path, monkeypatch):
    (tmp_path / "grey").rename(tmp_path / "emps")
    monkeypatch.setenv("LORASAM_DATA", str(tmp_path))
    load_dataset("emps")
    assert source.asked == []


def test_other_contents_are_refused_and_not_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr(emps, "CONTENT_SHA256", "0" * 64)
    with pytest.raises(DataError, match="are not those of EMPS at dd8f86d; set LORASAM_DATA"):
        load_dataset("emps")
    assert os.listdir(tmp_path / "cache" / "lorasam") == []


def cut(archive):
    archive.write_bytes(archive.read_bytes()[:3000])


@pytest.mark.parametrize("spoil", [cut, lambda a: a.write_text("busy"), lambda a: a.unlink()])
def test_broken_downloads(source, tmp_path, spoil):
    spoil(tmp_path / "www" / "emps.zip")
    with pytest.raises(DataError, match=r"could not be downloaded from .*; go online .* or set LORASAM_DATA"):
        load_dataset("emps")
    assert os.listdir(tmp_path / "cache" / "lorasam") == []


def test_offline(source, monkeypatch):
    monkeypatch.setattr(emps, "URL", "http://127.0.0.1:9/emps.zip")
    with pytest.raises(DataError, match=r"go online with some space in .*, or set LORASAM_DATA"):
        load_dataset("emps")


def test_thin_and_split_by_proportion():
    groups = {f"t{k}": f"p{k}" for k in range(366)} | {f"e{k}": f"q{k}" for k in range(99)}
    test = {i for i in groups if i[0] == "e"}
    chosen = thin_emps(groups, test, 93)
    assert len(chosen) == 93 and sum(i in test for i in chosen) == round(93 * 99 / 465)
    split = split_emps(groups, test)
    assert set(split.test) == test and len(split.val) == round(366 * 2 / 9)


@pytest.fixture(scope="module")
def real(emps_folder):
    """The real images, decoded once."""
    return load_dataset("emps")


def test_real_counts(real):
    assert real.notes == [] and len(real) == 465 and len(set(real.groups.values())) == 322
    assert len(real.split.train) + len(real.split.val) == 366 and len(real.split.test) == 99
    highest = [int(s.labels.max()) for s in real]
    visible = [len(np.unique(s.labels)) - 1 for s in real]  # every image has some background
    assert sum(highest) == 11_541 and max(highest) == 497 and np.median(highest) == 8
    assert sum(visible) == 11_535  # 6 ids, in 3 images, have no pixel left
    assert all(s.image.ndim == 2 and min(s.shape) == 512 for s in real)


def test_real_official_test_and_papers(real, emps_folder):
    official = (emps_folder / "test.csv").read_text().split()
    assert list(real.split.test) == official
    papers = [{real.groups[i] for i in part} for part in real.split.parts().values()]
    assert not (papers[0] & papers[1] or papers[0] & papers[2] or papers[1] & papers[2])
    others = len(papers[0]) + len(papers[1])
    assert len(papers[1]) == round(others * 2 / 9)
