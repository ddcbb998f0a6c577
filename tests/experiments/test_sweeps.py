"""Sweeps and the command `experiments`: with stand-ins for the runs themselves, which tests/test_runs.py does."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from lorasam_core.experiments import runs
from lorasam_core.experiments import sweeps as experiments
from lorasam_core.experiments.executor import RunError
from lorasam_core.experiments.publish import publish
from lorasam_core.experiments.records import is_finished, read_edition, read_record
from lorasam_core.experiments.rerun import compare
from lorasam_core.report import book, pages

NAN = float("nan")
PROFILE = """
data: synthetic
defaults: {steps: 2}
experiments:
- {name: main, runs: [{name: frozen, method: frozen}, &main {name: main}]}
- {name: rank, runs: [{name: rank 32, rank: 32}, {name: rank 64, rank: 64}, {name: rank 128, rank: 128}]}
- {name: words}
"""


def fake_prepare(config):
    config = config.replace(precision="32-true")
    part = SimpleNamespace(subset=lambda name: range(3), name=config.data, notes=[], fingerprint="f")
    part.split = SimpleNamespace(hash="s")
    base = SimpleNamespace(base_name=config.model, base_hash="b")
    return runs.Prepared(config, config.run_id("b", config.data, "s"), "cpu", part, base, part)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """An empty checkout with the profile `p`; `done` lists the names of the runs that are really done."""
    folder = tmp_path / "notebooks" / "profiles"
    folder.mkdir(parents=True)
    (folder / "p.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    world = SimpleNamespace(done=[], bad=set(), books=[], root=tmp_path)

    def fake_run(config, edition_dir, wandb="disabled"):
        run = fake_prepare(config)
        target = tmp_path / edition_dir / run.run_id
        if is_finished(target):
            return read_record(target)
        world.done.append(config.name)
        if config.name in world.bad:
            raise RunError(f"the run {config.name!r} failed (Boom: x); its log is {target}.failed/log.txt.")
        target.mkdir(parents=True)
        summary = {"predictor": {"dice": {"mean": len(world.done) / 10}}}
        (target / "config.json").write_text(json.dumps(run.config.to_dict()))
        (target / "per_image.csv").write_text("evaluator,id,group,dice\npredictor,007,NA,0.123456789\n")
        for name in ("split", "train_split"):
            (target / f"{name}.json").write_text(json.dumps({"hash": f"{name:0<16}"}))
        (target / "history.csv").write_text("step,val_score\n1,\n2,0.123456789\n")
        (target / "metrics.json").write_text(json.dumps({"run_id": run.run_id, "test": summary}))
        return read_record(target)

    monkeypatch.setattr(runs, "prepare", fake_prepare)
    monkeypatch.setattr(runs, "run_one", fake_run)
    monkeypatch.setattr(runs.Prepared, "bytes_needed", 1000)
    monkeypatch.setattr(experiments, "run_one", fake_run)
    monkeypatch.setattr(book, "build", lambda *arguments: world.books.append(arguments[0].name))
    return world


def run(*arguments):
    experiments.main(["--profile", "p", *arguments])


def status_of(*arguments):
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    return end.value.code


def hashes(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_every_run_is_done_once_and_a_second_call_changes_nothing(world):
    run()
    assert world.done == ["frozen", "main", "rank 64", "rank 128"]  # rank 32 is the run main under another name
    edition = read_edition("runs/p")
    assert [r.config.name for r in edition.experiment("rank")] == ["rank 32", "rank 64", "rank 128"]
    assert edition.experiment("rank")[0].run_id == edition.experiment("main")[1].run_id
    assert edition.info["profile"] == "p" and edition.info["base_hash"] == "b"
    before = {i: hashes(world.root / "runs" / "p" / i) for i in (r.run_id for r in edition.records)}
    run()
    assert len(world.done) == 4 and world.books == ["p", "p"]
    assert {i: hashes(world.root / "runs" / "p" / i) for i in before} == before


def test_a_failed_run_is_named_the_others_finish_and_the_status_is_1(world, capsys):
    world.bad = {"main"}
    message = status_of()
    assert "the run 'main' failed" in message and "log.txt" in message  # a text as status: printed, and 1
    assert world.done == ["frozen", "main", "rank 64", "rank 128"] and not world.books
    assert len(read_edition("runs/p").records) == 3
    assert "the book is not built: it lacks the runs main, rank 32" in capsys.readouterr().out
    world.bad = set()
    run()
    assert world.done[4:] == ["main"] and world.books == ["p"]


def test_only_one_experiment(world, capsys):
    run("--only", "rank")
    assert world.done == ["rank 32", "rank 64", "rank 128"] and not world.books
    assert "without --only" in capsys.readouterr().out
    assert "no experiment 'rnk'; it has main, rank, words" in status_of("--only", "rnk")


def test_dry_run_lists_and_does_nothing(world, capsys):
    run("--only", "rank")
    before = hashes(world.root)
    run("--dry-run", "--fresh")
    lines = capsys.readouterr().out.strip().splitlines()[-6:]
    assert [line.split()[-1] for line in lines] == ["done", "no", "yes", "yes", "yes", "yes"]
    assert "frozen" in lines[1] and hashes(world.root) == before


def contents(edition):
    """What an edition holds of each run, as text."""
    tables = ("per_image", "history", "particles", "transfer")
    return {
        record.run_id: repr(
            [record.config, record.metrics, record.environment, *(record.table(t).to_csv() for t in tables)]
        )
        for record in edition.records
    }


def test_a_published_edition_is_gone_on_from(world, capsys):
    world.bad = {"rank 128"}
    status_of("--no-book")
    published = publish(read_edition("runs/p"), world.root / "book" / "results", partial=True)
    ids = {record.run_id for record in published.records}
    world.bad, world.done = set(), []
    (world.root / "runs" / "p").rename(world.root / "elsewhere")
    capsys.readouterr()
    run("--from-published", "--dry-run")
    listed = {line.split()[-1] for line in capsys.readouterr().out.splitlines() if "rank 128" not in line}
    assert listed == {"done", "taken"} and not (world.root / "runs" / "p").exists()
    run("--from-published", "--no-book")
    assert world.done == ["rank 128"] and "3 runs are taken from the published edition" in capsys.readouterr().out
    edition = read_edition("runs/p")
    assert ids < {record.run_id for record in edition.records} and not edition.missing()
    before, splits = contents(published), list(published.path.glob("*split-*.json"))
    assert {p.name for p in splits} == {"split-split0000000.json", "train_split-train_split0.json"}
    again = publish(edition, world.root / "book" / "results")  # in the same place
    assert len(again.records) == 4 and before.keys() == ids
    assert {run_id: found for run_id, found in contents(again).items() if run_id in ids} == before  # nothing is lost
    assert all(p.is_file() for p in splits) and "3 runs of the published edition of" in edition.info["taken"]
    assert "there is no published edition 'p-emps'; there are p." in status_of("--data", "emps", "--from-published")
    assert "give one of them" in status_of("--fresh", "--from-published")


def test_fresh_moves_old_runs_aside(world):
    run()
    run("--fresh")
    assert len(world.done) == 8
    (old,) = (world.root / "runs").glob("p.old-*")
    assert len([p for p in old.iterdir() if is_finished(p)]) == 4
    run("--fresh", "--only", "main")
    assert world.done[8:] == ["frozen", "main"]


def test_data_in_place_of_the_profiles_own_has_an_edition_of_its_own(world):
    run("--data", "emps", "--no-book")
    assert read_edition("runs/p-emps").info["data"] == "emps" and not world.books
    assert {r.config.data for r in read_edition("runs/p-emps").records} == {"emps"}


@pytest.mark.parametrize(
    "arguments", [("--workers", "0"), ("--only", "x"), ("--run", ""), ("--scheduler", "tcp://127.0.0.1:1")]
)
def test_a_bad_argument_is_refused_before_anything_is_done(world, arguments):
    assert status_of(*arguments).startswith("error: ")
    assert not world.done and not (world.root / "runs").exists()


def test_full_disk_is_refused_before_anything_is_done(world, monkeypatch):
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    assert "MB of free space" in status_of()
    assert not world.done and not (world.root / "runs").exists()


def test_rerun_compares_with_the_record(world, capsys):
    run()
    record = read_edition("runs/p").experiment("rank")[1]
    with pytest.raises(SystemExit, match=r"more than 0\.02 from"):
        experiments.main(["--run", record.run_id])
    table = capsys.readouterr().out.splitlines()[-1].split()
    assert table == ["predictor", "dice", "0.3", "0.5", "0.2", "no"]
    assert is_finished(world.root / "runs" / "p-rerun" / record.run_id)
    assert read_record(record.path).metrics == record.metrics
    world.done[:] = ["", ""]  # the third run again, and with it the record's number
    experiments.main(["--run", record.run_id])
    assert world.done[2:] == ["rank 64"]
    assert "every metric lies within 0.02" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no finished run 'nothing'"):
        experiments.main(["--run", "nothing"])


@pytest.mark.parametrize(
    ("old", "new", "within"),
    [(0.5, 0.51, "yes"), (0.5, 0.6, "no"), (NAN, NAN, "–"), (NAN, 0.5, "no"), (0.5, NAN, "no"), (0.5, None, "no")],
)
def test_a_metric_that_neither_run_has_is_no_disagreement(old, new, within):
    one, two = (
        SimpleNamespace(metrics={"test": {"generator": {} if mean is None else {"ap": {"mean": mean}}}})
        for mean in (old, new)
    )
    assert compare(one, two)["within"].tolist() == [within]


def test_sweep_runs_what_is_missing(world):
    records = experiments.sweep("p", "rank")
    assert [r.config.name for r in records] == world.done == ["rank 32", "rank 64", "rank 128"]
    assert experiments.sweep("p", "main")[1].run_id == records[0].run_id and len(world.done) == 4
    assert list(read_edition("runs/p").experiments) == ["main", "rank", "words"]
    assert experiments.sweep("p", "words") == []


def test_sweep_names_the_run_that_failed(world):
    world.bad = {"rank 64"}
    with pytest.raises(RunError, match="the run 'rank 64' failed"):
        experiments.sweep("p", "rank")
    assert world.done == ["rank 32", "rank 64", "rank 128"]


def test_sweep_of_a_published_edition_runs_nothing(world):
    run()
    target = world.root / "book" / "results" / "p"
    target.parent.mkdir(parents=True)
    (world.root / "runs" / "p").rename(target)
    count = len(world.done)
    assert [r.config.rank for r in experiments.sweep("p", "rank", edition=target)] == [32, 64, 128]
    (read_edition(target).experiment("rank")[2].path / "metrics.json").unlink()
    with pytest.raises(ValueError, match="lacks the run 'rank 128'"):
        experiments.sweep("p", "rank", edition=target)
    assert len(world.done) == count


def test_a_page_that_is_younger_than_a_published_edition_needs_none_of_its_runs(world):
    run()
    target = world.root / "book" / "results" / "p"
    target.parent.mkdir(parents=True)
    (world.root / "runs" / "p").rename(target)
    table = world.root / "notebooks" / "profiles" / "p.yaml"
    table.write_text(table.read_text() + "- {name: later}\n- {name: more, runs: [{name: rank 8, rank: 8}]}\n")
    assert experiments.sweep("p", "later", edition=target) == []
    with pytest.raises(ValueError, match="no experiment 'more'"):
        experiments.sweep("p", "more", edition=target)


def test_a_page_reads_records_and_runs_nothing(world, monkeypatch):
    run("--only", "rank")
    monkeypatch.setenv("LORASAM_RECORDS_ONLY", "1")
    assert len(experiments.sweep("p", "rank", edition="runs/p")) == 3
    with pytest.raises(ValueError, match="lacks the run 'frozen'"):
        experiments.sweep("p", "main", edition="runs/p")


def test_a_book_that_fails_is_named_and_the_status_is_1(world, monkeypatch):
    def build(*arguments):
        raise book.BookError("the page x failed (Boom).")

    monkeypatch.setattr(book, "build", build)
    assert status_of() == "error: the page x failed (Boom)."
    assert len(world.done) == 4


def test_without_the_book_pages_are_made_and_a_failed_one_is_named(world, monkeypatch):
    monkeypatch.setattr(pages, "execute_pages", lambda *arguments: ([], ["the page x failed (Boom)."]))
    assert status_of("--no-book") == "error: the page x failed (Boom)."
    assert len(world.done) == 4 and not world.books
