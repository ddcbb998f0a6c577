"""The pages of errors and of sizes, executed on hand-made runs whose errors are known."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.made_records import make_record, per_image
from tests.made_up import write_edition

FOLDER = Path(__file__).parents[2] / "notebooks" / "results"
GROUPS = list("AABBCCDD")
IDS = list("abcdefgh")
TRUE = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
GRID = [(0.0, 0.0), (0.0, 0.8), (0.5, 0.0)]


def drawn(diameters):
    """Particles of all images: five labelled ones, those found, and on either side one that the edge cuts."""
    rows = []
    for image, (i, group) in enumerate(zip(IDS, GROUPS)):
        for source, values in (("true", TRUE), ("predicted", diameters(image))):
            rows += [(i, group, source, (1 + image) * d, "px", False) for d in values] + [
                (i, group, source, 999.0, "px", True)
            ]
    return pd.DataFrame(rows, columns=["id", "group", "source", "diameter", "unit", "touches_border"])


def rated(above):
    """Six masks an image in the right order, rated too high by a constant."""
    iou = np.linspace(0.1, 0.6, 6)
    masks = {"iou": iou, "predicted_iou": iou + above, "stability_score": -iou, "area": 9}
    return pd.concat([pd.DataFrame({"id": i, "group": g} | masks) for i, g in zip(IDS, GROUPS)])


def swept(images, groups):
    """F1 of validation images (rows) under the pairs of GRID (columns)."""
    rows = [
        {"id": str(k), "group": group, "pred_iou_thresh": a, "stability_score_thresh": b, "f1": f1}
        for k, (image, group) in enumerate(zip(images, groups))
        for (a, b), f1 in zip(GRID, image)
    ]
    return pd.DataFrame(rows)


def judged(match, found, **more):
    """Scores of one evaluator: every image has six labelled particles (one is cut) and `found` instances."""
    about = {"f1": 2 * match / (6 + found), "n_true": 6, "n_pred": found, "dice": 0.5, "ap50": 0.25, "ap": 0.1}
    return {k: [v] * 8 for k, v in (about | {"merges": 1, "splits": 2} | more).items()}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Tables of both pages, by name."""
    folder, made = tmp_path_factory.mktemp("made"), {}
    # a third pair is the best of three images in two groups; drawing one group alone, one draw in four, it is not
    sweep = swept([[0, 0.5, 0.1], [0, 0.2, 0.5], [0, 0.2, 0.5]], "ABB")
    for name, seed, shift, match in (("frozen", 0, 1.4, 1), ("main", 0, 1.05, 2), ("main, seed 1", 1, 1.05, 2)):
        found = [shift * TRUE[::2] if name == "frozen" else shift * TRUE] * 7 + [np.array([])]
        number = 4 if name == "frozen" else 6
        rows = [per_image("generator", GROUPS, **judged(match, number))]
        rows[0].loc[7, ["f1", "merges", "splits"]] = 0, 0, 0
        rows += [per_image("generator_study", GROUPS, **judged(0, 0, ap50=0))]
        kept = {"particles": drawn(found.__getitem__), "calibration": rated(shift - 1), "thresholds": sweep}
        settings = {"method": "frozen" if name == "frozen" else "lora", "seed": seed, "evaluate": ("generator",)}
        made[name] = make_record(folder, f"run{len(made)}", rows, kept, **settings).run_id
    write_edition(folder, {"main": made})
    for stem in ("failures", "size_errors"):
        source = (FOLDER / f"{stem}.py").read_text(encoding="utf-8")
        source = re.sub(r"^edition: str = .*$", f"edition = {str(folder)!r}", source, flags=re.MULTILINE)
        exec(compile(source, stem, "exec"), {})
    return {path.stem: pd.read_csv(path, dtype=str) for path in folder.glob("tables/*.csv")}


def cell(table, column, **row):
    """What stands in the one row with these values."""
    for name, value in row.items():
        table = table[table[name] == value]
    (found,) = table[column]
    return found.replace("\u00a0", " ")


def test_errors_are_shares_of_particles_and_instances(tables):
    wrong, model = tables["failures-errors"], "adapted"  # in the last image nothing whole was found, and no match
    share = "share, %"
    # 2 of 6 particles match in 7 of 8 images, and 2 of 6 instances; the last image has the cut instance alone
    assert cell(wrong, model, **{share: "particles without a match"}).startswith(f"{100 * (7 * 4 / 6 + 1) / 8:.1f} [")
    assert cell(wrong, model, **{share: "instances without a match"}).startswith(f"{100 * (7 * 4 / 6 + 1) / 8:.1f} [")
    assert cell(wrong, model, **{share: "merges, of the instances"}).startswith(f"{100 * 7 / 6 / 8:.1f} [")
    assert cell(wrong, model, **{share: "splits, of the particles"}).startswith(f"{100 * 7 * 2 / 6 / 8:.1f} [")
    assert cell(wrong, "verdict", **{share: "particles without a match"}) == "lower"
    assert len(tables["failures-worst"]) == 8 and tables["failures-worst"]["match"].tolist().count("2.0") == 7


def test_ratings_that_are_a_constant_too_high(tables):
    ratings = tables["filters-ratings"].set_index("mean over images, %")
    assert ratings.loc["predicted - true IoU", "adapted"].startswith("5.0 [5.0")
    assert ratings.loc["rank correlation of the predicted IoU", "frozen"].startswith("100.0")
    assert ratings.loc["rank correlation of the stability", "frozen"].startswith("-100.0")
    assert ratings.iloc[-1][["frozen", "adapted"]].tolist() == ["40.0", "5.0"]  # expected calibration error


def test_how_firmly_thresholds_were_chosen_is_that_of_the_formula(tables):
    choice = tables["filters-choice"]
    assert choice[["predicted IoU", "stability"]].astype(float).drop_duplicates().to_numpy().tolist() == [[0.5, 0.0]]
    assert choice["ahead of the next pair, points"].unique().tolist() == ["6.7"]  # 1.1 / 3 against 0.9 / 3
    assert choice["chosen again, % of draws"].astype(float).tolist() == pytest.approx([75] * 3, abs=5)


def test_filters_are_compared_with_the_runs_own(tables):
    rows, key = tables["filters-test"], {"test metric": "AP50", "model": "adapted"}
    assert cell(rows, "difference, points", filters="the study's", **key) == "-25.0 [-25.0, -25.0]"
    assert cell(rows, "verdict", filters="the study's", **key) == "lower"
    assert cell(rows, "masks an image", filters="own", **key) == "6.0"


def test_sizes_of_known_error(tables):
    within, errors = tables["size-within"], tables["size-errors"]
    column = "D50 within 10 %, % of the images"
    assert cell(within, column, model="frozen").startswith("0.0")
    assert cell(within, column, model="adapted").startswith("87.5")  # an image in which nothing is found is not within
    assert cell(within, "verdict", model="adapted") == "higher"
    d50, number = {"figure": "D50"}, {"figure": "number of particles"}
    assert cell(errors, "mean error, %", model="frozen", **d50) == "+40.0 [+40.0, +40.0]"
    assert cell(errors, "mean absolute error, %", model="adapted", **d50) == "5.0 [5.0, 5.0]"
    assert cell(errors, "difference, points", model="adapted", **d50) == "-35.0 [-35.0, -35.0]"
    assert (
        cell(errors, "verdict", model="adapted", **d50) == "lower"
        and cell(errors, "images", model="frozen", **d50) == "7"
    )
    assert cell(errors, "mean error, %", model="frozen", **number).startswith(f"{-100 * (7 * 0.4 + 1) / 8:.1f} [")


def test_pooling_does_not_see_the_magnification(tables):
    pooled = tables["size-pooled"].set_index("particles")
    assert pooled.loc["labels", ["D10", "D50", "D90"]].astype(float).tolist() == pytest.approx(
        [1 / 3, 1, 5 / 3], abs=0.01
    )
    assert float(pooled.loc["adapted", "D50"]) == pytest.approx(1.05)
    assert pooled["number, a run"].to_dict() == {"adapted": "35", "frozen": "21", "labels": "40"}
