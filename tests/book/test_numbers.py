"""Numbers of the built tables, drawn at random, stand in the records of the edition that the book shows."""

from __future__ import annotations

import random

import pytest
from bs4 import BeautifulSoup

from lorasam_core.experiments.records import Edition
from tests.book.quoted import Cell, Numbers, agree, behind, cells, changed

DRAWS = 10
RESULT_TABLES = {"landing", "main", "rank", "learning-rate", "batch-size"}

Traced = tuple[Cell, int, list[Numbers]]  # a cell, the place of one of its numbers, what may stand in the cell


@pytest.fixture(scope="module")
def numbers(soups: dict[str, BeautifulSoup], edition: Edition) -> list[Traced]:
    """Every number in a table's cell that a record, or the study, should hold."""
    traced = [(cell, behind(cell, edition)) for cell in cells(soups)]
    return [(cell, place, sources) for cell, sources in traced if sources for place in range(len(cell.numbers))]


def found(shown: list[str], sources: list[Numbers]) -> bool:
    return any(agree(shown, values) for values in sources)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_numbers_drawn_at_random_are_found_in_records(numbers: list[Traced], seed: int) -> None:
    drawn = random.Random(seed).sample(numbers, DRAWS)
    strange = [f"{cell} should be {sources}" for cell, _, sources in drawn if not found(cell.numbers, sources)]
    assert not strange, "\n".join(strange)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_number_that_was_changed_is_found_in_no_record(numbers: list[Traced], seed: int) -> None:
    for cell, place, sources in random.Random(seed).sample(numbers, DRAWS):
        shown = cell.numbers
        shown[place] = changed(shown[place])
        assert not found(shown, sources), cell


def test_every_table_of_results_is_drawn_from(numbers: list[Traced]) -> None:
    assert {cell.table for cell, _, _ in numbers} >= RESULT_TABLES


@pytest.mark.parametrize(
    ("shown", "values", "same"),
    [
        (["75.2", "68.2", "80.9"], (75.249, 68.151, 80.93), True),
        (["75.2", "68.2", "80.9"], (75.249, 68.151, 80.96), False),
        (["75.2"], (75.2, 68.2, 80.9), False),
        (["18,432"], (18432.0,), True),
        (["-0.4"], (0.4,), False),
    ],
)
def test_shown_numbers_are_compared_at_the_digits_that_are_shown(shown: list[str], values: Numbers, same: bool) -> None:
    assert agree(shown, values) is same
