"""Answers are the chapters' sentences: an edition made by hand, whose effects are known."""

from pathlib import Path

import pytest

from lorasam_core.chapters import answers, label_counts, transfer_tables
from lorasam_core.records import find_edition, root
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
        "Does it tell touching particles apart?", "Would another seed give the same?",
    ]  # fmt: skip
    assert all(line.count("{doc}") == 1 for line in said)
    first, rank, touching, seeds = said
    assert "the predictor's Dice shows a gain of 10.2" in first and "the F1 of its masks a loss of 10.0" in first
    assert "thresholds chosen for each model on validation images a difference of less than a tenth" in first
    assert "From rank 16 to 64 the predictor's Dice lies between" in rank and "highest at 32" in rank
    assert "below the highest, by more than images and seeds may do, lie 64 (-8.1)." in rank
    assert "Merges an image: 1.0 frozen, 1.0 adapted" in touching and "Dice of 3 seeds" in seeds


def test_an_edition_without_an_adapter_answers_nothing(tmp_path):
    edition = make_edition(tmp_path, main=[run(tmp_path, "f", method="frozen")])
    assert answers.answers(edition) == []
    answers.write(edition, tmp_path / "answers.md")
    assert (tmp_path / "answers.md").read_text() == "This edition has no runs that answer any of them.\n"


def test_the_published_edition_answers_with_the_sentences_of_its_chapters():
    edition = find_edition(root() / "book" / "results" / "emps")
    said = dict(line.removeprefix("**").split("** ", 1) for line in answers.answers(edition))
    assert {"Which Adam?", "Is LoRA needed?", "Does the batch size matter?"} <= set(said)
    transfer = transfer_tables.transfer_sentence(transfer_tables.transfer_rows(edition))
    assert said["Does an adapter carry over to other material?"].startswith(transfer)
    fewer = edition.experiment("labels") if "labels" in edition.experiments else []
    assert ("How many labelled images does it need?" in said) == bool(label_counts.by_count(fewer, 285))
