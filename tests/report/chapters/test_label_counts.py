"""Numbers of labelled images: which runs stand for which number, and what is said of them."""

import numpy as np
import pytest

from lorasam_core.experiments.records import read_edition
from lorasam_core.report.chapters import label_counts
from tests.made_up import write_run

BOTH = ("predictor", "generator")


def made(folder, adapted, rival, total=20):
    """Records with a Dice by number of images, `total` being all; and the frozen model with 0.4."""
    folder.mkdir(exist_ok=True)
    for method, levels in (("lora", adapted), ("unet", rival)):
        for count, level in levels.items():
            limit = {} if count == total else {"train_limit": count}
            write_run(folder, f"{method}{count}", level, BOTH, scatter=0.005, method=method, name=method, **limit)
    write_run(folder, "frozen", 0.4, BOTH, method="frozen", name="frozen")
    return list(read_edition(folder).records)


def test_a_run_without_a_limit_has_all_images(tmp_path):
    records = made(tmp_path, {1: 0.6, 4: 0.7, 20: 0.8}, {4: 0.5, 20: 0.8})
    found = label_counts.by_count([*records, *records], 20)
    assert {name: {n: [r.run_id for r in runs] for n, runs in counts.items()} for name, counts in found.items()} == {
        "adapted": {1: ["lora1"], 4: ["lora4"], 20: ["lora20"]}, "U-Net": {4: ["unet4"], 20: ["unet20"]},
    }  # fmt: skip
    assert list(label_counts.by_count(records, 3)["adapted"]) == [1, 3]  # a limit above all images is all images
    assert label_counts.by_count([], 20) == {}


def test_table_and_display_hold_the_records_numbers(tmp_path):
    records = made(tmp_path, {1: 0.6, 20: 0.8}, {4: 0.5, 20: 0.8})
    table = label_counts.label_table(records, 20)
    assert table[["images", "series"]].values.tolist() == [[1, "adapted"], [20, "adapted"], [4, "U-Net"], [20, "U-Net"]]
    for row, run_id in zip(table.to_dict("records"), ("lora1", "lora20", "unet4", "unet20")):
        of = next(r for r in records if r.run_id == run_id).metrics["test"]
        found = [row["predictor_dice"], row["f1_low"], row["f1_high"]]
        assert np.allclose(found, [100 * of[e][m][k] for e, m, k in (
            ("predictor", "dice", "mean"), ("generator", "f1", "low"), ("generator", "f1", "high"),
        )])  # fmt: skip
    assert table["ap50"].notna().tolist() == [True, True, False, False]
    shown = label_counts.label_display(table)
    assert shown["training images"].tolist() == [1, 4, 20] and "AP50, %: U-Net" not in shown
    assert shown["predictor Dice, %: adapted"][1] == "–" == shown["F1, %: U-Net"][0]
    assert shown["predictor Dice, %: adapted"][2].startswith(f"{table['predictor_dice'][1]:.1f} [")
    assert list(label_counts.label_display(label_counts.label_table([], 20))) == ["training images"]


def test_how_many_are_enough(tmp_path):
    records = made(tmp_path, {1: 0.5, 2: 0.6, 4: 0.8, 20: 0.8}, {})
    frozen = [r for r in records if r.config.method == "frozen"]
    text = label_counts.enough_sentence(records, 20, frozen)
    levels = {r.run_id: r.metrics["test"]["predictor"]["dice"]["mean"] for r in records}
    gain = levels["lora20"] - levels["frozen"]
    assert f"Against the frozen model that is a gain of {100 * gain:.1f} [" in text
    assert f"{round(100 * (levels['lora1'] - levels['frozen']) / gain)} % with 1" in text
    assert text.endswith("From 4 images on it is not shown to be lower than with all 20.")
    assert "Each smaller number, up to 2" in label_counts.enough_sentence(
        [r for r in records if r.run_id != "lora4"], 20, frozen
    )
    assert "From 1 image on" in label_counts.enough_sentence(records, 20, frozen, noise=35)
    assert "frozen" not in label_counts.enough_sentence(records, 20)
    assert "Too few" in label_counts.enough_sentence([r for r in records if r.run_id != "lora20"], 20)


def test_too_few_images_may_harm(tmp_path):
    records = made(tmp_path, {1: 0.3, 2: 0.4, 4: 0.6, 20: 0.8}, {})
    frozen = [r for r in records if r.config.method == "frozen"]
    levels = {r.run_id: r.metrics["test"]["predictor"]["dice"]["mean"] for r in records}
    text = label_counts.enough_sentence(records, 20, frozen)
    less = 100 * (levels["lora1"] - levels["frozen"])
    assert f"With 1 ({less:+.1f} points) it is lower than the frozen model's." in text and less < -5
    assert "% with 4." in text and "% with 1" not in text


@pytest.mark.parametrize("most", [0.3, 0.4, 0.401])
def test_a_gain_that_is_not_shown_is_not_divided_among_numbers_of_images(tmp_path, most):
    records = made(tmp_path, {1: 0.3, 4: 0.41, 20: most}, {})
    text = label_counts.enough_sentence(records, 20, [r for r in records if r.config.method == "frozen"])
    assert ("that is a loss of" in text) == (most == 0.3) and "of this gain" not in text and "From" not in text
    assert text.endswith("no number of images is shown to be enough.")


def test_a_gain_within_the_noise_of_seeds_is_not_divided_either(tmp_path):
    records = made(tmp_path, {1: 0.5, 20: 0.6}, {})
    frozen = [r for r in records if r.config.method == "frozen"]
    # one seed against what has none: 20 points are no more than 30 / sqrt(2), and more than 26 / sqrt(2)
    assert "no more than images and seeds may do" in label_counts.enough_sentence(records, 20, frozen, noise=30)
    assert "of this gain it has 5" in label_counts.enough_sentence(records, 20, frozen, noise=26)


def test_numbers_that_are_higher_or_level_are_not_called_below(tmp_path):
    records = made(tmp_path, {1: 0.6, 2: 0.9, 4: 0.7, 20: 0.8}, {})
    text = label_counts.enough_sentence(records, 20, [r for r in records if r.config.method == "frozen"])
    assert "It is higher than that with 2 images." in text and "Each smaller number" not in text
    assert text.endswith("With 4 images it is still below that with all 20.")


@pytest.mark.parametrize(
    ("rival", "answer"),
    [
        ({1: 0.3, 4: 0.7, 20: 0.9}, "The U-Net has caught up from 4 images on."),
        ({1: 0.3, 4: 0.7, 20: 0.8}, "From 4 images on no lead of the adapted model can be shown."),
        ({1: 0.6, 4: 0.7, 20: 0.8}, "From 1 image on no lead of the adapted model can be shown."),
        ({1: 0.3, 4: 0.7, 20: 0.6}, "The U-Net has not caught up with 20 images."),
        ({1: 0.7, 4: 0.8, 20: 0.9}, "The U-Net is level or ahead from the smallest of these numbers on, 1 image."),
        ({}, "cannot be compared here."),
    ],
)
def test_when_the_unet_catches_up(tmp_path, rival, answer):
    records = made(tmp_path, {1: 0.6, 4: 0.7, 20: 0.8}, rival)
    assert label_counts.catch_up_sentence(records, 20).endswith(answer)


def test_leads_are_named_by_number_of_images(tmp_path):
    records = made(tmp_path, {1: 0.6, 4: 0.7, 20: 0.8}, {1: 0.3, 4: 0.7, 20: 0.9})
    text = label_counts.catch_up_sentence(records, 20, "f1")
    leads = (
        "the adapted model leads with 1 image",
        "the two cannot be told apart with 4 images",
        "the U-Net leads with 20",
    )
    assert text.startswith(f"By F1, {'; '.join(leads)}")
    assert "cannot be compared" in label_counts.catch_up_sentence(records, 20, "ap50")  # a U-Net has none
