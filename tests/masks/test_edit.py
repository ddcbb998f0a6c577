"""Correcting labels: what each action does, that the log makes them again, and what the model is asked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk

from lorasam_core.data.particles import generate
from lorasam_core.data.sample import DataError
from lorasam_core.masks.clicks import LEAST_WINDOW, NEAR, Clicks, Prompt
from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.patches import Piece, cut, divided, pack, placed, unpack
from lorasam_core.masks.segmenter import Segmenter
from lorasam_core.measure.metrics import iou

SHAPE = (40, 60)
IMAGE = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)


def draft():
    """Two discs that touch as particle 1, a disc as 2, a square as 5."""
    labels = np.zeros(SHAPE, np.int32)
    labels[disk((12, 12), 7)] = labels[disk((12, 24), 7)] = 1
    labels[disk((30, 12), 6)] = 2
    labels[26:36, 40:50] = 5
    return labels


def square(image, prompt):
    """The 9 x 9 pixels around the middle of all that is inside; of a box all of it."""
    mask = np.zeros(image.shape, bool)
    if prompt.box is not None:
        x0, y0, x1, y1 = (int(side) for side in prompt.box)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    else:
        x, y = np.mean(prompt.inside, axis=0).astype(int)
        mask[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = True
    for x, y in prompt.outside:
        mask[int(y), int(x)] = False
    return cut(mask)


def labelling(ask=square, labels=None):
    return Labelling(IMAGE, draft() if labels is None else labels, ask, model="square")


def areas(labels):
    ids, counts = np.unique(labels[labels > 0], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist()))


def test_removed_and_merged_particles_and_their_numbers():
    work = labelling()
    before = areas(work.labels)
    work.remove(2)
    assert areas(work.labels) == {1: before[1], 5: before[5]}
    assert work.merge(5, 1) == 5 and areas(work.labels) == {5: before[1] + before[5]}
    assert work.add((12, 30)) == 6  # neither 1 nor 2 comes back
    assert work.ids == [5, 6] and work.at(12.7, 30.2) == 6 and work.at(0, 0) == 0


def test_a_new_particle_takes_what_is_free_and_more_where_it_is_told():
    work = labelling()
    new = work.add(box=(36, 22, 44, 30))
    assert new == 6
    expected = np.zeros(SHAPE, bool)
    expected[22:31, 36:45] = True
    assert np.array_equal(work.labels == 6, expected & (draft() == 0)) and areas(work.labels)[5] == 100
    work.undo()
    assert work.add((44, 30), over=True) == 7
    assert areas(work.labels)[7] == 81 and areas(work.labels)[5] == 100 - 9 * 9  # rows 26-34, columns 40-48


def test_of_what_is_free_only_the_piece_with_the_point_is_taken():
    labels = np.zeros(SHAPE, np.int32)
    labels[:, 20:22] = 1
    work = labelling(labels=labels)
    work.add((18, 20))
    assert areas(work.labels)[2] == 9 * 6  # columns 14 to 19, and not column 22


def test_a_split_gives_each_part_its_point_and_all_pixels():
    work = labelling()
    whole = draft() == 1
    assert work.split(1, (12, 12), (24, 12)) == [1, 6]
    assert work.at(12, 12) == 1 and work.at(24, 12) == 6
    assert np.array_equal(np.isin(work.labels, (1, 6)), whole)
    rows, columns = np.nonzero(whole)
    assert (work.labels[rows, columns][columns < 17] == 1).all() and (
        work.labels[rows, columns][columns > 19] == 6
    ).all()


def test_a_part_has_its_own_claim_and_the_whole_is_no_claim():
    whole = np.ones((3, 10), bool)
    small = np.zeros_like(whole)
    small[:, 6:] = True
    parts = divided(whole, np.array([whole, small]), [(0, 1), (9, 1)])
    assert np.array_equal(parts, np.where(small, 1, 0))
    halves = divided(whole, np.array([whole, whole]), [(0, 1), (9, 1)])  # the model tells nothing apart
    assert np.array_equal(halves, np.repeat([[0] * 5 + [1] * 5], 3, 0))
    far = small.copy()
    far[:, 9] = False  # a claim without its own point has no say
    assert np.array_equal(divided(whole, np.array([np.zeros_like(whole), far]), [(0, 1), (9, 1)]), halves)


def test_refining_asks_with_the_mask_and_a_point_deep_in_it():
    asked = []

    def ask(image, prompt):
        asked.append(prompt)
        return square(image, prompt._replace(inside=prompt.inside[1:]))

    work = labelling(ask)
    work.refine(5, inside=[(45, 31)], outside=[(41, 27)])
    (prompt,) = asked
    assert np.array_equal(placed(prompt.mask, Piece(0, 0, np.zeros(SHAPE, bool))), draft() == 5)
    assert len(prompt.inside) == 2 and prompt.inside[1] == (45, 31) and prompt.outside == ((41, 27),)
    x, y = prompt.inside[0]
    assert 43 <= x <= 46 and 29 <= y <= 32
    assert areas(work.labels)[5] == 80 and work.at(41, 27) == 0


def test_undo_goes_back_and_redo_again():
    work = labelling()
    work.remove(2)
    removed = work.labels.copy()
    work.add((30, 30))
    added = work.labels.copy()
    work.undo()
    assert np.array_equal(work.labels, removed)
    work.redo()
    assert np.array_equal(work.labels, added)
    work.undo(2)
    assert np.array_equal(work.labels, draft())
    assert work.add((30, 30)) == 7  # 6 stands in the log already
    with pytest.raises(ValueError, match="redo was asked for 1 actions, of 0"):
        work.redo()
    assert [entry["action"] for entry in work.log] == ["draft", "remove", "add", "undo", "redo", "undo", "add"]


def test_accepted_until_something_changes():
    work = labelling()
    assert not work.touched and not work.accepted
    work.accept()
    assert work.touched and work.accepted
    work.remove(2)
    assert not work.accepted


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda work: work.remove(3), "there is no particle 3"),
        (lambda work: work.remove(), "are none; give each"),
        (lambda work: work.remove(1, 1), "are 1, 1; give each of them once"),
        (lambda work: work.remove("1"), "there is no particle 1"),
        (lambda work: work.merge(1), "only particle 1; give two"),
        (lambda work: work.merge(1, 0), "there is no particle 0"),
        (lambda work: work.split(1, (12, 12)), "two points or more in different pixels"),
        (lambda work: work.split(1, (12, 12), (12.4, 12)), "two points or more in different pixels"),
        (lambda work: work.split(1, (12, 12), (12, 30)), r"\(12, 30\) does not lie on particle 1"),
        (lambda work: work.split(1, (12, 12), (12, -3)), "outside the image; give x under 60 and y under 40"),
        (lambda work: work.add(), "either a point in the particle or a box"),
        (lambda work: work.add((1, 1), box=(0, 0, 3, 3)), "either a point in the particle or a box"),
        (lambda work: work.add((60, 1)), "outside the image"),
        (lambda work: work.add((float("nan"), 1)), "outside the image"),
        (lambda work: work.add(7), "7 is no point; give x and y"),
        (lambda work: work.add((12, 12)), "particle 1 lies at the point .12, 12.; remove it first, or give over=True"),
        (lambda work: work.add(box=(9, 4, 3, 8)), "has no inside"),
        (lambda work: work.add(box=(41, 27, 45, 30)), "finds nothing there that is free"),
        (lambda work: work.add(box="all"), "is no box"),
        (lambda work: work.refine(5), "give points inside or outside of particle 5"),
        (lambda work: work.refine(5, inside=[(99, 1)]), "outside the image"),
        (lambda work: work.undo(), "undo was asked for 1 actions, of 0"),
        (lambda work: work.undo(0), "undo was asked for 0"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(action, message):
    work = labelling()
    with pytest.raises(ValueError, match=message):
        action(work)
    assert np.array_equal(work.labels, draft()) and len(work.log) == 1
    assert work.add((30, 30)) == 6


def test_without_a_model_what_needs_none_can_be_done():
    work = labelling(ask=None)
    work.remove(2)
    with pytest.raises(ValueError, match=r"no model to ask; give one, as Labelling\(image, labels, Clicks"):
        work.add((30, 30))


@pytest.mark.parametrize(
    ("image", "labels"), [(IMAGE.astype(float), draft()), (IMAGE, draft()[1:]), (IMAGE, draft() / 2), (IMAGE, -draft())]
)
def test_other_images_and_labels_are_refused(image, labels):
    with pytest.raises(ValueError, match=r"give ids from 0 of the image's size|convert it to uint8"):
        Labelling(image, labels)


coordinates = st.tuples(st.integers(0, SHAPE[1] - 1), st.integers(0, SHAPE[0] - 1))
boxes = st.tuples(coordinates, coordinates).map(lambda two: (*two[0], *two[1]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("remove"), st.lists(st.integers(1, 9), min_size=1, max_size=2)),
        st.tuples(st.just("merge"), st.lists(st.integers(1, 9), min_size=2, max_size=3)),
        st.tuples(st.just("split"), coordinates, st.integers(2, 3), st.randoms(use_true_random=False)),
        st.tuples(st.just("add"), coordinates, st.booleans()),
        st.tuples(st.just("box"), boxes, st.booleans()),
        st.tuples(st.just("refine"), st.integers(1, 9), coordinates, st.booleans()),
        st.tuples(st.just("undo"), st.integers(1, 3)),
        st.tuples(st.just("redo"), st.just(1)),
        st.tuples(st.just("accept")),
    ),
    max_size=14,
)


def act(work, step):
    name, *rest = step
    if name in ("remove", "merge"):
        getattr(work, name)(*rest[0])
    elif name == "split":
        i = work.at(*rest[0])
        rows, columns = np.nonzero(work.labels == i)
        chosen = rest[2].sample(range(len(rows)), min(rest[1], len(rows)))
        work.split(i, *((int(columns[k]), int(rows[k])) for k in chosen))
    elif name == "add":
        work.add(rest[0], over=rest[1])
    elif name == "box":
        work.add(box=rest[0], over=rest[1])
    elif name == "refine":
        work.refine(rest[0], **{"inside" if rest[2] else "outside": [rest[1]]})
    elif name == "accept":
        work.accept()
    else:
        getattr(work, name)(rest[0])


@settings(max_examples=100, deadline=None)
@given(steps)
def test_any_actions_replay_to_the_same_labels_and_undo_to_the_draft(steps):
    work, gone, highest = labelling(), set(), 5
    for step in steps:
        before, log = work.labels.copy(), len(work.log)
        try:
            act(work, step)
        except ValueError:
            assert np.array_equal(work.labels, before) and len(work.log) == log
            continue
        assert len(work.log) == log + 1
        new = set(work.ids) - set(areas(before))
        if step[0] in ("undo", "redo"):
            assert max(work.ids, default=0) <= highest
        else:
            assert not new & gone and all(i > highest for i in new)  # an id that was seen once is never given again
        gone |= set(areas(before)) - set(work.ids)
        highest = max(highest, *work.ids, 0)
    lines = [json.loads(json.dumps(entry)) for entry in work.log]
    again = Labelling.replay(IMAGE, lines, square)
    assert np.array_equal(again.labels, work.labels) and again.labels.dtype == np.int32
    assert again.log == work.log and again.ids == work.ids
    for one in (work, again):  # goes on where it was, with undo too
        new = one.add((59, 0), over=True)
        assert new > highest
        one.undo(len(one._done))
        assert np.array_equal(one.labels, draft())
    assert again.labels is not work.labels


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_a_packed_patch_is_the_same(height, width, y, x, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    patch = cut(mask, y, x)
    back = unpack(json.loads(json.dumps(pack(patch))), (100, 100))
    assert back[:2] == patch[:2] and np.array_equal(back.mask, patch.mask)
    frame = Piece(y - 3, x + 2, np.zeros((height + 5, width), bool))
    expected = np.array(
        [[y <= r < y + height and x <= c < x + width and mask[r - y, c - x] for c in range(x + 2, x + 2 + width)]
         for r in range(y - 3, y + 2 + height)]
    )  # fmt: skip
    assert np.array_equal(placed(patch, frame), expected)


def test_a_log_of_another_image_or_a_damaged_one_is_refused():
    work = labelling()
    work.add((30, 30))
    with pytest.raises(DataError, match="of another image"):
        Labelling.replay(IMAGE[::-1], work.log)
    for broken in (
        [],
        work.log[1:],
        [*work.log, {"action": "fly"}],
        [*work.log, {"action": "remove", "ids": [44]}],
        [work.log[0], work.log[1] | {"made": [work.log[1]["made"][0] | {"bits": "AAAA"}]}],
    ):
        with pytest.raises(DataError, match=r"damaged|another image"):
            Labelling.replay(IMAGE, broken)


# ---------------------------------------------------------------------------------------------- with the real model
@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(device="cpu", tile=192, points_per_side=8)


@pytest.fixture(scope="module")
def sample():
    return generate(3, 1, (192, 256))


def middle(sample, i):
    rows, columns = np.nonzero(sample.labels == i)
    return int(np.median(columns)), int(np.median(rows))


def test_the_model_adds_a_particle_that_is_there(segmenter, sample):
    ids, counts = np.unique(sample.labels[sample.labels > 0], return_counts=True)
    largest = int(ids[counts.argmax()])
    true = sample.labels == largest
    rows, columns = np.nonzero(true)
    work = Labelling(sample.image, None, Clicks(segmenter))
    new = work.add(box=(columns.min(), rows.min(), columns.max(), rows.max()))
    assert iou(work.labels == new, true) > 0.6
    again = Labelling.replay(sample.image, json.loads(json.dumps(work.log)))
    assert np.array_equal(again.labels, work.labels)


def test_the_draft_is_the_segmenters_and_says_so(segmenter, sample):
    work = Labelling.draft(sample.image, segmenter, file="a.png")
    assert np.array_equal(work.labels, segmenter(sample.image).labels)
    assert work.log[0]["model"] == segmenter.described and work.log[0]["file"] == "a.png"
    json.dumps(work.log)


def test_windows_hold_their_prompts_and_a_second_click_is_not_encoded(segmenter, monkeypatch):
    clicks, encoded = Clicks(segmenter), []
    image = np.random.default_rng(0).integers(0, 255, (500, 700), np.uint8)
    real = clicks.predictor.set_image
    monkeypatch.setattr(clicks.predictor, "set_image", lambda part: (encoded.append(part.shape), real(part)))
    rng = np.random.default_rng(1)
    for _ in range(60):
        point, length = rng.random(2) * (699, 499), rng.integers(1, 300)
        box = (*point, *np.minimum(point + length, (699, 499)))
        for prompt in (Prompt((tuple(point),)), Prompt(box=tuple(map(float, box)))):
            y, x, side = clicks._window(image.shape, prompt, LEAST_WINDOW)
            low, high = (point, point) if prompt.box is None else (np.array(box[:2]), np.array(box[2:]))
            assert x <= low[0] and y <= low[1] and high[0] <= x + side and high[1] <= y + side
            assert x >= 0 and y >= 0 and side >= min(clicks.side, NEAR * (high - low).max())
    first = clicks(image, Prompt(((300.0, 200.0),)))
    clicks(image, Prompt(((310.0, 195.0),), ((330.0, 210.0),)))
    assert encoded == [(192, 192)]
    clicks(image, Prompt(((20.0, 20.0),)))
    second = clicks(image, Prompt(((300.0, 200.0),)))
    assert len(encoded) == 2 and first[:2] == second[:2] and np.array_equal(first.mask, second.mask)
    clicks(image.copy(), Prompt(((300.0, 200.0),)))
    assert len(encoded) == 3  # another image


def test_small_particles_are_enlarged_and_what_is_long_is_asked_for_in_a_larger_window(segmenter, monkeypatch):
    image, clicks = np.random.default_rng(0).integers(0, 255, (250, 250), np.uint8), Clicks(segmenter)
    asked = []

    def answer(prompt, y, x, foreground):
        asked.append((y, x, foreground.shape))
        mask = np.zeros(foreground.shape, bool)
        mask[100 - y : 104 - y, max(0, 70 - x) : 200 - x] = True  # rows 100 to 103, columns 70 to 199
        return mask

    monkeypatch.setattr(clicks, "_asked", answer)
    point = ((120.0, 102.0),)
    clicks(image, Prompt(point))
    assert asked == [(0, 0, (250, 250))]  # no larger than a tile by much: as a whole, as ever
    asked.clear()
    found = clicks(image, Prompt(point, usual=13.0))
    assert [shape for _, _, shape in asked] == [(96, 96), (250, 250)] and found.box == (70, 100, 199, 103)
    asked.clear()
    clicks(image, Prompt(box=(110.0, 100.0, 118.0, 103.0)))
    clicks(image, Prompt(box=(110.0, 100.0, 118.0, 103.0), usual=30.0))  # among large ones
    assert [shape for _, _, shape in asked] == [(96, 96), (250, 250), (250, 250)]


def test_the_model_hears_how_large_particles_are():
    heard = []
    work = labelling(lambda image, prompt: heard.append(prompt.usual) or square(image, prompt))
    work.add((30, 5))
    areas_now = [(draft() == i).sum() for i in (1, 2, 5)]
    assert heard == [pytest.approx(2 * np.sqrt(np.median(areas_now) / np.pi))]
    heard.clear()
    labelling(lambda image, prompt: heard.append(prompt.usual) or square(image, prompt), draft() * 0).add((30, 5))
    assert heard == [0]


def test_a_click_in_a_window_answers_where_it_was_clicked(segmenter, sample):
    """A micrograph in the corner of a large dark one: the model's answer lies there, not at the window's origin."""
    large = np.full((600, 700), sample.image.min(), np.uint8)
    large[300:492, 400:656] = sample.image
    ids, counts = np.unique(sample.labels[sample.labels > 0], return_counts=True)
    largest = int(ids[counts.argmax()])
    true = np.zeros(large.shape, bool)
    true[300:492, 400:656] = sample.labels == largest
    rows, columns = np.nonzero(true)
    work = Labelling(large, None, Clicks(segmenter))
    new = work.add(box=(columns.min(), rows.min(), columns.max(), rows.max()))
    assert iou(work.labels == new, true) > 0.6
    work.refine(new, inside=[middle(sample, largest)[0:2] + np.array([400, 300])])
    assert iou(work.labels == new, true) > 0.5
