"""Answers are the chapters' sentences: an edition made by hand, whose effects are known."""

from pathlib import Path

import pytest

from lorasam_core.experiments.records import load, root
from lorasam_core.report.chapters import answers
from tests.made_records import make_edition, make_record, per_image

GROUPS = [f"g{k // 2}" for k in range(12)]
BASE = [0.5 + k / 50 for k in range(12)]


def run(folder: Path, run_id: str, lift: float = 0.0, f1: float = 0.3, **settings):
    """Dice BASE + lift, image by image; F1 as given under the run's own filters, a tenth more under chosen ones."""
    rows = [
        per_image("predictor", GROUPS, dice=[b + lift + 0.001 * (k % 3) * (run_id != "f") for k, b in enumerate(BASE)]),
        per_image("generator", GROUPS, dice=BASE, f1=[f1] * 12, ap50=[f1] * 12, merges=[1.0] * 12, splits=[2.0] * 12),
        per_image("generator_tuned", GROUPS, f1=[f1 + 0.1 * (run_id != "f")] * 12),
    ]
    return make_record(folder, run_id, rows, evaluate=("predictor", "generator"), **settings)


@pytest.fixture
def edition(tmp_path):
    frozen = run(tmp_path, "f", f1=0.4, method="frozen")
    main = [run(tmp_path, f"m{seed}", 0.1 + seed / 1000, seed=seed) for seed in range(3)]
    ranks = [run(tmp_path, f"r{rank}", lift, rank=rank) for rank, lift in ((16, 0.10), (32, 0.101), (64, 0.02))]
    return make_edition(tmp_path, main=[frozen, *main], rank=ranks, noise=main)


def test_every_answer_is_one_question_and_its_page(edition):
    said = answers.answers(edition)
    assert [line.split("**")[1] for line in said] == [
        "Does the mask generator improve with the predictor?", "Is it the rank, or the size of the step?",
        "Does it tell touching particles apart?", "Would other test images or another seed give the same?",
    ]  # fmt: skip
    assert all(line.count("{doc}") == 1 for line in said)
    first, rank, touching, seeds = said
    assert "the predictor's Dice shows a gain of 10.2" in first and "the F1 of its masks a loss of 10.0" in first
    assert "thresholds chosen for each model on validation images a difference of less than a tenth" in first
    assert "From rank 16 to 64 the predictor's Dice lies between" in rank and "highest at 32" in rank
    assert "below it, by more than other images and seeds may do, lie 64 (by 8.1 points)." in rank
    assert "Merges an image: 1.0 frozen, 1.0 adapted" in touching
    # Dice lifted by seed / 1000, F1 the same for every seed
    assert "Over 3 seeds the predictor's Dice has a standard deviation of 0.10 points and a range of 0.20;" in seeds
    assert "thresholds chosen for each, has a standard deviation of 0.00 points" in seeds


def test_nothing_is_said_of_seeds_that_were_not_run(edition):
    one = make_edition(edition.path, main=edition.experiment("main")[:2], rank=edition.experiment("rank"))
    rank = next(line for line in answers.answers(one) if "the rank" in line)
    assert "below it, by more than other images may do, lie" in rank and "64 (by 8.1 points)." in rank
    assert not any("another seed give" in line for line in answers.answers(one))


def test_one_group_has_no_chance_to_speak_of(tmp_path):
    rows = [[per_image("predictor", ["g"] * 3, dice=[level] * 3)] for level in (0.4, 0.5)]
    runs = [make_record(tmp_path, f"r{rank}", found, rank=rank) for rank, found in zip((16, 32), rows)]
    (rank,) = answers.answers(make_edition(tmp_path, main=runs[:1], rank=runs))
    assert "highest at 32; there are too few groups to say what of it is chance." in rank


def test_dividing_the_update_is_told_from_none_or_said_not_to_be(edition, tmp_path):
    rules = (("alpha/r", 0.10), ("alpha/sqrt(r)", 0.02))
    scaled = [run(tmp_path, f"s{k}", lift, rank=64, scaling=s, alpha=8) for k, (s, lift) in enumerate(rules)]
    names = ("main", "rank", "noise")
    whole = make_edition(tmp_path, **{name: edition.experiment(name) for name in names}, scaling=scaled)
    rank = next(line for line in answers.answers(whole) if "the rank" in line)
    assert "At rank 64 the Dice of an update divided by r differs by +8.0" in rank
    assert "points. At rank 64 the Dice of an update divided by √r differs by +0.0 [" in rank
    assert "points, which is not told from none." in rank


def test_an_edition_without_an_adapter_answers_nothing(tmp_path):
    edition = make_edition(tmp_path, main=[run(tmp_path, "f", method="frozen")])
    assert answers.answers(edition) == []
    answers.write(edition, tmp_path / "answers.md")
    assert (tmp_path / "answers.md").read_text() == "This edition has no runs that answer any of them.\n"


def test_the_published_edition_has_an_answer_wherever_it_has_runs():
    edition = load(root() / "book" / "results" / "emps")
    said = {line.split("**")[1] for line in answers.answers(edition)}
    asked = {
        "rivals": "Is LoRA needed?", "labels": "How many labelled images does it need?", "optimizer": "Which Adam?",
        "batch_size": "Does the batch size matter?", "objective": "Is what is trained also what is used?",
    }  # fmt: skip
    for experiment, question in asked.items():
        assert (question in said) == bool(edition.experiments.get(experiment)), experiment
