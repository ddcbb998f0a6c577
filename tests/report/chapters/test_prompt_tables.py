"""Prompts side by side: leads are paired differences that can be counted by hand, and sentences claim no more."""

import numpy as np
import pytest

from lorasam_core.report.chapters import prompt_tables
from tests.made_records import make_edition, make_record, per_image

GROUPS = ("g1", "g1", "g2", "g2", "g3", "g3")
HARD = np.array([0.0, 0.1, 0.2, -0.1, -0.2, 0.05])  # what makes one image harder than another, for every prompt


def rows(point, box=None, exact=None, predictor=0.4, ap50=0.3):
    """Every image at these levels, shifted by what makes it hard; None: not asked."""
    found = [
        per_image("predictor", GROUPS, iou=predictor + HARD),
        per_image("generator", GROUPS, iou=0.5 + HARD, ap50=ap50 + HARD),
        per_image("point", GROUPS, iou_rated=point + HARD, iou_best=point + 0.05 + HARD),
    ]
    if box is not None:
        found.append(per_image("box", GROUPS, iou_rated=box + HARD, iou_best=box + HARD))
    if exact is not None:
        found.append(per_image("exact_box", GROUPS, iou_rated=exact + HARD, iou_best=exact + HARD))
    return found


@pytest.fixture
def edition(tmp_path):
    frozen = make_record(tmp_path, "f", rows(0.5, 0.65, 0.66), method="frozen")
    adapted = [
        make_record(tmp_path, "m0", rows(0.7, 0.72, 0.74, predictor=0.6), rank=32),
        make_record(tmp_path, "m1", rows(0.7, 0.74, 0.76, predictor=0.6), rank=32, seed=1),
    ]
    return make_edition(tmp_path, main=[frozen, *adapted])


def test_a_row_a_prompt_and_which_use_the_answer(edition):
    table = prompt_tables.prompt_table(edition).set_index("prompt")
    assert list(table.index) == [prompt.label for prompt in prompt_tables.PROMPTS]
    uses = table["uses the answer"].str.startswith("yes")
    assert not uses[["whole image", "mask generator, union", "mask generator, AP50"]].any()
    assert uses[["point", "point, best mask", "jittered box", "exact box"]].all()
    mean = np.mean(0.6 + HARD) * 100
    assert table.loc["whole image", "adapted, %"].startswith(f"{mean:.1f} [")
    assert table.loc["whole image", "gain, points"] == "+20.0 [+20.0,\u00a0+20.0]"  # the same on every image
    assert table.loc["mask generator, AP50", "gain, points"] == "+0.0 [+0.0,\u00a0+0.0]"


def test_the_numbers_behind_the_table(edition):
    found = prompt_tables.prompt_rows(edition)
    point = found[(found["metric"] == "point") & (found["series"] == "frozen")].iloc[0]
    assert point["mean"] == pytest.approx(100 * np.mean(0.5 + HARD)) and point["low"] < point["mean"] < point["high"]
    assert (point["n"], point["groups"], point["uses_answer"]) == (6, 3, True)
    assert set(found["series"]) == {"frozen", "adapted"} and found.attrs["runs"] == ["f", "m0", "m1"]


def test_leads_are_paired_and_seeds_are_averaged(edition):
    found = prompt_tables.leads(edition).set_index(["lead", "series"])
    _, box, exact = (label for label, _, _ in prompt_tables.LEADS)
    expected = {(box, "frozen"): 0.15, (box, "adapted"): 0.03, (box, "adapting"): -0.12, (exact, "frozen"): 0.01}
    for key, value in (expected | {(exact, "adapted"): 0.02, (exact, "adapting"): 0.01}).items():
        # images differ, leads do not: the interval of a paired difference has no width
        assert found.loc[key, ["mean", "low", "high"]].astype(float).tolist() == pytest.approx([value] * 3)
    shown = prompt_tables.lead_table(prompt_tables.leads(edition)).set_index("more of the answer")
    assert shown.loc[box, "frozen, points"] == "+15.0 [+15.0,\u00a0+15.0]"
    assert shown.loc[box, "changed by adapting, points"] == "-12.0 [-12.0,\u00a0-12.0]"


def test_the_sentence_says_what_the_answer_is_worth(edition):
    text = prompt_tables.prompt_sentence(edition)
    assert "a jittered box in place of a point is worth 3.0 [3.0,\u00a03.0] points" in text
    assert (
        "narrows the lead of the box over the point by 12.0" in text
        and "to the point gains more than that to the box" in text
    )
    assert "Not asked" not in text


def test_a_lead_that_cannot_be_told_from_none_is_not_claimed(tmp_path):
    noise = np.array([0.3, 0.3, -0.3, -0.3, 0.0, 0.01])
    frozen = make_record(tmp_path, "f", rows(0.5, 0.5 + noise), method="frozen")
    adapted = make_record(tmp_path, "m0", rows(0.5, 0.5 - noise))
    text = prompt_tables.prompt_sentence(make_edition(tmp_path, main=[frozen, adapted]))
    assert "a jittered box in place of a point makes a difference of" in text and "no detectable difference" in text
    assert "narrows" not in text and "widens" not in text
    assert "Not asked in this edition: exact box." in text


def test_an_older_edition_without_a_frozen_run_or_boxes(tmp_path):
    edition = make_edition(tmp_path, main=[make_record(tmp_path, "m0", rows(0.7))])
    table = prompt_tables.prompt_table(edition).set_index("prompt")
    assert "exact box" not in table.index and table.loc["point", "frozen, %"] == "–"
    text = prompt_tables.prompt_sentence(edition)
    assert "jittered box and exact box." in text and "Adapting" not in text
    nothing = make_record(tmp_path, "p", [per_image("predictor", GROUPS, iou=0.5 + HARD)])
    bare = make_edition(tmp_path, main=[nothing])
    assert prompt_tables.leads(bare).empty and prompt_tables.lead_table(prompt_tables.leads(bare)).empty
    assert prompt_tables.prompt_sentence(bare).startswith("Not asked in this edition: mask generator, union")
