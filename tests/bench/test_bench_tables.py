"""The bench's record as a table, from a record made by hand."""

from __future__ import annotations

import pytest

from bench import tables


def row(name, seconds, reference, axes=None, aim=(None, None), answers=None, **case):
    case = {
        "name": name,
        "group": "encoder",
        "title": name,
        "at_least": aim[0],
        "at_most": aim[1],
        "axes": axes or {},
    } | case
    side = lambda values, peak: {"seconds": values, "idle_mb": [512.0] * len(values), "peak_mb": [peak] * len(values)}  # noqa: E731
    return {
        "case": case, "commit": "abc", "answers": answers or {"relative_error": 2e-7, "cosine": 1.0},
        "allocator": {"A": "1"}, "ours": side(seconds, 1024.0), "reference": side(reference, 3072.0),
        "ratio": sorted(reference)[len(reference) // 2] / sorted(seconds)[len(seconds) // 2],
        "ratio_low": 2.0, "ratio_high": 4.0,
    }  # fmt: skip


@pytest.fixture
def record():
    rows = [
        row("slow", [1.0, 2.0, 3.0], [6.0, 4.0, 5.0], {"rank": 8}, (3.0, None)),
        row("quick", [0.001], [0.002], {"rank": 4}, (1.5, 2.5)),
    ]
    about = {"device": "cpu", "device_name": "an abacus", "threads": 2, "packages": {"torch": "9"}}
    return {"environment": about, "date": "2026-01-01", "rows": rows}


def test_a_row_holds_medians_ratio_aim_memory_and_answer(record):
    table = tables.rows(record)
    slow, quick = table.to_dict("records")
    assert (slow["seconds"], slow["reference"], slow["runs"]) == (2.0, 5.0, 3)
    assert (slow["ratio"], slow["ratio_low"], slow["ratio_high"], slow["at_least"]) == (2.5, 2.0, 4.0, 3.0)
    assert (slow["memory"], slow["reference_memory"]) == (1024.0, 3072.0)
    assert (slow["growth"], slow["reference_growth"]) == (512.0, 2560.0)
    assert slow["answer"] == "relative error 2e-07" and (slow["device"], slow["threads"]) == ("CPU", 2)
    assert (slow["rank"], quick["rank"], quick["at_most"]) == (8, 4, 2.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "yes: 60 masks"),
        ({"pixels_differing": 3}, "yes: 60 masks, 3 pixels at a threshold"),
        ({"unmatched": 1, "unmatched_at_threshold": 1}, "yes: 60 masks, 1 masks at one"),
        ({"pixels_differing": 3, "pixels_far": 2}, "no: 2 pixels, 0 masks"),
        ({"unmatched": 1}, "no: 0 pixels, 1 masks"),
        ({"boxes_differ": 1}, "no: 0 pixels, 0 masks"),
    ],
)
def test_same_masks_are_called_so_and_others_are_not(changes, words):
    same = dict.fromkeys(("pixels_differing", "pixels_far", "unmatched", "unmatched_at_threshold", "boxes_differ"), 0)
    assert tables.answer(same | {"matched": 60, "same_pixels": 60} | changes) == words


def test_an_approximation_says_no():
    assert (
        tables.answer({"ours": 40, "reference": 50, "matched_iou": 0.913})
        == "other masks: 40 for 50, matched IoU 91.3 %"
    )
