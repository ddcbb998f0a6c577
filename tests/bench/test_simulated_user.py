"""The simulated user on hand-made cases, where the least that a person could do is known."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import disk

from bench.simulated_user import simulate
from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.patches import cut

SHAPE = (60, 90)
IMAGE = np.zeros(SHAPE, np.uint8)
KINDS = ("remove", "merge", "split", "add", "box", "refine", "undo")


def truth():
    """Two discs that touch (1, 2), two alone (3, 4), and a speck (5) that nobody is asked for."""
    labels = np.zeros(SHAPE, np.int32)
    labels[disk((15, 15), 9)], labels[disk((15, 32), 9)] = 1, 2
    labels[disk((42, 20), 11)], labels[disk((40, 65), 8)] = 3, 4
    labels[5:8, 80:83] = 5
    return labels


def perfect(image, prompt):
    """The true particle at the first point inside, or the one that fills most of the box; nothing on background."""
    true = truth()
    if prompt.box is not None:
        x0, y0, x1, y1 = (int(side) for side in prompt.box)
        i = np.bincount(true[y0 : y1 + 1, x0 : x1 + 1].ravel(), minlength=6)[1:].argmax() + 1
    else:
        x, y = prompt.inside[0]
        i = true[int(y), int(x)] or -1
    return cut(true == i)


def nothing(image, prompt):
    return cut(np.zeros(SHAPE, bool))


def counts(labels, ask=perfect, **options):
    work = Labelling(IMAGE, labels, ask)
    effort = simulate(work, truth(), **options)
    return {kind: getattr(effort, kind) for kind in KINDS if getattr(effort, kind)}, effort, work


def test_nothing_is_done_to_what_is_right():
    done, effort, work = counts(truth())
    assert done == {} and effort.f1 == effort.f1_before == 1 and not work.touched


def test_from_nothing_each_particle_takes_one_click():
    done, effort, work = counts(None)
    assert done == {"add": 4} and (effort.clicks, effort.actions, effort.corrections) == (4, 4, 0)
    assert effort.f1_before == 0 and effort.f1 == pytest.approx(8 / 9)  # the speck counts in the score
    assert np.array_equal(work.labels > 0, np.isin(truth(), (1, 2, 3, 4)))


def test_merged_particles_are_split_and_pieces_merged_and_what_is_none_removed():
    labels = truth()
    labels[labels == 2] = 1  # one of two
    labels[(labels == 3) & (np.arange(SHAPE[1]) > 20)] = 6  # two of one
    labels[50:58, 60:85] = 7  # nothing there
    done, effort, work = counts(labels)
    assert done == {"split": 1, "merge": 1, "remove": 1}
    assert (effort.clicks, effort.corrections, effort.given_up) == (2 + 2 + 1, 3, 0)
    assert effort.f1 == 1 and effort.f1_before < 0.8


def test_a_mask_over_everything_is_removed_and_not_split():
    done, effort, _ = counts(np.ones(SHAPE, np.int32))
    assert done == {"remove": 1, "add": 4} and effort.given_up == 0


def test_a_small_mask_of_a_particle_is_not_what_is_asked_for():
    labels = np.where(truth() == 4, 4, 0).astype(np.int32)
    labels[40, 61:70] = 0
    labels[:40] = 0  # under half of the disc is left
    done, effort, _ = counts(labels)
    assert done == {"remove": 1, "add": 4}


def test_one_more_point_and_then_a_box():
    """A model that gives a piece for a point, all for a second, but for particle 3 only for a box."""

    def ask(image, prompt):
        whole = perfect(image, prompt)
        third = prompt.box is None and truth()[int(prompt.inside[0][1]), int(prompt.inside[0][0])] == 3
        if prompt.box is None and (third or len(prompt.inside) < 2):
            mask = np.zeros(SHAPE, bool)
            mask[whole.window] = whole.mask
            mask[:, : int(prompt.inside[0][0]) + 2] = False
            return cut(mask)
        return whole

    done, effort, _ = counts(None, ask)
    assert done == {"add": 4, "refine": 4, "undo": 1, "box": 1} and effort.given_up == 0
    assert effort.clicks == 4 + 4 + 1 + 2


def test_what_the_model_cannot_find_is_given_up_and_counted():
    done, effort, work = counts(None, nothing)
    assert done == {"add": 4, "box": 4} and effort.given_up == 4 and effort.f1 == 0 and work.ids == []


def test_a_wrong_answer_is_taken_back():
    def everything(image, prompt):
        return cut(np.ones(SHAPE, bool))

    labels = np.where(truth() == 4, 4, 0).astype(np.int32)
    _, effort, work = counts(labels, everything, cap=1000)
    assert np.array_equal(work.labels, labels) and effort.given_up == 3
    assert effort.undo == 6 and effort.box == 3


def test_the_cap_holds_and_the_same_is_done_twice():
    done, effort, work = counts(None, cap=2)
    assert done == {"add": 2} and effort.given_up == 2
    again = counts(None, cap=2)
    assert again[0] == done and np.array_equal(again[2].labels, work.labels)
    assert {1, 3} == set(truth()[work.labels > 0])  # the largest first


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="give labels of its size"):
        simulate(Labelling(IMAGE), truth()[1:])
