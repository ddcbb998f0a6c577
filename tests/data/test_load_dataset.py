"""Sample sets: what every source has in common, and the generated one."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from PIL import Image

from lorasam_core.data import DataError, SampleSet, Split, load_dataset, sets
from lorasam_core.data.sample import Sample, content_hash
from lorasam_core.data.virtual import VirtualSet


class Counter:
    """Makes samples of one grey value and counts how often."""

    def __init__(self):
        self.asked = []

    def __call__(self, i):
        self.asked.append(i)
        value = int(i[1:])
        labels = np.full((6, 8), 70_000 if value == 3 else value + 1, np.int32)
        return Sample(np.full((6, 8), value, np.uint8), labels, i, f"g{value // 2}", 2.0), False


@pytest.fixture
def counted():
    groups = {f"s{k}": f"g{k // 2}" for k in range(8)}
    load = Counter()
    return SampleSet("n", "src", groups, load, Split(("s0", "s1", "s4", "s5"), ("s2", "s3"), ("s6", "s7"))), load


def test_a_sequence_that_reads_once(counted):
    data, load = counted
    assert len(data) == 8 and load.asked == []
    assert data[3].labels[0, 0] == 70_000 and data[-1].id == "s7"
    assert [s.id for s in data] == list(data.ids) and [s.id for s in data[2:4]] == ["s2", "s3"]
    for sample in data:
        np.testing.assert_array_equal(sample.labels, Counter()(sample.id)[0].labels)
        assert sample.labels.dtype == np.int32 and sample.group == data.groups[sample.id] and sample.pixel_size == 2
    assert sorted(load.asked) == sorted(data.groups)
    with pytest.raises(IndexError):
        data[8]


def test_parts_share_memory_split_and_fingerprint(counted):
    data, load = counted
    data.check()
    part = data.subset("val")
    assert part.ids == ("s2", "s3") and part.groups == {"s2": "g1", "s3": "g1"}
    assert [s.id for s in part] == ["s2", "s3"] and len(load.asked) == 8
    assert part.fingerprint == data.fingerprint and part.split is data.split and len(data) == 8
    with pytest.raises(ValueError, match="'validation' is no part"):
        data.subset("validation")


def test_memory_is_bounded(counted, monkeypatch):
    monkeypatch.setattr(sets, "CACHE_BYTES", 2 * (48 + 48))
    data, load = counted
    for _ in range(3):
        assert [s.image[0, 0] for s in data] == list(range(8))
    assert len(load.asked) == 2 + 3 * 6


def test_pixels_are_not_sent_to_other_processes(counted):
    data, _ = counted
    data.check()
    again = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 5000 and again[2].id == "s2"


def test_a_split_that_shares_a_group_is_refused():
    with pytest.raises(DataError, match="'g0' of s1 is in train and in val"):
        SampleSet("n", "s", {"s0": "g0", "s1": "g0"}, Counter(), Split(("s0",), ("s1",), ()))


def write_folder(folder, suffix, change=False):
    rng = np.random.default_rng(0)
    for place in ("images", "labels"):
        (folder / place).mkdir(parents=True)
    for k in range(5):
        image, labels = rng.integers(0, 256, (18, 18), np.uint8), rng.permutation(9).reshape(3, 3)
        labels = labels.repeat(6, 0).repeat(6, 1).astype(np.uint8)
        image[0, 0] += change and k == 4
        for place, array in (("images", image), ("labels", labels)):
            path = folder / place / f"p{k}{suffix}"
            tifffile.imwrite(path, array) if suffix == ".tif" else Image.fromarray(array).save(path)
    return folder


def test_the_fingerprint_is_of_pixels_not_of_files(tmp_path):
    png, tif = (load_dataset(write_folder(tmp_path / s[1:], s)) for s in (".png", ".tif"))
    other = load_dataset(write_folder(tmp_path / "other", ".png", change=True))
    assert png.fingerprint == tif.fingerprint != other.fingerprint and len(png.fingerprint) == 64
    assert png.split == other.split


def test_limit_comes_before_the_split(tmp_path):
    folder = write_folder(tmp_path / "a", ".png")
    data = load_dataset(folder, limit=4, seed=1)
    assert len(data) == 4 and sum(len(p) for p in data.split.parts().values()) == 4
    assert data.fingerprint != load_dataset(folder).fingerprint
    assert load_dataset(folder, limit=99).fingerprint == load_dataset(folder).fingerprint
    with pytest.raises(ValueError, match="limit is 0"):
        load_dataset(folder, limit=0)


def relabel(folder, array):
    for path in (folder / "labels").iterdir():
        Image.fromarray(array).save(path)


def test_an_image_without_particle_is_a_negative(tmp_path):
    folder = write_folder(tmp_path / "a", ".png")
    for k in (1, 3):
        Image.new("L", (18, 18)).save(folder / "labels" / f"p{k}.png")
    data = load_dataset(folder)
    assert [s.foreground.any() for s in data] == [True, False, True, False, True]
    assert data.notes == ["In 2 of 5 images no particle is labelled: p1, p3."]
    relabel(folder, np.zeros((18, 18), np.uint8))
    with pytest.raises(DataError, match=r"a has no particle in any of its masks; label some"):
        load_dataset(folder)


def test_how_a_folder_is_read(tmp_path):
    """mask, ignore and page reach the files, and the fingerprint is that of what was read."""
    folder = write_folder(tmp_path / "a", ".tif")
    mask = np.full((18, 18), 255, np.uint8)
    mask[4:9, 4:9] = 0
    relabel(folder, mask)
    with pytest.raises(DataError, match="give --mask bright where 255 is particle, or --mask dark"):
        load_dataset(folder)
    bright, dark = (load_dataset(folder, mask=m) for m in ("bright", "dark"))
    assert (dark[0].labels == (mask == 0)).all() and (bright[0].labels == (mask > 0)).all()
    assert bright.fingerprint != dark.fingerprint
    assert pickle.loads(pickle.dumps(dark))[0].labels.sum() == 25
    assert load_dataset(folder, ignore=0, mask="dark")[0].labels.sum() == 25
    with pytest.raises(DataError, match="has no particle in any"):
        load_dataset(folder, ignore=255)
    relabel(folder, 255 - mask)
    plain = load_dataset(folder)
    assert plain.fingerprint == dark.fingerprint
    path = folder / "images" / "p2.tif"
    image = tifffile.imread(path)
    tifffile.imwrite(path, np.stack([255 - image, image]), photometric="minisblack")
    with pytest.raises(DataError, match=r"p2\.tif holds 2 pages; save one image a file, or give --page 1"):
        load_dataset(folder)
    assert load_dataset(folder, page=2).fingerprint == plain.fingerprint != load_dataset(folder, page=1).fingerprint


def test_a_name_in_the_data_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "powder_x", ".png")
    monkeypatch.setenv("LORASAM_DATA", str(tmp_path))
    assert load_dataset("powder_x").name == "powder_x"


@pytest.mark.parametrize("source", ["powder", "", "Synthetic"])
def test_unknown_sources(source, monkeypatch):
    monkeypatch.delenv("LORASAM_DATA", raising=False)
    with pytest.raises(DataError, match=f"{source!r} is no data set; give synthetic, emps, the path"):
        load_dataset(source)


def test_unknown_part():
    with pytest.raises(ValueError, match="'all' is no part of a split"):
        load_dataset("synthetic", split="all")


def test_generated_images_by_specimen():
    data = load_dataset("synthetic")
    assert len(data) == 120 and len(set(data.groups.values())) == 40 and data.ids[119] == "sem-00119"
    assert {k: len(v) for k, v in data.split.parts().items()} == {"train": 84, "val": 24, "test": 12}
    sample = data[4]
    assert sample.id == data.ids[4] and sample.group == data.groups[sample.id]  # the names are the generator's own
    assert sample.image.shape == (512, 512) and sample.pixel_size is not None


@pytest.mark.parametrize("limit", [3, 6, 12, 30, 31, 121])
def test_the_limit_of_generated_images_is_their_number(limit):
    data = load_dataset("synthetic", limit=limit)
    assert len(data) == len(set(data.ids)) == limit
    assert len(set(data.groups.values())) >= min(limit, 10) and all(data.split.parts().values())


def test_two_generated_images_are_no_data_set():
    with pytest.raises(DataError, match="at least 3"):
        load_dataset("synthetic", limit=2)


def test_generated_fingerprints_tell_seed_and_number():
    prints = {load_dataset("synthetic", seed=s, limit=n).fingerprint for s in (0, 1) for n in (12, 30)}
    assert len(prints) == 4
    first, again = (load_dataset("synthetic", "test", seed=1, limit=12)[0] for _ in range(2))
    assert content_hash(first) == content_hash(again)


def test_a_set_is_what_the_virtual_set_takes(counted):
    train = counted[0].subset("train")
    data = VirtualSet(train, crop_size=4)
    assert len(data) == 24 * 4 and {data.parent(i) for i in range(len(data))} == {0, 1, 2, 3}
    assert data[5][0].shape == (4, 4)


def test_drawn_samples_are_nested_and_keep_their_order(counted):
    data, _ = counted
    ids = data.ids
    draws = [data.draw(n, seed=3).ids for n in range(1, len(ids) + 1)]
    for fewer, more in pairwise(draws):
        assert set(fewer) < set(more)
    assert all(list(drawn) == [i for i in ids if i in drawn] for drawn in draws) and draws[-1] == ids
    assert data.draw(3, seed=3).ids == draws[2] and len({data.draw(3, seed=s).ids for s in range(9)}) > 1
    part = data.draw(2)
    assert part.groups == {i: data.groups[i] for i in part.ids} and part[0].id == part.ids[0]
    for count in (0, 9):
        with pytest.raises(ValueError, match=f"{count} images are asked for"):
            data.draw(count)
