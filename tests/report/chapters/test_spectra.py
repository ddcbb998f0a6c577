"""Rank tables of made-up records: rules beside each other, the spectrum's summary by hand, the cost of a cut."""

import numpy as np
import pytest

from lorasam_core.config import SCALINGS, RunConfig
from lorasam_core.experiments.records import read_edition
from lorasam_core.report.chapters import comparisons, spectra
from tests.made_up import spectrum, write_run


def sweep(folder, none, level_step, divided=()):
    """Records of a rank sweep from 32 up with the Dice `none`, and of two rules with those at rank 64 and above."""
    folder.mkdir(exist_ok=True)
    for rank, dice in zip((32, 64, 128), none):
        write_run(folder, f"n{rank}", dice, scatter=0.01, name=f"rank {rank}", rank=rank)
    for rule, alpha, values in (("alpha/sqrt(r)", 32**0.5, level_step), ("alpha/r", 32, divided)):
        for rank, dice in zip((64, 128), values):
            name = f"rank {rank}, {rule}"
            write_run(folder, f"{rule[6]}{rank}", dice, name=name, rank=rank, alpha=round(alpha, 6), scaling=rule)
    records = read_edition(folder).records
    plain = sorted((r for r in records if r.config.alpha is None), key=lambda r: r.config.rank)
    return spectra.by_rule(plain, [r for r in records if r.config.alpha is not None])


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_factor_is_the_layers(scaling, alpha):
    from lorasam_core.models.lora import LoRAConfig

    ours = RunConfig(rank=5, alpha=alpha, scaling=scaling).factor
    assert ours == pytest.approx(LoRAConfig(5, alpha=alpha, scaling=scaling).factor)


def test_rules_share_the_run_whose_factor_is_the_same(tmp_path):
    rules = sweep(tmp_path, (0.7, 0.8, 0.9), (0.7, 0.7), (0.6, 0.5))
    ids = {rule: [r.run_id for r in runs] for rule, runs in rules.items()}
    assert ids.pop("none") == ["n32", "n64", "n128"]
    assert {rule: [i[1:] for i in runs] for rule, runs in ids.items()} == {
        "alpha/sqrt(r)": ["32", "64", "128"], "alpha/r": ["32", "64", "128"],
    }  # fmt: skip
    assert all(runs[0] == "n32" for runs in ids.values())
    table = spectra.scaling_table(rules).set_index(["rule", "rank"])
    assert np.allclose(table.loc["not divided", "factor"], 1)
    assert np.allclose(table.loc["divided by r", "factor"], [1, 0.5, 0.25])
    assert np.allclose(table.loc["divided by √r", "factor"], [1, 0.5**0.5, 0.5])
    shown = spectra.scaling_display(table.reset_index())
    assert list(shown["rank"]) == [32, 64, 128]
    assert shown["divided by r: factor and Dice, %"][2].startswith("0.25: ")
    mean = 100 * rules["none"][1].metrics["test"]["predictor"]["dice"]["mean"]
    assert shown["not divided: factor and Dice, %"][1].startswith(f"1: {mean:.1f} [")


def test_a_factor_of_one_has_a_name(tmp_path):
    rules = sweep(tmp_path, (0.7, 0.8, 0.9), (0.7, 0.7))
    assert spectra.factor_sentence(rules["none"]).endswith("a factor of 1 at every rank, called *not divided* below.")
    assert spectra.factor_sentence(rules["alpha/sqrt(r)"]).endswith("by `alpha/r` with alpha equal to the rank.")
    assert spectra.factor_sentence([]) == ""


@pytest.mark.parametrize(
    ("none", "root", "by_r", "answer"),
    [
        ((0.6, 0.7, 0.8), (0.6, 0.6), (0.6, 0.6), "this speaks for the step size"),
        ((0.6, 0.7, 0.8), (0.65, 0.7), (0.55, 0.5), "both count"),
        ((0.6, 0.7, 0.8), (0.7, 0.8), (0.7, 0.8), "this speaks for the rank"),
        # a step held level in its norm still grows in its effect: not the rank, unless alpha/r shows it as well
        ((0.6, 0.7, 0.8), (0.65, 0.7), (0.6, 0.6), "so that the step counts; whether the rank does stays open"),
        ((0.6, 0.7, 0.8), (0.7, 0.8), (), "divided by r, which keeps that, nothing was run"),
        ((0.6, 0.6, 0.6), (0.6, 0.6), (0.6, 0.6), "neither the rank nor the factor shows"),
        # what happens between the ends counts as well
        ((0.7, 0.77, 0.7), (0.7, 0.7), (0.7, 0.7), "under one rule, but at rank 128 the rules cannot be told apart"),
    ],
)
def test_rank_or_step_follows_from_what_can_be_told_apart(tmp_path, none, root, by_r, answer):
    text = spectra.scaling_sentence(sweep(tmp_path, none, root, by_r))
    assert answer in text and text.endswith("What another seed would change is not known.")
    assert ("speaks for the rank" in text) == (answer == "this speaks for the rank")


def test_rules_are_compared_at_the_ranks_that_they_share(tmp_path):
    rules = sweep(tmp_path / "a", (0.6, 0.7, 0.8), (0.65,))
    text = spectra.scaling_sentence(rules)
    assert "at rank 64" in text and "128" not in text and "At rank 64 it lies -" in text
    assert "points from *not divided*" in text
    apart = {
        **rules,
        "alpha/sqrt(r)": rules["none"][:1] + sweep(tmp_path / "b", (0.6, 0.7), (0.6, 0.6))["alpha/sqrt(r)"][2:],
    }
    assert "too few of the same ranks" in spectra.scaling_sentence({**apart, "none": rules["none"][:2]})


def test_a_change_within_the_noise_is_none(tmp_path):
    rules = sweep(tmp_path, (0.6, 0.7, 0.8), (0.6, 0.6))
    text = spectra.scaling_sentence(rules, noise=50)
    assert text.endswith("neither the rank nor the factor shows.") and "other images and another seed can do" in text
    assert spectra.scaling_sentence({"none": rules["none"]}) == "" == spectra.scaling_sentence({})


@pytest.mark.parametrize(
    ("levels", "answer"),
    [
        ((0.6, 0.7, 0.6), "only where it takes larger steps: this speaks for the step."),
        ((0.6, 0.7, 0.7), "It changes alike at either factor: this speaks for the rank, not the step alone."),
        ((0.6, 0.7, 0.5), "With the rank the same, the factor changes the answer: the step counts."),
        ((0.6, 0.6, 0.5), "With the rank the same, the factor changes the answer: the step counts."),
        ((0.6, 0.6, 0.6), "Neither the rank nor the factor shows by more than other images and another seed may do."),
    ],
)
def test_at_a_low_rate_the_step_is_told_from_the_rank(tmp_path, levels, answer):
    runs = [(32, None), (256, None), (256, 32)]
    for (rank, alpha), level in zip(runs, levels):
        write_run(tmp_path, f"r{rank}{alpha}", level, rank=rank, alpha=alpha, learning_rate=1e-4)
    records = read_edition(tmp_path).records
    text = spectra.low_rate_sentence(records, noise=0.5)
    assert text.startswith("At a learning rate of 0.0001 the Dice differs from that of rank 32 with a factor of 1 by ")
    assert "at rank 256 with a factor of 1 and " in text and "at rank 256 with a factor of 0.125. " in text
    assert text.endswith(answer)
    assert spectra.low_rate_sentence(records).endswith("What another seed would change is not known.")
    assert spectra.low_rate_sentence(records[:1]) == ""


def test_spectrum_by_matrix_block_and_target(tmp_path):
    write_run(tmp_path, "a", 0.8, name="rank 8", rank=8, measured={"spectrum": spectrum(3.0)})
    write_run(tmp_path, "b", 0.8, name="rank 64", rank=64, measured={"spectrum": spectrum(20.0)})
    write_run(tmp_path, "c", 0.8, name="old", rank=16)
    table = spectra.spectrum_table(read_edition(tmp_path).records)
    assert len(table) == 8 and table.attrs["runs"] == ["a", "b"]
    first = table[table["run"] == "rank 8"]
    assert first["block"].tolist() == [0, 0, 1, 1] and first["target"].tolist() == ["q", "v", "q", "v"]
    used = spectra.used_table(table).set_index("run")
    # effective ranks of 3, 4, 5, 6; ranks of 99 % of 3, 4, 5, 6
    assert used.loc["rank 8", ["effective_rank", "least", "most", "rank_99"]].tolist() == [4.5, 3, 6, 4.5]
    shown = spectra.used_display(spectra.used_table(table))
    assert shown.iloc[1, 4] == "21.5 (20.0 to 23.0)" and shown.iloc[0, 5] == "2.5"
    text = spectra.used_sentence(table)
    assert "4 updates of *rank 64* have a median effective rank of 21.5, from 20.0 to 23.0" in text
    assert "of 64 that an update of rank 64 can have" in text
    wide = spectra.spectrum_table([read_edition(tmp_path).records[1]]).assign(rank=256, possible=192)
    assert "of 192 that an update of rank 256 can have" in spectra.used_sentence(wide)
    assert "At rank 8 (*rank 8*) the median is 4.5." in text and "from 21.0 for q to 22.0 for v" in text
    assert spectra.used_sentence(table[:0]) == "" and not len(spectra.spectrum_table([]))


def cut(dice):
    return {"truncated": {str(k): {"mean": d, "low": d - 0.1, "high": d + 0.1} for k, d in dice.items()}}


def test_truncation_ends_with_the_whole_adapter(tmp_path):
    write_run(tmp_path, "a", 0.8, name="rank 64", rank=64, measured=cut({64: 0.1, 1: 0.5, 16: 0.7995, 8: 0.73}))
    write_run(tmp_path, "b", 0.8, name="rank 4", rank=4)
    records = read_edition(tmp_path).records
    table = spectra.truncation_table(records)
    whole = 100 * records[0].metrics["test"]["predictor"]["dice"]["mean"]
    assert table["kept"].tolist() == [1, 8, 16, 64] and table["dice"].tolist() == pytest.approx([50, 73, 79.95, whole])
    text = spectra.truncation_sentence(table)
    assert f"({whole:.1f} % with all 64)" in text and f"{50 - whole:+.1f} with 1, {73 - whole:+.1f} with 8 and" in text
    assert text.endswith("costs no more than 1 point: 16.")
    dear = table.assign(dice=[50.0, 60.0, 61.0, 90.0])
    assert spectra.truncation_sentence(dear).endswith("none of these.")
    assert spectra.truncation_sentence(spectra.truncation_table(records[1:])) == ""


def test_sentences_agree_with_comparisons(tmp_path):
    rules = sweep(tmp_path, (0.6, 0.7, 0.8), (0.6, 0.6))
    table = comparisons.comparison_table(rules["none"]).set_index("name")
    gain = table.loc["rank 128", "predictor_dice_gain"]
    text = spectra.scaling_sentence(rules)
    assert (
        text.startswith("*Not divided*") and text.split(" at rank 128")[0].rpartition("and ")[2][:5] == f"{gain:+.1f}"
    )
