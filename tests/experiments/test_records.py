"""Reading finished runs and editions."""

import json

import numpy as np
import pandas as pd
import pytest

from lorasam_core.config import RunConfig
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
