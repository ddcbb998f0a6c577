"""Training windows against pictures whose pixels tell where they are, and heaps against what is painted."""

from __future__ import annotations

import itertools
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk

from pretrain import heaps, windows
from pretrain.heaps import generate_heap
from pretrain.scenes import MAX_MASKS, generate_scene
from pretrain.windows import BOXES, EMPTY, MIN_AREA, POINTS, Picture, RealPictures, Windows, cut, developed, turned

SIDE, SMALL = 64, 16  # of a window, and of its masks
FULL = 512


def coded(labels: np.ndarray, parents: np.ndarray | None = None, empty: bool = True) -> Picture:
    """A picture whose red is a pixel's column and whose green is its row; its blue tells it from padding."""
    rows, columns = np.indices(labels.shape).astype(np.uint8)
    image = np.stack([columns, rows, np.full_like(rows, 255)], axis=2)
    flat = np.zeros(labels.max() + 1, np.int32) if parents is None else parents
    return Picture(image, labels.astype(np.int32), flat, empty)


def discs(radii: tuple[int, ...] = (9, 30, 4, 20, 13, 5, 25, 8), shape: tuple[int, int] = (180, 240)) -> np.ndarray:
    """Discs side by side, none of which touches another; what a window cuts off a disc leaves it in one piece."""
    labels = np.zeros(shape, np.int32)
    places = itertools.product((40, 130), (32, 92, 152, 208))
    for number, (radius, centre) in enumerate(zip(radii, places), 1):
        labels[disk(centre, radius, shape=shape)] = number
    return labels


@pytest.fixture
def ends_early(as_it_is, monkeypatch):
    """Frames of the window's size, of which every one is padded somewhere."""
    monkeypatch.setattr(windows, "IMAGE_SIZE", SIDE)
    monkeypatch.setattr(windows, "OBLONG", 1.0)


@pytest.fixture
def as_it_is(monkeypatch):
    """Pictures come at their own scale and exposure, so that a pixel's colour tells where it was."""
    monkeypatch.setattr(windows, "developed", lambda image, rng, real: image)
    monkeypatch.setattr(windows, "SCALES", dict.fromkeys(windows.SCALES, (1.0, 1.0)))


def pictured(*pictures: Picture, seed: int = 0, side: int = SIDE) -> Windows:
    return Windows(seed, side, 10**6, pictures, share=1.0)


def seen(item: dict, labels: np.ndarray) -> np.ndarray:
    """The labels (h, w) of the picture at each pixel that the item shows."""
    h, w = item["extent"].tolist()
    columns, rows, shown = item["image"][:, :h, :w].long().numpy()
    assert (shown == 255).all()
    return labels[rows, columns]


def blocks(mask: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Whether at least half of each four by four pixels of a window is in the mask (h, w)."""
    whole = np.zeros((side, side))
    whole[: mask.shape[0], : mask.shape[1]] = mask
    return whole.reshape(side // 4, 4, side // 4, 4).mean((1, 3)) >= 0.5


def divided(item: dict) -> bool:
    """Whether the image ends between two of the masks' pixels; what a pixel across its end is, other tests say."""
    return not (item["extent"] % 4).any()


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def is_whole(item: dict) -> bool:
    """Whether the last box is that of the whole image: it begins at the frame's corner and reaches the window's end,
    where no object's box can.
    """
    end = item["place"] + item["extent"].flip(0)
    return item["boxes"][-1, :2].tolist() == [0, 0] and bool((item["boxes"][-1, 2:] >= end).all())


# ------------------------------------------------------------------------------------------------- items
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three real pictures: two of nuclei, one of a clothed person."""
    out = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (out / name).mkdir()
    for number, name in enumerate(("ccp_0001", "dsb_aa", "dsb_bb")):
        labels = discs()[: 90 + 10 * number]
        image = rng.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
        cv2.imwrite(str(out / "images" / f"{name}.png"), image)
        cv2.imwrite(str(out / "labels" / f"{name}.png"), (labels * 300).astype(np.uint16))  # beyond eight bits
    return out


def test_item_i_depends_on_seed_and_i_alone(folder):
    real = RealPictures(folder)
    expected = [Windows(1, SIDE, 10, real)[i] for i in range(6)]
    other, copied = Windows(1, SIDE, 99, real), pickle.loads(pickle.dumps(Windows(1, SIDE, 10, real)))
    for i in (5, 0, 3, 3, 2, 4, 1):
        assert equal(other[i], expected[i]) and equal(copied[i], expected[i])
    assert not equal(expected[0], Windows(2, SIDE, 10, real)[0]) and len(Windows(1, SIDE, 10, real)) == 10
    assert len({item["image"].numpy().tobytes() for item in expected}) == 6


@pytest.mark.parametrize("side", [64, 128])
def test_an_item_is_what_the_model_takes(side):
    item, small = Windows(1, side, 10, None)[3], side // 4
    assert {key: (tuple(value.shape), value.dtype) for key, value in item.items() if key != "frame"} == {
        "image": ((3, side, side), torch.uint8),
        "extent": ((2,), torch.int64),
        "place": ((2,), torch.int64),
        "points": ((POINTS, 2), torch.float32),
        "boxes": ((BOXES, 4), torch.float32),
        "empty": ((EMPTY, 2), torch.float32),
        "known": ((), torch.bool),
        "targets": ((POINTS + BOXES, small, small), torch.bool),
        "at": ((POINTS + BOXES, 2), torch.int64),
        "regions": ((small, small), torch.int64),
    }
    assert item["image"].max() > 50 and item["targets"].flatten(1).any(1).sum() > 1


def test_generated_windows_show_what_they_ask_for():
    """Of scenes and heaps as they are drawn: every prompt has a target, every target its prompt."""
    for i in range(24):
        item = Windows(3, SIDE, 100, None)[i]
        h, w = item["extent"].tolist()
        corner = torch.cat([item["place"], item["place"]]).float()
        size = torch.tensor([w, h])
        assert ((item["points"] - corner[:2] >= 0) & (item["points"] - corner[:2] < size)).all()
        boxes = item["boxes"] - corner
        if is_whole(item):
            boxes = boxes[:-1]
        assert ((boxes >= 0) & (boxes < torch.cat([size, size]))).all()
        assert (item["boxes"][:, :2] <= item["boxes"][:, 2:]).all()
        assert ((item["at"] >= 0) & (item["at"] * 4 < size)).all()


def test_windows_lie_in_the_frame_at_multiples_of_a_token(as_it_is):
    source, places = pictured(coded(discs())), []
    for i in range(60):
        item = source[i]
        (h, w), (x, y) = item["extent"].tolist(), item["place"].tolist()
        assert x % 16 == y % 16 == 0 and min(x, y) >= 0 and max(x, y) <= FULL - SIDE
        assert min(h, w) >= SIDE / 2 and max(h, w) <= SIDE
        places.append((x, y))
    # both ends come, and what lies between: 29 places along each axis
    assert np.ptp(places, axis=0).min() > 400 and len(set(places)) > 50


def test_a_window_of_the_whole_frame_lies_at_its_corner():
    for i in range(3):
        item = Windows(1, FULL, 10, None)[i]
        assert item["place"].tolist() == [0, 0] and min(item["extent"].tolist()) >= FULL / 2


def test_points_boxes_and_targets_belong_to_one_object(as_it_is):
    labels = discs()
    source, boxes_seen = pictured(coded(labels)), 0
    for i in range(60):
        item = source[i]
        if not divided(item):
            continue
        shown, place, targets = seen(item, labels), item["place"].numpy(), item["targets"].numpy()
        named = {number: blocks(shown == number) for number in np.unique(shown[shown > 0])}
        for (x, y), target in zip(item["points"].numpy() - place, targets[:POINTS], strict=True):
            assert np.array_equal(target, named[shown[int(y), int(x)]]), i
        for k, box in enumerate(item["boxes"].numpy()):
            target = targets[POINTS + k]
            if k == BOXES - 1 and is_whole(item):
                continue
            here = [number for number, mask in named.items() if np.array_equal(mask, target)]
            assert here, i
            close = []
            for number in here:
                ys, xs = np.nonzero(shown == number)
                tight = np.array([xs.min(), ys.min(), xs.max(), ys.max()]) + np.tile(place, 2)
                side = np.tile(tight[2:] - tight[:2] + 1, 2)
                close.append((np.abs(box - tight) <= np.minimum(20, 0.3 * side)).all())  # six standard deviations
            assert any(close), i
            boxes_seen += 1
    assert boxes_seen > 150


def test_some_boxes_are_the_whole_images_and_ask_for_everything_labelled(as_it_is):
    labels = discs()
    source, whole, oblong = pictured(coded(labels)), 0, 0
    for i in range(150):
        item = source[i]
        (h, w), (x, y) = item["extent"].tolist(), item["place"].tolist()
        if not divided(item) or not is_whole(item):
            continue
        whole += 1
        assert np.array_equal(item["targets"][-1].numpy(), blocks(seen(item, labels) > 0))
        right, below = item["boxes"][-1, 2:].tolist()
        for end, start, length in ((right, x, w), (below, y, h)):
            assert start + length <= end <= FULL
            assert length == SIDE or end == start + length  # padded where the image ends
        oblong += (right, below) != (FULL, FULL)
    assert 30 <= whole <= 75 and oblong >= 5  # 0.35, four standard errors


def test_targets_are_the_majority_of_four_by_four_pixels_up_to_the_images_end(ends_early):
    labels = np.ones((180, 240), int)
    source, ends = pictured(coded(labels)), set()
    for i in range(30):
        item = source[i]
        for target in item["targets"].numpy():
            assert np.array_equal(target, blocks(seen(item, labels) > 0)), item["extent"]
        ends.add(min(item["extent"].tolist()) % 4)
    assert len(ends) == 4 or ends == {0}  # any, unless frames are made to end between the masks' pixels


def test_the_masks_pixel_of_a_point_holds_an_object_where_all_are_labelled(ends_early):
    labels = np.kron(np.arange(1, 36).reshape(5, 7), np.ones((36, 36), int))
    source = pictured(coded(labels))
    for i in range(60):
        item = source[i]
        at, regions = item["at"].numpy(), item["regions"].numpy()
        assert torch.equal(item["at"][:POINTS], (item["points"] - item["place"]).div(4).floor().long())
        assert (regions[at[:, 1], at[:, 0]] > 0).all(), (i, item["extent"])


def test_regions_are_numbered_as_the_objects_lie(as_it_is):
    labels = discs()
    source = pictured(coded(labels))
    for i in range(20):
        item = source[i]
        shown = seen(item, labels)
        h, w = (length // 4 for length in shown.shape)
        regions = item["regions"].numpy()[:h, :w]
        expected = shown[2::4, 2::4][:h, :w]
        pairs = set(zip(regions.ravel().tolist(), expected.ravel().tolist()))
        assert len(pairs) == len(np.unique(regions)) == len(np.unique(expected))  # one to one, 0 to 0
        assert ((regions == 0) == (expected == 0)).all()


def test_padding_is_zero_in_image_targets_and_regions(as_it_is):
    source, padded = pictured(coded(np.ones((100, 100), int))), 0
    for i in range(60):
        item = source[i]
        h, w = item["extent"].tolist()
        padded += min(h, w) < SIDE
        for below, right in ((item["image"], 1), (item["targets"], 4), (item["regions"][None], 4)):
            rows, columns = -(-h // right), -(-w // right)
            assert not below[:, rows:].any() and not below[:, :, columns:].any()
            assert below[:, : h // right, : w // right].bool().any(0).all()  # and the rest is filled
    assert 2 <= padded <= 25  # two in five frames end early, few of them in the window


# ------------------------------------------------------------------------------------------------- empty points
def test_empty_points_lie_where_no_label_is(as_it_is):
    labels = discs()
    source, found = pictured(coded(labels)), set()
    for i in range(60):
        item = source[i]
        assert item["known"]
        shown = seen(item, labels)
        for x, y in (item["empty"] - item["place"]).long().tolist():
            assert 0 <= x < shown.shape[1] and 0 <= y < shown.shape[0] and shown[y, x] == 0
            found.add((x // 16, y // 16))
    assert len(found) == 16  # everywhere in the window


def test_empty_points_of_clothed_people_and_of_full_pictures_are_never_known(as_it_is):
    labels = discs()
    clothed, full = coded(labels, empty=False), coded(np.ones((90, 90), int))
    for picture in (clothed, full):
        assert not any(pictured(picture)[i]["known"] for i in range(30))
    clothed_source = pictured(clothed)
    # nor do they get a box of the whole image: more than what is labelled may be there
    assert not any(is_whole(clothed_source[i]) for i in range(60))


# ------------------------------------------------------------------------------------------------- objects
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_object_holds_its_descendants_and_nothing_else(data):
    count = data.draw(st.integers(1, 12))
    parents = np.array([0] + [data.draw(st.integers(0, n - 1)) for n in range(1, count + 1)], np.int32)
    number = data.draw(st.integers(1, count))
    held = Picture(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.int32), parents, True).within(number)

    def ancestors(n: int) -> set[int]:
        return {n} | (ancestors(int(parents[n])) if parents[n] else set())

    assert held.tolist() == [n > 0 and number in ancestors(n) for n in range(count + 1)]


def nested() -> tuple[np.ndarray, np.ndarray]:
    """Three wholes side by side, each a disc with a part that holds another: labels and parents."""
    labels = np.zeros((180, 240), np.int32)
    for whole, centre in enumerate(((90, 45), (90, 120), (90, 195))):
        for level, radius in enumerate((34, 22, 10)):
            labels[disk(centre, radius)] = 3 * whole + level + 1
    return labels, np.array([0, 0, 1, 2, 0, 4, 5, 0, 7, 8])


def test_wholes_are_asked_for_with_their_parts(as_it_is, monkeypatch):
    labels, parents = nested()
    monkeypatch.setattr(windows, "HEAPS", 0.0)
    monkeypatch.setattr(windows, "scene", lambda seed, index: coded(labels, parents))
    levels = set()
    for i in range(30):
        item = Windows(0, SIDE, 100, None)[i]
        if not divided(item):
            continue
        shown, targets = seen(item, labels), item["targets"].numpy()
        lines = {n: {n} | ({parents[n]} | {parents[parents[n]]} if parents[n] else set()) - {0} for n in range(1, 10)}
        for (x, y), target in zip((item["points"] - item["place"]).long().tolist(), targets, strict=False):
            lines_here = lines[shown[y, x]]  # what holds the pixel
            masks = {n: blocks(np.isin(shown, [m for m in lines if n in lines[m]])) for n in lines_here}
            named = [n for n in lines_here if np.array_equal(masks[n], target)]
            assert named, i
            levels |= {(n - 1) % 3 for n in named if len(named) == 1}
    assert levels == {0, 1, 2}


def test_a_nested_picture_is_never_shown_with_two_objects_under_one_name(as_it_is, monkeypatch):
    """Where the window is larger than the scene, an object and its mirror image must not be one target."""
    labels, parents = nested()
    labels = np.pad(labels, ((38, 38), (8, 8)))
    monkeypatch.setattr(windows, "IMAGE_SIZE", 256)
    monkeypatch.setattr(windows, "HEAPS", 0.0)
    monkeypatch.setattr(windows, "WHOLE", 0.0)
    monkeypatch.setattr(windows, "SCALES", dict.fromkeys(windows.SCALES, (0.6, 1.4)))
    monkeypatch.setattr(windows, "scene", lambda seed, index: coded(labels, parents))
    for i in range(12):
        for target in Windows(0, 256, 100, None)[i]["targets"].numpy():
            assert ndimage.label(target)[1] == 1, i


def test_specks_are_not_asked_for_beside_objects(as_it_is):
    labels = discs(radii=(3, 30, 3, 20, 3, 3, 25, 3))
    assert (labels == 1).sum() < MIN_AREA
    source = pictured(coded(labels))
    for i in range(40):
        item = source[i]
        shown = seen(item, labels)
        areas = np.bincount(shown.ravel())
        if areas[1:].max() >= MIN_AREA:
            for x, y in (item["points"] - item["place"]).long().tolist():
                assert areas[shown[y, x]] >= MIN_AREA


def test_small_objects_are_asked_for_less_than_even_draws_would(as_it_is):
    """One large object among thirty small ones, in one window that holds them all."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[:, :32] = 1
    for number, (row, column) in enumerate(itertools.product(range(6), range(3)), 2):
        labels[10 * row + 1 : 10 * row + 9, 34 + 10 * column : 41 + 10 * column] = number
    picture, large, count = coded(labels), 0, 0
    for i in range(120):
        item = pictured(picture)[i]
        if item["extent"].tolist() != [SIDE, SIDE]:
            continue
        shown = seen(item, labels)
        asked = [shown[y, x] for x, y in (item["points"] - item["place"]).long().tolist()]
        large += 1 in asked
        count += 1
        assert len(set(asked)) == POINTS  # of many objects none is asked for twice
    assert count > 60
    even = POINTS / 19  # chance of the large one, were all alike
    assert large / count > even + 3 * np.sqrt(even * (1 - even) / count)


def test_a_lone_object_gives_all_prompts(as_it_is):
    labels = np.zeros((100, 100), int)
    labels[20:80, 20:80] = 1
    item = pictured(coded(labels))[0]
    assert all(torch.equal(target, item["targets"][0]) for target in item["targets"])
    assert len({tuple(point) for point in item["points"].tolist()}) > 1


def test_kinds_of_pictures_come_in_their_shares(as_it_is, monkeypatch):
    labels, drawn = discs(), []
    for kind in ("scene", "heap"):
        monkeypatch.setattr(windows, kind, lambda seed, index, kind=kind: drawn.append(kind) or coded(labels))

    class Real(list):
        def __getitem__(self, index):
            drawn.append("real")
            return super().__getitem__(index)

    real = Real([coded(labels)])
    for source, shares in (
        (Windows(0, SIDE, 10**6, real), {"real": 0.5, "heap": 0.2, "scene": 0.3}),
        (Windows(0, SIDE, 10**6, real, share=0.0), {"real": 0.0}),
        (Windows(0, SIDE, 10**6, []), {"real": 0.0}),
    ):
        drawn.clear()
        for i in range(250):
            source[i]
        for kind, share in shares.items():
            found = drawn.count(kind) / len(drawn)
            assert abs(found - share) <= 4 * np.sqrt(share * (1 - share) / len(drawn)), (kind, found)


# ------------------------------------------------------------------------------------------------- windows of pictures
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(10, 60),
    width=st.integers(10, 60),
    side=st.sampled_from([16, 32, 48]),
    seed=st.integers(0, 99),
)
def test_a_cut_is_a_window_with_its_mirror_image_beyond_the_picture(height, width, side, seed):
    labels = np.arange(height * width).reshape(height, width) // 7 % 5
    found = cut(coded(labels), np.random.default_rng(seed), side, 1.0)
    columns, rows, _ = np.moveaxis(found.image.astype(int), 2, 0)
    for here, length in ((rows[:, 0], height), (columns[0], width)):
        mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]] * 4)
        start = here[0] if length >= side else 0
        assert np.array_equal(here, mirrored[start : start + side])
        assert length < side or start + side <= length
    assert (rows == rows[:, :1]).all() and (columns == columns[:1]).all()
    assert ((found.labels > 0) == (labels[rows, columns] > 0)).all() and found.empty


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.5, 2.5), seed=st.integers(0, 99))
def test_a_cut_is_enlarged_by_its_scale(scale, seed):
    found = cut(coded(discs()), np.random.default_rng(seed), SIDE, scale)
    assert found.image.shape == (SIDE, SIDE, 3) and found.labels.shape == (SIDE, SIDE)
    columns = found.image[..., 0].astype(float)
    slope = np.polyfit(np.arange(SIDE), columns.mean(0), 1)[0]
    assert slope == pytest.approx(1 / scale, rel=0.06)  # of the picture's pixels to one of the window


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), fill=st.floats(0.2, 0.9))
def test_what_falls_apart_becomes_objects_and_touching_objects_stay_apart(seed, fill):
    rng = np.random.default_rng(seed)
    labels = np.kron((rng.random((8, 8)) < fill) * rng.integers(1, 3, (8, 8)), np.ones((4, 4), int))
    labels[:4, :4] = 1  # something is there
    found = cut(coded(labels), rng, 32, 1.0)
    parts = [ndimage.label(labels == number) for number in (1, 2)]
    assert len(np.unique(found.labels[found.labels > 0])) == sum(count for _, count in parts)
    assert len(found.parents) == found.labels.max() + 1 and not found.parents.any()
    for part, count in parts:
        for number in range(1, count + 1):
            assert len(np.unique(found.labels[part == number])) == 1


def test_nested_objects_keep_their_names_and_parents():
    labels, parents = nested()
    found = cut(coded(labels, parents), np.random.default_rng(0), SIDE, 1.0)
    columns, rows, _ = np.moveaxis(found.image.astype(int), 2, 0)
    assert np.array_equal(found.labels, labels[rows, columns]) and np.array_equal(found.parents, parents)


def test_fuller_windows_are_taken():
    labels = np.zeros((128, 128), int)
    labels[:48, :48] = 1
    filled = ndimage.uniform_filter((labels > 0).astype(float), 32, mode="constant")
    even = filled[16 : 128 - 15, 16 : 128 - 15].mean()  # over all places of a window of 32
    found = np.mean([(cut(coded(labels), np.random.default_rng(n), 32, 1.0).labels > 0).mean() for n in range(100)])
    assert found > 2 * even


def test_image_and_labels_are_turned_alike_in_all_eight_ways():
    labels, ways = discs()[:SIDE, :SIDE], set()
    for seed in range(60):
        found = turned(coded(labels), np.random.default_rng(seed))
        columns, rows, _ = np.moveaxis(found.image.astype(int), 2, 0)
        assert np.array_equal(found.labels, labels[rows, columns])
        assert sorted(zip(rows.ravel(), columns.ravel())) == list(itertools.product(range(SIDE), repeat=2))
        ways.add((rows[0, 0], columns[0, 0], rows[0, 1], columns[0, 1]))
    assert len(ways) == 8


def test_generated_pictures_are_developed_grey_or_inverted_at_most():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    kinds = []
    for seed in range(200):
        found = developed(image, np.random.default_rng(seed), real=False)
        assert found.shape == image.shape and found.dtype == np.uint8
        grey = np.ptp(found.astype(int), axis=2).max() == 0
        same, inverted = np.array_equal(found, image), np.array_equal(found, 255 - image)
        assert grey or same or inverted
        kinds.append("grey" if grey else "same" if same else "inverted")
    assert 70 <= kinds.count("grey") <= 130 and 10 <= kinds.count("inverted") <= 42 < kinds.count("same")


def test_real_pictures_are_developed_in_more_ways_and_stay_the_same_picture():
    rows, columns = np.indices((40, 40))
    image = np.repeat((60 + 2 * rows + columns)[..., None], 3, axis=2).astype(np.uint8)
    contrasts, ways = [], set()
    for seed in range(60):
        found = developed(image, np.random.default_rng(seed), real=True)
        assert found.shape == image.shape and found.dtype == np.uint8
        agreement = np.corrcoef(found.mean(2).ravel(), image[..., 0].ravel())[0, 1]
        assert abs(agreement) > 0.5  # what was lighter still is, or everywhere is not
        contrasts.append(found.std())
        ways.add(found.tobytes())
    assert max(contrasts) > 2 * min(contrasts) and len(ways) > 50


# ------------------------------------------------------------------------------------------------- real pictures
def test_real_pictures_are_read_as_they_were_written(folder):
    real = RealPictures(folder)
    assert len(real) == 3
    person, nuclei = real[0], real[2]
    stored = cv2.imread(str(folder / "images" / "dsb_bb.png"))
    assert np.array_equal(nuclei.image, stored[..., ::-1])  # OpenCV's order is blue, green, red
    assert np.array_equal(nuclei.labels, 300 * discs()[:110]) and len(nuclei.parents) == nuclei.labels.max() + 1
    assert nuclei.empty and not person.empty


def test_real_pictures_that_do_not_fit_are_named(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="images holds no picture"):
        RealPictures(tmp_path)
    cv2.imwrite(str(tmp_path / "images" / "dsb_a.png"), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match=r"dsb_a\.png and its label image are not two readable images of one size"):
        RealPictures(tmp_path)[0]
    cv2.imwrite(str(tmp_path / "labels" / "dsb_a.png"), np.zeros((30, 20), np.uint16))
    with pytest.raises(ValueError, match=r"dsb_a\.png and its label image are not two readable images of one size"):
        RealPictures(tmp_path)[0]


# ------------------------------------------------------------------------------------------------- scenes and heaps
def test_a_scene_becomes_a_picture_of_its_smallest_objects():
    made = generate_scene(1, 2, 128)
    picture = windows.scene(1, 2, 128)
    assert np.array_equal(picture.image, made.image) and picture.empty
    for number, mask in enumerate(made.masks, 1):
        assert np.array_equal(picture.within(number)[picture.labels], mask)
    assert len(made.masks) <= MAX_MASKS


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), index=st.integers(0, 2**31), size=st.sampled_from([64, 97, 128]))
def test_a_heap_is_a_function_of_its_arguments(seed, index, size):
    (image, labels), again, other = (generate_heap(seed, i, size) for i in (index, index, index + 1))
    assert np.array_equal(image, again[0]) and np.array_equal(labels, again[1])
    assert not np.array_equal(image, other[0])
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert labels.shape == (size, size) and labels.dtype == np.int32 and labels.min() >= 0


def test_a_heaps_labels_name_the_topmost_object_at_each_pixel(monkeypatch):
    """Each object painted in a colour of its own, over what is there: what is seen is what is labelled."""
    painted = itertools.count(1)

    def one_colour(rng, canvas, alpha, window, look):
        colour = next(painted)
        ground = canvas[:, window[0], window[1]]
        ground[0][alpha >= 128], ground[1][alpha >= 128] = colour % 200 + 1, colour // 200 + 1

    monkeypatch.setattr(heaps, "paint", one_colour)
    monkeypatch.setattr(heaps, "shadow", lambda *args: None)
    monkeypatch.setattr(heaps, "background", lambda rng, size, look: np.zeros((3, size, size), np.float32))
    monkeypatch.setattr(heaps, "finish", lambda rng, canvas, scale: np.moveaxis(canvas, 0, 2).astype(np.uint8))
    covered = []
    for index in range(12):
        image, labels = generate_heap(5, index, 128)
        colours = image[..., 0].astype(int) + 256 * image[..., 1].astype(int)
        assert ((colours == 0) == (labels == 0)).all()
        pairs = set(zip(colours.ravel().tolist(), labels.ravel().tolist()))
        assert len(pairs) == len(np.unique(colours)) == len(np.unique(labels)) > 1
        covered.append((labels > 0).mean())
    assert min(covered) < 0.5 < max(covered)  # strewn ones and heaps


def test_heaps_hold_more_and_more_equal_objects_than_scenes():
    counts, spreads = {}, {}
    for kind, make in (("heap", windows.heap), ("scene", windows.scene)):
        counts[kind], spreads[kind] = [], []
        for index in range(12):
            areas = np.bincount(make(7, index, 256).labels.ravel())[1:]
            areas = areas[areas >= MIN_AREA]
            counts[kind].append(len(areas))
            spreads[kind] += [np.std(np.log(areas))] if len(areas) > 2 else []
    assert np.median(counts["heap"]) > 2 * np.median(counts["scene"])
    assert np.median(spreads["heap"]) < np.median(spreads["scene"])
