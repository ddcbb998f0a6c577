"""Numbers in sentences: what the records say, and an error for what none of them says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorasam_core.experiments.records import published_editions
from lorasam_core.report.numbers import PLACE, fill, number
from lorasam_core.report.pages import read_notebook
from tests.made_up import write_edition, write_run


@pytest.fixture
def edition(tmp_path):
    folder = tmp_path / "e"
    for run_id, level, rank, seed in (("a", 0.70, 4, 0), ("b", 0.72, 4, 1), ("c", 0.80, 8, 0)):
        write_run(folder, run_id, level, ("predictor",), name=f"rank {rank}, seed {seed}", rank=rank, seed=seed)
    return write_edition(folder, {"rank": {"rank 4, seed 0": "a", "rank 4, seed 1": "b", "rank 8, seed 0": "c"}})


def dice(edition, run):
    rows = edition.scores[(edition.scores.run == run) & (edition.scores.measure == "predictor dice")]
    return rows.set_index("id")["value"]


def test_a_mean_is_that_of_the_runs_that_fit(edition):
    one, two, other = (dice(edition, run) for run in "abc")
    assert number(edition, "rank", "rank 4, seed 0", "predictor dice") == f"{100 * one.mean():.1f}"
    assert number(edition, "rank", "rank 4*", "predictor dice") == f"{100 * np.mean([one, two]):.1f}"
    text = fill("From {{ rank / rank 4* / predictor dice }} to {{rank/rank 8*/predictor\ndice}} %.", edition)
    assert text == f"From {100 * np.mean([one, two]):.1f} to {100 * other.mean():.1f} %."


def test_a_difference_is_paired_and_has_its_interval(edition):
    change = 100 * (dice(edition, "c") - dice(edition, "a")).mean()
    found = number(edition, "rank", "rank 8, seed 0 - rank 4, seed 0", "predictor dice")
    assert found.startswith(f"{change:+.1f} [") and found.endswith("]")


def test_a_setting_stands_as_it_is_written(edition):
    assert number(edition, "rank", "rank 8*", "rank") == "8"
    assert number(edition, "rank", "*", "learning_rate") == "0.0001"
    assert number(edition, "rank", "rank 8*", "trainable_parameters") == "36,864"


@pytest.mark.parametrize(
    "place",
    ["{{ rank / rank 16 / predictor dice }}", "{{ rnk / rank 4* / predictor dice }}", "{{ rank / * / predictor size }}",
     "{{ rank / * / rank }}", "{{ rank / rank 8* - rank 9* / predictor dice }}"],
)  # fmt: skip
def test_a_number_that_no_record_has_is_refused(edition, place):
    with pytest.raises(ValueError, match=r"the edition e; "):
        fill(f"It is {place}.", edition)


def test_every_number_of_the_written_pages_is_in_the_published_records():
    if not (published := published_editions()):
        pytest.skip("no edition is published yet")
    filled = 0
    for path in sorted((Path(__file__).parents[2] / "notebooks").rglob("*.py")):
        for cell in read_notebook(path).cells:
            if cell.cell_type == "markdown" and PLACE.search(cell.source):
                text = fill(cell.source, published[0])
                assert not PLACE.search(text) and "nan" not in text.split()
                filled += 1
    assert filled >= 3
