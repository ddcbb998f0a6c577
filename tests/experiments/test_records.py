"""Reading finished runs and editions."""

import json

import numpy as np
import pandas as pd
import pytest

from lorasam_core.config import RunConfig
from lorasam_core.experiments.publish import pack, restore
from lorasam_core.experiments.records import Edition, is_finished, load, read_edition, read_record, root


def make_run(folder, name="main", metrics=None, **settings):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(RunConfig(name=name, **settings).to_dict()))
    (folder / "per_image.csv").write_text("evaluator,id,group,dice\npredictor,007,01,0.5\n")
    (folder / "metrics.json").write_text(json.dumps(metrics or {"run_id": folder.name, "test": {}}))
    return folder


def make_edition(path, experiments, **info):
    path.mkdir(parents=True, exist_ok=True)
    (path / "edition.json").write_text(json.dumps({"name": path.name, "experiments": experiments, **info}))
    return path


def test_record_reads_what_the_run_wrote(tmp_path):
    record = read_record(make_run(tmp_path / "abc", rank=7, targets=("q", "k", "v")))
    assert (record.run_id, record.config.rank, record.config.targets) == ("abc", 7, ("q", "k", "v"))
    assert record.per_image.loc[0, ["id", "group"]].tolist() == ["007", "01"]  # ids stay text
    assert record.history.empty and record.adapter is None
    assert record.named("reference").config == record.config.replace(name="reference")


def test_the_first_records_have_a_switch_for_filters(tmp_path):
    folder = make_run(tmp_path / "abc")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"filters": False}))
    assert read_record(folder).config == RunConfig.from_dict(config)


@pytest.mark.parametrize("suffix", [".csv", ".csv.xz"])
def test_names_that_look_like_missing_values_are_names(tmp_path, suffix):
    names = ["NA", "None", "null", "nan", "007", "1e3", "true"]
    written = pd.DataFrame({"id": names, "group": names[::-1], "data": "NA", "dice": [np.nan, *range(6)]})
    folder = make_run(tmp_path / "abc")
    written.to_csv(folder / f"transfer{suffix}", index=False)
    read = read_record(folder).table("transfer")
    assert read["id"].tolist() == names and set(read["data"]) == {"NA"}
    assert read["group"].tolist() == names[::-1] and read.groupby("group").ngroups == len(names)
    np.testing.assert_array_equal(read["dice"], written["dice"])  # a number that is missing stays missing


@pytest.mark.parametrize("name", ["abc.part-12", "abc.failed", "abc.old-1"])
def test_a_folder_under_way_or_failed_is_not_finished(tmp_path, name):
    folder = make_run(tmp_path / name)
    assert not is_finished(folder)
    with pytest.raises(ValueError, match="not a finished run"):
        read_record(folder)


def test_damaged_metrics_are_named(tmp_path):
    folder = make_run(tmp_path / "abc")
    (folder / "metrics.json").write_text('{"run_id": "a')
    with pytest.raises(ValueError, match=r"metrics\.json is not valid JSON; delete"):
        read_record(folder)


def test_edition_keeps_the_order_and_leaves_out_strangers(tmp_path):
    rows = {
        "main": [{"name": "m", "run_id": "b"}],
        "rank": [{"name": "r", "run_id": "b"}, {"name": "s", "run_id": "a"}],
    }
    path = make_edition(tmp_path / "quick", rows)
    for run in ("a", "b", "stranger"):
        make_run(path / run)
    edition = read_edition(path)
    assert [r.run_id for r in edition.records] == ["b", "a"]
    assert [(r.run_id, r.config.name) for r in edition.experiment("rank")] == [("b", "r"), ("a", "s")]
    assert edition.missing() == [] and not edition.published
    with pytest.raises(ValueError, match="no experiment 'nothing'; it has main, rank"):
        edition.experiment("nothing")


def test_edition_says_which_runs_are_missing(tmp_path):
    path = make_edition(tmp_path / "quick", {"rank": [{"name": "r", "run_id": "a"}, {"name": "s", "run_id": "b"}]})
    make_run(path / "a")
    edition = read_edition(path)
    assert edition.missing("rank") == edition.missing() == ["s"]
    assert [r.config.name for r in edition.experiment("rank")] == ["r"]


def test_an_edition_names_every_device_that_made_a_run_of_it(tmp_path):
    rows = [{"name": i, "run_id": i} for i in "abc"]
    path = make_edition(tmp_path / "quick", {"rank": rows}, device_name="the last one")
    for run_id in "abc":
        make_run(path / run_id)
    assert read_edition(path).devices() == read_edition(path).devices(counted=True) == "the last one"
    for run_id, device in {"a": "Abacus, 2 rods", "b": "Slide rule", "c": "Abacus, 2 rods"}.items():
        (path / run_id / "environment.json").write_text(json.dumps({"device_name": device, "commit": "f00"}))
    edition = read_edition(path)
    assert edition.devices() == "Abacus, 2 rods; Slide rule"
    assert edition.devices(counted=True) == "Abacus, 2 rods (2 runs); Slide rule (1 run)"
    assert edition.environments("commit") == {"f00": 3} and edition.environments("threads") == {}


def test_newest_finished_local_edition_else_the_published_one(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert root() == tmp_path
    with pytest.raises(ValueError, match="holds no finished edition"):
        load()
    one = {"main": [{"name": "main", "run_id": "a"}]}
    published = make_edition(tmp_path / "book" / "results" / "emps", one, created="2030")
    make_run(published / "a")
    assert load().published
    for name, updated in (("quick", "2026-02"), ("old", "2026-01"), ("quick.old-1", "2027"), ("unfinished", "2028")):
        path = make_edition(tmp_path / "runs" / name, one, updated=updated)
        if name != "unfinished":
            make_run(path / "a")
    assert load().name == "quick"
    assert load("old").name == "old"
    assert isinstance(load("emps"), Edition) and load("emps").published
    assert load("book/results/emps").published
    with pytest.raises(ValueError, match="no finished edition 'unfinished'; there are quick, old, emps"):
        load("unfinished")


def made_edition(tmp_path):
    """Two runs, one of which stands in two experiments; ids and groups that look like numbers or missing values."""
    rows = {
        "main": [{"name": "m", "run_id": "a"}],
        "rank": [{"name": "r 4", "run_id": "a"}, {"name": "r 8", "run_id": "b"}],
    }
    path = make_edition(tmp_path / "runs" / "e", rows)
    for run_id, rank, level in (("a", 4, 0.5), ("b", 8, 0.25)):
        folder = make_run(path / run_id, rank=rank, alpha=4, metrics={"seconds": 60 * rank, "test": {}})
        table = pd.DataFrame({"evaluator": "predictor", "id": ["NA", "007"], "group": ["1e3", "None"]})
        table = table.assign(dice=[level, level / 2], iou=[np.nan, level])
        other = pd.DataFrame({"evaluator": ["point"], "id": ["NA"], "group": ["1e3"], "iou_best": [level]})
        pd.concat([table, other]).to_csv(folder / "per_image.csv", index=False)
        pd.DataFrame({"step": [1, 2], "val_score": [np.nan, level]}).to_csv(folder / "history.csv", index=False)
    return read_edition(path)


def test_runs_and_scores_are_tidy(tmp_path):
    edition = made_edition(tmp_path)
    assert edition.runs[["run", "experiment", "name", "rank", "factor", "seconds"]].to_numpy().tolist() == [
        ["a", "main", "m", 4, 1.0, 240], ["a", "rank", "r 4", 4, 1.0, 240], ["b", "rank", "r 8", 8, 0.5, 480],
    ]  # fmt: skip
    scores = edition.scores
    assert list(scores.columns) == ["run", "id", "group", "measure", "value"]
    assert len(scores) == 2 * (2 + 1 + 1)  # what was not measured has no row
    assert set(scores["measure"]) == {"predictor dice", "predictor iou", "point iou_best"}
    one = scores[(scores.run == "b") & (scores.measure == "predictor dice")]
    assert one[["id", "group", "value"]].to_numpy().tolist() == [["NA", "1e3", 0.25], ["007", "None", 0.125]]


def test_a_run_may_be_added_as_an_experiment_of_its_own(tmp_path):
    folder, edition = tmp_path / "else", made_edition(tmp_path)
    make_run(folder / "ccc", name="custom", rank=9)
    more = edition.with_run(read_record(folder / "ccc"), "custom")
    assert more.runs.query("experiment == 'custom'")[["run", "name", "rank"]].to_numpy().tolist() == [
        ["ccc", "custom", 9]
    ]
    assert set(more.scores["run"]) == {*edition.scores["run"], "ccc"} and "custom" not in edition.experiments


def test_a_packed_edition_reads_as_the_local_one(tmp_path):
    local = made_edition(tmp_path)
    folder = tmp_path / "packed"
    folder.mkdir()
    pack(local, folder)
    packed = read_edition(folder)
    assert [r.packed for r in packed.records] == [True, True]
    pd.testing.assert_frame_equal(packed.runs, local.runs)
    order = ["run", "measure", "id"]
    pd.testing.assert_frame_equal(*(e.scores.sort_values(order, ignore_index=True) for e in (packed, local)))
    assert packed.records[0].table("per_image")["id"].tolist() == ["NA", "007", "NA"]
    assert packed.curves["run"].tolist() == ["a", "a", "b"]  # of runs that are not main ones the validations


def test_what_is_restored_from_a_packed_edition_is_finished(tmp_path):
    folder, runs = tmp_path / "packed", tmp_path / "again"
    folder.mkdir()
    pack(made_edition(tmp_path), folder)
    packed = read_edition(folder)
    assert restore(packed, runs, ["b", "unknown"]) == 1 and is_finished(runs / "b") and not (runs / "a").exists()
    record = read_record(runs / "b")
    assert record.config == packed.records[1].config and record.metrics == packed.records[1].metrics
    pd.testing.assert_frame_equal(record.per_image, packed.records[1].per_image)
    assert restore(packed, runs, ["b"]) == 0
