"""A run's settings: what is accepted, what is refused, and what its id depends on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasam_core import config as module
from lorasam_core.config import RESULT_VERSION, TRAINING_FIELDS, RunConfig

BASE = ("base hash", "data fingerprint", "split hash")
PLAIN = RunConfig(precision="32-true")
OTHER = {  # another valid value of every field
    "name": "another", "method": "frozen", "data": "emps", "limit": 30, "split_seed": 1, "model": "vit_b",
    "checkpoint": "weights.pth", "image_size": 512, "rank": 8, "alpha": 8.0, "scaling": "none", "targets": ("q",),
    "blocks": (0, 2), "dropout": 0.1, "objective": "semantic", "epochs": 3, "steps": 7, "virtual_size": 100,
    "crop_size": 256, "batch_size": 4, "accumulate": 2, "learning_rate": 1e-3, "optimizer": "adam", "weight_decay": 0.0,
    "warmup": 0.0, "clip_norm": 0.5, "prompts_per_image": 4, "validate_every": 5, "patience": 2, "seed": 1,
    "evaluate": ("point",), "generator": "study", "test_limit": 3, "precision": "bf16-mixed", "device": "cpu",
    "workers": 3, "checkpointing": True, "compile": True, "train_data": "emps", "train_limit": 4, "truncate": (2, 8),
    "transfer": ("emps",), "filters": 12, "augmentation": "wide",
}  # fmt: skip
# a checkpoint counts by its contents, the base hash
IGNORED = {"name", "device", "workers", "checkpointing", "compile", "checkpoint"}


def run_id(config: RunConfig) -> str:
    return config.run_id(*BASE)


def test_the_table_of_other_values_names_every_field():
    assert OTHER.keys() == {f.name for f in fields(RunConfig)}
    assert all(getattr(RunConfig(), name) != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", sorted(OTHER))
def test_the_run_id_differs_for_every_field_that_changes_the_result(name):
    assert (run_id(PLAIN.replace(**{name: OTHER[name]})) == run_id(PLAIN)) == (name in IGNORED)


@pytest.mark.parametrize("method", ["frozen", "otsu", "watershed"])
@pytest.mark.parametrize("name", sorted(OTHER.keys() - {"method"}))
def test_the_run_id_of_what_is_not_trained_ignores_what_only_training_reads(name, method):
    frozen = PLAIN.replace(method=method)
    same = run_id(frozen.replace(**{name: OTHER[name]})) == run_id(frozen)
    assert same == (name in IGNORED | set(TRAINING_FIELDS))


@pytest.mark.parametrize("position", range(3))
def test_the_run_id_depends_on_base_data_and_split(position):
    parts = list(BASE)
    parts[position] = "other"
    assert PLAIN.run_id(*parts) != run_id(PLAIN)


def test_the_run_id_is_a_hash_of_the_sorted_settings():
    # what came later counts only where it is used, so that the first published runs keep their ids
    later = {"train_data", "train_limit", "truncate", "transfer", "filters", "augmentation"}
    values = {k: v for k, v in PLAIN.to_dict().items() if k not in IGNORED | later}
    values |= {"base": BASE[0], "fingerprint": BASE[1], "split": BASE[2], "version": RESULT_VERSION}
    assert run_id(PLAIN) == hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    values.pop("optimizer")  # the first runs had Adam, and no such setting
    first = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    assert run_id(PLAIN.replace(optimizer="adam")) == first


@pytest.mark.parametrize("field", ["data", "train_data"])
def test_a_folder_counts_by_its_contents_however_it_is_spelt(field):
    spelt = [PLAIN.replace(**{field: path}) for path in ("powder", "powder/", "./powder", "/data/powder", "sets/emps")]
    assert len({run_id(config) for config in spelt}) == 1
    assert spelt[0].run_id(BASE[0], "other contents", BASE[2]) != run_id(spelt[0])
    named = {run_id(PLAIN.replace(**{field: name})) for name in ("synthetic", "emps")}
    assert len(named) == 2 and run_id(spelt[0]) not in named


def test_what_a_run_is_transferred_to_counts_by_name_for_its_contents_are_in_no_fingerprint():
    assert run_id(PLAIN.replace(transfer=("powder",))) != run_id(PLAIN.replace(transfer=("steel",)))


def test_the_run_id_changes_with_the_version_of_the_results(monkeypatch):
    before = run_id(PLAIN)
    monkeypatch.setattr(module, "RESULT_VERSION", RESULT_VERSION + 1)
    assert run_id(PLAIN) != before


def test_the_run_id_needs_a_resolved_precision():
    with pytest.raises(ValueError, match="precision is 'auto'; resolve"):
        run_id(RunConfig())


@settings(deadline=None, max_examples=30)
@given(st.permutations(list(OTHER.items())))
def test_the_run_id_does_not_depend_on_the_order_of_keys(items):
    assert run_id(RunConfig.from_dict(dict(items))) == run_id(RunConfig(**OTHER))


def test_the_run_id_is_the_same_in_another_process_and_needs_no_torch():
    code = (
        "import json, sys; from lorasam_core.config import RunConfig; "
        "print(RunConfig.from_dict(json.loads(sys.argv[1])).run_id(*sys.argv[2:])); assert 'torch' not in sys.modules"
    )
    call = [sys.executable, "-c", code, json.dumps(RunConfig(**OTHER).to_dict()), *BASE]
    checkout = Path(__file__).resolve().parents[1]
    environ = os.environ | {"PYTHONHASHSEED": "7"}
    found = subprocess.run(call, cwd=checkout, env=environ, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == run_id(RunConfig(**OTHER))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"targets": ("v", "q")}, {"targets": ["q", "v", "q"]}),
        ({"blocks": [3, 1, 1]}, {"blocks": (1, 3)}),
        ({"alpha": 32}, {"alpha": 32.0}),
        ({"learning_rate": 1}, {"learning_rate": 1.0}),
        ({"evaluate": "box"}, {"evaluate": ["box"]}),
        ({"evaluate": ["box", "predictor"]}, {"evaluate": ["predictor", "box"]}),
        ({"data": Path("folder")}, {"data": "folder"}),
    ],
)
def test_one_run_has_one_id_however_it_is_written(one, same):
    assert PLAIN.replace(**one) == PLAIN.replace(**same)
    assert run_id(PLAIN.replace(**one)) == run_id(PLAIN.replace(**same))


@pytest.mark.parametrize("config", [RunConfig(), RunConfig(**OTHER)])
def test_a_config_survives_json(config):
    read = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert all(isinstance(getattr(read, name), tuple) for name in ("targets", "evaluate"))
    assert read.blocks is None or isinstance(read.blocks, tuple)
    assert hash(read) == hash(config)


def test_a_config_cannot_be_changed_but_copied():
    with pytest.raises(FrozenInstanceError):
        PLAIN.rank = 3
    assert PLAIN.replace(rank=3).rank == 3 and PLAIN.rank == 32
    with pytest.raises(ValueError, match="rank"):
        PLAIN.replace(rank=0)


WHOLE = ("rank", "epochs", "batch_size", "accumulate", "crop_size", "prompts_per_image", "steps", "virtual_size",
         "limit", "test_limit", "validate_every", "patience", "image_size", "train_limit")  # fmt: skip
BAD = [
    *((name, value) for name in WHOLE for value in (0, -1, 1.5, True, "8", float("nan"))),
    *((name, None) for name in ("rank", "epochs", "batch_size", "learning_rate", "seed", "model")),
    *((name, value) for name in ("seed", "split_seed", "workers", "filters") for value in (-1, 0.5, "0", False)),
    *((name, value) for name in ("learning_rate", "clip_norm", "alpha") for value in (0, -1.0, float("inf"), "1e-4")),
    *((name, value) for name in ("dropout", "warmup") for value in (-0.1, 1, 1.5, "0.1", None, float("nan"))),
    *(("weight_decay", value) for value in (-0.1, float("nan"), float("inf"), "0", None, True)),
    *((name, value) for name in ("checkpointing", "compile") for value in (None, 0, 1, "true", "no")),
    *((name, "nonsense") for name in ("method", "objective", "scaling", "optimizer", "precision", "generator")),
    *((name, ["q"]) for name in ("method", "objective", "model", "data", "device", "checkpoint")),
    *(("targets", value) for value in ((), "qv", ["q", "w"], None, 3, {"q": 1})),
    *(("evaluate", value) for value in ((), "generators", ["point", "mask"], None)),
    *(("blocks", value) for value in ((), (-1,), (0, 1.5), "0", 3, (True,))),
    *(("truncate", value) for value in ((0,), (1.5,), "8", None, (True,))),
    *(("transfer", value) for value in (("",), (3,), None)),
    ("data", ""), ("device", 0), ("name", None), ("train_data", ""), ("train_data", 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_in_one_sentence_that_names_the_field(name, value):
    with pytest.raises(ValueError, match=rf"^{name} (is|holds) .*; .*\.$") as error:
        RunConfig(**{name: value})
    assert "\n" not in str(error.value)


def test_an_unknown_setting_is_refused_by_name():
    for build in (RunConfig, PLAIN.replace):
        with pytest.raises((ValueError, TypeError), match="ranks"):
            build(ranks=8)
    with pytest.raises(ValueError, match=r"^method is 'a'; it should be lora"):
        RunConfig("main", "a")
    with pytest.raises(ValueError, match=r"'learning_rat' is not a setting of a run; the settings are .*learning_rate"):
        RunConfig.from_dict({"learning_rat": 1e-3})
