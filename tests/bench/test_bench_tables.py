"""The bench's record as the reader sees it, from a record made by hand."""

from __future__ import annotations

import pytest

from bench import tables
from bench.cases import cases


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


def test_a_row_shows_medians_ratio_aim_memory_and_answer(record):
    table = tables.comparison(record, "encoder")
    assert table.iloc[0].tolist() == [
        "slow", "2 s", "5 s", "2.50 [2.00, 4.00]", "≥ 3", 3, "1.00 / 3.00", "relative error 2e-07",
    ]  # fmt: skip
    assert table.iloc[1]["lorasam"] == "1 ms" and table.iloc[1]["aim"] == "1.5 to 2.5"
    assert tables.comparison(record, "merged").empty


def test_only_what_misses_its_aim_is_named(record):
    assert tables.missed(record) == ["slow: 2.50 against an aim of ≥ 3."]


def test_what_was_not_measured_is_named(record):
    everything = [case.title for case in cases("cpu")]
    assert tables.unmeasured(record) == everything
    first = row(cases("cpu")[0].name, [1.0], [1.0])
    assert tables.unmeasured(record | {"rows": [first]}) == everything[1:]


def test_growth_is_sorted_and_leaves_out_what_the_process_held_before(record):
    table = tables.growth(record, "rank")
    assert table["x"].tolist() == [4, 4, 8, 8]
    ours = table[table["side"] == "lorasam"]
    assert ours["seconds"].tolist() == [0.001, 2.0] and ours["memory"].tolist() == [512.0, 512.0]
    assert [(kind, axis) for kind, axis, _ in tables.growths({"CPU": record})] == [("CPU", "rank")]


def test_numbers_hold_every_run(record):
    table = tables.numbers(record)
    assert len(table) == 8 and table["seconds"].sum() == pytest.approx(6 + 15 + 0.003)


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


def test_the_machine_is_named(record):
    text = tables.machine(record)
    assert "an abacus" in text and "commit abc" in text and "allocator settings" in text
