"""AdamW against Adam on made-up records: which runs are paired, what is claimed, and which updates are called lost."""

import math

import numpy as np

from lorasam_core.experiments.records import read_edition
from lorasam_core.report.chapters import comparisons, optimizers, spectra
from tests.made_up import spectrum, write_run


def series(folder, rows):
    """Runs of rows (optimiser, learning rate, seed, Dice, norms of the updates of four matrices)."""
    folder.mkdir(exist_ok=True)
    for kind, rate, seed, dice, norms in rows:
        found = [matrix | {"norm": norm} for matrix, norm in zip(spectrum(1.0), norms, strict=True)]
        settings = {"optimizer": kind, "learning_rate": rate, "seed": seed, "name": f"{kind} {rate:g} {seed}"}
        run_id = f"{kind}{rate * 1e5:.0f}s{seed}"
        write_run(folder, run_id, dice, measured={"spectrum": found}, scatter=0.003, **settings)
    return optimizers.by_optimizer(read_edition(folder).records)


WHOLE, TAKEN = (2.0, 1.0, 0.5, 4.0), (1e-9, 0.001, 0.1, 4.0)
ROWS = (
    ("adam", 0.001, 1, 0.601, TAKEN), ("adam", 0.001, 0, 0.600, TAKEN), ("adam", 0.01, 0, 0.70, TAKEN),
    ("adamw", 0.001, 0, 0.700, WHOLE), ("adamw", 0.001, 1, 0.702, WHOLE), ("adamw", 0.01, 0, 0.70, WHOLE),
    ("adamw", 0.0001, 0, 0.65, WHOLE),
)  # fmt: skip


def test_the_table_has_a_row_a_rate_and_a_column_an_optimiser(tmp_path):
    found = series(tmp_path, ROWS)
    assert {name: len(runs) for name, runs in found.items()} == {"AdamW": 4, "Adam": 3}
    shown = optimizers.optimizer_display(comparisons.series_table(found, "learning_rate"), found)
    gain = "AdamW - Adam, points"
    assert list(shown.columns) == ["learning rate", "AdamW: Dice, %", "Adam: Dice, %", gain]
    means = {
        title: np.mean(
            [r.metrics["test"]["predictor"]["dice"]["mean"] for r in runs if r.config.learning_rate == 0.001]
        )
        for title, runs in found.items()
    }
    assert shown[gain][1].startswith(f"{100 * (means['AdamW'] - means['Adam']):+.1f} [") and shown[gain][2] == "–"
    alone = optimizers.optimizer_display(comparisons.series_table({"AdamW": found["AdamW"]}, "learning_rate"), {})
    assert list(alone.columns) == ["learning rate", "AdamW: Dice, %"]
    assert list(shown["learning rate"]) == ["0.01", "0.001", "0.0001"]
    assert shown["Adam: Dice, %"][2] == "–" and shown["Adam: Dice, %"][1].endswith(", 2 seeds")
    assert shown["AdamW: Dice, %"][2].startswith(("64", "65", "66"))


def test_a_difference_is_claimed_where_the_runs_differ(tmp_path):
    found = series(tmp_path, ROWS)
    text = optimizers.optimizer_sentence(found, noise=0.5)
    assert "the Dice under AdamW, measured against that under Adam, is higher at 0.001 (+" in text
    assert "cannot be told apart at 0.01 (" in text and "0.0001" not in text and "lower" not in text
    noisy = optimizers.optimizer_sentence(found, noise=60.0)  # seeds alone could do as much
    assert "higher" not in noisy and "cannot be told apart at 0.01 (" in noisy
    assert "No more than other images and other seeds may do together: at 0.001 (" in noisy
    turned = {"AdamW": found["Adam"], "Adam": found["AdamW"]}
    assert "is lower at 0.001 (-" in optimizers.optimizer_sentence(turned)


def test_the_noise_is_that_of_the_seeds(tmp_path):
    found = series(tmp_path, ROWS)
    by_hand = [comparisons.seed_noise([r for r in runs if r.config.learning_rate == 0.001]) for runs in found.values()]
    assert optimizers.seeds_noise(found) == max(noise["least"] for noise in by_hand)
    single = series(tmp_path / "single", ROWS[2:4])
    assert math.isnan(optimizers.seeds_noise(single))


def test_updates_that_adam_lost_are_counted_matrix_by_matrix(tmp_path):
    runs = optimizers.at_shared_rate(series(tmp_path, ROWS))
    assert [(r.config.name, r.config.learning_rate, r.config.seed) for r in runs] == [
        ("AdamW", 0.001, 0), ("Adam", 0.001, 0),
    ]  # fmt: skip
    text = optimizers.norm_sentence(spectra.spectrum_table(runs))
    assert "The median norm is 0.051 under Adam and 1.5 under AdamW." in text  # (0.001 + 0.1) / 2 and (1 + 2) / 2
    assert "Under Adam 2 of the 4 updates" in text  # 1e-9 of 2 and 0.001 of 1, not 0.1 of 0.5


def test_with_one_optimiser_or_none_nothing_is_compared(tmp_path):
    assert optimizers.by_optimizer([]) == {} and optimizers.at_shared_rate({}) == []
    found = series(tmp_path, [row for row in ROWS if row[0] == "adamw"])
    assert list(found) == ["AdamW"] and optimizers.at_shared_rate(found) == []
    assert "nothing to compare" in optimizers.optimizer_sentence(found)
    assert optimizers.norm_sentence(spectra.spectrum_table(found["AdamW"])) == ""
    assert optimizers.norm_sentence(spectra.spectrum_table([])) == ""
