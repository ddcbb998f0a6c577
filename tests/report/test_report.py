"""Tables, sentences and pages of a made-up edition: every number is checked against the records it must come from."""

import base64
import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from lorasam_core import charts, plots, stats
from lorasam_core.experiments import study
from lorasam_core.experiments.records import read_edition
from lorasam_core.report import figures
from lorasam_core.report import page as report
from tests.made_up import write_run


@pytest.fixture
def edition(tmp_path):
    folder = tmp_path / "runs" / "quick"
    every = ("predictor", "point", "box", "generator")
    write_run(folder, "f0", 0.40, every, method="frozen", name="frozen")
    write_run(folder, "m0", 0.80, every, name="main", rank=32)
    write_run(folder, "m1", 0.82, every, name="main 1", rank=32, seed=1)
    for run_id, rank, level in (("r32", 32, 0.70), ("r64", 64, 0.76), ("r128", 128, 0.76)):
        write_run(folder, run_id, level, name=f"rank {rank}", rank=rank, objective="semantic")
    lists = {"main": ["f0", "m0", "m1"], "rank": ["r32", "r64", "r128"]}
    info = {
        "name": "quick", "profile": "quick", "data": "synthetic", "model": "lite", "base_hash": "ab" * 32,
        "device_name": "a CPU", "created": "2025-01-02T03:04:05", "images": {"train": 84, "val": 24, "test": 12},
        "experiments": {k: [{"name": i, "run_id": i} for i in ids] for k, ids in lists.items()},
    }  # fmt: skip
    (folder / "edition.json").write_text(json.dumps(info))
    return read_edition(folder)


def test_main_table_holds_the_records_numbers(edition):
    table = report.main_table(edition).set_index("metric, %")
    assert list(table.index) == [report.MEASURES[m] for m in report.UNGUIDED if "tuned" not in m]
    frozen = edition.records[0].metrics["test"]["generator"]["ap50"]
    expected = f"{100 * frozen['mean']:.1f} [{100 * frozen['low']:.1f},\u00a0{100 * frozen['high']:.1f}]"
    assert table.loc["mask generator: AP50", "frozen"] == expected
    seeds = [r.metrics["test"]["predictor"]["dice"]["mean"] for r in edition.experiment("main")[1:]]
    assert table.loc["predictor: Dice", "adapted"].startswith(f"{100 * np.mean(seeds):.1f} [")
    # every image gains the same, so the paired interval has no width
    assert table.loc["predictor: Dice", "gain, points"] == "+41.0 [+41.0,\u00a0+41.0]"
    noise = stats.least_difference(seeds)  # a mean of two seeds against a model without any
    assert table.loc["predictor: Dice", "verdict"] == ("higher" if noise / 2 < 0.41 else stats.NEITHER)


def test_seeds_of_the_main_run_are_those_that_differ_in_nothing_else(edition):
    assert [r.run_id for r in report.adapted_runs(edition)] == ["m0", "m1"]
    assert [r.run_id for r in report.frozen_runs(edition)] == ["f0"]


def test_study_numbers_agree_with_each_other():
    assert study.reported("rank", 512, "vit_b") == study.reported("rank", 128, "lite") == (96.14, 11.44)
    assert study.equivalent("rank", "lite") == [32, 64, 128, 256]
    assert [study.reported("rank", rank, "lite")[0] for rank in (32, 64, 128, 256)] == [82.39, 89.56, 96.14, 96.22]
    assert study.reported("learning_rate", 1e-4, "lite")[0] == study.STUDY["test_dice"]
    assert study.reported("scaling", "none") == (None, None) and study.equivalent("scaling") == []
    assert study.STUDY["test_cases"][study.STUDY["lowest_case"]][1] == min(
        b for _, b in study.STUDY["test_cases"].values()
    )
    with pytest.raises(ValueError, match="vit_x"):
        study.width_of("vit_x")


def ranks(edition):
    dice = edition.scores[edition.scores["measure"] == "predictor dice"].merge(edition.runs, on="run")
    sweep = dice[dice["experiment"] == "rank"]
    return stats.mean_interval(sweep, "rank").assign(reported=82.39), sweep["run"]


def test_page_saves_with_provenance_and_refuses_a_taken_name(edition, capsys):
    page = report.Page(edition, "results/rank")
    table, runs = ranks(edition)
    page.figure(charts.ablation_chart(table, "rank"), "rank-dice", "Dice by rank.", "A chart.", runs, table)
    page.table(pd.DataFrame({"rank": ["32"]}), "rank", "Ranks.", data=table)
    about = json.loads((edition.path / "figures" / "rank-dice.json").read_text())
    assert about["notebook"] == "results/rank" and about["function"] == "lorasam_core.charts.ablation_chart"
    assert about["runs"] == ["r32", "r64", "r128"] and about["alt"] == "A chart."
    assert (edition.path / "figures" / "rank-dice.svg").is_file()
    saved = pd.read_csv(edition.path / "tables" / "rank.csv")
    assert np.allclose(saved["mean"], table["mean"], equal_nan=True)
    assert capsys.readouterr().out == ""  # outside a notebook nothing is shown
    page.figure(charts.ablation_chart(table, "rank"), "rank-dice", "Dice by rank.", "A chart.", data=table)
    with pytest.raises(ValueError, match="results/rank"):
        report.Page(edition, "results/learning_rate").table(table, "rank", "Ranks.")
    with pytest.raises(ValueError, match="no name"):
        page.table(table, "../Rank", "Ranks.")
    report.Page(edition, "results/gone").table(table, "old", "Of a page that there no longer is.")
    page.table(table, "old", "Taken over.")


def test_a_notebook_shows_the_picture_and_the_table_themselves(edition, monkeypatch):
    shown = []
    monkeypatch.setattr("lorasam_core.report.figures.show", lambda *forms: shown.append(forms))
    page = report.Page(edition, "results/rank")
    table, _ = ranks(edition)
    page.figure(charts.ablation_chart(table, "rank"), "rank-dice", "Dice by `rank`.", 'A "chart".', data=table)
    page.table(pd.DataFrame({"a|b": ["1"]}), "small", "Small.")
    (picture, myst), (caption, nothing), (rows, tall), _ = shown
    content = base64.b64decode(picture["image/png"])
    assert Image.open(io.BytesIO(content)).size[0] > 300 and picture["text/plain"] == 'A "chart".'
    assert caption == {"text/markdown": "*Dice by `rank`.*"} and nothing == ""
    assert [cell.get_text() for cell in BeautifulSoup(rows["text/html"], "html.parser")(["th", "td"])] == ["a|b", "1"]
    assert not any("text/markdown" in data for data in (picture, rows))  # some viewers would show the source of MyST
    assert myst.startswith("```{figure} figures/rank-dice.svg\n:name: fig-rank-dice\n:alt: A") and myst.endswith("```")
    assert "<figures/rank-dice.csv>`" in myst and ":name: tab-small" in tall and "a\\|b" in tall


def test_the_book_gets_its_form_of_each_output_and_keeps_all_others():
    stream = {"output_type": "stream", "name": "stdout", "text": "said"}
    plain = {"output_type": "display_data", "data": {"text/markdown": "A sentence."}, "metadata": {}}
    picture = {
        "output_type": "display_data",
        "data": {"image/png": "AA", figures.BOOK: "```{figure} x"},
        "metadata": {},
    }
    caption = {"output_type": "display_data", "data": {"text/markdown": "*x*", figures.BOOK: ""}, "metadata": {}}
    cells = [
        {"cell_type": "markdown", "source": "# Text"},
        {"cell_type": "code", "source": "1", "outputs": [stream, picture, caption, plain]},
    ]
    made = figures.for_book({"cells": copy.deepcopy(cells)})["cells"]
    assert made[0] == cells[0]
    assert made[1]["outputs"] == [stream, picture | {"data": {"text/markdown": "```{figure} x"}}, plain]


def test_fragments_hold_picture_table_findings_and_facts(edition, tmp_path):
    out = tmp_path / "book" / "_generated"
    landing, facts = report.write_fragments(edition, out)
    assert "```{figure} /_static/overview.png" in landing.read_text()  # nothing was drawn yet
    picture = plots.comparison(np.zeros((20, 20), np.uint8), np.eye(20, dtype=bool), np.eye(20, dtype=bool))
    report.Page(edition, "results/train").figure(picture, "main-picture", "Input, frozen, adapted.", "Three pictures.")
    landing, facts = report.write_fragments(edition, out)
    text = landing.read_text()
    assert "```{figure} /_generated/figures/main-picture.png" in text and (out / "figures/main-picture.png").is_file()
    assert "Frozen and adapted `lite` on the test images" in text
    assert "12 test images in the split" in text and "`quick`" in text and "a CPU" in text
    assert ":name: tab-landing" in text and "The published edition" in text and "{{" not in text
    assert all(r.run_id in facts.read_text() for r in edition.records) and "ab" * 32 in facts.read_text()


def test_readme_gets_its_table_between_the_markers(edition, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Top\n{report.BEGIN}\nold\n{report.END}\nbottom\n")
    report.update_readme(edition, readme)
    first = readme.read_text()
    assert "\nold\n" not in first and first.startswith("# Top\n") and first.endswith(f"{report.END}\nbottom\n")
    assert report.main_table(edition).iloc[0]["adapted"] in first
    report.update_readme(edition, readme)
    assert readme.read_text() == first
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="results:begin"):
        report.update_readme(edition, readme)


def test_pictures_of_data_that_are_absent_are_generated_and_said_to_be(tmp_path):
    folder = tmp_path / "gone"
    write_run(folder, "a", 0.9, data=str(tmp_path / "nowhere"))
    samples, note = report.picture_samples(read_edition(folder), count=3)
    assert len(samples) == 3 and note.startswith("Generated particles stand in")
    samples, note = report.picture_samples(read_edition(folder), ids=["x", "y"])
    assert len(samples) == 2 and "stand in" in note


def test_edition_folder_is_given_or_the_profiles_own():
    root = Path(__file__).parents[2]
    assert report.edition_folder("quick") == root / "runs" / "quick"
    assert report.edition_folder("quick", data="emps") == root / "runs" / "quick-emps"
    assert report.edition_folder("quick", "runs/mine") == root / "runs" / "mine"


def test_main_settings_come_from_the_profile_where_nothing_was_run(tmp_path):
    (tmp_path / "edition.json").write_text(json.dumps({"profile": "quick", "data": "emps", "experiments": {}}))
    config = report.main_config(read_edition(tmp_path))
    assert (config.data, config.method, config.model) == ("emps", "lora", "lite")


def test_report_imports_no_torch():
    code = "import sys, lorasam_core.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "0.00001"),
        (1e-2, "0.01"),
        (2.0, "2"),
        (np.int64(128), "128"),
        (np.float32(0.5), "0.5"),
        (True, "True"),
        ("alpha/r", "alpha/r"),
    ],
)
def test_settings_are_written_as_in_the_profiles(value, text):
    assert plots.setting(value) == text
    if isinstance(value, float):
        assert float(text) == value
