"""Publishing: what goes into the repository, and what never does."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from lorasam_core.config import RunConfig
from lorasam_core.experiments.publish import publish
from lorasam_core.experiments.records import Edition, read_edition


def make_edition(folder: Path, finished: tuple[str, ...] = ("aaa", "bbb"), adapter_bytes: int = 10) -> Edition:
    experiments = {
        "main": [{"name": "main", "run_id": "aaa"}],
        "rank": [{"name": "main", "run_id": "aaa"}, {"name": "rank 64", "run_id": "bbb"}],
    }
    folder.mkdir(parents=True)
    (folder / "edition.json").write_text(json.dumps({"name": folder.name, "experiments": experiments}))
    for run_id in finished:
        run = folder / run_id
        run.mkdir()
        (run / "config.json").write_text(json.dumps(RunConfig().to_dict()))
        (run / "metrics.json").write_text(json.dumps({"run_id": run_id}))
        (run / "per_image.csv").write_text("evaluator,id,group\n")
        (run / "history.csv").write_text("step,val_score\n1,\n2,0.5\n")
        (run / "particles.csv").write_text("id,group,diameter\n007,g,3.5\n")
        (run / "split.json").write_text(json.dumps({"hash": "0123456789abcdef"}))
        (run / "adapter.safetensors").write_bytes(b"x" * adapter_bytes)
        (run / "log.txt").write_text("a path of somebody's machine")
    (folder / "pages").mkdir()
    (folder / "pages" / "data.ipynb").write_text("{}")
    return read_edition(folder)


def test_only_records_and_main_adapters_are_published(tmp_path: Path) -> None:
    published = publish(make_edition(tmp_path / "runs" / "e"), tmp_path / "book" / "results")
    files = {p.relative_to(published.path).as_posix() for p in published.path.rglob("*") if p.is_file()}
    assert files == {
        "edition.json", "records.json.xz", "split-0123456789ab.json", "aaa.safetensors", "particles.csv.xz",
        "history.csv.xz",
    }  # fmt: skip
    assert "somebody" not in lzma.decompress((published.path / "records.json.xz").read_bytes()).decode()
    assert published.records[0].adapter.read_bytes() == b"x" * 10 and published.records[1].adapter is None
    assert published.published and [r.run_id for r in published.records] == ["aaa", "bbb"]


def test_main_runs_keep_their_curves_and_their_particles(tmp_path: Path) -> None:
    main, other = publish(make_edition(tmp_path / "runs" / "e"), tmp_path / "book" / "results").records
    assert main.history["step"].tolist() == [1, 2] and other.history["step"].tolist() == [2]
    assert main.table("particles").to_dict("list") == {"id": ["007"], "group": ["g"], "diameter": [3.5]}
    assert other.table("particles").empty


def test_masks_that_passed_filters_are_kept_only_where_the_others_are_not(tmp_path: Path) -> None:
    edition, results = make_edition(tmp_path / "runs" / "e"), tmp_path / "book" / "results"
    (edition.path / "aaa" / "annotations.csv").write_text("id,group,iou\n007,g,0.5\n")
    assert len(publish(edition, results).records[0].table("annotations"))
    (edition.path / "aaa" / "calibration.csv").write_text("id,group,iou\n007,g,0.5\n")
    main = publish(edition, results).records[0]
    assert main.table("annotations").empty and len(main.table("calibration"))


def test_the_particles_of_watersheds_are_kept_and_no_other_rivals(tmp_path: Path) -> None:
    edition = make_edition(tmp_path / "runs" / "e")
    for method, kept in (("watershed", True), ("unet_watershed", True), ("otsu", False), ("unet", False)):
        config = json.loads((edition.path / "bbb" / "config.json").read_text()) | {"method": method}
        (edition.path / "bbb" / "config.json").write_text(json.dumps(config))
        _, other = publish(read_edition(edition.path), tmp_path / "book" / "results").records
        assert bool(len(other.table("particles"))) == kept


def test_publishing_again_replaces(tmp_path: Path) -> None:
    edition, results = make_edition(tmp_path / "runs" / "e"), tmp_path / "book" / "results"
    stale = publish(edition, results).path / "stale.txt"
    stale.write_text("old")
    assert not (publish(edition, results).path / "stale.txt").exists()
    assert not stale.exists()


def test_unfinished_and_large_editions_are_refused(tmp_path: Path) -> None:
    results = tmp_path / "book" / "results"
    with pytest.raises(ValueError, match="lacks the run 'rank 64'"):
        publish(make_edition(tmp_path / "runs" / "half", finished=("aaa",)), results)
    with pytest.raises(ValueError, match="takes 2 MB"):
        publish(make_edition(tmp_path / "runs" / "large", adapter_bytes=2_000_000), results)
    assert not list(results.glob("*"))


def test_an_edition_can_be_published_without_what_was_not_run_and_names_it(tmp_path: Path) -> None:
    results = tmp_path / "book" / "results"
    published = publish(make_edition(tmp_path / "runs" / "part", finished=("aaa",)), results, partial=True)
    assert [r.run_id for r in published.experiment("rank")] == ["aaa"]
    assert published.info["left_out"] == {"rank": ["rank 64"]}
    assert published.missing() == []
    with pytest.raises(ValueError, match="lacks the run 'main'"):
        publish(make_edition(tmp_path / "runs" / "rest", finished=("bbb",)), results, partial=True)
    with pytest.raises(ValueError, match="is published already"):
        publish(published, results)
