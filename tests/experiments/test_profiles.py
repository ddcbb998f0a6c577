"""Profiles: tables of runs, checked before anything is run."""

import pytest

from lorasam_core.config import METHODS
from lorasam_core.experiments.profiles import configs, edition_name, load_profile
from lorasam_core.training.trainable import lora_config

SHIPPED = ("smoke", "quick", "emps", "study")


def write(path, text):
    path.write_text(text)
    return path


def runs_of(profile):
    """Settings that decide a result, by experiment."""
    return {name: [c.replace(name="") for c in runs] for name, runs in configs(load_profile(profile)).items()}


@pytest.mark.parametrize("name", SHIPPED)
def test_each_sweep_holds_the_same_reference_run(name):
    runs = runs_of(name)
    reference = set(runs["rank"]) & set(runs["learning_rate"]) & set(runs["batch_size"])
    # the published edition judges sweeps by single particles too; the others train for the foreground, as the study
    assert len(reference) == 1 and reference.pop().objective == ("mixed" if name == "emps" else "semantic")


@pytest.mark.parametrize("name", SHIPPED)
def test_frozen_and_main_are_evaluated_alike_and_shared(name):
    runs = runs_of(name)
    frozen, main = runs["main"][:2]
    assert frozen.method == "frozen" and main.method == "lora" and main.objective == "mixed"
    assert frozen.evaluate == main.evaluate and {"predictor", "point", "box", "generator"} <= set(main.evaluate)
    assert frozen in runs["zero_shot"]


def test_study_profile_has_the_studys_settings():
    runs = runs_of("study")
    assert [r.rank for r in runs["rank"]] == [128, 256, 512, 1024]
    assert [r.learning_rate for r in runs["learning_rate"]] == [1e-2, 1e-3, 1e-4, 1e-5]
    assert [r.batch_size for r in runs["batch_size"]] == [2, 4, 8, 16, 32]
    main = runs["main"][1]
    assert (main.model, main.image_size, main.crop_size, main.rank) == ("vit_b", 1024, 512, 512)
    assert (main.epochs, main.batch_size, main.learning_rate, main.weight_decay) == (40, 8, 1e-4, 0.01)
    assert (main.generator, main.targets, main.steps) == ("study", ("q", "v"), None)


def test_published_profile_has_three_seeds():
    assert len({r.seed for r in runs_of("emps")["main"] if r.method == "lora"}) >= 3


def test_published_profile_asks_what_the_study_leaves_open():
    runs = configs(load_profile("emps"))
    every = [run.replace(precision="32-true") for rows in runs.values() for run in rows]
    one = {run.name: run.run_id("b", "f", "s") for run in every}
    # the reference of the sweeps, and the main run, are one run each, wherever they stand
    reference = (
        "reference, seed 0", "rank 32", "learning rate 0.003", "batch size 8", "mixed", "q, v; all blocks",
        "all images",
    )  # fmt: skip
    assert len({one[n] for n in reference}) == 1
    assert len({one[n] for n in ("main", "LoRA")}) == 1 and one["main"] != one["mixed"]
    factors = {r.name: lora_config(r).factor for rows in (runs["rank"], runs["scaling"]) for r in rows}
    assert [factors[f"rank {r}"] for r in (4, 32, 64, 128, 256)] == [1] * 5
    assert [round(factors[f"rank {r}, alpha/r"], 3) for r in (4, 256)] == [8, 0.125]
    assert [round(factors[f"rank {r}, alpha/sqrt(r)"], 3) for r in (4, 256)] == [2.828, 0.354]
    assert {r.method for r in runs["rivals"]} == set(METHODS)
    drawn = [(r.train_limit, r.seed) for r in runs["labels"] if r.method == "lora"]
    assert set(drawn) == {(n, seed) for n in (1, 4, 16, None) for seed in range(3)} | {(2, 0), (8, 0), (64, 0)}
    assert {r.train_limit for r in runs["labels"] if r.method == "unet_watershed"} == {4, 16, None}


def test_a_batch_size_sweep_shows_every_run_as_many_images():
    for name in ("quick", "emps"):
        assert len({r.batch_size * r.steps for r in runs_of(name)["batch_size"]}) == 1


def test_unknown_profile_names_those_there_are():
    with pytest.raises(ValueError, match=r"no profile 'quik'; there are .*quick, smoke, study"):
        load_profile("quik")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experimnts: []", "'experimnts' is not a key of the profile"),
        ("experiments: []", "at least one experiment"),
        ("experiments: [{name: a, notebok: x}]", "'notebok' is not a key of an experiment"),
        ("experiments: [{notebook: x}]", "an experiment has no 'name'"),
        ("experiments: [{name: a}, {name: a}]", "each under its own name"),
        ("experiments: [{name: a, runs: [{name: r, rnk: 4}]}]", "run 'r' of a: 'rnk' is not a setting"),
        ("experiments: [{name: a, runs: [{name: r, rank: 0}]}]", "run 'r' of a: rank is 0"),
        ("experiments: [{name: a, runs: [{name: r, learning_rate: fast}]}]", "run 'r' of a"),
        ("experiments: [{name: a, runs: [{name: r, data: emps}]}]", "sets data"),
        ("experiments: [{name: a, runs: [{name: r}, {name: r}]}]", "two runs of a have one name"),
        ("defaults: 3\nexperiments: [{name: a}]", "defaults must be a table"),
        ("experiments: 3", "experiments must be a list, and is 3"),
        ("experiments: [{name: a, runs: 3}]", "the runs of a must be a list"),
        ("experiments: [{name: a, settings: [rank]}]", "the settings of a must be a table"),
        ("experiments: [{name: a, parameters: [rank]}]", "the parameters of a must be a table"),
        ("experiments: [", "not valid YAML"),
    ],
)
def test_a_wrong_table_is_refused_and_the_key_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_profile(write(tmp_path / "p.yaml", text))


def test_settings_fall_through_defaults_experiment_run_and_data(tmp_path):
    path = write(
        tmp_path / "p.yaml",
        "data: synthetic\ndefaults: {rank: 2, steps: 3}\nexperiments:\n"
        "- {name: a, settings: {rank: 4}, runs: [{name: x}, {name: y, rank: 8}]}\n- {name: b, runs: [{name: z}]}\n",
    )
    profile = load_profile(path)
    found = configs(profile, data="somewhere")
    assert [(r.name, r.rank, r.steps, r.data) for r in found["a"]] == [
        ("x", 4, 3, "somewhere"),
        ("y", 8, 3, "somewhere"),
    ]
    assert found["b"][0].rank == 2 and configs(profile)["b"][0].data == "synthetic"
    assert list(configs(profile, only="b")) == ["b"]
    with pytest.raises(ValueError, match="no experiment 'c'; it has a, b"):
        configs(profile, only="c")
    assert profile.label == str(path) and load_profile("quick").label == "quick"


def test_a_number_in_scientific_notation_is_a_number(tmp_path):
    path = write(tmp_path / "p.yaml", "experiments: [{name: a, runs: [{name: 1e-3, learning_rate: 1e-3}]}]")
    run = configs(load_profile(path))["a"][0]
    assert (run.name, run.learning_rate) == ("1e-3", 0.001)


def test_edition_is_named_by_profile_and_foreign_data():
    profile = load_profile("quick")
    assert edition_name(profile) == edition_name(profile, "synthetic") == "quick"
    assert edition_name(profile, "emps") == "quick-emps"
    assert edition_name(profile, "some/folder/powder.v2") == "quick-powder-v2"
