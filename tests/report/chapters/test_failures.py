"""What goes wrong in an image: hand-made label images, and the metrics that count the same things in another way."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core import plots
from lorasam_core.data.sample import Sample
from lorasam_core.measure import metrics
from lorasam_core.report.chapters import failures
from tests.made_records import make_record, per_image


def squares(*places, shape=(40, 120)):
    """A label image with a rectangle a place (y, x, height, width), labelled 3, 6, 9 ..."""
    labels = np.zeros(shape, np.int32)
    for k, (y, x, h, w) in enumerate(places, start=1):
        labels[y : y + h, x : x + w] = 3 * k
    return labels


# a pair that touches, a large one, one alone, one that nobody finds, one whose outline is off
TRUE = squares((0, 0, 10, 10), (0, 10, 10, 10), (0, 30, 20, 20), (0, 60, 10, 10), (25, 0, 10, 10), (25, 40, 10, 10))
# over the pair, two halves of the large one, the one alone, the last and more beside it, and two on nothing
FOUND = squares(
    (0, 0, 10, 20), (0, 30, 9, 20), (9, 30, 11, 18), (0, 60, 10, 9), (25, 40, 10, 25), (25, 80, 5, 5), (25, 100, 5, 5)
)  # fmt: skip
# IoU of the second half is 198 / 400: just not found


def test_every_kind_by_hand():
    of_true, of_found = failures.kinds(FOUND, TRUE)
    # both of the pair have an IoU of exactly a half with the one instance, and one of them is matched with it
    assert sorted(of_true[:2]) == ["found", "merged"]
    assert of_true[2:].tolist() == ["split", "found", "missed", "outline off"]
    assert of_found.tolist() == ["found", "", "", "found", "", "spurious", "spurious"]
    counts = failures.diagnose(FOUND, TRUE)
    assert (counts["particles"], counts["instances"]) == (6, 7)
    assert [counts[kind] for kind in failures.OF_PARTICLES] == [2, 1, 1, 1, 1] and counts["spurious"] == 2
    inside, covered, both = 5 * 100 + 400, 200 + 180 + 198 + 90 + 250 + 50, 200 + 180 + 198 + 90 + 100
    assert counts["coverage"] == pytest.approx(both / inside) and counts["excess"] == pytest.approx(1 - both / covered)
    assert counts["missed_diameter"] == counts["found_diameter"] == pytest.approx(np.sqrt(400 / np.pi))
    assert failures.dominant(counts) == ["spurious"]


def random_labels(seed, count):
    rng = np.random.default_rng(seed)
    labels = np.zeros((24, 30), np.int32)
    for k in range(count):
        y, x = rng.integers(0, [20, 26])
        h, w = rng.integers(2, 10, 2)
        labels[y : y + h, x : x + w] = rng.integers(1, 50) if k % 4 else k + 50
    return labels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 8), st.integers(0, 8))
def test_kinds_agree_with_the_metrics(seed, n_found, n_true):
    found, true = random_labels(seed, n_found), random_labels(seed + 1, n_true)
    counts = failures.diagnose(found, true)
    total = counts["particles"] + counts["instances"]
    assert sum(counts[kind] for kind in failures.OF_PARTICLES) == counts["particles"] == len(np.unique(true[true > 0]))
    f1 = 2 * counts["found"] / total if total else 1.0
    assert metrics.f1(found, true) == pytest.approx(f1)
    merges, splits = metrics.merges_and_splits(found, true)
    assert merges or not counts["merged"]
    assert counts["split"] <= splits
    perfect = failures.diagnose(true, true)
    assert perfect["found"] == perfect["particles"] and failures.dominant(perfect) == []


def test_nothing_found_and_nothing_there():
    empty = np.zeros_like(TRUE)
    counts = failures.diagnose(empty, TRUE)
    assert (counts["missed"], counts["coverage"], counts["spurious"]) == (6, 0, 0) and np.isnan(counts["excess"])
    counts = failures.diagnose(TRUE, empty)
    assert (counts["spurious"], counts["excess"], counts["particles"]) == (6, 1, 0) and np.isnan(counts["coverage"])
    assert failures.dominant(failures.diagnose(empty, empty)) == []
    with pytest.raises(ValueError, match="one size"):
        failures.kinds(empty, empty[:5])


def color(kind):
    text = failures.KIND_COLORS[kind]
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def test_the_error_map_has_a_colour_a_kind():
    out = failures.error_map(FOUND, TRUE)
    assert out.shape == (40, 120, 3) and out.dtype == np.uint8
    assert out[30, 5].tolist() == color("missed") and out[10, 40].tolist() == color("split")
    assert out[30, 45].tolist() == color("outline off") and out[5, 65].tolist() == color("found")
    assert out[27, 82].tolist() == color("spurious")
    assert sorted([out[5, 5].tolist(), out[5, 15].tolist()]) == sorted([color("found"), color("merged")])
    assert not out[38, 100].any() and not out[30, 60].any()  # on no particle, and in no spurious instance
    assert not out[5, 9].any() and out[5, 10].any()  # where two particles touch
    assert len(set(failures.KIND_COLORS.values())) == len(failures.KIND_COLORS)


def test_the_figure_names_its_pictures_and_colours():
    image = np.full(TRUE.shape, 90, np.uint8)
    figure = failures.failure(image, TRUE, FOUND)
    assert [a.get_title() for a in figure.axes] == ["input", "labels", "adapted", "errors"]
    assert figure.axes[2].title.get_color() == plots.ADAPTED
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["found", *failures.ERRORS]
    assert figure.made_by == "lorasam_core.report.chapters.failures.failure"


def test_a_diagnosis_in_words():
    text = failures.diagnosis_sentence("im7", failures.diagnose(FOUND, TRUE))
    assert text.startswith("im7: of 6 labelled particles 2 are found, 1 missed, 1 merged, 1 split and 1 outline off;")
    assert (
        "of 7 instances 2 are spurious" in text
        and "on no particle." in text
        and text.endswith("Most frequent: spurious.")
    )
    flawless = failures.diagnosis_sentence("im8", failures.diagnose(TRUE, TRUE))
    assert "6 are found. The instances cover 100 %" in flawless and "Nothing is wrong by these rules" in flawless


@pytest.fixture
def record(tmp_path):
    """Twelve images: AP50 falls with the letter, but for ties at zero; Dice is lowest in the middle."""
    columns = {
        "ap50": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0],
        "dice": [0.9, 0.9, 0.9, 0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.9],
    }
    rest = dict.fromkeys(("merges", "splits", "n_pred", "n_true"), 2)
    groups = [f"g{k // 6}" for k in range(12)]
    rows = [per_image("predictor", groups, dice=0.5), per_image("generator", groups, **columns, **rest)]
    return make_record(tmp_path, "m0", rows)


def test_the_worst_by_either_measure(record):
    worst = failures.worst_images(record, count=3)
    assert list(worst["id"]) == ["k", "j", "l", "e", "d"]  # the tie at zero is broken by Dice, then by id
    ranks = worst.set_index("id")
    assert ranks.loc["d", ["rank_ap50", "rank_dice"]].tolist() == [9, 1]
    assert ranks.loc["k", ["rank_ap50", "rank_dice"]].tolist() == [1, 3]
    shown = failures.worst_table(worst)
    assert shown.iloc[0].tolist() == ["k", "1, 3", "0.0", "50.0", "2", "2", "2", "2"]
    assert worst.attrs["runs"] == ["m0"]
    assert failures.overlap_sentence(record, worst, count=3) == (
        "Of 12 test images 1 is among the 3 worst by both measures."
    )
    assert failures.overlap_sentence(record, failures.worst_images(record)) == ""  # ten of twelve must overlap
    assert failures.overlap_sentence(record, worst[:0], count=3) == ""


def sample(i, group="g0"):
    return Sample(np.zeros(TRUE.shape, np.uint8), TRUE, i, group)


def test_the_gallery_shows_no_image_twice(record):
    worst = failures.worst_images(record)
    samples = [sample(i) for i in worst["id"]]
    shown = failures.gallery(samples, worst, each=2)
    assert [s.id for _, s in shown] == ["k", "j", "d", "e"]
    assert shown[0][0] == "Rank 1 by AP50" and shown[3][0] == "Rank 2 by Dice"
    strangers = [sample(f"s{k}") for k in range(5)]
    assert failures.gallery(strangers, worst, each=2) == [("Stand-in", strangers[0]), ("Stand-in", strangers[1])]
    assert failures.gallery([], worst) == []


def test_errors_are_summed_over_lists_and_groups(record):
    worst = failures.worst_images(record, count=3)
    samples = [sample(i, "g1" if i in "kjl" else "g0") for i in worst["id"]]
    empty = np.zeros_like(TRUE)
    diagnoses = {i: failures.diagnose(empty if i in "kjl" else FOUND, TRUE) for i in worst["id"]}
    lists = failures.groups_of(samples, worst, count=3)
    assert lists == {
        "worst by AP50": ["k", "j", "l"], "worst by Dice": ["k", "e", "d"], "g1": ["k", "j", "l"], "g0": ["e", "d"],
    }  # fmt: skip
    table = failures.error_table(diagnoses, lists).set_index("group")
    assert table.loc["worst by AP50", ["images", "particles", "missed", "dominant"]].tolist() == [3, 18, 18, "missed"]
    assert table.loc["g0", ["images", "found", "spurious", "dominant"]].tolist() == [2, 4, 4, "spurious"]
    assert table.loc["worst by Dice", ["dominant", "dominant_in"]].tolist() == ["missed", 1]
    text = failures.summary_sentence(table.reset_index())
    assert "is: missed (the most frequent in 1 of 3 images; " in text
    assert (
        "worst by AP50 the most frequent error is: missed (the most frequent in 3 of 3 images; 18 of 18 particles are"
        in text
    )
    assert "by specimen or paper, of 2: " in text and "missed in 1 and spurious in 1" in text


def test_without_a_generator_or_an_image_there_is_nothing_to_show(tmp_path):
    record = make_record(tmp_path, "p", [per_image("predictor", ["g"], dice=[0.5])])
    worst = failures.worst_images(record)
    assert worst.empty and list(worst.columns[-2:]) == ["rank_ap50", "rank_dice"]
    assert failures.gallery([], worst) == [] and failures.groups_of([], worst) == {}
    table = failures.error_table({}, {"worst by AP50": ["a"]})
    assert isinstance(table, pd.DataFrame) and table.empty
    assert failures.summary_sentence(table) == "No image could be diagnosed."
