"""Splits: by group, seeded, saved; nothing of one group on both sides."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core.data.sample import DataError, Sample
from lorasam_core.data.splits import Split, check_groups, split_by_group, thin
from lorasam_core.data.virtual import VirtualSet

group_maps = st.lists(st.integers(0, 12), min_size=3, max_size=40).map(
    lambda drawn: {f"image{k}": f"g{g}" for k, g in enumerate(drawn)}
).filter(lambda groups: len(set(groups.values())) >= 3)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(groups=group_maps, seed=st.integers(0, 10**6))
def test_no_parent_of_a_crop_crosses_the_split(groups, seed):
    """Every crop of every part shows one image, and no group is shown in two parts."""
    split = split_by_group(groups, seed=seed)
    order = list(groups)
    shown = {}
    for part, ids in split.parts().items():
        samples = [
            Sample(np.zeros((8, 8), np.uint8), np.full((8, 8), 1 + order.index(i), np.int32), i, groups[i]) for i in ids
        ]
        data = VirtualSet(samples, size=2 * len(samples), seed=seed, crop_size=6)
        parents = {order[int(v) - 1] for _, labels in (data[i] for i in range(len(data))) for v in np.unique(labels)}
        assert parents == set(ids)
        shown[part] = {groups[i] for i in parents}
    assert not (shown["train"] & shown["val"] or shown["train"] & shown["test"] or shown["val"] & shown["test"])


@settings(max_examples=60, deadline=None)
@given(groups=group_maps, seed=st.integers(0, 10**6))
def test_every_id_once_every_part_filled_and_seeded(groups, seed):
    split = split_by_group(groups, seed=seed)
    assert sorted(split.train + split.val + split.test) == sorted(groups)
    assert split.train and split.val and split.test
    check_groups(split, groups)
    backwards = split_by_group(dict(reversed(groups.items())), seed=seed)
    assert backwards.hash == split.hash


def test_ratios_are_met():
    groups = {f"i{k}": f"g{k // 3}" for k in range(120)}
    split = split_by_group(groups)
    assert [len(p) for p in split.parts().values()] == [84, 24, 12]
    study = split_by_group({f"i{k}": f"i{k}" for k in range(243)})
    assert [len(p) for p in study.parts().values()] == [170, 49, 24]
    assert len({split_by_group(groups, seed=s).hash for s in range(5)}) == 5


def test_ratios_are_met_with_one_large_group():
    """100 images of one specimen and single ones: the large group belongs in training."""
    groups = {f"a{k}": "large" for k in range(100)} | {f"b{k}": f"small{k}" for k in range(40)}
    split = split_by_group(groups)
    assert "a0" in split.train and len(split.train) >= 0.7 * 140


def test_two_parts():
    split = split_by_group({f"i{k}": f"i{k}" for k in range(9)}, (7, 2, 0))
    assert [len(p) for p in split.parts().values()] == [7, 2, 0]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_groups(count):
    with pytest.raises(DataError, match=r"at least 3; .*groups\.csv"):
        split_by_group({f"i{k}": f"g{k % count}" for k in range(10)})


@pytest.mark.parametrize("ratios", [(7, 3), (0, 0, 0), (8, 3, -1)])
def test_bad_ratios(ratios):
    with pytest.raises(ValueError, match="three numbers"):
        split_by_group({"a": "a", "b": "b", "c": "c"}, ratios)


def test_check_groups_names_the_group_that_straddles():
    groups = {"a": "steel", "b": "steel", "c": "zinc"}
    check_groups(Split(("a", "b"), (), ("c",)), groups)
    with pytest.raises(DataError, match="'steel' of b is in train and in test"):
        check_groups(Split(("a",), (), ("b", "c")), groups)
    with pytest.raises(DataError, match="lists z"):
        check_groups(Split(("a",), (), ("z",)), groups)


def test_an_id_is_in_one_part():
    with pytest.raises(DataError, match="a twice"):
        Split(("a",), ("a",), ())


def test_saved_and_loaded(tmp_path):
    split = split_by_group({f"i{k}": f"g{k // 2}" for k in range(20)}, seed=4)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    assert set(json.loads((tmp_path / "split.json").read_text())) == {"train", "val", "test", "hash"}


def test_hash_does_not_see_order_but_parts():
    assert Split(("a", "b"), ("c",), ()).hash == Split(("b", "a"), ("c",), ()).hash
    assert Split(("a", "b"), ("c",), ()).hash != Split(("a",), ("b", "c"), ()).hash


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"train": 1, "val": [], "test": [], "hash": ""}'])
def test_files_that_are_no_split(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"split\.json is not a saved split"):
        Split.load(path)


def test_a_changed_split_is_seen(tmp_path):
    path = tmp_path / "split.json"
    Split(("a",), ("b",), ("c",)).save(path)
    path.write_text(path.read_text().replace('"c"', '"d"'))
    with pytest.raises(DataError, match="hash"):
        Split.load(path)


@settings(max_examples=60, deadline=None)
@given(groups=group_maps, limit=st.integers(1, 45), seed=st.integers(0, 1000))
def test_thin_takes_each_group_in_turn(groups, limit, seed):
    chosen = thin(groups, limit, seed)
    assert len(chosen) == len(set(chosen)) == min(limit, len(groups))
    assert chosen == [i for i in groups if i in chosen]
    assert len({groups[i] for i in chosen}) == min(limit, len(set(groups.values())))
    assert set(thin(groups, max(1, limit - 1), seed)) <= set(chosen)


def test_thin_needs_a_limit():
    with pytest.raises(ValueError, match="limit is 0"):
        thin({"a": "a"}, 0)
