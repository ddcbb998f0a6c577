"""The pages that compare runs, executed on made-up editions: with every run of the profile, with some, with none."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from lorasam_core.config import UNTRAINED
from lorasam_core.experiments.profiles import configs, load_profile
from lorasam_core.report.model_card import read_card
from tests.made_up import spectrum, write_edition, write_run

FOLDER = Path(__file__).parents[2] / "notebooks" / "results"
INFO = {"images": {"train": 210, "val": 55, "test": 99}, "profile": "emps"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made-up runs of the profile emps; {experiment: {name: run id}} in lists.json."""
    folder, lists = tmp_path_factory.mktemp("emps"), {}
    for experiment, runs in configs(load_profile("emps")).items():
        lists[experiment] = {}
        for config in runs:
            run_id = config.replace(precision="32-true").run_id("base", "data", "split")
            lists[experiment][config.name] = run_id
            if (folder / run_id).is_dir():
                continue
            own = config.to_dict()
            kind = repr(config.replace(name="", seed=0, transfer=()))
            level = 0.5 + zlib.crc32(kind.encode()) % 40 / 100 + 0.003 * config.seed
            steps = config.steps if config.method not in UNTRAINED else 0
            seen = {"steps": steps, "images_seen": steps * config.batch_size, "best_step": steps}
            if not steps:
                seen |= {"trainable_parameters": 0, "seconds": 0.0}
            if config.method == "lora":
                seen["spectrum"] = spectrum(config.rank / 4)
            if config.truncate:
                seen["truncated"] = {str(k): {"mean": 0.5, "low": 0.4, "high": 0.6} for k in config.truncate}
            write_run(folder, run_id, level, tuple(own.pop("evaluate")), scatter=0.02, measured=seen, **own)
    (folder / "lists.json").write_text(json.dumps(lists))
    return folder


def execute(stem, folder, monkeypatch):
    """What a page says, after its cells have run on the edition in `folder`; what needs a model is left out."""
    said = []
    monkeypatch.setenv("LORASAM_RECORDS_ONLY", "1")
    monkeypatch.setattr("lorasam_core.report.figures.show_markdown", said.append)
    source = re.split(r"# ## (One image, three|Things and powders)", (FOLDER / f"{stem}.py").read_text("utf-8"))[0]
    for name, value in {"profile": "emps", "edition": str(folder)}.items():
        source = re.sub(rf"^{name}: str = .*$", f"{name} = {value!r}", source, flags=re.MULTILINE)
    exec(compile(source, stem, "exec"), {})
    return said


def link(experiments, folder, target):
    """Put the runs of experiments into another edition's folder."""
    for run_id in {run_id for runs in experiments.values() for run_id in runs.values()}:
        (target / run_id).symlink_to(folder / run_id)


def some(share, folder, target):
    """An edition in `target` with the main runs and a share of those of every other experiment: (its lists, it)."""
    lists = json.loads((folder / "lists.json").read_text())
    kept = {key: dict(list(runs.items())[: round(share * len(runs))]) for key, runs in lists.items()}
    kept |= {"main": lists["main"]}
    link(kept, folder, target)
    return kept, write_edition(target, kept, **INFO)


def made(folder):
    """Names of the figures and tables in an edition's folder, each with the runs that its provenance names."""
    records = [*folder.glob("figures/*.json"), *folder.glob("tables/*.json")]
    return {(record.parent.name, record.stem): json.loads(record.read_text())["runs"] for record in records}


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0], ids=["every run", "some", "none"])
def test_the_rank_page_shows_what_there_is(share, folder, tmp_path, monkeypatch):
    kept, edition = some(share, folder, tmp_path)
    execute("rank", tmp_path, monkeypatch)
    found, ids = made(tmp_path), {r.run_id for r in edition.records}
    assert {("tables", "rank"), ("figures", "rank-dice")} <= found.keys()
    assert {run for runs in found.values() for run in runs} <= ids
    table = pd.read_csv(tmp_path / "tables" / "rank.csv")
    assert len(table) == len(kept["rank"])
    for row in table.to_dict("records"):  # against the runs' own records
        (record,) = (r for r in edition.experiment("rank") if r.config.rank == row["rank"])
        assert row["mean"] == pytest.approx(record.per_image["dice"].mean())
        assert row["verdict"] in ("higher", "lower", "no detectable difference") or row["rank"] == 32


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0], ids=["every run", "some", "none"])
@pytest.mark.parametrize("stem", ["learning_rate", "batch_size"])
def test_a_sweeps_page_shows_what_there_is(stem, share, folder, tmp_path, monkeypatch):
    kept, edition = some(share, folder, tmp_path)
    execute(stem, tmp_path, monkeypatch)
    name = stem.replace("_", "-")
    assert {("tables", name), ("figures", f"{name}-dice")} <= made(tmp_path).keys()
    table = pd.read_csv(tmp_path / "tables" / f"{name}.csv")
    assert len(table) == len(kept[stem])
    for row in table.to_dict("records"):
        (record,) = (r for r in edition.experiment(stem) if getattr(r.config, stem) == row[stem])
        assert row["mean"] == pytest.approx(record.per_image["dice"].mean())


def value(records, evaluator, metric):
    """A metric by image, the mean over seeds, from the runs' own tables."""
    tables = [record.per_image.query(f"evaluator == {evaluator!r}").set_index("id")[metric] for record in records]
    return pd.concat(tables, axis=1).mean(axis=1)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0], ids=["every run", "some", "none"])
def test_the_training_page_shows_what_there_is(share, folder, tmp_path, monkeypatch):
    lists = json.loads((folder / "lists.json").read_text())
    kept = {"main": lists["main"]} | ({"longer": lists["longer"]} if share else {})
    link(kept, folder, tmp_path)
    edition = write_edition(tmp_path, kept, **INFO)
    execute("train", tmp_path, monkeypatch)
    tables = {"main", "main-counts", "main-seeds", "cases", "train-settings", *(["longer"] if share else [])}
    found, (frozen, *seeds) = made(tmp_path), edition.experiment("main")
    assert found.keys() == {
        *(("tables", name) for name in tables),
        ("figures", "main-metrics"),
        ("figures", "train-curves"),
    }
    assert all(runs and set(runs) <= {r.run_id for r in edition.records} for runs in found.values())
    row = pd.read_csv(tmp_path / "tables" / "main.csv").set_index("metric").loc["predictor: Dice"]
    before, after = value([frozen], "predictor", "dice"), value(seeds, "predictor", "dice")
    assert row["difference"] == pytest.approx((after - before).mean())
    means = [value([record], "predictor", "dice").mean() for record in seeds]
    limit = t.ppf(0.975, 2) * np.std(means, ddof=1) / 3**0.5  # of a mean of three, to what has no seed
    half = row["difference"] - row["low"] if row["difference"] > 0 else row["high"] - row["difference"]
    clear = abs(row["difference"]) > np.hypot(half, limit)
    assert row["verdict"] == (("higher" if row["difference"] > 0 else "lower") if clear else "no detectable difference")
    cases, union = pd.read_csv(tmp_path / "tables" / "cases.csv"), value(seeds[:1], "generator", "dice")
    assert cases["id"].tolist() == union.sort_values().index[[0, 4, 7, 11]].tolist()
    assert cases["adapted"].to_numpy() == pytest.approx(100 * union[cases["id"]].to_numpy())


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0], ids=["every run", "some", "none"])
def test_the_page_of_rivals_shows_what_there_is(share, folder, tmp_path, monkeypatch):
    kept, edition = some(share, folder, tmp_path)
    execute("rivals", tmp_path, monkeypatch)
    found, ids = made(tmp_path), {r.run_id for r in edition.records}
    tables = {
        "rivals-foreground": "LoRA",
        "rivals-instances": "LoRA",
        "where": "q, v; all blocks",
        "objective": "mixed",
    }
    assert {("tables", name) for name in tables} <= found.keys()
    for figure in ("rivals", "where"):  # seeds of one configuration alone have nothing to be compared with
        names = {re.sub(r", seed .$", "", r.config.name) for r in edition.experiment(figure)} if share else set()
        assert (("figures", f"{figure}-differences") in found) == (len(names) > 1)
    assert {run for runs in found.values() for run in runs} <= ids
    for name, reference in tables.items() if share else ():
        experiment = name.split("-")[0]
        table = pd.read_csv(tmp_path / "tables" / f"{name}.csv")
        assert (table.set_index("configuration").loc[[reference], "verdict"] == "–").all()
        for row in table[table["measure"] == "Dice"].to_dict("records"):
            runs, base = (
                [r for r in edition.experiment(experiment) if re.fullmatch(f"{re.escape(n)}(, seed .)?", r.config.name)]
                for n in (row["configuration"], reference)
            )
            ours, theirs = value(runs, "predictor", "dice"), value(base, "predictor", "dice")
            assert row["mean"] == pytest.approx(ours.mean()) and row["runs"] == len(runs)
            if row["configuration"] != reference:
                assert row["difference, points"].startswith(f"{100 * (ours - theirs).mean():+.1f} [")
                assert row["verdict"] in ("higher", "lower", "no detectable difference")


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0], ids=["every run", "some", "none"])
def test_the_page_of_labels_shows_what_there_is(share, folder, tmp_path, monkeypatch):
    kept, edition = some(share, folder, tmp_path)
    execute("labels", tmp_path, monkeypatch)
    assert {("tables", "labels"), ("tables", "labels-compared"), ("tables", "transfer")} <= made(tmp_path).keys()
    main = [r for r in edition.experiment("main") if r.config.method == "lora"]
    (frozen,) = (r for r in edition.experiment("main") if r.config.method == "frozen")
    means = pd.read_csv(tmp_path / "tables" / "labels.csv")
    fewer = [r for r in edition.experiment("labels") if r.config.method == "lora"]
    dice = means[means["measure"] == "predictor Dice"].set_index(["series", "labelled"])["mean"]
    drawn: dict[int, list] = {}
    for run in fewer:
        drawn.setdefault(run.config.train_limit or 210, []).append(run)
    if all(r.config.train_limit for r in edition.experiment("labels")):  # the main runs stand for all images
        drawn[210] = main
    for count, runs in {0: [frozen], **drawn}.items():
        level = dice["frozen" if count == 0 else "adapted", count]
        assert level == pytest.approx(np.mean([dice_of(r.per_image) for r in runs]))
    gains = pd.read_csv(tmp_path / "tables" / "labels-compared.csv")
    dice = gains[(gains["measure"] == "predictor Dice") & (gains["against"] == "frozen")].set_index("labelled")
    assert set(dice.index) == set(drawn)
    for count, runs in drawn.items():
        change = np.mean([dice_of(run.per_image) for run in runs]) - dice_of(frozen.per_image)
        assert dice["difference"][count] == pytest.approx(change)
    carried = pd.read_csv(tmp_path / "tables" / "transfer.csv").set_index(["tested", "learnt", "measure"])["difference"]
    for tested, runs in {"EMPS": main, "AMPIS powder": [r for r in main if r.config.transfer]}.items():
        change = np.mean([dice_of(r.per_image) for r in runs]) - dice_of(frozen.per_image)
        assert carried[tested, "EMPS", "Dice"] == pytest.approx(change)


def dice_of(rows):
    return rows.loc[rows["evaluator"] == "predictor", "dice"].mean()


@pytest.mark.parametrize("same", [True, False], ids=["the card's base", "another base"])
def test_the_page_of_prompts_compares_prompts_and_models(same, folder, tmp_path, monkeypatch):
    lists, card = json.loads((folder / "lists.json").read_text()), read_card()
    link({"main": lists["main"]}, folder, tmp_path)
    edition = write_edition(tmp_path, {"main": lists["main"]}, base_hash=card["base_hash"] if same else "", **INFO)
    execute("prompts", tmp_path, monkeypatch)
    frozen, *adapted = edition.experiment("main")
    table = pd.read_csv(tmp_path / "tables" / "prompts.csv").set_index(["measure", "model"])["mean"]
    for evaluator, column in (("box", "iou_rated"), ("generator", "ap50")):
        for model, runs in {"frozen": [frozen], "adapted": adapted}.items():
            rows = pd.concat(r.per_image for r in runs)
            expected = rows.loc[rows["evaluator"] == evaluator, column].mean()
            assert table[f"{evaluator} {column}", model] == pytest.approx(expected)
    assert same == ("scenes" in table.index.get_level_values("model"))
    if same:
        assert table["box iou_rated", "scenes"] == card["measures"]["scenes"]["box_iou"]["mean"]
    leads = pd.read_csv(tmp_path / "tables" / "prompt-leads.csv")
    assert len(leads) == 3 and leads["difference"].abs().max() < 1e-12  # made-up runs answer every prompt alike
