"""What the prose of the published edition claims, as verdicts: records that contradict a sentence are found here."""

import pandas as pd
import pytest

from lorasam_core import stats
from lorasam_core.experiments.records import published_editions
from lorasam_core.report import page as report

CLAIMED = {  # book/_written/findings.md, README.md, results/train
    "predictor: Dice": "higher",
    "mask generator: F1 at IoU 0.5": "lower",
    "mask generator, thresholds by validation: F1 at IoU 0.5": stats.NEITHER,
}
RIVALS = {"every weight": "higher", "U-Net from scratch": stats.NEITHER, "mask decoder alone": stats.NEITHER}


@pytest.fixture(scope="module")
def edition():
    published = published_editions()
    return published[0] if published else pytest.skip("no edition is published yet")


def compared(scores, by, reference, seeds, untrained=()):
    return stats.verdict(stats.paired(scores, by, reference), stats.seed_noise(seeds), untrained).set_index(by)


def test_the_first_page_says_what_its_table_says(edition):
    table = report.main_table(edition).set_index("metric, %")["verdict"]
    assert {label: table[label] for label in CLAIMED} == CLAIMED


def test_no_rank_differs_from_rank_32(edition):
    dice = edition.scores[edition.scores["measure"] == "predictor dice"].merge(edition.runs, on="run")
    ranks = dice[dice["experiment"] == "rank"]
    found = compared(ranks, "rank", 32, dice[dice["experiment"] == "noise"])
    assert set(found.index) >= {4, 64, 128, 256} and set(found["verdict"]) == {stats.NEITHER}


def test_rivals_stand_to_lora_as_the_first_page_says(edition):
    scores = edition.scores.merge(edition.runs[edition.runs["experiment"] == "rivals"], on="run")
    lora = scores["name"].str.fullmatch(r"LoRA(, seed \d)?")
    scores = scores.assign(name=scores["name"].where(~lora, "LoRA"))
    dice = scores[scores["measure"] == "predictor dice"]
    found = compared(dice, "name", "LoRA", dice[dice["name"] == "LoRA"])["verdict"]
    assert {name: found[name] for name in RIVALS} == RIVALS
    f1 = scores[(scores["measure"] == "generator_tuned f1") & (scores["name"] == "LoRA")]
    otsu = scores[(scores["measure"] == "generator f1") & (scores["name"] == "Otsu and watershed")]
    assert otsu["value"].mean() > f1["value"].mean()
    both = pd.concat([f1, otsu])
    assert stats.paired(both, "name", "LoRA")["images"].iloc[0] == f1["id"].nunique()
