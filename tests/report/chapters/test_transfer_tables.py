"""Trained on one material, tested on another: gains counted by hand, and no word beyond their intervals."""

import numpy as np
import pandas as pd
import pytest

from lorasam_core.report.chapters import transfer_tables
from tests.made_records import make_edition, make_record, per_image

GROUPS = tuple(f"g{k // 2}" for k in range(12))
HARD = np.tile([0.0, 0.1, 0.2, -0.1, -0.2, 0.05], 2)
MISSING = "left out: 'ampis_powder' is no data set; give synthetic, emps, the path of a folder, or one in /data/x/data."


def run(folder, run_id, emps, synthetic=None, **settings):
    """A run on EMPS with this Dice, and with that on generated particles; AP50 is a tenth of it."""
    tables, metrics = {}, {"transfer": {"ampis_powder": MISSING}}
    if synthetic is not None:
        values = {"dice": synthetic + HARD}
        rows = per_image("predictor", GROUPS, **values).assign(data="synthetic")
        ap50 = per_image("generator", GROUPS, ap50=0.1 * (synthetic + HARD)).assign(data="synthetic")
        tables = {"transfer": pd.concat([rows, ap50])}
        metrics["transfer"]["synthetic"] = {"predictor": {}}
    own = [per_image("predictor", GROUPS, dice=emps + HARD), per_image("generator", GROUPS, ap50=0.1 * (emps + HARD))]
    return make_record(folder, run_id, own, tables, metrics, data="emps", **settings)


@pytest.fixture
def edition(tmp_path):
    frozen = run(tmp_path, "f", 0.4, 0.3, method="frozen")
    main = [run(tmp_path, "m0", 0.6, 0.4), run(tmp_path, "m1", 0.7, 0.5, seed=1)]
    other = run(tmp_path, "o", 0.35, 0.6, train_data="synthetic")
    return make_edition(tmp_path, main=[frozen, *main], other_material=[other])


def test_trained_here_tested_there(edition):
    rows = transfer_tables.transfer_rows(edition).set_index(["test", "metric", "training"])
    dice = "predictor: Dice"
    expected = {
        ("EMPS", "trained on EMPS"): (0.65, 0.25, True),
        ("EMPS", "trained on generated particles"): (0.35, -0.05, False),
        ("generated particles", "trained on EMPS"): (0.45, 0.15, False),
        ("generated particles", "trained on generated particles"): (0.6, 0.3, True),
    }
    for (test, training), (level, gain, own) in expected.items():
        row = rows.loc[(test, dice, training)]
        assert row["mean"] == pytest.approx(level + HARD.mean()) and row["own"] == own
        assert [row["gain"], row["gain_low"], row["gain_high"]] == pytest.approx([gain] * 3)
        assert (row["n"], row["groups"]) == (12, 6)
    assert np.isnan(rows.loc[("EMPS", dice, "frozen"), "gain"])
    assert ("EMPS", "point prompt: IoU", "frozen") not in rows.index


def test_the_table_has_a_column_a_training(edition):
    rows = transfer_tables.transfer_rows(edition)
    table = transfer_tables.transfer_table(rows)
    assert list(table.columns) == [
        "tested on", "metric, %", "frozen", "trained on EMPS", "trained on generated particles", "images (groups)",
    ]  # fmt: skip
    assert table["tested on"].tolist() == ["EMPS", "EMPS", "generated particles", "generated particles"]
    assert table["images (groups)"].tolist() == ["12 (6)"] * 4
    gains = transfer_tables.transfer_table(rows, gains=True).set_index(["tested on", "metric, points"])
    assert "frozen" not in gains.columns
    assert gains.loc[("EMPS", "predictor: Dice"), "trained on generated particles"] == "-5.0 [-5.0,\u00a0-5.0]"
    chart = transfer_tables.chart_rows(rows, "mask generator: AP50")
    assert set(chart["series"]) == {"frozen", "adapted", "trained on generated particles"}
    assert chart["mean"].max() == pytest.approx(10 * (0.65 + HARD.mean()))


def test_the_sentence_names_gains_losses_and_the_share_of_the_home_gain(edition):
    text = transfer_tables.transfer_sentence(transfer_tables.transfer_rows(edition))
    assert "trained on EMPS shows on generated particles" in text
    assert "in *predictor: Dice* a gain of 15.0 [15.0,\u00a015.0] points (50% of what training" in text
    assert "trained on generated particles shows on EMPS" in text and "a loss of 5.0 [5.0,\u00a05.0] points;" in text
    assert "Of these 4 differences on a foreign material 2 are gains beyond their interval and 2 losses." in text
    assert "The adapter trained on EMPS took 600 steps (2 seeds)." in transfer_tables.steps_sentence(edition)


def test_few_groups_make_a_hint_and_no_finding(edition):
    rows = transfer_tables.transfer_rows(edition)
    powder = rows["test"] == "generated particles"
    rows.loc[powder, "groups"] = 5
    text = transfer_tables.transfer_sentence(rows)
    assert "a difference of +15.0 [+15.0,\u00a0+15.0] points;" in text and "% of what training" not in text
    assert text.count("on generated particles (5 groups: too few for these intervals to be trusted), against") == 1
    assert "foreign material 2 rest on too few groups to count; of the other 2, 0 are gains" in text
    rows["groups"] = 4
    text = transfer_tables.transfer_sentence(rows)
    assert text.endswith(
        "Of these 4 differences on a foreign material all rest on too few groups to count as gains or losses."
    )


def test_a_missing_data_set_is_named_without_a_place_and_missing_seeds_are_counted(edition, tmp_path):
    text = transfer_tables.left_out_materials(edition)
    assert text == "The AMPIS powder was left out: it was not on the machine that made the run."
    alone = make_record(tmp_path, "m2", [per_image("predictor", GROUPS, dice=0.5 + HARD)], data="emps", seed=2)
    more = make_edition(tmp_path, main=[*edition.experiment("main"), alone])
    assert "(3 seeds, 2 of them tested on other material)" in transfer_tables.steps_sentence(more)
    rows = transfer_tables.transfer_rows(more).set_index(["test", "metric", "training"])["seeds"]
    assert rows[("EMPS", "predictor: Dice", "trained on EMPS")] == 3
    assert rows[("generated particles", "predictor: Dice", "trained on EMPS")] == 2
    assert transfer_tables.material("/data/x/my powder/") == "my powder"


def test_an_edition_without_other_material(tmp_path):
    frozen = make_record(tmp_path, "f", [per_image("predictor", GROUPS, dice=0.4 + HARD)], method="frozen")
    main = make_record(tmp_path, "m", [per_image("predictor", GROUPS, dice=0.6 + HARD)])
    rows = transfer_tables.transfer_rows(make_edition(tmp_path, main=[frozen, main]))
    assert set(rows["test"]) == {"generated particles"} and set(rows["training"]) == {
        "frozen", "trained on generated particles",
    }  # fmt: skip
    assert transfer_tables.transfer_sentence(rows) == transfer_tables.NO_TRANSFER
    assert transfer_tables.left_out_materials(make_edition(tmp_path, main=[frozen, main])) == ""
    assert len(transfer_tables.transfer_table(rows, gains=True)) == 1
    assert transfer_tables.chart_rows(rows, "mask generator: AP50").empty


def test_one_group_gives_no_interval_and_no_claim(tmp_path):
    alone = per_image("predictor", ["g"], dice=[0.5])
    far = alone.assign(data="ampis_powder", dice=0.9)
    transfer = {"transfer": {"ampis_powder": {"predictor": {}}}}
    frozen = make_record(
        tmp_path, "f", [alone], {"transfer": alone.assign(data="ampis_powder")}, transfer, method="frozen"
    )
    main = make_record(tmp_path, "m", [alone], {"transfer": far}, transfer)
    text = transfer_tables.transfer_sentence(transfer_tables.transfer_rows(make_edition(tmp_path, main=[frozen, main])))
    assert "a difference of +40.0 points, on too few groups for an interval" in text and "all rest on too few" in text
