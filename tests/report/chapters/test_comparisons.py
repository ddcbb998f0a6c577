"""Seeds of one configuration, and what runs were given."""

import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core.config import RunConfig
from lorasam_core.experiments.records import Record, read_edition
from lorasam_core.report.chapters import budgets, comparisons
from tests.made_up import write_run


def record(name="-", **config):
    return Record(Path(), name, RunConfig(name=name, **config), {}, {})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([4, 8, 16]), st.booleans()), max_size=12))
def test_groups_gather_seeds_and_nothing_else(asked):
    records = [
        record(f"{i}", seed=seed, rank=rank, transfer=("x",) * moved, truncate=(1,) * moved)
        for i, (seed, rank, moved) in enumerate(asked)
    ]
    found = comparisons.groups(records)
    assert [runs[0].config.rank for runs in found] == list(dict.fromkeys(rank for _, rank, _ in asked))
    for runs in found:
        seeds = [seed for seed, rank, _ in asked if rank == runs[0].config.rank]
        assert [r.config.seed for r in runs] == list(dict.fromkeys(seeds))


def test_seeds_come_from_the_pool():
    main, other, seed = record("main"), record("rank 8", rank=8), record("seed 1", seed=1)
    assert comparisons.with_seeds([main], [other, seed, main]) == [main, seed, main]
    assert comparisons.groups(comparisons.with_seeds([main], [other, seed, main])) == [[main, seed]]


def test_steps_note_states_the_budget_and_what_had_not_converged(tmp_path):
    write_run(tmp_path, "a", 0.8, name="a")
    write_run(tmp_path, "b", 0.8, name="b", rank=4, measured={"steps": 2400, "best_step": 2400, "seconds": 90.0})
    write_run(tmp_path, "f", 0.8, name="f", method="frozen", measured={"steps": 0, "best_step": 0})
    a, b, f = read_edition(tmp_path).records
    text = budgets.steps_note([a, b, f, a])
    assert text.startswith(
        "Each of the 2 trained runs took 100 to 2,400 steps and saw 800 images, in 1 to 2 minutes of wall time."
    )
    assert "The last validation was the best for *b*." in text and "not converged" not in text
    assert text.endswith("this alone does not say whether a longer run would gain.")
    assert budgets.steps_note([a]).endswith("It was not at its best in its last validation.")
    assert budgets.steps_note([f]) == budgets.steps_note([]) == ""


def test_no_torch_is_imported():
    modules = "comparisons, label_counts, comparison_plots"
    code = f"import sys; from lorasam_core.report.chapters import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
